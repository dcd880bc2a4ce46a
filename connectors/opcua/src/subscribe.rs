//! One subscription: created, taken over from an earlier session, filled with items; and what its sequence numbers say.
//!
//! ```text
//! session kept         ──> go on                          ┐
//! session new          ──> TransferSubscriptions ──> go on├──> Republish from the last durable number on, until there is no more
//! neither, or refused  ──> delete what is left, create, monitor; what was missed is a gap for the history
//! ```
//!
//! Which groups' items are on which subscription is `layout.rs`.
//!
//! Invariants: an item that can't be monitored is retried forever, by itself; a subscription is gone on with only if its items are those of the
//! YAML, which [`Subscription::plan`] says.

use crate::channel::unexpected;
use crate::compiled::{CompiledSource, Tag, queue_of, queue_of_found, raw_deadband, wants_all};
use crate::config::DeadbandAt;
use crate::hash::Fnv;
use crate::readings::{Readings, client_handle, handle_of};
use crate::session::{Refused, Session, in_pieces, value_of};
use crate::wire::stamp;
use millrace_kit::{Backoff, Retries};
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
/// How soon a failed item is tried again.
const RETRY: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(60));

/// What is to be monitored.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub handle: usize,
    group: usize,
    /// The index of its tag; none of what was found by browsing.
    index: Option<usize>,
    node: Result<NodeId, StatusCode>,
}

/// Items with their nodes.
pub fn items(readings: &Readings, handles: &[usize], nodes: Vec<Result<NodeId, StatusCode>>) -> Vec<Wanted> {
    let item = |(handle, node): (&usize, _)| {
        let item = readings.item(*handle);
        Wanted { handle: *handle, group: item.group, index: item.index, node }
    };
    handles.iter().zip(nodes).map(item).collect()
}

/// A subscription of one session.
#[derive(Debug)]
pub struct Subscription {
    /// For messages: the group, or the events, that it was made for.
    pub part: Arc<str>,
    /// Under which its position is kept.
    pub key: String,
    /// The groups whose items are on it, the one it was made for first; none where it is for events alone.
    pub groups: Vec<usize>,
    /// Their parts: its keep-alive vouches for their tags.
    pub parts: Vec<Arc<str>>,
    /// The events are on it.
    pub has_events: bool,
    /// It is told when the server's nodes change.
    pub hears_model: bool,
    /// The server takes no more items on it.
    pub is_full: bool,
    pub every: Duration,
    /// 0: there is none on the server.
    pub id: u32,
    /// The next sequence number.
    pub next: u32,
    /// When the last message that came was published; before the first, when the subscription was made. By the server's clock.
    pub published: Micros,
    pub heard: Instant,
    /// Without a word for so long, it is dead.
    pub quiet_after: Duration,
    pub handles: Vec<usize>,
    /// The handle that the server knows as 0; the others count from it. So an item that comes before this subscription's in the file does not
    /// change what it is about.
    pub base: usize,
    /// The server has no place for its items: they are polled on this connection.
    pub is_polled: bool,
    failed: Retries<usize, StatusCode>,
    /// Notifiers whose events could not be monitored, by their index.
    deaf: Retries<usize, ()>,
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
    /// With these items.
    pub fn with(mut self, handles: Vec<usize>) -> Self {
        self.base = handles.first().copied().unwrap_or_default();
        self.handles = handles;
        self
    }

