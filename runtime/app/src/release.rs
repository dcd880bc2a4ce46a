//! Which release this is.

/// The release, and the commit it was built from where that is known.
pub const VERSION: &str = env!("MILLRACE_VERSION");
