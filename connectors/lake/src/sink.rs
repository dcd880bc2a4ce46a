//! The session: samples into buffers, buffers into files, files and positions into one commit.
//!
//! ```text
//! assign   open or make the table; (parquet: clear what a crash left) read the positions that it holds
//! write    each sample -> the buffer of its day and level; a document -> that of its day; what no table can hold is refused with its reason
//! flush    new columns -> the table; buffers -> files; files and the next offsets -> one commit, if every position is where it was
//!          from time to time, beside it: small files of days that are over -> large ones; what no version names -> away
//! ```

use crate::config::{DOCUMENTS_DATE, Place, Shape, TableFormat};
use crate::encode::{self, Encoded, Form};
use crate::encode_documents;
use crate::intents;
use crate::layout;
use crate::rows::{Folder, Rows};
use crate::table::{Fence, Table, Written};
use crate::target::Target;
use crate::tending::{Tending, Turns};
use async_trait::async_trait;
use delta_kernel::expressions::ColumnName;
use millrace_contract::{
    Compiled, Context, Failure, Flush, Flushed, Guarantee, Input, Model, Offset, Partition, Plan, Records, Refused, Sink, Upstream,
};
use millrace_kit::declared;
use millrace_kit::documents::{Around, Column, Documents};
use millrace_kit::parts::{Move, Parts, TargetError};
use std::sync::Arc;
use std::time::Duration;

/// A configuration that was checked.
pub struct CompiledSink {
    settings: Arc<Settings>,
    model: Model,
    topics: Vec<String>,
}

#[derive(Debug)]
struct Settings {
    place: Place,
    commit_every: Duration,
    memory: u64,
    turns: Option<Turns>,
    /// What the topics' schemas say of the fields of documents.
    declared: Vec<Column>,
    /// Who has the first partition of it tends the table.
    first_topic: String,
}

impl CompiledSink {
    /// `turns`: when the sink tends its table, and how; `None`: somebody else does.
    pub fn new(place: Place, commit_every: Duration, memory: u64, turns: Option<Turns>, context: &Context) -> Self {
        let declared = context.schemas.iter().flat_map(|schema| declared::columns(schema)).collect();
        let first_topic = context.topics.first().cloned().unwrap_or_default();
        Self {
            settings: Arc::new(Settings { place, commit_every, memory, turns, declared, first_topic }),
            model: Model::default(),
            topics: context.topics.clone(),
        }
    }
}

impl Compiled for CompiledSink {
    fn model(&self) -> &Model {
        &self.model
    }

    fn sink(&self) -> Option<Box<dyn Sink>> {
        Some(Box::new(Instance::new(self.settings.clone())))
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce(match self.settings.place.format {
            TableFormat::Delta => "files and positions are one commit of the table, which compares the positions it begins at".into(),
            TableFormat::Iceberg => "files and positions are one snapshot of the table, and the catalog compares the one it begins at".into(),
            TableFormat::Parquet => {
                "files and positions are one commit; who reads the folder without the log may see rows of a commit that broke off, until the next start removes them".into()
            }
        })
    }

    fn plan(&self) -> Plan {
        let Settings { place, commit_every, memory, turns, .. } = &*self.settings;
        let folders = place.shape.folders();
        let how = match place.shape {
            Shape::Samples(_) => "sorted by tag and time",
            Shape::Documents => "a column for each field",
        };
        let kind = match place.format {
            TableFormat::Delta => "a Delta table",
            TableFormat::Iceberg => "an Iceberg table",
            TableFormat::Parquet => "plain Parquet, with a Delta log beside it",
        };
        let mut lines = vec![
            format!("writes {} to {kind} in folders by {}, {how}", self.topics.join(", "), folders.join(" and ")),
            format!("commits files and positions every {commit_every:?}, or when {} MiB wait", memory >> 20),
        ];
        lines.extend(turns.as_ref().map(ToString::to_string));
        let endpoint = match &place.catalog {
            Some(catalog) => format!("{} in {}", place.table, catalog.endpoint.url),
            None => place.table.clone(),
        };
        Plan { endpoint, lines, rate: None }
    }
}

