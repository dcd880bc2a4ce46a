//! One entity of a page: a document, a tombstone, a dead letter, or one that was seen already.

use crate::literal;
use crate::metadata::Version;
use crate::reading::{Mode, Reading};
use crate::set::LeftFilter;
use crate::values::{self, Entity, Removed};
use crate::watermark::{Ordinal, fingerprint};
use millrace_config::Reason;
use millrace_contract::{Loss, SourceIo};
use millrace_schemas::record::{Doc, Reject};
use millrace_schemas::{Batch, Micros, Span};
use serde_json::Value;

impl Reading {
    /// One entity: a document, a tombstone, a dead letter, or one that was seen already.
    #[allow(clippy::too_many_arguments, reason = "one row, with all that is known around it")]
    pub(crate) fn row(
        &mut self,
        text: &str,
        mode: Mode,
        is_deleted: bool,
        high: &mut Option<Ordinal>,
        now: i64,
        batch: &mut Batch,
        io: &SourceIo,
    ) {
        if mode == Mode::Delta && (is_deleted || text.contains("$deletedEntity")) {
            return self.deleted_entry(text, batch, io);
        }
        let start = batch.heap.len();
        let entity = match values::entity(text, &self.record, self.version, &self.wanted, &mut batch.heap) {
            Ok(entity) => entity,
            Err(wrong) => {
                batch.heap.truncate(start);
                self.keep_key_of(text, batch);
                return self.reject(text, format!("{} {wrong}", self.set.name), batch);
            }
        };
        let payload = batch.span_from(start);
        if let Some(removed) = entity.removed {
            batch.heap.truncate(start);
            return self.removed(removed, text, &entity.id(), batch, io);
        }
        let key = match self.key(&entity, batch) {
            Ok(key) => key,
            Err(why) => {
                batch.heap.truncate(start);
                self.has_no_key();
                return self.reject(text, why.into(), batch);
            }
        };
        let is_tombstone = self.change_mode.is_some() && entity.wanted.last().is_some_and(|mode| &batch.heap[mode.clone()] == b"\"D\"");
        let mut time = batch.read_time;
        if let Some(watermark) = &self.watermark {
            let slot = &entity.wanted[self.key_names.len()];
            if let Some(at) = watermark.ordinal(&batch.heap[slot.clone()]) {
                let etag = entity.etag();
                let print = fingerprint(batch.bytes_of(key), if etag.is_empty() { text.as_bytes() } else { etag.as_bytes() });
                if !self.seen.insert(print, at) && mode != Mode::Delta {
                    // It is not sent again, but a load has met it.
                    if mode == Mode::Load {
                        self.keep(key, !is_tombstone, batch);
                    }
                    batch.heap.truncate(start);
                    return;
                }
                self.seen_moved = true;
                *high = watermark.raised(*high, at, now);
                if let Some(at) = watermark.time(at) {
                    time = Micros(at);
                }
            }
        }
        self.keep(key, !is_tombstone, batch);
        batch.docs.push(Doc {
            route: self.route,
            time,
            key,
            headers: Span::EMPTY,
            payload: (!is_tombstone).then_some(payload),
            topic: Span::EMPTY,
        });
    }

    /// The key of a row is known from now on, or not any more.
    fn keep(&mut self, key: Span, is_there: bool, batch: &Batch) {
        if let Some(changes) = &mut self.changes {
            let key = batch.bytes_of(key);
            if is_there { changes.there(key) } else { changes.gone(key) }
        }
    }

    /// The key of an entity that may be no document. `None`: it cannot be read.
    pub(crate) fn key_of(&self, text: &str, batch: &mut Batch) -> Option<Span> {
        let entity = values::entity(text, &self.key_record, self.version, &self.key_wanted, &mut batch.heap).ok()?;
        self.key(&entity, batch).ok()
    }

    /// An entity that is no document is there all the same.
    fn keep_key_of(&mut self, text: &str, batch: &mut Batch) {
        if self.changes.is_none() {
            return;
        }
        let start = batch.heap.len();
        match self.key_of(text, batch) {
            Some(key) => self.keep(key, true, batch),
            None => self.has_no_key(),
        }
        batch.heap.truncate(start);
    }

