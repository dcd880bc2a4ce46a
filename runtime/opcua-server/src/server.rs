//! The server: where it listens, who may look, and what each may ask for; once a second it shows what is so.

use crate::nodes::{self, Snapshot};
use crate::space::{Face, Manager, Shown};
use millrace_config::factory::OpcUaServer;
use opcua::crypto::SecurityPolicy;
use opcua::server::address_space::AddressSpace;
use opcua::server::node_manager::ServerContext;
use opcua::server::node_manager::memory::InMemoryNodeManagerBuilder;
use opcua::server::{ANONYMOUS_USER_TOKEN_ID, Limits, ServerBuilder, ServerEndpoint, ServerHandle, ServerUserToken};
use opcua::types::{DateTime, MessageSecurityMode};
use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// How often values are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// How often it is looked for certificates that nobody trusts.
const STRANGERS_EVERY: u32 = 5;
/// Certificates of strangers that are told of; whoever knocks with ever new ones is not heard for ever.
const STRANGERS_MOST: usize = 100;

/// How it is served.
#[derive(Clone, Debug)]
pub struct Options {
    pub listen: SocketAddr,
    /// Name and password. Without any it is not secured.
    pub users: Vec<(String, String)>,
    pub sessions: usize,
    /// Where its certificates are.
    pub dir: PathBuf,
}

impl Options {
    /// `None`: the file asks for none.
    pub fn of(keys: &OpcUaServer, data_dir: &Path) -> Option<Self> {
        Some(Self {
            listen: keys.listen.as_ref()?.0,
            users: keys.users.iter().map(|(name, password)| (name.clone(), password.expose().to_owned())).collect(),
            sessions: usize::from(keys.sessions.value),
            dir: data_dir.join("opcua-server"),
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the OPC UA server cannot listen on {0}; set opcua_server.listen to a free port")]
    Listen(SocketAddr, #[source] std::io::Error),
    #[error("cannot start the OPC UA server: {0}")]
    Start(String),
}

/// What is shown, at the moment of the call.
pub type Look = Arc<dyn Fn() -> Snapshot + Send + Sync>;

/// A server that serves until it is stopped or dropped.
pub struct Server {
    pub address: SocketAddr,
    handle: ServerHandle,
    tasks: [JoinHandle<()>; 2],
}

impl Server {
    /// Binds it; it answers when this returns.
    pub async fn start(options: Options, look: Look) -> Result<Self, Error> {
        let failed = |error| Error::Listen(options.listen, error);
        let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        // Making a key takes a while, the first time.
        let built = tokio::task::block_in_place(|| {
            let folder = &options.dir;
            std::fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
            let face = |context: ServerContext, space: &mut AddressSpace| Face::new(&context, space);
            builder(&options, address.port()).with_node_manager(InMemoryNodeManagerBuilder::new(face)).build()
        });
        let (server, handle) = built.map_err(Error::Start)?;
        let manager = handle.node_managers().get_of_type::<Manager>().ok_or_else(|| Error::Start("it has no nodes".to_owned()))?;
        let serving = tokio::spawn(async move {
            if let Err(error) = server.run_with(listener).await {
                tracing::error!("the OPC UA server ended: {error}");
            }
        });
        let showing =
            Showing { look, manager, handle: handle.clone(), shown: Shown::default(), before: HashMap::new(), at: Instant::now() };
        let showing = tokio::spawn(showing.run(options.dir.join("rejected")));
        Ok(Self { address, handle, tasks: [serving, showing] })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.handle.cancel();
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

struct Showing {
    look: Look,
    manager: Arc<Manager>,
    handle: ServerHandle,
    shown: Shown,
    /// What each source had received, and when that was.
    before: HashMap<String, u64>,
    at: Instant,
}

impl Showing {
    async fn run(mut self, rejected: PathBuf) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut strangers, mut ticks) = (BTreeSet::new(), 0_u32);
        let mut is_first = true;
        loop {
            every.tick().await;
            let look = self.look.clone();
            // It reads what the alarms say, which takes a lock.
            let Ok(now) = tokio::task::spawn_blocking(move || look()).await else { continue };
            self.show(&now);
            if ticks.is_multiple_of(STRANGERS_EVERY) {
                let found = certificates(&rejected).await;
                for stranger in found.difference(&strangers).filter(|_| !is_first).take(STRANGERS_MOST) {
                    tracing::warn!(
                        file = %rejected.join(stranger).display(),
                        "the OPC UA server does not know a client's certificate; move it from rejected to trusted if it may look"
                    );
                }
                (strangers, is_first) = (found, false);
            }
            ticks = ticks.wrapping_add(1);
        }
    }

    fn show(&mut self, now: &Snapshot) {
        let (at, passed) = (DateTime::now(), self.at.elapsed().as_secs_f64());
        let before = &self.before;
        let rate = |name: &str, received: u64| {
            let before = before.get(name).copied().unwrap_or(received);
            received.saturating_sub(before) as f64 / passed.max(1e-3)
        };
        let nodes = nodes::nodes(now, at, &rate);
        if let Err(status) = self.shown.show(&self.manager, self.handle.subscriptions(), nodes, at) {
            tracing::debug!(%status, "a node of the OPC UA server takes no value");
        }
        self.before = now.report.sources.iter().map(|(name, source)| (name.clone(), source.ledger.received)).collect();
        self.at = Instant::now();
    }
}

/// The names of the files there; of a folder that is not there none.
async fn certificates(folder: &Path) -> BTreeSet<String> {
    let folder = folder.to_owned();
    let listed = tokio::task::spawn_blocking(move || {
        let entries = std::fs::read_dir(folder).ok()?;
        Some(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
    });
    listed.await.ok().flatten().unwrap_or_default()
}

fn builder(options: &Options, port: u16) -> ServerBuilder {
    let host = options.listen.ip().to_string();
    let builder = ServerBuilder::new()
        .application_name("Millrace")
        .application_uri("urn:millrace:status")
        .product_uri("urn:millrace")
        .host(host.clone())
        .port(port)
        .discovery_urls(vec![format!("opc.tcp://{host}:{port}/")])
        .limits(limits(options.sessions))
        .pki_dir(&options.dir);
    if options.users.is_empty() {
        let anonymous = [ANONYMOUS_USER_TOKEN_ID.to_owned()];
        return builder.add_endpoint("none", ServerEndpoint::new_none("/", &anonymous));
    }
    let names: Vec<String> = options.users.iter().map(|(name, _)| name.clone()).collect();
    let mut builder = builder.create_sample_keypair(true);
    for (name, password) in &options.users {
        builder = builder.add_user_token(name, ServerUserToken::user_pass(name, password));
    }
    for policy in [SecurityPolicy::Basic256Sha256, SecurityPolicy::Aes128Sha256RsaOaep, SecurityPolicy::Aes256Sha256RsaPss] {
        for mode in [MessageSecurityMode::Sign, MessageSecurityMode::SignAndEncrypt] {
            builder = builder.add_endpoint(format!("{policy} {mode}"), ServerEndpoint::new("/", policy, mode, &names));
        }
    }
    builder
}

fn limits(sessions: usize) -> Limits {
    let mut limits = Limits { max_sessions: sessions, ..Limits::default() };
    limits.subscriptions.max_subscriptions_per_session = 10;
    limits.subscriptions.max_monitored_items_per_sub = 20_000;
    limits
}
