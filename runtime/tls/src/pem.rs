//! Certificates and keys out of PEM files.

use crate::error::{TlsError, describe};
use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::io;
use std::path::Path;

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(path)?;
    let list: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::Certificate(format!("cannot read a certificate from {}: {}", path.display(), damage(error))))?;
    if list.is_empty() {
        return Err(TlsError::Certificate(format!(
            "no certificate in {}: no `-----BEGIN CERTIFICATE-----` line; convert it to PEM (openssl x509 -inform der)",
            path.display()
        )));
    }
    Ok(list)
}

/// The authorities in a file, to be trusted.
pub(crate) fn authority(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| {
            TlsError::Certificate(format!(
                "cannot trust the authority in {}: {}; export it again as X.509 in PEM",
                path.display(),
                describe(&error)
            ))
        })?;
    }
    Ok(roots)
}

pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let bytes = read(path)?;
    if bytes.windows(b"ENCRYPTED".len()).any(|w| w == b"ENCRYPTED") {
        return Err(TlsError::Certificate(format!(
            "private key {} is encrypted; decrypt it (openssl pkey -in .. -out ..) and protect the file instead",
            path.display()
        )));
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        TlsError::Certificate(match error {
            pem::Error::NoItemsFound => {
                format!("no private key in {}: no `-----BEGIN PRIVATE KEY-----` line; convert it to PEM", path.display())
            }
            other => format!("cannot read a private key from {}: {}", path.display(), damage(other)),
        })
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => "check the path",
            io::ErrorKind::PermissionDenied => "let the user millrace runs as read it",
            _ => "check the file",
        };
        TlsError::Certificate(format!("cannot read {}: {error}; {advice}", path.display()))
    })
}

fn damage(error: pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "its `-----END` line is missing; the file is cut".into(),
        pem::Error::Base64Decode(_) => "its base64 is damaged; copy the file again".into(),
        other => format!("{other}"),
    }
}
