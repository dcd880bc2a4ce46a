//! Sources that change hands between runtimes.
//!
//! ```text
//! Take   what is open is committed ─ who was the owner, and did it give the source back? if not, its transactions are ended
//!        ─ what Kafka knows now is final ─ this runtime is written down as the owner, fenced ─ positions and numbers for whoever reads
//! Give   what the lanes hold is sent, within a bound ─ written down as given back, fenced
//! Lose   what is open is aborted; from now on only remains are sent
//! ```
//!
//! Why what Kafka knows is final: a commit first flushes its cursors, then shows its fence. A fence that came too late is refused; one that came in
//! time has its cursors in the topic already, where a reader waits for their transaction.
//!
//! What a runtime has in its log of a source that another has taken over: where the other reads it again, it is dropped and counted; else it is sent,
//! without positions.

use crate::cursors::{self, Known, Owner};
use crate::drain::client::begin;
use crate::drain::lane::Lane;
use crate::drain::pump::{Pump, Spent};
use crate::drain::shared::{Lease, Taken};
use crate::drain::source::Right;
use crate::source_logs::Positions;
use millrace_kafka::{Class, Outgoing, SendError, TransactionError, fence_out};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How long a call that fences may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether an owner has let go, or whose a source is that nobody here owns.
const LOOK_AGAIN: Duration = Duration::from_millis(300);
const OWNERS_EVERY: Duration = Duration::from_secs(5);
/// How long nothing of shared sources is sent after a fence did not hold: the group is about to say why.
const REFUSED_FOR: Duration = Duration::from_millis(300);

/// So many in a row are told.
const REFUSALS: u32 = 5;

/// What became of a fence.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fenced {
    /// It holds, or there is nothing to fence.
    No,
    /// The transaction can only be aborted.
    Refused,
}

impl Pump {
    /// Sources change hands, as far as they can now.
    pub(super) fn change_hands(&mut self) -> Result<(), Spent> {
        self.leases.extend(std::mem::take(&mut *self.shared.leases.lock()));
        let mut left = std::mem::take(&mut self.leases).into_iter();
        while let Some(lease) = left.next() {
            match self.serve(lease) {
                Ok(rest) => self.leases.extend(rest),
                Err((lease, error)) => {
                    self.leases.extend(lease);
                    self.leases.extend(left);
                    return Err(error);
                }
            }
        }
        self.look_for_owners()
    }

    /// Returns what must be looked at again.
    fn serve(&mut self, lease: Lease) -> Result<Option<Lease>, (Option<Lease>, Spent)> {
        match lease {
            Lease::Take { done, .. } if done.is_closed() => Ok(None),
            Lease::Take { sources, patient, until, done } => match self.take_over(&sources, &patient, until) {
                Ok(Some(taken)) => {
                    let _ = done.send(taken);
                    Ok(None)
                }
                Ok(None) => Ok(Some(Lease::Take { sources, patient, until, done })),
                Err(error) => Err((Some(Lease::Take { sources, patient, until, done }), error)),
            },
            Lease::Give { sources, until, done } if Instant::now() < until && !self.is_sent(&sources) => {
                Ok(Some(Lease::Give { sources, until, done }))
            }
            Lease::Give { sources, until, done } => match self.give_back(&sources) {
                // The group deals its slots out anew at this very moment: the fence holds when it has spoken.
                Ok(false) if Instant::now() < until => Ok(Some(Lease::Give { sources, until, done })),
                Ok(_) => {
                    self.strip(&sources);
                    let _ = done.send(());
                    Ok(None)
                }
                Err(error) => Err((Some(Lease::Give { sources, until, done }), error)),
            },
            Lease::Lose { sources, done } => {
                self.strip(&sources);
                let _ = done.send(());
                if self.options.transactions.is_some() {
                    self.abort().map_err(|error| (None, error))?;
                }
                Ok(None)
            }
        }
    }

