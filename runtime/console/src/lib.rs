//! Millrace's own HTTP: status, metrics, health and live records. The only crate that serves it; it sees the engine's handle and nothing below.
//!
//! ```text
//! GET /             a page for people: where to look                 GET /metrics       Prometheus text
//! GET /status       every connector, its ledger, as JSON             GET /health/live   the process answers
//! GET /tap?name=..  live records, one JSON document per line         GET /health/ready  200 when nothing is Blocked and Kafka is reachable, else 503
//! ```

mod metrics;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use millrace_engine::Engine;
use millrace_engine::taps::Line;
use serde::Deserialize;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::net::TcpListener;
use tokio::sync::broadcast::error::RecvError;

/// Binds the console and serves it until the process ends. Returns the address bound.
///
/// Errors: the address is in use or not this machine's.
pub async fn serve(listen: SocketAddr, engine: Arc<Engine>, certificates: Certificates) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(listen).await?;
    let bound = listener.local_addr()?;
    tokio::spawn(async move {
        if let Err(e) = axum::serve(listener, router(engine, certificates)).await {
            tracing::error!("the console ended: {e}");
        }
    });
    Ok(bound)
}

/// A certificate whose end somebody has to know of.
pub struct Certificate {
    /// Whose it is: `own`, `trusted`.
    pub shelf: &'static str,
    pub thumbprint: String,
    pub subject: String,
    pub until: SystemTime,
}

/// Reads the certificates as they are now; from files.
pub type Certificates = Arc<dyn Fn() -> Vec<Certificate> + Send + Sync>;

fn router(engine: Arc<Engine>, certificates: Certificates) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/status", get(status))
        .route("/metrics", get(metrics).layer(Extension(certificates)))
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(ready))
        .route("/tap", get(tap))
        .with_state(engine)
}

async fn index() -> &'static str {
    "millrace\n\n/status        every connector, its ledger (JSON)\n/metrics       Prometheus\n/health/live   the process answers\n\
     /health/ready  nothing is blocked, Kafka is reachable\n/tap?name=X    live records of a source or of tags (* matches)\n"
}

async fn status(State(engine): State<Arc<Engine>>) -> impl IntoResponse {
    Json(engine.report())
}

async fn metrics(State(engine): State<Arc<Engine>>, Extension(certificates): Extension<Certificates>) -> impl IntoResponse {
    let certificates = tokio::task::spawn_blocking(move || certificates()).await.unwrap_or_default();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render(&engine.report(), &certificates))
}

async fn ready(State(engine): State<Arc<Engine>>) -> Response {
    let reasons = not_ready(&engine.report());
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

async fn tap(State(engine): State<Arc<Engine>>, Query(query): Query<TapQuery>) -> Response {
    let watch = engine.taps().watch();
    let stream = futures_util::stream::unfold((watch, query.name), |(mut watch, name)| async move {
        loop {
            match watch.lines.recv().await {
                Ok(line) if is_wanted(&line, &name) => {
                    let mut bytes = line.value.to_vec();
                    bytes.push(b'\n');
                    return Some((Ok::<_, std::convert::Infallible>(Bytes::from(bytes)), (watch, name)));
                }
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    let note = format!("{{\"missed\":{missed},\"note\":\"the watcher was too slow; nothing is lost in Kafka\"}}\n");
                    return Some((Ok(Bytes::from(note)), (watch, name)));
                }
                Err(RecvError::Closed) => return None,
            }
        }
    });
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(stream)).into_response()
}

fn is_wanted(line: &Line, name: &str) -> bool {
    name.is_empty() || matches(&line.subject, name) || matches(&line.source, name) || line.source.rsplit('/').next() == Some(name)
}

/// Whether a name fits a pattern: `*` stands for anything, a pattern without a site fits below any.
fn matches(name: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = name.strip_prefix(first).or_else(|| {
        let below_site = name.splitn(3, '/').nth(2)?;
        below_site.strip_prefix(first)
    }) else {
        return false;
    };
    let mut is_open = false;
    for part in parts {
        is_open = part.is_empty();
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.is_empty() || is_open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_fits_whole_names_and_names_below_the_site() {
        assert!(matches("acme/plant/body/press-1/temperature", "body/press-1/temperature"));
        assert!(matches("acme/plant/body/press-1/temperature", "body/*"));
        assert!(matches("acme/plant/body/press-1/temperature", "*/temperature"));
        assert!(matches("acme/plant/body/press-1/temperature", "acme/plant/*"));
        assert!(!matches("acme/plant/body/press-1/temperature", "body/press-1"));
        assert!(!matches("acme/plant/body/press-1/temperature", "*/force"));
    }
}
