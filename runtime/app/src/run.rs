//! `millrace run`: the service.

use crate::service::{STOP_BOUND, Service};
use crate::{check, voice};
use anyhow::{Context, Result};
use millrace_config::factory::Factory;
use millrace_config::{Load, Problems};
use millrace_engine::compile::Works;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

pub fn run(paths: &[PathBuf]) -> Result<ExitCode> {
    let mut problems = Problems::new();
    let (factory, works) = check::load(paths, &Load::to_run(), &mut problems);
    eprint!("{}", problems.render());
    let Some((factory, works)) = factory.zip(works) else {
        return Ok(ExitCode::FAILURE);
    };
    voice::start(&factory.messages);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("millrace").build().context("cannot start threads")?;
    runtime.block_on(serve(factory, works))
}

async fn serve(factory: Factory, works: Works) -> Result<ExitCode> {
    let (sources, sinks) = (works.sources.len(), works.sinks.len() + works.commands.len());
    let service = Service::start(&factory, works).await?;
    let http = service.http;
    let data_dir = std::path::absolute(&factory.data_dir).unwrap_or_else(|_| factory.data_dir.clone());
    println!("millrace {} runs {}: {sources} sources, {sinks} sinks", env!("CARGO_PKG_VERSION"), factory.site.value);
    println!("  kafka     {}", crate::service::bootstrap(&factory));
    println!("  data      {}", data_dir.display());
    if let Some(registry) = service.registry() {
        println!("  schemas   http://{registry}");
    }
    println!("  status    http://{http}/status");
    println!("  metrics   http://{http}/metrics");
    println!("  live data millrace tap --url http://{http}");
    tracing::info!(site = %factory.site.value, sources, sinks, http = %http, "running");

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: intake first, then what the log still holds goes to Kafka for {STOP_BOUND:?} at most");
    tokio::select! {
        () = service.stop(STOP_BOUND) => {}
        _ = interrupt.recv() => {
            tracing::warn!("told twice to stop: ending at once; what is in the log goes next time");
            return Ok(ExitCode::from(130));
        }
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
