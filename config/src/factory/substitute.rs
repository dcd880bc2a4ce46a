//! `${..}` in a text: environment, secret files, template parameters, `${name}` and `${site}`.
//!
//! - They nest: `${file:/run/secrets/${name}}`. `$${` is a `${` as it stands. `{..}` is another thing, per record, and stays.
//! - A text that is one `${parameter}` and nothing else becomes the parameter's value, whatever it is: a number, a list.
//! - What came through env or file is never printed; its reference is.
//! - In `at`, `tag` and `name` a `/` inside of a substituted part is `%2F`: only a written one is a level.

use crate::factory::environment::Load;
use crate::factory::files::cause;
use crate::tree::node::{Entry, Node, Text};
use crate::tree::place::{Place, Via};
use crate::tree::problem::Problems;
use crate::tree::{suggest, yaml};
use std::path::Path;
use zeroize::Zeroize;

const MAX_SECRET_BYTES: usize = 64 << 10;
const MAX_DEPTH: usize = 8;
/// A text larger than this after substitution is refused.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// What names mean, where a text stands.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'s> {
    /// The source, sink or device it belongs to.
    pub name: Option<&'s str>,
    pub site: Option<&'s Node>,
    /// The template's parameters with their values.
    pub params: &'s [Entry],
    /// The use of the template, for the places of all that is in it.
    pub via: Option<Via>,
}

impl Scope<'_> {
    pub fn place(&self, place: Place) -> Place {
        match self.via {
            Some(via) => place.through(via),
            None => place,
        }
    }
}

/// Resolves the text of a node at `place`, under a key. `None` after a problem, which is reported.
pub(crate) fn resolve(text: &Text, place: Place, key: &str, scope: &Scope, how: &Load, problems: &mut Problems) -> Option<Node> {
    let written = text.as_str();
    if let Some(param) = whole(written).and_then(|name| scope.params.iter().find(|param| *param.key == *name)) {
        let via = problems.places.add_use(format!("`{written}`"), param.value.place, place);
        return Some(param.value.map_places(&|place| place.through(via)));
    }
    let mut out = Piece::default();
    // A text that is one reference is as it was written elsewhere, levels too.
    let single = written.starts_with("${") && closing(&written[2..]).is_some_and(|end| end + 3 == written.len());
    let levels = matches!(key, "at" | "tag" | "name") && !single;
    let mut resolver = Resolver { place, scope, how, problems, levels, unread: false };
    if let Err(Refused) = resolver.text(written, &mut out, 0) {
        // What is wrong here is said; its consequences need not be.
        problems.places.set_unread(place);
        return None;
    }
    if resolver.unread {
        problems.places.set_unread(place);
    }
    let text = std::mem::take(&mut out.text);
    let reference = out.tainted.then(|| std::mem::take(&mut out.reference));
    if let Some(reference) = &reference {
        problems.places.add_secret(&text, reference);
    }
    Some(Node::new(place, yaml::resolve(Text::substituted(text, reference))))
}

/// The name, of a text that is one `${name}`.
fn whole(text: &str) -> Option<&str> {
    let name = text.strip_prefix("${")?.strip_suffix('}')?;
    (!name.contains(['$', '{', '}'])).then_some(name)
}

/// The problem is reported.
struct Refused;

/// A part of a text as it is, and as it may be printed.
#[derive(Default)]
struct Piece {
    text: String,
    reference: String,
    tainted: bool,
}

impl Drop for Piece {
    fn drop(&mut self) {
        if self.tainted {
            self.text.zeroize();
        }
    }
}

struct Resolver<'a> {
    place: Place,
    scope: &'a Scope<'a>,
    how: &'a Load,
    problems: &'a mut Problems,
    levels: bool,
    unread: bool,
}

