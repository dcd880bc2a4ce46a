//! The source over real sockets: what it answers, and what is in the log then.

use millrace_contract::Status;
use millrace_http::HttpSource;
use millrace_testkit::{FaultProxy, Received, TestHost, soon, yaml};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

struct Running {
    listen: String,
    host: TestHost,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(keys: &str) -> Self {
        let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let text = format!("{{listen: \"{listen}\", {keys}}}");
        let compiled = yaml::compile::<HttpSource>(&text, &yaml::context("http", &[])).unwrap_or_else(|problems| panic!("{problems}"));
        let host = TestHost::of(&*compiled);
        let (mut source, io) = (compiled.source().unwrap(), host.io());
        let task = tokio::spawn(async move { source.session(io).await.unwrap() });
        host.until("it listens", |host| host.status("") == Some(Status::Running)).await;
        Self { listen, host, task }
    }

    /// Status, headers and body of an answer.
    async fn ask(&self, request: &str, body: &[u8]) -> (u16, String, String) {
        ask(&self.listen, request, body).await
    }

    async fn post(&self, path: &str, headers: &str, body: &[u8]) -> (u16, String, String) {
        self.ask(&format!("POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{headers}"), body).await
    }

    fn payloads(&self) -> Vec<String> {
        let text = |record: Received| match record {
            Received::Document(document) => format!("{} {} {}", document.topic, String::from_utf8_lossy(&document.key), document.text()),
            Received::Rejected(reject) => format!("dead {}", String::from_utf8_lossy(&reject.payload)),
            Received::Sample(sample) => format!("{} {:?}", sample.tag, sample.value),
        };
        self.host.received().into_iter().map(text).collect()
    }

    async fn stop(self) {
        self.host.stop();
        soon("the session ends", self.task).await.unwrap();
    }
}

