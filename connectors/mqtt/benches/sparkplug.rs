//! What reading a Sparkplug payload in place saves over a generated decoder: nanoseconds a metric, prost's beside ours in one run.
//!
//! ```text
//! cargo bench -p millrace-mqtt --bench sparkplug
//! ```

use millrace_mqtt::sparkplug::WirePayload;
use prost::{Message, Oneof};
use std::hint::black_box;
use std::time::Instant;

/// The fields that scalar metrics have: fewer than Eclipse Tahu's `sparkplug_b.proto`, in prost's favour.
#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(uint64, optional, tag = "1")]
    timestamp: Option<u64>,
    #[prost(message, repeated, tag = "2")]
    metrics: Vec<Metric>,
    #[prost(uint64, optional, tag = "3")]
    seq: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(string, optional, tag = "1")]
    name: Option<String>,
    #[prost(uint64, optional, tag = "2")]
    alias: Option<u64>,
    #[prost(uint64, optional, tag = "3")]
    timestamp: Option<u64>,
    #[prost(uint32, optional, tag = "4")]
    datatype: Option<u32>,
    #[prost(bool, optional, tag = "7")]
    is_null: Option<bool>,
    #[prost(oneof = "Value", tags = "10, 11, 12, 13, 14, 15")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, Oneof)]
enum Value {
    #[prost(uint32, tag = "10")]
    Int(u32),
    #[prost(uint64, tag = "11")]
    Long(u64),
    #[prost(float, tag = "12")]
    Float(f32),
    #[prost(double, tag = "13")]
    Double(f64),
    #[prost(bool, tag = "14")]
    Bool(bool),
    #[prost(string, tag = "15")]
    Text(String),
}

const METRICS: usize = 200;
const ROUNDS: u32 = 2_000;
const RUNS: usize = 9;

fn payload(is_birth: bool) -> Vec<u8> {
    let now = 1_763_726_880_123;
    let metric = |n: usize| Metric {
        name: is_birth.then(|| format!("Line 4/Filler/Station {n}/Temperature")),
        alias: Some(n as u64),
        timestamp: Some(now + n as u64),
        datatype: is_birth.then_some(10),
        is_null: None,
        value: Some(Value::Double(20.0 + n as f64)),
    };
    Payload { timestamp: Some(now), metrics: (0..METRICS).map(metric).collect(), seq: Some(7) }.encode_to_vec()
}

/// The best of some runs, in nanoseconds a metric.
fn best(mut read: impl FnMut() -> usize) -> f64 {
    let run = |read: &mut dyn FnMut() -> usize| {
        let begun = Instant::now();
        let count: usize = (0..ROUNDS).map(|_| black_box(read())).sum();
        assert_eq!(count, METRICS * ROUNDS as usize);
        begun.elapsed().as_secs_f64() * 1e9 / count as f64
    };
    (0..RUNS).map(|_| run(&mut read)).fold(f64::MAX, f64::min)
}

fn main() {
    println!("{:<28} {:>8} {:>8} {:>6}", "ns a metric", "ours", "prost", "ratio");
    for (what, is_birth) in [("data, by alias", false), ("a birth, with names", true)] {
        let bytes = payload(is_birth);
        let ours = best(|| WirePayload::read(black_box(&bytes)).expect("a payload").metrics.len());
        let prost = best(|| Payload::decode(black_box(&bytes[..])).expect("a payload").metrics.len());
        println!("{what:<28} {ours:>8.1} {prost:>8.1} {:>6.2}", prost / ours);
    }
}