/// One instance of the sink.
struct Instance {
    settings: Arc<Settings>,
    upstream: Upstream,
    table: Option<Target>,
    parts: Parts,
    fences: Vec<Fence>,
    waiting: Waiting,
    /// Something was committed: a clean stop sums the log up.
    has_committed: bool,
    tending: Tending,
}

/// What is not committed yet.
enum Waiting {
    Samples(Rows),
    Documents(Documents),
}

impl Waiting {
    fn bytes(&self) -> usize {
        match self {
            Self::Samples(rows) => rows.bytes(),
            Self::Documents(documents) => documents.bytes(),
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::Samples(rows) => rows.count(),
            Self::Documents(documents) => documents.count(),
        }
    }

    fn take(&mut self) -> Self {
        match self {
            Self::Samples(rows) => Self::Samples(rows.take()),
            Self::Documents(documents) => Self::Documents(documents.take()),
        }
    }

    fn folders(&self) -> Vec<Folder> {
        match self {
            Self::Samples(rows) => rows.folders().map(|(folder, _)| folder.clone()).collect(),
            Self::Documents(documents) => documents.days().map(|(day, _)| Folder { day: *day, level: None }).collect(),
        }
    }

    /// Makes the files, one after the other, in the order of the folders, and hands each on.
    fn encode(
        &self,
        stats: &[ColumnName],
        form: &Form,
        mut each: impl FnMut(Encoded) -> Result<(), TargetError>,
    ) -> Result<(), TargetError> {
        match self {
            Self::Samples(rows) => {
                let ranks = rows.names.ranks();
                let encode = |folder: &Folder, buffer| encode::encode(buffer, &rows.names, &ranks, stats, &form.of(folder));
                rows.folders().try_for_each(|(folder, buffer)| each(encode(folder, buffer)?))
            }
            Self::Documents(documents) => {
                documents.days().try_for_each(|(_, day)| each(encode_documents::encode(day, documents.columns(), stats, form)?))
            }
        }
    }

    /// The columns that documents brought and the table had not.
    fn added(&self) -> &[Column] {
        match self {
            Self::Samples(_) => &[],
            Self::Documents(documents) => documents.added(),
        }
    }
}

/// The name of a position: what it is a position of.
pub fn app_id(upstream: &Upstream, part: &Partition) -> String {
    let topic_id = upstream.topic_ids.get(&part.topic).map_or("", String::as_str);
    format!("millrace/{}/{}/{}/{topic_id}/{}", upstream.cluster, upstream.group, part.topic, part.partition)
}

impl Instance {
    fn new(settings: Arc<Settings>) -> Self {
        let waiting = match settings.place.shape {
            Shape::Samples(_) => Waiting::Samples(Rows::default()),
            Shape::Documents => Waiting::Documents(Documents::new(&settings.declared, &[DOCUMENTS_DATE])),
        };
        let tending = Tending::new(settings.turns.clone());
        Self {
            settings,
            upstream: Upstream::default(),
            table: None,
            parts: Parts::default(),
            fences: Vec::new(),
            waiting,
            has_committed: false,
            tending,
        }
    }

    fn is_parquet(&self) -> bool {
        self.settings.place.format == TableFormat::Parquet
    }

    /// Runs on a thread that may block, as the kernel does. The table comes back; after a panic there it is gone, and the session ends.
    async fn with_table<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Target) -> Result<T, TargetError> + Send + 'static,
    ) -> Result<T, Failure> {
        let table = self.table.take();
        let settings = self.settings.clone();
        let runtime = tokio::runtime::Handle::current();
        let done = tokio::task::spawn_blocking(move || -> Result<(Target, T), TargetError> {
            let mut table = match table {
                Some(table) => table,
                None => Target::open(&settings.place, true, runtime)?,
            };
            let outcome = work(&mut table)?;
            Ok((table, outcome))
        });
        let (table, outcome) = done.await.map_err(|error| Failure::Reconnect(format!("writing to the lake broke off: {error}")))??;
        self.table = Some(table);
        Ok(outcome)
    }

    /// Files and positions as one commit; what has moved.
    async fn commit(&mut self) -> Result<Vec<(Partition, Offset)>, Failure> {
        let moves = self.parts.moves();
        let waiting = self.waiting.take();
        if moves.is_empty() {
            return Ok(Vec::new());
        }
        let fences: Vec<Fence> =
            self.fences.iter().filter(|fence| moves.iter().any(|one| intents::epoch(&one.id) == fence.app_id)).cloned().collect();
        let declares = self.is_parquet();
        let committed = moves.clone();
        self.with_table(move |table| match table {
            Target::Delta(table) => write(table, &waiting, &moves, &fences, declares),
            #[cfg(feature = "iceberg")]
            Target::Iceberg(table) => write_iceberg(table, &waiting, &moves),
        })
        .await?;
        self.has_committed = true;
        Ok(self.parts.committed(&committed))
    }
}