    /// There is an entity whose key cannot be read.
    fn has_no_key(&mut self) {
        if let Some(load) = &mut self.position.load {
            load.is_blind = true;
        }
    }

    fn reject(&self, text: &str, reason: String, batch: &mut Batch) {
        let payload = batch.push_bytes(text.as_bytes());
        batch.rejects.push(Reject { route: self.route, key: Span::EMPTY, headers: Span::EMPTY, payload, reason });
    }

    /// The record's key out of the wanted fields.
    fn key(&self, entity: &Entity<'_>, batch: &mut Batch) -> Result<Span, Reason> {
        // One property, and nothing to resolve in it: as nearly always.
        if let (None, [only]) = (&self.set.key, &entity.wanted[..self.key_names.len()])
            && let [b'"', inner @ .., b'"'] = &batch.heap[only.clone()]
            && !inner.contains(&b'\\')
        {
            let start = batch.heap.len();
            batch.heap.extend_from_within(only.start + 1..only.end - 1);
            return Ok(batch.span_from(start));
        }
        let value = |slot: usize, out: &mut Vec<u8>, heap: &[u8]| -> Result<(), Reason> {
            let json = &heap[entity.wanted[slot].clone()];
            match json {
                b"" | b"null" => Err(format!("{}: property {} of the key is missing", self.set.name, self.key_names[slot]).into()),
                [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => {
                    out.extend_from_slice(inner);
                    Ok(())
                }
                [b'"', ..] => {
                    out.extend_from_slice(serde_json::from_slice::<String>(json).unwrap_or_default().as_bytes());
                    Ok(())
                }
                _ => {
                    out.extend_from_slice(json);
                    Ok(())
                }
            }
        };
        let mut key = Vec::with_capacity(64);
        match &self.set.key {
            Some(template) => {
                let mut slot = 0;
                template.render(&mut key, |_, out| {
                    slot += 1;
                    value(slot - 1, out, &batch.heap)
                })?;
            }
            None => {
                for slot in 0..self.key_names.len() {
                    if slot > 0 {
                        key.push(b'/');
                    }
                    value(slot, &mut key, &batch.heap)?;
                }
            }
        }
        Ok(batch.push_bytes(&key))
    }

    /// V4 before 4.01: `{"@odata.context": "..$deletedEntity", "id": "Orders(5)", "reason": "deleted"}`.
    fn deleted_entry(&mut self, text: &str, batch: &mut Batch, io: &SourceIo) {
        let value: Value = serde_json::from_str(text).unwrap_or_default();
        let named = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let removed = if named("reason") == "changed" { Removed::LeftFilter } else { Removed::Deleted };
        self.removed(removed, text, named("id"), batch, io);
    }

    fn removed(&mut self, removed: Removed, text: &str, id: &str, batch: &mut Batch, io: &SourceIo) {
        let is_told = removed == Removed::Deleted || self.set.left_filter == LeftFilter::Tombstone;
        if !is_told {
            io.lost(Loss::Other("left_filter"), 1);
        }
        // The entity's own properties, else its id.
        let start = batch.heap.len();
        let given = values::entity(text, &self.record, self.version, &self.wanted, &mut batch.heap).ok();
        let is_given = given.as_ref().is_some_and(|given| given.wanted[..self.key_names.len()].iter().all(|slot| !slot.is_empty()));
        let key = match given.filter(|_| is_given) {
            Some(given) => Ok(self.key(&given, batch)),
            None => {
                batch.heap.truncate(start);
                let key = literal::key_of_id(id, &self.record).map(|key| key.to_string());
                let entity =
                    key.as_ref().and_then(|key| values::entity(key, &self.record, Version::V4, &self.wanted, &mut batch.heap).ok());
                entity.map(|entity| self.key(&entity, batch)).ok_or_else(|| format!("{}: a deletion does not say of what", self.set.name))
            }
        };
        let key = key.and_then(|key| key.map_err(String::from));
        match key {
            Ok(key) => {
                self.keep(key, false, batch);
                if is_told {
                    let (time, topic, headers) = (batch.read_time, Span::EMPTY, Span::EMPTY);
                    batch.docs.push(Doc { route: self.route, time, key, headers, payload: None, topic });
                }
            }
            Err(why) if is_told => self.reject(text, why, batch),
            Err(_) => {}
        }
    }
}
