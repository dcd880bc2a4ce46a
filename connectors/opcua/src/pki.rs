//! Certificates on disk: our own, those of servers we trust, and those we turned away.
//!
//! ```text
//! <data_dir>/pki/
//!   own/certs, own/private     ours: NAME.der and NAME.pem; made on first use, or put there by hand, issued by the plant's authority
//!   trusted/certs              servers, each exactly; and authorities whose servers are all trusted
//!   trusted/hosts              THUMBPRINT: other names and addresses under which that server was approved, one a line
//!   issuers/certs              authorities that only lead to a trusted one
//!   trusted/crl, issuers/crl   their revocation lists, DER
//!   rejected/certs             what servers showed and nobody approved, the newest hundred
//! ```
//!
//! Invariants: nobody but a person moves anything to `trusted`; every refusal names the certificate and the line to type; whoever reads the
//! folder may do so while others write: files appear whole, by a rename.
//!
//! Our own certificate lives for five years. Sixty days before its end its successor is made, to be given to the servers; it is used from the
//! fourteenth day before the end. Certificates put there by hand are used before those made here, and have no successor.
//!
//! Source: OPC 10000-4, 6.1.3 (determining if a certificate is trusted); OPC 10000-12, 7.8 (trust lists).

use opcua::crypto::{CertificateStore, PrivateKey, X509, X509Data};
use rustls::pki_types::{CertificateDer, TrustAnchor, UnixTime};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use webpki::{
    ALL_VERIFICATION_ALGS, CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList, RevocationCheckDepth,
    RevocationOptionsBuilder, UnknownStatusPolicy, anchor_from_trusted_cert,
};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

const DAY: Duration = Duration::from_secs(86_400);
const LIFETIME_DAYS: u32 = 5 * 365;
const SUCCESSOR_AHEAD: Duration = DAY.saturating_mul(60);
const TAKE_OVER_AHEAD: Duration = DAY.saturating_mul(14);
const MOST_REJECTED: usize = 100;
/// A chain of issuers is no longer, a certificate no larger.
const MOST_ISSUERS: usize = 10;
const LARGEST_CERTIFICATE_BYTES: u64 = 64 * 1024;
const SMALLEST_RSA_BITS: usize = 2048;
/// What our own files' names begin with.
const MADE_HERE: &str = "millrace [";

/// Our own certificate, as a file and as read.
#[derive(Clone)]
pub struct Own {
    pub certificate_path: PathBuf,
    pub key_path: PathBuf,
    pub certificate: X509,
    pub key: PrivateKey,
    pub application_uri: String,
    /// When it ends.
    pub until: SystemTime,
}

impl Own {
    /// What a person should know about its end: a line from the sixtieth day on.
    pub fn warning(&self) -> Option<String> {
        let left = self.until.duration_since(SystemTime::now()).unwrap_or_default();
        let days = left.as_secs() / DAY.as_secs();
        let thumbprint = self.certificate.thumbprint().as_hex_string();
        (left < SUCCESSOR_AHEAD).then(|| {
            format!("our own certificate {thumbprint} ends in {days} days; give the servers its successor: millrace pki list, millrace pki export")
        })
    }
}

/// Where a certificate lies.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Shelf {
    Own,
    Trusted,
    Issuers,
    Rejected,
}

impl Shelf {
    const ALL: [Self; 4] = [Self::Own, Self::Trusted, Self::Issuers, Self::Rejected];

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
pub struct Listed {
    pub shelf: Shelf,
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

/// The files of the folder, and when each was written.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mark(Vec<(PathBuf, Option<SystemTime>)>);

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

    fn certs(&self, shelf: Shelf) -> PathBuf {
        self.folder.join(shelf.name()).join("certs")
    }

    /// What `millrace pki` needs to find this folder again.
    fn at(&self) -> String {
        format!("--data {}", self.folder.parent().unwrap_or(&self.folder).display())
    }

    /// Our own certificate, created on first use. Errors: what a person has to do.
    pub fn own(&self) -> Result<Own, String> {
        self.own_at(SystemTime::now())
    }

