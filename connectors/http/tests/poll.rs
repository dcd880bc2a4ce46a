//! A polled endpoint over real sockets: pages, watermarks, kills, and answers that are none.

use millrace_contract::{Compiled, Failure, Status};
use millrace_http::PollSource;
use millrace_testkit::{Received, TestHost, soon, yaml};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

type Answer = (u16, &'static str, String);

/// A server that answers each path as told, and remembers what it was asked.
struct Server {
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (answer, log) = (Arc::new(answer), asked.clone());
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, log) = (answer.clone(), log.clone());
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
                    let path = String::from_utf8_lossy(&head).split(' ').nth(1).unwrap_or_default().to_owned();
                    let (status, kind, body) = answer(&path);
                    log.lock().unwrap().push(path);
                    let length = body.len();
                    let text = format!(
                        "HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                    );
                    let _ = stream.write_all(text.as_bytes()).await;
                });
            }
        });
        Self { port, asked, task }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

struct Running {
    compiled: Box<dyn Compiled>,
    host: TestHost,
    task: JoinHandle<()>,
}

impl Running {
    fn new(server: &Server, requests: &str) -> Self {
        let text =
            format!("{{endpoint: 'http://127.0.0.1:{}/api/', login: {{bearer: 0123456789abcdef}}, requests: [{requests}]}}", server.port);
        let compiled = yaml::compile::<PollSource>(&text, &yaml::context("poll", &[])).unwrap_or_else(|problems| panic!("{problems}"));
        let host = TestHost::of(&*compiled);
        Self { task: run(&*compiled, &host), compiled, host }
    }

    async fn crash(&mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
        self.host.restart();
        self.task = run(&*self.compiled, &self.host);
    }

    fn lines(&self) -> Vec<String> {
        let line = |record: Received| match record {
            Received::Document(document) => document.text().to_owned(),
            Received::Rejected(reject) => format!("dead {}", reject.reason),
            Received::Sample(sample) => format!("{} {:?}", sample.tag, sample.value),
        };
        self.host.received().into_iter().map(line).collect()
    }

    async fn stop(self) {
        self.host.stop();
        soon("the session ends", self.task).await.unwrap();
    }
}

