//! Lists of readings in one JSON payload: each item has its own tag, value, time and status.
//!
//! ```text
//! each: /values, tag: "{/id}", value: /v, time: /t            {"timestamp":..,"values":[{"id":"A","v":1,"t":..},{"id":"B","v":2}]}
//! each: [/Messages, /Payload], tag: "{key}", value: /Value    {"Messages":[{"Payload":{"A":{"Value":1},"B":{"Value":2}}}]}
//! ```
//!
//! - `each` leads to a list, or to an object whose members are the items; several pointers lead down level by level.
//! - Values are found in the item alone. Names, time and status are looked for in the item, then in what is around it, level by level, up to the
//!   whole payload: a gateway's time counts for every reading that has none of its own.
//! - `{key}` is the member's name, or the item's number.
//!
//! Invariants: a bad item costs itself only; no tree of the payload.

use super::extracted::{Extracted, Found};
use super::json::{Extraction, StatusAt, TimeAt, Wanted, not_json};
use super::pointer::Pointer;
use crate::time::cut;
use millrace_config::Reason;
use millrace_contract::Structure;
use millrace_schemas::scan::{Next, ScanError, Scanner};
use millrace_schemas::{Batch, Value};
use std::fmt::Write;

/// Something in braces that an item fills in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Name {
    /// `{key}`: the member's name, or the item's number.
    Key,
    /// `{/id}`: what stands there in the item, or around it.
    Pointer(Pointer),
}

/// What is to be found in each item of a payload.
#[derive(Clone, Debug)]
pub struct Each {
    levels: Box<[Pointer]>,
    names: Box<[Pointer]>,
    values: usize,
    item: Extraction,
    /// What is around the items: names, time and status.
    around: Extraction,
    time: Option<TimeAt>,
    status: Option<StatusAt>,
}

/// What was found in one payload's items. Reused: once warm, little is allocated.
#[derive(Debug, Default)]
pub struct Readings {
    item: Extracted,
    around: Vec<Option<Extracted>>,
    names: Vec<String>,
    key: String,
}

/// One item.
#[derive(Debug)]
pub struct Item<'a> {
    pub extracted: &'a Extracted,
    values: usize,
    key: &'a str,
    names: &'a [String],
    pointers: &'a [Pointer],
}

impl Item<'_> {
    /// Its values, counted as they were given to [`Each::new`].
    pub fn values(&self) -> impl Iterator<Item = Found<'_>> {
        self.extracted.iter().filter(|found| found.sample < self.values)
    }

    /// The text of something in braces.
    pub fn name(&self, name: &Name) -> &str {
        match name {
            Name::Key => self.key,
            Name::Pointer(pointer) => {
                let known = self.pointers.iter().position(|other| other == pointer);
                known.map_or("", |index| &self.names[index])
            }
        }
    }
}

