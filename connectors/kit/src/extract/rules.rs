//! What a text or a scalar becomes: numbers with a decimal comma, markers of nothing, words that stand for values, declared types.
//!
//! ```text
//! text -> map (ON: true) -> nulls (---) -> the declared type, else the type it reads as
//! ```
//!
//! | declared `as` | `22.5` | `x` | an empty cell |
//! |---|---|---|---|
//! | nothing | a number | a text | null, BadNoData |
//! | `number`, `double`, `long`, `boolean` | of that type, exactly | null, BadTypeMismatch | null, BadNoData |
//! | `string` | a text | a text | an empty text |
//!
//! Without a declared type the first value of a tag settles whether it is a number, a text or a boolean ([`FirstTypes`]).
//! A tag with `scale`, `min`, `max` or their like is a number in any case.
//! Invariants: no number is rounded but by `as: double`; a text that is only almost a number (`1,2,3`, `1.23,4`) is none.

use super::extracted::Own;
use super::status::meaning;
use crate::time::cut;
use millrace_config::{Kind as NodeKind, Node, Problems, Reason, Short, Shorthand, Spanned};
use millrace_contract::{CommandValue, TagOptions, Tagged};
use millrace_schemas::{Batch, StatusCode, TagId, Value};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// One tag out of a record.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SampleConfig {
    /// Where its value stands: the JSON Pointer (`""` is the whole payload), or the name of the column. Of several pointers the one that is there
    /// counts: `[/v, /vs, /vb]`.
    pub at: super::Places,
    /// The type of the value: `number`, `long`, `double`, `boolean` or `string`. What is not of that type is null, BadTypeMismatch. Left out: a
    /// JSON value has its own type, a cell is a number where it reads as one, else a text; the first value settles which, and a later one that
    /// differs is bad. A tag with `scale`, `offset`, `raw`, `eu`, `min` or `max` is a `number`.
    #[serde(default, rename = "as")]
    pub declared: Option<CellType>,
    /// Values that stand for none, as in `["---", "#N/A", "-9999"]`: null, BadNoData; or each with its status, as in
    /// `{"I/O Timeout": 0x80310000, "---": bad}`. They replace those of the source.
    #[serde(default)]
    pub nulls: Option<Nulls>,
    /// What words and numbers stand for, as in `{ON: true, OFF: false}`: booleans, numbers, texts or null.
    #[serde(default)]
    pub map: Option<ValueMap>,
}

impl Shorthand for SampleConfig {
    const KEY: &'static str = "at";
}

/// Names of tags, and where their values stand.
pub type SamplesConfig = BTreeMap<String, Spanned<Tagged<Short<SampleConfig>>>>;

/// What a record without a sample's value means.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// A sample without value, status BadNotFound, after `bad_after`.
    #[default]
    Bad,
    /// Nothing: the device sends only what changed.
    Skip,
}

/// The type that a value is declared to have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CellType {
    Boolean,
    /// A long or a double, as it is written.
    Number,
    /// An integer of 64 bits, signed or unsigned.
    Long,
    Double,
    String,
}

impl CellType {
    const fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::Number => "number that fits 64 bits or a double",
            Self::Long => "integer of 64 bits",
            Self::Double => "number that fits a double",
            Self::String => "text",
        }
    }
}

/// Texts that stand for no value, and the status of that.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Nulls(Arc<[(Box<str>, StatusCode)]>);

impl<'de> Deserialize<'de> for Nulls {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(deserializer)?;
        if let NodeKind::Map(entries) = &node.kind {
            let texts = entries.iter().map(|entry| {
                let status = entry.value.text().and_then(|text| meaning(text.as_str())).filter(|status| !status.is_good());
                let status = status.ok_or_else(|| {
                    let found = entry.value.text().map_or("", |text| text.as_str());
                    D::Error::custom(format!("`{}: {found}` must be bad, uncertain or an OPC UA status code that is not good", entry.key))
                })?;
                Ok((Box::from(entry.key.trim()), status))
            });
            return texts.collect::<Result<Vec<_>, _>>().map(|texts| Self(texts.into()));
        }
        let NodeKind::Seq(items) = &node.kind else {
            return Err(D::Error::custom(format!(
                "expected a list of texts as in [\"---\", \"-9999\"], or texts with their statuses, found {}",
                node.describe()
            )));
        };
        let texts = items.iter().map(|item| item.text().map(|text| (Box::from(text.as_str().trim()), StatusCode::BAD_NO_DATA)));
        texts
            .collect::<Option<Vec<_>>>()
            .map(|texts| Self(texts.into()))
            .ok_or_else(|| D::Error::custom("`nulls` holds texts and numbers only"))
    }
}

