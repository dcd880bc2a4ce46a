//! The schemas that records in the logs were written with, by their mark.
//!
//! A log names a schema by a number; what was written with a schema goes out with that schema, whatever the configuration says by then. So each
//! schema is in a file of its own before its first record is in a log: `schemas/MARK.json`, with kind, name, text and the marks of those it names.

use crate::positions::replace;
use millrace_schemas::avro::TELEMETRY_FINGERPRINT;
use millrace_schemas::contract::{Kind, Reference, Schema};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A schema that names another that names another, this deep, is no schema of ours.
const DEPTH: usize = 32;

#[derive(Debug)]
pub struct SchemaStore {
    folder: PathBuf,
    known: Mutex<HashMap<u64, Arc<Schema>>>,
}

#[derive(Serialize, Deserialize)]
struct Page {
    kind: String,
    name: String,
    text: String,
    #[serde(default)]
    indexes: Vec<u8>,
    /// Names, and marks in hexadecimal.
    #[serde(default)]
    references: Vec<(String, String)>,
}

impl SchemaStore {
    /// Errors: the folder can't be made.
    pub fn open(data_dir: &Path) -> std::io::Result<Self> {
        let folder = data_dir.join("schemas");
        std::fs::create_dir_all(&folder)?;
        let known = HashMap::from([(TELEMETRY_FINGERPRINT, Schema::telemetry(Kind::Avro))]);
        Ok(Self { folder, known: Mutex::new(known) })
    }

    /// Keeps a schema, with those it names, and returns its mark; it is on the disk then.
    pub fn keep(&self, schema: &Arc<Schema>) -> std::io::Result<u64> {
        let mark = schema.mark();
        if self.known.lock().contains_key(&mark) {
            return Ok(mark);
        }
        let mut references = Vec::new();
        for reference in &schema.references {
            references.push((reference.name.to_string(), format!("{:016x}", self.keep(&reference.schema)?)));
        }
        let page = Page {
            kind: schema.kind.as_str().to_owned(),
            name: schema.name.to_string(),
            text: schema.text.to_string(),
            indexes: schema.indexes.to_vec(),
            references,
        };
        replace(&self.file(mark), &serde_json::to_vec_pretty(&page)?)?;
        self.known.lock().insert(mark, schema.clone());
        Ok(mark)
    }

    /// The schema of a mark; `None` where its file is gone or can't be read.
    pub fn get(&self, mark: u64) -> Option<Arc<Schema>> {
        self.read(mark, DEPTH)
    }

    fn read(&self, mark: u64, depth: usize) -> Option<Arc<Schema>> {
        if let Some(known) = self.known.lock().get(&mark) {
            return Some(known.clone());
        }
        let page: Page = serde_json::from_slice(&std::fs::read(self.file(mark)).ok()?).ok()?;
        let mut references = Vec::new();
        for (name, mark) in &page.references {
            let schema = self.read(u64::from_str_radix(mark, 16).ok()?, depth.checked_sub(1)?)?;
            references.push(Reference { name: name.as_str().into(), schema });
        }
        let schema = Arc::new(Schema {
            kind: Kind::ALL.into_iter().find(|kind| kind.as_str() == page.kind)?,
            text: page.text.into(),
            name: page.name.into(),
            references,
            indexes: page.indexes.into(),
        });
        // A file that was changed by hand is no longer what the records were written with.
        (schema.mark() == mark).then(|| {
            self.known.lock().insert(mark, schema.clone());
            schema
        })
    }

    fn file(&self, mark: u64) -> PathBuf {
        self.folder.join(format!("{mark:016x}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(text: &str, references: Vec<Reference>) -> Arc<Schema> {
        Arc::new(Schema { kind: Kind::Protobuf, text: text.into(), name: "acme.Order".into(), references, indexes: Box::new([0]) })
    }

    #[test]
    fn a_schema_is_found_again_after_a_restart_with_all_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let address = schema("message Address {}", Vec::new());
        let order = schema("message Order {}", vec![Reference { name: "address.proto".into(), schema: address }]);
        let mark = SchemaStore::open(dir.path()).unwrap().keep(&order).unwrap();
        assert_eq!(SchemaStore::open(dir.path()).unwrap().get(mark).as_ref(), Some(&order));
    }

    #[test]
    fn a_schema_that_was_changed_or_is_gone_is_not_known() {
        let dir = tempfile::tempdir().unwrap();
        let mark = SchemaStore::open(dir.path()).unwrap().keep(&schema("message Order {}", Vec::new())).unwrap();
        let file = dir.path().join("schemas").join(format!("{mark:016x}.json"));
        let text = std::fs::read_to_string(&file).unwrap().replace("Order {}", "Order { }");
        std::fs::write(&file, text).unwrap();
        assert_eq!(SchemaStore::open(dir.path()).unwrap().get(mark), None);
        assert_eq!(SchemaStore::open(dir.path()).unwrap().get(7), None);
        assert!(SchemaStore::open(dir.path()).unwrap().get(TELEMETRY_FINGERPRINT).is_some());
    }
}
