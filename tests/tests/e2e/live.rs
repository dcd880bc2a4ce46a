//! Live data out: server-sent events that go on where they were left, and an asset as one document.

use millrace_tests::*;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

const FACTORY: &str = "
topics: {$topic: {format: json, partitions: 2}}
sources:
  load: {type: generator, at: hall/press-1, topic: $topic, tags: 3, rate: $rate, shapes: [counter], unit: pieces, description: made today}
";

/// Prints the first events as JSON, one a line.
const CLIENT: &str = r#"
import json, sys, requests, sseclient
url, last, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
headers = {"Accept": "text/event-stream"}
if last:
    headers["Last-Event-ID"] = last
answer = requests.get(url, headers=headers, stream=True, timeout=60)
answer.raise_for_status()
for event in sseclient.SSEClient(answer).events():
    print(json.dumps({"id": event.id, "event": event.event, "data": json.loads(event.data)}), flush=True)
    count -= 1
    if count == 0:
        break
"#;

#[derive(Debug, serde::Deserialize)]
struct Event {
    id: Option<String>,
    event: String,
    data: Value,
}

/// What a client of PyPI reads.
fn events(port: u16, path: &str, last: &str, count: usize) -> Vec<Event> {
    let mut python = peers::python(peers::sse_client());
    let output =
        python.args(["-c", CLIENT, &format!("http://127.0.0.1:{port}{path}"), last, &count.to_string()]).output().expect("it starts");
    assert!(output.status.success(), "{path}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
}

/// The values of each tag, in their order.
fn by_tag(events: &[Event]) -> std::collections::BTreeMap<String, Vec<i64>> {
    let mut all = std::collections::BTreeMap::<String, Vec<i64>>::new();
    for event in events.iter().filter(|event| event.event == "sample") {
        let value = event.data["value"].as_f64().unwrap_or_else(|| panic!("no number: {event:?}")) as i64;
        all.entry(event.data["tag"].as_str().expect("a tag").to_owned()).or_default().push(value);
    }
    all
}

#[test]
fn samples_go_on_where_a_client_left_off_and_a_gap_is_told() {
    let kafka = Kafka::shared();
    let millrace = Factory::on(kafka).with("topic", kafka.topic("live")).with("rate", "60/s").start(FACTORY);
    millrace.wait_running("load");
    let port = millrace.http_port();
    let path = "/live?tag=hall/press-1/*";
    let mut first = events(port, path, "", 60);
    let last = first.last().and_then(|event| event.id.clone()).expect("an id");
    std::thread::sleep(Duration::from_millis(500));
    first.extend(events(port, path, &last, 120));
    let values = by_tag(&first);
    assert_eq!(values.len(), 3, "{values:?}");
    for (tag, values) in &values {
        assert!(values.windows(2).all(|two| two[1] == two[0] + 1), "{tag}: {values:?}");
    }
    // An id of another run: that is said, and what the tags are now follows.
    let after = events(port, path, "nosuchrun-17", 4);
    assert_eq!(after[0].event, "gap", "{after:?}");
    assert_eq!(by_tag(&after[1..]).len(), 3, "{after:?}");
    let fresh = events(port, &format!("{path}&snapshot=true"), "", 3);
    assert_eq!(by_tag(&fresh).len(), 3, "{fresh:?}");
    // Nothing of another tag.
    let one = values.keys().next().expect("a tag");
    let only = events(port, &format!("/live?tag={one}"), "", 5);
    assert_eq!(by_tag(&only).keys().collect::<Vec<_>>(), [one]);
    assert_eq!(http::get(port, "/live?tag=a&topic=b").expect("it answers").0, 400);
}

#[test]
fn records_of_a_topic_go_on_at_the_offset_a_client_left_off() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("live-topic");
    // So many tags that each partition has some of them, and so few records that none has more than is read.
    let millrace = Factory::on(kafka).with("topic", &topic).with("rate", "20/s").start(&FACTORY.replace("tags: 3", "tags: 16"));
    let port = millrace.http_port();
    let mut in_kafka = kafka.follow(&topic);
    in_kafka.until("some records", |records| records.len() >= 100);
    let mut read = events(port, &format!("/live?topic={topic}&from=earliest"), "", 40);
    let last = read.last().and_then(|event| event.id.clone()).expect("an id");
    read.extend(events(port, &format!("/live?topic={topic}&from=earliest"), &last, 160));
    let mut seen: Vec<(i64, i64)> = read
        .iter()
        .map(|event| (event.data["partition"].as_i64().expect("a number"), event.data["offset"].as_i64().expect("a number")))
        .collect();
    assert!(read.iter().all(|event| event.event == "record" && event.data["value"]["tag"].is_string()), "{read:?}");
    seen.sort_unstable();
    for partition in [0, 1] {
        let offsets: Vec<i64> = seen.iter().filter(|(of, _)| *of == partition).map(|(_, offset)| *offset).collect();
        assert!(!offsets.is_empty() && offsets[0] == 0 && offsets.windows(2).all(|two| two[1] == two[0] + 1), "{partition}: {offsets:?}");
    }
    assert_eq!(events(port, &format!("/live?topic={topic}&from=last:1"), "", 2).len(), 2);
    assert_eq!(http::get(port, "/live?topic=no-such-topic-at-all").expect("it answers").0, 404);
    assert_eq!(http::get(port, &format!("/live?topic={topic}&from=x")).expect("it answers").0, 400);
}

