//! What plain Parquet needs besides: the names of files before they are put, so that whoever comes after a crash finds those that no commit names.
//!
//! ```text
//! _millrace/intents/UUID.json   {"files": ["date=2026-11-28/.."], "positions": ["millrace/CLUSTER/.."]}
//! write:     intent, files, commit, intent away
//! take-over: for each intent about our positions: raise their epoch, so that no commit of its writer counts any more;
//!            delete its files that the newest snapshot does not name; intent away
//! ```
//!
//! An epoch is a transaction action beside the position's own, `POSITION/epoch`. Every commit of this format compares it.

use crate::table::{Fence, Table};
use delta_kernel::transaction::UpdateTableOperation;
use millrace_kit::parts::{Move, TargetError};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, HashSet};

const FOLDER: &str = "_millrace/intents/";

#[derive(Serialize, Deserialize)]
struct Intent {
    files: Vec<String>,
    positions: Vec<String>,
}

/// The application id of a position's epoch.
pub fn epoch(position: &str) -> String {
    format!("{position}/epoch")
}

/// The epochs of positions, as they are now.
pub fn fences(table: &Table, positions: &[String]) -> Result<Vec<Fence>, TargetError> {
    let ids: Vec<String> = positions.iter().map(|position| epoch(position)).collect();
    let there = table.positions(ids.iter().map(String::as_str))?;
    Ok(ids.into_iter().zip(there).map(|(app_id, at)| Fence { app_id, at }).collect())
}

/// Says which files will be put; the name under which [`done`] takes it away.
pub fn declare(table: &Table, files: Vec<String>, positions: Vec<String>) -> Result<String, TargetError> {
    let name = format!("{FOLDER}{}.json", uuid::Uuid::new_v4());
    let text = serde_json::to_vec(&Intent { files, positions }).map_err(|error| TargetError::Refused(error.to_string()))?;
    table.runtime().block_on(table.store.put(&name, text))?;
    Ok(name)
}

/// Its files are committed, or gone.
pub fn done(table: &Table, name: &str) -> Result<(), TargetError> {
    let path = table.store.path(name)?;
    table.runtime().block_on(table.store.delete(&[path]))
}

/// Removes what broken-off writers of these positions left; the number of files.
pub fn recover(table: &mut Table, positions: &[String]) -> Result<usize, TargetError> {
    let listed = table.runtime().block_on(table.store.list(FOLDER))?;
    let mut left = Vec::new();
    for meta in listed {
        let name = format!("{FOLDER}{}", meta.location.filename().unwrap_or_default());
        let Some(text) = table.runtime().block_on(table.store.get(&name))? else { continue };
        match serde_json::from_slice::<Intent>(&text) {
            Ok(intent) if intent.positions.iter().any(|position| positions.contains(position)) => left.push((name, intent)),
            Ok(_) => {}
            // Broken off while it was put: its files were not begun.
            Err(_) => done(table, &name)?,
        }
    }
    if left.is_empty() {
        return Ok(0);
    }
    let concerned: BTreeSet<&String> = left.iter().flat_map(|(_, intent)| &intent.positions).collect();
    let concerned: Vec<String> = concerned.into_iter().cloned().collect();
    table.refresh()?;
    let raised: Vec<Move> = fences(table, &concerned)?
        .into_iter()
        .map(|fence| Move { id: fence.app_id, from: fence.at, to: fence.at.unwrap_or(0) + 1 })
        .collect();
    table.publish(&raised, &[], true, UpdateTableOperation::StreamingUpdate, |_, _| Ok(()))?;
    let live = live(table)?;
    let mut removed = 0;
    for (name, intent) in left {
        let mut paths = Vec::new();
        for file in &intent.files {
            paths.push(table.store.path(file)?);
        }
        paths.retain(|path| !live.contains(path));
        removed += paths.len();
        table.runtime().block_on(table.store.delete(&paths))?;
        done(table, &name)?;
    }
    tracing::info!(table = %table.store.url, files = removed, "removed what a broken-off commit left");
    Ok(removed)
}

/// The objects that the snapshot at hand names.
pub fn live(table: &Table) -> Result<HashSet<object_store::path::Path>, TargetError> {
    table.files(None)?.iter().map(|file| table.store.path(&file.path)).collect()
}
