//! The connection to Kafka: made, watched, given up; and what Kafka knows of each log.

use crate::drain::client::{Client, TRANSACTION_TIMEOUT};
use crate::drain::lane::Lane;
use crate::drain::pump::{LOOK_EVERY, Pump, SILENCE, Spent};
use crate::drain::shared::Order;
use crate::{catalog, cursors};
use millrace_kafka::{Class, Connection, KafkaError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

impl Pump {
    /// Makes a client and learns from Kafka how far each log is. False: not yet.
    pub(super) fn connect(&mut self) -> Result<bool, Spent> {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Ok(false);
        }
        // Another runtime may have this one's name, and with it the id of its transactions.
        if self.options.seat.as_ref().is_some_and(|seat| !seat.is_admitted()) {
            return Ok(false);
        }
        let (client, contradictions) = Client::open(&self.options, self.mailbox.clone(), self.seen.clone())?;
        let known = self.read_cursors()?;
        self.learn(&known, 0);
        self.believe(&known);
        self.client = Some(client);
        self.failures = 0;
        // What the client before this one said of its connection is over.
        self.mailbox.take_connection();
        (self.heard, self.is_silent) = (Instant::now(), false);
        self.look_at = Instant::now() + LOOK_EVERY;
        (0..self.sources.len()).for_each(|source| self.count(source));
        self.shared.report.lock().contradictions = contradictions;
        self.connection(&Connection::Up);
        Ok(true)
    }

    /// Takes on what a reload added. Between two transactions: what Kafka knows is read up to what is committed.
    pub(super) fn take_orders(&mut self) -> Result<(), Spent> {
        if self.shared.orders.lock().is_empty() {
            return Ok(());
        }
        if self.open.is_some() {
            self.commit()?;
        }
        let first = self.sources.len();
        let orders = std::mem::take(&mut *self.shared.orders.lock());
        for Order { source_logs, declared } in orders {
            if let Some(client) = &mut self.client {
                client.declare(&declared);
            }
            self.options.declared.extend(declared);
            source_logs.into_iter().for_each(|source_logs| self.take_on(source_logs));
        }
        // A client that is to come asks for all.
        if self.client.is_some() && first < self.sources.len() {
            let known = self.read_cursors()?;
            self.learn(&known, first);
            (first..self.sources.len()).for_each(|source| self.count(source));
        }
        Ok(())
    }

    pub(super) fn read_cursors(&self) -> Result<cursors::Known, KafkaError> {
        cursors::read(&self.options.settings, self.options.seat.as_ref().map(|seat| seat.runtime.as_str()))
    }

    /// Takes over what Kafka knows of the sources from that one on.
    pub(super) fn learn(&mut self, known: &cursors::Known, first: usize) {
        let mut forgotten = BTreeSet::new();
        for lane in self.lanes.values_mut().filter(|lane| lane.source >= first) {
            let known = known.cursors.get(lane.log.name()).copied();
            // Kafka had a cursor of this log, and has none now.
            if known.is_none() && lane.note.produced > 0 {
                forgotten.insert(lane.source);
                lane.rewrite();
            }
            lane.adopt(known);
        }
        for source in forgotten.into_iter().filter_map(|source| self.sources.get(source)) {
            tracing::warn!(
                source = &*source.source_logs.source,
                "Kafka does not know how far this source is: positions and catalog entries go once more"
            );
            source.source_logs.must_repeat.store(true, Relaxed);
        }
        for source in &self.sources[first..] {
            let known_end = known.ends.get(&*source.source_logs.source).copied();
            source.source_logs.known_end.fetch_max(known_end.unwrap_or(0), Relaxed);
            source.source_logs.from_kafka.send_if_modified(|from| {
                let is_first = from.is_none();
                if is_first {
                    *from = Some(Arc::new(known.positions.get(&*source.source_logs.source).cloned().unwrap_or_default()));
                }
                is_first
            });
        }
    }

    /// Says how the connection is, once when it changes.
    pub(super) fn connection(&self, state: &Connection) {
        let (status, reason) = match state {
            Connection::Up => ("Running", None),
            Connection::Down(why) => ("Degraded", Some(why.clone())),
            Connection::Denied(why) => ("Blocked", Some(why.clone())),
        };
        let mut report = self.shared.report.lock();
        if report.status != status {
            match state {
                Connection::Up => tracing::info!("connected to Kafka at {}", self.options.settings.brokers),
                Connection::Down(why) => tracing::warn!("Kafka can't be reached; the logs keep everything: {why}"),
                Connection::Denied(why) => tracing::error!("Kafka refuses this runtime; the logs keep everything: {why}"),
            }
        }
        report.status = status;
        report.reason = reason;
    }

    /// Says that Kafka is away when nothing of what is in flight is answered: a broker that is frozen keeps its connections. Looks now and then, and
    /// then, whether the topics are still there: one that is gone is answered by nothing at all.
    pub(super) fn watch(&mut self) -> Result<(), Spent> {
        let now = Instant::now();
        if self.lanes.values().all(|lane| lane.window.is_empty()) {
            self.heard = now;
        } else if !self.is_silent && self.heard + SILENCE <= now {
            self.is_silent = true;
            self.look_at = now;
            self.connection(&Connection::Down(format!("no answer for {} s", SILENCE.as_secs())));
        }
        if self.look_at <= now
            && let Some(client) = &mut self.client
        {
            self.look_at = now + LOOK_EVERY;
            if let Some(topic) = client.missing() {
                return Err(KafkaError { code: 0, class: Class::Retry, text: format!("topic {topic} is gone") });
            }
        }
        let gone = self.client.as_mut().map(Client::take_gone).unwrap_or_default();
        if gone.iter().any(|topic| topic == cursors::TOPIC || topic == catalog::TOPIC) {
            self.lanes.values_mut().for_each(Lane::rewrite);
            self.sources.iter().for_each(|source| source.source_logs.must_repeat.store(true, Relaxed));
        }
        Ok(())
    }

    /// Drops the client; the next one begins at the cursors.
    pub(super) fn give_up(&mut self, error: &Spent) {
        // The broker ends a transaction that takes too long, and with it whoever has it open, as if another had the same id.
        let open = self.open.take().map(|begun| begun.elapsed());
        let too_long = open.filter(|open| error.class == Class::Fenced && *open >= TRANSACTION_TIMEOUT);
        self.client = None; // gives up what is in flight and reports it
        // A report that names a culprit counts, whatever became of the client: else the next one fails by the same record.
        self.hand_out_reports();
        self.back_to_cursors();
        self.failures += 1;
        let by_failures = Duration::from_millis(200 << self.failures.min(5));
        let pause = match error.class {
            _ if too_long.is_some() => by_failures,
            // Whoever took over from this runtime has ended its transactions.
            Class::Fenced if self.options.seat.is_some() => Duration::from_secs(1),
            Class::Denied | Class::Fenced | Class::Topic => Duration::from_secs(10),
            _ => by_failures,
        };
        self.retry_at = Some(Instant::now() + pause);
        self.shared.report.lock().in_flight = 0;
        self.connection(&match (error.class, too_long) {
            (Class::Fenced, Some(open)) => {
                let is_full = self.options.store.low_on_space() || self.options.store.free().is_ok_and(|free| free == 0);
                let disk = if is_full { "the disk here is full" } else { "a broker's disk is full" };
                Connection::Down(format!(
                    "a transaction was not taken for {} s, and Kafka has ended it: {disk}, or partitions have no leader or too few replicas: {error}",
                    open.as_secs()
                ))
            }
            (Class::Fenced, None) if self.options.seat.is_some() => {
                Connection::Down(format!("another runtime has taken over and ended the transactions of this one: {error}"))
            }
            (Class::Fenced, None) => Connection::Denied(format!("another runtime uses the same transactional id: {error}")),
            (Class::Denied | Class::Topic, _) => Connection::Denied(error.to_string()),
            _ => Connection::Down(error.to_string()),
        });
    }
}
