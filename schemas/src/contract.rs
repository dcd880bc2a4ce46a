//! The contract of a topic: does a document fit its schema, and what are its bytes in the topic's format?
//!
//! ```text
//! schema file ── compile, once ──> Contract
//! document (JSON) ── Contract::fit ──> the value for Kafka, or a Misfit: where, what was found, what is wanted
//! ```
//!
//! | schema | the value |
//! |---|---|
//! | [`Kind::Json`] (2020-12, draft 7 and older) | the document's own bytes, checked |
//! | [`Kind::Avro`] | written from the scanned text, field by field: [`avro`] |
//! | [`Kind::Protobuf`] | likewise, the message indexes in front that registries want there: [`protobuf`] |
//!
//! Invariants: no type is lost, nothing is rounded, nothing is left out: what the schema does not know is a misfit, not dropped. Documents of
//! any size and nesting are read with a bounded stack; what nests deeper than [`crate::scan::DEPTH`] is a misfit.

pub mod avro;
pub mod json;
mod number;
pub mod protobuf;
mod time;

use crate::scan::{Next, ScanError, Scanner};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// The languages schemas are written in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    Avro,
    Json,
    Protobuf,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Avro, Self::Json, Self::Protobuf];

    /// As registries name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Avro => "AVRO",
            Self::Json => "JSON",
            Self::Protobuf => "PROTOBUF",
        }
    }
}

/// A schema as it is registered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schema {
    pub kind: Kind,
    pub text: Arc<str>,
    /// The record's full name, the message's, or the title; empty where it has none.
    pub name: Arc<str>,
    /// Other files it names, each with its own.
    pub references: Vec<Reference>,
    /// What stands between the registry's id and the value: of Protobuf, the message's indexes.
    pub indexes: Box<[u8]>,
}

/// A schema that another one names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    /// As the naming schema has it: `acme.Address`, `acme/address.proto`, `address.schema.json`.
    pub name: Arc<str>,
    pub schema: Arc<Schema>,
}

impl Schema {
    /// That of the samples, in each of its forms.
    pub fn telemetry(kind: Kind) -> Arc<Self> {
        let (text, indexes): (_, &[u8]) = match kind {
            Kind::Avro => (crate::avro::TELEMETRY_SCHEMA, &[]),
            Kind::Json => (crate::json::TELEMETRY_JSON_SCHEMA, &[]),
            Kind::Protobuf => (crate::protobuf::TELEMETRY_PROTO, &[0]),
        };
        Arc::new(Self { kind, text: text.into(), name: "millrace.Sample".into(), references: Vec::new(), indexes: indexes.into() })
    }

    /// A number that stands for this schema in the log: the CRC-64-AVRO of all that is said here; never zero. The telemetry schema in Avro has
    /// the fingerprint of its canonical form.
    pub fn mark(&self) -> u64 {
        if self.kind == Kind::Avro && *self.text == *crate::avro::TELEMETRY_SCHEMA {
            return crate::avro::TELEMETRY_FINGERPRINT;
        }
        let mut crc = Crc64::new();
        self.add_to(&mut crc);
        crc.0.max(1)
    }

    fn add_to(&self, crc: &mut Crc64) {
        for part in [self.kind.as_str().as_bytes(), self.text.as_bytes(), self.name.as_bytes(), &self.indexes] {
            crc.add(&(part.len() as u64).to_le_bytes());
            crc.add(part);
        }
        for reference in &self.references {
            crc.add(reference.name.as_bytes());
            reference.schema.add_to(crc);
        }
    }
}

/// The fingerprint of Avro's specification: CRC-64-AVRO.
struct Crc64(u64);

impl Crc64 {
    const EMPTY: u64 = 0xC15D_213A_A4D7_A795;

    const fn new() -> Self {
        Self(Self::EMPTY)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let mut low = (self.0 ^ u64::from(*byte)) & 0xFF;
            for _ in 0..8 {
                low = (low >> 1) ^ (Self::EMPTY & 0_u64.wrapping_sub(low & 1));
            }
            self.0 = (self.0 >> 8) ^ low;
        }
    }
}

/// What is wrong with a schema, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SchemaError {
    /// The file it names in which it is, where it is not the schema itself.
    pub file: Option<String>,
    /// From one; zero where it is the schema as a whole.
    pub line: usize,
    pub column: usize,
    pub what: String,
}

