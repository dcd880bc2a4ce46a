//! The client: one endpoint, its login, its limits.
//!
//! ```text
//! send ─ wait for the rate ─ add login ─ exchange ─┬─ 401 with a token of OAuth2: once more with a new one
//!                                                  ├─ 3xx of a GET: to the same origin with the login, elsewhere without it
//!                                                  ├─ 429, 503: Busy
//!                                                  ├─ 2xx of another kind of content: WrongContent
//!                                                  └─ the answer
//! ```

use super::error::HttpError;
use super::login::{HttpLogin, basic};
use super::message::{Request, Response};
use super::options::Options;
use super::token::Token;
use super::transport::{Streaming, Transport};
use super::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Url, redact};
use crate::Tls;
use millrace_config::Secret;
use millrace_contract::Failure;
use reqwest::header;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// `Retry-After` is believed up to here.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// A client of one server. Share it: connections, the token and the rate are one.
pub struct Client {
    transport: Transport,
    login: HttpLogin,
    /// OAuth2.
    token: Option<Token>,
    headers: HeaderMap,
    /// Only there the login goes.
    home: Url,
    every: Option<Duration>,
    next: Mutex<Option<Instant>>,
    wrong: AtomicU32,
    /// Fresh tokens refused in a row.
    refused: AtomicU32,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Client({})", redact::url(&self.home))
    }
}