    /// As above, where nothing can be asked or said: nobody waits for Kafka to stop.
    pub(super) fn change_hands_without_kafka(&mut self) {
        self.leases.extend(std::mem::take(&mut *self.shared.leases.lock()));
        for lease in std::mem::take(&mut self.leases) {
            match lease {
                Lease::Take { .. } => self.leases.push(lease),
                Lease::Give { sources, until, done } if Instant::now() < until => self.leases.push(Lease::Give { sources, until, done }),
                Lease::Give { sources, done, .. } | Lease::Lose { sources, done } => {
                    self.strip(&sources);
                    let _ = done.send(());
                }
            }
        }
    }

    /// When to look again, if nobody wakes us.
    pub(super) fn hands_wake(&self) -> Option<Instant> {
        let waits = !self.leases.is_empty() || self.fenced_until.is_some();
        waits.then(|| Instant::now() + LOOK_AGAIN).or(self.has_remains().then_some(self.owners_at))
    }

    fn indexes(&self, names: &[Arc<str>]) -> Vec<usize> {
        let is_named = |index: &usize| names.contains(&self.sources[*index].source_logs.source);
        (0..self.sources.len()).filter(is_named).collect()
    }

    fn set_right(&mut self, names: &[Arc<str>], right: Right) {
        for index in self.indexes(names) {
            self.sources[index].right = right;
        }
    }

    /// These are not this runtime's any more; what was on its way is sent as remains, or not at all.
    fn strip(&mut self, names: &[Arc<str>]) {
        self.set_right(names, Right::Remains);
        self.owners_at = Instant::now();
    }

    /// `None`: an owner is still given time to let go.
    fn take_over(&mut self, sources: &[Arc<str>], patient: &[Arc<str>], until: Instant) -> Result<Option<Vec<Taken>>, Spent> {
        let Some(seat) = self.options.seat.clone() else { return Ok(Some(Vec::new())) };
        if self.open.is_some() {
            self.commit()?;
        }
        // Whoever is dead or frozen may have a transaction open: it is ended below, not waited for.
        let before = cursors::read_now(&self.options.settings, Some(&seat.runtime))?;
        let unreleased = |source: &Arc<str>| {
            let others = before.possible_owners(source).filter(|owner| owner.runtime != seat.runtime && !owner.released);
            others.map(|owner| owner.runtime.clone()).collect::<Vec<_>>()
        };
        let is_patient = Instant::now() < until;
        if is_patient && patient.iter().any(|source| !unreleased(source).is_empty()) {
            return Ok(None);
        }
        if self.options.transactions.is_some() {
            self.unfenced.extend(sources.iter().flat_map(unreleased));
        }
        let mut taken = Vec::new();
        for index in self.indexes(sources) {
            let source_logs = &self.sources[index].source_logs;
            let source = source_logs.source.clone();
            let here = source_logs.term.load(Relaxed);
            let was_others = before.possible_owners(&source).any(|owner| owner.runtime != seat.runtime || owner.term != here);
            let last = before.possible_owners(&source).map(|owner| owner.term).max();
            let term = last.map_or(1, |last| last + u64::from(was_others));
            taken.push(Taken { source, was_others, term, positions: Positions::default(), end: 0 });
        }
        let owned = taken.iter().map(|one| (one.source.clone(), one.term)).collect::<Vec<_>>();
        if !self.write_owners(&owned, false)? {
            return Ok(Some(Vec::new()));
        }
        // After the new owner is written down: a runtime whose transactions are ended reads it before it begins others.
        if !self.end_transactions(is_patient) {
            return Ok(None);
        }
        let known = self.read_cursors()?;
        for one in &mut taken {
            one.positions = known.positions.get(&*one.source).cloned().unwrap_or_default();
            one.end = known.ends.get(&*one.source).copied().unwrap_or(0);
        }
        let of_others: Vec<Arc<str>> = taken.iter().filter(|one| one.was_others).map(|one| one.source.clone()).collect();
        self.supersede(&of_others);
        self.set_right(sources, Right::Owner);
        Ok(Some(taken))
    }

