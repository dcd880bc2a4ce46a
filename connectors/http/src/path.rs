//! Paths of routes: `/machines/{machine}/state`.

use millrace_config::Reason;

/// One path, compiled.
#[derive(Clone, PartialEq, Debug)]
pub struct Path {
    text: Box<str>,
    levels: Box<[Level]>,
}

#[derive(Clone, PartialEq, Debug)]
enum Level {
    Text(Box<str>),
    Named,
}

impl Path {
    /// Reads a path, and the names of what its levels in braces match. Errors: one line for a person.
    pub fn parse(text: &str) -> Result<(Self, Vec<String>), Reason> {
        let rest = text.strip_prefix('/').ok_or_else(|| format!("the path `{text}` does not begin with `/`"))?;
        let mut names = Vec::new();
        let mut levels = Vec::new();
        for level in rest.split('/') {
            match level.strip_prefix('{').map(|level| level.strip_suffix('}')) {
                Some(Some(name)) if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') => {
                    if name == "key" || names.iter().any(|known| known == name) {
                        return Err(format!("`{{{name}}}` in `{text}` is taken already; give it another name").into());
                    }
                    names.push(name.to_owned());
                    levels.push(Level::Named);
                }
                None if !level.contains(['{', '}', '?', '#', '%']) && (!level.is_empty() || rest.is_empty()) => {
                    levels.push(Level::Text(level.into()));
                }
                _ => {
                    return Err(format!(
                        "`{level}` in `{text}` is no level of a path; write a text, or a name in braces as in `{{machine}}`"
                    )
                    .into());
                }
            }
        }
        Ok((Self { text: text.into(), levels: levels.into() }, names))
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What the named levels match; `None` where the path is another. Percent signs are decoded.
    ///
    /// Errors: a level that is not UTF-8, is empty, or is `.` or `..`.
    pub fn captures(&self, path: &str) -> Option<Result<Vec<String>, Reason>> {
        let mut given = path.strip_prefix('/')?.split('/');
        let mut found = Vec::new();
        for level in &self.levels {
            let given = given.next()?;
            match level {
                Level::Text(text) if **text == *given => {}
                Level::Text(_) => return None,
                Level::Named => found.push(given),
            }
        }
        if given.next().is_some() {
            return None;
        }
        Some(found.into_iter().map(decode).collect())
    }

    /// Whether some path matches both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.levels.len() == other.levels.len()
            && self.levels.iter().zip(&other.levels).all(|pair| match pair {
                (Level::Text(a), Level::Text(b)) => a == b,
                _ => true,
            })
    }
}

/// One level with its percent signs decoded. Errors: what it is that can't be a level of a tag path.
pub fn decode(level: &str) -> Result<String, Reason> {
    let mut out = Vec::with_capacity(level.len());
    let mut bytes = level.bytes();
    while let Some(byte) = bytes.next() {
        let digit = |byte: Option<u8>| byte.and_then(|byte| (byte as char).to_digit(16));
        out.push(match byte {
            b'%' => match (digit(bytes.next()), digit(bytes.next())) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => return Err(format!("`{level}` in the path has a `%` without two digits behind it").into()),
            },
            byte => byte,
        });
    }
    match String::from_utf8(out) {
        Ok(text) if text.is_empty() || text == "." || text == ".." => Err(format!("`{level}` in the path is no name").into()),
        Ok(text) if text.contains(char::is_control) => Err("the path holds a control character".into()),
        Ok(text) => Ok(text),
        Err(_) => Err(format!("`{level}` in the path is not UTF-8").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_levels_are_captured_and_decoded() {
        let (path, names) = Path::parse("/machines/{machine}/state").unwrap();
        assert_eq!(names, ["machine"]);
        assert_eq!(path.captures("/machines/press%201/state"), Some(Ok(vec!["press 1".to_owned()])));
        assert_eq!(path.captures("/machines/a%2Fb/state"), Some(Ok(vec!["a/b".to_owned()])));
        for other in ["/machines/state", "/machines/a/state/", "/machines/a/other", "machines/a/state", "/machines/a/b/state"] {
            assert_eq!(path.captures(other), None, "{other}");
        }
        for bad in ["/machines//state", "/machines/%GG/state", "/machines/%FF/state", "/machines/../state", "/machines/%0A/state"] {
            assert!(path.captures(bad).unwrap().is_err(), "{bad}");
        }
        assert_eq!(Path::parse("/").unwrap().0.captures("/"), Some(Ok(Vec::new())));
    }

    #[test]
    fn a_path_that_is_none_is_refused() {
        for wrong in ["orders", "/a//b", "/{a}/{a}", "/{key}", "/{a", "/a?b", "/{a-b}", "/x{a}"] {
            assert!(Path::parse(wrong).is_err(), "{wrong}");
        }
    }
}
