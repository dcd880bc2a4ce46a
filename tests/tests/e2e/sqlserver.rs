//! SQL Server as a source, against a server of TDS and encoders of its types that nobody here wrote (`tests/peers/sqlserver.py` says what of it is not
//! proven).

use millrace_tests::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

struct SqlServer {
    folder: tempfile::TempDir,
    authority: Authority,
    leaf: tls::Leaf,
    port: u16,
    process: Option<Process>,
}

impl SqlServer {
    fn start() -> Self {
        let authority = Authority::new("plant");
        let leaf = authority.leaf("server");
        let mut this = Self { folder: scratch("sqlserver"), authority, leaf, port: free_port(), process: None };
        this.restart();
        this
    }

    fn restart(&mut self) {
        self.process = None;
        let mut server = peers::python(peers::tds());
        server.arg(peers::scripts().join("sqlserver.py")).args(["--port", &self.port.to_string()]);
        server.arg("--folder").arg(self.folder.path()).arg("--cert").arg(&self.leaf.cert).arg("--key").arg(&self.leaf.key);
        let server = Process::start("sqlserver", server, &self.folder.path().join("log"));
        eventually("the server listens", || std::net::TcpStream::connect(("127.0.0.1", self.port)).ok());
        self.process = Some(server);
    }

    /// The table `t`, as a whole.
    fn put(&self, rows: &[Value]) {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        replace(&self.folder.path().join("t"), &text);
    }

    fn drop_table(&self) {
        std::fs::remove_file(self.folder.path().join("t")).expect("the table is there");
    }

    /// What no open transaction writes below.
    fn bound(&self, bound: u64) {
        replace(&self.folder.path().join("bound"), &bound.to_string());
    }

    fn factory(&self, kafka: &Kafka, topic: &str) -> Factory {
        Factory::on(kafka)
            .exactly_once()
            .with("topic", topic)
            .with("port", self.port)
            .with("ca", self.authority.ca().display())
            .env("SQL_PASSWORD", "secret")
    }
}

fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).expect("a file can be written");
    std::fs::rename(&next, path).expect("a file can be renamed");
}

const SOURCE: &str = "
  mes:
    type: sql
    endpoint: mssql://127.0.0.1:$port/plant
    login: {user: millrace, password: '${env:SQL_PASSWORD}'}
    tls: {ca: '$ca'}
";

fn counts(kafka: &Kafka, topic: &str) -> BTreeMap<u64, u64> {
    let mut counts = BTreeMap::new();
    for record in kafka.read(topic) {
        *counts.entry(record.json()["id"].as_u64().expect("an id")).or_default() += 1;
    }
    counts
}

#[test]
fn types_of_sql_server_are_exact() {
    let (kafka, server) = (Kafka::shared(), SqlServer::start());
    let topic = kafka.topic("types");
    let yaml = format!(
        "topics: {{$topic: {{format: json}}}}\nsources:{SOURCE}    queries: [{{table: types, every: 1s, watermark: id, topic: $topic}}]\n"
    );
    let mut millrace = server.factory(kafka, &topic).start(&yaml);
    millrace.drained_when("mes", |ledger| ledger.received >= 2);
    let rows: Vec<String> = kafka.read(&topic).iter().map(|record| record.text()).collect();
    let long = "ü".repeat(5000);
    assert_eq!(
        rows,
        [
            format!(
                r#"{{"id":1,"tiny":255,"small":-32768,"big":9223372036854775807,"flag":true,"dec":1234567890123456789012345678.0123456789,"cash":922337203685477.5807,"real4":0.5,"float8":1e+300,"text":"Größe \"1\"","long":"{long}","doc":"<a>ß</a>","uid":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","bytes":"/wA=","dt":"2026-03-29T02:30:00.003","sdt":"2026-03-29T02:30:00","dt2":"2026-03-29T02:30:00.25","dto":"2026-03-29T02:30:00.25+02:00","day":"9999-12-31","clock":"13:20:00.000001","rv":18446744073709551615}}"#
            ),
            r#"{"id":2,"tiny":null,"small":null,"big":-9223372036854775808,"flag":false,"dec":-0.0000000001,"cash":null,"real4":null,"float8":null,"text":"","long":null,"doc":null,"uid":null,"bytes":"","dt":null,"sdt":null,"dt2":null,"dto":"2026-03-29T02:30:00.25-03:30","day":"0001-01-01","clock":null,"rv":2001}"#.to_owned(),
        ]
    );
    millrace.stop();
}

