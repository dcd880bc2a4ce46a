//! One client's connection: CONNECT, then packets both ways until it ends.
//!
//! ```text
//! loop { handle every whole packet; write what the session's window lets out; flush; wait for bytes, for messages, for the keep-alive's end }
//! ```
//!
//! Invariants: at most one packet of `Bounds::maximum_packet` is held, whatever length a header claims, and the buffer grows only as bytes
//! arrive. Nothing is read while answers can't be written.

use crate::session::{Stored, Terms};
use crate::shared::{Break, Seat, Shared, Testament};
use crate::wire::{self, Connect, Fault, Request};
use millrace_mqtt::packet::{AckKind, Frame, Publish, Qos, Version, write_ack, write_disconnect};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

/// From accepting to CONNECT.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long a client may take nothing.
const STUCK: Duration = Duration::from_secs(30);
/// What is written at once.
const OUT: usize = 256 << 10;
/// Unacknowledged messages where a 3.1.1 client can't say how many it takes.
const WINDOW_OF_V4: usize = 100;
const READ: usize = 16 << 10;

/// How a connection ended.
enum End {
    /// DISCONNECT: no will, except with code 4.
    Goodbye { with_will: bool, session_expiry_s: Option<u32> },
    /// Closed, silent, malformed, cut.
    Vanished,
    /// Another connection has the session now.
    TakenOver,
}

struct Line {
    stream: TcpStream,
    buf: Vec<u8>,
    out: Vec<u8>,
}

pub(crate) async fn serve(stream: TcpStream, shared: &Shared) {
    let _ = stream.set_nodelay(true);
    let mut line = Line { stream, buf: Vec::new(), out: Vec::new() };
    let Ok(Some(opened)) = timeout(CONNECT_WITHIN, open(&mut line, shared)).await else { return };
    let Opened { seat, terms, will, keep_alive } = opened;
    let mut conversation = Conversation { line, shared, seat, terms, keep_alive };
    let end = conversation.run().await;
    let Conversation { mut line, seat, .. } = conversation;
    match end {
        End::Goodbye { with_will, session_expiry_s } => {
            let expiry = session_expiry_s.map(|seconds| Duration::from_secs(seconds.into()));
            shared.leave(&seat, will.filter(|_| with_will), expiry);
        }
        End::Vanished => shared.leave(&seat, will, None),
        End::TakenOver => {
            write_disconnect(&mut line.out, terms.version, 0x8E, None);
            if terms.version == Version::V5 {
                let _ = timeout(Duration::from_secs(1), line.flush()).await;
            }
            shared.leave(&seat, will, None);
        }
    }
}

struct Opened {
    seat: Seat,
    terms: Terms,
    will: Option<Testament>,
    keep_alive: Duration,
}

/// Reads CONNECT and answers it; `None` where there is nobody to talk to.
async fn open(line: &mut Line, shared: &Shared) -> Option<Opened> {
    let frame = loop {
        match line.frame(shared.bounds.maximum_packet) {
            Ok(Some(frame)) => break frame,
            Ok(None) => line.read().await.ok()?,
            Err(_) => return None,
        }
    };
    let packet: Vec<u8> = line.buf.drain(..frame.len()).collect();
    let connect = match wire::read(frame, &packet[frame.header..], Version::V5) {
        Ok(Request::Connect(connect)) => connect,
        Ok(_) => return None,
        Err(Fault { code, .. }) => {
            wire::write_refusal(&mut line.out, if code == 0x84 { Version::V4 } else { Version::V5 }, code);
            line.flush().await.ok();
            return None;
        }
    };
    while let Some((how, until)) = shared.broken(connect.client_id) {
        match how {
            Break::Cut => return None,
            Break::Silence => sleep_until(until.into()).await,
        }
    }
    let assigned = match (connect.client_id, connect.version) {
        ("", Version::V4) if !connect.clean_start => {
            wire::write_refusal(&mut line.out, Version::V4, 0x85);
            line.flush().await.ok();
            return None;
        }
        ("", _) => Some(format!("auto-{:016x}", fastrand::u64(..))),
        _ => None,
    };
    let client_id = assigned.as_deref().unwrap_or(connect.client_id);
    let expiry = Duration::from_secs(connect.session_expiry_s.into());
    let seat = match shared.sit_down(client_id, connect.clean_start, expiry) {
        Ok(seat) => seat,
        Err(code) => {
            wire::write_refusal(&mut line.out, connect.version, code);
            line.flush().await.ok();
            return None;
        }
    };
    let assigned = assigned.as_deref().filter(|_| connect.version == Version::V5);
    wire::write_welcome(&mut line.out, connect.version, seat.session_present, assigned, shared.bounds.maximum_packet);
    let window = match connect.version {
        Version::V4 => WINDOW_OF_V4,
        Version::V5 => connect.receive_maximum as usize,
    };
    let terms = Terms { version: connect.version, window, maximum_packet: connect.maximum_packet };
    shared.session(&seat, |session| session.resume(&mut line.out, terms))?;
    // One and a half times, as the standard says; zero is never.
    let keep_alive = match connect.keep_alive_s {
        0 => Duration::MAX,
        seconds => Duration::from_millis(u64::from(seconds) * 1500),
    };
    Some(Opened { seat, terms, will: testament(&connect), keep_alive })
}

