//! The generator against the suite of every source. Alone in its binary: it measures memory.

use async_trait::async_trait;
use millrace_contract::Compiled;
use millrace_generator::GeneratorPlugin;
use millrace_testkit::conformance::{Device, SourceFixture};
use millrace_testkit::{Received, yaml};
use std::ops::Range;

#[global_allocator]
static MEMORY: millrace_testkit::CountingAllocator = millrace_testkit::CountingAllocator;

/// One counter, 5,000 values a second: it says every number by itself, in time.
struct Counter;

#[async_trait]
impl SourceFixture for Counter {
    async fn device(&self) -> Box<dyn Device> {
        Box::new(Self)
    }
}

#[async_trait]
impl Device for Counter {
    fn compile(&self) -> Box<dyn Compiled> {
        yaml::compile::<GeneratorPlugin>("{tags: 1, rate: 5000/s, shapes: [counter]}", &yaml::context("load", &[])).unwrap()
    }

    async fn emit(&mut self, _numbers: Range<u64>) {}

    fn number(&self, record: &Received) -> Option<u64> {
        match record {
            Received::Sample(sample) => sample.value.number(),
            _ => None,
        }
    }

    async fn pump(&mut self) -> bool {
        true
    }

    fn memory_bound_bytes(&self) -> usize {
        4 * 1024 * 1024
    }
}

millrace_testkit::source_conforms!(the_generator, Counter);
