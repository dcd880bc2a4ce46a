//! Upkeep of a table: whether it is whole, small files made into large ones, files and log entries that nobody needs any more.

use crate::config::Shape;
use crate::encode::{FileWriter, Form};
use crate::intents;
use crate::object::{LiveFile, Object};
use crate::rows::Folder;
use crate::store::{Store, chain};
use crate::table::{Table, Written};
use arrow_array::cast::AsArray;
use arrow_array::types::{Int64Type, TimestampMicrosecondType};
use arrow_array::{Array, RecordBatch, new_null_array};
use arrow_select::interleave::interleave_record_batch;
use delta_kernel::engine_data::FilteredEngineData;
use delta_kernel::scan::state::ScanFile;
use delta_kernel::transaction::UpdateTableOperation;
use futures_util::StreamExt;
use millrace_kit::parts::TargetError;
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{ParquetRecordBatchStream, ParquetRecordBatchStreamBuilder};
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What one compacted file is made of, in bytes of its sources; one of three quarters of it is left as it is.
pub const TARGET: i64 = 128 << 20;
/// Files merged at once: each holds a batch in memory.
const AT_ONCE: usize = 64;
const BATCH: usize = 4096;
/// How long entries of the log are kept, as Delta has it.
const LOG: Duration = Duration::from_secs(30 * 86_400);

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Checked {
    pub version: u64,
    pub files: u64,
    pub bytes: u64,
    pub rows: u64,
    /// Files below a quarter of the target, in days that are over: compaction would help.
    pub small: u64,
    /// Named by the log, and not there or of another size: rows are lost.
    pub missing: Vec<String>,
    /// There, and not named by the log: vacuum takes them when they are old.
    pub stray: u64,
    pub stray_bytes: u64,
}

/// Holds the log against the store.
pub fn check(table: &Table) -> Result<Checked, TargetError> {
    let there: HashMap<_, u64> =
        table.runtime().block_on(table.store.list(""))?.into_iter().map(|meta| (meta.location, meta.size)).collect();
    let mut checked = Checked { version: table.snapshot.version(), ..Checked::default() };
    let mut named = HashSet::new();
    for file in table.files(None)? {
        let path = table.store.path(&file.path)?;
        checked.files += 1;
        checked.bytes += file.size.unsigned_abs();
        checked.rows += file.stats.as_ref().map_or(0, |stats| stats.num_records);
        checked.small += u64::from(file.size < TARGET / 4);
        match there.get(&path) {
            Some(size) if *size == file.size.unsigned_abs() => {}
            Some(size) => checked.missing.push(format!("{} ({size} bytes instead of {})", file.path, file.size)),
            None => checked.missing.push(file.path.clone()),
        }
        named.insert(path);
    }
    for (path, size) in &there {
        if is_data(path) && !named.contains(path) {
            checked.stray += 1;
            checked.stray_bytes += size;
        }
    }
    Ok(checked)
}

/// Whether it is a data file, by its name and place.
fn is_data(path: &object_store::path::Path) -> bool {
    let text = path.as_ref();
    text.ends_with(".parquet") && text.contains("date=") && !text.contains("/_delta_log/")
}

/// How much a compaction may do.
#[derive(Clone, Debug)]
pub struct Bound {
    /// What one compacted file is made of, in bytes of its sources: it is in memory until it is put.
    pub target: i64,
    /// Files that are made.
    pub groups: usize,
    /// It ends before the next row of files, and changes nothing more.
    pub stop: Arc<AtomicBool>,
}

impl Default for Bound {
    fn default() -> Self {
        Self { target: TARGET, groups: usize::MAX, stop: Arc::default() }
    }
}

/// What a compaction did.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Compacted {
    pub folders: u64,
    pub before: u64,
    pub after: u64,
    pub rows: u64,
    /// Groups of files that another writer changed meanwhile, or that can't be merged: left as they are.
    pub skipped: u64,
    /// Why some can't be.
    pub left: Vec<String>,
}

