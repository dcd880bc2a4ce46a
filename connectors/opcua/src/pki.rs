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

pub use crate::certificate::{CertificateInfo, TrustList, describe_text};
use crate::certificate::{der_of, read};
pub use crate::fault::PkiError;
use opcua::crypto::{CertificateStore, PrivateKey, X509, X509Data};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(86_400);
const LIFETIME_DAYS: u32 = 5 * 365;
const SUCCESSOR_AHEAD: Duration = DAY.saturating_mul(60);
const TAKE_OVER_AHEAD: Duration = DAY.saturating_mul(14);
const MOST_REJECTED: usize = 100;
pub(crate) const SMALLEST_RSA_BITS: usize = 2048;
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

    fn certs(&self, shelf: TrustList) -> PathBuf {
        self.folder.join(shelf.name()).join("certs")
    }

    /// What `millrace pki` needs to find this folder again.
    pub(crate) fn at(&self) -> String {
        format!("--data {}", self.folder.parent().unwrap_or(&self.folder).display())
    }

    /// Our own certificate, created on first use. Errors: what a person has to do.
    pub fn own(&self) -> Result<Own, PkiError> {
        self.own_at(SystemTime::now())
    }

    fn own_at(&self, now: SystemTime) -> Result<Own, PkiError> {
        // Several sources start at once.
        static ONE_AT_A_TIME: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
        let _turn = ONE_AT_A_TIME.lock();
        let key_of = |listed: &CertificateInfo| {
            let name = listed.path.file_stem().unwrap_or_default();
            self.folder.join("own/private").join(name).with_extension("pem")
        };
        let mut ours = self.shelf(TrustList::Own);
        ours.retain(|one| key_of(one).exists() && one.until > now);
        let is_made_here = |one: &CertificateInfo| one.path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(MADE_HERE));
        if ours.iter().any(|one| !is_made_here(one)) {
            ours.retain(|one| !is_made_here(one));
        } else if ours.iter().all(|one| one.until < now + SUCCESSOR_AHEAD) {
            ours.push(self.make_own(ours.first(), LIFETIME_DAYS)?);
        }
        ours.sort_by_key(|one| one.until);
        let good_for_long = ours.iter().position(|one| one.until > now + TAKE_OVER_AHEAD);
        let chosen = ours.swap_remove(good_for_long.unwrap_or(ours.len() - 1));
        let key_path = key_of(&chosen);
        let key = PrivateKey::read_pem_file(&key_path).map_err(|_| PkiError::Key { path: key_path.clone() })?;
        let certificate =
            CertificateStore::read_cert(&chosen.path).map_err(|why| PkiError::Certificate { path: chosen.path.clone(), why })?;
        let application_uri = chosen.names.iter().find(|name| name.contains(':') && name.parse::<std::net::IpAddr>().is_err());
        let application_uri = application_uri.cloned().ok_or_else(|| PkiError::OwnUri { path: chosen.path.clone() })?;
        Ok(Own { certificate_path: chosen.path, key_path, certificate, key, application_uri, until: chosen.until })
    }

    /// Makes a pair; a successor keeps the application's URI.
    fn make_own(&self, predecessor: Option<&CertificateInfo>, days: u32) -> Result<CertificateInfo, PkiError> {
        let (certs, private) = (self.certs(TrustList::Own), self.folder.join("own/private"));
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
        let (certificate, _) =
            CertificateStore::create_certificate_and_key(&data, true, &cert_path, &key_path).map_err(|why| PkiError::Make { why })?;
        restrict(&key_path, 0o600)?;
        let name = format!("{MADE_HERE}{}]", certificate.thumbprint().as_hex_string());
        let at_last = certs.join(format!("{name}.der"));
        // The key first: a certificate that is seen has its key.
        rename(&key_path, &private.join(format!("{name}.pem")))?;
        rename(&cert_path, &at_last)?;
        tracing::info!(application_uri = uri, path = %at_last.display(), "made a certificate of our own");
        read(TrustList::Own, &at_last)
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
    pub fn list(&self) -> Vec<CertificateInfo> {
        TrustList::ALL.iter().flat_map(|shelf| self.shelf(*shelf)).collect()
    }

    pub(crate) fn shelf(&self, shelf: TrustList) -> Vec<CertificateInfo> {
        let read = |path: PathBuf| read(shelf, &path).inspect_err(|error| tracing::warn!("cannot use a certificate: {error}")).ok();
        files(&self.certs(shelf)).into_iter().filter_map(read).collect()
    }

    pub(crate) fn shelf_der(&self, shelf: TrustList) -> Vec<Vec<u8>> {
        files(&self.certs(shelf)).iter().filter_map(|path| der_of(path).ok()).collect()
    }

    /// Other hosts under which a server was approved.
    pub fn hosts(&self, thumbprint: &str) -> Vec<String> {
        let text = fs::read_to_string(self.folder.join("trusted/hosts").join(thumbprint)).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// A person trusts a certificate that was turned away, under its own names and these hosts. The beginning of a thumbprint will do.
    pub fn approve(&self, thumbprint: &str, hosts: &[String]) -> Result<CertificateInfo, PkiError> {
        let found = self.find(thumbprint, &[TrustList::Rejected, TrustList::Trusted])?;
        let found = if found.shelf == TrustList::Rejected { self.move_to(found, TrustList::Trusted)? } else { found };
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
    pub fn reject(&self, thumbprint: &str) -> Result<CertificateInfo, PkiError> {
        let found = self.find(thumbprint, &[TrustList::Trusted])?;
        let _ = fs::remove_file(self.folder.join("trusted/hosts").join(&found.thumbprint));
        self.move_to(found, TrustList::Rejected)
    }

    /// Copies our own certificates, the successor too, into a folder, to be given to servers. Keys stay.
    pub fn export(&self, to: &Path) -> Result<Vec<PathBuf>, PkiError> {
        self.own()?;
        make_folder(to)?;
        let copy = |one: CertificateInfo| {
            let path = to.join(format!("millrace-{}.der", one.thumbprint));
            write(&path, &der_of(&one.path)?).map(|()| path)
        };
        self.shelf(TrustList::Own).into_iter().map(copy).collect()
    }

    fn find(&self, thumbprint: &str, shelves: &[TrustList]) -> Result<CertificateInfo, PkiError> {
        let wanted: String = thumbprint.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
        if wanted.len() < 6 {
            return Err(PkiError::Short(thumbprint.to_owned()));
        }
        let all: Vec<CertificateInfo> = shelves.iter().flat_map(|shelf| self.shelf(*shelf)).collect();
        let mut matching = all.iter().filter(|one| one.thumbprint.starts_with(&wanted));
        match (matching.next(), matching.next()) {
            (Some(one), None) => Ok(one.clone()),
            (Some(one), Some(other)) if one.thumbprint == other.thumbprint => Ok(one.clone()),
            (Some(_), Some(_)) => Err(PkiError::Ambiguous(thumbprint.to_owned())),
            (None, _) => {
                let known = all.iter().map(|one| one.thumbprint.clone()).collect();
                Err(PkiError::Unknown { thumbprint: thumbprint.to_owned(), folder: self.folder.clone(), known })
            }
        }
    }

    fn move_to(&self, one: CertificateInfo, shelf: TrustList) -> Result<CertificateInfo, PkiError> {
        let folder = self.certs(shelf);
        make_folder(&folder)?;
        let path = folder.join(one.path.file_name().unwrap_or_default());
        rename(&one.path, &path)?;
        Ok(CertificateInfo { shelf, path, ..one })
    }

    pub(crate) fn keep_rejected(&self, one: &CertificateInfo, der: &[u8]) -> Result<(), PkiError> {
        let folder = self.certs(TrustList::Rejected);
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

pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.is_file() && path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')));
    files.sort();
    files
}

fn make_folder(path: &Path) -> Result<(), PkiError> {
    fs::create_dir_all(path).map_err(|error| PkiError::file("make the folder", path, &error))
}

fn rename(from: &Path, to: &Path) -> Result<(), PkiError> {
    fs::rename(from, to).map_err(|error| PkiError::file("move a file to", to, &error))
}

/// A file that is seen is whole.
fn write(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unfinished = path.with_file_name(format!(".{name}.{}", std::process::id()));
    fs::write(&unfinished, bytes).map_err(|error| PkiError::file("write", path, &error))?;
    rename(&unfinished, path)
}

fn restrict(path: &Path, mode: u32) -> Result<(), PkiError> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|error| PkiError::file("keep others from reading", path, &error))
}

#[cfg(test)]
mod tests;
