//! From notifications and read values to rows: a client handle is an index into the items, from its subscription's first on; each item knows its tag.
//!
//! Invariants: no look-up and no allocation per scalar; a value whose structure nobody knows yet is not guessed at: the message waits until the
//! server was asked.

use crate::edge::{Edge, Within};
use crate::types::{self, Types};
use crate::wire::{Reader, Stamped, Structure, Undecodable, builtin};
use millrace_config::Reason;
use millrace_contract::{SourceIo, Structure as Wanted, TagDef};
use millrace_kit::Leaves;
use millrace_kit::leaves::leaf_of;
use millrace_schemas::{Batch, Flags, Micros, Origin, Row, StatusCode, TagId, TimeSource, Value, json};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

/// Client handles of events begin here; those below are items.
pub const FIRST_EVENT: u32 = 0x8000_0000;

/// What a server calls an item of a subscription whose first is `base`.
pub fn client_handle(handle: usize, base: usize) -> u32 {
    (handle as u32).wrapping_sub(base as u32) & (FIRST_EVENT - 1)
}

/// The item that a server calls so.
pub fn handle_of(client_handle: u32, base: usize) -> usize {
    (client_handle.wrapping_add(base as u32) & (FIRST_EVENT - 1)) as usize
}

/// One value that is read: a tag of the YAML, or found by browsing.
#[derive(Debug)]
pub struct Item {
    pub def: TagDef,
    /// The group it is of.
    pub group: usize,
    /// The index among the tags of the YAML; none of what was found by browsing.
    pub index: Option<usize>,
    /// Samples of a structure's leaves.
    leaves: Leaves,
}

/// What a message had in it, besides rows.
#[derive(Debug, Default)]
pub struct Tally {
    /// Values after which the server's queue had overflowed.
    pub overflows: u64,
    /// How many values the queues dropped besides those, as far as source times and sampling intervals tell.
    pub dropped: u64,
    /// Values of handles that nobody gave.
    pub strangers: u64,
    /// Encodings the server has to be asked about before this message can be read.
    pub unknown: Vec<Vec<u8>>,
}

/// The items of one session, by their handles.
#[derive(Debug, Default)]
pub struct Readings {
    /// What a row needs, side by side: this is all that a scalar touches.
    tags: Vec<TagId>,
    /// The last source time of each item; for the seams between live values and history. Negative while it is that of an earlier process.
    last: Vec<i64>,
    /// The first source time after the item's last gap; while none came, where the gap begins, negative.
    seams: Vec<i64>,
    /// How many values came with the last time of each item, and how many with its seam: the clock of a device may stand for many values.
    at_last: Vec<u32>,
    at_seam: Vec<u32>,
    /// How often the server looks at each item.
    sampling: Vec<Duration>,
    /// Items that were read once, since their subscription goes on and says nothing of what does not change.
    read_once: BTreeSet<usize>,
    /// Items whose last value says that there is no such node.
    absent: BTreeSet<usize>,
    items: Vec<Item>,
}

/// Overflow, in the info bits of a data value.
const OVERFLOW: u32 = 0x0480;

impl Readings {
    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub fn item(&self, handle: usize) -> &Item {
        &self.items[handle]
    }

    pub fn tag(&self, handle: usize) -> TagId {
        self.tags[handle]
    }

    pub fn absent(&self) -> impl Iterator<Item = usize> {
        self.absent.iter().copied()
    }

    /// The item's last source time, also that of an earlier process; none came yet: 0.
    pub fn watermark(&self, handle: usize) -> Micros {
        Micros(self.last[handle].max(self.last[handle].saturating_neg()))
    }

    /// These rows are dropped and may come again, or not: what came of their items ends before them.
    #[cold]
    pub fn unread(&mut self, rows: &[Row]) {
        let mut firsts: HashMap<TagId, i64> = HashMap::new();
        for row in rows.iter().filter(|row| !row.time.is_none()) {
            let first = firsts.entry(row.tag).or_insert(row.time.0);
            *first = row.time.0.min(*first);
        }
        for (handle, item) in self.items.iter().enumerate() {
            let first = std::iter::once(&self.tags[handle]).copied().chain(item.leaves.tags()).filter_map(|tag| firsts.get(&tag)).min();
            if let Some(first) = first.filter(|first| self.last[handle] >= **first) {
                self.last[handle] = 1 - first;
            }
        }
    }

    /// An earlier process read the item up to here.
    pub fn was_read(&mut self, handle: usize, until: Micros) {
        if self.last[handle] <= 0 {
            self.last[handle] = -until.0.max(0);
        }
    }

