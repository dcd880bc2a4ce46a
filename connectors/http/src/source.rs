//! The session: it listens, serves connections, and takes posts in, until the engine stops it.

use crate::body::Bounds;
use crate::config::{HttpConfig, Settings};
use crate::intake::Intake;
use crate::server::Server;
use async_trait::async_trait;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use millrace_config::Problems;
use millrace_contract::plugin::Compiled;
use millrace_contract::{Context, Failure, Guarantee, Model, Plan, Plugin, Role, Source, SourceIo, Status};
use millrace_kit::tls;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// Posts that wait to be taken in; the next are answered with status 429.
const WAITING_POSTS: usize = 4_096;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long requests that are being answered may take, once the source stops.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// And what is still to be synced then.
const LAST_SYNC: Duration = Duration::from_secs(1);

/// `type: http`.
#[derive(Debug)]
pub struct HttpSource;

impl Plugin for HttpSource {
    const TYPE: &'static str = "http";
    const ROLE: Role = Role::Source;
    type Config = HttpConfig;

    fn compile(config: HttpConfig, context: &Context, problems: &mut Problems) -> Option<Box<dyn Compiled>> {
        config.compile(context, problems).map(|settings| Box::new(CompiledHttp(Arc::new(settings))) as _)
    }
}

struct CompiledHttp(Arc<Settings>);

impl Compiled for CompiledHttp {
    fn model(&self) -> &Model {
        &self.0.model
    }

    fn source(&self) -> Option<Box<dyn Source>> {
        Some(Box::new(Listening { intake: Intake::new(self.0.clone()), settings: self.0.clone() }))
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce(
            "a post is answered with 2xx once it is synced; a sender repeats it until then, and a repeat is known by its idempotency key, but not \
             beyond a restart"
                .into(),
        )
    }

    fn plan(&self) -> Plan {
        let settings = &self.0;
        let scheme = if settings.tls.is_some() { "https" } else { "http" };
        let mut lines: Vec<_> = settings
            .routes
            .iter()
            .map(|route| {
                let kind = if route.making.is_samples() { "samples" } else { "documents" };
                format!("POST {} -> {kind} in {}", route.path.as_str(), route.topic)
            })
            .collect();
        if settings.rest_proxy.is_some() {
            lines.push("POST /topics/{topic}, POST /v3/clusters/millrace/topics/{topic}/records -> records as they are".into());
        }
        if settings.access.is_open() {
            lines.push("no login: posts of this machine alone".into());
        }
        lines.extend(settings.access.wants().map(str::to_owned));
        Plan { endpoint: format!("{scheme}://{}", settings.listen), lines, rate: None }
    }
}

struct Listening {
    settings: Arc<Settings>,
    intake: Intake,
}

#[async_trait]
impl Source for Listening {
    async fn session(&mut self, io: SourceIo) -> Result<(), Failure> {
        let settings = self.settings.clone();
        let tls = match &settings.tls {
            None => None,
            Some(tls) => Some(TlsAcceptor::from(tls::server_config(&tls.certificate, &tls.key, tls.client_ca.as_deref())?)),
        };
        let listener = TcpListener::bind(settings.listen).await.map_err(|error| {
            let what = format!("cannot listen on {}: {error}", settings.listen);
            match error.kind() {
                ErrorKind::PermissionDenied | ErrorKind::AddrNotAvailable => Failure::Blocked(what),
                ErrorKind::AddrInUse => Failure::Reconnect(format!("{what}; another program listens there, change `listen`")),
                _ => Failure::Reconnect(what),
            }
        })?;
        let (sender, mut posts) = mpsc::channel(WAITING_POSTS);
        let server = Server {
            bounds: Bounds { most: settings.max_body, within: settings.body_within, memory: Bounds::memory(settings.max_waiting) },
            settings,
            posts: sender,
            is_full: self.intake.is_full.clone(),
        };
        io.status("", Status::Running);
        let serving = async {
            accept(listener, tls, Arc::new(server), &io).await;
            tokio::time::sleep(LAST_SYNC).await;
        };
        // The intake ends by itself once the last connection has let go of its sender, unless the log takes or syncs nothing.
        tokio::select! {
            () = self.intake.run(&mut posts, &io) => {}
            () = serving => {}
        }
        Ok(())
    }
}

/// Accepts connections until the engine stops; then those that are being answered may end.
async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, server: Arc<Server>, io: &SourceIo) {
    let room = Arc::new(Semaphore::new(server.settings.connections));
    let (told, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = io.stopping() => break,
            Some(_) = connections.join_next() => continue,
            accepted = async {
                let place = room.clone().acquire_owned().await;
                (listener.accept().await, place)
            } => accepted,
        };
        let (Ok((stream, _)), Ok(place)) = accepted else {
            // No more files, or the peer is gone already: neither ends the source.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (tls, server, stopping) = (tls.clone(), server.clone(), stopping.clone());
        connections.spawn(async move {
            connection(stream, tls, server, stopping).await;
            drop(place);
        });
    }
    drop((listener, server));
    let _ = told.send(true);
    let ended = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(LAST_ANSWERS, ended).await;
    connections.shutdown().await;
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, server: Arc<Server>, stopping: watch::Receiver<bool>) {
    let _ = stream.set_nodelay(true);
    match tls {
        None => serve(stream, server, stopping).await,
        Some(tls) => {
            match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                Ok(Ok(stream)) => serve(stream, server, stopping).await,
                // The sender is told by TLS itself.
                Ok(Err(error)) => tracing::debug!("a sender was turned away: {error}"),
                Err(_) => {}
            }
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, server: Arc<Server>, mut stopping: watch::Receiver<bool>) {
    let idle = server.settings.idle;
    let service = service_fn(move |request| {
        let server = server.clone();
        async move { server.serve(request).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        // A connection that breaks is the sender's to repeat.
        _ = connection.as_mut() => return,
        () = async { _ = stopping.wait_for(|stopping| *stopping).await } => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}
