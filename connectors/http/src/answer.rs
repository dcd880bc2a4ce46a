//! Answers to requests.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};

/// An answer that is an error.
#[derive(Clone, PartialEq, Debug)]
pub struct Answer {
    pub status: u16,
    pub reason: String,
    pub retry_after: Option<u32>,
    pub is_last: bool,
}

impl Answer {
    pub fn refused(status: u16, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into(), retry_after: None, is_last: false }
    }

    /// The sender may try again after so many seconds.
    pub fn later(status: u16, seconds: u32, reason: impl Into<String>) -> Self {
        Self { retry_after: Some(seconds), ..Self::refused(status, reason) }
    }

    /// Nothing more can be read from this connection.
    pub fn closing(self) -> Self {
        Self { is_last: true, ..self }
    }

    pub fn response(&self, code: u32) -> Response<Full<Bytes>> {
        let mut response = json_response(self.status, &json!({"error_code": code, "message": self.reason}));
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if self.is_last {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if self.status == 401 {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An answer of JSON.
pub fn json_response(status: u16, body: &Value) -> Response<Full<Bytes>> {
    text_response(status, body.to_string())
}

/// An answer of JSON that is written already.
pub fn text_response(status: u16, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
