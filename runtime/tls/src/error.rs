//! What an error of TLS means, and a sentence for a person: what is wrong, and what to do.

use rustls::{AlertDescription, CertificateError};
use std::io;

/// Why there is no TLS connection; the variant says what to do next.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate, a key or a name is wrong: needs a human.
    #[error("{0}")]
    Certificate(String),
    /// The connection failed: try again.
    #[error("{0}")]
    Connection(String),
}

/// What an I/O error on a TLS connection means. Also for errors after the handshake: in TLS 1.3 a peer refuses our certificate only then.
///
/// Shape: an error that carries a certificate's problem -> [`TlsError::Certificate`] with a sentence; any other -> [`TlsError::Connection`].
pub fn failure(endpoint: &str, error: &io::Error) -> TlsError {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return TlsError::Connection(match error.kind() {
            io::ErrorKind::UnexpectedEof => format!("{endpoint} closed the connection during the tls handshake; is it a tls port?"),
            _ => format!("tls connection to {endpoint} failed: {error}"),
        });
    };
    let text = format!("tls with {endpoint}: {}", describe(tls));
    if needs_a_human(tls) { TlsError::Certificate(text) } else { TlsError::Connection(text) }
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
pub(crate) fn describe(error: &rustls::Error) -> String {
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
