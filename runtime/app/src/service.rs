//! The service in this process: what a factory needs, started in order and stopped in order. `run` and `demo` drive it.

use crate::registry;
use anyhow::{Context, Result, anyhow};
use millrace_broker::Broker;
use millrace_config::factory::{Delivery, Factory, LogCompression};
use millrace_engine::compile::Works;
use millrace_engine::{Engine, EngineOptions};
use millrace_kafka::Settings;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long the drain may go on sending after a stop; the rest goes next time.
pub const STOP_BOUND: Duration = Duration::from_secs(10);

/// A running factory.
pub struct Service {
    pub engine: Arc<Engine>,
    /// With `brokers: embedded`.
    broker: Option<Arc<Broker>>,
    /// Where the console listens.
    pub http: SocketAddr,
    /// Where the embedded schema registry listens.
    pub registry: Option<SocketAddr>,
    /// How Kafka is reached, also by whoever wants to look at the data.
    pub kafka: Settings,
}

/// `bootstrap.servers`: as the factory says, or where the embedded broker listens.
pub fn bootstrap(factory: &Factory) -> String {
    match factory.kafka.brokers.value.as_str() {
        EMBEDDED => factory.kafka.embedded.listen.0.to_string(),
        brokers => brokers.to_owned(),
    }
}

const EMBEDDED: &str = "embedded";

/// Where Kafka is and how to log in, as the factory says.
pub fn settings(factory: &Factory) -> Settings {
    let mut settings = Settings::new(bootstrap(factory));
    settings.client_id = format!("millrace-{}", factory.site.value.replace('/', "-"));
    settings.properties = factory.kafka.properties.iter().map(|(k, v)| (k.clone(), v.value.clone())).collect();
    settings
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
    };
    Broker::start(options).await.map(Some).context("cannot start the embedded broker")
}

impl Service {
    /// Starts the embedded broker and schema registry where there are such, the engine, then the console.
    ///
    /// Errors: the data directory can't be used, or an address is taken. Nothing is left running then.
    pub async fn start(factory: &Factory, works: Works) -> Result<Self> {
        let broker = start_broker(factory).await?;
        let kafka = settings(factory);
        let (registry, client) = match registry::start(factory).await {
            Ok(started) => started,
            Err(error) => {
                stop_broker(&broker).await;
                return Err(error);
            }
        };
        let options = EngineOptions {
            data_dir: factory.data_dir.clone(),
            keep_free: keep_free(factory),
            sync: factory.log.sync.0,
            compress: factory.log.compression == LogCompression::Lz4,
            settings: kafka.clone(),
            exactly_once: factory.kafka.delivery == Delivery::ExactlyOnce,
            commit: factory.kafka.commit.0,
            alarm: (factory.log.alarm.at.0 / 100.0, factory.log.alarm.left.0),
            registry: client,
        };
        let engine = match Engine::start(works, options) {
            Ok(engine) => engine,
            Err(error) => {
                stop_broker(&broker).await;
                return Err(anyhow!(error));
            }
        };
        match millrace_console::serve(factory.http.listen.0, engine.clone()).await {
            Ok(http) => Ok(Self { engine, broker, http, registry, kafka }),
            Err(error) => {
                engine.stop(Duration::ZERO).await;
                stop_broker(&broker).await;
                Err(anyhow!(error))
            }
        }
    }

    /// Stops in the opposite order; what the log still holds goes to Kafka for `bound` at most.
    pub async fn stop(&self, bound: Duration) {
        self.engine.stop(bound).await;
        stop_broker(&self.broker).await;
    }
}

async fn stop_broker(broker: &Option<Arc<Broker>>) {
    if let Some(broker) = broker
        && let Err(error) = broker.stop().await
    {
        tracing::error!("cannot close the embedded broker's logs: {error}; they are checked at the next start");
    }
}
