//! One document per event: when the triggering tag has its edge, the group's tags are read once.
//!
//! The document goes into the batch of the notification that triggered it, so that both are durable or neither: after a crash the notification
//! comes again, and with it the document. It is acknowledged to the device once it is synced.

use crate::config::Edge;
use crate::events;
use crate::job::{How, Job};
use crate::session::{Refused, Session, value_of};
use crate::shard::Shared;
use millrace_schemas::{Batch, Doc, Micros, RouteId, Span, StatusCode, TagId, Value, json};
use opcua::types::ReadValueId;
use std::io::Write as _;

/// A triggered group, in one session.
#[derive(Debug)]
struct Watch {
    group: usize,
    tag: TagId,
    edge: Edge,
    /// `None`: no value came yet.
    last: Option<Last>,
    /// The items to read, each with its index in the job's tags, and the one that acknowledges.
    handles: Vec<(usize, usize)>,
    ack: Option<usize>,
}

/// A value without the batch it came in.
#[derive(Clone, PartialEq, Debug)]
struct Last {
    is_on: bool,
    value: Value,
    /// Of a text, an array, a structure.
    bytes: Box<[u8]>,
}

impl Last {
    fn of(value: Value, batch: &Batch) -> Self {
        let (own, span) = match value {
            Value::Text(span) => (Value::Text(Span::EMPTY), span),
            Value::Bytes(span) => (Value::Bytes(Span::EMPTY), span),
            Value::Array(kind, span) => (Value::Array(kind, Span::EMPTY), span),
            Value::Struct(span) => (Value::Struct(Span::EMPTY), span),
            scalar => (scalar, Span::EMPTY),
        };
        Self { is_on: is_on(value), value: own, bytes: batch.bytes_of(span).into() }
    }
}

/// Where the triggers stood before a message.
#[derive(Debug)]
pub struct Mark {
    lasts: Vec<Option<Last>>,
    acknowledges: usize,
}

/// An event: which group, and when.
#[derive(Clone, Copy, Debug)]
pub struct Fired {
    watch: usize,
    time: Micros,
}

#[derive(Debug, Default)]
pub struct Triggers {
    watches: Vec<Watch>,
    /// The subscription goes on from an earlier process: the first value is a change.
    pub goes_on: bool,
    acknowledges: Vec<usize>,
}

impl Triggers {
    pub fn add(&mut self, group: usize, tag: TagId, edge: Edge, handles: Vec<(usize, usize)>, ack: Option<usize>) {
        self.watches.push(Watch { group, tag, edge, last: None, handles, ack });
    }

    pub fn is_empty(&self) -> bool {
        self.watches.is_empty()
    }

    pub fn mark(&self) -> Mark {
        Mark { lasts: self.watches.iter().map(|watch| watch.last.clone()).collect(), acknowledges: self.acknowledges.len() }
    }

    /// A message was not read to its end: it comes again, and its edges with it.
    pub fn undo(&mut self, mark: Mark) {
        for (watch, last) in self.watches.iter_mut().zip(mark.lasts) {
            watch.last = last;
        }
        self.acknowledges.truncate(mark.acknowledges);
    }

    /// The events in a batch's rows from `first` on.
    pub fn fired(&mut self, batch: &Batch, first: usize) -> Vec<Fired> {
        let mut fired = Vec::new();
        if self.watches.is_empty() {
            return fired;
        }
        for row in &batch.rows[first..] {
            for (index, watch) in self.watches.iter_mut().enumerate() {
                if watch.tag != row.tag || row.status.is_bad() {
                    continue;
                }
                let now = Last::of(row.value, batch);
                let fires = match (watch.edge, &watch.last) {
                    (_, None) if !self.goes_on => false,
                    (Edge::Rising, before) => now.is_on && !before.as_ref().is_some_and(|before| before.is_on),
                    (Edge::Falling, before) => !now.is_on && before.as_ref().is_none_or(|before| before.is_on),
                    (Edge::Change, before) => before.as_ref() != Some(&now),
                };
                watch.last = Some(now);
                if fires {
                    fired.push(Fired { watch: index, time: row.time });
                }
            }
        }
        fired
    }

