//! Opening: the logs, and everything the last run left.

use crate::error::{EngineError, LogFault};
use crate::frame::{Builder, Frame, Lane};
use crate::intake::core::Core;
use crate::intake::number::{APART, incarnation, is_believed};
use crate::intake::options::IntakeOptions;
use crate::intake::pipe::{LanePipe, Pipe, restore_counts};
use crate::intake::position_store::PositionStore;
use crate::intake::{Events, Intake};
use crate::ledger::Ledger;
use crate::positions;
use crate::source_logs::{CURSOR, CursorMetadata, Pace, SourceLogs};
use crate::topics::LATEST;
use millrace_log::{Budget, Log, LogOptions, Store};
use millrace_schemas::Micros;
use millrace_schemas::contract::Work;
use parking_lot::{Mutex, RwLock};
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;
use tokio::sync::watch;

impl Intake {
    /// Opens the source's logs and takes up where the last run ended.
    ///
    /// Errors: the log can't be opened, or its newest batch is of a newer release.
    pub fn open(store: &Store, options: IntakeOptions<'_>) -> Result<Arc<Self>, EngineError> {
        let source: Arc<str> = format!("{}/{}", options.site, options.name).into();
        std::fs::create_dir_all(&options.dir).map_err(files("create", &options.dir))?;
        let ledger = Arc::new(Ledger::default());
        let events = Arc::new(Events::default());
        let budget = Budget::new(options.log_size, options.full);
        {
            let events = events.clone();
            budget.on_room(move || events.room.notify_waiters());
        }
        let mut wanted = vec![Lane::Normal, Lane::Bulk];
        wanted.extend(options.topics.all().iter().map(|topic| topic.lane));
        wanted.sort_unstable();
        wanted.dedup();

        let positions_file = options.dir.join("positions");
        let saved = positions::load(&positions_file).map_err(files("read", &positions_file))?;
        let names = store.names()?;
        let is_lost = saved.is_none() && !names.contains(&SourceLogs::log_name(&source, Lane::Normal));
        let saved = saved.unwrap_or_default();
        let is_new = is_lost || saved.is_behind;

        let now = Micros::now();
        let floor = incarnation(now);
        // The drain may have sent what was not synced: beyond the end that is left, as far as a clock that went back may hide.
        let mut is_shortened = store.power_cut();
        let mut next_seq = 0;
        let mut lanes = Vec::new();
        let mut recovered = [0; 3];
        let mut counts: Vec<u64> = Vec::new();
        for lane in wanted {
            let name = SourceLogs::log_name(&source, lane);
            let (log, recovery) = store
                .log(
                    &name,
                    LogOptions {
                        start: floor,
                        sync: options.sync,
                        budget: Some(budget.clone()),
                        priority: 2 - lane as u8,
                        ..LogOptions::default()
                    },
                )
                .map_err(|error| EngineError::Open { whose: format!("{source}, lane {}", lane.as_str()), error })?;
            if recovery.truncated_bytes > 0 || !recovery.quarantined.is_empty() {
                tracing::warn!(source = %source, lane = lane.as_str(), truncated_bytes = recovery.truncated_bytes, quarantined = ?recovery.quarantined, "the log was repaired");
                is_shortened = true;
            }
            let unreadable = |error: LogFault| EngineError::Read { whose: format!("{source}, lane {}", lane.as_str()), error };
            let mut total = log.records();
            if let Some(batch) = log.newest().map_err(|error| unreadable(error.into()))? {
                let frame = Frame::read(&batch.payload).map_err(|error| unreadable(error.into()))?;
                total = total.max(frame.lane_total + frame.data_records);
                if counts.first() < frame.counts.first() {
                    counts = frame.counts;
                }
            }
            if let Some((_, note)) = log.cursor(CURSOR) {
                // What was sent was appended, though a power cut or a corrupt tail took it from the log since.
                total = total.max(CursorMetadata::decode(&note).lane_total);
            }
            next_seq = next_seq.max(log.end()).max(log.cursor(CURSOR).map_or(0, |(offset, _)| offset + 1));
            if names.contains(&name) {
                recovered[lane as usize] = log.end();
            }
            lanes.push(LanePipe { lane, log, builder: Builder::default(), total });
        }
        if is_shortened {
            next_seq = floor.max(next_seq + APART);
        }
        let logs: Vec<(Lane, Log)> = lanes.iter().map(|l| (l.lane, l.log.clone())).collect();
        let positions = PositionStore::open(positions_file.clone(), logs.clone(), &recovered, saved);
        let positions = Arc::new(positions.map_err(|error| EngineError::Read { whose: source.to_string(), error })?);
        restore_counts(&ledger, counts, lanes.iter().map(|l| l.total).sum());
        // A lane that lost its end goes on above it: at the next start the missing pieces would seem to be there.
        positions.save().map_err(files("write", &positions_file))?;
        for lane in &lanes {
            let events = events.clone();
            lane.log.on_sync(move |_| events.synced.notify_waiters());
        }
        let source_logs = Arc::new(SourceLogs {
            source: source.clone(),
            lanes: logs,
            ledger: ledger.clone(),
            blocked: Mutex::new(None),
            known_end: AtomicU64::new(0),
            pace: Pace::default(),
            must_repeat: AtomicBool::new(false),
            from_kafka: watch::Sender::new(None),
            is_shared: AtomicBool::new(false),
            reads_again: AtomicBool::new(false),
            term: AtomicU64::new(0),
            save: {
                let positions = positions.clone();
                Box::new(move || positions.save())
            },
        });
        let core = Core::new(&source, &options);
        let intake = Self {
            source,
            ledger,
            source_logs,
            is_new,
            is_unnumbered: is_lost && !is_believed(now),
            site: options.site.into(),
            routes: RwLock::new(options.model.routes.as_slice().into()),
            clock: options.clock,
            compress: options.compress,
            budget,
            full: options.full,
            pipe: Arc::new(tokio::sync::Mutex::new(Pipe {
                lanes,
                next_seq,
                owed: Vec::new(),
                headers: Vec::new(),
                key: Vec::new(),
                value: Vec::new(),
                work: Work::default(),
                held: VecDeque::new(),
                watched: Vec::new(),
            })),
            core: Mutex::new(core),
            positions,
            acks: Mutex::default(),
            events,
            spare: Mutex::default(),
            taps: options.taps,
            held: Mutex::new(None),
            catalog_saved: Mutex::new(Instant::now()),
            latest: options.topics.get(LATEST),
            told: Mutex::default(),
        };
        intake.core.lock().declare_all(&intake.site, options.model);
        Ok(Arc::new(intake))
    }

