//! More than one runtime with the same file: each source is read by one of them, and by another when that one dies.
//!
//! ```text
//!   Kafka's group protocol ──slots──▶ member ──which sources──▶ keeper ──take, release──▶ sources, drain (`owning`)
//!   millrace.assign, .status ───────▶   │ plan                                               │
//!                                       └──────────── seat: the fence of transactions ──────▶┘
//! ```
//!
//! - [`plan`]: which runtime reads which source; [`view`]: what the runtimes have told each other. Both without Kafka.
//! - [`keeper`]: one change after the other; without Kafka, too. [`member`]: the thread that is the member of the group.
//! - [`seat`]: what the drain must know of it. [`report`]: the group for a person.
//!
//! Why slots and not one partition per source: librdkafka has only Kafka's own assignors, which know no preference. They deal the slots out and see
//! who is dead; which source lies in which slot is a record, which costs nothing to change.

pub mod keeper;
pub mod member;
pub mod plan;
pub mod report;
pub mod seat;
pub mod view;

use crate::lease::keeper::{Holding, Keeper, Order, Sources};
use crate::lease::member::{Common, File, GroupOptions, Member, Stop};
use crate::lease::report::GroupReport;
use crate::lease::seat::Seat;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// This runtime's part in its group.
pub struct Group {
    common: Arc<Common>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Group {
    /// Joins; where Kafka is away it is tried again for ever. `words`: the status of each source that runs.
    ///
    /// Errors: no thread can be had.
    pub fn join(
        options: GroupOptions,
        seat: Arc<Seat>,
        keeps: bool,
        sources: Weak<dyn Sources>,
        words: Box<dyn Fn() -> BTreeMap<String, String> + Send + Sync>,
    ) -> io::Result<Self> {
        let (orders, from) = mpsc::unbounded_channel::<Order>();
        let holding = Arc::<Mutex<Holding>>::default();
        let report = GroupReport {
            group: options.group.clone(),
            id: options.id.clone(),
            host: options.host.clone(),
            status: "Starting",
            ..GroupReport::default()
        };
        let common = Arc::new(Common {
            seat,
            holding: holding.clone(),
            orders,
            file: Mutex::new(File { wishes: options.wishes.clone(), config: options.config.clone() }),
            words,
            report: Mutex::new(report),
            stop: Mutex::default(),
        });
        tokio::spawn(Keeper { orders: from, sources, holding, keeps }.run());
        let member = Member { options, common: common.clone(), tokio: tokio::runtime::Handle::current() };
        let thread = std::thread::Builder::new().name("group".into()).spawn(move || member.run())?;
        Ok(Self { common, thread: Mutex::new(Some(thread)) })
    }

    pub fn report(&self) -> GroupReport {
        self.common.report.lock().clone()
    }

    /// Whether this runtime reads a source.
    pub fn reads(&self, name: &str) -> bool {
        let holding = self.common.holding.lock();
        holding.held.contains(name) || holding.kept.contains(name)
    }

    /// Who reads a source that this runtime does not, for a person.
    pub fn elsewhere(&self, name: &str) -> String {
        let report = self.common.report.lock();
        let reader = report.runtimes.iter().find(|(id, one)| **id != report.id && one.state == "there" && one.reads.contains_key(name));
        match reader {
            Some((id, one)) => format!("runtime {id} on {} reads it", one.host),
            None => "no runtime of the group reads it at the moment".to_owned(),
        }
    }

    /// The file is another.
    pub fn changed(&self, file: File) {
        *self.common.file.lock() = file;
    }

    /// Ends the membership, within about this time. Blocks; safe to call twice.
    pub fn stop(&self, how: Stop, bound: Duration) {
        self.common.stop.lock().get_or_insert(how);
        let Some(thread) = self.thread.lock().take() else { return };
        let deadline = Instant::now() + bound;
        while !thread.is_finished() && Instant::now() < deadline {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        if thread.is_finished() && thread.join().is_err() {
            tracing::error!(
                "the thread of the group ended in a panic; the others take over when the session ends; this is a bug, please report it"
            );
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.stop(Stop::Return, Duration::ZERO);
    }
}
