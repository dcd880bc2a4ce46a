//! One HTTP client for every connector that speaks to a server: an ERP, a REST endpoint, a table format's catalog.
//!
//! ```text
//! keys of the YAML ── EndpointKeys ── Endpoint ──> Client ── send(Request) ──> Response, whatever its status
//!                                                         └── open(Request) ──> Streaming, piece by piece
//! ```
//!
//! - [`endpoint`]: the keys of the YAML that say where a server is and how to speak to it; [`options`]: limits, proxy, headers; [`login`]: basic, bearer,
//!   API key, OAuth2 client credentials (renewed before they end).
//! - [`message`]: what is asked and answered; [`client`]: the rate, the login, the kind of content; [`transport`]: redirects, pieces; [`error`]: what failed, and what a session does next; [`redact`]: what may be shown.
//!
//! Invariants:
//! - a credential leaves only for the origin (scheme, host and port) of the endpoint, never after a redirect elsewhere, never in a message;
//! - a body is bounded; a body that ends early is an error, not a short one;
//! - a request is never repeated by itself, save after 401 with a new token: such a request was not carried out;
//! - 429 and 503 are [`HttpError::Busy`] with the server's `Retry-After`; no one else gets to see them as an answer.

pub mod client;
pub mod endpoint;
pub mod error;
pub mod login;
pub mod message;
pub mod options;
pub mod redact;
mod token;
pub mod transport;

pub use client::Client;
pub use endpoint::{Endpoint, EndpointKeys};
pub use error::HttpError;
pub use login::HttpLogin;
pub use message::{Expect, Request, Response};
pub use options::{Options, Proxy};
pub use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
pub use reqwest::{Method, StatusCode, Url};
pub use transport::Streaming;