impl JsonSchema for Nulls {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Nulls".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({"anyOf": [
            {"type": "array", "items": {"type": ["string", "number"]}},
            {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
        ]})
    }
}

/// What words stand for.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ValueMap(Arc<BTreeMap<Box<str>, Meaning>>);

#[derive(Clone, PartialEq, Debug)]
enum Meaning {
    Null,
    Bool(bool),
    Number(Value),
    Text(Box<str>),
}

impl ValueMap {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The word that stands for a value; of several the first by the alphabet. `None`: no word does.
    pub fn word_of(&self, value: &CommandValue) -> Option<&str> {
        let is_meant = |meaning: &Meaning| match (meaning, value) {
            (Meaning::Bool(flag), CommandValue::Bool(wanted)) => flag == wanted,
            (Meaning::Text(text), CommandValue::Text(wanted)) => **text == **wanted,
            (Meaning::Number(Value::Int(number)), CommandValue::Int(wanted)) => number == wanted,
            (Meaning::Number(Value::UInt(number)), CommandValue::UInt(wanted)) => number == wanted,
            (Meaning::Number(Value::Int(number)), CommandValue::Double(wanted)) => *number as f64 == *wanted,
            (Meaning::Number(Value::Double(number)), CommandValue::Int(wanted)) => *number == *wanted as f64,
            (Meaning::Number(Value::Double(number)), CommandValue::Double(wanted)) => number == wanted,
            _ => false,
        };
        self.0.iter().find(|(_, meaning)| is_meant(meaning)).map(|(word, _)| &**word)
    }
}

impl<'de> Deserialize<'de> for ValueMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(deserializer)?;
        let NodeKind::Map(entries) = &node.kind else {
            return Err(D::Error::custom(format!("expected words and what they stand for, as in {{ON: true}}, found {}", node.describe())));
        };
        let meanings = entries.iter().map(|entry| {
            let text = entry.value.text().map(|text| text.as_str());
            let meaning = match (&entry.value.kind, text) {
                (NodeKind::Null, _) => Some(Meaning::Null),
                (NodeKind::Bool(_), _) => entry.value.as_bool().map(Meaning::Bool),
                (NodeKind::Int(_) | NodeKind::Float(_), Some(text)) => number_of(text).map(Meaning::Number),
                (_, Some(text)) => Some(Meaning::Text(text.into())),
                _ => None,
            };
            let meaning =
                meaning.ok_or_else(|| D::Error::custom(format!("`{}` must stand for a boolean, a number, a text or null", entry.key)))?;
            Ok((Box::from(entry.key.trim()), meaning))
        });
        meanings.collect::<Result<BTreeMap<_, _>, _>>().map(|map| Self(Arc::new(map)))
    }
}

impl JsonSchema for ValueMap {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "ValueMap".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({"type": "object", "additionalProperties": {"type": ["boolean", "number", "string", "null"]}})
    }
}

/// How numbers are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Notation {
    pub decimal: char,
    /// Between groups of three digits, where there is something.
    pub grouping: Option<char>,
}

impl Default for Notation {
    fn default() -> Self {
        Self { decimal: '.', grouping: None }
    }
}

