//! `millrace pki`: our own certificates, those of servers that are trusted, and those that were turned away.

use crate::catalog::{Pki, Shelf};
use crate::logs::At;
use anyhow::{Result, anyhow};
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
    },
    /// Trusts a certificate no longer.
    Reject {
        /// As `list` shows it; its first digits will do.
        thumbprint: String,
        #[command(flatten)]
        at: At,
    },
    /// Copies our own certificates, without their keys, to be given to servers.
    Export {
        /// The folder to copy to.
        #[arg(long, value_name = "DIR", default_value = ".")]
        to: PathBuf,
        #[command(flatten)]
        at: At,
    },
}

pub fn pki(command: Command) -> Result<ExitCode> {
    let of = |at: &At| Ok::<_, anyhow::Error>(Pki::new(at.data_dir()?.join("pki")));
    match command {
        Command::List { at, json } => list(&of(&at)?, json),
        Command::Approve { thumbprint, host, at } => {
            let one = of(&at)?.approve(&thumbprint, &host).map_err(|error| anyhow!(error))?;
            println!("trusted: {} {}", one.thumbprint, one.subject);
        }
        Command::Reject { thumbprint, at } => {
            let one = of(&at)?.reject(&thumbprint).map_err(|error| anyhow!(error))?;
            println!("rejected: {} {}", one.thumbprint, one.subject);
        }
        Command::Export { to, at } => {
            for path in of(&at)?.export(&to).map_err(|error| anyhow!(error))? {
                println!("{}", path.display());
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(pki: &Pki, as_json: bool) {
    let all = pki.list();
    if as_json {
        let row = |one: &crate::catalog::Listed| {
            json!({
                "shelf": one.shelf.name(), "thumbprint": one.thumbprint, "subject": one.subject, "names": one.names, "from": one.span.0,
                "until": one.span.1, "path": one.path, "hosts": pki.hosts(&one.thumbprint),
            })
        };
        println!("{:#}", all.iter().map(row).collect::<serde_json::Value>());
        return;
    }
    if all.is_empty() {
        println!("no certificate in {}", pki.folder().display());
    }
    for one in &all {
        let days = one
            .until
            .duration_since(SystemTime::now())
            .map_or_else(|_| "expired".into(), |left| format!("{} days", left.as_secs() / 86_400));
        println!("{:<9} {}  until {} ({days})  {}  {}", one.shelf.name(), one.thumbprint, one.span.1, one.subject, one.names.join(", "));
    }
    if all.iter().any(|one| one.shelf == Shelf::Rejected) {
        println!("compare a thumbprint with the server's, then: millrace pki approve THUMBPRINT");
    }
}
