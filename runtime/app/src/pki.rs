//! `millrace pki`: our own certificates, those of servers that are trusted, and those that were turned away.

use crate::catalog::{CertificateInfo, Pki, TrustList};
use crate::logs::At;
use crate::say::{self, say, visible};
use anyhow::Result;
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

#[derive(clap::Subcommand)]
pub enum Command {
    /// Lists every certificate: our own (made on first use), trusted, issuers, rejected.
    List {
        #[command(flatten)]
        at: At,
        #[arg(long)]
        json: bool,
    },
    /// Trusts a certificate that was turned away.
    Approve {
        /// As `list` shows it; its first digits will do.
        thumbprint: String,
        /// A name or address under which the server is reached and that its certificate does not have.
        #[arg(long, value_name = "HOST")]
        host: Vec<String>,
        #[command(flatten)]
        at: At,
        #[arg(long)]
        json: bool,
    },
    /// Trusts a certificate no longer.
    Reject {
        /// As `list` shows it; its first digits will do.
        thumbprint: String,
        #[command(flatten)]
        at: At,
        #[arg(long)]
        json: bool,
    },
    /// Copies our own certificates, without their keys, to be given to servers.
    Export {
        /// The folder to copy to.
        #[arg(long, value_name = "DIR", default_value = ".")]
        to: PathBuf,
        #[command(flatten)]
        at: At,
        #[arg(long)]
        json: bool,
    },
}

pub fn pki(command: Command) -> Result<ExitCode> {
    let of = |at: &At| Ok::<_, anyhow::Error>(Pki::new(at.data_dir()?.join("pki")));
    match command {
        Command::List { at, json } => list(&of(&at)?, json),
        Command::Approve { thumbprint, host, at, json } => told("trusted", &of(&at)?.approve(&thumbprint, &host)?, json),
        Command::Reject { thumbprint, at, json } => told("rejected", &of(&at)?.reject(&thumbprint)?, json),
        Command::Export { to, at, json } => match of(&at)?.export(&to)? {
            paths if json => say::json(&json!({ "files": paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>() })),
            paths => paths.iter().for_each(|path| say!("{}", path.display())),
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// What became of one certificate.
fn told(became: &str, one: &CertificateInfo, is_json: bool) {
    match is_json {
        true => say::json(&json!({ "shelf": became, "thumbprint": one.thumbprint, "subject": one.subject })),
        false => say!("{became}: {} {}", one.thumbprint, visible(&one.subject)),
    }
}

/// Every certificate there is.
pub fn as_json(pki: &Pki) -> serde_json::Value {
    let row = |one: CertificateInfo| {
        json!({
            "shelf": one.shelf.name(), "thumbprint": one.thumbprint, "subject": one.subject, "names": one.names, "from": one.span.0,
            "until": one.span.1, "path": one.path.display().to_string(), "hosts": pki.hosts(&one.thumbprint),
        })
    };
    pki.list().into_iter().map(row).collect()
}

fn list(pki: &Pki, is_json: bool) {
    if is_json {
        say::json(&as_json(pki));
        return;
    }
    let all = pki.list();
    if all.is_empty() {
        say!("no certificate in {}", pki.folder().display());
    }
    for one in &all {
        let days = one
            .until
            .duration_since(SystemTime::now())
            .map_or_else(|_| "expired".into(), |left| format!("{} days", left.as_secs() / 86_400));
        say!(
            "{:<9} {}  until {} ({days})  {}  {}",
            one.shelf.name(),
            one.thumbprint,
            one.span.1,
            visible(&one.subject),
            visible(&one.names.join(", "))
        );
    }
    if all.iter().any(|one| one.shelf == TrustList::Rejected) {
        say!("compare a thumbprint with the server's, then: millrace pki approve THUMBPRINT");
    }
}
