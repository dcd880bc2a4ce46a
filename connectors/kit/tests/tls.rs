//! TLS against a server of our own: what connects, and what a person is told when it doesn't.

use millrace_config::{Place, Problems};
use millrace_contract::Failure;
use millrace_kit::Tls;
use millrace_kit::tls::{failure, server_config};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::TlsAcceptor;

/// An authority, and a folder for what it signs.
struct Plant {
    folder: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Plant {
    fn new() -> Self {
        Self::named("plant")
    }

    fn named(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let plant = Self { folder: tempfile::tempdir().unwrap(), authority };
        plant.write("ca.pem", &plant.authority.pem());
        plant
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.path().join(name))
    }

    /// A certificate and its key, in PEM.
    fn sign(&self, host: &str, expired: bool) -> (String, String) {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.authority).unwrap().pem(), key.serialize_pem())
    }

    fn trusting(&self) -> Tls {
        Tls { ca: self.path("ca.pem"), ..Tls::default() }
    }

    /// A server that answers `hello` and, if asked to, wants a certificate from its clients.
    fn server(&self, (certificate, key): (String, String), wants_certificate: bool) -> DuplexStream {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let builder = if wants_certificate {
            let mut roots = RootCertStore::empty();
            roots.add(self.authority.der().clone()).unwrap();
            builder.with_client_cert_verifier(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()));
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            if let Ok(mut stream) = acceptor.accept(ours).await {
                let _ = stream.write_all(b"hello").await;
                let _ = stream.shutdown().await;
            }
        });
        theirs
    }
}

async fn hello(tls: &Tls, stream: DuplexStream, host: &str) -> Result<Vec<u8>, Failure> {
    let mut stream = tls.connect(stream, host, "broker:8883").await?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer).await {
        Ok(_) => Ok(answer),
        Err(error) => Err(failure("broker:8883", &error)),
    }
}

fn blocked(outcome: Result<impl Sized, Failure>) -> String {
    match outcome {
        Err(Failure::Blocked(why)) => why,
        Err(other) => panic!("it should wait for a human, not {other:?}"),
        Ok(_) => panic!("it should be refused"),
    }
}

#[tokio::test]
async fn a_trusted_server_is_connected_to_and_a_client_shows_its_certificate() {
    let plant = Plant::new();
    assert_eq!(hello(&plant.trusting(), plant.server(plant.sign("broker", false), false), "broker").await.unwrap(), b"hello");

    let (certificate, key) = plant.sign("client", false);
    plant.write("client.pem", &certificate);
    plant.write("client.key", &key);
    let tls = Tls { cert: plant.path("client.pem"), key: plant.path("client.key"), ..plant.trusting() };
    assert_eq!(hello(&tls, plant.server(plant.sign("broker", false), true), "broker").await.unwrap(), b"hello");
}

#[tokio::test]
async fn a_certificate_that_cannot_be_right_waits_for_a_human() {
    let plant = Plant::new();
    let stranger = Plant::named("stranger");
    let why = blocked(hello(&plant.trusting(), stranger.server(stranger.sign("broker", false), false), "broker").await);
    assert!(why.starts_with("tls with broker:8883: nobody trusted here has signed") && why.contains("set `tls.ca`"), "{why}");
    let renewed = Plant::new();
    let why = blocked(hello(&plant.trusting(), renewed.server(renewed.sign("broker", false), false), "broker").await);
    assert!(why.contains("another key than the trusted authority of that name"), "{why}");
    let why = blocked(hello(&plant.trusting(), plant.server(plant.sign("broker", true), false), "broker").await);
    assert!(why.contains("its certificate has expired"), "{why}");
    let why = blocked(hello(&plant.trusting(), plant.server(plant.sign("other", false), false), "broker").await);
    assert!(why.contains("other") && why.contains("not for broker") && why.contains("`tls.server_name`"), "{why}");
    let renamed = Tls { server_name: Some("other".into()), ..plant.trusting() };
    assert!(hello(&renamed, plant.server(plant.sign("other", false), false), "broker").await.is_ok());
    let why = blocked(hello(&plant.trusting(), plant.server(plant.sign("broker", false), true), "broker").await);
    assert!(why.contains("it wants a client certificate"), "{why}");
}