fn run(compiled: &dyn Compiled, host: &TestHost) -> JoinHandle<()> {
    let (mut source, io) = (compiled.source().unwrap(), host.io());
    tokio::spawn(async move {
        while let Err(failure) = source.session(io.clone()).await {
            let blocked = matches!(failure, Failure::Blocked(_));
            io.status("", if blocked { Status::Blocked(failure.to_string()) } else { Status::Degraded(failure.to_string()) });
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    })
}

const JSON: &str = "application/json";

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_followed_and_the_watermark_of_all_of_them_is_asked_for_next() {
    let stage = Arc::new(Mutex::new(1));
    let told = stage.clone();
    let server = Server::start(move |path| {
        let stage = *told.lock().unwrap();
        let body = match (stage, path) {
            (1, "/api/orders?since=2026-01-01T00%3A00%3A00Z") => {
                r#"{"items":[{"id": 1, "changed":"2026-03-02T00:00:00Z"},{"id":2,"changed":"2026-03-03T00:00:00+01:00"}],"links":{"next":"orders?page=2"}}"#
            }
            (1, "/api/orders?page=2") => r#"{"items":[{"id":3,"changed":"2026-03-02T23:30:00Z"}],"links":{"next":null}}"#,
            (2, "/api/orders?since=2026-03-02T23%3A30%3A00Z") => {
                r#"{"items":[{"id":3,"changed":"2026-03-02T23:30:00Z"},{"id":4,"changed":"2026-03-02T23:30:00Z"},{"id":5}],"links":{}}"#
            }
            (1, _) => r#"{"items":[],"links":{}}"#,
            _ => return (404, JSON, format!("{{\"unexpected\":\"{path}\"}}")),
        };
        (200, JSON, body.to_owned())
    })
    .await;
    let requests = "{get: '/orders?since={watermark}', every: 30ms, start: '2026-01-01T00:00:00Z', records: /items, next: /links/next, watermark: /changed, key: '{/id}', topic: orders}";
    let mut running = Running::new(&server, requests);
    running.host.until("three orders", |host| host.count() == 3).await;
    running.host.until("it asks from the highest", |_| server.asked().iter().any(|path| path.contains("23%3A30"))).await;
    running.crash().await;
    *stage.lock().unwrap() = 2;
    running.host.until("the new one, and the one without a watermark", |host| host.count() >= 5).await;
    assert_eq!(
        running.lines()[..5],
        [
            r#"{"id": 1, "changed":"2026-03-02T00:00:00Z"}"#,
            r#"{"id":2,"changed":"2026-03-03T00:00:00+01:00"}"#,
            r#"{"id":3,"changed":"2026-03-02T23:30:00Z"}"#,
            r#"{"id":4,"changed":"2026-03-02T23:30:00Z"}"#,
            "dead the watermark is missing: nothing is at /changed (get /orders?since={watermark})"
        ]
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reading_that_is_cut_goes_on_without_repeats() {
    let broken = Arc::new(Mutex::new(true));
    let told = broken.clone();
    let server = Server::start(move |path| match path {
        // Nothing is newer than nothing: all is asked for.
        "/api/n" => (200, JSON, r#"{"items":[{"n":9},{"n":2}],"next":"/api/n?page=2"}"#.into()),
        "/api/n?page=2" if *told.lock().unwrap() => (200, JSON, r#"{"items":[{"n":10},"#.into()),
        "/api/n?page=2" => (200, JSON, r#"{"items":[{"n":10}]}"#.into()),
        _ => (200, JSON, r#"{"items":[{"n":10}]}"#.into()),
    })
    .await;
    let requests = "{get: '/n?from={watermark}', every: 30ms, records: /items, next: /next, watermark: /n, topic: n}";
    let mut running = Running::new(&server, requests);
    let name = "/n?from={watermark}";
    running
        .host
        .until(
            "the cut page is told",
            |host| matches!(host.status(name), Some(Status::Degraded(why)) if why.contains("cannot be read as JSON")),
        )
        .await;
    running.crash().await;
    running.host.until("it is asked again", |_| server.asked().iter().filter(|path| path.contains("page=2")).count() > 3).await;
    *broken.lock().unwrap() = false;
    running.host.until("the whole", |host| host.count() >= 3).await;
    running.host.until("the next reading", |_| server.asked().iter().any(|path| path.contains("from=10"))).await;
    assert_eq!(running.lines(), ["{\"n\":9}", "{\"n\":2}", "{\"n\":10}"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_data_is_told_and_the_other_requests_go_on() {
    let server = Server::start(|path| match path {
        "/api/error" => (200, JSON, r#"{"error":"no such report"}"#.into()),
        "/api/null" => (200, JSON, r#"{"items":null}"#.into()),
        "/api/loop" => (200, JSON, r#"{"items":[],"next":"/api/loop"}"#.into()),
        "/api/gone" => (404, JSON, "{}".into()),
        _ => (200, JSON, r#"{"speed":4.5}"#.into()),
    })
    .await;
    let requests = "{get: /error, every: 30ms, records: /items, topic: a}, {get: /null, every: 30ms, records: /items, topic: b},
        {get: /loop, every: 30ms, records: /items, next: /next, topic: c}, {get: /gone, every: 30ms, topic: d}, {get: /car, every: 30ms, at: car, samples: {speed: /speed}}";
    let running = Running::new(&server, requests);
    running.host.until("the good one goes on", |host| host.count() >= 3).await;
    for (part, text) in [
        ("/error", "nothing is at /items in `{\"error\""),
        ("/null", "has `null` at /items"),
        ("/loop", "was read already"),
        ("/gone", "404"),
    ] {
        assert!(
            matches!(running.host.status(part), Some(Status::Degraded(why)) if why.contains(text)),
            "{part}: {:?}",
            running.host.status(part)
        );
    }
    assert_eq!(running.lines()[0], "at/poll/car/speed Double(4.5)");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_page_with_status_200_is_an_error() {
    let server = Server::start(|_| (200, "text/html", "<title>Log in</title>".into())).await;
    let running = Running::new(&server, "{get: /orders, every: 30ms, topic: a}");
    running.host.until("a person is asked", |host| matches!(host.status(""), Some(Status::Blocked(why)) if why.contains("Log in"))).await;
    assert_eq!(running.host.count(), 0);
    running.stop().await;
}
