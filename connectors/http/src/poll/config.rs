//! The keys of a polled REST endpoint in the YAML, checked and compiled without I/O.

use millrace_config::{Problems, Spanned};
use millrace_contract::{Context, Model};
use millrace_kit::Template;
use millrace_kit::extract::Pointer;
use millrace_kit::http::{Endpoint, EndpointKeys};
use millrace_kit::records::polling::{self, Own, Polling, PollingConfig, PollingKeys};
use schemars::JsonSchema;
use serde::Deserialize;

/// A REST endpoint that is asked again and again.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PollConfig {
    /// What is asked, and what becomes of the answers.
    pub requests: Vec<Spanned<PollingConfig<RequestConfig>>>,
    /// How many tags may be discovered.
    #[serde(default = "polling::max_tags")]
    pub max_tags: u32,
}

fn pages() -> u32 {
    10_000
}

/// A request, and what becomes of its records. Tag options may stand beside these keys.
///
/// The highest `watermark` of all pages is `{watermark}` of the next request; records that were read are known by their content.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestConfig {
    /// The path behind the endpoint: `/orders?since={watermark}`. The first time, without `start`, the parameter is left out.
    pub get: Spanned<String>,
    /// Where the records stand in an answer, by JSON Pointer; `""` (default): the answer is the list, or the one record.
    #[serde(default)]
    pub records: Option<Spanned<String>>,
    /// Where the address of the next page stands; the last page has none.
    #[serde(default)]
    pub next: Option<Spanned<String>>,
    /// Pages of one reading; more are an error.
    #[serde(default = "pages")]
    pub pages: u32,
}

/// A polled endpoint that knows all it will do.
#[derive(Debug)]
pub struct Settings {
    pub endpoint: Endpoint,
    pub requests: Vec<Polling<Asked>>,
    pub max_tags: usize,
    pub model: Model,
}

/// One request, compiled.
#[derive(Debug)]
pub struct Asked {
    pub get: Template<Watermark>,
    pub records: Pointer,
    pub next: Option<Pointer>,
    pub watermark: Option<Pointer>,
    pub start: Option<String>,
    pub pages: u32,
}

/// The one name that a path knows.
#[derive(Clone, PartialEq, Debug)]
pub struct Watermark;

impl PollConfig {
    pub fn compile(&self, at: &EndpointKeys, context: &Context, problems: &mut Problems) -> Option<Settings> {
        let mark = problems.mark();
        let endpoint = at.compile(problems);
        if self.requests.is_empty() {
            problems.error(context.place, "`requests` is empty: nothing would be asked").help("add `- {get: /orders, topic: orders}`");
        }
        let mut model = Model::default();
        let requests =
            polling::compile(&self.requests, context, &mut model, problems, |own, keys, _, problems| compile_request(own, keys, problems));
        if problems.has_errors_since(mark) {
            return None;
        }
        Some(Settings { endpoint: endpoint?, requests, max_tags: self.max_tags as usize, model })
    }
}

fn compile_request(own: &RequestConfig, keys: &PollingKeys, problems: &mut Problems) -> Option<Own<Asked>> {
    if !own.get.starts_with('/') && !own.get.is_empty() {
        problems.error(own.get.place, format!("the path `{}` does not begin with `/`", own.get.value));
    }
    let get = Template::compile(&own.get, own.get.place, problems, |name| match name {
        "watermark" => Ok(Watermark),
        _ => Err("only `{watermark}` is known here".into()),
    })?;
    let asks = get.variables().next().is_some();
    if asks && keys.watermark.is_none() {
        problems.error(own.get.place, "nothing says what `{watermark}` is").help("add `watermark: /changed`, the pointer into a record");
    }
    let path = own.get.split_once('?').map_or(&*own.get.value, |(path, _)| path);
    if path.contains("{watermark}") && keys.start.is_none() {
        problems.error(own.get.place, "nothing says what `{watermark}` is the first time").help("add `start: \"1970-01-01T00:00:00Z\"`");
    }
    let mut pointer = |said: &Option<Spanned<String>>| said.as_ref().map(|said| Pointer::compile(said, problems));
    let (records, next, watermark) = (pointer(&own.records), pointer(&own.next), pointer(&keys.watermark));
    let asked = Asked {
        get,
        records: records.unwrap_or_else(|| Pointer::parse("").ok())?,
        next: next.map_or(Some(None), |next| next.map(Some))?,
        watermark: watermark.map_or(Some(None), |watermark| watermark.map(Some))?,
        start: keys.start.clone(),
        pages: own.pages,
    };
    Some(Own { name: own.get.value.clone(), what: format!("get {}", own.get.value), own: asked })
}
