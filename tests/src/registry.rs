//! A schema registry of the tests' own: what a client needs of Confluent's interface, and a person's moods.

use parking_lot::Mutex;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

#[derive(Default)]
struct State {
    /// Subject and body, in the order of their ids, which count from 1.
    schemas: Vec<(String, Value)>,
    /// It answers with this refusal.
    refusal: Option<String>,
}

/// A registry on a port of its own. It can be there from the start, or come later.
pub struct Registry {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Registry {
    /// Nobody listens yet.
    pub fn away() -> Self {
        Self { port: crate::free_port(), state: Arc::default() }
    }

    pub fn start() -> Self {
        let registry = Self::away();
        registry.come();
        registry
    }

    /// Begins to answer.
    pub fn come(&self) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).expect("the port is free");
        let state = self.state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = state.clone();
                std::thread::spawn(move || {
                    let _ = answer(&stream, &state);
                });
            }
        });
    }

    /// From now on it refuses every schema, in these words.
    pub fn refuse(&self, words: &str) {
        self.state.lock().refusal = Some(words.into());
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Subject and body of an id.
    pub fn schema(&self, id: i32) -> (String, Value) {
        let index = usize::try_from(id - 1).expect("ids count from 1");
        self.state.lock().schemas.get(index).cloned().unwrap_or_else(|| panic!("the registry gave out no id {id}"))
    }

    /// Registers a schema in Avro; returns its id.
    pub fn register(&self, subject: &str, schema: &str) -> i32 {
        let mut state = self.state.lock();
        state.schemas.push((subject.into(), json!({"schema": schema})));
        i32::try_from(state.schemas.len()).expect("few schemas")
    }

    pub fn subjects(&self) -> Vec<String> {
        self.state.lock().schemas.iter().map(|(subject, _)| subject.clone()).collect()
    }
}

fn answer(stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (status, body) = reply(method, path, serde_json::from_slice(&body).unwrap_or_default(), state);
        let body = body.to_string();
        write!(&mut &*stream, "HTTP/1.1 {status} Words\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())?;
    }
}

fn reply(method: &str, path: &str, body: Value, state: &Mutex<State>) -> (u16, Value) {
    let mut state = state.lock();
    let steps: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match (method, &steps[..]) {
        ("POST", ["subjects", subject, "versions"]) => {
            if let Some(words) = &state.refusal {
                return (409, json!({"error_code": 409, "message": words}));
            }
            let entry = ((*subject).to_owned(), body);
            let known = state.schemas.iter().position(|known| *known == entry);
            let index = known.unwrap_or_else(|| {
                state.schemas.push(entry);
                state.schemas.len() - 1
            });
            (200, json!({ "id": index + 1 }))
        }
        ("POST", ["subjects", subject]) => match state.schemas.iter().position(|(s, b)| s == subject && *b == body) {
            Some(index) => (200, json!({"subject": subject, "version": 1, "id": index + 1, "schema": body["schema"]})),
            None => (404, json!({"error_code": 40403, "message": "Schema not found"})),
        },
        ("GET", ["schemas", "ids", id]) => match id.parse::<usize>().ok().and_then(|id| state.schemas.get(id.checked_sub(1)?)) {
            Some((_, body)) => (200, body.clone()),
            None => (404, json!({"error_code": 40403, "message": "Schema not found"})),
        },
        _ => (404, json!({"error_code": 404, "message": "HTTP 404 Not Found"})),
    }
}
