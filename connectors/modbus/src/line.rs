//! One line: requests out, answers in, each to the request it belongs to, or none.
//!
//! ```text
//! send ──> pending ──answer──> Data | Refused | Misfit
//!             │ timeout
//!             v
//!          expired ──late answer──> dropped and counted       TCP: found by its transaction id
//!          drained ──until silent for one more timeout        RTU: has no id; whatever still comes belongs to nobody
//! ```
//!
//! - An answer with the id of a request that was given up is late: dropped, counted. One with an id that was never sent means that the stream is not
//!   ours: the line is closed.
//! - An answer over TCP that stays cut closes the line: where the next frame begins is not known.
//! - Where a gateway echoes no ids (`transaction_id: ignored`), one request is in flight, and a timeout closes the line.
//! - RTU over TCP is closed at a timeout, too; a serial line can't be, and is drained.
//! - Between the end of an answer and the next request there is at least `pause`, on a serial line at least its silence.
//!
//! Bounded: requests in flight, remembered ids, bytes held.

use crate::endpoint::{Endpoint, Stream};
use crate::frame::{Foreign, Framing, RtuFrame, rtu_frame, tcp_frame};
use crate::pdu::{Exception, Misfit, Reply, Request};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// How a line is used.
#[derive(Clone, PartialEq, Debug)]
pub struct LineSettings {
    /// How long a device may take to answer; the time on a serial line comes on top.
    pub timeout: Duration,
    pub pause: Duration,
    /// After connecting, before the first request.
    pub connect_delay: Duration,
    pub in_flight: usize,
    /// Whether answers carry the request's transaction id.
    pub ids: bool,
    /// The adapter sends back what is sent.
    pub echo: bool,
}

/// Why a request has no answer.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Trouble {
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    #[error("the answer was cut after {0} bytes")]
    Cut(usize),
    #[error("the checksum of the answer is wrong; check the wiring, the termination and the baud rate")]
    Checksum,
    #[error("unit {got} answered where unit {asked} was asked")]
    Unit { asked: u8, got: u8 },
    #[error(transparent)]
    Misfit(Misfit),
    #[error("the connection was closed before the answer")]
    Closed,
}

/// What a request came to.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// The values are in [`Line::data`], until the next event.
    Data,
    Refused(Exception),
    Trouble(Trouble),
}

/// Why a line ended.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
pub enum Lost {
    #[error("the connection was closed")]
    Closed,
    #[error("the connection broke: {0}")]
    Io(String),
    #[error(transparent)]
    Foreign(#[from] Foreign),
    #[error("an answer came to transaction {0}, which was never asked; if the gateway echoes no ids, set `transaction_id: ignored`")]
    Stranger(u16),
    #[error("closed after a timeout, because a late answer couldn't be told from the next")]
    Resync,
    #[error("the line is never silent; is another master on it?")]
    Babble,
}

/// What happens on a line.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    /// To the request with this token.
    Answer { token: u64, outcome: Outcome },
    /// The line may be used again.
    Silent,
    /// Every pending request is answered with [`Trouble::Closed`] by [`Line::pending_tokens`].
    Lost(Lost),
}

/// What the line saw and did not pass on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LineCounters {
    /// Answers that came after their request was given up.
    pub late: u64,
    /// RTU answers of other units, or to other functions.
    pub strangers: u64,
    /// Bytes that belong to no frame.
    pub noise_bytes: u64,
}

struct Pending {
    token: u64,
    id: u16,
    unit: u8,
    /// A unit that answers as 0 is taken.
    any_unit: bool,
    request: Request,
    deadline: Instant,
}

/// How many ids of requests that were given up are remembered.
const MOST_EXPIRED: usize = 256;
/// Bytes held while they make no frame.
const MOST_HELD_BYTES: usize = 1024;
/// A line that is not silent for so many timeouts never is.
const MOST_DRAINS: u32 = 20;

pub struct Line {
    stream: Box<dyn Stream>,
    framing: Framing,
    settings: LineSettings,
    serial: Option<crate::endpoint::Serial>,
    held: Vec<u8>,
    data: Vec<u8>,
    /// The last request as sent, and how much of its echo is still to come.
    sent: Vec<u8>,
    echo_due: bool,
    pending: VecDeque<Pending>,
    expired: VecDeque<u16>,
    next_id: u16,
    ready_at: Instant,
    draining: Option<Draining>,
    pub counters: LineCounters,
    /// Answers so far, refusals included.
    pub answers: u64,
}

struct Draining {
    silent_at: Instant,
    give_up_at: Instant,
}