#[test]
fn rows_of_sql_server_that_are_late_or_of_one_moment_come_once_through_kills_of_both() {
    let (kafka, mut server) = (Kafka::shared(), SqlServer::start());
    let topic = kafka.topic("late");
    // Three hundredths of a second, as SQL Server writes them.
    let at = |seconds: i64, third: usize| {
        let now = jiff::Timestamp::now().in_tz("UTC").expect("UTC is known").datetime();
        let time =
            now.with().subsec_nanosecond(0).build().expect("a time").checked_add(jiff::Span::new().seconds(seconds)).expect("a time");
        format!("{time}.{}", ["000", "003", "007"][third])
    };
    let row = |id: u64, at: &str| json!({"id": id, "at": at, "name": format!("part {id}")});
    let moment = at(-20, 1);
    let mut rows: Vec<Value> = (0..50).map(|id| row(id, &moment)).collect();
    server.put(&rows);
    let yaml = format!(
        "topics: {{$topic: {{format: json}}}}\nsources:{SOURCE}    queries: [{{table: t, every: 50ms, page: 7, watermark: at, id: [id], overlap: 60s, topic: $topic}}]\n"
    );
    let mut millrace = server.factory(kafka, &topic).start(&yaml);
    millrace.wait_ledger("mes", "a moment of more than a page comes", |ledger| ledger.received >= 50);
    millrace.restart();
    rows.extend((50..60).map(|id| row(id, &at(0, 2))));
    server.put(&rows);
    millrace.wait_ledger("mes", "new ones come", |ledger| ledger.received >= 60);
    server.restart();
    // Committed below the watermark, by half the overlap.
    rows.extend((60..70).map(|id| row(id, &at(-30, 0))));
    // A row that has no watermark is not read, and told.
    rows.push(json!({"id": 99, "at": null}));
    server.put(&rows);
    millrace.drained_when("mes", |ledger| ledger.received >= 70);
    millrace.restart();
    rows.push(row(70, &at(0, 1)));
    server.put(&rows);
    millrace.drained_when("mes", |ledger| ledger.received >= 71);
    assert_eq!(counts(kafka, &topic), (0..71).map(|id| (id, 1)).collect());
    server.drop_table();
    eventually("the table is missed", || millrace.status().to_string().contains("nvalid object name 't'").then_some(()));
    millrace.stop();
}

#[test]
fn a_rowversion_is_read_up_to_what_open_transactions_may_still_write() {
    let (kafka, server) = (Kafka::shared(), SqlServer::start());
    let topic = kafka.topic("versions");
    let row = |id: u64, rv: u64| json!({"id": id, "rv": rv});
    // Eight is open: nine and ten are committed, and wait for it.
    server.put(&[row(1, 7), row(2, 9), row(3, 10)]);
    server.bound(8);
    let yaml = format!(
        "topics: {{$topic: {{format: json}}}}\nsources:{SOURCE}    queries: [{{table: t, every: 50ms, page: 2, watermark: rv, topic: $topic}}]\n"
    );
    let mut millrace = server.factory(kafka, &topic).start(&yaml);
    millrace.drained_when("mes", |ledger| ledger.received >= 1);
    millrace.restart();
    server.put(&[row(1, 7), row(4, 8), row(2, 9), row(3, 10)]);
    server.bound(11);
    let ledger = millrace.drained_when("mes", |ledger| ledger.received >= 4);
    assert_eq!(ledger.received, 4, "{ledger:?}");
    let versions: Vec<u64> = kafka.read(&topic).iter().filter_map(|record| record.json()["rv"].as_u64()).collect();
    assert_eq!(versions, [7, 8, 9, 10]);
    millrace.stop();
}

#[test]
fn a_wrong_password_and_a_foreign_certificate_of_sql_server_are_for_a_person() {
    let (kafka, server) = (Kafka::shared(), SqlServer::start());
    let topic = kafka.topic("refused");
    server.put(&[json!({"id": 1})]);
    let yaml = format!(
        "topics: {{$topic: {{format: json}}}}\nsources:{SOURCE}    queries: [{{table: t, every: 50ms, watermark: id, topic: $topic}}]\n"
    );
    let stranger = Authority::new("stranger");
    for (ca, password, said) in [(stranger.ca(), "secret", "check `tls`"), (server.authority.ca(), "wrong", "18456")] {
        let factory = server.factory(kafka, &topic).with("ca", ca.display()).env("SQL_PASSWORD", password);
        let mut millrace = factory.start(&yaml);
        millrace.wait_word("mes", "Blocked");
        let status = millrace.status().to_string();
        assert!(status.contains(said), "{status}");
        millrace.stop();
    }
}
