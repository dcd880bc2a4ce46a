//! What one message costs the source, from the socket to the batch and back to the acknowledgement: CPU time of its own thread, against a real
//! mosquitto, with a host that throws batches away and calls them durable after 5 ms.
//!
//! ```text
//! cargo bench -p millrace-mqtt --bench source
//! ```

#[path = "../tests/common/mod.rs"]
mod common;

use async_trait::async_trait;
use common::{Mosquitto, compile};
use millrace_contract::{AckId, Clash, Command, Failure, Loss, SourceHost, SourceIo, Status, TagDef};
use millrace_mqtt::MqttSource;
use millrace_schemas::{Batch, Micros, TagId};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

#[derive(Default)]
struct NullHost {
    recycled: Mutex<Vec<Batch>>,
    sent: AtomicU64,
    records: AtomicU64,
    tags: AtomicU32,
    running: AtomicBool,
    stopping: AtomicBool,
}

#[async_trait]
impl SourceHost for NullHost {
    fn resume(&self, _key: &str) -> Option<Vec<u8>> {
        None
    }
    fn positions(&self, _prefix: &str) -> Vec<(String, Vec<u8>)> {
        Vec::new()
    }
    fn declare(&self, _tag: TagDef) -> Result<TagId, Clash> {
        Ok(TagId(self.tags.fetch_add(1, SeqCst)))
    }
    fn retire(&self, _tag: TagId) {}
    async fn batch(&self) -> Batch {
        let mut batch = self.recycled.lock().unwrap().pop().unwrap_or_default();
        batch.clear();
        batch.read_time = Micros::now();
        batch
    }
    async fn send(&self, batch: Batch, _moved: &[(&str, &[u8])]) -> AckId {
        self.records.fetch_add(batch.len() as u64, SeqCst);
        assert!(batch.rejects.is_empty(), "{:?}", batch.rejects[0]);
        self.recycled.lock().unwrap().push(batch);
        AckId(self.sent.fetch_add(1, SeqCst) + 1)
    }
    async fn durable(&self, after: AckId) -> AckId {
        loop {
            tokio::time::sleep(Duration::from_millis(5)).await;
            let sent = self.sent.load(SeqCst);
            if sent > after.0 {
                return AckId(sent);
            }
        }
    }
    async fn command(&self) -> Command {
        std::future::pending().await
    }
    fn lost(&self, _reason: Loss, _count: u64) {}
    fn alive(&self, _part: &str) {}
    fn gone(&self, _part: &str) {}
    fn status(&self, part: &str, status: Status) {
        if part.is_empty() && status == Status::Running {
            self.running.store(true, SeqCst);
        }
    }
    async fn stopping(&self) {
        while !self.stopping.load(SeqCst) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }
}

/// CPU time this thread has used: the first field of its schedstat, nanoseconds.
fn cpu_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("linux");
    text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds")
}

fn resident_kib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").expect("linux");
    let line = text.lines().find(|line| line.starts_with("VmRSS")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Runs the source on a thread of its own until it has so many records; returns the CPU time it took for them.
fn run(endpoint: String, keys: String, host: Arc<NullHost>, records: u64) -> std::thread::JoinHandle<u64> {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let compiled = compile::<MqttSource>(&format!("{{endpoint: '{endpoint}', {keys}}}"));
            let mut source = compiled.source().expect("a source");
            let before = cpu_ns();
            let session = source.session(SourceIo::new(host.clone()));
            let done = async {
                while host.records.load(SeqCst) < records && !host.stopping.load(SeqCst) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            let mut took = 0;
            let watched = async {
                done.await;
                took = cpu_ns() - before;
                host.stopping.store(true, SeqCst);
            };
            let (ended, ()) = tokio::join!(session, watched);
            assert_eq!(ended, Err(Failure::Stopped));
            took
        })
    })
}

