//! One subscription: created, taken over from an earlier session, filled with items; and what its sequence numbers say.
//!
//! ```text
//! session kept         ──> go on                          ┐
//! session new          ──> TransferSubscriptions ──> go on├──> Republish from the last durable number on, until there is no more
//! neither, or refused  ──> delete what is left, create, monitor; what was missed is a gap for the history
//! ```
//!
//! Invariants: an item that can't be monitored is retried for ever, by itself; a subscription is gone on with only if its items are those of the
//! YAML, which [`Subscription::plan`] says.

use crate::config::DeadbandAt;
use crate::connect::unexpected;
use crate::job::{Job, Tag};
use crate::readings::Readings;
use crate::session::{Refused, Session, in_pieces, value_of};
use millrace_schemas::{Micros, StatusCode};
use opcua::core::ResponseMessage;
use opcua::types::{
    CreateMonitoredItemsRequest, CreateSubscriptionRequest, DataChangeFilter, DataChangeTrigger, DeleteMonitoredItemsRequest,
    DeleteSubscriptionsRequest, ExtensionObject, MonitoredItemCreateRequest, MonitoredItemCreateResult, MonitoringMode,
    MonitoringParameters, NodeId, NotificationMessage, NumericRange, ReadValueId, RepublishRequest, StatusCode as UaStatus,
    TimestampsToReturn, TransferSubscriptionsRequest,
};
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Values in one notification message, at most: what waits for the log is bounded by it.
const MOST_NOTIFICATIONS: u32 = 10_000;
/// A failed item is tried again after this, then after twice as long, up to [`SLOWEST_RETRY`].
const FIRST_RETRY: Duration = Duration::from_secs(5);
const SLOWEST_RETRY: Duration = Duration::from_secs(60);

/// What could not be monitored, and why; it is tried again and again, ever more slowly.
#[derive(Clone, Debug)]
pub struct Failed<Why> {
    why: Why,
    again: Instant,
    wait: Duration,
}

impl<Why> Failed<Why> {
    fn after(before: Option<&Self>, why: Why) -> Self {
        let wait = before.map_or(FIRST_RETRY, |before| (before.wait * 2).min(SLOWEST_RETRY));
        Self { why, again: Instant::now() + wait, wait }
    }

    /// Of an earlier process, which no longer tries: at once.
    fn handed_down(why: Why) -> Self {
        Self { why, again: Instant::now(), wait: FIRST_RETRY }
    }
}

/// A subscription of one session.
#[derive(Debug)]
pub struct Subscription {
    /// Whose keep-alive vouches for its tags, and the name of its status.
    pub part: Arc<str>,
    /// Under which its position is kept.
    pub key: String,
    /// The group of its items; none of the events'.
    pub group: Option<usize>,
    pub every: Duration,
    /// 0: there is none on the server.
    pub id: u32,
    /// The next sequence number.
    pub next: u32,
    /// When the last message that came was published.
    pub published: Micros,
    pub heard: Instant,
    /// Without a word for so long, it is dead.
    pub quiet_after: Duration,
    pub handles: Vec<usize>,
    failed: BTreeMap<usize, Failed<StatusCode>>,
    /// Notifiers whose events could not be monitored, by their index.
    deaf: BTreeMap<usize, Failed<()>>,
    /// The monitored items' ids of what was monitored in this process, by handle.
    pub monitored: BTreeMap<usize, u32>,
    pub plan: u64,
}

/// The sequence number behind one: never 0.
pub fn following(number: u32) -> u32 {
    number.checked_add(1).unwrap_or(1)
}

/// How far `number` is ahead of `next`; `None`: it is behind.
pub fn ahead(next: u32, number: u32) -> Option<u32> {
    // The numbers wrap from 2^32 - 1 to 1; whatever is further ahead than half of them is behind.
    let distance = number.wrapping_sub(next);
    (distance < 1 << 31).then_some(distance)
}

impl Subscription {
    pub fn new(part: Arc<str>, key: String, group: Option<usize>, every: Duration) -> Self {
        Self {
            part,
            key,
            group,
            every,
            id: 0,
            next: 1,
            published: Micros::NONE,
            heard: Instant::now(),
            quiet_after: Duration::MAX,
            handles: Vec::new(),
            failed: BTreeMap::new(),
            deaf: BTreeMap::new(),
            monitored: BTreeMap::new(),
            plan: 0,
        }
    }

