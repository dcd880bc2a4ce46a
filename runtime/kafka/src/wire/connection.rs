//! One broker: TCP or TLS, a login, requests out, answers in, in their order.
//!
//! Several requests may be on their way; a broker answers them in the order in which they came. A connection that failed once is done: make another.

use crate::error::KafkaError;
use crate::wire::access::{Access, Login};
use crate::wire::fault::{away, denied, garbled, late, no_tls, refused, unsupported};
use crate::wire::fields::{Reader, Writer};
use crate::wire::messages::{self, Api};
use crate::wire::scram;
use bytes::Bytes;
use millrace_tls::TlsError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// How long a broker may take to take our connection and to let us in, in all.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a broker may take to go on with what it has begun to send, or to take what we send.
const STALLED: Duration = Duration::from_secs(10);
/// And to send a frame it has begun to its end.
const FRAME: Duration = Duration::from_secs(60);
/// Of a frame that is longer, no more than this is allocated ahead of what has come.
const AHEAD: usize = 16 << 20;

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(tls) => &tls.sock,
        }
    }

    /// Whether something can be read without waiting; the socket is readable. Of TLS, what the peer says may be for TLS alone.
    fn has_more(&mut self) -> io::Result<bool> {
        let Self::Tls(tls) = self else { return Ok(true) };
        if tls.conn.read_tls(&mut tls.sock)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.has_buffered()
    }

    /// Whether something was read already and waits here.
    fn has_buffered(&mut self) -> io::Result<bool> {
        let Self::Tls(tls) = self else { return Ok(false) };
        let state = tls.conn.process_new_packets().map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        Ok(state.plaintext_bytes_to_read() > 0 || state.peer_has_closed())
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            Self::Tls(tls) => tls.read(into),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

/// A connection that is let in.
pub struct Connection {
    pub broker: String,
    stream: Stream,
    client_id: String,
    bound: usize,
    correlation: i32,
    /// What was asked and is not answered yet.
    asked: VecDeque<(i32, Api)>,
}

impl Connection {
    /// Connects, logs in, and asks whether the broker speaks what is needed.
    ///
    /// Errors: `Retry` where nobody answers; `Denied` where somebody must act; `UNSUPPORTED_FEATURE` where this broker is none for this client.
    pub fn open(access: &Access, broker: &str) -> Result<Self, KafkaError> {
        let deadline = Instant::now() + CONNECT;
        let socket = connect(broker, deadline)?;
        let io = |error: io::Error| away(broker, error);
        socket.set_nodelay(true).map_err(io)?;
        socket.set_read_timeout(Some(STALLED)).map_err(io)?;
        socket.set_write_timeout(Some(STALLED)).map_err(io)?;
        let stream = match &access.tls {
            None => Stream::Plain(socket),
            Some(config) => {
                let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host).trim_matches(['[', ']']);
                let name =
                    ServerName::try_from(host.to_owned()).map_err(|_| no_tls(format!("{host} is no name that a certificate may have")))?;
                let connection = ClientConnection::new(config.clone(), name).map_err(no_tls)?;
                let mut tls = Box::new(StreamOwned::new(connection, socket));
                while tls.conn.is_handshaking() {
                    tls.conn.complete_io(&mut tls.sock).map_err(|error| tls_fault(broker, &error))?;
                }
                Stream::Tls(tls)
            }
        };
        let (client_id, bound) = (access.client_id.clone(), access.bound);
        let mut connection = Self { broker: broker.to_owned(), stream, client_id, bound, correlation: 0, asked: VecDeque::new() };
        connection.log_in(&access.login, deadline)?;
        connection.speaks(deadline)?;
        Ok(connection)
    }

    fn speaks(&mut self, deadline: Instant) -> Result<(), KafkaError> {
        let answer = self.ask(Api::Versions, deadline, |_| {})?;
        let (error, spoken) = messages::api_versions(&answer).ok_or_else(|| garbled(&self.broker, Api::Versions))?;
        if error != 0 {
            return Err(refused(&self.broker, Api::Versions, "", error));
        }
        let is_spoken = |api: &Api| spoken.iter().any(|one| one.key == api.key() && (one.first..=one.last).contains(&api.version()));
        match Api::NEEDED.iter().find(|api| !is_spoken(api)) {
            None => Ok(()),
            Some(api) => Err(unsupported(format!("broker {} does not speak version {} of {api}", self.broker, api.version()))),
        }
    }

    fn log_in(&mut self, login: &Login, deadline: Instant) -> Result<(), KafkaError> {
        let mechanism = match login {
            Login::None => return Ok(()),
            Login::Plain { .. } => "PLAIN",
            Login::Scram { hash, .. } => hash.mechanism(),
        };
        let answer = self.ask(Api::SaslHandshake, deadline, |out| {
            out.str(mechanism);
        })?;
        let (error, offered) = messages::sasl_handshake_answer(&answer).ok_or_else(|| garbled(&self.broker, Api::SaslHandshake))?;
        if error != 0 {
            return Err(denied(&self.broker, format!("it offers {}, not {mechanism}", offered.join(", "))));
        }
        match login {
            Login::None => {}
            Login::Plain { user, password } => {
                self.authenticate(format!("\0{user}\0{password}").as_bytes(), deadline)?;
            }
            Login::Scram { hash, user, password } => {
                let no_login = |broker: &str| denied(broker, "its part of the login cannot be read");
                let (mut login, first) = scram::Login::begin(*hash, user, password).ok_or_else(|| no_login(&self.broker))?;
                let challenge = self.authenticate(first.as_bytes(), deadline)?;
                let proof = login.answer(&challenge).ok_or_else(|| no_login(&self.broker))?;
                let last = self.authenticate(proof.as_bytes(), deadline)?;
                if !login.is_theirs(&last) {
                    return Err(denied(&self.broker, "it does not know the password itself: it is not the broker that it says"));
                }
            }
        }
        Ok(())
    }

    fn authenticate(&mut self, message: &[u8], deadline: Instant) -> Result<Vec<u8>, KafkaError> {
        let answer = self.ask(Api::SaslAuthenticate, deadline, |out| {
            out.bytes(&[message]);
        })?;
        let (error, words, message) =
            messages::sasl_authenticate_answer(&answer).ok_or_else(|| garbled(&self.broker, Api::SaslAuthenticate))?;
        match error {
            0 => Ok(message),
            _ if words.is_empty() => Err(refused(&self.broker, Api::SaslAuthenticate, "", error)),
            _ => Err(denied(&self.broker, words)),
        }
    }

    /// Sends a request and waits for its answer; nothing else may be on its way.
    pub fn ask(&mut self, api: Api, deadline: Instant, body: impl FnOnce(&mut Writer)) -> Result<Bytes, KafkaError> {
        self.send(api, body)?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.receive(left)? {
                Some(answer) => return Ok(answer),
                None if left.is_zero() => return Err(late(format!("broker {} does not answer {api}", self.broker))),
                None => {}
            }
        }
    }

    /// Sends a request, and does not wait.
    pub fn send(&mut self, api: Api, body: impl FnOnce(&mut Writer)) -> Result<(), KafkaError> {
        self.correlation = self.correlation.wrapping_add(1) & i32::MAX;
        let mut frame = messages::begin(api, self.correlation, &self.client_id);
        body(&mut frame);
        messages::seal(&mut frame.0);
        self.stream.write_all(&frame.0).and_then(|()| self.stream.flush()).map_err(|error| away(&self.broker, error))?;
        self.asked.push_back((self.correlation, api));
        Ok(())
    }

    /// The next answer, without its header; `None`: none has begun to come within `wait`.
    pub fn receive(&mut self, wait: Duration) -> Result<Option<Bytes>, KafkaError> {
        if !self.is_ready(wait)? {
            return Ok(None);
        }
        let deadline = Instant::now() + FRAME;
        let len = self.read(4, deadline)?;
        let len = Reader(&len).i32().and_then(|len| usize::try_from(len).ok()).unwrap_or(usize::MAX);
        let (correlation, api) = self.asked.pop_front().ok_or_else(|| away(&self.broker, "it sends what nobody asked for"))?;
        if !(4..=self.bound).contains(&len) {
            return Err(unsupported(format!(
                "an answer of broker {} to {api} has {len} bytes, and {} are the most; raise receive.message.max.bytes if that is right",
                self.broker, self.bound
            )));
        }
        let frame = Bytes::from(self.read(len, deadline)?);
        if Reader(&frame).i32() != Some(correlation) {
            return Err(garbled(&self.broker, api));
        }
        Ok(Some(frame.slice(4..)))
    }

    fn read(&mut self, len: usize, deadline: Instant) -> Result<Vec<u8>, KafkaError> {
        let (mut bytes, mut filled) = (Vec::new(), 0);
        while filled < len {
            if bytes.is_empty() {
                bytes = vec![0; len.min(AHEAD)];
            } else if filled == bytes.len() {
                bytes.resize(len.min(filled + AHEAD), 0);
            }
            if Instant::now() > deadline {
                return Err(away(&self.broker, "half an answer came, and its rest did not in time"));
            }
            match self.stream.read(&mut bytes[filled..]) {
                Ok(0) => return Err(away(&self.broker, "it closed the connection")),
                Ok(more) => filled += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(away(&self.broker, error)),
            }
        }
        Ok(bytes)
    }

    /// Whether an answer has begun to come within `wait`.
    fn is_ready(&mut self, wait: Duration) -> Result<bool, KafkaError> {
        let deadline = Instant::now() + wait;
        loop {
            let fault = |broker: &str, error: io::Error| tls_fault(broker, &error);
            if self.stream.has_buffered().map_err(|error| fault(&self.broker, error))? {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !wait_for([self.stream.socket().as_fd()].into_iter(), left) {
                return Ok(false);
            }
            match self.stream.has_more() {
                Ok(true) => return Ok(true),
                Ok(false) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(fault(&self.broker, error)),
            }
        }
    }
}

