//! Servers that are listened to: server-sent events that go on where they were, and WebSockets.

use futures_util::{SinkExt, StreamExt};
use millrace_contract::{Failure, Plugin, Status};
use millrace_http::{SseSource, WebSocketSource};
use millrace_testkit::{TestHost, yaml};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// Runs it as the engine does, only faster.
fn run<P: Plugin>(text: &str) -> (TestHost, tokio::task::JoinHandle<()>) {
    let compiled = yaml::compile::<P>(text, &yaml::context("stream", &[])).unwrap_or_else(|problems| panic!("{problems}"));
    let host = TestHost::of(&*compiled);
    let (mut source, running) = (compiled.source().unwrap(), host.clone());
    let task = tokio::spawn(async move {
        loop {
            let io = running.io();
            let ended = source.session(io.clone()).await;
            io.end().await;
            match ended {
                Ok(()) => return,
                Err(failure) => {
                    let blocked = matches!(failure, Failure::Blocked(_));
                    let status = if blocked { Status::Blocked(failure.to_string()) } else { Status::Degraded(failure.to_string()) };
                    running.io().status("", status);
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    (host, task)
}

/// Says events 0.. `count`, each time beginning behind `Last-Event-ID`, and breaks off after seven, in the middle of one.
async fn sse_server(count: u64) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, heads): (_, Arc<Mutex<Vec<String>>>) = (listener.local_addr().unwrap().port(), Arc::default());
    let seen = heads.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
            let head = String::from_utf8_lossy(&head).to_lowercase();
            seen.lock().push(head.clone());
            let last =
                head.split("last-event-id: ").nth(1).and_then(|rest| rest.split("\r\n").next()).and_then(|id| id.parse::<u64>().ok());
            let from = last.map_or(0, |last| last + 1);
            let mut text = String::from("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hello\n\n");
            for id in from..count.min(from + 7) {
                text += &format!("event: part\nid: {id}\ndata: {{\"n\":\ndata: {id}}}\n\n");
            }
            text += "event: noise\ndata: {}\n\n";
            if from + 7 < count {
                text += &format!("id: {}\nevent: part\ndata: {{\"n\":", from + 7);
            } else {
                text += "event: part\ndata: not json\n\n";
            }
            let _ = stream.write_all(text.as_bytes()).await;
            if from + 7 >= count {
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 1]).await;
                });
            }
        }
    });
    (port, heads)
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_on_behind_the_last_one_that_is_in_the_log_and_each_comes_once() {
    let (port, heads) = sse_server(50).await;
    let text = format!(
        "{{endpoint: 'http://127.0.0.1:{port}', login: {{bearer: top-secret-token}}, streams: [{{get: /events, events: [part], topic: '{{event}}s', key: '{{/n}}'}}]}}"
    );
    let (host, task) = run::<SseSource>(&text);
    host.until("all events", |host| host.documents().len() == 50 && !host.rejects().is_empty()).await;
    let documents = host.documents();
    let numbers: Vec<String> = documents.iter().map(|document| String::from_utf8(document.key.clone()).unwrap()).collect();
    assert_eq!(numbers, (0..50).map(|number| number.to_string()).collect::<Vec<_>>());
    assert_eq!((documents[7].topic.as_str(), documents[7].text()), ("parts", "{\"n\":\n7}"));
    assert!(
        heads
            .lock()
            .iter()
            .all(|head| head.contains("authorization: bearer top-secret-token") && head.contains("accept: text/event-stream"))
    );
    assert_eq!(host.rejects().len(), 1, "what is not JSON is a dead letter");
    assert_eq!(host.positions()["/events"], b"49");
    host.stop();
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_opened_with_the_login_told_what_to_send_and_opened_again_when_it_breaks() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let told: Arc<Mutex<Vec<String>>> = Arc::default();
    let heard = told.clone();
    tokio::spawn(async move {
        for round in 0.. {
            let Ok((stream, _)) = listener.accept().await else { return };
            let heard = heard.clone();
            let look = heard.clone();
            #[allow(clippy::result_large_err, reason = "the crate's own type")]
            let check = move |request: &Request, response: Response| {
                let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or_default().to_owned());
                look.lock().push(format!("{} {}", request.uri(), header("x-api-key").unwrap_or_default()));
                Ok(response)
            };
            let mut socket = tokio_tungstenite::accept_hdr_async(stream, check).await.unwrap();
            if let Some(Ok(Message::Text(text))) = socket.next().await {
                heard.lock().push(text.to_string());
            }
            for number in round * 10..round * 10 + 10 {
                let text = format!("{{\"speed\": {number}}}");
                let message = if number % 2 == 0 { Message::text(text) } else { Message::binary(text.into_bytes()) };
                let _ = socket.send(message).await;
            }
            let _ = socket.send(Message::Ping(Vec::new().into())).await;
            if round > 0 {
                // Stays open; the client's own pings are answered by the library.
                tokio::spawn(async move { while let Some(Ok(_)) = socket.next().await {} });
            }
        }
    });
    let text = format!(
        "{{endpoint: 'http://127.0.0.1:{port}', login: {{api_key: {{value: key-0815}}}}, http: {{timeout: 300ms}},
           streams: [{{get: '/feed?x=1', send: ['{{\"op\": \"subscribe\"}}'], topic: t, at: m, samples: {{speed: /speed}}}}]}}"
    );
    let (host, task) = run::<WebSocketSource>(&text);
    host.until("both rounds", |host| host.samples().len() >= 20).await;
    let values: Vec<u64> = host.samples().iter().filter_map(|sample| sample.value.number()).collect();
    assert_eq!(values[..20], (0..20).collect::<Vec<_>>());
    assert_eq!(host.samples()[0].tag, "at/stream/m/speed");
    assert_eq!(told.lock()[..2], ["/feed?x=1 key-0815".to_owned(), r#"{"op": "subscribe"}"#.to_owned()]);
    host.stop();
    task.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_stream_of_events_is_said() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") && stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {}
            let (status, kind, body) = if head.starts_with(b"GET /gone") {
                ("204 No Content", "text/plain", "")
            } else if head.starts_with(b"GET /page") {
                ("200 OK", "text/html", "<title>Log on</title>")
            } else {
                ("404 Not Found", "text/plain", "no such channel")
            };
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    for (path, says) in [("/gone", "answered 204"), ("/page", "Log on"), ("/other", "no such channel")] {
        let (host, task) = run::<SseSource>(&format!("{{endpoint: 'http://127.0.0.1:{port}', streams: [{{get: {path}, topic: t}}]}}"));
        host.until(says, |host| host.status("").is_some_and(|status| status.reason().is_some_and(|reason| reason.contains(says)))).await;
        host.stop();
        task.await.unwrap();
        let (host, task) =
            run::<WebSocketSource>(&format!("{{endpoint: 'http://127.0.0.1:{port}', streams: [{{get: {path}, topic: t}}]}}"));
        let blocked = "instead of opening a WebSocket";
        host.until(blocked, |host| host.status("").is_some_and(|status| status.reason().is_some_and(|reason| reason.contains(blocked))))
            .await;
        host.stop();
        task.await.unwrap();
    }
}

#[test]
fn check_says_what_a_stream_lacks() {
    let said = |text: &str| yaml::compile::<WebSocketSource>(text, &yaml::context("stream", &[])).err().unwrap_or_default();
    assert!(said("{endpoint: 'http://127.0.0.1:1', streams: []}").contains("`streams` is empty"));
    assert!(said("{endpoint: 'http://127.0.0.1:1', streams: [{get: events, topic: t}]}").contains("is not a path behind the endpoint"));
    assert!(said("{endpoint: 'http://127.0.0.1:1', http: {proxy: 'http://p:1'}, streams: [{get: /e, topic: t}]}").contains("proxy"));
    assert!(
        said("{endpoint: 'http://127.0.0.1:1', streams: [{get: /e, topic: t}, {get: /e, topic: u}]}").contains("two streams are called")
    );
}
