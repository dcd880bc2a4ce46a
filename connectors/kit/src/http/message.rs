//! What is asked, and what is answered.

use super::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Url};
use std::borrow::Cow;

/// The kind of content that is wanted of an answer with a good status. A body of nothing is of every kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Expect {
    /// `application/json`, `..+json`, NDJSON.
    #[default]
    Json,
    /// `application/xml`, `text/xml`, `..+xml`, but not a web page.
    Xml,
    /// `multipart/..`.
    Multipart,
    /// `text/event-stream`.
    Events,
    /// Anything but a web page.
    Data,
    /// Anything.
    Any,
}

impl Expect {
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Xml => "XML",
            Self::Multipart => "a multipart answer",
            Self::Events => "an event stream",
            Self::Data | Self::Any => "data",
        }
    }

    pub(super) const fn accept(self) -> Option<&'static str> {
        match self {
            Self::Json => Some("application/json"),
            Self::Xml => Some("application/xml"),
            Self::Multipart => Some("multipart/mixed"),
            Self::Events => Some("text/event-stream"),
            Self::Data | Self::Any => None,
        }
    }

    pub(super) fn takes(self, content_type: &str) -> bool {
        let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let is_page = kind == "text/html" || kind == "application/xhtml+xml";
        match self {
            Self::Json => kind.ends_with("/json") || kind.ends_with("+json") || kind.ends_with("ndjson") || kind.ends_with("jsonl"),
            Self::Xml => !is_page && (kind.ends_with("/xml") || kind.ends_with("+xml")),
            Self::Multipart => kind.starts_with("multipart/"),
            Self::Events => kind == "text/event-stream",
            Self::Data => !is_page,
            Self::Any => true,
        }
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Option<bytes::Bytes>,
    pub expect: Expect,
    /// The answer has no end: an event stream. Neither `http.longest` nor `http.max_body` holds for it.
    pub endless: bool,
    /// The first header that could not be written.
    pub(super) unwritable: Option<String>,
}

impl Request {
    pub fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: None, expect: Expect::Json, endless: false, unwritable: None }
    }

    pub fn get(url: Url) -> Self {
        Self::new(Method::GET, url)
    }

    /// Adds a header; a later one of the same name replaces it.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) {
            (Ok(name), Ok(value)) => _ = self.headers.insert(name, value),
            _ => _ = self.unwritable.get_or_insert_with(|| name.to_owned()),
        }
        self
    }

    #[must_use]
    pub fn body(self, content_type: &str, body: impl Into<bytes::Bytes>) -> Self {
        let mut request = self.header("content-type", content_type);
        request.body = Some(body.into());
        request
    }

    #[must_use]
    pub fn expect(mut self, expect: Expect) -> Self {
        self.expect = expect;
        self
    }

    #[must_use]
    pub fn endless(mut self) -> Self {
        self.endless = true;
        self
    }
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Response {
    /// Where it came from, for messages.
    pub url: Url,
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Response {
    pub fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// A header as text; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}
