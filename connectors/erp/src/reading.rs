//! The reading of one entity set: all of it first, then what changes; page by page, each sent with the position behind it.
//!
//! ```text
//! load ──(first page .. next .. next)──┬─ delta link ──> changes ──(410: gone)──> load ──> what is gone ([`crate::reconcile`])
//!                                      ├─ watermark ───> what is not older than watermark - overlap, seen ones left out
//!                                      └─ neither ─────> load, at each poll
//! between polls, where `reconcile_every` says so: the keys alone ([`crate::listing`])
//! ```
//!
//! Invariants:
//! - a set is complete only by a page of the right kind without a link to a next one; anything else is an error, and the same page is asked again;
//! - by a watermark, the next page is asked for by the last value of this one, not by a count of rows: a row that changes while all is read would
//!   shift those behind it, and one of them would be skipped. Only within one value the service's own link is followed;
//! - while one page is decoded the next one is on its way, and no more than that: memory is two pages;
//! - a position never runs ahead of the rows: it goes with them, in one batch.

use crate::asking::Asking;
use crate::known::{Changes, Keys};
use crate::metadata::Version;
use crate::page::{self, BadPage, Page};
use crate::pass::{Pass, Unreconciled, Visited};
use crate::position::{Load, Position};
use crate::service::Service;
use crate::set::Set;
use crate::shape::Record;
use crate::values;
use crate::watermark::{Ordinal, Seen, Watermark};
use millrace_config::Reason;
use millrace_contract::{Failure, SourceIo, Status};
use millrace_kit::http::{HttpError, Request, Response, StatusCode, Url};
use millrace_schemas::{Micros, RouteId};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// What ends a poll.
#[derive(Debug)]
pub enum Trouble {
    /// Of the service as a whole.
    Session(Failure),
    /// Of this entity set alone; with the status of the answer, where that is what is wrong.
    Set { text: String, needs_human: bool, status: Option<StatusCode> },
}

impl Trouble {
    pub fn set(text: String, needs_human: bool) -> Self {
        Self::Set { text, needs_human, status: None }
    }
}

impl From<HttpError> for Trouble {
    fn from(error: HttpError) -> Self {
        match &error {
            // A set that is forbidden, gone or broken does not stop the others.
            HttpError::Status { .. } | HttpError::TooLarge { .. } | HttpError::Cut { .. } => {
                let text = error.to_string();
                let status = if let HttpError::Status { status, .. } = &error { Some(*status) } else { None };
                Self::Set { text, needs_human: matches!(Failure::from(error), Failure::Blocked(_)), status }
            }
            _ => Self::Session(error.into()),
        }
    }
}

/// The property by which SAP's operational data provisioning says what happened.
const CHANGE_MODE: &str = "ODQ_CHANGEMODE";
/// So many rows within the overlap are known while they are read.
const SEEN: usize = 200_000;
/// Tries of one page, before the set as a whole is given time.
const TRIES: u32 = 5;
/// And how long it may take until the next one.
const LONGEST: Duration = Duration::from_secs(5);
/// A page goes into one batch, with the position behind it; one that is larger than this goes into several, and after a crash may come twice.
pub(crate) const BATCH_BYTES: usize = 4 << 20;

/// The page behind so many rows `of` all, where this one has no link to it.
pub(crate) fn skipping(base: &Url, rows: u64, of: u64, page: &Page) -> Option<Url> {
    if rows >= of || page.rows.is_empty() {
        return None;
    }
    let mut url = base.clone();
    url.set_query(Some(&format!("{}&$skip={rows}", base.query().unwrap_or_default())));
    Some(url)
}

pub struct Reading {
    pub(crate) service: Arc<Service>,
    pub(crate) set: Arc<Set>,
    pub(crate) route: RouteId,
    pub(crate) record: Record,
    pub(crate) version: Version,
    pub(crate) watermark: Option<Watermark>,
    pub(crate) change_mode: Option<usize>,
    /// V2: the service lists delta links.
    has_delta_links: bool,
    /// Fields that are looked at: those of the key, then the watermark, then the change mode.
    pub(crate) wanted: Vec<usize>,
    pub(crate) key_names: Vec<String>,
    /// Of an entity that is no document otherwise: what its key is made of.
    pub(crate) key_record: Record,
    pub(crate) key_wanted: Vec<usize>,
    /// How entities are asked for by their keys, where that is possible.
    pub(crate) asking: Option<Asking>,
    pub(crate) position: Position,
    /// What this page says of keys, where they are kept; and positions of keys that are not needed any more.
    pub(crate) changes: Option<Changes>,
    pub(crate) unneeded: Vec<String>,
    pub(crate) seen: Seen,
    /// Where the `seen` of the log is older than this one.
    pub(crate) seen_moved: bool,
    /// The position in the log.
    pub(crate) written: Vec<u8>,
    /// A comparison of the keys under way, and what of the last one went wrong.
    pub(crate) pass: Option<Pass>,
    pub(crate) unreconciled: Option<Unreconciled>,
}

