//! The service in this process: what a factory needs, started in order and stopped in order. `run` and `demo` drive it.

use crate::alarm;
use crate::catalog::{CertificateInfo, Pki, TrustList};
use crate::control::Controls;
use crate::face::{self, Face};
use crate::kept::ReadFiles;
use crate::registry::{self, Embedded};
use crate::reload::Reloader;
use anyhow::{Context, Result};
use millrace_broker::{Broker, Security};
use millrace_config::Problems;
use millrace_config::factory::{Delivery, Factory, LogCompression, Token, TokenRole, User};
use millrace_console::control::Control;
use millrace_console::{Certificate, Certificates, Damage, Damaged, More, access, logins};
use millrace_engine::cluster::EMBEDDED;
use millrace_engine::cluster::settings;
use millrace_engine::compile::CompiledFactory;
use millrace_engine::{Engine, EngineOptions};
use millrace_otlp::{About, Collector, Counts, Exporter};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long the drain may go on sending after a stop; the rest goes next time.
pub const STOP_BOUND: Duration = Duration::from_secs(10);

/// A running factory.
pub struct Service {
    pub engine: Arc<Engine>,
    /// Where it was made of files.
    pub reloader: Option<Arc<Reloader>>,
    #[cfg(feature = "demo")]
    factory: Factory,
    ground: Ground,
    exporter: Option<Exporter>,
    _face: Option<Face>,
    /// Where the console listens.
    pub http: SocketAddr,
    /// How Kafka is reached, also by whoever wants to look at the data.
    #[cfg(feature = "demo")]
    pub kafka: millrace_kafka::Settings,
}

/// Those that connections depend on; what was turned away ends without anybody's harm.
fn certificates(factory: &Factory) -> Certificates {
    let pki = Pki::new(factory.data_dir.join("pki"));
    let of_use = |shelf: TrustList| matches!(shelf, TrustList::Own | TrustList::Trusted | TrustList::Issuers);
    Arc::new(move || {
        let listed = pki.list().into_iter().filter(|one| of_use(one.shelf));
        let certificate = |one: CertificateInfo| Certificate {
            shelf: one.shelf.name(),
            thumbprint: one.thumbprint,
            subject: one.subject,
            until: one.until,
        };
        listed.map(certificate).collect()
    })
}

/// What the embedded broker could not read; a broker that was stopped meanwhile says nothing.
fn damage(broker: Option<&Arc<Broker>>) -> Damage {
    let broker = broker.map(Arc::downgrade);
    Arc::new(move || {
        let found = broker.as_ref().and_then(Weak::upgrade).map_or_else(Vec::new, |broker| broker.damage());
        let damaged =
            |(place, one): (String, millrace_broker::Damage)| Damaged { place, pieces: one.places, records: one.records, bytes: one.bytes };
        found.into_iter().map(damaged).collect()
    })
}

/// How the console is served, and to whom.
fn console(factory: &Factory, damage: Damage, control: Option<Arc<dyn Control>>, more: Vec<More>) -> millrace_console::Options {
    let http = &factory.http;
    let role = |role| match role {
        TokenRole::Viewer => access::Role::Viewer,
        TokenRole::Operator => access::Role::Operator,
        TokenRole::Admin => access::Role::Admin,
    };
    let token = |(name, token): (&String, &Token)| access::Token {
        name: name.clone(),
        secret: token.token.expose().to_owned(),
        role: role(token.role),
    };
    let user = |(name, user): (&String, &User)| logins::User { name: name.clone(), hash: user.hash.value.clone(), role: role(user.role) };
    millrace_console::Options {
        listen: http.listen.0,
        tls: http.tls.as_ref().map(|tls| (tls.certificate.clone(), tls.key.clone())),
        access: access::Access {
            tokens: http.tokens.iter().map(token).collect(),
            users: http.users.iter().map(user).collect(),
            hosts: http.hosts.clone(),
        },
        version: crate::release::VERSION,
        certificates: certificates(factory),
        damage,
        control,
        more,
    }
}

/// What is sent to a collector names this machine.
fn about(factory: &Factory) -> About {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    About { site: factory.site.value.clone(), host, version: crate::release::VERSION.to_owned() }
}

/// What stays free on the disk, for the logs and for the embedded broker.
fn keep_free(factory: &Factory) -> millrace_log::KeepFree {
    match factory.log.keep_free {
        millrace_config::KeepFree::Percent(percent) => millrace_log::KeepFree::Percent(percent),
        millrace_config::KeepFree::Size(bytes) => millrace_log::KeepFree::Bytes(bytes),
    }
}

/// What an engine of this factory is started with. `registry`: where an embedded one listens.
///
/// Errors: the registry's certificates can't be used.
pub fn engine_options(factory: &Factory, transactional_id: Option<String>, registry: SocketAddr) -> Result<EngineOptions> {
    Ok(EngineOptions {
        data_dir: factory.data_dir.clone(),
        keep_free: keep_free(factory),
        sync: factory.log.sync.0,
        compress: factory.log.compression == LogCompression::Lz4,
        settings: settings(factory),
        shares_disk: factory.kafka.brokers.value == EMBEDDED,
        transactional_id,
        commit: factory.kafka.commit.0,
        alarm: (factory.log.alarm.at.0 / 100.0, factory.log.alarm.left.0),
        registry: registry::client(factory, registry)?,
    })
}

