//! Which partitions, from where, and how far: assigned, committed, revoked.

use crate::sinks::options::Gap;
use crate::sinks::session::{PATIENCE, Part, Session, contract_parts, failure};
use millrace_contract::{Failure, Flush, Flushed, Partition, Upstream};
use millrace_kafka::{Admin, Class, KafkaError, TopicPartition};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How often the commit before partitions go is tried, and how long it rests between.
const COMMIT_TRIES: u32 = 10;

const COMMIT_PAUSE: Duration = Duration::from_millis(100);

impl<'r> Session<'r> {
    /// Dead letters first, then the commit. `is_last`: there is no next flush that could say the same.
    pub(super) fn settle(&mut self, flushed: Flushed, commits: bool, is_last: bool) -> Result<(), Failure> {
        for refused in &flushed.refused {
            self.late_letter(refused)?;
            // It was counted as written when the sink took it.
            let _ = self.runner.shared.written.fetch_update(Relaxed, Relaxed, |w| w.checked_sub(1));
        }
        for reply in &flushed.replies {
            self.letters.reply(reply).map_err(|e| failure("cannot write a reply", &e))?;
            self.letters_open = true;
        }
        let shared = &self.runner.shared;
        shared.lag.lock().flushed();
        shared.filtered.fetch_add(flushed.filtered, Relaxed);
        shared.missed.fetch_add(flushed.missed, Relaxed);
        shared.late.fetch_add(flushed.late, Relaxed);
        // They, too, were counted as written when the sink took them.
        let _ = shared.written.fetch_update(Relaxed, Relaxed, |w| Some(w.saturating_sub(flushed.filtered)));
        self.flush_letters()?;
        for (part, offset) in flushed.below {
            let name = TopicPartition::new(part.topic, part.partition);
            if let Some(part) = self.parts.get_mut(&name) {
                part.durable = part.durable.max(offset);
            }
            self.count_passed(&name, offset);
        }
        if !commits {
            return Ok(());
        }
        let mut offsets = Vec::new();
        for (name, part) in &self.parts {
            // Nothing of the partition waits in the sink: what was passed over or became a dead letter is done, too.
            let next = if part.durable >= part.given { part.durable.max(part.seen) } else { part.durable };
            if next > part.committed {
                offsets.push((name.clone(), next));
            }
        }
        if offsets.is_empty() {
            self.measure_lag();
            return Ok(());
        }
        let mut tries = COMMIT_TRIES;
        loop {
            tries -= 1;
            match self.consumer.commit(&offsets) {
                Ok(()) => break,
                Err(error) if matches!(error.class, Class::Fatal | Class::Fenced | Class::Denied) => {
                    return Err(failure("cannot commit offsets", &error));
                }
                // A coordinator that moves, a rebalance: before partitions go it is worth another try, otherwise the next flush says the same.
                Err(error) if tries == 0 || !is_last => {
                    tracing::debug!(sink = self.runner.options.name, "offsets were not committed: {error}");
                    return Ok(());
                }
                Err(_) => std::thread::sleep(COMMIT_PAUSE),
            }
        }
        let mut below = Vec::with_capacity(offsets.len());
        for (name, offset) in offsets {
            if let Some(part) = self.parts.get_mut(&name) {
                part.committed = offset;
            }
            self.count_passed(&name, offset);
            below.push((Partition { topic: name.topic, partition: name.partition }, offset));
        }
        self.sink.committed(&below);
        self.measure_lag();
        Ok(())
    }

    pub(super) fn measure_lag(&self) {
        let shared = &self.runner.shared;
        let standing = shared.lag.lock().measure(Instant::now(), |name| self.consumer.known_end(name));
        *shared.standing.lock() = standing;
    }

    pub(super) fn assign(&mut self, parts: Vec<TopicPartition>) -> Result<(), Failure> {
        let names = contract_parts(&parts);
        // Known also where the target is away, so that it shows what waits meanwhile.
        parts.iter().for_each(|part| self.runner.shared.lag.lock().assigned(part, None));
        if self.sink.wants_upstream() && !names.is_empty() {
            let upstream = self.upstream(&names)?;
            self.sink.upstream(upstream);
        }
        let held = self.runner.tokio.block_on(self.sink.assign(&names))?;
        if !names.is_empty() {
            self.runner.shared.is_placed_by_target.store(held.iter().any(Option::is_some), Relaxed);
        }
        let mut placed: Vec<(TopicPartition, Option<i64>)> =
            parts.into_iter().enumerate().map(|(i, part)| (part, held.get(i).copied().flatten())).collect();
        if self.sink.wants_upstream() {
            self.hold_against_kafka(&mut placed)?;
        }
        for (name, held) in &placed {
            let at = held.unwrap_or(0);
            self.parts.insert(name.clone(), Part { seen: at, given: at, durable: at, committed: at });
        }
        self.place_new_ones(&mut placed).map_err(|e| failure("cannot ask for the ends of a partition", &e))?;
        for (name, at) in &placed {
            self.runner.shared.lag.lock().assigned(name, *at);
        }
        self.pass_gaps(&names);
        self.consumer.take(&placed).map_err(|e| failure("cannot take partitions over", &e))?;
        self.hand_over(&placed)?;
        if !placed.is_empty() {
            tracing::info!(sink = self.runner.options.name, partitions = placed.len(), "partitions assigned");
        }
        Ok(())
    }