impl Notation {
    /// Checks the keys `decimal` and `grouping`.
    pub fn compile(decimal: Option<&Spanned<String>>, grouping: Option<&Spanned<String>>, problems: &mut Problems) -> Self {
        let sign = |text: Option<&Spanned<String>>, key: &str, allowed: &[char], problems: &mut Problems| {
            let text = text?;
            let mut chars = text.chars();
            match (chars.next(), chars.next()) {
                (Some(char), None) if allowed.contains(&char) => Some(char),
                _ => {
                    let list: Vec<_> = allowed.iter().take(4).map(|char| format!("\"{char}\"")).collect();
                    problems.error(text.place, format!("`{key}` is one of {}, not {:?}", list.join(", "), text.value));
                    None
                }
            }
        };
        let said = Self {
            decimal: sign(decimal, "decimal", &['.', ','], problems).unwrap_or('.'),
            grouping: sign(grouping, "grouping", &['.', ',', ' ', '\'', '_', '\u{A0}', '\u{202F}', '\u{2019}'], problems),
        };
        if let (Some(char), Some(text)) = (said.grouping, grouping)
            && char == said.decimal
        {
            problems
                .error(text.place, format!("`grouping` and `decimal` are both \"{char}\""))
                .help("with grouping: \".\" goes decimal: \",\"");
        }
        said
    }

    /// Reads a number as it is written here.
    pub fn number(&self, text: &str) -> Option<Value> {
        let text = text.trim();
        if *self == Self::default() {
            return number_of(text);
        }
        number_of(&self.plain(text)?)
    }

    /// The number as everybody else writes it; `None` where a sign stands where it can't.
    pub fn plain(&self, text: &str) -> Option<String> {
        let (whole, fraction) = match text.split_once(self.decimal) {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (text, None),
        };
        let is_group = |char: char| match self.grouping {
            Some(' ') => matches!(char, ' ' | '\u{A0}' | '\u{202F}'),
            Some('\'') => matches!(char, '\'' | '\u{2019}'),
            Some(grouping) => char == grouping,
            None => false,
        };
        let digits = whole.strip_prefix(['+', '-']).unwrap_or(whole);
        let mut plain = whole[..whole.len() - digits.len()].to_owned();
        for (n, group) in digits.split(is_group).enumerate() {
            if digits.contains(is_group) && (n > 0 && group.len() != 3 || n == 0 && !(1..=3).contains(&group.len())) {
                return None;
            }
            plain.push_str(group);
        }
        if let Some(fraction) = fraction {
            plain.push('.');
            plain.push_str(fraction);
        }
        // What is left of other signs (`1.234` with a decimal comma) is no part of a number.
        let signs = plain.matches('.').count();
        (signs == usize::from(fraction.is_some())).then_some(plain)
    }
}

/// All that is declared about one value.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rules {
    pub declared: Option<CellType>,
    pub notation: Notation,
    pub nulls: Nulls,
    pub map: ValueMap,
}

impl Rules {
    /// The rules of one tag: its own keys, over those of its source.
    pub fn of(config: &SampleConfig, options: &TagOptions, notation: Notation, nulls: Option<&Nulls>) -> Self {
        let is_numeric = options.scale.is_some()
            || options.offset.is_some()
            || options.raw.is_some()
            || options.eu.is_some()
            || options.min.is_some()
            || options.max.is_some();
        Self {
            declared: config.declared.or(is_numeric.then_some(CellType::Number)),
            notation,
            nulls: config.nulls.as_ref().or(nulls).cloned().unwrap_or_default(),
            map: config.map.clone().unwrap_or_default(),
        }
    }

    /// Nothing is declared: values are what they are.
    pub fn is_plain(&self) -> bool {
        self.declared.is_none() && self.nulls.0.is_empty() && self.map.0.is_empty()
    }

    /// What `map` and `nulls` say of a text. `None`: nothing.
    pub fn word(&self, text: &str, batch: &mut Batch) -> Option<(Value, StatusCode)> {
        self.listed(text.trim(), batch).map(|own| (own.value, own.status))
    }

    fn listed(&self, text: &str, batch: &mut Batch) -> Option<Own> {
        if let Some(meaning) = self.map.0.get(text) {
            return Some(match meaning {
                Meaning::Null => Own::null(),
                Meaning::Bool(flag) => Own::good(Value::Bool(*flag)),
                Meaning::Number(number) => Own::good(*number),
                Meaning::Text(text) => Own::good(batch.text(text)),
            });
        }
        let null = self.nulls.0.iter().find(|(null, _)| **null == *text);
        null.map(|(_, status)| Own { status: *status, ..Own::null() })
    }