/// Waits until an answer can be read from one of the connections, or nothing more is to be waited for.
pub fn wait_any<'c>(connections: impl Iterator<Item = &'c mut Connection>, wait: Duration) {
    let mut sockets = Vec::new();
    for connection in connections.filter(|connection| !connection.asked.is_empty()) {
        // What fails here fails again when it is read, and is told there.
        if connection.stream.has_buffered().unwrap_or(true) {
            return;
        }
        sockets.push(connection.stream.socket());
    }
    match sockets.is_empty() {
        true => std::thread::sleep(wait),
        false => {
            wait_for(sockets.into_iter().map(AsFd::as_fd), wait);
        }
    }
}

/// Whether one of these can be read from within `wait`.
fn wait_for<'f>(sockets: impl Iterator<Item = BorrowedFd<'f>>, wait: Duration) -> bool {
    let mut sockets: Vec<PollFd<'_>> = sockets.map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)).collect();
    let wait = Timespec { tv_sec: wait.as_secs().min(3_600) as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
    // An interruption is a wait that ended early.
    poll(&mut sockets, Some(&wait)).is_ok_and(|ready| ready > 0)
}

fn connect(broker: &str, deadline: Instant) -> Result<TcpStream, KafkaError> {
    let mut last = None;
    let addresses = broker.to_socket_addrs().map_err(|error| away(broker, format!("its name cannot be looked up: {error}")))?;
    for address in addresses {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(|| away(broker, "its name has no address that answers"), |error| away(broker, error)))
}

fn tls_fault(broker: &str, error: &io::Error) -> KafkaError {
    match millrace_tls::failure(broker, error) {
        TlsError::Certificate(why) => no_tls(why),
        TlsError::Connection(why) => away(broker, why),
    }
}
