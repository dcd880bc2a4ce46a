//! Millrace's own HTTP: status, metrics, health and live records. The only crate that serves it; it sees the engine's handle and nothing below.
//!
//! ```text
//! GET /             the console, one page         GET /metrics            Prometheus text
//! GET /status       everything, what is wrong     GET /health/live        the process answers
//!                   in front, as JSON             GET /health/ready       200 when nothing is Blocked and Kafka is reachable, else 503
//! GET /tags?..      tags with value and quality   GET /tap?name=..        live records, one JSON document per line
//! GET /why?tag=..   the hops of one tag           GET /lost?since=..      what did not arrive, by reason
//! GET /trend?tag=.. what it was, as Kafka has it  GET /topics, /topics/{topic}   who writes and reads them, and their newest records
//! GET /events       the status every second, as server-sent events
//! GET /dead?..      dead letters                  GET /messages           the last warnings and errors
//! GET /history?tag=..       what tags were, out of the lake
//! GET /certificates whom we trust                 GET /me                 who asks
//! POST /reload?dry_run=..   takes the factory's changed files              POST /login, /logout    people with passwords
//! POST /dead/replay?..      sends dead letters to where they belong        POST /certificates/{thumbprint}/approve, /reject
//! ```
//!
//! - [`connect`]: Kafka Connect's interface (`/connectors`, `/connector-plugins`), for the tools that people have.
//! - [`access`]: who may ask, [`rate`] how often, [`logins`] people with passwords. [`control`]: what may be changed. [`listener`]: TLS, and how many at a time. [`answers`]: what is wrong, and what to do. [`asked`]: what Kafka is asked for. [`metrics`]: for Prometheus.

pub mod access;
mod answers;
mod asked;
mod clock;
pub mod connect;
pub mod control;
mod listener;
mod live;
pub mod logins;
pub mod metrics;
mod pattern;
mod rate;
mod shared;
mod socket;
mod supplied;
mod twin;

