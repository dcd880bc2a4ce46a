//! A file in the place of several, and snapshots that nobody needs any more.
//!
//! ```text
//! replace: the newest metadata -> are all the old files in it? -> their manifests anew: the old ones deleted, the others as they are -> catalog
//!            |                      | no: another program was there; nothing changes
//!            +-- 409, answer lost, 5xx: again from the newest metadata
//! expire:  snapshots older than a time, save the newest, those that a branch or a tag names, and as many as the table keeps -> catalog
//! ```
//!
//! A replacing snapshot has the rows of the one before it, and moves no position: those stand in the table's properties.

use crate::catalog::Trouble;
use crate::data_file::{Attempt, DataFile};
use crate::live::{Live, may_hold};
use crate::snapshot::{Count, entries, failed, is_live, manifests, now_ms};
use crate::table::{BATCH, Committed, PATIENCE, Table, Tried};
use iceberg::spec::{FormatVersion, MAIN_BRANCH, Manifest, ManifestContentType, ManifestFile, ManifestList, TableMetadata};
use millrace_kit::parts::TargetError;
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// How an attempt to replace files went.
enum Step {
    Done(i64),
    /// Somebody else was first.
    Conflict,
    /// One of the files is not in the table any more.
    Gone,
}

impl Table {
    /// Whether files of it can be replaced here.
    ///
    /// Errors: `Refused`, with the reason.
    pub fn can_replace(&self) -> Result<(), TargetError> {
        if self.metadata.format_version() == FormatVersion::V3 {
            return Err(TargetError::Refused(format!(
                "table {} is of format version 3, which numbers its rows: only tools that write `_row_id` may rewrite its files; use rewrite_data_files by Spark",
                self.name()
            )));
        }
        Ok(())
    }

    /// Puts one file, whose rows are those of several, in their place, as one snapshot. `None`: one of them is not in the table any more, and nothing
    /// was changed.
    ///
    /// Errors: as of [`Table::commit`]; `Refused`: see [`Table::can_replace`], or rows were deleted by delete files.
    pub async fn replace(&mut self, old: &[Live], new: &DataFile) -> Result<Option<Committed>, TargetError> {
        self.can_replace()?;
        let mut tried = Tried::new();
        let deadline = Instant::now() + PATIENCE;
        let mut wait = Duration::from_millis(50);
        loop {
            let trouble = match self.try_to_replace(old, new, &mut tried).await {
                Ok(Step::Done(snapshot)) => {
                    self.clear(&tried, Some(snapshot)).await;
                    return Ok(Some(Committed { snapshot, conflicts: tried.conflicts }));
                }
                Ok(Step::Gone) => {
                    self.discard(&tried, new).await;
                    return Ok(None);
                }
                Ok(Step::Conflict) => format!("other commits to {} always came first", self.name()),
                Err(TargetError::Away(text)) => text,
                Err(error) => {
                    self.discard(&tried, new).await;
                    return Err(error);
                }
            };
            if Instant::now() >= deadline {
                return Err(TargetError::Away(format!("{trouble} (tried for {} s)", PATIENCE.as_secs())));
            }
            tokio::time::sleep(wait.mul_f64(0.5 + fastrand::f64())).await;
            wait = (wait * 2).min(Duration::from_secs(2));
        }
    }

    /// Deletes what did not come to pass, where that is sure.
    async fn discard(&self, tried: &Tried, new: &DataFile) {
        if !tried.is_unknown {
            self.clear(tried, None).await;
            let _ = self.files.delete(&new.location).await;
        }
    }

    async fn try_to_replace(&mut self, old: &[Live], new: &DataFile, tried: &mut Tried) -> Result<Step, TargetError> {
        self.refresh().await?;
        if let Some(ours) = self.ours(tried) {
            return Ok(Step::Done(ours));
        }
        self.can_replace()?;
        let summary = HashMap::from([(BATCH.to_owned(), tried.batch.clone())]);
        let Some(attempt) = self.replacing(old, new, &summary).await? else { return Ok(Step::Gone) };
        let done = self.publish(attempt, None, tried).await?;
        Ok(done.map_or(Step::Conflict, Step::Done))
    }

    /// Writes the manifests and the list of a snapshot with one file in the place of others. `None`: one of those is not in the table.
    async fn replacing(&self, old: &[Live], new: &DataFile, summary: &HashMap<String, String>) -> Result<Option<Attempt>, TargetError> {
        let paths: HashSet<&str> = old.iter().map(|file| file.location.as_str()).collect();
        let all = manifests(&*self.files, &self.metadata).await?;
        self.has_no_deletes(&all)?;
        let (mut list, mut changed, mut found) = (Vec::new(), Vec::new(), 0);
        for file in all.into_iter().filter(is_live) {
            let may = file.partition_spec_id == self.spec_id && old.iter().any(|old| may_hold(&file, &(old.day..=old.day)));
            let manifest = if may { Some(entries(&*self.files, &file).await?) } else { None };
            let count = |manifest: &Manifest| {
                manifest.entries().iter().filter(|entry| entry.is_alive() && paths.contains(entry.data_file().file_path())).count()
            };
            match manifest.map(|manifest| (count(&manifest), manifest)) {
                Some((count, manifest)) if count > 0 => {
                    found += count;
                    changed.push((file, manifest));
                }
                _ => list.push(file),
            }
        }
        if found != old.len() {
            return Ok(None);
        }
        let mut draft = self.draft();
        let mut removed = Count::default();
        for (number, (file, manifest)) in changed.into_iter().enumerate() {
            let location = draft.location(&format!("r{number}"));
            let mut anew = self.manifest(&location, draft.id, self.spec_id)?;
            for entry in manifest.entries().iter().filter(|entry| entry.is_alive()) {
                let (Some(of), Some(number)) = (entry.snapshot_id(), entry.sequence_number()) else {
                    return Err(TargetError::Refused(format!("{} has an entry without a number", file.manifest_path)));
                };
                let file_number = entry.file_sequence_number.or(Some(number));
                let data = entry.data_file().clone();
                let written = if paths.contains(data.file_path()) {
                    removed.add(data.record_count(), data.file_size_in_bytes());
                    anew.writer.add_delete_file(data, number, file_number)
                } else {
                    anew.writer.add_existing_file(data, of, number, file_number)
                };
                written.map_err(|error| failed(&error))?;
            }
            draft.made.push(location);
            list.push(anew.put(&*self.files).await?);
        }
        self.add_manifest(&mut draft, std::slice::from_ref(new), &mut list).await?;
        let said = self.summary("replace", std::slice::from_ref(new), removed, summary);
        self.finish(draft, list, said).await.map(Some)
    }

