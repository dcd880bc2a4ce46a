//! A payload as a device sent it, decoded once more by its source: what `dead replay` sends where samples belong.
//!
//! ```text
//! letter ─ millrace.source, millrace.route ─> the source of that name, its route ─ decode_again ─> rows ─ scale, range ─> samples
//!                                                                                              └─> a document
//! ```
//!
//! The factory's file on the disk says how: a route that was corrected decodes what it could not before. The samples have the origin `replay`, the
//! time of the letter as `read_time`, and an identity of their own that is the same in every replay of the letter: the source's name with the
//! dead-letter topic behind it, and
//!
//! ```text
//! seq   partition: 8 bits | offset: 33 bits | number of the sample: 12 bits
//! ```

use super::DeadLetter;
use crate::catalog;
use crate::compile::{CompiledFactory, SourceSpec};
use crate::intake::{ClockWindow, believe, encode};
use crate::sample_key::{KeyChoice, Of};
use crate::tags::Rules;
use crate::topics::{Topic, Topics};
use async_trait::async_trait;
use millrace_config::Reason;
use millrace_contract::{AckId, Clash, Command, Late, Loss, SourceHost, SourceIo, Status, TagDef};
use millrace_schemas::{Batch, Micros, Origin, RouteId, SampleMeta, TagId};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// The sources of a factory, asked to decode once more what they could not.
pub struct Sources {
    site: String,
    sources: Vec<SourceSpec>,
    clock: ClockWindow,
}

/// What a letter became.
pub enum Decoded {
    /// For each sample its topic and a letter with its key and its value in that topic's format, without a registry's prefix.
    Samples(Vec<(Arc<Topic>, DeadLetter)>),
    /// Key and payload of a document.
    Document(Option<Vec<u8>>, Vec<u8>),
}

/// The bits of an offset and of a number among the samples of one letter.
const OFFSET: u32 = 33;
const NUMBER: u32 = 12;

impl Sources {
    pub fn of(factory: &mut CompiledFactory) -> Self {
        Self { site: factory.site.clone(), sources: std::mem::take(&mut factory.sources), clock: factory.clock }
    }

    /// Decodes a letter's payload. `None`: it came in no way that a source can go once more. Errors: why it still can't be decoded.
    pub fn decode(&self, letter: &DeadLetter, topics: &Topics) -> Option<Result<Decoded, Reason>> {
        let payload = letter.value.as_deref()?;
        let name = letter.header("millrace.source")?;
        let source = self.sources.iter().find(|source| name == format!("{}/{}", self.site, source.name))?;
        let route = letter.header("millrace.route")?;
        let route = source.compiled.model().routes.iter().position(|known| known.name == route)?;
        let late = Late { route: RouteId(route as u32), payload, headers: &letter.headers };
        let declared = Arc::new(Declared::default());
        let mut batch = Batch::new();
        batch.read_time = Micros(letter.timestamp_ms.saturating_mul(1000));
        let done = source.compiled.decode_again(&late, &SourceIo::new(declared.clone()), &mut batch)?;
        Some(done.and_then(|()| {
            if late.header(Late::PARTLY).is_some() {
                return Err("some of its values went their way and would come twice: send the others again from the device".into());
            }
            if let Some(reject) = batch.rejects.first() {
                return Err(format!("still can't be decoded: {}", reject.reason).into());
            }
            match &batch.docs[..] {
                [] => self.samples(letter, &name, &declared.tags.lock(), &batch, topics).map(Decoded::Samples),
                [document] if batch.rows.is_empty() => {
                    let key = (document.key.len > 0).then(|| batch.bytes_of(document.key).to_vec());
                    Ok(Decoded::Document(key, document.payload.map_or_else(Vec::new, |payload| batch.bytes_of(payload).to_vec())))
                }
                _ => Err("holds several documents: send them again one by one".into()),
            }
        }))
    }

