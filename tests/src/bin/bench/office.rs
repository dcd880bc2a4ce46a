//! Systems of the office: an ERP's first load, a table of a database, posts over HTTP. Each against a bare client of the same pages, rows or posts.

use crate::figures::{LONG, Row, row, start_stub, stub_port};
use bytes::BytesMut;
use millrace_testkit::Database;
use millrace_tests::wait::within;
use millrace_tests::{Factory, Millrace, free_port};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Rows in a page of the ERP.
const PAGE: usize = 1_000;

fn on_stub(port: u16) -> Factory {
    Factory::at(&format!("127.0.0.1:{port}")).with("topic", "rows")
}

/// From the first rows that came to the last, and the memory above what the idle runtime held.
fn load(millrace: &mut Millrace, source: &str, rows: u64) -> (Duration, u64) {
    let idle = millrace.process().memory_kib("VmRSS");
    let first = within(LONG, "rows come", || Some(millrace.ledger(source).received).filter(|received| *received > 0));
    let began = Instant::now();
    within(LONG, "all rows came", || (millrace.ledger(source).received >= rows).then_some(()));
    let took = began.elapsed().mul_f64(rows as f64 / (rows - first.min(rows - 1)) as f64);
    (took, millrace.process().memory_kib("VmHWM").saturating_sub(idle) / 1024)
}

fn rate(rows: u64, took: Duration) -> f64 {
    rows as f64 / took.as_secs_f64()
}

// ---- ERP ------------------------------------------------------------------------------------------------------------------------------

const METADATA: &str = r#"<edmx:Edmx Version="4.0" xmlns:edmx="http://docs.oasis-open.org/odata/ns/edmx"><edmx:DataServices>
<Schema Namespace="p" xmlns="http://docs.oasis-open.org/odata/ns/edm"><EntityType Name="Order"><Key><PropertyRef Name="ID"/></Key>
<Property Name="ID" Type="Edm.String" Nullable="false"/><Property Name="material" Type="Edm.String"/>
<Property Name="quantity" Type="Edm.Decimal" Precision="15" Scale="3"/><Property Name="modifiedAt" Type="Edm.DateTimeOffset" Precision="3"/></EntityType>
<EntityContainer Name="C"><EntitySet Name="Orders" EntityType="p.Order"/></EntityContainer></Schema></edmx:DataServices></edmx:Edmx>"#;

fn page(number: usize, pages: usize) -> String {
    let mut body = String::from(r#"{"@odata.context":"$metadata#Orders","value":["#);
    for n in 0..PAGE {
        let comma = if n > 0 { "," } else { "" };
        let id = number * PAGE + n;
        let _ = write!(
            body,
            r#"{comma}{{"@odata.etag":"W/\"1\"","ID":"{id:012}","material":"000000000000004711","quantity":12.500,"modifiedAt":"2026-07-01T08:00:00Z"}}"#
        );
    }
    match number + 1 < pages {
        true => body + &format!(r#"],"@odata.nextLink":"Orders?$skiptoken={}"}}"#, number + 1),
        false => body + "]}",
    }
}

/// Serves pages that are made beforehand: it costs next to nothing.
fn serve_pages(pages: usize) -> u16 {
    let all: Arc<Vec<String>> = Arc::new((0..pages).map(|number| page(number, pages)).collect());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = listener.local_addr().expect("is bound").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let all = all.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().expect("a handle can be cloned"));
                let mut stream = stream;
                while let Some(first) = head(&mut reader).map(|(first, _)| first) {
                    let (kind, body) = if first.contains("$metadata") {
                        ("application/xml", METADATA)
                    } else {
                        let token = first.split("skiptoken=").nth(1).and_then(|rest| rest.split([' ', '&']).next());
                        let number = token.and_then(|token| token.parse::<usize>().ok()).unwrap_or(0);
                        ("application/json", all[number.min(all.len() - 1)].as_str())
                    };
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n", body.len());
                    if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes())).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// The first line of a message, and how long its body is.
fn head(reader: &mut impl BufRead) -> Option<(String, usize)> {
    let (mut first, mut length, mut line) = (String::new(), 0, String::new());
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let line = line.trim_end();
        if line.is_empty() {
            return Some((first, length));
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
}

/// Gets each page and looks for the link to the next.
fn bare_pages(port: u16) -> Duration {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the pages are served");
    let mut reader = BufReader::new(stream.try_clone().expect("a handle can be cloned"));
    let (mut stream, began) = (stream, Instant::now());
    let mut link = Some("Orders".to_owned());
    while let Some(path) = link {
        stream.write_all(format!("GET /srv/{path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n").as_bytes()).expect("it is asked");
        let (_, length) = head(&mut reader).expect("it answers");
        let mut body = vec![0; length];
        reader.read_exact(&mut body).expect("a whole page");
        let text = String::from_utf8(body).expect("a text");
        link = text.rsplit_once("\"@odata.nextLink\":\"").map(|(_, link)| link.trim_end_matches("\"}").to_owned());
    }
    began.elapsed()
}

pub fn erp(quick: bool) -> Vec<Row> {
    let pages = if quick { 50 } else { 1_000 };
    let rows = (pages * PAGE) as u64;
    let (port, stub) = (serve_pages(pages), stub_port());
    let bare = bare_pages(port);
    let _stub = start_stub(stub);
    let mut millrace = on_stub(stub).with("port", port).start(
        "
log: {size: 16GiB, keep_free: 1GiB}
topics: {$topic: {format: json, partitions: 6}}
sources:
  erp: {type: erp, endpoint: 'http://127.0.0.1:$port/srv', topic: $topic, entity_sets: [{name: Orders, every: 1h}]}
",
    );
    let (took, memory) = load(&mut millrace, "erp", rows);
    let ratio = rate(rows, took) / rate(rows, bare);
    vec![
        row(
            format!("first load of {rows} rows of an ERP into the log"),
            format!("{:.0} rows/s", rate(rows, took)),
            ">= 0.9 of a bare loop",
            format!("{ratio:.2} of a bare loop ({:.0} rows/s)", rate(rows, bare)),
        ),
        row("  memory above idle", format!("{memory} MiB"), "<= 64 MiB", ""),
    ]
}

// ---- SQL ------------------------------------------------------------------------------------------------------------------------------

/// `COPY` through the same driver into nothing.
fn copy(port: u16) -> Duration {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let address = format!("host=127.0.0.1 port={port} dbname=plant user=millrace password=secret");
        let (client, connection) = tokio_postgres::connect(&address, tokio_postgres::NoTls).await.expect("the database answers");
        tokio::spawn(connection);
        let began = Instant::now();
        let stream = client.copy_out("COPY orders TO STDOUT").await.expect("it may be copied");
        let mut stream = std::pin::pin!(stream);
        let mut bytes = BytesMut::new();
        while let Some(piece) = std::future::poll_fn(|cx| futures_util::Stream::poll_next(stream.as_mut(), cx)).await {
            bytes.clear();
            bytes.extend_from_slice(&piece.expect("a piece"));
        }
        began.elapsed()
    })
}

