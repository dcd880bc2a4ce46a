//! A log that can be waited for: tells async tasks how far it is synced.

use std::ops::Deref;

use millrace_log::{Log, LogOptions, Recovery, Store, StoreError};
use tokio::sync::watch;

/// A log and the head of what is on the disk.
pub struct SyncedLog {
    log: Log,
    synced: watch::Receiver<u64>,
}

impl SyncedLog {
    /// Opens or creates a log of the store.
    pub fn open(store: &Store, name: &str, options: LogOptions) -> Result<(Self, Recovery), StoreError> {
        let (log, recovery) = store.log(name, options)?;
        let (tell, synced) = watch::channel(log.synced());
        log.on_sync(move |offset| {
            tell.send_replace(offset);
        });
        Ok((Self { log, synced }, recovery))
    }

    /// Waits until everything below `offset` is synced, and asks for it. False: the log was closed first.
    pub async fn reach(&self, offset: u64) -> bool {
        if self.log.synced() < offset {
            self.log.want_sync();
        }
        self.synced_to(offset).await
    }

    /// As [`SyncedLog::reach`], for one of several steps that wait for each other.
    pub async fn reach_at_once(&self, offset: u64) -> bool {
        if self.log.synced() < offset {
            self.log.want_sync_at_once();
        }
        self.synced_to(offset).await
    }

    async fn synced_to(&self, offset: u64) -> bool {
        self.synced.clone().wait_for(|synced| *synced >= offset).await.is_ok()
    }
}

impl Deref for SyncedLog {
    type Target = Log;

    fn deref(&self) -> &Log {
        &self.log
    }
}
