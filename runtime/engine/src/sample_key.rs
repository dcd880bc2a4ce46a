//! The key of a sample's record: `tag`, `asset`, `none`, or a template, parsed once.
//!
//! ```text
//! acme/detroit/body/press-1/temperature
//! {site}       {at}         {tag}           {path} is all of it, {asset} all but {tag}, {source} who sends it
//!              {area}/{line}                with levels: [area, line, cell]; a level that is not there is empty
//! ```

use std::sync::Arc;

/// The key of a topic's samples.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum SampleKey {
    /// The tag's path.
    #[default]
    Tag,
    /// The tag's path without its last level.
    Asset,
    /// No key.
    None,
    /// A text with names in braces.
    Template(Arc<[Piece]>),
}

/// A piece of a template.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Piece {
    Text(Box<str>),
    Path,
    Asset,
    Site,
    At,
    Tag,
    Source,
    /// One level of `at`, counted from zero.
    Level(usize),
}

const NAMES: [(&str, Piece); 6] = [
    ("path", Piece::Path),
    ("asset", Piece::Asset),
    ("site", Piece::Site),
    ("at", Piece::At),
    ("tag", Piece::Tag),
    ("source", Piece::Source),
];

/// What is wrong with a template.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("the key template `{0}` has a `{{` without a `}}`")]
    NotClosed(String),
    #[error("the key template `{template}` names `{{{name}}}`")]
    Unknown { template: String, name: String, known: Vec<String> },
}

/// Which record of a sample a key is made for.
#[derive(Clone, Copy)]
pub enum Of<'a> {
    /// One sample, by its tag's path.
    Tag(&'a str),
    /// A wide record, by its asset's path.
    Asset(&'a str),
}

/// How a record's key is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyChoice<'a> {
    /// The tag's path, which the value holds already.
    Tag,
    None,
    Bytes(&'a [u8]),
}

impl SampleKey {
    /// Parses `key:` of a topic; `levels` names the parts of `at`.
    pub fn parse(text: &str, levels: &[String]) -> Result<Self, TemplateError> {
        match text {
            "tag" => return Ok(Self::Tag),
            "asset" => return Ok(Self::Asset),
            "none" => return Ok(Self::None),
            _ => {}
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            let (name, tail) = after.split_once('}').ok_or_else(|| TemplateError::NotClosed(text.to_owned()))?;
            let named = NAMES.iter().find(|(known, _)| *known == name).map(|(_, piece)| piece.clone());
            let level = || levels.iter().position(|level| level == name).map(Piece::Level);
            pieces.push(named.or_else(level).ok_or_else(|| TemplateError::Unknown {
                template: text.to_owned(),
                name: name.to_owned(),
                known: NAMES.iter().map(|(known, _)| (*known).to_owned()).chain(levels.iter().cloned()).collect(),
            })?);
            rest = tail;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        Ok(Self::Template(pieces.into()))
    }

    /// The key of one record; a template is written into the buffer.
    pub fn choose<'a>(&self, of: Of<'a>, source: &str, buffer: &'a mut Vec<u8>) -> KeyChoice<'a> {
        let (Of::Tag(path) | Of::Asset(path)) = of;
        let asset = match of {
            Of::Tag(path) => path.rsplit_once('/').map_or(path, |(asset, _)| asset),
            Of::Asset(path) => path,
        };
        match self {
            Self::Tag => KeyChoice::Tag,
            Self::None => KeyChoice::None,
            Self::Asset => KeyChoice::Bytes(asset.as_bytes()),
            Self::Template(pieces) => {
                buffer.clear();
                for piece in pieces.iter() {
                    let text = match piece {
                        Piece::Text(text) => text,
                        Piece::Path => path,
                        Piece::Asset => asset,
                        Piece::Site => &path[..path.len() - below_site(path).map_or(0, |below| below.len() + 1)],
                        Piece::At => below_site(asset).unwrap_or(""),
                        Piece::Tag => path.get(asset.len() + 1..).unwrap_or(""),
                        Piece::Source => source,
                        Piece::Level(index) => below_site(asset).and_then(|at| at.split('/').nth(*index)).unwrap_or(""),
                    };
                    buffer.extend_from_slice(text.as_bytes());
                }
                KeyChoice::Bytes(buffer)
            }
        }
    }
}

/// What stands behind the two levels of the site; `None` where nothing does.
fn below_site(path: &str) -> Option<&str> {
    path.splitn(3, '/').nth(2)
}

/// The levels of a tag's path by name, as the catalog has them; those that `at` does not reach are left out.
pub fn named_levels<'a>(path: &'a str, levels: &'a [String]) -> impl Iterator<Item = (&'a str, &'a str)> {
    let at = path.rsplit_once('/').and_then(|(asset, _)| below_site(asset)).unwrap_or("");
    levels.iter().map(String::as_str).zip(at.split('/').filter(|part| !part.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str, of: Of) -> String {
        let levels = ["area".to_owned(), "line".to_owned(), "cell".to_owned()];
        let mut buffer = Vec::new();
        match SampleKey::parse(text, &levels).unwrap().choose(of, "acme/detroit/s", &mut buffer) {
            KeyChoice::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn a_template_knows_the_path_its_parts_and_the_levels_by_name() {
        let tag = Of::Tag("acme/detroit/body/press-1/temperature");
        assert_eq!(key("{at}/{tag}", tag), "body/press-1/temperature");
        assert_eq!(key("{path}", tag), "acme/detroit/body/press-1/temperature");
        assert_eq!(key("{site}|{asset}|{source}", tag), "acme/detroit|acme/detroit/body/press-1|acme/detroit/s");
        assert_eq!(key("{area}:{line}:{cell}", tag), "body:press-1:");
        assert_eq!(key("asset", tag), "acme/detroit/body/press-1");
        assert_eq!(key("tag", tag), "Tag");
    }

    #[test]
    fn a_wide_record_has_the_levels_of_its_asset_and_no_tag() {
        let asset = Of::Asset("acme/detroit/body/press-1");
        assert_eq!(key("{area}/{line} {at} [{tag}]", asset), "body/press-1 body/press-1 []");
    }

    #[test]
    fn a_path_without_levels_makes_an_empty_key_and_no_panic() {
        for path in ["", "a", "a/b", "a/b/c"] {
            key("{site}{at}{tag}{asset}{area}{cell}", Of::Tag(path));
            key("{site}{at}{tag}{asset}{area}{cell}", Of::Asset(path));
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let Err(TemplateError::Unknown { name, known, .. }) = SampleKey::parse("{hall}", &["area".to_owned()]) else {
            panic!("not refused")
        };
        assert_eq!(name, "hall");
        assert!(known.contains(&"area".to_owned()) && known.contains(&"at".to_owned()));
        assert_eq!(SampleKey::parse("{at", &[]), Err(TemplateError::NotClosed("{at".to_owned())));
    }

    #[test]
    fn levels_are_named_as_far_as_they_reach() {
        let levels = ["area".to_owned(), "line".to_owned(), "cell".to_owned()];
        let named: Vec<_> = named_levels("acme/detroit/body/press-1/temperature", &levels).collect();
        assert_eq!(named, [("area", "body"), ("line", "press-1")]);
        assert_eq!(named_levels("acme/detroit/x", &levels).count(), 0);
    }
}
