//! One file being read: its header, its records into a batch, its position; and a record of a dead letter, decoded once more.

use crate::config::{Format, Setup};
use crate::content::{self, Origin};
use crate::csv::Fields;
use crate::position::Position;
use crate::records::{Cut, Cutting, Records, Shape};
use crate::samples::{Declared, Sampler};
use crate::watch::Work;
use millrace_config::Reason;
use millrace_contract::{Late, SourceIo};
use millrace_kit::Encoding;
use millrace_schemas::{Batch, Doc, Reject, RouteId, Span};
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

/// So many dead letters and nothing else are a fault of the settings, not of the records.
pub(crate) const DEAD_IN_A_ROW: u64 = 10;
/// Records and bytes of a batch, at most.
const BATCH_RECORDS: usize = 4096;
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// One file being read.
pub(crate) struct Reading {
    setup: Arc<Setup>,
    records: Records,
    /// For fingerprints.
    file: File,
    is_whole: bool,
    shape: Shape,
    /// Rows of units that are still to be passed over.
    rows_to_skip: u64,
    decoder: Decoder,
    pub position: Position,
    /// Something in it that a person should look at.
    pub trouble: Option<String>,
    /// Records that were read, and those of them that became dead letters.
    pub read: u64,
    pub dead: u64,
    pub at_end: bool,
}

impl Reading {
    /// `None`: its header is not whole yet. Errors: the file cannot be understood; it is left as it is.
    pub fn open(setup: Arc<Setup>, work: Work) -> Result<Option<Self>, NotRead> {
        let Work { file, mut position, is_whole, is_final, is_gzip, .. } = work;
        let shape = Shape::of(&file, is_gzip, setup.encoding)?;
        if let Some(wide) = shape.wide.filter(|_| setup.is_tail) {
            return Err(NotRead::Understood(format!("{} cannot be tailed; add `mode: folder`", wide.name())));
        }
        // The end of a stream of gzip is certain; any other file may yet get the rest of its last line.
        let takes_last = is_whole && (is_final || shape.is_gzip);
        if let Some(unfinished) = position.unfinished
            && file.metadata()?.size() > position.disk_size.unwrap_or(position.offset)
        {
            let mut next = [0];
            let is_ended = !shape.is_translated() && file.read_at(&mut next, position.offset)? == 1 && matches!(next[0], b'\n' | b'\r');
            if !is_ended {
                tracing::warn!(path = %position.path.display(), line = unfinished.1 + 1, "the file grew behind a last line without a newline; that line is read again");
                (position.offset, position.line) = unfinished;
            }
            position.unfinished = None;
        }
        let mut start = (position.offset, position.line);
        let records = |cutting, start| Records::open(file.try_clone()?, shape, cutting, setup.max_record_bytes, takes_last, start);
        let mut columns = setup.columns.clone().unwrap_or_default();
        let mut rows_to_skip = 0;
        let is_csv = matches!(setup.cutting, Cutting::Csv(_));
        if is_csv && (setup.skip_lines > 0 || setup.skip_rows > 0 || setup.columns.is_none()) {
            let waits = |what: String| if is_whole && takes_last { Err(NotRead::Understood(what)) } else { Ok(None) };
            let mut top = records(Cutting::Lines { newline: b'\n' }, (0, 0))?;
            for skipped in 0..setup.skip_lines {
                if top.next_record()?.is_none() {
                    return waits(format!("it has {skipped} lines, and `skip_lines` passes over {}", setup.skip_lines));
                }
            }
            let mut top = records(setup.cutting, (top.offset, top.line))?;
            if setup.columns.is_none() {
                const OPEN: &str = "its header row opens a quote and never closes it";
                let found = loop {
                    match top.next_record()? {
                        Some(Cut::Record(record)) if is_comment(&setup, record) => {}
                        Some(Cut::Record(_)) => break true,
                        Some(Cut::TooLong(_)) => return Err(NotRead::Understood("its header row is longer than `max_record`".into())),
                        Some(Cut::OpenQuote(_)) => return Err(NotRead::Understood(OPEN.into())),
                        None => break false,
                    }
                };
                if !found {
                    return waits(if top.has_rest() { OPEN } else { "it is empty: there is no header row" }.into());
                }
                columns = header(&top.fields, shape.encoding).map_err(|why| NotRead::Understood(why.into()))?;
            }
            if start.0 <= top.offset {
                start = (top.offset, top.line);
                rows_to_skip = setup.skip_rows;
            }
        }
        let records = records(setup.cutting, start)?;
        let sampler = setup.samples.as_ref().map(|samples| Sampler::new(samples, &columns, &position.path));
        let sampler = sampler.transpose().map_err(|why| NotRead::Understood(why.into()))?;
        let trouble = sampler.as_ref().and_then(|sampler| sampler.trouble.clone());
        let decoder = Decoder::new(setup.clone(), shape.encoding, columns, sampler);
        Ok(Some(Self { setup, records, file, is_whole, shape, rows_to_skip, decoder, position, trouble, read: 0, dead: 0, at_end: false }))
    }

