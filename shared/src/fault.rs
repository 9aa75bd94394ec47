//! What the world can do to us: three kinds of fault, told apart by what the caller may do next.

/// Something outside the rules went wrong. The adapter that met it chose the kind; nobody else guesses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Trying again later is safe and may help: throttled, busy, a conflict with another writer.
    #[error("{0}")]
    Transient(String),
    /// Trying again will not help: damaged data, missing configuration, a denied permission.
    #[error("{0}")]
    Permanent(String),
    /// It is not known whether the effect took place: a time-out or a lost connection. Look before you act again.
    #[error("{0}")]
    Ambiguous(String),
}

impl Fault {
    /// A fault that may pass, with what was tried.
    pub fn transient(what: impl Into<String>) -> Self {
        Self::Transient(what.into())
    }

    /// A fault that stays, with what was tried.
    pub fn permanent(what: impl Into<String>) -> Self {
        Self::Permanent(what.into())
    }
}