    /// Ends the transactions of runtimes that have not given back what is taken over from them. False: it is tried again.
    fn end_transactions(&mut self, is_patient: bool) -> bool {
        let Some(seat) = &self.options.seat else { return true };
        while let Some(runtime) = self.unfenced.first().cloned() {
            match fence_out(&self.options.settings, &seat.transactional_id(&runtime), PATIENCE) {
                Ok(()) => {
                    tracing::info!(runtime, "took over from a runtime that has not given its sources back: its transactions are ended")
                }
                Err(error) if is_patient && error.class == Class::Retry => return false,
                Err(error) => tracing::warn!(
                    runtime,
                    "cannot end the transactions of a runtime that is taken over from: {error}; what it has open is waited for instead"
                ),
            }
            self.unfenced.remove(&runtime);
        }
        true
    }

    /// False: the fence did not hold, and it is not written down.
    fn give_back(&mut self, sources: &[Arc<str>]) -> Result<bool, Spent> {
        if self.open.is_some() {
            self.commit()?;
        }
        let owned = self.indexes(sources).into_iter().map(|at| &self.sources[at]).filter(|source| source.right == Right::Owner);
        let owned: Vec<(Arc<str>, u64)> =
            owned.map(|source| (source.source_logs.source.clone(), source.source_logs.term.load(Relaxed))).collect();
        if self.options.transactions.is_none() {
            self.settle();
            self.cursors_at = Instant::now();
            self.write_cursors_behind()?;
        }
        if owned.is_empty() { Ok(true) } else { self.write_owners(&owned, true) }
    }

    /// Whether Kafka has all that these sources hold.
    fn is_sent(&self, sources: &[Arc<str>]) -> bool {
        let indexes = self.indexes(sources);
        self.lanes.values().filter(|lane| indexes.contains(&lane.source)).all(|lane| lane.window.is_empty() && !lane.has_more())
    }

    /// Writes down whose sources are. False: the fence did not hold.
    fn write_owners(&mut self, sources: &[(Arc<str>, u64)], released: bool) -> Result<bool, Spent> {
        let (Some(client), Some(seat)) = (&self.client, self.options.seat.clone()) else { return Ok(false) };
        let is_fenced = self.options.transactions.is_some();
        if is_fenced {
            begin(client)?;
            self.open = Some(Instant::now());
        }
        let topic = client.producer.topic(cursors::TOPIC)?;
        for (source, term) in sources {
            let owner = Owner { runtime: seat.runtime.clone(), term: *term, released };
            let (key, value) = (cursors::owner_key(source), cursors::owner_value(&owner));
            let message = Outgoing { partition: Some(0), key: Some(&key), value: Some(&value), timestamp_ms: 0, opaque: 0 };
            match client.producer.send(&topic, &message, std::iter::empty()) {
                Ok(()) => {}
                Err(SendError::Refused(error)) => return Err(error),
                Err(SendError::QueueFull | SendError::Doomed(_)) if is_fenced => {
                    self.abort()?;
                    return Ok(false);
                }
                Err(_) => return Ok(false),
            }
        }
        if !is_fenced {
            self.flush()?;
            return Ok(true);
        }
        if self.show_fence()? == Fenced::Refused {
            self.abort()?;
            return Ok(false);
        }
        let committed = |pump: &Self| pump.shared.report.lock().transactions_committed;
        let before = committed(self);
        self.commit()?;
        Ok(committed(self) > before)
    }

    /// Fences the open transaction, where it holds records of a source that this runtime owns.
    pub(super) fn fence(&mut self, touched: &[u32]) -> Result<Fenced, Spent> {
        let is_owned =
            |id: &u32| self.lanes.get(id).and_then(|lane| self.sources.get(lane.source)).is_some_and(|source| source.right == Right::Owner);
        if touched.iter().any(is_owned) { self.show_fence() } else { Ok(Fenced::No) }
    }