    /// Fills the batch with what comes next. Returns whether the position moved.
    pub fn fill(&mut self, declared: &mut Declared, batch: &mut Batch) -> bool {
        while batch.len() < BATCH_RECORDS && batch.heap.len() < BATCH_BYTES {
            let (offset, line) = (self.records.offset, self.records.line + 1);
            let (mut reject, mut is_partly) = (None, false);
            match self.records.next_record() {
                Ok(None) => {
                    self.at_end = true;
                    break;
                }

                Ok(Some(Cut::Record(record))) => {
                    if record.is_empty() || is_comment(&self.setup, record) {
                        continue;
                    }
                    if self.rows_to_skip > 0 {
                        self.rows_to_skip -= 1;
                        continue;
                    }
                    let payload = batch.push_bytes(record);
                    let rows = batch.rows.len();
                    let done = self.decoder.push(payload, &self.records.fields, &self.position.path, declared, batch);
                    self.note_trouble();
                    if let Err(reason) = done {
                        is_partly = batch.rows.len() > rows;
                        reject = Some((payload, reason));
                    }
                }
                Ok(Some(Cut::TooLong(shown))) => {
                    let payload = batch.push_bytes(shown);
                    let reason = format!("longer than {} bytes, these are its first; raise `max_record`", self.setup.max_record_bytes);
                    reject = Some((payload, reason.into()));
                }
                Ok(Some(Cut::OpenQuote(record))) => {
                    let payload = batch.push_bytes(record);
                    reject = Some((payload, "a quote is opened and never closed".into()));
                }
                Err(error) => {
                    self.at_end = true;
                    let what = format!("cannot read {} beyond line {}: {error}", self.position.path.display(), self.records.line);
                    // Compressed files arrive in pieces: an end too soon is none while the file may grow.
                    if self.is_whole || error.kind() != io::ErrorKind::UnexpectedEof {
                        if self.shape.is_gzip && self.is_whole {
                            let payload = batch.push_bytes(b"");
                            reject = Some((payload, format!("{what}; what follows is lost, fetch the file again").into()));
                        }
                        self.trouble = Some(what);
                    }
                }
            }
            self.read += 1;
            if let Some((payload, reason)) = reject {
                self.dead += 1;
                if self.dead == self.read && self.dead >= DEAD_IN_A_ROW && self.trouble.is_none() {
                    let path = self.position.path.display();
                    self.trouble = Some(format!("every record of {path} so far, {}, became a dead letter: {reason}", self.dead));
                }
                self.reject(line, payload, &reason, is_partly, batch);
            }
            if self.at_end {
                break;
            }
            if self.records.is_unfinished {
                self.position.unfinished = Some((offset, line - 1));
            }
        }
        self.moved()
    }

    /// Takes the position of what is read. Returns whether it is another.
    fn moved(&mut self) -> bool {
        let done = self.at_end && self.is_whole && !self.setup.is_tail && !self.records.has_rest();
        if self.records.offset == self.position.offset && done == self.position.done {
            return false;
        }
        self.position.offset = self.records.offset;
        self.position.line = self.records.line;
        self.position.done = done;
        self.position.kept = self.decoder.sampler.as_ref().is_some_and(Sampler::lacks_columns);
        if let Ok(metadata) = self.file.metadata() {
            self.position.changed = metadata.mtime();
            let read = if self.shape.is_translated() { metadata.size() } else { self.records.offset };
            self.position.disk_size = self.shape.is_translated().then_some(metadata.size());
            if let Err(error) = self.position.fingerprint(&self.file, read) {
                self.trouble = Some(format!("cannot read {} again: {error}", self.position.path.display()));
            }
        }
        true
    }

