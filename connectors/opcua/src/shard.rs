//! One session of a source and everything that runs on it: subscriptions, polls, triggers, history, commands, discovery.
//!
//! ```text
//! connect, or go on ──> namespaces, limits ──> tags, types ──> subscriptions ──┬── publishing   (publish.rs)
//!       ^                                                                     ├── polls, history, commands, discovery
//!       └── what fails ends the session; what is kept outlives it <───────────┴── keep-alive
//! ```
//!
//! What outlives a connection: the server's session, the subscriptions with their next numbers, the items with their last times.

use crate::connect::{self, Kept};
use crate::discover::{self, Found};
use crate::events;
use crate::history::{self, Gaps};
use crate::job::{How, Job, Tag};
use crate::poll::{self, Polling};
use crate::publish::{End, Outstanding, Publishing};
use crate::readings::{Readings, typed};
use crate::resolve::Resolver;
use crate::session::{Refused, Session, attribute_of, value_of};
use crate::subscribe::{Subscription, delete, transfer};
use crate::trigger::Triggers;
use crate::watermarks::{self, Watermarks};
use crate::wire::builtin;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use millrace_contract::{AckId, Failure, SourceIo, Status};
use millrace_schemas::{Origin, StatusCode, TagId};
use opcua::types::{AttributeId, NodeId, StatusCode as UaStatus, VariableId, Variant};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// A node, or why there is none; and when that was found out.
type Known = (Result<NodeId, StatusCode>, Instant);

/// What the tasks of one session have in common.
pub struct Shared {
    pub job: Arc<Job>,
    pub io: SourceIo,
    pub readings: tokio::sync::Mutex<Readings>,
    /// Node ids of this connection, by handle.
    nodes: parking_lot::Mutex<HashMap<usize, Known>>,
    url: String,
    acknowledge: mpsc::UnboundedSender<(AckId, usize)>,
    acknowledges: tokio::sync::Mutex<mpsc::UnboundedReceiver<(AckId, usize)>>,
    /// Ticks when the server says that its address space changed.
    model: watch::Sender<()>,
    at: String,
}

/// What was not there is looked for again after this.
const MISSING_FOR: Duration = Duration::from_secs(5);
/// Changes of an address space come in swarms: it is looked at once they have settled for so long.
const MODEL_SETTLES: Duration = Duration::from_secs(1);

