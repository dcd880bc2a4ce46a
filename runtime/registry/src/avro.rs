//! Whether a reader's schema can read what a writer's wrote, by the specification's rules of schema resolution.
//!
//! As Java's `SchemaCompatibility` judges: names of named types are compared without their namespace, a reader's alias is another name of
//! the writer's; logical types are no matter of resolution.

use crate::difference::{Difference, Differences, Pairs, append};
use millrace_config::Reason;
use millrace_schemas::avsc::{Avsc, Field, Kind, Node, NodeId, Primitive};

struct Comparison<'a> {
    reader: &'a Avsc,
    writer: &'a Avsc,
}

type Known = Pairs<(NodeId, NodeId)>;

/// What keeps `reader` from reading what `writer` wrote; empty: nothing. Errors: the schemas are too large to compare.
pub(crate) fn incompatibilities(reader: &Avsc, writer: &Avsc) -> Result<Differences, Reason> {
    let comparison = Comparison { reader, writer };
    let found = Pairs::settle(|known| {
        let mut found = Vec::new();
        comparison.pair(known, reader.root(), writer.root(), "", &mut found)?;
        Ok(found)
    })?;
    Ok(found.into_iter().map(|one| if one.path.is_empty() { Difference { path: "/".into(), ..one } } else { one }).collect())
}

impl Comparison<'_> {
    /// Appends what is wrong with a pair, which stands at `path` below the one that asks.
    fn pair(&self, known: &mut Known, reader: NodeId, writer: NodeId, path: &str, found: &mut Differences) -> Result<bool, Reason> {
        let wrong = known.pair((reader, writer), |known| self.differences(known, reader, writer))?;
        append(found, &wrong, path);
        Ok(wrong.is_empty())
    }

    fn differences(&self, known: &mut Known, reader_id: NodeId, writer_id: NodeId) -> Result<Differences, Reason> {
        let (read, written) = (self.reader.node(reader_id), self.writer.node(writer_id));
        let mut found = Vec::new();
        match (&read.kind, &written.kind) {
            (_, Kind::Union(branches)) => {
                for (index, branch) in branches.iter().enumerate() {
                    // Of a reader that is no union, the place is its own.
                    let path = if matches!(read.kind, Kind::Union(_)) { format!("/{index}") } else { String::new() };
                    self.pair(known, reader_id, *branch, &path, &mut found)?;
                }
            }
            (Kind::Union(branches), _) => self.any_branch(known, branches, writer_id, &mut found)?,
            (Kind::Primitive(read), Kind::Primitive(written)) if promotes(*written, *read) => {}
            (Kind::Array(read), Kind::Array(written)) => {
                self.pair(known, *read, *written, "/items", &mut found)?;
            }
            (Kind::Map(read), Kind::Map(written)) => {
                self.pair(known, *read, *written, "/values", &mut found)?;
            }
            (Kind::Fixed { size, .. }, Kind::Fixed { size: wrote, .. }) => {
                if same_name(read, written, &mut found) && size != wrote {
                    found.push(difference(
                        "FIXED_SIZE_MISMATCH",
                        "/size",
                        "The size of FIXED type field at path '%p' in the %r schema does not match with the %w schema",
                        format!("expected: {wrote}, found: {size}"),
                    ));
                }
            }
            (Kind::Enum { symbols, default, .. }, Kind::Enum { symbols: wrote, .. }) => {
                let missing: Vec<&str> = wrote.iter().filter(|symbol| !symbols.contains(symbol)).map(String::as_str).collect();
                if same_name(read, written, &mut found) && default.is_none() && !missing.is_empty() {
                    let list = format!("[{}]", missing.join(", "));
                    let words = format!("The %r schema is missing enum symbols '{list}' at path '%p' in the %w schema");
                    found.push(difference("MISSING_ENUM_SYMBOLS", "/symbols", words, list));
                }
            }
            (Kind::Record { fields, .. }, Kind::Record { fields: wrote, .. }) => {
                same_name(read, written, &mut found);
                self.fields(known, fields, wrote, &mut found)?;
            }
            _ => {
                let (read, written) = (read.type_name().to_uppercase(), written.type_name().to_uppercase());
                found.push(difference(
                    "TYPE_MISMATCH",
                    "",
                    "The type (path '%p') of a field in the %r schema does not match with the %w schema",
                    format!("reader type: {read} not compatible with writer type: {written}"),
                ));
            }
        }
        Ok(found)
    }

    fn any_branch(&self, known: &mut Known, branches: &[NodeId], writer: NodeId, found: &mut Differences) -> Result<(), Reason> {
        for branch in branches {
            if self.pair(known, *branch, writer, "", &mut Vec::new())? {
                return Ok(());
            }
        }
        let written = self.writer.node(writer).type_name().to_uppercase();
        found.push(difference(
            "MISSING_UNION_BRANCH",
            "",
            "The %r schema is missing a type inside a union field at path '%p' in the %w schema",
            format!("reader union lacking writer type: {written}"),
        ));
        Ok(())
    }

    fn fields(&self, known: &mut Known, read: &[Field], wrote: &[Field], found: &mut Differences) -> Result<(), Reason> {
        for (index, field) in read.iter().enumerate() {
            let by_alias = || wrote.iter().find(|one| field.aliases.contains(&one.name));
            match wrote.iter().find(|one| one.name == field.name).or_else(by_alias) {
                Some(source) => {
                    self.pair(known, field.node, source.node, &format!("/fields/{index}/type"), found)?;
                }
                None => {
                    if field.default.is_none() {
                        let name = &field.name;
                        let words = format!(
                            "The field '{name}' at path '%p' in the %r schema has no default value and is missing in the %w schema"
                        );
                        found.push(difference("READER_FIELD_MISSING_DEFAULT_VALUE", &format!("/fields/{index}"), words, name.clone()));
                    }
                }
            }
        }
        Ok(())
    }
}

fn same_name(read: &Node, written: &Node, found: &mut Differences) -> bool {
    let (Some(read), Some(written)) = (read.named(), written.named()) else { return true };
    if read.name.name == written.name.name || read.aliases.contains(&written.name) {
        return true;
    }
    let detail = format!("expected: {}", written.name.full());
    found.push(difference("NAME_MISMATCH", "/name", "The name of the schema has changed (path '%p')", detail));
    false
}

fn difference(kind: &'static str, path: &str, words: impl Into<String>, detail: String) -> Difference {
    Difference { kind, path: path.to_owned(), words: words.into(), detail: Some(detail) }
}

/// Whether a value written as one primitive type can be read as another.
fn promotes(written: Primitive, read: Primitive) -> bool {
    use Primitive::{Bytes, Double, Float, Int, Long, String};
    written == read
        || matches!(
            (written, read),
            (Int, Long | Float | Double) | (Long, Float | Double) | (Float, Double) | (String, Bytes) | (Bytes, String)
        )
}
