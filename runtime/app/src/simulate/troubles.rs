//! When faults happen, and for how long all of it.

use crate::say::say;
use anyhow::Result;
use millrace_config::Period;
use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

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

/// Lets faults happen until it is time to end. `fault` makes the next one happen and says what it is.
pub(super) async fn until_the_end<F: Future<Output = Result<Option<String>>>>(
    troubles: &Troubles,
    mut fault: impl FnMut() -> F,
) -> Result<ExitCode> {
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
                    say!("{what}");
                }
            }
            () = &mut end => return Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
        }
    }
}