impl Shared {
    fn new(job: Arc<Job>, io: SourceIo) -> Self {
        let (acknowledge, acknowledges) = mpsc::unbounded_channel();
        let at = job.at.clone();
        Self {
            job,
            io,
            readings: tokio::sync::Mutex::default(),
            nodes: parking_lot::Mutex::default(),
            url: String::new(),
            acknowledge,
            acknowledges: tokio::sync::Mutex::new(acknowledges),
            model: watch::Sender::new(()),
            at,
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server says that nodes came or went.
    pub fn model_changed(&self) {
        self.model.send_replace(());
    }

    /// Sets a trigger's acknowledging tag once its document is synced.
    pub fn acknowledge(&self, id: AckId, handle: usize) {
        let _ = self.acknowledge.send((id, handle));
    }

    pub async fn next_acknowledge(&self) -> Option<(AckId, usize)> {
        self.acknowledges.lock().await.recv().await
    }

    /// The node of each item.
    pub async fn resolve(&self, session: &Session, handles: &[usize]) -> Result<Vec<Result<NodeId, StatusCode>>, Refused> {
        let unknown: Vec<usize> = {
            let nodes = self.nodes.lock();
            let is_unknown = |handle: &usize| match nodes.get(handle) {
                None => true,
                Some((node, since)) => node.is_err() && since.elapsed() > MISSING_FOR,
            };
            handles.iter().copied().filter(is_unknown).collect()
        };
        if !unknown.is_empty() {
            let indices: Vec<Option<usize>> = {
                let readings = self.readings.lock().await;
                unknown.iter().map(|handle| readings.item(*handle).index).collect()
            };
            let named: Vec<_> = unknown
                .iter()
                .zip(&indices)
                .filter_map(|(handle, index)| index.map(|index| (*handle, &self.job.tags[index].address)))
                .collect();
            let addresses: Vec<_> = named.iter().map(|(_, address)| *address).collect();
            let found = Resolver::default().resolve(session, &addresses).await?;
            let mut nodes = self.nodes.lock();
            for ((handle, _), node) in named.into_iter().zip(found) {
                nodes.insert(handle, (node, Instant::now()));
            }
        }
        let nodes = self.nodes.lock();
        let node = |handle: &usize| nodes.get(handle).map_or(Err(StatusCode::BAD_NODE_ID_UNKNOWN), |(node, _)| node.clone());
        Ok(handles.iter().map(node).collect())
    }

    /// The built-in type of a variable.
    pub async fn builtin_of(&self, session: &Session, node: &NodeId) -> Result<u8, Refused> {
        let value = session.read(&[attribute_of(node.clone(), AttributeId::DataType)]).await?.pop();
        let Some(Some(Variant::NodeId(id))) = value.map(|value| value.value) else { return Ok(builtin::VARIANT) };
        let mut readings = self.readings.lock().await;
        readings.types.learn(session, std::slice::from_ref(&*id)).await?;
        Ok(readings.types.known(&id).map_or(builtin::VARIANT, |known| known.builtin))
    }

    /// A subscription's items missed something: each from its last value on, or from when the last message was published.
    pub async fn open_gap(&self, subscription: &Subscription, gaps: &Gaps) {
        if self.job.history.is_none() {
            return;
        }
        let mut readings = self.readings.lock().await;
        let missed: Vec<_> =
            subscription.handles.iter().map(|handle| (*handle, readings.begin_gap(*handle, subscription.published))).collect();
        drop(readings);
        gaps.open(missed.into_iter());
    }
}

/// One of a source's sessions, and what it keeps from connection to connection.
pub struct Shard {
    job: Arc<Job>,
    index: usize,
    shared: Option<Shared>,
    kept: Option<Kept>,
    /// Which target was connected last.
    target: usize,
    space: Option<Arc<crate::address::Space>>,
    /// The positions of an earlier process were taken up.
    has_resumed: bool,
    subscriptions: Vec<Subscription>,
    polls: Vec<Polling>,
    triggers: Triggers,
    gaps: Gaps,
    watermarks: Watermarks,
    /// What was found by browsing, by group: handles, in the order they were found first.
    found: HashMap<usize, Vec<usize>>,
}

/// What a session's side tasks ended with.
enum Aside {
    Failed(Failure),
    Changed(usize, Vec<Found>),
}

impl Shard {
    pub fn new(job: Arc<Job>, index: usize) -> Self {
        Self {
            job,
            index,
            shared: None,
            kept: None,
            target: 0,
            space: None,
            has_resumed: false,
            subscriptions: Vec::new(),
            polls: Vec::new(),
            triggers: Triggers::default(),
            gaps: Gaps::default(),
            watermarks: Watermarks::default(),
            found: HashMap::new(),
        }
    }

    pub fn index(&self) -> usize {
        self.index
    }

    /// Runs one connection to its end.
    pub async fn run(&mut self, io: &SourceIo) -> Failure {
        let session = tokio::select! {
            biased;
            () = io.stopping() => return Failure::Stopped,
            connected = self.connect(io) => match connected {
                Ok(session) => session,
                Err(failure) => return failure,
            }
        };
        let session = Arc::new(session);
        self.kept = Some(session.kept().clone());
        let prepared = tokio::select! {
            biased;
            () = io.stopping() => return Failure::Stopped,
            prepared = self.prepare(io, &session) => prepared,
        };
        if let Err(refused) = prepared {
            return self.refused(&session, &refused);
        }
        let mut outstanding = Outstanding::default();
        loop {
            if let Err(refused) = tokio::select! {
                biased;
                () = io.stopping() => return Failure::Stopped,
                made = self.subscribe(&session) => made,
            } {
                return self.refused(&session, &refused);
            }
            let end = self.live(&session, &mut outstanding).await;
            match end {
                Ok(failure) => {
                    if failure == Failure::Stopped {
                        // The session stays at the server, for whoever starts next: its subscriptions then miss nothing.
                        let _ = tokio::time::timeout(Duration::from_secs(1), session.channel().close()).await;
                    }
                    return failure;
                }
                Err(Lost::Subscription(index)) => {
                    if let (Some(subscription), Some(shared)) = (self.subscriptions.get_mut(index), &self.shared) {
                        tracing::warn!(part = %subscription.part, endpoint = shared.url(), "the server no longer has this subscription; it is made again");
                        subscription.id = 0;
                        shared.open_gap(subscription, &self.gaps).await;
                    }
                }
                Err(Lost::Nodes(group, found)) => {
                    if let Err(refused) = self.change(&session, group, found).await {
                        return self.refused(&session, &refused);
                    }
                }
            }
        }
    }

    fn refused(&mut self, session: &Session, refused: &Refused) -> Failure {
        match refused.status() {
            UaStatus::BadSessionIdInvalid | UaStatus::BadSessionClosed | UaStatus::BadSessionNotActivated => self.kept = None,
            _ => {}
        }
        let url = self.shared.as_ref().map_or("", Shared::url);
        let why = match session.channel().closed() {
            Some(status) => format!("the connection to {url} is gone: {status}"),
            None => format!("{url}: {refused}"),
        };
        Failure::Reconnect(why)
    }

    /// The first target that answers, beginning with the one that answered last.
    async fn connect(&mut self, io: &SourceIo) -> Result<Session, Failure> {
        let job = self.job.clone();
        if self.kept.is_none() {
            self.kept = io.resume(&self.session_key()).and_then(|text| Kept::read(&text));
        }
        let mut first = None;
        for offset in 0..job.targets.len() {
            let index = (self.target + offset) % job.targets.len();
            // Another server does not know the session.
            let kept = self.kept.clone().filter(|_| offset == 0);
            match connect::connect(&job.targets[index], kept).await {
                Ok(session) => {
                    if index != self.target {
                        tracing::warn!(endpoint = %job.targets[index].url, "the other server of the set is read now");
                        for subscription in &mut self.subscriptions {
                            subscription.id = 0;
                        }
                    }
                    self.target = index;
                    return Ok(session);
                }
                Err(failure) => drop(first.get_or_insert(failure)),
            }
        }
        self.target = (self.target + 1) % job.targets.len();
        if job.targets.len() > 1 {
            self.kept = None;
        }
        Err(first.unwrap_or(Failure::Stopped))
    }

    fn session_key(&self) -> String {
        format!("session/{}", self.index)
    }

    /// Namespaces, limits, tags, types.
    async fn prepare(&mut self, io: &SourceIo, session: &Session) -> Result<(), Refused> {
        session.prepare().await?;
        let is_first = self.shared.is_none();
        let mut shared = self.shared.take().unwrap_or_else(|| Shared::new(self.job.clone(), io.clone()));
        shared.io = io.clone();
        shared.url = self.job.targets[self.target].url.clone();
        if is_first {
            self.fill(&mut shared);
        } else {
            self.declare(&mut shared);
        }
        let shared = &*self.shared.insert(shared);
        let space = session.space();
        let is_other = self.space.as_ref().is_some_and(|known| *known != space);
        self.space = Some(space);
        if is_other || !session.is_resumed() {
            // Node ids, types and items were those of the table before.
            shared.nodes.lock().clear();
            shared.readings.lock().await.types = Default::default();
        }
        if is_other {
            tracing::warn!(endpoint = shared.url(), "the server's namespace table changed; every node is looked for again");
            for index in 0..self.subscriptions.len() {
                if session.is_resumed() {
                    self.subscriptions[index].delete(session).await;
                }
                self.subscriptions[index].id = 0;
                shared.open_gap(&self.subscriptions[index], &self.gaps).await;
            }
        }
        self.discover(session).await?;
        self.describe(session).await?;
        if !std::mem::replace(&mut self.has_resumed, true) {
            self.resume().await;
        }
        self.take_over(session).await
    }

    /// Whether a tag is this session's.
    fn is_mine(&self, index: usize, tag: &Tag) -> bool {
        let job = &self.job;
        let (sessions, group) = (job.sessions, &job.groups[tag.group]);
        if let How::Trigger(trigger) = &group.how {
            return self.is_mine(trigger.tag, &job.tags[trigger.tag]);
        }
        if sessions == 1 || tag.def.options.writable == Some(true) {
            return self.index == 0;
        }
        (index - group.tags.start) * sessions / group.tags.len().max(1) == self.index
    }

    /// The items of the YAML, and what reads them.
    fn fill(&mut self, shared: &mut Shared) {
        let job = self.job.clone();
        let readings = shared.readings.get_mut();
        for (number, group) in job.groups.iter().enumerate() {
            let mut handles = Vec::new();
            for index in group.tags.clone().filter(|index| self.is_mine(*index, &job.tags[*index])) {
                let def = &job.tags[index].def;
                let tag = match group.how {
                    // A field of a document is no tag.
                    How::Trigger(_) => TagId::NONE,
                    _ => match shared.io.declare(def.clone()) {
                        Ok(tag) => tag,
                        Err(clash) => {
                            tracing::error!(%clash, "a tag is not read");
                            continue;
                        }
                    },
                };
                handles.push(readings.add(tag, def.clone(), Some(index)));
            }
            let is_here = !handles.is_empty() || group.browse.is_some() && self.index == 0;
            match &group.how {
                How::Subscribe if is_here => {
                    let key = format!("s{}/{}", self.index, number + 1);
                    let mut subscription = Subscription::new(group.part.clone(), key, Some(number), group.every);
                    subscription.handles = handles;
                    self.subscriptions.push(subscription);
                }
                How::Poll if is_here => self.polls.push(Polling { group: number, handles }),
                _ => {}
            }
        }
        for (number, group) in job.groups.iter().enumerate() {
            let How::Trigger(trigger) = &group.how else { continue };
            let of = |index: usize| (0..readings.len()).find(|handle| readings.item(*handle).index == Some(index));
            let Some(tag) = of(trigger.tag).map(|handle| readings.tag(handle)) else { continue };
            let handles = group.tags.clone().filter_map(|index| of(index).map(|handle| (handle, index))).collect();
            self.triggers.add(number, tag, trigger.edge, handles, trigger.ack.and_then(of));
        }
        if self.index == 0 && !job.events.is_empty() {
            self.subscriptions.push(Subscription::new("events".into(), "s0/events".into(), None, Duration::from_millis(500)));
        }
    }

    /// The tags again, for an engine that may have another number for them.
    fn declare(&mut self, shared: &mut Shared) {
        let readings = shared.readings.get_mut();
        for handle in 0..readings.len() {
            if readings.tag(handle) != TagId::NONE
                && let Ok(tag) = shared.io.declare(readings.item(handle).def.clone())
            {
                readings.set_tag(handle, tag);
            }
        }
    }

    /// Looks for the variables of every group that browses.
    async fn discover(&mut self, session: &Session) -> Result<(), Refused> {
        if self.index != 0 {
            return Ok(());
        }
        let job = self.job.clone();
        for (number, group) in job.groups.iter().enumerate() {
            let Some(browse) = &group.browse else { continue };
            let Some(shared) = &self.shared else { continue };
            let look = discover::look(session, browse, group, &shared.at).await?;
            let status = look.complaint.map_or(Status::Running, |what| Status::Degraded(format!("browse: {what}")));
            shared.io.status(&format!("{}, browse", group.part), status);
            self.admit(number, look.found).await;
        }
        Ok(())
    }

    /// Takes what was found into a group. Returns the handles that are new, and those that are gone.
    async fn admit(&mut self, group: usize, found: Vec<Found>) -> (Vec<usize>, Vec<usize>) {
        let Some(shared) = &self.shared else { return Default::default() };
        let known = self.found.entry(group).or_default();
        let mut readings = shared.readings.lock().await;
        let by_path: HashMap<String, usize> = known.iter().map(|handle| (readings.item(*handle).def.path.clone(), *handle)).collect();
        let (mut new, mut here) = (Vec::new(), Vec::new());
        for Found { node, def } in found {
            let handle = match by_path.get(&def.path) {
                Some(handle) => {
                    let _ = shared.io.declare(def.clone());
                    readings.redefine(*handle, def);
                    *handle
                }
                None => match shared.io.declare(def.clone()) {
                    Ok(tag) => {
                        let handle = readings.add(tag, def, None);
                        new.push(handle);
                        handle
                    }
                    Err(clash) => {
                        tracing::warn!(%clash, "a variable that was found is not read");
                        continue;
                    }
                },
            };
            shared.nodes.lock().insert(handle, (Ok(node), Instant::now()));
            here.push(handle);
        }
        let gone: Vec<usize> = known.iter().copied().filter(|handle| !here.contains(handle)).collect();
        for handle in &gone {
            shared.io.retire(readings.tag(*handle));
        }
        *known = here;
        drop(readings);
        for subscription in self.subscriptions.iter_mut().filter(|subscription| subscription.group == Some(group)) {
            subscription.handles.extend(&new);
            subscription.handles.retain(|handle| !gone.contains(handle));
        }
        for polling in self.polls.iter_mut().filter(|polling| polling.group == group) {
            polling.handles.extend(&new);
            polling.handles.retain(|handle| !gone.contains(handle));
        }
        (new, gone)
    }

    /// The address space changed while it was read.
    async fn change(&mut self, session: &Session, group: usize, found: Vec<Found>) -> Result<(), Refused> {
        let (new, gone) = self.admit(group, found).await;
        tracing::info!(new = new.len(), gone = gone.len(), "the server's address space changed");
        self.describe(session).await?;
        let Some(shared) = &self.shared else { return Ok(()) };
        let Some(subscription) = self.subscriptions.iter_mut().find(|subscription| subscription.group == Some(group)) else {
            return Ok(());
        };
        subscription.forget(session, &gone).await?;
        let nodes = shared.resolve(session, &new).await?;
        let items: Vec<_> = new.into_iter().zip(nodes).collect();
        let readings = shared.readings.lock().await;
        subscription.make_plan(&readings, &shared.job);
        let failed = subscription.monitor(session, &shared.job, &items, &readings).await?;
        drop(readings);
        remember(shared, subscription, failed).await;
        Ok(())
    }

    /// Types, for the catalog.
    async fn describe(&mut self, session: &Session) -> Result<(), Refused> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let handles: Vec<usize> = {
            let readings = shared.readings.lock().await;
            (0..readings.len()).filter(|handle| readings.tag(*handle) != TagId::NONE && readings.item(*handle).def.kind.is_none()).collect()
        };
        let nodes = shared.resolve(session, &handles).await?;
        let present: Vec<(usize, NodeId)> =
            handles.into_iter().zip(nodes).filter_map(|(handle, node)| node.ok().map(|node| (handle, node))).collect();
        let asked: Vec<_> = present.iter().map(|(_, node)| attribute_of(node.clone(), AttributeId::DataType)).collect();
        let values = session.read(&asked).await?;
        let mut readings = shared.readings.lock().await;
        for ((handle, _), value) in present.into_iter().zip(values) {
            let Some(Variant::NodeId(id)) = value.value else { continue };
            readings.types.learn(session, std::slice::from_ref(&*id)).await?;
            let Some(known) = readings.types.known(&id).cloned() else { continue };
            let def = typed(&readings.item(handle).def, &known.name, known.values.as_ref());
            if shared.io.declare(def.clone()).is_ok() {
                readings.redefine(handle, def);
            }
        }
        Ok(())
    }

    /// Takes up the positions of an earlier process.
    async fn resume(&mut self) {
        let Some(shared) = &self.shared else { return };
        let mut readings = shared.readings.lock().await;
        for subscription in &mut self.subscriptions {
            subscription.make_plan(&readings, &shared.job);
            watermarks::resume(subscription, &shared.io, &mut readings);
            let Some(position) = shared.io.resume(&subscription.key) else { continue };
            if !subscription.resume(&position) {
                // Other items than these: it is taken over only to be deleted.
                subscription.plan = 0;
            } else if let Some(failures) = shared.io.resume(&subscription.failures_key()) {
                subscription.resume_failures(&failures, &shared.job);
            }
        }
    }

    /// Goes on with the subscriptions there are, where the server has them.
    async fn take_over(&mut self, session: &Session) -> Result<(), Refused> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let readings = shared.readings.lock().await;
        let had: Vec<usize> = (0..self.subscriptions.len()).filter(|index| self.subscriptions[*index].id != 0).collect();
        let ids: Vec<u32> = had.iter().map(|index| self.subscriptions[*index].id).collect();
        let results = match ids.is_empty() || session.is_resumed() {
            true => vec![UaStatus::Good; ids.len()],
            false => match transfer(session, &ids).await {
                Ok(results) => results,
                Err(refused) if session.channel().closed().is_none() => vec![refused.status(); ids.len()],
                Err(refused) => return Err(refused),
            },
        };
        let mut lost = Vec::new();
        for (index, result) in had.iter().copied().zip(results) {
            let subscription = &mut self.subscriptions[index];
            let planned = subscription.plan;
            subscription.make_plan(&readings, &shared.job);
            if result.is_good() && planned == subscription.plan {
                // What the server made of the keep-alive, an earlier process knew.
                subscription.expect(shared.job.keep_alive * 3, &shared.job, session);
                self.triggers.goes_on = true;
                continue;
            }
            if result.is_good() {
                delete(session, subscription.id).await;
            } else {
                tracing::info!(part = %subscription.part, status = %result, "the server does not hand the subscription over; it is made again");
            }
            subscription.id = 0;
            lost.push(index);
        }
        drop(readings);
        for index in lost {
            shared.open_gap(&self.subscriptions[index], &self.gaps).await;
        }
        // From here on a crash finds its session again.
        let batch = shared.io.batch().await;
        shared.io.send(batch, &[(&self.session_key(), session.kept().write().as_bytes())]).await;
        Ok(())
    }

