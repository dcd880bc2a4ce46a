//! The HTTP source against the suite of every source. Alone in its binary: it measures memory.
//!
//! It has no cable in the suite's sense: it opens no connection, and cannot notice that a sender is silent. What a cut costs is in `source.rs`.

use async_trait::async_trait;
use millrace_contract::Compiled;
use millrace_http::HttpSource;
use millrace_testkit::conformance::{Device, SourceFixture};
use millrace_testkit::{Received, yaml};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

#[global_allocator]
static MEMORY: millrace_testkit::CountingAllocator = millrace_testkit::CountingAllocator;

/// Senders that post their body until it is answered with 200 or 400.
struct Sender {
    listen: SocketAddr,
    bodies: mpsc::UnboundedSender<String>,
}

struct Senders;

#[async_trait]
impl SourceFixture for Senders {
    async fn device(&self) -> Box<dyn Device> {
        let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (bodies, queue) = mpsc::unbounded_channel();
        tokio::spawn(send_all(listen.to_string(), queue));
        Box::new(Sender { listen, bodies })
    }
}

/// Each body by a sender of its own: one that waits for its answer keeps none of the others waiting.
async fn send_all(to: String, mut queue: mpsc::UnboundedReceiver<String>) {
    while let Some(body) = queue.recv().await {
        let to = to.clone();
        tokio::spawn(async move {
            let mut stream = None;
            while !matches!(tokio::time::timeout(Duration::from_secs(2), post(&mut stream, &to, &body)).await, Ok(Some(200 | 400))) {
                stream = None;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
}

async fn post(stream: &mut Option<TcpStream>, to: &str, body: &str) -> Option<u16> {
    if stream.is_none() {
        *stream = Some(TcpStream::connect(to).await.ok()?);
    }
    let stream = stream.as_mut()?;
    let request = format!(
        "POST /numbers HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    loop {
        let read = stream.read_buf(&mut answer).await.ok()?;
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
            if rest.len() >= length {
                return head.split(' ').nth(1)?.parse().ok();
            }
        }
        if read == 0 {
            return None;
        }
    }
}

#[async_trait]
impl Device for Sender {
    fn compile(&self) -> Box<dyn Compiled> {
        let text = format!("{{listen: \"{}\", answer_within: 1s, routes: [{{post: /numbers, topic: numbers}}]}}", self.listen);
        yaml::compile::<HttpSource>(&text, &yaml::context("http", &[])).unwrap_or_else(|problems| panic!("{problems}"))
    }

    async fn emit(&mut self, numbers: Range<u64>) {
        let numbers: Vec<_> = numbers.map(|n| format!("{{\"number\":{n}}}\n")).collect();
        for body in numbers.chunks(50) {
            let _ = self.bodies.send(body.concat());
        }
    }

    fn number(&self, record: &Received) -> Option<u64> {
        match record {
            Received::Document(document) => document.text().strip_prefix("{\"number\":")?.strip_suffix('}')?.parse().ok(),
            _ => None,
        }
    }

    async fn emit_bad(&mut self) -> bool {
        let _ = self.bodies.send("{\"good\":1}\n{\"number\":\n".into());
        true
    }

    async fn pump(&mut self) -> bool {
        let body = format!("{{\"filling\":\"{}\"}}\n", "x".repeat(10_000)).repeat(100);
        let listen = self.listen.to_string();
        for _ in 0..8 {
            let (body, listen) = (body.clone(), listen.clone());
            tokio::spawn(async move {
                let mut stream = None;
                loop {
                    if post(&mut stream, &listen, &body).await.is_none() {
                        stream = None;
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            });
        }
        true
    }
}

millrace_testkit::source_conforms!(the_http_source, Senders);
