//! This runtime as a member of its group: one thread that holds the slots, hears what the others say, and says what this one does.
//!
//! ```text
//! loop {
//!     is the executor alive? if not, the group is not polled, and takes the slots away
//!     Assigned   the slots are ours, paused: nothing is ever read from them      ┐
//!     Revoked    sources stopped, synced, sent; then the slots are given back    ├─▶ which sources are ours ─▶ keeper
//!     lost       nothing is fenced any more, the keeper decides                  ┘
//!     records of the others: the map, their status
//!     the holder of slot 0 plans; everybody says what it does
//! }
//! ```
//!
//! Invariant: slots are given back only when the keeper has stopped what lies in them. Kafka away means that nothing changes but what the group itself,
//! or its clock, says.

use crate::compiled::Sharing;
use crate::identity::Identity;
use crate::lease::keeper::{Holding, Order};
use crate::lease::plan::{Names, Wish, plan};
use crate::lease::report::{GroupReport, RuntimeReport};
use crate::lease::seat::{Fence, Seat};
use crate::lease::view::{ASSIGN, SLOTS, STATUS, Told, View, runtime_key, slot_value, source_key};
use millrace_kafka::{
    Admin, Class, Connection, Consumer, Deliveries, KafkaError, Outgoing, Polled, Producer, Report, Settings, TopicOutcome, TopicPartition,
    TopicSpec,
};
use millrace_schemas::Micros;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// How long a poll of the group waits.
const TURN: Duration = Duration::from_millis(50);
/// How often a runtime says that it is there.
const SAY_EVERY: Duration = Duration::from_secs(3);
/// How often it is looked whether there is something new to say.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long Kafka may take to answer.
const ASK: Duration = Duration::from_secs(5);
/// So many failures in a row are told.
const TOLD_AFTER: u32 = 3;
/// Between two tries to reach Kafka.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the group is left alone after a change before it is planned anew: who joins brings others with it.
const SETTLES: Duration = Duration::from_secs(1);
/// How long the others may take to hear that this one goes.
const LEAVE: Duration = Duration::from_secs(2);

/// Who this runtime is, and what it shares.
#[derive(Clone)]
pub struct GroupOptions {
    pub settings: Settings,
    /// `enterprise/site`.
    pub site: String,
    pub group: String,
    /// As Kafka knows it.
    pub consumer_group: String,
    pub id: String,
    pub host: String,
    pub session: Duration,
    pub version: String,
    /// A checksum of the file.
    pub config: String,
    /// Tells this process from another of the same name; the same again after it was killed.
    pub life: String,
    pub wishes: BTreeMap<String, Wish>,
}

impl GroupOptions {
    pub fn of(settings: Settings, site: String, sharing: Sharing, wishes: BTreeMap<String, Wish>, data_dir: &Path) -> Self {
        let consumer_group = sharing.consumer_group(&site);
        let Sharing { id, group, host, session, config, .. } = sharing;
        let hostname = || std::fs::read_to_string("/proc/sys/kernel/hostname").map(|text| text.trim().to_owned()).ok();
        let host = host.or_else(hostname).unwrap_or_else(|| "unknown".to_owned());
        let life = Identity::of(data_dir).on(&host);
        Self {
            settings,
            site,
            group,
            consumer_group,
            id,
            host,
            session,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config,
            life,
            wishes,
        }
    }

    /// The group, in the keys of records.
    fn group_key(&self) -> String {
        format!("{}/{}", self.site, self.group)
    }
}

/// What others see of the thread, and tell it.
pub struct Common {
    pub seat: Arc<Seat>,
    pub holding: Arc<Mutex<Holding>>,
    pub orders: mpsc::UnboundedSender<Order>,
    /// What the file says now.
    pub file: Mutex<File>,
    /// The status word of each source that runs.
    pub words: Box<dyn Fn() -> BTreeMap<String, String> + Send + Sync>,
    pub report: Mutex<GroupReport>,
    pub stop: Mutex<Option<Stop>>,
}

#[derive(Clone, Default)]
pub struct File {
    pub wishes: BTreeMap<String, Wish>,
    pub config: String,
}

