//! Samples out of a JSON payload by pointers: one pass along a tree of the pointers' steps.

use super::extracted::{Extracted, LEAVES, Leaf, Own, PATH, State};
use super::pointer::Pointer;
use super::rules::Rules;
use super::status::StatusNotation;
use crate::time::{Clock, cut};
use millrace_config::Reason;
use millrace_contract::Structure;
use millrace_schemas::json::read_items;
use millrace_schemas::scan::{Next, ScanError, Scanner};
use millrace_schemas::{Batch, Kind, Span, StatusCode, Value};

/// One value to be found.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Of several the one that is in the payload counts.
    pub pointers: Vec<Pointer>,
    /// What becomes of an object; default: expand.
    pub structure: Option<Structure>,
    pub rules: Rules,
}

impl From<(&Pointer, Option<Structure>)> for Wanted {
    fn from((pointer, structure): (&Pointer, Option<Structure>)) -> Self {
        Self { pointers: vec![pointer.clone()], structure, rules: Rules::default() }
    }
}

/// Where the time stands: the texts at several pointers are read as one, with a space between them.
#[derive(Clone, Debug)]
pub struct TimeAt {
    pub pointers: Vec<Pointer>,
    pub clock: Clock,
}

impl From<(Pointer, Clock)> for TimeAt {
    fn from((pointer, clock): (Pointer, Clock)) -> Self {
        Self { pointers: vec![pointer], clock }
    }
}

/// Where the status stands.
#[derive(Clone, Debug)]
pub struct StatusAt {
    pub pointer: Pointer,
    pub notation: StatusNotation,
}

impl From<Pointer> for StatusAt {
    fn from(pointer: Pointer) -> Self {
        Self { pointer, notation: StatusNotation::default() }
    }
}

/// What is to be found in each JSON payload of one kind.
#[derive(Clone, Debug)]
pub struct Extraction {
    root: Node,
    wants: Box<[Want]>,
    time: Option<TimeAt>,
    /// A record without a time is no error: whoever reads it looks elsewhere.
    time_is_optional: bool,
    status: Option<StatusAt>,
}

#[derive(Clone, Debug)]
struct Want {
    is_whole: bool,
    /// Nothing is declared about it: its JSON type is its type.
    is_plain: bool,
    rules: Rules,
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
    /// A part of the time.
    Time(u32),
    Status,
}

impl Extraction {
    /// Compiles pointers, in the order in which [`super::Found::sample`] counts them.
    pub fn new(samples: impl IntoIterator<Item = impl Into<Wanted>>, time: Option<TimeAt>, status: Option<StatusAt>) -> Self {
        let mut root = Node::default();
        let mut wants = Vec::new();
        for (n, wanted) in samples.into_iter().enumerate() {
            let Wanted { pointers, structure, rules } = wanted.into();
            pointers.iter().for_each(|pointer| root.want(&pointer.steps, Target::Sample(n as u32)));
            wants.push(Want { is_whole: structure == Some(Structure::Json), is_plain: rules.is_plain(), rules });
        }
        for (n, pointer) in time.iter().flat_map(|time| &time.pointers).enumerate() {
            root.want(&pointer.steps, Target::Time(n as u32));
        }
        if let Some(status) = &status {
            root.want(&status.pointer.steps, Target::Status);
        }
        root.finish();
        Self { root, wants: wants.into(), time, time_is_optional: false, status }
    }

    /// Leaves a missing time or status to whoever reads the record: it stands elsewhere.
    pub(super) fn with_optional_time(self) -> Self {
        Self { time_is_optional: true, ..self }
    }

    /// Whether nothing is looked for: then it only says whether a payload is JSON.
    pub fn wants_nothing(&self) -> bool {
        self.wants.is_empty() && self.time.is_none() && self.status.is_none()
    }

    /// As [`read`](Self::read), where [nothing is looked for](Self::wants_nothing) in what is known to be JSON.
    pub fn read_nothing(&self, into: &mut Extracted) {
        into.begin(0);
    }

    /// Reads one payload; texts, arrays and structures go into the batch's heap.
    ///
    /// Errors: the payload is not JSON (with the byte), or its time is missing or not readable: it is to be rejected, with this reason.
    pub fn read(&self, payload: &[u8], batch: &mut Batch, into: &mut Extracted) -> Result<(), Reason> {
        into.begin(self.wants.len());
        into.time_parts.resize_with(self.time.as_ref().map_or(0, |time| time.pointers.len()), String::new);
        let heap = batch.heap.len();
        let read = self.scan(payload, batch, into).map_err(|error| not_json(payload, &error));
        let done = read.and_then(|()| self.settle(into).map_err(String::from));
        if done.is_err() {
            batch.heap.truncate(heap);
        }
        done.map_err(Reason::from)
    }

