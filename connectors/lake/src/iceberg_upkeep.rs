//! Upkeep of an Iceberg table: whether it is whole, small files made into large ones, snapshots and files that nobody needs any more.
//!
//! A file of another program is read by the ids of its columns, as Iceberg's own readers do it. What can't be read so that nothing of it is lost, or
//! is not in order, stays as it is, and it is said why.

use crate::config::Shape;
use crate::encode::FileWriter;
use crate::iceberg::IcebergTable;
use crate::object::LiveFile;
use crate::rows::Folder;
use crate::upkeep::{Bound, Compacted, Merging, TARGET, Vacuumed, groups, now_ms};
use millrace_kit::parts::TargetError;
use millrace_lake_iceberg::{Live, before};
use object_store::ObjectMeta;
use object_store::path::Path;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Checked {
    pub version: u64,
    pub snapshots: u64,
    pub files: u64,
    pub bytes: u64,
    pub rows: u64,
    /// Files below a quarter of the target, in days that are over: compaction would help.
    pub small: u64,
    /// Named by the newest snapshot, and not there or of another size: rows are lost.
    pub missing: Vec<String>,
    /// There, and not named by any snapshot: vacuum takes them when they are old.
    pub stray: u64,
    pub stray_bytes: u64,
}

/// Holds the newest snapshot against the store.
pub fn check(table: &IcebergTable) -> Result<Checked, TargetError> {
    let there: HashMap<Path, u64> = listed(table)?.into_iter().map(|meta| (meta.location, meta.size)).collect();
    let mut checked = Checked { version: table.committed().0, snapshots: table.snapshots(), ..Checked::default() };
    let today = now_ms().div_euclid(86_400_000);
    for file in table.live(None, &[])? {
        checked.files += 1;
        checked.bytes += file.size;
        checked.rows += file.rows;
        checked.small += u64::from(i64::from(file.day) < today && i64::try_from(file.size).unwrap_or(i64::MAX) < TARGET / 4);
        match there.get(&table.store.located(&file.location)?) {
            Some(size) if *size == file.size => {}
            Some(size) => checked.missing.push(format!("{} ({size} bytes instead of {})", file.location, file.size)),
            None => checked.missing.push(file.location.clone()),
        }
    }
    let reached = reachable(table, i64::MIN)?;
    for (_, size) in there.iter().filter(|(path, _)| !reached.contains(*path)) {
        checked.stray += 1;
        checked.stray_bytes += size;
    }
    Ok(checked)
}

/// The table's own files of data and manifests, in the store.
fn listed(table: &IcebergTable) -> Result<Vec<ObjectMeta>, TargetError> {
    let mut found = Vec::new();
    for (folder, kind) in [(table.data_folder(), "parquet"), (table.metadata_folder(), "avro")] {
        let listed = table.runtime().block_on(table.store.list_at(&table.store.located(&folder)?))?;
        found.extend(listed.into_iter().filter(|meta| meta.location.extension() == Some(kind)));
    }
    Ok(found)
}

/// What a snapshot needs, save of those that expired.
fn reachable(table: &IcebergTable, before_ms: i64) -> Result<HashSet<Path>, TargetError> {
    table.reachable(before_ms)?.iter().map(|location| table.store.located(location)).collect()
}

/// Merges the small files of each day that is over (`all`: of today, too), each group by a snapshot of its own that has the rows of the one before it.
pub fn compact(table: &mut IcebergTable, all: bool, bound: &Bound) -> Result<Compacted, TargetError> {
    table.can_replace()?;
    table.refresh()?;
    let today = now_ms().div_euclid(86_400_000);
    let mut folders: BTreeMap<(i32, Option<String>), Vec<Live>> = BTreeMap::new();
    let is_small = |file: &Live| i64::try_from(file.size).is_ok_and(|size| size < bound.target / 4 * 3);
    for file in table.live(None, &[])?.into_iter().filter(is_small) {
        folders.entry((file.day, file.level.clone())).or_default().push(file);
    }
    let mut done = Compacted::default();
    for ((day, level), files) in folders {
        if files.len() < 2 || (!all && i64::from(day) >= today) {
            continue;
        }
        let folder = Folder { day, level: level.map(Arc::from) };
        for group in groups(files, bound.target, |file| i64::try_from(file.size).unwrap_or(i64::MAX)) {
            if done.after + done.skipped >= bound.groups as u64 || bound.stop.load(Relaxed) {
                break;
            }
            match merge(table, &folder, &group, bound) {
                Ok(Some(rows)) => {
                    done.before += group.len() as u64;
                    done.after += 1;
                    done.rows += rows;
                }
                Ok(None) => done.skipped += 1,
                Err(Merge::Unfit(why)) => {
                    done.skipped += 1;
                    done.left.push(why);
                }
                Err(Merge::Failed(error)) => return Err(error),
            }
        }
        done.folders += 1;
    }
    Ok(done)
}