/// The files to be made. After a crash the same records may be in a file of another name, which no commit names.
fn names(waiting: &Waiting) -> Vec<(Folder, String)> {
    let mark = uuid::Uuid::new_v4();
    let folders = waiting.folders().into_iter().enumerate();
    folders.map(|(index, folder)| (folder, format!("part-{index:05}-{mark}.zstd.parquet"))).collect()
}

/// The same for an Iceberg table. Files of a commit that did not come to pass go by themselves, where that is sure.
#[cfg(feature = "iceberg")]
fn write_iceberg(table: &mut crate::iceberg::IcebergTable, waiting: &Waiting, moves: &[Move]) -> Result<(), TargetError> {
    if !waiting.added().is_empty() {
        table.widen(waiting.added())?;
    }
    let names = names(waiting);
    let (mut files, mut left, form) = (Vec::new(), names.iter(), table.form().clone());
    waiting.encode(&[], &form, |encoded| {
        if let Some((folder, name)) = left.next() {
            files.push(table.put(folder, name, encoded)?);
        }
        Ok(())
    })?;
    let done = table.commit(&files, moves)?;
    tracing::debug!(
        table = table.name(),
        snapshot = done.snapshot,
        conflicts = done.conflicts,
        rows = waiting.count(),
        files = files.len(),
        "committed"
    );
    Ok(())
}

/// Writes what waits, and commits it.
fn write(table: &mut Table, waiting: &Waiting, moves: &[Move], fences: &[Fence], declares: bool) -> Result<(), TargetError> {
    if !waiting.added().is_empty() {
        table.widen(waiting.added())?;
    }
    let names = names(waiting);
    let intent = if declares && !names.is_empty() {
        let files = names.iter().map(|(folder, name)| table.path_of(folder, name)).collect::<Result<_, _>>()?;
        Some(intents::declare(table, files, moves.iter().map(|one| one.id.clone()).collect())?)
    } else {
        None
    };
    let mut files = Vec::new();
    let committed = put_all(table, waiting, &names, &mut files).and_then(|()| table.commit(&files, moves, fences));
    match committed {
        Ok(committed) => {
            tracing::debug!(table = %table.store.url, version = committed.version, conflicts = committed.conflicts, rows = waiting.count(), files = files.len(), "committed");
            // One that stays is cleared at the next start, and deletes nothing that is committed.
            if let Some(intent) = intent {
                intents::done(table, &intent)?;
            }
            Ok(())
        }
        Err(error) => {
            // With an intent, the next start clears up; without, what is surely not committed goes now, and the rest when it is old, by vacuum.
            if !declares && matches!(error, TargetError::Fenced(_)) {
                let _ = table.refresh().and_then(|()| discard(table, &files));
            }
            Err(error)
        }
    }
}

fn put_all(table: &Table, waiting: &Waiting, names: &[(Folder, String)], files: &mut Vec<Written>) -> Result<(), TargetError> {
    let mut names = names.iter();
    let form = table.form()?;
    waiting.encode(table.stats_columns(), &form, |encoded| {
        if let Some((folder, name)) = names.next() {
            files.push(table.put(folder, name, encoded)?);
        }
        Ok(())
    })
}

/// Deletes files that no commit names.
fn discard(table: &Table, files: &[Written]) -> Result<(), TargetError> {
    let live = intents::live(table)?;
    let paths: Vec<_> = files.iter().filter_map(|file| table.store.path(&file.path).ok()).filter(|path| !live.contains(path)).collect();
    table.runtime().block_on(table.store.delete(&paths))
}

