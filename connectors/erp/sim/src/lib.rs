//! A simulated ERP: an OData 4 service with production orders to read and confirmations to post.
//!
//! ```text
//! GET  /odata/$metadata
//! GET  /odata/ProductionOrders    $filter=modifiedAt ge .. and status eq .. and ID eq .., pages by Prefer: odata.maxpagesize, delta links by odata.track-changes
//! GET  /odata/Confirmations       $filter=externalId eq '..' or ..
//! POST /odata/Confirmations       wants a CSRF token with its cookie; keeps request ids, if told; loses answers, if told
//! ```
//!
//! It answers what a connector asks and no more: anything else is 501, so that nobody takes it for an ERP.

mod store;

pub use store::{Confirmation, Order, Store, Wanted};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// Every so many posts the answer is lost, after the post was carried out; 0: none.
    pub loses_every: u64,
    /// Requests are answered with 503.
    pub is_down: bool,
    /// Request ids are kept: a repeat gets the first answer.
    pub keeps_ids: bool,
}

/// A running ERP; dropped, it is gone.
pub struct Erp {
    addr: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

struct Shared {
    store: Mutex<Store>,
    troubles: Mutex<Troubles>,
}

impl Erp {
    /// Errors: the address is taken.
    pub async fn listen(addr: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared { store: Mutex::default(), troubles: Mutex::default() });
        let router = Router::new()
            .route("/odata/", get(root))
            .route("/odata/$metadata", get(metadata))
            .route("/odata/ProductionOrders", get(orders))
            .route("/odata/Confirmations", get(confirmations).post(confirm))
            .fallback(|| async { refusal(StatusCode::NOT_IMPLEMENTED, "NOT_SIMULATED", "the simulated ERP cannot do this") })
            .with_state(shared.clone());
        let serving = tokio::spawn(async move {
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { addr, shared, serving })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The root of its service.
    pub fn endpoint(&self) -> String {
        format!("http://{}/odata", self.addr)
    }

    pub fn set_troubles(&self, troubles: Troubles) {
        *self.shared.troubles.lock() = troubles;
    }

    pub fn with<T>(&self, look: impl FnOnce(&mut Store) -> T) -> T {
        look(&mut self.shared.store.lock())
    }
}

impl Drop for Erp {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

const METADATA: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<edmx:Edmx Version="4.0" xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx"><edmx:DataServices>
<Schema Namespace="plant" xmlns="http://docs.oasis-open.org/odata/ns/edm">
<EntityType Name="ProductionOrder"><Key><PropertyRef Name="ID"/></Key>
<Property Name="ID" Type="Edm.String" Nullable="false"/><Property Name="material" Type="Edm.String" MaxLength="18"/>
<Property Name="quantity" Type="Edm.Decimal" Precision="15" Scale="3"/><Property Name="status" Type="Edm.String"/>
<Property Name="modifiedAt" Type="Edm.DateTimeOffset" Precision="3"/></EntityType>
<EntityType Name="Confirmation"><Key><PropertyRef Name="ID"/></Key>
<Property Name="ID" Type="Edm.Int64" Nullable="false"/><Property Name="externalId" Type="Edm.String"/>
<Property Name="order" Type="Edm.String"/><Property Name="serial" Type="Edm.String"/>
<Property Name="quantity" Type="Edm.Decimal" Precision="15" Scale="3"/>
<Property Name="partition" Type="Edm.Int32"/><Property Name="number" Type="Edm.Int64"/></EntityType>
<EntityContainer Name="Container"><EntitySet Name="ProductionOrders" EntityType="plant.ProductionOrder"/>
<EntitySet Name="Confirmations" EntityType="plant.Confirmation"/></EntityContainer>
</Schema></edmx:DataServices></edmx:Edmx>"#;

const TOKEN: &str = "simulated-token";
const COOKIE: &str = "SAP_SESSIONID_SIM=simulated";
/// Rows of a page, unless it is asked for fewer.
const PAGE: usize = 1_000;

type Shares = State<Arc<Shared>>;

fn refusal(status: StatusCode, code: &str, text: &str) -> Response {
    (status, axum::Json(json!({"error": {"code": code, "message": text}}))).into_response()
}

impl Shared {
    fn is_down(&self) -> Option<Response> {
        self.troubles.lock().is_down.then(|| refusal(StatusCode::SERVICE_UNAVAILABLE, "DOWN", "the simulated ERP is down"))
    }
}

async fn root(State(shared): Shares, headers: HeaderMap) -> Response {
    if let Some(down) = shared.is_down() {
        return down;
    }
    let body = axum::Json(json!({"@odata.context": "$metadata", "value": [{"name": "ProductionOrders"}, {"name": "Confirmations"}]}));
    match headers.get("x-csrf-token").is_some_and(|token| token.as_bytes().eq_ignore_ascii_case(b"fetch")) {
        true => ([("x-csrf-token", TOKEN), ("set-cookie", "SAP_SESSIONID_SIM=simulated; path=/; HttpOnly")], body).into_response(),
        false => body.into_response(),
    }
}

async fn metadata(State(shared): Shares) -> Response {
    shared.is_down().unwrap_or_else(|| ([(header::CONTENT_TYPE, "application/xml")], METADATA).into_response())
}

/// The options of a query, decoded.
fn options(query: Option<&str>) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let mut out = Vec::new();
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'%' => {
                    let hex = [bytes.next().unwrap_or(b'0'), bytes.next().unwrap_or(b'0')];
                    let hex = std::str::from_utf8(&hex).unwrap_or("3f");
                    out.push(u8::from_str_radix(hex, 16).unwrap_or(b'?'));
                }
                b'+' => out.push(b' '),
                _ => out.push(byte),
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    let parts = query.unwrap_or_default().split('&').filter_map(|part| part.split_once('='));
    parts.map(|(name, value)| (decode(name), decode(value))).collect()
}

fn prefers(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut all = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let found = all.find_map(|one| one.trim().strip_prefix(name).map(|rest| rest.trim_start_matches('=').to_owned()))?;
    Some(found)
}

async fn orders(State(shared): Shares, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    if let Some(down) = shared.is_down() {
        return down;
    }
    let options = options(query.as_deref());
    let option = |name: &str| options.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let size = prefers(&headers, "odata.maxpagesize").and_then(|size| size.parse().ok()).unwrap_or(PAGE).clamp(1, PAGE);
    let store = shared.store.lock();
    if let Some(token) = option("$deltatoken") {
        let Some(changes) = token.parse().ok().and_then(|token| store.changes(token)) else {
            return refusal(StatusCode::GONE, "GONE", "the delta token is not known any more");
        };
        let link = format!("ProductionOrders?$deltatoken={}", store.token());
        return axum::Json(json!({"@odata.context": "$metadata#ProductionOrders/$delta", "value": changes, "@odata.deltaLink": link}))
            .into_response();
    }
    let filter = option("$filter");
    let wanted = match filter.map_or_else(|| Some(Wanted::default()), Wanted::parse) {
        Some(wanted) if wanted.ids.is_none() || !store.refuses_ids => wanted,
        _ => {
            let text = format!("this filter is not simulated: {}", filter.unwrap_or_default());
            return refusal(StatusCode::NOT_IMPLEMENTED, "FILTER", &text);
        }
    };
    // `time,ID` of the row that was the last, and how the pages began.
    let (after, tracked) = match option("$skiptoken") {
        Some(token) => {
            let mut parts = token.splitn(3, '|');
            let mut next = || parts.next().unwrap_or_default().to_owned();
            let (time, tracked, id) = (next(), next(), next());
            (Some((time.parse().unwrap_or(0), id)), tracked)
        }
        None => {
            let is_tracked = prefers(&headers, "odata.track-changes").is_some() && store.tracks();
            (None, if is_tracked { store.token().to_string() } else { String::new() })
        }
    };
    let (page, last) = store.page(&wanted, after, size);
    let mut answer = json!({"@odata.context": "$metadata#ProductionOrders", "value": page});
    if option("$count") == Some("true") {
        answer["@odata.count"] = store.count(&wanted).into();
    }
    match last {
        Some((time, id)) => {
            let filter = filter.map(|filter| format!("&$filter={filter}")).unwrap_or_default();
            answer["@odata.nextLink"] = format!("ProductionOrders?$skiptoken={time}%7C{tracked}%7C{id}{filter}").into();
        }
        None if !tracked.is_empty() => answer["@odata.deltaLink"] = format!("ProductionOrders?$deltatoken={tracked}").into(),
        None => {}
    }
    let mut answer = axum::Json(answer).into_response();
    if !tracked.is_empty() {
        answer.headers_mut().insert("preference-applied", header::HeaderValue::from_static("odata.track-changes"));
    }
    answer
}

/// `externalId eq 'a' or externalId eq 'b'`, or the same by `serial`.
async fn confirmations(State(shared): Shares, RawQuery(query): RawQuery) -> Response {
    if let Some(down) = shared.is_down() {
        return down;
    }
    let options = options(query.as_deref());
    let filter = options.iter().find(|(key, _)| key == "$filter").map_or("", |(_, value)| value);
    let of = |property: &str| -> Option<Vec<String>> {
        let begins = format!("{property} eq '");
        filter.split(" or ").map(|part| Some(part.trim().strip_prefix(&begins)?.strip_suffix('\'')?.replace("''", "'"))).collect()
    };
    let Some((property, wanted)) = ["externalId", "serial"].into_iter().find_map(|property| Some((property, of(property)?))) else {
        return refusal(StatusCode::NOT_IMPLEMENTED, "FILTER", "this filter is not simulated");
    };
    let store = shared.store.lock();
    let is_wanted = |one: &&Confirmation| one.text(property).is_some_and(|text| wanted.iter().any(|wanted| wanted == text));
    let found: Vec<Value> = store.confirmations.iter().filter(is_wanted).map(Confirmation::json).collect();
    axum::Json(json!({"@odata.context": "$metadata#Confirmations", "value": found})).into_response()
}

async fn confirm(State(shared): Shares, headers: HeaderMap, body: Bytes) -> Response {
    if let Some(down) = shared.is_down() {
        return down;
    }
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if header("x-csrf-token") != TOKEN || !header("cookie").contains(COOKIE) {
        return ([("x-csrf-token", "Required")], refusal(StatusCode::FORBIDDEN, "CSRF", "CSRF token validation failed")).into_response();
    }
    let Ok(Value::Object(fields)) = serde_json::from_slice::<Value>(&body) else {
        return refusal(StatusCode::BAD_REQUEST, "BAD_BODY", "the body is not an entity");
    };
    if fields.get("quantity").is_some_and(|quantity| quantity.as_f64().is_some_and(|quantity| quantity < 0.0)) {
        return refusal(StatusCode::BAD_REQUEST, "RU/114", "Yield to be confirmed must not be negative");
    }
    let troubles = *shared.troubles.lock();
    let id = header("repeatability-request-id").to_owned();
    let mut store = shared.store.lock();
    let confirmation = store.confirm(&fields, if troubles.keeps_ids { &id } else { "" });
    let is_lost = troubles.loses_every > 0 && store.posts.is_multiple_of(troubles.loses_every);
    drop(store);
    let location = format!("Confirmations({})", confirmation.id);
    let mut answer = (StatusCode::CREATED, [(header::LOCATION, location)], axum::Json(confirmation.json())).into_response();
    if troubles.keeps_ids && !id.is_empty() {
        answer.headers_mut().insert("repeatability-result", header::HeaderValue::from_static("accepted"));
    }
    if is_lost {
        // The connection breaks off in the middle of the answer.
        let broken = futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("the answer is lost"))]);
        *answer.body_mut() = Body::from_stream(broken);
        answer.headers_mut().remove(header::CONTENT_LENGTH);
    }
    answer
}
