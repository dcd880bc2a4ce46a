//! The demo at one moment: everything the screen shows, and the summary at the end.
//!
//! ```text
//! sent      readings a device has made            in Kafka   different numbers of its that the consumer has read
//! repeats   numbers read more than once           on the way sent, not in Kafka: in a device's store, at the MQTT broker, in the log
//! missing   numbers that later ones overtook long ago; at the end, whatever is not in Kafka
//! ```

use super::lake::LakeReader;
use super::place::Place;
use super::plant::{Office, Plant};
use super::verifying_consumer::VerifyingConsumer;
use crate::service::Service;
use millrace_config::Factory;
use millrace_engine::EngineReport;
use millrace_engine::ledger::Snapshot;
use millrace_schemas::Micros;
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Events kept for the screen.
const EVENTS: usize = 200;
/// Rates are those of so long.
const RATE_OVER: Duration = Duration::from_secs(2);

pub struct View {
    began: Instant,
    pub site: String,
    pub kafka: String,
    pub is_embedded: bool,
    pub kafka_status: &'static str,
    /// Where the embedded schema registry listens.
    pub registry: Option<SocketAddr>,
    pub http: String,
    pub data: String,
    pub sources: Vec<Source>,
    pub total: Source,
    pub devices: Vec<Device>,
    pub hostile: u64,
    pub office: Office,
    /// Since the beginning, and what happened.
    pub events: VecDeque<(Duration, String)>,
    /// Events so far, also those that are forgotten.
    pub events_total: usize,
    /// Records the consumer has read, and the newest one's age.
    pub records: u64,
    pub age: Option<Duration>,
    pub first_received: Option<Duration>,
    pub first_in_kafka: Option<Duration>,
    history: VecDeque<(Instant, BTreeMap<String, u64>)>,
    over: bool,
    cut_short: bool,
}

#[derive(Clone, Default)]
pub struct Source {
    pub name: String,
    pub kind: String,
    pub status: &'static str,
    pub reason: Option<String>,
    /// Records received per second.
    pub rate: f64,
    pub ledger: Snapshot,
    pub adds_up: bool,
}

#[derive(Clone, Default)]
pub struct Device {
    pub name: String,
    pub sent: u64,
    pub in_kafka: u64,
    /// Different numbers in the lake's table; `None`: there is no lake.
    pub in_lake: Option<u64>,
    pub stored: u64,
    pub repeats: u64,
    pub missing: u64,
    pub connected: bool,
}

impl Device {
    pub fn on_the_way(&self) -> u64 {
        self.sent.saturating_sub(self.in_kafka + self.missing)
    }
}

