//! YAML text to the marked tree, bounded.
//!
//! YAML 1.2, core schema: `yes` is text, `0o17` and `0x1F` are numbers. Left out, with an error that says so: several documents in one file,
//! tags other than the core schema's, keys that are not scalars, and the merge key `<<` (templates do that).
//! Bounds: the bytes of a file, the depth, and the number of values once aliases are followed.

use crate::tree::node::{Entry, Kind, Node, Text};
use crate::tree::place::{FileId, Place, Step};
use crate::tree::problem::Problems;
use crate::tree::scalar::{core_bool, core_float, core_int, is_null};
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Tag};
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// A file larger than this is not a factory's: the tables of 100,000 tags belong into CSV files.
pub(crate) const MAX_BYTES: usize = 8 << 20;
const MAX_DEPTH: usize = 64;
const MAX_NODES: usize = 2_000_000;

/// Reads one document. `None` after a syntax error, which is reported.
pub(crate) fn read(name: &str, bytes: &[u8], problems: &mut Problems) -> Option<Node> {
    let text = decode(name, bytes, problems)?;
    let file = problems.places.add_file(name, text.clone());
    Builder { file, text: &text, problems, stack: Vec::new(), anchors: HashMap::new(), nodes: 0, root: None }.build()
}

/// Reads a value written in one line elsewhere (a cell of a CSV): `[0, 850]`. Its places are the given one.
pub(crate) fn read_inline(text: &str, place: Place, problems: &mut Problems) -> Option<Node> {
    let mut own = Problems::new();
    let node = read("", text.as_bytes(), &mut own);
    match (node, own.iter().next()) {
        (_, Some(problem)) => {
            problems.error(place, format!("`{}` can't be read: {}", crate::tree::node::shorten(text), problem.message));
            None
        }
        (node, None) => node.map(|node| node.map_places(&|_| place)),
    }
}

/// UTF-8 without control characters, or a problem that says where.
fn decode(name: &str, bytes: &[u8], problems: &mut Problems) -> Option<Arc<str>> {
    let mut refuse = |message: String, help: &'static str| {
        let file = problems.places.add_file(name, "".into());
        let place = problems.places.mark(file, Place::NONE, Step::Root, (0, 0));
        problems.error(place, message).help(help);
    };
    if bytes.len() > MAX_BYTES {
        refuse(
            format!("the file is larger than {} MiB", MAX_BYTES >> 20),
            "split it and list the parts under `include`; put long tables into CSV files (`sources_from`, `tags_from`)",
        );
        return None;
    }
    if bytes.starts_with(&[0xFF, 0xFE]) || bytes.starts_with(&[0xFE, 0xFF]) {
        refuse("the file is UTF-16".into(), "save it as UTF-8");
        return None;
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let line = bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count() + 1;
            refuse(format!("the file is not UTF-8 text: byte 0x{:02X} in line {line}", bytes[error.valid_up_to()]), "save it as UTF-8");
            return None;
        }
    };
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    if let Some(at) = text.find(|c: char| c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}')) {
        let line = text[..at].matches('\n').count() + 1;
        let control = text[at..].chars().next().unwrap_or_default() as u32;
        refuse(format!("the file is not text: control character U+{control:04X} in line {line}"), "is this the right file?");
        return None;
    }
    Some(text.into())
}

type Position = (u32, u32);

enum Frame {
    Seq { items: Vec<Node> },
    Map { entries: Vec<Entry>, seen: HashMap<Arc<str>, Place>, key: Option<(Arc<str>, Position)> },
}

struct Level {
    frame: Frame,
    place: Place,
    anchor: usize,
    /// Levels below this one, at most.
    height: usize,
    /// Values so far, when it began.
    nodes: usize,
}

struct Anchored {
    node: Node,
    nodes: usize,
    height: usize,
}

struct Builder<'a> {
    file: FileId,
    text: &'a str,
    problems: &'a mut Problems,
    stack: Vec<Level>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
    root: Option<Node>,
}

/// The problem is reported; the file is given up.
struct GiveUp;

