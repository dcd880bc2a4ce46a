//! Why the engine, or a part of it, can't run.

use crate::frame::FrameError;
use millrace_log::{ReadError, StoreError};
use std::io;

/// Why a part of the engine can't be had; nothing of that part runs then.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The logs' directory: another process has it, or a later release wrote it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A small file or a folder beside the logs.
    #[error("cannot {what}: {error}")]
    Files { what: String, error: io::Error },
    /// One log: of a source, and its lane.
    #[error("cannot open the log of {whose}: {error}")]
    Open { whose: String, error: StoreError },
    /// What is in it.
    #[error("cannot read the log of {whose}: {error}")]
    Read { whose: String, error: LogFault },
    /// The system gives no thread.
    #[error("cannot start a thread for {what}: {error}")]
    Thread { what: String, error: io::Error },
    /// Several parts; everything else runs.
    #[error("{}", .0.iter().map(Self::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<Self>),
}

impl EngineError {
    pub(crate) fn files(what: &str, error: io::Error) -> Self {
        Self::Files { what: what.to_owned(), error }
    }

    pub(crate) fn schema(name: &str, error: io::Error) -> Self {
        Self::Files { what: format!("keep the schema {name} in the data directory"), error }
    }
}

/// Why what a log holds can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LogFault {
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Frame(#[from] FrameError),
}