/// A page that has come.
pub(crate) struct Came {
    pub text: String,
    pub page: Page,
    /// The server's clock, by which its watermarks go; ours where it does not say. Microseconds since 1970.
    at: i64,
    is_tracked: bool,
}

impl Came {
    fn of(answer: Response, version: Version) -> Result<Self, BadPage> {
        let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(answer.header("date"));
        let at = date.map_or_else(|_| Micros::now().0, |date| date.as_microsecond());
        // P §8.2.8.
        let is_tracked = answer.header("preference-applied").contains("track-changes");
        let text = page::text(answer.body)?;
        Ok(Self { page: page::parse(&text, version)?, text, at, is_tracked })
    }
}

/// Why a page has not.
pub(crate) enum NotCome {
    Http(HttpError),
    Bad(BadPage),
}

/// A page that is on its way. Dropped, it is given up.
pub(crate) struct Coming(JoinHandle<Result<Came, NotCome>>);

impl Drop for Coming {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a poll asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    Load,
    Delta,
    Water,
}

impl Reading {
    pub fn new(
        service: Arc<Service>,
        set: Arc<Set>,
        route: RouteId,
        record: Record,
        (version, has_delta_links): (Version, bool),
        io: &SourceIo,
    ) -> Result<Self, Reason> {
        let field =
            |name: &str| record.index(name).ok_or_else(|| format!("{} has no property `{name}`, or it is not under `select`", set.name));
        let key_names: Vec<String> = match &set.key {
            Some(template) => template.names().map(str::to_owned).collect(),
            None => record.keys.iter().map(|index| record.fields[*index].name.clone()).collect(),
        };
        let mut wanted = key_names.iter().map(|name| field(name)).collect::<Result<Vec<_>, _>>()?;
        let watermark = match &set.watermark {
            Some(name) => {
                let index = field(name)?;
                let shape = record.fields[index].shape.clone();
                if !Watermark::is_possible(&shape) {
                    return Err(format!(
                        "`{name}` of {} is neither a date, a date with time, nor a whole number; it cannot be a watermark",
                        set.name
                    )
                    .into());
                }
                wanted.push(index);
                Some(Watermark { name: name.clone(), field: index, shape })
            }
            None => None,
        };
        let change_mode = record.index(CHANGE_MODE);
        wanted.extend(change_mode);
        let query = format!("{:?} {:?} {:?} {:?}", set.select, set.filter, set.expand, set.watermark);
        let key = set.key.as_ref().map_or_else(|| key_names.join("/"), |template| format!("{template:?}"));
        let position = Position::resume(io.resume(&Position::key(&set.name)), &query, &key);
        // Before anything was read of this query, what was seen is of another one.
        let is_new = position.load == Some(Load::default()) && !position.is_loaded;
        let seen = io.resume(&Position::seen_key(&set.name)).filter(|_| !is_new).map(|bytes| Seen::read(&bytes)).unwrap_or_default();
        let kept = io.positions(&Keys::prefix(&set.name)).into_iter().map(|(name, _)| name);
        let unneeded = position.without_use(&set.name, kept);
        let mut key_record = Record::new(record.name.clone());
        key_names.iter().filter_map(|name| record.index(name)).for_each(|index| key_record.push(record.fields[index].clone()));
        key_record.keys = (0..key_record.fields.len()).collect();
        let key_wanted = key_names.iter().filter_map(|name| key_record.index(name)).collect();
        let asking = Asking::new(&set, &key_names, &record);
        if set.reconcile_every.is_some() && asking.is_none() {
            return Err(format!(
                "`reconcile_every` of {} needs a key of texts, numbers, dates or GUIDs, by which an entity can be asked for",
                set.name
            )
            .into());
        }
        Ok(Self {
            service,
            set,
            route,
            record,
            version,
            watermark,
            change_mode,
            has_delta_links,
            wanted,
            key_names,
            key_record,
            key_wanted,
            asking,
            position,
            changes: None,
            unneeded,
            seen,
            seen_moved: false,
            written: Vec::new(),
            pass: None,
            unreconciled: None,
        })
    }

