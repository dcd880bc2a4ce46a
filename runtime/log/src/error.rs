//! What can go wrong, each with its facts.

use std::io;
use std::path::{Path, PathBuf};

/// Why a batch was not appended. Nothing of it is in the log.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// A bound is reached; [`Log::on_room`](crate::Log::on_room) tells when to try again.
    #[error("{bound} is full: {used} of {limit} bytes are taken")]
    Full { bound: Bound, used: u64, limit: u64 },
    /// The disk is full, or nearer to it than `keep_free` allows; [`Log::on_room`](crate::Log::on_room) tells when to try again.
    #[error("no space on the disk: {free} bytes are free and {keep} are kept free; make room or lower keep_free")]
    NoSpace { free: u64, keep: u64 },
    /// Offsets only grow.
    #[error("offset {first} is behind the log's end {end}")]
    OffsetBehind { first: u64, end: u64 },
    /// A batch takes at least one offset and at most `u32::MAX`, so that a reader that goes on at `next` makes progress.
    #[error("a batch cannot cover the offsets {first} to {next}")]
    BadRange { first: u64, next: u64 },
    #[error("a batch of {bytes} bytes is larger than the limit of {limit}")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("cannot append to {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    /// The store was closed or the log removed.
    #[error("the log is closed")]
    Closed,
}

/// Which bound an append ran into.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    /// The bytes of the source's logs together.
    Budget,
    /// What is held in memory because no fdatasync has covered it yet.
    Unsynced,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Budget => "the log's budget",
            Self::Unsynced => "the memory for what is not synced yet",
        })
    }
}

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("the log is closed")]
    Closed,
}

/// Why a store, or one of its logs, could not be opened or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    /// Another process has the store open.
    #[error("{} is in use by process {pid}; stop it first", path.display())]
    Locked { path: PathBuf, pid: u32 },
    /// A file of a later release; nothing was touched.
    #[error("{} has format version {found}, this program reads up to {known}; use the release that wrote it, or a later one", path.display())]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("log {0:?} is open already")]
    AlreadyOpen(String),
    #[error("there is no log {0:?}")]
    NoSuchLog(String),
    #[error("{0:?} cannot be the name of a log: {1}")]
    BadName(String, &'static str),
    #[error("{} is no batch of this log: {what}", path.display())]
    Invalid { path: PathBuf, what: String },
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { what, path, source }
    }
}
