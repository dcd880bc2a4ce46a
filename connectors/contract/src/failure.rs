//! What the engine does next when a session fails, and the words it uses.

use std::fmt;
use std::time::Duration;

/// Why a session ended; the variant is what the engine does next.
///
/// The text names what failed, on which thing, with which value, and what to do: lowercase, no full stop.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// Back off with jitter, then call again.
    Reconnect(String),
    /// Call again after this time, as the device asked.
    RetryAfter(Duration, String),
    /// Needs a human: wrong password, untrusted certificate. Tried again slowly, shown as Blocked.
    Blocked(String),
    /// The engine asked it to stop and it did, or there is nothing left to do (a finite source).
    Stopped,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reconnect(cause) | Self::RetryAfter(_, cause) | Self::Blocked(cause) => f.write_str(cause),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

impl std::error::Error for Failure {}

/// Why a reading that existed never came in: counted in the ledger, never called lossless.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Loss {
    /// The device's or server's own queue overflowed.
    DeviceOverflow,
    /// A polling cycle was skipped because the last one was not done.
    PollSkipped,
    /// A gap in the device's sequence numbers.
    SequenceGap,
    /// Any other reason, a metric label: snake_case.
    Other(&'static str),
}

impl Loss {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DeviceOverflow => "device_overflow",
            Self::PollSkipped => "poll_skipped",
            Self::SequenceGap => "sequence_gap",
            Self::Other(reason) => reason,
        }
    }
}

/// The one vocabulary of states, of connectors and of their parts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Status {
    #[default]
    Starting,
    Running,
    /// Works, but not wholly; with the reason.
    Degraded(String),
    /// Needs a human; with the reason.
    Blocked(String),
    Paused,
    Stopping,
    Stopped,
}

impl Status {
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::Running => "Running",
            Self::Degraded(_) => "Degraded",
            Self::Blocked(_) => "Blocked",
            Self::Paused => "Paused",
            Self::Stopping => "Stopping",
            Self::Stopped => "Stopped",
        }
    }

    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Degraded(reason) | Self::Blocked(reason) => Some(reason),
            _ => None,
        }
    }
}
