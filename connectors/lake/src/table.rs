//! The Delta table: made, opened, held against what the file says, committed to.
//!
//! ```text
//! commit: the newest snapshot -> positions there = those we began at? -> files and new positions, as the next version, if nobody made it
//!           |                      | no: all as we want them: it was our own commit, whose answer was lost
//!           |                      | no: somebody else moved them: fenced
//!           +-- version is there already, answer lost, store away: again from the newest snapshot
//! ```
//!
//! A position is a transaction action of Delta: its application id names cluster, group, topic, the topic's id and partition; its version is the next
//! offset. Delta itself compares nothing: this does.

use crate::config::{Level, Place, Shape};
use crate::encode::{Encoded, Form};
use crate::layout;
use crate::rows::Folder;
use crate::store::{self, Store, chain};
use delta_kernel::committer::FileSystemCommitter;
use delta_kernel::error::KernelError;
use delta_kernel::expressions::{ColumnName, Scalar};
use delta_kernel::scan::state::ScanFile;
use delta_kernel::snapshot::{Snapshot, SnapshotRef};
use delta_kernel::transaction::create_table::create_table;
use delta_kernel::transaction::data_layout::DataLayout;
use delta_kernel::transaction::{BoundWriteContext, CommitResult, Transaction, UpdateTableOperation, WriteState};
use delta_kernel::{EngineData, FileMeta, PredicateRef};
use delta_kernel_default_engine::executor::tokio::TokioMultiThreadExecutor;
use delta_kernel_default_engine::parquet::DataFileMetadata;
use delta_kernel_default_engine::{DefaultEngine, DefaultEngineBuilder, build_add_file_metadata};
use millrace_kit::documents::Column;
use millrace_kit::parts::{Move, TargetError};
use object_store::path::Path;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use url::Url;

/// Who writes, in the log.
const ENGINE: &str = concat!("millrace/", env!("CARGO_PKG_VERSION"));
/// How long a commit may be tried.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a commit may be refused for good before that is believed.
const REFUSALS: u32 = 2;
/// Commits between checkpoints.
const CHECKPOINT_EVERY: u64 = 50;

pub type Engine = DefaultEngine<TokioMultiThreadExecutor>;

/// What must be as it was for a commit to count, and is not moved by it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fence {
    pub app_id: String,
    pub at: Option<i64>,
}

/// A file that was put, to be named in a commit.
pub struct Written {
    pub folder: Folder,
    /// Its path as the log has it.
    pub path: String,
    pub size: u64,
    pub rows: usize,
    add: Box<dyn EngineData>,
}

/// How a commit went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Committed {
    pub version: u64,
    /// Commits of others that came first.
    pub conflicts: u32,
}

/// An open table.
pub struct Table {
    pub store: Store,
    pub engine: Arc<Engine>,
    pub snapshot: SnapshotRef,
    shape: Shape,
    stats_columns: Vec<ColumnName>,
    /// How files are written, once the table was held against what is.
    state: Option<(Arc<WriteState>, Arc<Form>)>,
    runtime: tokio::runtime::Handle,
}

/// What the kernel says, as what to do about it.
pub fn kernel(what: impl std::fmt::Display, error: &KernelError) -> TargetError {
    let text = format!("{what}: {}", chain(error));
    match error {
        KernelError::Backtraced { source, .. } => kernel(what, source),
        KernelError::ObjectStore(error) => store::failed(what, error),
        KernelError::IOError(_) | KernelError::Reqwest(_) => TargetError::Away(text),
        _ => TargetError::Refused(text),
    }
}

