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

use crate::connect::unexpected;
use crate::events;
use crate::history::Gaps;
use crate::session::{Refused, Session};
use crate::shard::Shared;
use crate::subscribe::{Subscription, ahead, delete, following};
use crate::trigger::{Mark, Triggers};
use crate::watermarks::Watermarks;
use crate::wire::{Undecodable, stamp};
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use millrace_contract::{AckId, Failure, Loss, SourceIo, Status};
use millrace_schemas::{Batch, Micros, StatusCode};
use opcua::core::ResponseMessage;
use opcua::types::{
    ByteStringBody, Error, NotificationMessage, ObjectId, PublishRequest, PublishResponse, StatusCode as UaStatus,
    SubscriptionAcknowledgement,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
    /// Messages of the batch being filled.
    filling: Vec<(u32, u32)>,
    /// Messages that wait for their batch to be durable.
    waiting: VecDeque<(AckId, u32, u32)>,
    ready: Vec<SubscriptionAcknowledgement>,
    durable: AckId,
}

impl Acks {
    fn sent(&mut self, id: AckId) {
        self.waiting.extend(self.filling.drain(..).map(|(subscription, number)| (id, subscription, number)));
    }

    fn release(&mut self, durable: AckId) {
        self.durable = durable;
        while let Some((id, subscription_id, sequence_number)) = self.waiting.front().copied()
            && id <= durable
        {
            self.waiting.pop_front();
            self.ready.push(SubscriptionAcknowledgement { subscription_id, sequence_number });
        }
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
    triggers: &'a mut Triggers,
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
        subscriptions: &'a mut Vec<Subscription>,
        triggers: &'a mut Triggers,
        gaps: &'a Gaps,
        watermarks: &'a mut Watermarks,
        outstanding: &'a mut Outstanding,
    ) -> Self {
        let wanted = (subscriptions.len() + 2).min(MOST_OUTSTANDING);
        Self {
            shared,
            session,
            subscriptions,
            triggers,
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
            self.shared.readings.lock().await.unread(&batch.rows[rows..]);
            batch.rows.truncate(rows);
            batch.docs.truncate(docs);
            self.triggers.undo(triggers);
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
            let (durable, waits, asks) =
                (self.outstanding.acks.durable, !self.outstanding.acks.waiting.is_empty(), !self.outstanding.asked.is_empty());
            tokio::select! {
                biased;
                () = io.stopping() => return Err(End::Stopping),
                status = self.session.channel().until_closed() => {
                    return Err(End::Failed(Failure::Reconnect(format!("the connection to {} is gone: {status}", self.shared.url()))));
                }
                id = io.durable(durable), if waits => self.outstanding.acks.release(id),
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
        self.shared.io.alive(&subscription.part);
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
                Ok(message) => self.take(index, message).await?,
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
                Ok(message) => self.take(index, message).await?,
                Err(refused) if self.session.channel().closed().is_some() => return Err(refused.into()),
                Err(_) => {
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
            self.shared.open_gap(&self.subscriptions[index], self.gaps).await;
        }
        Ok(())
    }

    /// One message in its turn, into the batch.
    async fn take(&mut self, index: usize, message: NotificationMessage) -> Result<(), End> {
        if self.batch.is_none() {
            self.batch = Some(room(&self.shared.io).await?);
        }
        self.torn = self.batch.as_ref().map(|batch| (batch.rows.len(), batch.docs.len(), self.triggers.mark()));
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
        self.outstanding.acks.filling.push((subscription.id, number));
        self.moved.insert(index);
        self.torn = None;
        if is_gone { Err(End::Lost(index)) } else { Ok(()) }
    }

    async fn data_change(&mut self, index: usize, body: &[u8]) -> Result<(), End> {
        let Some(batch) = &mut self.batch else { return Ok(()) };
        let first = batch.rows.len();
        let mut readings = self.shared.readings.lock().await;
        loop {
            match readings.data_change(body, batch, &self.shared.io) {
                Ok(tally) if !tally.unknown.is_empty() => {
                    for encoding in &tally.unknown {
                        readings.types.learn_encoding(self.session, encoding).await?;
                    }
                }
                Ok(tally) => {
                    if tally.overflows > 0 {
                        self.shared.io.lost(Loss::DeviceOverflow, tally.overflows);
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
        drop(readings);
        let fired = self.triggers.fired(batch, first);
        if !fired.is_empty() {
            self.triggers.read(self.session, self.shared, fired, batch).await?;
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
        let moved: Vec<(&str, String)> = std::mem::take(&mut self.moved)
            .into_iter()
            .filter_map(|index| self.subscriptions.get(index))
            .map(|subscription| (subscription.key.as_str(), subscription.position()))
            .collect();
        let moved: Vec<(&str, &[u8])> = moved.iter().map(|(key, position)| (*key, position.as_bytes())).collect();
        let acknowledges = self.triggers.acknowledges();
        let id = self.shared.io.send(batch, &moved).await;
        self.outstanding.acks.sent(id);
        for write in acknowledges {
            self.shared.acknowledge(id, write);
        }
    }

    /// Writes down how far each tag was read, behind what was read.
    pub async fn keep_watermarks(&mut self) {
        if self.shared.job.history.is_none() {
            return;
        }
        self.send().await;
        // While the log is full there is nothing new to write down.
        let Ok(batch) = tokio::time::timeout(Duration::from_millis(500), self.shared.io.batch()).await else { return };
        let readings = self.shared.readings.lock().await;
        let changed = self.watermarks.changed(self.subscriptions.iter(), &readings);
        drop(readings);
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
            let (due, deaf) = (subscription.due(now), subscription.deaf(now));
            if !due.is_empty() {
                self.try_again(index, &due).await?;
            }
            if !deaf.is_empty() {
                events::watch(self.shared, self.session, &mut self.subscriptions[index], &deaf).await?;
                self.say_bad(index, &[]).await?;
            }
            self.complain(index).await;
        }
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
        let items: Vec<_> = handles.iter().copied().zip(nodes).collect();
        let readings = self.shared.readings.lock().await;
        let failed = self.subscriptions[index].monitor(self.session, &self.shared.job, &items, &readings).await?;
        drop(readings);
        self.say_bad(index, &failed).await
    }

    /// A tag that can't be read is a sample with bad status, not a gap; and what still fails is known to whoever goes on.
    async fn say_bad(&mut self, index: usize, failed: &[(usize, StatusCode)]) -> Result<(), End> {
        let mut batch = room(&self.shared.io).await?;
        let mut readings = self.shared.readings.lock().await;
        for (handle, status) in failed {
            readings.bad(*handle, *status, &mut batch);
        }
        drop(readings);
        let subscription = &self.subscriptions[index];
        self.shared.io.send(batch, &[(&subscription.failures_key(), subscription.failures().as_bytes())]).await;
        Ok(())
    }

    async fn complain(&mut self, index: usize) {
        let subscription = &self.subscriptions[index];
        let complaint = subscription.complaint(&*self.shared.readings.lock().await);
        if self.complaints.get(&index) != Some(&complaint) {
            let status = complaint.clone().map_or(Status::Running, Status::Degraded);
            self.shared.io.status(&subscription.part, status);
            self.complaints.insert(index, complaint);
        }
    }

    /// The last acknowledgements, as far as they become durable in time.
    pub async fn finish(&mut self) {
        self.flush().await;
        let last = async {
            while let Some((id, ..)) = self.outstanding.acks.waiting.back().copied() {
                let durable =
                    self.shared.io.durable(AckId(self.outstanding.acks.durable.0.max(self.outstanding.acks.waiting[0].0.0 - 1))).await;
                self.outstanding.acks.release(durable);
                if durable >= id {
                    break;
                }
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
