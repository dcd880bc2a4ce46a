//! The file source: the session that reads what the watch found.
//!
//! ```text
//! look (every `every`) -> for each file: read records -> batch -> send, the file's position with it
//!                          whole and durable: keep it, delete it, or move it
//! ```

use crate::config::{FileSourceConfig, Format, Setup, WhenDone};
use crate::position::{FileId, Position};
use crate::reading::{DEAD_IN_A_ROW, NotRead, Reading, decode_again};
use crate::records::rows_of;
use crate::samples::Declared;
use crate::watch::{Scan, Task, Watch};
use async_trait::async_trait;
use millrace_config::{Problems, Reason, Severity};
use millrace_contract::{
    AckId, Compiled, Context, Failure, Guarantee, Late, Loss, Model, Plan, Plugin, Role, Route, Source, SourceIo, Status,
};
use millrace_schemas::{Batch, Micros};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The plugin `file`, as a source.
pub struct FileSourcePlugin;

impl Plugin for FileSourcePlugin {
    const TYPE: &'static str = "file";
    const ROLE: Role = Role::Source;
    type Config = FileSourceConfig;

    fn compile(config: FileSourceConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        let before = problems.iter().count();
        let setup = Setup::check(&config, context, problems);
        if problems.iter().skip(before).any(|problem| problem.severity == Severity::Error) {
            return None;
        }
        Some(Box::new(Reader::new(Arc::new(setup?))))
    }
}

struct Reader {
    setup: Arc<Setup>,
    model: Model,
}

impl Reader {
    fn new(setup: Arc<Setup>) -> Self {
        let route = Route { topic: setup.topic.clone(), name: setup.path.clone(), samples: setup.samples.is_some() };
        let tags = setup.samples.as_ref().map_or_else(Vec::new, |samples| samples.tags().to_vec());
        Self { model: Model { tags, routes: vec![route] }, setup }
    }
}

impl Compiled for Reader {
    fn model(&self) -> &Model {
        &self.model
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(FileSource { setup: self.setup.clone() }))
    }

    fn reads_again(&self) -> bool {
        true
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce("each file's position is kept with its data".into())
    }

    fn decode_again(&self, late: &Late<'_>, io: &SourceIo, batch: &mut Batch) -> Option<Result<(), Reason>> {
        decode_again(&self.setup, late, io, batch)
    }

    fn longest(&self) -> Option<u64> {
        Some(self.setup.max_record_bytes as u64)
    }

    fn plan(&self) -> Plan {
        let setup = &self.setup;
        let format = match setup.format {
            Format::Ndjson => "ndjson",
            Format::Json => "json",
            Format::Csv => "csv",
            Format::Envelope => "what a file sink wrote",
        };
        let how = if setup.is_tail { "tails the file through its rotations" } else { "reads each file once" };
        let mut lines = vec![format!("{how}: {format}, looks every {:?}", setup.every)];
        if let Some(samples) = &setup.samples {
            lines.push(samples.describe());
        }
        match (setup.when_done, &setup.move_to) {
            (WhenDone::Delete, _) => lines.push("deletes a file when it is durable".into()),
            (WhenDone::Move, Some(folder)) => lines.push(format!("moves a file to {} when it is durable", folder.display())),
            _ => {}
        }
        Plan { endpoint: setup.path.clone(), lines, rate: None }
    }
}

/// Before the keys of positions that say how many rows of a file were counted and not understood.
const COUNTED: &str = "rows/";

struct FileSource {
    setup: Arc<Setup>,
}

/// A file that is whole and read, to be finished when it is durable.
struct Finished {
    ack: AckId,
    id: FileId,
    path: PathBuf,
}

