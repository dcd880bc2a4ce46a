//! What a failed call of a registry means for the one who asked.

/// Why a registry gave no answer that helps; the variant says what to do next.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RegistryError {
    /// It can't be reached, or is not well: ask again later.
    #[error("{0}")]
    Away(String),
    /// It answers, and says no: needs a human. In its own words where it has some.
    #[error("{0}")]
    Refused(String),
    /// It does not know the subject, version, schema or id.
    #[error("{0}")]
    NotFound(String),
}
