//! A gateway in front of a server that speaks HTTP: it wants a token of its own OAuth2 and SAP's token against forged requests, and it fails on purpose.
//!
//! ```text
//! runtime ── Front (logins, faults, counted) ── the server
//! ```
//!
//! Which request meets which fault is said by a seed; what each fault is, [`Fault`] says. Tokens end after some uses, sessions now and then.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// What happens to a request instead of its answer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Fault {
    /// 429 with `Retry-After: 0`; the server never sees it.
    TooMany,
    /// 503 without a word when to come again; the server never sees it.
    Unavailable,
    /// The connection is closed; the server never sees it.
    Refused,
    /// The server does it, and the connection is closed without an answer.
    LostAnswer,
    /// The server does it, and half of the answer's body comes.
    CutPage,
    /// The server does it, and nothing comes for longer than anybody waits.
    Silent,
    /// A login page with status 200; the server never sees it.
    LoginPage,
    /// The server does it; the gateway gives up and says 502.
    GaveUp,
    /// 500 with an error of SAP's in JSON; the server never sees it.
    SapError,
}

pub const FAULTS: [Fault; 9] = [
    Fault::TooMany,
    Fault::Unavailable,
    Fault::Refused,
    Fault::LostAnswer,
    Fault::CutPage,
    Fault::Silent,
    Fault::LoginPage,
    Fault::GaveUp,
    Fault::SapError,
];

/// How long [`Fault::Silent`] lasts.
const SILENCE: Duration = Duration::from_millis(900);
/// The secret of OAuth2's client.
pub const SECRET: (&str, &str) = ("FRONT_SECRET", "front-secret");
/// A token of OAuth2 is good for so many requests.
const USES: u32 = 40;

struct State {
    random: fastrand::Rng,
    /// Of a hundred requests.
    faulty: u8,
    met: BTreeMap<Fault, u64>,
    token: u32,
    uses: u32,
    session: u32,
}

struct Inner {
    upstream: u16,
    state: Mutex<State>,
}

/// See the head of the module.
pub struct Front {
    inner: Arc<Inner>,
    port: u16,
}

struct Message {
    first: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Message {
    fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    /// Reads one request, or an answer to its end.
    fn read(stream: &mut TcpStream) -> Option<Self> {
        let mut bytes = Vec::new();
        let mut chunk = [0; 64 << 10];
        let end = loop {
            if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break end;
            }
            let read = stream.read(&mut chunk).ok().filter(|read| *read > 0)?;
            bytes.extend_from_slice(&chunk[..read]);
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let first = lines.next()?.to_owned();
        let headers = lines.filter_map(|line| line.split_once(':')).map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned())).collect();
        let mut message = Self { first, headers, body: bytes.split_off(end + 4) };
        let is_answer = message.first.starts_with("HTTP/");
        let length: Option<usize> = message.header("content-length").parse().ok();
        let is_chunked = message.header("transfer-encoding").eq_ignore_ascii_case("chunked");
        while length.map_or(is_answer || is_chunked, |length| message.body.len() < length) {
            match stream.read(&mut chunk) {
                Ok(read) if read > 0 => message.body.extend_from_slice(&chunk[..read]),
                _ => break,
            }
        }
        if is_chunked {
            message.body = unchunked(&message.body);
        }
        Some(message)
    }
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(at) = body.windows(2).position(|two| two == b"\r\n") {
        let size = usize::from_str_radix(String::from_utf8_lossy(&body[..at]).trim(), 16).unwrap_or(0);
        if size == 0 || body.len() < at + 4 + size {
            break;
        }
        whole.extend_from_slice(&body[at + 2..at + 2 + size]);
        body = &body[at + 4 + size..];
    }
    whole
}

fn write(stream: &mut TcpStream, status: &str, headers: &[(String, String)], body: &[u8]) {
    let mut head = format!("HTTP/1.1 {status}\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += &format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len());
    // A client that is gone has its answer never; that is a fault like the others.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
}

fn named(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

impl Front {
    /// In front of a port of 127.0.0.1; nothing fails until [`Front::fail`].
    pub fn of(upstream: u16) -> Self {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
        eprintln!("the front's faults: SEED={seed}");
        let random = fastrand::Rng::with_seed(seed);
        let state = Mutex::new(State { random, faulty: 0, met: BTreeMap::new(), token: 1, uses: 0, session: 1 });
        let inner = Arc::new(Inner { upstream, state });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("is bound").port();
        let serving = inner.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let inner = serving.clone();
                std::thread::spawn(move || inner.serve(stream));
            }
        });
        Self { inner, port }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The key `login` for a client of it, which has `FRONT_SECRET` in its environment: [`SECRET`].
    pub fn login(&self) -> String {
        format!(
            "{{oauth2: {{token_url: 'http://127.0.0.1:{}/oauth/token', client_id: millrace, client_secret: \"${{env:FRONT_SECRET}}\"}}}}",
            self.port
        )
    }

    /// From now on so many of a hundred requests fail.
    pub fn fail(&self, percent: u8) {
        self.inner.state.lock().faulty = percent;
    }

    /// How often each fault was met.
    pub fn met(&self) -> BTreeMap<Fault, u64> {
        self.inner.state.lock().met.clone()
    }

    pub fn faults(&self) -> u64 {
        self.met().values().sum()
    }
}

