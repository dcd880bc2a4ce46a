//! What may be wrong with certificates and their folder; each text says what a person has to do.

use crate::security::Accept;
use std::fmt;
use std::path::PathBuf;

/// Why a certificate, or the folder of certificates, can't be used.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot {what} {}: {why}", path.display())]
    File { what: &'static str, path: PathBuf, why: String },
    #[error("cannot read the certificate {}: {why}", path.display())]
    Certificate { path: PathBuf, why: String },
    #[error("cannot read {}; remove it and its certificate, then a new pair is made", path.display())]
    Key { path: PathBuf },
    #[error("cannot make a certificate of our own: {why}")]
    Make { why: String },
    #[error("our own certificate {} names no application URI (a URI in its subject alternative names)", path.display())]
    OwnUri { path: PathBuf },
    #[error("{} is no revocation list in DER form: {why}", path.display())]
    RevocationList { path: PathBuf, why: String },
    #[error("the server at {host} shows no certificate that can be read{}", why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    Unreadable { host: String, why: Option<String> },
    #[error("{0}")]
    Refused(Box<Refusal>),
    #[error("`{0}` is too short for a thumbprint; give at least six of its digits")]
    Short(String),
    #[error("`{0}` is the beginning of several thumbprints; give more of its digits")]
    Ambiguous(String),
    #[error("no certificate {thumbprint} in {}; there are: {}", folder.display(), if known.is_empty() { "none".to_owned() } else { known.join(", ") })]
    Unknown { thumbprint: String, folder: PathBuf, known: Vec<String> },
}

impl PkiError {
    pub fn file(what: &'static str, path: impl Into<PathBuf>, why: &dyn fmt::Display) -> Self {
        Self::File { what, path: path.into(), why: why.to_string() }
    }
}

/// What is wrong with a server's certificate, in words that follow its name.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Fault {
    #[error("is valid from {from} to {until}")]
    Expired { from: String, until: String },
    #[error("has a key of {bits} bits, fewer than 2048")]
    ShortKey { bits: usize },
    #[error("names no application, which should be {application}")]
    NoUri { application: String },
    #[error("is for {names}, not for the application {application}")]
    OtherUri { names: String, application: String },
    #[error("has an authority whose revocation list has expired; put a new one into trusted/crl or issuers/crl")]
    OldRevocationList,
    #[error("is for {names}, not for {host}")]
    OtherHost { names: String, host: String },
    #[error("is not trusted{}", why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    Untrusted { why: Option<String> },
}

impl Fault {
    /// The word under which the YAML may accept it.
    pub fn accept(&self) -> Option<Accept> {
        match self {
            Self::Expired { .. } => Some(Accept::Expired),
            Self::ShortKey { .. } => Some(Accept::ShortKey),
            Self::NoUri { .. } => Some(Accept::NoUri),
            Self::OtherUri { .. } => Some(Accept::OtherUri),
            Self::OldRevocationList => Some(Accept::OldRevocationList),
            Self::OtherHost { .. } => Some(Accept::OtherHost),
            Self::Untrusted { .. } => None,
        }
    }

    /// Whether a person's approval mends it.
    pub fn is_approvable(&self) -> bool {
        matches!(self, Self::Untrusted { .. } | Self::OtherHost { .. })
    }
}

/// A server's certificate that is not taken: all that is wrong with it, and all that there is to do, at once.
#[derive(Clone, PartialEq, Debug)]
pub struct Refusal {
    pub thumbprint: String,
    pub subject: String,
    pub host: String,
    pub faults: Vec<Fault>,
    /// What `millrace pki` needs to find the folder.
    pub at: String,
    /// Why it can't be kept to be approved.
    pub unkept: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { thumbprint, subject, host, faults, at, unkept } = self;
        write!(f, "the certificate {thumbprint} ({subject}) of the server at {host} ")?;
        for (index, fault) in faults.iter().enumerate() {
            write!(f, "{}{fault}", if index == 0 { "" } else { "; it " })?;
        }
        let wrong: Vec<&str> = faults.iter().filter(|fault| !fault.is_approvable()).filter_map(Fault::accept).map(Accept::name).collect();
        if !wrong.is_empty() {
            write!(
                f,
                "; the server needs a new one, or a clock here or there is wrong, or write `security: {{accept: [{}]}}`",
                wrong.join(", ")
            )?;
        }
        if let Some(why) = unkept {
            return write!(f, "; it can't be kept to be approved: {why}");
        }
        if faults.iter().any(Fault::is_approvable) {
            let is_other_host = faults.iter().any(|fault| matches!(fault, Fault::OtherHost { .. }));
            let host = if is_other_host { format!(" --host {host}") } else { String::new() };
            write!(f, "; compare the thumbprint with the server's, then type: millrace pki approve {thumbprint}{host} {at}")?;
        }
        Ok(())
    }
}
