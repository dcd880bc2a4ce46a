//! TLS towards a device or broker: which certificates, and what a failed handshake means.
//!
//! - Versions 1.2 and 1.3, the `ring` provider named explicitly: no process-wide default is needed.
//! - Without `ca` the system's roots are trusted; with it, only that file's.
//! - There is no switch that turns verification off: give the device's own certificate as `ca`.
//! - A certificate that can't be right until a human acts (untrusted, expired, for another host, refused by the peer) is
//!   [`Failure::Blocked`]; everything else of a handshake is [`Failure::Reconnect`].

use millrace_config::{Place, Problems};
use millrace_contract::Failure;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
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
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(self.roots()?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|e| Failure::Blocked(format!("cannot verify certificates: {e}")))?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Failure::Blocked(format!("cannot set up tls: {e}")))?
            .with_webpki_verifier(verifier);
        let config = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let chain = certificates(cert)?;
                if let Some(error) = validity::problem(&chain[0]) {
                    return Err(Failure::Blocked(format!("client certificate {} {error}; renew it", cert.display())));
                }
                builder.with_client_auth_cert(chain, private_key(key)?).map_err(|error| {
                    let reason = match error {
                        rustls::Error::InconsistentKeys(_) => {
                            "they do not belong together; give the key the certificate was made for".into()
                        }
                        other => format!("{other}"),
                    };
                    Failure::Blocked(format!("cannot use certificate {} with key {}: {reason}", cert.display(), key.display()))
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }

    /// The name the peer's certificate must carry.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, Failure> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
        ServerName::try_from(bare.to_owned()).map_err(|_| {
            Failure::Blocked(format!("`{name}` is no host name and no IP address; set `tls.server_name` to the name in the certificate"))
        })
    }

    /// Does the handshake on a connected stream. `host` is the endpoint's, `endpoint` is named in errors.
    pub async fn connect<S>(&self, stream: S, host: &str, endpoint: &str) -> Result<TlsStream<S>, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = self.server_name(host)?;
        let connector = tokio_rustls::TlsConnector::from(self.client_config()?);
        connector.connect(name, stream).await.map_err(|error| failure(endpoint, &error))
    }

    fn roots(&self) -> Result<RootCertStore, Failure> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(ca) => {
                for certificate in certificates(ca)? {
                    roots.add(certificate).map_err(|error| {
                        Failure::Blocked(format!(
                            "cannot trust the authority in {}: {}; export it again as X.509 in PEM",
                            ca.display(),
                            describe(&error)
                        ))
                    })?;
                }
            }
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
                if roots.is_empty() {
                    let why = found.errors.first().map_or_else(|| "none is installed".to_owned(), ToString::to_string);
                    return Err(Failure::Blocked(format!(
                        "no certificate authority of the system can be used: {why}; install ca-certificates or set `tls.ca`"
                    )));
                }
            }
        }
        Ok(roots)
    }
}

/// What an I/O error on a TLS connection means. Also for errors after the handshake: in TLS 1.3 a peer refuses our certificate only then.
///
/// Shape: an error that carries a certificate's problem -> `Blocked` with a sentence; any other -> `Reconnect`.
pub fn failure(endpoint: &str, error: &io::Error) -> Failure {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return Failure::Reconnect(match error.kind() {
            io::ErrorKind::UnexpectedEof => format!("{endpoint} closed the connection during the tls handshake; is it a tls port?"),
            _ => format!("tls connection to {endpoint} failed: {error}"),
        });
    };
    let text = format!("tls with {endpoint}: {}", describe(tls));
    if needs_a_human(tls) { Failure::Blocked(text) } else { Failure::Reconnect(text) }
}

fn needs_a_human(error: &rustls::Error) -> bool {
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => true,
        rustls::Error::AlertReceived(alert) => matches!(
            alert,
            AlertDescription::BadCertificate
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::UnknownCA
                | AlertDescription::AccessDenied
                | AlertDescription::ProtocolVersion
        ),
        _ => false,
    }
}

