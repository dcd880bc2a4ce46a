//! What an import makes: tags for `tags_from`, and what was left out, line by line.

use millrace_config::Reason;
use millrace_s7::address::Address;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fmt;

/// What reads a tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    S7,
    Modbus,
    OpcUa,
}

impl Protocol {
    pub const fn name(self) -> &'static str {
        match self {
            Self::S7 => "s7",
            Self::Modbus => "modbus",
            Self::OpcUa => "opcua",
        }
    }

    const fn address_key(self) -> &'static str {
        match self {
            Self::OpcUa => "node",
            Self::S7 | Self::Modbus => "address",
        }
    }
}

/// One row of the table.
#[derive(Clone, PartialEq, Debug)]
pub struct Tag {
    pub name: String,
    pub protocol: Protocol,
    pub address: String,
    /// `as`, where the address does not say the type.
    pub kind: String,
    pub unit: String,
    pub raw: Option<[f64; 2]>,
    pub eu: Option<[f64; 2]>,
    pub description: String,
}

impl Tag {
    pub fn new(name: impl Into<String>, protocol: Protocol, address: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            protocol,
            address: address.into(),
            kind: String::new(),
            unit: String::new(),
            raw: None,
            eu: None,
            description: String::new(),
        }
    }

    /// An S7 tag, its address checked and written as TIA writes it. Errors: why it is none.
    pub fn s7(name: &str, address: &str, kind: Option<&str>) -> Result<Self, Reason> {
        let address = Address::parse(address, kind).map_err(|error| error.to_string())?;
        Ok(Self::new(name, Protocol::S7, address.to_string()))
    }

    pub fn describe(mut self, description: &str) -> Self {
        self.description = description.split_whitespace().collect::<Vec<_>>().join(" ");
        self
    }
}

/// A line that was not taken.
#[derive(Clone, PartialEq, Debug)]
pub struct Skipped {
    /// From 1; 0 where the format has no lines.
    pub line: usize,
    pub what: String,
    pub why: String,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.what, self.why),
            line => write!(f, "line {line}: {}: {}", self.what, self.why),
        }
    }
}

/// What stands in a column.
type Cell = Box<dyn Fn(&Tag) -> String>;

/// The outcome of an import.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Imported {
    pub tags: Vec<Tag>,
    pub skipped: Vec<Skipped>,
    /// What a person must know or decide.
    pub notes: Vec<String>,
    by_name: HashMap<String, usize>,
}

impl Imported {
    /// Takes a tag, unless its name is empty or was there before.
    pub fn take(&mut self, line: usize, name: &str, tag: Result<Tag, Reason>) {
        let tag = match tag {
            Ok(tag) => tag,
            Err(why) => return self.skip(line, name, why),
        };
        if tag.name.split('/').any(|level| level.trim().is_empty()) {
            return self.skip(line, name, "the name has an empty level");
        }
        if let Some(protocol) = self.tags.first().map(|tag| tag.protocol).filter(|protocol| *protocol != tag.protocol) {
            return self.skip(line, name, format!("it is read by {}, and this table is for {}", tag.protocol.name(), protocol.name()));
        }
        match self.by_name.insert(tag.name.clone(), line) {
            None => self.tags.push(tag),
            Some(earlier) => {
                self.by_name.insert(tag.name.clone(), earlier);
                self.skip(line, name, format!("the name was there before, in line {earlier}"));
            }
        }
    }

    pub fn skip(&mut self, line: usize, what: &str, why: impl Into<String>) {
        let what = what.trim().chars().take(80).collect::<String>();
        let what = if what.is_empty() { "no name".into() } else { format!("`{what}`") };
        self.skipped.push(Skipped { line, what, why: why.into() });
    }

    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// The table, with the columns that have something in them.
    pub fn table(&self) -> String {
        let address = self.tags.first().map_or("address", |tag| tag.protocol.address_key());
        let range = |range: &Option<[f64; 2]>| range.map_or_else(String::new, |[low, high]| format!("[{low}, {high}]"));
        let columns: [(&str, Cell); 7] = [
            ("name", Box::new(|tag| tag.name.clone())),
            (address, Box::new(|tag| tag.address.clone())),
            ("as", Box::new(|tag| tag.kind.clone())),
            ("raw", Box::new(move |tag| range(&tag.raw))),
            ("eu", Box::new(move |tag| range(&tag.eu))),
            ("unit", Box::new(|tag| tag.unit.clone())),
            ("description", Box::new(|tag| tag.description.clone())),
        ];
        let has = |cell: &dyn Fn(&Tag) -> String| self.tags.iter().any(|tag| !cell(tag).is_empty());
        let used: Vec<_> =
            columns.iter().enumerate().filter(|(index, (_, cell))| *index < 2 || has(cell)).map(|(_, column)| column).collect();
        let mut out = used.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(",") + "\n";
        for tag in &self.tags {
            out += &used.iter().map(|(_, cell)| quoted(&cell(tag))).collect::<Vec<_>>().join(",");
            out.push('\n');
        }
        out
    }

    pub fn json(&self) -> Value {
        let skipped = |skipped: &Skipped| json!({"line": skipped.line, "what": skipped.what.trim_matches('`'), "why": skipped.why});
        json!({"tags": self.tags.len(), "skipped": self.skipped.iter().map(skipped).collect::<Vec<_>>(), "notes": self.notes})
    }
}

fn quoted(cell: &str) -> String {
    if cell.contains([',', '"', '\n', ';', '\t']) || cell.starts_with('#') || cell.trim() != cell {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}