use access::{Access, Gate, is_for_a_page};
use answers::Wanted;
pub use answers::{Trouble, troubles};
use axum::body::{Body, Bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use clock::now;
use control::{Control, DeadQuery, HistoryQuery, Refusal};
use futures_util::{Stream, StreamExt};
use listener::{Doors, Patience, Peer};
use metrics::Family;
use millrace_engine::Engine;
use pattern::{is_of, matches};
use serde::Deserialize;
pub use shared::More;
use shared::{Console, Shared};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
pub use supplied::{Certificate, Certificates, Damage, Damaged};
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;

/// How the console is served.
pub struct Options {
    pub listen: SocketAddr,
    /// Certificate and key, PEM.
    pub tls: Option<(PathBuf, PathBuf)>,
    pub access: Access,
    /// The release and its commit.
    pub version: &'static str,
    pub certificates: Certificates,
    pub damage: Damage,
    /// `None`: nothing can be changed.
    pub control: Option<Arc<dyn Control>>,
    /// What others measure.
    pub more: Vec<More>,
}

/// A console that is served.
pub struct Served {
    pub address: SocketAddr,
    /// Everything that is measured, at the moment of the call, which blocks.
    pub metrics: Arc<dyn Fn() -> Vec<Family> + Send + Sync>,
}

/// Why the console can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {0}; set http.listen to a free port")]
    Listen(SocketAddr, #[source] std::io::Error),
    #[error("http.tls: {0}")]
    Tls(#[from] millrace_tls::TlsError),
}

/// How often the status goes to those who watch, and how often the counts of what was lost are noted.
const EVERY: Duration = Duration::from_secs(1);

const NOTE_EVERY: Duration = Duration::from_secs(60);

/// How often who follows live records gets an empty line where there is none: a connection that says nothing is closed.
const STILL_HERE: Duration = Duration::from_secs(30);

/// Tags in one answer.
const TAGS_MAX: usize = 10_000;

/// Binds the console and serves it until the process ends.
pub async fn serve(options: Options, engine: Arc<Engine>) -> Result<Served, ServeError> {
    let tls = options.tls.map(|(certificate, key)| acceptor(&certificate, &key)).transpose()?;
    let failed = |error| ServeError::Listen(options.listen, error);
    let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let doors = Doors::open(listener, tls, Patience::default()).map_err(failed)?;
    let console = Arc::new(Console {
        hub: live::Hub::new(engine.clone()),
        engine,
        certificates: options.certificates,
        damage: options.damage,
        version: options.version,
        history: Mutex::default(),
        control: options.control,
        more: options.more,
        worker: worker(bound),
        asking_kafka: Arc::new(Semaphore::new(asked::AT_A_TIME)),
        pulse: watch::Sender::default(),
    });
    tokio::spawn(note(Arc::downgrade(&console)));
    tokio::spawn(beat(Arc::downgrade(&console)));
    let gate = Gate::new(options.access, console.engine.clone());
    let measuring = console.clone();
    let router = router(console, gate).into_make_service_with_connect_info::<Peer>();
    tokio::spawn(async move {
        if let Err(e) = axum::serve(doors, router).await {
            tracing::error!("the console ended: {e}");
        }
    });
    Ok(Served { address: bound, metrics: Arc::new(move || measured(&measuring)) })
}

/// How this runtime is reached, as far as it knows itself.
fn worker(bound: SocketAddr) -> String {
    if !bound.ip().is_unspecified() {
        return bound.to_string();
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", host.trim(), bound.port())
}

fn acceptor(certificate: &std::path::Path, key: &std::path::Path) -> Result<TlsAcceptor, ServeError> {
    let mut config = (*millrace_tls::server_config(certificate, key, None)?).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Notes the counts of what was lost, as long as there is a console.
async fn note(console: std::sync::Weak<Console>) {
    let mut every = tokio::time::interval(NOTE_EVERY);
    loop {
        every.tick().await;
        let Some(console) = console.upgrade() else { return };
        let report = console.engine.report();
        console.history.lock().unwrap_or_else(PoisonError::into_inner).note(&report, now());
    }
}

fn router(console: Arc<Console>, gate: Arc<Gate>) -> Router {
    let logins = Router::new()
        .route("/login", post(access::login))
        .route("/logout", post(access::logout))
        .route("/me", get(access::me))
        .with_state(gate.clone());
    let live = Router::new()
        .route("/live", get(live::live))
        .route("/live/socket", get(socket::socket))
        .route("/twin", get(twin::list))
        .route("/twin/{*asset}", get(twin::twin))
        .with_state(console.hub.clone());
    Router::new()
        .route("/", get(root))
        .route("/page/chart.js", get(|| async { ([(header::CONTENT_TYPE, "text/javascript")], include_str!("chart.js")) }))
        .route("/page/tags.js", get(|| async { ([(header::CONTENT_TYPE, "text/javascript")], include_str!("tags.js")) }))
        .route("/page/topics.js", get(|| async { ([(header::CONTENT_TYPE, "text/javascript")], include_str!("topics.js")) }))
        .route("/page/views.js", get(|| async { ([(header::CONTENT_TYPE, "text/javascript")], include_str!("views.js")) }))
        .route("/console.js", get(|| async { ([(header::CONTENT_TYPE, "text/javascript")], include_str!("console.js")) }))
        .route("/console.css", get(|| async { ([(header::CONTENT_TYPE, "text/css")], include_str!("console.css")) }))
        .route("/status", get(status))
        .route("/tags", get(tags))
        .route("/why", get(asked::why))
        .route("/trend", get(asked::trend))
        .route("/topics", get(asked::topics))
        .route("/topics/{topic}", get(asked::newest))
        .route("/lost", get(lost))
        .route("/events", get(events))
        .route("/metrics", get(metrics))
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(ready))
        .route("/tap", get(tap))
        .route("/reload", post(reload))
        .route("/history", get(history))
        .route("/dead", get(dead))
        .route("/dead/replay", post(replay))
        .route("/certificates", get(certificates))
        .route("/certificates/{thumbprint}/approve", post(approve))
        .route("/certificates/{thumbprint}/reject", post(reject))
        .route("/alarms", get(alarms))
        .route("/messages", get(messages))
        .merge(connect::router())
        .merge(live)
        .fallback(connect::not_found)
        .method_not_allowed_fallback(connect::no_such_method)
        .with_state(console)
        .merge(logins)
        .layer(middleware::from_fn(headers))
        .layer(middleware::from_fn_with_state(gate, access::guard))
}

/// A page of ours runs what it brings along, and nothing else; nobody puts it into a frame.
async fn headers(request: axum::extract::Request, next: middleware::Next) -> Response {
    let mut answer = next.run(request).await;
    let own = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; frame-ancestors 'none'";
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, own),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        answer.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    answer
}

/// The page, or what Kafka Connect says of itself.
async fn root(State(console): Shared, headers: HeaderMap) -> Response {
    match is_for_a_page(&headers) {
        true => Html(include_str!("page.html")).into_response(),
        false => connect::root(console).await,
    }
}

async fn status(State(console): Shared) -> impl IntoResponse {
    Json(answers::status(&console.engine.report(), &(console.damage)()))
}

#[derive(Deserialize)]
struct TagsQuery {
    /// A tag's path, or a pattern with `*`; every tag without it.
    #[serde(default)]
    name: String,
    /// Only those that nothing vouches for.
    #[serde(default)]
    stale: bool,
    /// Only those whose value is bad, or that can't be read.
    #[serde(default)]
    bad: bool,
    /// At most so many.
    limit: Option<usize>,
}

async fn tags(State(console): Shared, Query(query): Query<TagsQuery>) -> Response {
    let limit = query.limit.unwrap_or(1000).min(TAGS_MAX);
    let wanted = Wanted { pattern: &query.name, stale: query.stale, bad: query.bad };
    let (tags, total) = console.engine.tags(|path| wanted.path(path), |state| wanted.state(state), limit);
    Json(serde_json::json!({ "now": now(), "total": total, "tags": tags })).into_response()
}

#[derive(Deserialize)]
struct LostQuery {
    /// Microseconds since 1970; without it everything the ledger knows.
    since: Option<i64>,
}

async fn lost(State(console): Shared, Query(query): Query<LostQuery>) -> impl IntoResponse {
    let report = console.engine.report();
    let mut history = console.history.lock().unwrap_or_else(PoisonError::into_inner);
    history.note(&report, now());
    Json(history.lost(&report, query.since, now()))
}

fn status_event(console: &Console) -> Bytes {
    format!("data: {}\n\n", answers::status(&console.engine.report(), &(console.damage)())).into()
}

/// Makes the status every second, once for all who watch, as long as there is a console.
async fn beat(console: std::sync::Weak<Console>) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let Some(console) = console.upgrade() else { return };
        if console.pulse.receiver_count() > 0 {
            console.pulse.send_replace(status_event(&console));
        }
    }
}