    /// Takes over what a person should look at in the samples.
    fn note_trouble(&mut self) {
        let what = self.decoder.sampler.as_ref().and_then(|sampler| sampler.trouble.as_ref());
        let Some(what) = what.filter(|_| self.trouble.is_none()) else { return };
        let path = self.position.path.display();
        let what = if what.starts_with(&*path.to_string()) { what.clone() } else { format!("{path}, line {}: {what}", self.records.line) };
        tracing::warn!(path = %path, "look at this file: {what}");
        self.trouble = Some(what);
    }

    fn reject(&self, line: u64, payload: Span, reason: &str, is_partly: bool, batch: &mut Batch) {
        let path = self.position.path.to_string_lossy();
        let number = line.to_string();
        // With them a row means the same when it is decoded again.
        let columns = serde_json::to_vec(&self.decoder.columns).ok().filter(|_| self.setup.format == Format::Csv);
        let columns = columns.as_ref().map(|columns| (COLUMNS, Some(&columns[..])));
        let partly = is_partly.then_some((Late::PARTLY, Some(&b"true"[..])));
        let headers = [(FILE, Some(path.as_bytes())), ("millrace.line", Some(number.as_bytes()))];
        let headers = batch.push_headers(headers.into_iter().chain(columns).chain(partly));
        let reason = format!("cannot read line {line} of {path}: {reason}");
        batch.rejects.push(Reject { route: RouteId(0), key: Span::EMPTY, headers, payload, reason });
    }
}

/// Headers of a dead letter: its file, and the columns of its row as a list in JSON.
const FILE: &str = "millrace.file";
const COLUMNS: &str = "millrace.columns";

/// Decodes the record of a dead letter once more. `None`: it is none of a file. Errors: why it still can't be decoded.
pub(crate) fn decode_again(setup: &Arc<Setup>, late: &Late<'_>, io: &SourceIo, batch: &mut Batch) -> Option<Result<(), Reason>> {
    let path = Path::new(late.header(FILE)?);
    let columns = late.header(COLUMNS).and_then(|columns| serde_json::from_str::<Vec<String>>(columns).ok());
    let decode = || {
        let mut fields = Fields::default();
        if let Cutting::Csv(dialect) = setup.cutting {
            dialect.split(late.payload, true, &mut fields);
        }
        let columns = setup.columns.clone().or(columns).unwrap_or_default();
        if setup.format == Format::Csv && columns.is_empty() {
            return Err("the columns of its file are not known any more".into());
        }
        let sampler = setup.samples.as_ref().map(|samples| Sampler::new(samples, &columns, path)).transpose()?;
        let mut declared = Declared::new(io, setup.samples.as_deref()).map_err(|failure| failure.to_string())?;
        // Two bytes a character were read as UTF-8.
        let encoding = if setup.encoding.is_wide() { Encoding::default() } else { setup.encoding };
        let payload = batch.push_bytes(late.payload);
        Decoder::new(setup.clone(), encoding, columns, sampler).push(payload, &fields, path, &mut declared, batch)
    };
    Some(decode())
}

/// A record into a batch.
struct Decoder {
    setup: Arc<Setup>,
    encoding: Encoding,
    columns: Vec<String>,
    sampler: Option<Sampler>,
    /// A record's fields as text, used again.
    readable: Fields,
    /// A record as text, used again.
    record: Vec<u8>,
}

impl Decoder {
    fn new(setup: Arc<Setup>, encoding: Encoding, columns: Vec<String>, sampler: Option<Sampler>) -> Self {
        Self { setup, encoding, columns, sampler, readable: Fields::default(), record: Vec::new() }
    }