pub fn sql(quick: bool) -> Vec<Row> {
    let rows: u64 = if quick { 50_000 } else { 1_000_000 };
    let database = Database::postgres();
    database.run(&format!(
        "CREATE TABLE orders (id bigint PRIMARY KEY, material text, quantity numeric(15,3), changed timestamptz, note text);
         INSERT INTO orders SELECT n, '000000000000004711', n * 0.125, '2026-07-01'::timestamptz + n * interval '1 ms', 'note ' || n
         FROM generate_series(1, {rows}) n; GRANT SELECT ON orders TO millrace; ANALYZE orders"
    ));
    let bare = copy(database.port());
    let stub = stub_port();
    let _stub = start_stub(stub);
    let mut millrace = on_stub(stub).with("port", database.port()).env("SQL_PASSWORD", "secret").start(
        "
log: {size: 16GiB, keep_free: 1GiB}
topics: {$topic: {format: json, partitions: 6}}
sources:
  mes:
    type: sql
    endpoint: postgres://127.0.0.1:$port/plant
    login: {user: millrace, password: '${env:SQL_PASSWORD}'}
    topic: $topic
    queries: [{table: orders, every: 1h, watermark: id, overlap_ids: 0}]
",
    );
    let (took, memory) = load(&mut millrace, "mes", rows);
    let ratio = rate(rows, took) / rate(rows, bare);
    vec![
        row(
            format!("{rows} rows of PostgreSQL into the log"),
            format!("{:.0} rows/s", rate(rows, took)),
            ">= 0.7 of COPY",
            format!("{ratio:.2} of COPY through the same driver ({:.0} rows/s)", rate(rows, bare)),
        ),
        row("  memory above idle", format!("{memory} MiB"), "constant", ""),
    ]
}

// ---- HTTP -----------------------------------------------------------------------------------------------------------------------------

const CONNECTIONS: usize = 64;

pub fn http(quick: bool) -> Vec<Row> {
    let window = Duration::from_secs(if quick { 5 } else { 20 });
    let (port, stub) = (free_port(), stub_port());
    let _stub = start_stub(stub);
    let millrace = on_stub(stub).with("port", port).start(
        "
log: {size: 16GiB, keep_free: 1GiB}
topics: {$topic: {format: json, partitions: 6}}
sources:
  apps: {type: http, listen: '127.0.0.1:$port', sync_apart: 0ms, topic: $topic, routes: [{post: /posts, key: '{/n}'}]}
",
    );
    millrace.wait_running("apps");
    let (done, end) = (Arc::new(AtomicU64::new(0)), Instant::now() + window);
    let senders: Vec<_> = (0..CONNECTIONS)
        .map(|sender| {
            let done = done.clone();
            std::thread::spawn(move || {
                let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
                let _ = stream.set_nodelay(true);
                let mut reader = BufReader::new(stream.try_clone().expect("a handle can be cloned"));
                let (mut stream, mut took, mut number, mut body) = (stream, Vec::new(), 0_u64, Vec::new());
                while Instant::now() < end {
                    let post = format!("{{\"n\": {number}, \"sender\": {sender}, \"force\": 12.5}}");
                    let asked = format!(
                        "POST /posts HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{post}",
                        post.len()
                    );
                    let began = Instant::now();
                    stream.write_all(asked.as_bytes()).expect("it is posted");
                    let (first, length) = head(&mut reader).expect("it answers");
                    body.resize(length, 0);
                    reader.read_exact(&mut body).expect("a whole answer");
                    assert!(first.contains(" 200 "), "{first}{}", String::from_utf8_lossy(&body));
                    took.push(began.elapsed());
                    done.fetch_add(1, Relaxed);
                    number += 1;
                }
                took
            })
        })
        .collect();
    let mut took: Vec<Duration> = senders.into_iter().flat_map(|sender| sender.join().expect("a sender ends")).collect();
    took.sort_unstable();
    let posts = done.load(Relaxed);
    assert!(millrace.ledger("apps").received >= posts, "each that was answered with 200 was received");
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    vec![row(
        format!("posts over {CONNECTIONS} connections, each synced before its answer"),
        format!("{:.0} posts/s", posts as f64 / window.as_secs_f64()),
        ">= 20,000 posts/s",
        format!("p50 {:.1} ms, p99 {:.1} ms", at(0.5), at(0.99)),
    )]
}
