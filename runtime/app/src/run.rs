//! `millrace run`: the service.

use crate::kept::{self, ReadFiles};
use crate::say::{say, tell_part};
use crate::service::{STOP_BOUND, Service};
use crate::{logging, notify};
use anyhow::{Context, Result, bail};
use millrace_config::Problems;
use millrace_config::factory::Factory;
use millrace_engine::compile::CompiledFactory;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// `watches`: changed files are taken by themselves.
pub fn run(paths: &[PathBuf], watches: bool) -> Result<ExitCode> {
    let mut problems = Problems::new();
    let (factory, works, files) = kept::load(paths, &mut problems);
    tell_part!("{}", problems.render());
    let Some((factory, works)) = factory.zip(works) else {
        return Ok(ExitCode::FAILURE);
    };
    logging::start(&factory.messages);
    allow_many_files();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("millrace").build().context("cannot start threads")?;
    // Looked up now: an upgrade may put another program there.
    let program = std::env::current_exe().context("cannot say where this program lies")?;
    let ended = runtime.block_on(serve((paths, files), watches, factory, works))?;
    drop(runtime);
    match ended {
        Ended::Stopped(code) => leave(code),
        Ended::Again => {
            let error = std::process::Command::new(program).args(std::env::args_os().skip(1)).exec();
            Err(error).context("cannot begin again with the changed files; start it by hand")
        }
    }
}

/// Every client and every segment of a log is an open file, and most systems let a program have 1,024 until it asks for all it may have.
fn allow_many_files() {
    let limit = getrlimit(Resource::Nofile);
    let most = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, most) {
        tracing::debug!(%error, ?limit, "the limit of open files stays as it is");
    }
}

/// After this long a stop hangs: each of its parts is bounded. A supervisor waits a little longer (`TimeoutStopSec` in packaging/).
const HANGS_AFTER: Duration = Duration::from_secs(40);

/// Whoever waits for the end of the process, a supervisor or a person, does not wait for ever.
fn abort_if_the_stop_hangs() {
    let watch = || {
        std::thread::sleep(HANGS_AFTER);
        tracing::error!(
            "the stop hangs since {HANGS_AFTER:?}: aborting; what is in the log goes at the next start. This is a bug, please report it"
        );
        std::process::abort();
    };
    if let Err(error) = std::thread::Builder::new().name("stop".into()).spawn(watch) {
        tracing::debug!(%error, "no thread watches the stop");
    }
}

/// Ends the process. Threads of Kafka's client may still wait for a broker that is away; what an ordinary exit does, of OpenSSL and of the allocator,
/// takes away what they stand on.
fn leave(code: u8) -> ! {
    let _ = std::io::stdout().flush();
    // SAFETY: it touches no memory of ours.
    unsafe { libc::_exit(code.into()) }
}

/// How a service ended.
enum Ended {
    /// With this exit code.
    Stopped(u8),
    /// With changed files, in this very process.
    Again,
}

async fn serve(files: (&[PathBuf], ReadFiles), watches: bool, factory: Factory, works: CompiledFactory) -> Result<Ended> {
    // Before anything else: a signal at the start is no end without a stop.
    let mut hangup = signal(SignalKind::hangup())?;
    let (sources, sinks) = (works.sources.len(), works.sinks.len() + works.commands.len());
    let service = Service::start(&factory, works, Some(files)).await?;
    let http = service.http;
    let data_dir = std::path::absolute(&factory.data_dir).unwrap_or_else(|_| factory.data_dir.clone());
    say!("millrace {} runs {}: {sources} sources, {sinks} sinks", crate::release::VERSION, factory.site.value);
    say!("  kafka     {}", millrace_engine::cluster::bootstrap(&factory));
    say!("  data      {}", data_dir.display());
    if let Some(registry) = service.registry() {
        say!("  schemas   http://{registry}");
    }
    say!("  status    http://{http}/status");
    say!("  metrics   http://{http}/metrics");
    say!("  live data millrace tap --url http://{http}");
    tracing::info!(site = %factory.site.value, sources, sinks, http = %http, "running");

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let Some(reloader) = service.reloader.clone() else { bail!("a service of files can take them again") };
    reloader.note(&[]).await;
    notify::ready();
    notify::watchdog(&service.engine);
    if watches {
        tokio::spawn(reloader.clone().watch());
    }
    let again = loop {
        tokio::select! {
            _ = terminate.recv() => break false,
            _ = interrupt.recv() => break false,
            () = reloader.again() => break true,
            _ = hangup.recv() => {
                let reloader = reloader.clone();
                tokio::spawn(async move { reloader.take_and_tell().await });
            }
        }
    };
    abort_if_the_stop_hangs();
    if again {
        service.engine.will_return();
    } else {
        notify::stopping();
    }
    tracing::info!("stopping: intake first, then what the log still holds goes to Kafka for {STOP_BOUND:?} at most");
    tokio::select! {
        () = service.stop(STOP_BOUND) => {}
        _ = interrupt.recv() => {
            tracing::warn!("told twice to stop: ending at once; what is in the log goes next time");
            return Ok(Ended::Stopped(130));
        }
    }
    tracing::info!("stopped");
    Ok(if again { Ended::Again } else { Ended::Stopped(0) })
}