    /// The position: `id next plan published`.
    pub fn position(&self) -> String {
        format!("{} {} {:x} {}", self.id, self.next, self.plan, self.published.0)
    }

    /// Takes up a position of an earlier process. Returns whether it is of a subscription with the same items.
    pub fn resume(&mut self, position: &[u8]) -> bool {
        let text = std::str::from_utf8(position).unwrap_or("");
        let mut words = text.split(' ');
        let mut word = || words.next().unwrap_or("");
        let (id, next, plan, published) = (word().parse(), word().parse(), u64::from_str_radix(word(), 16), word().parse());
        let (Ok(id), Ok(next), Ok(plan), Ok(published)) = (id, next, plan, published) else { return false };
        (self.id, self.next, self.published) = (id, next, Micros(published));
        plan == self.plan
    }

    /// Under which [`Self::failures`] are kept.
    pub fn failures_key(&self) -> String {
        format!("{}/failed", self.key)
    }

    /// The items, or the notifiers, that wait to be tried again, for a process that goes on with it: `3 17`.
    pub fn failures(&self) -> String {
        let waiting: Vec<String> = self.failed.keys().chain(self.deaf.keys()).map(usize::to_string).collect();
        waiting.join(" ")
    }

    /// Takes up the failures of an earlier process.
    pub fn resume_failures(&mut self, failures: &[u8], job: &Job) {
        let numbers = std::str::from_utf8(failures).unwrap_or("").split(' ').filter_map(|number| number.parse::<usize>().ok());
        match self.group {
            Some(_) => {
                let handles: HashSet<usize> = self.handles.iter().copied().collect();
                // They are tried before anybody hears why they failed.
                self.failed = numbers
                    .filter(|number| handles.contains(number))
                    .map(|handle| (handle, Failed::handed_down(StatusCode::BAD_NODE_ID_UNKNOWN)))
                    .collect();
            }
            None => {
                self.deaf =
                    numbers.filter(|number| *number < job.events.len()).map(|notifier| (notifier, Failed::handed_down(()))).collect();
            }
        }
    }

    /// Fixes which items it is about.
    pub fn make_plan(&mut self, readings: &Readings, job: &Job) {
        let mut hash = Fnv::default();
        if self.group.is_none() {
            for events in &job.events {
                hash.add(format!("{:?} {:?} {:?}", events.from, events.condition, events.fields).as_bytes());
            }
        }
        if self.group.is_some_and(|group| job.groups[group].browse.is_some()) {
            hash.add(b"model");
        }
        hash.add(&self.every.as_nanos().to_le_bytes());
        for handle in &self.handles {
            let item = readings.item(*handle);
            hash.add(&handle.to_le_bytes());
            hash.add(item.def.path.as_bytes());
            hash.add(item.def.address.as_bytes());
            if let Some(tag) = item.index.map(|index| &job.tags[index]) {
                hash.add(&tag.sampling.as_nanos().to_le_bytes());
                hash.add(&tag.queue.to_le_bytes());
                hash.add(&[u8::from(tag.wants_all())]);
            }
        }
        self.plan = hash.0;
    }

    /// Makes it on the server.
    pub async fn create(&mut self, session: &Session, job: &Job) -> Result<(), Refused> {
        let every_ms = self.every.as_secs_f64() * 1000.0;
        let keep_alive = (job.keep_alive.as_secs_f64() * 1000.0 / every_ms).ceil().max(1.0);
        let lifetime = (job.lifetime.as_secs_f64() * 1000.0 / every_ms).ceil().max(keep_alive * 3.0);
        let request = CreateSubscriptionRequest {
            request_header: session.header(),
            requested_publishing_interval: every_ms,
            requested_lifetime_count: lifetime as u32,
            requested_max_keep_alive_count: keep_alive as u32,
            max_notifications_per_publish: MOST_NOTIFICATIONS,
            publishing_enabled: true,
            priority: if self.group.is_none() { 1 } else { 0 },
        };
        let made = match session.call("CreateSubscription", request).await? {
            ResponseMessage::CreateSubscription(made) => made,
            other => return Err(Refused { service: "CreateSubscription", error: unexpected(&other) }),
        };
        let revised_ms = made.revised_publishing_interval;
        let revised = Duration::try_from_secs_f64(revised_ms / 1000.0).unwrap_or(self.every).max(Duration::from_millis(1));
        if revised > self.every * 2 {
            tracing::info!(part = %self.part, asked = ?self.every, ?revised, "the server publishes less often than asked");
        }
        (self.id, self.next) = (made.subscription_id, 1);
        self.heard = Instant::now();
        self.failed.clear();
        self.deaf.clear();
        self.monitored.clear();
        self.expect(revised * made.revised_max_keep_alive_count.clamp(1, 1_000_000), job, session);
        Ok(())
    }