/// Merges the small files of each folder whose day is over (`all`: of today, too). Rows stay as they are, and in order.
///
/// `removes`: the replaced files go at once, for readers that know no log; otherwise vacuum takes them.
pub fn compact(table: &mut Table, all: bool, removes: bool, bound: &Bound) -> Result<Compacted, TargetError> {
    let today = now_ms().div_euclid(86_400_000);
    let mut folders: BTreeMap<Vec<(String, String)>, Vec<ScanFile>> = BTreeMap::new();
    for file in table.files(None)?.into_iter().filter(|file| file.size < bound.target / 4 * 3 && !file.dv_info.has_vector()) {
        let mut key: Vec<_> = file.partition_values.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        key.sort_unstable();
        folders.entry(key).or_default().push(file);
    }
    let mut done = Compacted::default();
    for (key, files) in folders {
        let folder = table.folder_of(&key)?;
        if files.len() < 2 || (!all && i64::from(folder.day) >= today) {
            continue;
        }
        for group in groups(files, bound.target, |file| file.size) {
            if done.after + done.skipped >= bound.groups as u64 || bound.stop.load(Relaxed) {
                break;
            }
            match merge(table, &folder, &group, &bound.stop)? {
                Some(rows) => {
                    done.before += group.len() as u64;
                    done.after += 1;
                    done.rows += rows;
                    if removes {
                        let paths = group.iter().map(|file| table.store.path(&file.path)).collect::<Result<Vec<_>, _>>()?;
                        table.runtime().block_on(table.store.delete(&paths))?;
                    }
                }
                None => done.skipped += 1,
            }
        }
        done.folders += 1;
    }
    if done.before > 0 {
        table.checkpoint();
    }
    Ok(done)
}

/// Files that become one, each group below the target.
pub fn groups<F>(mut files: Vec<F>, target: i64, size_of: impl Fn(&F) -> i64) -> Vec<Vec<F>> {
    files.sort_by_key(&size_of);
    let mut groups: Vec<Vec<F>> = Vec::new();
    let mut size: i64 = 0;
    for file in files {
        let more = size_of(&file);
        match groups.last_mut().filter(|group| group.len() < AT_ONCE && size.saturating_add(more) <= target) {
            Some(group) => group.push(file),
            None => {
                size = 0;
                groups.push(vec![file]);
            }
        }
        size = size.saturating_add(more);
    }
    groups.retain(|group| group.len() > 1);
    groups
}

/// The files of a folder, as they are read.
fn live_of(table: &Table, folder: &Folder, files: &[ScanFile]) -> Result<Vec<LiveFile>, TargetError> {
    let live = files.iter().map(|file| {
        let rows = file.stats.as_ref().map_or(0, |stats| stats.num_records);
        let (path, name) = (table.store.path(&file.path)?, file.path.clone());
        Ok(LiveFile { path, name, size: file.size.unsigned_abs(), rows, day: folder.day, level: folder.level.clone() })
    });
    live.collect()
}