impl Table {
    /// Opens a table; makes it where it is missing and `makes` says so. Blocks: call it on a thread that may.
    ///
    /// Errors: `Refused`: it has another shape, features that can't be written, or can't be read; `Away`: the store can't be reached.
    pub fn open(place: &Place, makes: bool, runtime: tokio::runtime::Handle) -> Result<Self, TargetError> {
        let store = Store::open(place, makes)?;
        let executor = Arc::new(TokioMultiThreadExecutor::new(runtime.clone()));
        let engine = Arc::new(DefaultEngineBuilder::new(store.objects.clone()).with_task_executor(executor).build());
        if makes {
            runtime.block_on(store.probe())?;
        }
        let found = Snapshot::builder_for(store.url.as_str()).build(&*engine);
        let snapshot = match found {
            Ok(snapshot) => snapshot,
            Err(error) if !is_missing(&error) => return Err(kernel(format!("cannot read the table {}", store.url), &error)),
            Err(_) if !makes => {
                return Err(TargetError::Refused(format!(
                    "there is no table in {}; a sink of type lake makes it when it starts",
                    store.url
                )));
            }
            Err(_) => Self::make(&store, &engine, place, &runtime)?,
        };
        let mut table = Self { store, engine, snapshot, shape: place.shape.clone(), stats_columns: Vec::new(), state: None, runtime };
        if makes {
            table.check()?;
        }
        Ok(table)
    }

    /// As for a sink, of a table that was opened to be read: the table itself tells what it holds.
    ///
    /// Errors: it has another shape than samples or documents have, or features that can't be written.
    pub fn prepare(&mut self) -> Result<(), TargetError> {
        let transaction = self.begin(false, UpdateTableOperation::Optimize)?;
        self.shape = match transaction.logical_partition_columns() {
            [date] if *date == Shape::Documents.date() => Shape::Documents,
            columns => Shape::Samples(columns.get(1).map(|name| Level { name: name.clone(), part: 0 })),
        };
        self.check()
    }

    fn make(store: &Store, engine: &Engine, place: &Place, runtime: &tokio::runtime::Handle) -> Result<SnapshotRef, TargetError> {
        // A folder with somebody's files is not ours to make a table of.
        let found: Vec<Path> = runtime.block_on(store.list(""))?.into_iter().map(|meta| meta.location).collect();
        if let Some(strange) = found.iter().find(|path| path.as_ref().ends_with(".parquet")) {
            return Err(TargetError::Refused(format!("{} holds files and no table ({strange}); name an empty folder", store.url)));
        }
        // The kernel takes any file in the log for a table. One that makes it at this moment, and loses its file by that, tries again.
        let left: Vec<Path> = found.into_iter().filter(is_left_over).collect();
        if !left.is_empty() {
            tracing::info!(table = %store.url, files = left.len(), "a writer was killed while it made the table; what it left is deleted");
            runtime.block_on(store.delete(&left))?;
        }
        let what = || format!("cannot make the table {}", store.url);
        let schema = layout::schema(&place.shape).map_err(|why| TargetError::Refused(why.into()))?;
        let columns: Vec<String> = place.shape.folders().into_iter().map(ToOwned::to_owned).collect();
        let made = create_table(store.url.as_str(), schema, ENGINE, false)
            .with_data_layout(DataLayout::partitioned(columns))
            .build(engine, Box::new(FileSystemCommitter::new()))
            .and_then(|transaction| transaction.commit(engine));
        // Another runtime may have been quicker: what is there is held against what it must be.
        let made = made.map(|_| ());
        let opened = Snapshot::builder_for(store.url.as_str()).build(engine);
        let snapshot = opened.map_err(|error| kernel(what(), made.as_ref().err().unwrap_or(&error)))?;
        store.sync("_delta_log/00000000000000000000.json")?;
        tracing::info!(table = %store.url, "made a table");
        Ok(snapshot)
    }