    /// Reads the text of a cell.
    pub(super) fn cell(&self, text: &str, batch: &mut Batch) -> Own {
        let trimmed = text.trim();
        if let Some(own) = self.listed(trimmed, batch) {
            return own;
        }
        if trimmed.is_empty() && self.declared != Some(CellType::String) {
            return Own::null();
        }
        if self.declared.is_some() {
            return self.typed(text, batch);
        }
        let number = if has_leading_zero(trimmed) { None } else { self.notation.number(trimmed) };
        match number.filter(|value| !matches!(value, Value::Double(double) if !double.is_finite())) {
            Some(number) => Own::good(number),
            None => Own::good(batch.text(text)),
        }
    }

    /// Reads a text of JSON.
    pub(super) fn text(&self, text: &str, batch: &mut Batch) -> Own {
        if let Some(own) = self.listed(text.trim(), batch) {
            return own;
        }
        match self.declared {
            None => Own::good(batch.text(text)),
            Some(_) if text.trim().is_empty() && self.declared != Some(CellType::String) => Own::null(),
            Some(_) => self.typed(text, batch),
        }
    }

    /// Reads a number or boolean of JSON, `text` being how it is written.
    pub(super) fn scalar(&self, value: Value, text: &str, batch: &mut Batch) -> Own {
        if let Some(own) = self.listed(text, batch) {
            return own;
        }
        let fits = match (self.declared, value) {
            (None, _) | (Some(CellType::Number), Value::Int(_) | Value::UInt(_) | Value::Double(_)) => Some(value),
            (Some(CellType::Double), Value::Int(int)) => Some(Value::Double(int as f64)),
            (Some(CellType::Double), Value::UInt(uint)) => Some(Value::Double(uint as f64)),
            (Some(CellType::Double), Value::Double(_)) => Some(value),
            (Some(CellType::Long), Value::Int(_) | Value::UInt(_)) => Some(value),
            (Some(CellType::Long), Value::Double(double)) if double.fract() == 0.0 && double.abs() < 9_007_199_254_740_992.0 => {
                Some(Value::Int(double as i64))
            }
            (Some(CellType::Boolean), Value::Bool(_)) => Some(value),
            (Some(CellType::Boolean), Value::Int(bit @ (0 | 1))) => Some(Value::Bool(bit == 1)),
            (Some(CellType::String), _) => Some(batch.text(text)),
            _ => None,
        };
        fits.map_or_else(|| self.mismatch(text), Own::good)
    }

    fn typed(&self, text: &str, batch: &mut Batch) -> Own {
        let trimmed = text.trim();
        let Some(declared) = self.declared else { return Own::good(batch.text(text)) };
        let value = match (declared, self.notation.number(trimmed)) {
            (CellType::String, _) => Some(batch.text(text)),
            (CellType::Boolean, _) => match trimmed {
                "1" => Some(Value::Bool(true)),
                "0" => Some(Value::Bool(false)),
                _ if trimmed.eq_ignore_ascii_case("true") => Some(Value::Bool(true)),
                _ if trimmed.eq_ignore_ascii_case("false") => Some(Value::Bool(false)),
                _ => None,
            },
            // `nan` as a text is a device's way to say that it has no value.
            (_, Some(Value::Double(double))) if double.is_nan() => {
                return Own { why: Some(format!("`{}` is not a number", cut(trimmed)).into()), ..Own::null() };
            }
            (_, Some(Value::Double(double))) if double.is_infinite() => None,
            (CellType::Long, Some(value @ (Value::Int(_) | Value::UInt(_)))) => Some(value),
            (CellType::Number, value) => value,
            (CellType::Double, Some(value @ Value::Double(_))) => Some(value),
            (CellType::Double, Some(Value::Int(_) | Value::UInt(_))) => {
                let plain = if self.notation == Notation::default() { Some(trimmed.to_owned()) } else { self.notation.plain(trimmed) };
                plain.and_then(|plain| plain.parse().ok()).map(Value::Double)
            }
            _ => None,
        };
        value.map_or_else(|| self.mismatch(trimmed), Own::good)
    }

