//! `millrace browse TYPE URL`: what a device or broker has, ready to paste. `millrace probe TYPE URL`: what it says of itself.

use crate::catalog;
use crate::say::{self, say_part, tell};
use anyhow::{Context, Result, anyhow};
use millrace_config::Period;
use millrace_contract::plugin::BrowseFn;
use millrace_contract::{Browse, Entry, Findings, Role};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(clap::Args)]
pub struct Options {
    #[command(flatten)]
    whom: Whom,
    /// Where to begin, in a device that has a tree: a node or a browse path.
    #[arg(long, value_name = "NODE")]
    below: Option<String>,
    /// How long to watch a broker.
    #[arg(long = "for", value_name = "PERIOD", default_value = "5s")]
    watch: Period,
    /// At most so many things are listed.
    #[arg(long, default_value_t = 1000)]
    limit: usize,
    /// A table for `tags_from` instead of YAML.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// A whole file for the factory of this name (`acme/plant`), with the embedded broker, instead of a source to paste.
    #[arg(long, value_name = "ENTERPRISE/SITE", conflicts_with_all = ["json", "csv"])]
    site: Option<String>,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct ProbeOptions {
    #[command(flatten)]
    whom: Whom,
    /// Writes what was found of each device into a file of this folder, for `profile: FILE` in the configuration.
    #[arg(long, value_name = "FOLDER")]
    profiles: Option<PathBuf>,
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
    let type_name = options.whom.r#type.clone();
    let look = known("browse", &type_name, |entry| (entry.browse)())?;
    let (below, watch) = (options.below, options.watch.0);
    let found = looked(look, Browse { below, watch, limit: options.limit, ..options.whom.request()? })?;
    if options.csv && found.tags.is_none() {
        return Err(anyhow!("what {type_name} has is no table of tags; leave --csv out"));
    }
    match (options.csv, options.json) {
        (true, _) => say_part!("{}", say::visible_lines(&found.table())),
        (_, true) => say::json(&found.json(&type_name)),
        _ => say_part!("{}", say::visible_json(&(head(options.site.as_deref()) + &found.yaml(&type_name)))),
    }
    Ok(ExitCode::SUCCESS)
}

/// What stands above the sources of a whole file.
fn head(site: Option<&str>) -> String {
    let Some(site) = site else { return String::new() };
    format!("site: {}\nkafka: {{brokers: embedded}}\ntopics: {{telemetry: {{format: json}}}}\n", serde_json::Value::from(site))
}

pub fn probe(options: ProbeOptions) -> Result<ExitCode> {
    let type_name = options.whom.r#type.clone();
    let look = known("probe", &type_name, |entry| (entry.probe)())?;
    let found = looked(look, options.whom.request()?)?;
    if let Some(folder) = &options.profiles {
        if found.profiles.is_empty() {
            return Err(anyhow!("{type_name} has no profiles: leave --profiles out"));
        }
        write_profiles(folder, &found.profiles)?;
    }
    if options.json {
        say::json(&found.json(&type_name));
    } else {
        say_part!("{}", say::visible_lines(&found.lines()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes each profile into a file of its own; one that is there stays as it is.
fn write_profiles(folder: &Path, profiles: &[(String, String)]) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, text) in profiles {
        let path = folder.join(format!("{name}.yaml"));
        let file = std::fs::File::options().write(true).create_new(true).open(&path);
        let mut file = file.with_context(|| format!("cannot write {}; name another folder, or remove it", path.display()))?;
        std::io::Write::write_all(&mut file, text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))?;
        tell!("wrote {}", path.display());
    }
    Ok(())
}

fn known(what: &str, wanted: &str, look: impl Fn(&Entry) -> Option<BrowseFn>) -> Result<BrowseFn> {
    let able = || catalog::of(Role::Source).filter_map(|entry| Some((entry.type_name, look(entry)?)));
    able().find(|(name, _)| *name == wanted).map(|(_, look)| look).ok_or_else(|| {
        let names: Vec<&str> = able().map(|(name, _)| name).collect();
        anyhow!("cannot {what} {wanted}: {what} knows {}", names.join(", "))
    })
}

fn looked(look: BrowseFn, request: Browse) -> Result<Findings> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(look(request)).map_err(|e| anyhow!(e))
}
