//! `millrace demo`: a simulated plant, the runtime and a Kafka broker in this process, and a screen that shows that nothing is lost.
//!
//! ```text
//! plant ──> Millrace ──> Kafka ──> consumer       plant.devices(): how many readings were made
//!   ^                                            consumer.seen():  how many of them are in Kafka
//!   └── script: cables are cut, machines break down, payloads are wrong
//! ```
//!
//! - [`place`]: the factory's file, its ports and its data directory.
//! - [`plant`]: the simulators and what befalls them. [`consumer`]: reads back out of Kafka.
//! - [`lake`]: counts the same in the table on the disk, where the build has it. [`yesterday`]: a day before, generated, for who asks the lake.
//! - [`view`]: the demo at one moment, and its summary. [`screen`]: drawn on a terminal, or told line by line.
//!
//! The end: the devices rest, what is stored anywhere goes its way, the runtime stops, the consumer reads what that sent; only then is it judged
//! whether anything is missing.

mod lake;
mod place;
mod plant;
mod screen;
mod verifying_consumer;
mod view;
mod yesterday;

use crate::lake::place_of;
use crate::service::{STOP_BOUND, Service};
use crate::{check, logging};
use anyhow::{Context, Result, bail};
use lake::LakeReader;
use millrace_config::{Period, Problems};
use place::Place;
use plant::Plant;
#[cfg(test)]
pub use screen::NEXT;
use screen::Screen;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use verifying_consumer::VerifyingConsumer;
use view::View;
use yesterday::Yesterday;

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
/// How long the consumer may take for what the runtime sent at its end.
const READ_REST: Duration = Duration::from_secs(5);
/// Ports that were free when they were looked for may be taken when they are used: then others are looked for.
const STARTS: usize = 20;

pub fn demo(options: Options) -> Result<ExitCode> {
    if options.lasts.is_some_and(|lasts| lasts.0 < Duration::from_secs(1)) {
        bail!("--for is one second at least");
    }
    let began = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_name("millrace")
        .build()
        .context("cannot start threads")?;
    runtime.block_on(run(options, began))
}

/// What has to listen before anything can be shown.
struct Started {
    factory: millrace_config::Factory,
    plant: Plant,
    service: Service,
}

async fn start(place: &Place, is_calm: bool) -> Result<Started> {
    let mut problems = Problems::new();
    let (factory, works) = check::load(std::slice::from_ref(&place.file), &millrace_config::Load::to_run(), &mut problems);
    let Some((factory, works)) = factory.zip(works) else {
        bail!("the demo's own file has problems\n{}", problems.render());
    };
    let plant = Plant::start(&place.addresses, !is_calm, place.is_embedded).await?;
    let service = Service::start(&factory, works, None).await?;
    Ok(Started { factory, plant, service })
}

fn is_taken(error: &anyhow::Error) -> bool {
    let of = |cause: &(dyn std::error::Error + 'static)| cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    error.chain().any(|cause| of(cause) == Some(std::io::ErrorKind::AddrInUse))
}

async fn run(options: Options, began: Instant) -> Result<ExitCode> {
    // Before anything else: an end is a clean one from the first moment on.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut place = Place::prepare(options.data.as_deref(), options.kafka.as_deref())?;
    logging::to_file(&millrace_config::factory::Messages::default(), &place.log)?;
    let mut starts = 0;
    let Started { factory, mut plant, service } = loop {
        starts += 1;
        match start(&place, options.calm).await {
            Err(error) if is_taken(&error) && starts < STARTS => {
                // Demos that start together look at different moments.
                tokio::time::sleep(Duration::from_millis(u64::from(std::process::id() % 8) * 40)).await;
                place.settle()?;
            }
            outcome => break outcome?,
        }
    };
    let mut screen = Screen::open(options.json);
    let tags = plant.numbered().into_iter().map(|device| (device.tag, device.counts_from_first));
    let tags: Vec<(String, bool)> = tags.collect();
    let consumer = VerifyingConsumer::start(service.kafka.clone(), factory.site.value.clone(), tags.clone())?;
    let mut lake = match millrace_lake::HAS_TABLES {
        true => Some(LakeReader::new(place_of(factory.clone(), None)?.0, factory.site.value.clone(), tags, consumer.since)),
        false => None,
    };
    let mut yesterday = millrace_lake::HAS_TABLES.then(|| Yesterday::new(&place));
    let mut view = View::new(began, &place, &service, &factory);

    let mut frames = tokio::time::interval(FRAME);
    frames.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut hurried = false;
    loop {
        tokio::select! {
            _ = frames.tick() => {}
            _ = terminate.recv() => { view.is_cut_short(); break }
            _ = interrupt.recv() => { view.is_cut_short(); break }
        }
        // Before everybody is in his place nothing is made that he could miss: a message that nobody has subscribed to is gone.
        if consumer.is_watching() && view.all_run() && plant.is_at_rest() {
            plant.work(view.elapsed());
        }
        let left = options.lasts.map(|lasts| lasts.0.saturating_sub(view.elapsed()));
        let happened = plant.act(view.elapsed(), left, view.total.ledger.waiting);
        service.let_kafka_be(plant.kafka_is_away()).await?;
        if let Some(lake) = &mut lake {
            lake.turn();
        }
        // What is live comes first.
        if let Some(said) = yesterday.as_mut().filter(|_| view.first_in_kafka.is_some()).and_then(Yesterday::turn) {
            view.say(&said);
        }
        view.update(&service, &plant, &consumer, lake.as_ref(), happened);
        if !screen.draw(&view)? || left.is_some_and(|left| left.is_zero()) {
            break;
        }
    }

    drop(yesterday);
    view.say("the plant rests; what is stored anywhere goes to Kafka");
    plant.rest();
    let settled = Instant::now() + SETTLE;
    // Looked at only after a frame: before it a device may have been about to make its last reading.
    loop {
        tokio::select! {
            _ = frames.tick() => {}
            _ = terminate.recv() => { hurried = true; break }
            _ = interrupt.recv() => { hurried = true; break }
        }
        let happened = plant.act(view.elapsed(), Some(Duration::ZERO), view.total.ledger.waiting);
        service.let_kafka_be(plant.kafka_is_away()).await?;
        view.update(&service, &plant, &consumer, lake.as_ref(), happened);
        screen.draw(&view)?;
        if view.is_settled() || Instant::now() >= settled {
            break;
        }
    }
    service.let_kafka_be(false).await?;
    view.is_stopping();
    screen.draw(&view)?;
    service.engine.stop(if hurried { Duration::from_secs(1) } else { STOP_BOUND }).await;
    // The sink has committed all that it had read.
    if let Some(lake) = &mut lake {
        lake.finish().await;
    }
    let read = Instant::now() + READ_REST;
    view.update(&service, &plant, &consumer, lake.as_ref(), Vec::new());
    while !view.is_settled() && !hurried && Instant::now() < read {
        frames.tick().await;
        view.update(&service, &plant, &consumer, lake.as_ref(), Vec::new());
    }
    tokio::task::block_in_place(|| consumer.stop());
    service.stop(Duration::ZERO).await;
    view.is_over(&service);
    screen.close(&view)?;
    Ok(if view.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