/// Makes one file of several; the rows in it. `None`: one of them is not in the table any more, or it is to stop.
fn merge(table: &mut Table, folder: &Folder, group: &[ScanFile], stop: &AtomicBool) -> Result<Option<u64>, TargetError> {
    let form = table.form()?;
    let mut writer = FileWriter::new(table.stats_columns(), &form)?;
    let runtime = table.runtime().clone();
    let mut merging = runtime.block_on(Merging::open(&table.store, &form, &live_of(table, folder, group)?))?;
    while let Some(batch) = runtime.block_on(merging.next())? {
        writer.write(&batch)?;
        if stop.load(Relaxed) {
            return Ok(None);
        }
    }
    let name = format!("part-compacted-{}.zstd.parquet", uuid::Uuid::new_v4());
    let file = table.put(folder, &name, writer.finish()?)?;
    let rows = file.rows as u64;
    let expected: u64 = group.iter().filter_map(|file| file.stats.as_ref()).map(|stats| stats.num_records).sum();
    if rows != expected {
        let path = table.store.path(&file.path)?;
        table.runtime().block_on(table.store.delete(&[path]))?;
        return Err(TargetError::Refused(format!(
            "{} files say they hold {expected} rows, and hold {rows}: nothing was changed",
            group.len()
        )));
    }
    let paths: HashSet<String> = group.iter().map(|file| file.path.clone()).collect();
    let files = [file];
    let replaced = table.publish(&[], &[], false, UpdateTableOperation::Optimize, |table, transaction| {
        let found = replace(table, transaction, &paths)?;
        if found != paths.len() {
            return Err(TargetError::Fenced("a file was removed meanwhile".into()));
        }
        table.stage(transaction, &files)
    });
    match replaced {
        Ok(_) => Ok(Some(rows)),
        Err(TargetError::Fenced(_)) => {
            table.refresh()?;
            discard(table, &files)?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Stages the removal of these files; how many of them are there.
fn replace(table: &Table, transaction: &mut delta_kernel::transaction::Transaction, paths: &HashSet<String>) -> Result<usize, TargetError> {
    let failed = |error: &dyn std::error::Error| TargetError::Refused(format!("cannot read the log: {}", chain(error)));
    let scan = table.snapshot.clone().scan_builder().build().map_err(|error| failed(&error))?;
    let mut found = 0;
    for metadata in scan.scan_metadata(&*table.engine).map_err(|error| failed(&error))? {
        let metadata = metadata.map_err(|error| failed(&error))?;
        // In the rows' order: those that are selected.
        let visit = |names: &mut Vec<String>, file: ScanFile| names.push(file.path);
        let names = metadata.visit_scan_files(Vec::new(), visit).map_err(|error| failed(&error))?;
        let (data, mut selected) = metadata.scan_files.into_parts();
        selected.resize(data.len(), true);
        let mut names = names.into_iter();
        let mut any = false;
        for is_selected in selected.iter_mut().filter(|is_selected| **is_selected) {
            *is_selected = names.next().is_some_and(|name| paths.contains(&name));
            found += usize::from(*is_selected);
            any |= *is_selected;
        }
        if any {
            transaction.remove_files(FilteredEngineData::try_new(data, selected).map_err(|error| failed(&error))?);
        }
    }
    Ok(found)
}

fn discard(table: &Table, files: &[Written]) -> Result<(), TargetError> {
    let live = intents::live(table)?;
    let paths: Vec<_> = files.iter().filter_map(|file| table.store.path(&file.path).ok()).filter(|path| !live.contains(path)).collect();
    table.runtime().block_on(table.store.delete(&paths))
}

type Key = (String, i64, i64);

/// How the columns of a file are told apart.
enum By {
    Names,
    /// Iceberg's ids, which stay where a column gets another name; these are the table's.
    #[cfg_attr(not(feature = "iceberg"), allow(dead_code))]
    Ids(HashSet<i32>),
}

/// Sorted files as one sorted stream.
pub struct Merging {
    form: Arc<Form>,
    by: By,
    /// The last row that came, and whether one came before it that should be behind.
    last: Option<Key>,
    is_in_order: bool,
    streams: Vec<ParquetRecordBatchStream<Object>>,
    batches: Vec<Option<RecordBatch>>,
    rows: Vec<usize>,
    heap: BinaryHeap<Reverse<(Key, usize)>>,
}

impl Merging {
    pub async fn open(store: &Store, form: &Arc<Form>, group: &[LiveFile]) -> Result<Self, TargetError> {
        Self::open_by(store, form, group, By::Names).await
    }

    /// Files whose columns are told apart by their ids; `ids`: all that the table has.
    ///
    /// Errors: as of [`Merging::next`]; one of them has columns without ids, or a column of the table's that is not written here.
    #[cfg(feature = "iceberg")]
    pub async fn by_ids(store: &Store, form: &Arc<Form>, group: &[LiveFile], ids: HashSet<i32>) -> Result<Self, TargetError> {
        Self::open_by(store, form, group, By::Ids(ids)).await
    }

    async fn open_by(store: &Store, form: &Arc<Form>, group: &[LiveFile], by: By) -> Result<Self, TargetError> {
        let mut merging = Self {
            form: form.clone(),
            by,
            last: None,
            is_in_order: true,
            streams: Vec::new(),
            batches: Vec::new(),
            rows: Vec::new(),
            heap: BinaryHeap::new(),
        };
        for file in group {
            let failed = |error: &dyn std::error::Error| TargetError::Refused(format!("cannot read {}: {}", file.name, chain(error)));
            let reader = Object::new(store, file, Arc::default());
            // Types as they are written; a file of somebody else's that differs is refused here.
            let options = match form.holds {
                Shape::Samples(_) if matches!(merging.by, By::Names) => ArrowReaderOptions::new().with_schema(form.arrow.clone()),
                _ => ArrowReaderOptions::new().with_skip_arrow_metadata(true),
            };
            let builder = ParquetRecordBatchStreamBuilder::new_with_options(reader, options).await.map_err(|error| failed(&error))?;
            merging.streams.push(builder.with_batch_size(BATCH).build().map_err(|error| failed(&error))?);
            merging.batches.push(None);
            merging.rows.push(0);
            merging.fill(merging.streams.len() - 1).await?;
        }
        Ok(merging)
    }

    /// Takes the next batch of a stream, and its first row into the race.
    async fn fill(&mut self, index: usize) -> Result<(), TargetError> {
        loop {
            match self.streams[index].next().await {
                None => self.batches[index] = None,
                Some(Ok(batch)) if batch.num_rows() == 0 => continue,
                Some(Ok(batch)) => {
                    let batch = match &self.by {
                        By::Names => whole(&batch, &self.form)?,
                        By::Ids(ids) => whole_by_ids(&batch, &self.form, ids)?,
                    };
                    self.rows[index] = 0;
                    self.heap.push(Reverse((key(&batch, 0), index)));
                    self.batches[index] = Some(batch);
                }
                Some(Err(error)) => return Err(TargetError::Refused(format!("cannot read a file to be merged: {}", chain(&error)))),
            }
            return Ok(());
        }
    }

    /// Whether all rows so far came in order: a file of another program may not be sorted.
    pub fn is_in_order(&self) -> bool {
        self.is_in_order
    }

    pub async fn next(&mut self) -> Result<Option<RecordBatch>, TargetError> {
        // Batches that rows were taken from, and which rows.
        let mut sources: Vec<RecordBatch> = Vec::new();
        let mut source_of: Vec<Option<usize>> = vec![None; self.streams.len()];
        let mut chosen: Vec<(usize, usize)> = Vec::with_capacity(BATCH);
        while chosen.len() < BATCH {
            let Some(Reverse((key, index))) = self.heap.pop() else { break };
            self.is_in_order &= self.last.as_ref().is_none_or(|last| (&last.0, last.1) <= (&key.0, key.1));
            self.last = Some(key);
            let Some(batch) = &self.batches[index] else { continue };
            let row = self.rows[index];
            let source = *source_of[index].get_or_insert_with(|| {
                sources.push(batch.clone());
                sources.len() - 1
            });
            chosen.push((source, row));
            if row + 1 < batch.num_rows() {
                self.heap.push(Reverse((self::key(batch, row + 1), index)));
                self.rows[index] = row + 1;
            } else {
                source_of[index] = None;
                self.fill(index).await?;
            }
        }
        if chosen.is_empty() {
            return Ok(None);
        }
        let sources: Vec<&RecordBatch> = sources.iter().collect();
        interleave_record_batch(&sources, &chosen)
            .map(Some)
            .map_err(|error| TargetError::Refused(format!("cannot merge: {}", chain(&error))))
    }
}

/// A batch with every column of the table: what was written before a column was added has nulls there.
fn whole(batch: &RecordBatch, form: &Form) -> Result<RecordBatch, TargetError> {
    if batch.schema_ref().fields() == form.arrow.fields() {
        return Ok(batch.clone());
    }
    let columns = form.arrow.fields().iter().map(|field| match batch.column_by_name(field.name()) {
        Some(column) => column.clone(),
        None => new_null_array(field.data_type(), batch.num_rows()),
    });
    let made = RecordBatch::try_new(form.arrow.clone(), columns.collect());
    made.map_err(|error| TargetError::Refused(format!("a file to be merged has other columns than the table: {}", chain(&error))))
}

/// The same by the columns' ids. A column that the table has no more is left out, as its readers do it.
fn whole_by_ids(batch: &RecordBatch, form: &Form, ids: &HashSet<i32>) -> Result<RecordBatch, TargetError> {
    let refuse = |why: String| TargetError::Refused(format!("a file to be merged {why}; rewrite it with its own tool"));
    let id = |field: &arrow_schema::Field| field.metadata().get(PARQUET_FIELD_ID_META_KEY).and_then(|id| id.parse::<i32>().ok());
    let mut there: HashMap<i32, usize> = HashMap::new();
    for (index, field) in batch.schema_ref().fields().iter().enumerate() {
        let of = id(field).ok_or_else(|| refuse(format!("has a column `{}` without an id", field.name())))?;
        there.insert(of, index);
    }
    let mut columns = Vec::with_capacity(form.arrow.fields().len());
    for field in form.arrow.fields() {
        let index = id(field).and_then(|of| there.remove(&of));
        columns.push(index.map_or_else(|| new_null_array(field.data_type(), batch.num_rows()), |index| batch.column(index).clone()));
    }
    if let Some((_, index)) = there.iter().find(|(of, _)| ids.contains(of)) {
        return Err(refuse(format!("has a column `{}` of a type that is not written here", batch.schema_ref().field(*index).name())));
    }
    let made = RecordBatch::try_new(form.arrow.clone(), columns);
    made.map_err(|error| refuse(format!("has other columns than the table: {}", chain(&error))))
}

/// What a file is sorted by: tag, time and number of a sample; topic, partition and offset of a document.
fn key(batch: &RecordBatch, row: usize) -> Key {
    let is_samples = batch.column_by_name("tag").is_some() && batch.column_by_name("kafka_topic").is_none();
    let [text, first, second] = if is_samples { ["tag", "time", "seq"] } else { ["kafka_topic", "kafka_partition", "kafka_offset"] };
    let long = |name: &str| {
        let column = batch.column_by_name(name)?;
        let time = column.as_primitive_opt::<TimestampMicrosecondType>().map(|values| values.value(row));
        time.or_else(|| column.as_primitive_opt::<Int64Type>().map(|values| values.value(row)))
    };
    let tag = batch.column_by_name(text).and_then(|column| column.as_string_opt::<i32>()).filter(|tags| tags.is_valid(row));
    (tag.map_or_else(String::new, |tags| tags.value(row).to_owned()), long(first).unwrap_or(0), long(second).unwrap_or(0))
}

/// What a vacuum took.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Vacuumed {
    pub files: u64,
    pub bytes: u64,
    /// Entries of the log that a checkpoint sums up.
    pub log: u64,
    /// Snapshots of an Iceberg table.
    pub snapshots: u64,
}

/// Deletes data files that the log does not name once they are older than `keep`: a reader of an older version, or a writer that has not committed
/// yet, may need them until then. Deletes entries of the log behind a checkpoint once they are older than the table keeps them, 30 days unless it
/// says otherwise. `dry`: only says what it would delete.
pub fn vacuum(table: &mut Table, keep: Duration, dry: bool) -> Result<Vacuumed, TargetError> {
    table.refresh()?;
    let live = intents::live(table)?;
    let before = now_ms() - i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    let keep_log = table.snapshot.table_properties().log_retention_duration.unwrap_or(LOG).max(keep);
    let log_before = now_ms() - i64::try_from(keep_log.as_millis()).unwrap_or(i64::MAX);
    let mut done = Vacuumed::default();
    let mut paths = Vec::new();
    let listed = table.runtime().block_on(table.store.list(""))?;
    // The newest checkpoint that was there before the time: older entries serve no version that is kept.
    let summed_up = listed
        .iter()
        .filter(|meta| meta.last_modified.timestamp_millis() < log_before)
        .filter_map(|meta| log_version(meta, "checkpoint.parquet"))
        .max();
    for meta in listed {
        if meta.last_modified.timestamp_millis() >= before {
            continue;
        }
        if is_data(&meta.location) && !live.contains(&meta.location) {
            done.files += 1;
            done.bytes += meta.size;
            paths.push(meta.location);
        } else if let Some(version) = ["json", "crc", "checkpoint.parquet"].iter().find_map(|kind| log_version(&meta, kind))
            && meta.last_modified.timestamp_millis() < log_before
            && summed_up.is_some_and(|checkpoint| version < checkpoint)
        {
            done.log += 1;
            paths.push(meta.location);
        }
    }
    if !dry {
        table.runtime().block_on(table.store.delete(&paths))?;
    }
    Ok(done)
}

/// The version of an entry of the log of that kind.
fn log_version(meta: &object_store::ObjectMeta, kind: &str) -> Option<u64> {
    let path = meta.location.as_ref();
    let (folder, name) = path.rsplit_once('/')?;
    let (version, extension) = name.split_once('.')?;
    if !folder.ends_with("_delta_log") || extension != kind || version.len() != 20 {
        return None;
    }
    version.parse().ok()
}

pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
