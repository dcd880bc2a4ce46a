//! The suite that every source runs, against a real mosquitto.

mod common;

use async_trait::async_trait;
use common::{Client, Mosquitto, Run, compile};
use millrace_contract::Compiled;
use millrace_mqtt::MqttSource;
use millrace_testkit::conformance::{Device, SourceFixture};
use millrace_testkit::{CountingAllocator, FaultProxy, Received, TestHost};
use std::ops::Range;
use tokio::task::JoinHandle;

#[global_allocator]
static MEMORY: CountingAllocator = CountingAllocator;

struct Fixture {
    version: u8,
    qos: u8,
}

struct Broker {
    mosquitto: Mosquitto,
    proxy: FaultProxy,
    client: Client,
    yaml: String,
    qos: u8,
    pump: Option<JoinHandle<()>>,
}

#[async_trait]
impl SourceFixture for Fixture {
    async fn device(&self) -> Box<dyn Device> {
        let mosquitto = Mosquitto::start().await;
        let proxy = FaultProxy::to(format!("127.0.0.1:{}", mosquitto.port)).await;
        let yaml = |endpoint: String| {
            let Self { version, qos } = self;
            format!(
                "{{endpoint: '{endpoint}', version: {version}, keep_alive: 2s, subscribe: [{{filter: 'line/+/value', payload: number, tag: '{{1}}', qos: {qos}}}]}}"
            )
        };
        // A broker keeps nothing for a client it has never seen: one session before the device speaks.
        let compiled = compile::<MqttSource>(&yaml(mosquitto.endpoint()));
        Run::with(&*compiled, TestHost::of(&*compiled)).await.stop().await;
        let client = mosquitto.client("device").await;
        let yaml = yaml(format!("mqtt://{}", proxy.addr()));
        Box::new(Broker { mosquitto, proxy, client, yaml, qos: self.qos, pump: None })
    }
}

#[async_trait]
impl Device for Broker {
    fn compile(&self) -> Box<dyn Compiled> {
        compile::<MqttSource>(&self.yaml)
    }

    async fn emit(&mut self, numbers: Range<u64>) {
        let messages = numbers.map(|n| (format!("line/{}/value", n % 7), n.to_string().into_bytes()));
        self.client.publish_all(messages, self.qos, false, &[]).await;
    }

    fn number(&self, record: &Received) -> Option<u64> {
        match record {
            Received::Sample(sample) => sample.value.number(),
            _ => None,
        }
    }

    fn cable(&self) -> Option<&FaultProxy> {
        Some(&self.proxy)
    }

    async fn emit_bad(&mut self) -> bool {
        self.client.publish("line/3/value", b"not a number", self.qos, false).await;
        true
    }

    async fn pump(&mut self) -> bool {
        // The pump's messages are no numbers of the suite: `number` must not count them.
        let client = self.mosquitto.client("pump").await;
        self.pump = Some(tokio::spawn(client.flood("line/pump/value".into(), vec![b'x'; 2000])));
        true
    }

    fn memory_bound_bytes(&self) -> usize {
        8 * 1024 * 1024
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(pump) = &self.pump {
            pump.abort();
        }
    }
}

millrace_testkit::source_conforms!(mqtt_5_and_qos_1, Fixture { version: 5, qos: 1 });
millrace_testkit::source_conforms!(mqtt_311_and_qos_1, Fixture { version: 4, qos: 1 });
millrace_testkit::source_conforms!(mqtt_5_and_qos_2_exactly_once, Fixture { version: 5, qos: 2 });
millrace_testkit::source_conforms!(mqtt_311_and_qos_2_exactly_once, Fixture { version: 4, qos: 2 });
