//! Documents in memory until a table takes them: each field at the top of a document is a column of its own.
//!
//! ```text
//! {"id": "A7", "weight": 12.5, "lines": [..]}  ->  id text | weight double | lines JSON text, and where the record was in Kafka
//! ```
//!
//! - A field that no column has becomes a new one, null in what was written before: its type is the schema's, else the first value's.
//! - A value of another type than its column is refused, with both types; it never becomes a text.
//! - Objects and arrays within a document stay as they are, as JSON.
//!
//! Invariants: what is held is counted, and bounded by whoever asks [`Documents::bytes`]; a refused document adds no column.

use millrace_config::Reason;
use millrace_contract::{Record, Records};
use millrace_schemas::Span;
use millrace_schemas::scan::{Next, Number, Scanner};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Columns of one table: more come of keys that are values.
const MOST_COLUMNS: usize = 1_000;
const DAY_MS: i64 = 86_400_000;
/// From the year 1 to 9999, in microseconds.
pub const TIMES: Range<i64> = -62_135_596_800_000_000..253_402_300_800_000_000;
/// Above it, a double does not hold every whole number.
const EXACT: i64 = 1 << 53;

/// Where the record was in Kafka, and whose it is.
pub const META: [(&str, Kind); 8] = [
    ("kafka_topic", Kind::Text),
    ("kafka_partition", Kind::Long),
    ("kafka_offset", Kind::Long),
    ("kafka_time", Kind::Time(Unit::Micros)),
    ("kafka_key", Kind::Text),
    ("kafka_tombstone", Kind::Bool),
    ("millrace_source", Kind::Text),
    ("millrace_seq", Kind::Long),
];

/// What a number of a time counts, since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    Millis,
    Micros,
}

/// The type of a column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Bool,
    Long,
    Double,
    /// Precision and scale.
    Decimal(u8, u8),
    Time(Unit),
    /// Days since 1970.
    Date,
    Text,
    /// Whatever it is, as it stands.
    Json,
    /// A column of somebody else's, of a type that is not written here.
    Other,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bool => write!(f, "boolean"),
            Self::Long => write!(f, "long"),
            Self::Double => write!(f, "double"),
            Self::Decimal(precision, scale) => write!(f, "decimal({precision},{scale})"),
            Self::Time(_) => write!(f, "timestamp"),
            Self::Date => write!(f, "date"),
            Self::Text => write!(f, "string"),
            Self::Json => write!(f, "JSON"),
            Self::Other => write!(f, "of a type that this sink does not write"),
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    pub name: Arc<str>,
    pub kind: Kind,
}

impl Column {
    pub fn new(name: &str, kind: Kind) -> Self {
        Self { name: name.into(), kind }
    }
}

/// A value in its column; texts lie in the buffer's heap.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Cell {
    Bool(bool),
    Long(i64),
    Double(f64),
    Decimal(i128),
    Days(i32),
    Text(Span),
}

/// One document.
#[derive(Clone, Debug)]
pub struct Document {
    /// Into [`Day::cells`].
    cells: Range<usize>,
}

/// The documents of one day.
#[derive(Debug, Default)]
pub struct Day {
    documents: Vec<Document>,
    /// Column and value; nulls are not held.
    cells: Vec<(u16, Cell)>,
    heap: Vec<u8>,
}

impl Day {
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Adds a row of a table whose columns the caller knows.
    pub fn push(&mut self, cells: &[(u16, Cell)]) {
        let start = self.cells.len();
        self.cells.extend_from_slice(cells);
        self.documents.push(Document { cells: start..self.cells.len() });
    }

    /// Keeps a text for a cell.
    ///
    /// Errors: the heap is full.
    pub fn keep(&mut self, text: &[u8]) -> Result<Cell, Reason> {
        keep(&mut self.heap, text).map(Cell::Text)
    }

    /// The columns and values of one row; those that are null are left out.
    pub fn row(&self, row: usize) -> &[(u16, Cell)] {
        &self.cells[self.documents[row].cells.clone()]
    }

