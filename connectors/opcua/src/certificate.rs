//! Certificates as a person reads them: thumbprint, subject, names, validity.

use crate::fault::PkiError;
use opcua::crypto::X509;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// A chain of issuers is no longer, a certificate no larger.
const MOST_ISSUERS: usize = 10;
const LARGEST_CERTIFICATE_BYTES: u64 = 64 * 1024;

/// Where a certificate lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TrustList {
    Own,
    Trusted,
    Issuers,
    Rejected,
}

impl TrustList {
    pub(crate) const ALL: [Self; 4] = [Self::Own, Self::Trusted, Self::Issuers, Self::Rejected];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Own => "own",
            Self::Trusted => "trusted",
            Self::Issuers => "issuers",
            Self::Rejected => "rejected",
        }
    }
}

/// A certificate of the folder, for a person.
#[derive(Clone, Debug)]
pub struct CertificateInfo {
    pub shelf: TrustList,
    pub path: PathBuf,
    /// SHA-1 of the DER form, as OPC UA names certificates; lowercase hexadecimal.
    pub thumbprint: String,
    pub subject: String,
    /// Host names, addresses and the application's URI.
    pub names: Vec<String>,
    pub from: SystemTime,
    pub until: SystemTime,
    /// As a person reads them.
    pub span: (String, String),
}

pub(crate) fn same_host(name: &str, host: &str) -> bool {
    match (name.parse::<std::net::IpAddr>(), host.parse::<std::net::IpAddr>()) {
        (Ok(name), Ok(host)) => name == host,
        _ => name.eq_ignore_ascii_case(host),
    }
}

/// The certificates of a chain, one behind the other. `None` where it is none.
pub(crate) fn split_chain(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut chain = Vec::new();
    while !bytes.is_empty() && chain.len() <= MOST_ISSUERS {
        let (header, length) = match *bytes {
            [0x30, 0x82, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
            [0x30, 0x81, length, ..] => (3, usize::from(length)),
            [0x30, length, ..] if length < 0x80 => (2, usize::from(length)),
            // Padding behind the last one.
            _ => break,
        };
        let (one, rest) = bytes.split_at_checked(header + length)?;
        chain.push(one);
        bytes = rest;
    }
    (!chain.is_empty()).then_some(chain)
}

/// The DER form of a certificate's file, which may be PEM.
pub(crate) fn der_of(path: &Path) -> Result<Vec<u8>, PkiError> {
    let failed = |error: &dyn std::fmt::Display| PkiError::Certificate { path: path.to_owned(), why: error.to_string() };
    let length = fs::metadata(path).map_err(|error| failed(&error))?.len();
    if length > LARGEST_CERTIFICATE_BYTES {
        return Err(failed(&format!("{length} bytes are too many for a certificate")));
    }
    let bytes = fs::read(path).map_err(|error| failed(&error))?;
    if bytes.starts_with(b"-----BEGIN") {
        return X509::from_pem(&bytes).and_then(|one| one.to_der()).map_err(|error| failed(&error));
    }
    Ok(bytes)
}

pub(crate) fn read(shelf: TrustList, path: &Path) -> Result<CertificateInfo, PkiError> {
    describe(shelf, path.to_owned(), &der_of(path)?).map_err(|Unreadable(why)| PkiError::Certificate { path: path.to_owned(), why })
}

/// Bytes that are no certificate, and why.
pub(crate) struct Unreadable(pub String);

pub(crate) fn describe(shelf: TrustList, path: PathBuf, der: &[u8]) -> Result<CertificateInfo, Unreadable> {
    let unreadable = |error: &dyn std::fmt::Display| Unreadable(error.to_string());
    let certificate = Certificate::from_der(der).map_err(|error| unreadable(&error))?;
    let whole = X509::from_der(der).map_err(|error| unreadable(&error))?;
    let content = &certificate.tbs_certificate;
    let names = match content.get::<SubjectAltName>() {
        Ok(Some((_, names))) => names.0.iter().filter_map(name_of).collect(),
        _ => Vec::new(),
    };
    let time = |time: &x509_cert::time::Time| time.to_date_time().to_string();
    Ok(CertificateInfo {
        shelf,
        path,
        thumbprint: whole.thumbprint().as_hex_string(),
        subject: content.subject.to_string(),
        names,
        from: content.validity.not_before.to_system_time(),
        until: content.validity.not_after.to_system_time(),
        span: (time(&content.validity.not_before), time(&content.validity.not_after)),
    })
}

/// A server's certificate in a line: thumbprint, subject, and when it ends. Empty where there is none.
pub fn describe_text(certificate: &[u8]) -> String {
    let Some(first) = split_chain(certificate).and_then(|chain| chain.first().copied()) else {
        return String::new();
    };
    match describe(TrustList::Rejected, PathBuf::new(), first) {
        Ok(one) => format!("{} {} until {}", one.thumbprint, one.subject, one.span.1),
        Err(Unreadable(why)) => format!("a certificate that can't be read: {why}"),
    }
}

fn name_of(name: &GeneralName) -> Option<String> {
    match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::UniformResourceIdentifier(uri) => Some(uri.to_string()),
        GeneralName::IpAddress(address) => match <[u8; 4]>::try_from(address.as_bytes()) {
            Ok(v4) => Some(std::net::Ipv4Addr::from(v4).to_string()),
            Err(_) => <[u8; 16]>::try_from(address.as_bytes()).ok().map(|v6| std::net::Ipv6Addr::from(v6).to_string()),
        },
        _ => None,
    }
}