impl SchemaError {
    fn whole(what: impl Into<String>) -> Self {
        Self { file: None, line: 0, column: 0, what: what.into() }
    }

    fn within(mut self, file: &str) -> Self {
        self.file.get_or_insert_with(|| file.to_owned());
        self
    }

    fn json(error: &serde_json::Error) -> Self {
        let text = error.to_string();
        let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what).to_owned();
        Self { file: None, line: error.line(), column: error.column(), what: format!("is not JSON: {what}") }
    }
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}: ")?;
        }
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for SchemaError {}

/// Reads a file that a schema names, by the name it has there; `None`: there is none.
pub type Files<'f> = dyn FnMut(&str) -> Option<String> + 'f;

/// Why a document does not fit, and at which place of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Misfit {
    /// Keys and indexes, innermost first.
    path: Vec<Step>,
    /// The byte, where it is known.
    at: Option<usize>,
    what: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    Key(Box<str>),
    Index(usize),
}

/// Keys and indexes of a place that are shown.
const STEPS: usize = 32;
/// Texts of a document are cut to this many bytes where they are shown.
const SHOWN: usize = 80;

impl Misfit {
    fn new(what: impl Into<String>) -> Box<Self> {
        Box::new(Self { path: Vec::new(), at: None, what: what.into() })
    }

    fn at(scanner: &Scanner<'_>, what: impl Into<String>) -> Box<Self> {
        Box::new(Self { path: Vec::new(), at: Some(scanner.at()), what: what.into() })
    }

    /// "expected .., found ..", with a piece of what stands there.
    fn expected(scanner: &Scanner<'_>, wanted: impl fmt::Display) -> Box<Self> {
        let mut probe = *scanner;
        match probe.skip() {
            Ok(text) => {
                let start = probe.at() - text.len();
                Box::new(Self { path: Vec::new(), at: Some(start), what: format!("expected {wanted}, found {}", shown(text)) })
            }
            Err(error) => error.into(),
        }
    }

    fn in_key(mut self: Box<Self>, key: &str) -> Box<Self> {
        self.path.push(Step::Key(cut(key).into()));
        self
    }

    fn in_item(mut self: Box<Self>, index: usize) -> Box<Self> {
        self.path.push(Step::Index(index));
        self
    }

    /// As a JSON pointer; empty for the document as a whole. Only the beginning of a very deep one.
    pub fn path(&self) -> String {
        let mut path = String::new();
        for (depth, step) in self.path.iter().rev().enumerate() {
            path.push('/');
            if depth == STEPS {
                path.push_str("...");
                break;
            }
            match step {
                Step::Key(key) => path.push_str(&key.replace('~', "~0").replace('/', "~1")),
                Step::Index(index) => path.push_str(&index.to_string()),
            }
        }
        path
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path();
        match (path.as_str(), self.at) {
            ("", None) => {}
            ("", Some(at)) => write!(f, "byte {at}: ")?,
            (path, None) => write!(f, "{path}: ")?,
            (path, Some(at)) => write!(f, "{path} (byte {at}): ")?,
        }
        f.write_str(&self.what)
    }
}

impl std::error::Error for Misfit {}

impl From<ScanError> for Box<Misfit> {
    fn from(error: ScanError) -> Self {
        Box::new(Misfit { path: Vec::new(), at: Some(error.at), what: format!("is not JSON: {}", error.what) })
    }
}

