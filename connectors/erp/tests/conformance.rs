//! The suite of sources and sinks, against the simulated ERP through a cable that fails.

use async_trait::async_trait;
use millrace_contract::Compiled;
use millrace_erp::{ErpSinkPlugin, ErpSourcePlugin};
use millrace_erp_sim::{Erp, Order, Troubles};
use millrace_testkit::conformance::{Device, SinkFixture, SourceFixture};
use millrace_testkit::{CountingAllocator, FaultProxy, Received, yaml};
use serde_json::Value;
use std::ops::Range;

#[global_allocator]
static MEMORY: CountingAllocator = CountingAllocator;

async fn erp() -> Erp {
    Erp::listen("127.0.0.1:0".parse().expect("is an address")).await.expect("a port is free")
}

struct Plant {
    erp: Erp,
    cable: FaultProxy,
    by_delta: bool,
}

struct Fixture {
    by_delta: bool,
}

const NOW: i64 = 1_780_000_000_000;

#[async_trait]
impl SourceFixture for Fixture {
    async fn device(&self) -> Box<dyn Device> {
        let erp = erp().await;
        if self.by_delta {
            erp.with(|store| store.track_changes());
        }
        let cable = FaultProxy::to(erp.addr().to_string()).await;
        Box::new(Plant { erp, cable, by_delta: self.by_delta })
    }
}

#[async_trait]
impl Device for Plant {
    fn compile(&self) -> Box<dyn Compiled> {
        let delta = if self.by_delta { "auto" } else { "off" };
        let text = format!(
            "{{endpoint: 'http://{}/odata', http: {{timeout: 1s}}, entity_sets: [{{name: ProductionOrders, topic: orders, every: 100ms, watermark: modifiedAt, delta: {delta}, page: 100}}]}}",
            self.cable.addr()
        );
        yaml::compile::<ErpSourcePlugin>(&text, &yaml::context("erp", &[])).unwrap_or_else(|problems| panic!("{problems}"))
    }

    async fn emit(&mut self, numbers: Range<u64>) {
        self.erp.with(|store| {
            for number in numbers {
                // Many of one instant, as after a mass release.
                store.put(Order::new(number.to_string(), NOW + (number / 50) as i64));
            }
        });
    }

    fn number(&self, record: &Received) -> Option<u64> {
        match record {
            Received::Document(document) => {
                let value: Value = serde_json::from_slice(document.payload.as_deref()?).ok()?;
                assert_eq!(value["material"], "000000000000004711");
                value["ID"].as_str()?.parse().ok()
            }
            _ => None,
        }
    }

    fn cable(&self) -> Option<&FaultProxy> {
        Some(&self.cable)
    }

    async fn emit_bad(&mut self) -> bool {
        self.erp.with(|store| store.put(Order { quantity: "12,5".into(), ..Order::new("bad", NOW) }));
        true
    }
}

millrace_testkit::source_conforms!(by_watermark, Fixture { by_delta: false });
millrace_testkit::source_conforms!(by_delta_links, Fixture { by_delta: true });

struct Target {
    erp: Erp,
}

impl Target {
    fn new() -> Self {
        let erp = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(erp()));
        let troubles = Troubles { loses_every: 7, keeps_ids: true, is_down: false };
        erp.set_troubles(troubles);
        Self { erp }
    }
}

#[async_trait]
impl SinkFixture for Target {
    fn compile(&self) -> Box<dyn Compiled> {
        let text = format!("{{endpoint: '{}', entity_set: Confirmations, retry_after: 20ms}}", self.erp.endpoint());
        yaml::compile::<ErpSinkPlugin>(&text, &yaml::context("confirmations", &["conformance"]))
            .unwrap_or_else(|problems| panic!("{problems}"))
    }

    async fn read_back(&mut self) -> Vec<(i32, i64)> {
        let number = |value: &Value| value.as_i64().unwrap_or(-1);
        self.erp.with(|store| {
            store.confirmations.iter().map(|one| (number(&one.fields["partition"]) as i32, number(&one.fields["number"]))).collect()
        })
    }

    fn refused(&self) -> Option<Vec<u8>> {
        Some(br#"{"partition": 0, "number": 3, "quantity": -1}"#.to_vec())
    }

    async fn break_target(&mut self) -> bool {
        self.erp.set_troubles(Troubles { is_down: true, keeps_ids: true, loses_every: 0 });
        true
    }

    async fn mend(&mut self) {
        self.erp.set_troubles(Troubles { keeps_ids: true, ..Troubles::default() });
    }
}

millrace_testkit::sink_conforms!(a_sink, Target::new());
