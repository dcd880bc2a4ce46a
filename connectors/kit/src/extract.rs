//! Samples out of a record: a JSON payload by JSON Pointers (RFC 6901), a CSV row by columns, or a payload that is one value.
//!
//! ```text
//! samples: {speed: /v/kmh, soc: /battery/soc}, time: /ts, status: /quality
//!
//!            (root)                  compiled once: a tree of the pointers' steps
//!           /  |   \                 read: one pass over the payload along that tree; everything else is read over
//!          v battery  ts             found: one value for each sample, or one for each leaf of a structure
//!          |   |
//!         kmh soc
//! ```
//!
//! | in the record | in the batch |
//! |---|---|
//! | `5`, `5.0`, `18446744073709551615` | `Int`, `Double`, `UInt` |
//! | an integer of more than 64 bits, a number beyond all doubles | null, BadOutOfRange, and why |
//! | `"text"`, `true` | `Text`, `Bool` |
//! | `[1,2]`, `[1,2.5]`, `["a"]`, `[true]` | `Array` of Int or UInt, Double, Text, Bool; `[]` is one of Int |
//! | an array with a null, with items of several types, with arrays or objects | `Struct` |
//! | an object | one value for each leaf, with its path `field/field`; with `structure: json` one `Struct` |
//! | `null`, an empty cell | null, BadNoData |
//! | nothing | null, BadNotFound |
//!
//! The status of a found value is the worse of its own and the record's; a time in the doubled hour makes a good one uncertain.
//! Invariants: no tree of the payload, no allocation per value; no number is rounded; of a key that stands twice the last counts; a structure has at
//! most [`LEAVES`] leaves with paths of at most [`PATH`] bytes.

use crate::time::{Clock, Stamp, cut};
use millrace_config::{Shorthand, Spanned};
use millrace_contract::Structure;
use millrace_schemas::json::read_items;
use millrace_schemas::scan::{DEPTH, Next, ScanError, Scanner};
use millrace_schemas::{Batch, Kind, Span, StatusCode, Value};
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt;

/// How many leaves the structures of one payload may have.
pub const LEAVES: usize = 65_536;
/// How long the path of a leaf may be, in bytes.
pub const PATH: usize = 1024;

/// One tag out of a record.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SampleConfig {
    /// Where its value stands: the JSON Pointer, or the name of the column.
    pub at: Spanned<String>,
}

impl Shorthand for SampleConfig {
    const KEY: &'static str = "at";
}

/// A JSON Pointer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pointer {
    text: Box<str>,
    steps: Box<[Box<str>]>,
}

impl Pointer {
    /// Reads a pointer. Errors: one line for a person.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split('/');
        if parts.next() != Some("") {
            return Err(format!("`{text}` is no JSON pointer; write /{}", text.replace('.', "/")));
        }
        let steps = parts.map(unescape).collect::<Option<Box<[_]>>>();
        let steps = steps.ok_or_else(|| format!("`~` in `{text}` must be written ~0, and a `/` in a name ~1"))?;
        if steps.len() > DEPTH as usize {
            return Err(format!("`{text}` has more than {DEPTH} levels"));
        }
        Ok(Self { text: text.into(), steps })
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.text.is_empty() { "(the whole payload)" } else { &self.text })
    }
}

fn unescape(step: &str) -> Option<Box<str>> {
    let mut parts = step.split('~');
    let mut name = parts.next()?.to_owned();
    for part in parts {
        let (char, rest) = match part.as_bytes().first()? {
            b'0' => ('~', &part[1..]),
            b'1' => ('/', &part[1..]),
            _ => return None,
        };
        name.push(char);
        name.push_str(rest);
    }
    Some(name.into())
}

/// What is to be found in each JSON payload of one kind.
#[derive(Clone, Debug)]
pub struct Extraction {
    root: Node,
    whole: Box<[bool]>,
    time: Option<(Pointer, Clock)>,
    status: Option<Pointer>,
}

/// A step of the pointers, and what they want there.
#[derive(Clone, Debug, Default)]
struct Node {
    /// Sorted by key.
    children: Vec<(Box<str>, Node)>,
    own: Vec<Target>,
    /// The samples wanted here and below.
    samples: Vec<u32>,
    is_leaf: bool,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Target {
    Sample(u32),
    Time,
    Status,
}

/// What was found in one record. Reused: once warm, nothing is allocated.
#[derive(Debug, Default)]
pub struct Extracted {
    /// The record's time, where the extraction has one.
    pub time: Option<Stamp>,
    /// The record's status, where the extraction has one; else good.
    pub status: StatusCode,
    /// Why the status is uncertain, where it could not be read.
    pub note: Option<String>,
    time_error: Option<String>,
    has_status: bool,
    slots: Vec<Slot>,
    leaves: Vec<Leaf>,
    paths: Vec<u8>,
    order: Vec<u32>,
}

#[derive(Debug)]
struct Slot {
    state: State,
    /// Grows when a key stands twice and what was found below the first is void.
    generation: u32,
}

#[derive(Debug)]
enum State {
    Missing,
    Expanded,
    Value(Own),
}

/// A value with its own status.
#[derive(Debug)]
struct Own {
    value: Value,
    status: StatusCode,
    why: Option<Box<str>>,
}

#[derive(Debug)]
struct Leaf {
    sample: u32,
    generation: u32,
    path: Span,
    own: Own,
}

/// One value of one sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found<'a> {
    /// Which of the extraction's samples, counted from zero.
    pub sample: usize,
    /// Of a structure's leaf: the path below the sample, `field/field`, a `/` in a name as %2F. Else empty.
    pub leaf: &'a str,
    pub value: Value,
    pub status: StatusCode,
    /// What is wrong with the value, for a person.
    pub why: Option<&'a str>,
}

impl Found<'_> {
    /// The record has nothing at the sample's place.
    pub fn is_missing(&self) -> bool {
        self.value == Value::Null && self.status == StatusCode::BAD_NOT_FOUND
    }
}