async fn until_running(host: &NullHost) {
    while !host.running.load(SeqCst) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

struct Case {
    name: &'static str,
    subscribe: &'static str,
    topics: usize,
    payload: fn(u64) -> String,
    /// Records of one message.
    records: u64,
}

const CASES: [Case; 3] = [
    Case {
        name: "a number",
        subscribe: "{filter: 'b/+/v', payload: number, tag: '{1}'}",
        topics: 1000,
        payload: |n| n.to_string(),
        records: 1,
    },
    Case {
        name: "JSON to 2 samples with time",
        subscribe: "{filter: 'b/+/v', at: '{1}', samples: {speed: /v/kmh, soc: /battery/soc}, time: {at: /ts, unit: ms}}",
        topics: 1000,
        payload: |n| {
            format!(
                r#"{{"id":"car-{}","ts":{},"v":{{"kmh":{}.5,"rpm":3000}},"battery":{{"soc":{},"temp":21.5}}}}"#,
                n % 1000,
                1_750_000_000_000 + n,
                n % 200,
                n % 100
            )
        },
        records: 2,
    },
    Case {
        name: "a JSON document with key",
        subscribe: "{filter: 'b/+/v', topic: docs, key: '{1}'}",
        topics: 1000,
        payload: |n| format!(r#"{{"id":{n},"state":"running","shift":"late"}}"#),
        records: 1,
    },
];

async fn measure(case: &Case, messages: u64) {
    let mosquitto = Mosquitto::start().await;
    let keys = format!("subscribe: [{}]", case.subscribe);
    // One session, so that the broker keeps what comes while the source is away.
    let host = Arc::new(NullHost::default());
    let first = run(mosquitto.endpoint(), keys.clone(), host.clone(), u64::MAX);
    until_running(&host).await;
    host.stopping.store(true, SeqCst);
    first.join().expect("the source ends");
    let message = |n: u64| (format!("b/{}/v", n as usize % case.topics), (case.payload)(n).into_bytes());
    let mut client = mosquitto.client("load").await;
    client.publish_all((0..messages).map(message), 1, false, &[]).await;

    let host = Arc::new(NullHost::default());
    let begun = Instant::now();
    let took = run(mosquitto.endpoint(), keys.clone(), host, messages * case.records);
    let took = tokio::task::spawn_blocking(move || took.join().expect("the source ends")).await.expect("joined");
    let (per, rate) = (took as f64 / messages as f64 / 1000.0, messages as f64 / begun.elapsed().as_secs_f64());
    println!("{:<30} backlog {per:>6.2} us/message {rate:>9.0} messages/s", case.name);

    let host = Arc::new(NullHost::default());
    let begun = Instant::now();
    let took = run(mosquitto.endpoint(), keys, host.clone(), messages * case.records);
    until_running(&host).await;
    client.publish_all((0..messages).map(message), 1, false, &[]).await;
    let took = tokio::task::spawn_blocking(move || took.join().expect("the source ends")).await.expect("joined");
    let (per, rate) = (took as f64 / messages as f64 / 1000.0, messages as f64 / begun.elapsed().as_secs_f64());
    println!("{:<30} live    {per:>6.2} us/message {rate:>9.0} messages/s", case.name);
}

async fn memory(topics: u64) {
    let mosquitto = Mosquitto::start().await;
    let host = Arc::new(NullHost::default());
    let task = run(
        mosquitto.endpoint(),
        "subscribe: [{filter: 'plant/+/+/value', payload: number, tag: '{1}/{2}'}]".into(),
        host.clone(),
        topics + 1,
    );
    until_running(&host).await;
    let mut client = mosquitto.client("load").await;
    client.publish("plant/line-0/sensor-0/value", b"1", 1, false).await;
    let before = resident_kib();
    client.publish_all((0..topics).map(|n| (format!("plant/line-{}/sensor-{n}/value", n % 100), b"1".to_vec())), 1, false, &[]).await;
    tokio::task::spawn_blocking(move || task.join().expect("the source ends")).await.expect("joined");
    let grown = resident_kib().saturating_sub(before);
    println!("{topics} topics with a tag each: {} KiB, {} bytes/topic in the source", grown, grown * 1024 / topics);
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--test");
    let messages = if quick { 2000 } else { 300_000 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for case in &CASES {
            measure(case, messages).await;
        }
        memory(if quick { 1000 } else { 100_000 }).await;
    });
}