#[tokio::test]
async fn a_listener_lets_in_only_clients_whose_certificate_its_authority_signed() {
    let (plant, stranger) = (Plant::new(), Plant::named("stranger"));
    let (certificate, key) = plant.sign("broker", false);
    let (certificate, key) = (plant.write("server.pem", &certificate), plant.write("server.key", &key));
    let config = server_config(&certificate, &key, plant.path("ca.pem").as_deref()).unwrap();
    let listen = || {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let acceptor = TlsAcceptor::from(config.clone());
        tokio::spawn(async move {
            if let Ok(mut stream) = acceptor.accept(ours).await {
                let _ = stream.write_all(b"hello").await;
                let _ = stream.shutdown().await;
            }
        });
        theirs
    };
    let showing = |owner: &Plant, expired: bool| {
        let (certificate, key) = owner.sign("client", expired);
        let shown = plant.write(if expired { "old.pem" } else { "client.pem" }, &certificate);
        Tls { cert: Some(shown), key: Some(plant.write("client.key", &key)), ..plant.trusting() }
    };
    assert_eq!(hello(&showing(&plant, false), listen(), "broker").await.unwrap(), b"hello");
    assert!(blocked(hello(&plant.trusting(), listen(), "broker").await).contains("it wants a client certificate"));
    let why = blocked(hello(&showing(&stranger, false), listen(), "broker").await);
    assert!(why.contains("does not trust our certificate"), "{why}");
    assert!(blocked(server_config(&certificate, &key, plant.path("none.pem").as_deref())).contains("none.pem: No such file"));
}

#[tokio::test]
async fn what_is_no_tls_may_heal_by_itself() {
    let plant = Plant::new();
    let (mut ours, theirs) = tokio::io::duplex(1024);
    tokio::spawn(async move { ours.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await });
    match hello(&plant.trusting(), theirs, "broker").await {
        Err(Failure::Reconnect(why)) => assert!(why.contains("is it a tls port?"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_that_cannot_serve_is_named_with_what_to_do() {
    let plant = Plant::new();
    let (certificate, key) = plant.sign("client", false);
    let (expired, expired_key) = plant.sign("client", true);
    plant.write("client.pem", &certificate);
    plant.write("client.key", &key);
    plant.write("other.key", &plant.sign("other", false).1);
    plant.write("expired.pem", &expired);
    plant.write("expired.key", &expired_key);
    plant.write("text.pem", "hello");
    plant.write("cut.pem", &certificate[..certificate.len() / 2]);
    plant.write("locked.key", "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n");
    let with = |cert: &str, key: &str| blocked(Tls { cert: plant.path(cert), key: plant.path(key), ..plant.trusting() }.client_config());

    assert!(blocked(Tls { ca: plant.path("none.pem"), ..Tls::default() }.client_config()).contains("none.pem: No such file"));
    assert!(
        blocked(Tls { ca: plant.path("text.pem"), ..Tls::default() }.client_config()).contains("no `-----BEGIN CERTIFICATE-----` line")
    );
    assert!(with("cut.pem", "client.key").contains("the file is cut"));
    assert!(with("client.pem", "other.key").contains("do not belong together"));
    assert!(with("client.pem", "text.pem").contains("no private key in"));
    assert!(with("client.pem", "locked.key").contains("is encrypted; decrypt it"));
    let why = with("expired.pem", "expired.key");
    assert!(why.contains("expired.pem expired on 2021-01-01") && why.contains("renew it"), "{why}");
}

#[test]
fn halves_of_a_pair_are_problems_before_anything_is_read() {
    let problems = |tls: Tls| {
        let mut problems = Problems::new();
        tls.check(Place::default(), &mut problems);
        problems.iter().map(|problem| problem.message.clone()).collect::<String>()
    };
    assert_eq!(problems(Tls { cert: Some("a.pem".into()), ..Tls::default() }), "`cert` a.pem has no `key`");
    assert_eq!(problems(Tls { key: Some("a.key".into()), ..Tls::default() }), "`key` a.key has no `cert`");
    assert!(problems(Tls { server_name: Some("no host".into()), ..Tls::default() }).contains("no host name"));
    assert_eq!(problems(Tls::default()), "");
}