enum Merge {
    /// These files can't be merged, and others may.
    Unfit(String),
    Failed(TargetError),
}

impl From<TargetError> for Merge {
    fn from(error: TargetError) -> Self {
        Self::Failed(error)
    }
}

/// Makes one file of several; the rows in it. `None`: one of them is not in the table any more, or it is to stop.
fn merge(table: &mut IcebergTable, folder: &Folder, group: &[Live], bound: &Bound) -> Result<Option<u64>, Merge> {
    let form = Arc::new(table.form().of(folder));
    let files = group.iter().map(|file| {
        let path = table.store.located(&file.location)?;
        Ok(LiveFile { path, name: file.location.clone(), size: file.size, rows: file.rows, day: file.day, level: folder.level.clone() })
    });
    let files = files.collect::<Result<Vec<_>, TargetError>>()?;
    let unfit = |error: TargetError| match error {
        TargetError::Refused(why) => Merge::Unfit(why),
        error => Merge::Failed(error),
    };
    let runtime = table.runtime().clone();
    let mut writer = FileWriter::new(&[], &form)?;
    let mut merging = runtime.block_on(Merging::by_ids(&table.store, &form, &files, table.ids())).map_err(unfit)?;
    while let Some(batch) = runtime.block_on(merging.next()).map_err(unfit)? {
        writer.write(&batch)?;
        if bound.stop.load(Relaxed) {
            return Ok(None);
        }
    }
    if matches!(form.holds, Shape::Samples(_)) && !merging.is_in_order() {
        return Err(Merge::Unfit(format!("the rows of one of {} files are not in order of tag and time: {}", files.len(), files[0].name)));
    }
    let encoded = writer.finish()?;
    let (rows, expected) = (encoded.rows as u64, files.iter().map(|file| file.rows).sum::<u64>());
    if rows != expected {
        return Err(Merge::Unfit(format!("{} files say they hold {expected} rows, and hold {rows}: {}", files.len(), files[0].name)));
    }
    let name = format!("part-compacted-{}.zstd.parquet", uuid::Uuid::new_v4());
    let file = table.put(folder, &name, encoded)?;
    Ok(table.replace(group, &file)?.map(|_| rows))
}

/// Forgets snapshots older than `keep`, save the newest, those that a branch or a tag names and as many as the table keeps at least; then deletes files of
/// data and manifests that no snapshot needs, once they are as old. `dry`: only says what it would do.
pub fn vacuum(table: &mut IcebergTable, keep: Duration, dry: bool) -> Result<Vacuumed, TargetError> {
    let before = before(keep);
    let mut done = Vacuumed { snapshots: table.expire(before, dry)?, ..Vacuumed::default() };
    // Listed first: what a writer puts meanwhile is young, and what it commits was put before.
    let listed = listed(table)?;
    table.refresh()?;
    let reached = reachable(table, if dry { before } else { i64::MIN })?;
    let old = listed.into_iter().filter(|meta| meta.last_modified.timestamp_millis() < before && !reached.contains(&meta.location));
    let mut paths = Vec::new();
    for meta in old {
        done.files += 1;
        done.bytes += meta.size;
        paths.push(meta.location);
    }
    if !dry {
        table.runtime().block_on(table.store.delete(&paths))?;
    }
    Ok(done)
}