    /// For a group, or with none for the events.
    pub fn new(part: Arc<str>, key: String, group: Option<usize>, every: Duration) -> Self {
        Self {
            parts: vec![part.clone()],
            part,
            key,
            has_events: group.is_none(),
            groups: group.into_iter().collect(),
            hears_model: false,
            is_full: false,
            every,
            id: 0,
            next: 1,
            published: Micros::NONE,
            heard: Instant::now(),
            quiet_after: Duration::MAX,
            handles: Vec::new(),
            base: 0,
            is_polled: false,
            failed: Retries::new(RETRY),
            deaf: Retries::new(RETRY),
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

    /// The items and the notifiers that wait to be tried again, for a process that goes on with it: `3 17 e0`.
    pub fn failures(&self) -> String {
        let items = self.failed.iter().map(|(handle, _)| client_handle(*handle, self.base).to_string());
        let notifiers = self.deaf.iter().map(|(notifier, ())| format!("e{notifier}"));
        items.chain(notifiers).collect::<Vec<_>>().join(" ")
    }

    /// Takes up the failures of an earlier process.
    pub fn resume_failures(&mut self, failures: &[u8], job: &CompiledSource) {
        let handles: HashSet<usize> = self.handles.iter().copied().collect();
        for word in std::str::from_utf8(failures).unwrap_or("").split(' ') {
            // Of a subscription for events alone, releases before this one wrote the numbers of notifiers without a letter.
            let (is_notifier, number) = match word.strip_prefix('e') {
                Some(number) => (true, number),
                None => (self.groups.is_empty(), word),
            };
            match number.parse::<usize>() {
                Ok(notifier) if is_notifier && notifier < job.events.len() => self.deaf.handed_down(notifier, ()),
                // They are tried before anybody hears why they failed.
                Ok(number) if !is_notifier => {
                    let handle = u32::try_from(number).map_or(usize::MAX, |number| handle_of(number, self.base));
                    if handles.contains(&handle) {
                        self.failed.handed_down(handle, StatusCode::BAD_NODE_ID_UNKNOWN);
                    }
                }
                _ => {}
            }
        }
    }

    /// Fixes which items it is about.
    pub fn make_plan(&mut self, readings: &Readings, job: &CompiledSource) {
        let mut hash = Fnv::default();
        if self.has_events {
            for events in &job.events {
                hash.add(format!("{:?} {:?} {:?}", events.from, events.condition, events.fields).as_bytes());
            }
        }
        if self.groups.iter().any(|group| job.polled.groups[*group].own.browse.is_some()) {
            hash.add(b"model");
        }
        hash.add(&self.every.as_nanos().to_le_bytes());
        for handle in &self.handles {
            let item = readings.item(*handle);
            hash.add(&client_handle(*handle, self.base).to_le_bytes());
            hash.add(item.def.path.as_bytes());
            hash.add(item.def.address.as_bytes());
            if let Some(tag) = item.index.map(|index| &job.polled.tags[index]) {
                hash.add(&tag.address.sampling.as_nanos().to_le_bytes());
                hash.add(&tag.address.queue.to_le_bytes());
                hash.add(&[u8::from(wants_all(tag))]);
            }
        }
        self.plan = hash.get();
    }

    /// Makes it on the server.
    pub async fn create(&mut self, session: &Session, job: &CompiledSource) -> Result<(), Refused> {
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
            priority: u8::from(self.has_events),
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
        self.published = stamp(made.response_header.timestamp.ticks());
        if self.published.is_none() {
            self.published = Micros::now();
        }
        self.heard = Instant::now();
        self.failed.clear();
        self.deaf.clear();
        self.monitored.clear();
        (self.hears_model, self.is_full) = (false, false);
        self.expect(revised * made.revised_max_keep_alive_count.clamp(1, 1_000_000), job, session);
        Ok(())
    }

    /// Sets how long it may be quiet: its keep-alive, the answer's way, and as much again.
    pub fn expect(&mut self, keep_alive: Duration, job: &CompiledSource, session: &Session) {
        self.quiet_after = keep_alive.max(job.keep_alive) + session.within();
    }

    pub async fn delete(&mut self, session: &Session) {
        let id = std::mem::take(&mut self.id);
        if id != 0 {
            delete(session, id).await;
        }
    }

    /// Monitors items; each has a result of its own.
    pub async fn monitor(&mut self, session: &Session, job: &CompiledSource, items: &[Wanted]) -> Result<Monitored, Refused> {
        let mut outcome = Monitored::default();
        let mut wanted = Vec::new();
        for item in items {
            match &item.node {
                Ok(node) => wanted.push((item, request_of(item, self.base, node.clone(), job, self.every, true))),
                Err(status) => outcome.failed.push((item.handle, *status)),
            }
        }
        let mut unfiltered = Vec::new();
        let mut slower = (0_usize, 0.0_f64);
        let requests: Vec<_> = wanted.iter().map(|(_, request)| request.clone()).collect();
        for ((item, request), result) in wanted.iter().zip(self.ask(session, &requests).await?) {
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
                    unfiltered.push((item.handle, request_of(item, self.base, node, job, self.every, false)));
                }
                status => self.take(item.handle, status, result.monitored_item_id, &mut outcome),
            }
        }
        if let (items @ 1.., most_ms) = slower {
            tracing::info!(part = %self.part, items, most_ms, "the server samples these items less often than asked");
        }
        if !unfiltered.is_empty() {
            tracing::info!(part = %self.part, items = unfiltered.len(), "the server filters these items not as asked; Millrace does");
            let requests: Vec<_> = unfiltered.iter().map(|(_, request)| request.clone()).collect();
            for ((handle, _), result) in unfiltered.iter().zip(self.ask(session, &requests).await?) {
                self.take(*handle, result.status_code, result.monitored_item_id, &mut outcome);
            }
        }
        for (handle, status) in &outcome.failed {
            self.failed.failed(*handle, *status);
        }
        let is_bad: HashSet<usize> = outcome.failed.iter().map(|(handle, _)| *handle).chain(outcome.homeless.iter().copied()).collect();
        for Wanted { handle, .. } in items.iter().filter(|item| !is_bad.contains(&item.handle)) {
            self.failed.succeeded(handle);
        }
        if !outcome.homeless.is_empty() {
            self.is_full = true;
            let homeless: HashSet<usize> = outcome.homeless.iter().copied().collect();
            self.handles.retain(|handle| !homeless.contains(handle));
            for handle in &outcome.homeless {
                self.failed.succeeded(handle);
            }
        }
        Ok(outcome)
    }