impl View {
    pub fn new(began: Instant, place: &Place, service: &Service, factory: &Factory) -> Self {
        let mut view = Self {
            began,
            site: factory.site.value.clone(),
            kafka: place.kafka.clone(),
            is_embedded: place.is_embedded,
            kafka_status: "Starting",
            registry: service.registry(),
            http: format!("http://{}", service.http),
            data: place.data.display().to_string(),
            sources: Vec::new(),
            total: Source::default(),
            devices: Vec::new(),
            hostile: 0,
            office: Office::default(),
            events: VecDeque::new(),
            events_total: 0,
            records: 0,
            age: None,
            first_received: None,
            first_in_kafka: None,
            history: VecDeque::new(),
            over: false,
            cut_short: false,
        };
        for note in &place.notes {
            view.say(note);
        }
        view
    }

    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Something happened.
    pub fn say(&mut self, what: &str) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back((self.elapsed(), what.to_owned()));
        self.events_total += 1;
    }

    pub fn update(
        &mut self,
        service: &Service,
        plant: &Plant,
        consumer: &VerifyingConsumer,
        lake: Option<&LakeReader>,
        happened: Vec<String>,
    ) {
        happened.iter().for_each(|what| self.say(what));
        let now = Instant::now();
        // The consumer first: what it has read was made before.
        let seen = consumer.seen();
        self.runtime(&service.engine.report(), now);
        self.records = seen.records;
        self.age = (!seen.newest.is_none()).then(|| Duration::from_micros(u64::try_from(Micros::now().0 - seen.newest.0).unwrap_or(0)));
        self.first_in_kafka = self.first_in_kafka.or(seen.first.map(|first| first - self.began));
        self.hostile = plant.hostile();
        self.office = plant.office();
        let in_lake = lake.map(LakeReader::found);
        let of_device = |device: super::plant::Numbered| {
            let numbers = seen.numbers.get(&device.tag).cloned().unwrap_or_default();
            Device {
                name: device.name,
                sent: numbers.of(device.made),
                in_kafka: numbers.count(),
                in_lake: in_lake.as_ref().map(|found| found.get(&device.tag).copied().unwrap_or(0)),
                stored: device.stored,
                repeats: numbers.repeats,
                missing: numbers.overdue(now),
                connected: device.connected,
            }
        };
        self.devices = plant.numbered().into_iter().map(of_device).collect();
    }

    fn runtime(&mut self, report: &EngineReport, now: Instant) {
        let kafka = &report.kafka;
        if kafka.status != self.kafka_status && (self.kafka_status, kafka.status) != ("Starting", "Running") && !self.over {
            let reason = kafka.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            self.say(&format!("Kafka is {}{reason}", kafka.status));
        }
        self.kafka_status = kafka.status;
        self.history.push_back((now, report.sources.iter().map(|(name, source)| (name.clone(), source.ledger.received)).collect()));
        while self.history.len() > 2 && self.history[1].0 + RATE_OVER <= now {
            self.history.pop_front();
        }
        let (since, before) = &self.history[0];
        let seconds = now.duration_since(*since).as_secs_f64();
        let rate = |name: &str, received: u64| match before.get(name) {
            Some(before) if seconds > 0.0 => received.saturating_sub(*before) as f64 / seconds,
            _ => 0.0,
        };
        let sources: Vec<Source> = report
            .sources
            .iter()
            .map(|(name, source)| Source {
                name: name.clone(),
                kind: source.r#type.clone(),
                status: source.state.status,
                reason: source.state.reason.clone(),
                rate: rate(name, source.ledger.received),
                ledger: source.ledger.clone(),
                adds_up: source.adds_up,
            })
            .collect();
        for source in &sources {
            let before = self.sources.iter().find(|before| before.name == source.name);
            // That it starts goes without saying.
            let is_news =
                before.is_some_and(|before| before.status != source.status && (before.status, source.status) != ("Starting", "Running"));
            if is_news && !self.over {
                let reason = source.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
                self.say(&format!("{} is {}{reason}", source.name, source.status));
            }
        }
        let mut total = Source { name: "total".into(), adds_up: sources.iter().all(|source| source.adds_up), ..Source::default() };
        for source in &sources {
            total.rate += source.rate;
            add(&mut total.ledger, &source.ledger);
        }
        if total.ledger.received > 0 {
            self.first_received.get_or_insert(now - self.began);
        }
        (self.sources, self.total) = (sources, total);
    }

    /// Whether every source is with its devices.
    pub fn all_run(&self) -> bool {
        !self.sources.is_empty() && self.sources.iter().all(|source| source.status == "Running")
    }

    /// Whether every reading that was made is in Kafka.
    pub fn is_settled(&self) -> bool {
        !self.devices.is_empty() && self.devices.iter().all(|device| device.in_kafka >= device.sent)
    }

    /// Somebody ended it, at whatever time.
    pub fn is_cut_short(&mut self) {
        self.cut_short = true;
    }

    /// The runtime stops now.
    pub fn is_stopping(&mut self) {
        self.say("the runtime stops: its log goes to Kafka");
    }

    /// The runtime has stopped: its ledger is final.
    pub fn is_over(&mut self, service: &Service) {
        self.over = true;
        self.runtime(&service.engine.report(), Instant::now());
        // Nothing waits anywhere any more: what is not in Kafka is missing.
        if self.total.ledger.waiting == 0 && self.devices.iter().all(|device| device.stored == 0) {
            for device in &mut self.devices {
                device.missing = device.sent.saturating_sub(device.in_kafka);
            }
        }
    }

    /// All equations hold, everything that was made is in Kafka, nothing waits. That nothing was made is good only where there was no time for it.
    pub fn is_good(&self) -> bool {
        self.total.adds_up
            && self.total.ledger.waiting == 0
            && self.is_settled()
            && self.office.twice == 0
            // What Kafka got at the very end comes into the lake with the next start; more than Kafka holds never does.
            && self.in_lake().is_none_or(|lake| lake <= self.in_kafka())
            && (self.sent() > 0 || self.cut_short)
    }

    pub fn sent(&self) -> u64 {
        self.devices.iter().map(|device| device.sent).sum()
    }

    pub fn in_kafka(&self) -> u64 {
        self.devices.iter().map(|device| device.in_kafka).sum()
    }

    /// What of it is in the lake, too; `None`: there is none.
    pub fn in_lake(&self) -> Option<u64> {
        let all: Option<u64> = self.devices.iter().map(|device| device.in_lake).sum();
        all.filter(|_| !self.devices.is_empty())
    }

    pub fn missing(&self) -> u64 {
        self.devices.iter().map(|device| device.missing).sum()
    }

    pub fn repeats(&self) -> u64 {
        self.devices.iter().map(|device| device.repeats).sum()
    }

    /// The summary, for a program.
    pub fn summary(&self) -> Value {
        let millis = |at: Option<Duration>| at.map(|at| at.as_millis() as u64);
        let sources: serde_json::Map<String, Value> = self
            .sources
            .iter()
            .map(|source| {
                let report = json!({"type": source.kind, "status": source.status, "ledger": source.ledger, "adds_up": source.adds_up});
                (source.name.clone(), report)
            })
            .collect();
        let devices: Vec<Value> = self
            .devices
            .iter()
            .map(|device| {
                json!({
                    "name": device.name, "sent": device.sent, "in_kafka": device.in_kafka, "in_lake": device.in_lake, "missing": device.missing, "repeats": device.repeats,
                })
            })
            .collect();
        let events: Vec<Value> = self.events.iter().map(|(at, what)| json!({"ms": at.as_millis() as u64, "what": what})).collect();
        json!({
            "ok": self.is_good(),
            "site": self.site,
            "seconds": self.elapsed().as_secs_f64(),
            "kafka": self.kafka,
            "embedded": self.is_embedded,
            "registry": self.registry,
            "http": self.http,
            "data": self.data,
            "first_received_ms": millis(self.first_received),
            "first_in_kafka_ms": millis(self.first_in_kafka),
            "ledger": self.total.ledger,
            "adds_up": self.total.adds_up,
            "sources": sources,
            "devices": devices,
            "sent": self.sent(),
            "in_kafka": self.in_kafka(),
            "in_lake": self.in_lake(),
            "on_the_way": self.devices.iter().map(Device::on_the_way).sum::<u64>(),
            "missing": self.missing(),
            "repeats": self.repeats(),
            "hostile": self.hostile,
            "erp": {
                "orders": self.office.orders, "confirmed": self.office.confirmed, "twice": self.office.twice, "answers_lost": self.office.answers_lost,
            },
            "events": events,
        })
    }
}

fn add(total: &mut Snapshot, one: &Snapshot) {
    total.received += one.received;
    total.filtered += one.filtered;
    total.dropped_at_intake += one.dropped_at_intake;
    total.dead_at_intake += one.dead_at_intake;
    total.appended += one.appended;
    total.produced += one.produced;
    total.dead_at_send += one.dead_at_send;
    total.dropped_from_log += one.dropped_from_log;
    total.waiting += one.waiting;
    total.clock_refused += one.clock_refused;
    total.timestamp_replaced += one.timestamp_replaced;
    for (reasons, more) in [(&mut total.lost, &one.lost), (&mut total.dropped, &one.dropped)] {
        for (reason, count) in more {
            *reasons.entry(reason).or_default() += count;
        }
    }
}
