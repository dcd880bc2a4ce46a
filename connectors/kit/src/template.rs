//! Texts with `{..}` in them: tag paths, keys, names of topics, paths of files. One language for all of them.
//!
//! A name in braces is a variable; `{{` and `}}` are braces that are meant as such. What a name means is decided once, when the template is
//! parsed: an unknown one is an error, and rendering looks nothing up by name.

use millrace_config::{Place, Problems, Reason};

#[derive(Clone, PartialEq, Debug)]
enum Piece<V> {
    Text(Box<str>),
    Variable(V),
}

/// A text with variables in braces, to be filled in per record; `V` is what they mean where it is used.
#[derive(Clone, PartialEq, Debug)]
pub struct Template<V = String> {
    pieces: Vec<Piece<V>>,
}

impl<V> Template<V> {
    /// Parses a template of the YAML; `variable` says what a name in braces means, or why it means nothing. What is wrong is a problem at `place`.
    pub fn compile(text: &str, place: Place, problems: &mut Problems, variable: impl FnMut(&str) -> Result<V, Reason>) -> Option<Self> {
        Self::read(text, variable).map_err(|error| problems.refused(place, &error)).ok()
    }

    /// Parses a template. Errors: a brace that is not closed, or closes nothing, or what `variable` says.
    pub fn read(text: &str, mut variable: impl FnMut(&str) -> Result<V, Reason>) -> Result<Self, Reason> {
        let mut pieces = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..at + 1];
            if rest[at + 1..].starts_with(brace) {
                plain.push_str(brace);
                rest = &rest[at + 2..];
                continue;
            }
            let Some(end) = rest[at..].find('}').filter(|_| brace == "{") else {
                return Err(format!(
                    "`{text}` has a `{brace}` without its other half; write `{{{{` or `}}}}` for a brace that is meant as such"
                )
                .into());
            };
            let name = &rest[at + 1..at + end];
            let variable = variable(name).map_err(|what| format!("`{{{name}}}` in `{text}`: {what}"))?;
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain).into()));
            }
            pieces.push(Piece::Variable(variable));
            rest = &rest[at + end + 1..];
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain.into()));
        }
        Ok(Self { pieces })
    }

    /// The variables in it, in order.
    pub fn variables(&self) -> impl Iterator<Item = &V> {
        self.pieces.iter().filter_map(|piece| if let Piece::Variable(variable) = piece { Some(variable) } else { None })
    }

    /// The whole text, where it has no variables.
    pub fn constant(&self) -> Option<&str> {
        match &self.pieces[..] {
            [] => Some(""),
            [Piece::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text before the first variable.
    pub fn prefix(&self) -> &str {
        match self.pieces.first() {
            Some(Piece::Text(text)) => text,
            _ => "",
        }
    }

    /// Appends the text with every variable filled in. Errors: what `fill` says.
    pub fn fill<E>(&self, out: &mut Vec<u8>, mut fill: impl FnMut(&V, &mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Variable(variable) => fill(variable, out)?,
            }
        }
        Ok(())
    }
}

/// Variables that stay names, for whoever looks them up by name anyhow.
impl Template<String> {
    /// As [`Template::compile`]; `is_known` refuses what nothing is known by.
    pub fn parse(text: &str, place: Place, problems: &mut Problems, is_known: impl Fn(&str) -> Result<(), Reason>) -> Option<Self> {
        Self::compile(text, place, problems, |name| is_known(name).map(|()| name.to_owned()))
    }

    /// The names in it, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.variables().map(String::as_str)
    }

    /// The values of the variables, in order, by which this template makes a text. `None`: it does not make it, or other values would make the same.
    pub fn take_apart<'t>(&self, text: &'t str) -> Option<Vec<&'t str>> {
        // What stands before the first variable, between each two, and behind the last.
        let mut fixed = vec![""];
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => *fixed.last_mut()? = text,
                Piece::Variable(_) => fixed.push(""),
            }
        }
        let [first, between @ .., last] = &fixed[..] else { return None };
        if between.contains(&"") {
            return None;
        }
        let inner = text.strip_prefix(first)?.strip_suffix(last)?;
        let (mut values, mut rest) = (Vec::with_capacity(between.len() + 1), inner);
        for separator in between {
            let (value, behind) = rest.split_once(separator)?;
            values.push(value);
            rest = behind;
        }
        values.push(rest);
        // Where the first ends that are possible are the last ones, too, there are no others.
        let mut rest = inner;
        for (separator, value) in between.iter().zip(&values[1..]).rev() {
            let (before, behind) = rest.rsplit_once(separator)?;
            if behind != *value {
                return None;
            }
            rest = before;
        }
        Some(values)
    }

    /// As [`Template::fill`].
    pub fn render<E>(&self, out: &mut Vec<u8>, mut fill: impl FnMut(&str, &mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        self.fill(out, |name, out| fill(name, out))
    }
}

/// Appends a value as one level of a path: a `/` in it becomes `%2F`.
pub fn push_level(out: &mut Vec<u8>, value: &[u8]) {
    for (n, piece) in value.split(|byte| *byte == b'/').enumerate() {
        if n > 0 {
            out.extend_from_slice(b"%2F");
        }
        out.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Template, Reason> {
        Template::read(text, |name| if name == "b" { Ok(name.to_owned()) } else { Err("unknown".into()) })
    }

    #[test]
    fn names_are_filled_in_and_doubled_braces_stay() {
        let template = parse("a{b}c{{d}}{b}").unwrap();
        let mut out = Vec::new();
        let fill = |name: &str, out: &mut Vec<u8>| -> Result<(), ()> {
            out.extend_from_slice(format!("<{name}>").as_bytes());
            Ok(())
        };
        template.render(&mut out, fill).unwrap();
        assert_eq!(out, b"a<b>c{d}<b>");
        assert_eq!(template.prefix(), "a");
        assert_eq!(template.names().collect::<Vec<_>>(), ["b", "b"]);
        assert_eq!(parse("{{a}}").unwrap().constant(), Some("{a}"));
    }

    #[test]
    fn a_wrong_template_says_what_is_wrong() {
        assert!(parse("a{b").unwrap_err().contains("without its other half"));
        assert!(parse("a}b").unwrap_err().contains("without its other half"));
        assert_eq!(parse("{x}").unwrap_err(), "`{x}` in `{x}`: unknown");
    }

    #[test]
    fn a_text_is_taken_apart_where_there_is_one_way_to_do_it() {
        let apart = |template: &str, text: &'static str| Template::read(template, |name| Ok(name.to_owned())).unwrap().take_apart(text);
        assert_eq!(apart("{a}", "x/y"), Some(vec!["x/y"]));
        assert_eq!(apart("{a}/{b}/{c}", "1//3"), Some(vec!["1", "", "3"]));
        assert_eq!(apart("k-{a}.{b}!", "k-1.2!"), Some(vec!["1", "2"]));
        assert_eq!(apart("{a}/{b}", "1/2/3"), None, "1 and 2/3, or 1/2 and 3");
        assert_eq!(apart("{a}--{b}", "1---2"), None, "1 and -2, or 1- and 2");
        assert_eq!(apart("{a}{b}", "12"), None);
        assert_eq!(apart("{a}/{b}", "12"), None);
        assert_eq!(apart("k", "k"), None, "there is nothing in it");
    }

    #[test]
    fn a_value_is_one_level() {
        let mut out = Vec::new();
        push_level(&mut out, b"a/b/");
        assert_eq!(out, b"a%2Fb%2F");
    }
}
