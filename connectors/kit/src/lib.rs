//! What several connectors need and none should write twice: TLS and logins.
//!
//! Invariants: nothing here knows a protocol; nothing here does I/O before a session asks for it.

pub mod login;
pub mod tls;

pub use login::Login;
pub use tls::Tls;
