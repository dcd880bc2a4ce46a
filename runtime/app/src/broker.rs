//! `millrace broker`: the embedded broker alone, for a test or a small plant.

use crate::logging;
use crate::say::say;
use anyhow::{Context, Result, bail};
use millrace_broker::{Broker, Security};
use millrace_config::Period;
use millrace_config::factory::Messages;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

#[derive(clap::Args)]
pub struct Options {
    /// Where it keeps its data.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Where its clients connect.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9092")]
    listen: SocketAddr,
    /// What a power cut may take; `0s`: what is acknowledged with acks=all is synced before.
    #[arg(long, value_name = "PERIOD", default_value = "200ms")]
    sync: Period,
    /// Certificate and key (PEM) for TLS; wanted off loopback.
    #[arg(long, num_args = 2, value_names = ["CERTIFICATE", "KEY"], requires = "users")]
    tls: Option<Vec<PathBuf>>,
    /// A file of lines `user:password`; wanted off loopback.
    #[arg(long, value_name = "FILE", requires = "tls")]
    users: Option<PathBuf>,
}

pub fn broker(options: Options) -> Result<ExitCode> {
    logging::start(&Messages::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("broker").build().context("cannot start threads")?;
    runtime.block_on(serve(options))
}

async fn serve(options: Options) -> Result<ExitCode> {
    let security = match (&options.tls, &options.users) {
        (Some(tls), Some(users)) => Some(Security { certificate: tls[0].clone(), key: tls[1].clone(), users: read_users(users)? }),
        _ => None,
    };
    let broker = Broker::start(millrace_broker::Options {
        dir: options.data.clone(),
        listen: options.listen,
        sync: options.sync.0,
        keep_free: millrace_log::KeepFree::Percent(5.0),
        security,
    })
    .await?;
    say!("millrace {} broker: {}, data in {}", crate::release::VERSION, broker.listening(), options.data.display());
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    broker.stop().await?;
    Ok(ExitCode::SUCCESS)
}

fn read_users(path: &Path) -> Result<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut users = BTreeMap::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match line.split_once(':') {
            Some((user, password)) => users.insert(user.trim().to_owned(), password.trim().to_owned()),
            None => bail!("{}:{}: a line is `user:password`", path.display(), i + 1),
        };
    }
    Ok(users)
}
