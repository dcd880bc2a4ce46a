//! What people want of each connector: that it runs, rests or is stopped. It outlives a restart of the program.
//!
//! `held.json` below the data directory: `{"sources": {"press": "paused"}, "sinks": {"lake": "stopped"}}`. A connector that is not in it runs.

use crate::positions;
use millrace_config::Reason;
pub use millrace_contract::Role;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What a connector is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    #[default]
    Running,
    /// Reads or writes nothing, and is to go on soon.
    Paused,
    /// Reads or writes nothing; offsets of a sink may be changed.
    Stopped,
}

/// What a running connector is told. A session ends when it is no longer what it began with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    pub wanted: Wanted,
    /// The engine stops: for good.
    pub ends: bool,
    /// How often a restart was asked for.
    pub restarts: u64,
    /// How many changed configurations it was to take over.
    pub changes: u64,
}

impl Order {
    pub fn new(wanted: Wanted) -> Self {
        Self { wanted, ..Self::default() }
    }

    /// Whether what began with the other order only has a change to take over.
    pub fn keeps_connection(self, began: Self) -> bool {
        Self { changes: began.changes, ..self } == began
    }
}

/// Those that are not to run, as they are kept on the disk.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    names: Mutex<Names>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Names {
    sources: BTreeMap<String, Wanted>,
    sinks: BTreeMap<String, Wanted>,
}

impl Names {
    fn of(&mut self, role: Role) -> &mut BTreeMap<String, Wanted> {
        match role {
            Role::Source => &mut self.sources,
            Role::Sink => &mut self.sinks,
        }
    }
}

impl Held {
    /// Reads what an earlier run kept. Where it can't be read everything runs, and the message says so.
    pub fn open(data_dir: &Path) -> Self {
        let path = data_dir.join("held.json");
        let read = std::fs::read(&path).and_then(|bytes| serde_json::from_slice(&bytes).map_err(Into::into));
        let names = read.unwrap_or_else(|error| {
            if error.kind() != ErrorKind::NotFound {
                tracing::error!(
                    "cannot read {}: {error}; connectors that were paused or stopped run again: pause them anew",
                    path.display()
                );
            }
            Names::default()
        });
        Self { path, names: Mutex::new(names) }
    }

    pub fn wanted(&self, role: Role, name: &str) -> Wanted {
        self.names.lock().of(role).get(name).copied().unwrap_or_default()
    }

    /// Errors: it can't be written; then nothing changed.
    pub(crate) fn set(&self, role: Role, name: &str, wanted: Wanted) -> Result<(), Reason> {
        let mut names = self.names.lock();
        let mut new = names.clone();
        match wanted {
            Wanted::Running => _ = new.of(role).remove(name),
            held => _ = new.of(role).insert(name.to_owned(), held),
        }
        if new == *names {
            return Ok(());
        }
        let bytes = serde_json::to_vec_pretty(&new).expect("names and words are JSON");
        positions::replace(&self.path, &bytes)
            .map_err(|error| format!("cannot write {}: {error}; {name} goes on as before", self.path.display()))?;
        *names = new;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_known_after_a_restart_and_a_damaged_file_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let held = Held::open(dir.path());
        held.set(Role::Source, "press", Wanted::Paused).unwrap();
        held.set(Role::Sink, "press", Wanted::Stopped).unwrap();
        held.set(Role::Sink, "lake", Wanted::Stopped).unwrap();
        held.set(Role::Sink, "lake", Wanted::Running).unwrap();
        let again = Held::open(dir.path());
        assert_eq!(again.wanted(Role::Source, "press"), Wanted::Paused);
        assert_eq!(again.wanted(Role::Sink, "press"), Wanted::Stopped);
        assert_eq!(again.wanted(Role::Sink, "lake"), Wanted::Running);
        std::fs::write(dir.path().join("held.json"), "{").unwrap();
        assert_eq!(Held::open(dir.path()).wanted(Role::Source, "press"), Wanted::Running);
    }
}
