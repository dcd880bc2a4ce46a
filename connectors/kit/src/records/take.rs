//! One record into a batch.

use super::{Document, Item, Making, Readings as ReadingList, Samples, Shape, Variable};
use crate::extract::{Extracted, FirstTypes, Found, Item as Reading, Missing, Name, Readings, Taken};
use crate::template::{Template, push_level};
use crate::topics::check_name;
use millrace_config::Reason;
use millrace_contract::{SourceIo, TagDef, name_weight};
use millrace_schemas::{Batch, Doc, Flags, Micros, Origin, Reject, Row, Span, StatusCode, TagId, TimeSource, Value};
use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A key of more bytes is no key.
const KEY_BYTES: usize = 64 * 1024;
/// What is wrong with single values is said at most this often.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// What is known of the records taken so far: tags by their paths, types that first values settled.
pub struct Records {
    tags: HashMap<Box<str>, TagId>,
    types: FirstTypes,
    max_tags: usize,
    /// How many tags were declared; one with long names counts for several.
    declared: usize,
    origin: Origin,
    extracted: Extracted,
    readings: Readings,
    at: Vec<u8>,
    path: Vec<u8>,
    said: Option<Instant>,
    unsaid: u64,
}

/// A record beside its bytes.
#[derive(Clone, Copy)]
struct Around<'a> {
    making: &'a Making,
    given: &'a [&'a str],
    headers: Span,
    io: &'a SourceIo,
    is_own: bool,
}

impl Records {
    pub fn new(origin: Origin, max_tags: usize) -> Self {
        Self {
            tags: HashMap::new(),
            types: FirstTypes::default(),
            max_tags,
            declared: 0,
            origin,
            extracted: Extracted::default(),
            readings: Readings::default(),
            at: Vec::new(),
            path: Vec::new(),
            said: None,
            unsaid: 0,
        }
    }

    /// Takes one record. `given`: what the connector knows beside it, as compiled; `headers`: encoded in the batch's heap.
    ///
    /// Shape: a document is one record; of samples and readings a bad reading in a list becomes a reject of its own.
    /// Errors: the whole record does not fit, with the reason; the batch is as it was, but for what is unused in its heap.
    pub fn take(
        &mut self,
        making: &Making,
        payload: &[u8],
        given: &[&str],
        headers: Span,
        batch: &mut Batch,
        io: &SourceIo,
    ) -> Result<(), Reason> {
        let around = Around { making, given, headers, io, is_own: false };
        self.taken(&around, payload, batch)
    }

    /// As [`take`](Self::take), of JSON that the connector itself wrote: it is not read where nothing is looked for in it.
    pub fn take_own(&mut self, making: &Making, payload: &[u8], headers: Span, batch: &mut Batch, io: &SourceIo) -> Result<(), Reason> {
        let around = Around { making, given: &[], headers, io, is_own: true };
        self.taken(&around, payload, batch)
    }

    fn taken(&mut self, around: &Around<'_>, payload: &[u8], batch: &mut Batch) -> Result<(), Reason> {
        let (rows, rejects) = (batch.rows.len(), batch.rejects.len());
        let done = match &around.making.shape {
            Shape::Document(document) => self.document(around, document, payload, batch),
            Shape::Samples(samples) => self.samples(around, samples, payload, batch),
            Shape::Readings(list) => self.readings(around, list, payload, batch),
        };
        if done.is_err() {
            batch.rows.truncate(rows);
            batch.rejects.truncate(rejects);
        }
        done
    }

    fn document(&mut self, around: &Around<'_>, document: &Document, payload: &[u8], batch: &mut Batch) -> Result<(), Reason> {
        match around.is_own && document.extraction.wants_nothing() {
            true => document.extraction.read_nothing(&mut self.extracted),
            false => document.extraction.read(payload, batch, &mut self.extracted)?,
        }
        let key = &mut self.path;
        key.clear();
        if let Some(template) = &document.key {
            let mut found = self.extracted.iter();
            template.fill(key, |variable, out| match variable {
                Variable::Given(n) => {
                    out.extend_from_slice(around.given[*n].as_bytes());
                    Ok(())
                }
                Variable::Name(Name::Key) => Ok(()),
                Variable::Name(Name::Pointer(pointer)) => match found.next().map(|found| found.value) {
                    Some(value) if push_scalar(value, &batch.heap, out) => Ok(()),
                    Some(Value::Null) | None => Err(Reason::new(format!("the key's {pointer} is not in the record"))),
                    Some(_) => Err(format!("the key's {pointer} is not one value").into()),
                },
            })?;
        }
        if key.len() > KEY_BYTES {
            return Err(format!("the key has {} bytes, more than {KEY_BYTES}", key.len()).into());
        }
        let key = batch.push_bytes(key);
        let topic = match around.making.topic.constant() {
            Some(_) => Span::EMPTY,
            None => {
                let topic = kafka_topic(&around.making.topic, around)?;
                batch.push_bytes(topic.as_bytes())
            }
        };
        let time = self.extracted.time.map_or(batch.read_time, |stamp| stamp.time);
        let payload = batch.push_bytes(payload.trim_ascii());
        batch.docs.push(Doc { route: around.making.route, time, key, headers: around.headers, payload: Some(payload), topic });
        Ok(())
    }

