//! One answer with a list: where the entities are in it, and where it goes on. Entities are found by their brackets and quotes alone: each is read once, when it
//! becomes a document. So a page is whole, or it is asked for again; an entity that is no JSON is a dead letter.
//!
//! | | entities | next page | from then on | count |
//! |---|---|---|---|---|
//! | V4 | `value` | `@odata.nextLink`, `@nextLink` | `@odata.deltaLink`, `@deltaLink` | `@odata.count` |
//! | V2 | `d.results`, `d` | `d.__next` | `d.__delta` | `d.__count` |

use crate::metadata::Version;
use millrace_schemas::scan::{Next, ScanError, Scanner};
use std::ops::Range;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Where each entity is, in bytes.
    pub rows: Vec<Range<usize>>,
    pub next: Option<String>,
    pub delta: Option<String>,
    pub count: Option<u64>,
    /// V4: `@odata.context`, which says what kind of entries these are.
    pub context: String,
}

/// Why an answer is not a page.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum BadPage {
    /// Cut in the middle, or damaged.
    #[error("the answer is not JSON: {0}")]
    Damaged(String),
    #[error("the answer has no list of entities")]
    NoList,
    /// An error object with a status that says all is well, or in the middle of a list.
    #[error("the service says: {0}")]
    Error(String),
}

impl From<ScanError> for BadPage {
    fn from(error: ScanError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl Page {
    /// The entities, out of the text that the page was read of.
    pub fn rows<'t>(&self, text: &'t str) -> impl DoubleEndedIterator<Item = &'t str> {
        self.rows.iter().filter_map(move |row| text.get(row.clone()))
    }
}

/// The text of an answer.
pub fn text(body: Vec<u8>) -> Result<String, BadPage> {
    String::from_utf8(body).map_err(|error| BadPage::Damaged(format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to())))
}

/// Reads an answer.
pub fn parse(text: &str, version: Version) -> Result<Page, BadPage> {
    let mut s = Scanner::of(text);
    let mut page = Page::default();
    let mut is_list = false;
    if s.peek()? != Next::Object {
        return Err(BadPage::NoList);
    }
    s.open()?;
    let mut first = true;
    while let Some(key) = s.next_key(std::mem::take(&mut first))? {
        let key = key.cow();
        let name = key.strip_prefix('@').map(|name| name.strip_prefix("odata.").unwrap_or(name));
        match (&*key, name) {
            ("error", _) => return Err(BadPage::Error(crate::refusal::of_json(s.skip()?.as_bytes()).unwrap_or_default())),
            ("value", _) if version == Version::V4 && s.peek()? == Next::Array => {
                rows(&mut s, &mut page)?;
                is_list = true;
            }
            ("d", _) if version == Version::V2 => is_list |= inner(&mut s, &mut page)?,
            (_, Some("nextLink")) => page.next = link(&mut s)?,
            (_, Some("deltaLink")) => page.delta = link(&mut s)?,
            (_, Some("count")) => page.count = s.skip()?.trim_matches('"').parse().ok(),
            (_, Some("context")) => page.context = link(&mut s)?.unwrap_or_default(),
            _ => _ = s.skip()?,
        }
    }
    s.end()?;
    if is_list { Ok(page) } else { Err(BadPage::NoList) }
}

fn inner(s: &mut Scanner<'_>, page: &mut Page) -> Result<bool, BadPage> {
    match s.peek()? {
        Next::Array => {
            rows(s, page)?;
            return Ok(true);
        }
        Next::Object => s.open()?,
        _ => return Err(BadPage::NoList),
    }
    let (mut first, mut is_list) = (true, false);
    while let Some(key) = s.next_key(std::mem::take(&mut first))? {
        let key = key.cow();
        match &*key {
            "results" if s.peek()? == Next::Array => {
                rows(s, page)?;
                is_list = true;
            }
            "__next" => page.next = link(s)?,
            "__delta" => page.delta = link(s)?,
            "__count" => page.count = s.skip()?.trim_matches('"').parse().ok(),
            _ => _ = s.skip()?,
        }
    }
    Ok(is_list)
}

fn rows(s: &mut Scanner<'_>, page: &mut Page) -> Result<(), BadPage> {
    s.open()?;
    let mut first = true;
    while s.next_item(std::mem::take(&mut first))? {
        let length = s.pass()?.len();
        page.rows.push(s.at() - length..s.at());
    }
    Ok(())
}

fn link(s: &mut Scanner<'_>) -> Result<Option<String>, BadPage> {
    let text = s.skip()?;
    Ok(serde_json::from_str::<String>(text).ok().filter(|link| !link.is_empty()))
}