async fn ask(to: &str, request: &str, body: &[u8]) -> (u16, String, String) {
    let connecting = async {
        loop {
            match TcpStream::connect(to).await {
                Ok(stream) => break stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let mut stream = soon("it takes a connection", connecting).await;
    let head = format!("{request}connection: close\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(30), stream.read_to_end(&mut answer)).await;
    parts(&answer)
}

/// What comes until the head of an answer is whole.
async fn head_of(stream: &mut TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    while !answer.windows(4).any(|window| window == b"\r\n\r\n") && stream.read_buf(&mut answer).await.is_ok_and(|read| read > 0) {}
    answer
}

fn parts(answer: &[u8]) -> (u16, String, String) {
    let text = String::from_utf8_lossy(answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_ascii_lowercase(), body.to_owned())
}

const JSON: &str = "content-type: application/json\r\n";
const LINES: &str = "content-type: application/x-ndjson\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn documents_samples_and_readings_come_out_of_their_paths() {
    let running = Running::start(
        "routes: [{post: '/machines/{machine}/state', topic: 'state.{machine}', key: '{machine}/{/id}', headers: [x-shift]},
                  {post: /car, at: car, samples: {speed: /v/kmh}, time: {at: /ts, unit: ms}},
                  {post: /gateway, each: /values, tag: '{/id}', value: /v}]",
    )
    .await;
    let (status, _, body) = running.post("/machines/press%201/state", &format!("{JSON}x-shift: late\r\n"), b"{\"id\":7}").await;
    assert_eq!(
        (status, body.as_str()),
        (
            400,
            r#"{"error_code":400,"message":"record 1: `state.press 1` is no name of a Kafka topic: ` ` is not allowed in it","refused":[{"record":1,"reason":"`state.press 1` is no name of a Kafka topic: ` ` is not allowed in it"}]}"#
        )
    );
    let (status, _, body) = running.post("/machines/p1/state", &format!("{JSON}x-shift: late\r\n"), b"[{\"id\":7}, {\"id\":8}]").await;
    assert_eq!((status, body.as_str()), (200, "{\"accepted\":2}"));
    assert_eq!(running.post("/car", JSON, b"{\"v\":{\"kmh\":4.5},\"ts\":1763726880000}").await.0, 200);
    assert_eq!(running.post("/gateway", JSON, b"{\"values\":[{\"id\":\"a\",\"v\":1},{\"id\":\"b\",\"v\":2}]}").await.0, 200);
    assert_eq!(
        running.payloads(),
        ["state.p1 p1/7 {\"id\":7}", "state.p1 p1/8 {\"id\":8}", "at/http/car/speed Double(4.5)", "at/http/a Int(1)", "at/http/b Int(2)"]
    );
    let headers = running.host.documents()[0].headers.clone();
    let text = |name: &str| headers.iter().find(|(known, _)| known == name).and_then(|(_, value)| value.clone());
    assert_eq!((text("x-shift"), text("http.path")), (Some(b"late".to_vec()), Some(b"/machines/p1/state".to_vec())));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_line_costs_itself_and_a_bad_post_leaves_nothing() {
    let running = Running::start("routes: [{post: /a, topic: a}]").await;
    let (status, _, body) = running.post("/a", LINES, b"{\"a\":1}\n{\"a\":\n{\"a\":2}").await;
    assert_eq!((status, running.payloads()), (200, vec!["a  {\"a\":1}".to_owned(), "a  {\"a\":2}".into(), "dead {\"a\":".into()]));
    assert!(body.starts_with("{\"accepted\":2,\"refused\":[{\"record\":2,\"reason\":\"the payload cannot be read as JSON"), "{body}");
    for (headers, body, status) in [
        (JSON, &b"{\"a\":"[..], 400),
        (JSON, b"", 400),
        (JSON, b"\xFF\xFE", 400),
        (LINES, b"\n\n", 400),
        ("content-type: text/csv\r\n", b"a;b", 415),
        ("content-type: application/json\r\ncontent-encoding: br\r\n", b"x", 415),
        ("content-type: application/json\r\ncontent-encoding: gzip\r\n", b"{}", 400),
        ("content-type: application/json\r\norigin: http://evil\r\n", b"{}", 403),
    ] {
        let answer = running.post("/a", headers, body).await;
        assert_eq!(answer.0, status, "{headers} {answer:?}");
        assert!(answer.2.contains("\"message\""), "{answer:?}");
    }
    assert_eq!(running.post("/b", JSON, b"{}").await.0, 404);
    assert_eq!(running.ask("GET /a HTTP/1.1\r\nhost: localhost\r\n", b"").await.0, 405);
    assert_eq!(running.ask("POST /a HTTP/1.1\r\nhost: plant.example\r\ncontent-type: application/json\r\n", b"{}").await.0, 403);
    assert_eq!(running.payloads().len(), 3);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_the_sync_and_a_repeat_for_its_first() {
    let running = Running::start("answer_within: 20s, routes: [{post: /a, topic: a}]").await;
    running.host.withhold();
    let headers = format!("{JSON}idempotency-key: k1\r\n");
    let (first, second) = (running.post("/a", &headers, b"{\"n\":1}"), running.post("/a", &headers, b"{\"n\":1}"));
    let mut both = Box::pin(async { tokio::join!(first, second) });
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut both).await.is_err(), "answered before the sync");
    running.host.sync();
    let ((first, _, one), (second, _, two)) = soon("both are answered", both).await;
    assert_eq!((first, second), (200, 200));
    let mut answers = [one, two];
    answers.sort();
    assert_eq!(answers, ["{\"accepted\":0,\"repeated\":1}", "{\"accepted\":1}"]);
    running.host.sync();
    // What was refused is not remembered.
    assert_eq!(running.post("/a", &format!("{JSON}idempotency-key: k2\r\n"), b"{").await.0, 400);
    let headers = format!("{JSON}idempotency-key: k2\r\n");
    let good = running.post("/a", &headers, b"{\"n\":2}");
    let synced = async {
        running.host.until("it is there", |host| host.count() == 2).await;
        running.host.sync();
    };
    let ((status, ..), ()) = tokio::join!(good, synced);
    assert_eq!((status, running.payloads().len()), (200, 2));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_is_said_with_retry_after_and_nothing_is_acknowledged() {
    let running = Running::start("answer_within: 1s, routes: [{post: /a, topic: a}]").await;
    running.host.fill_log();
    let (status, head, _) = running.post("/a", JSON, b"{}").await;
    assert_eq!(status, 503);
    assert!(head.contains("retry-after: 5"), "{head}");
    running.host.until("it says so", |host| matches!(host.status(""), Some(Status::Degraded(why)) if why.contains("503"))).await;
    assert_eq!(running.post("/a", JSON, b"{}").await.0, 503, "at once");
    running.host.free_log();
    running.host.until("it runs again", |host| host.status("") == Some(Status::Running)).await;
    assert_eq!(running.post("/a", JSON, b"{}").await.0, 200);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_slow_and_bomb_bodies_end_with_their_status_while_others_go_on() {
    let running = Running::start("max_body: 64KiB, max_waiting: 256KiB, body_within: 1s, idle: 1s, routes: [{post: /a, topic: a}]").await;
    // A gigabyte is refused by its length alone.
    let mut stream = TcpStream::connect(&running.listen).await.unwrap();
    stream
        .write_all(b"POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1073741824\r\n\r\n{")
        .await
        .unwrap();
    assert_eq!(parts(&head_of(&mut stream).await).0, 413);
    // Without a length, by what comes.
    let mut chunked = TcpStream::connect(&running.listen).await.unwrap();
    chunked
        .write_all(b"POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        .await
        .unwrap();
    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
    for _ in 0..3 {
        let _ = chunked.write_all(chunk.as_bytes()).await;
    }
    assert_eq!(parts(&head_of(&mut chunked).await).0, 413);
    // Compressed, by what comes out.
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut bomb, &vec![b' '; 10 << 20]).unwrap();
    let bomb = bomb.finish().unwrap();
    assert_eq!(running.post("/a", &format!("{JSON}content-encoding: gzip\r\n"), &bomb).await.0, 413);
    // A list of small numbers, each of which would carry a long header.
    let (list, long) = (format!("[{}1]", "1,".repeat(20_000)), format!("{JSON}idempotency-key: {}\r\n", "k".repeat(50_000)));
    let (status, _, said) = running.post("/a", &long, list.as_bytes()).await;
    assert!(status == 413 && said.contains("post fewer"), "{status} {said}");
    // Slow ones hold memory for a second, and the next are told to come later; a small one finds room.
    let mut slow = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(&running.listen).await.unwrap();
        stream
            .write_all(b"POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 60000\r\n\r\n{")
            .await
            .unwrap();
        slow.push(stream);
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (status, head, _) = running.post("/a", JSON, &[b' '; 60_000]).await;
    assert_eq!(status, 429);
    assert!(head.contains("retry-after: 1"), "{head}");
    assert_eq!(running.post("/a", JSON, b"{}").await.0, 200);
    for mut stream in slow {
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert_eq!(parts(&answer).0, 408);
    }
    // A head that never ends is cut off.
    let mut head = TcpStream::connect(&running.listen).await.unwrap();
    head.write_all(b"POST /a HTTP/1.1\r\nhost: lo").await.unwrap();
    soon("the connection is closed", head.read_to_end(&mut Vec::new())).await.ok();
    assert_eq!(running.payloads().len(), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_post_counts_once_and_only_within_its_window() {
    let running = Running::start(
        "hmac: {secrets: ['0123456789abcdef'], timestamp: x-time, prefix: 'sha256='}, tokens: {press: 'abcdef0123456789'}, routes: [{post: /a, topic: a}]",
    )
    .await;
    let sign = |time: i64, body: &str| {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"0123456789abcdef");
        let tag = ring::hmac::sign(&key, format!("{time}.{body}").as_bytes());
        let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{JSON}x-time: {time}\r\nx-signature: sha256={hex}\r\n")
    };
    let now = millrace_schemas::Micros::now().0 / 1_000_000;
    assert_eq!(running.post("/a", &sign(now, "{}"), b"{}").await.2, "{\"accepted\":1}");
    assert_eq!(running.post("/a", &sign(now, "{}"), b"{}").await.2, "{\"accepted\":0,\"repeated\":1}", "a replay");
    assert_eq!(running.post("/a", &sign(now, "{}"), b"{ }").await.0, 401, "another body");
    assert_eq!(running.post("/a", &sign(now - 400, "{}"), b"{}").await.0, 401, "too old");
    assert_eq!(running.post("/a", JSON, b"{}").await.0, 401, "not signed");
    assert_eq!(running.post("/a", &format!("{JSON}authorization: Bearer abcdef0123456789\r\n"), b"{\"n\":2}").await.0, 200);
    assert_eq!(running.post("/a", &format!("{JSON}authorization: Bearer abcdef0123456780\r\n"), b"{}").await.0, 401);
    assert_eq!(running.payloads(), ["a  {}", "a  {\"n\":2}"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_in_each_mode_are_one_record_each_and_repeats_are_known() {
    let running = Running::start("webhook_origins: [events.plant], routes: [{post: /events, topic: events}]").await;
    let event = r#"{"specversion":"1.0","type":"order.made","source":"/erp","id":"1","partitionkey":"4711","data":{"n":1}}"#;
    let structured = "content-type: application/cloudevents+json\r\n";
    assert_eq!(running.post("/events", structured, event.as_bytes()).await.2, "{\"accepted\":1}");
    let binary = format!("{JSON}ce-specversion: 1.0\r\nce-type: order.made\r\nce-source: /erp\r\nce-id: 1\r\n");
    assert_eq!(running.post("/events", &binary, b"{\"n\":1}").await.2, "{\"accepted\":0,\"repeated\":1}");
    let batch = format!("[{event},{}]", event.replace("\"1\",\"partition", "\"2\",\"partition"));
    let answer = running.post("/events", "content-type: application/cloudevents-batch+json\r\n", batch.as_bytes()).await;
    assert_eq!(answer.2, "{\"accepted\":1,\"repeated\":1}");
    assert_eq!(running.payloads(), ["events 4711 {\"n\":1}", "events 4711 {\"n\":1}"]);
    let names: Vec<_> = running.host.documents()[0].headers.iter().map(|(name, _)| name.clone()).collect();
    assert!(["ce_id", "ce_source", "ce_type", "ce_specversion"].iter().all(|name| names.iter().any(|known| known == name)), "{names:?}");
    let handshake = |origin: &str| format!("OPTIONS /events HTTP/1.1\r\nhost: localhost\r\nwebhook-request-origin: {origin}\r\n");
    let (status, head, _) = running.ask(&handshake("events.plant"), b"").await;
    assert!(status == 200 && head.contains("webhook-allowed-origin: events.plant"), "{head}");
    assert_eq!(running.ask(&handshake("other"), b"").await.0, 403);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cable_that_is_cut_before_the_answer_costs_a_repeat_not_a_record() {
    let running = Running::start("routes: [{post: /a, topic: a}]").await;
    let cable = FaultProxy::to(running.listen.clone()).await;
    running.host.withhold();
    let to = cable.addr().to_string();
    let request = format!("POST /a HTTP/1.1\r\nhost: localhost\r\nidempotency-key: 9\r\n{JSON}");
    let mut stream = TcpStream::connect(&to).await.unwrap();
    stream.write_all(format!("{request}content-length: 2\r\n\r\n{{}}").as_bytes()).await.unwrap();
    running.host.until("it is in the log", |host| host.count() == 1).await;
    cable.cut();
    running.host.sync();
    cable.heal();
    let answering = ask(&to, &request, b"{}");
    assert_eq!(soon("it is answered", answering).await.2, "{\"accepted\":0,\"repeated\":1}");
    assert_eq!(running.payloads(), ["a  {}"]);
    running.stop().await;
}

#[test]
fn check_refuses_what_would_be_open_to_everyone() {
    let said = |keys: &str| yaml::compile::<HttpSource>(keys, &yaml::context("http", &[])).err().unwrap_or_default();
    let open = said("{listen: '0.0.0.0:8090', routes: [{post: /a}]}");
    assert!(open.contains("whoever reaches 0.0.0.0:8090 could post here") && open.contains("let it listen on 127.0.0.1"), "{open}");
    let weak = said("{listen: '127.0.0.1:8090', tokens: {a: short}, routes: [{post: /a}]}");
    assert!(weak.contains("shorter than 16 characters"), "{weak}");
    let twice = said("{listen: '127.0.0.1:8090', routes: [{post: '/a/{b}'}, {post: /a/c}, {post: /x, headers: [millrace.seq]}]}");
    assert!(twice.contains("match the same paths") && twice.contains("no sender may set it"), "{twice}");
    let none = said("{listen: '127.0.0.1:8090', rest_proxy: {topics: [\"millrace.*\"]}}");
    assert!(none.contains("Kafka's or Millrace's own"), "{none}");
}