    fn take(&mut self, handle: usize, status: UaStatus, id: u32, outcome: &mut Monitored) {
        match status {
            UaStatus::BadTooManyMonitoredItems => outcome.homeless.push(handle),
            status if status.is_bad() => outcome.failed.push((handle, StatusCode(status.bits()))),
            _ => drop(self.monitored.insert(handle, id)),
        }
    }

    /// A server that is full says so of an item or, asked for many, of the whole request; that is then asked again in halves, down to what still goes.
    async fn ask(&self, session: &Session, wanted: &[MonitoredItemCreateRequest]) -> Result<Vec<MonitoredItemCreateResult>, Refused> {
        let mut results = Vec::with_capacity(wanted.len());
        let mut most = usize::MAX;
        while results.len() < wanted.len() {
            let rest = &wanted[results.len()..];
            let piece = &rest[..rest.len().min(most)];
            match self.ask_pieces(session, piece).await {
                Ok(more) => results.extend(more),
                Err(refused) if refused.status() != UaStatus::BadTooManyMonitoredItems || session.channel().closed().is_some() => {
                    return Err(refused);
                }
                Err(_) if piece.len() > 1 => most = piece.len() / 2,
                Err(_) => {
                    let full = MonitoredItemCreateResult { status_code: UaStatus::BadTooManyMonitoredItems, ..Default::default() };
                    results.resize_with(wanted.len(), || full.clone());
                }
            }
        }
        Ok(results)
    }

