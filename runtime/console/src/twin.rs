//! The digital twin: an asset as one document, out of the last values of its tags and what the catalog says of them.
//!
//! ```text
//! GET /twin?name=body/*          the assets there are, each with how many of its tags are bad or stale
//! GET /twin/body/press-1         {asset, levels, time, quality, properties: {temperature: {value, time, quality, status, unit, ..}}}
//! GET /twin/body/press-1?shape=ditto      the same as a thing of Eclipse Ditto: {thingId, attributes, features}
//! GET /twin/body/press-1?subscribe=true   server-sent events: `twin`, the document; then `change`, {property: {..}}, for each new value
//! ```
//!
//! An asset is the path above a tag's name. A document has everything below its path, so that of a line has its machines, too.

use crate::access::refused;
use crate::clock::now;
use crate::live::events::event;
use crate::live::{Follower, Hub, follow, streamed, too_many};
use crate::pattern::matches;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use millrace_engine::intake::TagReport;
use millrace_engine::tags::Look;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Tags in one document, and assets in one list.
const TAGS: usize = 10_000;
const ASSETS: usize = 10_000;
/// How often somebody who watches an asset is told of what changed, at most.
const EVERY: Duration = Duration::from_millis(250);

#[derive(Deserialize)]
pub struct ListQuery {
    /// An asset's path, or a pattern with `*`; every asset without it.
    #[serde(default)]
    name: String,
    limit: Option<usize>,
}

#[derive(Default)]
struct Summary {
    tags: usize,
    bad: usize,
    stale: usize,
    time: i64,
}

/// `GET /twin`.
pub async fn list(State(hub): State<Arc<Hub>>, Query(query): Query<ListQuery>) -> Response {
    // Only counts are kept, however many tags there are: a tag's state is asked for right after its path.
    let (assets, at) = (RefCell::new(BTreeMap::<String, Summary>::new()), RefCell::new(String::new()));
    let path = |path: &str| {
        let Some(asset) = asset_of(path).filter(|asset| query.name.is_empty() || matches(asset, &query.name)) else { return false };
        asset.clone_into(&mut at.borrow_mut());
        true
    };
    let state = |seen: &Look<'_>| {
        let (mut assets, at) = (assets.borrow_mut(), at.borrow());
        if !assets.contains_key(at.as_str()) {
            assets.insert(at.clone(), Summary::default());
        }
        let Some(summary) = assets.get_mut(at.as_str()) else { return false };
        summary.tags += 1;
        summary.bad += usize::from(seen.quality == "bad" || seen.bad_since > 0);
        summary.stale += usize::from(seen.stale);
        summary.time = summary.time.max(seen.time);
        false
    };
    hub.engine.tags(path, state, 0);
    let assets = assets.into_inner();
    let (count, limit) = (assets.len(), query.limit.unwrap_or(ASSETS).min(ASSETS));
    let said =
        |(asset, one): (String, Summary)| json!({ "asset": asset, "tags": one.tags, "bad": one.bad, "stale": one.stale, "time": one.time });
    let assets: Vec<Value> = assets.into_iter().take(limit).map(said).collect();
    Json(json!({ "now": now(), "total": count, "assets": assets })).into_response()
}

fn asset_of(tag: &str) -> Option<&str> {
    tag.rsplit_once('/').map(|(asset, _)| asset)
}

#[derive(Deserialize)]
pub struct TwinQuery {
    #[serde(default)]
    subscribe: bool,
    /// `ditto`; Millrace's own without it.
    shape: Option<String>,
}

/// `GET /twin/{asset}`.
pub async fn twin(State(hub): State<Arc<Hub>>, Path(asset): Path<String>, Query(query): Query<TwinQuery>, headers: HeaderMap) -> Response {
    let is_ditto = match query.shape.as_deref() {
        None => false,
        Some("ditto") => true,
        Some(other) => return refused(StatusCode::BAD_REQUEST, &format!("there is no shape `{other}`; `ditto`, or leave it out")),
    };
    let asset = whole(&hub, asset.trim_end_matches('/'));
    let Some(twin) = Twin::of(&hub, &asset) else {
        return refused(StatusCode::NOT_FOUND, &format!("there is no tag below `{asset}`; GET /twin lists the assets"));
    };
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    if query.subscribe || accepts.contains("text/event-stream") {
        return watched(hub, twin, is_ditto);
    }
    Json(twin.document(is_ditto)).into_response()
}

/// With the site in front.
fn whole(hub: &Hub, asset: &str) -> String {
    let site = hub.engine.report().site;
    if asset == &*site || asset.starts_with(&format!("{site}/")) { asset.to_owned() } else { format!("{site}/{asset}") }
}

struct Twin {
    asset: String,
    /// What the catalog says, by property.
    about: BTreeMap<String, Map<String, Value>>,
    values: BTreeMap<String, TagReport>,
}

