//! What a lake is asked and given that it can't do: a bucket that is missing or forbids, a question that would read too much; and an answer as a file.
#![cfg(feature = "tables")]

use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMicrosecondType;
use millrace_contract::{Carries, Context, Failure, Flush, Input, Sink};
use millrace_lake::{Answer, LakeSink, Place, Question, Series, Tail, What, ask, export};
use millrace_testkit::conformance::sink::{TOPIC, part, records, timestamp_ms};
use millrace_testkit::yaml;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

fn sink(text: &str) -> Box<dyn Sink> {
    let context = Context { carries: Carries::Samples, ..yaml::context("lake", &[TOPIC]) };
    yaml::compile::<LakeSink>(text, &context).unwrap_or_else(|problems| panic!("{problems}")).sink().unwrap()
}

/// A store that answers everything alike.
fn store(status: &'static str, code: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map(Result::unwrap) {
            let mut head = String::new();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            while reader.read_line(&mut head).is_ok_and(|read| read > 2) {}
            let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>said the store</Message></Error>");
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_missing_or_forbids_is_for_a_person() {
    for (status, code, said) in [("404 Not Found", "NoSuchBucket", "bucket"), ("403 Forbidden", "AccessDenied", "AccessDenied")] {
        let port = store(status, code);
        let keys = format!("{{endpoint: 'http://127.0.0.1:{port}', region: here, access_key: millrace, secret_key: sesame}}");
        let mut sink = sink(&format!("{{table: 's3://plant/telemetry', store: {keys}}}"));
        let failure = sink.assign(&[part(0)]).await.unwrap_err();
        assert!(matches!(&failure, Failure::Blocked(text) if text.contains(said) && !text.contains("sesame")), "{failure:?}");
    }
}

const DAY: i64 = 86_400_000;

/// A table with a sample on each of two days, and three on the second.
async fn two_days() -> (tempfile::TempDir, Place) {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("table").display().to_string();
    let mut sink = sink(&format!("{{table: '{table}'}}"));
    sink.assign(&[part(0)]).await.unwrap();
    for numbers in [0..1, DAY..DAY + 3] {
        assert_eq!(sink.write(&records(Input::Samples, 0, numbers)).await.unwrap(), []);
    }
    sink.flush(Flush::Stop).await.unwrap();
    (folder, Place::bare(&table))
}

async fn asked(place: &Place, budget: u64) -> Result<Answer, String> {
    let range = timestamp_ms(0) * 1000..timestamp_ms(2 * DAY) * 1000;
    let tag = format!("test/site/{TOPIC}/0");
    let question = Question { tag, range, what: What::Samples, lookback_days: 1, limit: 1_000, budget, tail: Tail::default() };
    let (place, runtime) = (place.clone(), tokio::runtime::Handle::current());
    tokio::task::spawn_blocking(move || ask(&place, &question, runtime)).await.unwrap().map_err(String::from)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_would_read_more_than_it_may_is_refused() {
    let (_folder, place) = two_days().await;
    let refused = asked(&place, 0).await.unwrap_err();
    assert!(refused.contains("would be read; ask for a shorter range"), "{refused}");
    let answer = asked(&place, u64::MAX).await.unwrap();
    assert!(matches!(&answer.series, Series::Samples(samples) if samples.len() == 4), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_a_file_with_the_types_of_the_table() {
    let (_folder, place) = two_days().await;
    let answer = asked(&place, u64::MAX).await.unwrap();
    let file = export::parquet(&[("a/b".to_owned(), answer.clone()), ("a/c".to_owned(), answer)], "2026-11-28T00:00:00Z").unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes::Bytes::from(file)).unwrap();
    let metadata = reader.metadata().file_metadata().key_value_metadata().unwrap();
    assert!(metadata.iter().any(|pair| pair.key == "millrace.complete_until" && pair.value.as_deref() == Some("2026-11-28T00:00:00Z")));
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    let (mut tags, mut times, mut texts) = (Vec::new(), Vec::new(), Vec::new());
    for batch in &batches {
        let column = |name: &str| batch.column_by_name(name).unwrap();
        tags.extend(column("tag").as_string::<i32>().iter().map(|text| text.unwrap().to_owned()));
        times.extend(column("time").as_primitive::<TimestampMicrosecondType>().iter().map(Option::unwrap));
        texts.extend(column("value_text").as_string::<i32>().iter().map(|text| text.unwrap().to_owned()));
        assert_eq!(column("value_double").null_count(), batch.num_rows());
    }
    assert_eq!(tags, ["a/b", "a/b", "a/b", "a/b", "a/c", "a/c", "a/c", "a/c"]);
    assert_eq!(times[..4], [0, DAY, DAY + 1, DAY + 2].map(|number| timestamp_ms(number) * 1000));
    assert_eq!(texts[1], millrace_testkit::conformance::sink::payload(0, DAY));
}
