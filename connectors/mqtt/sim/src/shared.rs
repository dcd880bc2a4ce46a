//! What the broker's connections share: sessions and who has them, retained messages, wills, broken cables.

use crate::session::{Delivery, Limits, Session, Stored, Subscription};
use crate::wire::Wanted;
use millrace_mqtt::packet::Qos;
use millrace_mqtt::topic::Filter;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// What this broker holds at most.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub connections: usize,
    pub sessions: usize,
    pub subscriptions_per_session: usize,
    pub retained: Limits,
    pub maximum_packet: usize,
    /// What may wait for one client.
    pub waiting: Limits,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections: 256,
            sessions: 256,
            subscriptions_per_session: 1_000,
            retained: Limits { messages: 10_000, bytes: 16 << 20 },
            maximum_packet: 1 << 20,
            waiting: Limits { messages: 100_000, bytes: 32 << 20 },
        }
    }
}

/// Shared subscriptions whose turn is remembered.
const TURNS: usize = 10_000;

/// How a cable fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Break {
    /// Connections end at once, new ones are turned away: a switch without power.
    Cut,
    /// Nothing passes and nobody is told: a half-open connection.
    Silence,
}

/// What the broker did so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub connections: usize,
    pub sessions: usize,
    /// Messages published to it.
    pub published: u64,
    /// Messages that did not fit into a client's queue or packet.
    pub dropped: u64,
}

pub(crate) struct Shared {
    pub bounds: Bounds,
    state: Mutex<State>,
    breaks: Mutex<Vec<Broken>>,
    published: AtomicU64,
    connections: AtomicU64,
}

struct Broken {
    client_id: Box<str>,
    how: Break,
    until: Instant,
}

#[derive(Default)]
struct State {
    sessions: HashMap<Box<str>, Entry>,
    retained: BTreeMap<Box<str>, (Arc<Stored>, Qos)>,
    retained_bytes: usize,
    /// Who of a shared subscription got the last message.
    turns: HashMap<Box<str>, usize>,
    generation: u64,
    dropped: u64,
}

struct Entry {
    session: Session,
    /// Of the connection that has the session now.
    connected: Option<u64>,
    wake: Arc<Notify>,
    expiry: Duration,
    /// Since when nobody is connected.
    left: Instant,
    will: Option<(Instant, Testament)>,
}

/// What is published in a client's name when it vanishes.
#[derive(Clone, Debug)]
pub(crate) struct Testament {
    pub message: Arc<Stored>,
    pub qos: Qos,
    pub retain: bool,
    pub delay: Duration,
}

/// A connection's hold on its session.
pub(crate) struct Seat {
    pub client_id: Box<str>,
    pub generation: u64,
    pub wake: Arc<Notify>,
    pub session_present: bool,
}