/// One sentence for a person: what is wrong, and what to do.
fn describe(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer => {
                "nobody trusted here has signed its certificate; set `tls.ca` to the authority that did".into()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired; renew it there, or check this machine's clock".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet; check this machine's clock".into()
            }
            CertificateError::NotValidForName => {
                "its certificate is for another host; use the name in the certificate as endpoint, or set `tls.server_name`".into()
            }
            CertificateError::NotValidForNameContext { expected, presented } => format!(
                "its certificate is for {}, not for {}; use a name in the certificate as endpoint, or set `tls.server_name`",
                if presented.is_empty() { "no host at all".into() } else { presented.join(", ") },
                expected.to_str(),
            ),
            CertificateError::BadSignature => {
                "its certificate was signed with another key than the trusted authority of that name has; set `tls.ca` to the authority as it is now".into()
            }
            CertificateError::Revoked => "its certificate is revoked; renew it there".into(),
            other => format!("its certificate cannot be accepted: {other}"),
        },
        rustls::Error::AlertReceived(alert) => match alert {
            AlertDescription::UnknownCA | AlertDescription::CertificateUnknown => {
                "it does not trust our certificate; let it trust the authority that signed `tls.cert`".into()
            }
            AlertDescription::CertificateExpired => "it says our certificate has expired; renew `tls.cert`".into(),
            AlertDescription::CertificateRevoked => "it says our certificate is revoked; renew `tls.cert`".into(),
            AlertDescription::BadCertificate | AlertDescription::UnsupportedCertificate => {
                "it refuses our certificate as malformed or of an unsupported kind; make `tls.cert` anew".into()
            }
            AlertDescription::CertificateRequired => "it wants a client certificate; set `tls.cert` and `tls.key`".into(),
            AlertDescription::AccessDenied => "it does not let our certificate in; grant its subject access there".into(),
            AlertDescription::ProtocolVersion => "it speaks neither tls 1.2 nor 1.3; update it".into(),
            other => format!("it refused the handshake: {other:?}"),
        },
        rustls::Error::InvalidMessage(_) => "what it sends is no tls; is it a tls port?".into(),
        other => other.to_string(),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let bytes = read(path)?;
    let list: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::Blocked(format!("cannot read a certificate from {}: {}", path.display(), damage(error))))?;
    if list.is_empty() {
        return Err(Failure::Blocked(format!(
            "no certificate in {}: no `-----BEGIN CERTIFICATE-----` line; convert it to PEM (openssl x509 -inform der)",
            path.display()
        )));
    }
    Ok(list)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Failure> {
    let bytes = read(path)?;
    if bytes.windows(b"ENCRYPTED".len()).any(|w| w == b"ENCRYPTED") {
        return Err(Failure::Blocked(format!(
            "private key {} is encrypted; decrypt it (openssl pkey -in .. -out ..) and protect the file instead",
            path.display()
        )));
    }
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        Failure::Blocked(match error {
            pem::Error::NoItemsFound => {
                format!("no private key in {}: no `-----BEGIN PRIVATE KEY-----` line; convert it to PEM", path.display())
            }
            other => format!("cannot read a private key from {}: {}", path.display(), damage(other)),
        })
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound => "check the path",
            io::ErrorKind::PermissionDenied => "let the user millrace runs as read it",
            _ => "check the file",
        };
        Failure::Blocked(format!("cannot read {}: {error}; {advice}", path.display()))
    })
}

fn damage(error: pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => "its `-----END` line is missing; the file is cut".into(),
        pem::Error::Base64Decode(_) => "its base64 is damaged; copy the file again".into(),
        other => format!("{other}"),
    }
}

/// Until when a certificate is valid: read from its DER, because rustls checks only the peer's.
///
/// Source: RFC 5280, section 4.1: Certificate { tbsCertificate { [0] version, serial, signature, issuer, validity, .. } .. }
mod validity {
    use super::CertificateDer;
    use jiff::Timestamp;

    /// What is wrong with the certificate's dates now; `None` where they are fine or can't be read.
    pub fn problem(certificate: &CertificateDer<'_>) -> Option<String> {
        let (not_before, not_after) = dates(certificate)?;
        let now = Timestamp::now();
        if now > not_after {
            Some(format!("expired on {not_after}"))
        } else if now < not_before {
            Some(format!("is valid only from {not_before}"))
        } else {
            None
        }
    }

    fn dates(der: &[u8]) -> Option<(Timestamp, Timestamp)> {
        let (_, certificate, _) = element(der)?;
        let (_, body, _) = element(certificate)?;
        let (tag, _, rest) = element(body)?;
        let after_version = if tag == 0xA0 { rest } else { body };
        let (_, _serial, rest) = element(after_version)?;
        let (_, _signature, rest) = element(rest)?;
        let (_, _issuer, rest) = element(rest)?;
        let (_, validity, _) = element(rest)?;
        let (tag, from, rest) = element(validity)?;
        let not_before = time(tag, from)?;
        let (tag, to, _) = element(rest)?;
        Some((not_before, time(tag, to)?))
    }

    /// One DER element: its tag, its content, and what follows.
    fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
        let (&tag, rest) = der.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (len, rest) = if first < 0x80 {
            (first as usize, rest)
        } else {
            let (bytes, rest) = rest.split_at_checked((first & 0x7F) as usize)?;
            if bytes.len() > 4 {
                return None;
            }
            (bytes.iter().fold(0, |len, b| len << 8 | *b as usize), rest)
        };
        let (content, rest) = rest.split_at_checked(len)?;
        Some((tag, content, rest))
    }

    /// UTCTime (0x17, two digits of year, 50..99 are 19xx) or GeneralizedTime (0x18).
    fn time(tag: u8, text: &[u8]) -> Option<Timestamp> {
        let text = std::str::from_utf8(text).ok()?;
        let full = match tag {
            0x17 if text.as_bytes().first()? >= &b'5' => format!("19{text}"),
            0x17 => format!("20{text}"),
            0x18 => text.to_owned(),
            _ => return None,
        };
        let civil = jiff::civil::DateTime::strptime("%Y%m%d%H%M%SZ", full).ok()?;
        civil.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    }
}
