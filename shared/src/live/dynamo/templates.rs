//! Templates in table `messages`: the rows, their names, and how many there are.

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::keys::{self, TEMPLATES, Table};
use super::{Dynamo, Item, Transacted, blocker, fault, from_item, n, s, text, to_item};
use crate::fault::Fault;
use crate::ids::{AccountId, TemplateId};
use crate::live::Live;
use crate::seal::Sealed;
use crate::template::{Created, KeepTemplates, MOST_TEMPLATES, ReadTemplates, Template, Updated};

#[derive(Serialize, Deserialize)]
struct TemplateRow {
    revision: u32,
    name_hash: String,
    #[serde(with = "super::rows::binary")]
    sealed: Vec<u8>,
    created: i64,
    updated: i64,
}

impl From<&Template> for TemplateRow {
    fn from(template: &Template) -> Self {
        Self {
            revision: template.revision,
            name_hash: template.name_hash.clone(),
            sealed: template.sealed.0.clone(),
            created: template.created.as_millisecond(),
            updated: template.updated.as_millisecond(),
        }
    }
}

/// Which template has a name.
#[derive(Serialize, Deserialize)]
struct NameRow {
    template_id: TemplateId,
}

pub(super) fn template(item: Item) -> Result<Template, Fault> {
    let damaged = || Fault::permanent("a stored template does not read");
    let (account, id) = keys::parse_template(&text(&item, "pk")?, &text(&item, "sk")?).ok_or_else(damaged)?;
    let row: TemplateRow = from_item(item)?;
    let at = |ms| Timestamp::from_millisecond(ms).map_err(|_| damaged());
    Ok(Template {
        id,
        account,
        revision: row.revision,
        name_hash: row.name_hash,
        sealed: Sealed(row.sealed),
        created: at(row.created)?,
        updated: at(row.updated)?,
    })
}

impl ReadTemplates for Live {
    async fn load_template(&self, account: AccountId, id: TemplateId) -> Result<Option<Template>, Fault> {
        let key = keys::template(account, id);
        let mut found = self.dynamo.batch_get(std::slice::from_ref(&key)).await?;
        found.remove(&key).map(template).transpose()
    }

    /// 1 query: a row has at most 7 KB, so that a hundred are far below what one query reads.
    async fn list_templates(
        &self,
        account: AccountId,
        before: Option<TemplateId>,
        limit: u16,
    ) -> Result<Vec<Template>, Fault> {
        let db = &self.dynamo;
        let answer = db
            .client()?
            .query()
            .table_name(db.name(Table::Messages))
            .key_condition_expression("pk = :pk AND begins_with(sk, :sk)")
            .expression_attribute_values(":pk", s(account.to_string()))
            .expression_attribute_values(":sk", s(TEMPLATES))
            .consistent_read(true)
            .scan_index_forward(false)
            .set_exclusive_start_key(before.map(|before| keys::template(account, before).attributes()))
            .limit(i32::from(limit))
            .send()
            .await
            .map_err(|error| fault("list templates", &error))?;
        answer.items.unwrap_or_default().into_iter().map(template).collect()
    }
}

impl Dynamo {
    /// Takes a name that no other template of the account has.
    fn take_name(&self, template: &Template) -> Result<TransactWriteItem, Fault> {
        let key = keys::template_name(template.account, &template.name_hash);
        self.put_new(&key, to_item(&key, &NameRow { template_id: template.id })?)
    }

    /// Gives a template's name back.
    fn free_name(&self, template: &Template) -> Result<TransactWriteItem, Fault> {
        let key = keys::template_name(template.account, &template.name_hash);
        self.delete(&key, "template_id = :id", &[(":id", s(template.id.to_string()))])
    }
}

impl KeepTemplates for Live {
    /// 1 transaction of 3 items.
    async fn create_template(&self, new: &Template) -> Result<Created, Fault> {
        let db = &self.dynamo;
        let key = keys::template(new.account, new.id);
        let count = db.update(
            &keys::template_count(new.account),
            "SET templates = if_not_exists(templates, :none) + :one",
            "attribute_not_exists(templates) OR templates < :most",
            &[(":none", n(0)), (":one", n(1)), (":most", n(MOST_TEMPLATES))],
        )?;
        let parts = vec![db.put_new(&key, to_item(&key, &TemplateRow::from(new))?)?, db.take_name(new)?, count];
        let reasons = match db.transact(parts).await? {
            Transacted::Committed => return Ok(Created::Stored),
            Transacted::Refused(reasons) => reasons,
        };
        // The SDK repeated our own write after its answer was lost: what stands there is what we wrote.
        match blocker(&reasons, 0).map(template).transpose()? {
            Some(there) if there == *new => Ok(Created::Stored),
            Some(_) => Err(Fault::permanent("a new template's id was taken")),
            None if blocker(&reasons, 1).is_some() => Ok(Created::NameTaken),
            None => Ok(Created::TooMany),
        }
    }

    /// 1 transaction: of 1 item, or of 3 with a new name.
    async fn update_template(&self, read: &Template, new: &Template) -> Result<Updated, Fault> {
        let db = &self.dynamo;
        let key = keys::template(new.account, new.id);
        let item = to_item(&key, &TemplateRow::from(new))?;
        let mut parts = vec![db.put(&key, item, "revision = :before", &[(":before", n(read.revision))])?];
        if read.name_hash != new.name_hash {
            parts.extend([db.take_name(new)?, db.free_name(read)?]);
        }
        let reasons = match db.transact(parts).await? {
            Transacted::Committed => return Ok(Updated::Stored),
            Transacted::Refused(reasons) => reasons,
        };
        match blocker(&reasons, 0) {
            Some(there) if there.is_empty() => Ok(Updated::Changed),
            Some(there) => Ok(if template(there)? == *new { Updated::Stored } else { Updated::Changed }),
            None if blocker(&reasons, 1).is_some() => Ok(Updated::NameTaken),
            None => Err(Fault::permanent("a template has lost its name")),
        }
    }

    /// 1 transaction of 3 items.
    async fn remove_template(&self, read: &Template) -> Result<bool, Fault> {
        let db = &self.dynamo;
        let parts = vec![
            db.delete(
                &keys::template(read.account, read.id),
                "revision = :revision",
                &[(":revision", n(read.revision))],
            )?,
            db.free_name(read)?,
            db.update(
                &keys::template_count(read.account),
                "SET templates = templates - :one",
                "templates >= :one",
                &[(":one", n(1))],
            )?,
        ];
        match db.transact(parts).await? {
            Transacted::Committed => Ok(true),
            Transacted::Refused(reasons) => match blocker(&reasons, 0) {
                Some(there) => Ok(there.is_empty()),
                None => Err(Fault::permanent("a template has lost its name")),
            },
        }
    }
}

impl Live {
    /// 1 conditional update: seals a template anew, as it was read.
    pub(super) async fn reseal_template(&self, read: &Template, new: &Sealed) -> Result<bool, Fault> {
        let bytes = |sealed: &Sealed| AttributeValue::B(Blob::new(sealed.0.clone()));
        let values = [(":read", bytes(&read.sealed)), (":new", bytes(new))];
        let db = &self.dynamo;
        let key = keys::template(read.account, read.id);
        Ok(db.update_one(&key, "SET sealed = :new", "sealed = :read", &values).await?.is_ok())
    }
}