impl Builder<'_> {
    fn build(mut self) -> Option<Node> {
        let mut parser = Parser::new_from_str(self.text);
        let mut documents = 0;
        while let Some(event) = parser.next_event() {
            let (event, span) = match event {
                Ok(event) => event,
                Err(error) => {
                    self.syntax(&error);
                    return None;
                }
            };
            let at = (span.start.line() as u32, span.start.col() as u32 + 1);
            let done = match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        self.error(at, "a second document begins here").help("put it into a file of its own and list that under `include`");
                        return None;
                    }
                    Ok(())
                }
                Event::Scalar(text, style, anchor, tag) => self.scalar(text, style, anchor, tag, at),
                Event::SequenceStart(anchor, tag) => {
                    self.untagged(&tag, "seq", at).and_then(|()| self.open(Frame::Seq { items: Vec::new() }, anchor, at))
                }
                Event::MappingStart(anchor, tag) => self
                    .untagged(&tag, "map", at)
                    .and_then(|()| self.open(Frame::Map { entries: Vec::new(), seen: HashMap::new(), key: None }, anchor, at)),
                Event::SequenceEnd | Event::MappingEnd => self.close(),
                Event::Alias(anchor) => self.alias(anchor, at),
                Event::StreamEnd => break,
                _ => Ok(()),
            };
            done.ok()?;
        }
        match self.root.take() {
            Some(root) => Some(root),
            None => Some(Node::null(self.problems.places.mark(self.file, Place::NONE, Step::Root, (1, 1)))),
        }
    }

    fn error(&mut self, at: Position, message: impl Into<String>) -> &mut crate::tree::problem::Problem {
        let parent = self.stack.last().map_or(Place::NONE, |level| level.place);
        let place = self.problems.places.mark(self.file, parent, Step::Root, at);
        self.problems.error(place, message)
    }

    fn syntax(&mut self, error: &ScanError) {
        let mut at = (error.marker().line() as u32, error.marker().col() as u32 + 1);
        let line = |number: u32| self.text.lines().nth(number.saturating_sub(1) as usize).unwrap_or("");
        let tab = |number: u32| line(number).find(|c: char| c != ' ').filter(|at| line(number)[*at..].starts_with('\t'));
        // The scanner may stop at the end of the line before the one that a tab indents.
        let tabbed = [at.0, at.0 + 1].into_iter().find_map(|number| Some((number, tab(number)?)));
        if let Some((number, column)) = tabbed {
            at = (number, column as u32 + 1);
        }
        let line = line(at.0);
        let help = if tabbed.is_some() {
            "indent with spaces: YAML has no tabs"
        } else if line.contains("${") && line.contains('{') {
            "quote a value with `${..}` inside `{ }` or `[ ]`: \"${name}\""
        } else if error.info().contains("mapping values") {
            "quote a text with `: ` in it, and check the indentation"
        } else {
            "check the indentation, and that every bracket and quote is closed"
        };
        let message = format!("this is not YAML: {}", error.info().trim_end_matches('.'));
        self.error(at, message).help(help);
    }

    fn untagged(&mut self, tag: &Option<Cow<Tag>>, own: &str, at: Position) -> Result<(), GiveUp> {
        match tag {
            None => Ok(()),
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == own => Ok(()),
            Some(tag) => {
                let message = format!("the tag `{tag}` is not known");
                self.error(at, message).help("leave it out; quote a value to make it text");
                Err(GiveUp)
            }
        }
    }

    /// Marks the value that begins here, under the key or index that it will have.
    fn place(&mut self, at: Position) -> Result<Place, GiveUp> {
        self.nodes += 1;
        self.bounded(at)?;
        let (parent, step, key) = match self.stack.last() {
            None => (Place::NONE, Step::Root, None),
            Some(Level { frame: Frame::Seq { items }, place, .. }) => (*place, Step::Index(items.len() as u32), None),
            Some(Level { frame: Frame::Map { key, .. }, place, .. }) => match key {
                Some((key, position)) => (*place, Step::Key(key.clone()), Some(*position)),
                None => (*place, Step::Root, None),
            },
        };
        let place = self.problems.places.mark(self.file, parent, step, at);
        if let Some(key) = key {
            self.problems.places.set_key(place, key);
        }
        Ok(place)
    }

    fn bounded(&mut self, at: Position) -> Result<(), GiveUp> {
        if self.nodes > MAX_NODES {
            self.error(at, format!("more than {MAX_NODES} values once aliases are followed"))
                .help("use templates, or CSV files for long tables");
            return Err(GiveUp);
        }
        Ok(())
    }

    fn key_missing(&self) -> bool {
        matches!(self.stack.last(), Some(Level { frame: Frame::Map { key: None, .. }, .. }))
    }

    fn open(&mut self, frame: Frame, anchor: usize, at: Position) -> Result<(), GiveUp> {
        if self.key_missing() {
            self.error(at, "a list or a mapping can't be a key").help("quote a text that begins with `{` or `[`");
            return Err(GiveUp);
        }
        if self.stack.len() >= MAX_DEPTH {
            self.error(at, format!("nested deeper than {MAX_DEPTH} levels"));
            return Err(GiveUp);
        }
        let nodes = self.nodes;
        let mapping = matches!(frame, Frame::Map { .. });
        let mut place = self.place(at)?;
        if let Some(Level { frame: Frame::Map { key: Some((_, key)), .. }, .. }) = self.stack.last() {
            // A mapping, and a block under its key: people look for them at the key.
            if key.0 != at.0 || mapping {
                place = place.key();
            }
        }
        self.stack.push(Level { frame, place, anchor, height: 0, nodes });
        Ok(())
    }

    fn close(&mut self) -> Result<(), GiveUp> {
        let Some(level) = self.stack.pop() else { return Ok(()) };
        let kind = match level.frame {
            Frame::Seq { items } => Kind::Seq(items),
            Frame::Map { entries, .. } => Kind::Map(entries),
        };
        let node = Node::new(level.place, kind);
        let height = level.height + 1;
        if level.anchor > 0 {
            self.anchors.insert(level.anchor, Anchored { node: node.clone(), nodes: self.nodes - level.nodes, height });
        }
        self.value(node, height);
        Ok(())
    }

    fn scalar(&mut self, text: Cow<str>, style: ScalarStyle, anchor: usize, tag: Option<Cow<Tag>>, at: Position) -> Result<(), GiveUp> {
        if self.key_missing() {
            return self.key(&text, at);
        }
        let place = self.place(at)?;
        let kind = match tag.as_deref() {
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Kind::String(Text::from(&*text)),
            Some(_) => {
                self.untagged(&tag, "", at)?;
                Kind::Null
            }
            None if style == ScalarStyle::Plain && is_null(&text) => Kind::Null,
            None if style == ScalarStyle::Plain => resolve(Text::from(&*text)),
            None => Kind::String(Text::from(&*text)),
        };
        // Nothing stands nowhere in particular; its key does.
        let place = if kind == Kind::Null { place.key() } else { place };
        let node = Node::new(place, kind);
        if anchor > 0 {
            self.anchors.insert(anchor, Anchored { node: node.clone(), nodes: 1, height: 0 });
        }
        self.value(node, 0);
        Ok(())
    }

    fn key(&mut self, text: &str, at: Position) -> Result<(), GiveUp> {
        if text == "<<" {
            self.error(at, "the merge key `<<` is not part of YAML 1.2").help("use a template: `templates`, `use`, `with`");
            return Err(GiveUp);
        }
        if let Some(Level { frame: Frame::Map { key, seen, .. }, place, .. }) = self.stack.last_mut() {
            let text: Arc<str> = text.into();
            if let Some(first) = seen.get(&text) {
                let place = self.problems.places.mark(self.file, *place, Step::Key(text.clone()), at);
                self.problems
                    .error(place, format!("the key `{text}` is here a second time"))
                    .help("remove one, or rename it")
                    .also(first.key(), "first here");
            }
            *key = Some((text, at));
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<(), GiveUp> {
        if self.key_missing() {
            self.error(at, "an alias can't be a key");
            return Err(GiveUp);
        }
        let Some(Anchored { node, nodes, height }) = self.anchors.get(&anchor) else {
            self.error(at, "this alias is inside of its own anchor");
            return Err(GiveUp);
        };
        let (nodes, height) = (*nodes, *height);
        if self.stack.len() + height > MAX_DEPTH {
            self.error(at, format!("nested deeper than {MAX_DEPTH} levels, once aliases are followed"));
            return Err(GiveUp);
        }
        self.nodes += nodes;
        let node = if self.nodes > MAX_NODES { Node::null(Place::NONE) } else { node.clone() };
        let place = self.place(at)?;
        let via = self.problems.places.add_use("the anchor", node.place, place);
        let node = node.map_places(&|place| place.through(via));
        self.value(node, height);
        Ok(())
    }

    /// Puts a finished value where it belongs.
    fn value(&mut self, node: Node, height: usize) {
        let Some(level) = self.stack.last_mut() else {
            self.root = Some(node);
            return;
        };
        level.height = level.height.max(height);
        match &mut level.frame {
            Frame::Seq { items } => items.push(node),
            Frame::Map { entries, seen, key } => {
                let Some((key, _)) = key.take() else { return };
                if seen.insert(key.clone(), node.place).is_none() {
                    entries.push(Entry { key, value: node });
                }
            }
        }
    }
}

/// What a plain scalar is, by the core schema; null aside.
pub(crate) fn resolve(text: Text) -> Kind {
    if core_bool(text.as_str()).is_some() {
        Kind::Bool(text)
    } else if core_int(text.as_str()).is_some() {
        Kind::Int(text)
    } else if core_float(text.as_str()).is_some() {
        Kind::Float(text)
    } else {
        Kind::String(text)
    }
}

impl Node {
    /// Reads one YAML text on its own, without `${..}`, includes and templates; for tests, and for snippets. Secrets may be written out in it.
    pub fn from_yaml(text: &str, problems: &mut Problems) -> Option<Self> {
        read("config.yaml", text.as_bytes(), problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(text: &str) -> Node {
        let mut problems = Problems::new();
        let node = Node::from_yaml(text, &mut problems).expect("parses");
        assert!(problems.is_empty(), "{problems:?}");
        node
    }

    #[test]
    fn scalars_are_what_yaml_1_2_says() {
        let node =
            tree("{a: yes, b: true, c: 0x10, d: 0o17, e: 1e3, f: ~, g: '1.10', h: 1.10, i: .inf, j: -5, k: 1_000, l: !!str 5, m: 08}");
        assert_eq!(node.get("a").unwrap().as_str(), Some("yes"));
        assert_eq!(node.get("b").unwrap().as_bool(), Some(true));
        assert_eq!(node.get("c").unwrap().as_i64(), Some(16));
        assert_eq!(node.get("d").unwrap().as_i64(), Some(15));
        assert_eq!(node.get("e").unwrap().as_f64(), Some(1000.0));
        assert!(node.get("f").unwrap().is_null());
        assert_eq!(node.get("g").unwrap().kind, Kind::String("1.10".into()));
        assert_eq!(node.get("h").unwrap().as_str(), Some("1.10"));
        assert_eq!(node.get("i").unwrap().as_f64(), Some(f64::INFINITY));
        assert_eq!(node.get("j").unwrap().as_i64(), Some(-5));
        assert_eq!(node.get("k").unwrap().kind, Kind::String("1_000".into()));
        assert_eq!(node.get("l").unwrap().kind, Kind::String("5".into()));
        assert_eq!(node.get("m").unwrap().as_i64(), Some(8));
    }

    #[test]
    fn every_value_knows_its_line_column_and_path() {
        let mut problems = Problems::new();
        let node =
            Node::from_yaml("sources:\n  press:\n    groups:\n      - every: 1s\n      - tags: {a: x, b: y}\n", &mut problems).unwrap();
        let groups = node.get("sources").unwrap().get("press").unwrap().get("groups").unwrap();
        let place = |node: &Node| {
            let at = problems.locate(node.place);
            (at.line, at.column, at.path)
        };
        assert_eq!(place(groups), (3, 5, "sources.press.groups".into()));
        assert_eq!(place(groups.items()[0].get("every").unwrap()), (4, 16, "sources.press.groups[0].every".into()));
        let b = groups.items()[1].get("tags").unwrap().get("b").unwrap();
        assert_eq!(place(b), (5, 25, "sources.press.groups[1].tags.b".into()));
        assert_eq!(problems.locate(b.place.key()).column, 22);
    }

    #[test]
    fn an_alias_is_the_value_of_its_anchor_and_knows_both_places() {
        let mut problems = Problems::new();
        let node = Node::from_yaml("a: &x {k: 1}\nb: *x\n", &mut problems).unwrap();
        assert_eq!(node.get("a"), node.get("b"));
        let at = problems.locate(node.get("b").unwrap().get("k").unwrap().place);
        assert_eq!((at.line, at.path.as_str()), (1, "b.k"));
        assert_eq!(problems.locate(at.uses[0].1).line, 2);
    }
}