    /// Reads what there is now.
    pub async fn poll(&mut self, io: &SourceIo) -> Result<(), Trouble> {
        // A load has ended, and what is gone was not told to the end.
        self.sweep(io).await.map_err(Trouble::Session)?;
        let mode = match &self.position {
            Position { load: Some(_), .. } => Mode::Load,
            Position { delta: Some(_), .. } => Mode::Delta,
            Position { water: Some(_), .. } if self.watermark.is_some() => Mode::Water,
            // There is nothing to go on from.
            _ => {
                self.start_over();
                Mode::Load
            }
        };
        let done = match self.read(mode, io).await {
            Err(Trouble::Set { text, status: Some(status), .. }) if self.is_link_gone(mode, status) => {
                self.link_is_gone(mode, &text, io);
                self.start_over();
                self.read(Mode::Load, io).await
            }
            outcome => outcome,
        };
        done?;
        self.sweep(io).await.map_err(Trouble::Session)?;
        self.rewrite(io).await;
        Ok(())
    }

    /// Whether a link that was kept is refused for good.
    fn is_link_gone(&self, mode: Mode, status: StatusCode) -> bool {
        let is_kept = match mode {
            Mode::Load => self.position.load.as_ref().is_some_and(|load| !load.next.is_empty()),
            Mode::Delta => true,
            Mode::Water => false,
        };
        is_kept && matches!(status, StatusCode::GONE | StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)
    }

    /// What all pages of a query have in common.
    fn first(&self, mode: Mode, begin: Option<Ordinal>) -> Result<Url, Trouble> {
        let mut query: Vec<(&str, String)> = Vec::new();
        if !self.set.select.is_empty() {
            let keys = self.record.keys.iter().map(|index| self.record.fields[*index].name.as_str());
            let mut names: Vec<&str> = keys.filter(|key| !self.set.select.iter().any(|name| name == key)).collect();
            names.extend(self.set.select.iter().map(String::as_str));
            // V2 wants what is expanded to be selected, too.
            if self.version == Version::V2 {
                names.extend(self.set.expand.iter().map(String::as_str));
            }
            query.push(("$select", names.join(",")));
        }
        let mut filters: Vec<String> = self.set.filter.iter().map(|filter| format!("({filter})")).collect();
        if let (Some(watermark), Some(begin)) = (&self.watermark, begin) {
            let beyond = || Trouble::set(format!("{}: watermark {begin} is beyond what can be asked for", self.set.name), true);
            filters.push(watermark.filter(begin, self.version).ok_or_else(beyond)?);
        }
        if !filters.is_empty() {
            query.push(("$filter", filters.join(" and ")));
        }
        if !self.set.expand.is_empty() {
            query.push(("$expand", self.expand()));
        }
        // Without an order pages of a set that changes may skip rows; a delta keeps its own.
        if let Some(watermark) = &self.watermark {
            let keys = self.record.keys.iter().map(|index| self.record.fields[*index].name.as_str());
            let order: Vec<&str> = std::iter::once(watermark.name.as_str()).chain(keys.filter(|key| *key != watermark.name)).collect();
            query.push(("$orderby", order.join(",")));
        }
        if mode == Mode::Load && begin.is_none() {
            query.push(if self.version == Version::V4 { ("$count", "true".into()) } else { ("$inlinecount", "allpages".into()) });
        }
        if self.version == Version::V2 {
            query.push(("$format", "json".into()));
        }
        let query: Vec<(&str, &str)> = query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Ok(self.service.url(&self.set.name, &query))
    }