    /// Sets how long it may be quiet: its keep-alive, the answer's way, and as much again.
    pub fn expect(&mut self, keep_alive: Duration, job: &Job, session: &Session) {
        self.quiet_after = keep_alive.max(job.keep_alive) + session.within();
    }

    pub async fn delete(&mut self, session: &Session) {
        let id = std::mem::take(&mut self.id);
        if id != 0 {
            delete(session, id).await;
        }
    }

    /// Monitors items; each has a result of its own. Returns those that failed now.
    pub async fn monitor(
        &mut self,
        session: &Session,
        job: &Job,
        items: &[(usize, Result<NodeId, StatusCode>)],
        readings: &Readings,
    ) -> Result<Vec<(usize, StatusCode)>, Refused> {
        let mut failed = Vec::new();
        let mut wanted = Vec::new();
        for (handle, node) in items {
            match node {
                Ok(node) => wanted.push((*handle, request_of(*handle, node.clone(), readings, job, self.group, true))),
                Err(status) => failed.push((*handle, *status)),
            }
        }
        let mut unfiltered = Vec::new();
        let mut slower = (0_usize, 0.0_f64);
        for ((handle, request), result) in wanted.iter().zip(self.ask(session, &wanted).await?) {
            let asked_ms = request.requested_parameters.sampling_interval.max(1.0);
            if result.status_code.is_good() && result.revised_sampling_interval > asked_ms * 2.0 {
                slower = (slower.0 + 1, slower.1.max(result.revised_sampling_interval));
            }
            match result.status_code {
                UaStatus::BadMonitoredItemFilterUnsupported
                | UaStatus::BadMonitoredItemFilterInvalid
                | UaStatus::BadFilterNotAllowed
                | UaStatus::BadDeadbandFilterInvalid
                    if !request.requested_parameters.filter.is_null() =>
                {
                    let node = request.item_to_monitor.node_id.clone();
                    unfiltered.push((*handle, request_of(*handle, node, readings, job, self.group, false)));
                }
                status if status.is_bad() => failed.push((*handle, StatusCode(status.bits()))),
                _ => drop(self.monitored.insert(*handle, result.monitored_item_id)),
            }
        }
        if let (items @ 1.., most_ms) = slower {
            tracing::info!(part = %self.part, items, most_ms, "the server samples these items less often than asked");
        }
        if !unfiltered.is_empty() {
            tracing::info!(part = %self.part, items = unfiltered.len(), "the server filters these items not as asked; Millrace does");
            for ((handle, _), result) in unfiltered.iter().zip(self.ask(session, &unfiltered).await?) {
                match result.status_code {
                    status if status.is_bad() => failed.push((*handle, StatusCode(status.bits()))),
                    _ => drop(self.monitored.insert(*handle, result.monitored_item_id)),
                }
            }
        }
        let still: Vec<_> = failed.iter().map(|(handle, status)| (*handle, Failed::after(self.failed.get(handle), *status))).collect();
        for (handle, _) in items {
            self.failed.remove(handle);
        }
        self.failed.extend(still);
        Ok(failed)
    }