    /// The first source time after the item's last gap; `None`: none came yet.
    pub fn seam(&self, handle: usize) -> Option<Edge> {
        let seam = Edge { time: Micros(self.seams[handle]), count: self.at_seam[handle].max(1) };
        (seam.time.0 > 0).then_some(seam)
    }

    /// A gap begins after the last value, or after `otherwise` where none came; the next value with a later time ends it.
    pub fn begin_gap(&mut self, handle: usize, otherwise: Micros) -> Edge {
        // What a new subscription says first is what came last.
        let count = std::mem::take(&mut self.at_last[handle]).max(1);
        let from = if self.last[handle] == 0 { Edge { time: otherwise, count: 0 } } else { Edge { time: self.watermark(handle), count } };
        self.seams[handle] = -from.time.0;
        from
    }

    /// A gap of an earlier process, which knew where it ends, or did not: then the next value with a later time ends it.
    pub fn resume_gap(&mut self, handle: usize, from: Micros, until: Micros) {
        self.seams[handle] = if until > from { until.0 } else { -from.0 };
    }

    pub fn by_path(&self, path: &str) -> Option<usize> {
        self.items.iter().position(|item| item.def.path == path)
    }

    /// The handle of a tag of the YAML, by its index.
    pub fn by_index(&self, index: usize) -> Option<usize> {
        self.items.iter().position(|item| item.index == Some(index))
    }

    pub fn handle_of(&self, tag: TagId) -> Option<usize> {
        self.tags.iter().position(|known| *known == tag)
    }

    /// Adds an item; its handle is the next one.
    pub fn add(&mut self, tag: TagId, def: TagDef, group: usize, index: Option<usize>, sampling: Duration) -> usize {
        self.tags.push(tag);
        self.sampling.push(sampling.max(Duration::from_millis(10)));
        self.last.push(0);
        self.seams.push(0);
        self.at_last.push(0);
        self.at_seam.push(0);
        self.items.push(Item { def, group, index, leaves: Leaves::default() });
        self.items.len() - 1
    }

    pub fn set_tag(&mut self, handle: usize, tag: TagId) {
        self.tags[handle] = tag;
    }

    /// Nothing came of it yet, or nothing with a source time.
    pub fn is_unseen(&self, handle: usize) -> bool {
        self.last[handle] <= 0 && !self.read_once.contains(&handle)
    }

    /// What waits at the server may be older than what was read: it moves no edge of a gap.
    pub fn was_read_once(&mut self, handles: &[usize]) {
        self.read_once.extend(handles);
    }

    /// Whether nothing came of the item since its gap began, so that it is not known where it ends.
    pub fn is_silent(&self, handle: usize) -> bool {
        self.seams[handle] < 0 && self.at_last[handle] == 0
    }

    /// The definition changed: its type became known.
    pub fn redefine(&mut self, handle: usize, def: TagDef) {
        self.items[handle].def = def;
    }

    /// Reads a DataChangeNotification of a subscription whose handles count from `base`. With unknown encodings in the tally, the batch is as before: ask the server, then read again.
    pub fn data_change(&mut self, body: &[u8], base: usize, types: &Types, batch: &mut Batch, io: &SourceIo) -> Result<Tally, Undecodable> {
        let (rows, heap) = (batch.rows.len(), batch.heap.len());
        let mut tally = Tally::default();
        let mut reader = Reader::new(body);
        let read = (|| {
            for _ in 0..reader.length(5)?.unwrap_or(0) {
                let client_handle = reader.u32()?;
                let handle = handle_of(client_handle, base);
                let stamped = reader.data_value(batch, body)?;
                if client_handle >= FIRST_EVENT || handle >= self.tags.len() {
                    // Some servers send the attribute that events are asked of as a value.
                    tally.strangers += u64::from(client_handle < FIRST_EVENT);
                    continue;
                }
                self.take(handle, stamped, body, Origin::Change, types, batch, io, &mut tally);
            }
            Ok(())
        })();
        if !tally.unknown.is_empty() {
            self.unread(&batch.rows[rows..]);
            batch.rows.truncate(rows);
            batch.heap.truncate(heap);
        }
        read.map(|()| tally)
    }

