//! PostgreSQL and MariaDB of Debian as they are: types, late commits, kills, tables and passwords that go.

use millrace_contract::{Compiled, Failure, Status};
use millrace_sql::SqlSource;
use millrace_testkit::{Database, Received, TestHost, soon, yaml};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

struct Running {
    compiled: Box<dyn Compiled>,
    host: TestHost,
    task: Option<JoinHandle<()>>,
}

impl Running {
    fn new(database: &Database, keys: &str) -> Self {
        Self::at(&format!("postgres://127.0.0.1:{}/plant", database.port()), keys)
    }

    fn at(endpoint: &str, keys: &str) -> Self {
        let text = format!("{{endpoint: '{endpoint}', login: {{user: millrace, password: secret}}, {keys}}}");
        let compiled = yaml::compile::<SqlSource>(&text, &yaml::context("sql", &[])).unwrap_or_else(|problems| panic!("{problems}"));
        let host = TestHost::of(&*compiled);
        let mut this = Self { compiled, host, task: None };
        this.start();
        this
    }

    /// As the engine does it, only faster.
    fn start(&mut self) {
        let (mut source, io, host) = (self.compiled.source().unwrap(), self.host.io(), self.host.clone());
        self.task = Some(tokio::spawn(async move {
            while let Err(failure) = source.session(io.clone()).await {
                let blocked = matches!(failure, Failure::Blocked(_));
                host.io().status("", if blocked { Status::Blocked(failure.to_string()) } else { Status::Degraded(failure.to_string()) });
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }));
    }

    /// As a crash does, and a start after it.
    async fn crash(&mut self) {
        let task = self.task.take().unwrap();
        task.abort();
        let _ = task.await;
        self.host.restart();
        self.start();
    }

    fn lines(&self) -> Vec<String> {
        let line = |record: Received| match record {
            Received::Document(document) => {
                let unfit = document.headers.iter().filter(|(name, _)| name == "millrace.unfit").filter_map(|(_, value)| value.as_deref());
                let unfit = unfit.map(|value| format!(" unfit {}", String::from_utf8_lossy(value)));
                document.text().to_owned() + &unfit.collect::<String>()
            }
            Received::Rejected(reject) => format!("dead {}", reject.reason),
            Received::Sample(sample) => format!("{} {:?} {:?} @{}", sample.tag, sample.value, sample.status, sample.time.0),
        };
        self.host.received().into_iter().map(line).collect()
    }

    async fn until(&self, what: &str, count: u64) -> Vec<String> {
        self.host.until(what, |host| host.count() >= count).await;
        self.lines()
    }

    async fn stop(mut self) {
        self.host.stop();
        soon("the session ends", self.task.take().unwrap()).await.unwrap();
    }
}

/// How often each id of `{"id":N,..` came.
fn counts(lines: &[String]) -> BTreeMap<u64, u32> {
    let mut counts = BTreeMap::new();
    for line in lines {
        let id = line.strip_prefix("{\"id\":").and_then(|rest| rest.split([',', '}']).next()).and_then(|id| id.parse().ok());
        *counts.entry(id.unwrap_or_else(|| panic!("no id: {line}"))).or_default() += 1;
    }
    counts
}

/// A table of a row of everything and a row of nothing.
const TYPES: &str = "CREATE TYPE mood AS ENUM ('good'); CREATE TYPE pair AS (a int, b text);
    CREATE TABLE t (id int PRIMARY KEY, b bool, i2 int2, i8 int8, f4 float4, f8 float8, n numeric, m money, t text, c char(3), u uuid, d date, ts timestamp,
      tz timestamptz, tm time, iv interval, by bytea, j json, jb jsonb, a int[], e mood, p pair, ip inet, bi bit(3));
    INSERT INTO t VALUES
      (1, true, -2, 9223372036854775807, 0.5, 1e300, 123456789012345678901234567890.000100, 12.34, E'q\"\\n', 'x', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
       '1972-02-29', '2026-03-29 02:30:00.25', '2026-03-29 02:30:00+02', '13:20:00', '1 day 02:00', '\\xff00', '{\"a\" : 1}', '{\"b\":2}', '{1,2}', 'good', '(1,x)',
       '10.0.0.1/8', '101'),
      (2, NULL, NULL, NULL, 'NaN', '-Infinity', 'NaN', NULL, '', NULL, NULL, 'infinity', '-infinity', '10000-01-01 00:00:00+00', NULL, NULL, '', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
    GRANT SELECT ON t TO millrace";

#[tokio::test(flavor = "multi_thread")]
async fn types_of_postgresql_are_exact() {
    let database = Database::postgres();
    database.run(TYPES);
    let running = Running::new(&database, "queries: [{table: t, every: 50ms, watermark: id, topic: t}]");
    let lines = running.until("both rows", 2).await;
    assert_eq!(
        lines,
        [
            r#"{"id":1,"b":true,"i2":-2,"i8":9223372036854775807,"f4":0.5,"f8":1e+300,"n":123456789012345678901234567890.000100,"m":"12.34","t":"q\"\n","c":"x  ","u":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","d":"1972-02-29","ts":"2026-03-29T02:30:00.25","tz":"2026-03-29T00:30:00Z","tm":"13:20:00","iv":"P1DT2H","by":"/wA=","j":{"a" : 1},"jb":{"b": 2},"a":[1, 2],"e":"good","p":{"a": 1, "b": "x"},"ip":"10.0.0.1/8","bi":"101"}"#,
            r#"{"id":2,"b":null,"i2":null,"i8":null,"f4":"NaN","f8":"-Infinity","n":"NaN","m":null,"t":"","c":null,"u":null,"d":null,"ts":null,"tz":null,"tm":null,"iv":null,"by":"","j":null,"jb":null,"a":null,"e":null,"p":null,"ip":null,"bi":null} unfit {"d":"infinity","ts":"-infinity","tz":"+10000-01-01T00:00:00Z"}"#,
        ]
    );
    running.stop().await;
}

/// A way to PostgreSQL on which COPY arrives as a word that it does not know: so it answers as a database that has no such statement. Returns the port, and how
/// often that was tried.
async fn way_without_copy(to: u16) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, tries) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU64::new(0)));
    let counted = tries.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (Ok(server), counted) = (TcpStream::connect(("127.0.0.1", to)).await, counted.clone()) else { continue };
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            tokio::spawn(async move {
                let mut chunk = vec![0; 256 << 10];
                while let Ok(length @ 1..) = from_client.read(&mut chunk).await {
                    for at in 0..length {
                        if chunk[at..length].starts_with(b"COPY (") {
                            chunk[at + 3] = b'X';
                            counted.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    to_server.write_all(&chunk[..length]).await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    (port, tries)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_refuses_copy_is_read_by_the_select_alone_to_the_same_digit() {
    let mut database = Database::postgres();
    database.run(TYPES);
    database.run("CREATE TABLE u (id int, line text, at timestamptz, PRIMARY KEY (line, id)); GRANT SELECT ON u TO millrace");
    let keys = "queries: [{table: t, every: 50ms, page: 1, watermark: id, topic: t}]";
    let copied = Running::new(&database, keys);
    let wanted = copied.until("both rows by COPY", 2).await;
    copied.stop().await;
    let (port, tries) = way_without_copy(database.port()).await;
    let endpoint = format!("postgres://127.0.0.1:{port}/plant");
    let selected = Running::at(&endpoint, keys);
    assert_eq!(selected.until("both rows without it", 2).await, wanted);
    let readings = selected.host.statuses("t").len();
    selected.host.until("more readings", |host| host.statuses("t").len() > readings + 3).await;
    assert_eq!(tries.load(Ordering::Relaxed), 1, "a connection asks for it once");
    assert_eq!(selected.host.status("t"), Some(Status::Running));
    selected.stop().await;
    // Many pages of equal moments, whose place is read out of texts; through a crash and a kill of the database.
    let keys = "queries: [{table: u, every: 50ms, page: 70, watermark: at, id: [line, id], topic: u}]";
    let mut running = Running::at(&endpoint, keys);
    for part in 1..=4 {
        database.run(&format!(
            "INSERT INTO u SELECT n, 'line ' || chr(39) || n % 3, now() FROM generate_series({part} * 500 + 1, {part} * 500 + 500) n"
        ));
        running.until("the rows of a part", part * 500).await;
        if part % 2 == 0 {
            running.crash().await;
        } else {
            tokio::task::block_in_place(|| database.restart());
        }
    }
    // What cannot be read says why in the words of the SELECT.
    database.run("DROP TABLE u");
    let is_missed =
        |host: &TestHost| matches!(host.status("u"), Some(Status::Degraded(why)) if why.contains("relation \"u\" does not exist"));
    running.host.until("the table is missed", is_missed).await;
    assert_eq!(counts(&running.lines()), (501..=2500).map(|id| (id, 1)).collect());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_commits_and_equal_times_come_once_through_crashes_and_kills_of_the_database() {
    let mut database = Database::postgres();
    database.run(
        "CREATE TABLE t (id int PRIMARY KEY, at timestamptz DEFAULT now()); CREATE INDEX ON t (at, id); GRANT SELECT ON t TO millrace",
    );
    let mut running =
        Running::new(&database, "queries: [{table: t, every: 50ms, page: 7, watermark: at, id: [id], overlap: 60s, topic: t}]");
    // One transaction: fifty rows of one moment, more than a page.
    database.run("INSERT INTO t SELECT generate_series(1, 50)");
    running.until("fifty of one moment", 50).await;
    let mut late = database.session();
    late.say("BEGIN");
    late.say("INSERT INTO t SELECT generate_series(101, 110)");
    for n in 0..10 {
        database.run(&format!("INSERT INTO t VALUES ({})", 200 + n));
        if n % 3 == 0 {
            running.crash().await;
        }
    }
    running.until("those that were committed", 60).await;
    // Committed below the watermark.
    late.say("COMMIT");
    running.until("the late ones", 70).await;
    // A row that is changed is another one; one that is not comes once.
    database.run("UPDATE t SET at = now() WHERE id = 1");
    running.until("the change", 71).await;
    tokio::task::block_in_place(|| database.kill9());
    running.host.until("the loss is told", |host| matches!(host.status(""), Some(Status::Degraded(_)))).await;
    tokio::task::block_in_place(|| database.restart());
    database.run("INSERT INTO t VALUES (300)");
    let lines = running.until("the one after the restart", 72).await;
    let wanted: BTreeMap<u64, u32> =
        (1..=50).chain(101..=110).chain(200..=209).chain([300]).map(|id| (id, if id == 1 { 2 } else { 1 })).collect();
    assert_eq!(counts(&lines), wanted);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn below_the_oldest_transaction_nothing_is_late_and_nothing_is_read_twice() {
    let database = Database::postgres();
    database.run(
        "CREATE TABLE t (id int PRIMARY KEY, tx xid8 DEFAULT pg_current_xact_id()); CREATE TABLE s (id int PRIMARY KEY, at timestamptz DEFAULT now());
         GRANT SELECT ON t, s TO millrace; GRANT pg_read_all_stats TO millrace; INSERT INTO t VALUES (1); INSERT INTO s VALUES (1)",
    );
    let keys = "queries: [{table: t, every: 50ms, watermark: tx, id: [id], bound: snapshot, topic: t},
                          {table: s, every: 50ms, watermark: at, id: [id], bound: transactions, topic: s}]";
    let running = Running::new(&database, keys);
    running.until("the first", 2).await;
    let mut late = database.session();
    late.say("BEGIN");
    late.say("INSERT INTO t VALUES (2)");
    late.say("INSERT INTO s VALUES (2)");
    soon("the other is in its transaction", async {
        while database.run("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'") != "1" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    database.run("INSERT INTO t VALUES (3); INSERT INTO s VALUES (3)");
    // Many readings while the older transaction is open: what is newer waits for it.
    let before = running.host.statuses("s").len();
    running.host.until("readings go on", |host| host.statuses("s").len() > before + 5).await;
    assert_eq!(running.host.count(), 2);
    late.say("COMMIT");
    let lines = running.until("all", 6).await;
    assert_eq!(counts(&lines), [(1, 2), (2, 2), (3, 2)].into());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tall_table_is_samples_and_bad_rows_are_dead_letters() {
    let database = Database::postgres();
    database.run(
        "CREATE TABLE h (id bigserial PRIMARY KEY, tag text, val float8, st int, ts timestamptz);
         INSERT INTO h (tag, val, st, ts) VALUES ('P1/SPEED', 1.5, 192, '2026-01-01 00:00:00Z'), ('P1/TEMP', 20, 0, '2026-01-01 00:00:01Z'),
           (NULL, 1, 192, '2026-01-01 00:00:02Z'); GRANT SELECT ON h TO millrace",
    );
    let keys = "queries: [{table: h, every: 50ms, watermark: id, at: hist, tag: '{/tag}', value: /val, time: {at: /ts}, status: {at: /st, as: opcda}}]";
    let running = Running::new(&database, keys);
    let mut lines = running.until("all three", 3).await;
    lines.sort();
    assert_eq!(
        lines,
        [
            "at/sql/hist/P1%2FSPEED Double(1.5) good 0x00000000 @1767225600000000",
            "at/sql/hist/P1%2FTEMP Double(20.0) bad 0x80000000 @1767225601000000",
            "dead a reading cannot be read: the name is missing: nothing is at /tag (query h)"
        ]
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_goes_a_type_that_changes_and_a_password_that_expires_stop_nothing_else() {
    let database = Database::postgres();
    database.run(
        "CREATE TABLE a (id int PRIMARY KEY, v text); CREATE TABLE b (id int PRIMARY KEY, at timestamptz); INSERT INTO a VALUES (1, 'x'); INSERT INTO b VALUES (1, NULL);
         GRANT SELECT ON ALL TABLES IN SCHEMA public TO millrace; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO millrace",
    );
    let keys = "queries: [{table: a, every: 50ms, watermark: id, topic: a}, {table: b, every: 50ms, watermark: at, id: [id], topic: b}]";
    let mut running = Running::new(&database, keys);
    running.until("the first", 1).await;
    let degraded = |name: &'static str, text: &'static str| {
        move |host: &TestHost| host.statuses(name).iter().any(|status| matches!(status, Status::Degraded(why) if why.contains(text)))
    };
    running.host.until("a row without a watermark is told", degraded("b", "1 rows (at least) have no `at`")).await;
    database.run("DROP TABLE a");
    running.host.until("the table is missed", degraded("a", "relation \"a\" does not exist")).await;
    database.run("INSERT INTO b VALUES (2, now())");
    running.until("the other table", 2).await;
    database.run("CREATE TABLE a (id bigint PRIMARY KEY, v int[]); INSERT INTO a VALUES (2, '{7}')");
    let lines = running.until("the table with other types", 3).await;
    assert_eq!(lines[2], "{\"id\":2,\"v\":[7]}");
    database.run("ALTER TABLE a RENAME id TO number");
    running.host.until("the column is missed", degraded("a", "there is no column `id`; there are number, v")).await;
    database.run("ALTER TABLE a RENAME number TO id");
    database.run("ALTER ROLE millrace VALID UNTIL '2000-01-01'");
    running.crash().await;
    running.host.until("a person is asked", |host| matches!(host.status(""), Some(Status::Blocked(why)) if why.contains("password"))).await;
    database.run("ALTER ROLE millrace VALID UNTIL 'infinity'; INSERT INTO a VALUES (3, NULL)");
    let lines = running.until("it goes on by itself", 4).await;
    assert_eq!(lines[3..], ["{\"id\":3,\"v\":null}"]);
    // Nothing can be written, even where the user might.
    assert_eq!(running.host.lost("poll_skipped"), 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_is_read_to_the_digit_in_utc_and_from_where_it_was() {
    let mut database = Database::mariadb();
    database.run(
        "CREATE TABLE t (id int PRIMARY KEY, u bigint unsigned, b tinyint(1), d decimal(30,10), f float, t varchar(20), bi varbinary(4), dt datetime(3), ts timestamp(6) NULL,
           da date, tm time, y year, bt bit(5), e enum('x','y'), j json);
         SET time_zone = '+02:00'; SET sql_mode = '';
         INSERT INTO t VALUES (1, 18446744073709551615, -7, 12345678901234567890.5, 0.5, 'Größe', X'FF00', '2026-03-29 02:30:00.25', '2026-03-29 02:30:00.000001',
           '1972-00-27', '-13:20:00', 2026, b'101', 'y', '{\"a\": 1}'), (2, NULL, NULL, NULL, NULL, NULL, NULL, '0000-00-00', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
         CREATE TABLE h (id int PRIMARY KEY, at datetime(6)); INSERT INTO h SELECT seq, UTC_TIMESTAMP(6) FROM seq_1_to_50",
    );
    let endpoint = format!("mysql://127.0.0.1:{}/plant", database.port());
    let keys =
        "queries: [{table: t, every: 50ms, watermark: id, topic: t}, {table: h, every: 50ms, page: 7, watermark: at, id: [id], topic: h}]";
    let mut running = Running::at(&endpoint, keys);
    let lines = running.until("all rows", 52).await;
    let rows: Vec<_> = lines.iter().filter(|line| line.contains("\"u\"")).collect();
    assert_eq!(
        rows,
        [
            r#"{"id":1,"u":18446744073709551615,"b":-7,"d":12345678901234567890.5000000000,"f":0.5,"t":"Größe","bi":"/wA=","dt":"2026-03-29T02:30:00.25","ts":"2026-03-29T00:30:00.000001Z","da":null,"tm":"-13:20:00","y":2026,"bt":5,"e":"y","j":"{\"a\": 1}"} unfit {"da":"1972-00-27"}"#,
            r#"{"id":2,"u":null,"b":null,"d":null,"f":null,"t":null,"bi":null,"dt":null,"ts":null,"da":null,"tm":null,"y":null,"bt":null,"e":null,"j":null} unfit {"dt":"0000-00-00T00:00:00"}"#,
        ]
    );
    tokio::task::block_in_place(|| database.kill9());
    running.crash().await;
    tokio::task::block_in_place(|| database.restart());
    // Late by half the overlap, and now.
    database.run("INSERT INTO h VALUES (100, UTC_TIMESTAMP(6) - INTERVAL 30 SECOND), (101, UTC_TIMESTAMP(6))");
    let lines = running.until("both", 54).await;
    let rows: Vec<_> = lines.into_iter().filter(|line| line.contains("\"at\"")).collect();
    let wanted: BTreeMap<u64, u32> = (1..=50).chain([100, 101]).map(|id| (id, 1)).collect();
    assert_eq!(counts(&rows), wanted);
    running.stop().await;
}

#[test]
fn check_says_what_a_query_lacks() {
    let said = |queries: &str| {
        let text = format!("{{endpoint: 'mysql://db.plant/mes', queries: [{queries}]}}");
        yaml::compile::<SqlSource>(&text, &yaml::context("sql", &[])).err().unwrap_or_default()
    };
    assert!(said("{query: 'DELETE FROM t', name: a}").contains("`query` is one SELECT"));
    assert!(said("{query: 'SELECT 1; DROP TABLE t', name: a}").contains("`query` is one SELECT"));
    assert!(said("{query: 'SELECT 1'}").contains("a query wants a `name`"));
    assert!(said("{table: a, id: [b]}").contains("go with `watermark`"));
    assert!(said("{table: a}, {table: a}").contains("would share a position"));
    assert!(said("{table: a, watermark: b, bound: snapshot}").contains("only PostgreSQL"));
    let whole = |text: &str| yaml::compile::<SqlSource>(text, &yaml::context("sql", &[])).err().unwrap_or_default();
    let login = "login: {user: millrace, password: secret}";
    let server = |keys: &str| whole(&format!("{{endpoint: 'mssql://db.plant/mes', tls: {{}}, {keys}}}"));
    assert_eq!(server(&format!("{login}, queries: [{{table: dbo.a, watermark: rv}}]")), "");
    assert!(server("queries: [{table: a}]").contains("SQL Server wants a login of its own"));
    assert!(server(&format!("{login}, queries: [{{query: 'WITH a AS (SELECT 1) SELECT * FROM a', name: a}}]")).contains("takes no WITH"));
    assert!(server(&format!("{login}, queries: [{{table: a, watermark: b, bound: snapshot}}]")).contains("only PostgreSQL"));
    assert!(
        whole("{endpoint: 'mysql://localhost/mes', application_intent: read_only, queries: [{table: a}]}").contains("a word of SQL Server")
    );
    let login = "{endpoint: 'postgres://user:pw@db.plant/mes', queries: [{table: a}]}";
    assert!(yaml::compile::<SqlSource>(login, &yaml::context("sql", &[])).err().unwrap().contains("write it under `login`"));
}
