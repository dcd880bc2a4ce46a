//! What the console shows and does not know itself: the program supplies it.

use std::sync::Arc;
use std::time::SystemTime;

/// A certificate whose end somebody has to know of.
pub struct Certificate {
    /// Whose it is: `own`, `trusted`.
    pub shelf: &'static str,
    pub thumbprint: String,
    pub subject: String,
    pub until: SystemTime,
}

/// Reads the certificates as they are now; from files.
pub type Certificates = Arc<dyn Fn() -> Vec<Certificate> + Send + Sync>;

/// A place of the embedded broker's data where something could not be read and was set aside.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Damaged {
    /// `partition 0 of topic x`, `the journal of the topics`.
    pub place: String,
    /// How many pieces were set aside there.
    pub pieces: u64,
    /// What was in them, as far as that is known.
    pub records: u64,
    pub bytes: u64,
}

/// What the embedded broker could not read since it started; empty without one.
pub type Damage = Arc<dyn Fn() -> Vec<Damaged> + Send + Sync>;