#[async_trait]
impl Source for FileSource {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        let setup = self.setup.clone();
        let mut declared = Declared::new(&io, setup.samples.as_deref())?;
        let positions: BTreeMap<_, _> =
            io.positions("").iter().filter_map(|(key, value)| Some((FileId::from_key(key)?, Position::decode(value)?))).collect();
        let mut watch = Watch::new(setup.pattern.clone(), setup.is_tail, setup.settle, positions);
        let finishes = setup.when_done != WhenDone::Keep;
        let mut finished: BTreeMap<FileId, Finished> = BTreeMap::new();
        // Rows of files that cannot be understood, counted once.
        let counted = io
            .positions(COUNTED)
            .into_iter()
            .filter_map(|(key, value)| Some((FileId::from_key(&key[COUNTED.len()..])?, std::str::from_utf8(&value).ok()?.parse().ok()?)));
        let mut counted: BTreeMap<FileId, u64> = counted.collect();
        // Read, but not wholly understood: they stay where they are, and the status says so as long as they do.
        let mut kept: BTreeMap<FileId, (PathBuf, String)> = BTreeMap::new();
        // All records of the last file that had any became dead letters.
        let mut all_dead: Option<String> = None;
        let mut said = None;
        let mut spare: Option<Batch> = None;
        let stopping = io.stopping();
        tokio::pin!(stopping);
        loop {
            let scan: Scan;
            (watch, scan) = off_the_runtime(move || {
                let scan = watch.scan(finishes);
                (watch, scan)
            })
            .await?;
            // Of files that are understood now, or gone, nothing is counted any more.
            let listed: BTreeSet<FileId> = scan.tasks.iter().map(Task::id).collect();
            let mut understood: BTreeSet<FileId> =
                if scan.trouble.is_some() { BTreeSet::new() } else { counted.keys().filter(|id| !listed.contains(id)).copied().collect() };
            let mut troubles: Vec<String> = scan.trouble.into_iter().collect();
            if scan.lost > 0 {
                io.lost(Loss::Other("file_rotated_away"), scan.lost);
            }
            for task in scan.tasks {
                let id = task.id();
                if let Task::Finish { path, .. } = task {
                    finished.entry(id).or_insert(Finished { ack: AckId(0), id, path });
                    continue;
                }
                let opened;
                (watch, opened) = {
                    let setup = setup.clone();
                    off_the_runtime(move || {
                        let opened = open(&mut watch, setup, task);
                        (watch, opened)
                    })
                    .await?
                };
                let mut reading = match opened {
                    Ok(Some(reading)) => {
                        understood.insert(id);
                        reading
                    }
                    // Not whole yet, or another file by now: the next look sees.
                    Ok(None) => continue,
                    Err(unread) => {
                        watch.try_again(id);
                        troubles.push(unread.why);
                        if let Some(rows) = unread.rows {
                            let counted = counted.entry(id).or_default();
                            let more = rows.saturating_sub(*counted);
                            *counted += more;
                            if more > 0 {
                                io.dropped(Loss::Other("file_not_understood"), more);
                                // The counts go with the position that says which rows they are of.
                                let batch = io.batch().await;
                                io.send(batch, &[(&format!("{COUNTED}{}", id.key()), counted.to_string().as_bytes())]).await;
                            }
                        }
                        continue;
                    }
                };
                while !reading.at_end {
                    let mut batch = match spare.take() {
                        Some(batch) => batch,
                        None => tokio::select! {
                            biased;
                            () = &mut stopping => return Ok(()),
                            batch = io.batch() => batch,
                        },
                    };
                    let moved;
                    (reading, declared, batch, moved) = off_the_runtime(move || {
                        batch.read_time = Micros::now();
                        let moved = reading.fill(&mut declared, &mut batch);
                        (reading, declared, batch, moved)
                    })
                    .await?;
                    if batch.is_empty() && !moved {
                        spare = Some(batch);
                        continue;
                    }
                    if let Some(what) = reading.trouble.as_ref().filter(|_| reading.position.kept) {
                        kept.insert(id, (reading.position.path.clone(), what.clone()));
                    }
                    let ack = io.send(batch, &[(&id.key(), &reading.position.encode())]).await;
                    watch.read_up_to(id, reading.position.clone());
                    if reading.position.done && finishes && !reading.position.kept {
                        finished.insert(id, Finished { ack, id, path: reading.position.path.clone() });
                    }
                }
                if reading.read > 0 {
                    let is_all = reading.dead == reading.read && reading.read >= DEAD_IN_A_ROW;
                    all_dead = reading.trouble.clone().filter(|_| is_all);
                }
                if let Some(trouble) = reading.trouble {
                    if !reading.position.kept {
                        troubles.push(trouble);
                    }
                    if !reading.position.done {
                        watch.try_again(id);
                    }
                }
            }
            for id in understood.into_iter().filter(|id| counted.remove(id).is_some()).collect::<Vec<_>>() {
                forget(&io, &format!("{COUNTED}{}", id.key())).await;
            }
            for id in scan.forgotten {
                watch.forget(id);
                let key = id.key();
                tokio::select! {
                    biased;
                    () = &mut stopping => return Ok(()),
                    () = forget(&io, &key) => {}
                }
            }

            kept.retain(|_, (path, _)| path.exists());
            troubles.extend(all_dead.iter().filter(|what| !troubles.contains(what)).cloned().collect::<Vec<_>>());
            troubles.extend(kept.values().map(|(_, what)| what.clone()));
            let status = match troubles.len() {
                0 => Status::Running,
                1..=3 => Status::Degraded(troubles.join("; ")),
                count => Status::Degraded(format!("{} (and {} more)", troubles[..3].join("; "), count - 3)),
            };
            if said.as_ref() != Some(&status) {
                io.status("", status.clone());
                said = Some(status);
            }
            let next_look = tokio::time::sleep(setup.every);
            tokio::pin!(next_look);
            loop {
                let safe = async {
                    match finished.values().map(|file| file.ack).min() {
                        Some(AckId(0)) => AckId(0),
                        Some(ack) => io.durable(AckId(ack.0 - 1)).await,
                        None => std::future::pending().await,
                    }
                };
                let durable = tokio::select! {
                    biased;
                    () = &mut stopping => return Ok(()),
                    durable = safe => durable,
                    () = &mut next_look => break,
                };
                let done: Vec<_> = finished.iter().filter(|(_, file)| file.ack <= durable).map(|(id, _)| *id).collect();
                for file in done.iter().filter_map(|id| finished.remove(id)).collect::<Vec<_>>() {
                    if let Err(error) = finish(&setup, &file).await? {
                        let status = Status::Degraded(error.into());
                        io.status("", status.clone());
                        said = Some(status);
                        continue;
                    }
                    watch.forget(file.id);
                    let key = file.id.key();
                    tokio::select! {
                        biased;
                        () = &mut stopping => return Ok(()),
                        () = forget(&io, &key) => {}
                    }
                }
            }
        }
    }
}