    async fn ask(
        &self,
        session: &Session,
        wanted: &[(usize, MonitoredItemCreateRequest)],
    ) -> Result<Vec<MonitoredItemCreateResult>, Refused> {
        in_pieces!(session, "CreateMonitoredItems", wanted, session.limits.monitor, |wanted| async {
            let request = CreateMonitoredItemsRequest {
                request_header: session.header(),
                subscription_id: self.id,
                timestamps_to_return: TimestampsToReturn::Both,
                items_to_create: Some(wanted.iter().map(|(_, request)| request.clone()).collect()),
            };
            match session.call("CreateMonitoredItems", request).await? {
                ResponseMessage::CreateMonitoredItems(answer) => Ok(answer.results.unwrap_or_default()),
                other => Err(Refused { service: "CreateMonitoredItems", error: unexpected(&other) }),
            }
        })
    }

    /// Monitors a node's events.
    pub async fn monitor_events(
        &mut self,
        session: &Session,
        request: MonitoredItemCreateRequest,
    ) -> Result<MonitoredItemCreateResult, Refused> {
        let handle = request.requested_parameters.client_handle as usize;
        Ok(self.ask(session, &[(handle, request)]).await?.pop().unwrap_or_default())
    }

    /// Whether the events of a notifier are monitored, or to be tried again.
    pub fn hears(&mut self, notifier: usize, is_monitored: bool) {
        let before = self.deaf.remove(&notifier);
        if !is_monitored {
            self.deaf.insert(notifier, Failed::after(before.as_ref(), ()));
        }
    }

    /// Items of nodes that are gone.
    pub async fn forget(&mut self, session: &Session, handles: &[usize]) -> Result<(), Refused> {
        let ids: Vec<u32> = handles.iter().filter_map(|handle| self.monitored.remove(handle)).collect();
        self.handles.retain(|handle| !handles.contains(handle));
        self.failed.retain(|handle, _| !handles.contains(handle));
        self.unmonitor(session, &ids).await
    }

    pub async fn unmonitor(&self, session: &Session, ids: &[u32]) -> Result<(), Refused> {
        for ids in ids.chunks(session.limits.monitor.get()) {
            let request = DeleteMonitoredItemsRequest {
                request_header: session.header(),
                subscription_id: self.id,
                monitored_item_ids: Some(ids.to_vec()),
            };
            session.call("DeleteMonitoredItems", request).await?;
        }
        Ok(())
    }

    /// Failed items whose time to try again has come.
    pub fn due(&self, now: Instant) -> Vec<usize> {
        self.failed.iter().filter(|(_, failed)| failed.again <= now).map(|(handle, _)| *handle).collect()
    }

    /// Notifiers whose time to try again has come.
    pub fn deaf(&self, now: Instant) -> Vec<usize> {
        self.deaf.iter().filter(|(_, failed)| failed.again <= now).map(|(notifier, _)| *notifier).collect()
    }

    /// A message that was sent before, if the server still has it.
    pub async fn republish(&self, session: &Session, number: u32) -> Result<NotificationMessage, Refused> {
        let request = RepublishRequest { request_header: session.header(), subscription_id: self.id, retransmit_sequence_number: number };
        match session.call("Republish", request).await? {
            ResponseMessage::Republish(answer) => Ok(answer.notification_message),
            other => Err(Refused { service: "Republish", error: unexpected(&other) }),
        }
    }

    /// What is wrong with its items, for a person.
    pub fn complaint(&self, readings: &Readings) -> Option<String> {
        let failed = self.failed.iter().map(|(handle, failed)| (*handle, failed.why));
        // Some servers monitor what is not there: its values say so.
        let absent = readings.absent().filter(|handle| readings.item(*handle).def.part == self.part);
        let mut wrong = failed.chain(absent.map(|handle| (handle, StatusCode::BAD_NODE_ID_UNKNOWN)));
        let (handle, status) = wrong.next()?;
        let others = wrong.count();
        let item = readings.item(handle);
        let mut text = format!(
            "{} of {} items can't be monitored: {} ({}) is {}",
            others + 1,
            self.handles.len(),
            item.def.path,
            item.def.address,
            UaStatus::from(status.0)
        );
        if others > 0 {
            let _ = write!(text, ", and others");
        }
        Some(text)
    }
}