    /// Reads a HistoryData: past values of one item, and moves the edge where the gap begins behind what it has. As [`Self::data_change`].
    ///
    /// The last value before the gap and the first behind it came by themselves. Of values that have the same time as one of them, as many are left
    /// out as came: the first of the answer that `is_first`, or of one that begins anew; the last of the one that `is_last`.
    pub fn history(
        &mut self,
        handle: usize,
        (body, is_first, is_last): (&[u8], bool, bool),
        (from, until): (&mut Edge, Edge),
        types: &Types,
        batch: &mut Batch,
        io: &SourceIo,
    ) -> Result<Tally, Undecodable> {
        let (rows, heap) = (batch.rows.len(), batch.heap.len());
        let mut tally = Tally::default();
        let mut reader = Reader::new(body);
        let mut within = Within::new(*from, until, is_first);
        // Where the rows of those values begin that have the time at the end.
        let mut at_end = Vec::new();
        for _ in 0..reader.length(1)?.unwrap_or(0) {
            let stamped = reader.data_value(batch, body)?;
            if !within.takes(stamped.source) {
                continue;
            }
            if stamped.source == until.time {
                at_end.push(batch.rows.len());
            }
            self.take(handle, stamped, body, Origin::Backfill, types, batch, io, &mut tally);
        }
        if !tally.unknown.is_empty() {
            batch.rows.truncate(rows);
            batch.heap.truncate(heap);
            return Ok(tally);
        }
        if is_last && let Some(first) = at_end.get(at_end.len().saturating_sub(until.count as usize)) {
            batch.rows.truncate(*first);
        }
        *from = within.edge();
        Ok(tally)
    }

    /// A value that came as an answer, not as a notification, with its time. It counts as read once it [was sent](Self::was_sent).
    pub fn answer(
        &mut self,
        handle: usize,
        bytes: &[u8],
        origin: Origin,
        types: &Types,
        batch: &mut Batch,
        io: &SourceIo,
    ) -> (Tally, Micros) {
        let mut tally = Tally::default();
        let (rows, heap) = (batch.rows.len(), batch.heap.len());
        let stamped = Reader::new(bytes).data_value(batch, bytes).unwrap_or(Stamped {
            value: Value::Null,
            status: StatusCode::BAD_DECODING_ERROR,
            source: Micros::NONE,
            server: Micros::NONE,
            structure: None,
        });
        let time = if stamped.source.is_none() { stamped.server } else { stamped.source };
        self.take(handle, stamped, bytes, origin, types, batch, io, &mut tally);
        if !tally.unknown.is_empty() {
            batch.rows.truncate(rows);
            batch.heap.truncate(heap);
        }
        (tally, time)
    }

    /// A tag that can't be read: no value, the status why.
    pub fn bad(&mut self, handle: usize, status: StatusCode, batch: &mut Batch) {
        let time = batch.read_time;
        let stamped = Stamped { value: Value::Null, status, source: Micros::NONE, server: Micros::NONE, structure: None };
        self.push(handle, Row { time, ..row(self.tags[handle], stamped, Origin::Poll) }, batch);
    }

    #[inline]
    #[allow(clippy::too_many_arguments)]
    fn take(
        &mut self,
        handle: usize,
        mut stamped: Stamped,
        message: &[u8],
        origin: Origin,
        types: &Types,
        batch: &mut Batch,
        io: &SourceIo,
        tally: &mut Tally,
    ) {
        if stamped.status.0 & OVERFLOW == OVERFLOW {
            tally.overflows += 1;
            tally.dropped += self.dropped_before(handle, stamped.source);
            // Counted; of the value it says nothing. The limit bits need the type of the info bits, too.
            let bits = if stamped.status.0 & 0x0300 == 0 { OVERFLOW } else { 0x0080 };
            stamped.status = StatusCode(stamped.status.0 & !bits);
        }
        if stamped.status == StatusCode::BAD_NODE_ID_UNKNOWN {
            self.absent.insert(handle);
        } else if !self.absent.is_empty() {
            self.absent.remove(&handle);
        }
        if origin == Origin::Change {
            self.read_to(handle, if stamped.source.is_none() { stamped.server } else { stamped.source });
        }
        match stamped.structure {
            None => self.push(handle, row(self.tags[handle], stamped, origin), batch),
            Some(structure) => self.structure(handle, stamped, structure, message, origin, types, batch, io, tally),
        }
    }

    /// How many values lie between an item's last one and this one at the pace it is sampled, without the one that the overflow itself stands for.
    #[cold]
    fn dropped_before(&self, handle: usize, time: Micros) -> u64 {
        let last = self.watermark(handle);
        if last.is_none() || time <= last {
            return 0;
        }
        let sampled = (time.0 - last.0) as u128 / self.sampling[handle].as_micros().max(1);
        u64::try_from(sampled.saturating_sub(2)).unwrap_or(0)
    }

    /// A scalar's row; where a structure was expanded before, one without a value for each leaf.
    #[inline]
    fn push(&mut self, handle: usize, row: Row, batch: &mut Batch) {
        if row.value == Value::Null && !self.items[handle].leaves.is_empty() {
            batch.rows.extend(self.items[handle].leaves.tags().map(|tag| Row { tag, ..row }));
            return;
        }
        batch.rows.push(row);
    }

