//! `millrace browse TYPE URL`: what a device or broker has, ready to paste.

use crate::catalog;
use anyhow::{Result, anyhow};
use millrace_contract::{Browse, Role};
use std::process::ExitCode;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Options {
    /// The protocol: `mqtt`.
    r#type: String,
    /// Where it is: `mqtt://broker:1883`; a topic filter may stand behind it as a path.
    url: String,
    #[arg(long)]
    user: Option<String>,
    /// The name of an environment variable that holds the password.
    #[arg(long, value_name = "VARIABLE")]
    password_env: Option<String>,
    /// A CA certificate (PEM) to trust.
    #[arg(long, value_name = "FILE")]
    ca: Option<String>,
    /// How long to watch, in seconds.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// At most so many things are listed.
    #[arg(long, default_value_t = 1000)]
    limit: usize,
}

pub fn browse(options: Options) -> Result<ExitCode> {
    let known: Vec<&str> = catalog::of(Role::Source).filter(|e| (e.browse)().is_some()).map(|e| e.type_name).collect();
    let entry = catalog::of(Role::Source).find(|e| e.type_name == options.r#type);
    let look =
        entry.and_then(|e| (e.browse)()).ok_or_else(|| anyhow!("cannot browse {}: browse knows {}", options.r#type, known.join(", ")))?;
    let password = match &options.password_env {
        None => None,
        Some(name) => Some(std::env::var(name).map_err(|_| anyhow!("the environment has no variable {name}"))?),
    };
    let request = Browse {
        url: options.url,
        user: options.user,
        password,
        ca: options.ca,
        watch: Duration::from_secs(options.seconds),
        limit: options.limit,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let text = runtime.block_on(look(request)).map_err(|e| anyhow!(e))?;
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}
