//! `millrace log`: the logs on disk, looked at, repaired, and moved to another machine.
//!
//! An export holds what Kafka does not have yet (or everything, with `--all`), and what is needed to go on from there:
//!
//! ```text
//! "millrace export 1\n" | log's name | cursor's note            u32 length + bytes each
//! then, for each batch: u64 first | u64 next | u32 records | u32 length | u32 crc32c of the payload | payload       little-endian
//! ```

use crate::say::{self, say};
use anyhow::{Context, Result, anyhow, bail};
use millrace_config::{Load, Problems};
use millrace_engine::engine::log_dir;
use millrace_engine::frame::{Frame, records};
use millrace_engine::source_logs::{CURSOR, CursorMetadata};
use millrace_log::{AppendError, Bound, Log, LogOptions, ReadBuf, Store, StoreOptions, offline};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Lists the logs: where they begin and end, what waits for Kafka, what was set aside.
    Ls {
        #[command(flatten)]
        at: At,
        #[arg(long)]
        json: bool,
    },
    /// Reads every batch and checks it. Exit code 1 if anything is damaged.
    Verify {
        #[command(flatten)]
        at: At,
        /// Only this log.
        name: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Cuts off torn ends, sets damaged places aside, takes back what is intact in files set aside earlier. The service must not run.
    Repair {
        #[command(flatten)]
        at: At,
        /// Only this log.
        name: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Writes what waits in a log into a file, to be imported elsewhere.
    Export {
        #[command(flatten)]
        at: At,
        /// As `ls` names it.
        name: String,
        /// The file to write.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Everything in the log, not only what Kafka does not have.
        #[arg(long)]
        all: bool,
        /// Records as lines of JSON, to be read by people and programs; can't be imported.
        #[arg(long)]
        records: bool,
        /// Says how much was written as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Appends an export to the log of the same name. The service must not run; the log must end below the export's first offset.
    Import {
        #[command(flatten)]
        at: At,
        /// The file that `export` wrote.
        file: PathBuf,
        #[arg(long)]
        json: bool,
    },
}

/// Where the data are.
#[derive(clap::Args)]
pub struct At {
    /// The factory's YAML: names the data directory.
    #[arg(short, long = "config", value_name = "FILE", required_unless_present = "data")]
    config: Vec<PathBuf>,
    /// The data directory itself.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl At {
    pub fn data_dir(&self) -> Result<PathBuf> {
        if let Some(data) = &self.data {
            return Ok(data.clone());
        }
        let mut problems = Problems::new();
        let factory = millrace_config::load(&self.config, &Load::to_check(), &mut problems);
        let factory = factory.ok_or_else(|| anyhow!("cannot load the configuration\n{}", problems.render()))?;
        Ok(factory.data_dir)
    }

    fn dir(&self) -> Result<PathBuf> {
        Ok(log_dir(&self.data_dir()?))
    }
}

const MAGIC: &[u8] = b"millrace export 1\n";
/// No field of an export is longer.
const LONGEST: u32 = 256 << 20;

pub fn log(command: Command) -> Result<ExitCode> {
    match command {
        Command::Ls { at, json } => ls(&at.dir()?, json),
        Command::Verify { at, name, json } => verify(&at.dir()?, name, json),
        Command::Repair { at, name, json } => repair(&at.dir()?, name, json),
        Command::Export { at, name, to, all, records, json } => export(&at.dir()?, &name, &to, all, records, json),
        Command::Import { at, file, json } => import(&at.dir()?, &file, json),
    }
}

fn names(dir: &Path, only: Option<String>) -> Result<Vec<String>> {
    match only {
        Some(name) => Ok(vec![name]),
        None => offline::logs(dir).with_context(|| format!("there is no log in {}", dir.display())),
    }
}

fn ls(dir: &Path, as_json: bool) -> Result<ExitCode> {
    let mut rows = Vec::new();
    for name in names(dir, None)? {
        let log = offline::list(dir, &name)?;
        let cursor = log.cursors.iter().find(|(name, ..)| name == CURSOR).map(|(_, offset, _)| *offset);
        rows.push(json!({
            "name": name, "segments": log.segments.len(), "bytes": log.bytes(), "records": log.records(), "start": log.start(), "end": log.end(),
            "cursor": cursor, "is_drained": log.records() == 0 || cursor.is_some_and(|c| c >= log.end()), "dropped": log.dropped,
            "quarantined": log.quarantined.iter().map(|p| p.display().to_string()).collect::<Vec<_>>(), "is_whole": log.is_whole(),
        }));
    }
    if as_json {
        say::json(&rows.into());
        return Ok(ExitCode::SUCCESS);
    }
    say!("{:<40} {:>8} {:>14} {:>12}  state", "log", "segments", "bytes", "records");
    for row in rows {
        let (cursor, end) = (row["cursor"].as_u64(), row["end"].as_u64().unwrap_or(0));
        let mut state = match cursor {
            _ if row["is_drained"] == true => "all in Kafka".to_owned(),
            // The cursor on the disk is saved now and then; Kafka's own may be further. Offsets have gaps between two starts.
            Some(cursor) => {
                let most = end.saturating_sub(cursor).min(row["records"].as_u64().unwrap_or(u64::MAX));
                format!("at most {most} records wait for Kafka")
            }
            None => "nothing in Kafka yet".to_owned(),
        };
        if row["dropped"] != 0 {
            state += &format!(", {} records dropped", row["dropped"]);
        }
        if row["quarantined"].as_array().is_some_and(|q| !q.is_empty()) {
            state += ", parts set aside";
        }
        if row["is_whole"] == false {
            state += ", damaged: see `millrace log verify`";
        }
        let text = |key: &str| row[key].as_str().map_or_else(|| row[key].to_string(), str::to_owned);
        say!("{:<40} {:>8} {:>14} {:>12}  {state}", text("name"), text("segments"), text("bytes"), text("records"));
    }
    Ok(ExitCode::SUCCESS)
}

fn verify(dir: &Path, only: Option<String>, as_json: bool) -> Result<ExitCode> {
    let mut is_whole = true;
    let mut rows = Vec::new();
    for name in names(dir, only)? {
        let log = offline::verify(dir, &name)?;
        let mut damages = Vec::new();
        for segment in &log.segments {
            let path = segment.path.display();
            if segment.info.is_none() {
                damages.push(format!("{path}: its header is damaged, nothing in it can be read"));
            }
            damages.extend(segment.holes.iter().map(|(at, len)| format!("{path}: {len} bytes at {at} are no batch")));
        }
        let mut batches = 0u64;
        for batch in offline::batches(dir, &name)? {
            let batch = batch?;
            if let Err(e) = Frame::read(&batch.payload) {
                damages.push(format!("offsets {}..{}: {e}", batch.first, batch.next));
            }
            batches += 1;
        }
        let log_is_whole = log.is_whole() && damages.is_empty();
        is_whole &= log_is_whole;
        if as_json {
            rows.push(json!({
                "name": name, "records": log.records(), "segments": log.segments.len(), "batches": batches, "is_whole": log_is_whole,
                "damages": damages,
            }));
            continue;
        }
        say!("{name}: {} records in {} segments, {}", log.records(), log.segments.len(), if log_is_whole { "whole" } else { "DAMAGED" });
        damages.iter().for_each(|damage| say!("  {damage}"));
        say!("  {batches} batches read");
    }
    if as_json {
        say::json(&rows.into());
    }
    Ok(if is_whole { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn repair(dir: &Path, only: Option<String>, as_json: bool) -> Result<ExitCode> {
    let mut rows = Vec::new();
    for name in names(dir, only)? {
        let done = offline::repair(dir, &name)?;
        if as_json {
            let aside = done.quarantined.iter().map(|part| json!({"path": part.path.display().to_string(), "reason": part.reason, "bytes": part.bytes, "records": part.records}));
            rows.push(json!({
                "name": name, "truncated_bytes": done.truncated_bytes, "quarantined": aside.collect::<Vec<_>>(),
                "salvaged_records": done.salvaged.records, "passed_records": done.salvaged.passed,
            }));
            continue;
        }
        if done.salvaged.batches > 0 {
            say!("{name}: {} records taken back from files set aside earlier", done.salvaged.records);
        }
        if done.salvaged.passed > 0 {
            say!(
                "{name}: {} records are intact in files set aside earlier, and Kafka has what came after them: they stay there",
                done.salvaged.passed
            );
        }
        if done.truncated_bytes == 0 && done.quarantined.is_empty() {
            if done.salvaged != Default::default() {
                continue;
            }
            say!("{name}: nothing to repair");
            continue;
        }
        say!("{name}: {} bytes of a torn end cut off", done.truncated_bytes);
        for part in &done.quarantined {
            let lost = part.records.map_or("an unknown number of".to_owned(), |n| n.to_string());
            say!("  {} set aside: {} ({lost} records)", part.path.display(), part.reason);
        }
    }
    if as_json {
        say::json(&rows.into());
    }
    Ok(ExitCode::SUCCESS)
}

fn export(dir: &Path, name: &str, to: &Path, all: bool, as_records: bool, as_json: bool) -> Result<ExitCode> {
    let listing = offline::list(dir, name)?;
    let cursor = listing.cursors.iter().find(|(name, ..)| name == CURSOR);
    let from = if all { 0 } else { cursor.map_or(0, |(_, offset, _)| *offset) };
    let mut out = BufWriter::new(File::create_new(to).with_context(|| format!("cannot create {}", to.display()))?);
    let (mut batches, mut data) = (0u64, 0u64);
    let mut is_begun = false;
    for batch in offline::batches(dir, name)? {
        let batch = batch?;
        if batch.next <= from {
            continue;
        }
        let frame = Frame::read(&batch.payload)?;
        batches += 1;
        data += frame.data_records;
        if as_records {
            write_records(&mut out, &frame, batch.first, from)?;
            continue;
        }
        if !is_begun {
            // The importing side goes on from here: what came before is not its own.
            let kept = cursor.filter(|(_, offset, _)| !all && *offset > batch.first).map(|(_, _, note)| CursorMetadata::decode(note));
            let note =
                kept.unwrap_or(CursorMetadata { lane_total: frame.lane_total, produced: frame.lane_total, ..CursorMetadata::default() });
            out.write_all(MAGIC)?;
            sized(&mut out, name.as_bytes())?;
            sized(&mut out, &note.encode())?;
            out.write_all(&from.max(batch.first).to_le_bytes())?;
            is_begun = true;
        }
        out.write_all(&batch.first.to_le_bytes())?;
        out.write_all(&batch.next.to_le_bytes())?;
        out.write_all(&batch.records.to_le_bytes())?;
        out.write_all(&(batch.payload.len() as u32).to_le_bytes())?;
        out.write_all(&crc32c::crc32c(&batch.payload).to_le_bytes())?;
        out.write_all(&batch.payload)?;
    }
    out.into_inner()?.sync_all()?;
    match as_json {
        true => say::json(&json!({"log": name, "batches": batches, "records": data, "file": to.display().to_string()})),
        false => say!("{batches} batches with {data} records of {name} written to {}", to.display()),
    }
    Ok(ExitCode::SUCCESS)
}

fn sized(out: &mut impl Write, bytes: &[u8]) -> Result<()> {
    out.write_all(&(bytes.len() as u32).to_le_bytes())?;
    Ok(out.write_all(bytes)?)
}

fn write_records(out: &mut impl Write, frame: &Frame<'_>, first: u64, from: u64) -> Result<()> {
    let mut body = Vec::new();
    frame.unpack(&mut body)?;
    for record in records(&body, &frame.topics) {
        let record = record?;
        let offset = first + record.delta;
        if offset < from {
            continue;
        }
        let (topic, schema) = frame.topics[record.topic];
        let value = record.value.map(|r| &body[r]);
        let headers: serde_json::Map<String, Value> = millrace_schemas::headers(&body[record.headers])
            .map(|(name, value)| (name.to_owned(), json!(value.map(String::from_utf8_lossy))))
            .collect();
        let line = json!({
            "offset": offset, "topic": topic, "timestamp_ms": frame.read_time.as_millis() + record.timestamp_delta_ms,
            "key": record.key.map(|r| String::from_utf8_lossy(&body[r]).into_owned()), "headers": headers,
            "value": crate::tap::readable(value, schema != 0),
        });
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn import(dir: &Path, file: &Path, as_json: bool) -> Result<ExitCode> {
    let mut input = BufReader::new(File::open(file).with_context(|| format!("cannot open {}", file.display()))?);
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic).context("the file is too short for an export")?;
    if magic != MAGIC {
        bail!("{} is no export of version 1", file.display());
    }
    let name = String::from_utf8(read_sized(&mut input)?).context("the log's name is not UTF-8")?;
    let note = read_sized(&mut input)?;
    let cursor = u64::from_le_bytes(read_array(&mut input)?);
    let store = Store::open(dir, StoreOptions::default())?;
    let (log, _) = store.log(&name, LogOptions { start: cursor, ..LogOptions::default() })?;
    let (mut batches, mut there) = (0u64, 0u64);
    loop {
        let mut first = [0; 8];
        match input.read_exact(&mut first) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => break,
            Err(e) => return Err(e.into()),
        }
        let (first, next) = (u64::from_le_bytes(first), u64::from_le_bytes(read_array(&mut input)?));
        let records = u32::from_le_bytes(read_array(&mut input)?);
        let len = u32::from_le_bytes(read_array(&mut input)?);
        let crc = u32::from_le_bytes(read_array(&mut input)?);
        let payload = read_bytes(&mut input, len)?;
        if crc32c::crc32c(&payload) != crc {
            bail!("offsets {first}..{next} are damaged in {}; {batches} batches before them were imported", file.display());
        }
        Frame::read(&payload).with_context(|| format!("offsets {first}..{next}"))?;
        if next <= log.end() && holds(&log, first, &payload)? {
            there += 1; // from an import that was broken off
            continue;
        }
        append(&log, first, next, records, &payload).with_context(|| {
            format!("cannot append offsets {first}..{next} to {name}; {batches} batches before them were imported. An export goes into a log that ends below it, or that holds the beginning of it; make room and import it again to go on")
        })?;
        batches += 1;
    }
    // Also where an import that was broken off had not come to it; never over records that Kafka may lack.
    if log.cursor(CURSOR).is_none() && log.start() >= cursor {
        log.set_cursor(CURSOR, cursor, &note);
    }
    store.close()?;
    if as_json {
        say::json(&json!({"log": name, "batches": batches, "there_already": there}));
        return Ok(ExitCode::SUCCESS);
    }
    let before = if there > 0 { format!("; {there} were there already") } else { String::new() };
    say!("{batches} batches imported into {name}{before}");
    Ok(ExitCode::SUCCESS)
}

/// Appends a batch; syncs where the memory for what is not synced is full.
fn append(log: &Log, first: u64, next: u64, records: u32, payload: &[u8]) -> Result<()> {
    match log.append(first, next, records, &[payload]) {
        Err(AppendError::Full { bound: Bound::Unsynced, .. }) => {
            log.sync()?;
            log.append(first, next, records, &[payload])?;
        }
        done => drop(done?),
    }
    Ok(())
}

/// Whether the log holds this very batch.
fn holds(log: &Log, first: u64, payload: &[u8]) -> Result<bool> {
    let mut buffer = ReadBuf::new();
    log.read(first, 1, &mut buffer)?;
    Ok(buffer.batches().any(|batch| batch.first == first && batch.payload == payload))
}

fn read_array<const N: usize>(input: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes).context("the export is cut short")?;
    Ok(bytes)
}

fn read_sized(input: &mut impl Read) -> Result<Vec<u8>> {
    let len = u32::from_le_bytes(read_array(input)?);
    read_bytes(input, len)
}

/// Reads as much as is there: a length alone allocates nothing.
fn read_bytes(input: &mut impl Read, len: u32) -> Result<Vec<u8>> {
    if len > LONGEST {
        bail!("the export claims a field of {len} bytes");
    }
    let mut bytes = Vec::new();
    input.take(u64::from(len)).read_to_end(&mut bytes)?;
    if bytes.len() != len as usize {
        bail!("the export is cut short");
    }
    Ok(bytes)
}