    /// Reads the groups and adds their documents to the batch. The readings must not be locked.
    pub async fn read(&mut self, session: &Session, shared: &Shared, fired: Vec<Fired>, batch: &mut Batch) -> Result<(), Refused> {
        for event in fired {
            let watch = &self.watches[event.watch];
            let job: &Job = &shared.job;
            let How::Trigger(trigger) = &job.groups[watch.group].how else { continue };
            let wanted: Vec<(usize, usize)> = watch.handles.iter().copied().filter(|(handle, _)| Some(*handle) != watch.ack).collect();
            let handles: Vec<usize> = wanted.iter().map(|(handle, _)| *handle).collect();
            let nodes = shared.resolve(session, &handles).await?;
            let mut asked = Vec::with_capacity(nodes.len());
            for ((_, index), node) in wanted.iter().zip(&nodes) {
                if let Ok(node) = node {
                    asked.push(ReadValueId { index_range: job.tags[*index].range.clone(), ..value_of(node.clone()) });
                }
            }
            let values = session.read(&asked).await?;
            let mut readings = shared.readings.lock().await;
            for encoding in values.iter().filter_map(|value| readings.unknown_encoding(value)).collect::<Vec<_>>() {
                readings.types.learn_encoding(session, &encoding).await?;
            }
            let mut values = values.into_iter();
            let start = batch.heap.len();
            let mut spans = Vec::with_capacity(wanted.len());
            let mut bad = Vec::new();
            batch.heap.push(b'{');
            for ((_, index), node) in wanted.iter().zip(&nodes) {
                let name = &job.tags[*index].name;
                if !spans.is_empty() {
                    batch.heap.push(b',');
                }
                json::quoted(name, &mut batch.heap);
                batch.heap.push(b':');
                let at = batch.heap.len();
                let status = match node {
                    Err(status) => *status,
                    Ok(_) => match values.next() {
                        None => StatusCode::BAD_NO_DATA,
                        Some(value) => {
                            let status = StatusCode(value.status().bits());
                            if status.is_bad() || readings.json(&value, &mut batch.heap) { status } else { StatusCode::BAD_NO_DATA }
                        }
                    },
                };
                if batch.heap.len() == at {
                    batch.heap.extend_from_slice(b"null");
                }
                if !status.is_good() {
                    bad.push((name, status));
                }
                spans.push((*index, batch.span_from(at)));
            }
            if !bad.is_empty() {
                batch.heap.extend_from_slice(b",\"_status\":{");
                for (index, (name, status)) in bad.iter().enumerate() {
                    if index > 0 {
                        batch.heap.push(b',');
                    }
                    json::quoted(name, &mut batch.heap);
                    let _ = write!(batch.heap, ":{}", status.0);
                }
                batch.heap.push(b'}');
            }
            batch.heap.push(b'}');
            let payload = batch.span_from(start);
            let key = match &trigger.key {
                None => Span::EMPTY,
                Some(template) => {
                    let of = |name: &str| spans.iter().find(|(index, _)| *job.tags[*index].name == *name).map(|(_, span)| *span);
                    events::key(template, of, batch)
                }
            };
            let time = if event.time.is_none() { batch.read_time } else { event.time };
            batch.docs.push(Doc {
                route: RouteId(trigger.route as u32),
                time,
                key,
                headers: Span::EMPTY,
                payload: Some(payload),
                topic: Span::EMPTY,
            });
            self.acknowledges.extend(watch.ack);
        }
        Ok(())
    }

    /// The handles to set once the batch is synced.
    pub fn acknowledges(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.acknowledges)
    }
}

fn is_on(value: Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => value,
        Value::Int(value) => value != 0,
        Value::UInt(value) => value != 0,
        Value::Double(value) => value != 0.0,
        Value::Text(span) | Value::Bytes(span) | Value::Array(_, span) | Value::Struct(span) => span.len > 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_schemas::{Flags, Row};

    fn fired(edge: Edge, goes_on: bool, values: &[i64]) -> usize {
        let mut triggers = Triggers { goes_on, ..Triggers::default() };
        triggers.add(0, TagId(3), edge, Vec::new(), None);
        let row = |value: &i64| Row {
            time: Micros(1),
            server_time: Micros::NONE,
            value: Value::Int(*value),
            tag: TagId(3),
            status: StatusCode::GOOD,
            flags: Flags::default(),
        };
        let mut batch = Batch::new();
        batch.rows.extend(values.iter().map(row));
        triggers.fired(&batch, 0).len()
    }

    #[test]
    fn the_first_value_is_no_edge_unless_the_subscription_goes_on() {
        assert_eq!(fired(Edge::Rising, false, &[1, 0, 1, 1, 0, 2]), 2);
        assert_eq!(fired(Edge::Rising, true, &[1, 0, 1]), 2);
        assert_eq!(fired(Edge::Falling, false, &[1, 0, 1, 0]), 2);
        assert_eq!(fired(Edge::Change, false, &[1, 1, 2, 1]), 2);
    }

    fn texts(batch: &mut Batch, texts: &[&str]) {
        for text in texts {
            let value = Value::Text(batch.push_bytes(text.as_bytes()));
            batch.rows.push(Row {
                time: Micros(1),
                server_time: Micros::NONE,
                value,
                tag: TagId(3),
                status: StatusCode::GOOD,
                flags: Flags::default(),
            });
        }
    }

    #[test]
    fn texts_are_compared_by_what_they_say_in_whatever_batch_they_came() {
        let mut triggers = Triggers::default();
        triggers.add(0, TagId(3), Edge::Change, Vec::new(), None);
        let mut fired = Vec::new();
        for text in ["FA-1", "FA-2", "FA-2", "FA-3"] {
            let mut batch = Batch::new();
            texts(&mut batch, &[text]);
            fired.push(triggers.fired(&batch, 0).len());
        }
        assert_eq!(fired, [0, 1, 0, 1]);
    }

    #[test]
    fn an_edge_of_a_message_that_comes_again_is_an_edge_again() {
        let mut triggers = Triggers::default();
        triggers.add(0, TagId(3), Edge::Change, Vec::new(), None);
        let mut batch = Batch::new();
        texts(&mut batch, &["a"]);
        triggers.fired(&batch, 0);
        for _ in 0..2 {
            let mark = triggers.mark();
            let mut batch = Batch::new();
            texts(&mut batch, &["b"]);
            assert_eq!(triggers.fired(&batch, 0).len(), 1);
            triggers.undo(mark);
        }
    }
}
