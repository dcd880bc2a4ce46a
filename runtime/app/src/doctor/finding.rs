//! One thing that was looked at.

/// One thing that was looked at.
pub struct Finding {
    pub what: String,
    pub ok: bool,
    pub says: String,
    /// What to do where it is not well.
    pub help: String,
}
