//! The text of a scalar, which may be a secret.

use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The text of a scalar, as written or as substituted.
#[derive(Clone)]
pub enum Text {
    Written(Arc<str>),
    /// Came through `${..}`.
    Substituted(Arc<Substituted>),
}

/// What `${..}` became.
pub struct Substituted {
    text: Zeroizing<String>,
    /// The reference it came from, where the text came through env or file and must not be printed.
    reference: Option<Box<str>>,
}

impl Text {
    pub(crate) fn substituted(text: String, reference: Option<String>) -> Self {
        Self::Substituted(Arc::new(Substituted { text: Zeroizing::new(text), reference: reference.map(Into::into) }))
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Written(text) => text,
            Self::Substituted(substituted) => &substituted.text,
        }
    }

    /// The reference that may be printed instead of the text, if the text may not.
    pub fn reference(&self) -> Option<&str> {
        match self {
            Self::Written(_) => None,
            Self::Substituted(substituted) => substituted.reference.as_deref(),
        }
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Debug::fmt(self.reference().unwrap_or(self.as_str()), f)
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::Written(text.into())
    }
}