impl Extraction {
    /// Compiles pointers, in the order in which [`Found::sample`] counts them. `structure` says what becomes of an object (default: expand).
    pub fn new<'a>(
        samples: impl IntoIterator<Item = (&'a Pointer, Option<Structure>)>,
        time: Option<(Pointer, Clock)>,
        status: Option<Pointer>,
    ) -> Self {
        let mut root = Node::default();
        let mut whole = Vec::new();
        for (n, (pointer, structure)) in samples.into_iter().enumerate() {
            root.want(&pointer.steps, Target::Sample(n as u32));
            whole.push(structure == Some(Structure::Json));
        }
        if let Some((pointer, _)) = &time {
            root.want(&pointer.steps, Target::Time);
        }
        if let Some(pointer) = &status {
            root.want(&pointer.steps, Target::Status);
        }
        root.finish();
        Self { root, whole: whole.into(), time, status }
    }

    /// Reads one payload; texts, arrays and structures go into the batch's heap.
    ///
    /// Errors: the payload is not JSON (with the byte), or its time is missing or not readable: it is to be rejected, with this reason.
    pub fn read(&self, payload: &[u8], batch: &mut Batch, into: &mut Extracted) -> Result<(), String> {
        into.begin(self.whole.len());
        let heap = batch.heap.len();
        let read = self.scan(payload, batch, into).map_err(|error| match payload.trim_ascii() {
            [] => "the payload cannot be read as JSON: it is empty".to_owned(),
            _ => format!("the payload cannot be read as JSON: {error}"),
        });
        let done = read.and_then(|()| self.settle(into));
        if done.is_err() {
            batch.heap.truncate(heap);
        }
        done
    }

    fn scan(&self, payload: &[u8], batch: &mut Batch, into: &mut Extracted) -> Result<(), ScanError> {
        let mut walk = Walk { extraction: self, heap: &mut *batch, into };
        let mut scanner = Scanner::new(payload)?;
        walk.node(&self.root, &mut scanner)?;
        scanner.end()
    }

    fn settle(&self, into: &mut Extracted) -> Result<(), String> {
        if let Some((pointer, _)) = &self.time {
            if let Some(error) = into.time_error.take() {
                return Err(format!("the time at {pointer} cannot be read: {error}"));
            }
            if into.time.is_none() {
                return Err(format!("the time is missing: nothing is at {pointer}"));
            }
        }
        if let Some(pointer) = &self.status
            && !into.has_status
        {
            into.status = StatusCode::UNCERTAIN;
            into.note = Some(format!("the status is missing: nothing is at {pointer}"));
        }
        into.drop_doubles();
        Ok(())
    }
}

impl Node {
    fn want(&mut self, steps: &[Box<str>], target: Target) {
        if let Target::Sample(sample) = target {
            self.samples.push(sample);
        }
        let Some((step, rest)) = steps.split_first() else {
            self.own.push(target);
            return;
        };
        let at = match self.children.iter().position(|(key, _)| key == step) {
            Some(at) => at,
            None => {
                self.children.push((step.clone(), Self::default()));
                self.children.len() - 1
            }
        };
        self.children[at].1.want(rest, target);
    }

    fn finish(&mut self) {
        self.is_leaf = self.children.is_empty();
        self.children.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.children.iter_mut().for_each(|(_, child)| child.finish());
    }

    fn child(&self, key: &str) -> Option<&Self> {
        match &*self.children {
            [(only, child)] => (**only == *key).then_some(child),
            children => children.binary_search_by(|(known, _)| (**known).cmp(key)).ok().map(|at| &children[at].1),
        }
    }
}

impl Extracted {
    fn begin(&mut self, samples: usize) {
        self.time = None;
        self.time_error = None;
        self.status = StatusCode::GOOD;
        self.has_status = false;
        self.note = None;
        self.slots.clear();
        self.slots.resize_with(samples, || Slot { state: State::Missing, generation: 0 });
        self.leaves.clear();
        self.paths.clear();
    }

    /// Every sample of the extraction, found or not; of an expanded structure its leaves.
    pub fn iter(&self) -> impl Iterator<Item = Found<'_>> {
        let slots = self.slots.iter().enumerate().filter_map(|(sample, slot)| match &slot.state {
            State::Expanded => None,
            State::Missing => Some(Found { sample, leaf: "", value: Value::Null, status: StatusCode::BAD_NOT_FOUND, why: None }),
            State::Value(own) => Some(self.found(sample, "", own)),
        });
        let leaves = self.leaves.iter().filter_map(|leaf| {
            let sample = leaf.sample as usize;
            let counts = leaf.generation == self.slots[sample].generation;
            let path = std::str::from_utf8(leaf.path.of(&self.paths)).unwrap_or("");
            counts.then(|| self.found(sample, path, &leaf.own))
        });
        slots.chain(leaves)
    }

    fn found<'a>(&self, sample: usize, leaf: &'a str, own: &'a Own) -> Found<'a> {
        let mut status = if own.status.0 >> 30 >= self.status.0 >> 30 { own.status } else { self.status };
        if status.is_good() && self.time.is_some_and(|time| time.uncertain) {
            status = StatusCode::UNCERTAIN;
        }
        Found { sample, leaf, value: own.value, status, why: own.why.as_deref() }
    }

    /// Of a structure's field that stands twice the last counts.
    fn drop_doubles(&mut self) {
        if self.leaves.len() < 2 {
            return;
        }
        let Self { leaves, paths, order, .. } = self;
        order.clear();
        order.extend(0..leaves.len() as u32);
        let key = |n: u32| {
            let leaf = &leaves[n as usize];
            (leaf.sample, leaf.generation, leaf.path.of(paths))
        };
        order.sort_unstable_by(|a, b| key(*a).cmp(&key(*b)).then(a.cmp(b)));
        order.dedup_by(|later, earlier| {
            let double = key(*later) == key(*earlier);
            if double {
                std::mem::swap(later, earlier); // `later` is what goes
            }
            double
        });
        if order.len() < leaves.len() {
            order.sort_unstable();
            let mut kept = order.iter().peekable();
            let mut n = 0;
            leaves.retain(|_| {
                let keep = kept.next_if(|next| **next == n).is_some();
                n += 1;
                keep
            });
        }
    }

    fn set_status(&mut self, read: Result<StatusCode, String>) {
        self.has_status = true;
        (self.status, self.note) = match read {
            Ok(status) => (status, None),
            Err(note) => (StatusCode::UNCERTAIN, Some(note)),
        };
    }

    fn set_time(&mut self, read: Result<Stamp, String>) {
        (self.time, self.time_error) = match read {
            Ok(stamp) => (Some(stamp), None),
            Err(error) => (None, Some(error)),
        };
    }
}