/// How the thread ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The sources go to the others at once.
    Leave,
    /// The same runtime comes back within the session, and has them again.
    Return,
}

pub struct Member {
    pub options: GroupOptions,
    pub common: Arc<Common>,
    pub tokio: tokio::runtime::Handle,
}

/// Nobody waits for what becomes of these records: the next one says it again.
struct Nobody;

impl Deliveries for Nobody {
    fn reports(&self, _: &[Report]) {}
}

/// How one life of the member ended.
enum Ended {
    Stopped,
    /// Another runtime has its name.
    Refused,
}

impl Member {
    pub fn run(self) {
        let (mut told, mut failures) = (String::new(), 0);
        while self.common.stop.lock().is_none() {
            match self.live() {
                Ok(Ended::Stopped) => break,
                Ok(Ended::Refused) => {
                    self.let_go();
                    while self.common.stop.lock().is_none() {
                        std::thread::park_timeout(TURN);
                    }
                    break;
                }
                Err(error) => {
                    self.let_go();
                    let word = if error.class == Class::Denied { "Blocked" } else { "Degraded" };
                    self.say(word, Some(error.to_string()));
                    failures += 1;
                    // A topic that was just made has no leader for a moment.
                    if failures >= TOLD_AFTER && told != error.text {
                        tracing::warn!(group = self.options.group, "cut off from the runtimes of its group, tried again: {error}");
                        told.clone_from(&error.text);
                    }
                    std::thread::park_timeout(PAUSE);
                }
            }
        }
    }

    fn let_go(&self) {
        self.common.seat.doubt();
        let _ = self.common.orders.send(Order::Lost);
    }

    fn say(&self, status: &'static str, reason: Option<String>) {
        let mut report = self.common.report.lock();
        (report.status, report.reason) = (status, reason);
    }

    /// Joins, and is a member until it is told to stop. Errors: what it can't go on without; it is tried again.
    fn live(&self) -> Result<Ended, KafkaError> {
        let slots = self.ensure()?;
        let tail = Tail::open(&self.options.settings)?;
        let mut life = Life {
            member: self,
            consumer: None,
            tail,
            producer: Producer::new(&self.options.settings, Arc::new(Nobody))?,
            view: View::new(slots),
            slots: BTreeSet::new(),
            fresh: Names::new(),
            own: None,
            giving: None,
            alive: Arc::new(AtomicBool::new(true)),
            said: (Told::default(), Instant::now() - SAY_EVERY),
            changed: Instant::now(),
            planned: Instant::now(),
            looked: Instant::now(),
            told: Vec::new(),
            is_lost: false,
        };
        life.catch_up()?;
        if !life.is_admitted()? {
            return Ok(Ended::Refused);
        }
        self.common.seat.admit();
        let consumer = Consumer::lessee(&self.options.settings, &self.options.consumer_group, &self.options.id, self.options.session)?;
        consumer.subscribe([ASSIGN])?;
        life.consumer = Some(consumer);
        life.run()
    }

    /// Makes the topics where they are missing. Returns how many slots there are.
    fn ensure(&self) -> Result<i32, KafkaError> {
        let compacted = |name: &str, partitions| TopicSpec {
            name: name.to_owned(),
            partitions: Some(partitions),
            replication: None,
            configs: [("cleanup.policy".to_owned(), "compact".to_owned()), ("segment.ms".to_owned(), "3600000".to_owned())].into(),
        };
        let admin = Admin::new(&self.options.settings, ASK)?;
        for outcome in admin.ensure(&[compacted(ASSIGN, SLOTS), compacted(STATUS, 1)])? {
            if let TopicOutcome::Refused(error) = outcome {
                return Err(error);
            }
        }
        let slots = admin.topics()?.get(ASSIGN).map_or(0, |shape| shape.partitions);
        if slots < SLOTS {
            admin.grow(&[(ASSIGN, SLOTS)])?;
        }
        Ok(slots.max(SLOTS))
    }
}

/// Reads what the runtimes tell each other, to the end and from then on.
struct Tail {
    reader: Consumer,
    open: BTreeSet<Arc<str>>,
}

