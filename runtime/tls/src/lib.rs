//! TLS for whoever opens or accepts a connection: which certificates, and what a failed handshake means. Knows no connector and no configuration.
//!
//! - Versions 1.2 and 1.3, the `ring` provider named explicitly: no process-wide default is needed.
//! - Without `ca` the system's roots are trusted; with it, only that file's.
//! - There is no switch that turns verification off: give the peer's own certificate as `ca`.
//! - A certificate that can't be right until a human acts (untrusted, expired, for another host, refused by the peer) is
//!   [`TlsError::Certificate`]; everything else of a handshake is [`TlsError::Connection`].

mod client;
mod error;
mod pem;
mod server;
mod validity;

pub use client::ClientTls;
pub use error::{TlsError, failure};
pub use server::{check_dates, server_config};
