//! Where a value stands: file, line, column, YAML path, and the uses of templates that led there.

use std::fmt::Write;
use std::sync::Arc;
use zeroize::Zeroizing;

/// Where a value stands. Cheap to copy; told apart by [`Problems::locate`](crate::Problems::locate).
///
/// Layout: the low half names a mark in a file (times two, plus one for the key instead of the value), the high half the use of a template
/// that the value was made by, or 0. So a template used 10,000 times costs 10,000 uses, not 10,000 copies of its marks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, PartialOrd, Ord)]
pub struct Place(pub u64);

impl Place {
    /// No place: a default, or a value made by the program.
    pub const NONE: Self = Self(0);

    fn new(mark: u32) -> Self {
        Self((mark as u64) << 1)
    }

    fn mark(self) -> usize {
        (self.0 as u32 >> 1) as usize
    }

    fn on_key(self) -> bool {
        self.0 & 1 == 1
    }

    fn via(self) -> usize {
        (self.0 >> 32) as usize
    }

    pub fn is_none(self) -> bool {
        self.mark() == 0
    }

    /// The key that holds the value here; the value itself where no key does.
    pub fn key(self) -> Self {
        Self(self.0 | 1)
    }

    /// The same place, reached by a use of the template (or anchor) it is in.
    pub(crate) fn through(self, via: Via) -> Self {
        Self(self.0 & 0xFFFF_FFFF | (via.0 as u64) << 32)
    }
}

/// A place as a person reads it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Location {
    /// The file as it was named on the command line or found by an include; `environment variable X` for one.
    pub file: Arc<str>,
    /// From 1; 0 where there is none.
    pub line: u32,
    /// From 1, in characters; 0 where there is none.
    pub column: u32,
    /// `sources.press-1.groups[0].every`
    pub path: String,
    /// Uses that led here, the innermost first: the template's name (or the CSV's row), and where it is used.
    pub uses: Vec<(String, Place)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Position {
    line: u32,
    column: u32,
}

/// A step of a YAML path.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Step {
    /// The top of a file.
    Root,
    Key(Arc<str>),
    Index(u32),
}

/// One value in a file.
#[derive(Clone, Debug)]
struct Mark {
    file: u32,
    parent: u32,
    step: Step,
    at: Position,
    key: Position,
    /// Stands in for a secret that is not read now: problems with its value say nothing.
    unread: bool,
}

#[derive(Clone, Debug)]
struct Use {
    what: String,
    /// The template's own mark: the path below it continues the path of `at`.
    root: usize,
    at: Place,
}

#[derive(Clone, Debug)]
struct File {
    name: Arc<str>,
    text: Arc<str>,
    /// Byte offset of every line.
    lines: Vec<u32>,
}

/// Files, marks in them, and uses of templates: what places mean. Secrets met on the way, so that no problem prints them.
#[derive(Debug, Default)]
pub(crate) struct Places {
    files: Vec<File>,
    marks: Vec<Mark>,
    uses: Vec<Use>,
    secrets: Vec<(Zeroizing<String>, Arc<str>)>,
}

pub(crate) type FileId = u32;

