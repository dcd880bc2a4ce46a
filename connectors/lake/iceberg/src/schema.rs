//! The columns of a table, as plain data.

use serde_json::{Value, json};

/// A column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Field {
    /// What the column is known by in the files. A new table's are counted by the catalog.
    pub id: i32,
    pub name: String,
    pub required: bool,
    pub of: Of,
    pub doc: Option<String>,
}

/// The type of a column.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Of {
    /// In Iceberg's words: `long`, `timestamptz`, `decimal(20, 0)`.
    Plain(String),
    /// A list of such items, which have an id, too.
    List { id: i32, of: String },
    /// Structures, maps, lists of them: not written here.
    Other,
}

impl Field {
    pub(crate) fn read(field: &Value) -> Option<Self> {
        let of = match &field["type"] {
            Value::String(plain) => Of::Plain(plain.clone()),
            nested if nested["type"] == "list" && nested["element"].is_string() => {
                Of::List { id: number(&nested["element-id"])?, of: nested["element"].as_str()?.to_owned() }
            }
            _ => Of::Other,
        };
        Some(Self {
            id: number(&field["id"])?,
            name: field["name"].as_str()?.to_owned(),
            required: field["required"].as_bool().unwrap_or(false),
            of,
            doc: field["doc"].as_str().map(ToOwned::to_owned),
        })
    }

    /// In the JSON of a schema, with the next free ids; a list takes two.
    pub(crate) fn write(&self, next: &mut impl FnMut() -> i32) -> Value {
        let id = next();
        let of = match &self.of {
            Of::Plain(plain) => json!(plain),
            Of::List { of, .. } => json!({"type": "list", "element-id": next(), "element": of, "element-required": false}),
            Of::Other => Value::Null,
        };
        let mut field = json!({"id": id, "name": self.name, "required": self.required, "type": of});
        if let Some(doc) = &self.doc {
            field["doc"] = json!(doc);
        }
        field
    }
}

fn number(value: &Value) -> Option<i32> {
    value.as_i64().and_then(|number| i32::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_comes_back_as_it_was_written() {
        let field = |of: Of| Field { id: 1, name: "a".into(), required: false, of, doc: Some("JSON".into()) };
        for field in [field(Of::Plain("decimal(20, 0)".into())), field(Of::List { id: 2, of: "double".into() })] {
            let mut id = 0;
            let written = field.write(&mut || {
                id += 1;
                id
            });
            assert_eq!(Field::read(&written), Some(field));
        }
        let map = json!({"id": 3, "name": "m", "required": true, "type": {"type": "map", "key-id": 4, "key": "string"}});
        assert_eq!(Field::read(&map).map(|field| (field.of, field.required)), Some((Of::Other, true)));
    }
}
