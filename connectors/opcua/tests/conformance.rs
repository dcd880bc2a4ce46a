//! The suite that every source runs, against the press shop.
//!
//! A server keeps one value for whoever comes later: the last. So each number of the suite has a node of its own, which turns from what it was into
//! the number when the device says it: whoever subscribes later gets it as the node's first value, whoever has subscribed as a change.

use async_trait::async_trait;
use millrace_contract::{Compiled, Context};
use millrace_opcua::OpcUaSource;
use millrace_opcua_sim::{BAD_DEVICE_FAILURE, NAMESPACE, Options, Shop};
use millrace_testkit::conformance::{Device, SourceFixture};
use millrace_testkit::yaml::{compile, context};
use millrace_testkit::{CountingAllocator, FaultProxy, Received};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

#[global_allocator]
static MEMORY: CountingAllocator = CountingAllocator;

/// The suite has no number that is as large.
const NUMBERS: usize = 1_100;
/// What the node of number 0 says for 0, that of 1 for 1 ...: nothing that a node says by itself.
const ZERO: u64 = 1_000_000;
/// The node of the pump, behind those of the numbers.
const PUMP: usize = NUMBERS;

struct Fixture {
    /// More of its YAML.
    more: &'static str,
}

struct Bench {
    shop: Arc<Shop>,
    cable: FaultProxy,
    folder: tempfile::TempDir,
    more: &'static str,
    is_over: Arc<AtomicBool>,
}

#[async_trait]
impl SourceFixture for Fixture {
    async fn device(&self) -> Box<dyn Device> {
        let options = Options { load: NUMBERS + 1, load_every: Duration::from_secs(86_400), ..Options::default() };
        let shop = tokio::task::spawn_blocking(move || Shop::start(options).expect("opens")).await.expect("starts");
        let cable = FaultProxy::to(format!("127.0.0.1:{}", shop.port())).await;
        let folder = tempfile::tempdir().expect("a folder");
        Box::new(Bench { shop: Arc::new(shop), cable, folder, more: self.more, is_over: Arc::default() })
    }
}

#[async_trait]
impl Device for Bench {
    fn compile(&self) -> Box<dyn Compiled> {
        let numbers: String = (0..NUMBERS).map(|n| format!("n{n}: 'p:s=Load.N{n:06}', ")).collect();
        let yaml = format!(
            "{{endpoint: 'opc.tcp://{}', keep_alive: 2s, namespaces: {{p: '{NAMESPACE}'}}, {}groups: [{{every: 50ms, sampling: 10ms, \
             tags: {{{numbers}order: 'p:s=Press1.Order'}}}}, {{every: 50ms, sampling: 0s, queue: 5000, tags: {{pump: 'p:s=Load.N{PUMP:06}'}}}}]}}",
            self.cable.addr(),
            self.more
        );
        let context = Context { data_dir: self.folder.path().into(), ..context("press", &[]) };
        compile::<OpcUaSource>(&yaml, &context).unwrap_or_else(|problems| panic!("{problems}"))
    }

    async fn emit(&mut self, numbers: Range<u64>) {
        let values = numbers.clone().map(|n| (ZERO + n) as f64).collect();
        self.shop.say(numbers.start as usize, values).expect("the shop stands");
    }

    fn number(&self, record: &Received) -> Option<u64> {
        let Received::Sample(sample) = record else { return None };
        let number: u64 = sample.tag.strip_prefix("at/press/n")?.parse().ok()?;
        let said = sample.value.number()?.checked_sub(ZERO)?;
        assert_eq!(said, number, "each number comes by its own node");
        Some(number)
    }

    fn cable(&self) -> Option<&FaultProxy> {
        Some(&self.cable)
    }

    fn untouched(&self) -> bool {
        std::fs::read_dir(self.folder.path()).expect("the folder is there").next().is_none()
    }

    async fn emit_bad(&mut self) -> bool {
        self.shop.fail("Press1.Order", BAD_DEVICE_FAILURE).expect("the shop stands");
        true
    }

    async fn pump(&mut self) -> bool {
        let (shop, is_over, node) = (self.shop.clone(), self.is_over.clone(), format!("Load.N{PUMP:06}"));
        std::thread::spawn(move || {
            while !is_over.load(Relaxed) && shop.burst(&node, 0..1_000).is_ok() {
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        true
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
    }
}

millrace_testkit::source_conforms!(the_source, Fixture { more: "" });
millrace_testkit::source_conforms!(the_source_that_keeps_how_far_each_tag_was_read, Fixture { more: "history: {from: last}, " });