    #[cold]
    #[allow(clippy::too_many_arguments)]
    fn structure(
        &mut self,
        handle: usize,
        stamped: Stamped,
        structure: Structure,
        message: &[u8],
        origin: Origin,
        types: &Types,
        batch: &mut Batch,
        io: &SourceIo,
        tally: &mut Tally,
    ) {
        let (id, body) = (&message[structure.id.0..structure.id.1], &message[structure.body.0..structure.body.1]);
        let row = row(self.tags[handle], stamped, origin);
        let layout = match types.encoding(id) {
            Some(layout) => layout,
            None => {
                if !tally.unknown.iter().any(|known| known == id) {
                    tally.unknown.push(id.to_vec());
                }
                return;
            }
        };
        let bad = |row: Row| Row {
            status: if row.status.is_bad() { row.status } else { StatusCode::BAD_DECODING_ERROR },
            value: Value::Null,
            ..row
        };
        let Some(layout) = layout else {
            // The server does not say what is in it: its bytes, as they are.
            let value = Value::Bytes(batch.push_bytes(body));
            batch.rows.push(Row { value, ..row });
            return;
        };
        let item = &mut self.items[handle];
        if item.def.options.structure == Some(Wanted::Json) {
            let start = batch.heap.len();
            let read = types.json(layout, body, &mut batch.heap);
            let row = match read {
                Ok(has_replaced) => {
                    let status = if has_replaced { uncertain(row.status) } else { row.status };
                    Row { value: Value::Struct(batch.span_from(start)), status, ..row }
                }
                Err(_) => {
                    batch.heap.truncate(start);
                    bad(row)
                }
            };
            batch.rows.push(row);
            return;
        }
        let mut grow = Grow { item, io, row, rows: Vec::new() };
        let (start, read) = (batch.heap.len(), types.expand(layout, body, batch, &mut grow));
        let rows = grow.rows;
        match read {
            Ok(()) => batch.rows.extend(rows),
            Err(_) => {
                batch.heap.truncate(start);
                self.push(handle, bad(row), batch);
            }
        }
    }

    /// Answers went to the log: their items were read up to there. Not before, or somebody might write down that they were.
    pub fn was_sent(&mut self, read: &[(usize, Micros)]) {
        for (handle, time) in read {
            self.read_to(*handle, *time);
        }
    }

    #[inline]
    fn read_to(&mut self, handle: usize, Micros(time): Micros) {
        let (last, at_last) = (&mut self.last[handle], &mut self.at_last[handle]);
        if time > *last {
            (*last, *at_last) = (time, 1);
        } else if time == *last {
            *at_last = at_last.saturating_add(1);
        }
        let (seam, at_seam) = (&mut self.seams[handle], &mut self.at_seam[handle]);
        if *seam < 0 && time > -*seam {
            (*seam, *at_seam) = (time, 1);
        } else if *seam > 0 && time == *seam {
            *at_seam = at_seam.saturating_add(1);
        }
    }
}

/// A good value of which something was replaced.
fn uncertain(status: StatusCode) -> StatusCode {
    if status.is_good() { StatusCode::UNCERTAIN } else { status }
}

/// The value and the status of an answer, the value in the batch's heap; no value: it is a structure, or can't be read.
pub fn scalar(bytes: &[u8], batch: &mut Batch) -> (Option<Value>, StatusCode) {
    match Reader::new(bytes).data_value(batch, bytes) {
        Ok(stamped) => (Some(stamped.value).filter(|_| stamped.structure.is_none()), stamped.status),
        Err(_) => (None, StatusCode::BAD_DECODING_ERROR),
    }
}

/// The variant of a DataValue, where there is one.
fn variant(bytes: &[u8]) -> Option<Reader<'_>> {
    let mut reader = Reader::new(bytes);
    reader.u8().is_ok_and(|mask| mask & 1 != 0).then_some(reader)
}

/// How a structure that came as an answer is encoded, where the server was not yet asked about it.
pub fn unknown_encoding(types: &Types, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut reader = variant(bytes)?;
    let is_structure = reader.u8() == Ok(builtin::EXTENSION_OBJECT);
    let id = reader.object().ok().filter(|_| is_structure)?.id;
    types.encoding(id).is_none().then(|| id.to_vec())
}