    fn own_at(&self, now: SystemTime) -> Result<Own, String> {
        // Several sources start at once.
        static ONE_AT_A_TIME: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock();
        let key_of = |listed: &Listed| {
            let name = listed.path.file_stem().unwrap_or_default();
            self.folder.join("own/private").join(name).with_extension("pem")
        };
        let mut ours = self.shelf(Shelf::Own);
        ours.retain(|one| key_of(one).exists() && one.until > now);
        let is_made_here = |one: &Listed| one.path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(MADE_HERE));
        if ours.iter().any(|one| !is_made_here(one)) {
            ours.retain(|one| !is_made_here(one));
        } else if ours.iter().all(|one| one.until < now + SUCCESSOR_AHEAD) {
            ours.push(self.make_own(ours.first(), LIFETIME_DAYS)?);
        }
        ours.sort_by_key(|one| one.until);
        let good_for_long = ours.iter().position(|one| one.until > now + TAKE_OVER_AHEAD);
        let chosen = ours.swap_remove(good_for_long.unwrap_or(ours.len() - 1));
        let key_path = key_of(&chosen);
        let unreadable = |what: &Path| format!("cannot read {}; remove it and its certificate, then a new pair is made", what.display());
        let key = PrivateKey::read_pem_file(&key_path).map_err(|_| unreadable(&key_path))?;
        let certificate = CertificateStore::read_cert(&chosen.path)?;
        let application_uri = chosen.names.iter().find(|name| name.contains(':') && name.parse::<std::net::IpAddr>().is_err());
        let application_uri = application_uri.cloned().ok_or_else(|| {
            format!("our own certificate {} names no application URI (a URI in its subject alternative names)", chosen.path.display())
        })?;
        Ok(Own { certificate_path: chosen.path, key_path, certificate, key, application_uri, until: chosen.until })
    }

    /// Makes a pair; a successor keeps the application's URI.
    fn make_own(&self, predecessor: Option<&Listed>, days: u32) -> Result<Listed, String> {
        let (certs, private) = (self.certs(Shelf::Own), self.folder.join("own/private"));
        make_folder(&certs)?;
        make_folder(&private)?;
        restrict(&private, 0o700)?;
        let host = X509Data::computer_hostnames().into_iter().next().unwrap_or_else(|| "localhost".into());
        let known = predecessor.and_then(|one| one.names.iter().find(|name| name.starts_with("urn:"))).cloned();
        let uri = known.unwrap_or_else(|| format!("urn:{host}:millrace"));
        let data = X509Data {
            key_size: SMALLEST_RSA_BITS as u32,
            common_name: format!("Millrace on {host}"),
            organization: "Millrace".into(),
            organizational_unit: String::new(),
            country: String::new(),
            state: String::new(),
            alt_host_names: X509Data::alt_host_names(&uri, Some(vec![host.clone()]), false, false, false),
            certificate_duration_days: days,
        };
        let unfinished = private.join(format!(".new-{}", std::process::id()));
        let (cert_path, key_path) = (unfinished.with_extension("der"), unfinished.with_extension("pem"));
        let (certificate, _) = CertificateStore::create_certificate_and_key(&data, true, &cert_path, &key_path)?;
        restrict(&key_path, 0o600)?;
        let name = format!("{MADE_HERE}{}]", certificate.thumbprint().as_hex_string());
        let at_last = certs.join(format!("{name}.der"));
        // The key first: a certificate that is seen has its key.
        rename(&key_path, &private.join(format!("{name}.pem")))?;
        rename(&cert_path, &at_last)?;
        tracing::info!(application_uri = uri, path = %at_last.display(), "made a certificate of our own");
        read(Shelf::Own, &at_last)
    }

    /// Whether a server's certificate (DER, issuers behind it) is trusted for this host and application. What is not is kept in `rejected`.
    /// Errors: why not, and the line to type.
    pub fn judge(&self, certificate: &[u8], host: &str, application_uri: &str) -> Result<(), String> {
        self.judge_at(certificate, host, application_uri, SystemTime::now())
    }

