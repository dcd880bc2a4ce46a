//! What a client trusts, and what it shows of itself.

use crate::error::TlsError;
use crate::error::failure;
use crate::pem::{authority, certificates, private_key};
use crate::validity;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;

/// Certificates for a TLS connection. All files are PEM.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ClientTls {
    /// The authority (or the peer's own certificate) to trust. Left out: the system's authorities.
    pub ca: Option<PathBuf>,
    /// This client's certificate, with its intermediates, where the peer asks for one. Wants `key`.
    pub cert: Option<PathBuf>,
    /// The private key of `cert`: PKCS#8, PKCS#1 or SEC1, not encrypted.
    pub key: Option<PathBuf>,
    /// The name in the peer's certificate, where it is not the host of the endpoint.
    pub server_name: Option<String>,
}

impl ClientTls {
    /// Reads the certificates and makes a configuration to connect with.
    ///
    /// Errors: [`TlsError::Certificate`], naming the file, what is wrong with it and what to do.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(self.roots()?);
        let inner = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|e| TlsError::Certificate(format!("cannot verify certificates: {e}")))?;
        let name = self.server_name.as_deref().map(|name| self.server_name(name)).transpose()?;
        let verifier = Arc::new(Named { inner, name });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::Certificate(format!("cannot set up tls: {e}")))?
            .dangerous() // A name of the rustls API: `Named` verifies as rustls does.
            .with_custom_certificate_verifier(verifier);
        let config = match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => {
                let chain = certificates(cert)?;
                if let Some(error) = validity::problem(&chain[0]) {
                    return Err(TlsError::Certificate(format!("client certificate {} {error}; renew it", cert.display())));
                }
                builder.with_client_auth_cert(chain, private_key(key)?).map_err(|error| {
                    let reason = match error {
                        rustls::Error::InconsistentKeys(_) => {
                            "they do not belong together; give the key the certificate was made for".into()
                        }
                        other => format!("{other}"),
                    };
                    TlsError::Certificate(format!("cannot use certificate {} with key {}: {reason}", cert.display(), key.display()))
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(Arc::new(config))
    }

    /// The name the peer's certificate must carry.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, TlsError> {
        let name = self.server_name.as_deref().unwrap_or(host);
        let bare = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')).unwrap_or(name);
        ServerName::try_from(bare.to_owned()).map_err(|_| {
            TlsError::Certificate(format!(
                "`{name}` is no host name and no IP address; set `tls.server_name` to the name in the certificate"
            ))
        })
    }

    /// Does the handshake on a connected stream. `host` is the endpoint's, `endpoint` is named in errors.
    pub async fn connect<S>(&self, stream: S, host: &str, endpoint: &str) -> Result<TlsStream<S>, TlsError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = self.server_name(host)?;
        let connector = tokio_rustls::TlsConnector::from(self.client_config()?);
        connector.connect(name, stream).await.map_err(|error| failure(endpoint, &error))
    }

    fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        match &self.ca {
            Some(ca) => roots = authority(ca)?,
            None => {
                let found = rustls_native_certs::load_native_certs();
                roots.add_parsable_certificates(found.certs);
                if roots.is_empty() {
                    let why = found.errors.first().map_or_else(|| "none is installed".to_owned(), ToString::to_string);
                    return Err(TlsError::Certificate(format!(
                        "no certificate authority of the system can be used: {why}; install ca-certificates or set `tls.ca`"
                    )));
                }
            }
        }
        Ok(roots)
    }
}

/// Verifies as rustls does, against `tls.server_name` where it is given: what opens a connection by a URL knows the URL's host alone.
#[derive(Debug)]
struct Named {
    inner: Arc<WebPkiServerVerifier>,
    name: Option<ServerName<'static>>,
}

impl ServerCertVerifier for Named {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let name = self.name.as_ref().unwrap_or(server_name);
        self.inner.verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