    /// Holds the table against what is written to it.
    fn check(&mut self) -> Result<(), TargetError> {
        let holds = self.shape.name();
        let refuse =
            |why: String| TargetError::Refused(format!("the table {} can't take {holds}: {why}; name another folder", self.store.url));
        if self.snapshot.table_properties().set_transaction_retention_duration.is_some() {
            return Err(refuse("its property delta.setTransactionRetentionDuration lets positions expire".into()));
        }
        let transaction = self.begin(true, UpdateTableOperation::StreamingUpdate).map_err(|error| match error {
            TargetError::Refused(text) => refuse(text),
            error => error,
        })?;
        if let Some(why) = layout::mismatch(&self.shape, &self.snapshot.schema(), transaction.logical_partition_columns()) {
            return Err(refuse(why));
        }
        let columns = transaction.stats_columns();
        let state = transaction.write_state().map_err(|error| refuse(chain(&error)))?;
        let folder = Folder { day: 0, level: None };
        let context = state.write_context_builder().with_partition_values(self.values(&folder)).build();
        let context = context.map_err(|error| refuse(chain(&error)))?;
        let form = Form::new(&self.shape, &self.snapshot.schema())?;
        let physical: Vec<&str> = context.physical_data_schema().fields().map(|field| field.name.as_str()).collect();
        if let Some(field) = form.schema.fields().find(|field| !physical.contains(&field.name.as_str())) {
            return Err(refuse(format!("column mapping gives its column `{}` another name in the files", field.name)));
        }
        self.stats_columns = columns;
        self.state = Some((state, Arc::new(form)));
        Ok(())
    }

    fn begin(&self, data_change: bool, operation: UpdateTableOperation) -> Result<Transaction, TargetError> {
        self.snapshot
            .clone()
            .update_table(operation, ENGINE, data_change)
            .build(&*self.engine, Box::new(FileSystemCommitter::new()))
            .map_err(|error| kernel("cannot write to it", &error))
    }

    pub fn stats_columns(&self) -> &[ColumnName] {
        &self.stats_columns
    }

    fn values(&self, folder: &Folder) -> HashMap<String, Scalar> {
        let mut values = HashMap::from([(self.shape.date().to_owned(), Scalar::Date(folder.day))]);
        if let Some(level) = self.shape.level() {
            let null = Scalar::Null(delta_kernel::schema::DataType::STRING);
            values.insert(level.name.clone(), folder.level.as_deref().map_or(null, Scalar::from));
        }
        values
    }

    /// What files are made of.
    pub fn form(&self) -> Result<Arc<Form>, TargetError> {
        let state = self.state.as_ref().ok_or_else(|| TargetError::Refused("the table was opened to be read".into()))?;
        Ok(state.1.clone())
    }