struct Walk<'w> {
    extraction: &'w Extraction,
    heap: &'w mut Batch,
    into: &'w mut Extracted,
}

impl<'w> Walk<'w> {
    fn node(&mut self, node: &Node, scanner: &mut Scanner<'_>) -> Result<(), ScanError> {
        for sample in &node.samples {
            let slot = &mut self.into.slots[*sample as usize];
            if !matches!(slot.state, State::Missing) {
                slot.state = State::Missing;
                slot.generation += 1;
            }
        }
        let next = scanner.peek()?;
        let start = *scanner;
        for target in &node.own {
            *scanner = start;
            self.target(*target, scanner)?;
        }
        if node.is_leaf {
            // The root of an extraction that wants nothing: the payload is only checked.
            return if node.own.is_empty() { scanner.skip().map(drop) } else { Ok(()) };
        }
        *scanner = start;
        let mut first = true;
        match next {
            Next::Object => {
                scanner.open()?;
                while let Some(key) = scanner.next_key(first)? {
                    first = false;
                    let child = match key.plain() {
                        Some(key) => node.child(key),
                        None => node.child(&key.cow()),
                    };
                    match child {
                        Some(child) => self.node(child, scanner)?,
                        None => _ = scanner.skip()?,
                    }
                }
            }
            Next::Array => {
                scanner.open()?;
                let mut index = 0_usize;
                while scanner.next_item(first)? {
                    first = false;
                    let step = node.children.iter().find(|(key, _)| is_index(key, index));
                    match step {
                        Some((_, child)) => self.node(child, scanner)?,
                        None => _ = scanner.skip()?,
                    }
                    index += 1;
                }
            }
            _ => _ = scanner.skip()?,
        }
        Ok(())
    }

    fn target(&mut self, target: Target, scanner: &mut Scanner<'_>) -> Result<(), ScanError> {
        match target {
            Target::Sample(sample) => {
                let state = if scanner.peek()? == Next::Object && !self.extraction.whole[sample as usize] {
                    let start = self.into.paths.len();
                    self.expand(sample, start, scanner)?;
                    State::Expanded
                } else {
                    State::Value(own_value(scanner, self.heap)?)
                };
                self.into.slots[sample as usize].state = state;
            }
            Target::Time => {
                let Some((_, clock)) = &self.extraction.time else { return Ok(()) };
                let read = match scanner.peek()? {
                    Next::Number => clock.number(scanner.number()?.text),
                    Next::Text => clock.text(&scanner.text()?.cow()),
                    _ => Err(format!("`{}` is neither a number nor a text", cut(scanner.skip()?))),
                };
                self.into.set_time(read);
            }
            Target::Status => {
                let read = match scanner.peek()? {
                    Next::Bool => Ok(if scanner.bool()? { StatusCode::GOOD } else { StatusCode::BAD }),
                    Next::Text => read_status(&scanner.text()?.cow()),
                    _ => read_status(scanner.skip()?),
                };
                self.into.set_status(read);
            }
        }
        Ok(())
    }

    /// Takes the fields of an object. `path`: where in `paths` the path above them begins.
    fn expand(&mut self, sample: u32, path: usize, scanner: &mut Scanner<'_>) -> Result<(), ScanError> {
        let above = path..self.into.paths.len();
        scanner.open()?;
        let mut first = true;
        while let Some(key) = scanner.next_key(first)? {
            first = false;
            let start = self.into.paths.len();
            self.into.paths.extend_from_within(above.clone());
            if !above.is_empty() {
                self.into.paths.push(b'/');
            }
            key.push_to(&mut self.into.paths);
            if self.into.paths.len() - start > PATH {
                return Err(scanner.error(format!("a field's path is longer than {PATH} bytes")));
            }
            escape_slashes(&mut self.into.paths, start + above.len() + usize::from(!above.is_empty()));
            if scanner.peek()? == Next::Object {
                self.expand(sample, start, scanner)?;
                continue;
            }
            if self.into.leaves.len() == LEAVES {
                return Err(scanner.error(format!("more than {LEAVES} fields in structures")));
            }
            let own = own_value(scanner, self.heap)?;
            let path = Span { start: start as u32, len: (self.into.paths.len() - start) as u32 };
            let generation = self.into.slots[sample as usize].generation;
            self.into.leaves.push(Leaf { sample, generation, path, own });
        }
        Ok(())
    }
}

/// Makes what begins at `from` one level of a path.
fn escape_slashes(path: &mut Vec<u8>, from: usize) {
    let mut at = from;
    while let Some(slash) = path[at..].iter().position(|b| *b == b'/') {
        at += slash;
        path.splice(at..=at, *b"%2F");
        at += 3;
    }
}

/// An array's index as RFC 6901 writes it: no leading zero.
fn is_index(step: &str, index: usize) -> bool {
    (step == "0" || !step.starts_with(['0', '+'])) && step.parse() == Ok(index)
}

