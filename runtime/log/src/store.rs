//! One directory of logs.

use std::path::Path;
use std::sync::Arc;

use crate::error::StoreError;
use crate::fs::{Fs, RealFs, Space};
use crate::log::{Log, LogOptions, Recovery};

/// Room that the logs leave on the disk for others.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum KeepFree {
    Bytes(u64),
    /// Percent of the disk's size.
    Percent(f64),
}

#[derive(Clone)]
pub struct StoreOptions {
    /// Default: 5 percent of the disk.
    pub keep_free: KeepFree,
    /// Threads that sync; default 2. With 0 nothing is synced but by [`Log::sync`].
    pub syncers: usize,
    /// Segments kept open at once; default 256.
    pub open_files: usize,
    pub fs: Arc<dyn Fs>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { keep_free: KeepFree::Percent(5.0), syncers: 2, open_files: 256, fs: Arc::new(RealFs) }
    }
}

/// A directory of logs, open in this process alone. Clones share it.
#[derive(Clone)]
pub struct Store {}

impl Store {
    /// Opens or creates a store.
    ///
    /// Errors: `Locked` if another process has it open; `Newer` if a later release wrote it.
    pub fn open(_dir: impl AsRef<Path>, _options: StoreOptions) -> Result<Self, StoreError> {
        todo!()
    }

    pub fn dir(&self) -> &Path {
        todo!()
    }

    /// The last run did not close the store, and the machine was started anew since: what was not synced may be gone.
    pub fn power_cut(&self) -> bool {
        todo!()
    }

    /// Room on the disk.
    pub fn space(&self) -> Result<Space, StoreError> {
        todo!()
    }

    /// Bytes free on the disk beyond `keep_free`.
    pub fn free(&self) -> Result<u64, StoreError> {
        todo!()
    }

    /// Appends are refused until there is room again.
    pub fn low_on_space(&self) -> bool {
        todo!()
    }

    /// Opens or creates a log and says what recovery found.
    pub fn log(&self, _name: &str, _options: LogOptions) -> Result<(Log, Recovery), StoreError> {
        todo!()
    }

    /// Names of all logs of the store, open or not, sorted.
    pub fn names(&self) -> Result<Vec<String>, StoreError> {
        todo!()
    }

    /// Deletes a log with all that is in it. An open log is closed first.
    pub fn remove(&self, _name: &str) -> Result<(), StoreError> {
        todo!()
    }

    /// Syncs every log, saves the cursors and marks the store as closed. Safe to call twice.
    pub fn close(&self) -> Result<(), StoreError> {
        todo!()
    }
}