    /// Adds columns of documents to the table, those that it lacks.
    ///
    /// Errors: `Fenced`: another writer gave one of them another type meanwhile; `Away`: the store can't be reached.
    pub fn widen(&mut self, added: &[Column]) -> Result<(), TargetError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.refresh()?;
            let there = layout::columns(&self.snapshot.schema());
            let mut lacking = Vec::new();
            for column in added {
                let same_name = there.iter().find(|known| known.name.to_lowercase() == column.name.to_lowercase());
                match same_name {
                    None => lacking.push(layout::field(column).map_err(|why| TargetError::Refused(why.into()))?),
                    Some(known) if layout::is_same(known, column) => {}
                    Some(known) => {
                        return Err(TargetError::Fenced(format!(
                            "another writer made the column `{}` a {} meanwhile; what was read since is read again",
                            known.name, known.kind
                        )));
                    }
                }
            }
            if lacking.is_empty() {
                return self.check();
            }
            let names: Vec<String> = lacking.iter().map(|field| field.name.clone()).collect();
            let builder = self.snapshot.clone().update_table(UpdateTableOperation::AlterTable, ENGINE, false);
            let builder = lacking.into_iter().fold(builder, |builder, field| builder.add_column(field));
            let outcome = builder
                .build(&*self.engine, Box::new(FileSystemCommitter::new()))
                .and_then(|transaction| transaction.commit(&*self.engine))
                .map_err(|error| kernel(format!("cannot add columns to {}", self.store.url), &error));
            match outcome {
                Ok(CommitResult::Committed(done)) => {
                    self.store.sync(&format!("_delta_log/{:020}.json", done.commit_version()))?;
                    tracing::info!(table = %self.store.url, columns = names.join(", "), "the table has new columns");
                }
                // Whether it took effect, the newest version says.
                Ok(_) | Err(TargetError::Away(_)) if Instant::now() < deadline => {}
                Ok(_) => return Err(TargetError::Away(format!("other commits to {} always came first", self.store.url))),
                Err(error) => return Err(error),
            }
            std::thread::sleep(Duration::from_millis(20).mul_f64(0.5 + fastrand::f64()));
        }
    }

    /// Brings the snapshot up to the newest version.
    pub fn refresh(&mut self) -> Result<(), TargetError> {
        let newest = Snapshot::builder_from(self.snapshot.clone()).build(&*self.engine);
        self.snapshot = newest.map_err(|error| kernel(format!("cannot read the table {}", self.store.url), &error))?;
        Ok(())
    }

    /// The positions of these application ids in the snapshot at hand.
    pub fn positions<'a>(&self, app_ids: impl IntoIterator<Item = &'a str>) -> Result<Vec<Option<i64>>, TargetError> {
        let read = |id| self.snapshot.get_app_id_version(id, &*self.engine);
        let all: Result<Vec<_>, _> = app_ids.into_iter().map(read).collect();
        all.map_err(|error| kernel(format!("cannot read positions in {}", self.store.url), &error))
    }

    /// What a file of that folder is: its partition's values, and where it lies.
    fn context(&self, folder: &Folder) -> Result<BoundWriteContext, TargetError> {
        let (state, _) = self.state.as_ref().ok_or_else(|| TargetError::Refused("the table was opened to be read".into()))?;
        let context = state.write_context_builder().with_partition_values(self.values(folder)).build();
        context.map_err(|error| kernel(format!("cannot write to {}", self.store.url), &error))
    }

    /// Where a file of that name is: as a URL, and in the log's words.
    fn location(&self, context: &BoundWriteContext, name: &str) -> Result<(Url, String), TargetError> {
        let location = context.write_dir().join(name).map_err(|error| TargetError::Refused(format!("{name}: {error}")))?;
        let path = context.resolve_file_path(&location);
        let path = path.map_err(|error| kernel(format!("cannot write to {}", self.store.url), &error))?;
        Ok((location, path))
    }

    /// Puts a file into its folder, under a name of its own.
    pub fn put(&self, folder: &Folder, name: &str, encoded: Encoded) -> Result<Written, TargetError> {
        let context = self.context(folder)?;
        let (location, path) = self.location(&context, name)?;
        let size = encoded.bytes.len() as u64;
        self.runtime.block_on(self.store.put(&path, encoded.bytes))?;
        let stats = encoded.stats.ok_or_else(|| TargetError::Refused("a file without rows".into()))?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        let metadata = DataFileMetadata::new(FileMeta::new(location, now, size), stats);
        let add = build_add_file_metadata(metadata, &context);
        let add = add.map_err(|error| kernel(format!("cannot write to {}", self.store.url), &error))?;
        Ok(Written { folder: folder.clone(), path, size, rows: encoded.rows, add })
    }

    /// Where a file of that name would be, in the log's words.
    pub fn path_of(&self, folder: &Folder, name: &str) -> Result<String, TargetError> {
        Ok(self.location(&self.context(folder)?, name)?.1)
    }

    /// Commits files and positions as one version.
    ///
    /// Errors: `Fenced`: a position is not where it was; `Away`: not known to be committed within [`PATIENCE`]; the files stay.
    pub fn commit(&mut self, files: &[Written], moves: &[Move], fences: &[Fence]) -> Result<Committed, TargetError> {
        self.publish(moves, fences, true, UpdateTableOperation::StreamingUpdate, |table, transaction| table.stage(transaction, files))
    }

    /// Names files in a transaction.
    pub fn stage(&self, transaction: &mut Transaction, files: &[Written]) -> Result<(), TargetError> {
        for file in files {
            transaction.add_files(copy(&*file.add)?);
        }
        Ok(())
    }

    /// The loop around every commit. `fill` stages into each new transaction what belongs to it, from the newest snapshot.
    pub fn publish(
        &mut self,
        moves: &[Move],
        fences: &[Fence],
        data_change: bool,
        operation: UpdateTableOperation,
        mut fill: impl FnMut(&Self, &mut Transaction) -> Result<(), TargetError>,
    ) -> Result<Committed, TargetError> {
        let deadline = Instant::now() + PATIENCE;
        let (mut conflicts, mut refusals) = (0, 0);
        let mut wait = Duration::from_millis(20);
        loop {
            let outcome = self.try_once(moves, fences, data_change, operation.clone(), &mut fill);
            let trouble = match outcome {
                Ok(Attempt::Done(version)) => return Ok(Committed { version, conflicts }),
                Ok(Attempt::Conflict) => {
                    conflicts += 1;
                    format!("other commits to {} always came first", self.store.url)
                }
                Ok(Attempt::Unknown(TargetError::Refused(error))) if refusals >= REFUSALS => return Err(TargetError::Refused(error)),
                Ok(Attempt::Unknown(error)) => {
                    refusals += u32::from(matches!(error, TargetError::Refused(_)));
                    error.to_string()
                }
                Err(TargetError::Away(error)) => error,
                Err(error) => return Err(error),
            };
            if Instant::now() >= deadline {
                return Err(TargetError::Away(format!("{trouble} (tried for {} s)", PATIENCE.as_secs())));
            }
            std::thread::sleep(wait.mul_f64(0.5 + fastrand::f64()));
            wait = (wait * 2).min(Duration::from_secs(2));
        }
    }

    fn try_once(
        &mut self,
        moves: &[Move],
        fences: &[Fence],
        data_change: bool,
        operation: UpdateTableOperation,
        fill: &mut impl FnMut(&Self, &mut Transaction) -> Result<(), TargetError>,
    ) -> Result<Attempt, TargetError> {
        self.refresh()?;
        let there = self.positions(moves.iter().map(|one| one.id.as_str()))?;
        if !moves.is_empty() && moves.iter().zip(&there).all(|(one, there)| *there == Some(one.to)) {
            return Ok(Attempt::Done(self.snapshot.version()));
        }
        if let Some((one, there)) = moves.iter().zip(&there).find(|(one, there)| **there != one.from) {
            return Err(TargetError::Fenced(format!(
                "another writer moved the position of {} from {} to {}; what was read since is read again",
                one.id,
                shown(one.from),
                shown(*there)
            )));
        }
        let fenced = self.positions(fences.iter().map(|fence| fence.app_id.as_str()))?;
        if let Some((fence, _)) = fences.iter().zip(&fenced).find(|(fence, there)| **there != fence.at) {
            return Err(TargetError::Fenced(format!(
                "another writer cleans up behind this one ({}); what was read since is read again",
                fence.app_id
            )));
        }
        let mut transaction = self.begin(data_change, operation)?;
        for one in moves {
            transaction = transaction.with_transaction_id(one.id.clone(), one.to);
        }
        fill(self, &mut transaction)?;
        let url = self.store.url.clone();
        let what = || format!("cannot commit to {url}");
        match transaction.commit(&*self.engine) {
            Ok(CommitResult::Committed(done)) => {
                let version = done.commit_version();
                self.store.sync(&format!("_delta_log/{version:020}.json"))?;
                let since = done.post_commit_stats().commits_since_checkpoint;
                match done.post_commit_snapshot() {
                    Some(snapshot) => self.snapshot = snapshot.clone(),
                    None => self.refresh()?,
                }
                if since >= CHECKPOINT_EVERY {
                    self.checkpoint();
                }
                Ok(Attempt::Done(version))
            }
            Ok(CommitResult::Conflicted(_)) => Ok(Attempt::Conflict),
            Ok(CommitResult::Retryable(retryable)) => Ok(Attempt::Unknown(kernel(what(), &retryable.error))),
            // Denied or not, the newest snapshot says whether it took effect.
            Err(error) => Ok(Attempt::Unknown(kernel(what(), &error))),
        }
    }

    /// Sums the log up, so that a reader needs not all of it. What goes wrong here harms nothing.
    pub fn checkpoint(&mut self) {
        match self.snapshot.checkpoint(&*self.engine, None) {
            Ok((_, snapshot)) => self.snapshot = snapshot,
            Err(error) => tracing::warn!(table = %self.store.url, "no checkpoint could be written, the log stays long: {}", chain(&error)),
        }
    }

    /// The files of the snapshot at hand that may hold rows of the predicate.
    pub fn files(&self, predicate: Option<PredicateRef>) -> Result<Vec<ScanFile>, TargetError> {
        let what = |error: &KernelError| kernel(format!("cannot read the table {}", self.store.url), error);
        let scan = self.snapshot.clone().scan_builder().with_predicate(predicate).build().map_err(|error| what(&error))?;
        let mut files = Vec::new();
        for metadata in scan.scan_metadata(&*self.engine).map_err(|error| what(&error))? {
            let metadata = metadata.map_err(|error| what(&error))?;
            files = metadata.visit_scan_files(files, |files: &mut Vec<ScanFile>, file| files.push(file)).map_err(|error| what(&error))?;
        }
        Ok(files)
    }

    /// The folder of a file with these values of its partition.
    pub fn folder_of(&self, key: &[(String, String)]) -> Result<Folder, TargetError> {
        let of = |name: &str| key.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let date = of(self.shape.date()).unwrap_or_default();
        let day: jiff::civil::Date = date.parse().map_err(|_| TargetError::Refused(format!("a file is in no day: `{date}`")))?;
        let start = day.to_zoned(jiff::tz::TimeZone::UTC).map_err(|error| TargetError::Refused(error.to_string()))?;
        let level = self.shape.level().and_then(|level| of(&level.name)).map(Arc::from);
        Ok(Folder { day: start.timestamp().as_second().div_euclid(86_400) as i32, level })
    }

    /// What it holds, once it was held against that.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }
}