    /// Makes the subscriptions that are not there.
    async fn subscribe(&mut self, session: &Session) -> Result<(), Refused> {
        let Some(shared) = &self.shared else { return Ok(()) };
        for subscription in self.subscriptions.iter_mut().filter(|subscription| subscription.id == 0) {
            subscription.create(session, &shared.job).await?;
            if subscription.group.is_none() {
                let all: Vec<usize> = (0..shared.job.events.len()).collect();
                events::watch(shared, session, subscription, &all).await?;
                remember(shared, subscription, Vec::new()).await;
                continue;
            }
            let handles = subscription.handles.clone();
            let nodes = shared.resolve(session, &handles).await?;
            let items: Vec<_> = handles.into_iter().zip(nodes).collect();
            let readings = shared.readings.lock().await;
            subscription.make_plan(&readings, &shared.job);
            let failed = subscription.monitor(session, &shared.job, &items, &readings).await?;
            if subscription.group.is_some_and(|group| shared.job.groups[group].browse.is_some()) {
                events::watch_model(session, subscription).await?;
            }
            drop(readings);
            remember(shared, subscription, failed).await;
        }
        shared.io.status("", Status::Running);
        Ok(())
    }

    /// Reads until something ends it.
    async fn live(&mut self, session: &Arc<Session>, outstanding: &mut Outstanding) -> Result<Failure, Lost> {
        let Some(shared) = &self.shared else { return Ok(Failure::Stopped) };
        let mut aside: FuturesUnordered<BoxFuture<'_, Aside>> = FuturesUnordered::new();
        aside.push(keep_alive(shared, session).map(Aside::Failed).boxed());
        aside.push(history::fill(shared, session, &self.gaps).map(Aside::Failed).boxed());
        for polling in &self.polls {
            aside.push(poll::poll(shared, session, polling).map(Aside::Failed).boxed());
        }
        if self.index == 0 {
            aside.push(crate::commands::obey(shared, session).map(Aside::Failed).boxed());
            for group in 0..shared.job.groups.len() {
                let known = self.found.get(&group).cloned().unwrap_or_default();
                aside.push(look_again(shared, session, group, known).boxed());
            }
        }
        if !self.triggers.is_empty() {
            aside.push(crate::commands::acknowledge(shared, session).map(Aside::Failed).boxed());
        }
        aside.push(first_values(shared, session).map(Aside::Failed).boxed());
        let mut publishing =
            Publishing::new(shared, session, &mut self.subscriptions, &mut self.triggers, &self.gaps, &mut self.watermarks, outstanding);
        let end = {
            let running = publishing.run();
            tokio::pin!(running);
            tokio::select! {
                biased;
                end = &mut running => Ok(end),
                Some(end) = aside.next() => Err(end),
            }
        };
        let result = match end {
            Ok(End::Stopping) => {
                publishing.finish().await;
                Ok(Failure::Stopped)
            }
            Ok(End::Failed(failure)) => Ok(failure),
            Ok(End::Lost(index)) => Err(Lost::Subscription(index)),
            Err(Aside::Failed(failure)) => Ok(failure),
            Err(Aside::Changed(group, found)) => Err(Lost::Nodes(group, found)),
        };
        publishing.flush().await;
        publishing.keep_watermarks().await;
        result
    }
}