    fn judge_at(&self, certificate: &[u8], host: &str, application_uri: &str, now: SystemTime) -> Result<(), String> {
        let chain = split_chain(certificate).ok_or_else(|| format!("the server at {host} shows no certificate that can be read"))?;
        let leaf = describe(Shelf::Rejected, PathBuf::new(), chain[0])
            .map_err(|error| format!("the server at {host} shows no certificate that can be read: {error}"))?;
        let who = format!("the certificate {} ({}) of the server at {host}", leaf.thumbprint, leaf.subject);
        if now < leaf.from || now > leaf.until {
            return Err(format!(
                "{who} is valid from {} to {}; the server needs a new one, or a clock here or there is wrong",
                leaf.span.0, leaf.span.1
            ));
        }
        if let Ok(certificate) = X509::from_der(chain[0])
            && let Ok(bits) = certificate.key_length()
            && bits < SMALLEST_RSA_BITS
        {
            return Err(format!("{who} has a key of {bits} bits; the server needs one with at least {SMALLEST_RSA_BITS}"));
        }
        let trusted = self.shelf_der(Shelf::Trusted);
        let is_approved = trusted.iter().any(|known| known == chain[0]);
        if !is_approved && let Err(reason) = self.chain_leads_to(&trusted, &chain, now) {
            let kept = self.keep_rejected(&leaf, chain[0]);
            let line = format!("millrace pki approve {} {}", leaf.thumbprint, self.at());
            let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
            return Err(match kept {
                Ok(()) => format!("{who} is not trusted{reason}; compare the thumbprint with the server's, then type: {line}"),
                Err(error) => format!("{who} is not trusted{reason}, and can't be kept to be approved: {error}"),
            });
        }
        if !application_uri.is_empty() && !leaf.names.iter().any(|name| name == application_uri) {
            let names = leaf.names.join(", ");
            return Err(format!("{who} is for {names}, not for the application {application_uri}; the server needs one of its own"));
        }
        if !leaf.names.iter().any(|name| same_host(name, host)) && !self.hosts(&leaf.thumbprint).iter().any(|name| same_host(name, host)) {
            if !is_approved {
                let _ = self.keep_rejected(&leaf, chain[0]);
            }
            let (names, at) = (leaf.names.join(", "), self.at());
            return Err(format!(
                "{who} is for {names}, not for {host}; use one of these in `endpoint`, or, if this is the server, type: millrace pki approve {} --host {host} {at}",
                leaf.thumbprint
            ));
        }
        Ok(())
    }

