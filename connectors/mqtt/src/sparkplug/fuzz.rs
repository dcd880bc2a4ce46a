//! The fuzz target's way in: arbitrary bytes as the payload of each kind of message.

use super::config::HostConfig;
use super::host::Host;
use super::route::{Message, Route, Variable};
use crate::topic::{Filter, Template};
use async_trait::async_trait;
use millrace_contract::{AckId, Clash, Command, Loss, SourceHost, SourceIo, Status, TagDef, TagOptions};
use millrace_schemas::{Batch, RouteId, TagId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Feeds arbitrary bytes as the payload of each kind of message, and takes what is kept of it over: nothing may panic.
#[doc(hidden)]
pub fn fuzz_sparkplug(bytes: &[u8]) {
    let template = |text| Template::read(text, Variable::parse).expect("a constant template");
    let route = Route {
        id: RouteId(0),
        filter: Filter::parse("spBv1.0/#").expect("a constant filter"),
        topic: Arc::from("telemetry"),
        at: template("{group}/{node}/{device}"),
        tag: template("{metric}"),
        options: TagOptions::default(),
        confirm: None,
    };
    let io = SourceIo::new(Arc::new(Nobody::default()));
    let mut host = Host::new(HostConfig::default(), vec![route.clone()]);
    let now = Instant::now();
    host.on_connect(now, &io);
    let mut batch = Batch::new();
    for topic in ["NBIRTH/n", "NDATA/n", "DBIRTH/n/d", "DDATA/n/d", "DDEATH/n/d", "NDEATH/n"] {
        let topic = format!("spBv1.0/g/{topic}");
        host.on_message(Message { topic: &topic, payload: bytes, retain: false, dup: false }, now, &mut batch, &io);
    }
    // What it would keep is taken over by the next process.
    let mut again = Host::new(HostConfig::default(), vec![route]);
    let io = SourceIo::new(Arc::new(Nobody { positions: host.take_moved(), ..Nobody::default() }));
    again.on_connect(now, &io);
    again.tick(now + Duration::from_secs(60), &io);
}

/// An engine that numbers tags, remembers positions, and nothing else.
#[derive(Default)]
struct Nobody {
    tags: AtomicU32,
    positions: Vec<(String, Vec<u8>)>,
}

#[async_trait]
impl SourceHost for Nobody {
    fn resume(&self, _key: &str) -> Option<Vec<u8>> {
        None
    }
    fn positions(&self, _prefix: &str) -> Vec<(String, Vec<u8>)> {
        self.positions.clone()
    }
    fn declare(&self, _tag: TagDef) -> Result<TagId, Clash> {
        Ok(TagId(self.tags.fetch_add(1, Ordering::Relaxed)))
    }
    fn retire(&self, _tag: TagId) {}
    async fn batch(&self) -> Batch {
        Batch::new()
    }
    async fn send(&self, _batch: Batch, _moved: &[(&str, &[u8])]) -> AckId {
        AckId(0)
    }
    async fn durable(&self, after: AckId) -> AckId {
        after
    }
    async fn command(&self) -> Command {
        std::future::pending().await
    }
    fn lost(&self, _reason: Loss, _count: u64) {}
    fn alive(&self, _part: &str) {}
    fn gone(&self, _part: &str) {}
    fn status(&self, _part: &str, _status: Status) {}
    async fn stopping(&self) {}
    fn is_stopping(&self) -> bool {
        false
    }
}
