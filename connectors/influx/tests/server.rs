//! The sink with InfluxDB of Debian: types, lines that the server refuses, several samples at one time; and with servers that say what they like.

use flate2::read::GzDecoder;
use millrace_contract::{Carries, Context, Failure, Flush, Partition, Record, Records, Sink};
use millrace_influx::InfluxSink;
use millrace_schemas::{Batch, Span, json};
use millrace_testkit::{Influx, yaml};
use serde_json::{Value, json as object};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;
use std::time::Duration;

fn part() -> Partition {
    Partition { topic: "telemetry".into(), partition: 0 }
}

fn sink_to(port: u16, keys: &str) -> Box<dyn Sink> {
    let text = format!("{{endpoint: 'http://127.0.0.1:{port}', {keys}}}");
    let context = Context { carries: Carries::Samples, ..yaml::context("influx", &["telemetry"]) };
    yaml::compile::<InfluxSink>(&text, &context).unwrap_or_else(|problems| panic!("{problems}")).sink().unwrap()
}

/// Of a database of InfluxDB 1.
fn sink_of(server: &Influx, more: &str) -> Box<dyn Sink> {
    sink_to(server.port(), &format!("login: {{user: millrace, password: secret}}, {more}"))
}

/// Samples from an offset on: tag, time in microseconds, value as it stands in JSON.
fn samples(from: i64, values: &[(&str, i64, &str)]) -> Records {
    let mut records = Records { parts: vec![part()], ..Records::default() };
    let mut batch = Batch::new();
    for (offset, (tag, time, value)) in (from..).zip(values) {
        let text = format!(
            r#"{{"tag":"{tag}","value":{value},"time":{time},"time_source":"device","read_time":{time},"status":0,"origin":"change","source":"a/b/s","seq":{offset}}}"#
        );
        json::decode(text.as_bytes(), &mut batch).unwrap();
        records.records.push(Record { part: 0, offset, timestamp_ms: 0, key: None, value: None, headers: Span::EMPTY, prefix: 0 });
    }
    records.batch = Some(batch);
    records
}

/// The values of a query's only series, row by row; time first.
fn rows(server: &Influx, query: &str) -> Vec<Vec<Value>> {
    let said: Value = serde_json::from_str(&server.run(query)).unwrap();
    serde_json::from_value(said["results"][0]["series"][0]["values"].clone()).unwrap_or_default()
}

const T: i64 = 1_795_824_000_000_001;