/// What has to be made again without a new connection.
enum Lost {
    Subscription(usize),
    Nodes(usize, Vec<Found>),
}

/// A subscription that was just made, or has other items now, for a process that takes this one's place; and what of it can't be read.
async fn remember(shared: &Shared, subscription: &Subscription, failed: Vec<(usize, StatusCode)>) {
    let mut batch = shared.io.batch().await;
    let mut readings = shared.readings.lock().await;
    for (handle, status) in failed {
        readings.bad(handle, status, &mut batch);
    }
    drop(readings);
    let (position, failures) = (subscription.position(), subscription.failures());
    shared.io.send(batch, &[(&subscription.key, position.as_bytes()), (&subscription.failures_key(), failures.as_bytes())]).await;
}

/// Asks the server whether it is there, and whether its namespaces are what they were.
async fn keep_alive(shared: &Shared, session: &Session) -> Failure {
    let every = shared.job.keep_alive / 2;
    loop {
        tokio::time::sleep(every).await;
        let asked = session.read(&[value_of(VariableId::Server_ServerStatus_State.into())]).await;
        let result = match asked {
            Ok(_) => session.read_space().await,
            Err(refused) => Err(refused),
        };
        match result {
            Ok(false) => {}
            Ok(true) => return Failure::Reconnect(format!("the namespace table of {} changed", shared.url())),
            Err(refused) => return Failure::Reconnect(format!("{} does not answer: {refused}", shared.url())),
        }
    }
}

