//! The sink against the suite of every sink, with InfluxDB of Debian.

use async_trait::async_trait;
use millrace_contract::{Carries, Compiled, Context};
use millrace_influx::InfluxSink;
use millrace_testkit::conformance::SinkFixture;
use millrace_testkit::conformance::sink::{TOPIC, numbered};
use millrace_testkit::{FaultProxy, Influx, yaml};

millrace_testkit::sink_conforms!(influxdb, Bucket::new().await);

struct Bucket {
    server: Influx,
    cable: FaultProxy,
}

impl Bucket {
    async fn new() -> Self {
        let server = Influx::start();
        let cable = FaultProxy::to(format!("127.0.0.1:{}", server.port())).await;
        Self { server, cable }
    }
}

#[async_trait]
impl SinkFixture for Bucket {
    fn compile(&self) -> Box<dyn Compiled> {
        let text =
            format!("{{endpoint: 'http://{}', database: plant, login: {{user: millrace, password: secret}}, batch: 8}}", self.cable.addr());
        let context = Context { carries: Carries::Samples, ..yaml::context("influx", &[TOPIC]) };
        yaml::compile::<InfluxSink>(&text, &context).unwrap_or_else(|problems| panic!("{problems}"))
    }

    async fn read_back(&mut self) -> Vec<(i32, i64)> {
        let said: serde_json::Value = serde_json::from_str(&self.server.run("SELECT value_text FROM telemetry")).unwrap();
        let rows = said["results"][0]["series"][0]["values"].as_array().cloned().unwrap_or_default();
        rows.iter().map(|row| numbered(row[1].as_str().unwrap()).unwrap_or_else(|| panic!("{row}"))).collect()
    }

    async fn break_target(&mut self) -> bool {
        self.cable.cut();
        true
    }

    async fn mend(&mut self) {
        self.cable.heal();
    }
}
