//! What failed in a request, and what a session does next.

use super::StatusCode;
use millrace_contract::Failure;
use std::time::Duration;

/// Why a request has no usable answer. No text here holds a secret.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// A request that cannot be written: a URL, a header.
    #[error("cannot ask {url}: {cause}")]
    Unwritable { url: String, cause: String },
    /// No connection; nothing was sent.
    #[error("cannot connect to {url}: {cause}")]
    Unreachable { url: String, cause: String },
    /// Certificates; nothing was sent. `is_human`: it stays so until a person acts.
    #[error("{text}")]
    Tls { text: String, is_human: bool },
    /// Silence, or an answer that never ends. The server may have carried the request out.
    #[error("no answer from {url} within {after:?}; it may be overloaded: ask for less, or raise `http.timeout`")]
    TimedOut { url: String, after: Duration },
    /// The connection ended in the middle. The server may have carried the request out.
    #[error("{url} broke its answer off: {cause}")]
    Cut { url: String, cause: String },
    /// The body is larger than allowed.
    #[error("the answer of {url} is larger than {limit} bytes; ask for less, or raise `http.max_body`")]
    TooLarge { url: String, limit: u64 },
    /// 429 or 503: not now.
    #[error("{url} is busy ({status}){}", said(.text))]
    Busy { url: String, status: StatusCode, after: Option<Duration>, text: String },
    /// A token could not be fetched, or the server refuses the login.
    #[error("{url} refuses the login: {cause}; check `login`")]
    Login { url: String, cause: String },
    /// The server refuses a token that was fetched for this request. `times`: in a row.
    #[error("{url} refuses a fresh token{}; check the scope and the rights of the client in `login`", said(.text))]
    TokenRefused { url: String, text: String, times: u32 },
    /// An answer with a good status and the wrong kind of content: a login page, a proxy's page. `times`: in a row.
    #[error("{url} answered {status} with {content} instead of {wanted}{}; is it a login page, or a proxy's?", said(.text))]
    WrongContent { url: String, status: StatusCode, content: String, wanted: &'static str, text: String, times: u32 },
    /// A redirect that is not followed.
    #[error("{url} redirects to {to}, {cause}")]
    Redirected { url: String, to: String, cause: &'static str },
    /// A status that says no.
    #[error("{url} answered {status}{}", said(.text))]
    Status { url: String, status: StatusCode, text: String },
}

fn said(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// A server that says "at once" is given this.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
/// A fresh token refused this often in a row needs a human: before, two servers behind one name may not agree yet.
const REFUSED_TIMES: u32 = 5;
/// A wrong kind of content this often in a row needs a human.
const WRONG_TIMES: u32 = 10;

impl HttpError {
    /// Whether the server may have carried the request out though there is no answer that says so.
    pub fn may_be_done(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::Cut { .. } | Self::TooLarge { .. } | Self::WrongContent { .. } => true,
            // A gateway gives up on a server that goes on.
            Self::Status { status, .. } => status.is_server_error() || *status == StatusCode::REQUEST_TIMEOUT,
            Self::Busy { status, .. } => *status == StatusCode::SERVICE_UNAVAILABLE,
            _ => false,
        }
    }

    /// Whether the same request may succeed later without a person's help.
    pub fn is_passing(&self) -> bool {
        !matches!(Failure::from(self.clone()), Failure::Blocked(_))
    }
}

impl From<HttpError> for Failure {
    fn from(error: HttpError) -> Self {
        let text = error.to_string();
        match error {
            HttpError::Busy { after: Some(after), .. } => Self::RetryAfter(after.max(SHORTEST_WAIT), text),
            HttpError::Unreachable { .. } | HttpError::TimedOut { .. } | HttpError::Cut { .. } | HttpError::Busy { .. } => {
                Self::Reconnect(text)
            }
            HttpError::Tls { is_human: false, .. } => Self::Reconnect(text),
            HttpError::TokenRefused { times, .. } if times < REFUSED_TIMES => Self::Reconnect(text),
            HttpError::WrongContent { times, .. } if times < WRONG_TIMES => Self::Reconnect(text),
            HttpError::Status { status, .. }
                if status.is_server_error()
                    || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::CONFLICT | StatusCode::LOCKED) =>
            {
                Self::Reconnect(text)
            }
            HttpError::Status { .. }
            | HttpError::Unwritable { .. }
            | HttpError::Tls { .. }
            | HttpError::TooLarge { .. }
            | HttpError::Login { .. }
            | HttpError::TokenRefused { .. }
            | HttpError::WrongContent { .. }
            | HttpError::Redirected { .. } => Self::Blocked(text),
        }
    }
}