    /// The intake of the same source with another model, after this one was closed: logs, numbers, ledger and positions go on, so that the drain
    /// notices nothing. The limits of its log stay.
    pub fn succeed(&self, options: IntakeOptions<'_>) -> Arc<Self> {
        let mut core = Core::new(&self.source, &options);
        core.declare_all(&self.site, options.model);
        Arc::new(Self {
            source: self.source.clone(),
            ledger: self.ledger.clone(),
            source_logs: self.source_logs.clone(),
            is_new: false,
            is_unnumbered: self.is_unnumbered,
            site: self.site.clone(),
            routes: RwLock::new(options.model.routes.as_slice().into()),
            clock: options.clock,
            compress: options.compress,
            budget: self.budget.clone(),
            full: self.full,
            pipe: self.pipe.clone(),
            core: Mutex::new(core),
            positions: self.positions.clone(),
            acks: Mutex::default(),
            events: self.events.clone(),
            spare: Mutex::default(),
            taps: options.taps,
            held: Mutex::new(None),
            catalog_saved: Mutex::new(Instant::now()),
            latest: options.topics.get(LATEST),
            told: Mutex::default(),
        })
    }
}

fn files(what: &str, path: &Path) -> impl FnOnce(io::Error) -> EngineError {
    let what = format!("{what} {}", path.display());
    move |error| EngineError::Files { what, error }
}
