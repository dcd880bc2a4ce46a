//! The publishing of one session: requests outstanding, messages in order, acknowledgements once the log is synced.
//!
//! ```text
//! Publish ──> message, number n ──> rows, with position n+1 in one batch ──> io.send ──> io.durable ──> acknowledged with the next Publish
//!                 │
//!                 └── n is ahead: Republish what is between; what the server no longer has is counted, and a gap for the history
//! ```
//!
//! Invariants: a message is acknowledged only after its rows and its number are synced; a number comes once; of a message that is not read to its end
//! nothing stays, and it comes again. What waits in memory is one batch and
//! the answers of [`MOST_OUTSTANDING`] requests: while the log is full, the server's queues fill, and what they drop is counted by the overflow bit.

use crate::channel::unexpected;
use crate::events;
use crate::history::{Gaps, open_gap};
use crate::session::{Refused, Session};
use crate::shared::Shared;
use crate::subscribe::{Monitored, Subscription, ahead, complaint, delete, following, items};
use crate::trigger;
use crate::watermarks::Watermarks;
use crate::wire::{Undecodable, stamp};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use millrace_contract::{AckId, Failure, Loss, SourceIo, Status};
use millrace_kit::AfterSync;
use millrace_kit::trigger::Mark;
use millrace_schemas::{Batch, Micros, StatusCode};
use opcua::core::ResponseMessage;
use opcua::types::{
    ByteStringBody, Error, NotificationMessage, ObjectId, PublishRequest, PublishResponse, StatusCode as UaStatus,
    SubscriptionAcknowledgement,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Publish requests that wait at the server, at most.
const MOST_OUTSTANDING: usize = 8;
/// Acknowledgements in one request, at most.
const MOST_ACKS: usize = 5_000;
/// Missing messages asked for one by one, at most; a longer gap is counted.
const MOST_REPUBLISHED: u32 = 1_000;
/// A batch is sent when it has so many rows, even if more is there.
const BATCH_ROWS: usize = 10_000;
/// How long the last acknowledgements may take when the engine stops.
const LAST_ACKS_WITHIN: Duration = Duration::from_secs(2);

type Asked = BoxFuture<'static, (Vec<SubscriptionAcknowledgement>, Result<PublishResponse, Error>)>;

/// Acknowledgements on their way.
#[derive(Default)]
struct Acks {
    /// Of messages whose batch is not durable yet.
    waiting: AfterSync<SubscriptionAcknowledgement>,
    ready: Vec<SubscriptionAcknowledgement>,
}

impl Acks {
    fn release(&mut self, durable: AckId) {
        self.waiting.synced(durable);
        self.ready.extend(std::iter::from_fn(|| self.waiting.pop()));
    }

    fn take(&mut self) -> Vec<SubscriptionAcknowledgement> {
        self.ready.drain(..self.ready.len().min(MOST_ACKS)).collect()
    }
}

/// Why publishing ended.
pub enum End {
    Stopping,
    Failed(Failure),
    /// A subscription is not there any more; the others are.
    Lost(usize),
}

impl From<Refused> for End {
    fn from(refused: Refused) -> Self {
        Self::Failed(refused.into())
    }
}

/// What a connection waits for. It outlives a change of the subscriptions: the server answers the requests that it has, whoever asked.
#[derive(Default)]
pub struct Outstanding {
    acks: Acks,
    asked: FuturesUnordered<Asked>,
}

/// The publishing of one session.
pub struct Publishing<'a> {
    shared: &'a Shared,
    session: &'a Arc<Session>,
    subscriptions: &'a mut Vec<Subscription>,
    /// Groups of which items are polled instead, and why.
    instead: &'a BTreeMap<usize, String>,
    gaps: &'a Gaps,
    watermarks: &'a mut Watermarks,
    outstanding: &'a mut Outstanding,
    wanted: usize,
    batch: Option<Batch>,
    /// The rows and documents of the batch, and the triggers, without the message that is being read: where that ends half-way, it comes again.
    torn: Option<(usize, usize, Mark)>,
    /// Subscriptions whose position moves with the batch.
    moved: BTreeSet<usize>,
    complaints: BTreeMap<usize, Option<String>>,
}

