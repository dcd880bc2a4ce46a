//! One connection to a broker: transport, CONNECT, keep-alive with a deadline of our own, and a buffer each way.
//!
//! ```text
//! Session ── Inbox   bytes read and not handled yet; packets are borrowed from it where they lie
//!         └─ Line    the wire, bytes to be written, when it was last heard
//! ```
//!
//! Everything goes through [`Session::alongside`]: it writes what waits, sends pings, notices a dead peer, reads where wanted, and does so
//! while it waits for something else. A peer that says nothing, takes nothing or goes half open is found within one keep-alive.
//!
//! Invariants: the inbox holds at most one packet of `max_packet` bytes, whatever length a header claims, and grows only as bytes arrive. A longer
//! message is not an end: its beginning is kept, the rest passes by, and it is handed over as what it is, so that nothing loops on it.

use crate::inbox::READ_BYTES;
pub use crate::inbox::{Inbound, Inbox};
use crate::packet::{self, Connack, Connect, Malformed, Packet, Version, Will, code_name};
use crate::transport::{Endpoint, Wire, tell_when};
use millrace_contract::Failure;
use millrace_kit::{Login, Tls};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// How a connection is opened.
#[derive(Clone, Debug)]
pub struct Opening {
    pub endpoint: Endpoint,
    pub tls: Tls,
    pub version: Version,
    pub client_id: String,
    pub login: Option<Login>,
    pub keep_alive: Duration,
    /// Forget what the broker kept for this client id.
    pub clean_start: bool,
    /// How long the broker keeps the session (5); zero also means a clean session (3.1.1).
    pub session_expiry: Duration,
    /// Messages the broker may send before the first is acknowledged (5).
    pub receive_maximum: u16,
    /// Longer messages are handed over as [`Inbound::Oversized`].
    pub max_packet: usize,
    pub will: Option<Will>,
    /// Whether the broker has ever answered in this version; one for all openings of a source or sink.
    pub answered: Arc<AtomicBool>,
}

/// How long connecting, handshakes and CONNACK may take together.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);

pub struct Session {
    pub inbox: Inbox,
    pub line: Line,
    pub connack: Connack,
    pub version: Version,
}

/// What [`Session::alongside`] came back for.
pub enum Step<T> {
    /// The inbox has more bytes.
    Read,
    Done(T),
}

