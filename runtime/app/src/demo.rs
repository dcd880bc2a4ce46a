//! `millrace demo`: a simulated plant, the runtime and a Kafka broker in this process, and a screen that shows that nothing is lost.
//!
//! ```text
//! plant ──> Millrace ──> Kafka ──> witness       plant.devices(): how many readings were made
//!   ^                                            witness.seen():  how many of them are in Kafka
//!   └── script: cables are cut, machines break down, payloads are wrong
//! ```
//!
//! - [`place`]: the factory's file, its ports and its data directory.
//! - [`plant`]: the simulators and what befalls them. [`witness`]: reads back out of Kafka.
//! - [`view`]: the demo at one moment, and its summary. [`screen`]: drawn on a terminal, or told line by line.
//!
//! The end: the devices rest, what is stored anywhere goes its way, the runtime stops; only then is it judged whether anything is missing.

mod place;
mod plant;
mod screen;
mod view;
mod witness;

use crate::service::{STOP_BOUND, Service};
use crate::{check, voice};
use anyhow::{Context, Result, bail};
use millrace_config::{Period, Problems};
use place::Place;
use plant::Plant;
use screen::Screen;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use view::View;
use witness::Witness;

#[derive(clap::Args)]
pub struct Options {
    /// Where the demo keeps its data. Without it ./millrace-demo, made anew at each start; a folder named here is kept.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Ends by itself after so long: `30s`, `5m`. Exit code 1 if the ledger does not add up or a reading is missing.
    #[arg(long = "for", value_name = "PERIOD")]
    lasts: Option<Period>,
    /// Prints a summary at the end, one JSON object, and nothing else.
    #[arg(long)]
    json: bool,
    /// Uses this Kafka instead of the embedded broker.
    #[arg(long, value_name = "HOST:PORT")]
    kafka: Option<String>,
    /// Nothing goes wrong on purpose.
    #[arg(long)]
    calm: bool,
}

/// How often the screen is drawn, and the script looked at.
const FRAME: Duration = Duration::from_millis(250);
/// How long what is stored somewhere may take to get to Kafka at the end.
const SETTLE: Duration = Duration::from_secs(20);

pub fn demo(options: Options) -> Result<ExitCode> {
    if options.lasts.is_some_and(|lasts| lasts.0 < Duration::from_secs(1)) {
        bail!("--for is one second at least");
    }
    let began = Instant::now();
    let place = Place::prepare(options.data.as_deref(), options.kafka.as_deref())?;
    let mut problems = Problems::new();
    let (factory, works) = check::load(std::slice::from_ref(&place.file), &millrace_config::Load::to_run(), &mut problems);
    let Some((factory, works)) = factory.zip(works) else {
        bail!("the demo's own file has problems\n{}", problems.render());
    };
    voice::to_file(&factory.messages, &place.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_name("millrace")
        .build()
        .context("cannot start threads")?;
    runtime.block_on(run(options, began, place, factory, works))
}

async fn run(
    options: Options,
    began: Instant,
    place: Place,
    factory: millrace_config::Factory,
    works: millrace_engine::compile::Works,
) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut plant = Plant::start(&place.addresses, !options.calm).await?;
    let service = Service::start(&factory, works).await?;
    let mut screen = Screen::open(options.json);
    let tags = plant.numbered().into_iter().map(|device| (device.tag, device.counts_from_first));
    let witness = Witness::start(service.kafka.clone(), factory.site.value.clone(), tags)?;
    let mut view = View::new(began, &place, &service, &factory);

    let mut frames = tokio::time::interval(FRAME);
    frames.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut hurried = false;
    loop {
        tokio::select! {
            _ = frames.tick() => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
        // Before the witness is in its place nothing is made that it could miss.
        if witness.is_watching() && plant.is_at_rest() {
            plant.work(view.elapsed());
        }
        let left = options.lasts.map(|lasts| lasts.0.saturating_sub(view.elapsed()));
        let happened = plant.act(view.elapsed(), left);
        view.update(&service, &plant, &witness, happened);
        if !screen.draw(&view)? || left.is_some_and(|left| left.is_zero()) {
            break;
        }
    }

    view.say("the plant rests; what is stored anywhere goes to Kafka");
    plant.rest();
    let settled = Instant::now() + SETTLE;
    while Instant::now() < settled && !view.is_settled() {
        tokio::select! {
            _ = frames.tick() => {}
            _ = terminate.recv() => { hurried = true; break }
            _ = interrupt.recv() => { hurried = true; break }
        }
        let happened = plant.act(view.elapsed(), Some(Duration::ZERO));
        view.update(&service, &plant, &witness, happened);
        screen.draw(&view)?;
    }
    view.update(&service, &plant, &witness, Vec::new());
    tokio::task::block_in_place(|| witness.stop());
    view.is_stopping();
    screen.draw(&view)?;
    service.stop(if hurried { Duration::from_secs(1) } else { STOP_BOUND }).await;
    view.is_over(&service);
    screen.close(&view)?;
    Ok(if view.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
