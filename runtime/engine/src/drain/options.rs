//! What the drain is made with, and how the values of a topic go out by it.

use crate::dead::kept::KeptRecords;
use crate::frame::RESERVED;
use crate::lease::seat::Seat;
use crate::registrar::{Answer, Registrar};
use crate::schema_store::SchemaStore;
use crate::source_logs::SourceLogs;
use crate::topics::Topics;
use millrace_kafka::{Settings, TopicSpec};
use millrace_log::Store;
use millrace_schemas::contract::Kind;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// What the drain is made with.
pub struct DrainOptions {
    pub settings: Settings,
    /// `Some`: exactly once, with this transactional id and commit interval; `None`: at least once.
    pub transactions: Option<(String, Duration)>,
    /// Formats and dead-letter topics.
    pub topics: Topics,
    /// Created when missing; a contradiction is reported.
    pub declared: Vec<TopicSpec>,
    pub source_logs: Vec<Arc<SourceLogs>>,
    /// Where the logs lie: asked whether its disk is full.
    pub store: Store,
    /// How long a record waits for company, unless the properties say so.
    pub linger: Duration,
    /// The schemas that records in the logs were written with.
    pub schema_store: Arc<SchemaStore>,
    /// `None`: values go out without ids.
    pub registrar: Option<Arc<Registrar>>,
    /// Where records go that are too large for the dead letters.
    pub kept: KeptRecords,
    /// This runtime's place among those that share the sources; `None`: it shares nothing.
    pub seat: Option<Arc<Seat>>,
}

/// Why a batch can't go yet.
pub(super) enum SendBlocked {
    /// The registry is asked.
    Wait,
    /// It needs a human.
    Refused(String),
}

/// How the values of one topic and schema go out.
pub(super) struct WireEncoding {
    /// Magic byte and id.
    pub(super) prefix: Option<[u8; RESERVED]>,
    /// Bytes in front of the value that only a registry's readers want: the indexes of a Protobuf message.
    pub(super) indexes: usize,
    /// Without a registry: readers find the schema by its fingerprint in a header.
    pub(super) names_schema: bool,
}

impl WireEncoding {
    pub(super) const PLAIN: Self = Self { prefix: None, indexes: 0, names_schema: false };

    /// What is sent of a value, whose reserved bytes lie in front of it.
    pub(super) fn of_value(&self, value: Range<usize>, is_reserved: bool) -> Range<usize> {
        match self.prefix {
            _ if !is_reserved => value,
            Some(_) => value.start - RESERVED..value.end,
            None => (value.start + self.indexes).min(value.end)..value.end,
        }
    }
}

impl DrainOptions {
    pub(super) fn way_of(&self, topic: &str, mark: u64) -> Result<WireEncoding, SendBlocked> {
        if mark == 0 {
            return Ok(WireEncoding::PLAIN);
        }
        if let Some(registrar) = &self.registrar {
            return match registrar.id(topic, mark) {
                Answer::Id(id) => Ok(WireEncoding { prefix: Some(id.prefix()), ..WireEncoding::PLAIN }),
                Answer::Wait => Err(SendBlocked::Wait),
                Answer::Refused(why) => Err(SendBlocked::Refused(why)),
            };
        }
        let schema = self.schema_store.get(mark);
        let names_schema = schema.as_ref().is_none_or(|schema| schema.kind != Kind::Json);
        Ok(WireEncoding { prefix: None, indexes: schema.map_or(0, |schema| schema.indexes.len()), names_schema })
    }

    /// How long a transaction stays open; `None`: there are none.
    pub(super) fn commit_every(&self) -> Option<Duration> {
        self.transactions.as_ref().map(|(_, every)| *every)
    }
}
