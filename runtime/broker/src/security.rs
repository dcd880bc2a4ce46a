//! Who may speak to a broker that listens off loopback: TLS, and users with passwords.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::scram::Credentials;

/// What a listener off loopback wants.
#[derive(Clone)]
pub struct Security {
    /// PEM: the broker's certificate and what it was signed with.
    pub certificate: PathBuf,
    /// PEM: the certificate's key.
    pub key: PathBuf,
    /// Passwords by user.
    pub users: BTreeMap<String, String>,
}

impl fmt::Debug for Security {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let users: Vec<_> = self.users.keys().collect();
        f.debug_struct("Security").field("certificate", &self.certificate).field("key", &self.key).field("users", &users).finish()
    }
}

/// Why a listener's security cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    #[error("cannot read {}: {what}", path.display())]
    Pem { path: PathBuf, what: String },
    #[error("certificate {} and key {} do not fit: {what}", certificate.display(), key.display())]
    Pair { certificate: PathBuf, key: PathBuf, what: String },
    #[error("no users are named: nobody could log in")]
    NoUsers,
    #[error("user {0:?} cannot be one: a name and a password are needed, and a name has no `,`, `=` or zero byte")]
    BadUser(String),
}

/// TLS and logins, ready for connections.
pub(crate) struct Guard {
    pub tls: TlsAcceptor,
    pub users: BTreeMap<String, Credentials>,
}

impl Guard {
    pub fn new(security: &Security) -> Result<Self, SecurityError> {
        if security.users.is_empty() {
            return Err(SecurityError::NoUsers);
        }
        let mut users = BTreeMap::new();
        for (name, password) in &security.users {
            if name.is_empty() || password.is_empty() || name.contains([',', '=', '\0']) {
                return Err(SecurityError::BadUser(name.clone()));
            }
            users.insert(name.clone(), Credentials::new(password));
        }
        Ok(Self { tls: acceptor(&security.certificate, &security.key)?, users })
    }
}

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, SecurityError> {
    let unreadable = |path: &Path, what: String| SecurityError::Pem { path: path.to_path_buf(), what };
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).map_err(|e| unreadable(certificate, e.to_string()))?;
    if chain.is_empty() {
        return Err(unreadable(certificate, "it holds no certificate".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| unreadable(key, e.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|e| SecurityError::Pair { certificate: certificate.to_path_buf(), key: key.to_path_buf(), what: e.to_string() })?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