/// Why a file is not read, and how many rows there are in it, where it cannot be understood.
struct Unread {
    why: String,
    rows: Option<u64>,
}

fn open(watch: &mut Watch, setup: Arc<Setup>, task: Task) -> Result<Option<Reading>, Unread> {
    let (path, work) = match task {
        Task::Read { id, path, is_whole, is_final } => {
            let work = watch.open(id, &path, (is_whole, is_final));
            (path, work)
        }
        Task::Rest(work) => (work.position.path.clone(), Ok(Some(work))),
        Task::Finish { .. } => return Ok(None),
    };
    let unread = |error: &NotRead, rows| Unread { why: format!("cannot read {}: {error}", path.display()), rows };
    let work = match work {
        Ok(Some(work)) => work,
        Ok(None) => return Ok(None),
        Err(error) => return Err(unread(&error.into(), None)),
    };
    let again = (work.file.try_clone(), work.is_gzip);
    Reading::open(setup.clone(), work).map_err(|error| match (&error, again) {
        (NotRead::Understood(_), (Ok(file), is_gzip)) => unread(&error, rows(&setup, &file, is_gzip).ok()),
        _ => unread(&error, None),
    })
}

/// How many rows there are in a file that cannot be understood.
fn rows(setup: &Setup, file: &File, is_gzip: bool) -> io::Result<u64> {
    let lines = rows_of(file, is_gzip, setup.encoding, setup.max_record_bytes)?;
    let has_header = setup.format == Format::Csv && setup.columns.is_none();
    Ok(lines.saturating_sub(setup.skip_lines + u64::from(has_header)))
}

/// Removes a position.
async fn forget(io: &SourceIo, key: &str) {
    let batch = io.batch().await;
    io.send(batch, &[(key, &[])]).await;
}

/// Deletes or moves a file that is safe in the log. Inner error: why it could not be.
async fn finish(setup: &Arc<Setup>, file: &Finished) -> Result<Result<(), Reason>, Failure> {
    let (setup, path) = (setup.clone(), file.path.clone());
    off_the_runtime(move || match (setup.when_done, &setup.move_to) {
        (WhenDone::Delete, _) => match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Reason::from(format!("cannot delete {}: {error}", path.display())))
            }
            _ => Ok(()),
        },
        (WhenDone::Move, Some(folder)) => {
            let to = free_name(folder, &path);
            fs::rename(&path, &to).map_err(|error| {
                let (from, to) = (path.display(), folder.display());
                format!("cannot move {from} to {to}: {error}; `move_to` is a folder of the same file system").into()
            })
        }
        _ => Ok(()),
    })
    .await
}

/// A name in the folder that nothing has: what was moved there before is not overwritten.
fn free_name(folder: &Path, path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default();
    let mut to = folder.join(name);
    let mut number = 1;
    while to.exists() {
        let mut numbered = name.to_owned();
        numbered.push(format!(".{number}"));
        to = folder.join(numbered);
        number += 1;
    }
    to
}

/// Disks wait; the runtime's threads don't.
async fn off_the_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::Reconnect(format!("reading files failed: {error}")))
}
