//! `millrace browse TYPE URL`: what a device or broker has, ready to paste. `millrace probe TYPE URL`: what it says of itself.

use crate::catalog;
use anyhow::{Result, anyhow};
use millrace_contract::plugin::BrowseFn;
use millrace_contract::{Browse, Entry, Role};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    whom: Whom,
    /// Where to begin, in a device that has a tree: a node or a browse path.
    #[arg(long, value_name = "NODE")]
    below: Option<String>,
    /// How long to watch a broker, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// At most so many things are listed.
    #[arg(long, default_value_t = 1000)]
    limit: usize,
    /// A table for `tags_from` instead of YAML.
    #[arg(long)]
    csv: bool,
}

#[derive(clap::Args)]
pub struct ProbeOptions {
    #[command(flatten)]
    whom: Whom,
    #[arg(long)]
    json: bool,
}

/// Who is looked at, and as whom.
#[derive(clap::Args)]
struct Whom {
    /// The protocol: `mqtt`, `opcua`.
    r#type: String,
    /// Where it is: `mqtt://broker:1883` (a topic filter may stand behind it as a path), `opc.tcp://server:4840`.
    url: String,
    #[arg(long)]
    user: Option<String>,
    /// The name of an environment variable that holds the password.
    #[arg(long, value_name = "VARIABLE")]
    password_env: Option<String>,
    /// A CA certificate (PEM) to trust.
    #[arg(long, value_name = "FILE")]
    ca: Option<String>,
    /// OPC UA: `Basic256Sha256`, or with its mode `Aes256_Sha256_RsaPss/Sign`. Left out: nothing is secured.
    #[arg(long, value_name = "POLICY")]
    security: Option<String>,
    /// The data directory, which holds the certificates.
    #[arg(long, value_name = "DIR", default_value = "millrace-data")]
    data: PathBuf,
}

impl Whom {
    fn request(self) -> Result<Browse> {
        let password = match &self.password_env {
            None => None,
            Some(name) => Some(std::env::var(name).map_err(|_| anyhow!("the environment has no variable {name}"))?),
        };
        Ok(Browse {
            url: self.url,
            user: self.user,
            password,
            ca: self.ca,
            security: self.security,
            data_dir: self.data,
            ..Browse::default()
        })
    }
}

pub fn browse(options: Options) -> Result<ExitCode> {
    let look = known("browse", &options.whom.r#type, |entry| (entry.browse)())?;
    let (below, watch) = (options.below, Duration::from_secs(options.seconds));
    print(look, Browse { below, watch, limit: options.limit, csv: options.csv, ..options.whom.request()? })
}

pub fn probe(options: ProbeOptions) -> Result<ExitCode> {
    let look = known("probe", &options.whom.r#type, |entry| (entry.probe)())?;
    print(look, Browse { json: options.json, ..options.whom.request()? })
}

fn known(what: &str, wanted: &str, look: impl Fn(&Entry) -> Option<BrowseFn>) -> Result<BrowseFn> {
    let able = || catalog::of(Role::Source).filter_map(|entry| Some((entry.type_name, look(entry)?)));
    able().find(|(name, _)| *name == wanted).map(|(_, look)| look).ok_or_else(|| {
        let names: Vec<&str> = able().map(|(name, _)| name).collect();
        anyhow!("cannot {what} {wanted}: {what} knows {}", names.join(", "))
    })
}

fn print(look: BrowseFn, request: Browse) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let text = runtime.block_on(look(request)).map_err(|e| anyhow!(e))?;
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}
