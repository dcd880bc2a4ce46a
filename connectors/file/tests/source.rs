//! What the file source promises beyond the suite: folders, rotations, formats, bad input.

use flate2::Compression;
use flate2::write::GzEncoder;
use millrace_contract::{Compiled, Context, Failure, Late, Status};
use millrace_file::FileSourcePlugin;
use millrace_schemas::{Batch, RouteId};
use millrace_testkit::{Owned, TestHost, soon, yaml};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::task::JoinHandle;

struct Stand {
    folder: TempDir,
    host: TestHost,
    compiled: Box<dyn Compiled>,
    session: Option<JoinHandle<Result<(), Failure>>>,
}

impl Stand {
    /// A source on `folder/name`, looking every 5 ms.
    fn new(name: &str, rest: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let compiled = compile(&format!("{{path: \"{}/{name}\", every: 5ms, {rest}}}", folder.path().display())).unwrap();
        Self { host: TestHost::of(&*compiled), compiled, folder, session: None }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    fn append(&self, name: &str, content: &str) {
        OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap().write_all(content.as_bytes()).unwrap();
    }

    fn start(&mut self) {
        self.host.restart();
        let (mut source, io) = (self.compiled.source().unwrap(), self.host.io());
        self.session = Some(tokio::spawn(async move { source.session(io).await }));
    }

    async fn stop(&mut self) {
        self.host.stop();
        assert_eq!(soon("the session ends", self.session.take().unwrap()).await.unwrap(), Ok(()));
    }

    async fn until_documents(&self, count: usize) -> Vec<String> {
        self.host.until(&format!("{count} documents"), |host| host.documents().len() >= count).await;
        let texts: Vec<_> = self.host.documents().iter().map(|document| document.text().to_owned()).collect();
        assert_eq!(texts.len(), count, "{texts:?}");
        texts
    }

    async fn until_rejects(&self, count: usize) -> Vec<String> {
        self.host.until(&format!("{count} rejects"), |host| host.rejects().len() >= count).await;
        self.host.rejects().into_iter().map(|reject| reject.reason).collect()
    }
}

fn compile(yaml: &str) -> Result<Box<dyn Compiled>, String> {
    yaml::compile::<FileSourcePlugin>(yaml, &yaml::context("stand", &[]))
}

fn numbers(range: std::ops::Range<usize>) -> String {
    range.map(|n| format!("{n}\n")).collect()
}

fn assert_numbers(texts: &[String], range: std::ops::Range<usize>) {
    assert!(texts.iter().map(|text| text.parse::<usize>().unwrap()).eq(range), "{texts:?}");
}

#[tokio::test]
async fn a_half_written_line_waits_for_its_newline() {
    let mut stand = Stand::new("out.ndjson", "");
    stand.write("out.ndjson", "{\"a\":1}\n{\"a\":");
    stand.start();
    assert_eq!(stand.until_documents(1).await, ["{\"a\":1}"]);
    stand.append("out.ndjson", "2}\r\n");
    assert_eq!(stand.until_documents(2).await[1], "{\"a\":2}");
    stand.stop().await;
}

#[tokio::test]
async fn a_rotation_by_renaming_loses_and_repeats_nothing() {
    let mut stand = Stand::new("app.ndjson", "");
    stand.write("app.ndjson", numbers(0..100));
    stand.start();
    stand.until_documents(100).await;
    stand.append("app.ndjson", &numbers(100..150));
    fs::rename(stand.path("app.ndjson"), stand.path("app.ndjson.1")).unwrap();
    stand.append("app.ndjson", &numbers(150..200));
    assert_numbers(&stand.until_documents(200).await, 0..200);
    stand.append("app.ndjson", &numbers(200..210));
    assert_numbers(&stand.until_documents(210).await, 0..210);
    stand.stop().await;
}

#[tokio::test]
async fn a_rotated_file_that_is_deleted_at_once_is_still_read_to_its_end() {
    let mut stand = Stand::new("app.ndjson", "");
    stand.write("app.ndjson", numbers(0..10));
    stand.start();
    stand.until_documents(10).await;
    stand.append("app.ndjson", &numbers(10..20));
    fs::rename(stand.path("app.ndjson"), stand.path("app.ndjson.1")).unwrap();
    fs::remove_file(stand.path("app.ndjson.1")).unwrap();
    stand.append("app.ndjson", &numbers(20..30));
    assert_numbers(&stand.until_documents(30).await, 0..30);
    stand.stop().await;
}

#[tokio::test]
async fn rotations_while_the_source_is_down_are_read_through() {
    let mut stand = Stand::new("app.ndjson", "");
    stand.write("app.ndjson", numbers(0..50));
    stand.start();
    stand.until_documents(50).await;
    stand.stop().await;
    stand.append("app.ndjson", &numbers(50..60));
    fs::rename(stand.path("app.ndjson"), stand.path("app.ndjson.2")).unwrap();
    stand.append("app.ndjson", &numbers(60..70));
    fs::rename(stand.path("app.ndjson"), stand.path("app.ndjson.1")).unwrap();
    stand.append("app.ndjson", &numbers(70..80));
    stand.start();
    assert_numbers(&stand.until_documents(80).await, 0..80);
    stand.stop().await;
    stand.start();
    stand.append("app.ndjson", &numbers(80..81));
    assert_numbers(&stand.until_documents(81).await, 0..81);
    stand.stop().await;
}

#[tokio::test]
async fn a_rotation_by_copy_and_truncate_loses_and_repeats_nothing() {
    for down in [false, true] {
        let mut stand = Stand::new("app.ndjson", "");
        stand.write("app.ndjson", numbers(0..50));
        stand.start();
        stand.until_documents(50).await;
        stand.stop().await;
        stand.append("app.ndjson", &numbers(50..60));
        if !down {
            stand.start();
            stand.until_documents(60).await;
        }
        fs::copy(stand.path("app.ndjson"), stand.path("app.ndjson.1")).unwrap();
        OpenOptions::new().write(true).truncate(true).open(stand.path("app.ndjson")).unwrap();
        // Longer than before: its size alone would not show the truncation.
        stand.append("app.ndjson", &numbers(60..200));
        if down {
            stand.start();
        }
        assert_numbers(&stand.until_documents(200).await, 0..200);
        stand.stop().await;
    }
}

#[tokio::test]
async fn a_folder_is_read_file_by_file_once() {
    let mut stand = Stand::new("*.csv", "settle: 20ms, key: \"{file}/{serial}\"");
    stand.write("a.csv", "serial,torque\n001,1.5\n002,2.5");
    stand.write(".hidden.csv", "serial\nx\n");
    stand.write("other.txt", "x");
    stand.start();
    let texts = stand.until_documents(2).await;
    assert_eq!(texts, [r#"{"serial":"001","torque":"1.5"}"#, r#"{"serial":"002","torque":"2.5"}"#]);
    stand.write("b.csv", "serial,torque\n003,3.5\n");
    stand.until_documents(3).await;
    let keys: Vec<_> = stand.host.documents().iter().map(|d| String::from_utf8_lossy(&d.key).into_owned()).collect();
    assert_eq!(keys, ["a/001", "a/002", "b/003"]);
    stand
        .host
        .until("both files are done", |host| {
            host.positions().values().filter(|p| String::from_utf8_lossy(p).contains("\"done\":true")).count() == 2
        })
        .await;
    stand.stop().await;
    stand.start();
    stand.write("c.csv", "serial,torque\n004,4.5\n");
    stand.until_documents(4).await;
    assert_eq!(stand.host.status(""), Some(Status::Running));
    stand.stop().await;
}

#[tokio::test]
async fn a_done_file_is_deleted_or_moved_only_when_it_is_durable() {
    let mut stand = Stand::new("in/*.ndjson", "settle: 10ms, when_done: delete");
    fs::create_dir(stand.path("in")).unwrap();
    stand.write("in/a.ndjson", "1\n2\n");
    stand.start();
    stand.host.withhold();
    stand.until_documents(2).await;
    stand
        .host
        .until("the file is done", |host| host.positions().values().any(|p| String::from_utf8_lossy(p).contains("\"done\":true")))
        .await;
    assert!(stand.path("in/a.ndjson").exists(), "not durable yet");
    stand.host.sync();
    stand.host.until("the file is deleted and forgotten", |host| host.positions().is_empty()).await;
    assert!(!stand.path("in/a.ndjson").exists());
    stand.stop().await;

    let folder = tempfile::tempdir().unwrap();
    let done = folder.path().join("done");
    fs::create_dir_all(folder.path().join("in")).unwrap();
    fs::create_dir(&done).unwrap();
    fs::write(done.join("a.ndjson"), "older").unwrap();
    fs::write(folder.path().join("in/a.ndjson"), "1\n").unwrap();
    let text =
        format!("{{path: \"{0}/in/*.ndjson\", every: 5ms, settle: 10ms, when_done: move, move_to: {0}/done}}", folder.path().display());
    let compiled = compile(&text).unwrap();
    let host = TestHost::of(&*compiled);
    let (mut source, io) = (compiled.source().unwrap(), host.io());
    let session = tokio::spawn(async move { source.session(io).await });
    host.until("the file is moved and forgotten", |host| host.count() == 1 && host.positions().is_empty()).await;
    assert_eq!(fs::read_to_string(done.join("a.ndjson.1")).unwrap(), "1\n");
    assert_eq!(fs::read_to_string(done.join("a.ndjson")).unwrap(), "older", "nothing is overwritten");
    host.stop();
    soon("the session ends", session).await.unwrap().unwrap();
}

#[tokio::test]
async fn compressed_files_are_read_and_a_damaged_one_says_so() {
    let mut stand = Stand::new("*.ndjson.gz", "settle: 20ms");
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(numbers(0..20_000).as_bytes()).unwrap();
    let whole = encoder.finish().unwrap();
    stand.write("a.ndjson.gz", &whole);
    stand.start();
    assert_numbers(&stand.until_documents(20_000).await, 0..20_000);
    stand.write("b.ndjson.gz", &whole[..whole.len() / 2]);
    let reasons = stand.until_rejects(1).await;
    assert!(reasons[0].contains("b.ndjson.gz") && reasons[0].contains("fetch the file again"), "{reasons:?}");
    stand.stop().await;
}

#[tokio::test]
async fn bad_lines_become_rejects_and_the_others_arrive() {
    let mut stand = Stand::new("out.ndjson", "max_record: 100");
    let long = format!("\"{}\"", "x".repeat(5000));
    stand.write("out.ndjson", [b"1\n{oops\n\n\xFF\n".as_slice(), long.as_bytes(), b"\n2\n"].concat());
    stand.start();
    assert_eq!(stand.until_documents(2).await, ["1", "2"]);
    let rejects = stand.host.rejects();
    let path = stand.path("out.ndjson").display().to_string();
    for (reject, line, what) in [(&rejects[0], 2, "not JSON"), (&rejects[1], 4, "not UTF-8"), (&rejects[2], 5, "longer than 100 bytes")] {
        assert!(
            reject.reason.starts_with(&format!("cannot read line {line} of {path}: ")) && reject.reason.contains(what),
            "{}",
            reject.reason
        );
        assert_eq!(reject.headers[1], ("millrace.line".into(), Some(line.to_string().into_bytes())));
    }
    assert_eq!((rejects[0].payload.as_slice(), rejects[1].payload.as_slice()), (&b"{oops"[..], &b"\xFF"[..]));
    assert_eq!(rejects[2].payload.len(), 1024);
    stand.stop().await;
}

#[tokio::test]
async fn a_german_csv_is_read_as_it_is_written() {
    let csv = r#"encoding: windows-1252, csv: {delimiter: ";", decimal: ",", skip_lines: 2, infer: true}"#;
    let mut stand = Stand::new("messung.csv", csv);
    stand.write("messung.csv", b"Pr\xFCfstand 4\r\n\r\nSerie;Moment;;ok\r\n\"A;1\";12,5;x;true\r\n007;;\xB0C;false\r\n");
    stand.start();
    let texts = stand.until_documents(2).await;
    assert_eq!(texts[0], r#"{"Serie":"A;1","Moment":12.5,"column_3":"x","ok":true}"#);
    assert_eq!(texts[1], r#"{"Serie":"007","Moment":null,"column_3":"°C","ok":false}"#);
    stand.stop().await;
    stand.start();
    OpenOptions::new().append(true).open(stand.path("messung.csv")).unwrap().write_all(b"8;1;2;3;4\r\n9;1,0;;true\r\n").unwrap();
    assert_eq!(stand.until_documents(3).await[2], r#"{"Serie":9,"Moment":1.0,"column_3":null,"ok":true}"#);
    assert!(
        stand.until_rejects(1).await[0].contains("line 6") && stand.until_rejects(1).await[0].contains("5 fields, but the header has 4")
    );
    stand.stop().await;
}

#[tokio::test]
async fn a_missing_file_or_folder_degrades_and_heals_by_itself() {
    let mut stand = Stand::new("later/out.ndjson", "");
    stand.start();
    stand
        .host
        .until("it says what is missing", |host| matches!(host.status(""), Some(Status::Degraded(why)) if why.contains("is not there")))
        .await;
    fs::create_dir(stand.path("later")).unwrap();
    stand.write("later/out.ndjson", "1\n");
    stand.until_documents(1).await;
    stand.host.until("it runs", |host| host.status("") == Some(Status::Running)).await;
    stand.stop().await;
}

#[tokio::test]
async fn an_unmounted_folder_is_not_read_again_when_it_is_back() {
    let mut stand = Stand::new("mnt/*.ndjson", "settle: 10ms");
    fs::create_dir(stand.path("mnt")).unwrap();
    stand.write("mnt/a.ndjson", numbers(0..10));
    stand.start();
    stand.until_documents(10).await;
    fs::rename(stand.path("mnt"), stand.path("away")).unwrap();
    stand.host.until("it says what is missing", |host| matches!(host.status(""), Some(Status::Degraded(_)))).await;
    stand.stop().await;
    stand.start();
    fs::rename(stand.path("away"), stand.path("mnt")).unwrap();
    stand.append("mnt/a.ndjson", &numbers(10..11));
    assert_numbers(&stand.until_documents(11).await, 0..11);
    stand.stop().await;
}

#[test]
fn wrong_settings_are_problems_that_say_what_to_do() {
    let refused = |yaml: &str| compile(yaml).err().unwrap_or_else(|| panic!("{yaml} must not compile"));
    assert!(refused("{path: /in/*.dat}").contains("does not say what it holds"));
    assert!(refused("{path: \"/in/[a.csv\"}").contains("no pattern of files"));
    assert!(refused("{path: /in/a.csv, when_done: delete}").contains("a tailed file is never done"));
    assert!(refused("{path: /in/a.csv.gz, mode: tail}").contains("cannot be tailed"));
    assert!(refused("{path: /in/*.csv, when_done: move}").contains("wants `move_to`"));
    assert!(refused("{path: /in/*.csv, when_done: move, move_to: /in}").contains("would be read again"));
    assert!(refused("{path: /in/*.csv, csv: {delimiter: ab}}").contains("one character of ASCII"));
    assert!(refused("{path: /in/*.csv, key: \"{a\"}").contains("without its other half"));
    assert!(compile("{path: /in/*.csv.gz}").is_ok());
    assert!(!Path::new("/in").exists());
}

#[tokio::test]
async fn samples_come_out_of_columns_with_their_own_time() {
    let rest = r#"mode: tail, csv: {delimiter: ";", decimal: ","}, samples: {torque: {at: torque_nm, as: double, unit: Nm}, angle: angle_deg, lost: nowhere},
        time: {at: timestamp, format: "%d.%m.%Y %H:%M:%S", zone: Europe/Berlin}, status: q"#;
    let mut stand = Stand::new("stand.csv", rest);
    let model = stand.compiled.model().clone();
    assert_eq!(model.tags.iter().map(|tag| tag.path.as_str()).collect::<Vec<_>>(), ["at/stand/angle", "at/stand/lost", "at/stand/torque"]);
    assert_eq!(model.tags[2].options.unit.as_deref(), Some("Nm"));
    stand.write(
        "stand.csv",
        "timestamp;torque_nm;angle_deg;q\n21.11.2025 13:08:00;12,5;90;good\nnonsense;1;2;good\n21.11.2025 13:08:01;13;;bad\n",
    );
    stand.start();
    stand.host.until("five samples", |host| host.samples().len() >= 5).await;
    let got: Vec<_> = stand.host.samples().into_iter().map(|s| (s.tag, s.value, s.status.quality().as_str(), s.origin.as_str())).collect();
    let (torque, angle, lost) = (|| "at/stand/torque".to_owned(), || "at/stand/angle".to_owned(), "at/stand/lost".to_owned());
    assert_eq!(
        got,
        [
            (lost, Owned::Null, "bad", "status"),
            (angle(), Owned::Int(90), "good", "backfill"),
            (torque(), Owned::Double(12.5), "good", "backfill"),
            (angle(), Owned::Null, "bad", "backfill"),
            (torque(), Owned::Double(13.0), "bad", "backfill"),
        ]
    );
    let samples = stand.host.samples();
    assert_eq!((samples[1].time.0, samples[1].time_source.as_str()), (1_763_726_880_000_000, "device"));
    let rejects = stand.until_rejects(1).await;
    assert!(rejects[0].contains("line 3") && rejects[0].contains("the time in column `timestamp` cannot be read"), "{rejects:?}");
    stand.stop().await;
}

#[tokio::test]
async fn what_a_historian_wrote_is_history_and_what_cannot_be_read_of_it_is_refused_whole() {
    let rest = r#"mode: folder, settle: 0s, history: true, csv: {delimiter: ";", decimal: ","}, tag: "{Tag}", value: Value, as: number, max_tags: 3,
        time: {at: Time, format: "%d-%b-%Y %H:%M:%S", zone: Europe/Berlin}, status: {at: Status, as: {Good: good, Bad: bad}},
        nulls: {"I/O Timeout": 0x80310000, "No Data": 0x809B0000}"#;
    let mut stand = Stand::new("*.csv", rest);
    let today =
        jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::get("Europe/Berlin").unwrap()).strftime("%d-%b-%Y %H:%M:%S").to_string();
    let rows = [
        "a;01-Jan-2024 00:00:00;12,5;Good",
        "a;01-Jan-2024 00:00:01;I/O Timeout;Bad",
        "b;01-Jan-2024 00:00:02;No Data;Good",
        "b;01-Jan-2024 00:00:03;7;Bad",
        &format!("b;{today};8;Good"),
        "a;01-Jan-2024 00:00:04;Intf Down;Good",
        "a;01-Jan-2024 00:00:05;1;Odd",
        "a;01-Jan-1970 00:00:06;1;Good",
        "a;01-Jan-2199 00:00:07;1;Good",
        "a;31-Mar-2024 02:30:00;1;Good",
        "a;01-Jan-2024 00:00:08;1.5;Good",
        ";01-Jan-2024 00:00:09;1;Good",
        "a;01-Jan-2024 00:00:10;1",
        "c;01-Jan-2024 00:00:11;1;Good",
        "d;01-Jan-2024 00:00:12;1;Good",
    ];
    stand.write("export.csv", format!("Tag;Time;Value;Status\n{}\n", rows.join("\n")));
    stand.start();
    let rejects = stand.until_rejects(9).await;
    let says = [
        (7, "`Intf Down` is not a number"),
        (8, "the status `Odd` is not in the list"),
        (9, "before 1990"),
        (10, "lies ahead"),
        (11, "the clocks were put forward"),
        (12, "`1.5` is not a number"),
        (13, "the name of the tag is missing"),
        (14, "3 fields, but the header has 4"),
        (16, "3 tags are named, and at/stand/d would be another"),
    ];
    for (reason, (line, said)) in rejects.iter().zip(says) {
        assert!(reason.contains(&format!("line {line} of")) && reason.contains(said), "{said}: {reason}");
    }
    let samples = stand.host.samples();
    let got: Vec<_> = samples.iter().map(|s| (s.tag.rsplit('/').next().unwrap(), s.value.clone(), s.status.0)).collect();
    assert_eq!(
        got,
        [
            ("a", Owned::Double(12.5), 0),
            ("a", Owned::Null, 0x8031_0000),
            ("b", Owned::Null, 0x809B_0000),
            ("b", Owned::Int(7), 0x8000_0000),
            ("b", Owned::Int(8), 0),
            ("c", Owned::Int(1), 0),
        ]
    );
    assert!(samples.iter().all(|sample| sample.origin.as_str() == "backfill"), "also what is no minute old");
    assert_eq!(samples[0].time.0, 1_704_063_600_000_000);
    stand.stop().await;
    let timeless = compile("{path: /in/*.csv, history: true, tag: '{t}', value: v}").err().unwrap();
    assert!(timeless.contains("`history` wants `time`"), "{timeless}");
}

#[tokio::test]
async fn samples_come_out_of_json_and_structures_are_expanded() {
    let mut stand = Stand::new("stand.ndjson", "samples: {speed: /v/kmh, axis: /axis}, missing: skip");
    stand.write("stand.ndjson", "{\"v\":{\"kmh\":7},\"axis\":{\"x\":1.5,\"y\":true}}\n{\"other\":1}\n");
    stand.start();
    stand.host.until("three samples", |host| host.samples().len() >= 3).await;
    stand.append("stand.ndjson", "{\"v\":{\"kmh\":8}}\n");
    stand.host.until("the fourth sample", |host| host.samples().len() >= 4).await;
    let mut got: Vec<_> = stand.host.samples().into_iter().map(|s| (s.tag, s.value)).collect();
    got.sort_by(|a, b| a.0.cmp(&b.0));
    let tag = |name: &str| format!("at/stand/{name}");
    assert_eq!(
        got,
        [
            (tag("axis/x"), Owned::Double(1.5)),
            (tag("axis/y"), Owned::Bool(true)),
            (tag("speed"), Owned::Int(7)),
            (tag("speed"), Owned::Int(8)),
        ]
    );
    stand.stop().await;
}

#[tokio::test]
async fn a_file_without_its_time_column_is_left_unread_and_says_why() {
    let mut stand = Stand::new("*.csv", "settle: 10ms, samples: {torque: torque}, time: {at: when}");
    stand.write("a.csv", "torque,time\n1,2025-11-21T12:00:00Z\n");
    stand.write("b.csv", "torque,when\n2,2025-11-21T12:00:00Z\n");
    stand.start();
    stand.host.until("the good file is read", |host| host.samples().len() == 1).await;
    let says = |host: &TestHost| matches!(host.status(""), Some(Status::Degraded(why)) if why.contains("a.csv: no column `when`; there are torque, time"));
    stand.host.until("the status names the file and its columns", says).await;
    stand.stop().await;
}

#[tokio::test]
async fn a_file_of_which_no_column_is_known_is_neither_read_nor_deleted() {
    let mut stand = Stand::new("*.csv", "settle: 10ms, when_done: delete, samples: {v: v, w: w}");
    stand.write("a.csv", format!("t;v\n{}", "1;2\n".repeat(1000)));
    stand.write("b.csv", "v,x\n1,2\n");
    stand.write("c.csv", "v,w\n3,4\n");
    stand.start();
    stand.host.until("the file that has all columns is deleted", |_| !stand.path("c.csv").exists()).await;
    let says = |part: &str| stand.host.statuses("").iter().any(|status| matches!(status, Status::Degraded(why) if why.contains(part)));
    stand
        .host
        .until("the status names the columns that are there", |_| {
            says("a.csv: no column `v`, `w`; there are t;v; is `csv.delimiter` right?")
        })
        .await;
    stand.host.until("every row of it counts", |host| host.dropped("file_not_understood") > 0).await;
    stand.host.until("and the column that is not", |_| says("b.csv: no column `w`; there are v, x")).await;
    let samples: Vec<_> = stand.host.samples().into_iter().map(|sample| (sample.tag, sample.value)).collect();
    assert_eq!(samples.iter().filter(|(_, value)| *value == Owned::Int(1)).count(), 1, "{samples:?}");
    stand.stop().await;
    stand.start();
    stand.write("d.csv", "v,w\n5,6\n");
    stand.host.until("the next file is read", |host| host.samples().iter().any(|sample| sample.value == Owned::Int(6))).await;
    assert!(stand.path("a.csv").exists() && stand.path("b.csv").exists(), "neither is deleted, after a restart either");
    assert_eq!(stand.host.dropped("file_not_understood"), 1000, "each row once, over all looks and a restart");
    stand.stop().await;
}

#[tokio::test]
async fn an_envelope_chooses_only_the_topics_that_it_may() {
    let line = |topic: &str| format!("{{\"topic\":\"{topic}\",\"partition\":0,\"offset\":0,\"timestamp\":0,\"value\":1}}\n");
    let lines: String = ["millrace.cursors", "__consumer_offsets", "a topic", "machine-1", "orders"].map(line).concat();
    for (allow, documents, last) in [("", 2, None), (", allow_topics: ['machine-*']", 1, Some("orders"))] {
        let folder = tempfile::tempdir().unwrap();
        let context = Context { topic: Some("{topic}".into()), ..yaml::context("stand", &[]) };
        let keys = format!("{{path: '{}/*.ndjson', every: 5ms, settle: 5ms, format: envelope{allow}}}", folder.path().display());
        let compiled = yaml::compile::<FileSourcePlugin>(&keys, &context).unwrap();
        let mut stand = Stand { host: TestHost::of(&*compiled), compiled, folder, session: None };
        stand.write("a.ndjson", &lines);
        stand.start();
        let reasons = stand.until_rejects(5 - documents).await;
        assert!(reasons[0].contains("`millrace.cursors` is Kafka's or Millrace's own"), "{reasons:?}");
        assert!(reasons[1].contains("`__consumer_offsets` is Kafka's or Millrace's own"), "{reasons:?}");
        assert!(reasons[2].contains("` ` is not allowed in it"), "{reasons:?}");
        assert_eq!(reasons.get(3).map(|why| why.contains("`orders` is not in `allow_topics`")), last.map(|_| true));
        stand.until_documents(documents).await;
        assert_eq!(stand.host.documents()[0].topic, "machine-1");
        stand.stop().await;
    }
    let unused = compile("{path: '/x/*.ndjson', format: envelope, allow_topics: [a]}").err().unwrap_or_default();
    assert!(unused.contains("`allow_topics` has no use here"), "{unused}");
}

#[tokio::test]
async fn a_header_that_cannot_be_read_leaves_the_file_and_says_so() {
    for (content, rest, part) in [
        ("", "", "it is empty: there is no header row"),
        ("n,\"Temp,v\n1,2,3\n", "", "its header row opens a quote"),
        ("a,b\n1,2\n", "csv: {skip_lines: 5}, ", "it has 2 lines, and `skip_lines` passes over 5"),
        (&format!("{}\n1\n", "x".repeat(300)), "max_record: 100, ", "longer than `max_record`"),
    ] {
        let mut stand = Stand::new("*.csv", &format!("{rest}settle: 5ms, when_done: delete"));
        stand.write("a.csv", content);
        stand.start();
        let says = |host: &TestHost| matches!(host.status(""), Some(Status::Degraded(why)) if why.contains(part));
        stand.host.until(part, says).await;
        assert!(stand.path("a.csv").exists());
        stand.stop().await;
    }
}

#[tokio::test]
async fn what_was_rotated_to_another_name_while_the_source_was_down_is_found_compressed_too() {
    for gzip in [false, true] {
        let mut stand = Stand::new("log.ndjson", "");
        stand.write("log.ndjson", numbers(1000..1050));
        stand.start();
        stand.until_documents(50).await;
        stand.stop().await;
        let rotate = |from: &str, to: &str| {
            if !gzip {
                return fs::rename(stand.path(from), stand.path(to)).unwrap();
            }
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&fs::read(stand.path(from)).unwrap()).unwrap();
            fs::write(stand.path(&format!("{to}.gz")), encoder.finish().unwrap()).unwrap();
            fs::remove_file(stand.path(from)).unwrap();
        };
        stand.append("log.ndjson", &numbers(1050..1060));
        rotate("log.ndjson", "log-2026-11-27.ndjson");
        stand.append("log.ndjson", &numbers(1060..1070));
        rotate("log.ndjson", "log-2026-11-28.ndjson");
        stand.append("log.ndjson", &numbers(1070..1080));
        stand.write("other.ndjson", numbers(7000..7100));
        stand.start();
        assert_numbers(&stand.until_documents(80).await, 1000..1080);
        assert_eq!(stand.host.lost("file_rotated_away"), 0);
        stand.stop().await;
    }
}

#[tokio::test]
async fn a_rotated_file_that_is_not_found_again_is_counted_as_lost() {
    let mut stand = Stand::new("log.ndjson", "");
    stand.write("log.ndjson", numbers(0..50));
    stand.start();
    stand.until_documents(50).await;
    stand.stop().await;
    fs::remove_file(stand.path("log.ndjson")).unwrap();
    stand.write("log.ndjson", numbers(90..91));
    stand.start();
    stand.until_documents(51).await;
    assert_eq!(stand.host.lost("file_rotated_away"), 1);
    stand.stop().await;
}

#[tokio::test]
async fn a_last_line_without_a_newline_is_read_again_when_the_file_grows() {
    let mut stand = Stand::new("*.csv", "settle: 5ms, samples: {v: v}, csv: {delimiter: \";\", decimal: \",\"}");
    stand.write("a.csv", "v\n1,5\n1,12");
    stand.start();
    stand.host.until("the last line is taken", |host| host.samples().len() == 2).await;
    stand.append("a.csv", "34\n2,5\n");
    stand.host.until("and again, whole", |host| host.samples().len() == 4).await;
    let values: Vec<_> = stand.host.samples().into_iter().map(|sample| sample.value).collect();
    assert_eq!(values, [1.5, 1.12, 1.1234, 2.5].map(Owned::Double));
    stand.write("b.csv", "v\n7,5");
    stand.host.until("another file", |host| host.samples().len() == 5).await;
    stand.append("b.csv", "\n8,5\n");
    stand.host.until("goes on behind its newline", |host| host.samples().len() == 6).await;
    assert_eq!(stand.host.samples()[5].value, Owned::Double(8.5));
    stand.stop().await;
}

#[tokio::test]
async fn a_file_of_dead_letters_only_degrades_the_source_until_a_good_record_comes() {
    let mut stand = Stand::new("out.ndjson", "");
    stand.write("out.ndjson", "oops\n".repeat(20));
    stand.start();
    stand.until_rejects(20).await;
    let says = |host: &TestHost| matches!(host.status(""), Some(Status::Degraded(why)) if why.contains("every record of") && why.contains("became a dead letter"));
    stand.host.until("the status says so", says).await;
    stand.append("out.ndjson", "1\n");
    stand.host.until("it runs again", |host| host.status("") == Some(Status::Running)).await;
    stand.stop().await;
}

#[test]
fn the_row_of_a_dead_letter_is_decoded_again_by_the_columns_of_its_file() {
    let compiled =
        compile("{path: '/in/*.csv', samples: {torque: {at: torque, as: double}}, time: {at: when, format: '%d.%m.%Y %H:%M'}}").unwrap();
    let host = TestHost::of(&*compiled);
    let again = |columns: Option<&str>| {
        let header = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
        let headers: Vec<_> =
            columns.map(|columns| header("millrace.columns", columns)).into_iter().chain([header("millrace.file", "/in/a.csv")]).collect();
        let mut batch = Batch::new();
        let late = Late { route: RouteId(0), payload: b"7.5,21.11.2025 12:00", headers: &headers };
        let done = compiled.decode_again(&late, &host.io(), &mut batch);
        (done.expect("a row of a file"), batch)
    };
    let (done, batch) = again(Some(r#"["torque","when"]"#));
    assert_eq!((done, batch.rows.len()), (Ok(()), 1));
    assert_eq!((Owned::of(batch.rows[0].value, &batch.heap), batch.rows[0].time.0), (Owned::Double(7.5), 1_763_726_400_000_000));
    let (done, batch) = again(None);
    assert!(done.is_err_and(|why| why.contains("columns of its file are not known")) && batch.rows.is_empty());
}