/// The status now, then every second. Whoever reads slowly gets fewer of them, and holds nothing up.
async fn events(State(console): Shared) -> Response {
    let first = futures_util::stream::once(std::future::ready(Ok::<_, Infallible>(status_event(&console))));
    let rest = futures_util::stream::unfold(console.pulse.subscribe(), |mut pulse| async move {
        pulse.changed().await.ok()?;
        let event = pulse.borrow_and_update().clone();
        Some((Ok(event), pulse))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(first.chain(rest))).into_response()
}

#[derive(Deserialize)]
struct ReloadQuery {
    #[serde(default)]
    dry_run: bool,
}

fn answered(outcome: Result<serde_json::Value, Refusal>) -> Response {
    match outcome {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

async fn reload(State(console): Shared, Query(query): Query<ReloadQuery>) -> Response {
    match console.control() {
        Ok(control) => answered(control.reload(query.dry_run).await),
        Err(refusal) => refusal.into_response(),
    }
}

async fn history(State(console): Shared, Query(query): Query<HistoryQuery>) -> Response {
    match console.control() {
        Ok(control) => answered(control.history(query).await),
        Err(refusal) => refusal.into_response(),
    }
}

async fn dead(State(console): Shared, Query(query): Query<DeadQuery>) -> Response {
    match console.control() {
        Ok(control) => answered(control.dead(query).await),
        Err(refusal) => refusal.into_response(),
    }
}

async fn replay(State(console): Shared, Query(query): Query<DeadQuery>) -> Response {
    let dry_run = query.dry_run;
    match console.control() {
        Ok(control) => answered(control.replay(query, dry_run).await),
        Err(refusal) => refusal.into_response(),
    }
}

async fn alarms(State(console): Shared) -> Response {
    answered(console.control().map(|control| control.alarms()))
}

async fn messages(State(console): Shared) -> Response {
    answered(console.control().map(|control| control.messages()))
}

async fn certificates(State(console): Shared) -> Response {
    in_files(console, |control| Ok(control.certificates())).await
}

async fn approve(State(console): Shared, Path(thumbprint): Path<String>) -> Response {
    in_files(console, move |control| control.decide(&thumbprint, true)).await
}

async fn reject(State(console): Shared, Path(thumbprint): Path<String>) -> Response {
    in_files(console, move |control| control.decide(&thumbprint, false)).await
}

/// What reads files waits on a thread of its own.
async fn in_files(
    console: Arc<Console>,
    ask: impl FnOnce(&dyn Control) -> Result<serde_json::Value, Refusal> + Send + 'static,
) -> Response {
    let asked = tokio::task::spawn_blocking(move || console.control().and_then(|control| ask(control.as_ref()))).await;
    answered(asked.unwrap_or_else(|_| Err(Refusal::failed("the question ended in a panic; please report it".to_owned()))))
}

async fn metrics(State(console): Shared) -> impl IntoResponse {
    let families = tokio::task::spawn_blocking(move || measured(&console)).await.unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::text(&families))
}

/// Everything that is measured. Reads certificates: blocks.
fn measured(console: &Console) -> Vec<Family> {
    let mut families = metrics::families(&console.engine.report(), &(console.certificates)(), &(console.damage)(), console.version);
    families.extend(console.hub.metrics());
    families.extend(console.more.iter().flat_map(|more| more()));
    families
}

async fn ready(State(console): Shared) -> Response {
    let reasons = not_ready(&console.engine.report());
    if reasons.is_empty() {
        return (StatusCode::OK, "ready\n").into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, reasons.join("\n") + "\n").into_response()
}

/// Why the runtime is not ready: a blocked connector, a Kafka that can't be reached, a full disk.
fn not_ready(report: &millrace_engine::EngineReport) -> Vec<String> {
    let mut reasons = Vec::new();
    if report.kafka.status != "Running" {
        reasons.push(format!("kafka: {} {}", report.kafka.status, report.kafka.reason.as_deref().unwrap_or("")));
    }
    let sources = report.sources.iter().map(|(name, s)| ("source", name, &s.state));
    let sinks = report.sinks.iter().map(|(name, s)| ("sink", name, &s.state));
    for (what, name, state) in sources.chain(sinks) {
        if state.status == "Blocked" {
            reasons.push(format!("{what} {name}: Blocked {}", state.reason.as_deref().unwrap_or("")));
        }
    }
    if report.disk.low {
        reasons.push("disk: no space left beyond keep_free".to_owned());
    }
    reasons
}

#[derive(Deserialize)]
struct TapQuery {
    /// A source, a tag's path, or a pattern with `*`; everything without it.
    #[serde(default)]
    name: String,
}

/// Whether anything of that name is known: a tap of a typo would be silent forever.
fn is_known(engine: &Engine, name: &str) -> bool {
    let report = engine.report();
    let is_pattern = name.is_empty() || name.contains('*');
    let of_source = |source: &String| name == source || name == format!("{}/{source}", report.site);
    is_pattern || report.sources.keys().any(of_source) || !engine.tags(|path| matches(path, name), |_| true, 1).0.is_empty()
}

async fn tap(State(console): Shared, Query(query): Query<TapQuery>) -> Response {
    let watch = console.engine.taps().watch();
    let mut first = Vec::new();
    if !is_known(&console.engine, &query.name) {
        let note = format!("no source and no tag is named {} now; it is shown as soon as there is", query.name);
        first.push(Ok::<_, Infallible>(Bytes::from(format!("{}\n", serde_json::json!({ "note": note })))));
    }
    let stream = futures_util::stream::iter(first).chain(lines(watch, query.name));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream)).into_response()
}

fn lines(watch: millrace_engine::taps::Watch, name: String) -> impl Stream<Item = Result<Bytes, Infallible>> {
    futures_util::stream::unfold((watch, name), |(mut watch, name)| async move {
        loop {
            let Ok(received) = tokio::time::timeout(STILL_HERE, watch.lines.recv()).await else {
                return Some((Ok(Bytes::from_static(b"\n")), (watch, name)));
            };
            match received {
                Ok(line) if is_of(&line.source, &line.subject, &name) => {
                    let mut bytes = line.value.to_vec();
                    bytes.push(b'\n');
                    return Some((Ok(Bytes::from(bytes)), (watch, name)));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    let note = format!("{{\"missed\":{missed},\"note\":\"the watcher was too slow; nothing is lost in Kafka\"}}\n");
                    return Some((Ok(Bytes::from(note)), (watch, name)));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    })
}