impl Shared {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, state: Mutex::default(), breaks: Mutex::default(), published: AtomicU64::new(0), connections: AtomicU64::new(0) }
    }

    /// Counts one more connection; `false`: there are as many as may be.
    pub fn comes_in(&self) -> bool {
        let most = self.bounds.connections as u64;
        self.connections.fetch_update(Relaxed, Relaxed, |there| (there < most).then_some(there + 1)).is_ok()
    }

    pub fn goes_out(&self) {
        self.connections.fetch_sub(1, Relaxed);
    }

    /// Breaks the cable to a client (`""`: to all) for so long.
    pub fn break_cable(&self, client_id: &str, how: Break, lasts: Duration) {
        let until = Instant::now() + lasts;
        let mut breaks = self.breaks.lock();
        breaks.retain(|broken| broken.until > Instant::now() && *broken.client_id != *client_id);
        breaks.push(Broken { client_id: client_id.into(), how, until });
        drop(breaks);
        for entry in self.state.lock().sessions.values() {
            entry.wake.notify_one();
        }
    }

    pub fn counts(&self) -> Counts {
        let state = self.state.lock();
        Counts {
            connections: self.connections.load(Relaxed) as usize,
            sessions: state.sessions.len(),
            published: self.published.load(Relaxed),
            dropped: state.dropped,
        }
    }

    /// Whether a client is connected, and how many messages wait for it.
    pub fn client(&self, client_id: &str) -> Option<(bool, usize)> {
        let state = self.state.lock();
        state.sessions.get(client_id).map(|entry| (entry.connected.is_some(), entry.session.held()))
    }

    /// Ends every connection.
    pub fn end_all(&self) {
        for entry in self.state.lock().sessions.values_mut() {
            // No generation is its own any more: its connection ends.
            entry.connected = None;
            entry.wake.notify_one();
        }
    }

    /// Forgets sessions that nobody came back for, and publishes wills whose delay is over.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut state = self.state.lock();
        let mut wills = Vec::new();
        state.sessions.retain(|_, entry| {
            let expired = entry.connected.is_none() && now >= entry.left + entry.expiry;
            if entry.will.as_ref().is_some_and(|(due, _)| expired || now >= *due) {
                wills.extend(entry.will.take().map(|(_, will)| will));
            }
            !expired
        });
        for will in wills {
            state.publish(&will.message, will.qos, will.retain, "", &self.bounds);
        }
    }

    /// How the cable to this client is broken now, and until when.
    pub fn broken(&self, client_id: &str) -> Option<(Break, Instant)> {
        let now = Instant::now();
        let breaks = self.breaks.lock();
        let broken = breaks.iter().find(|broken| broken.until > now && (broken.client_id.is_empty() || *broken.client_id == *client_id));
        broken.map(|broken| (broken.how, broken.until))
    }

    /// Takes the session of a client over from whoever has it. Errors: the reason code of a refusal.
    pub fn sit_down(&self, client_id: &str, clean_start: bool, expiry: Duration) -> Result<Seat, u8> {
        let mut state = self.state.lock();
        state.generation += 1;
        let generation = state.generation;
        if !state.sessions.contains_key(client_id) && state.sessions.len() >= self.bounds.sessions {
            return Err(0x97);
        }
        let mut present = false;
        let entry = match state.sessions.entry(client_id.into()) {
            std::collections::hash_map::Entry::Occupied(entry) => {
                let entry = entry.into_mut();
                // Whoever had it notices that the generation is another one.
                entry.wake.notify_one();
                entry.will = None;
                match clean_start {
                    true => entry.session = Session::default(),
                    false => present = true,
                }
                entry
            }
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(Entry {
                session: Session::default(),
                connected: None,
                wake: Arc::default(),
                expiry,
                left: Instant::now(),
                will: None,
            }),
        };
        entry.wake = Arc::default();
        entry.connected = Some(generation);
        entry.expiry = expiry;
        Ok(Seat { client_id: client_id.into(), generation, wake: entry.wake.clone(), session_present: present })
    }

    /// Works on the session while the seat is still this connection's own; `None` when another one took it.
    pub fn session<T>(&self, seat: &Seat, work: impl FnOnce(&mut Session) -> T) -> Option<T> {
        let mut state = self.state.lock();
        let entry = state.sessions.get_mut(&seat.client_id).filter(|entry| entry.connected == Some(seat.generation))?;
        Some(work(&mut entry.session))
    }

    /// The connection is over. A `will` is published after its delay, unless the client is back by then.
    pub fn leave(&self, seat: &Seat, will: Option<Testament>, expiry: Option<Duration>) {
        let mut state = self.state.lock();
        let mut due = will;
        if let Some(entry) = state.sessions.get_mut(&seat.client_id)
            && entry.connected == Some(seat.generation)
        {
            entry.connected = None;
            entry.left = Instant::now();
            entry.expiry = expiry.unwrap_or(entry.expiry);
            entry.session.forget_unkept();
            if due.as_ref().is_some_and(|will| !will.delay.is_zero() && !entry.expiry.is_zero()) {
                entry.will = due.take().map(|will| (Instant::now() + will.delay, will));
            }
            if entry.expiry.is_zero() {
                state.sessions.remove(&seat.client_id);
            }
        }
        if let Some(will) = due {
            state.publish(&will.message, will.qos, will.retain, &seat.client_id, &self.bounds);
        }
    }

    /// Hands a message to everyone who subscribed to it. True where anyone did.
    pub fn publish(&self, message: &Arc<Stored>, qos: Qos, retain: bool, from: &str) -> bool {
        self.published.fetch_add(1, Relaxed);
        self.state.lock().publish(message, qos, retain, from, &self.bounds)
    }

    /// Adds or replaces a subscription, and offers what is retained. Returns the code of the SUBACK; `None` when the seat was taken over.
    pub fn subscribe(&self, seat: &Seat, wanted: &Wanted<'_>, subscription_id: u32) -> Option<u8> {
        let (share, text) = match wanted.filter.strip_prefix("$share/").map(|rest| rest.split_once('/')) {
            None => (None, wanted.filter),
            Some(Some((name, filter))) if !name.is_empty() && !name.contains(['+', '#']) => (Some(name), filter),
            Some(_) => return Some(0x8F),
        };
        let Ok(filter) = Filter::parse(text) else { return Some(0x8F) };
        let mut state = self.state.lock();
        let State { sessions, retained, dropped, .. } = &mut *state;
        let entry = sessions.get_mut(&seat.client_id).filter(|entry| entry.connected == Some(seat.generation))?;
        let subscriptions = &mut entry.session.subscriptions;
        let subscription = Subscription {
            filter,
            share: share.map(Into::into),
            qos: wanted.qos,
            no_local: wanted.no_local,
            retain_as_published: wanted.retain_as_published,
            subscription_id,
        };
        let known = subscriptions.iter().position(|one| one.filter == subscription.filter && one.share == subscription.share);
        let offers_retained = share.is_none() && (wanted.retain_handling == 0 || wanted.retain_handling == 1 && known.is_none());
        match known {
            Some(at) => subscriptions[at] = subscription.clone(),
            None if subscriptions.len() >= self.bounds.subscriptions_per_session => return Some(0x97),
            None => subscriptions.push(subscription.clone()),
        }
        if offers_retained {
            for (message, qos) in retained.values().filter(|(message, _)| subscription.filter.matches(&message.topic)) {
                let delivery = Delivery { message: message.clone(), qos: (*qos).min(subscription.qos), retain: true, subscription_id };
                *dropped += u64::from(!entry.session.offer(delivery, self.bounds.waiting));
            }
        }
        Some(wanted.qos as u8)
    }

    /// Removes a subscription. Returns the code of the UNSUBACK.
    pub fn unsubscribe(&self, seat: &Seat, filter: &str) -> u8 {
        let removed = self.session(seat, |session| {
            let before = session.subscriptions.len();
            session.subscriptions.retain(|one| match &one.share {
                None => one.filter.as_str() != filter,
                Some(share) => filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/')) != Some((share, one.filter.as_str())),
            });
            before != session.subscriptions.len()
        });
        if removed == Some(true) { 0 } else { 0x11 }
    }
}