fn own_value(scanner: &mut Scanner<'_>, batch: &mut Batch) -> Result<Own, ScanError> {
    let value = match scanner.peek()? {
        Next::Null => {
            scanner.null()?;
            return Ok(Own { value: Value::Null, status: StatusCode::BAD_NO_DATA, why: None });
        }
        Next::Bool => Value::Bool(scanner.bool()?),
        Next::Number => {
            let number = scanner.number()?;
            match number.value() {
                Some(value) => value,
                None => return Ok(out_of_range(number.text)),
            }
        }
        Next::Text => {
            let start = batch.heap.len();
            scanner.text()?.push_to(&mut batch.heap);
            Value::Text(batch.span_from(start))
        }
        Next::Object => Value::Struct(batch.push_bytes(scanner.skip()?.as_bytes())),
        Next::Array => return array(scanner, batch),
    };
    Ok(Own { value, status: StatusCode::GOOD, why: None })
}

fn out_of_range(number: &str) -> Own {
    let why = format!("`{}` fits neither 64 bits nor a double", cut(number));
    Own { value: Value::Null, status: StatusCode::BAD_OUT_OF_RANGE, why: Some(why.into()) }
}

/// An array of one type becomes one; any other stays JSON.
fn array(scanner: &mut Scanner<'_>, batch: &mut Batch) -> Result<Own, ScanError> {
    let items = *scanner;
    let (mut bools, mut texts, mut longs, mut unsigned, mut negative, mut doubles, mut inexact, mut other) =
        (false, false, false, false, false, false, false, false);
    let mut unfit = None;
    scanner.open()?;
    let mut first = true;
    while scanner.next_item(first)? {
        first = false;
        match scanner.peek()? {
            Next::Bool => {
                scanner.bool()?;
                bools = true;
            }
            Next::Text => {
                scanner.text()?;
                texts = true;
            }
            Next::Number => {
                let number = scanner.number()?;
                match number.value() {
                    Some(Value::Int(value)) => {
                        longs = true;
                        negative |= value < 0;
                        inexact |= value.unsigned_abs() > 1 << f64::MANTISSA_DIGITS;
                    }
                    Some(Value::UInt(_)) => (unsigned, inexact) = (true, true),
                    Some(_) => doubles = true,
                    None => _ = unfit.get_or_insert(number.text),
                }
            }
            _ => {
                scanner.skip()?;
                other = true;
            }
        }
    }
    if let Some(number) = unfit {
        return Ok(out_of_range(number));
    }
    let kind = match (bools, texts, longs || unsigned || doubles) {
        _ if other => None,
        (true, false, false) => Some(Kind::Bool),
        (false, true, false) => Some(Kind::Text),
        (false, false, _) if doubles && !inexact => Some(Kind::Double),
        (false, false, _) if doubles || unsigned && negative => None,
        (false, false, _) if unsigned => Some(Kind::UInt),
        (false, false, _) => Some(Kind::Int),
        _ => None,
    };
    let value = match kind {
        Some(kind) => read_items(items, kind, &[], batch)?,
        None => {
            let mut items = items;
            Value::Struct(batch.push_bytes(items.skip()?.as_bytes()))
        }
    };
    Ok(Own { value, status: StatusCode::GOOD, why: None })
}

/// A status as a device writes it: `good`, `ok`, `true`, `uncertain`, `bad`, `false`, or an OPC UA status code.
///
/// Errors: one line for a person; the status is then uncertain.
pub fn read_status(text: &str) -> Result<StatusCode, String> {
    let text = text.trim();
    let is = |names: &[&str]| names.iter().any(|name| text.eq_ignore_ascii_case(name));
    if is(&["good", "ok", "true"]) {
        Ok(StatusCode::GOOD)
    } else if is(&["uncertain"]) {
        Ok(StatusCode::UNCERTAIN)
    } else if is(&["bad", "false"]) {
        Ok(StatusCode::BAD)
    } else {
        let unknown = |_| format!("the status `{}` is none of good, uncertain, bad, true, false or an OPC UA status code", cut(text));
        text.parse().map(StatusCode).map_err(unknown)
    }
}

/// The type that a text is declared to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CellType {
    Boolean,
    /// An integer of 64 bits, signed or unsigned.
    Long,
    Double,
    String,
}

/// Reads a payload that is one number: `23.5`, ` 42 `, `NaN`.
///
/// Shape: without fraction and exponent an `Int` (above 2^63 - 1 a `UInt`), else a `Double`.
/// Errors: one line for a person, with the value.
pub fn number(payload: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(payload).map_err(|_| "the payload is not a number: it is not even text".to_owned())?.trim();
    number_of(text).ok_or_else(|| match text {
        "" => "the payload is not a number: it is empty".to_owned(),
        text if text.contains(',') => format!("the payload `{}` is not a number: a decimal comma or a list", cut(text)),
        text if text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) => {
            format!("the payload `{}` is not a number that fits 64 bits or a double", cut(text))
        }
        text => format!("the payload `{}` is not a number", cut(text)),
    })
}

fn number_of(text: &str) -> Option<Value> {
    if let Ok(long) = text.parse() {
        return Some(Value::Int(long));
    }
    if let Ok(unsigned) = text.parse() {
        return Some(Value::UInt(unsigned));
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if ["nan", "inf", "infinity"].iter().any(|name| digits.eq_ignore_ascii_case(name)) {
        return text.parse().ok().map(Value::Double);
    }
    let integer = digits.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|double: &f64| double.is_finite() && !integer).map(Value::Double)
}

/// Reads a payload that is one text. Errors: it is not UTF-8.
pub fn text(payload: &[u8], batch: &mut Batch) -> Result<Value, String> {
    match std::str::from_utf8(payload) {
        Ok(text) => Ok(batch.text(text)),
        Err(error) => Err(format!("the payload is not UTF-8 text: byte {}", error.valid_up_to())),
    }
}

