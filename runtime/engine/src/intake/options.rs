//! What the intake of a source is made with.

use crate::paths::Paths;
use crate::taps::Taps;
use crate::topics::Topics;
use millrace_contract::Model;
use millrace_log::Full;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A device's time outside this window around read_time is not believed.
#[derive(Clone, Copy, Debug)]
pub struct ClockWindow {
    pub behind: Duration,
    pub ahead: Duration,
}

impl Default for ClockWindow {
    fn default() -> Self {
        Self { behind: Duration::from_secs(86_400), ahead: Duration::from_secs(300) }
    }
}

/// What the intake of a source is made with.
pub struct IntakeOptions<'a> {
    /// `enterprise/site`.
    pub site: &'a str,
    pub name: &'a str,
    pub model: &'a Model,
    pub topics: &'a Topics,
    pub clock: ClockWindow,
    pub log_size: u64,
    pub full: Full,
    pub sync: Duration,
    pub compress: bool,
    /// Where the source keeps its small files: positions, catalog.
    pub dir: PathBuf,
    pub taps: Arc<Taps>,
    /// The tag paths of all sources.
    pub paths: Arc<Paths>,
}
