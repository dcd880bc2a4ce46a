//! Problems of a configuration, each with its places; collected, never thrown.

/// Where a value stands: file, line, column and YAML path. Cheap to copy; resolved by [`Problems`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct Place(pub u32);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    Error,
    Warning,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Problem {
    pub severity: Severity,
    pub place: Place,
    pub message: String,
    pub help: Option<String>,
    /// Second places: the template's line, the earlier definition.
    pub related: Vec<(Place, String)>,
}

#[derive(Debug, Default)]
pub struct Problems {
    list: Vec<Problem>,
}

impl Problems {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an error. Message: lowercase, no full stop, names the thing and the value.
    pub fn error(&mut self, place: Place, message: impl Into<String>) -> &mut Problem {
        self.push(Severity::Error, place, message.into())
    }

    pub fn warn(&mut self, place: Place, message: impl Into<String>) -> &mut Problem {
        self.push(Severity::Warning, place, message.into())
    }

    fn push(&mut self, severity: Severity, place: Place, message: String) -> &mut Problem {
        self.list.push(Problem { severity, place, message, help: None, related: Vec::new() });
        self.list.last_mut().expect("just pushed")
    }

    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|p| p.severity == Severity::Error)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }
}

impl Problem {
    /// What to do about it.
    pub fn help(&mut self, text: impl Into<String>) -> &mut Self {
        self.help = Some(text.into());
        self
    }

    pub fn also(&mut self, place: Place, note: impl Into<String>) -> &mut Self {
        self.related.push((place, note.into()));
        self
    }
}