/// Reads one cell. Undeclared it is a number if it reads as one, else a text; a code with a leading zero (`007`) is a text.
///
/// Errors: the cell is not what it is declared to be.
fn cell(text: &str, declared: Option<CellType>, batch: &mut Batch) -> Result<Value, String> {
    let trimmed = text.trim();
    let value = match declared {
        None if has_leading_zero(trimmed) => None,
        None => number_of(trimmed).filter(|value| !matches!(value, Value::Double(double) if !double.is_finite())),
        Some(CellType::String) => None,
        Some(CellType::Boolean) => match trimmed {
            "1" => Some(Value::Bool(true)),
            "0" => Some(Value::Bool(false)),
            _ if trimmed.eq_ignore_ascii_case("true") => Some(Value::Bool(true)),
            _ if trimmed.eq_ignore_ascii_case("false") => Some(Value::Bool(false)),
            _ => return Err(format!("`{}` is no boolean", cut(trimmed))),
        },
        Some(CellType::Long) => match number_of(trimmed) {
            Some(value @ (Value::Int(_) | Value::UInt(_))) => Some(value),
            _ => return Err(format!("`{}` is no integer of 64 bits", cut(trimmed))),
        },
        Some(CellType::Double) => match number_of(trimmed) {
            Some(Value::Double(double)) => Some(Value::Double(double)),
            Some(Value::Int(_) | Value::UInt(_)) => trimmed.parse().ok().map(Value::Double),
            _ => return Err(format!("`{}` is no number that fits a double", cut(trimmed))),
        },
    };
    Ok(value.unwrap_or_else(|| batch.text(text)))
}

fn has_leading_zero(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text).as_bytes();
    digits.len() > 1 && digits[0] == b'0' && digits[1].is_ascii_digit()
}

/// What is to be found in each row of one table, by the names of its columns.
#[derive(Clone, Debug)]
pub struct RowExtraction {
    samples: Box<[(usize, Option<CellType>)]>,
    time: Option<(usize, Box<str>, Clock)>,
    status: Option<usize>,
}

impl RowExtraction {
    /// Finds the columns in a table's header.
    ///
    /// Errors: a column that isn't there, with those that are.
    pub fn new<'a>(
        header: &[&str],
        samples: impl IntoIterator<Item = (&'a str, Option<CellType>)>,
        time: Option<(&str, Clock)>,
        status: Option<&str>,
    ) -> Result<Self, String> {
        let column = |name: &str| {
            let found = header.iter().position(|column| column.trim() == name);
            found.ok_or_else(|| format!("no column `{name}`; there are {}", cut_list(header)))
        };
        Ok(Self {
            samples: samples.into_iter().map(|(name, declared)| Ok((column(name)?, declared))).collect::<Result<_, String>>()?,
            time: time.map(|(name, clock)| Ok::<_, String>((column(name)?, name.into(), clock))).transpose()?,
            status: status.map(column).transpose()?,
        })
    }

    /// Reads one row; a cell that the row lacks is missing, an empty one is null.
    ///
    /// Errors: the row's time is missing or not readable: it is to be rejected, with this reason.
    pub fn read<'c>(&self, row: impl Fn(usize) -> Option<&'c str>, batch: &mut Batch, into: &mut Extracted) -> Result<(), String> {
        into.begin(self.samples.len());
        if let Some((column, name, clock)) = &self.time {
            let cell = row(*column).map(str::trim).filter(|cell| !cell.is_empty());
            let cell = cell.ok_or_else(|| format!("the time is missing: column `{name}` is empty"))?;
            into.time = Some(clock.text(cell).map_err(|error| format!("the time in column `{name}` cannot be read: {error}"))?);
        }
        if let Some(column) = self.status {
            into.set_status(read_status(row(column).unwrap_or("")));
        }
        for ((column, declared), slot) in self.samples.iter().zip(&mut into.slots) {
            let Some(text) = row(*column) else { continue };
            slot.state = State::Value(if text.trim().is_empty() && *declared != Some(CellType::String) {
                Own { value: Value::Null, status: StatusCode::BAD_NO_DATA, why: None }
            } else {
                match cell(text, *declared, batch) {
                    Ok(value) => Own { value, status: StatusCode::GOOD, why: None },
                    Err(why) => Own { value: Value::Null, status: StatusCode::BAD_TYPE_MISMATCH, why: Some(why.into()) },
                }
            });
        }
        Ok(())
    }
}

fn cut_list(header: &[&str]) -> String {
    let names: Vec<_> = header.iter().take(20).map(|name| cut(name.trim())).collect();
    let more = if header.len() > names.len() { ", .." } else { "" };
    format!("{}{more}", names.join(", "))
}

