//! A certificate authority for one test, with leaves for 127.0.0.1.

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use std::path::{Path, PathBuf};

/// A certificate authority; its files live as long as it does.
pub struct Authority {
    dir: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// The files of one leaf, PEM.
pub struct Leaf {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Key and certificate in one file, as Kafka's PEM key store wants it.
    pub both: PathBuf,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let dir = crate::scratch("tls");
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(&key).expect("a certificate can be signed");
        std::fs::write(dir.path().join("ca.pem"), cert.pem()).expect("a file can be written");
        Self { dir, issuer: Issuer::new(params, key) }
    }

    /// The authority's own certificate: what its clients trust.
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A certificate for a server on 127.0.0.1 or localhost, or for a client of that name.
    pub fn leaf(&self, name: &str) -> Leaf {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names =
            vec![SanType::IpAddress([127, 0, 0, 1].into()), SanType::DnsName("localhost".try_into().expect("localhost is a DNS name"))];
        // Python looks for it.
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate can be signed");
        let file = |kind: &str| self.dir.path().join(format!("{name}.{kind}.pem"));
        let leaf = Leaf { cert: file("cert"), key: file("key"), both: file("both") };
        let write = |path: &Path, text: String| {
            std::fs::write(path, text).expect("a file can be written");
            // Mosquitto gives up root before it reads its key.
            let _ = std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644));
        };
        write(&leaf.cert, cert.pem());
        write(&leaf.key, key.serialize_pem());
        write(&leaf.both, key.serialize_pem() + &cert.pem());
        leaf
    }
}
