//! What sends one request: with the client's certificate to the server, without it elsewhere; and the answer that comes piece by piece.

use super::error::HttpError;
use super::message::{Request, Response};
use super::options::Options;
use super::{HeaderMap, Method, StatusCode, Url, redact};
use crate::{Tls, tls};
use millrace_contract::Failure;
use reqwest::header;
use std::time::Duration;

/// Redirects in a row that are followed.
const REDIRECTS: u32 = 5;
/// Of an answer that says no, so much is read.
const REFUSAL: u64 = 1 << 20;
const CONNECT: Duration = Duration::from_secs(10);
const ENDLESS: Duration = Duration::from_secs(366 * 86_400);

/// An answer that is read piece by piece.
#[derive(Debug)]
pub struct Streaming {
    pub url: Url,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub(super) inner: reqwest::Response,
    limit: u64,
    taken: u64,
    timeout: Duration,
}

impl Streaming {
    /// The next piece; `None`: the answer is complete.
    ///
    /// Errors: `Cut`, `TimedOut`; `TooLarge` where more than `http.max_body` has come.
    pub async fn piece(&mut self) -> Result<Option<bytes::Bytes>, HttpError> {
        let url = || redact::url(&self.url);
        if self.inner.content_length().is_some_and(|length| length > self.limit) {
            return Err(HttpError::TooLarge { url: url(), limit: self.limit });
        }
        let piece = self.inner.chunk().await.map_err(|error| from_reqwest(url(), &error, self.timeout))?;
        self.taken += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        if self.taken > self.limit { Err(HttpError::TooLarge { url: url(), limit: self.limit }) } else { Ok(piece) }
    }

    pub async fn collect(mut self) -> Result<Response, HttpError> {
        let known = self.inner.content_length().unwrap_or(0).min(self.limit).min(1 << 20);
        let mut body = Vec::with_capacity(known as usize);
        while let Some(piece) = self.piece().await? {
            body.extend_from_slice(&piece);
        }
        Ok(Response { url: self.url, status: self.status, headers: self.headers, body })
    }

    pub(super) fn content_type(&self) -> &str {
        self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// What sends: with the client's certificate, and without it.
pub(super) struct Transport {
    own: reqwest::Client,
    /// For redirects to another origin.
    elsewhere: reqwest::Client,
    timeout: Duration,
    limit: u64,
}

impl Transport {
    pub fn new(tls: &Tls, options: &Options) -> Result<Self, Failure> {
        let build = |tls: &Tls| -> Result<reqwest::Client, Failure> {
            let mut builder = reqwest::Client::builder()
                .tls_backend_preconfigured((*tls.client_config()?).clone())
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .no_proxy()
                .http1_only()
                .user_agent(concat!("millrace/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT.min(options.timeout.0))
                .read_timeout(options.timeout.0)
                .timeout(options.longest.0);
            if let Some(proxy) = &options.proxy {
                let mut via = reqwest::Proxy::all(proxy.url.as_str())
                    .map_err(|_| Failure::Blocked(format!("`{}` is not the address of a proxy", proxy.url.value)))?;
                if let Some(login) = &proxy.login {
                    via = via.basic_auth(&login.user, login.password.expose());
                }
                builder = builder.proxy(via);
            }
            builder.build().map_err(|error| Failure::Blocked(format!("cannot make an HTTP client: {error}")))
        };
        Ok(Self {
            own: build(tls)?,
            elsewhere: build(&Tls { cert: None, key: None, server_name: None, ..tls.clone() })?,
            timeout: options.timeout.0,
            limit: options.max_body.0,
        })
    }

    /// Sends one request and follows redirects of a GET or HEAD. `secret_headers`: those that go to the request's own origin only.
    pub async fn exchange(&self, request: &Request, secret_headers: Option<&HeaderMap>) -> Result<Streaming, HttpError> {
        let mut url = request.url.clone();
        if let Some(name) = &request.unwritable {
            return Err(HttpError::Unwritable { url: redact::url(&url), cause: format!("its value cannot stand in header {name}") });
        }
        for _ in 0..=REDIRECTS {
            let is_home = url.origin() == request.url.origin();
            let client = if is_home { &self.own } else { &self.elsewhere };
            let mut sent = client.request(request.method.clone(), url.clone());
            if let Some(accept) = request.expect.accept()
                && !request.headers.contains_key(header::ACCEPT)
            {
                sent = sent.header(header::ACCEPT, accept);
            }
            // Elsewhere goes nothing but what is wanted: any other header may be a credential.
            if is_home {
                sent = sent.headers(request.headers.clone());
                if let Some(secret) = secret_headers {
                    sent = sent.headers(secret.clone());
                }
            } else if let Some(accept) = request.headers.get(header::ACCEPT) {
                sent = sent.header(header::ACCEPT, accept);
            }
            if let Some(body) = &request.body {
                sent = sent.body(body.clone());
            }
            if request.endless {
                sent = sent.timeout(ENDLESS);
            }
            let shown = redact::url(&url);
            let answer = sent.send().await.map_err(|error| from_reqwest(shown.clone(), &error, self.timeout))?;
            let status = answer.status();
            tracing::debug!(method = %request.method, url = shown, status = status.as_u16(), "asked");
            let is_redirect = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
            if !is_redirect {
                let limit = match status.is_success() {
                    true if request.endless => u64::MAX,
                    true => self.limit,
                    false => REFUSAL,
                };
                let headers = answer.headers().clone();
                return Ok(Streaming { url, status, headers, inner: answer, limit, taken: 0, timeout: self.timeout });
            }
            let to = answer.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).and_then(|to| url.join(to).ok());
            let Some(to) = to else {
                return Err(HttpError::Redirected { url: shown, to: "nowhere".into(), cause: "its `Location` is not a URL" });
            };
            let cause = if !matches!(request.method, Method::GET | Method::HEAD) {
                Some("and only a GET is sent elsewhere; use that address as endpoint")
            } else if url.scheme() == "https" && to.scheme() != "https" {
                Some("where the connection is not encrypted")
            } else {
                None
            };
            if let Some(cause) = cause {
                return Err(HttpError::Redirected { url: shown, to: redact::url(&to), cause });
            }
            url = to;
        }
        Err(HttpError::Redirected { url: redact::url(&request.url), to: redact::url(&url), cause: "and so on: a loop" })
    }
}

fn from_reqwest(url: String, error: &reqwest::Error, after: Duration) -> HttpError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    let mut words = None;
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            let io = innermost(io);
            if is_tls(io) {
                let failure = tls::failure(&url, io);
                return HttpError::Tls { text: failure.to_string(), is_human: matches!(failure, Failure::Blocked(_)) };
            }
            // An error within an error is not its source.
            words = Some(io.get_ref().map_or_else(|| io.to_string(), ToString::to_string));
        } else {
            words = Some(inner.to_string());
        }
        cause = inner.source();
    }
    let cause = words.unwrap_or_else(|| "no reason is given".into());
    if error.is_builder() {
        HttpError::Unwritable { url, cause }
    } else if error.is_connect() {
        HttpError::Unreachable { url, cause: if error.is_timeout() { "no answer in time".into() } else { cause } }
    } else if error.is_timeout() {
        HttpError::TimedOut { url, after }
    } else {
        HttpError::Cut { url, cause }
    }
}

/// An I/O error may be wrapped in others.
fn innermost(error: &std::io::Error) -> &std::io::Error {
    error.get_ref().and_then(|inner| inner.downcast_ref()).map_or(error, innermost)
}

fn is_tls(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
}