    async fn ask_pieces(
        &self,
        session: &Session,
        wanted: &[MonitoredItemCreateRequest],
    ) -> Result<Vec<MonitoredItemCreateResult>, Refused> {
        in_pieces!(session, "CreateMonitoredItems", wanted, session.limits.monitor, |wanted| async {
            let request = CreateMonitoredItemsRequest {
                request_header: session.header(),
                subscription_id: self.id,
                timestamps_to_return: TimestampsToReturn::Both,
                items_to_create: Some(wanted.to_vec()),
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
        Ok(self.ask(session, &[request]).await?.pop().unwrap_or_default())
    }

    /// Whether the events of a notifier are monitored, or to be tried again.
    pub fn hears(&mut self, notifier: usize, is_monitored: bool) {
        if is_monitored {
            self.deaf.succeeded(&notifier);
        } else {
            self.deaf.failed(notifier, ());
        }
    }

    /// Items of nodes that are gone.
    pub async fn forget(&mut self, session: &Session, handles: &[usize]) -> Result<(), Refused> {
        let ids: Vec<u32> = handles.iter().filter_map(|handle| self.monitored.remove(handle)).collect();
        self.handles.retain(|handle| !handles.contains(handle));
        for handle in handles {
            self.failed.succeeded(handle);
        }
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

    /// An item that was on it, and for which it has no room now, is tried again like any other that fails.
    pub fn wait_for_room(&mut self, handle: usize) {
        self.handles.push(handle);
        self.failed.failed(handle, StatusCode(UaStatus::BadTooManyMonitoredItems.bits()));
    }

    /// Failed items whose time to try again has come.
    pub fn due(&self) -> Vec<usize> {
        self.failed.due()
    }

    /// Notifiers whose time to try again has come.
    pub fn deaf(&self) -> Vec<usize> {
        self.deaf.due()
    }

    /// A message that was sent before, if the server still has it.
    pub async fn republish(&self, session: &Session, number: u32) -> Result<NotificationMessage, Refused> {
        let request = RepublishRequest { request_header: session.header(), subscription_id: self.id, retransmit_sequence_number: number };
        match session.call("Republish", request).await? {
            ResponseMessage::Republish(answer) => Ok(answer.notification_message),
            other => Err(Refused { service: "Republish", error: unexpected(&other) }),
        }
    }

    /// Items that can't be monitored, and why.
    pub fn failing(&self) -> impl Iterator<Item = (usize, StatusCode)> {
        self.failed.iter().map(|(handle, why)| (*handle, *why))
    }
}

/// What became of items that were to be monitored.
#[derive(Debug, Default)]
pub struct Monitored {
    /// Those that can't be, and why: they are tried again.
    pub failed: Vec<(usize, StatusCode)>,
    /// Those for which the subscription has no room: they are not on it any more.
    pub homeless: Vec<usize>,
}

/// What is wrong with the items of a group, on whichever subscriptions they are, for a person.
pub fn complaint(subscriptions: &[Subscription], readings: &Readings, group: usize, part: &str) -> Option<String> {
    let is_its = |handle: &usize| readings.item(*handle).group == group;
    let on_it = || subscriptions.iter().filter(|subscription| subscription.groups.contains(&group));
    let failed: Vec<(usize, StatusCode)> = on_it().flat_map(Subscription::failing).filter(|(handle, _)| is_its(handle)).collect();
    // Some servers monitor what is not there: its values say so.
    let is_counted = |handle: &usize| failed.iter().any(|(known, _)| known == handle);
    let absent = readings.absent().filter(|handle| readings.item(*handle).def.part.as_ref() == part && !is_counted(handle));
    let mut wrong = failed.iter().copied().chain(absent.map(|handle| (handle, StatusCode::BAD_NODE_ID_UNKNOWN)));
    let (handle, status) = wrong.next()?;
    let others = wrong.count();
    let all: usize = on_it().map(|subscription| subscription.handles.iter().filter(|handle| is_its(handle)).count()).sum();
    let item = readings.item(handle);
    let mut text = format!(
        "{} of {all} items can't be monitored: {} ({}) is {}",
        others + 1,
        item.def.path,
        item.def.address,
        UaStatus::from(status.0)
    );
    if others > 0 {
        let _ = write!(text, ", and others");
    }
    Some(text)
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

/// What is asked of the server for an item, on a subscription that publishes `every` so often.
fn request_of(
    item: &Wanted,
    base: usize,
    node: NodeId,
    job: &CompiledSource,
    every: Duration,
    filtered: bool,
) -> MonitoredItemCreateRequest {
    let tag: Option<&Tag> = item.index.map(|index| &job.polled.tags[index]);
    let group = &job.polled.groups[item.group];
    let sampling = tag.map_or(group.own.sampling, |tag| tag.address.sampling);
    let queue = tag.map_or_else(|| queue_of_found(group), |tag| tag.address.queue);
    // On a slower subscription than its own, as many more values wait.
    let queue = if every > group.every { queue.max(queue_of(every, sampling)) } else { queue };
    let filter = if filtered { filter_of(tag, Some(group.own.deadband_at)) } else { None };
    MonitoredItemCreateRequest {
        item_to_monitor: ReadValueId { index_range: tag.map_or(NumericRange::None, |tag| tag.address.range.clone()), ..value_of(node) },
        monitoring_mode: MonitoringMode::Reporting,
        requested_parameters: MonitoringParameters {
            client_handle: client_handle(item.handle, base),
            sampling_interval: sampling.as_secs_f64() * 1000.0,
            filter: filter.map_or_else(ExtensionObject::null, ExtensionObject::from_message),
            queue_size: queue,
            discard_oldest: true,
        },
    }
}

fn filter_of(tag: Option<&Tag>, deadband_at: Option<DeadbandAt>) -> Option<DataChangeFilter> {
    let tag = tag?;
    let deadband = raw_deadband(tag).filter(|_| deadband_at == Some(DeadbandAt::Server));
    if deadband.is_none() && !wants_all(tag) {
        return None;
    }
    Some(DataChangeFilter {
        trigger: if wants_all(tag) { DataChangeTrigger::StatusValueTimestamp } else { DataChangeTrigger::StatusValue },
        deadband_type: u32::from(deadband.is_some()),
        deadband_value: deadband.unwrap_or(0.0),
    })
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
