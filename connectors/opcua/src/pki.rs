//! Certificates on disk: our own, those of servers we trust, and those we turned away.

use opcua::crypto::{PrivateKey, X509};
use std::path::{Path, PathBuf};

/// Our own certificate, as a file and as read.
#[derive(Clone)]
pub struct Own {
    pub certificate_path: PathBuf,
    pub key_path: PathBuf,
    pub certificate: X509,
    pub key: PrivateKey,
    pub application_uri: String,
}

/// `<data_dir>/pki`. Every method reads or writes files.
#[derive(Clone, Debug)]
pub struct Pki {
    folder: PathBuf,
}

impl Pki {
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Our own certificate, created on first use. Errors: what a person has to do.
    pub fn own(&self) -> Result<Own, String> {
        todo!("the twin's")
    }

    /// Whether a server's certificate (DER, issuers behind it) is trusted for this host and application. What is not is kept in `rejected`.
    /// Errors: why not, and the line to type.
    pub fn judge(&self, _certificate: &[u8], _host: &str, _application_uri: &str) -> Result<(), String> {
        todo!("the twin's")
    }
}
