//! `millrace run`: the service.

use crate::{check, voice};
use anyhow::{Context, Result, anyhow};
use millrace_config::factory::{Delivery, Factory, LogCompression};
use millrace_config::{Load, Problems};
use millrace_engine::compile::Works;
use millrace_engine::{Engine, EngineOptions};
use millrace_kafka::Settings;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// How long the drain may go on sending after a stop; the rest goes next time.
const STOP_BOUND: Duration = Duration::from_secs(10);

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

/// Where Kafka is and how to log in, as the factory says.
pub fn settings(factory: &Factory) -> Settings {
    let mut settings = Settings::new(factory.kafka.brokers.value.clone());
    settings.client_id = format!("millrace-{}", factory.site.value.replace('/', "-"));
    settings.properties = factory.kafka.properties.iter().map(|(k, v)| (k.clone(), v.value.clone())).collect();
    settings
}

async fn serve(factory: Factory, works: Works) -> Result<ExitCode> {
    let options = EngineOptions {
        data_dir: factory.data_dir.clone(),
        keep_free: match factory.log.keep_free {
            millrace_config::KeepFree::Percent(percent) => millrace_log::KeepFree::Percent(percent),
            millrace_config::KeepFree::Size(bytes) => millrace_log::KeepFree::Bytes(bytes),
        },
        sync: factory.log.sync.0,
        compress: factory.log.compression == LogCompression::Lz4,
        settings: settings(&factory),
        exactly_once: factory.kafka.delivery == Delivery::ExactlyOnce,
        commit: factory.kafka.commit.0,
        alarm: (factory.log.alarm.at.0 / 100.0, factory.log.alarm.left.0),
    };
    let (sources, sinks) = (works.sources.len(), works.sinks.len() + works.commands.len());
    let engine = Engine::start(works, options).map_err(|e| anyhow!(e))?;
    let http = match millrace_console::serve(factory.http.listen.0, engine.clone()).await {
        Ok(bound) => bound,
        Err(error) => {
            engine.stop(Duration::ZERO).await;
            return Err(anyhow!(error));
        }
    };
    let data_dir = std::path::absolute(&factory.data_dir).unwrap_or_else(|_| factory.data_dir.clone());
    println!("millrace {} runs {}: {sources} sources, {sinks} sinks", env!("CARGO_PKG_VERSION"), factory.site.value);
    println!("  kafka     {}", factory.kafka.brokers.value);
    println!("  data      {}", data_dir.display());
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
        () = engine.stop(STOP_BOUND) => {}
        _ = interrupt.recv() => {
            tracing::warn!("told twice to stop: ending at once; what is in the log goes next time");
            return Ok(ExitCode::from(130));
        }
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
