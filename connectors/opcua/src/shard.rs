//! One session of a source and everything that runs on it: subscriptions, polls, triggers, history, commands, discovery.
//!
//! ```text
//! connect, or go on ──> namespaces, limits ──> tags, types ──> subscriptions ──┬── publishing   (publish.rs)
//!       ^                                                                     ├── polls, history, commands, discovery
//!       └── what fails ends the session; what is kept outlives it <───────────┴── keep-alive
//! ```
//!
//! What outlives a connection: the server's session, the subscriptions with their next numbers, the items with their last times.

use crate::aside::{Aside, first_values, keep_alive, look_again};
use crate::compiled::{CompiledSource, Tag, is_polled, is_subscribed};
use crate::connect;
use crate::discover::{self, Found};
use crate::history::{self, Gaps, open_gap};
use crate::layout::Layout;
use crate::leftover::Leftovers;
use crate::poll::{self, Polling};
use crate::publish::{End, Outstanding, Publishing};
use crate::readings::typed;
use crate::session::{Kept, Refused, Session, attribute_of};
use crate::shared::Shared;
use crate::watermarks::Watermarks;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use millrace_contract::{Failure, SourceIo, Status};
use millrace_kit::trigger::Before;
use millrace_kit::{Connection, Others};
use millrace_schemas::TagId;
use opcua::types::{AttributeId, NodeId, StatusCode as UaStatus, Variant};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// A session and what it waits for. Nobody shares it; a lock is all that its futures need for that.
type Handed = parking_lot::Mutex<Option<(Arc<Session>, Outstanding)>>;

/// How long a session may take to be closed at a stop.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);

/// One of a source's sessions, and what it keeps from connection to connection.
pub struct Shard {
    job: Arc<CompiledSource>,
    index: usize,
    shared: Option<Shared>,
    kept: Option<Kept>,
    /// Which target was connected last.
    target: usize,
    space: Option<Arc<crate::address::Space>>,
    /// The positions of an earlier process were taken up.
    has_resumed: bool,
    layout: Layout,
    /// Sessions on disk.
    leftovers: Leftovers,
    gaps: Gaps,
    watermarks: Watermarks,
    /// What was found by browsing, by group: handles, in the order they were found first.
    found: HashMap<usize, Vec<usize>>,
    /// Everything is subscribed, and nothing is being changed.
    is_live: bool,
    /// What a session handed over: it goes on with the subscriptions whose items are as they were.
    handed: Handed,
}

impl Connection for Shard {
    async fn run(&mut self, io: &SourceIo, mut others: Others) -> Failure {
        // The first that fails ends the others: they connect again with it, and find their places by their positions.
        let others = async {
            others.ended().await;
            if io.hands_over() {
                io.closing().await;
            }
        };
        tokio::select! {
            biased;
            failure = self.run_alone(io) => failure,
            () = others => Failure::Reconnect("another session of this source ended".into()),
        }
    }
}

impl Shard {
    pub fn new(job: Arc<CompiledSource>, index: usize) -> Self {
        let leftovers = Leftovers::new(&job.data_dir, &job.name, (index, job.sessions), job.sources.clone());
        Self {
            job,
            index,
            shared: None,
            kept: None,
            target: 0,
            space: None,
            has_resumed: false,
            layout: Layout::new(index),
            leftovers,
            gaps: Gaps::default(),
            watermarks: Watermarks::default(),
            found: HashMap::new(),
            is_live: false,
            handed: Handed::default(),
        }
    }

    /// Takes over a changed configuration, between two sessions: as a new process would, but on the connection that is there.
    pub fn take_over(&mut self, job: Arc<CompiledSource>) {
        let (handed, kept) = (std::mem::take(&mut self.handed), self.kept.take());
        *self = Self { handed, kept, target: self.target, ..Self::new(job, self.index) };
    }

    /// Runs one connection to its end.
    async fn run_alone(&mut self, io: &SourceIo) -> Failure {
        let handed = self.handed.get_mut().take().filter(|(session, _)| session.channel().closed().is_none());
        let (session, mut outstanding) = match handed {
            Some(handed) => handed,
            None => tokio::select! {
                biased;
                () = io.stopping() => return Failure::Stopped,
                connected = self.connect(io) => match connected {
                    Ok(session) => (Arc::new(session), Outstanding::default()),
                    Err(failure) => return failure,
                }
            },
        };
        self.kept = Some(session.kept().clone());
        let failure = self.run_on(io, &session, &mut outstanding).await;
        if failure == Failure::Stopped {
            if self.is_live && io.hands_over() {
                session.is_handed_over();
                self.handed = Some((session, outstanding)).into();
            } else {
                self.stop(io, &session).await;
            }
        }
        failure
    }