impl Resolver<'_> {
    fn refuse(&mut self, message: String, help: String) -> Refused {
        self.problems.error(self.place, message).help(help);
        Refused
    }

    fn text(&mut self, mut rest: &str, out: &mut Piece, depth: usize) -> Result<(), Refused> {
        if depth > MAX_DEPTH {
            return Err(self.refuse(format!("`${{..}}` is nested deeper than {MAX_DEPTH} levels"), "write it flatter".into()));
        }
        while let Some(dollar) = rest.find("${") {
            let (before, after) = rest.split_at(dollar);
            if let Some(before) = before.strip_suffix('$') {
                out.text.push_str(before);
                out.text.push_str("${");
                out.reference.push_str(before);
                out.reference.push_str("$${");
                rest = &after[2..];
                continue;
            }
            out.text.push_str(before);
            out.reference.push_str(before);
            let inner_and_rest = &after[2..];
            let Some(end) = closing(inner_and_rest) else {
                return Err(self.refuse("`${` is never closed".into(), "close it with `}`; a `${` as it stands is written `$${`".into()));
            };
            self.reference(&inner_and_rest[..end], out, depth)?;
            if out.text.len() > MAX_TEXT_BYTES {
                return Err(self.refuse(format!("the text is longer than {} KiB", MAX_TEXT_BYTES >> 10), "shorten it".into()));
            }
            rest = &inner_and_rest[end + 1..];
        }
        out.text.push_str(rest);
        out.reference.push_str(rest);
        Ok(())
    }

    /// What stands between `${` and `}`.
    fn reference(&mut self, inner: &str, out: &mut Piece, depth: usize) -> Result<(), Refused> {
        let mut name = Piece::default();
        self.text(inner, &mut name, depth + 1)?;
        if let Some(variable) = name.text.strip_prefix("env:") {
            let Some(value) = self.how.env.get(variable) else {
                let help = match suggest::nearest(variable, self.how.env.keys().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "set it before Millrace starts".into(),
                };
                return Err(self.refuse(format!("the environment variable `{variable}` is not set"), help));
            };
            self.push(value, out);
            out.reference.push_str(&format!("${{{}}}", name.reference));
            out.tainted = true;
            self.problems.places.add_secret(value, &format!("${{{}}}", name.reference));
            return Ok(());
        }
        if let Some(path) = name.text.strip_prefix("file:") {
            if path.is_empty() {
                return Err(self.refuse("`${file:}` names no file".into(), "write `${file:/run/secrets/name}`".into()));
            }
            let reference = format!("${{{}}}", name.reference);
            out.tainted = true;
            out.reference.push_str(&reference);
            if !self.how.read_secrets {
                self.unread = true;
                out.text.push_str(&reference);
                return Ok(());
            }
            let path = path.to_owned();
            let mut secret = self.secret(&path)?;
            self.push(&secret, out);
            self.problems.places.add_secret(&secret, &reference);
            secret.zeroize();
            return Ok(());
        }
        let param = self.scope.params.iter().find(|param| *param.key == *name.text).map(|param| &param.value);
        let value = match (param, name.text.as_str()) {
            (Some(value), _) => Some(value),
            (None, "site") => self.scope.site,
            (None, "name") => {
                if let Some(own) = self.scope.name {
                    self.insert(&own.into(), out);
                    return Ok(());
                }
                None
            }
            (None, _) => None,
        };
        let Some(value) = value else {
            let params = self.scope.params.iter().map(|param| &*param.key);
            let known: Vec<&str> = params.chain(self.scope.name.map(|_| "name")).chain(["site"]).collect();
            let help = match suggest::nearest(&name.text, known.iter().copied()) {
                Some(near) => format!("did you mean `${{{near}}}`?"),
                None => format!("known here: {}, and `env:NAME`, `file:/path`", suggest::list(&known)),
            };
            return Err(self.refuse(format!("`${{{}}}` is not known", name.reference), help));
        };
        match value.text() {
            Some(text) => {
                self.insert(text, out);
                Ok(())
            }
            None => {
                let message = format!("`${{{}}}` is {}: it can't be part of a text", name.text, value.describe());
                let help = "let it stand alone, or give it a text".into();
                Err(self.refuse(message, help))
            }
        }
    }

    fn insert(&mut self, value: &Text, out: &mut Piece) {
        let from = out.text.len();
        self.push(value.as_str(), out);
        match value.reference() {
            Some(reference) => {
                out.reference.push_str(reference);
                out.tainted = true;
            }
            None => out.reference.push_str(&out.text[from..].replace("${", "$${")),
        }
    }

    /// A substituted value: a `/` in it is no level.
    fn push(&self, value: &str, out: &mut Piece) {
        match self.levels {
            true => out.text.extend(value.split_inclusive('/').flat_map(|part| match part.strip_suffix('/') {
                Some(part) => [part, "%2F"],
                None => [part, ""],
            })),
            false => out.text.push_str(value),
        }
    }

    fn secret(&mut self, path: &str) -> Result<String, Refused> {
        let bytes = match self.how.files.read(Path::new(path), MAX_SECRET_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => {
                return Err(self.refuse(
                    format!("cannot read the secret in {path}: {}", cause(&error)),
                    "the file holds the secret and nothing else".into(),
                ));
            }
        };
        if bytes.len() > MAX_SECRET_BYTES {
            return Err(self
                .refuse(format!("the secret in {path} is longer than {} KiB", MAX_SECRET_BYTES >> 10), "is this the right file?".into()));
        }
        match String::from_utf8(bytes) {
            Ok(mut secret) => {
                let end = secret.trim_end_matches(['\n', '\r']).len();
                secret.truncate(end);
                Ok(secret)
            }
            Err(error) => {
                error.into_bytes().zeroize();
                Err(self.refuse(format!("the secret in {path} is not UTF-8 text"), "is this the right file?".into()))
            }
        }
    }
}

/// Where the `}` is that closes, in a text that begins after `${`.
fn closing(text: &str) -> Option<usize> {
    let mut open = 0usize;
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'{' if at > 0 && bytes[at - 1] == b'$' => open += 1,
            b'}' if open == 0 => return Some(at),
            b'}' => open -= 1,
            _ => {}
        }
    }
    None
}