    /// One record into the batch. `payload` is the record as it came; of CSV, `fields` are its fields.
    fn push(&mut self, payload: Span, fields: &Fields, path: &Path, declared: &mut Declared, batch: &mut Batch) -> Result<(), Reason> {
        let (setup, encoding) = (&self.setup, self.encoding);
        if setup.format == Format::Csv {
            if fields.is_blank() || self.setup.columns.is_none() && is_header(fields, &self.columns) {
                return Ok(());
            }
            if self.sampler.is_some() || setup.trim {
                // Of a historian's row that is short nobody knows where it was cut.
                let may_lack = setup.samples.as_ref().is_some_and(|samples| !samples.is_history);
                content::check_width(&self.columns, fields, may_lack || setup.types.may_be_short)?;
                content::readable(fields, encoding, &mut self.readable)?;
            }
        }
        if let Some(sampler) = &mut self.sampler {
            return if setup.format == Format::Csv {
                sampler.row(&self.readable, path, declared, batch)
            } else {
                self.record.clear();
                self.record.extend_from_slice(encoding.decode(batch.bytes_of(payload))?.trim().as_bytes());
                if self.record.is_empty() { Ok(()) } else { sampler.json(&self.record, declared, batch) }
            };
        }
        match setup.format {
            Format::Envelope => {
                let line = batch.bytes_of(payload).to_vec();
                content::push_envelope(&line, setup.takes_topic.as_ref(), batch)
            }
            Format::Ndjson | Format::Json => {
                let text = encoding.decode(batch.bytes_of(payload))?;
                let trimmed = text.trim();
                if trimmed.is_empty() {
                    return Ok(());
                }
                content::check_json(trimmed)?;
                let json = if let std::borrow::Cow::Borrowed(_) = text {
                    let skipped = (text.len() - text.trim_start().len()) as u32;
                    Span { start: payload.start + skipped, len: trimmed.len() as u32 }
                } else {
                    let decoded = trimmed.to_owned();
                    batch.push_bytes(decoded.as_bytes())
                };
                self.push_document(json, path, batch)
            }
            Format::Csv => {
                let start = batch.heap.len();
                if setup.trim {
                    let trimmed = &mut Fields::default();
                    let rewritten: Result<(), std::convert::Infallible> = self.readable.rewritten(trimmed, |field, out| {
                        out.extend_from_slice(field.trim_ascii());
                        Ok(())
                    });
                    let Ok(()) = rewritten;
                    content::write_object(&self.columns, trimmed, Encoding::default(), setup.types, &mut batch.heap)?;
                } else {
                    content::write_object(&self.columns, fields, encoding, setup.types, &mut batch.heap)?;
                }
                let json = batch.span_from(start);
                self.push_document(json, path, batch)
            }
        }
    }

    fn push_document(&self, json: Span, path: &Path, batch: &mut Batch) -> Result<(), Reason> {
        let key = match &self.setup.key {
            None => Span::EMPTY,
            Some(template) => {
                let mut key = Vec::new();
                content::write_key(template, batch.bytes_of(json), &Origin { path }, &mut key)?;
                batch.push_bytes(&key)
            }
        };
        let time = batch.read_time;
        batch.docs.push(Doc { route: RouteId(0), time, key, headers: Span::EMPTY, payload: Some(json), topic: Span::EMPTY });
        Ok(())
    }
}

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotRead {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{0}")]
    Understood(String),
}

fn is_comment(setup: &Setup, record: &[u8]) -> bool {
    setup.comment.as_ref().is_some_and(|comment| record.trim_ascii_start().starts_with(comment))
}

/// The header row again, as a logger writes it at each start.
fn is_header(fields: &Fields, columns: &[String]) -> bool {
    columns.len() > 1
        && fields.len() == columns.len()
        && fields.iter().zip(columns).all(|(field, column)| field.trim_ascii() == column.as_bytes())
}

/// The names of the columns: an empty one is called after its number, one that is there already `NAME_2`.
fn header(fields: &Fields, encoding: Encoding) -> Result<Vec<String>, Reason> {
    let mut names: Vec<String> = Vec::with_capacity(fields.len());
    for (index, field) in fields.iter().enumerate() {
        let name = encoding.field(field).map_err(|error| format!("its header row: {error}"))?;
        let name = match name.trim() {
            "" => format!("column_{}", index + 1),
            name => name.to_owned(),
        };
        let mut unique = name.clone();
        let mut number = 2;
        while names.contains(&unique) {
            unique = format!("{name}_{number}");
            number += 1;
        }
        names.push(unique);
    }
    Ok(names)
}