    fn samples(
        &self,
        letter: &DeadLetter,
        source: &str,
        tags: &[TagDef],
        batch: &Batch,
        topics: &Topics,
    ) -> Result<Vec<(Arc<Topic>, DeadLetter)>, Reason> {
        let source = format!("{source}/{}", letter.topic);
        let mut samples = Vec::new();
        for row in &batch.rows {
            let Some(def) = tags.get(row.tag.0 as usize) else { continue };
            let path: Arc<str> = format!("{}/{}", self.site, def.path).into();
            let rules = Rules::new(def.options.clone(), false);
            if rules.bits {
                return Err(format!("tag {path} has named bits, which are not replayed").into());
            }
            let mut row = *row;
            row.flags.origin = Origin::Backfill;
            let device_time = believe(&mut row, batch.read_time, &self.clock);
            rules.apply(&mut row).map_err(|why| format!("tag {path}: {why}"))?;
            row.flags.origin = Origin::Replay;
            let topic = topics.get(def.options.topic.as_deref().unwrap_or(&def.topic));
            if topic.shape.is_some() {
                return Err(format!("topic {} holds wide records, into which a sample of the past does not go", topic.name).into());
            }
            let seq = identity(letter, samples.len())?;
            let def = catalog::def_of(&path, def, topics.levels());
            let meta = SampleMeta { tag: &path, def, read_time: batch.read_time, device_time, source: &source, seq };
            let mut value = Vec::new();
            encode(topic.format, &meta, &row, &batch.heap, &mut value);
            let key = match topic.key.choose(Of::Tag(&path), &source, &mut Vec::new()) {
                KeyChoice::Tag => Some(path.as_bytes().to_vec()),
                KeyChoice::None => None,
                KeyChoice::Bytes(bytes) => Some(bytes.to_vec()),
            };
            let (timestamp_ms, _) = topic.timestamp(row.time, batch.read_time);
            let sample = DeadLetter { key, value: Some(value), headers: Vec::new(), timestamp_ms, ..letter.clone() };
            samples.push((topic, sample));
        }
        if samples.is_empty() { Err("holds no value".into()) } else { Ok(samples) }
    }
}

/// The number of a sample among all that this dead-letter topic ever gave.
fn identity(letter: &DeadLetter, number: usize) -> Result<i64, Reason> {
    let (partition, offset) = (i64::from(letter.partition), letter.offset);
    if partition >> 8 != 0 || offset >> OFFSET != 0 || number >> NUMBER != 0 {
        return Err(format!("has more than {} samples, or lies beyond partition 255 or offset {}", 1 << NUMBER, 1_i64 << OFFSET).into());
    }
    Ok(partition << (OFFSET + NUMBER) | offset << NUMBER | number as i64)
}

/// Takes declarations, and nothing else.
#[derive(Default)]
struct Declared {
    tags: Mutex<Vec<TagDef>>,
    by_path: Mutex<HashMap<String, TagId>>,
}

#[async_trait]
impl SourceHost for Declared {
    fn resume(&self, _: &str) -> Option<Vec<u8>> {
        None
    }

    fn positions(&self, _: &str) -> Vec<(String, Vec<u8>)> {
        Vec::new()
    }

    fn declare(&self, tag: TagDef) -> Result<TagId, Clash> {
        let mut tags = self.tags.lock();
        let id = *self.by_path.lock().entry(tag.path.clone()).or_insert(TagId(tags.len() as u32));
        match tags.get(id.0 as usize) {
            Some(known) if known.address != tag.address => return Err(Clash::Taken { path: tag.path, by: known.address.clone() }),
            Some(_) => {}
            None => tags.push(tag),
        }
        Ok(id)
    }

    fn retire(&self, _: TagId) {}

    async fn batch(&self) -> Batch {
        Batch::new()
    }

    async fn send(&self, _: Batch, _: &[(&str, &[u8])]) -> AckId {
        AckId(0)
    }

    async fn durable(&self, after: AckId) -> AckId {
        after
    }

    async fn command(&self) -> Command {
        std::future::pending().await
    }

    fn lost(&self, _: Loss, _: u64) {}

    fn alive(&self, _: &str) {}

    fn gone(&self, _: &str) {}

    fn status(&self, _: &str, _: Status) {}

    async fn stopping(&self) {
        std::future::pending().await
    }

    fn is_stopping(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_letters_have_identities_that_never_meet() {
        let letter = |partition, offset| DeadLetter {
            topic: "t.dead".into(),
            partition,
            offset,
            timestamp_ms: 0,
            key: None,
            value: None,
            headers: Vec::new(),
        };
        let all = [(0, 0, 0), (0, 0, 1), (0, 0, 4095), (0, 1, 0), (1, 0, 0), (255, (1 << 33) - 1, 4095)]
            .map(|(partition, offset, number)| identity(&letter(partition, offset), number).unwrap());
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
        assert!(all[5] < 1 << 53);
        assert!(
            identity(&letter(0, 0), 4096).is_err() && identity(&letter(256, 0), 0).is_err() && identity(&letter(0, 1 << 33), 0).is_err()
        );
    }
}
