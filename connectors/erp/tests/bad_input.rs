//! A service whose entity sets are each wrong in a way of their own, beside one that is well: each has a clear outcome, and the good one is read on.

use millrace_contract::Status;
use millrace_erp::ErpSourcePlugin;
use millrace_testkit::{Received, TestHost, soon, yaml};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const SETS: [&str; 9] = ["Good", "Forbidden", "Broken", "NoList", "Cut", "Circle", "Lies", "Large", "Errors"];

fn metadata() -> String {
    let sets: String = SETS.iter().map(|name| format!("<EntitySet Name=\"{name}\" EntityType=\"p.Order\"/>")).collect();
    format!(
        r#"<edmx:Edmx Version="4.0" xmlns:edmx="e"><edmx:DataServices><Schema Namespace="p"><EntityType Name="Order"><Key><PropertyRef Name="ID"/></Key>
<Property Name="ID" Type="Edm.Int64" Nullable="false"/><Property Name="quantity" Type="Edm.Decimal" Precision="15" Scale="3"/>
<Property Name="due" Type="Edm.Date"/><Property Name="note" Type="Edm.String" MaxLength="3"/><Property Name="place" Type="Edm.Nowhere"/></EntityType>
<EntityContainer Name="C">{sets}</EntityContainer></Schema></edmx:DataServices></edmx:Edmx>"#
    )
}

/// The status and the body of an answer; `asked`: how often the good set was asked for.
fn answer(path: &str, asked: u64) -> (&'static str, String) {
    let list = |rows: &str| format!("{{\"value\": [{rows}]}}");
    match path.trim_start_matches("/srv/").split('?').next().unwrap_or_default() {
        "$metadata" => ("200 OK", metadata()),
        "Good" => ("200 OK", list(&format!("{{\"ID\": {asked}, \"quantity\": 1.5}}"))),
        "Forbidden" => ("403 Forbidden", r#"{"error": {"code": "/IWFND/CM/1", "message": "No authorization to access Forbidden"}}"#.into()),
        "Broken" => ("500 Internal Server Error", r#"{"error": {"code": "SY/530", "message": "An exception was raised"}}"#.into()),
        "NoList" => ("200 OK", "{\"value\": 5}".into()),
        "Cut" => ("200 OK", "{\"value\": [{\"ID\": 1, \"quantity\": 1.5}, {\"ID\": 2, \"qua".into()),
        "Circle" => ("200 OK", "{\"value\": [{\"ID\": 1}], \"@odata.nextLink\": \"Circle\"}".into()),
        // As the metadata does not have it, one after the other; between two that are well.
        "Lies" => {
            let rows = [
                r#"{"ID": 1, "quantity": 1.5, "note": "longer than three", "unknown": {"a": [1]}, "place": {"x": 1}}"#,
                r#"{"ID": 2, "quantity": "12,5"}"#,
                r#"{"ID": 3, "due": "2026-02-30"}"#,
                r#"{"ID": 4, "quantity": {"amount": 1}}"#,
                r#"{"ID": "five"}"#,
                r#"{"quantity": 1.5}"#,
                r#"[6]"#,
                r#"{"ID": 9007199254740993, "quantity": "1.500"}"#,
            ];
            ("200 OK", list(&rows.join(",")))
        }
        "Large" => ("200 OK", list(&format!("{{\"ID\": 1, \"note\": \"{}\"}}", "x".repeat(10 << 20)))),
        "Errors" => ("200 OK", r#"{"error": {"code": "X", "message": "the work process was ended"}}"#.into()),
        other => panic!("nobody asks for {other}"),
    }
}

async fn serve(mut stream: TcpStream, asked: Arc<AtomicU64>) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        while !bytes.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
        let head = String::from_utf8_lossy(&bytes).into_owned();
        bytes.clear();
        let path = head.split(' ').nth(1).unwrap_or_default();
        if path.contains("Good") {
            asked.fetch_add(1, Ordering::Relaxed);
        }
        let (status, body) = answer(path, asked.load(Ordering::Relaxed));
        let kind = if path.contains("$metadata") { "application/xml" } else { "application/json" };
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_set_that_is_wrong_says_how_and_the_good_one_is_read_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(AtomicU64::new(0)));
    let counted = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, counted.clone()));
        }
    });
    let sets: Vec<String> = SETS
        .iter()
        .map(|name| {
            format!("{{name: {name}, topic: {}, every: {}, delta: off}}", name.to_lowercase(), if *name == "Good" { "100ms" } else { "1h" })
        })
        .collect();
    let text =
        format!("{{endpoint: 'http://127.0.0.1:{port}/srv', parallel: 4, http: {{max_body: 4MB}}, entity_sets: [{}]}}", sets.join(", "));
    let compiled = yaml::compile::<ErpSourcePlugin>(&text, &yaml::context("erp", &[])).unwrap_or_else(|problems| panic!("{problems}"));
    let host = TestHost::of(&*compiled);
    let (mut source, io) = (compiled.source().unwrap(), host.io());
    let session = tokio::spawn(async move { source.session(io).await });
    for (set, needs_human, words) in [
        ("Forbidden", true, "No authorization to access Forbidden"),
        ("Broken", false, "An exception was raised"),
        ("NoList", true, "the answer has no list of entities"),
        ("Cut", false, "the answer is not JSON"),
        ("Circle", true, "leads back to a page that was read"),
        ("Large", true, "is larger than 4000000 bytes"),
        ("Errors", false, "the service says: the work process was ended"),
    ] {
        let is_said = |host: &TestHost| match host.status(set) {
            Some(Status::Blocked(why)) => needs_human && why.contains(words),
            Some(Status::Degraded(why)) => !needs_human && why.contains(words),
            _ => false,
        };
        host.until(&format!("{set}: {words}"), is_said).await;
    }
    host.until("what lies is read", |host| host.status("Lies") == Some(Status::Running)).await;
    let before = asked.load(Ordering::Relaxed);
    host.until("the good set is read on", |_| asked.load(Ordering::Relaxed) > before + 5).await;
    assert_eq!(host.status("Good"), Some(Status::Running));
    assert!(!session.is_finished(), "nothing ended the session");
    host.stop();
    soon("the session ends", session).await.unwrap().unwrap();
    let (mut documents, mut dead) = (Vec::new(), Vec::new());
    for record in host.received() {
        match record {
            Received::Document(document) if document.topic == "lies" => documents.push(document.text().to_owned()),
            Received::Rejected(reject) => dead.push(reject.reason.clone()),
            _ => {}
        }
    }
    assert_eq!(
        documents,
        [
            r#"{"ID":1,"quantity":1.5,"note":"longer than three","unknown":{"a": [1]},"place":"{\"x\": 1}"}"#,
            r#"{"ID":9007199254740993,"quantity":1.500}"#
        ]
    );
    let wanted = ["quantity", "due", "quantity", "ID", "of the key is missing", "expected an entity"];
    assert_eq!(dead.len(), wanted.len(), "{dead:#?}");
    for (reason, wanted) in dead.iter().zip(wanted) {
        assert!(reason.contains(wanted), "{reason} does not say {wanted}");
    }
}