impl Line {
    pub fn new(stream: Box<dyn Stream>, endpoint: &Endpoint, settings: LineSettings) -> Self {
        let framing = endpoint.framing();
        Self {
            stream,
            framing,
            serial: endpoint.serial().cloned(),
            held: Vec::with_capacity(MOST_HELD_BYTES),
            data: Vec::with_capacity(256),
            sent: Vec::with_capacity(260),
            echo_due: false,
            pending: VecDeque::new(),
            expired: VecDeque::new(),
            // Another beginning after a reconnect: what a gateway still has for the last connection is not taken for ours.
            next_id: std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |since| since.subsec_micros() as u16),
            ready_at: Instant::now() + settings.connect_delay,
            draining: None,
            counters: LineCounters::default(),
            answers: 0,
            settings,
        }
    }

    /// The values of the last answer.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// When the next request may be sent: `None` not before something else happens.
    pub fn ready_at(&self) -> Option<Instant> {
        let most = if self.framing == Framing::Rtu || !self.settings.ids { 1 } else { self.settings.in_flight.max(1) };
        (self.draining.is_none() && self.pending.len() < most).then_some(self.ready_at)
    }

    /// So many requests may be under way from now on, where answers carry ids.
    pub fn allow_at_once(&mut self, requests: usize) {
        self.settings.in_flight = requests;
    }

    /// Whether [`Line::next`] has something to wait for.
    pub fn is_busy(&self) -> bool {
        !self.pending.is_empty() || self.draining.is_some()
    }

    /// The requests that are waiting, when the line is lost.
    pub fn pending_tokens(&mut self) -> Vec<u64> {
        self.pending.drain(..).map(|pending| pending.token).collect()
    }

    /// Sends a request. Only when [`Line::ready_at`] allows it.
    pub async fn send(&mut self, token: u64, unit: u8, any_unit: bool, request: Request) -> Result<(), Lost> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        self.expired.retain(|expired| *expired != id);
        self.sent.clear();
        self.framing.encode(id, unit, &request, &mut self.sent);
        if self.framing == Framing::Rtu {
            // Whatever lies here belongs to no request of ours.
            self.counters.noise_bytes += self.held.len() as u64;
            self.held.clear();
        }
        self.echo_due = self.settings.echo;
        let answer_bytes = request.answer_bytes().unwrap_or(crate::pdu::MOST_BYTES) + self.framing.overhead_bytes();
        let on_the_line = self.serial.as_ref().map_or(Duration::ZERO, |serial| serial.transmission(self.sent.len() + answer_bytes));
        self.pending.push_back(Pending {
            token,
            id,
            unit,
            any_unit,
            request,
            deadline: Instant::now() + self.settings.timeout + on_the_line,
        });
        let writing =
            tokio::time::timeout(self.settings.timeout.max(Duration::from_secs(1)) + on_the_line, self.stream.write_all(&self.sent));
        match writing.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(lost(&error)),
            Err(_) => Err(Lost::Io("the peer takes no bytes".into())),
        }
    }

    /// The next event. Cancel-safe.
    pub async fn next(&mut self) -> Event {
        loop {
            if self.draining.is_none() {
                match self.take_answer() {
                    Ok(Some(event)) => return event,
                    Ok(None) => {}
                    Err(lost) => return Event::Lost(lost),
                }
            }
            let deadline = match &self.draining {
                Some(draining) => Some(draining.silent_at),
                None => self.pending.iter().map(|pending| pending.deadline).min(),
            };
            let reading = self.stream.read_buf(&mut self.held);
            let read = match deadline {
                Some(deadline) => match tokio::time::timeout_at(deadline, reading).await {
                    Ok(read) => read,
                    Err(_) => match self.give_up() {
                        Some(event) => return event,
                        None => continue,
                    },
                },
                None => reading.await,
            };
            match read {
                Ok(0) => return Event::Lost(Lost::Closed),
                Ok(_) => {}
                Err(error) => return Event::Lost(lost(&error)),
            }
            if let Some(draining) = &mut self.draining {
                self.counters.noise_bytes += self.held.len() as u64;
                self.held.clear();
                draining.silent_at = Instant::now() + self.settings.timeout;
                if draining.silent_at > draining.give_up_at {
                    return Event::Lost(Lost::Babble);
                }
            } else if self.pending.is_empty() && self.framing == Framing::Rtu {
                self.counters.noise_bytes += self.held.len() as u64;
                self.held.clear();
            }
        }
    }

    /// A deadline has passed.
    fn give_up(&mut self) -> Option<Event> {
        if self.draining.take().is_some() {
            self.held.clear();
            self.ready_at = Instant::now();
            return Some(Event::Silent);
        }
        let now = Instant::now();
        let index = self.pending.iter().position(|pending| pending.deadline <= now)?;
        let trouble = match self.framing {
            Framing::Rtu if !self.held.is_empty() => match rtu_frame(&self.held, &self.pending[index].request) {
                RtuFrame::BadCrc => Trouble::Checksum,
                _ => Trouble::Cut(self.held.len()),
            },
            Framing::Tcp if !self.held.is_empty() => Trouble::Cut(self.held.len()),
            _ => Trouble::Timeout(self.settings.timeout),
        };
        Some(self.answered(index, Outcome::Trouble(trouble), true))
    }

    /// Ends a pending request.
    fn answered(&mut self, index: usize, outcome: Outcome, is_given_up: bool) -> Event {
        let Some(pending) = self.pending.remove(index) else { return Event::Silent };
        if is_given_up {
            // Of an answer that was cut nobody knows where the next frame begins.
            let is_cut = matches!(outcome, Outcome::Trouble(Trouble::Cut(_)));
            match (self.framing, self.settings.ids) {
                (Framing::Tcp, true) if !is_cut => {
                    if self.expired.len() == MOST_EXPIRED {
                        self.expired.pop_front();
                    }
                    self.expired.push_back(pending.id);
                }
                _ => self.drain(),
            }
        } else {
            self.answers += 1;
        }
        let silence = self.serial.as_ref().map_or(Duration::ZERO, |serial| serial.silence());
        self.ready_at = Instant::now() + self.settings.pause.max(silence);
        Event::Answer { token: pending.token, outcome }
    }

    fn drain(&mut self) {
        let now = Instant::now();
        self.counters.noise_bytes += self.held.len() as u64;
        self.held.clear();
        self.draining = Some(Draining { silent_at: now + self.settings.timeout, give_up_at: now + self.settings.timeout * MOST_DRAINS });
    }

    /// Whether only a new connection tells a late answer from the next one.
    pub fn must_reopen(&self) -> bool {
        self.draining.is_some() && self.serial.is_none()
    }

    fn take_answer(&mut self) -> Result<Option<Event>, Lost> {
        match self.framing {
            Framing::Tcp => self.take_tcp(),
            Framing::Rtu => Ok(self.take_rtu()),
        }
    }

    fn take_tcp(&mut self) -> Result<Option<Event>, Lost> {
        while let Some(frame) = tcp_frame(&self.held)? {
            let found = if self.settings.ids {
                self.pending.iter().position(|pending| pending.id == frame.id)
            } else {
                (!self.pending.is_empty()).then_some(0)
            };
            let Some(index) = found else {
                self.held.drain(..frame.pdu.end);
                if !self.settings.ids {
                    self.counters.late += 1;
                    continue;
                }
                let Some(place) = self.expired.iter().position(|id| *id == frame.id) else { return Err(Lost::Stranger(frame.id)) };
                self.expired.remove(place);
                self.counters.late += 1;
                continue;
            };
            let pending = &self.pending[index];
            let outcome = if frame.unit != pending.unit && !(pending.any_unit && frame.unit == 0) {
                Outcome::Trouble(Trouble::Unit { asked: pending.unit, got: frame.unit })
            } else {
                outcome(&pending.request, &self.held[frame.pdu.clone()], &mut self.data)
            };
            self.held.drain(..frame.pdu.end);
            // Without ids a misfit may be the late answer to an earlier request: then nothing on this connection can be trusted.
            let is_doubtful = !self.settings.ids && matches!(outcome, Outcome::Trouble(_));
            return Ok(Some(self.answered(index, outcome, is_doubtful)));
        }
        Ok(None)
    }

    fn take_rtu(&mut self) -> Option<Event> {
        loop {
            let pending = self.pending.front()?;
            if self.echo_due {
                if self.held.len() < self.sent.len() && self.sent.starts_with(&self.held) {
                    return None;
                }
                self.echo_due = false;
                if self.held.starts_with(&self.sent) {
                    self.held.drain(..self.sent.len());
                }
            }
            match rtu_frame(&self.held, &pending.request) {
                RtuFrame::Found { unit, pdu, end, noise } => {
                    self.counters.noise_bytes += noise as u64;
                    if unit != pending.unit && !(pending.any_unit && unit == 0) {
                        self.counters.strangers += 1;
                        self.held.drain(..end);
                        continue;
                    }
                    let outcome = outcome(&pending.request, &self.held[pdu], &mut self.data);
                    self.held.drain(..end);
                    let is_doubtful = matches!(outcome, Outcome::Trouble(_));
                    return Some(self.answered(0, outcome, is_doubtful));
                }
                RtuFrame::BadCrc | RtuFrame::Partial => {
                    if self.held.len() >= MOST_HELD_BYTES {
                        self.counters.noise_bytes += self.held.len() as u64;
                        self.held.clear();
                    }
                    return None;
                }
            }
        }
    }
}

fn outcome(request: &Request, pdu: &[u8], data: &mut Vec<u8>) -> Outcome {
    match request.reply(pdu) {
        Ok(Reply::Data(bytes)) => {
            data.clear();
            data.extend_from_slice(bytes);
            Outcome::Data
        }
        Ok(Reply::Refused(exception)) => Outcome::Refused(exception),
        Err(misfit) => Outcome::Trouble(Trouble::Misfit(misfit)),
    }
}

fn lost(error: &std::io::Error) -> Lost {
    match error.kind() {
        std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe | std::io::ErrorKind::UnexpectedEof => Lost::Closed,
        _ => Lost::Io(error.to_string()),
    }
}
