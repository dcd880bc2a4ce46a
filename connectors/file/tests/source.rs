//! What the file source promises beyond the suite: folders, rotations, formats, bad input.

use flate2::Compression;
use flate2::write::GzEncoder;
use millrace_contract::{Compiled, Failure, Status};
use millrace_file::FileSourcePlugin;
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
    for (reject, line, what) in [(&rejects[0], 2, "not JSON"), (&rejects[1], 4, "no UTF-8"), (&rejects[2], 5, "longer than 100 bytes")] {
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