    pub(crate) fn has_no_deletes(&self, manifests: &[ManifestFile]) -> Result<(), TargetError> {
        match manifests.iter().find(|file| file.content == ManifestContentType::Deletes) {
            Some(deletes) => Err(TargetError::Refused(format!(
                "table {} has rows deleted by delete files ({}), which only its own tools can read; rewrite the files there",
                self.name(),
                deletes.manifest_path
            ))),
            None => Ok(()),
        }
    }

    // ---- snapshots ------------------------------------------------------------------------------------------------------------

    /// How many snapshots there are.
    pub fn snapshots(&self) -> u64 {
        self.metadata.snapshots().count() as u64
    }

    /// Forgets the snapshots from before a time, in milliseconds since 1970, that nothing holds; how many. `dry`: only says how many. Their files stay
    /// until somebody deletes what is not [reachable](Table::reachable).
    ///
    /// Errors: `Refused`: the table says that its files are not to be deleted; `Away`: the catalog can't be reached.
    pub async fn expire(&mut self, before_ms: i64, dry: bool) -> Result<u64, TargetError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.refresh().await?;
            if self.metadata.properties().get("gc.enabled").is_some_and(|enabled| enabled == "false") {
                return Err(TargetError::Refused(format!(
                    "table {} says that its files are not to be deleted (gc.enabled=false)",
                    self.name()
                )));
            }
            let old = expired(&self.metadata, before_ms)?;
            if old.is_empty() || dry {
                return Ok(old.len() as u64);
            }
            let requirements = json!([
                {"type": "assert-table-uuid", "uuid": self.metadata.uuid()},
                {"type": "assert-ref-snapshot-id", "ref": MAIN_BRANCH, "snapshot-id": self.metadata.current_snapshot_id()},
            ]);
            let trouble = match self.catalog.commit(&requirements, &json!([{"action": "remove-snapshots", "snapshot-ids": old}])).await {
                Ok(metadata) => {
                    self.metadata = metadata;
                    return Ok(old.len() as u64);
                }
                Err(Trouble::Conflict(text) | Trouble::Unknown(text)) => text,
                Err(Trouble::Error(error)) => return Err(error),
            };
            if Instant::now() >= deadline {
                return Err(TargetError::Away(trouble));
            }
            tokio::time::sleep(Duration::from_millis(100).mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    /// The locations of all files that a snapshot of the table needs: lists, manifests, files of data and of deletes. `but`: not those snapshots.
    pub async fn reachable(&self, but: i64) -> Result<HashSet<String>, TargetError> {
        let left: HashSet<i64> = expired(&self.metadata, but)?.into_iter().collect();
        let mut reached = HashSet::new();
        for snapshot in self.metadata.snapshots().filter(|snapshot| !left.contains(&snapshot.snapshot_id())) {
            let location = snapshot.manifest_list();
            let bytes = self.files.read(location).await?;
            let list = ManifestList::parse_with_version(&bytes, self.metadata.format_version());
            let list = list.map_err(|error| TargetError::Refused(format!("cannot read {location}: {error}")))?;
            reached.insert(location.to_owned());
            for file in list.consume_entries() {
                if reached.insert(file.manifest_path.clone()) {
                    let manifest = entries(&*self.files, &file).await?;
                    let alive = manifest.entries().iter().filter(|entry| entry.is_alive());
                    reached.extend(alive.map(|entry| entry.data_file().file_path().to_owned()));
                }
            }
        }
        Ok(reached)
    }
}

/// The snapshots from before a time that are not the newest, that no branch or tag names, and that are more than the table keeps at least.
fn expired(metadata: &TableMetadata, before_ms: i64) -> Result<Vec<i64>, TargetError> {
    let cannot = |error: serde_json::Error| TargetError::Refused(format!("the table's metadata cannot be written: {error}"));
    let all: Value = serde_json::to_value(metadata).map_err(cannot)?;
    let mut held: HashSet<i64> = all["refs"].as_object().into_iter().flatten().filter_map(|(_, of)| of["snapshot-id"].as_i64()).collect();
    held.extend(metadata.current_snapshot_id());
    let least = metadata.properties().get("history.expire.min-snapshots-to-keep").and_then(|least| least.parse().ok()).unwrap_or(1);
    let mut snapshots: Vec<_> = metadata.snapshots().collect();
    snapshots.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.sequence_number()));
    let old = snapshots.into_iter().skip(least).filter(|one| one.timestamp_ms() < before_ms && !held.contains(&one.snapshot_id()));
    Ok(old.map(|one| one.snapshot_id()).collect())
}

/// As of now, for [`Table::expire`].
pub fn before(keep: Duration) -> i64 {
    now_ms().saturating_sub(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX))
}