fn testament(connect: &Connect<'_>) -> Option<Testament> {
    let will = connect.will.as_ref()?;
    let message = Stored { topic: will.topic.into(), payload: will.payload.into(), properties: will.properties.as_slice().into() };
    Some(Testament { message: Arc::new(message), qos: will.qos, retain: will.retain, delay: Duration::from_secs(will.delay_s.into()) })
}

struct Conversation<'s> {
    line: Line,
    shared: &'s Shared,
    seat: Seat,
    terms: Terms,
    keep_alive: Duration,
}

impl Conversation<'_> {
    async fn run(&mut self) -> End {
        let mut heard = Instant::now();
        loop {
            while let Some((how, until)) = self.shared.broken(&self.seat.client_id) {
                match how {
                    Break::Cut => return End::Vanished,
                    Break::Silence => {
                        sleep_until(until.into()).await;
                        heard = Instant::now();
                    }
                }
            }
            match self.handle() {
                Ok(None) => {}
                Ok(Some(end)) => return end,
                Err(fault) => {
                    tracing::debug!(client = %self.seat.client_id, "{}", fault.what);
                    if self.terms.version == Version::V5 {
                        write_disconnect(&mut self.line.out, Version::V5, fault.code, None);
                        let _ = timeout(Duration::from_secs(1), self.line.flush()).await;
                    }
                    return End::Vanished;
                }
            }
            let (out, terms) = (&mut self.line.out, self.terms);
            if self.shared.session(&self.seat, |session| session.write_due(out, terms, OUT)).is_none() {
                return End::TakenOver;
            }
            if !self.line.out.is_empty() {
                match timeout(STUCK, self.line.flush()).await {
                    Ok(Ok(())) => {}
                    _ => return End::Vanished,
                }
                // More may wait than was written at once.
                self.seat.wake.notify_one();
            }
            let silent = heard.checked_add(self.keep_alive);
            tokio::select! {
                read = self.line.read() => match read {
                    Ok(()) => heard = Instant::now(),
                    Err(_) => return End::Vanished,
                },
                () = self.seat.wake.notified() => {}
                () = async { match silent { Some(at) => sleep_until(at).await, None => std::future::pending().await } } => return End::Vanished,
            }
        }
    }

    /// Handles every whole packet in the buffer.
    fn handle(&mut self) -> Result<Option<End>, Fault> {
        let mut done = 0;
        let mut end = None;
        let buf = std::mem::take(&mut self.line.buf);
        let outcome = loop {
            if end.is_some() {
                break Ok(end);
            }
            match frame(&buf[done..], self.shared.bounds.maximum_packet) {
                Ok(None) => break Ok(None),
                Err(fault) => break Err(fault),
                Ok(Some(frame)) => {
                    let packet = &buf[done..done + frame.len()];
                    done += frame.len();
                    match wire::read(frame, &packet[frame.header..], self.terms.version).and_then(|request| self.answer(request)) {
                        Ok(ended) => end = ended,
                        Err(fault) => break Err(fault),
                    }
                }
            }
        };
        self.line.buf = buf;
        self.line.buf.drain(..done);
        outcome
    }

    fn answer(&mut self, request: Request<'_>) -> Result<Option<End>, Fault> {
        let out = &mut self.line.out;
        match request {
            Request::Connect(_) => return Err(Fault { code: 0x82, what: "a second CONNECT".into() }),
            Request::Publish(publish) => return Ok(self.published(&publish)),
            Request::Ack { kind: AckKind::Pubrel, id, .. } => {
                self.shared.session(&self.seat, |session| session.released(id));
                write_ack(out, AckKind::Pubcomp, id);
            }
            Request::Ack { kind, id, refused } => {
                self.shared.session(&self.seat, |session| session.acknowledged(kind, id, refused, out));
            }
            Request::Subscribe { id, subscription_id, wanted } => {
                let mut codes = Vec::with_capacity(wanted.len());
                for wanted in &wanted {
                    match self.shared.subscribe(&self.seat, wanted, subscription_id) {
                        Some(code) if self.terms.version == Version::V4 => codes.push(code.min(0x80)),
                        Some(code) => codes.push(code),
                        None => return Ok(Some(End::TakenOver)),
                    }
                }
                wire::write_subscribed(out, self.terms.version, wire::SUBACK, id, &codes);
            }
            Request::Unsubscribe { id, filters } => {
                let codes: Vec<u8> = filters.iter().map(|filter| self.shared.unsubscribe(&self.seat, filter)).collect();
                wire::write_subscribed(out, self.terms.version, wire::UNSUBACK, id, &codes);
            }
            Request::Pingreq => wire::write_pingresp(out),
            Request::Disconnect { code, session_expiry_s } => {
                return Ok(Some(End::Goodbye { with_will: code == 4, session_expiry_s }));
            }
        }
        Ok(None)
    }

    fn published(&mut self, publish: &Publish<'_>) -> Option<End> {
        let is_new = match publish.qos {
            Qos::ExactlyOnce => match self.shared.session(&self.seat, |session| session.receives(publish.id)) {
                Some(is_new) => is_new,
                None => return Some(End::TakenOver),
            },
            _ => true,
        };
        if is_new {
            let message =
                Stored { topic: publish.topic.into(), payload: publish.payload.into(), properties: publish.property_bytes().into() };
            self.shared.publish(&Arc::new(message), publish.qos, publish.retain, &self.seat.client_id);
        }
        match publish.qos {
            Qos::AtMostOnce => {}
            Qos::AtLeastOnce => write_ack(&mut self.line.out, AckKind::Puback, publish.id),
            Qos::ExactlyOnce => write_ack(&mut self.line.out, AckKind::Pubrec, publish.id),
        }
        None
    }
}

/// The fixed header of a packet that is whole; `None` while it is not.
fn frame(buf: &[u8], maximum_packet: usize) -> Result<Option<Frame>, Fault> {
    match Frame::read(buf)? {
        Some(frame) if frame.len() > maximum_packet => Err(Fault { code: 0x95, what: format!("a packet of {} bytes", frame.len()) }),
        Some(frame) if buf.len() >= frame.len() => Ok(Some(frame)),
        _ => Ok(None),
    }
}

impl Line {
    fn frame(&self, maximum_packet: usize) -> Result<Option<Frame>, Fault> {
        frame(&self.buf, maximum_packet)
    }

    /// Reads what is there into the buffer. Cancel-safe. Errors: the end, too.
    async fn read(&mut self) -> std::io::Result<()> {
        self.buf.reserve(READ);
        match self.stream.read_buf(&mut self.buf).await? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn flush(&mut self) -> std::io::Result<()> {
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        if self.out.capacity() > 4 * OUT {
            self.out = Vec::new();
        }
        Ok(())
    }
}