    /// Runs an activated session to its end.
    async fn run_on(&mut self, io: &SourceIo, session: &Arc<Session>, outstanding: &mut Outstanding) -> Failure {
        self.is_live = false;
        let prepared = tokio::select! {
            biased;
            () = io.stopping() => return Failure::Stopped,
            prepared = self.prepare(io, session) => prepared,
        };
        if let Err(refused) = prepared {
            return self.refused(session, &refused);
        }
        loop {
            if let Err(refused) = tokio::select! {
                biased;
                () = io.stopping() => return Failure::Stopped,
                made = self.subscribe(session) => made,
            } {
                return self.refused(session, &refused);
            }
            self.is_live = true;
            let ended = self.live(session, outstanding).await;
            if let Ok(failure) = ended {
                return failure;
            }
            self.is_live = false;
            match ended {
                Ok(failure) => return failure,
                Err(Lost::Subscription(index)) => {
                    if let (Some(subscription), Some(shared)) = (self.layout.subscriptions.get_mut(index), &self.shared) {
                        tracing::warn!(part = %subscription.part, endpoint = shared.url(), "the server no longer has this subscription; it is made again");
                        subscription.id = 0;
                        open_gap(shared, subscription, &self.gaps);
                    }
                }
                Err(Lost::Nodes(group, found)) => {
                    if let Err(refused) = self.change(session, group, found).await {
                        return self.refused(session, &refused);
                    }
                }
            }
        }
    }

    /// At a stop the session stays at the server, for whoever starts next: its subscriptions then miss nothing. Or it is closed, where that is asked
    /// for, and where nobody could go on with it.
    async fn stop(&mut self, io: &SourceIo, session: &Session) {
        if !self.job.closes && self.has_resumed {
            tracing::info!(
                lifetime = ?self.job.lifetime,
                "the session stays on the server for its `lifetime`, so that the next start goes on with it; `on_stop: close` closes it"
            );
            let _ = tokio::time::timeout(CLOSED_WITHIN, session.channel().close()).await;
            return;
        }
        let _ = tokio::time::timeout(CLOSED_WITHIN, session.close(true)).await;
        self.leftovers.forget(&self.job.targets[self.target].url);
        let keys: Vec<String> = std::iter::once(self.session_key())
            .chain(self.layout.subscriptions.iter().map(|subscription| subscription.key.clone()))
            .collect();
        let moved: Vec<(&str, &[u8])> = keys.iter().map(|key| (key.as_str(), &b""[..])).collect();
        // While the log is full, the next start finds the positions of a session that is not there any more, and makes another.
        if let Ok(batch) = tokio::time::timeout(CLOSED_WITHIN, io.batch()).await {
            io.send(batch, &moved).await;
        }
    }

