//! `millrace simulate`: one simulated device or broker alone, with faults, for people who try their own YAML.

mod mqtt;
mod opcua;

use anyhow::{Context, Result};
use millrace_config::Period;
use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

#[derive(clap::Subcommand)]
pub enum Command {
    /// An MQTT broker with assembly cells (JSON) and packaging machines (Sparkplug B).
    Mqtt(mqtt::Options),
    /// An OPC UA server with a press shop.
    Opcua(opcua::Options),
}

/// When faults happen, and for how long all of it.
#[derive(clap::Args)]
pub struct Troubles {
    /// Between two faults.
    #[arg(long, value_name = "PERIOD", default_value = "20s")]
    every: Period,
    /// Ends by itself after so long; without it with Ctrl-C.
    #[arg(long = "for", value_name = "PERIOD")]
    lasts: Option<Period>,
}

pub fn simulate(command: Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("cannot start threads")?;
    match command {
        Command::Mqtt(options) => runtime.block_on(mqtt::simulate(options)),
        Command::Opcua(options) => runtime.block_on(opcua::simulate(options)),
    }
}

/// Lets faults happen until it is time to end. `fault` makes the next one happen and says what it is.
async fn until_the_end<F: Future<Output = Result<Option<String>>>>(troubles: &Troubles, mut fault: impl FnMut() -> F) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let every = troubles.every.0.max(Duration::from_millis(100));
    let mut faults = tokio::time::interval_at(tokio::time::Instant::now() + every, every);
    let end = async {
        match troubles.lasts {
            Some(lasts) => tokio::time::sleep(lasts.0).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    loop {
        tokio::select! {
            _ = faults.tick() => {
                if let Some(what) = fault().await? {
                    println!("{what}");
                }
            }
            () = &mut end => return Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
        }
    }
}
