//! The service in this process: what a factory needs, started in order and stopped in order. `run` and `demo` drive it.

use anyhow::{Result, anyhow};
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
    /// Where the console listens.
    pub http: SocketAddr,
    /// How Kafka is reached, also by whoever wants to look at the data.
    pub kafka: Settings,
}

/// Where Kafka is and how to log in, as the factory says.
pub fn settings(factory: &Factory) -> Settings {
    let mut settings = Settings::new(factory.kafka.brokers.value.clone());
    settings.client_id = format!("millrace-{}", factory.site.value.replace('/', "-"));
    settings.properties = factory.kafka.properties.iter().map(|(k, v)| (k.clone(), v.value.clone())).collect();
    settings
}

impl Service {
    /// Starts the engine, then the console.
    ///
    /// Errors: the data directory can't be used, or an address is taken. Nothing is left running then.
    pub async fn start(factory: &Factory, works: Works) -> Result<Self> {
        let kafka = settings(factory);
        let options = EngineOptions {
            data_dir: factory.data_dir.clone(),
            keep_free: match factory.log.keep_free {
                millrace_config::KeepFree::Percent(percent) => millrace_log::KeepFree::Percent(percent),
                millrace_config::KeepFree::Size(bytes) => millrace_log::KeepFree::Bytes(bytes),
            },
            sync: factory.log.sync.0,
            compress: factory.log.compression == LogCompression::Lz4,
            settings: kafka.clone(),
            exactly_once: factory.kafka.delivery == Delivery::ExactlyOnce,
            commit: factory.kafka.commit.0,
            alarm: (factory.log.alarm.at.0 / 100.0, factory.log.alarm.left.0),
        };
        let engine = Engine::start(works, options).map_err(|e| anyhow!(e))?;
        match millrace_console::serve(factory.http.listen.0, engine.clone()).await {
            Ok(http) => Ok(Self { engine, http, kafka }),
            Err(error) => {
                engine.stop(Duration::ZERO).await;
                Err(anyhow!(error))
            }
        }
    }

    /// Stops in the opposite order; what the log still holds goes to Kafka for `bound` at most.
    pub async fn stop(&self, bound: Duration) {
        self.engine.stop(bound).await;
    }
}
