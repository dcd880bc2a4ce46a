//! The tags of a source as a person asks for them: what was last reported of each, and whether it can be believed.

use super::Intake;
use crate::tags::Look;
use millrace_contract::CommandValue;
use millrace_schemas::{Batch, Micros, SampleMeta, TagId, Value};
use serde::Serialize;
use serde_json::Map;
use serde_json::value::RawValue;
use std::sync::Arc;

/// One tag at one moment.
#[derive(Clone, Debug, Serialize)]
pub struct TagReport {
    /// Full path, with the site.
    pub tag: Arc<str>,
    /// `enterprise/site/name` of its source.
    pub source: Arc<str>,
    /// As the protocol has it.
    pub address: String,
    /// The Kafka topic of its samples.
    pub topic: Arc<str>,
    /// The last sample in its JSON form; `None`: nothing was read yet, or a text that is not kept.
    pub sample: Option<Box<RawValue>>,
    /// `good`, `uncertain`, `bad`; `none` before the first reading.
    pub quality: &'static str,
    /// An OPC UA status code.
    pub status: u32,
    /// Time of the last value, microseconds since 1970; 0 before the first.
    pub time: i64,
    /// When that was read and taken.
    #[serde(skip)]
    pub sent: i64,
    /// When something last vouched for it.
    pub alive: i64,
    /// Since when it can't be read; 0: it can.
    pub bad_since: i64,
    /// Nothing has vouched for it for `stale_after`.
    pub stale: bool,
    /// Whose keep-alive vouches for it: a device, a subscription; empty: only its own values do.
    pub part: Arc<str>,
}

impl Intake {
    /// The last value of a tag in engineering units, as commands have values; `None` where it is not known, not good, or not of one of their types.
    pub fn last_value(&self, tag: TagId) -> Option<CommandValue> {
        let mut batch = Batch::new();
        let row = self.core.lock().tags.look(tag, &mut batch)?.row.filter(|row| row.status.is_good())?;
        match row.value {
            Value::Bool(value) => Some(CommandValue::Bool(value)),
            Value::Int(value) => Some(CommandValue::Int(value)),
            Value::UInt(value) => Some(CommandValue::UInt(value)),
            Value::Double(value) => Some(CommandValue::Double(value)),
            Value::Text(span) => Some(CommandValue::Text(batch.text_of(span).to_owned())),
            Value::Null | Value::Bytes(_) | Value::Array(..) | Value::Struct(_) => None,
        }
    }

    /// What the catalog says of tags whose path is wanted, at most so many.
    pub fn definitions(&self, path: impl Fn(&str) -> bool, limit: usize) -> Vec<(Arc<str>, Map<String, serde_json::Value>)> {
        let core = self.core.lock();
        let wanted = core.defs.iter().enumerate().filter(|(_, def)| path(&def.path)).take(limit);
        wanted.filter_map(|(at, def)| Some((def.path.clone(), core.definition(at)?))).collect()
    }

    /// Tags whose path and state are wanted, at most so many; second, how many are wanted in all. The source waits while it looks.
    pub fn look(&self, path: impl Fn(&str) -> bool, state: impl Fn(&Look<'_>) -> bool, limit: usize) -> (Vec<TagReport>, usize) {
        let core = self.core.lock();
        let (mut found, mut total) = (Vec::new(), 0);
        let mut batch = Batch::new();
        for (index, def) in core.defs.iter().enumerate() {
            if !path(&def.path) {
                continue;
            }
            batch.clear();
            let Some(seen) = core.tags.look(TagId(index as u32), &mut batch).filter(|seen| state(seen)) else { continue };
            total += 1;
            if found.len() >= limit {
                continue;
            }
            let sample = seen.row.and_then(|row| {
                let meta = SampleMeta {
                    tag: &def.path,
                    def: def.def,
                    read_time: Micros(seen.sent),
                    device_time: None,
                    source: &self.source,
                    seq: 0,
                };
                let mut json = Vec::new();
                millrace_schemas::json::encode(&meta, &row, &batch.heap, &mut json);
                RawValue::from_string(String::from_utf8(json).ok()?).ok()
            });
            found.push(TagReport {
                tag: def.path.clone(),
                source: self.source.clone(),
                address: def.address.to_string(),
                topic: def.topic.name.clone(),
                sample,
                quality: seen.quality,
                status: seen.status.0,
                time: seen.time,
                sent: seen.sent,
                alive: seen.alive,
                bad_since: seen.bad_since,
                stale: seen.stale,
                part: seen.part.clone(),
            });
        }
        (found, total)
    }
}
