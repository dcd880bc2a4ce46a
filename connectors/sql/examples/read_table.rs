//! How fast is a table of PostgreSQL read? The rival is `COPY` of the whole table through the same driver, its bytes thrown away: as text, which is what
//! `COPY` gives by itself, and in the binary form. The source reads the rows in the order of their key, makes a document of each and hands them on
//! in batches.
//!
//! `cargo run --release -p millrace-sql --example read_table -- 1000000`; it wants Debian's `postgresql`.

use bytes::BytesMut;
use futures_util::StreamExt;
use millrace_sql::SqlSource;
use millrace_testkit::{CountingAllocator, Database, TestHost, memory, yaml};
use std::pin::pin;
use std::time::{Duration, Instant};

#[global_allocator]
static MEMORY: CountingAllocator = CountingAllocator;

#[tokio::main]
async fn main() {
    let rows: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let database = Database::postgres();
    database.run(&format!(
        "CREATE TABLE orders (id bigint PRIMARY KEY, material text, quantity numeric(15,3), changed timestamptz, note text);
         INSERT INTO orders SELECT n, '000000000000004711', n * 0.125, '2026-07-01'::timestamptz + n * interval '1 ms', 'note ' || n
         FROM generate_series(1, {rows}) n; GRANT SELECT ON orders TO millrace; ANALYZE orders"
    ));
    for round in 1..=3 {
        let (text, binary) = (copy(database.port(), "text").await, copy(database.port(), "binary").await);
        let (took, held) = source(database.port(), rows).await;
        let [text, binary, source] = [text, binary, took].map(|time| rows as f64 / time.as_secs_f64());
        println!(
            "{round}: rows/s: COPY {text:.0}, binary {binary:.0}; source {source:.0}: {:.2} of COPY, {:.2} of binary; memory above idle {:.1} MiB",
            source / text,
            source / binary,
            held as f64 / f64::from(1 << 20)
        );
    }
}

async fn copy(port: u16, format: &str) -> Duration {
    let address = format!("host=127.0.0.1 port={port} dbname=plant user=millrace password=secret");
    let (client, connection) = tokio_postgres::connect(&address, tokio_postgres::NoTls).await.expect("the database answers");
    tokio::spawn(connection);
    let begin = Instant::now();
    let mut stream = pin!(client.copy_out(&format!("COPY orders TO STDOUT (FORMAT {format})")).await.expect("it may be copied"));
    let mut bytes = BytesMut::new();
    while let Some(piece) = stream.next().await {
        bytes.clear();
        bytes.extend_from_slice(&piece.expect("a piece"));
    }
    begin.elapsed()
}

/// The source, into a host that counts.
async fn source(port: u16, rows: u64) -> (Duration, usize) {
    let text = format!(
        "{{endpoint: 'postgres://127.0.0.1:{port}/plant', login: {{user: millrace, password: secret}}, \
         queries: [{{table: orders, every: 1h, watermark: id, overlap_ids: 0, topic: orders}}]}}"
    );
    let compiled = yaml::compile::<SqlSource>(&text, &yaml::context("sql", &[])).unwrap_or_else(|problems| panic!("{problems}"));
    let host = TestHost::of(&*compiled);
    host.discard();
    let (mut source, io) = (compiled.source().expect("is a source"), host.io());
    let idle = memory::held_bytes();
    let begin = Instant::now();
    let running = tokio::spawn(async move { source.session(io).await });
    let mut most = 0;
    while host.count() < rows {
        most = most.max(memory::held_bytes().saturating_sub(idle));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(!running.is_finished(), "the session ended");
    }
    let took = begin.elapsed();
    host.stop();
    running.await.expect("the task ends").expect("it ends well");
    (took, most)
}