enum Attempt {
    Done(u64),
    Conflict,
    /// It may have taken effect.
    Unknown(TargetError),
}

fn shown(position: Option<i64>) -> String {
    position.map_or_else(|| "none".into(), |position| position.to_string())
}

/// The temporary file of a commit on HDFS, which has its name only once it is whole.
fn is_left_over(path: &Path) -> bool {
    path.as_ref().contains("_delta_log/.") && path.filename().is_some_and(|name| name.contains(".json.tmp."))
}

fn is_missing(error: &KernelError) -> bool {
    match error {
        KernelError::Backtraced { source, .. } => is_missing(source),
        KernelError::FileNotFound(_) | KernelError::EmptyLog => true,
        KernelError::ObjectStore(error) => matches!(error, object_store::Error::NotFound { .. }),
        _ => false,
    }
}

/// A transaction takes what it is given: each attempt gets a copy.
fn copy(data: &dyn EngineData) -> Result<Box<dyn EngineData>, TargetError> {
    use delta_kernel::engine::arrow_data::ArrowEngineData;
    let batch = data.any_ref().downcast_ref::<ArrowEngineData>().map(|data| data.record_batch().clone());
    let batch = batch.ok_or_else(|| TargetError::Refused("the kernel's data are not Arrow's".into()))?;
    Ok(Box::new(ArrowEngineData::new(batch)))
}