impl State {
    fn publish(&mut self, message: &Arc<Stored>, qos: Qos, retain: bool, from: &str, bounds: &Bounds) -> bool {
        if retain {
            if let Some((old, _)) = self.retained.remove(&message.topic) {
                self.retained_bytes -= old.bytes();
            }
            let fits = self.retained.len() < bounds.retained.messages && self.retained_bytes + message.bytes() <= bounds.retained.bytes;
            if !message.payload.is_empty() && fits {
                self.retained_bytes += message.bytes();
                self.retained.insert(message.topic.clone(), (message.clone(), qos));
            } else {
                self.dropped += u64::from(!message.payload.is_empty());
            }
        }
        let mut any = false;
        let mut shares: BTreeMap<Box<str>, Vec<(Box<str>, Delivery)>> = BTreeMap::new();
        for (client_id, entry) in &mut self.sessions {
            let Entry { session, connected, wake, .. } = entry;
            // One copy for each subscription, as MQTT 5 allows and as identifiers want it.
            let mut deliveries = Vec::new();
            for one in session.subscriptions.iter().filter(|one| one.filter.matches(&message.topic)) {
                if one.no_local && **client_id == *from {
                    continue;
                }
                let delivery = Delivery {
                    message: message.clone(),
                    qos: qos.min(one.qos),
                    retain: retain && one.retain_as_published,
                    subscription_id: one.subscription_id,
                };
                match &one.share {
                    None => deliveries.push(delivery),
                    Some(share) if connected.is_some() => {
                        let name = format!("{share}/{}", one.filter).into();
                        shares.entry(name).or_default().push((client_id.clone(), delivery));
                    }
                    Some(_) => {}
                }
            }
            for delivery in deliveries {
                any = true;
                if connected.is_none() && delivery.qos == Qos::AtMostOnce {
                    continue;
                }
                self.dropped += u64::from(!session.offer(delivery, bounds.waiting));
            }
            wake.notify_one();
        }
        // Whose turn it is may be forgotten: names are made by clients.
        if self.turns.len() > TURNS {
            self.turns.clear();
        }
        for (name, mut members) in shares {
            any = true;
            members.sort_by(|(left, _), (right, _)| left.cmp(right));
            let turn = self.turns.entry(name).or_default();
            *turn = (*turn + 1) % members.len();
            let (client_id, delivery) = members.swap_remove(*turn);
            if let Some(entry) = self.sessions.get_mut(&client_id) {
                self.dropped += u64::from(!entry.session.offer(delivery, bounds.waiting));
                entry.wake.notify_one();
            }
        }
        any
    }
}
