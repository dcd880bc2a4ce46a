//! The shop as its users hold it: started, hurt in every way a plant knows, stopped.
//!
//! The server lives on one thread of its own with everything it owns. So a frozen shop is that thread standing still: sockets open, nothing
//! said. A shop restarted is another server on the same port, with the presses and the history of the old one.

use crate::alarm::BreakdownAlarm;
use crate::floor::{Floor, FloorManager, History};
use crate::part::NAMESPACE;
use crate::press::Press;
use crate::space::{self, Nodes};
use opcua::crypto::SecurityPolicy;
use opcua::nodes::Event;
use opcua::server::address_space::AddressSpace;
use opcua::server::node_manager::ServerContext;
use opcua::server::node_manager::memory::InMemoryNodeManagerBuilder;
use opcua::server::{ANONYMOUS_USER_TOKEN_ID, Limits, ServerBuilder, ServerEndpoint, ServerHandle, ServerUserToken};
use opcua::sync::Mutex;
use opcua::types::{AttributeId, DataValue, DateTime, MessageSecurityMode, NodeId, StatusCode, Variant};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex as Gate};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

/// What a shop is like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Port 0: a free one.
    pub listen: SocketAddr,
    pub presses: usize,
    /// The same seed gives the same presses.
    pub seed: u64,
    /// How often the presses' values change.
    pub every: Duration,
    /// By how many seconds the clocks of all presses but the first are ahead of the server's; behind it: negative.
    pub ahead_s: i64,
    /// A folder for certificates: offers every policy beside None, and trusts every client. Without it there is None alone.
    pub pki: Option<PathBuf>,
    /// The one user; without it everybody may come.
    pub login: Option<(String, String)>,
    /// So many doubles in the folder `Load`.
    pub load: usize,
    /// How often all of `Load` changes.
    pub load_every: Duration,
    /// How many nodes a request may name (OperationLimits).
    pub nodes_per_request: usize,
    /// The longest life of a secure channel's token; the client may ask for less.
    pub token_lifetime: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            presses: 4,
            seed: 1,
            every: Duration::from_millis(100),
            ahead_s: 0,
            pki: None,
            login: None,
            load: 0,
            load_every: Duration::from_millis(100),
            nodes_per_request: 1_000,
            token_lifetime: Duration::from_secs(3_600),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot listen on {0}")]
    Listen(SocketAddr, #[source] std::io::Error),
    #[error("cannot start the press shop: {0}")]
    Start(String),
    #[error("the shop has no press {0}; it has 1 to {1}")]
    NoPress(usize, usize),
    #[error("the shop has no node {0}; names are like Press1.Temp")]
    NoNode(String),
    #[error("the press shop is gone")]
    Gone,
}

const TICKS_PER_S: i64 = 10_000_000;

/// Where the outcome of an order goes.
type Answer = SyncSender<Result<(), Error>>;

/// A running shop; gone when dropped. Its methods return when the deed is done.
pub struct Shop {
    port: u16,
    host: String,
    orders: Option<UnboundedSender<(Order, Answer)>>,
    frozen: Arc<(Gate<bool>, Condvar)>,
    strokes: Arc<[AtomicU32]>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    Breakdown(usize),
    Repair(usize),
    Status(String, Option<StatusCode>),
    Burst(String, Range<u32>),
    Say(usize, Vec<f64>),
    Restart(Vec<String>),
    Freeze,
}

