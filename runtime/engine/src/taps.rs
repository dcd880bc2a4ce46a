//! Live records for a person who watches: nothing is made while nobody does, and a slow watcher misses lines, never holds anything up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::sync::broadcast;

/// One record, as it goes into the log.
#[derive(Clone, Debug)]
pub struct Line {
    /// `enterprise/site/name`.
    pub source: Arc<str>,
    /// The tag's path, or the topic of a document.
    pub subject: Arc<str>,
    /// The sample as JSON, or the document as it is.
    pub value: Arc<[u8]>,
}

/// Lines that a watcher may be behind: as long as a large batch.
const LINES: usize = 8192;

#[derive(Debug)]
pub struct Taps {
    watchers: Arc<AtomicUsize>,
    lines: broadcast::Sender<Line>,
}

/// A watcher; counts as one until it is dropped.
pub struct Watch {
    watchers: Arc<AtomicUsize>,
    pub lines: broadcast::Receiver<Line>,
}

impl Default for Taps {
    fn default() -> Self {
        Self { watchers: Arc::default(), lines: broadcast::channel(LINES).0 }
    }
}

impl Taps {
    pub fn is_watched(&self) -> bool {
        self.watchers.load(Relaxed) > 0
    }

    pub fn say(&self, source: &Arc<str>, subject: &Arc<str>, value: Vec<u8>) {
        let _ = self.lines.send(Line { source: source.clone(), subject: subject.clone(), value: value.into() });
    }

    pub fn watch(&self) -> Watch {
        self.watchers.fetch_add(1, Relaxed);
        Watch { watchers: self.watchers.clone(), lines: self.lines.subscribe() }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.watchers.fetch_sub(1, Relaxed);
    }
}