/// Appends the documents' form of a value that came as an answer. Returns its status: of a structure in which a text had to be replaced it is
/// uncertain; `None`: it can't be read.
pub fn document_json(types: &Types, bytes: &[u8], status: StatusCode, out: &mut Vec<u8>) -> Option<StatusCode> {
    let mut whole = variant(bytes)?;
    let mut reader = whole;
    let start = out.len();
    let is_structure = reader.u8() == Ok(builtin::EXTENSION_OBJECT);
    let written = match (is_structure, reader.object()) {
        (true, Ok(object)) => match (object.body, types.encoding(object.id).flatten()) {
            (Some(body), Some(layout)) => types.json(layout, body, out).ok(),
            (Some(body), None) => {
                json::base64(body, out);
                Some(false)
            }
            (None, _) => None,
        },
        _ => whole.json(builtin::VARIANT, out).ok().map(|()| whole.take_replaced()),
    };
    if written.is_none() {
        out.truncate(start);
    }
    written.map(|has_replaced| if has_replaced { uncertain(status) } else { status })
}

/// A value's time: the device's, else the server's, else none, which the engine makes its own.
#[inline]
fn row(tag: TagId, stamped: Stamped, origin: Origin) -> Row {
    let (time, source) = match (stamped.source, stamped.server) {
        (Micros::NONE, Micros::NONE) => (Micros::NONE, TimeSource::Gateway),
        (Micros::NONE, server) => (server, TimeSource::Server),
        (source, _) => (source, TimeSource::Device),
    };
    Row { time, server_time: stamped.server, value: stamped.value, tag, status: stamped.status, flags: Flags::new(origin, source) }
}

/// Rows of a structure's leaves, whose tags are declared as they come.
struct Grow<'a> {
    item: &'a mut Item,
    io: &'a SourceIo,
    row: Row,
    rows: Vec<Row>,
}

impl types::Leaves for Grow<'_> {
    fn leaf(&mut self, path: &str, value: Value, status: StatusCode) {
        let def = &self.item.def;
        let leaf = || {
            let address = format!("{}.{}", def.address, path.replace('/', "."));
            Ok::<_, Reason>(TagDef { address, ..leaf_of(def, path) })
        };
        let Ok(tag) = self.item.leaves.tag(path, self.io, leaf) else { return };
        let status = if status.0 >> 30 > self.row.status.0 >> 30 { status } else { self.row.status };
        self.rows.push(Row { tag, value, status, ..self.row });
    }
}

/// The definition of a tag, with what the server says of its type.
pub fn typed(def: &TagDef, kind: &str, values: Option<&std::collections::BTreeMap<String, String>>) -> TagDef {
    let mut def = def.clone();
    def.kind = Some(kind.to_owned());
    if let Some(values) = values
        && def.options.values.is_none()
    {
        def.options = Arc::new(millrace_contract::TagOptions { values: Some(values.clone()), ..(*def.options).clone() });
    }
    def
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_rows_that_are_dropped_nothing_counts_as_read() {
        let mut readings = Readings::default();
        for tag in 0..3 {
            let def = TagDef {
                path: format!("tag{tag}"),
                topic: "".into(),
                address: String::new(),
                kind: None,
                part: "".into(),
                options: Default::default(),
            };
            readings.add(TagId(tag), def, 0, None, Duration::from_secs(1));
        }
        readings.last = vec![90, 70, 0];
        let row = |tag: u32, time: i64| {
            let stamped =
                Stamped { value: Value::Null, status: StatusCode::GOOD, source: Micros(time), server: Micros::NONE, structure: None };
            row(TagId(tag), stamped, Origin::Change)
        };
        readings.unread(&[row(0, 80), row(0, 90)]);
        assert_eq!([0, 1, 2].map(|handle| readings.watermark(handle)), [Micros(79), Micros(70), Micros(0)]);
        assert_eq!(readings.begin_gap(0, Micros(95)), Edge::at(Micros(79)));
    }

    #[test]
    fn what_a_full_queue_dropped_is_estimated_from_the_gap_and_the_sampling_interval() {
        let mut readings = Readings::default();
        let def = TagDef {
            path: "tag".into(),
            topic: "".into(),
            address: String::new(),
            kind: None,
            part: "".into(),
            options: Default::default(),
        };
        readings.add(TagId(0), def, 0, None, Duration::from_secs(1));
        assert_eq!(readings.dropped_before(0, Micros(58_000_000)), 0, "nothing came before");
        readings.last[0] = 2_000_000;
        // Between 2 s and 58 s lie 55 values; one is counted by the overflow itself.
        assert_eq!(readings.dropped_before(0, Micros(58_000_000)), 54);
        assert_eq!(readings.dropped_before(0, Micros(3_000_000)) + readings.dropped_before(0, Micros(1)), 0);
    }
}