impl Twin {
    fn of(hub: &Hub, asset: &str) -> Option<Self> {
        let below = format!("{asset}/");
        let is_below = |path: &str| path.starts_with(&below);
        let values = Self::values(hub, asset);
        let about = hub.engine.definitions(is_below, TAGS);
        let about = about.into_iter().map(|(path, about)| (path[below.len()..].to_owned(), about)).collect();
        (!values.is_empty()).then(|| Self { asset: asset.to_owned(), about, values })
    }

    fn values(hub: &Hub, asset: &str) -> BTreeMap<String, TagReport> {
        let below = format!("{asset}/");
        let (tags, _) = hub.engine.tags(|path| path.starts_with(&below), |_| true, TAGS);
        tags.into_iter().map(|tag| (tag.tag[below.len()..].to_owned(), tag)).collect()
    }

    fn document(&self, is_ditto: bool) -> Value {
        let properties: Map<String, Value> = self.values.iter().map(|(name, tag)| (name.clone(), self.property(name, tag))).collect();
        let levels = self.about.values().find_map(|about| about.get("levels")).cloned().unwrap_or_else(|| json!({}));
        let time = self.values.values().map(|tag| tag.time).max().unwrap_or(0);
        if is_ditto {
            // Of a namespace and a name, where `/` may not stand.
            let mut parts = self.asset.splitn(3, '/');
            let (enterprise, site) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            let plain = |text: &str| text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect::<String>();
            let id = format!("{}.{}:{}", plain(enterprise), plain(site), parts.next().unwrap_or_default().replace('/', "."));
            let features: Map<String, Value> =
                properties.into_iter().map(|(name, value)| (name.replace('/', "."), json!({ "properties": value }))).collect();
            return json!({ "thingId": id, "attributes": { "asset": self.asset, "levels": levels, "time": time }, "features": features });
        }
        json!({ "asset": self.asset, "levels": levels, "time": time, "quality": self.quality(), "properties": properties })
    }

    /// Takes the values of now, and says which are others.
    fn take_changes(&mut self, now: BTreeMap<String, TagReport>) -> Map<String, Value> {
        let is_same = |old: &TagReport, tag: &TagReport| {
            (old.time, old.status, old.stale, old.quality) == (tag.time, tag.status, tag.stale, tag.quality)
        };
        let others = now.iter().filter(|(name, tag)| !self.values.get(*name).is_some_and(|old| is_same(old, tag)));
        let changed = others.map(|(name, tag)| (name.clone(), Value::Object(changing(tag)))).collect();
        self.values = now;
        changed
    }

    /// That of its worst tag.
    fn quality(&self) -> &'static str {
        let worst = |word: &str| self.values.values().any(|tag| tag.quality == word);
        match () {
            () if worst("bad") || self.values.values().any(|tag| tag.stale || tag.bad_since > 0) => "bad",
            () if worst("uncertain") => "uncertain",
            () if worst("good") => "good",
            () => "none",
        }
    }

    fn property(&self, name: &str, tag: &TagReport) -> Value {
        let mut said = changing(tag);
        for (key, value) in self.about.get(name).into_iter().flatten().filter(|(key, _)| key.as_str() != "levels") {
            said.entry(key.as_str()).or_insert_with(|| value.clone());
        }
        Value::Object(said)
    }
}

/// What changes of a tag.
fn changing(tag: &TagReport) -> Map<String, Value> {
    let sample: Option<Value> = tag.sample.as_ref().and_then(|sample| serde_json::from_str(sample.get()).ok());
    let value = sample.as_ref().map_or(Value::Null, |sample| sample["value"].clone());
    let said = json!({
        "value": value, "time": tag.time, "quality": tag.quality, "status": tag.status, "stale": tag.stale, "tag": &*tag.tag, "topic": &*tag.topic,
    });
    match said {
        Value::Object(said) => said,
        _ => Map::new(),
    }
}

struct Watcher {
    hub: Arc<Hub>,
    follower: Follower,
    twin: Twin,
    is_ditto: bool,
    is_new: bool,
}

/// The document, and then what changes.
fn watched(hub: Arc<Hub>, twin: Twin, is_ditto: bool) -> Response {
    let Some(follower) = follow(&hub, format!("{}/*", twin.asset)) else { return too_many() };
    let watcher = Watcher { hub, follower, twin, is_ditto, is_new: true };
    streamed(stream::unfold(watcher, |mut watcher| async move {
        let mut text = String::new();
        if std::mem::take(&mut watcher.is_new) {
            event(&mut text, "twin", None, &watcher.twin.document(watcher.is_ditto).to_string());
            return Some((Ok(Bytes::from(text)), watcher));
        }
        loop {
            if !watcher.follower.changed().await {
                return Some((Ok(Bytes::from_static(b": still here\n\n")), watcher));
            }
            // More may come with it.
            tokio::time::sleep(EVERY).await;
            let changed = watcher.twin.take_changes(Twin::values(&watcher.hub, &watcher.twin.asset));
            if !changed.is_empty() {
                event(&mut text, "change", None, &Value::Object(changed).to_string());
                return Some((Ok(Bytes::from(text)), watcher));
            }
        }
    }))
}