    fn mismatch(&self, text: &str) -> Own {
        let name = self.declared.map_or("value", CellType::name);
        let why = format!("`{}` is not a {name}", cut(text));
        Own { value: Value::Null, status: StatusCode::BAD_TYPE_MISMATCH, why: Some(why.replace("a integer", "an integer").into()) }
    }
}

/// Reads a payload that is one number: `23.5`, ` 42 `, `NaN`.
///
/// Shape: without fraction and exponent an `Int` (above 2^63 - 1 a `UInt`), else a `Double`.
/// Errors: one line for a person, with the value.
pub fn number(payload: &[u8], notation: Notation) -> Result<Value, Reason> {
    let text = std::str::from_utf8(payload).map_err(|_| "the payload is not a number: it is not even text".to_owned())?;
    let text = text.trim_matches(|char: char| char.is_whitespace() || char == '\0' || char == '\u{FEFF}');
    notation.number(text).ok_or_else(|| {
        match text {
            "" => "the payload is not a number: it is empty".to_owned(),
            text if text.contains(',') && notation.decimal != ',' => {
                format!("the payload `{}` is not a number: a decimal comma or a list; set `decimal: \",\"` for a decimal comma", cut(text))
            }
            text if text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b)) => {
                format!("the payload `{}` is not a number that fits 64 bits or a double", cut(text))
            }
            text => format!("the payload `{}` is not a number", cut(text)),
        }
        .into()
    })
}

pub(super) fn number_of(text: &str) -> Option<Value> {
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

fn has_leading_zero(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text).as_bytes();
    digits.len() > 1 && digits[0] == b'0' && digits[1].is_ascii_digit()
}

/// Reads a payload that is one text. Errors: it is not UTF-8.
pub fn text(payload: &[u8], batch: &mut Batch) -> Result<Value, Reason> {
    match std::str::from_utf8(payload) {
        Ok(text) => Ok(batch.text(text)),
        Err(error) => Err(format!("the payload is not UTF-8 text: byte {}; set its `encoding`", error.valid_up_to()).into()),
    }
}

/// What each tag turned out to be where no type is declared: a number, a text or a boolean. A byte a tag.
#[derive(Clone, Debug, Default)]
pub struct FirstTypes(Vec<u8>);

