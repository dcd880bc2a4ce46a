//! Who may speak to a broker that listens off loopback: TLS, and users with passwords.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use tokio_rustls::TlsAcceptor;

use crate::net::scram::Credentials;

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
    #[error(transparent)]
    Tls(#[from] millrace_tls::TlsError),
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
        let config = millrace_tls::server_config(&security.certificate, &security.key, None)?;
        Ok(Self { tls: TlsAcceptor::from(config), users })
    }
}