    /// `Operations,Components($expand=Material)` in V4; V2 writes paths.
    fn expand(&self) -> String {
        if self.version == Version::V2 {
            return self.set.expand.join(",");
        }
        let nested = |path: &String| {
            let steps: Vec<&str> = path.split('/').collect();
            let mut text = String::new();
            for (depth, step) in steps.iter().enumerate() {
                text += step;
                text += if depth + 1 < steps.len() { "($expand=" } else { "" };
            }
            text + &")".repeat(steps.len() - 1)
        };
        // A path below another one says it all.
        let is_whole = |path: &&String| !self.set.expand.iter().any(|other| other.starts_with(&format!("{path}/")));
        self.set.expand.iter().filter(is_whole).map(nested).collect::<Vec<_>>().join(",")
    }

    pub(crate) fn ask(&self, url: &Url, mode: Mode) -> Coming {
        let mut prefer = format!("odata.maxpagesize={}", self.set.page);
        if mode == Mode::Load && self.set.wants_delta {
            prefer += ",odata.track-changes";
        }
        let request = self.service.request(Request::get(url.clone()).header("prefer", &prefer), Some(self.version));
        let (service, version) = (self.service.clone(), self.version);
        Coming(tokio::spawn(async move {
            let answer = service.send(&request).await.map_err(NotCome::Http)?;
            if !answer.status.is_success() {
                return Err(NotCome::Http(service.refusal(&answer)));
            }
            // Its entities are found here, beside those of the page before, which become documents meanwhile.
            Came::of(answer, version).map_err(NotCome::Bad)
        }))
    }

    async fn read(&mut self, mode: Mode, io: &SourceIo) -> Result<(), Trouble> {
        let mut anchor = match (mode, &self.watermark, self.position.water) {
            (Mode::Water, Some(watermark), Some(water)) => Some(watermark.floor(watermark.begin(water, self.set.overlap), self.version)),
            _ => None,
        };
        let base = self.first(mode, anchor)?;
        let kept = match mode {
            Mode::Load => self.position.load.as_ref().map(|load| load.next.clone()).filter(|next| !next.is_empty()),
            Mode::Delta => self.position.delta.clone(),
            Mode::Water => None,
        };
        let is_resumed = kept.is_some();
        let mut url = match kept {
            Some(link) => self.linked(&base, &link)?,
            None => base.clone(),
        };
        let mut coming = self.ask(&url, mode);
        let mut high = self.position.load.as_ref().and_then(|load| load.high).or(self.position.water);
        let mut visited = Visited::default();
        loop {
            let came = self.come(coming, &url, mode).await?;
            let page = &came.page;
            if let Some(load) = self.position.load.as_mut().filter(|_| mode == Mode::Load && !is_resumed && url == base) {
                load.is_tracked = came.is_tracked || self.has_delta_links;
            }
            let next = match &page.next {
                Some(link) => match self.beyond(mode, &came, &mut anchor)? {
                    Some(next) => Some(next),
                    None => Some(self.linked(&url, link)?),
                },
                None => self.rest(mode, &base, page),
            };
            self.leads_on(&mut visited, &url, next.as_ref())?;
            let after = next.as_ref().map(|next| self.ask(next, mode));
            self.send(mode, &came, next.as_ref(), (&mut high, anchor), io).await;
            match (next, after) {
                (Some(next), Some(after)) => (url, coming) = (next, after),
                _ => break,
            }
        }
        if mode == Mode::Load && self.position.delta.is_none() && self.set.wants_delta {
            self.delta_links_of(io).await?;
        }
        Ok(())
    }

    /// Errors: the links lead in a circle.
    pub(crate) fn leads_on(&self, visited: &mut Visited, url: &Url, next: Option<&Url>) -> Result<(), Trouble> {
        match visited.leads_back(url, next) {
            true => Err(Trouble::set(format!("{}: the link to the next page leads back to a page that was read", self.set.name), true)),
            false => Ok(()),
        }
    }

    /// A page that is on its way; asked for again, where that may help.
    pub(crate) async fn come(&self, mut coming: Coming, url: &Url, mode: Mode) -> Result<Came, Trouble> {
        let mut tries = 0;
        loop {
            let trouble = match (&mut coming.0).await {
                Ok(Ok(came)) => return Ok(came),
                Ok(Err(NotCome::Http(error))) => Trouble::from(error),
                Ok(Err(NotCome::Bad(bad))) => self.bad_page(url, &bad),
                Err(error) => Trouble::Session(Failure::Reconnect(format!("a request's task ended: {error}"))),
            };
            coming = self.once_more(trouble, &mut tries, url, mode).await?;
        }
    }