impl Session {
    /// Connects and waits for CONNACK.
    ///
    /// Errors: `Blocked` where the broker or its certificate says that a human must act, `RetryAfter` where it is busy, else `Reconnect`.
    pub async fn open(opening: &Opening) -> Result<Self, Failure> {
        let endpoint = &opening.endpoint;
        match tokio::time::timeout(CONNECT_WITHIN, Self::connect(opening)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::Reconnect(format!("{endpoint} did not answer CONNECT within {CONNECT_WITHIN:?}; is it an mqtt port?"))),
        }
    }

    async fn connect(opening: &Opening) -> Result<Self, Failure> {
        let endpoint = &opening.endpoint;
        let wire = endpoint.open(&opening.tls).await?;
        let mut line = Line::new(wire, endpoint.to_string(), opening.keep_alive);
        let seconds = |duration: Duration| u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
        Connect {
            client_id: &opening.client_id,
            clean_start: opening.clean_start || opening.version == Version::V4 && opening.session_expiry.is_zero(),
            keep_alive_s: u16::try_from(opening.keep_alive.as_secs()).unwrap_or(u16::MAX),
            login: opening.login.as_ref().map(|login| (login.user.as_str(), login.password.expose())),
            will: opening.will.as_ref(),
            session_expiry_s: seconds(opening.session_expiry),
            receive_maximum: opening.receive_maximum,
        }
        .write(&mut line.out, opening.version);
        let mut session = Self { inbox: Inbox::new(opening.max_packet), line, connack: Connack::default(), version: opening.version };
        loop {
            let answer = session.inbox.next(opening.version).map_err(|error| no_mqtt(endpoint, error))?;
            match answer {
                Some(Inbound::Packet(Packet::Connack(connack))) => {
                    opening.answered.store(true, Ordering::Relaxed);
                    if connack.code != 0 {
                        return Err(refused(opening, &connack));
                    }
                    if let Some(seconds) = connack.server_keep_alive_s.filter(|s| *s > 0) {
                        session.line.keep_alive = Duration::from_secs(seconds.into());
                    }
                    session.connack = connack;
                    return Ok(session);
                }
                Some(Inbound::Packet(Packet::Auth { .. })) => {
                    return Err(Failure::Blocked(format!("{endpoint} asks for enhanced authentication, which is not supported")));
                }
                Some(_) => {
                    return Err(Failure::Reconnect(format!("{endpoint} did not begin with CONNACK; is it an mqtt port?")));
                }
                None => {
                    let never = std::future::pending::<()>();
                    session.alongside(true, never).await.map_err(|failure| match failure {
                        // Brokers of 3.1.1 close without a word on a protocol level they don't know.
                        Failure::Reconnect(cause) if opening.version == Version::V5 && !opening.answered.load(Ordering::Relaxed) => {
                            Failure::Reconnect(format!("{cause}; if it speaks only mqtt 3.1.1, set `version: 4`"))
                        }
                        failure => failure,
                    })?;
                    if session.inbox.first().is_some_and(|first| first >> 4 != 2 && first >> 4 != 15) {
                        return Err(Failure::Reconnect(format!("{endpoint} did not begin with CONNACK; is it an mqtt port?")));
                    }
                }
            }
        }
    }

    /// Does `work` while the connection lives: writes what waits, pings, and reads if `read`, then returns. Cancel-safe if `work` is.
    pub async fn alongside<T>(&mut self, read: bool, work: impl Future<Output = T>) -> Result<Step<T>, Failure> {
        let mut work = pin!(work);
        loop {
            let wake = self.line.keep_alive(read)?;
            let Self { inbox, line, .. } = self;
            tokio::select! {
                biased;
                done = &mut work => return Ok(Step::Done(done)),
                moved = std::future::poll_fn(|cx| line.poll(cx, read.then_some(&mut *inbox))) => {
                    moved?;
                    return Ok(Step::Read);
                }
                _ = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Does `work` while the connection lives, reading nothing.
    pub async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Failure> {
        match self.alongside(false, work).await? {
            Step::Done(done) => Ok(done),
            Step::Read => unreachable!("nothing was to be read"),
        }
    }

    /// Writes what waits, and comes back when there is something to read or nothing left to write.
    pub async fn write_or_read(&mut self) -> Result<Step<()>, Failure> {
        loop {
            let wake = self.line.keep_alive(true)?;
            let Self { inbox, line, .. } = self;
            let moved = std::future::poll_fn(|cx| match line.poll(cx, Some(inbox)) {
                Poll::Ready(read) => Poll::Ready(read.map(|()| Step::Read)),
                Poll::Pending if line.is_written() => Poll::Ready(Ok(Step::Done(()))),
                Poll::Pending => Poll::Pending,
            });
            tokio::select! {
                biased;
                moved = moved => return moved,
                _ = tokio::time::sleep_until(wake) => {}
            }
        }
    }

    /// Writes everything that waits to be written.
    pub async fn flush(&mut self) -> Result<(), Failure> {
        let line = &mut self.line;
        while !line.is_written() {
            let wake = line.keep_alive(false)?;
            tokio::select! {
                biased;
                written = std::future::poll_fn(|cx| line.poll_write(cx)) => written?,
                _ = tokio::time::sleep_until(wake) => {}
            }
        }
        Ok(())
    }

    /// Says goodbye and closes. What the broker does not take within a second stays unsaid.
    ///
    /// What it sends meanwhile is read and passed over until it closes, too: a socket closed over unread bytes resets the connection, and
    /// the broker may then throw away the last acknowledgements before it has read them.
    pub async fn close(mut self, code: u8, session_expiry_s: Option<u32>) {
        packet::write_disconnect(&mut self.line.out, self.version, code, session_expiry_s);
        let goodbye = async {
            self.flush().await?;
            let line = &mut self.line;
            let mut unread = vec![0; READ_BYTES];
            std::future::poll_fn(|cx| Pin::new(&mut line.wire).poll_shutdown(cx)).await.map_err(|e| line.failed(e))?;
            loop {
                let mut space = ReadBuf::new(&mut unread);
                std::future::poll_fn(|cx| Pin::new(&mut line.wire).poll_read(cx, &mut space)).await.map_err(|e| line.failed(e))?;
                if space.filled().is_empty() {
                    return Ok::<_, Failure>(());
                }
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), goodbye).await;
    }

    /// The failure of a connection whose bytes are no MQTT.
    pub fn no_mqtt(&self, error: Malformed) -> Failure {
        Failure::Reconnect(format!("{} sent what is no mqtt: {error}", self.line.endpoint))
    }

    /// The failure the server's DISCONNECT means. Section 3.14.
    pub fn disconnected(&self, disconnect: &packet::Disconnect, client_id: &str) -> Failure {
        let endpoint = &self.line.endpoint;
        let said = said(&disconnect.reason);
        match disconnect.code {
            0x8E => Failure::Blocked(format!(
                "{endpoint} ended the connection: another client connected with client id `{client_id}`; give each its own `client_id`"
            )),
            0x9C | 0x9D => Failure::Blocked(format!(
                "{endpoint} ended the connection: use {} as endpoint{said}",
                disconnect.server_reference.as_deref().unwrap_or("another server"),
            )),
            0x87 | 0x98 | 0x9E | 0xA1 | 0xA2 => {
                Failure::Blocked(format!("{endpoint} ended the connection: {}{said}; ask who runs it", code_name(disconnect.code)))
            }
            0x89 | 0x96 | 0x97 | 0x9F => {
                Failure::RetryAfter(BUSY, format!("{endpoint} ended the connection: {}{said}", code_name(disconnect.code)))
            }
            code => Failure::Reconnect(format!("{endpoint} ended the connection: {}{said}", code_name(code))),
        }
    }
}

const BUSY: Duration = Duration::from_secs(10);

fn said(reason: &Option<Box<str>>) -> String {
    reason.as_ref().map_or_else(String::new, |reason| format!(", it says: {reason}"))
}

fn no_mqtt(endpoint: &Endpoint, error: Malformed) -> Failure {
    Failure::Reconnect(format!("{endpoint} answered with what is no mqtt: {error}; is it an mqtt port, and the transport right?"))
}

/// What a CONNACK that refuses means. 3.1.1, section 3.2.2.3 and 5.0, section 3.2.2.2.
fn refused(opening: &Opening, connack: &Connack) -> Failure {
    let endpoint = &opening.endpoint;
    let said = said(&connack.reason);
    let user = opening.login.as_ref().map_or("no user name".into(), |login| format!("user `{}`", login.user));
    match (opening.version, connack.code) {
        (Version::V4, 1) | (_, 0x84) => {
            let other = if opening.version == Version::V4 { 5 } else { 4 };
            Failure::Blocked(format!("{endpoint} does not speak this version of mqtt{said}; set `version: {other}`"))
        }
        (Version::V4, 2) | (_, 0x85) => {
            Failure::Blocked(format!("{endpoint} does not accept the client id `{}`{said}; set another `client_id`", opening.client_id))
        }
        (Version::V4, 3) | (_, 0x88 | 0x8B) => Failure::Reconnect(format!("{endpoint} is not available now{said}")),
        (Version::V4, 4) | (_, 0x86) => Failure::Blocked(format!("{endpoint} refuses {user} or its password{said}; check `login`")),
        (Version::V4, 5) | (_, 0x87) => {
            Failure::Blocked(format!("{endpoint} does not let {user} in{said}; check `login` and what the broker allows"))
        }
        (_, 0x8A) => Failure::Blocked(format!("{endpoint} has banned this client{said}; ask who runs it")),
        (_, 0x9C | 0x9D) => Failure::Blocked(format!(
            "{endpoint} says to use {}{said}; change `endpoint`",
            connack.server_reference.as_deref().unwrap_or("another server"),
        )),
        (_, 0x89 | 0x97 | 0x9F) => {
            Failure::RetryAfter(BUSY, format!("{endpoint} refuses the connection: {}{said}", code_name(connack.code)))
        }
        (_, code) if code >= 0x80 => Failure::Blocked(format!("{endpoint} refuses the connection: {}{said}", code_name(code))),
        (_, code) => Failure::Reconnect(format!("{endpoint} refuses the connection with the unknown code {code}{said}")),
    }
}

/// The wire and what waits to be written on it.
pub struct Line {
    wire: Box<dyn Wire>,
    pub endpoint: String,
    /// Packets appended here go out with the next poll.
    pub out: Vec<u8>,
    written: usize,
    flushing: bool,
    keep_alive: Duration,
    last_written: Instant,
    last_read: Instant,
    /// Since when a ping waits for any sign of life.
    pinged: Option<Instant>,
    /// Since when bytes wait that the peer does not take.
    stuck: Option<Instant>,
    /// The kernel is asked to say nothing of a few bytes.
    rests: bool,
}

impl Line {
    fn new(wire: Box<dyn Wire>, endpoint: String, keep_alive: Duration) -> Self {
        let now = Instant::now();
        Self {
            wire,
            endpoint,
            out: Vec::new(),
            written: 0,
            flushing: false,
            keep_alive,
            last_written: now,
            last_read: now,
            pinged: None,
            stuck: None,
            rests: false,
        }
    }

    /// Nothing will be read for a while, or no longer so.
    pub fn rest(&mut self, rests: bool) {
        if std::mem::replace(&mut self.rests, rests) != rests {
            tell_when(self.wire.socket(), if rests { READ_BYTES } else { 1 });
        }
    }

    pub fn is_written(&self) -> bool {
        self.out.is_empty() && !self.flushing
    }

    /// How many bytes wait to be written.
    pub fn backlog(&self) -> usize {
        self.out.len() - self.written
    }

    /// Pings when it is time, fails when the peer is gone. Returns when to look again.
    ///
    /// While nothing is read, the answer to a ping can't be seen: then pings only tell the peer that we live.
    fn keep_alive(&mut self, reading: bool) -> Result<Instant, Failure> {
        let now = Instant::now();
        let half = self.keep_alive / 2;
        if let Some(stuck) = self.stuck
            && now >= stuck + self.keep_alive
        {
            return Err(Failure::Reconnect(format!("{} took no bytes for {:?}", self.endpoint, self.keep_alive)));
        }
        if !reading {
            self.pinged = None;
            self.last_read = now;
        }
        if let Some(pinged) = self.pinged
            && now >= pinged + half
        {
            return Err(Failure::Reconnect(format!("{} did not answer a ping within {half:?}", self.endpoint)));
        }
        let due = self.last_written.min(self.last_read) + half;
        if now >= due && self.pinged.is_none() {
            packet::write_pingreq(&mut self.out);
            self.last_written = now;
            if reading {
                self.pinged = Some(now);
            }
        }
        let mut wake = match self.pinged {
            Some(pinged) => pinged + half,
            None => self.last_written.min(self.last_read) + half,
        };
        if let Some(stuck) = self.stuck {
            wake = wake.min(stuck + self.keep_alive);
        }
        Ok(wake.max(now + Duration::from_millis(1)))
    }

    /// Writes what waits; with an inbox, is ready when bytes have been read into it. Nothing is lost when it is dropped.
    fn poll(&mut self, cx: &mut Context<'_>, inbox: Option<&mut Inbox>) -> Poll<Result<(), Failure>> {
        if let Poll::Ready(Err(error)) = self.poll_write(cx) {
            return Poll::Ready(Err(error));
        }
        let Some(inbox) = inbox else { return Poll::Pending };
        let mut space = ReadBuf::new(inbox.space());
        match ready!(Pin::new(&mut self.wire).poll_read(cx, &mut space)) {
            Ok(()) => match space.filled().len() {
                0 => Poll::Ready(Err(Failure::Reconnect(format!("{} closed the connection", self.endpoint)))),
                n => {
                    inbox.filled(n);
                    self.last_read = Instant::now();
                    self.pinged = None;
                    Poll::Ready(Ok(()))
                }
            },
            Err(error) => Poll::Ready(Err(self.failed(error))),
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        while self.written < self.out.len() {
            match Pin::new(&mut self.wire).poll_write(cx, &self.out[self.written..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Failure::Reconnect(format!("{} takes no more bytes", self.endpoint)))),
                Poll::Ready(Ok(n)) => {
                    self.written += n;
                    self.flushing = true;
                    self.last_written = Instant::now();
                    self.stuck = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.failed(error))),
                Poll::Pending => {
                    self.stuck.get_or_insert_with(Instant::now);
                    return Poll::Pending;
                }
            }
        }
        self.out.clear();
        self.written = 0;
        if self.flushing {
            match Pin::new(&mut self.wire).poll_flush(cx) {
                Poll::Ready(Ok(())) => {
                    self.flushing = false;
                    self.stuck = None;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.failed(error))),
                Poll::Pending => {
                    self.stuck.get_or_insert_with(Instant::now);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    fn failed(&self, error: std::io::Error) -> Failure {
        match millrace_kit::tls::failure(&self.endpoint, &error) {
            blocked @ Failure::Blocked(_) => blocked,
            _ => Failure::Reconnect(format!("connection to {} failed: {error}", self.endpoint)),
        }
    }
}