impl Places {
    pub fn add_file(&mut self, name: impl Into<Arc<str>>, text: Arc<str>) -> FileId {
        if self.files.is_empty() {
            // Index 0 of everything means "none".
            self.files.push(File { name: "".into(), text: "".into(), lines: vec![0] });
            self.marks.push(Mark {
                file: 0,
                parent: 0,
                step: Step::Root,
                at: Position::default(),
                key: Position::default(),
                unread: false,
            });
            self.uses.push(Use { what: String::new(), root: 0, at: Place::NONE });
        }
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i as u32 + 1)).collect();
        self.files.push(File { name: name.into(), text, lines });
        self.files.len() as u32 - 1
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().skip(1).map(|file| &*file.name)
    }

    /// Marks a value. `line` and `column` count from 1.
    pub fn mark(&mut self, file: FileId, parent: Place, step: Step, (line, column): (u32, u32)) -> Place {
        let at = Position { line, column };
        self.marks.push(Mark { file, parent: parent.mark() as u32, step, at, key: at, unread: false });
        Place::new(self.marks.len() as u32 - 1)
    }

    /// Says where the key of a marked value stands.
    pub fn set_key(&mut self, place: Place, (line, column): (u32, u32)) {
        self.marks[place.mark()].key = Position { line, column };
    }

    /// The same position under another key beside it: where the rows of a table belong.
    pub fn sibling(&mut self, place: Place, key: &str) -> Place {
        let Some(mark) = self.marks.get(place.mark()).cloned() else { return place };
        // An item of a list of tables has the list's key above it.
        let parent = if matches!(mark.step, Step::Index(_)) { self.marks[mark.parent as usize].parent } else { mark.parent };
        self.marks.push(Mark { parent, step: Step::Key(key.into()), key: mark.at, unread: false, ..mark });
        Place(Place::new(self.marks.len() as u32 - 1).0 | place.0 & !0xFFFF_FFFF)
    }

    pub fn set_unread(&mut self, place: Place) {
        self.marks[place.mark()].unread = true;
    }

    pub fn is_unread(&self, place: Place) -> bool {
        self.marks.get(place.mark()).is_some_and(|mark| mark.unread)
    }

    /// Says that a template (or a row) is used; places in it then take [`Place::through`].
    pub fn add_use(&mut self, what: impl Into<String>, root: Place, at: Place) -> Via {
        self.uses.push(Use { what: what.into(), root: root.mark(), at });
        Via(self.uses.len() - 1)
    }

    pub fn file_of(&self, place: Place) -> &str {
        self.marks.get(place.mark()).map_or("", |mark| &self.files[mark.file as usize].name)
    }

    /// Files in the order they were read.
    pub fn file_order(&self, place: Place) -> u32 {
        self.marks.get(place.mark()).map_or(0, |mark| mark.file)
    }

    pub fn add_secret(&mut self, text: &str, reference: &str) {
        // Shorter ones can't be told from ordinary text.
        if text.len() >= 4 && !self.secrets.iter().any(|(known, _)| known.as_str() == text) {
            self.secrets.push((Zeroizing::new(text.to_owned()), reference.into()));
        }
    }

    /// A line of a file with every secret replaced by its reference.
    pub fn redact_line(&self, text: &str) -> String {
        let mut redacted = text.to_owned();
        for (secret, reference) in &self.secrets {
            if redacted.contains(secret.as_str()) {
                redacted = redacted.replace(secret.as_str(), reference);
            }
        }
        redacted
    }

    /// A message with every secret replaced by its reference.
    ///
    /// A password that is an ordinary word (`secret`) is replaced where it stands as a value, not in the sentences of the message itself.
    pub fn redact(&self, text: &str) -> String {
        let mut redacted = text.to_owned();
        for (secret, reference) in &self.secrets {
            if !redacted.contains(secret.as_str()) {
                continue;
            }
            let is_word = secret.bytes().all(|byte| byte.is_ascii_lowercase());
            let mut out = String::with_capacity(redacted.len());
            let mut rest = redacted.as_str();
            while let Some(at) = rest.find(secret.as_str()) {
                let (before, found) = rest.split_at(at);
                let after = &found[secret.len()..];
                out.push_str(before);
                let (left, right) = (out.chars().next_back(), after.chars().next());
                let in_a_word = left.is_some_and(char::is_alphanumeric) || right.is_some_and(char::is_alphanumeric);
                let in_a_sentence = left.is_none_or(|c| c == ' ') && right.is_none_or(|c| matches!(c, ' ' | ',' | ';' | ':'));
                out.push_str(if is_word && (in_a_word || in_a_sentence) { secret } else { reference });
                rest = after;
            }
            out.push_str(rest);
            redacted = out;
        }
        redacted
    }

    /// The line of a file, for a caret under it.
    pub fn line(&self, place: Place) -> Option<&str> {
        let mark = self.marks.get(place.mark())?;
        let line = if place.on_key() { mark.key.line } else { mark.at.line };
        let file = &self.files[mark.file as usize];
        let start = *file.lines.get(line.checked_sub(1)? as usize)? as usize;
        let end = file.lines.get(line as usize).map_or(file.text.len(), |next| *next as usize);
        Some(file.text[start..end].trim_end_matches(['\n', '\r']))
    }

    pub fn locate(&self, place: Place) -> Location {
        let Some(mark) = self.marks.get(place.mark()).filter(|_| !place.is_none()) else { return Location::default() };
        let position = if place.on_key() { mark.key } else { mark.at };
        let mut uses = Vec::new();
        let mut via = place.via();
        while via != 0 && uses.len() < 32 {
            uses.push((self.uses[via].what.clone(), self.uses[via].at));
            via = self.uses[via].at.via();
        }
        Location {
            file: self.files[mark.file as usize].name.clone(),
            line: position.line,
            column: position.column,
            path: self.path(place),
            uses,
        }
    }

    /// The YAML path: in a used template, it continues the path of the use.
    fn path(&self, place: Place) -> String {
        let mut steps = Vec::new();
        let (mut mark, mut via) = (place.mark(), place.via());
        while mark != 0 && steps.len() < 256 {
            let used = &self.uses[via];
            if via != 0 && mark == used.root {
                (mark, via) = (used.at.mark(), used.at.via());
                continue;
            }
            steps.push(&self.marks[mark].step);
            mark = self.marks[mark].parent as usize;
        }
        let mut path = String::new();
        for step in steps.into_iter().rev() {
            match step {
                Step::Root => {}
                Step::Key(key) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(key);
                }
                Step::Index(index) => {
                    let _ = write!(path, "[{index}]");
                }
            }
        }
        path
    }
}

/// A use of a template, see [`Places::add_use`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Via(usize);