impl Tail {
    fn open(settings: &Settings) -> Result<Self, KafkaError> {
        let reader = Consumer::reader(settings, false)?;
        let mut from = Vec::new();
        for topic in [ASSIGN, STATUS] {
            let part = TopicPartition::new(topic, 0);
            let (low, _) = reader.watermarks(&part, ASK)?;
            from.push((part, Some(low)));
        }
        reader.take(&from)?;
        Ok(Self { reader, open: [ASSIGN.into(), STATUS.into()].into() })
    }
}

/// From joining to leaving.
struct Life<'m> {
    member: &'m Member,
    consumer: Option<Consumer>,
    tail: Tail,
    producer: Producer,
    view: View,
    slots: BTreeSet<i32>,
    /// Sources that came with slots, since the keeper was last told.
    fresh: Names,
    /// What the keeper was last told; `None`: that all is lost, or nothing yet.
    own: Option<Names>,
    /// Slots that go back when the keeper is done.
    giving: Option<(Vec<TopicPartition>, oneshot::Receiver<()>)>,
    /// The executor answered.
    alive: Arc<AtomicBool>,
    /// What was last said of this runtime, and when.
    said: (Told, Instant),
    /// When the group was last other than before.
    changed: Instant,
    /// When it was last planned, and when it was last looked what there is to say.
    planned: Instant,
    looked: Instant,
    told: Vec<String>,
    /// The group took everything away and has not spoken since.
    is_lost: bool,
}