impl Shop {
    /// Opens the shop; it answers when this returns.
    pub fn start(options: Options) -> Result<Self, Error> {
        let frozen = Arc::new((Gate::new(false), Condvar::new()));
        let (orders, incoming) = unbounded_channel();
        let (ready, opened) = sync_channel(1);
        let (host, gate) = (options.listen.ip().to_string(), frozen.clone());
        let strokes: Arc<[AtomicU32]> = (0..options.presses).map(|_| AtomicU32::new(0)).collect();
        let counts = strokes.clone();
        let thread = std::thread::Builder::new()
            .name("press-shop".into())
            .spawn(move || {
                let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(ready.send(Err(Error::Start(error.to_string())))),
                };
                runtime.block_on(live(options, incoming, ready, gate, counts));
            })
            .map_err(|error| Error::Start(error.to_string()))?;
        let port = opened.recv().map_err(|_| Error::Gone)??;
        Ok(Self { port, host, orders: Some(orders), frozen, strokes, thread: Some(thread) })
    }

    /// `opc.tcp://HOST:PORT`.
    pub fn endpoint(&self) -> String {
        format!("opc.tcp://{}:{}", self.host, self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The strokes of every press so far, as `Strokes` shows them.
    pub fn strokes(&self) -> Vec<u32> {
        self.strokes.iter().map(|strokes| strokes.load(Relaxed)).collect()
    }

    /// A press stops with a fault: `Force` turns bad, an alarm is raised.
    pub fn breakdown(&self, press: usize) -> Result<(), Error> {
        self.order(Order::Breakdown(press))
    }

    /// The press runs again, the alarm ends.
    pub fn repair(&self, press: usize) -> Result<(), Error> {
        self.order(Order::Repair(press))
    }

    /// One node (`Press1.Temp`) has no value any more, only this status.
    pub fn fail(&self, node: &str, status: StatusCode) -> Result<(), Error> {
        self.order(Order::Status(node.into(), Some(status)))
    }

    /// The node has its values again.
    pub fn heal(&self, node: &str) -> Result<(), Error> {
        self.order(Order::Status(node.into(), None))
    }

    /// These values on one node of doubles at once, for whoever has subscribed to it: as many as its queue holds, or more.
    pub fn burst(&self, node: &str, values: Range<u32>) -> Result<(), Error> {
        self.order(Order::Burst(node.into(), values))
    }

    /// These values for as many doubles of `Load`, beginning with the one of this number. They stay until `Load` changes by itself.
    pub fn say(&self, first: usize, values: Vec<f64>) -> Result<(), Error> {
        self.order(Order::Say(first, values))
    }

    /// The server goes and comes back on the same port without its sessions, with these namespaces in front of its own.
    pub fn restart(&self, namespaces: &[&str]) -> Result<(), Error> {
        self.order(Order::Restart(namespaces.iter().map(|uri| (*uri).to_owned()).collect()))
    }

    /// Everything stands still; connections stay open and say nothing, until [`thaw`](Self::thaw).
    pub fn freeze(&self) -> Result<(), Error> {
        *self.frozen.0.lock().expect("nothing panics with the gate held") = true;
        self.order(Order::Freeze)
    }

    pub fn thaw(&self) {
        *self.frozen.0.lock().expect("nothing panics with the gate held") = false;
        self.frozen.1.notify_all();
    }

    fn order(&self, order: Order) -> Result<(), Error> {
        let (done, outcome) = sync_channel(1);
        let orders = self.orders.as_ref().ok_or(Error::Gone)?;
        orders.send((order, done)).map_err(|_| Error::Gone)?;
        outcome.recv().map_err(|_| Error::Gone)?
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.thaw();
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What outlives a restart.
struct Hall {
    options: Options,
    presses: Vec<Press>,
    history: Arc<Mutex<History>>,
    failing: HashMap<String, StatusCode>,
    events: u64,
    load_value: f64,
    /// Of each press, for whoever asks from outside.
    strokes: Arc<[AtomicU32]>,
    /// The library makes folders for certificates, wanted or not.
    nowhere: tempfile::TempDir,
}

/// A server, serving.
struct Open {
    serving: AbortHandle,
    handle: ServerHandle,
    manager: Arc<FloorManager>,
    nodes: Vec<Nodes>,
    load: Vec<NodeId>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.handle.cancel();
        self.serving.abort();
    }
}

type Incoming = UnboundedReceiver<(Order, SyncSender<Result<(), Error>>)>;

async fn live(
    options: Options,
    mut orders: Incoming,
    ready: SyncSender<Result<u16, Error>>,
    frozen: Arc<(Gate<bool>, Condvar)>,
    strokes: Arc<[AtomicU32]>,
) {
    let presses = (1..=options.presses).map(|number| Press::new(number, options.seed)).collect();
    let nowhere = match tempfile::tempdir() {
        Ok(nowhere) => nowhere,
        Err(error) => return drop(ready.send(Err(Error::Start(error.to_string())))),
    };
    let mut hall =
        Hall { options, presses, history: Arc::default(), failing: HashMap::new(), events: 0, load_value: 0.0, strokes, nowhere };
    let mut open = match hall.open(&[]).await {
        Ok((open, port)) => {
            hall.options.listen.set_port(port);
            let _ = ready.send(Ok(port));
            open
        }
        Err(error) => return drop(ready.send(Err(error))),
    };
    let tick = |every: Duration| {
        let mut tick = tokio::time::interval(every.max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        tick
    };
    let (mut work, mut load) = (tick(hall.options.every), tick(hall.options.load_every));
    let mut last = Instant::now();
    loop {
        tokio::select! {
            _ = work.tick() => {
                hall.work(&open, last.elapsed());
                last = Instant::now();
            }
            _ = load.tick(), if hall.options.load > 0 => hall.change_load(&open),
            order = orders.recv() => match order {
                None => return,
                Some((Order::Freeze, done)) => {
                    let _ = done.send(Ok(()));
                    let (gate, bell) = &*frozen;
                    let mut stands = gate.lock().expect("nothing panics with the gate held");
                    while *stands {
                        stands = bell.wait(stands).expect("nothing panics with the gate held");
                    }
                }
                Some((Order::Restart(namespaces), done)) => {
                    drop(open);
                    open = match hall.open(&namespaces).await {
                        Ok((open, _)) => {
                            let _ = done.send(Ok(()));
                            open
                        }
                        Err(error) => return drop(done.send(Err(error))),
                    };
                }
                Some((order, done)) => drop(done.send(hall.obey(&open, order))),
            },
        }
    }
}

impl Hall {
    async fn open(&self, namespaces: &[String]) -> Result<(Open, u16), Error> {
        let listen = self.options.listen;
        let listener = bind(listen).await.map_err(|error| Error::Listen(listen, error))?;
        let port = listener.local_addr().map_err(|error| Error::Listen(listen, error))?.port();
        let uris: Vec<String> = namespaces.iter().cloned().chain([NAMESPACE.to_owned()]).collect();
        let history = self.history.clone();
        let floor = move |context: ServerContext, space: &mut AddressSpace| Floor::new(&context, space, &uris, history);
        let builder = self.server(port).with_node_manager(InMemoryNodeManagerBuilder::new(floor));
        let (server, handle) = builder.build().map_err(Error::Start)?;
        let manager = handle.node_managers().get_of_type::<FloorManager>().ok_or_else(|| Error::Start("no node manager".into()))?;
        let (nodes, load) = {
            let mut space = manager.address_space().write();
            space::furnish(&mut space, manager.inner().namespace(), &self.presses, self.options.load)
        };
        let serving = tokio::spawn(async move {
            if let Err(error) = server.run_with(listener).await {
                tracing::error!("the press shop ended: {error}");
            }
        });
        Ok((Open { serving: serving.abort_handle(), handle, manager, nodes, load }, port))
    }

    fn server(&self, port: u16) -> ServerBuilder {
        let options = &self.options;
        let users = match &options.login {
            Some(_) => vec!["operator".to_owned()],
            None => vec![ANONYMOUS_USER_TOKEN_ID.to_owned()],
        };
        let mut builder = ServerBuilder::new()
            .application_name("Millrace press shop")
            .application_uri("urn:millrace:press-shop")
            .product_uri("urn:millrace:press-shop")
            .host(options.listen.ip().to_string())
            .port(port)
            .discovery_urls(vec![format!("opc.tcp://{}:{port}/", options.listen.ip())])
            .limits(limits(options.nodes_per_request))
            .subscription_poll_interval_ms(10)
            .max_secure_channel_token_lifetime_ms(options.token_lifetime.as_millis().try_into().unwrap_or(u32::MAX))
            .add_endpoint("none", ServerEndpoint::new_none("/", &users));
        if let Some((user, password)) = &options.login {
            builder = builder.add_user_token("operator", ServerUserToken::user_pass(user, password));
        }
        let Some(pki) = &options.pki else {
            return builder.pki_dir(self.nowhere.path());
        };
        builder = builder.pki_dir(pki).create_sample_keypair(true).trust_client_certs(true);
        for policy in [SecurityPolicy::Basic256Sha256, SecurityPolicy::Aes128Sha256RsaOaep, SecurityPolicy::Aes256Sha256RsaPss] {
            for mode in [MessageSecurityMode::Sign, MessageSecurityMode::SignAndEncrypt] {
                builder = builder.add_endpoint(format!("{policy} {mode}"), ServerEndpoint::new("/", policy, mode, &users));
            }
        }
        builder
    }

    fn obey(&mut self, open: &Open, order: Order) -> Result<(), Error> {
        match order {
            Order::Breakdown(number) => {
                self.press(number)?.breaks_down();
                self.alarm(open, number, true);
            }
            Order::Repair(number) => {
                self.press(number)?.is_repaired();
                self.alarm(open, number, false);
            }
            Order::Status(name, status) => {
                let id = self.node(open, &name)?;
                match status {
                    Some(status) => {
                        self.failing.insert(id.identifier.to_string(), status);
                    }
                    None => {
                        self.failing.remove(&id.identifier.to_string());
                    }
                }
            }
            Order::Burst(name, values) => {
                let id = self.node(open, &name)?;
                let mut notifier = open.handle.subscriptions().data_notifier();
                if let Some(mut node) = notifier.notify_for(&id, AttributeId::Value) {
                    for value in values {
                        // Without a source time: the server would thin out what comes faster than the sampling interval.
                        node.data_value(DataValue {
                            value: Some(Variant::Double(f64::from(value))),
                            status: Some(StatusCode::Good),
                            server_timestamp: Some(DateTime::now()),
                            ..Default::default()
                        });
                    }
                }
            }
            Order::Say(first, values) => {
                let Some(nodes) = open.load.get(first..first + values.len()) else {
                    return Err(Error::NoNode(format!("Load.N{:06}", first + values.len() - 1)));
                };
                let now = DateTime::now();
                open.set(nodes.iter().zip(values).map(|(id, value)| (id, DataValue::new_at(value, now))));
            }
            Order::Restart(_) | Order::Freeze => {}
        }
        self.work(open, Duration::ZERO);
        Ok(())
    }

    fn press(&mut self, number: usize) -> Result<&mut Press, Error> {
        let count = self.presses.len();
        number.checked_sub(1).and_then(|index| self.presses.get_mut(index)).ok_or(Error::NoPress(number, count))
    }

    fn node(&self, open: &Open, name: &str) -> Result<NodeId, Error> {
        let id = NodeId::new(open.manager.inner().namespace(), name);
        if open.manager.address_space().read().node_exists(&id) { Ok(id) } else { Err(Error::NoNode(name.into())) }
    }

    fn alarm(&mut self, open: &Open, number: usize, active: bool) {
        self.events += 1;
        let nodes = &open.nodes[number - 1];
        let alarm = BreakdownAlarm::new(self.events, nodes.press.clone(), &nodes.name, active);
        open.handle.subscriptions().notify_events([(&alarm as &dyn Event, &nodes.press)].into_iter());
    }

    /// Takes over what was written, lets every press live on, hands out the values.
    fn work(&mut self, open: &Open, passed: Duration) {
        let server = DateTime::now();
        let mut history = self.history.lock();
        let mut values = Vec::new();
        for (number, (press, nodes)) in self.presses.iter_mut().zip(&open.nodes).enumerate() {
            let now = if number == 0 { server } else { DateTime::from(server.ticks() + self.options.ahead_s * TICKS_PER_S) };
            if let Some(setpoint) = open.value(&nodes.setpoint).and_then(|value| value.as_f64()) {
                press.setpoint_c = setpoint;
            }
            if open.value(&nodes.part_ack) == Some(Variant::Boolean(true)) {
                press.acknowledged();
                values.push((&nodes.part_ack, DataValue::new_at(false, now)));
            }
            press.step(passed);
            for (id, mut value) in nodes.values(press, now) {
                let failing = match self.failing.get(&id.identifier.to_string()) {
                    Some(status) => Some(*status),
                    None if id == nodes.force() && press.state == crate::State::Fault => Some(StatusCode::BadDeviceFailure),
                    None => None,
                };
                if let Some(status) = failing {
                    // The library's server forgets the status of a value that is `None`.
                    value.value = Some(Variant::Empty);
                    value.status = Some(status);
                }
                if nodes.historic().any(|historic| historic == id) {
                    history.keep(id, &value);
                }
                values.push((id, value));
            }
        }
        open.set(values.into_iter());
        // Only now: what is counted is there to be read.
        for (press, count) in self.presses.iter().zip(self.strokes.iter()) {
            count.store(press.strokes, Relaxed);
        }
    }

    fn change_load(&mut self, open: &Open) {
        self.load_value += 1.0;
        let now = DateTime::now();
        open.set(open.load.iter().enumerate().map(|(index, id)| (id, DataValue::new_at(self.load_value + index as f64 * 1e-6, now))));
    }
}

impl Open {
    fn set<'a>(&self, values: impl Iterator<Item = (&'a NodeId, DataValue)>) {
        let values = values.map(|(id, value)| (id, None, value));
        if let Err(status) = self.manager.set_values(self.handle.subscriptions(), values) {
            tracing::error!("a node of the press shop takes no value: {status}");
        }
    }

    fn value(&self, id: &NodeId) -> Option<Variant> {
        let space = self.manager.address_space().read();
        match space.find(id)? {
            opcua::nodes::NodeType::Variable(variable) => {
                variable
                    .value(
                        opcua::types::TimestampsToReturn::Neither,
                        &opcua::types::NumericRange::None,
                        &opcua::types::DataEncoding::Binary,
                        0.0,
                    )
                    .value
            }
            _ => None,
        }
    }
}

/// A server that was just told to go may hold the port a moment longer.
async fn bind(listen: SocketAddr) -> std::io::Result<TcpListener> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match TcpListener::bind(listen).await {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            outcome => return outcome,
        }
    }
}

