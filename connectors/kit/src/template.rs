//! Texts with `{..}` in them: the key of a document, the path of a file.

use millrace_config::{Place, Problems};

#[derive(Clone, PartialEq, Debug)]
enum Piece {
    Text(String),
    Name(String),
}

/// A text with names in braces, to be filled in per record. `{{` is a brace.
#[derive(Clone, PartialEq, Debug)]
pub struct Template {
    pieces: Vec<Piece>,
}

impl Template {
    /// Errors: a brace that is not closed, or closes nothing, or a name that `is_known` refuses.
    pub fn parse(text: &str, place: Place, problems: &mut Problems, is_known: impl Fn(&str) -> Result<(), String>) -> Option<Self> {
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
            let end = rest[at..].find('}').filter(|_| brace == "{");
            let Some(end) = end else {
                problems
                    .error(place, format!("`{text}` has a `{brace}` without its other half"))
                    .help("write `{{` or `}}` for a brace that is meant as such");
                return None;
            };
            let name = &rest[at + 1..at + end];
            if let Err(what) = is_known(name) {
                problems.error(place, format!("`{{{name}}}` in `{text}`: {what}"));
                return None;
            }
            if !plain.is_empty() {
                pieces.push(Piece::Text(std::mem::take(&mut plain)));
            }
            pieces.push(Piece::Name(name.to_owned()));
            rest = &rest[at + end + 1..];
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain));
        }
        Some(Self { pieces })
    }

    /// The names in it, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| if let Piece::Name(name) = piece { Some(name.as_str()) } else { None })
    }

    /// The text before the first name.
    pub fn prefix(&self) -> &str {
        match self.pieces.first() {
            Some(Piece::Text(text)) => text,
            _ => "",
        }
    }

    /// Appends the text with every name filled in. Errors: what `fill` says.
    pub fn render<E>(&self, out: &mut Vec<u8>, mut fill: impl FnMut(&str, &mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Name(name) => fill(name, out)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Template, String> {
        let mut problems = Problems::new();
        let known = |name: &str| if name == "b" { Ok(()) } else { Err("unknown".into()) };
        let template = Template::parse(text, Place::default(), &mut problems, known);
        template.ok_or_else(|| problems.iter().map(|p| p.message.clone()).collect())
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
    }

    #[test]
    fn a_wrong_template_says_what_is_wrong() {
        assert!(parse("a{b").unwrap_err().contains("without its other half"));
        assert!(parse("a}b").unwrap_err().contains("without its other half"));
        assert_eq!(parse("{x}").unwrap_err(), "`{x}` in `{x}`: unknown");
    }
}
