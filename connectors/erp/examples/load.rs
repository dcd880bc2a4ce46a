//! How fast is the first load, and what does it hold? The pages are made before the clock starts; the rivals are bare loops over the same pages, with
//! the same HTTP client:
//!
//! | loop | what it does with a page |
//! |---|---|
//! | bytes | looks for the link to the next one: what the network and the server allow |
//! | structs | reads it into structs made for these rows, as a client written for this one entity set does |
//! | tree | reads it into a tree of values and walks over it, as a client that does not know the entity set does |
//!
//! `cargo run --release -p millrace-erp --example load -- 1000000`

use millrace_contract::Failure;
use millrace_erp::ErpSourcePlugin;
use millrace_kit::Tls;
use millrace_kit::http::{Client, Options, Request, Url};
use millrace_testkit::{CountingAllocator, TestHost, memory, yaml};
use serde::Deserialize;
use serde_json::Value;
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[global_allocator]
static MEMORY: CountingAllocator = CountingAllocator;

const PAGE: usize = 1_000;

const METADATA: &str = r#"<edmx:Edmx Version="4.0" xmlns:edmx="e"><edmx:DataServices><Schema Namespace="plant"><EntityType Name="Order">
<Key><PropertyRef Name="ID"/></Key><Property Name="ID" Type="Edm.String" Nullable="false"/><Property Name="material" Type="Edm.String"/>
<Property Name="quantity" Type="Edm.Decimal" Precision="15" Scale="3"/><Property Name="status" Type="Edm.String"/>
<Property Name="modifiedAt" Type="Edm.DateTimeOffset" Precision="3"/></EntityType>
<EntityContainer Name="C"><EntitySet Name="Orders" EntityType="plant.Order"/></EntityContainer></Schema></edmx:DataServices></edmx:Edmx>"#;

/// The page that begins with a row.
fn page(from: usize, rows: usize) -> String {
    let mut out = format!("{{\"@odata.context\":\"$metadata#Orders\",\"@odata.count\":{rows},\"value\":[");
    for n in from..(from + PAGE).min(rows) {
        let comma = if n > from { "," } else { "" };
        let _ = write!(
            out,
            "{comma}{{\"@odata.etag\":\"W/\\\"{n}\\\"\",\"ID\":\"{n:012}\",\"material\":\"000000000000004711\",\"quantity\":{n}.125,\"status\":\"released\",\"modifiedAt\":\"2026-07-01T08:00:00.000Z\"}}"
        );
    }
    out.push(']');
    if from + PAGE < rows {
        let _ = write!(out, ",\"@odata.nextLink\":\"Orders?$skiptoken={}\"", from + PAGE);
    }
    out.push('}');
    out
}

async fn serve(mut stream: TcpStream, pages: Arc<[String]>) {
    let mut bytes = Vec::new();
    loop {
        while !bytes.ends_with(b"\r\n\r\n") {
            if matches!(stream.read_buf(&mut bytes).await, Ok(0) | Err(_)) {
                return;
            }
        }
        let head = String::from_utf8_lossy(&bytes).into_owned();
        bytes.clear();
        let from = head.split("skiptoken=").nth(1).and_then(|token| token.split([' ', '&']).next()?.parse().ok()).unwrap_or(0);
        let (kind, body) = match head.contains("/$metadata") {
            true => ("application/xml", METADATA),
            false => ("application/json", &*pages[from / PAGE]),
        };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all(head.as_bytes()).await.is_err() || stream.write_all(body.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::main]
async fn main() {
    let rows: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let root = format!("http://{}/srv", listener.local_addr().expect("is bound"));
    let pages: Arc<[String]> = (0..rows).step_by(PAGE).map(|from| page(from, rows)).collect();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(serve(stream, pages.clone()));
        }
    });
    for round in 1..=3 {
        let times = [bare(&root, rows, bytes).await, bare(&root, rows, structs).await, bare(&root, rows, tree).await];
        let (source, held) = source(&root, rows).await;
        let rate = |time: Duration| rows as f64 / time.as_secs_f64();
        let ([bytes, structs, tree], source) = (times.map(rate), rate(source));
        println!(
            "{round}: rows/s: bytes {bytes:.0}, structs {structs:.0}, tree {tree:.0}; source {source:.0}: {:.2} of bytes, {:.2} of structs, {:.2} of tree; \
             memory above idle {:.1} MiB",
            source / bytes,
            source / structs,
            source / tree,
            held as f64 / f64::from(1 << 20)
        );
    }
}

fn bytes(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).expect("is a text");
    text.rsplit_once("\"@odata.nextLink\":\"").map(|(_, link)| link.trim_end_matches("\"}").to_owned())
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    value: Vec<Order<'a>>,
    #[serde(rename = "@odata.nextLink")]
    next: Option<String>,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "read, and thrown away")]
struct Order<'a> {
    #[serde(rename = "ID")]
    id: &'a str,
    material: &'a str,
    quantity: f64,
    status: &'a str,
    #[serde(rename = "modifiedAt")]
    modified_at: &'a str,
}

fn structs(body: &[u8]) -> Option<String> {
    let page: Page<'_> = serde_json::from_slice(body).expect("is a page");
    black_box(&page.value);
    page.next
}

fn tree(body: &[u8]) -> Option<String> {
    let page: Value = serde_json::from_slice(body).expect("is a page");
    for row in page["value"].as_array().expect("has rows") {
        for (name, value) in row.as_object().expect("is an entity") {
            black_box((name, value));
        }
    }
    page["@odata.nextLink"].as_str().map(str::to_owned)
}

/// Gets each page, and reads it.
async fn bare(root: &str, rows: usize, read: fn(&[u8]) -> Option<String>) -> Duration {
    let begin = Instant::now();
    let mut url = Url::parse(&format!("{root}/Orders")).expect("is a URL");
    let client = Client::new(&url, None, &Tls::default(), &Options::default()).expect("a client can be made");
    let mut pages = 0;
    loop {
        let answer = client.fetch(&Request::get(url.clone())).await.expect("the server answers");
        pages += 1;
        match read(&answer.body) {
            Some(link) => url = url.join(&link).expect("is a link"),
            None => break,
        }
    }
    assert_eq!(pages, rows.div_ceil(PAGE));
    begin.elapsed()
}

/// The source, into a host that counts.
async fn source(root: &str, rows: usize) -> (Duration, usize) {
    let text = format!("{{endpoint: '{root}', entity_sets: [{{name: Orders, topic: orders, every: 1h}}]}}");
    let compiled = yaml::compile::<ErpSourcePlugin>(&text, &yaml::context("erp", &[])).unwrap_or_else(|problems| panic!("{problems}"));
    let host = TestHost::of(&*compiled);
    host.discard();
    let (mut source, io) = (compiled.source().expect("is a source"), host.io());
    let idle = memory::held_bytes();
    let begin = Instant::now();
    let running = tokio::spawn(async move { source.session(io).await });
    let mut most = 0;
    while host.count() < rows as u64 {
        most = most.max(memory::held_bytes().saturating_sub(idle));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!running.is_finished(), "the session ended");
    }
    let took = begin.elapsed();
    host.stop();
    let ended: Result<(), Failure> = running.await.expect("the task ends");
    ended.expect("it ends well");
    (took, most)
}