    /// A text.
    pub fn text(&self, span: Span) -> &str {
        std::str::from_utf8(span.of(&self.heap)).unwrap_or_default()
    }

    /// The values of a range of documents, column by column.
    pub fn columns(&self, count: usize, rows: Range<usize>) -> Vec<Vec<Option<Cell>>> {
        let mut columns = vec![vec![None; rows.len()]; count];
        for (row, document) in self.documents[rows].iter().enumerate() {
            for (column, cell) in &self.cells[document.cells.clone()] {
                columns[usize::from(*column)][row] = Some(*cell);
            }
        }
        columns
    }
}

/// What is known of a record besides its document.
pub struct Around<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub source: Option<&'a str>,
    pub seq: Option<i64>,
}

impl<'r> Around<'r> {
    /// Of a record that a sink was given.
    pub fn of(records: &'r Records, record: &Record) -> Self {
        let part = records.partition(record);
        let mut around = Self {
            topic: &part.topic,
            partition: part.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: record.key.map(|key| records.of(key)),
            source: None,
            seq: None,
        };
        for (name, value) in millrace_schemas::headers(records.of(record.headers)) {
            let text = value.and_then(|value| std::str::from_utf8(value).ok());
            match name {
                "millrace.source" => around.source = text,
                "millrace.seq" => around.seq = text.and_then(|text| text.parse().ok()),
                _ => {}
            }
        }
        around
    }
}

/// All that waits to be written.
#[derive(Debug, Default)]
pub struct Documents {
    columns: Vec<Column>,
    /// Lower case: tables tell columns apart without it.
    by_name: HashMap<String, u16>,
    /// Names that no field may have, besides [`META`].
    reserved: Vec<&'static str>,
    /// What the schemas of the topics say of fields that have no column yet.
    declared: HashMap<Arc<str>, Kind>,
    /// Those before it are in the table.
    in_table: usize,
    /// By the day of their time in Kafka, since 1970, in UTC.
    days: BTreeMap<i32, Day>,
    count: usize,
    bytes: usize,
}