    fn refused(&mut self, session: &Session, refused: &Refused) -> Failure {
        match refused.status() {
            UaStatus::BadSessionIdInvalid | UaStatus::BadSessionClosed | UaStatus::BadSessionNotActivated => self.kept = None,
            _ => {}
        }
        let url = &self.job.targets[self.target].url;
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
            match connect::connect(&job.targets[index], kept, Some(&self.leftovers)).await {
                Ok(session) => {
                    let (leftovers, url, kept) = (self.leftovers.clone(), job.targets[index].url.clone(), session.kept().clone());
                    let noted = tokio::task::spawn_blocking(move || leftovers.note(&url, &kept)).await;
                    if let Ok(Err(error)) = noted {
                        tracing::warn!(%error, "an open session can't be written down: if this source is renamed, it lives on for its `lifetime`");
                    }
                    if index != self.target {
                        tracing::warn!(endpoint = %job.targets[index].url, "the other server of the set is read now");
                        for subscription in &mut self.layout.subscriptions {
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
        shared.connected(io.clone(), self.job.targets[self.target].url.clone());
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
            shared.forget();
        }
        if is_other {
            tracing::warn!(endpoint = shared.url(), "the server's namespace table changed; every node is looked for again");
            for subscription in &mut self.layout.subscriptions {
                if session.is_resumed() {
                    subscription.delete(session).await;
                }
                subscription.id = 0;
                open_gap(shared, subscription, &self.gaps);
            }
        }
        self.layout.reconnected(&self.job);
        self.discover(session).await?;
        self.describe(session).await?;
        let Some(shared) = &self.shared else { return Ok(()) };
        if !self.has_resumed {
            self.layout.resume(shared);
        }
        self.layout.take_over(shared, session, &self.gaps).await?;
        // From here on a crash finds its session again.
        let batch = shared.io.batch().await;
        shared.io.send(batch, &[(&self.session_key(), session.kept().write().as_bytes())]).await;
        self.has_resumed = true;
        Ok(())
    }

    async fn subscribe(&mut self, session: &Session) -> Result<(), Refused> {
        match &self.shared {
            Some(shared) => self.layout.subscribe(shared, session).await,
            None => Ok(()),
        }
    }

    /// Whether a tag is this session's.
    fn is_mine(&self, index: usize, tag: &Tag) -> bool {
        let job = &self.job;
        let (sessions, group) = (job.sessions, &job.polled.groups[tag.group]);
        if let Some(trigger) = &group.trigger {
            return self.is_mine(trigger.tag, &job.polled.tags[trigger.tag]);
        }
        if sessions == 1 || tag.def.options.writable == Some(true) {
            return self.index == 0;
        }
        (index - group.tags.start) * sessions / group.tags.len().max(1) == self.index
    }

    /// The items of the YAML, and what reads them.
    fn fill(&mut self, shared: &mut Shared) {
        let job = self.job.clone();
        let polled = &job.polled;
        let readings = shared.readings.get_mut();
        for (number, group) in polled.groups.iter().enumerate() {
            let mut handles = Vec::new();
            for index in group.tags.clone().filter(|index| self.is_mine(*index, &polled.tags[*index])) {
                let def = &polled.tags[index].def;
                let tag = match group.trigger {
                    // A field of a document is no tag.
                    Some(_) => TagId::NONE,
                    None => match shared.io.declare(def.clone()) {
                        Ok(tag) => tag,
                        Err(clash) => {
                            tracing::error!(%clash, "a tag is not read");
                            continue;
                        }
                    },
                };
                let item = &polled.tags[index].address;
                let handle = readings.add(tag, def.clone(), number, Some(index), item.sampling);
                // A method is called, not read.
                if item.object.is_none() {
                    handles.push(handle);
                }
            }
            let is_here = !handles.is_empty() || group.own.browse.is_some() && self.index == 0;
            if is_here && is_subscribed(group) {
                self.layout.add(&job, number, handles);
            } else if is_here && is_polled(group) {
                self.layout.polls.push(Polling { group: number, handles });
            }
        }
        let triggers = shared.triggers.get_mut();
        for (number, group) in polled.groups.iter().enumerate() {
            let Some(trigger) = &group.trigger else { continue };
            if let Some(handle) = readings.by_index(trigger.tag) {
                triggers.watch(polled, number, readings.tag(handle));
            }
        }
        triggers.resume(&shared.io);
        if self.index == 0 && !job.events.is_empty() {
            self.layout.add_events();
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
        shared.triggers.get_mut().connected(Before::Everything);
    }

    /// Looks for the variables of every group that browses.
    async fn discover(&mut self, session: &Session) -> Result<(), Refused> {
        if self.index != 0 {
            return Ok(());
        }
        let job = self.job.clone();
        for (number, group) in job.polled.groups.iter().enumerate() {
            let Some(browse) = &group.own.browse else { continue };
            let Some(shared) = &self.shared else { continue };
            let look = discover::look(session, browse, group, &shared.at).await?;
            let status = look.complaint.map_or(Status::Running, |what| Status::Degraded(format!("browse: {what}")));
            shared.io.status(&format!("{}, browse", group.part), status);
            self.admit(number, look.found);
        }
        Ok(())
    }

    /// Takes what was found into a group. Returns the handles that are new, and those that are gone.
    fn admit(&mut self, group: usize, found: Vec<Found>) -> (Vec<usize>, Vec<usize>) {
        let Some(shared) = &self.shared else { return Default::default() };
        let known = self.found.entry(group).or_default();
        let mut readings = shared.readings.lock();
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
                        let handle = readings.add(tag, def, group, None, self.job.polled.groups[group].own.sampling);
                        new.push(handle);
                        handle
                    }
                    Err(clash) => {
                        tracing::warn!(%clash, "a variable that was found is not read");
                        continue;
                    }
                },
            };
            shared.is_at(handle, node);
            here.push(handle);
        }
        let gone: Vec<usize> = known.iter().copied().filter(|handle| !here.contains(handle)).collect();
        for handle in &gone {
            shared.io.retire(readings.tag(*handle));
        }
        *known = here;
        drop(readings);
        self.layout.admit(group, &new, &gone);
        (new, gone)
    }