/// Deletes a subscription; one that is not there is deleted already.
pub async fn delete(session: &Session, id: u32) {
    let request = DeleteSubscriptionsRequest { request_header: session.header(), subscription_ids: Some(vec![id]) };
    if let Err(refused) = session.call("DeleteSubscriptions", request).await {
        tracing::debug!(id, %refused, "an old subscription was not deleted");
    }
}

/// Brings subscriptions of an earlier session into this one. Each has a result of its own.
pub async fn transfer(session: &Session, ids: &[u32]) -> Result<Vec<UaStatus>, Refused> {
    let request =
        TransferSubscriptionsRequest { request_header: session.header(), subscription_ids: Some(ids.to_vec()), send_initial_values: false };
    match session.call("TransferSubscriptions", request).await? {
        ResponseMessage::TransferSubscriptions(answer) => {
            Ok(answer.results.unwrap_or_default().into_iter().map(|result| result.status_code).collect())
        }
        other => Err(Refused { service: "TransferSubscriptions", error: unexpected(&other) }),
    }
}

fn request_of(
    handle: usize,
    node: NodeId,
    readings: &Readings,
    job: &Job,
    group: Option<usize>,
    filtered: bool,
) -> MonitoredItemCreateRequest {
    let item = readings.item(handle);
    let tag: Option<&Tag> = item.index.map(|index| &job.tags[index]);
    let group = group.map(|group| &job.groups[group]);
    let sampling = tag.map(|tag| tag.sampling).or(group.map(|group| group.sampling)).unwrap_or(Duration::from_secs(1));
    let queue = tag.map(|tag| tag.queue).or(group.map(|group| group.queue_of_found())).unwrap_or(10);
    let filter = if filtered { filter_of(tag, group.map(|group| group.deadband_at)) } else { None };
    MonitoredItemCreateRequest {
        item_to_monitor: ReadValueId { index_range: tag.map_or(NumericRange::None, |tag| tag.range.clone()), ..value_of(node) },
        monitoring_mode: MonitoringMode::Reporting,
        requested_parameters: MonitoringParameters {
            client_handle: handle as u32,
            sampling_interval: sampling.as_secs_f64() * 1000.0,
            filter: filter.map_or_else(ExtensionObject::null, ExtensionObject::from_message),
            queue_size: queue,
            discard_oldest: true,
        },
    }
}

fn filter_of(tag: Option<&Tag>, deadband_at: Option<DeadbandAt>) -> Option<DataChangeFilter> {
    let tag = tag?;
    let deadband = tag.raw_deadband().filter(|_| deadband_at == Some(DeadbandAt::Server));
    if deadband.is_none() && !tag.wants_all() {
        return None;
    }
    Some(DataChangeFilter {
        trigger: if tag.wants_all() { DataChangeTrigger::StatusValueTimestamp } else { DataChangeTrigger::StatusValue },
        deadband_type: u32::from(deadband.is_some()),
        deadband_value: deadband.unwrap_or(0.0),
    })
}

/// FNV-1a: the same in every process.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
        self.0 = (self.0 ^ 0xFF).wrapping_mul(0x0100_0000_01B3);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_numbers_wrap_past_zero() {
        assert_eq!(following(7), 8);
        assert_eq!(following(u32::MAX), 1);
        assert_eq!(ahead(7, 7), Some(0));
        assert_eq!(ahead(7, 9), Some(2));
        assert_eq!(ahead(7, 6), None);
        assert!(ahead(u32::MAX, 1).is_some());
        assert_eq!(ahead(1, u32::MAX), None);
    }

    #[test]
    fn a_position_is_taken_up_only_with_the_same_plan() {
        let mut subscription = Subscription::new("group 1".into(), "s0/1".into(), Some(0), Duration::from_secs(1));
        (subscription.id, subscription.next, subscription.plan, subscription.published) = (42, 7, 0xAB, Micros(5));
        let position = subscription.position();
        let mut same = Subscription::new("group 1".into(), "s0/1".into(), Some(0), Duration::from_secs(1));
        same.plan = 0xAB;
        assert!(same.resume(position.as_bytes()));
        assert_eq!((same.id, same.next, same.published), (42, 7, Micros(5)));
        same.plan = 0xAC;
        assert!(!same.resume(position.as_bytes()));
        assert!(!same.resume(b"rubbish"));
    }
}