    /// Whether the chain ends at a trusted authority, none of it revoked. Errors: why not, where there is more to say than that.
    fn chain_leads_to(&self, trusted: &[Vec<u8>], chain: &[&[u8]], now: SystemTime) -> Result<(), Option<String>> {
        let authorities: Vec<CertificateDer<'_>> = trusted.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
        let valid = |der: &[u8]| describe(Shelf::Trusted, PathBuf::new(), der).is_ok_and(|one| one.from <= now && now <= one.until);
        let anchors: Vec<TrustAnchor<'_>> =
            authorities.iter().filter(|der| valid(der)).filter_map(|der| anchor_from_trusted_cert(der).ok()).collect();
        let known = self.shelf_der(Shelf::Issuers);
        let behind = chain[1..].iter().copied().chain(known.iter().map(Vec::as_slice));
        let between: Vec<CertificateDer<'_>> = behind.map(CertificateDer::from).collect();
        let leaf = CertificateDer::from(chain[0]);
        let leaf = EndEntityCert::try_from(&leaf).map_err(|_| None)?;
        let lists = self.revocation_lists().map_err(Some)?;
        let lists: Vec<&CertRevocationList<'_>> = lists.iter().collect();
        // An authority without a list is taken to have revoked nothing; a list that has expired is no list any more, and says so.
        let revocation = RevocationOptionsBuilder::new(&lists).ok().map(|options| {
            options
                .with_depth(RevocationCheckDepth::Chain)
                .with_status_policy(UnknownStatusPolicy::Allow)
                .with_expiration_policy(ExpirationPolicy::Enforce)
                .build()
        });
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        let path = leaf.verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, &between, now, KeyUsage::server_auth(), revocation, None);
        match path {
            Ok(_) => Ok(()),
            Err(webpki::Error::UnknownIssuer) => Err(None),
            Err(webpki::Error::CertRevoked) => Err(Some("its authority has revoked it".into())),
            Err(webpki::Error::CrlExpired { .. }) => {
                Err(Some("the revocation list of its authority has expired; put a new one into trusted/crl or issuers/crl".into()))
            }
            Err(error) => Err(Some(format!("{error:?}"))),
        }
    }

    fn revocation_lists(&self) -> Result<Vec<CertRevocationList<'static>>, String> {
        let mut lists = Vec::new();
        for shelf in [Shelf::Trusted, Shelf::Issuers] {
            for path in files(&self.folder.join(shelf.name()).join("crl")) {
                let list = fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
                let list = OwnedCertRevocationList::from_der(&list)
                    .map_err(|error| format!("{} is no revocation list in DER form: {error:?}", path.display()))?;
                lists.push(list.into());
            }
        }
        Ok(lists)
    }

    /// What of the folder has a say in who is trusted, as a mark: it changes whenever a person approves, rejects or puts a file there.
    pub fn mark(&self) -> Mark {
        let folders = ["own/certs", "own/private", "trusted/certs", "trusted/hosts", "trusted/crl", "issuers/certs", "issuers/crl"];
        let stamp = |path: PathBuf| {
            let modified = fs::metadata(&path).and_then(|about| about.modified()).ok();
            (path, modified)
        };
        Mark(folders.iter().flat_map(|folder| files(&self.folder.join(folder))).map(stamp).collect())
    }

    /// Every certificate of the folder that can be read, shelf by shelf.
    pub fn list(&self) -> Vec<Listed> {
        Shelf::ALL.iter().flat_map(|shelf| self.shelf(*shelf)).collect()
    }

    fn shelf(&self, shelf: Shelf) -> Vec<Listed> {
        let read = |path: PathBuf| read(shelf, &path).inspect_err(|error| tracing::warn!("{error}")).ok();
        files(&self.certs(shelf)).into_iter().filter_map(read).collect()
    }

    fn shelf_der(&self, shelf: Shelf) -> Vec<Vec<u8>> {
        files(&self.certs(shelf)).iter().filter_map(|path| der_of(path).ok()).collect()
    }

    /// Other hosts under which a server was approved.
    pub fn hosts(&self, thumbprint: &str) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join("trusted/hosts").join(thumbprint)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// A person trusts a certificate that was turned away, under its own names and these hosts. The beginning of a thumbprint will do.
    pub fn approve(&self, thumbprint: &str, hosts: &[String]) -> Result<Listed, String> {
        let found = self.find(thumbprint, &[Shelf::Rejected, Shelf::Trusted])?;
        let found = if found.shelf == Shelf::Rejected { self.move_to(found, Shelf::Trusted)? } else { found };
        if !hosts.is_empty() {
            let folder = self.folder.join("trusted/hosts");
            make_folder(&folder)?;
            let mut all = self.hosts(&found.thumbprint);
            all.extend(hosts.iter().filter(|host| !all.contains(host)).cloned().collect::<Vec<_>>());
            write(&folder.join(&found.thumbprint), (all.join("\n") + "\n").as_bytes())?;
        }
        Ok(found)
    }

    /// A person no longer trusts a certificate.
    pub fn reject(&self, thumbprint: &str) -> Result<Listed, String> {
        let found = self.find(thumbprint, &[Shelf::Trusted])?;
        let _ = fs::remove_file(self.folder.join("trusted/hosts").join(&found.thumbprint));
        self.move_to(found, Shelf::Rejected)
    }

    /// Copies our own certificates, the successor too, into a folder, to be given to servers. Keys stay.
    pub fn export(&self, to: &Path) -> Result<Vec<PathBuf>, String> {
        self.own()?;
        make_folder(to)?;
        let copy = |one: Listed| {
            let path = to.join(format!("millrace-{}.der", one.thumbprint));
            write(&path, &der_of(&one.path)?).map(|()| path)
        };
        self.shelf(Shelf::Own).into_iter().map(copy).collect()
    }

    fn find(&self, thumbprint: &str, shelves: &[Shelf]) -> Result<Listed, String> {
        let wanted: String = thumbprint.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
        if wanted.len() < 6 {
            return Err(format!("`{thumbprint}` is too short for a thumbprint; give at least six of its digits"));
        }
        let all: Vec<Listed> = shelves.iter().flat_map(|shelf| self.shelf(*shelf)).collect();
        let mut matching = all.iter().filter(|one| one.thumbprint.starts_with(&wanted));
        match (matching.next(), matching.next()) {
            (Some(one), None) => Ok(one.clone()),
            (Some(one), Some(other)) if one.thumbprint == other.thumbprint => Ok(one.clone()),
            (Some(_), Some(_)) => Err(format!("`{thumbprint}` is the beginning of several thumbprints; give more of its digits")),
            (None, _) => {
                let known: Vec<&str> = all.iter().map(|one| one.thumbprint.as_str()).collect();
                let known = if known.is_empty() { "none".into() } else { known.join(", ") };
                Err(format!("no certificate {thumbprint} in {}; there are: {known}", self.folder.display()))
            }
        }
    }

    fn move_to(&self, one: Listed, shelf: Shelf) -> Result<Listed, String> {
        let folder = self.certs(shelf);
        make_folder(&folder)?;
        let path = folder.join(one.path.file_name().unwrap_or_default());
        rename(&one.path, &path)?;
        Ok(Listed { shelf, path, ..one })
    }

    fn keep_rejected(&self, one: &Listed, der: &[u8]) -> Result<(), String> {
        let folder = self.certs(Shelf::Rejected);
        make_folder(&folder)?;
        let kept = files(&folder);
        let suffix = format!("[{}].der", one.thumbprint);
        if kept.iter().any(|path| path.to_string_lossy().ends_with(&suffix)) {
            return Ok(());
        }
        if kept.len() >= MOST_REJECTED {
            let age = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            if let Some(oldest) = kept.iter().min_by_key(|path| age(path)) {
                let _ = fs::remove_file(oldest);
            }
        }
        let name: String =
            one.subject.chars().map(|c| if c.is_ascii_alphanumeric() || "=.-".contains(c) { c } else { '_' }).take(60).collect();
        write(&folder.join(format!("{name} {suffix}")), der)
    }
}

