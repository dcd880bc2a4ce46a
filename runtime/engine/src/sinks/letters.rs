//! Records that the sink refused: dead letters, before their offsets are committed.

use crate::dead;
use crate::sinks::decode::push;
use crate::sinks::session::{PATIENCE, Session, failure};
use millrace_contract::{Failure, Record, Records, Refused};
use millrace_kafka::{Consumer, TopicPartition};
use millrace_schemas::Span;
use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

impl<'r> Session<'r> {
    /// Sends a record to the dead letters of its topic; it is there before anything past it is committed.
    pub(super) fn letter(&mut self, record: &Record, reason: &str) -> Result<(), Failure> {
        let part = self.records.partition(record);
        let of = |span: Option<Span>| span.map(|s| self.records.of(s));
        let options = &self.runner.options;
        let letter = dead::Letter {
            topic: &part.topic,
            partition: part.partition,
            offset: record.offset,
            connector: &options.connector,
            reason,
            key: of(record.key),
            // As it lies in Kafka.
            value: of(record.value.map(|v| Span { start: v.start - u32::from(record.prefix), len: v.len + u32::from(record.prefix) })),
            headers: self.records.of(record.headers),
        };
        self.letters.send(&(options.dead_letter)(&part.topic), &letter).map_err(|e| failure("cannot write a dead letter", &e))?;
        self.letters_open = true;
        self.runner.shared.dead.fetch_add(1, Relaxed);
        Ok(())
    }

    /// A record that was refused after it had left memory: read again from Kafka.
    pub(super) fn late_letter(&mut self, refused: &Refused) -> Result<(), Failure> {
        let part = TopicPartition::new(refused.partition.topic.clone(), refused.partition.partition);
        let mut found = Records::default();
        let reader = Consumer::reader(&self.runner.options.settings, true).map_err(|e| failure("cannot read a refused record", &e))?;
        let ends = HashMap::from([(part.clone(), refused.offset + 1)]);
        let outcome =
            reader.read_to(&[(part.clone(), refused.offset)], &ends, PATIENCE, |message| push(&mut found, &message, &self.runner.options));
        outcome.map_err(|e| failure("cannot read a refused record", &e))?;
        let Some(record) = found.records.first().copied() else {
            tracing::error!(sink = self.runner.options.name, partition = %part, offset = refused.offset, "a refused record is not in Kafka any more: {}", refused.reason);
            return Ok(());
        };
        let kept = std::mem::replace(&mut self.records, found);
        let outcome = self.letter(&record, &refused.reason);
        self.records = kept;
        outcome
    }

    pub(super) fn flush_letters(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.letters_open) {
            self.letters.flush(PATIENCE).map_err(|e| failure("cannot write dead letters", &e))?;
        }
        Ok(())
    }
}
