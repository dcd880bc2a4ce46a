//! Posts, streams and databases into Kafka: with clients and servers that nobody here wrote, through kills of the runtime.

use millrace_testkit::Database;
use millrace_tests::*;
use std::collections::BTreeMap;
use std::process::Command;

/// How often each number is in the topic.
fn numbers(kafka: &Kafka, topic: &str, key: &str) -> BTreeMap<u64, u64> {
    let mut times = BTreeMap::new();
    for record in kafka.read(topic) {
        let json = record.json();
        *times.entry(json[key].as_u64().unwrap_or_else(|| panic!("no {key} in {json}"))).or_default() += 1;
    }
    times
}

fn all_once(times: &BTreeMap<u64, u64>, count: u64) {
    let missing: Vec<u64> = (0..count).filter(|number| !times.contains_key(number)).collect();
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(missing.is_empty() && twice.is_empty() && times.len() as u64 == count, "missing {missing:?}, twice {twice:?}");
}

#[test]
fn what_curl_and_python_were_told_is_taken_is_in_kafka_through_kills_of_the_runtime() {
    let kafka = Kafka::shared();
    let (topic, proxied) = (kafka.topic("posts"), kafka.topic("proxied"));
    let authority = Authority::new("plant");
    let (leaf, sender) = (authority.leaf("server"), authority.leaf("sender"));
    let (port, token) = (free_port(), "0123456789abcdef0123456789abcdef");
    let factory = Factory::on(kafka)
        .with("topic", &topic)
        .with("proxied", &proxied)
        .with("port", port)
        .with("cert", leaf.cert.display())
        .with("keyfile", leaf.key.display())
        .with("ca", authority.ca().display())
        .env("HTTP_TOKEN", token);
    let mut millrace = factory.start(
        "
topics: {$topic: {format: json}, $proxied: {format: json}}
sources:
  apps:
    type: http
    listen: 127.0.0.1:$port
    tls: {certificate: '$cert', key: '$keyfile', client_ca: '$ca'}
    tokens: {app: '${env:HTTP_TOKEN}'}
    routes: [{post: /posts, topic: $topic, key: '{/n}'}]
    rest_proxy: {topics: ['proxied-*']}
",
    );
    millrace.wait_running("apps");
    let log = scratch("poster");
    let mut poster = peers::python(peers::requests());
    poster.arg(peers::scripts().join("post.py")).args(["--url", &format!("https://127.0.0.1:{port}/posts"), "--token", token]);
    poster.args(["--ca", &authority.ca().display().to_string(), "--count", "4000", "--threads", "8"]);
    poster.arg("--cert").arg(&sender.cert).arg("--key").arg(&sender.key);
    let mut poster = Process::start("poster", poster, &log.path().join("log"));
    for _ in 0..3 {
        let before = millrace.ledger("apps").received;
        millrace.wait_ledger("apps", "posts come", |ledger| ledger.received > before + 300 || ledger.received >= 3_900);
        millrace.restart();
    }
    let ended = poster.wait();
    assert!(ended.success(), "{}", poster.output());
    // Confluent's REST Proxy, version 2, as its own documentation calls it.
    let curl = |leaf: Option<&tls::Leaf>| {
        let mut curl = peers::debian("curl", "curl");
        curl.args(["-sS", "--cacert", &authority.ca().display().to_string(), "-u", &format!("app:{token}")]);
        if let Some(leaf) = leaf {
            curl.arg("--cert").arg(&leaf.cert).arg("--key").arg(&leaf.key);
        }
        curl.args(["-H", "Content-Type: application/vnd.kafka.json.v2+json", "-H", "Accept: application/vnd.kafka.v2+json"]);
        curl.args(["--data", r#"{"records": [{"key": "a", "value": {"n": 1}}, {"key": "b", "value": {"n": 2}}]}"#]);
        curl.arg(format!("https://127.0.0.1:{port}/topics/{proxied}")).output().expect("curl runs")
    };
    let output = curl(Some(&sender));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("\"offsets\""), "{said}{}", String::from_utf8_lossy(&output.stderr));
    // And version 3: records one after the other in one body, an answer for each.
    let mut v3 = peers::debian("curl", "curl");
    v3.args([
        "-sS",
        "--cacert",
        &authority.ca().display().to_string(),
        "-u",
        &format!("app:{token}"),
        "-H",
        "Content-Type: application/json",
    ]);
    v3.arg("--cert").arg(&sender.cert).arg("--key").arg(&sender.key);
    v3.args(["--data", r#"{"key": {"type": "STRING", "data": "c"}, "value": {"type": "JSON", "data": {"n": 3}}} {"value": {"type": "BINARY", "data": "eyJuIjogNH0="}}"#]);
    let output = v3.arg(format!("https://127.0.0.1:{port}/v3/clusters/millrace/topics/{proxied}/records")).output().expect("curl runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.matches("\"error_code\":200").count() == 2, "{said}{}", String::from_utf8_lossy(&output.stderr));
    // A token alone, or with a certificate of another authority, is not let in.
    for leaf in [None, Some(&Authority::new("stranger").leaf("sender"))] {
        let output = curl(leaf);
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
    }
    millrace.drained("apps");
    let times = numbers(kafka, &topic, "n");
    let missing: Vec<u64> = (0..4_000).filter(|number| !times.contains_key(number)).collect();
    assert!(missing.is_empty(), "told to be taken, and not in Kafka: {missing:?}");
    eprintln!("{} came again", times.values().map(|times| times - 1).sum::<u64>());
    let mut proxied: Vec<(u64, String)> =
        kafka.read(&proxied).iter().map(|record| (record.json()["n"].as_u64().expect("a number"), record.key_text())).collect();
    proxied.sort_unstable();
    // Version 2 says what keys are for all records: JSON, here.
    assert_eq!(proxied, [(1, "\"a\"".into()), (2, "\"b\"".into()), (3, "c".into()), (4, String::new())]);
    millrace.stop();
}

#[test]
fn a_table_of_postgresql_is_in_kafka_once_through_kills_in_the_middle_of_its_first_reading() {
    let (kafka, registry) = (Kafka::shared(), Registry::start());
    let authority = Authority::new("plant");
    let (server, client) = (authority.leaf("server"), authority.leaf("millrace"));
    let database = Database::postgres_with_client_certificates(&authority.ca(), &server.cert, &server.key);
    let count = 200_000_u64;
    database.run(&format!(
        "CREATE TABLE orders (n bigint PRIMARY KEY, price numeric(12,2), changed timestamptz, extra jsonb, valid_until date);
         INSERT INTO orders SELECT n, n * 1.25, '2026-07-01'::timestamptz + n * interval '1 ms', '{{\"a\": 1}}', CASE WHEN n = 7 THEN 'infinity'::date END
         FROM generate_series(0, {}) n; GRANT SELECT ON orders TO millrace",
        count - 1
    ));
    let topic = kafka.topic("orders");
    let factory = Factory::on(kafka)
        .exactly_once()
        .with("topic", &topic)
        .with("port", database.port())
        .env("SQL_PASSWORD", "secret")
        .with("registry", registry.url())
        .with("ca", authority.ca().display())
        .with("cert", client.cert.display())
        .with("keyfile", client.key.display());
    let mut millrace = factory.start(
        "
schemas: {registry: $registry}
topics: {$topic: {format: json, schema: source}}
sources:
  mes:
    type: sql
    endpoint: postgres://127.0.0.1:$port/plant
    login: {user: millrace, password: '${env:SQL_PASSWORD}'}
    tls: {ca: '$ca', cert: '$cert', key: '$keyfile'}
    queries: [{table: orders, every: 100ms, watermark: n, page: 20000, key: '{/n}', topic: $topic}]
",
    );
    for part in 1..=6 {
        millrace.wait_ledger("mes", "rows come", |ledger| ledger.received >= part * count / 8);
        millrace.restart();
    }
    let ledger = millrace.drained_when("mes", |ledger| ledger.received >= count);
    assert_eq!(ledger.dead_at_intake, 0, "{ledger:?}");
    all_once(&numbers(kafka, &topic, "n"), count);
    let records = kafka.read(&topic);
    let seventh = records.iter().find(|record| record.key_text() == "7").expect("it is there");
    assert_eq!(seventh.json()["valid_until"], serde_json::Value::Null);
    assert_eq!(seventh.header("millrace.unfit").as_deref(), Some(r#"{"valid_until":"infinity"}"#));
    assert!(seventh.text().contains("\"price\":8.75,\"changed\":\"2026-07-01T00:00:00.007Z\",\"extra\":{\"a\": 1}"), "{}", seventh.text());
    millrace.stop();
}

/// A page is one statement of many rows: the cable is cut while they come, and once more while nothing comes any more.
#[test]
fn a_cable_to_postgresql_that_is_cut_in_the_middle_of_a_page_costs_no_row_and_brings_none_twice() {
    let kafka = Kafka::shared();
    let database = Database::postgres();
    let (count, page) = (120_000_u64, 60_000_u64);
    database.run(&format!(
        "CREATE TABLE orders (n bigint PRIMARY KEY, material text, changed timestamptz);
         INSERT INTO orders SELECT n, repeat('m', 60), '2026-07-01'::timestamptz + n / 1000 * interval '1 s' FROM generate_series(0, {}) n;
         CREATE INDEX ON orders (changed, n); GRANT SELECT ON orders TO millrace",
        count - 1
    ));
    let cable = Cable::to(database.port());
    let topic = kafka.topic("orders");
    let factory =
        Factory::on(kafka).exactly_once().with("topic", &topic).with("port", cable.port()).with("page", page).env("SQL_PASSWORD", "secret");
    // So that a page of some six megabytes takes its time.
    cable.slow(3_000_000);
    let mut millrace = factory.start(
        "
topics: {$topic: {format: json}}
sources:
  mes:
    type: sql
    endpoint: postgres://127.0.0.1:$port/plant
    login: {user: millrace, password: '${env:SQL_PASSWORD}'}
    timeout: 5s
    queries: [{table: orders, every: 100ms, watermark: changed, id: [n], page: $page, key: '{/n}', topic: $topic}]
",
    );
    let mut before = 0;
    for is_silent in [false, false, true] {
        let carried = cable.to_client_bytes();
        let ledger = millrace.wait_ledger("mes", "rows of a page come", |ledger| ledger.received > before);
        assert!(ledger.received < count, "the cable is cut in the middle: {ledger:?}");
        eventually("more of the page is on its way", || (cable.to_client_bytes() > carried + 100_000).then_some(()));
        if is_silent {
            cable.half_open();
        } else {
            cable.cut();
        }
        millrace.wait_word("mes", "Degraded");
        before = millrace.ledger("mes").received;
        assert!(!before.is_multiple_of(page), "{before} rows: no page was cut");
        cable.slow(3_000_000);
    }
    cable.heal();
    let ledger = millrace.drained_when("mes", |ledger| ledger.received >= count);
    assert_eq!((ledger.received, ledger.dead_at_intake), (count, 0), "{ledger:?}");
    all_once(&numbers(kafka, &topic, "n"), count);
    millrace.stop();
}

#[test]
fn rows_of_mariadb_become_avro_by_the_schema_of_the_result_and_come_once_through_kills_of_both() {
    let (kafka, registry) = (Kafka::shared(), Registry::start());
    let authority = Authority::new("plant");
    let (server, client) = (authority.leaf("server"), authority.leaf("millrace"));
    let mut database = Database::mariadb_with_client_certificates(&authority.ca(), &server.cert, &server.key);
    database.run("CREATE TABLE parts (n bigint PRIMARY KEY AUTO_INCREMENT, big bigint unsigned, price decimal(12,2), at timestamp(6) DEFAULT CURRENT_TIMESTAMP(6))");
    let topic = kafka.topic("parts");
    let factory = Factory::on(kafka)
        .exactly_once()
        .with("topic", &topic)
        .with("port", database.port())
        .env("SQL_PASSWORD", "secret")
        .with("registry", registry.url())
        .with("ca", authority.ca().display())
        .with("cert", client.cert.display())
        .with("keyfile", client.key.display());
    let mut millrace = factory.start(
        "
schemas: {registry: $registry}
topics: {$topic: {format: avro}}
sources:
  mes:
    type: sql
    endpoint: mysql://127.0.0.1:$port/plant
    login: {user: millrace, password: '${env:SQL_PASSWORD}'}
    tls: {ca: '$ca', cert: '$cert', key: '$keyfile'}
    queries: [{table: parts, every: 50ms, watermark: n, key: '{/n}', topic: $topic}]
",
    );
    for round in 0..4_u64 {
        database.run("INSERT INTO parts (big, price) SELECT 18446744073709551615, 12.5 FROM seq_1_to_500");
        millrace.wait_ledger("mes", "rows come", |ledger| ledger.received >= round * 500 + 100);
        if round % 2 == 0 {
            millrace.restart();
        } else {
            database.restart();
        }
    }
    let ledger = millrace.drained_when("mes", |ledger| ledger.received >= 2_000);
    assert_eq!((ledger.dead_at_intake, ledger.received), (0, 2_000), "{ledger:?}");
    let keys: Vec<u64> = kafka.read(&topic).iter().map(|record| record.key_text().parse().expect("a number")).collect();
    let mut once = keys.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!((keys.len(), once.len()), (2_000, 2_000), "each row once");
    let first = kafka.read(&topic)[0].value.clone().expect("a value");
    let id = i32::from_be_bytes(first[1..5].try_into().expect("an id"));
    let schema = registry.schema(id).1.to_string();
    for part in ["big", "decimal", r#"precision\":20"#, "timestamp-micros"] {
        assert!(schema.contains(part), "{part} is not in {schema}");
    }
    millrace.stop();
}

#[test]
fn a_page_by_page_endpoint_behind_a_client_certificate_is_read_whole_through_kills_of_the_runtime() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("items");
    let authority = Authority::new("plant");
    let (server, client) = (authority.leaf("server"), authority.leaf("millrace"));
    let port = free_port();
    let log = scratch("rest");
    let mut rest = Command::new("python3");
    rest.arg(peers::scripts().join("rest.py")).args(["--port", &port.to_string(), "--count", "6000"]);
    rest.arg("--ca").arg(authority.ca()).arg("--cert").arg(&server.cert).arg("--key").arg(&server.key);
    let rest = Process::start("rest", rest, &log.path().join("log"));
    eventually("the endpoint listens", || rest.output().contains("ready").then_some(()));
    let factory = Factory::on(kafka)
        .exactly_once()
        .with("topic", &topic)
        .with("port", port)
        .with("ca", authority.ca().display())
        .with("cert", client.cert.display())
        .with("keyfile", client.key.display());
    let mut millrace = factory.start(
        "
topics: {$topic: {format: json}}
sources:
  mes:
    type: poll
    endpoint: https://127.0.0.1:$port
    tls: {ca: '$ca', cert: '$cert', key: '$keyfile'}
    requests: [{get: '/items?since={watermark}', start: '0', every: 100ms, records: /items, next: /next, watermark: /n, key: '{/n}', topic: $topic}]
  events:
    type: sse
    endpoint: https://127.0.0.1:$port
    tls: {ca: '$ca', cert: '$cert', key: '$keyfile'}
    streams: [{get: /events, key: '{/e}', topic: $topic}]
",
    );
    for part in 1..=3 {
        millrace.wait_ledger("mes", "items come", |ledger| ledger.received >= part * 1_500);
        millrace.restart();
    }
    millrace.drained_when("mes", |ledger| ledger.received >= 6_000);
    millrace.drained_when("events", |ledger| ledger.received >= 2_000);
    let (mut items, mut events) = (BTreeMap::new(), BTreeMap::new());
    for record in kafka.read(&topic) {
        let json = record.json();
        match (json["n"].as_u64(), json["e"].as_u64()) {
            (Some(item), _) => *items.entry(item).or_default() += 1_u64,
            (_, Some(event)) => *events.entry(event).or_default() += 1_u64,
            _ => panic!("nobody said {json}"),
        }
    }
    all_once(&items, 6_000);
    all_once(&events, 2_000);
    millrace.stop();
}

#[test]
fn streams_of_other_peoples_servers_go_on_after_their_cables_were_cut() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("streams");
    let (events, feed, count) = (free_port(), free_port(), 1_500_u64);
    let log = scratch("streams");
    let mut peer = peers::python(peers::streams());
    peer.arg(peers::scripts().join("streams.py")).args(["--events", &events.to_string(), "--feed", &feed.to_string()]);
    let peer = Process::start(
        "streams",
        {
            peer.args(["--count", &count.to_string()]);
            peer
        },
        &log.path().join("log"),
    );
    eventually("the servers listen", || peer.output().contains("ready").then_some(()));
    let cables = [Cable::to(events), Cable::to(feed)];
    let factory = Factory::on(kafka).exactly_once().with("topic", &topic).with("events", cables[0].port()).with("feed", cables[1].port());
    let mut millrace = factory.start(
        "
topics: {$topic: {format: json}}
sources:
  events:
    type: sse
    endpoint: http://127.0.0.1:$events
    streams: [{get: /events, events: [part], key: '{/e}', topic: $topic}]
  feed:
    type: websocket
    endpoint: http://127.0.0.1:$feed
    streams: [{get: /feed, send: ['{\"op\": \"subscribe\"}'], protocol: plant.v1, key: '{/w}', topic: $topic}]
",
    );
    for name in ["events", "feed"] {
        millrace.wait_ledger(name, "records come", |ledger| ledger.received >= 100);
    }
    cables.iter().for_each(|cable| cable.cut());
    for name in ["events", "feed"] {
        millrace.wait_word(name, "Degraded");
    }
    let before = millrace.ledger("feed").received;
    cables.iter().for_each(|cable| cable.heal());
    millrace.wait_ledger("feed", "messages come again", |ledger| ledger.received >= before + 100);
    millrace.drained_when("events", |ledger| ledger.received >= count);
    millrace.stop();
    let (mut parts, mut said) = (BTreeMap::new(), Vec::new());
    for record in kafka.read(&topic) {
        let json = record.json();
        match (json["e"].as_u64(), json["w"].as_u64()) {
            (Some(part), _) => *parts.entry(part).or_default() += 1_u64,
            (_, Some(number)) => said.push(number),
            _ => panic!("nobody said {json}"),
        }
    }
    all_once(&parts, count);
    // Of a WebSocket what was said while nobody listened is not seen; nothing comes twice.
    let mut once = said.clone();
    once.sort_unstable();
    once.dedup();
    assert!(once.len() == said.len() && once.len() >= 200, "{} of {}", once.len(), said.len());
}

#[test]
fn a_row_of_ten_megabytes_that_kafka_refuses_is_counted_and_the_rows_around_it_come() {
    let kafka = Kafka::shared();
    let database = Database::postgres();
    database.run(
        "CREATE TABLE notes (n bigint PRIMARY KEY, note text); GRANT SELECT ON notes TO millrace;
         INSERT INTO notes VALUES (0, 'small'), (1, repeat('x', 10000000)), (2, 'small')",
    );
    let topic = kafka.topic("notes");
    let factory = Factory::on(kafka).with("topic", &topic).with("port", database.port()).env("SQL_PASSWORD", "secret");
    let mut millrace = factory.start(
        "
topics: {$topic: {format: json}}
sources:
  mes:
    type: sql
    endpoint: postgres://127.0.0.1:$port/plant
    login: {user: millrace, password: '${env:SQL_PASSWORD}'}
    queries: [{table: notes, every: 100ms, watermark: n, key: '{/n}', topic: $topic}]
",
    );
    let ledger = millrace.drained_when("mes", |ledger| ledger.received >= 3);
    assert_eq!(ledger.dead_at_intake + ledger.dead_at_send + ledger.dropped_from_log, 1, "{ledger:?}");
    assert_eq!(kafka.read(&topic).iter().map(Record::key_text).collect::<Vec<_>>(), ["0", "2"]);
    millrace.stop();
}