    /// Where the next page begins by the watermark: at the last value of this one. `None`: the service's own link is to be followed.
    fn beyond(&self, mode: Mode, came: &Came, anchor: &mut Option<Ordinal>) -> Result<Option<Url>, Trouble> {
        let is_tracked = self.position.load.as_ref().is_some_and(|load| load.is_tracked);
        let Some(watermark) = self.watermark.as_ref().filter(|_| mode == Mode::Water || mode == Mode::Load && !is_tracked) else {
            return Ok(None);
        };
        let mut scratch = Vec::new();
        let last = came
            .page
            .rows(&came.text)
            .next_back()
            .and_then(|row| values::entity(row, &self.record, self.version, &[watermark.field], &mut scratch).ok());
        let last = last.and_then(|entity| watermark.ordinal(&scratch[entity.wanted[0].clone()]));
        let Some(last) = last.map(|last| watermark.floor(last, self.version)).filter(|last| anchor.is_none_or(|anchor| *last > anchor))
        else {
            return Ok(None);
        };
        *anchor = Some(last);
        self.first(mode, *anchor).map(Some)
    }

    /// What is next after trouble with a page: it is asked for again, where that may help and was not tried too often.
    async fn once_more(&self, trouble: Trouble, tries: &mut u32, url: &Url, mode: Mode) -> Result<Coming, Trouble> {
        *tries += 1;
        let wait = match &trouble {
            Trouble::Session(Failure::RetryAfter(wait, _)) => *wait,
            Trouble::Session(Failure::Reconnect(_)) | Trouble::Set { needs_human: false, .. } => {
                Duration::from_millis(50) * 2_u32.pow(*tries)
            }
            _ => return Err(trouble),
        };
        if *tries >= TRIES || wait > LONGEST {
            return Err(trouble);
        }
        tracing::debug!(set = &*self.set.name, "{trouble:?}; asked again in {wait:?}");
        tokio::time::sleep(wait).await;
        Ok(self.ask(url, mode))
    }

    /// A page without a link, though the service said that there are more: it pages by nothing but what is asked of it.
    fn rest(&self, mode: Mode, base: &Url, page: &Page) -> Option<Url> {
        // By a watermark the rows of the anchor come twice, and are no measure.
        let load = self.position.load.as_ref().filter(|load| mode == Mode::Load && (self.watermark.is_none() || load.is_tracked))?;
        let (rows, of) = (load.rows + page.rows.len() as u64, load.of.or(page.count)?);
        if page.delta.is_some() { None } else { skipping(base, rows, of, page) }
    }

    pub(crate) fn linked(&self, asked: &Url, link: &str) -> Result<Url, Trouble> {
        self.service.linked(asked, link).ok_or_else(|| Trouble::set(format!("{}: `{link}` is not a link", self.set.name), true))
    }

    fn bad_page(&self, url: &Url, bad: &BadPage) -> Trouble {
        let url = millrace_kit::http::redact::url(url);
        Trouble::set(format!("{url}: {}", self.service.http.redacted(&bad.to_string())), matches!(bad, BadPage::NoList))
    }