impl Documents {
    /// `declared`: by the topics' schemas. `reserved`: columns of the table that are no fields, in lower case.
    pub fn new(declared: &[Column], reserved: &[&'static str]) -> Self {
        let declared = declared.iter().map(|column| (column.name.clone(), column.kind)).collect();
        let mut this = Self { declared, reserved: reserved.to_vec(), ..Self::default() };
        this.know(&META.map(|(name, kind)| Column::new(name, kind)));
        this
    }

    /// Takes the columns over that the table has. What waits must have been taken before.
    pub fn know(&mut self, columns: &[Column]) {
        self.columns = columns.to_vec();
        // How a number of a time is meant is nowhere in a table.
        for column in &mut self.columns {
            if let (Kind::Time(_), Some(Kind::Time(unit))) = (column.kind, self.declared.get(&column.name)) {
                column.kind = Kind::Time(*unit);
            }
        }
        self.by_name = self.columns.iter().zip(0..).map(|(column, number)| (column.name.to_lowercase(), number)).collect();
        self.in_table = self.columns.len();
    }

    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Those that the table lacks.
    pub fn added(&self) -> &[Column] {
        &self.columns[self.in_table..]
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// What is held, in bytes, as good as it can be told: vectors grow in steps.
    pub fn bytes(&self) -> usize {
        self.bytes * 5 / 4 + self.days.len() * 256
    }

    /// Takes what waits; the columns stay, and what was added counts as being in the table.
    pub fn take(&mut self) -> Self {
        let taken = std::mem::take(self);
        self.columns = taken.columns.clone();
        self.by_name = taken.by_name.clone();
        self.declared = taken.declared.clone();
        self.reserved = taken.reserved.clone();
        self.in_table = self.columns.len();
        taken
    }

    pub fn days(&self) -> impl Iterator<Item = (&i32, &Day)> {
        self.days.iter()
    }

    /// Takes one document; `None`: a tombstone.
    ///
    /// Errors: why no column can hold it.
    pub fn push(&mut self, document: Option<&[u8]>, around: &Around<'_>) -> Result<(), Reason> {
        let micros = around.timestamp_ms.saturating_mul(1000);
        if !TIMES.contains(&micros) {
            return Err(format!(
                "its time in Kafka is {} milliseconds since 1970, which is not between the years 1 and 9999",
                around.timestamp_ms
            )
            .into());
        }
        let number = around.timestamp_ms.div_euclid(DAY_MS) as i32;
        let mut day = self.days.remove(&number).unwrap_or_default();
        let (columns, cells, heap) = (self.columns.len(), day.cells.len(), day.heap.len());
        let taken = self.fill(&mut day, document, around, micros);
        if taken.is_ok() {
            day.documents.push(Document { cells: cells..day.cells.len() });
            self.count += 1;
            self.bytes += size_of::<Document>() + (day.cells.len() - cells) * size_of::<(u16, Cell)>() + day.heap.len() - heap;
        } else {
            for column in self.columns.drain(columns..) {
                self.by_name.remove(&column.name.to_lowercase());
            }
            day.cells.truncate(cells);
            day.heap.truncate(heap);
        }
        if !day.is_empty() {
            self.days.insert(number, day);
        }
        taken
    }

    fn fill(&mut self, day: &mut Day, document: Option<&[u8]>, around: &Around<'_>, micros: i64) -> Result<(), Reason> {
        let text = |day: &mut Day, name: &str, text: &str| -> Result<(), Reason> {
            let span = keep(&mut day.heap, text.as_bytes())?;
            day.cells.push((self.meta(name), Cell::Text(span)));
            Ok(())
        };
        text(day, "kafka_topic", around.topic)?;
        if let Some(key) = around.key {
            match std::str::from_utf8(key) {
                Ok(key) => text(day, "kafka_key", key)?,
                Err(_) => text(day, "kafka_key", &key.iter().fold("0x".to_owned(), |hex, byte| format!("{hex}{byte:02x}")))?,
            }
        }
        if let Some(source) = around.source {
            text(day, "millrace_source", source)?;
        }
        let numbers = [
            ("kafka_partition", Some(i64::from(around.partition))),
            ("kafka_offset", Some(around.offset)),
            ("kafka_time", Some(micros)),
            ("millrace_seq", around.seq),
        ];
        for (name, number) in numbers {
            day.cells.extend(number.map(|number| (self.meta(name), Cell::Long(number))));
        }
        day.cells.push((self.meta("kafka_tombstone"), Cell::Bool(document.is_none())));
        let Some(document) = document else { return Ok(()) };
        let begin = day.cells.len();
        let not_json = |error: millrace_schemas::scan::ScanError| format!("is no JSON: {error}");
        let mut scanner = Scanner::new(document).map_err(not_json)?;
        if scanner.peek().map_err(not_json)? != Next::Object {
            return Err("is no object: a document's fields are its columns".into());
        }
        scanner.open().map_err(not_json)?;
        let mut first = true;
        while let Some(key) = scanner.next_key(first).map_err(not_json)? {
            first = false;
            let name = key.cow();
            if scanner.peek().map_err(not_json)? == Next::Null {
                scanner.null().map_err(not_json)?;
                continue;
            }
            let mut value = scanner;
            let raw = scanner.skip().map_err(not_json)?;
            let column = self.column(&name, &mut value.clone())?;
            let kind = self.columns[usize::from(column)].kind;
            let cell = read(&mut value, raw, kind, &mut day.heap).map_err(|what| format!("field `{name}` {what}"))?;
            if day.cells[begin..].iter().any(|(known, _)| *known == column) {
                return Err(format!("field `{name}` stands there twice").into());
            }
            day.cells.push((column, cell));
        }
        scanner.end().map_err(not_json).map_err(Reason::from)
    }

    fn meta(&self, name: &str) -> u16 {
        self.by_name.get(name).copied().unwrap_or_default()
    }

    /// The column of a field; a new one where there is none.
    fn column(&mut self, name: &str, value: &mut Scanner<'_>) -> Result<u16, Reason> {
        let lower = name.to_lowercase();
        if let Some(number) = self.by_name.get(&lower) {
            let column = &self.columns[usize::from(*number)];
            if META.iter().any(|(meta, _)| *meta == lower) {
                return Err(format!("field `{name}` has the name of a column that the table has for itself").into());
            }
            if *column.name != *name {
                return Err(
                    format!("field `{name}` differs from column `{}` by case alone, which tables don't tell apart", column.name).into()
                );
            }
            return Ok(*number);
        }
        if self.reserved.contains(&lower.as_str()) {
            return Err(format!("field `{name}` has the name of a column that the table has for itself").into());
        }
        if name.is_empty() || name.contains([' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '=', '\r', '`']) {
            return Err(format!("field `{}` has a name that no table can have", name.escape_debug()).into());
        }
        if self.columns.len() >= MOST_COLUMNS {
            return Err(format!("field `{name}` would be one column more than {MOST_COLUMNS}: are its keys values?").into());
        }
        let kind = match self.declared.get(name) {
            Some(kind) => *kind,
            None => guess(value)?,
        };
        let number = u16::try_from(self.columns.len()).map_err(|error| error.to_string())?;
        self.columns.push(Column::new(name, kind));
        self.by_name.insert(lower, number);
        Ok(number)
    }
}

fn keep(heap: &mut Vec<u8>, bytes: &[u8]) -> Result<Span, Reason> {
    let full = "more texts than one file can hold came at once";
    let start = u32::try_from(heap.len()).map_err(|_| full)?;
    let len = u32::try_from(bytes.len()).map_err(|_| full)?;
    start.checked_add(len).ok_or(full)?;
    heap.extend_from_slice(bytes);
    Ok(Span { start, len })
}

/// The type of a value that no schema speaks of.
fn guess(value: &mut Scanner<'_>) -> Result<Kind, Reason> {
    let next = value.peek().map_err(|error| error.to_string())?;
    Ok(match next {
        Next::Bool => Kind::Bool,
        Next::Number => match value.number().map_err(|error| error.to_string())?.integer {
            true => Kind::Long,
            false => Kind::Double,
        },
        Next::Text => Kind::Text,
        _ => Kind::Json,
    })
}

/// Reads a value for its column. `raw`: the whole of it, as it stands.
fn read(value: &mut Scanner<'_>, raw: &str, kind: Kind, heap: &mut Vec<u8>) -> Result<Cell, Reason> {
    let next = value.peek().map_err(|error| error.to_string())?;
    let is = match next {
        Next::Bool => "a boolean",
        Next::Number => "a number",
        Next::Text => "a text",
        Next::Array => "an array",
        Next::Object => "an object",
        Next::Null => "null",
    };
    let other = || Err(format!("is {is} ({}), and its column is {kind}", cut(raw)).into());
    match (kind, next) {
        (Kind::Json, _) => Ok(Cell::Text(keep(heap, raw.trim().as_bytes())?)),
        (Kind::Bool, Next::Bool) => value.bool().map(Cell::Bool).map_err(|error| error.to_string().into()),
        (Kind::Text, Next::Text) => {
            let text = value.text().map_err(|error| error.to_string())?;
            Ok(Cell::Text(keep(heap, text.cow().as_bytes())?))
        }
        (Kind::Double, Next::Text) => match &*value.text().map_err(|error| error.to_string())?.cow() {
            "NaN" => Ok(Cell::Double(f64::NAN)),
            "Infinity" => Ok(Cell::Double(f64::INFINITY)),
            "-Infinity" => Ok(Cell::Double(f64::NEG_INFINITY)),
            _ => other(),
        },
        (Kind::Long | Kind::Double | Kind::Decimal(..) | Kind::Time(_) | Kind::Date, Next::Number) => {
            let number = value.number().map_err(|error| error.to_string())?;
            numeric(&number, kind).map_err(|what| format!("is {}, {what}", cut(raw)).into())
        }
        (Kind::Decimal(precision, scale), Next::Text) => {
            let text = value.text().map_err(|error| error.to_string())?.cow().into_owned();
            decimal(&text, precision, scale).map(Cell::Decimal).map_err(|what| format!("is {}, {what}", cut(raw)).into())
        }
        (Kind::Time(_), Next::Text) => {
            let text = value.text().map_err(|error| error.to_string())?.cow().into_owned();
            let time = text.parse::<jiff::Timestamp>().map(|time| time.as_microsecond()).ok().filter(|time| TIMES.contains(time));
            time.map(Cell::Long).ok_or_else(|| format!("is {}, and its column is a timestamp", cut(raw)).into())
        }
        _ => other(),
    }
}

fn numeric(number: &Number<'_>, kind: Kind) -> Result<Cell, Reason> {
    let long = || match number.integer {
        true => number.text.parse::<i64>().map_err(|_| "which does not fit into 64 bits".to_owned()),
        false => Err(format!("which is no whole number, and its column is {kind}")),
    };
    match kind {
        Kind::Long => long().map(Cell::Long).map_err(Reason::from),
        Kind::Double if number.integer => match long() {
            Ok(long) if (-EXACT..=EXACT).contains(&long) => Ok(Cell::Double(long as f64)),
            _ => Err("which no double holds exactly".into()),
        },
        Kind::Double => number.double().map(Cell::Double).ok_or_else(|| "which is beyond all doubles".into()),
        Kind::Decimal(precision, scale) => decimal(number.text, precision, scale).map(Cell::Decimal),
        Kind::Time(unit) => {
            let factor = if unit == Unit::Millis { 1_000 } else { 1 };
            let micros = long()?.checked_mul(factor).filter(|time| TIMES.contains(time));
            micros.map(Cell::Long).ok_or_else(|| "which as a time is not between the years 1 and 9999".into())
        }
        Kind::Date => {
            let days = i32::try_from(long()?).ok().filter(|days| (-719_162..=2_932_896).contains(days));
            days.map(Cell::Days).ok_or_else(|| "which as a date is not between the years 1 and 9999".into())
        }
        _ => Err("which fits no column".into()),
    }
}

/// The digits of a decimal without its point.
///
/// Errors: it has more digits than the column, before or behind the point; none is rounded away.
fn decimal(text: &str, precision: u8, scale: u8) -> Result<i128, Reason> {
    let too_many = || format!("which has more digits than decimal({precision},{scale})");
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().map_err(|_| "which is no number")?),
        None => (text, 0),
    };
    let (is_negative, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, mantissa),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let fraction = if exponent == 0 { fraction.trim_end_matches('0') } else { fraction };
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return Err("which is no number".into());
    }
    let mut shift = i32::from(scale) + exponent - fraction.len() as i32;
    let mut all: String = [whole, fraction].concat().trim_start_matches('0').to_owned();
    while shift < 0 && all.ends_with('0') {
        all.pop();
        shift += 1;
    }
    if all.is_empty() {
        return Ok(0);
    }
    if shift < 0 || all.len() + shift as usize > usize::from(precision) {
        return Err(too_many().into());
    }
    all.extend(std::iter::repeat_n('0', shift as usize));
    let unscaled: i128 = all.parse().map_err(|_| too_many())?;
    Ok(if is_negative { -unscaled } else { unscaled })
}

/// So much of a value as an error shows.
fn cut(text: &str) -> String {
    match text.char_indices().nth(40) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AROUND: Around<'_> =
        Around { topic: "orders", partition: 1, offset: 7, timestamp_ms: 1_795_824_000_000, key: Some(b"A7"), source: None, seq: None };

    fn refused(documents: &mut Documents, text: &str) -> String {
        documents.push(Some(text.as_bytes()), &AROUND).unwrap_err().into()
    }

    #[test]
    fn a_new_field_is_a_new_column_and_a_changed_type_is_refused() {
        let mut documents =
            Documents::new(&[Column::new("weight", Kind::Double), Column::new("price", Kind::Decimal(6, 2))], &["kafka_date"]);
        let added =
            |documents: &Documents| documents.added().iter().map(|column| format!("{} {}", column.name, column.kind)).collect::<Vec<_>>();
        documents.push(Some(br#"{"id":"A7","count":3,"none":null}"#), &AROUND).unwrap();
        assert_eq!(added(&documents), ["id string", "count long"]);
        // Declared as a double, though it has no fraction.
        documents.push(Some(br#"{"id":"A8","weight":12,"lines":[1, {"a":2}]}"#), &AROUND).unwrap();
        assert_eq!(added(&documents), ["id string", "count long", "weight double", "lines JSON"]);
        let before = (documents.bytes(), documents.columns().len());
        assert_eq!(refused(&mut documents, r#"{"id":5}"#), "field `id` is a number (5), and its column is string");
        assert_eq!(refused(&mut documents, r#"{"count":"3"}"#), "field `count` is a text (\"3\"), and its column is long");
        assert_eq!(refused(&mut documents, r#"{"count":3.5}"#), "field `count` is 3.5, which is no whole number, and its column is long");
        assert_eq!(refused(&mut documents, r#"{"new":1,"count":{}}"#), "field `count` is an object ({}), and its column is long");
        assert!(refused(&mut documents, r#"{"ID":"x"}"#).contains("by case alone"));
        assert!(refused(&mut documents, r#"{"kafka_offset":1}"#).contains("that the table has for itself"));
        assert!(refused(&mut documents, r#"{"a b":1}"#).contains("no table can have"));
        assert!(refused(&mut documents, r#"{"id":"a","id":"b"}"#).contains("twice"));
        assert!(refused(&mut documents, r#"{"id":"#).contains("is no JSON"));
        assert_eq!(refused(&mut documents, "[1]"), "is no object: a document's fields are its columns");
        // The refused ones left nothing behind.
        assert_eq!((documents.bytes(), documents.columns().len()), before);
        documents.push(None, &AROUND).unwrap();
        let (_, day) = documents.days().next().unwrap();
        assert_eq!(day.len(), 3);
        assert_eq!(day.columns(documents.columns().len(), 0..3)[5], [false, false, true].map(|is| Some(Cell::Bool(is))));
    }

    #[test]
    fn no_digit_is_rounded_away() {
        for (text, expected) in [("12.5", 1250), ("-0.01", -1), ("1e2", 10_000), ("1234.50", 123_450), ("0", 0), ("1200e-2", 1200)] {
            assert_eq!(decimal(text, 6, 2), Ok(expected), "{text}");
        }
        for text in ["0.001", "12345.6", "1234567890123456789012345678901234567890", "1e30"] {
            assert!(decimal(text, 6, 2).unwrap_err().contains("more digits"), "{text}");
        }
        let mut documents = Documents::new(&[Column::new("weight", Kind::Double)], &[]);
        assert!(refused(&mut documents, r#"{"weight":9007199254740993}"#).contains("no double holds exactly"));
        assert!(refused(&mut documents, r#"{"n":18446744073709551615}"#).contains("does not fit into 64 bits"));
    }

    #[test]
    fn keys_that_are_values_do_not_become_columns_without_end() {
        let mut documents = Documents::new(&[], &[]);
        for n in 0..MOST_COLUMNS - META.len() {
            documents.push(Some(format!(r#"{{"k{n}":1}}"#).as_bytes()), &AROUND).unwrap();
        }
        assert!(refused(&mut documents, r#"{"one_more":1}"#).contains("are its keys values"));
    }
}