/// Looks for a group's variables again, now and then, and when the server says that some came or went.
async fn look_again(shared: &Shared, session: &Session, group: usize, known: Vec<usize>) -> Aside {
    let job = &shared.job;
    let Some(browse) = &job.groups[group].browse else { return std::future::pending().await };
    let mut model = shared.model.subscribe();
    loop {
        let again = async {
            match browse.again {
                Some(again) => tokio::time::sleep(again).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = again => {}
            _ = model.changed() => {
                let settled = async { while tokio::time::timeout(MODEL_SETTLES, model.changed()).await.is_ok() {} };
                let _ = tokio::time::timeout(MODEL_SETTLES * 10, settled).await;
            }
        }
        let look = match discover::look(session, browse, &job.groups[group], &shared.at).await {
            Ok(look) => look,
            Err(refused) => return Aside::Failed(refused.into()),
        };
        let readings = shared.readings.lock().await;
        let mut paths: Vec<&str> = known.iter().map(|handle| readings.item(*handle).def.path.as_str()).collect();
        paths.sort_unstable();
        if !paths.iter().copied().eq(look.found.iter().map(|found| found.def.path.as_str())) && look.complaint.is_none() {
            drop(readings);
            return Aside::Changed(group, look.found);
        }
    }
}

/// Of subscriptions that go on, what does not change says nothing: it is read once.
async fn first_values(shared: &Shared, session: &Session) -> Failure {
    tokio::time::sleep(Duration::from_secs(2)).await;
    let unseen: Vec<usize> = {
        let readings = shared.readings.lock().await;
        let is_subscribed = |handle: &usize| {
            let index = readings.item(*handle).index;
            index.is_some_and(|index| matches!(shared.job.groups[shared.job.tags[index].group].how, How::Subscribe))
        };
        (0..readings.len()).filter(|handle| readings.is_unseen(*handle)).filter(is_subscribed).collect()
    };
    if !unseen.is_empty()
        && let Err(refused) = poll::read_now(shared, session, &unseen, Origin::Initial).await
    {
        return refused.into();
    }
    std::future::pending().await
}
