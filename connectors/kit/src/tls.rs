//! TLS towards a device or broker, as a connector is configured for it; [`millrace_tls`] does it.
//!
//! A certificate that can't be right until a human acts (untrusted, expired, for another host, refused by the peer) is [`Failure::Blocked`];
//! everything else of a handshake is [`Failure::Reconnect`].

use millrace_config::{Place, Problems};
use millrace_contract::Failure;
use millrace_tls::{ClientTls, TlsError};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use schemars::JsonSchema;
use serde::Deserialize;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;

/// Certificates for a TLS connection. All files are PEM.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The authority (or the peer's own certificate) to trust. Left out: the system's authorities.
    pub ca: Option<PathBuf>,
    /// This client's certificate, with its intermediates, where the peer asks for one. Wants `key`.
    pub cert: Option<PathBuf>,
    /// The private key of `cert`: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: Option<PathBuf>,
    /// The name in the peer's certificate, where it is not the host of the endpoint.
    pub server_name: Option<String>,
}

impl Tls {
    /// Checks what can be checked without touching a file.
    pub fn check(&self, place: Place, problems: &mut Problems) {
        match (&self.cert, &self.key) {
            (Some(cert), None) => {
                problems
                    .error(place, format!("`cert` {} has no `key`", cert.display()))
                    .help("add `key:` with the file of its private key");
            }
            (None, Some(key)) => {
                problems
                    .error(place, format!("`key` {} has no `cert`", key.display()))
                    .help("add `cert:` with the file of its certificate");
            }
            _ => {}
        }
        if let Some(name) = &self.server_name
            && ServerName::try_from(name.as_str()).is_err()
        {
            problems.error(place, format!("`server_name` `{name}` is no host name and no IP address"));
        }
    }

    /// Reads the certificates and makes a configuration to connect with.
    ///
    /// Errors: `Blocked`, naming the file, what is wrong with it and what to do.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, Failure> {
        self.client().client_config().map_err(as_failure)
    }

    /// The name the peer's certificate must carry.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, Failure> {
        self.client().server_name(host).map_err(as_failure)
    }

    /// Does the handshake on a connected stream. `host` is the endpoint's, `endpoint` is named in errors.
    pub async fn connect<S>(&self, stream: S, host: &str, endpoint: &str) -> Result<TlsStream<S>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.client().connect(stream, host, endpoint).await.map_err(as_failure)
    }

    fn client(&self) -> ClientTls {
        let Self { ca, cert, key, server_name } = self.clone();
        ClientTls { ca, cert, key, server_name }
    }
}

/// Reads a certificate and its key, and makes a configuration to be connected to. `client_ca`: only by clients whose certificate this authority
/// signed.
///
/// Errors: `Blocked`, naming the file, what is wrong with it and what to do.
pub fn server_config(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>, Failure> {
    millrace_tls::check_dates(certificate).map_err(as_failure)?;
    millrace_tls::server_config(certificate, key, client_ca).map_err(as_failure)
}

/// What an I/O error on a TLS connection means. Also for errors after the handshake: in TLS 1.3 a peer refuses our certificate only then.
///
/// Shape: an error that carries a certificate's problem -> `Blocked` with a sentence; any other -> `Reconnect`.
pub fn failure(endpoint: &str, error: &io::Error) -> Failure {
    as_failure(millrace_tls::failure(endpoint, error))
}

fn as_failure(error: TlsError) -> Failure {
    match error {
        TlsError::Certificate(why) => Failure::Blocked(why),
        TlsError::Connection(why) => Failure::Reconnect(why),
    }
}