    /// The address space changed while it was read.
    async fn change(&mut self, session: &Session, group: usize, found: Vec<Found>) -> Result<(), Refused> {
        let (new, gone) = self.admit(group, found);
        tracing::info!(new = new.len(), gone = gone.len(), "the server's address space changed");
        self.describe(session).await?;
        match &self.shared {
            Some(shared) => self.layout.change(shared, session, group, &new, &gone).await,
            None => Ok(()),
        }
    }

    /// Types, for the catalog.
    async fn describe(&mut self, session: &Session) -> Result<(), Refused> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let job = &self.job;
        let handles: Vec<usize> = {
            let readings = shared.readings.lock();
            (0..readings.len())
                .filter(|handle| readings.tag(*handle) != TagId::NONE && readings.item(*handle).def.kind.is_none())
                .filter(|handle| !job.is_method(readings.item(*handle).index))
                .collect()
        };
        let nodes = shared.resolve(session, &handles).await?;
        let present: Vec<(usize, NodeId)> =
            handles.into_iter().zip(nodes).filter_map(|(handle, node)| node.ok().map(|node| (handle, node))).collect();
        let asked: Vec<_> = present.iter().map(|(_, node)| attribute_of(node.clone(), AttributeId::DataType)).collect();
        let values = session.read(&asked).await?;
        let typed_by: Vec<(usize, NodeId)> = present
            .into_iter()
            .zip(values)
            .filter_map(|((handle, _), value)| match value.value {
                Some(Variant::NodeId(id)) => Some((handle, *id)),
                _ => None,
            })
            .collect();
        let ids: HashSet<&NodeId> = typed_by.iter().map(|(_, id)| id).collect();
        let types = shared.learn_types(session, &ids.into_iter().cloned().collect::<Vec<_>>()).await?;
        let mut readings = shared.readings.lock();
        for (handle, id) in typed_by {
            let Some(known) = types.known(&id) else { continue };
            let def = typed(&readings.item(handle).def, &known.name, known.values.as_ref());
            if shared.io.declare(def.clone()).is_ok() {
                readings.redefine(handle, def);
            }
        }
        Ok(())
    }

    /// Reads until something ends it.
    async fn live(&mut self, session: &Arc<Session>, outstanding: &mut Outstanding) -> Result<Failure, Lost> {
        let Some(shared) = &self.shared else { return Ok(Failure::Stopped) };
        let mut aside: FuturesUnordered<BoxFuture<'_, Aside>> = FuturesUnordered::new();
        aside.push(keep_alive(shared, session).map(Aside::Failed).boxed());
        aside.push(history::fill(shared, session, &self.gaps).map(Aside::Failed).boxed());
        aside.push(poll::poll(shared, session, &self.layout.polls).map(Aside::Failed).boxed());
        if self.index == 0 {
            aside.push(crate::commands::run_commands(shared, session).map(Aside::Failed).boxed());
            for group in 0..shared.job.polled.groups.len() {
                let known = self.found.get(&group).cloned().unwrap_or_default();
                aside.push(look_again(shared, session, group, known).boxed());
            }
        }
        if !shared.triggers.lock().is_empty() {
            aside.push(crate::commands::acknowledge(shared, session).map(Aside::Failed).boxed());
        }
        aside.push(first_values(shared, session).map(Aside::Failed).boxed());
        let mut publishing = Publishing::new(
            shared,
            session,
            (&mut self.layout.subscriptions, &self.layout.instead),
            &self.gaps,
            &mut self.watermarks,
            outstanding,
        );
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
                // What is handed over is acknowledged by who goes on.
                if !shared.io.hands_over() {
                    publishing.finish().await;
                }
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