impl FirstTypes {
    /// Settles the type of a tag with its first value. Errors: this value is of another one, with both.
    pub fn hold(&mut self, tag: TagId, value: Value) -> Result<(), Reason> {
        const NAMES: [&str; 4] = ["", "a number", "a text", "a boolean"];
        let class = match value {
            Value::Int(_) | Value::UInt(_) | Value::Double(_) => 1,
            Value::Text(_) => 2,
            Value::Bool(_) => 3,
            Value::Null | Value::Bytes(_) | Value::Array(..) | Value::Struct(_) => return Ok(()),
        };
        let index = tag.0 as usize;
        if index >= self.0.len() {
            self.0.resize(index + 1, 0);
        }
        match self.0[index] {
            0 => {
                self.0[index] = class;
                Ok(())
            }
            held if held == class => Ok(()),
            held => {
                Err(format!("{} where the tag began as {}; declare its type with `as`", NAMES[class as usize], NAMES[held as usize]).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(rules: &Rules, text: &str) -> String {
        let mut batch = Batch::new();
        let own = rules.cell(text, &mut batch);
        let value = match own.value {
            Value::Text(span) => format!("{:?}", batch.text_of(span)),
            value => format!("{value:?}"),
        };
        format!("{value}{}", own.why.map_or_else(String::new, |why| format!(" {why}")))
    }

    fn rules(declared: Option<CellType>, decimal: char, grouping: Option<char>) -> Rules {
        Rules { declared, notation: Notation { decimal, grouping }, ..Rules::default() }
    }

    #[test]
    fn a_decimal_comma_and_groups_are_read_only_as_declared() {
        let comma = rules(Some(CellType::Double), ',', None);
        assert_eq!(cell(&comma, "1,5"), "Double(1.5)");
        assert_eq!(cell(&comma, "-7"), "Double(-7.0)");
        for wrong in ["1.234", "1,2,3", "1.234,5", "1 234,5"] {
            assert!(cell(&comma, wrong).starts_with("Null `"), "{wrong}: {}", cell(&comma, wrong));
        }
        for (grouping, text) in [('.', "1.234,5"), (' ', "1 234,5"), (' ', "1\u{A0}234,5"), ('\'', "1'234,5"), ('\'', "1\u{2019}234,5")] {
            assert_eq!(cell(&rules(Some(CellType::Double), ',', Some(grouping)), text), "Double(1234.5)", "{text}");
        }
        let english = rules(Some(CellType::Number), '.', Some(','));
        assert_eq!(cell(&english, "1,234,567"), "Int(1234567)");
        assert_eq!(cell(&english, "12,34"), "Null `12,34` is not a number that fits 64 bits or a double");
        let undeclared = rules(None, ',', None);
        assert_eq!(cell(&undeclared, "1,2,3"), "\"1,2,3\"", "a text stays as it was");
        assert_eq!(cell(&undeclared, "1.234"), "\"1.234\"");
        assert_eq!(cell(&undeclared, "12,50"), "Double(12.5)");
    }

    #[test]
    fn markers_are_null_and_words_are_values() {
        let nulls = Nulls([("---".into(), StatusCode::BAD_NO_DATA), ("-9999".into(), StatusCode::BAD)].into());
        let map = ValueMap(Arc::new([("ON".into(), Meaning::Bool(true)), ("hi".into(), Meaning::Number(Value::Int(3)))].into()));
        let rules = Rules { nulls, map, ..Rules::default() };
        assert_eq!(
            ["---", " -9999 ", "ON", "hi", "7", ""].map(|text| cell(&rules, text)),
            ["Null", "Null", "Bool(true)", "Int(3)", "Int(7)", "Null"]
        );
        for marker in ["NAN", "nan", "#N/A", "degC", "inf", "\"22.5\""] {
            assert!(cell(&self::rules(Some(CellType::Double), '.', None), marker).starts_with("Null `"), "{marker}");
        }
    }

    #[test]
    fn what_stands_for_no_value_may_have_a_status_of_its_own() {
        let mut problems = Problems::new();
        let mut read = |yaml: &str| Node::from_yaml(yaml, &mut problems).unwrap().parse::<Nulls>(&mut problems);
        let nulls = read("{I/O Timeout: 0x80310000, '---': bad, drifting: uncertain}").unwrap();
        let rules = Rules { nulls, ..Rules::default() };
        let status = |text: &str| rules.cell(text, &mut Batch::new()).status.0;
        assert_eq!(["I/O Timeout", " --- ", "drifting", "", "7"].map(status), [0x8031_0000, 0x8000_0000, 0x4000_0000, 0x809B_0000, 0]);
        assert!(read("{'---': good}").is_none() && read("{'---': [1]}").is_none() && read("[[1]]").is_none());
        assert!(problems.iter().any(|problem| problem.message.contains("`---: good` must be bad, uncertain")), "{problems:?}");
    }

    #[test]
    fn the_first_value_settles_the_type_of_a_tag() {
        let mut types = FirstTypes::default();
        let text = Value::Text(millrace_schemas::Span::EMPTY);
        assert_eq!(types.hold(TagId(3), Value::Null), Ok(()));
        assert_eq!(types.hold(TagId(3), Value::Int(1)), Ok(()));
        assert_eq!(types.hold(TagId(3), Value::Double(1.5)), Ok(()));
        assert_eq!(types.hold(TagId(3), text).unwrap_err(), "a text where the tag began as a number; declare its type with `as`");
        assert_eq!(types.hold(TagId(0), text), Ok(()));
        assert!(types.hold(TagId(0), Value::Bool(true)).is_err());
    }
}
