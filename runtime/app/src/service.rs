//! The service in this process: what a factory needs, started in order and stopped in order. `run` and `demo` drive it.

use crate::catalog::{Listed, Pki, Shelf};
use crate::registry::{self, Embedded};
use anyhow::{Context, Result, anyhow};
use millrace_broker::{Broker, Security};
use millrace_config::factory::{Delivery, EmbeddedBroker, Factory, LogCompression};
use millrace_console::{Certificate, Certificates};
use millrace_engine::compile::Works;
use millrace_engine::{Engine, EngineOptions};
use millrace_kafka::Settings;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// How long the drain may go on sending after a stop; the rest goes next time.
pub const STOP_BOUND: Duration = Duration::from_secs(10);

/// A running factory.
pub struct Service {
    pub engine: Arc<Engine>,
    ground: Ground,
    /// Where the console listens.
    pub http: SocketAddr,
    /// How Kafka is reached, also by whoever wants to look at the data.
    pub kafka: Settings,
}

/// `bootstrap.servers`: as the factory says, or where the embedded broker listens.
pub fn bootstrap(factory: &Factory) -> String {
    match factory.kafka.brokers.value.as_str() {
        EMBEDDED => {
            let mut listen = factory.kafka.embedded.listen.0;
            if listen.ip().is_unspecified() {
                listen.set_ip(if listen.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
            }
            listen.to_string()
        }
        brokers => brokers.to_owned(),
    }
}

const EMBEDDED: &str = "embedded";

/// Where Kafka is and how to log in, as the factory says.
pub fn settings(factory: &Factory) -> Settings {
    let mut settings = Settings::new(bootstrap(factory));
    settings.client_id = format!("millrace-{}", factory.site.value.replace('/', "-"));
    settings.properties = factory.kafka.properties.iter().map(|(k, v)| (k.clone(), v.value.clone())).collect();
    if factory.kafka.brokers.value == EMBEDDED {
        settings.properties.extend(login(&factory.kafka.embedded).into_iter().flatten());
    }
    settings
}

/// How this process logs in to its own broker, where that asks for it.
fn login(embedded: &EmbeddedBroker) -> Option<[(String, String); 6]> {
    let (tls, (user, password)) = (embedded.tls.as_ref()?, embedded.users.first()?);
    let properties = [
        ("security.protocol", "SASL_SSL".to_owned()),
        ("sasl.mechanism", "SCRAM-SHA-256".to_owned()),
        ("sasl.username", user.clone()),
        ("sasl.password", password.expose().to_owned()),
        ("ssl.ca.location", tls.certificate.display().to_string()),
        // The certificate names this machine as others know it, not as the address here.
        ("ssl.endpoint.identification.algorithm", "none".to_owned()),
    ];
    Some(properties.map(|(key, value)| (key.to_owned(), value)))
}

/// Those that connections depend on; what was turned away ends without anybody's harm.
fn certificates(factory: &Factory) -> Certificates {
    let pki = Pki::new(factory.data_dir.join("pki"));
    let of_use = |shelf: Shelf| matches!(shelf, Shelf::Own | Shelf::Trusted | Shelf::Issuers);
    Arc::new(move || {
        let listed = pki.list().into_iter().filter(|one| of_use(one.shelf));
        let certificate =
            |one: Listed| Certificate { shelf: one.shelf.name(), thumbprint: one.thumbprint, subject: one.subject, until: one.until };
        listed.map(certificate).collect()
    })
}

/// What stays free on the disk, for the logs and for the embedded broker.
fn keep_free(factory: &Factory) -> millrace_log::KeepFree {
    match factory.log.keep_free {
        millrace_config::KeepFree::Percent(percent) => millrace_log::KeepFree::Percent(percent),
        millrace_config::KeepFree::Size(bytes) => millrace_log::KeepFree::Bytes(bytes),
    }
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
    broker: Option<Arc<Broker>>,
    /// With `registry: embedded`.
    registry: Option<Embedded>,
}

impl Ground {
    async fn stop(&self) {
        if let Some(embedded) = &self.registry {
            embedded.registry.stop().await;
        }
        if let Some(broker) = &self.broker
            && let Err(error) = broker.stop().await
        {
            tracing::error!("cannot close the embedded broker's logs: {error}; they are checked at the next start");
        }
    }
}

impl Service {
    /// Starts the embedded broker and schema registry where there are such, the engine, then the console.
    ///
    /// Errors: the data directory can't be used, or an address is taken. Nothing is left running then.
    pub async fn start(factory: &Factory, works: Works) -> Result<Self> {
        let mut ground = Ground::default();
        match Self::start_on(&mut ground, factory, works).await {
            Ok((engine, http)) => Ok(Self { engine, ground, http, kafka: settings(factory) }),
            Err(error) => {
                ground.stop().await;
                Err(error)
            }
        }
    }

    async fn start_on(ground: &mut Ground, factory: &Factory, works: Works) -> Result<(Arc<Engine>, SocketAddr)> {
        ground.broker = start_broker(factory).await?;
        ground.registry = registry::start(factory).await?;
        let registry = ground.registry.as_ref().map_or(factory.schemas.listen.0, |embedded| embedded.listen);
        let options = EngineOptions {
            data_dir: factory.data_dir.clone(),
            keep_free: keep_free(factory),
            sync: factory.log.sync.0,
            compress: factory.log.compression == LogCompression::Lz4,
            settings: settings(factory),
            exactly_once: factory.kafka.delivery == Delivery::ExactlyOnce,
            commit: factory.kafka.commit.0,
            alarm: (factory.log.alarm.at.0 / 100.0, factory.log.alarm.left.0),
            registry: registry::client(factory, registry)?,
        };
        let engine = Engine::start(works, options).map_err(|error| anyhow!(error))?;
        let listen = factory.http.listen.0;
        match millrace_console::serve(listen, engine.clone(), certificates(factory)).await {
            Ok(http) => Ok((engine, http)),
            Err(error) => {
                engine.stop(Duration::ZERO).await;
                Err(error).with_context(|| format!("cannot listen on {listen}; set http.listen to a free port"))
            }
        }
    }

    /// Where the embedded schema registry listens.
    pub fn registry(&self) -> Option<SocketAddr> {
        self.ground.registry.as_ref().map(|embedded| embedded.listen)
    }

    /// Stops in the opposite order; what the log still holds goes to Kafka for `bound` at most.
    pub async fn stop(&self, bound: Duration) {
        self.engine.stop(bound).await;
        self.ground.stop().await;
    }
}