/// What becomes of an item: it, or its text and why it can't be read.
pub type Taken<'a> = Result<Item<'a>, (&'a str, String)>;

impl Each {
    /// Compiles pointers. `levels` lead to the items, `values` and `names` into them; without levels the whole payload is the one item.
    pub fn new(levels: Vec<Pointer>, values: Vec<Wanted>, names: Vec<Pointer>, time: Option<TimeAt>, status: Option<StatusAt>) -> Self {
        let count = values.len();
        let wanted = |pointer: &Pointer| Wanted::from((pointer, Some(Structure::Json)));
        let item = values.into_iter().chain(names.iter().map(wanted));
        Self {
            item: Extraction::new(item, time.clone(), status.clone()).with_optional_time(),
            around: Extraction::new(names.iter().map(wanted), time.clone(), status.clone()).with_optional_time(),
            levels: levels.into(),
            names: names.into(),
            values: count,
            time,
            status,
        }
    }

    /// The whole payload is the one item.
    pub fn is_alone(&self) -> bool {
        self.levels.is_empty()
    }

    /// Reads one payload, and hands each item to `take`.
    ///
    /// Errors: the payload is not JSON, or there is no list where the first level says.
    pub fn read(
        &self,
        payload: &[u8],
        batch: &mut Batch,
        readings: &mut Readings,
        take: &mut dyn FnMut(Taken<'_>, &mut Batch),
    ) -> Result<(), Reason> {
        let check = || {
            let mut scanner = Scanner::new(payload)?;
            let text = scanner.skip()?;
            scanner.end().map(|()| text)
        };
        let text = check().map_err(|error: ScanError| not_json(payload, &error))?;
        readings.key.clear();
        let mut around = Vec::with_capacity(self.levels.len());
        self.walk(0, text, &mut around, readings, batch, take)
    }

    fn walk<'t>(
        &self,
        level: usize,
        text: &'t str,
        around: &mut Vec<&'t str>,
        readings: &mut Readings,
        batch: &mut Batch,
        take: &mut dyn FnMut(Taken<'_>, &mut Batch),
    ) -> Result<(), Reason> {
        let Some(pointer) = self.levels.get(level) else {
            match self.item(text, around, readings, batch) {
                Ok(()) => {
                    let Readings { item, names, key, .. } = &*readings;
                    take(Ok(Item { extracted: item, values: self.values, key, names, pointers: &self.names }), batch);
                }
                Err(reason) => take(Err((text, reason.into())), batch),
            }
            return Ok(());
        };
        around.push(text);
        readings.around.truncate(level);
        readings.around.resize_with(level + 1, || None);
        let walked = self.members(pointer, level, text, around, readings, batch, take);
        around.pop();
        match walked {
            Ok(()) => Ok(()),
            Err(reason) if level == 0 => Err(reason),
            Err(reason) => {
                take(Err((text, reason.into())), batch);
                Ok(())
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one recursion's state")]
    fn members<'t>(
        &self,
        pointer: &Pointer,
        level: usize,
        text: &'t str,
        around: &mut Vec<&'t str>,
        readings: &mut Readings,
        batch: &mut Batch,
        take: &mut dyn FnMut(Taken<'_>, &mut Batch),
    ) -> Result<(), Reason> {
        // The text was checked: an error of the scanner can't come any more.
        let broken = |error: ScanError| error.to_string();
        let mut scanner = Scanner::new(text.as_bytes()).map_err(broken)?;
        if !pointer.seek(&mut scanner).map_err(broken)? {
            return Err(format!("there is no list: nothing is at {pointer}").into());
        }
        let (mut first, mut index) = (true, 0_usize);
        match scanner.peek().map_err(broken)? {
            Next::Array => {
                scanner.open().map_err(broken)?;
                while scanner.next_item(first).map_err(broken)? {
                    first = false;
                    let item = scanner.skip().map_err(broken)?;
                    readings.key.clear();
                    let _ = write!(readings.key, "{index}");
                    index += 1;
                    readings.around.truncate(level + 1);
                    self.walk(level + 1, item, around, readings, batch, take)?;
                }
            }
            Next::Object => {
                scanner.open().map_err(broken)?;
                while let Some(key) = scanner.next_key(first).map_err(broken)? {
                    first = false;
                    let item = scanner.skip().map_err(broken)?;
                    readings.key.clear();
                    readings.key.push_str(&key.cow());
                    readings.around.truncate(level + 1);
                    self.walk(level + 1, item, around, readings, batch, take)?;
                }
            }
            Next::Null => {}
            _ => return Err(format!("`{}` at {pointer} is not a list", cut(scanner.skip().map_err(broken)?)).into()),
        }
        Ok(())
    }

    /// Reads one item, and what it lacks from what is around it.
    fn item(&self, text: &str, around: &[&str], readings: &mut Readings, batch: &mut Batch) -> Result<(), Reason> {
        let Readings { item, around: known, names, .. } = readings;
        self.item.read(text.as_bytes(), batch, item)?;
        names.resize_with(self.names.len(), String::new);
        let mut missing = 0;
        for (n, name) in names.iter_mut().enumerate() {
            name.clear();
            if !item.push_scalar(self.values + n, &batch.heap, name)? {
                missing += 1;
            }
        }
        let lacks = |item: &Extracted| self.time.is_some() && item.time.is_none() || self.status.is_some() && !item.has_status;
        for (level, text) in around.iter().enumerate().rev() {
            if missing == 0 && !lacks(item) {
                break;
            }
            let found = match &mut known[level] {
                Some(found) => found,
                unknown => {
                    let mut found = Extracted::default();
                    self.around.read(text.as_bytes(), batch, &mut found)?;
                    unknown.insert(found)
                }
            };
            for (n, name) in names.iter_mut().enumerate().filter(|(_, name)| name.is_empty()) {
                missing -= usize::from(found.push_scalar(n, &batch.heap, name)?);
            }
            item.time = item.time.or(found.time);
            if !item.has_status && found.has_status {
                (item.status, item.has_status, item.note) = (found.status, true, found.note.clone());
            }
        }
        if let Some(n) = names.iter().position(String::is_empty) {
            return Err(format!("the name is missing: nothing is at {}", self.names[n]).into());
        }
        if let Some(time) = self.time.as_ref().filter(|time| item.time.is_none() && !time.clock.missing_is_read) {
            let at = time.pointers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
            return Err(format!("the time is missing: nothing is at {at}; `time: {{missing: read}}` takes the time of reading").into());
        }
        if let Some(status) = self.status.as_ref().filter(|_| !item.has_status) {
            item.set_status(Err(format!("the status is missing: nothing is at {}", status.pointer).into()));
        }
        Ok(())
    }
}

impl Extracted {
    /// Appends the text of a value that is one; false where there is none. Errors: it is a list or an object.
    fn push_scalar(&self, sample: usize, heap: &[u8], out: &mut String) -> Result<bool, Reason> {
        let Some(found) = self.iter().find(|found| found.sample == sample) else { return Ok(false) };
        let before = out.len();
        // Writing to memory can't fail.
        match found.value {
            Value::Null => return Ok(false),
            Value::Text(span) => out.push_str(std::str::from_utf8(span.of(heap)).unwrap_or_default()),
            Value::Int(int) => _ = write!(out, "{int}"),
            Value::UInt(uint) => _ = write!(out, "{uint}"),
            Value::Double(double) => _ = write!(out, "{double}"),
            Value::Bool(flag) => _ = write!(out, "{flag}"),
            Value::Bytes(_) | Value::Array(..) | Value::Struct(_) => return Err("a name is a list or an object, not one value".into()),
        }
        Ok(out.len() > before)
    }
}

#[cfg(test)]
mod tests {
    use super::super::StatusNotation;
    use super::*;
    use crate::time::Clock;

    fn pointers(texts: &[&str]) -> Vec<Pointer> {
        texts.iter().map(|text| Pointer::parse(text).unwrap()).collect()
    }

    fn show(each: &Each, name: &Name, payload: &str) -> Result<Vec<String>, Reason> {
        let (mut batch, mut readings, mut out) = (Batch::new(), Readings::default(), Vec::new());
        let mut take = |taken: Taken<'_>, batch: &mut Batch| match taken {
            Ok(item) => {
                for found in item.values() {
                    let value = match found.value {
                        Value::Text(span) => batch.text_of(span).to_owned(),
                        value => format!("{value:?}"),
                    };
                    let time = item.extracted.time.map_or(0, |stamp| stamp.time.0 / 1_000_000);
                    out.push(format!("{}{}={value} {:x} @{time}", item.name(name), found.leaf, found.status.0));
                }
            }
            Err((text, reason)) => out.push(format!("{text}: {reason}")),
        };
        each.read(payload.as_bytes(), &mut batch, &mut readings, &mut take)?;
        Ok(out)
    }

    fn each(levels: &[&str], value: &str, names: &[&str], time: Option<&str>, status: Option<&str>) -> Each {
        let value = pointers(&[value]);
        let time = time.map(|at| TimeAt { pointers: pointers(&[at]), clock: Clock::default() });
        let status = status.map(|at| StatusAt { pointer: Pointer::parse(at).unwrap(), notation: StatusNotation::OpcDa });
        Each::new(pointers(levels), vec![Wanted::from((&value[0], None))], pointers(names), time, status)
    }

    #[test]
    fn each_reading_has_its_own_name_time_and_status_or_that_around_it() {
        let each = each(&["/values"], "/v", &["/id"], Some("/t"), Some("/q"));
        let name = Name::Pointer(Pointer::parse("/id").unwrap());
        let payload = r#"{"t":9000,"q":192,"values":[{"id":"A.B","v":1,"t":1000,"q":0},{"id":"C","v":"x"},{"id":7,"v":null,"q":64},{"v":2},{"id":"D","v":1,"t":"soon"}]}"#;
        let got = show(&each, &name, payload).unwrap();
        assert_eq!(&got[..3], ["A.B=Int(1) 80000000 @1", "C=x 0 @9", "7=Null 809b0000 @9"]);
        assert_eq!(got[3], "{\"v\":2}: the name is missing: nothing is at /id");
        assert!(got[4].contains("the time at /t cannot be read"), "{}", got[4]);
        assert_eq!(show(&each, &name, "{\"values\":5}").unwrap_err(), "`5` at /values is not a list");
        assert_eq!(show(&each, &name, "{\"value\":[]}").unwrap_err(), "there is no list: nothing is at /values");
        assert!(show(&each, &name, "{\"values\":[").unwrap_err().contains("cannot be read as JSON"));
    }

    #[test]
    fn levels_lead_down_and_members_of_an_object_are_items_too() {
        let each = each(&["/Messages", "/Payload"], "/Value", &[], Some("/Timestamp"), None);
        let payload = r#"{"Messages":[{"Timestamp":1000,"Payload":{"A":{"Value":1},"B":{"Value":2,"Timestamp":2000}}},{"Timestamp":3000,"Payload":{"A":{"Value":3}}},{"Timestamp":1}]}"#;
        let got = show(&each, &Name::Key, payload).unwrap();
        assert_eq!(&got[..3], ["A=Int(1) 0 @1", "B=Int(2) 0 @2", "A=Int(3) 0 @3"]);
        assert_eq!(got[3], "{\"Timestamp\":1}: there is no list: nothing is at /Payload");
    }

    #[test]
    fn a_payload_that_is_a_list_and_one_that_is_one_reading_are_read() {
        let list = each(&[""], "/v", &["/n"], None, None);
        let name = Name::Pointer(Pointer::parse("/n").unwrap());
        assert_eq!(
            show(&list, &name, r#"[{"n":"a","v":{"x":1,"y":2}},{"n":"b","v":3}]"#).unwrap(),
            ["a/x=Int(1) 0 @0".replace('/', ""), "ay=Int(2) 0 @0".into(), "b=Int(3) 0 @0".into()]
        );
        let one = each(&[], "/v", &["/n"], None, None);
        assert_eq!(show(&one, &name, r#"{"n":"a","v":1}"#).unwrap(), ["a=Int(1) 0 @0"]);
        let scalars = each(&["/v"], "", &[], None, None);
        assert_eq!(show(&scalars, &Name::Key, r#"{"v":[5,6]}"#).unwrap(), ["0=Int(5) 0 @0", "1=Int(6) 0 @0"]);
    }
}
