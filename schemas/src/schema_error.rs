//! What is wrong with a schema, and where.

use std::fmt;

/// Reads a file that a schema names, by the name it has there; `None`: there is none.
pub type Files<'f> = dyn FnMut(&str) -> Option<String> + 'f;

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
    /// Something that has no line.
    pub fn whole(what: impl Into<String>) -> Self {
        Self { file: None, line: 0, column: 0, what: what.into() }
    }

    pub(crate) fn within(mut self, file: &str) -> Self {
        self.file.get_or_insert_with(|| file.to_owned());
        self
    }

    pub(crate) fn json(error: &serde_json::Error) -> Self {
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

/// Texts of a schema or a document are cut to this many bytes where they are shown.
pub(crate) const SHOWN: usize = 80;

/// The beginning of a text, for a message.
pub(crate) fn cut(text: &str) -> &str {
    let end = (0..=SHOWN.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}