    fn scan(&self, payload: &[u8], batch: &mut Batch, into: &mut Extracted) -> Result<(), ScanError> {
        let mut walk = Walk { extraction: self, heap: &mut *batch, into };
        let mut scanner = Scanner::new(payload)?;
        walk.node(&self.root, &mut scanner)?;
        scanner.end()
    }

    fn settle(&self, into: &mut Extracted) -> Result<(), Reason> {
        if let Some(time) = &self.time {
            let at = || time.pointers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
            if time.pointers.len() > 1 && into.time_error.is_none() && into.time_parts.iter().all(|part| !part.is_empty()) {
                let read = time.clock.text(&into.time_parts.join(" "));
                into.set_time(read);
            }
            if let Some(error) = into.time_error.take() {
                return Err(format!("the time at {} cannot be read: {error}", at()).into());
            }
            if into.time.is_none() && !time.clock.missing_is_read && !self.time_is_optional {
                return Err(
                    format!("the time is missing: nothing is at {}; `time: {{missing: read}}` takes the time of reading", at()).into()
                );
            }
        }
        if let Some(StatusAt { pointer, .. }) = &self.status
            && !into.has_status
            && !self.time_is_optional
        {
            into.status = StatusCode::UNCERTAIN;
            into.note = Some(format!("the status is missing: nothing is at {pointer}").into());
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
                let state = if scanner.peek()? == Next::Object && !self.extraction.wants[sample as usize].is_whole {
                    let start = self.into.paths.len();
                    self.expand(sample, start, scanner)?;
                    State::Expanded
                } else {
                    let want = &self.extraction.wants[sample as usize];
                    State::Value(own_value(scanner, want, self.heap)?)
                };
                self.into.slots[sample as usize].state = state;
            }
            Target::Time(part) => {
                let Some(TimeAt { pointers, clock }) = &self.extraction.time else { return Ok(()) };
                let (text, is_number) = match scanner.peek()? {
                    Next::Number => (scanner.number()?.text.into(), true),
                    Next::Text => (scanner.text()?.cow(), false),
                    Next::Null => return scanner.null(),
                    _ => {
                        self.into.time_error = Some(format!("`{}` is neither a number nor a text", cut(scanner.skip()?)).into());
                        return Ok(());
                    }
                };
                if pointers.len() > 1 {
                    let into = &mut self.into.time_parts[part as usize];
                    into.clear();
                    into.push_str(text.trim());
                } else if !text.trim().is_empty() {
                    self.into.set_time(if is_number { clock.number(&text) } else { clock.text(&text) });
                }
            }
            Target::Status => {
                let Some(StatusAt { notation, .. }) = &self.extraction.status else { return Ok(()) };
                let read = match scanner.peek()? {
                    Next::Text => notation.read(&scanner.text()?.cow()),
                    Next::Null => return scanner.null(),
                    _ => notation.read(scanner.skip()?),
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
            let own = own_value(scanner, &self.extraction.wants[sample as usize], self.heap)?;
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

/// Why a payload is not JSON.
pub(super) fn not_json(payload: &[u8], error: &ScanError) -> String {
    match payload.trim_ascii() {
        [] => "the payload cannot be read as JSON: it is empty".to_owned(),
        _ => format!("the payload cannot be read as JSON: {error}"),
    }
}

fn own_value(scanner: &mut Scanner<'_>, want: &Want, batch: &mut Batch) -> Result<Own, ScanError> {
    let own = match scanner.peek()? {
        Next::Null => {
            scanner.null()?;
            Own::null()
        }
        Next::Bool => {
            let flag = scanner.bool()?;
            let value = Value::Bool(flag);
            if want.is_plain { Own::good(value) } else { want.rules.scalar(value, if flag { "true" } else { "false" }, batch) }
        }
        Next::Number => {
            let number = scanner.number()?;
            match number.value() {
                Some(value) if want.is_plain => Own::good(value),
                Some(value) => want.rules.scalar(value, number.text, batch),
                None => out_of_range(number.text),
            }
        }
        Next::Text if !want.is_plain => want.rules.text(&scanner.text()?.cow(), batch),
        Next::Text => {
            let start = batch.heap.len();
            scanner.text()?.push_to(&mut batch.heap);
            Own::good(Value::Text(batch.span_from(start)))
        }
        Next::Object => Own::good(Value::Struct(batch.push_bytes(scanner.skip()?.as_bytes()))),
        Next::Array => return array(scanner, batch),
    };
    Ok(own)
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