impl Life<'_> {
    /// Reads what was said before.
    fn catch_up(&mut self) -> Result<(), KafkaError> {
        let deadline = Instant::now() + ASK * 2;
        while !self.tail.open.is_empty() {
            self.hear(TURN)?;
            if Instant::now() > deadline {
                return Err(KafkaError { code: 0, class: Class::Retry, text: format!("cannot read {ASSIGN} and {STATUS} to their ends") });
            }
        }
        Ok(())
    }

    /// Whether this runtime may have its name. One of the same name that was there a moment ago is given time to say that it still is.
    fn is_admitted(&mut self) -> Result<bool, KafkaError> {
        let Some(before) = self.namesake() else { return Ok(true) };
        let age = Micros::now().0.saturating_sub(before.time);
        if before.has_left || age > self.member.options.session.as_micros() as i64 {
            return Ok(true);
        }
        let until = Instant::now() + SAY_EVERY * 2;
        while Instant::now() < until && self.member.common.stop.lock().is_none() {
            self.hear(TURN)?;
            if let Some(now) = self.namesake().filter(|now| now.time != before.time && !now.has_left) {
                self.refuse(&now.host);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What another process of the same name said last.
    fn namesake(&self) -> Option<Told> {
        let options = &self.member.options;
        self.view.told(&options.id).filter(|told| told.life != options.life).cloned()
    }

    fn refuse(&self, other: &str) {
        let GroupOptions { id, group, host, .. } = &self.member.options;
        self.member.common.seat.turn_out();
        let why = format!(
            "another runtime is called {id} in group {group}: it runs on {other}, this one on {host}; this one reads nothing: give each its own \
             runtime.id, and restart it"
        );
        tracing::error!(group, "two runtimes have one name: {why}");
        self.member.say("Blocked", Some(why));
    }

    fn run(mut self) -> Result<Ended, KafkaError> {
        self.member.common.seat.look();
        loop {
            let stop = *self.member.common.stop.lock();
            match stop {
                Some(Stop::Leave) => {
                    self.leave();
                    return Ok(Ended::Stopped);
                }
                // The place is kept until the session is over: the name is enough to have it again.
                Some(Stop::Return) => return Ok(Ended::Stopped),
                None => {}
            }
            if !self.is_executor_alive() {
                std::thread::sleep(TURN);
                continue;
            }
            if self.member.common.seat.has_slept() {
                self.lose("nothing ran here for a whole session");
            }
            self.member.common.seat.look();
            if !self.turn()? {
                return Ok(Ended::Refused);
            }
        }
    }

    /// One turn of the loop. False: another runtime has this one's name.
    fn turn(&mut self) -> Result<bool, KafkaError> {
        let Some(consumer) = &self.consumer else { return Ok(true) };
        match consumer.poll(TURN, |_| true) {
            Polled::Assigned(parts) => self.assigned(parts)?,
            Polled::Revoked { parts, lost: true } => {
                consumer.give(&parts)?;
                self.lose("the group has not heard of this runtime for a session");
            }
            Polled::Revoked { parts, lost: false } => self.revoked(parts),
            Polled::Failed(error) if error.class == Class::Fenced => {
                let until = Instant::now() + SAY_EVERY * 2;
                while self.namesake().is_none() && Instant::now() < until {
                    self.hear(TURN)?;
                }
                self.refuse(&self.namesake().map_or_else(|| "another machine".to_owned(), |told| told.host));
                return Ok(false);
            }
            Polled::Failed(error) if error.class == Class::Fatal => return Err(error),
            Polled::Failed(error) if error.class == Class::Denied => self.member.say("Blocked", Some(error.to_string())),
            Polled::Connection(Connection::Denied(why)) => self.member.say("Blocked", Some(why)),
            Polled::Connection(Connection::Down(why)) => self.member.say("Degraded", Some(why)),
            _ => {}
        }
        self.give_what_is_done()?;
        self.hear(Duration::ZERO)?;
        self.settle();
        self.plan()?;
        self.say()?;
        Ok(true)
    }

    /// Whether the executor of the sources answers; else the group is not polled, and gives what this runtime holds to others.
    fn is_executor_alive(&self) -> bool {
        if self.alive.swap(false, Relaxed) {
            let alive = self.alive.clone();
            self.member.tokio.spawn(async move { alive.store(true, Relaxed) });
            return true;
        }
        false
    }

    fn assigned(&mut self, parts: Vec<TopicPartition>) -> Result<(), KafkaError> {
        let Some(consumer) = &self.consumer else { return Ok(()) };
        consumer.take(&parts.iter().map(|part| (part.clone(), Some(0))).collect::<Vec<_>>())?;
        if !parts.is_empty() {
            consumer.pause(&parts)?;
        }
        let came: BTreeSet<i32> = parts.iter().map(|part| part.partition).collect();
        self.fresh.extend(self.view.map.iter().filter(|(_, slot)| came.contains(slot)).map(|(name, _)| name.clone()));
        self.slots.extend(came);
        self.is_lost = false;
        self.changed = Instant::now();
        self.confirm();
        self.member.say("Running", None);
        Ok(())
    }

    /// The group has spoken, and counts on this runtime: what it holds is fenced by what the group is now.
    fn confirm(&self) {
        let part = self.slots.first().map(|slot| TopicPartition::new(ASSIGN, *slot));
        let group = self.consumer.as_ref().and_then(Consumer::fence);
        self.member.common.seat.confirm(part.zip(group).map(|(part, group)| Fence { part, group: Arc::new(group) }));
    }

    fn revoked(&mut self, parts: Vec<TopicPartition>) {
        // Until they are given back these are this runtime's: what it still sends of them is fenced by the group as it is now.
        self.confirm();
        for part in &parts {
            self.slots.remove(&part.partition);
        }
        self.changed = Instant::now();
        let (done, is_done) = oneshot::channel();
        self.tell(Some(done));
        self.giving = Some((parts, is_done));
    }

    fn give_what_is_done(&mut self) -> Result<(), KafkaError> {
        let Some((_, is_done)) = &mut self.giving else { return Ok(()) };
        if matches!(is_done.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
            return Ok(());
        }
        if let (Some((parts, _)), Some(consumer)) = (self.giving.take(), &self.consumer) {
            consumer.give(&parts)?;
        }
        Ok(())
    }

    fn lose(&mut self, why: &str) {
        self.member.common.seat.doubt();
        self.slots.clear();
        self.own = None;
        if !std::mem::replace(&mut self.is_lost, true) {
            tracing::warn!(group = self.member.options.group, "the sources of this runtime may be read by another: {why}");
            self.member.say("Degraded", Some(why.to_owned()));
            let _ = self.member.common.orders.send(Order::Lost);
        }
        self.changed = Instant::now();
    }

    /// Hears what the runtimes say.
    fn hear(&mut self, wait: Duration) -> Result<(), KafkaError> {
        let Self { tail, view, member, changed, .. } = self;
        let now = Instant::now();
        let mut is_news = false;
        let polled = tail.reader.poll(wait, |message| {
            if let Some(key) = message.key() {
                is_news |= view.take(&member.options.group_key(), key, message.value(), now);
            }
            true
        });
        match polled {
            Polled::End(part, _) => _ = tail.open.remove(&part.topic),
            // Compaction was quicker, or a topic was made anew.
            Polled::Failed(error) if error.is_out_of_range() || error.class == Class::Topic => {
                *tail = Tail::open(&member.options.settings)?
            }
            _ => {}
        }
        if is_news {
            *changed = now;
        }
        Ok(())
    }

    /// Tells the keeper which sources are this runtime's, where that is other than before.
    fn settle(&mut self) {
        if !self.is_lost && self.consumer.is_some() && self.own.as_ref() != Some(&self.mine()) {
            self.tell(None);
        }
    }

    fn mine(&self) -> Names {
        let GroupOptions { host, .. } = &self.member.options;
        let file = self.member.common.file.lock();
        let may = |name: &String| file.wishes.get(name).is_some_and(|wish| wish.may_run_on(host));
        self.view.map.iter().filter(|(name, slot)| self.slots.contains(slot) && may(name)).map(|(name, _)| name.clone()).collect()
    }

    fn tell(&mut self, done: Option<oneshot::Sender<()>>) {
        let wanted = self.mine();
        let fresh = std::mem::take(&mut self.fresh);
        self.own = Some(wanted.clone());
        let _ = self.member.common.orders.send(Order::Own { wanted, fresh, done });
    }

    /// The holder of slot 0 deals the sources out.
    fn plan(&mut self) -> Result<(), KafkaError> {
        let now = Instant::now();
        let is_planned = self.planned > self.changed && now < self.planned + SAY_EVERY;
        if !self.slots.contains(&0) || now < self.changed + SETTLES || is_planned || self.said.0.slots != self.slots {
            return Ok(());
        }
        self.planned = now;
        let Some(there) = self.view.settled(self.silence(), now) else { return Ok(()) };
        let wishes = self.member.common.file.lock().wishes.clone();
        let changes = plan(&wishes, &there, &self.view.map);
        let group = self.member.options.group_key();
        let topic = self.producer.topic(ASSIGN)?;
        let write = |name: &str, value: Option<Vec<u8>>| {
            let key = source_key(&group, name);
            let message = Outgoing { partition: Some(0), key: Some(&key), value: value.as_deref(), timestamp_ms: 0, opaque: 0 };
            // What can't be sent now is planned again.
            let _ = self.producer.send(&topic, &message, std::iter::empty());
        };
        let forgotten = self.view.forgotten();
        forgotten.iter().for_each(|name| write(name, None));
        changes.iter().filter(|(name, _)| !forgotten.contains(name)).for_each(|(name, slot)| write(name, Some(slot_value(*slot))));
        if !changes.is_empty() || !forgotten.is_empty() {
            tracing::info!(group = self.member.options.group, moved = changes.len(), "the sources of the group are dealt out anew");
        }
        Ok(())
    }

    /// How long a runtime may say nothing before it counts as away.
    fn silence(&self) -> Duration {
        self.member.options.session + SAY_EVERY
    }

    /// What this runtime has to say of itself.
    fn own_words(&self) -> Told {
        let options = &self.member.options;
        let Holding { held, kept } = self.member.common.holding.lock().clone();
        let words = (self.member.common.words)();
        let reads = words.into_iter().filter(|(name, _)| held.contains(name) || kept.contains(name)).collect();
        let file = self.member.common.file.lock();
        Told {
            host: options.host.clone(),
            version: options.version.clone(),
            config: file.config.clone(),
            started: self.said.0.started,
            time: self.said.0.time,
            life: options.life.clone(),
            slots: self.slots.clone(),
            reads,
            kept,
            knows: file.wishes.keys().cloned().collect(),
            has_left: false,
        }
    }

    /// Says what this runtime does: at once when it is other than before, else every so often.
    fn say(&mut self) -> Result<(), KafkaError> {
        if self.looked.elapsed() < LOOK_EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        let words = self.own_words();
        let is_due = self.said.1.elapsed() >= SAY_EVERY;
        // While Kafka is away what is said would only pile up.
        if (is_due || !self.said.0.is_same_but_for_time(&words)) && self.producer.waiting() < 4 {
            self.send(words)?;
        }
        if is_due {
            self.judge();
        }
        Ok(())
    }

    fn send(&mut self, mut words: Told) -> Result<(), KafkaError> {
        words.time = Micros::now().0;
        if words.started == 0 {
            words.started = words.time;
        }
        let options = &self.member.options;
        let (key, value) = (runtime_key(&options.group_key(), &options.id), serde_json::to_vec(&words).unwrap_or_default());
        let message = Outgoing { partition: Some(0), key: Some(&key), value: Some(&value), timestamp_ms: 0, opaque: 0 };
        let _ = self.producer.send(&self.producer.topic(STATUS)?, &message, std::iter::empty());
        self.said = (words, Instant::now());
        Ok(())
    }

    /// The group for a person; what is amiss is told once.
    fn judge(&mut self) {
        let (options, now) = (&self.member.options, Instant::now());
        let troubles = self.view.troubles(&options.id, self.silence(), now);
        for trouble in troubles.iter().filter(|trouble| !self.told.contains(trouble)) {
            tracing::warn!(group = options.group, "the runtimes of the group do not fit together: {trouble}");
        }
        let mut runtimes = BTreeMap::new();
        let mut read = BTreeSet::new();
        for (id, told, is_there) in self.view.runtimes(self.silence(), now) {
            if is_there {
                read.extend(told.reads.keys().cloned());
            }
            let state = if told.has_left {
                "left"
            } else if is_there {
                "there"
            } else {
                "away"
            };
            let report = RuntimeReport {
                host: told.host.clone(),
                version: told.version.clone(),
                config: told.config.clone(),
                state,
                started: told.started,
                time: told.time,
                reads: told.reads.clone(),
                kept: told.kept.iter().cloned().collect(),
            };
            runtimes.insert(id.to_owned(), report);
        }
        let unread = self.member.common.file.lock().wishes.keys().filter(|name| !read.contains(*name)).cloned().collect();
        self.told.clone_from(&troubles);
        let mut report = self.member.common.report.lock();
        (report.runtimes, report.troubles, report.unread) = (runtimes, troubles, unread);
    }

    /// Gives everything back, and tells the group, so that the others need not wait for the session to end.
    fn leave(&mut self) {
        let (done, mut is_done) = oneshot::channel();
        let _ = self.member.common.orders.send(Order::Own { wanted: Names::new(), fresh: Names::new(), done: Some(done) });
        while matches!(is_done.try_recv(), Err(oneshot::error::TryRecvError::Empty)) {
            self.member.common.seat.look();
            let Some(consumer) = &self.consumer else { return };
            match consumer.poll(TURN, |_| true) {
                Polled::Assigned(parts) => _ = consumer.take(&parts.into_iter().map(|part| (part, Some(0))).collect::<Vec<_>>()),
                Polled::Revoked { parts, .. } => self.giving = Some((parts, oneshot::channel().1)),
                _ => {}
            }
        }
        self.slots.clear();
        self.member.common.seat.doubt();
        let _ = self.give_what_is_done();
        let words = Told { has_left: true, ..self.own_words() };
        let _ = self.send(words);
        let Some(consumer) = &self.consumer else { return };
        if consumer.unsubscribe().is_ok() {
            let until = Instant::now() + LEAVE;
            while Instant::now() < until && consumer.fence().is_some() {
                if let Polled::Revoked { parts, .. } = consumer.poll(TURN, |_| true) {
                    let _ = consumer.give(&parts);
                }
            }
        }
        let _ = self.producer.flush(LEAVE);
    }
}