/// The library's defaults suit a demo: a thousand items per subscription, ten values in a queue, twenty sessions.
fn limits(nodes_per_request: usize) -> Limits {
    let mut limits = Limits {
        max_array_length: 1_000_000,
        max_message_size: 64 << 20,
        max_chunk_count: 4_096,
        max_string_length: 1 << 20,
        max_byte_string_length: 16 << 20,
        max_sessions: 200,
        ..Default::default()
    };
    limits.subscriptions.max_subscriptions_per_session = 1_000;
    limits.subscriptions.max_monitored_items_per_sub = 0;
    limits.subscriptions.max_monitored_item_queue_size = 10_000;
    limits.subscriptions.max_queued_notifications = 1_000;
    limits.subscriptions.max_pending_publish_requests = 100;
    limits.subscriptions.min_publishing_interval_ms = 10.0;
    limits.subscriptions.min_sampling_interval_ms = 10.0;
    limits.operational.max_nodes_per_read = nodes_per_request;
    limits.operational.max_nodes_per_browse = nodes_per_request;
    limits.operational.max_monitored_items_per_call = nodes_per_request;
    limits.operational.max_nodes_per_translate_browse_paths_to_node_ids = nodes_per_request;
    limits.operational.max_subscriptions_per_call = 1_000;
    limits
}