/// The beginning of a text, for a message.
fn cut(text: &str) -> &str {
    let end = (0..=SHOWN.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

fn shown(text: &str) -> Cow<'_, str> {
    let beginning = cut(text);
    if beginning.len() < text.len() { format!("{beginning}...").into() } else { beginning.into() }
}

/// Buffers of a conversion, used again and again.
#[derive(Default)]
pub struct Work {
    /// Where the fields of the records at hand lie in the output.
    pieces: Vec<Piece>,
    /// What is put into another order.
    spare: Vec<u8>,
    /// Unescaped texts, decoded bytes.
    text: Vec<u8>,
    /// How many records, arrays and defaults the writer is in.
    depth: u16,
}

#[derive(Clone, Copy)]
struct Piece {
    field: u32,
    start: usize,
    end: usize,
}

impl Work {
    fn clear(&mut self) {
        self.pieces.clear();
        self.spare.clear();
        self.text.clear();
        self.depth = 0;
    }
}

/// A compiled schema.
#[derive(Debug)]
pub struct Contract {
    schema: Arc<Schema>,
    rules: Rules,
}

#[derive(Debug)]
enum Rules {
    Avro(avro::Avro),
    Json(json::JsonSchema),
    Protobuf(protobuf::Message),
}

impl Contract {
    /// Compiles a schema. `files` is asked for the files it names; `name` chooses a message of a Protobuf file, else it is the first.
    ///
    /// Errors: the place, and what is wrong there: syntax, a reference that isn't there, a default that does not fit.
    pub fn compile(kind: Kind, text: &str, name: Option<&str>, files: &mut Files<'_>) -> Result<Self, SchemaError> {
        let (schema, rules) = match kind {
            Kind::Avro => {
                let (schema, avro) = avro::compile(text, files)?;
                (schema, Rules::Avro(avro))
            }
            Kind::Json => {
                let (schema, json) = json::compile(text, files)?;
                (schema, Rules::Json(json))
            }
            Kind::Protobuf => {
                let (schema, message) = protobuf::compile(text, name, files)?;
                (schema, Rules::Protobuf(message))
            }
        };
        Ok(Self { schema: Arc::new(schema), rules })
    }

    pub fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Checks a JSON document and appends its value in the topic's format to `out`; after a misfit `out` is as before.
    pub fn fit(&self, document: &[u8], out: &mut Vec<u8>, work: &mut Work) -> Result<(), Box<Misfit>> {
        let start = out.len();
        work.clear();
        let outcome = match &self.rules {
            Rules::Json(json) => {
                json.check(document)?;
                out.extend_from_slice(document);
                return Ok(());
            }
            Rules::Avro(avro) => read_all(document, |scanner| avro.write(scanner, out, work)),
            Rules::Protobuf(message) => {
                out.extend_from_slice(&self.schema.indexes);
                read_all(document, |scanner| message.write(scanner, out, work))
            }
        };
        if outcome.is_err() {
            out.truncate(start);
        }
        outcome
    }
}

impl Contract {
    /// What a value in the topic's format says, as JSON for a person; `None` where the bytes are no such value, or in Protobuf.
    pub fn show(&self, value: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        match &self.rules {
            Rules::Avro(avro) => avro.show(value, &mut out)?,
            Rules::Json(_) => out.extend_from_slice(value),
            Rules::Protobuf(_) => return None,
        }
        String::from_utf8(out).ok()
    }
}

impl Contract {
    /// Appends a value that was written with another Avro schema as this one has it; `None` where it is no such value, or means nothing here.
    pub fn resolve(&self, writer: &Self, value: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let start = out.len();
        let resolved = match (&self.rules, &writer.rules) {
            (Rules::Avro(reader), Rules::Avro(writer)) => reader.resolve(writer, value, out),
            _ => None,
        };
        if resolved.is_none() {
            out.truncate(start);
        }
        resolved
    }
}

fn read_all(document: &[u8], write: impl FnOnce(&mut Scanner<'_>) -> Result<(), Box<Misfit>>) -> Result<(), Box<Misfit>> {
    let mut scanner = Scanner::new(document)?;
    write(&mut scanner)?;
    Ok(scanner.end()?)
}

/// Zigzag, seven bits a byte, lowest first.
fn push_long(out: &mut Vec<u8>, value: i64) {
    push_varint(out, (value << 1 ^ value >> 63) as u64);
}

fn push_varint(out: &mut Vec<u8>, mut rest: u64) {
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Puts in front of what was written from `start` on what `write` appends.
fn insert(out: &mut Vec<u8>, start: usize, write: impl FnOnce(&mut Vec<u8>)) {
    let end = out.len();
    write(out);
    let len = out.len() - end;
    out[start..].rotate_right(len);
}

/// A text's bytes, unescaped, into the work's buffer; base64 where bytes are wanted.
fn base64_of<'w>(scanner: &mut Scanner<'_>, work: &'w mut Work, wanted: &str) -> Result<&'w [u8], Box<Misfit>> {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};
    if scanner.peek()? != Next::Text {
        return Err(Misfit::expected(scanner, wanted));
    }
    let before = *scanner;
    let text = scanner.text()?.cow();
    work.text.clear();
    let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    engine.decode_vec(text.as_bytes(), &mut work.text).map_err(|_| Misfit::expected(&before, format!("{wanted} in base64")))?;
    Ok(&work.text)
}

/// Reads any text as a schema of each language, and a document against what comes of it; for the fuzzer.
#[doc(hidden)]
pub fn fuzz_schema(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for kind in Kind::ALL {
        if let Ok(contract) = Contract::compile(kind, text, None, &mut |_| None) {
            let _ = contract.fit(b"{\"a\":[1,{\"b\":\"x\"}]}", &mut Vec::new(), &mut Work::default());
        }
    }
}

/// Reads any bytes as a document of each language; for the fuzzer.
#[doc(hidden)]
pub fn fuzz_document(bytes: &[u8]) {
    static CONTRACTS: std::sync::LazyLock<Vec<Contract>> = std::sync::LazyLock::new(|| {
        const AVRO: &str = r#"{"type":"record","name":"R","fields":[
            {"name":"id","type":"string"},
            {"name":"price","type":["null",{"type":"bytes","logicalType":"decimal","precision":12,"scale":3}],"default":null},
            {"name":"at","type":["null",{"type":"long","logicalType":"timestamp-micros"},"string"],"default":null},
            {"name":"next","type":["null","R",{"type":"map","values":"double"}],"default":null},
            {"name":"items","type":{"type":"array","items":["int","bytes","R"]},"default":[]}]}"#;
        const JSON: &str = r##"{"type":"object","required":["id"],"properties":{"id":{"type":"string","pattern":"^[a-z]+$"},"next":{"$ref":"#"},
            "items":{"type":"array","uniqueItems":true,"items":{"type":["integer","string"]}}}}"##;
        const PROTOBUF: &str = "syntax = \"proto3\"; message R { string id = 1; R next = 2; repeated sint64 items = 3; map<int32, double> map = 4; \
            oneof v { bytes b = 5; float f = 6; } enum E { A = 0; B = 1; } repeated E es = 7; }";
        let compile = |(kind, text)| Contract::compile(kind, text, None, &mut |_| None).expect("is a schema");
        [(Kind::Avro, AVRO), (Kind::Json, JSON), (Kind::Protobuf, PROTOBUF)].map(compile).into()
    });
    for contract in CONTRACTS.iter() {
        let mut out = Vec::new();
        if contract.fit(bytes, &mut out, &mut Work::default()).is_err() {
            assert!(out.is_empty(), "a misfit leaves nothing behind");
        }
    }
}

