//! The suite that every source runs, over TCP and over RTU in a socket. Each number of the suite is a register.

use async_trait::async_trait;
use millrace_contract::Compiled;
use millrace_modbus::ModbusSource;
use millrace_modbus_sim::{Gateway, Options};
use millrace_testkit::conformance::{Device, SourceFixture};
use millrace_testkit::yaml::{compile, context};
use millrace_testkit::{CountingAllocator, FaultProxy, Owned, Received};
use std::ops::Range;

#[global_allocator]
static MEMORY: CountingAllocator = CountingAllocator;

/// The suite has no number that is as large.
const NUMBERS: u16 = 1_100;
/// The tag that turns bad.
const ODD: u16 = 5_000;
/// What a register holds before its number was said.
const NOTHING: u16 = u16::MAX;

struct Fixture {
    is_rtu: bool,
    /// More of its YAML.
    more: &'static str,
}

struct Bench {
    gateway: Gateway,
    cable: FaultProxy,
    is_rtu: bool,
    more: &'static str,
}

#[async_trait]
impl SourceFixture for Fixture {
    async fn device(&self) -> Box<dyn Device> {
        let gateway = Gateway::start(Options { is_rtu: self.is_rtu, ..Options::default() }).await.expect("listens");
        gateway.unit(1, |memory| {
            memory.set_holding(0, &[NOTHING; NUMBERS as usize]);
            memory.set_holding(ODD, &[0]);
        });
        let cable = FaultProxy::to(gateway.addr()).await;
        Box::new(Bench { gateway, cable, is_rtu: self.is_rtu, more: self.more })
    }
}

#[async_trait]
impl Device for Bench {
    fn compile(&self) -> Box<dyn Compiled> {
        let tags: String = (0..NUMBERS).map(|n| format!("n{n}: 'holding:{n}', ")).collect();
        let scheme = if self.is_rtu { "rtu+tcp" } else { "tcp" };
        let text = format!(
            "{{endpoint: '{scheme}://{}', unit_id: 1, {}, groups: [{{every: 20ms, tags: {{{tags} odd: 'holding:{ODD}'}}}}]}}",
            self.cable.addr(),
            self.more
        );
        compile::<ModbusSource>(&text, &context("line", &[])).unwrap_or_else(|problems| panic!("{problems}"))
    }

    async fn emit(&mut self, numbers: Range<u64>) {
        self.gateway.unit(1, |memory| {
            for number in numbers {
                memory.set_holding(number as u16, &[number as u16]);
            }
        });
    }

    fn number(&self, record: &Received) -> Option<u64> {
        let Received::Sample(sample) = record else { return None };
        let number: u64 = sample.tag.strip_prefix("at/line/n")?.parse().ok()?;
        match sample.value {
            Owned::Int(said) if said != i64::from(NOTHING) => {
                assert_eq!(said as u64, number, "each number comes by its own register");
                Some(number)
            }
            _ => None,
        }
    }

    fn cable(&self) -> Option<&FaultProxy> {
        Some(&self.cable)
    }

    async fn emit_bad(&mut self) -> bool {
        self.gateway.unit(1, |memory| memory.refused.push(ODD..ODD + 1));
        true
    }
}

millrace_testkit::source_conforms!(over_tcp, Fixture { is_rtu: false, more: "bus: {timeout: 300ms}" });
millrace_testkit::source_conforms!(
    over_tcp_with_requests_in_flight,
    Fixture { is_rtu: false, more: "bus: {timeout: 300ms, in_flight: 8}" }
);
millrace_testkit::source_conforms!(rtu_over_tcp, Fixture { is_rtu: true, more: "bus: {timeout: 300ms}" });
