//! The keys of `type: erp`, as a source.

use crate::service::Endpoint;
use crate::set::LeftFilter;
use millrace_config::{Period, Problems, Spanned};
use millrace_kit::groups::{Beside, SharedKeys};
use millrace_kit::http::EndpointKeys;
use schemars::JsonSchema;
use serde::Deserialize;

/// An ERP's service, as source and sink have it, and the keys `O` of one of them.
pub type AtService<O> = Beside<EndpointKeys, Beside<SapKeys, O>>;

/// What SAP wants to know of every request.
#[derive(Clone, PartialEq, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SapKeys {
    /// SAP's client, sent as `sap-client` with every request.
    pub client: Option<Spanned<String>>,
    /// The language of texts and messages, sent as `sap-language`: `EN`. Left out: the user's own, which may change.
    pub language: Option<Spanned<String>>,
}

impl SharedKeys for SapKeys {
    const KEYS: &'static [&'static str] = &["client", "language"];
}

/// Entity sets of an OData service that are read.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErpSourceConfig {
    /// Requests at the same time.
    #[serde(default = "one")]
    pub parallel: Spanned<u16>,
    /// What is read.
    pub entity_sets: Vec<Spanned<SetConfig>>,
}

fn one() -> Spanned<u16> {
    1.into()
}

/// One entity set.
#[derive(Clone, PartialEq, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetConfig {
    /// Its name in the service.
    pub name: Spanned<String>,
    /// How often changes are asked for.
    #[serde(default = "every")]
    pub every: Spanned<Period>,
    /// The topic of its documents, where it is not the source's.
    #[serde(default)]
    pub topic: Option<String>,
    /// The record's key out of properties: `{Plant}/{Material}`. Left out: the entity's own key, its parts joined by `/`.
    #[serde(default)]
    pub key: Option<Spanned<String>>,
    /// The property that grows with every change: a date with time, or a number. Used where the service has no delta links.
    #[serde(default)]
    pub watermark: Option<Spanned<String>>,
    /// How far behind the watermark each poll begins again, so that what was committed late is seen. Longer than the longest transaction.
    #[serde(default = "overlap")]
    pub overlap: Period,
    /// Properties to read; keys always are. Left out: all.
    #[serde(default)]
    pub select: Vec<String>,
    /// A filter in OData's language: `Plant eq '1010'`.
    #[serde(default)]
    pub filter: Option<String>,
    /// Navigation properties to read with each entity: `[Operations, Operations/Components]`.
    #[serde(default)]
    pub expand: Vec<String>,
    /// Entities per page; a wish that the service may cut down.
    #[serde(default = "page")]
    pub page: Spanned<u32>,
    /// Whether delta links are used where the service offers them.
    #[serde(default)]
    pub delta: DeltaLinks,
    /// What an entity that left the filter becomes, where the service says so; it may still exist.
    #[serde(default)]
    pub left_filter: LeftFilter,
    /// How often the keys of all its entities are read and compared with those in the topic, so that what was deleted gets its tombstone: `24h`. For
    /// sets whose deletions no delta link tells. Left out: never.
    #[serde(default)]
    pub reconcile_every: Option<Spanned<Period>>,
}

fn every() -> Spanned<Period> {
    Period::from_secs(30).into()
}

fn overlap() -> Period {
    Period::from_secs(300)
}

fn page() -> Spanned<u32> {
    1000.into()
}

/// Whether delta links are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeltaLinks {
    /// Where the service gives one.
    #[default]
    Auto,
    Off,
}

/// Checks what source and sink have in common.
pub(crate) fn endpoint(keys: &EndpointKeys, sap: &SapKeys, problems: &mut Problems) -> Option<Endpoint> {
    if let Some(client) = &sap.client
        && (client.len() != 3 || !client.bytes().all(|b| b.is_ascii_digit()))
    {
        problems.error(client.place, format!("`{}` is not a client: three digits", client.value)).help("write `client: \"100\"`");
    }
    if let Some(language) = &sap.language
        && (language.is_empty() || language.len() > 5 || !language.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-'))
    {
        problems.error(language.place, format!("`{}` is not a language", language.value)).help("write `language: EN`");
    }
    let mut server = keys.compile(problems)?;
    if server.url.query().is_some() || server.url.fragment().is_some() {
        problems.error(keys.endpoint.place, "the root of a service has no `?`").help("write the client under `client`");
        return None;
    }
    if !server.url.path().ends_with('/') {
        let path = format!("{}/", server.url.path());
        server.url.set_path(&path);
    }
    let text = |said: &Option<Spanned<String>>| said.as_ref().map(|said| said.value.clone());
    Some(Endpoint { server, client: text(&sap.client), language: text(&sap.language), parallel: 1 })
}
