//! Consumer groups.

use millrace_log::Store;

use crate::journal::{Journal, JournalError};

/// All groups of the broker, and the offsets they have committed.
pub struct Groups {
    #[allow(dead_code, reason = "the groups come with the next commit")]
    offsets: Journal,
}

impl Groups {
    pub fn open(store: &Store) -> Result<Self, JournalError> {
        Ok(Self { offsets: Journal::open(store, "offsets")? })
    }
}
