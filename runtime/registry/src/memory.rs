//! The ids a registry gave, over restarts: so that the drain can send while the registry is away.
//!
//! ```text
//! {"millrace_registry":1,"urls":["http://registry:8081"]}                      the first line: format and whose ids these are
//! {"subject":"orders-value","kind":"AVRO","text":"..","references":[],"id":7}  then a line per schema; the last of the same wins
//! ```
//!
//! A file of another registry, or one whose end is torn, is begun anew. It is a cache: losing it costs requests, and nothing else.

use crate::schema::{Kind, Reference, Schema, SchemaId};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

const FORMAT: u32 = 1;
/// A line longer than this is not ours.
const LINE: u64 = 32 << 20;
/// Entries kept at most.
const ENTRIES: usize = 100_000;

#[derive(Serialize, Deserialize, PartialEq)]
struct Head {
    millrace_registry: u32,
    urls: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    subject: String,
    #[serde(with = "kind_as_text")]
    kind: Kind,
    text: String,
    references: Vec<Reference>,
    id: SchemaId,
}

mod kind_as_text {
    use super::Kind;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(kind.as_str())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// What earlier runs were told; the default keeps nothing.
#[derive(Default)]
pub(crate) struct Memory {
    known: HashMap<(String, Schema), SchemaId>,
    file: Option<File>,
}

impl Memory {
    /// Reads what is there; a file that can't be written is only a warning.
    pub fn open(path: PathBuf, urls: &[String]) -> Self {
        let head = Head { millrace_registry: FORMAT, urls: urls.to_vec() };
        let known = read(&path, &head);
        let file = match &known {
            Some(_) => OpenOptions::new().append(true).open(&path),
            None => path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
                let mut file = File::create(&path)?;
                writeln!(file, "{}", serde_json::to_string(&head)?)?;
                Ok(file)
            }),
        };
        let file = file
            .inspect_err(|error| {
                tracing::warn!(
                    "cannot keep the schema registry's ids in {}: {error}; after a restart they are asked for anew",
                    path.display()
                )
            })
            .ok();
        Self { known: known.unwrap_or_default(), file }
    }

    pub fn recall(&self, subject: &str, schema: &Schema) -> Option<SchemaId> {
        self.known.get(&(subject.to_owned(), schema.clone())).copied()
    }

    /// Keeps an id, on disk before this returns.
    pub fn remember(&mut self, subject: &str, schema: &Schema, id: SchemaId) {
        if self.file.is_none() || self.recall(subject, schema) == Some(id) || self.known.len() >= ENTRIES {
            return;
        }
        let Schema { kind, text, references } = schema.clone();
        let line = Line { subject: subject.to_owned(), kind, text, references, id };
        if let (Some(file), Ok(mut line)) = (&mut self.file, serde_json::to_string(&line)) {
            line.push('\n');
            if let Err(error) = file.write_all(line.as_bytes()).and_then(|()| file.sync_data()) {
                tracing::warn!("cannot keep an id of the schema registry: {error}; after a restart it is asked for anew");
            }
        }
        self.known.insert((subject.to_owned(), schema.clone()), id);
    }
}

/// The entries of a file with this head; `None` where there is none such.
fn read(path: &PathBuf, head: &Head) -> Option<HashMap<(String, Schema), SchemaId>> {
    use std::io::Read;
    let mut reader = BufReader::new(File::open(path).ok()?);
    let mut line = Vec::new();
    let mut next = |line: &mut Vec<u8>| {
        line.clear();
        reader.by_ref().take(LINE).read_until(b'\n', line).is_ok_and(|count| count > 0)
    };
    if !next(&mut line) || serde_json::from_slice::<Head>(&line).ok()? != *head {
        return None;
    }
    let mut known = HashMap::new();
    while known.len() < ENTRIES && next(&mut line) {
        // Torn by a power cut: what is written next must not be glued to it.
        if !line.ends_with(b"\n") {
            return None;
        }
        if let Ok(Line { subject, kind, text, references, id }) = serde_json::from_slice(&line) {
            known.insert((subject, Schema { kind, text, references }), id);
        }
    }
    Some(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        Schema::new(Kind::Json, "{\"type\":\"object\"}")
    }

    #[test]
    fn an_id_is_remembered_over_a_restart_and_forgotten_with_another_registry() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("registry/ids");
        let ours = ["http://one:8081".to_owned()];
        Memory::open(path.clone(), &ours).remember("orders-value", &schema(), SchemaId(7));
        assert_eq!(Memory::open(path.clone(), &ours).recall("orders-value", &schema()), Some(SchemaId(7)));
        assert_eq!(Memory::open(path.clone(), &["http://two:8081".to_owned()]).recall("orders-value", &schema()), None);
        assert_eq!(Memory::open(path, &ours).recall("orders-value", &schema()), None, "the other registry began the file anew");
    }

    #[test]
    fn a_torn_file_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ids");
        let ours = ["http://one:8081".to_owned()];
        let mut memory = Memory::open(path.clone(), &ours);
        memory.remember("a", &schema(), SchemaId(1));
        memory.remember("b", &schema(), SchemaId(2));
        let length = std::fs::metadata(&path).unwrap().len();
        File::options().write(true).open(&path).unwrap().set_len(length - 5).unwrap();
        let mut memory = Memory::open(path.clone(), &ours);
        memory.remember("c", &schema(), SchemaId(3));
        assert_eq!(Memory::open(path, &ours).recall("c", &schema()), Some(SchemaId(3)));
    }
}
