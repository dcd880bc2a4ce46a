//! JSON Pointers (RFC 6901), and the keys of the YAML that hold one or several of them.

use millrace_config::{Kind, Node, Place, Problems, Reason, Spanned};
use millrace_schemas::scan::{DEPTH, Next, ScanError, Scanner};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::{Deserialize, Deserializer, Error as _};
use std::borrow::Cow;
use std::fmt;

/// A JSON Pointer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pointer {
    text: Box<str>,
    pub(super) steps: Box<[Box<str>]>,
}

impl Pointer {
    /// Reads a pointer. Errors: one line for a person.
    pub fn parse(text: &str) -> Result<Self, Reason> {
        let mut parts = text.split('/');
        if parts.next() != Some("") {
            let pointer = text.trim_start_matches("$.").trim_start_matches('$').replace(['.', '['], "/").replace(']', "");
            return Err(format!("`{text}` is not a JSON pointer; write /{pointer}").into());
        }
        if parts.clone().any(|step| step == "*") {
            return Err(format!(
                "`{text}` has a `*`, which a JSON pointer does not know; name the list in `each`, and point into its items"
            )
            .into());
        }
        let steps = parts.map(unescape).collect::<Option<Box<[_]>>>();
        let steps = steps.ok_or_else(|| format!("`~` in `{text}` must be written ~0, and a `/` in a name ~1"))?;
        if steps.len() > DEPTH as usize {
            return Err(format!("`{text}` has more than {DEPTH} levels").into());
        }
        Ok(Self { text: text.into(), steps })
    }

    /// Reads a pointer of the YAML; a wrong one is a problem at its place.
    pub fn compile(text: &Spanned<String>, problems: &mut Problems) -> Option<Self> {
        Self::parse(text).map_err(|error| problems.refused(text.place, &error)).ok()
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands there in a JSON text, as it is written; `None`: nothing. Of a key that stands twice the first counts.
    ///
    /// Errors: it is no JSON.
    pub fn find<'a>(&self, json: &'a [u8]) -> Result<Option<&'a str>, ScanError> {
        let mut check = Scanner::new(json)?;
        check.skip()?;
        check.end()?;
        let mut scanner = Scanner::new(json)?;
        if self.seek(&mut scanner)? { scanner.skip().map(Some) } else { Ok(None) }
    }

    /// Goes to what it names; false where nothing is there.
    pub(super) fn seek(&self, scanner: &mut Scanner<'_>) -> Result<bool, ScanError> {
        'steps: for step in &self.steps {
            let (mut first, mut index) = (true, 0_usize);
            match scanner.peek()? {
                Next::Object => {
                    scanner.open()?;
                    while let Some(key) = scanner.next_key(first)? {
                        first = false;
                        if key.is(step) {
                            continue 'steps;
                        }
                        scanner.skip()?;
                    }
                    return Ok(false);
                }
                Next::Array => {
                    scanner.open()?;
                    while scanner.next_item(first)? {
                        first = false;
                        if step.parse() == Ok(index) {
                            continue 'steps;
                        }
                        scanner.skip()?;
                        index += 1;
                    }
                    return Ok(false);
                }
                _ => return Ok(false),
            }
        }
        Ok(true)
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

/// One place in a record, or several: `/ts`, `[Date, Time]`.
#[derive(Clone, PartialEq, Debug)]
pub struct Places(pub Vec<Spanned<String>>);

impl Places {
    /// The first of them.
    pub fn first(&self) -> Place {
        self.0.first().map_or_else(Place::default, |place| place.place)
    }

    /// All of them as pointers.
    pub fn pointers(&self, problems: &mut Problems) -> Option<Vec<Pointer>> {
        let pointers: Vec<_> = self.0.iter().map(|text| Pointer::compile(text, problems)).collect();
        pointers.into_iter().collect()
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.0.iter().map(|text| text.as_str()).collect();
        f.write_str(&texts.join(", "))
    }
}

impl<'de> Deserialize<'de> for Places {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let node = Node::deserialize(deserializer)?;
        let one = |node: &Node| {
            let text = node.text().map(|text| Spanned { value: text.as_str().to_owned(), place: node.place });
            text.ok_or_else(|| D::Error::custom(format!("expected a place in the record, or a list of places, found {}", node.describe())))
        };
        match &node.kind {
            Kind::Seq(items) if items.is_empty() => Err(D::Error::custom("the list of places is empty")),
            Kind::Seq(items) => items.iter().map(one).collect::<Result<_, _>>().map(Self),
            _ => one(&node).map(|place| Self(vec![place])),
        }
    }
}

impl JsonSchema for Places {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Places".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]})
    }
}
