//! What a listener shows.

use crate::error::TlsError;
use crate::pem::{certificates, private_key};
use crate::validity;
use rustls::ServerConfig;
use std::path::Path;
use std::sync::Arc;

/// Reads a certificate and its key, and makes a configuration to be connected to. Its dates are no matter: see [`check_dates`].
///
/// Errors: [`TlsError::Certificate`], naming the file, what is wrong with it and what to do.
pub fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(certificate)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let private = private_key(key)?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, private))
        .map_err(|error| {
            TlsError::Certificate(format!("cannot use certificate {} with key {}: {error}", certificate.display(), key.display()))
        })?;
    Ok(Arc::new(config))
}

/// Refuses a certificate that has expired, or is not valid yet.
pub fn check_dates(certificate: &Path) -> Result<(), TlsError> {
    match validity::problem(&certificates(certificate)?[0]) {
        Some(error) => Err(TlsError::Certificate(format!("certificate {} {error}; renew it", certificate.display()))),
        None => Ok(()),
    }
}