    fn show_fence(&mut self) -> Result<Fenced, Spent> {
        // What it vouches for lies in Kafka before it is shown.
        while let Some(Err(error)) = self.client.as_ref().map(|client| client.producer.flush(PATIENCE)) {
            self.may_wait(&error)?;
        }
        let (Some(client), Some(seat)) = (&self.client, &self.options.seat) else { return Ok(Fenced::No) };
        self.fences += 1;
        let fence = seat.fence();
        let shown = match &fence {
            None => None,
            Some(fence) => Some(client.producer.send_offsets(&[(fence.part.clone(), self.fences)], &fence.group, PATIENCE)),
        };
        let why = match shown {
            Some(Ok(())) => {
                (self.fenced_until, self.refused) = (None, 0);
                return Ok(Fenced::No);
            }
            None => "this runtime does not know what it holds".to_owned(),
            Some(Err(TransactionError::Fenced(error) | TransactionError::Fatal(error))) => return Err(error),
            Some(Err(error)) => error.to_string(),
        };
        // While the group deals its slots out anew one may come too early; what goes on is another matter.
        self.refused += 1;
        if self.refused == REFUSALS {
            tracing::warn!("a transaction is refused, because another runtime may own its sources; nothing of it is seen: {why}");
        }
        self.fenced_until = Some(Instant::now() + REFUSED_FOR);
        Ok(Fenced::Refused)
    }

    /// Whether something lies here that may or may not have to be sent.
    fn has_remains(&self) -> bool {
        self.lanes.values().any(|lane| lane.has_more() && self.waits_for_owner(lane))
    }

    /// Whether a lane waits until it is known who reads its source.
    pub(super) fn waits_for_owner(&self, lane: &Lane) -> bool {
        self.sources.get(lane.source).is_some_and(|source| !source.may_send(false))
    }

    /// Drops what another runtime has read again.
    fn look_for_owners(&mut self) -> Result<(), Spent> {
        if self.fenced_until.is_some_and(|until| Instant::now() >= until) {
            self.fenced_until = None;
        }
        if Instant::now() < self.owners_at || !self.has_remains() {
            return Ok(());
        }
        self.owners_at = Instant::now() + OWNERS_EVERY;
        let known = self.read_cursors()?;
        if self.open.is_some() {
            self.commit()?;
        }
        self.believe(&known);
        Ok(())
    }

    /// What Kafka says of owners is right, whatever this runtime thinks.
    pub(super) fn believe(&mut self, known: &Known) {
        let Some(seat) = &self.options.seat else { return };
        let is_others = |owner: &Owner| owner.runtime != seat.runtime;
        let gone: Vec<Arc<str>> = self
            .sources
            .iter()
            .filter(|source| source.right != Right::All && known.owners.get(&*source.source_logs.source).is_some_and(is_others))
            .map(|source| source.source_logs.source.clone())
            .collect();
        self.set_right(&gone, Right::Remains);
        self.supersede(&gone);
    }

    /// Another runtime has taken these over: what lies here and was read again there is dropped, and no position of before counts any more.
    fn supersede(&mut self, names: &[Arc<str>]) {
        for index in self.indexes(names) {
            self.sources[index].pending.clear();
            if !self.sources[index].source_logs.reads_again.load(Relaxed) {
                continue;
            }
            let mut dropped = 0;
            for lane in self.lanes.values_mut().filter(|lane| lane.source == index) {
                dropped += lane.supersede();
            }
            if dropped > 0 {
                let source_logs = &self.sources[index].source_logs;
                tracing::info!(
                    source = &*source_logs.source,
                    records = dropped,
                    "another runtime has read these again: they are not sent from here"
                );
                self.count(index);
            }
        }
    }
}
