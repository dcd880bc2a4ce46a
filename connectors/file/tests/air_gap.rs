//! From one Kafka to another on a stick: what the sink wrote and the source read is what it was.

use millrace_contract::{Compiled, Flush, Partition, Record, Records};
use millrace_file::{FileSinkPlugin, FileSourcePlugin};
use millrace_schemas::{Micros, Span, push_header};
use millrace_testkit::{Document, TestHost, soon, yaml};
use std::fs;
use std::sync::Arc;

fn sink(folder: &std::path::Path, rest: &str) -> Box<dyn Compiled> {
    let text = format!("{{path: \"{}/{{topic}}-{{date}}.ndjson.gz\", {rest}}}", folder.display());
    yaml::compile::<FileSinkPlugin>(&text, &yaml::context("stick", &["orders"])).unwrap()
}

#[tokio::test]
async fn key_headers_timestamp_and_value_survive_an_air_gap() {
    let originals = [
        (Some(&b"4711"[..]), Some(&br#"{"id": 4711}"#[..]), vec![("trace", Some(&b"a1"[..])), ("trace", None)]),
        (None, Some(b"\x00\xFFbinary".as_slice()), vec![("bytes", Some(b"\xFE".as_slice()))]),
        (Some(b"gone".as_slice()), None, vec![]),
    ];
    let mut records = Records { parts: vec![Partition { topic: Arc::from("orders"), partition: 2 }], ..Records::default() };
    for (offset, (key, value, headers)) in originals.iter().enumerate() {
        let mut push = |bytes: &[u8]| {
            let start = records.heap.len() as u32;
            records.heap.extend_from_slice(bytes);
            Span { start, len: bytes.len() as u32 }
        };
        let mut encoded = Vec::new();
        headers.iter().for_each(|(name, value)| push_header(&mut encoded, name, *value));
        let (key, value, headers) = (key.map(&mut push), value.map(&mut push), push(&encoded));
        let timestamp_ms = 1_750_000_000_000 + offset as i64;
        records.records.push(Record { part: 0, offset: offset as i64, timestamp_ms, key, value, headers, prefix: 0 });
    }

    let (stick, inbox) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let compiled = sink(stick.path(), "rotate: {size: 1KiB}");
    let mut sink = compiled.sink().unwrap();
    sink.assign(&records.parts).await.unwrap();
    sink.write(&records).await.unwrap();
    sink.flush(Flush::Stop).await.unwrap();
    // The stick is carried over: whatever is on it is copied, the file being written under its finished name.
    for entry in fs::read_dir(stick.path()).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with('.') {
            fs::copy(entry.path(), inbox.path().join(name.trim_end_matches(".part"))).unwrap();
        }
    }

    let mut context = yaml::context("inbox", &[]);
    context.topic = Some(Arc::from("{topic}"));
    let text = format!("{{path: \"{}/*.ndjson.gz\", format: envelope, every: 5ms, settle: 10ms}}", inbox.path().display());
    let compiled = yaml::compile::<FileSourcePlugin>(&text, &context).unwrap();
    let host = TestHost::of(&*compiled);
    let (mut source, io) = (compiled.source().unwrap(), host.io());
    let session = tokio::spawn(async move { source.session(io).await });
    host.until("all records", |host| host.count() >= 3).await;
    host.stop();
    soon("the session ends", session).await.unwrap().unwrap();

    let expected: Vec<_> = originals
        .iter()
        .enumerate()
        .map(|(offset, (key, value, headers))| Document {
            route: 0,
            topic: "orders".into(),
            time: Micros((1_750_000_000_000 + offset as i64) * 1000),
            key: key.unwrap_or_default().to_vec(),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.map(<[u8]>::to_vec))).collect(),
            payload: value.map(<[u8]>::to_vec),
        })
        .collect();
    assert_eq!(host.documents(), expected);
}

#[tokio::test]
async fn a_file_under_its_own_name_is_finished() {
    let stick = tempfile::tempdir().unwrap();
    let records = millrace_testkit::conformance::sink::records(millrace_contract::Input::Raw, 0, 0..100);
    let compiled = sink(stick.path(), "rotate: {size: 1KiB}");
    let mut sink = compiled.sink().unwrap();
    sink.assign(&records.parts).await.unwrap();
    sink.write(&records).await.unwrap();
    sink.flush(Flush::Tick).await.unwrap();
    let names = || {
        let mut names: Vec<_> = fs::read_dir(stick.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    };
    assert!(names().len() == 1 && names()[0].ends_with(".ndjson.gz.part"), "{:?}", names());
    sink.write(&millrace_testkit::conformance::sink::records(millrace_contract::Input::Raw, 0, 100..101)).await.unwrap();
    sink.flush(Flush::Tick).await.unwrap();
    assert!(names().len() == 2 && names().iter().any(|name| name.ends_with(".ndjson.gz")), "{:?}", names());
}

#[test]
fn wrong_settings_are_problems_that_say_what_to_do() {
    let refused = |text: &str| yaml::compile::<FileSinkPlugin>(text, &yaml::context("stick", &["orders"])).err().unwrap();
    assert!(refused("{path: \"/media/usb/{topic}\"}").contains("does not say what it holds"));
    assert!(refused("{path: \"/media/usb/{topik}.csv\"}").contains("`{topik}`"));
    assert!(refused("{path: /media/usb/}").contains("is a folder"));
    assert!(refused("{path: \"/media/{topic}/../x.csv\"}").contains("`..`"));
    assert!(refused("{path: /media/x.csv, rotate: {every: 10ms, size: 1}}").contains("at least 1KiB"));
}