/// Reads any bytes as what another version of a schema wrote; for the fuzzer.
#[doc(hidden)]
pub fn fuzz_resolved(bytes: &[u8]) {
    static SCHEMAS: std::sync::LazyLock<[Contract; 2]> = std::sync::LazyLock::new(|| {
        const WRITER: &str = r#"{"type":"record","name":"R","fields":[
            {"name":"items","type":{"type":"array","items":["int","bytes","R"]}},
            {"name":"id","type":"string"},
            {"name":"kind","type":{"type":"enum","name":"K","symbols":["B","A"]}},
            {"name":"gone","type":{"type":"map","values":"float"}},
            {"name":"next","type":["R","null"]}]}"#;
        const READER: &str = r#"{"type":"record","name":"R","fields":[
            {"name":"id","type":"bytes"},
            {"name":"kind","type":{"type":"enum","name":"K","symbols":["A","C"],"default":"C"}},
            {"name":"next","type":["null","R"],"default":null},
            {"name":"price","type":["null","double"],"default":null},
            {"name":"items","type":{"type":"array","items":["double","bytes","R"]},"default":[]}]}"#;
        [WRITER, READER].map(|text| Contract::compile(Kind::Avro, text, None, &mut |_| None).expect("is a schema"))
    });
    let [writer, reader] = &*SCHEMAS;
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    match reader.resolve(writer, bytes, &mut once) {
        Some(()) => {
            assert!(reader.resolve(reader, &once, &mut twice).is_some(), "what was resolved is a value of the reader's");
            assert_eq!(once, twice);
        }
        None => assert!(once.is_empty(), "what means nothing leaves nothing behind"),
    }
}