impl Inner {
    fn serve(&self, mut stream: TcpStream) {
        let Some(asked) = Message::read(&mut stream) else { return };
        let mut words = asked.first.split(' ');
        let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        if path == "/oauth/token" {
            return self.grant(&asked, &mut stream);
        }
        if !self.is_known(&asked) {
            return write(&mut stream, "401 Unauthorized", &named(&[("www-authenticate", "Bearer")]), b"the token is over");
        }
        let mut answered = Vec::new();
        if let Some(refused) = self.guard(&method, &asked, &mut answered) {
            return write(&mut stream, refused, &answered, b"CSRF token validation failed");
        }
        let fault = {
            let mut state = self.state.lock();
            let faulty = state.faulty;
            let fault = (state.random.u8(0..100) < faulty).then(|| FAULTS[state.random.usize(0..FAULTS.len())]);
            if let Some(fault) = fault {
                *state.met.entry(fault).or_default() += 1;
            }
            fault
        };
        match fault {
            Some(Fault::TooMany) => return write(&mut stream, "429 Too Many Requests", &named(&[("retry-after", "0")]), b""),
            Some(Fault::Unavailable) => return write(&mut stream, "503 Service Unavailable", &[], b"dispatcher: no work process"),
            Some(Fault::Refused) => return,
            Some(Fault::LoginPage) => {
                let page = b"<html><head><title>Logon</title></head><body>User</body></html>";
                return write(&mut stream, "200 OK", &named(&[("content-type", "text/html")]), page);
            }
            Some(Fault::SapError) => {
                let error = br#"{"error": {"code": "SY/530", "message": {"lang": "en", "value": "An exception was raised"}}}"#;
                return write(&mut stream, "500 Internal Server Error", &named(&[("content-type", "application/json")]), error);
            }
            _ => {}
        }
        let Some(answer) = self.forward(&method, &path, &asked) else {
            return write(&mut stream, "502 Bad Gateway", &[], b"nothing behind the gateway");
        };
        let status = answer.first.split_once(' ').map_or("502 Bad Gateway", |(_, status)| status).to_owned();
        let dropped = ["content-length", "transfer-encoding", "connection", "keep-alive"];
        answered.extend(answer.headers.into_iter().filter(|(name, _)| !dropped.iter().any(|one| name.eq_ignore_ascii_case(one))));
        match fault {
            Some(Fault::LostAnswer) => {}
            Some(Fault::Silent) => std::thread::sleep(SILENCE),
            Some(Fault::GaveUp) => write(&mut stream, "502 Bad Gateway", &[], b"the gateway waited long enough"),
            Some(Fault::CutPage) => {
                let mut whole = Vec::new();
                whole.extend_from_slice(format!("HTTP/1.1 {status}\r\n").as_bytes());
                for (name, value) in &answered {
                    whole.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
                }
                whole.extend_from_slice(format!("content-length: {}\r\n\r\n", answer.body.len().max(1)).as_bytes());
                whole.extend_from_slice(&answer.body[..answer.body.len() / 2]);
                let _ = stream.write_all(&whole);
            }
            _ => write(&mut stream, &status, &answered, &answer.body),
        }
    }

    /// RFC 6749, section 4.4.
    fn grant(&self, asked: &Message, stream: &mut TcpStream) {
        // millrace:front-secret
        if asked.header("authorization") != "Basic bWlsbHJhY2U6ZnJvbnQtc2VjcmV0" {
            return write(stream, "401 Unauthorized", &named(&[("content-type", "application/json")]), br#"{"error": "invalid_client"}"#);
        }
        let mut state = self.state.lock();
        (state.token, state.uses) = (state.token + 1, 0);
        let token = format!(r#"{{"access_token": "token-{}", "token_type": "Bearer", "expires_in": 3600}}"#, state.token);
        drop(state);
        write(stream, "200 OK", &named(&[("content-type", "application/json")]), token.as_bytes());
    }

    fn is_known(&self, asked: &Message) -> bool {
        let mut state = self.state.lock();
        state.uses += 1;
        asked.header("authorization") == format!("Bearer token-{}", state.token) && state.uses <= USES
    }

    /// SAP's protection of writes: a token that goes with the session's cookie. `Some`: the status of a refusal.
    fn guard(&self, method: &str, asked: &Message, answered: &mut Vec<(String, String)>) -> Option<&'static str> {
        let mut state = self.state.lock();
        if state.faulty > 0 && state.random.u8(0..50) == 0 {
            state.session += 1;
        }
        let (token, cookie) = (format!("csrf-{}", state.session), format!("SAP_SESSIONID={}", state.session));
        if asked.header("x-csrf-token").eq_ignore_ascii_case("fetch") {
            answered.extend(named(&[("x-csrf-token", &token), ("set-cookie", &format!("{cookie}; path=/; HttpOnly"))]));
        } else if method != "GET" && (asked.header("x-csrf-token") != token || !asked.header("cookie").contains(&cookie)) {
            answered.extend(named(&[("x-csrf-token", "Required")]));
            return Some("403 Forbidden");
        }
        None
    }

    fn forward(&self, method: &str, path: &str, asked: &Message) -> Option<Message> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.upstream)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nconnection: close\r\n", self.upstream);
        let own = ["host", "connection", "authorization", "cookie", "x-csrf-token", "content-length", "transfer-encoding"];
        for (name, value) in asked.headers.iter().filter(|(name, _)| !own.iter().any(|one| name.eq_ignore_ascii_case(one))) {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("content-length: {}\r\n\r\n", asked.body.len());
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&asked.body)).ok()?;
        Message::read(&mut stream)
    }
}