#[tokio::test(flavor = "multi_thread")]
async fn every_value_of_a_sample_stands_in_the_field_of_its_type() {
    let server = Influx::start();
    for gzip in [true, false] {
        let mut sink = sink_of(&server, &format!("database: plant, measurement: 'm {gzip}', gzip: {gzip}"));
        let written = samples(
            0,
            &[
                ("a/ü, b=c", T, "1.5"),
                ("a/l", T + 1, "-9223372036854775808"),
                ("a/b", T + 2, "true"),
                ("a/t", T + 3, r#""red \"ä\" \\ \n end""#),
                ("a/j", T + 4, r#"{"json":{"a":[1,null]}}"#),
                ("a/n", T + 5, "null"),
                ("a/i", T + 6, "[1,2]"),
            ],
        );
        assert_eq!(sink.write(&written).await.unwrap(), []);
        let flushed = sink.flush(Flush::Tick).await.unwrap();
        assert_eq!((flushed.below, flushed.refused.len()), (vec![(part(), 7)], 0));
        let of = |field: &str| rows(&server, &format!("SELECT \"tag\", {field} FROM \"m {gzip}\""));
        assert_eq!(object!(of("value_double")), object!([[T, "a/ü, b=c", 1.5]]));
        assert_eq!(object!(of("value_long")), object!([[T + 1, "a/l", i64::MIN]]));
        assert_eq!(object!(of("value_bool")), object!([[T + 2, "a/b", true]]));
        assert_eq!(object!(of("value_text")), object!([[T + 3, "a/t", "red \"ä\" \\ \n end"]]));
        let json: Vec<Value> = of("value_json").into_iter().map(|mut row| row.remove(2)).collect();
        assert_eq!(json, ["{\"a\":[1,null]}", "[1,2]"]);
        let all = of("quality");
        assert_eq!(all.len(), 7);
        assert!(all.iter().all(|row| row[2] == "good"), "{all:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_refused_spares_its_neighbours() {
    let server = Influx::start();
    // Somebody else's field of this name is a number; InfluxDB 1 holds to it within a week.
    server.write(&format!("telemetry,tag=x value_text=1 {T}000\n"));
    let mut sink = sink_of(&server, "database: plant, batch: 50");
    let values: Vec<(String, String)> = (0..300)
        .map(|n| match n {
            77 => r#""text""#.to_owned(),
            // InfluxDB 1 has no unsigned numbers unless it is built with them.
            200 | 201 => u64::MAX.to_string(),
            n => format!("{n}.5"),
        })
        .zip((0..300).map(|n| format!("t/{}", n % 7)))
        .map(|(value, tag)| (tag, value))
        .collect();
    let written: Vec<_> = (T..).zip(&values).map(|(time, (tag, value))| (tag.as_str(), time, value.as_str())).collect();
    let mut refused = sink.write(&samples(0, &written)).await.unwrap();
    let flushed = sink.flush(Flush::Tick).await.unwrap();
    refused.extend(flushed.refused);
    assert_eq!(flushed.below, [(part(), 300)]);
    assert_eq!(refused.iter().map(|one| one.offset).collect::<Vec<_>>(), [77, 200, 201]);
    assert!(refused[0].reason.contains("field type conflict") && refused[1].reason.contains("invalid number"), "{refused:?}");
    assert_eq!(rows(&server, "SELECT count(value_double) FROM telemetry")[0][1], 297);
    let sum: f64 = (0..300).filter(|n| ![77, 200, 201].contains(n)).map(|n| f64::from(n) + 0.5).sum();
    assert_eq!(rows(&server, "SELECT sum(value_double) FROM telemetry")[0][1], sum);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_line_holds_and_what_is_too_old_are_named() {
    let server = Influx::start();
    server.run("CREATE RETENTION POLICY short ON plant DURATION 1h REPLICATION 1");
    let mut sink = sink_of(&server, "database: plant, retention_policy: short");
    let written = samples(5, &[("a", T, r#""NaN""#), ("a\\nb", T, "1.5"), ("a", i64::MAX, "1.5"), ("a", 1, "2.5"), ("b", 2, "3.5")]);
    let refused = sink.write(&written).await.unwrap();
    let reasons: Vec<&str> = refused.iter().map(|one| one.reason.as_str()).collect();
    assert_eq!(refused.iter().map(|one| one.offset).collect::<Vec<_>>(), [5, 6, 7]);
    assert!(reasons[0].contains("NaN") && reasons[1].contains("control character") && reasons[2].contains("2262"), "{reasons:?}");
    let flushed = sink.flush(Flush::Tick).await.unwrap();
    assert_eq!((flushed.below, flushed.refused.len()), (vec![(part(), 10)], 2));
    assert!(flushed.refused.iter().all(|one| one.reason.contains("beyond retention policy")), "{:?}", flushed.refused);
    // A database that is not there, and a wrong password, are for a person.
    for (keys, said) in
        [("database: nowhere", "database not found"), ("database: plant, login: {user: millrace, password: wrong}", "login")]
    {
        let mut sink = match keys.contains("login") {
            true => sink_to(server.port(), keys),
            false => sink_of(&server, keys),
        };
        sink.write(&samples(0, &[("a", T, "1.5")])).await.unwrap();
        let failure = sink.flush(Flush::Tick).await.unwrap_err();
        assert!(matches!(&failure, Failure::Blocked(text) if text.contains(said) && !text.contains("wrong")), "{failure}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_at_one_time_are_all_there_and_the_same_one_is_there_once() {
    let server = Influx::start();
    let mut sink = sink_of(&server, "database: plant");
    // A heartbeat says the same again; what was sent twice comes twice.
    sink.write(&samples(0, &[("a", T, "1.5"), ("a", T, "1.5"), ("a", T, "2.5"), ("a", T, "null"), ("b", T, "9.5")])).await.unwrap();
    sink.flush(Flush::Tick).await.unwrap();
    sink.write(&samples(5, &[("a", T, "null"), ("a", T + 1, "4.5")])).await.unwrap();
    sink.flush(Flush::Tick).await.unwrap();
    let there = rows(&server, "SELECT nth, value_double, status FROM telemetry WHERE \"tag\" = 'a'");
    let mut there: Vec<String> =
        there.iter().map(|row| format!("{} {} {} {}", row[0].as_i64().unwrap() - T, row[1], row[2], row[3])).collect();
    there.sort();
    assert_eq!(there, ["0 \"2\" 2.5 0", "0 \"3\" null 0", "0 null 1.5 0", "1 null 4.5 0"]);
    // A clock that stands still must not fill the server with series.
    let values: Vec<String> = (0..70).map(|n| format!("{n}.5")).collect();
    let written: Vec<_> = values.iter().map(|value| ("still", T, value.as_str())).collect();
    let refused = sink.write(&samples(7, &written)).await.unwrap();
    assert_eq!((refused.len(), refused[0].offset), (6, 7 + 64), "{refused:?}");
}

/// A server that answers each request to its body, decompressed, with a status line, headers and a body.
fn server(answer: impl Fn(&str) -> (&'static str, String) + Send + 'static) -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (heard, hear) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut head, mut length) = (String::new(), 0);
            while reader.read_line(&mut head).is_ok_and(|read| read > 2) {}
            for line in head.to_lowercase().lines() {
                length = line.strip_prefix("content-length: ").map_or(length, |text| text.trim().parse().unwrap());
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let mut text = String::new();
            GzDecoder::new(&*body).read_to_string(&mut text).unwrap();
            let (status, said) = answer(&text);
            let _ = heard.send(format!("{}\n{text}", head.lines().next().unwrap()));
            let _ = write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{said}", said.len());
        }
    });
    (port, hear)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_asked_again_when_it_says() {
    for (status, after) in [("429 Too Many Requests\r\nRetry-After: 7", 7), ("503 Service Unavailable\r\nRetry-After: 30", 30)] {
        let (port, _hear) = server(move |_| (status, String::new()));
        let mut sink = sink_to(port, "bucket: plant");
        sink.write(&samples(0, &[("a", T, "1.5")])).await.unwrap();
        let failure = sink.flush(Flush::Tick).await.unwrap_err();
        assert!(matches!(&failure, Failure::RetryAfter(wait, _) if *wait == Duration::from_secs(after)), "{failure}");
    }
    let (port, _hear) = server(|_| ("500 Internal Server Error", "{\"error\":\"timeout\"}".into()));
    let mut sink = sink_to(port, "bucket: plant");
    sink.write(&samples(0, &[("a", T, "1.5")])).await.unwrap();
    let failure = sink.flush(Flush::Tick).await.unwrap_err();
    assert!(matches!(&failure, Failure::Reconnect(text) if text.contains("timeout")), "{failure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_nothing_makes_no_dead_letters() {
    let (port, _hear) = server(|_| ("400 Bad Request", "{\"error\":\"no bucket, token sesame\"}".into()));
    let mut sink = sink_to(port, "bucket: plant, login: {bearer: sesame}");
    sink.write(&samples(0, &[("a", T, "1.5"), ("b", T, "1.5")])).await.unwrap();
    let failure = sink.flush(Flush::Tick).await.unwrap_err();
    assert!(matches!(&failure, Failure::Blocked(text) if text.contains("even an empty line") && !text.contains("sesame")), "{failure}");
}

/// What InfluxDB 3 says of lines: their numbers, by its own parser's reckoning.
fn like_influxdb_3(text: &str) -> (&'static str, String) {
    let lines: Vec<_> = influxdb_line_protocol::parse_lines(text).map(Result::unwrap).collect();
    let bad = |line: &influxdb_line_protocol::ParsedLine<'_>| line.tag_value("tag").is_some_and(|tag| *tag == "bad");
    let named: Vec<Value> = (1..)
        .zip(&lines)
        .filter(|(_, line)| bad(line))
        .map(|(number, _)| object!({"line_number": number, "error_message": "is bad"}))
        .collect();
    match named.is_empty() {
        true => ("204 No Content", String::new()),
        false => ("400 Bad Request", object!({"error": "partial write of line protocol occurred", "data": named}).to_string()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_a_server_names_are_refused_in_a_few_requests() {
    let (port, hear) = server(like_influxdb_3);
    let mut sink = sink_to(port, "bucket: plant, org: acme");
    let tags: Vec<&str> = (0..1000).map(|n| if n == 300 || n == 700 { "bad" } else { "good" }).collect();
    let written: Vec<_> = (T..).zip(&tags).map(|(time, tag)| (*tag, time, "1.5")).collect();
    sink.write(&samples(0, &written)).await.unwrap();
    let flushed = sink.flush(Flush::Tick).await.unwrap();
    assert_eq!(flushed.refused.iter().map(|one| one.offset).collect::<Vec<_>>(), [300, 700]);
    assert!(flushed.refused[0].reason.contains("is bad"), "{:?}", flushed.refused);
    let heard: Vec<String> = hear.try_iter().collect();
    assert_eq!(heard.len(), 7, "the whole, three pieces between, of which the last in halves, and two alone");
    assert!(heard.iter().all(|one| one.starts_with("POST /api/v2/write?bucket=plant&org=acme&precision=ns ")), "{}", heard[0]);
}