    fn samples(&mut self, around: &Around<'_>, samples: &Samples, payload: &[u8], batch: &mut Batch) -> Result<(), Reason> {
        let mut extracted = std::mem::take(&mut self.extracted);
        let done = samples.extraction.read(payload, batch, &mut extracted).and_then(|()| {
            fill_path(&samples.at, around, None, &mut self.at);
            let mut unfit = None;
            for found in extracted.iter().filter(|found| !(found.is_missing() && samples.missing == Missing::Skip)) {
                if let Err(reason) = self.value(around, &samples.items[found.sample], found, &extracted, batch) {
                    unfit.get_or_insert(reason);
                }
            }
            unfit.map_or(Ok(()), Err)
        });
        if let Some(note) = &extracted.note {
            self.complain(around.making, note);
        }
        self.extracted = std::mem::take(&mut extracted);
        done
    }

    fn readings(&mut self, around: &Around<'_>, list: &ReadingList, payload: &[u8], batch: &mut Batch) -> Result<(), Reason> {
        let mut readings = std::mem::take(&mut self.readings);
        let alone = list.each.is_alone();
        let mut refused = None;
        let mut take = |taken: Taken<'_>, batch: &mut Batch| {
            let (text, reason) = match taken {
                Ok(item) => match self.reading(around, list, &item, batch) {
                    Ok(()) => return,
                    Err(reason) => (payload, reason),
                },
                Err((text, reason)) => (text.as_bytes(), format!("a reading cannot be read: {reason}").into()),
            };
            if alone {
                refused = Some(reason);
            } else {
                reject(around.making, text, around.headers, reason.into(), batch);
            }
        };
        let done = list.each.read(payload, batch, &mut readings, &mut take);
        self.readings = readings;
        done.and_then(|()| refused.map_or(Ok(()), Err))
    }

    fn reading(&mut self, around: &Around<'_>, list: &ReadingList, item: &Reading<'_>, batch: &mut Batch) -> Result<(), Reason> {
        fill_path(&list.path, around, Some(item), &mut self.at);
        if let Some(note) = &item.extracted.note {
            self.complain(around.making, note);
        }
        let mut unfit = None;
        for found in item.values().filter(|found| !(found.is_missing() && list.missing == Missing::Skip)) {
            if let Err(reason) = self.value(around, &list.items[found.sample], found, item.extracted, batch) {
                unfit.get_or_insert(reason);
            }
        }
        unfit.map_or(Ok(()), Err)
    }

    /// Appends one value; its tag stands below `self.at`.
    fn value(
        &mut self,
        around: &Around<'_>,
        item: &Item,
        found: Found<'_>,
        extracted: &Extracted,
        batch: &mut Batch,
    ) -> Result<(), Reason> {
        let mut path = std::mem::take(&mut self.path);
        path.clear();
        path.extend_from_slice(&self.at);
        for level in [&*item.name, found.leaf].into_iter().filter(|level| !level.is_empty()) {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(level.as_bytes());
        }
        let tag = match std::str::from_utf8(&path) {
            Err(_) => Err("the tag path is not UTF-8".into()),
            Ok(text) => match self.tags.get(text) {
                Some(tag) => Ok(*tag),
                None => self.declare(around, text.to_owned(), item),
            },
        };
        self.path = path;
        let tag = tag?;
        if let Some(why) = found.why {
            self.complain(around.making, why);
        }
        let (mut value, mut status) = (found.value, found.status);
        if item.declared.is_none()
            && let Err(why) = self.types.hold(tag, value)
        {
            self.complain(around.making, &format!("{}: {why}", item.place));
            status = StatusCode::BAD_TYPE_MISMATCH;
            if let Value::Text(_) = value {
                value = Value::Null;
            }
        }
        let (time, time_source) = match extracted.time {
            Some(stamp) => (stamp.time, TimeSource::Device),
            None => (batch.read_time, TimeSource::Gateway),
        };
        batch.rows.push(Row { time, server_time: Micros::NONE, value, tag, status, flags: Flags::new(self.origin, time_source) });
        Ok(())
    }

    fn declare(&mut self, around: &Around<'_>, path: String, item: &Item) -> Result<TagId, Reason> {
        if self.declared >= self.max_tags {
            return Err(format!("{} tags are discovered, and {path} would be another; raise `max_tags`", self.max_tags).into());
        }
        if path.is_empty() || path.split('/').any(str::is_empty) {
            return Err(format!("the tag path `{path}` has an empty level; change `at` or `tag` of {}", around.making.what).into());
        }
        let topic = kafka_topic(&item.topic, around)?;
        let address = format!("{}#{}", around.making.what, item.place);
        let weight = name_weight(path.len() + address.len());
        let def =
            TagDef { path: path.clone(), address, kind: None, topic: topic.into(), part: Arc::from(""), options: item.options.clone() };
        let tag = around.io.declare(def).map_err(|clash| format!("{clash}; change `at` or `tag` of {}", around.making.what))?;
        self.declared += weight;
        self.tags.insert(path.into(), tag);
        Ok(tag)
    }

    /// Says what is wrong with a single value: it is in its topic, but not good.
    fn complain(&mut self, making: &Making, why: &str) {
        if self.said.is_some_and(|said| said.elapsed() < SAY_EVERY) {
            self.unsaid += 1;
            return;
        }
        tracing::warn!(of = &*making.what, not_said = self.unsaid, "a value is not good: {why}");
        (self.said, self.unsaid) = (Some(Instant::now()), 0);
    }
}

