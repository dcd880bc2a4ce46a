//! What several connectors need and none should write twice: TLS, logins, samples out of records, times, texts with names in braces.
//!
//! Invariants: nothing here knows a protocol; nothing here does I/O before a session asks for it.

pub mod extract;
pub mod login;
pub mod template;
pub mod time;
pub mod tls;

pub use login::Login;
pub use template::Template;
pub use tls::Tls;
