//! The conversation with one OData service: URLs, headers on every request, SAP's client and language, one request at a time.

use crate::metadata::{Metadata, Version};
use crate::refusal;
use millrace_contract::Failure;
use millrace_kit::http::{self, Client, Expect, HttpError, Request, Response, StatusCode, Url, redact};
use std::fmt::Write;
use std::time::Duration;
use tokio::sync::Semaphore;

/// Where a service is, and how to speak to it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its URL ends with a slash.
    pub server: http::Endpoint,
    pub client: Option<String>,
    pub language: Option<String>,
    pub parallel: usize,
}

/// How often `$metadata` is asked for, before a session gives up.
const TRIES: u32 = 4;

impl Endpoint {
    /// The root of the service; ends with a slash.
    pub fn root(&self) -> &Url {
        &self.server.url
    }
}

/// A service that is spoken to.
pub struct Service {
    pub endpoint: Endpoint,
    pub http: Client,
    turns: Semaphore,
}

impl Service {
    /// Errors: `Blocked`, where a certificate's file is wrong.
    pub fn new(endpoint: &Endpoint) -> Result<Self, Failure> {
        let http = endpoint.server.client()?;
        Ok(Self { endpoint: endpoint.clone(), http, turns: Semaphore::new(endpoint.parallel.max(1)) })
    }

    /// The URL of something below the root, with SAP's client and language.
    pub fn url(&self, path: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.endpoint.root().clone();
        url.set_path(&format!("{}{path}", self.endpoint.root().path()));
        let mut text = String::new();
        for (name, value) in query {
            let _ = write!(text, "{}{name}={}", if text.is_empty() { "" } else { "&" }, escape(value));
        }
        url.set_query(Some(&text).filter(|text| !text.is_empty()).map(String::as_str));
        self.with_own_parameters(&mut url);
        url
    }

    /// A link of an answer: opaque, absolute or relative to what was asked. Client and language are added where it lost them.
    pub fn linked(&self, asked: &Url, link: &str) -> Option<Url> {
        let mut url = asked.join(link).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
        // A proxy in front of a service: its links name the inner host. The path is what counts; nothing goes to another host.
        if url.origin() != self.endpoint.root().origin() {
            url.set_scheme(self.endpoint.root().scheme()).ok()?;
            url.set_host(self.endpoint.root().host_str()).ok()?;
            url.set_port(self.endpoint.root().port()).ok()?;
        }
        self.with_own_parameters(&mut url);
        Some(url)
    }

    fn with_own_parameters(&self, url: &mut Url) {
        let own = [("sap-client", &self.endpoint.client), ("sap-language", &self.endpoint.language)];
        let mut query = url.query().unwrap_or_default().to_owned();
        for (name, value) in own {
            if let Some(value) = value
                && !query.split('&').any(|part| part.starts_with(name) && part[name.len()..].starts_with('='))
            {
                let _ = write!(query, "{}{name}={value}", if query.is_empty() { "" } else { "&" });
            }
        }
        url.set_query(Some(&query).filter(|query| !query.is_empty()).map(String::as_str));
    }

    /// A request with the headers that every request has.
    pub fn request(&self, request: Request, version: Option<Version>) -> Request {
        let mut request = request;
        if let Some(language) = &self.endpoint.language {
            request = request.header("accept-language", language);
        }
        match version {
            Some(Version::V4) => request.header("odata-version", "4.0").header("odata-maxversion", "4.01"),
            Some(Version::V2) => request.header("dataserviceversion", "2.0").header("maxdataserviceversion", "2.0"),
            None => request,
        }
    }

    /// Sends a request when it is its turn.
    pub async fn send(&self, request: &Request) -> Result<Response, HttpError> {
        let _turn = self.turns.acquire().await;
        self.http.send(request).await
    }

    pub async fn metadata(&self) -> Result<Metadata, Failure> {
        let url = self.url("$metadata", &[]);
        let request = self.request(Request::get(url.clone()).expect(Expect::Xml), None);
        let mut tries = 0;
        let answer = loop {
            let error = match self.send(&request).await {
                Ok(answer) if answer.status.is_success() => break answer,
                Ok(answer) => self.refusal(&answer),
                Err(error) => error,
            };
            tries += 1;
            if tries >= TRIES || !error.is_passing() {
                return Err(error.into());
            }
            tokio::time::sleep(Duration::from_millis(50) * 2_u32.pow(tries)).await;
        };
        let text =
            std::str::from_utf8(&answer.body).map_err(|_| Failure::Blocked(format!("{}: $metadata is not UTF-8", redact::url(&url))))?;
        Metadata::parse(text).map_err(|error| Failure::Blocked(format!("{}: {error}", redact::url(&url))))
    }

    /// An answer with a bad status, with the ERP's own words where it gives any.
    pub fn refusal(&self, answer: &Response) -> HttpError {
        match (refusal::of(&answer.body), answer.status) {
            (Some(refusal), status) if status != StatusCode::UNAUTHORIZED => {
                HttpError::Status { url: redact::url(&answer.url), status, text: self.http.redacted(&refusal.to_string()) }
            }
            _ => self.http.refusal(answer),
        }
    }
}

/// A value in a query, percent-encoded; what OData's expressions are made of stays readable.
pub fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' => out.push(byte as char),
            b'-' | b'.' | b'_' | b'~' | b'(' | b')' | b',' | b':' | b'$' | b'/' | b';' | b'=' | b'*' | b'@' | b'!' => {
                out.push(byte as char)
            }
            _ => _ = write!(out, "%{byte:02X}"),
        }
    }
    out
}