fn same_host(name: &str, host: &str) -> bool {
    match (name.parse::<std::net::IpAddr>(), host.parse::<std::net::IpAddr>()) {
        (Ok(name), Ok(host)) => name == host,
        _ => name.eq_ignore_ascii_case(host),
    }
}

/// The certificates of a chain, one behind the other. `None` where it is none.
fn split_chain(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
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

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.is_file() && path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')));
    files.sort();
    files
}

/// The DER form of a certificate's file, which may be PEM.
fn der_of(path: &Path) -> Result<Vec<u8>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot read the certificate {}: {error}", path.display());
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

fn read(shelf: Shelf, path: &Path) -> Result<Listed, String> {
    describe(shelf, path.to_owned(), &der_of(path)?).map_err(|error| format!("cannot read the certificate {}: {error}", path.display()))
}

fn describe(shelf: Shelf, path: PathBuf, der: &[u8]) -> Result<Listed, String> {
    let certificate = Certificate::from_der(der).map_err(|error| error.to_string())?;
    let whole = X509::from_der(der).map_err(|error| error.to_string())?;
    let content = &certificate.tbs_certificate;
    let names = match content.get::<SubjectAltName>() {
        Ok(Some((_, names))) => names.0.iter().filter_map(name_of).collect(),
        _ => Vec::new(),
    };
    let time = |time: &x509_cert::time::Time| time.to_date_time().to_string();
    Ok(Listed {
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
    match describe(Shelf::Rejected, PathBuf::new(), first) {
        Ok(one) => format!("{} {} until {}", one.thumbprint, one.subject, one.span.1),
        Err(error) => format!("a certificate that can't be read: {error}"),
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

fn make_folder(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|error| format!("cannot make the folder {}: {error}", path.display()))
}

fn rename(from: &Path, to: &Path) -> Result<(), String> {
    fs::rename(from, to).map_err(|error| format!("cannot move {} to {}: {error}", from.display(), to.display()))
}

/// A file that is seen is whole.
fn write(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!(".{name}.{}", std::process::id()));
    fs::write(&unfinished, bytes).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    rename(&unfinished, path)
}

fn restrict(path: &Path, mode: u32) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| format!("cannot keep others from reading {}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
