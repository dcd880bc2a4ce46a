//! What a listener shows, and whose certificates it asks for.

use crate::error::TlsError;
use crate::pem::{authority, certificates, private_key};
use crate::validity;
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use std::path::Path;
use std::sync::Arc;

/// Reads a certificate and its key, and makes a configuration to be connected to. Its dates are no matter: see [`check_dates`].
/// `client_ca`: only clients whose certificate this authority signed are let in.
///
/// Errors: [`TlsError::Certificate`], naming the file, what is wrong with it and what to do.
pub fn server_config(certificate: &Path, key: &Path, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(certificate)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let private = private_key(key)?;
    let unusable = |error: rustls::Error| {
        TlsError::Certificate(format!("cannot use certificate {} with key {}: {error}", certificate.display(), key.display()))
    };
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().map_err(unusable)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authority(ca)?), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| {
                TlsError::Certificate(format!("cannot ask for certificates of the authority in {}: {error}", ca.display()))
            })?)
        }
    };
    builder.with_single_cert(chain, private).map(Arc::new).map_err(unusable)
}

/// Refuses a certificate that has expired, or is not valid yet.
pub fn check_dates(certificate: &Path) -> Result<(), TlsError> {
    match validity::problem(&certificates(certificate)?[0]) {
        Some(error) => Err(TlsError::Certificate(format!("certificate {} {error}; renew it", certificate.display()))),
        None => Ok(()),
    }
}
