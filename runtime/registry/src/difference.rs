//! What a change of a schema breaks, in Confluent's words; and how recursive schemas are compared in bounded time.

use millrace_config::Reason;
use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;

/// Pairs of types that one comparison looks at.
const PAIRS: usize = 100_000;
/// Nesting of pairs; what is deeper would want more stack than a thread has.
const DEPTH: usize = 256;
/// Differences said of one pair; nobody reads more.
const SAID: usize = 50;
/// Rounds of a comparison of recursive schemas.
const ROUNDS: usize = 16;

/// Which of two schemas reads: it is called `new` or `old` in the words, by the direction that is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reader {
    /// The new schema must read what was written with an old one: backward.
    New,
    /// An old schema must read what is written with the new one: forward.
    Old,
}

impl Reader {
    /// The reader's name, then the writer's.
    pub const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::New => ("new", "old"),
            Self::Old => ("old", "new"),
        }
    }
}

/// One difference that breaks compatibility.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Confluent's name of it: `READER_FIELD_MISSING_DEFAULT_VALUE`, `TYPE_CHANGED`, ...
    pub kind: &'static str,
    /// Where in the schema.
    pub path: String,
    /// With `%r` for the reader's name, `%w` for the writer's, `%p` for the path.
    pub words: String,
    /// Further particulars, where there are any.
    pub detail: Option<String>,
}

impl Difference {
    /// The sentence, with the schemas and the place named.
    pub fn describe(&self, reader: Reader) -> String {
        let (reading, writing) = reader.names();
        self.words.replace("%r", reading).replace("%w", writing).replace("%p", &self.path)
    }

    /// As the registry's answers carry it.
    pub fn render(&self, reader: Reader) -> String {
        let words = self.describe(reader);
        match &self.detail {
            Some(detail) => format!("{{errorType:'{}', description:'{words}', additionalInfo:'{detail}'}}", self.kind),
            None => format!("{{errorType:\"{}\", description:\"{words}\"}}", self.kind),
        }
    }

    fn below(&self, path: &str) -> Self {
        Self { path: format!("{path}{}", self.path), ..self.clone() }
    }
}

/// Differences of one pair of types; paths begin at the pair.
pub(crate) type Differences = Vec<Difference>;

/// Appends what was found further down, at its place.
pub(crate) fn append(found: &mut Differences, below: &[Difference], path: &str) {
    let room = SAID.saturating_sub(found.len());
    found.extend(below.iter().take(room).map(|one| one.below(path)));
}

/// What is known about pairs of types while two schemas are compared.
///
/// Every pair is judged once. A pair met again while it is being judged counts as compatible; where that was assumed, everything is judged
/// again with what was found incompatible, until nothing is added: an assumption that proved wrong hides nothing.
pub(crate) struct Pairs<K> {
    judged: HashMap<K, Option<Rc<Differences>>>,
    incompatible: HashMap<K, Rc<Differences>>,
    assumed: bool,
    depth: usize,
}

impl<K: Hash + Eq + Clone> Pairs<K> {
    /// Compares with `judge` until it is settled.
    ///
    /// Errors: the schemas are too large or too deep to be compared.
    pub fn settle(mut judge: impl FnMut(&mut Self) -> Result<Differences, Reason>) -> Result<Differences, Reason> {
        let mut pairs = Self { judged: HashMap::new(), incompatible: HashMap::new(), assumed: false, depth: 0 };
        for _ in 0..ROUNDS {
            pairs.judged.clear();
            pairs.assumed = false;
            let found = judge(&mut pairs)?;
            let bad: HashMap<K, Rc<Differences>> = pairs
                .judged
                .iter()
                .filter_map(|(pair, found)| found.as_ref().filter(|found| !found.is_empty()).map(|found| (pair.clone(), found.clone())))
                .collect();
            if !pairs.assumed || bad.len() == pairs.incompatible.len() {
                return Ok(found);
            }
            pairs.incompatible = bad;
        }
        Err("the schemas are too entangled to be compared".into())
    }

    /// What is wrong with a pair; `judge` looks at it the first time.
    pub fn pair(&mut self, pair: K, judge: impl FnOnce(&mut Self) -> Result<Differences, Reason>) -> Result<Rc<Differences>, Reason> {
        match self.judged.get(&pair) {
            Some(Some(known)) => return Ok(known.clone()),
            Some(None) => {
                self.assumed = true;
                return Ok(self.incompatible.get(&pair).cloned().unwrap_or_default());
            }
            None => {}
        }
        if self.judged.len() >= PAIRS || self.depth >= DEPTH {
            return Err("the schemas are too large to be compared".into());
        }
        self.judged.insert(pair.clone(), None);
        self.depth += 1;
        let found = Rc::new(judge(self)?);
        self.depth -= 1;
        self.judged.insert(pair, Some(found.clone()));
        Ok(found)
    }
}
