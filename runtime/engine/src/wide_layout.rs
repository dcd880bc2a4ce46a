//! The fields of a topic's wide records: they only grow, and lie in the data directory.

use crate::positions::replace;
use crate::schema_store::SchemaStore;
use millrace_schemas::contract::Kind;
use millrace_schemas::wide::{Field, Of, Wide};
use parking_lot::Mutex;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// When a row becomes a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// So many microseconds after the first change.
    Asset(i64),
    /// At the end of the batch.
    Scan,
}

/// The fields of a topic's wide records.
#[derive(Debug)]
pub struct WideLayout {
    pub shape: Shape,
    topic: Arc<str>,
    pub(crate) kind: Kind,
    file: PathBuf,
    schema_store: Arc<SchemaStore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    wide: Wide,
    /// Of the schema with the first `fields` of them; zero: not made yet.
    mark: u64,
    fields: usize,
}

impl WideLayout {
    /// Takes up the fields of an earlier run.
    ///
    /// Errors: the folder can't be made, or the file is none of ours.
    pub fn open(data_dir: &Path, topic: &Arc<str>, kind: Kind, shape: Shape, schema_store: &Arc<SchemaStore>) -> std::io::Result<Self> {
        let folder = data_dir.join("shapes");
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(format!("{}.json", topic));
        let wide = match std::fs::read(&file) {
            Ok(bytes) => Wide::with(read(&bytes).ok_or_else(|| {
                std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    format!("{} does not hold the fields of a topic; put it back", file.display()),
                )
            })?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Wide::default(),
            Err(error) => return Err(error),
        };
        let state = Mutex::new(State { wide, mark: 0, fields: 0 });
        Ok(Self { shape, topic: topic.clone(), kind, file, schema_store: schema_store.clone(), state })
    }

    pub(crate) fn field(&self, tag: &str, of: Of) -> usize {
        self.state.lock().wide.field(tag, of)
    }

    /// The mark of the schema with all fields there are, which is on the disk then; and how many there are.
    pub(crate) fn snapshot(&self) -> std::io::Result<(u64, usize)> {
        let mut state = self.state.lock();
        let count = state.wide.fields().len();
        if state.mark == 0 || state.fields != count {
            let list = state.wide.fields().iter().map(|f| json!({"tag": f.tag, "type": f.of.as_str(), "name": f.name}));
            replace(&self.file, &serde_json::to_vec_pretty(&list.collect::<Vec<_>>())?)?;
            let schema = state.wide.schema(self.kind, &self.topic).ok_or(std::io::ErrorKind::Unsupported)?;
            state.mark = self.schema_store.keep(&Arc::new(schema))?;
            state.fields = count;
        }
        Ok((state.mark, count))
    }

    pub(crate) fn name(&self, field: usize) -> Box<str> {
        self.state.lock().wide.fields()[field].name.clone()
    }
}

fn read(bytes: &[u8]) -> Option<Vec<Field>> {
    let list: Vec<serde_json::Value> = serde_json::from_slice(bytes).ok()?;
    let text = |item: &serde_json::Value, key: &str| item.get(key).and_then(|v| v.as_str()).map(Box::<str>::from);
    list.iter()
        .map(|item| Some(Field { tag: text(item, "tag")?, of: Of::named(&text(item, "type")?)?, name: text(item, "name")? }))
        .collect()
}