/// Entry point of the fuzzer: a payload from anywhere is extracted or refused.
#[doc(hidden)]
pub fn fuzz_extract(payload: &[u8]) {
    let pointers: Vec<_> = ["", "/a", "/a/b", "/v/0", "/v/1/x", "/a~1b"].into_iter().filter_map(|text| Pointer::parse(text).ok()).collect();
    for structure in [Structure::Expand, Structure::Json] {
        let time = Pointer::parse("/ts").ok().map(|pointer| (pointer, Clock::default()));
        for (time, status) in [(time, Pointer::parse("/s").ok()), (None, None)] {
            let extraction = Extraction::new(pointers.iter().map(|pointer| (pointer, Some(structure))), time, status);
            let (mut batch, mut into) = (Batch::new(), Extracted::default());
            if extraction.read(payload, &mut batch, &mut into).is_ok() {
                assert!(into.iter().all(|found| found.sample < pointers.len()));
            }
        }
    }
    let _ = number(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::TimeConfig;
    use millrace_config::{Node as Yaml, Problems};
    use millrace_schemas::{Array, Micros};
    use proptest::prelude::*;
    use serde_json::Value as Json;

    fn pointer(text: &str) -> Pointer {
        Pointer::parse(text).unwrap()
    }

    fn clock(yaml: &str) -> Clock {
        let mut problems = Problems::new();
        let config: TimeConfig = Yaml::from_yaml(yaml, &mut problems).unwrap().parse(&mut problems).unwrap();
        Clock::compile(&config, &mut problems).unwrap()
    }

    fn plain(pointers: &[&str]) -> Extraction {
        let pointers: Vec<_> = pointers.iter().map(|text| pointer(text)).collect();
        Extraction::new(pointers.iter().map(|pointer| (pointer, None)), None, None)
    }

    /// What was found, as a person would write it: sample, leaf, value, status.
    fn show(batch: &Batch, into: &Extracted) -> Vec<String> {
        let value = |value: Value| match value {
            Value::Text(span) => format!("{:?}", batch.text_of(span)),
            Value::Struct(span) => format!("json {}", batch.text_of(span)),
            Value::Array(kind, span) => {
                let array = Array::read(kind, span, &batch.heap).unwrap();
                match kind {
                    Kind::Bool => format!("{:?}", array.bools().collect::<Vec<_>>()),
                    Kind::Int => format!("{:?}", array.words().map(i64::from_le_bytes).collect::<Vec<_>>()),
                    Kind::UInt => format!("u{:?}", array.words().map(u64::from_le_bytes).collect::<Vec<_>>()),
                    Kind::Double => format!("{:?}", array.words().map(f64::from_le_bytes).collect::<Vec<_>>()),
                    _ => format!("{:?}", array.blobs().map(|blob| std::str::from_utf8(blob).unwrap()).collect::<Vec<_>>()),
                }
            }
            other => format!("{other:?}"),
        };
        let show = |found: Found<'_>| {
            let status = if found.status.is_good() { String::new() } else { format!(" {:?}", found.status) };
            format!(
                "{}{} {}{status}",
                found.sample,
                if found.leaf.is_empty() { "".into() } else { format!("/{}", found.leaf) },
                value(found.value)
            )
        };
        into.iter().map(show).collect()
    }

    fn read(extraction: &Extraction, payload: &str) -> Result<Vec<String>, String> {
        let (mut batch, mut into) = (Batch::new(), Extracted::default());
        extraction.read(payload.as_bytes(), &mut batch, &mut into)?;
        Ok(show(&batch, &into))
    }

    fn value(json: &str) -> String {
        read(&plain(&["/v"]), &format!("{{\"v\":{json}}}")).unwrap().join(", ")
    }

    #[test]
    fn values_keep_their_types() {
        for (json, found) in [
            ("5", "0 Int(5)"),
            ("5.0", "0 Double(5.0)"),
            ("-0.0", "0 Double(-0.0)"),
            ("9223372036854775808", "0 UInt(9223372036854775808)"),
            ("true", "0 Bool(true)"),
            ("\"NaN\"", "0 \"NaN\""),
            ("\"l\\u00e4uft\"", "0 \"läuft\""),
            ("null", "0 Null bad 0x809B0000"),
            ("[1,2]", "0 [1, 2]"),
            ("[1,2.5]", "0 [1.0, 2.5]"),
            ("[1,18446744073709551615]", "0 u[1, 18446744073709551615]"),
            ("[\"a\",\"b\"]", "0 [\"a\", \"b\"]"),
            ("[true]", "0 [true]"),
            ("[]", "0 []"),
            ("[1,null]", "0 json [1,null]"),
            ("[1, \"a\"]", "0 json [1, \"a\"]"),
            ("[9007199254740993, 0.5]", "0 json [9007199254740993, 0.5]"),
            ("[-1,18446744073709551615]", "0 json [-1,18446744073709551615]"),
            ("[[1,2],[3,4]]", "0 json [[1,2],[3,4]]"),
        ] {
            assert_eq!(value(json), found, "{json}");
        }
    }

    #[test]
    fn a_number_that_nothing_holds_is_bad_and_says_why() {
        let long = "9".repeat(400);
        for json in ["18446744073709551616", &long, "1e400", "[1,1e400]"] {
            let (mut batch, mut into) = (Batch::new(), Extracted::default());
            plain(&["/v", "/w"]).read(format!("{{\"v\":{json},\"w\":1}}").as_bytes(), &mut batch, &mut into).unwrap();
            let found: Vec<_> = into.iter().collect();
            assert_eq!((found[0].value, found[0].status), (Value::Null, StatusCode::BAD_OUT_OF_RANGE));
            assert!(found[0].why.unwrap().ends_with("` fits neither 64 bits nor a double"));
            assert!(found[0].why.unwrap().len() < 120);
            assert_eq!(found[1].value, Value::Int(1));
        }
    }

    #[test]
    fn pointers_lead_to_their_values() {
        let extraction = plain(&["/v/kmh", "/battery/soc", "/list/1", "/a~1b/~0", "/nothing", "/v"]);
        let found =
            read(&extraction, r#"{"x":[{"v":1}],"v":{"kmh":88.5},"battery":{"soc":71,"u":[]},"list":[1,2,3],"a/b":{"~":"x"}}"#).unwrap();
        assert_eq!(found, ["0 Double(88.5)", "1 Int(71)", "2 Int(2)", "3 \"x\"", "4 Null bad 0x803E0000", "5/kmh Double(88.5)"]);
        assert_eq!(read(&plain(&[""]), " 23.5 ").unwrap(), ["0 Double(23.5)"]);
        assert_eq!(read(&plain(&["/v/x"]), r#"{"v":5}"#).unwrap(), ["0 Null bad 0x803E0000"]);
        assert_eq!(
            read(&plain(&["/v/01", "/v/+1", "/v/-"]), r#"{"v":[5,6]}"#).unwrap().iter().filter(|f| f.ends_with("0x803E0000")).count(),
            3
        );
        assert_eq!(read(&plain(&["/\u{e4}"]), r#"{"\u00e4":5}"#).unwrap(), ["0 Int(5)"]);
    }

    #[test]
    fn a_wrong_pointer_says_how_to_write_it() {
        assert_eq!(Pointer::parse("v.kmh").unwrap_err(), "`v.kmh` is no JSON pointer; write /v/kmh");
        assert_eq!(Pointer::parse("/a~2").unwrap_err(), "`~` in `/a~2` must be written ~0, and a `/` in a name ~1");
        assert!(Pointer::parse(&"/a".repeat(200)).is_err());
    }

    #[test]
    fn a_structure_becomes_its_leaves_or_stays_whole() {
        let pointer = pointer("/v");
        let payload = r#"{"v":{"a":1,"b/c":{"d":[1,2],"e":null},"empty":{}}}"#;
        let expand = Extraction::new([(&pointer, Some(Structure::Expand))], None, None);
        assert_eq!(read(&expand, payload).unwrap(), ["0/a Int(1)", "0/b%2Fc/d [1, 2]", "0/b%2Fc/e Null bad 0x809B0000"]);
        let whole = Extraction::new([(&pointer, Some(Structure::Json))], None, None);
        assert_eq!(read(&whole, payload).unwrap(), [r#"0 json {"a":1,"b/c":{"d":[1,2],"e":null},"empty":{}}"#]);
    }

    #[test]
    fn of_a_key_that_stands_twice_the_last_counts() {
        assert_eq!(read(&plain(&["/v"]), r#"{"v":1,"v":2}"#).unwrap(), ["0 Int(2)"]);
        assert_eq!(read(&plain(&["/v/a", "/v/b"]), r#"{"v":{"a":1},"v":{"b":2}}"#).unwrap(), ["0 Null bad 0x803E0000", "1 Int(2)"]);
        assert_eq!(read(&plain(&["/v"]), r#"{"v":{"a":1,"b":2,"a":3},"x":1}"#).unwrap(), ["0/b Int(2)", "0/a Int(3)"]);
        assert_eq!(read(&plain(&["/v"]), r#"{"v":{"a":1},"v":{"b":2}}"#).unwrap(), ["0/b Int(2)"]);
        assert_eq!(read(&plain(&["/v"]), r#"{"v":{"a":1},"v":5}"#).unwrap(), ["0 Int(5)"]);
    }

    #[test]
    fn time_and_status_go_with_every_value() {
        let samples = [pointer("/v"), pointer("/w")];
        let time = Some((pointer("/ts"), clock("{at: /ts, unit: ms, zone: Europe/Berlin}")));
        let extraction = Extraction::new(samples.iter().map(|p| (p, None)), time, Some(pointer("/q")));
        let read = |payload: &str| {
            let (mut batch, mut into) = (Batch::new(), Extracted::default());
            extraction
                .read(payload.as_bytes(), &mut batch, &mut into)
                .map(|()| (into.time.unwrap().time, into.note.clone(), show(&batch, &into).join(", ")))
        };
        let at = Micros(1_763_726_880_123_000);
        let note = |text: &str| Some(text.to_owned());
        assert_eq!(read(r#"{"v":1,"w":2,"ts":1763726880123,"q":"good"}"#), Ok((at, None, "0 Int(1), 1 Int(2)".into())));
        assert_eq!(
            read(r#"{"q":false,"ts":"1763726880123","v":1,"w":2}"#),
            Ok((at, None, "0 Int(1) bad 0x80000000, 1 Int(2) bad 0x80000000".into()))
        );
        assert_eq!(
            read(r#"{"q":1083441152,"ts":1763726880123,"v":1}"#),
            Ok((at, None, "0 Int(1) uncertain 0x40940000, 1 Null bad 0x803E0000".into()))
        );
        let unknown =
            note("the status `\"meh\"` is none of good, uncertain, bad, true, false or an OPC UA status code").map(|n| n.replace('"', ""));
        assert_eq!(
            read(r#"{"q":"meh","ts":1763726880123,"v":1,"w":2}"#),
            Ok((at, unknown, "0 Int(1) uncertain 0x40000000, 1 Int(2) uncertain 0x40000000".into()))
        );
        let missing = note("the status is missing: nothing is at /q");
        assert_eq!(
            read(r#"{"ts":1763726880123,"v":1,"w":2}"#),
            Ok((at, missing, "0 Int(1) uncertain 0x40000000, 1 Int(2) uncertain 0x40000000".into()))
        );
        let doubled = read(r#"{"ts":"2025-10-26T02:30:00","q":"good","v":1,"w":2}"#).unwrap();
        assert_eq!(doubled.2, "0 Int(1) uncertain 0x40000000, 1 Int(2) uncertain 0x40000000");
        assert_eq!(read(r#"{"v":1}"#), Err("the time is missing: nothing is at /ts".into()));
        assert_eq!(read(r#"{"v":1,"ts":[1]}"#), Err("the time at /ts cannot be read: `[1]` is neither a number nor a text".into()));
        assert!(read(r#"{"v":1,"ts":"soon"}"#).unwrap_err().starts_with("the time at /ts cannot be read: `soon` is no time"));
    }

    #[test]
    fn what_is_not_json_is_refused_with_byte_and_reason_and_leaves_nothing() {
        let extraction = plain(&["/v"]);
        for (payload, error) in [
            ("", "the payload cannot be read as JSON: it is empty"),
            ("hello", "the payload cannot be read as JSON: expected a value, found `h` at byte 0"),
            (r#"{"v":"text","#, "the payload cannot be read as JSON: expected a key, found the end at byte 12"),
            (r#"{"v":"text"} {}"#, "the payload cannot be read as JSON: expected the end, found `{` at byte 13"),
        ] {
            let (mut batch, mut into) = (Batch::new(), Extracted::default());
            assert_eq!(extraction.read(payload.as_bytes(), &mut batch, &mut into), Err(error.into()));
            assert!(batch.heap.is_empty());
        }
        assert!(read(&extraction, &"[".repeat(1 << 20)).is_err());
    }

    #[test]
    fn large_texts_are_taken_and_endless_structures_refused() {
        let mut batch = Batch::new();
        let mut into = Extracted::default();
        let text = "x".repeat(16 << 20);
        plain(&["/v"]).read(format!("{{\"v\":\"{text}\"}}").as_bytes(), &mut batch, &mut into).unwrap();
        let Some(Found { value: Value::Text(span), .. }) = into.iter().next() else { panic!() };
        assert_eq!(batch.text_of(span).len(), 16 << 20);
        let fields = format!("{{\"v\":{{{}\"last\":1}}}}", "\"a\":1,".repeat(LEAVES));
        assert!(read(&plain(&["/v"]), &fields).unwrap_err().contains("more than 65536 fields in structures at byte "));
        let deep = format!("{{\"v\":{}1{}}}", format!("{{\"{}\":", "k".repeat(100)).repeat(20), "}".repeat(20));
        assert!(read(&plain(&["/v"]), &deep).unwrap_err().contains("a field's path is longer than 1024 bytes at byte "));
    }

    #[test]
    fn a_payload_that_is_one_number_keeps_its_type() {
        for (payload, value) in [
            ("23.5", Value::Double(23.5)),
            (" 42 ", Value::Int(42)),
            ("5.0\n", Value::Double(5.0)),
            ("-3", Value::Int(-3)),
            ("18446744073709551615", Value::UInt(u64::MAX)),
            ("1e3", Value::Double(1000.0)),
            ("inf", Value::Double(f64::INFINITY)),
        ] {
            assert_eq!(number(payload.as_bytes()), Ok(value), "{payload}");
        }
        assert!(matches!(number(b"NaN"), Ok(Value::Double(nan)) if nan.is_nan()));
        for (payload, error) in [
            ("", "the payload is not a number: it is empty"),
            ("true", "the payload `true` is not a number"),
            ("23,5", "the payload `23,5` is not a number: a decimal comma or a list"),
            ("18446744073709551616", "the payload `18446744073709551616` is not a number that fits 64 bits or a double"),
            ("1e400", "the payload `1e400` is not a number that fits 64 bits or a double"),
        ] {
            assert_eq!(number(payload.as_bytes()), Err(error.into()));
        }
        assert!(number("x".repeat(1000).as_bytes()).unwrap_err().len() < 120);
        assert!(number(b"\xff").is_err());
    }

    #[test]
    fn a_row_is_read_by_its_columns() {
        let header = ["timestamp", "torque_nm", "code", "part", "ok"];
        let samples = [("torque_nm", None), ("code", None), ("part", Some(CellType::String)), ("torque_nm", Some(CellType::Long))];
        let time = clock("{at: timestamp, format: \"%d.%m.%Y %H:%M:%S\", zone: Europe/Berlin}");
        let rows = RowExtraction::new(&header, samples, Some(("timestamp", time.clone())), Some("ok")).unwrap();
        let read = |cells: &[&'static str]| {
            let (mut batch, mut into) = (Batch::new(), Extracted::default());
            rows.read(|n| cells.get(n).copied(), &mut batch, &mut into).map(|()| show(&batch, &into).join(", "))
        };
        assert_eq!(
            read(&["21.11.2025 13:08:00", "12.5", "007", "4711", "true"]),
            Ok("0 Double(12.5), 1 \"007\", 2 \"4711\", 3 Null bad 0x80740000".into())
        );
        assert_eq!(read(&["21.11.2025 13:08:00", " 12 ", "", "", "1"]), Ok("0 Int(12), 1 Null bad 0x809B0000, 2 \"\", 3 Int(12)".into()));
        assert_eq!(read(&["", "1"]), Err("the time is missing: column `timestamp` is empty".into()));
        assert!(
            read(&["tomorrow", "1"])
                .unwrap_err()
                .starts_with("the time in column `timestamp` cannot be read: `tomorrow` is no time written as")
        );
        let wrong = RowExtraction::new(&header, [("torque", None)], Some(("timestamp", time)), None).unwrap_err();
        assert_eq!(wrong, "no column `torque`; there are timestamp, torque_nm, code, part, ok");
    }

    /// A JSON value as one value of a tag, by the rules in the module's head, from serde_json's tree.
    fn by_tree(json: &Json) -> String {
        match json {
            Json::Null => "Null bad 0x809B0000".into(),
            Json::Bool(flag) => format!("Bool({flag})"),
            Json::Number(n) => match (n.as_i64(), n.as_u64()) {
                (Some(n), _) => format!("Int({n})"),
                (_, Some(n)) => format!("UInt({n})"),
                _ => format!("Double({:?})", n.to_string().parse::<f64>().unwrap()),
            },
            Json::String(text) => format!("{text:?}"),
            _ => "other".into(),
        }
    }

    proptest! {
        #[test]
        fn finds_what_a_tree_of_the_payload_holds(
            a in "-?[1-9][0-9]{0,17}|-?[1-9][0-9]{0,5}\\.[0-9]{1,3}|true|null|\"[a-z\u{e4}]{0,5}\"", b in "-?[1-9][0-9]{0,17}|\"\\\\n\"", skipped in "\\[\\]|\\{\\}|\"\\{\"|\\[1,\\{\"v\":\\{\"a\":7\\}\\}\\]"
        ) {
            let payload = format!("{{\"s\": {skipped}, \"v\": {{\"x\": {skipped}, \"a\": {a}}}, \"b\":{b}}}");
            let tree: Json = serde_json::from_str(&payload).unwrap();
            let found = read(&plain(&["/v/a", "/b"]), &payload).unwrap();
            prop_assert_eq!(&found[0], &format!("0 {}", by_tree(tree.pointer("/v/a").unwrap())));
            prop_assert_eq!(&found[1], &format!("1 {}", by_tree(tree.pointer("/b").unwrap())));
        }

        #[test]
        fn no_payload_panics(payload in "[\\[\\]{},:\"\\\\abvtsx01.5e+\\- \n]{0,60}", bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            fuzz_extract(payload.as_bytes());
            fuzz_extract(&bytes);
        }

        #[test]
        fn no_structured_payload_panics(inner in "(\"[abx/]\":[0-9tn\\[\\]{}],?){0,6}") {
            fuzz_extract(format!("{{\"a\":{{{inner}}},\"ts\":1}}").as_bytes());
            fuzz_extract(format!("{{{inner}}}").as_bytes());
        }

        #[test]
        fn no_cell_panics(text in ".{0,30}") {
            for declared in [None, Some(CellType::Boolean), Some(CellType::Long), Some(CellType::Double), Some(CellType::String)] {
                let _ = cell(&text, declared, &mut Batch::new());
            }
            let _ = (read_status(&text), Pointer::parse(&text));
        }
    }
}
