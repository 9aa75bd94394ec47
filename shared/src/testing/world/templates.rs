//! Templates. The conditions are those of the live adapters, in Rust.

use std::collections::BTreeMap;

use super::{World, dump, not_valid};
use crate::fault::Fault;
use crate::ids::{AccountId, TemplateId};
use crate::seal::Sealed;
use crate::template::{Created, KeepTemplates, MOST_TEMPLATES, ReadTemplates, Template, Updated};

#[derive(Default)]
pub(super) struct Templates {
    rows: BTreeMap<(AccountId, TemplateId), Template>,
    names: BTreeMap<(AccountId, String), TemplateId>,
}

impl Templates {
    pub(super) fn get(&self, account: AccountId, id: TemplateId) -> Option<&Template> {
        self.rows.get(&(account, id))
    }

    /// Newest first, older than `before`.
    fn of(&self, account: AccountId, before: Option<TemplateId>) -> impl Iterator<Item = &Template> {
        let end = before.unwrap_or(TemplateId::from_bits(u128::MAX));
        let all = self.rows.range((account, TemplateId::from_bits(0))..=(account, end)).rev();
        all.filter(move |((_, id), _)| before != Some(*id)).map(|(_, row)| row)
    }

    fn owner(&self, template: &Template) -> Option<TemplateId> {
        self.names.get(&(template.account, template.name_hash.clone())).copied()
    }

    fn put(&mut self, template: &Template) {
        self.names.insert((template.account, template.name_hash.clone()), template.id);
        self.rows.insert((template.account, template.id), template.clone());
    }

    pub(super) fn reseal(&mut self, read: &Template, new: &Sealed) -> bool {
        let row = self.rows.get_mut(&(read.account, read.id)).filter(|row| row.sealed == read.sealed);
        row.map(|row| row.sealed.clone_from(new)).is_some()
    }

    pub(super) fn dump(&self, bytes: &mut Vec<u8>) {
        for row in self.rows.values() {
            dump(bytes, row);
            bytes.extend(&row.sealed.0);
        }
        dump(bytes, &self.names);
    }
}

impl ReadTemplates for World {
    async fn load_template(&self, account: AccountId, id: TemplateId) -> Result<Option<Template>, Fault> {
        self.call("load_template", |state| Ok(state.templates.get(account, id).cloned())).await
    }

    async fn list_templates(
        &self,
        account: AccountId,
        before: Option<TemplateId>,
        limit: u16,
    ) -> Result<Vec<Template>, Fault> {
        self.call("list_templates", |state| {
            if limit == 0 {
                return Err(not_valid("list templates"));
            }
            Ok(state.templates.of(account, before).take(usize::from(limit)).cloned().collect())
        })
        .await
    }
}

impl KeepTemplates for World {
    async fn create_template(&self, new: &Template) -> Result<Created, Fault> {
        self.call("create_template", |state| {
            let templates = &mut state.templates;
            if templates.get(new.account, new.id).is_some() {
                return Err(Fault::permanent("a new template's id was taken"));
            }
            if templates.owner(new).is_some() {
                return Ok(Created::NameTaken);
            }
            if templates.of(new.account, None).count() >= usize::try_from(MOST_TEMPLATES).unwrap() {
                return Ok(Created::TooMany);
            }
            templates.put(new);
            Ok(Created::Stored)
        })
        .await
    }

    async fn update_template(&self, read: &Template, new: &Template) -> Result<Updated, Fault> {
        self.call("update_template", |state| {
            let templates = &mut state.templates;
            if templates.get(read.account, read.id).is_none_or(|there| there.revision != read.revision) {
                return Ok(Updated::Changed);
            }
            if templates.owner(new).is_some_and(|owner| owner != new.id) {
                return Ok(Updated::NameTaken);
            }
            templates.names.remove(&(read.account, read.name_hash.clone()));
            templates.put(new);
            Ok(Updated::Stored)
        })
        .await
    }

    async fn remove_template(&self, read: &Template) -> Result<bool, Fault> {
        self.call("remove_template", |state| {
            let templates = &mut state.templates;
            let there = templates.get(read.account, read.id).map(|there| there.revision);
            if there.is_some_and(|revision| revision != read.revision) {
                return Ok(false);
            }
            if there.is_some() {
                templates.rows.remove(&(read.account, read.id));
                templates.names.remove(&(read.account, read.name_hash.clone()));
            }
            Ok(true)
        })
        .await
    }
}