#[async_trait]
impl Sink for Instance {
    fn input(&self) -> Input {
        match self.settings.place.shape {
            Shape::Samples(_) => Input::Samples,
            Shape::Documents => Input::Documents,
        }
    }

    fn flush_every(&self) -> Duration {
        self.settings.commit_every
    }

    fn wants_upstream(&self) -> bool {
        true
    }

    fn upstream(&mut self, upstream: Upstream) {
        self.upstream = upstream;
    }

    fn is_full(&self) -> bool {
        self.waiting.bytes() as u64 >= self.settings.memory
    }

    async fn assign(&mut self, parts: &[Partition]) -> Result<Vec<Option<Offset>>, Failure> {
        let ids: Vec<String> = parts.iter().map(|part| app_id(&self.upstream, part)).collect();
        let mut all: Vec<String> = self.parts.ids().map(str::to_owned).chain(ids.iter().cloned()).collect();
        all.sort_unstable();
        all.dedup();
        let (wanted, recovers) = (ids.clone(), self.is_parquet());
        let (held, fences, columns) = self
            .with_table(move |table| {
                let table = match table {
                    Target::Delta(table) => table,
                    #[cfg(feature = "iceberg")]
                    Target::Iceberg(table) => {
                        table.refresh()?;
                        let held = table.positions(wanted.iter().map(String::as_str));
                        return Ok((held, Vec::new(), table.columns()?));
                    }
                };
                if recovers {
                    intents::recover(table, &wanted)?;
                }
                table.refresh()?;
                let held = table.positions(wanted.iter().map(String::as_str))?;
                let fences = if recovers { intents::fences(table, &all)? } else { Vec::new() };
                let columns = match table.shape() {
                    Shape::Samples(_) => Vec::new(),
                    Shape::Documents => layout::columns(&table.snapshot.schema()),
                };
                Ok((held, fences, columns))
            })
            .await?;
        self.fences = fences;
        if let Waiting::Documents(documents) = &mut self.waiting
            && documents.is_empty()
        {
            documents.know(&columns);
        }
        self.parts.assign(parts, ids, &held);
        Ok(held)
    }

    fn skip(&mut self, below: &[(Partition, Offset)]) {
        self.parts.skip(below);
    }

    async fn write(&mut self, records: &Records) -> Result<Vec<Refused>, Failure> {
        let mut refused = Vec::new();
        let level = self.settings.place.shape.level();
        let empty = millrace_schemas::Batch::default();
        let batch = records.batch.as_ref().unwrap_or(&empty);
        for (index, record) in records.records.iter().enumerate() {
            let taken = match (&mut self.waiting, &batch.decoded) {
                (Waiting::Samples(rows), Some(columns)) if index < batch.rows.len() => rows.push(batch, columns, index, level),
                (Waiting::Samples(_), _) => Err("is no sample".into()),
                (Waiting::Documents(documents), _) => match records.documents.get(index) {
                    Some(document) => documents.push(document.map(|span| records.of(span)), &Around::of(records, record)),
                    None => Err("is no document".into()),
                },
            };
            if let Err(reason) = taken {
                refused.push(Refused { partition: records.partition(record).clone(), offset: record.offset, reason: reason.into() });
            }
        }
        self.parts.read(records);
        Ok(refused)
    }

    async fn flush(&mut self, why: Flush) -> Result<Flushed, Failure> {
        let below = self.commit().await?;
        if why == Flush::Tick && self.parts.partitions().any(|part| part.partition == 0 && *part.topic == *self.settings.first_topic) {
            self.tending.turn(&self.settings.place);
        }
        if why == Flush::Stop && self.table.is_some() && std::mem::take(&mut self.has_committed) {
            self.with_table(|table| {
                match table {
                    Target::Delta(table) => table.checkpoint(),
                    #[cfg(feature = "iceberg")]
                    Target::Iceberg(_) => {}
                }
                Ok(())
            })
            .await?;
        }
        Ok(Flushed { below, ..Flushed::default() })
    }

    async fn revoke(&mut self, parts: &[Partition]) -> Result<(), Failure> {
        self.parts.revoke(parts);
        Ok(())
    }
}
