//! The polled endpoint against the suite of every source. Alone in its binary: it measures memory.

use async_trait::async_trait;
use millrace_contract::Compiled;
use millrace_http::PollSource;
use millrace_testkit::conformance::{Device, SourceFixture};
use millrace_testkit::{FaultProxy, Received, yaml};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[global_allocator]
static MEMORY: millrace_testkit::CountingAllocator = millrace_testkit::CountingAllocator;

/// From here on numbers are filling.
const FILLING: u64 = 1_000_000;

/// What the server has: records by their numbers, and how long each is.
#[derive(Default)]
struct Shelf {
    records: Vec<(u64, String)>,
    is_pumping: bool,
}

struct Endpoint {
    shelf: Arc<Mutex<Shelf>>,
    cable: FaultProxy,
}

struct Endpoints;

#[async_trait]
impl SourceFixture for Endpoints {
    async fn device(&self) -> Box<dyn Device> {
        let shelf: Arc<Mutex<Shelf>> = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cable = FaultProxy::to(listener.local_addr().unwrap().to_string()).await;
        let served = shelf.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let served = served.clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let since = head.split("since=").nth(1).and_then(|rest| rest.split(' ').next()).and_then(|n| n.parse::<u64>().ok());
                    let body = served.lock().unwrap().page(since.unwrap_or(0));
                    let answer = format!(
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                        body.len()
                    );
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Box::new(Endpoint { shelf, cable })
    }
}

impl Shelf {
    fn page(&mut self, since: u64) -> String {
        if self.is_pumping {
            let from = since.max(FILLING);
            let items: Vec<_> = (from..from + 200).map(|n| format!("{{\"n\":{n},\"x\":\"{}\"}}", "x".repeat(10_000))).collect();
            return format!("[{}]", items.join(","));
        }
        let items: Vec<_> = self.records.iter().filter(|(n, _)| *n >= since).map(|(_, record)| record.as_str()).collect();
        format!("[{}]", items.join(","))
    }
}

#[async_trait]
impl Device for Endpoint {
    fn compile(&self) -> Box<dyn Compiled> {
        let text = format!(
            "{{endpoint: 'http://{}', http: {{timeout: 1s}}, requests: [{{get: '/n?since={{watermark}}', every: 20ms, start: '0', watermark: /n, topic: n}}]}}",
            self.cable.addr()
        );
        yaml::compile::<PollSource>(&text, &yaml::context("poll", &[])).unwrap_or_else(|problems| panic!("{problems}"))
    }

    async fn emit(&mut self, numbers: Range<u64>) {
        self.shelf.lock().unwrap().records.extend(numbers.map(|n| (n, format!("{{\"n\":{n}}}"))));
    }

    fn number(&self, record: &Received) -> Option<u64> {
        match record {
            Received::Document(document) => document.text().strip_prefix("{\"n\":")?.strip_suffix('}')?.parse().ok(),
            _ => None,
        }
    }

    fn cable(&self) -> Option<&FaultProxy> {
        Some(&self.cable)
    }

    async fn emit_bad(&mut self) -> bool {
        self.shelf.lock().unwrap().records.push((u64::MAX, "{\"n\":null}".into()));
        true
    }

    async fn pump(&mut self) -> bool {
        self.shelf.lock().unwrap().is_pumping = true;
        true
    }
}

millrace_testkit::source_conforms!(the_polled_endpoint, Endpoints);