async fn start_broker(factory: &Factory) -> Result<Option<Arc<Broker>>> {
    if factory.kafka.brokers.value != EMBEDDED {
        return Ok(None);
    }
    let options = millrace_broker::Options {
        dir: factory.data_dir.join("broker"),
        listen: factory.kafka.embedded.listen.0,
        sync: factory.kafka.embedded.sync.0,
        keep_free: keep_free(factory),
        security: factory.kafka.embedded.tls.as_ref().map(|tls| Security {
            certificate: tls.certificate.clone(),
            key: tls.key.clone(),
            users: factory.kafka.embedded.users.iter().map(|(user, password)| (user.clone(), password.expose().to_owned())).collect(),
        }),
    };
    Broker::start(options).await.map(Some).context("cannot start the embedded broker")
}

/// What the engine stands on, where the factory brings its own. The registry is a client of the broker, so it goes first.
#[derive(Default)]
struct Ground {
    /// With `brokers: embedded`.
    broker: tokio::sync::Mutex<Option<Arc<Broker>>>,
    /// With `registry: embedded`.
    registry: Option<Embedded>,
}

impl Ground {
    async fn stop(&self) {
        if let Some(embedded) = &self.registry {
            embedded.registry.stop().await;
        }
        if let Some(broker) = self.broker.lock().await.take()
            && let Err(error) = broker.stop().await
        {
            tracing::error!("cannot close the embedded broker's logs: {error}; they are checked at the next start");
        }
    }
}

/// What was started on the ground.
struct Running {
    engine: Arc<Engine>,
    reloader: Option<Arc<Reloader>>,
    http: SocketAddr,
    exporter: Option<Exporter>,
    face: Option<Face>,
}

impl Service {
    /// Starts the embedded broker and schema registry where there are such, the engine, then the console.
    ///
    /// `files`: what it was made of, and can be made of again.
    ///
    /// Errors: the data directory can't be used, or an address is taken. Nothing is left running then.
    pub async fn start(factory: &Factory, works: CompiledFactory, files: Option<(&[PathBuf], ReadFiles)>) -> Result<Self> {
        let mut ground = Ground::default();
        match Self::start_on(&mut ground, factory, works, files).await {
            Ok(Running { engine, reloader, http, exporter, face }) => Ok(Self {
                engine,
                reloader,
                exporter,
                _face: face,
                #[cfg(feature = "demo")]
                factory: factory.clone(),
                ground,
                http,
                #[cfg(feature = "demo")]
                kafka: settings(factory),
            }),
            Err(error) => {
                ground.stop().await;
                Err(error)
            }
        }
    }

    async fn start_on(
        ground: &mut Ground,
        factory: &Factory,
        works: CompiledFactory,
        files: Option<(&[PathBuf], ReadFiles)>,
    ) -> Result<Running> {
        let broker = start_broker(factory).await?;
        let damage = damage(broker.as_ref());
        ground.broker = broker.into();
        ground.registry = registry::start(factory).await?;
        let registry = ground.registry.as_ref().map_or(factory.schemas.listen.0, |embedded| embedded.listen);
        let id = (factory.kafka.delivery == Delivery::ExactlyOnce).then(|| works.transactional_id());
        let engine = Engine::start(works, engine_options(factory, id, registry)?)?;
        let reloader = files.map(|(paths, files)| Reloader::new(paths.to_vec(), engine.clone(), factory.clone(), files));
        let alarms = reloader
            .as_ref()
            .map(|reloader| alarm::Watch::start(reloader.alarms(), &engine, certificates(factory), damage.clone(), &factory.data_dir));
        let control = reloader
            .clone()
            .zip(alarms.clone())
            .map(|(reloader, alarms)| -> Arc<dyn Control> { Arc::new(Controls::new(reloader, alarms, factory.data_dir.clone())) });
        let face = match face::start(factory, &engine, damage.clone(), alarms).await {
            Ok(face) => face,
            Err(error) => {
                engine.stop(Duration::ZERO).await;
                return Err(error);
            }
        };
        // What is wrong in it was told before.
        let collector = Collector::compile(&factory.otlp, &mut Problems::new());
        let counts = Arc::new(Counts::default());
        let counted = counts.clone();
        let more = collector.as_ref().map(|_| -> More { Box::new(move || counted.families()) });
        match millrace_console::serve(console(factory, damage, control, more.into_iter().collect()), engine.clone()).await {
            Ok(served) => {
                let start = |collector| Exporter::start(collector, about(factory), served.metrics, crate::messages::since, counts);
                Ok(Running { engine, reloader, http: served.address, exporter: collector.map(start), face })
            }
            Err(error) => {
                engine.stop(Duration::ZERO).await;
                Err(error.into())
            }
        }
    }

    #[cfg(feature = "demo")]
    /// Stops the embedded broker (`away`) or starts it again, as an outage that can be watched; without one nothing happens.
    pub async fn let_kafka_be(&self, away: bool) -> Result<()> {
        let mut broker = self.ground.broker.lock().await;
        match (broker.as_ref(), away) {
            (Some(running), true) => {
                running.stop().await.context("cannot stop the embedded broker")?;
                *broker = None;
            }
            (None, false) => *broker = start_broker(&self.factory).await?,
            _ => {}
        }
        Ok(())
    }

    /// Where the embedded schema registry listens.
    pub fn registry(&self) -> Option<SocketAddr> {
        self.ground.registry.as_ref().map(|embedded| embedded.listen)
    }

    /// Stops in the opposite order; what the log still holds goes to Kafka for `bound` at most.
    pub async fn stop(&self, bound: Duration) {
        self.engine.stop(bound).await;
        if let Some(exporter) = &self.exporter {
            exporter.stop().await;
        }
        self.ground.stop().await;
    }
}