    /// Sends the rows of a page, and with the last of them the position behind it.
    async fn send(
        &mut self,
        mode: Mode,
        came: &Came,
        next: Option<&Url>,
        (high, anchor): (&mut Option<Ordinal>, Option<Ordinal>),
        io: &SourceIo,
    ) {
        let page = &came.page;
        let is_deleted = page.context.ends_with("$deletedEntity");
        self.changes = self.keeps_keys(mode).then(Changes::default);
        let mut batch = io.batch().await;
        for row in page.rows(&came.text) {
            if batch.heap.len() >= BATCH_BYTES {
                io.send(std::mem::replace(&mut batch, io.batch().await), &[]).await;
            }
            self.row(row, mode, is_deleted, high, came.at, &mut batch, io);
        }
        let kept = self.kept(mode);
        let mut done = false;
        match (mode, next) {
            (Mode::Load, Some(next)) => {
                let load = self.position.load.get_or_insert_default();
                load.next = next.to_string();
                load.rows += page.rows.len() as u64;
                load.of = load.of.or(page.count);
                load.high = *high;
                self.progress(io);
            }
            (Mode::Load, None) => {
                self.load_is_complete(io);
                self.position.is_loaded = true;
                self.position.delta = page.delta.clone().filter(|_| self.set.wants_delta);
                self.position.water = *high;
                done = true;
            }
            // The old link stays until all of its pages are in the log: then the call is repeated, and ends at the same place.
            (Mode::Delta, Some(_)) => {}
            (Mode::Delta, None) => self.position.delta = page.delta.clone().or_else(|| self.position.delta.clone()),
            (Mode::Water, Some(_)) => {}
            (Mode::Water, None) => {
                self.position.water = *high;
                done = true;
            }
        }
        self.forget(*high);
        if let Some(anchor) = anchor.filter(|_| self.seen.len() > SEEN) {
            // What is not within the overlap of a load's end is not needed; within it, a row may come once more.
            self.seen.forget(anchor);
        }
        let position = self.position.write();
        if batch.is_empty() && position == self.written && !self.seen_moved && kept.is_empty() {
            return;
        }
        let (key, seen_key) = (Position::key(&self.set.name), Position::seen_key(&self.set.name));
        // What a poll after the load will meet again: the overlap before its end, which may be here. Where links are followed to a delta, nothing is.
        let is_tracked = self.position.load.as_ref().is_some_and(|load| load.is_tracked);
        let seen_from = match (mode, done, &self.watermark) {
            (Mode::Load, false, Some(watermark)) if !is_tracked => {
                let begin = high.map(|high| watermark.begin(high, self.set.overlap));
                begin.into_iter().chain(anchor).min()
            }
            (Mode::Load, false, _) => None,
            _ => Some(i64::MIN),
        };
        let seen = seen_from.filter(|_| self.seen_moved).map(|from| self.seen.write(from));
        let mut moved: Vec<(&str, &[u8])> = kept.iter().map(|(key, value)| (key.as_str(), value.as_slice())).collect();
        moved.push((&key, &position));
        if let Some(seen) = &seen {
            moved.push((&seen_key, seen.as_bytes()));
            self.seen_moved = false;
        }
        io.send(batch, &moved).await;
        self.written = position;
    }

    /// Forgets what lies before the overlap.
    fn forget(&mut self, high: Option<Ordinal>) {
        if let (Some(watermark), Some(water)) = (&self.watermark, high.or(self.position.water)) {
            self.seen.forget(watermark.begin(water, self.set.overlap));
        }
    }

    fn progress(&self, io: &SourceIo) {
        let Some(load) = self.position.load.as_ref().filter(|_| !self.position.is_loaded) else { return };
        let text = match load.of {
            Some(of) if of > 0 => format!("initial load: {} of {of} rows ({} %)", load.rows, load.rows.min(of) * 100 / of),
            _ => format!("initial load: {} rows", load.rows),
        };
        io.status(&self.set.name, Status::Degraded(text));
    }

    /// SAP, V2: where a load brought no delta link, the service may list those it has given out.
    async fn delta_links_of(&mut self, io: &SourceIo) -> Result<(), Trouble> {
        if !self.has_delta_links {
            return Ok(());
        }
        let url = self.service.url(&format!("DeltaLinksOf{}", self.set.name), &[("$format", "json")]);
        let request = self.service.request(Request::get(url.clone()), Some(self.version));
        let answer = match self.service.send(&request).await {
            Ok(answer) if answer.status.is_success() => answer,
            Ok(answer) if answer.status != StatusCode::UNAUTHORIZED => return Ok(()),
            Ok(answer) => return Err(self.service.refusal(&answer).into()),
            Err(HttpError::WrongContent { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let Ok(came) = Came::of(answer, self.version) else { return Ok(()) };
        let newest = came.page.rows(&came.text).filter_map(|row| serde_json::from_str::<Value>(row).ok()).max_by_key(|row| {
            let digits: String = row["CreatedAt"].as_str().unwrap_or_default().chars().filter(char::is_ascii_digit).collect();
            digits.parse::<u64>().unwrap_or(0)
        });
        let link = newest.and_then(|row| Some(row["ChangesAfter"]["__deferred"]["uri"].as_str()?.to_owned()));
        if let Some(link) = link {
            self.position.delta = Some(self.linked(&url, &link)?.to_string());
            let position = self.position.write();
            io.send(io.batch().await, &[(&Position::key(&self.set.name), &position)]).await;
        }
        Ok(())
    }
}