#[test]
fn a_client_that_reads_too_slowly_is_disconnected_and_counted_and_holds_nobody_up() {
    let kafka = Kafka::shared();
    let millrace = Factory::on(kafka).with("topic", kafka.topic("slow")).with("rate", "30000/s").start(FACTORY);
    millrace.wait_running("load");
    let port = millrace.http_port();
    let mut slow = TcpStream::connect(("127.0.0.1", port)).expect("it accepts");
    write!(slow, "GET /live HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n").expect("it is sent");
    let began = millrace.ledger("load").received;
    // More than the kernel's buffers and the ring hold together.
    within(Duration::from_secs(180), "much is read", || (millrace.ledger("load").received > began + 250_000).then_some(()));
    let mut rest = Vec::new();
    slow.set_read_timeout(Some(Duration::from_secs(60))).expect("a deadline");
    let mut chunk = vec![0; 1 << 20];
    while !String::from_utf8_lossy(&rest[rest.len().saturating_sub(400)..]).contains("too slow") {
        match slow.read(&mut chunk).expect("it goes on") {
            0 => panic!("the end came before it was told why"),
            read => rest.extend_from_slice(&chunk[..read]),
        }
        rest.drain(..rest.len().saturating_sub(1000));
    }
    let metrics = millrace.metrics();
    assert!(metrics.contains("millrace_live_slow_total 1\n"), "{metrics}");
    let ledger = millrace.ledger("load");
    assert_eq!(ledger.dropped_at_intake + ledger.dropped_from_log, 0, "{ledger:?}");
    // The next one is served.
    assert_eq!(events(port, "/live", "", 5).len(), 5);
}

#[test]
fn an_asset_is_one_document_with_its_values_and_what_they_mean() {
    let kafka = Kafka::shared();
    let millrace = Factory::on(kafka).with("topic", kafka.topic("twin")).with("rate", "30/s").start(FACTORY);
    millrace.wait_running("load");
    let port = millrace.http_port();
    let get = |path: &str| -> (u16, Value) {
        let (code, body) = http::get(port, path).expect("it answers");
        (code, serde_json::from_str(&body).unwrap_or_else(|_| panic!("{path}: {body}")))
    };
    let asset = format!("{}/hall/press-1", millrace.site());
    let twin = eventually("every tag has a value", || {
        let (code, twin) = get("/twin/hall/press-1");
        let is_read = |one: &Value| one["value"].is_number();
        (code == 200 && twin["properties"].as_object().is_some_and(|all| all.len() == 3 && all.values().all(is_read))).then_some(twin)
    });
    assert_eq!((&twin["asset"], &twin["quality"]), (&json!(asset), &json!("good")), "{twin:#}");
    let first = twin["properties"].as_object().and_then(|all| all.values().next()).expect("a property");
    assert_eq!((&first["unit"], &first["description"], &first["quality"]), (&json!("pieces"), &json!("made today"), &json!("good")));
    let (_, list) = get("/twin");
    let listed = list["assets"].as_array().and_then(|all| all.iter().find(|one| one["asset"] == asset)).expect("it is listed").clone();
    assert_eq!((&listed["tags"], &listed["bad"], &listed["stale"]), (&json!(3), &json!(0), &json!(0)));
    assert_eq!(get("/twin?name=nowhere/*").1["total"], 0);
    let (_, thing) = get("/twin/hall/press-1?shape=ditto");
    assert_eq!(thing["attributes"]["asset"], asset);
    assert_eq!(thing["features"].as_object().map(serde_json::Map::len), Some(3), "{thing:#}");
    assert!(thing["features"].as_object().is_some_and(|all| all.values().all(|one| one["properties"]["value"].is_number())));
    assert_eq!((get("/twin/nowhere").0, get("/twin/hall/press-1?shape=x").0), (404, 400));
    let watched = events(port, "/twin/hall/press-1?subscribe=true", "", 4);
    assert_eq!((watched[0].event.as_str(), watched[1].event.as_str()), ("twin", "change"), "{watched:?}");
    let before = watched[0].data["properties"].as_object().expect("a map");
    let (name, after) = watched[3].data.as_object().and_then(|all| all.iter().next()).expect("a change");
    assert!(after["value"].as_f64() > before[name]["value"].as_f64(), "{watched:?}");
}