impl<'a> Publishing<'a> {
    pub fn new(
        shared: &'a Shared,
        session: &'a Arc<Session>,
        (subscriptions, instead): (&'a mut Vec<Subscription>, &'a BTreeMap<usize, String>),
        gaps: &'a Gaps,
        watermarks: &'a mut Watermarks,
        outstanding: &'a mut Outstanding,
    ) -> Self {
        let wanted = (subscriptions.len() + 2).min(MOST_OUTSTANDING);
        Self {
            shared,
            session,
            subscriptions,
            instead,
            gaps,
            watermarks,
            outstanding,
            wanted,
            batch: None,
            torn: None,
            moved: BTreeSet::new(),
            complaints: BTreeMap::new(),
        }
    }

    /// Runs until something ends it.
    pub async fn run(&mut self) -> End {
        match self.publish().await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    /// Sends what was read before the end: its numbers have moved.
    pub async fn flush(&mut self) {
        if let (Some((rows, docs, triggers)), Some(batch)) = (self.torn.take(), &mut self.batch) {
            self.shared.readings.lock().unread(&batch.rows[rows..]);
            batch.rows.truncate(rows);
            batch.docs.truncate(docs);
            self.shared.triggers.lock().undo(triggers);
        }
        self.send().await;
    }

    async fn publish(&mut self) -> Result<std::convert::Infallible, End> {
        let io = &self.shared.io;
        for index in 0..self.subscriptions.len() {
            if self.subscriptions[index].id != 0 {
                self.subscriptions[index].heard = Instant::now();
                self.catch_up(index).await?;
            }
        }
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            while self.outstanding.asked.len() < self.wanted && self.subscriptions.iter().any(|subscription| subscription.id != 0) {
                self.ask();
            }
            let (after, asks) = (self.outstanding.acks.waiting.waits_after(), !self.outstanding.asked.is_empty());
            tokio::select! {
                biased;
                () = io.stopping() => return Err(End::Stopping),
                status = self.session.channel().until_closed() => {
                    return Err(End::Failed(Failure::Reconnect(format!("the connection to {} is gone: {status}", self.shared.url()))));
                }
                id = io.durable(after.unwrap_or_default()), if after.is_some() => self.outstanding.acks.release(id),
                answer = self.outstanding.asked.next(), if asks => {
                    if let Some(answer) = answer {
                        self.answered(answer).await?;
                        // What else has come goes with it.
                        while self.batch.as_ref().is_some_and(|batch| batch.rows.len() < BATCH_ROWS)
                            && let Some(Some(answer)) = self.outstanding.asked.next().now_or_never()
                        {
                            self.answered(answer).await?;
                        }
                        self.send().await;
                    }
                }
                _ = tick.tick() => self.look_after().await?,
            }
        }
    }

    fn ask(&mut self) {
        let acks = self.outstanding.acks.take();
        // The server answers at the latest with a keep-alive; the watch over each subscription is ours.
        let within = self
            .subscriptions
            .iter()
            .filter(|s| s.id != 0)
            .map(|s| s.quiet_after)
            .max()
            .unwrap_or_default()
            .min(Duration::from_secs(86_400));
        let session = self.session.clone();
        self.outstanding.asked.push(Box::pin(async move {
            let request = PublishRequest {
                request_header: session.channel().header(within * 2),
                subscription_acknowledgements: if acks.is_empty() { None } else { Some(acks.clone()) },
            };
            let answer = session.channel().send(request, within * 2).await;
            let answer = answer.and_then(|answer| match answer {
                ResponseMessage::Publish(answer) => Ok(*answer),
                other => Err(unexpected(&other)),
            });
            (acks, answer)
        }));
    }