/// A record that does not fit, as a dead letter with its bytes.
pub fn reject(making: &Making, payload: &[u8], headers: Span, reason: String, batch: &mut Batch) {
    let payload = batch.push_bytes(payload);
    let reason = format!("{reason} ({})", making.what);
    batch.rejects.push(Reject { route: making.route, key: Span::EMPTY, headers, payload, reason });
}

/// Appends the text of a value that is one; false where it is none.
fn push_scalar(value: Value, heap: &[u8], out: &mut Vec<u8>) -> bool {
    // Writing to memory can't fail.
    match value {
        Value::Text(span) => out.extend_from_slice(span.of(heap)),
        Value::Int(int) => _ = write!(out, "{int}"),
        Value::UInt(uint) => _ = write!(out, "{uint}"),
        Value::Double(double) => _ = write!(out, "{double}"),
        Value::Bool(flag) => _ = write!(out, "{flag}"),
        Value::Null | Value::Bytes(_) | Value::Array(..) | Value::Struct(_) => return false,
    }
    true
}

/// A tag's path; each variable is one level.
fn fill_path(template: &Template<Variable>, around: &Around<'_>, item: Option<&Reading<'_>>, out: &mut Vec<u8>) {
    out.clear();
    let _ = template.fill(out, |variable, out| {
        match variable {
            Variable::Given(n) => push_level(out, around.given[*n].as_bytes()),
            Variable::Name(name) => push_level(out, item.map_or("", |item| item.name(name)).as_bytes()),
        }
        Ok::<_, std::convert::Infallible>(())
    });
}

/// The name of the Kafka topic: a `/` in what is filled in becomes `.`.
fn kafka_topic(template: &Template<Variable>, around: &Around<'_>) -> Result<String, Reason> {
    let mut out = Vec::new();
    let _ = template.fill(&mut out, |variable, out| {
        if let Variable::Given(n) = variable {
            out.extend(around.given[*n].bytes().map(|byte| if byte == b'/' { b'.' } else { byte }));
        }
        Ok::<_, std::convert::Infallible>(())
    });
    let name = String::from_utf8(out).unwrap_or_default();
    check_name(&name)?;
    if template.constant().is_none() {
        around.making.allowed.check(&name)?;
    }
    Ok(name)
}

/// What a record is known by where it may come again: FNV-1a of 128 bits, the same in every build.
pub fn content_hash(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_hash_is_what_it_was_in_the_last_build() {
        // draft-eastlake-fnv, the test vectors of 128 bits.
        assert_eq!(content_hash(b""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(content_hash(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }
}