    /// A position is behind a gap, in the target or in Kafka, and so nobody finds it again: what was lost counts.
    fn count_passed(&mut self, name: &TopicPartition, position: i64) {
        if let Some(gap) = self.gaps.get(name).copied().filter(|gap| gap.to <= position) {
            self.gaps.remove(name);
            self.runner.shared.lost.fetch_add((gap.to - gap.from) as u64, Relaxed);
        }
    }

    /// Tells the sink what Kafka has no more, to be passed at once: until the target's position is past it, whoever is assigned next finds it again.
    fn pass_gaps(&mut self, parts: &[Partition]) {
        let gap = |part: &Partition| Some((part.clone(), self.gaps.get(&TopicPartition::new(part.topic.clone(), part.partition))?.to));
        let below: Vec<(Partition, i64)> = parts.iter().filter_map(gap).collect();
        if !below.is_empty() {
            self.sink.skip(&below);
            self.flush_at = Instant::now();
        }
    }

    /// Holds the target's positions against what Kafka still has: what retention took is noted, and what Kafka itself lost needs a person.
    pub(super) fn hold_against_kafka(&mut self, placed: &mut [(TopicPartition, Option<i64>)]) -> Result<(), Failure> {
        for (name, held) in placed.iter_mut() {
            let Some(at) = *held else { continue };
            let (low, high) =
                self.consumer.watermarks(name, PATIENCE).map_err(|e| failure("cannot ask for the offsets of a partition", &e))?;
            if at > high {
                return Err(Failure::Blocked(format!(
                    "the target holds {name} up to offset {at}, and Kafka ends at {high}: Kafka lost records that were read before; to go on, give the sink another `group`, which reads the topic from its start"
                )));
            }
            if at < low {
                self.note_gap(name, at, low);
                *held = Some(low);
            }
        }
        Ok(())
    }

    /// Names what is lost; it is counted when the position has passed it.
    fn note_gap(&mut self, name: &TopicPartition, from: i64, low: i64) {
        let gap = Gap { from, to: low };
        self.gaps.insert(name.clone(), gap);
        if self.runner.shared.named.lock().insert(name.clone(), gap) == Some(gap) {
            return;
        }
        tracing::error!(
            sink = self.runner.options.name,
            partition = %name,
            from,
            to = low - 1,
            "records were deleted in Kafka before this sink could read them; keep them longer there"
        );
    }

    /// Asks which cluster this is, and which of the topics of these names.
    pub(super) fn upstream(&self, parts: &[Partition]) -> Result<Upstream, Failure> {
        let options = &self.runner.options;
        let mut topics: Vec<Arc<str>> = parts.iter().map(|part| part.topic.clone()).collect();
        topics.sort_unstable();
        topics.dedup();
        let ids = Admin::new(&options.settings, PATIENCE)
            .and_then(|admin| admin.identities(&topics.iter().map(|topic| &**topic).collect::<Vec<_>>()))
            .map_err(|e| failure("cannot ask for the ids of topics", &e))?;
        Ok(Upstream { cluster: ids.0, group: options.group.clone(), topic_ids: topics.into_iter().zip(ids.1).collect() })
    }

    /// Gives the partitions that the group has never read their end of this moment, where it begins there, which the next flush commits: what comes from
    /// now on is for this sink, though it be restarted before it has read a record. For a sink that is always told where to begin, their beginning, and
    /// to the others what the group has committed. Where Kafka has that no more, the first that it has, which the next flush commits, too.
    pub(super) fn place_new_ones(&mut self, placed: &mut [(TopicPartition, Option<i64>)]) -> Result<(), KafkaError> {
        let open: Vec<usize> = (0..placed.len()).filter(|i| placed[*i].1.is_none()).collect();
        if open.is_empty() {
            return Ok(());
        }
        let names: Vec<TopicPartition> = open.iter().map(|i| placed[*i].0.clone()).collect();
        let committed = self.consumer.committed(&names, PATIENCE)?;
        for (i, committed) in open.into_iter().zip(committed) {
            let (name, at) = &mut placed[i];
            match committed {
                None if self.runner.options.from_latest => {
                    let (_, end) = self.consumer.watermarks(name, PATIENCE)?;
                    *at = Some(end);
                    self.parts.insert(name.clone(), Part { seen: end, given: end, durable: end, committed: -1 });
                }
                None if self.sink.wants_upstream() => *at = Some(self.consumer.watermarks(name, PATIENCE)?.0),
                None => {}
                Some(committed) => {
                    let (low, high) = self.consumer.watermarks(name, PATIENCE)?;
                    if committed < low {
                        self.note_gap(name, committed, low);
                        if !self.sink.wants_upstream() {
                            self.parts.insert(name.clone(), Part { seen: low, given: low, durable: low, committed });
                        }
                    }
                    if committed < low || self.sink.wants_upstream() {
                        *at = Some(if (low..=high).contains(&committed) { committed } else { low });
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn revoke(&mut self, parts: Vec<TopicPartition>, lost: bool) -> Result<(), Failure> {
        self.flush(Flush::Revoke, !lost)?;
        let names = contract_parts(&parts);
        self.runner.tokio.block_on(self.sink.revoke(&names))?;
        for part in &parts {
            self.parts.remove(part);
            self.gaps.remove(part);
            self.runner.shared.lag.lock().revoked(part);
        }
        self.consumer.give(&parts).map_err(|e| failure("cannot give partitions back", &e))?;
        tracing::info!(sink = self.runner.options.name, partitions = parts.len(), lost, "partitions given back");
        Ok(())
    }
}