    async fn answered(&mut self, (acks, answer): (Vec<SubscriptionAcknowledgement>, Result<PublishResponse, Error>)) -> Result<(), End> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.outstanding.acks.ready.extend(acks);
                return self.refused(&error);
            }
        };
        let Some(index) = self.subscriptions.iter().position(|subscription| subscription.id == answer.subscription_id) else {
            delete(self.session, answer.subscription_id).await;
            return Ok(());
        };
        let message = answer.notification_message;
        let subscription = &mut self.subscriptions[index];
        subscription.heard = Instant::now();
        subscription.parts.iter().for_each(|part| self.shared.io.alive(part));
        let number = message.sequence_number;
        let is_keep_alive = message.notification_data.as_ref().is_none_or(Vec::is_empty);
        match ahead(subscription.next, number) {
            // It came before; the acknowledgement did not get there.
            None if is_keep_alive => Ok(()),
            None => {
                self.outstanding
                    .acks
                    .ready
                    .push(SubscriptionAcknowledgement { subscription_id: answer.subscription_id, sequence_number: number });
                Ok(())
            }
            Some(missing) => {
                if missing > 0 {
                    self.fetch(index, missing).await?;
                }
                if is_keep_alive {
                    return Ok(());
                }
                self.take(index, message).await
            }
        }
    }

    fn refused(&mut self, error: &Error) -> Result<(), End> {
        match error.status() {
            UaStatus::BadTooManyPublishRequests => {
                self.wanted = (self.outstanding.asked.len()).max(1);
                Ok(())
            }
            UaStatus::BadNoSubscription => match self.subscriptions.iter().position(|subscription| subscription.id != 0) {
                Some(index) => Err(End::Lost(index)),
                None => Ok(()),
            },
            // The queue of the server was full of older ones.
            UaStatus::BadTimeout if self.session.channel().closed().is_none() => Ok(()),
            _ => Err(End::Failed(Failure::Reconnect(format!("publishing by {} failed: {error}", self.shared.url())))),
        }
    }

    /// What was published and did not come: after a reconnect, and in another process's place.
    async fn catch_up(&mut self, index: usize) -> Result<(), End> {
        for _ in 0..MOST_REPUBLISHED {
            let subscription = &self.subscriptions[index];
            match subscription.republish(self.session, subscription.next).await {
                Ok(message) if message.sequence_number == subscription.next => self.take(index, message).await?,
                // Some servers answer what they do not have with an empty message, as often as they are asked.
                Ok(_) => break,
                Err(refused) => match refused.status() {
                    UaStatus::BadSubscriptionIdInvalid | UaStatus::BadNoSubscription => return Err(End::Lost(index)),
                    _ if self.session.channel().closed().is_some() => return Err(refused.into()),
                    // It was the last; or the server has no Republish at all, and the next number shows what is missing.
                    _ => break,
                },
            }
        }
        self.send().await;
        Ok(())
    }

    /// Fetches the messages before one that came too early.
    async fn fetch(&mut self, index: usize, missing: u32) -> Result<(), End> {
        let mut lost = missing.saturating_sub(MOST_REPUBLISHED);
        for _ in 0..missing.min(MOST_REPUBLISHED) {
            let subscription = &self.subscriptions[index];
            match subscription.republish(self.session, subscription.next).await {
                Ok(message) if message.sequence_number == subscription.next => self.take(index, message).await?,
                Err(refused) if self.session.channel().closed().is_some() => return Err(refused.into()),
                // Not there any more; or another message than was asked for, which says as much.
                Ok(_) | Err(_) => {
                    lost += 1;
                    let subscription = &mut self.subscriptions[index];
                    subscription.next = following(subscription.next);
                }
            }
        }
        let subscription = &mut self.subscriptions[index];
        if missing > MOST_REPUBLISHED {
            subscription.next = subscription.next.wrapping_add(missing - MOST_REPUBLISHED).max(1);
        }
        if lost > 0 {
            tracing::error!(part = %subscription.part, messages = lost, "the server no longer has messages that did not come");
            self.shared.io.lost(Loss::SequenceGap, lost.into());
            open_gap(self.shared, &self.subscriptions[index], self.gaps);
        }
        Ok(())
    }

    /// One message in its turn, into the batch.
    async fn take(&mut self, index: usize, message: NotificationMessage) -> Result<(), End> {
        if self.batch.is_none() {
            self.batch = Some(room(&self.shared.io).await?);
        }
        self.torn = self.batch.as_ref().map(|batch| (batch.rows.len(), batch.docs.len(), self.shared.triggers.lock().mark()));
        let number = message.sequence_number;
        // Where the server does not say when, it was now.
        let published = Some(stamp(message.publish_time.ticks())).filter(|time| !time.is_none()).unwrap_or_else(Micros::now);
        let mut is_gone = false;
        for notification in message.notification_data.unwrap_or_default() {
            let Some(body) = notification.into_inner_as::<ByteStringBody>() else { continue };
            match body.encoding_id().as_object_id() {
                Ok(ObjectId::DataChangeNotification_Encoding_DefaultBinary) => self.data_change(index, body.raw_body().as_ref()).await?,
                Ok(ObjectId::EventNotificationList_Encoding_DefaultBinary) => self.events(body.raw_body().as_ref()),
                Ok(ObjectId::StatusChangeNotification_Encoding_DefaultBinary) => is_gone = true,
                _ => tracing::warn!(part = %self.subscriptions[index].part, "the server sent a notification of no known type"),
            }
        }
        let subscription = &mut self.subscriptions[index];
        subscription.published = published;
        subscription.next = following(number);
        self.outstanding.acks.waiting.push(SubscriptionAcknowledgement { subscription_id: subscription.id, sequence_number: number });
        self.moved.insert(index);
        self.torn = None;
        if is_gone { Err(End::Lost(index)) } else { Ok(()) }
    }

    async fn data_change(&mut self, index: usize, body: &[u8]) -> Result<(), End> {
        let Some(batch) = &mut self.batch else { return Ok(()) };
        let first = batch.rows.len();
        loop {
            let types = self.shared.types();
            let base = self.subscriptions[index].base;
            let read = self.shared.readings.lock().data_change(body, base, &types, batch, &self.shared.io);
            match read {
                Ok(tally) if !tally.unknown.is_empty() => self.shared.learn(self.session, &tally.unknown).await?,
                Ok(tally) => {
                    if tally.overflows > 0 {
                        self.shared.io.lost(Loss::DeviceOverflow, tally.overflows);
                    }
                    if tally.dropped > 0 {
                        tracing::warn!(
                            part = %self.subscriptions[index].part,
                            about = tally.dropped,
                            "the server's queues were too short for this pause; set a larger `queue`, or `history: {{from: last}}` where it keeps one"
                        );
                        self.shared.io.lost(Loss::Other("server_queue"), tally.dropped);
                    }
                    if tally.strangers > 0 {
                        self.shared.io.lost(Loss::Other("unknown_handle"), tally.strangers);
                    }
                    break;
                }
                Err(Undecodable(what)) => {
                    tracing::error!(part = %self.subscriptions[index].part, what, "a notification can't be read");
                    self.shared.io.lost(Loss::Other("undecodable"), 1);
                    break;
                }
            }
        }
        let fired = self.shared.triggers.lock().fired(batch, first);
        if !fired.is_empty() {
            trigger::record(self.shared, self.session, fired, batch).await?;
        }
        Ok(())
    }

    fn events(&mut self, body: &[u8]) {
        let Some(batch) = &mut self.batch else { return };
        match events::documents(&self.shared.job, body, batch) {
            Ok(heard) => {
                if heard.model {
                    self.shared.model_changed();
                }
                if heard.strangers > 0 {
                    self.shared.io.lost(Loss::Other("unknown_handle"), heard.strangers);
                }
            }
            Err(Undecodable(what)) => {
                tracing::error!(what, "an event can't be read");
                self.shared.io.lost(Loss::Other("undecodable"), 1);
            }
        }
    }

    /// Hands the batch over, with the positions of what is in it.
    async fn send(&mut self) {
        let Some(batch) = self.batch.take() else { return };
        let subscriptions = std::mem::take(&mut self.moved)
            .into_iter()
            .filter_map(|index| self.subscriptions.get(index))
            .map(|subscription| (subscription.key.clone(), subscription.position().into_bytes()));
        let mut moved: Vec<(String, Vec<u8>)> = subscriptions.collect();
        let has_recorded = {
            let triggers = self.shared.triggers.lock();
            if triggers.has_recorded() {
                moved.extend(triggers.moved().into_iter().map(|(key, event)| (key.to_owned(), event.to_vec())));
            }
            triggers.has_recorded()
        };
        let moved: Vec<(&str, &[u8])> = moved.iter().map(|(key, position)| (key.as_str(), position.as_slice())).collect();
        let id = self.shared.io.send(batch, &moved).await;
        self.outstanding.acks.waiting.sent(id);
        if has_recorded {
            self.shared.triggers.lock().sent(id, &self.shared.io);
        }
        self.shared.acknowledge.notify_one();
    }

    /// Writes down how far each tag was read, behind what was read.
    pub async fn keep_watermarks(&mut self) {
        if self.shared.job.history.is_none() {
            return;
        }
        self.send().await;
        // While the log is full there is nothing new to write down.
        let Ok(batch) = tokio::time::timeout(Duration::from_millis(500), self.shared.io.batch()).await else { return };
        let changed = self.watermarks.changed(self.subscriptions.iter(), &self.shared.readings.lock());
        if !changed.is_empty() {
            let moved: Vec<(&str, &[u8])> = changed.iter().map(|(key, times)| (key.as_str(), times.as_slice())).collect();
            self.shared.io.send(batch, &moved).await;
        }
    }

    /// Health, and items that wait to be tried again.
    async fn look_after(&mut self) -> Result<(), End> {
        let now = Instant::now();
        for index in 0..self.subscriptions.len() {
            let subscription = &self.subscriptions[index];
            if subscription.id == 0 {
                continue;
            }
            if now.duration_since(subscription.heard) > subscription.quiet_after {
                let what = format!("{} of {} has been quiet for {:?}", subscription.part, self.shared.url(), subscription.quiet_after);
                return Err(End::Failed(Failure::Reconnect(what)));
            }
            let (due, deaf) = (subscription.due(), subscription.deaf());
            if !due.is_empty() {
                self.try_again(index, &due).await?;
            }
            if !deaf.is_empty() {
                events::watch(self.shared, self.session, &mut self.subscriptions[index], &deaf).await?;
                self.say_bad(index, &[]).await?;
            }
        }
        self.complain();
        if self.watermarks.is_due() {
            self.keep_watermarks().await;
        }
        // Acknowledgements do not wait for data.
        if self.outstanding.acks.ready.len() >= MOST_ACKS / 2 && self.outstanding.asked.len() <= self.wanted {
            self.ask();
        }
        Ok(())
    }

    async fn try_again(&mut self, index: usize, handles: &[usize]) -> Result<(), End> {
        let nodes = self.shared.resolve(self.session, handles).await?;
        let items = items(&self.shared.readings.lock(), handles, nodes);
        let subscription = &mut self.subscriptions[index];
        let Monitored { mut failed, homeless } = subscription.monitor(self.session, &self.shared.job, &items).await?;
        for handle in homeless {
            subscription.wait_for_room(handle);
            failed.push((handle, StatusCode(UaStatus::BadTooManyMonitoredItems.bits())));
        }
        self.say_bad(index, &failed).await
    }

    /// A tag that can't be read is a sample with bad status, not a gap; and what still fails is known to whoever goes on.
    async fn say_bad(&mut self, index: usize, failed: &[(usize, StatusCode)]) -> Result<(), End> {
        let mut batch = room(&self.shared.io).await?;
        for (handle, status) in failed {
            self.shared.readings.lock().bad(*handle, *status, &mut batch);
        }
        let subscription = &self.subscriptions[index];
        self.shared.io.send(batch, &[(&subscription.failures_key(), subscription.failures().as_bytes())]).await;
        Ok(())
    }

    fn complain(&mut self) {
        for (group, known) in self.shared.job.polled.groups.iter().enumerate() {
            if !self.subscriptions.iter().any(|subscription| subscription.groups.contains(&group)) {
                continue;
            }
            let wrong = complaint(self.subscriptions, &self.shared.readings.lock(), group, &known.part);
            let all: Vec<String> = self.instead.get(&group).cloned().into_iter().chain(wrong).collect();
            let complaint = (!all.is_empty()).then(|| all.join("; "));
            if self.complaints.get(&group) != Some(&complaint) {
                self.shared.io.status(&known.part, complaint.clone().map_or(Status::Running, Status::Degraded));
                self.complaints.insert(group, complaint);
            }
        }
    }

    /// The last acknowledgements, as far as they become durable in time.
    pub async fn finish(&mut self) {
        self.flush().await;
        let last = async {
            while let Some(after) = self.outstanding.acks.waiting.waits_after() {
                let durable = self.shared.io.durable(after).await;
                self.outstanding.acks.release(durable);
            }
        };
        let _ = tokio::time::timeout(LAST_ACKS_WITHIN, last).await;
        if !self.outstanding.acks.ready.is_empty() && self.session.channel().closed().is_none() {
            self.ask();
            // The acknowledgements are in effect when the request is there; its answer may take until the next message.
            let _ = tokio::time::timeout(Duration::from_millis(200), self.outstanding.asked.next()).await;
        }
    }
}

/// Room for rows; waits while the log is full.
async fn room(io: &SourceIo) -> Result<Batch, End> {
    tokio::select! {
        biased;
        () = io.stopping() => Err(End::Stopping),
        batch = io.batch() => Ok(batch),
    }
}
