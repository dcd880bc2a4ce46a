//! Live data over WebSocket, judged by PyPI's `websockets`.

use millrace_tests::*;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const FACTORY: &str = "
topics: {$topic: {format: json, partitions: 2}}
sources:
  load: {type: generator, at: hall/press-1, topic: $topic, tags: 8, rate: $rate, shapes: [counter]}
";

/// Prints so many messages, one a line; or why it was not let in.
const CLIENT: &str = r#"
import sys
from websockets.sync.client import connect
from websockets.exceptions import InvalidStatus
url, count, origin = sys.argv[1], int(sys.argv[2]), sys.argv[3] or None
try:
    with connect(url, origin=origin, open_timeout=60, max_size=None) as socket:
        for _ in range(count):
            print(socket.recv(timeout=60), flush=True)
except InvalidStatus as refused:
    print("refused", refused.response.status_code)
"#;

fn client(port: u16, path: &str, count: usize, origin: &str) -> String {
    let mut python = peers::python(peers::websockets());
    let output =
        python.args(["-c", CLIENT, &format!("ws://127.0.0.1:{port}{path}"), &count.to_string(), origin]).output().expect("it starts");
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn messages(port: u16, path: &str, count: usize) -> Vec<Value> {
    client(port, path, count, "").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn a_websocket_goes_on_where_it_was_left_and_no_page_of_another_origin_opens_one() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("socket");
    let millrace = Factory::on(kafka).with("topic", &topic).with("rate", "200/s").start(FACTORY);
    millrace.wait_running("load");
    let port = millrace.http_port();
    let tag = format!("{}/hall/press-1/counter-0", millrace.site());
    let mut read = messages(port, &format!("/live/socket?tag={tag}"), 20);
    let last = read[19]["id"].as_str().expect("an id").to_owned();
    read.extend(messages(port, &format!("/live/socket?tag={tag}&from={last}"), 60));
    assert!(read.iter().all(|one| one["event"] == "sample" && one["data"]["tag"] == tag), "{read:?}");
    let values: Vec<i64> = read.iter().map(|one| one["data"]["value"].as_i64().expect("a number")).collect();
    assert!(values.windows(2).all(|two| two[1] == two[0] + 1), "{values:?}");
    assert_eq!(messages(port, "/live/socket?from=nosuchrun-1", 1)[0]["event"], "gap");

    // A topic, by offsets.
    let mut read = messages(port, &format!("/live/socket?topic={topic}&from=earliest"), 50);
    let last = read[49]["id"].as_str().expect("an id").to_owned();
    read.extend(messages(port, &format!("/live/socket?topic={topic}&from={last}"), 50));
    for partition in [0, 1] {
        let mut offsets: Vec<i64> = read
            .iter()
            .filter(|one| one["data"]["partition"] == partition)
            .map(|one| one["data"]["offset"].as_i64().expect("a number"))
            .collect();
        offsets.sort_unstable();
        assert!(offsets.windows(2).all(|two| two[1] == two[0] + 1), "{partition}: {offsets:?}");
    }

    assert_eq!(client(port, "/live/socket", 1, "http://evil.example").trim(), "refused 403");
    assert_eq!(client(port, &format!("/live/socket?tag=a&topic={topic}"), 1, "").trim(), "refused 400");
    assert_eq!(http::get(port, "/live/socket").expect("it answers").0, 400, "it is no WebSocket");
}

#[test]
fn a_websocket_that_never_reads_is_closed_with_a_reason_and_holds_nobody_up() {
    let kafka = Kafka::shared();
    let millrace = Factory::on(kafka).with("topic", kafka.topic("deaf")).with("rate", "30000/s").start(FACTORY);
    millrace.wait_running("load");
    let port = millrace.http_port();
    let mut deaf = TcpStream::connect(("127.0.0.1", port)).expect("it accepts");
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    write!(
        deaf,
        "GET /live/socket HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: {key}\r\n\r\n"
    )
    .expect("it is sent");
    let slow = || millrace.metrics().contains("millrace_live_slow_total 1\n");
    eventually("it is counted as too slow", || slow().then_some(()));
    // Behind what was on its way stands why: 0x88, a length, 1008 as two bytes, and the reason.
    deaf.set_read_timeout(Some(Duration::from_secs(60))).expect("a deadline");
    let (mut end, mut chunk) = (Vec::new(), vec![0; 1 << 20]);
    loop {
        match deaf.read(&mut chunk) {
            Ok(0) | Err(_) => break,
            Ok(read) => end.extend_from_slice(&chunk[..read]),
        }
        end.drain(..end.len().saturating_sub(1000));
    }
    let reason = String::from_utf8_lossy(&end);
    assert!(reason.contains("nothing is lost in Kafka"), "{reason}");
    let ledger = millrace.ledger("load");
    assert_eq!(ledger.dropped_at_intake + ledger.dropped_from_log, 0, "{ledger:?}");
    assert_eq!(messages(port, "/live/socket", 5).len(), 5, "the next one is served");
}
