//! What templates ask of the world.

use super::Template;
use crate::fault::Fault;
use crate::ids::{AccountId, TemplateId};

/// Reads templates.
pub trait ReadTemplates {
    /// One by id.
    fn load_template(
        &self,
        account: AccountId,
        id: TemplateId,
    ) -> impl Future<Output = Result<Option<Template>, Fault>> + Send;

    /// An account's templates, newest first, older than `before`.
    fn list_templates(
        &self,
        account: AccountId,
        before: Option<TemplateId>,
        limit: u16,
    ) -> impl Future<Output = Result<Vec<Template>, Fault>> + Send;
}

/// Stores templates. Each write is one transaction with the template's name, which no other one of the account has.
pub trait KeepTemplates {
    /// Stores a new one, and counts it.
    fn create_template(&self, new: &Template) -> impl Future<Output = Result<Created, Fault>> + Send;

    /// Stores the next revision, if the one that was read is still the newest.
    fn update_template(&self, read: &Template, new: &Template) -> impl Future<Output = Result<Updated, Fault>> + Send;

    /// Removes it with its name; `false` if it was changed since it was read. One that is gone already is removed.
    fn remove_template(&self, read: &Template) -> impl Future<Output = Result<bool, Fault>> + Send;
}

/// What became of a new template. In every case but the first nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// It is stored.
    Stored,
    /// Another template has the name.
    NameTaken,
    /// The account has as many as it may.
    TooMany,
}

/// What became of a next revision. In every case but the first nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Updated {
    /// It is stored.
    Stored,
    /// It was changed or removed since it was read.
    Changed,
    /// Another template has the name.
    NameTaken,
}