impl Client {
    /// Makes a client for the origin of `endpoint`; reads certificates, sends nothing.
    ///
    /// Errors: `Blocked`, naming the file that is wrong.
    pub fn new(endpoint: &Url, login: Option<&HttpLogin>, tls: &Tls, options: &Options) -> Result<Self, Failure> {
        let login = login.cloned().unwrap_or_default();
        let token = login.oauth2.as_ref().and_then(|oauth2| Some(Token::new(oauth2, oauth2.url()?)));
        let mut headers = HeaderMap::new();
        for (name, value) in &options.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
                headers.insert(name, value);
            }
        }
        Ok(Self {
            transport: Transport::new(tls, options)?,
            token,
            login,
            headers,
            home: endpoint.clone(),
            every: options.rate.as_ref().map(|rate| Duration::from_secs_f64(1.0 / rate.0.max(1e-6))),
            next: Mutex::default(),
            wrong: AtomicU32::new(0),
            refused: AtomicU32::new(0),
        })
    }

    /// Sends a request and reads the answer, whatever its status, but for those that say "not now".
    ///
    /// Shape: a 2xx has the kind of content that was expected, or no content.
    /// Errors: see [`HttpError`]; a status other than 429 and 503 is none.
    pub async fn send(&self, request: &Request) -> Result<Response, HttpError> {
        self.open(request).await?.collect().await
    }

    /// As [`send`](Self::send), and a status that is not 2xx is an error, with what the server said.
    pub async fn fetch(&self, request: &Request) -> Result<Response, HttpError> {
        let answer = self.send(request).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(self.refusal(&answer)) }
    }

    /// An answer with a bad status as an error.
    pub fn refusal(&self, answer: &Response) -> HttpError {
        let (url, text) = (redact::url(&answer.url), self.redacted(&answer.text()));
        match answer.status {
            StatusCode::UNAUTHORIZED if self.token.is_some() => {
                let times = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
                HttpError::TokenRefused { url, text, times }
            }
            StatusCode::UNAUTHORIZED => HttpError::Login { url, cause: format!("{} {text}", answer.status).trim_end().to_owned() },
            status => HttpError::Status { url, status, text },
        }
    }

    /// A server's words for a message: one line, cut, without the secrets of this client.
    pub fn redacted(&self, text: &str) -> String {
        redact::text(text, self.login.secrets())
    }

    /// Sends a request; the body is still to come.
    pub async fn open(&self, request: &Request) -> Result<Streaming, HttpError> {
        self.wait_for_turn().await;
        let mut request = request.clone();
        for (name, value) in &self.headers {
            request.headers.entry(name).or_insert_with(|| value.clone());
        }
        // A link of an answer may lead elsewhere: without the login, and without the headers it may stand in.
        let is_home = request.url.origin() == self.home.origin();
        if !is_home {
            let accept = request.headers.remove(header::ACCEPT);
            request.headers.clear();
            request.headers.extend(accept.map(|accept| (header::ACCEPT, accept)));
        }
        let mut token = if is_home { self.current_token(None).await? } else { None };
        let mut answer = self.transport.exchange(&request, Some(&self.secrets(is_home, token.as_ref()))).await?;
        if answer.status == StatusCode::UNAUTHORIZED && token.is_some() {
            token = self.current_token(token.as_ref()).await?;
            answer = self.transport.exchange(&request, Some(&self.secrets(is_home, token.as_ref()))).await?;
        }
        self.judge(&request, answer).await
    }

    /// The headers of every request to the endpoint, the login among them: for what a request of this client cannot do, as opening a WebSocket.
    ///
    /// Errors: a token cannot be fetched.
    pub async fn headers_at_home(&self) -> Result<HeaderMap, HttpError> {
        let token = self.current_token(None).await?;
        let mut headers = self.headers.clone();
        headers.extend(self.secrets(true, token.as_ref()));
        Ok(headers)
    }

    async fn current_token(&self, refused: Option<&Secret>) -> Result<Option<Secret>, HttpError> {
        match &self.token {
            Some(token) => token.get(&self.transport, refused).await.map(Some),
            None => Ok(None),
        }
    }

    fn secrets(&self, is_home: bool, token: Option<&Secret>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !is_home {
            return headers;
        }
        let authorization = match (&self.login, token) {
            (_, Some(token)) => Some(format!("Bearer {}", token.expose())),
            (HttpLogin { bearer: Some(bearer), .. }, _) => Some(format!("Bearer {}", bearer.expose())),
            (HttpLogin { user: Some(user), password: Some(password), .. }, _) => Some(basic(user, password.expose())),
            _ => None,
        };
        let key = self.login.api_key.as_ref().map(|key| (key.header.value.as_str(), key.value.expose().to_owned()));
        for (name, value) in authorization.map(|value| ("authorization", value)).into_iter().chain(key) {
            if let (Ok(name), Ok(mut value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value)) {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
        }
        headers
    }

    /// Tells an answer that can be used from one that cannot.
    async fn judge(&self, request: &Request, answer: Streaming) -> Result<Streaming, HttpError> {
        let (url, status) = (redact::url(&answer.url), answer.status);
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            let after = answer.headers.get(header::RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
            let text = answer.collect().await.map(|answer| self.redacted(&answer.text())).unwrap_or_default();
            return Err(HttpError::Busy { url, status, after, text });
        }
        let has_content = status != StatusCode::NO_CONTENT && answer.inner.content_length() != Some(0) && request.method != Method::HEAD;
        if status.is_success() && has_content && !request.expect.takes(answer.content_type()) {
            let content = match answer.content_type() {
                "" => "no kind of content".to_owned(),
                named => self.redacted(named),
            };
            let times = self.wrong.fetch_add(1, Ordering::Relaxed) + 1;
            let text = answer.collect().await.map(|answer| title(&answer.text())).unwrap_or_default();
            let text = self.redacted(&text);
            return Err(HttpError::WrongContent { url, status, content, wanted: request.expect.words(), text, times });
        }
        if status.is_success() {
            self.wrong.store(0, Ordering::Relaxed);
            self.refused.store(0, Ordering::Relaxed);
        }
        Ok(answer)
    }

    /// Waits until the rate allows one more.
    async fn wait_for_turn(&self) {
        let Some(every) = self.every else { return };
        let at = {
            let mut next = self.next.lock().await;
            let at = next.unwrap_or_else(Instant::now).max(Instant::now());
            *next = Some(at + every);
            at
        };
        tokio::time::sleep_until(at).await;
    }
}

/// The title of a web page; of anything else its beginning.
fn title(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let inside = lower.find("<title>").and_then(|start| Some((start + 7, start + 7 + lower[start + 7..].find("</title>")?)));
    inside.map_or_else(|| text.chars().take(200).collect(), |(start, end)| text[start..end].to_owned())
}

/// `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date by a clock that may be wrong; at most an hour.
pub fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds).min(LONGEST_WAIT));
    }
    let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    let left = at.duration_since(jiff::Timestamp::now());
    Some(Duration::try_from(left).unwrap_or_default().min(LONGEST_WAIT))
}
