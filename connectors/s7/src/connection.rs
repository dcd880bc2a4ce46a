//! One connection to a CPU: dialled, agreed on, and then driven by one task that owns the wire.
//!
//! ```text
//! ask, ask_first ──> queues ──> at most `jobs` in flight ──> TPKT ──> CPU
//!       answer <── by its reference ─────────────────────────────────┘
//! ```
//!
//! What is asked first (commands, acknowledgements) goes out before everything that waits. An answer belongs to the request whose reference it
//! carries; one that nobody waits for is dropped and counted. A request that is not answered in time ends the connection: its answer may yet come,
//! and no later request must be taken for it.
//!
//! Invariants: one owner of the socket; it is closed before the next is opened; everything waits with a bound.

use crate::frame::{self, Answer, Assembler, FrameError, Received};
use std::collections::VecDeque;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

/// How a CPU is dialled.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dial {
    /// `host:port`.
    pub endpoint: String,
    pub own_tsap: u16,
    pub remote_tsap: u16,
    /// How the remote TSAP came about, for errors: `rack 0, slot 1`.
    pub named: String,
    /// The PDU that is asked for.
    pub pdu: u16,
    /// The jobs in flight that are asked for.
    pub jobs: u16,
    /// For the connection to be made, and for each answer.
    pub timeout: Duration,
}

/// Why there is no connection, or no longer.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ConnectionError {
    #[error("cannot connect to {endpoint}: {error}")]
    Connect { endpoint: String, error: String },
    #[error("cannot connect to {endpoint}: no answer within {wait:?}; check the address, the cable, and that port 102 is not blocked")]
    NoConnection { endpoint: String, wait: Duration },
    #[error(
        "{endpoint} refuses the connection to {named} (TSAP {tsap:04x}): the CPU is in another slot (S7-300: 2; S7-1200 and S7-1500: 1; S7-400: as in the hardware configuration), has no connection left, or wants `tsap` (LOGO!, S7-200)"
    )]
    Refused { endpoint: String, named: String, tsap: u16 },
    #[error("{endpoint} refuses S7 communication with error {error:#06x}")]
    Setup { endpoint: String, error: u16 },
    #[error("{endpoint} agreed on a PDU of {pdu} bytes, and reading takes 112 at least")]
    Pdu { endpoint: String, pdu: u16 },
    #[error("{endpoint} closed the connection")]
    Closed { endpoint: String },
    #[error("the connection to {endpoint} broke: {error}")]
    Broken { endpoint: String, error: String },
    #[error("{endpoint} did not answer within {wait:?}")]
    Silent { endpoint: String, wait: Duration },
    #[error("{endpoint} sent bytes that are not S7: {error}")]
    Frame { endpoint: String, error: FrameError },
}

/// What a connection is used through; clones share it.
#[derive(Clone, Debug)]
pub struct Wire {
    endpoint: std::sync::Arc<str>,
    queue: mpsc::Sender<Request>,
    first: mpsc::Sender<Request>,
    /// The PDU that was agreed on.
    pub pdu: u16,
    /// The jobs in flight that were agreed on.
    pub jobs: u16,
}

#[derive(Debug)]
struct Request {
    pdu: Vec<u8>,
    answer: oneshot::Sender<Vec<u8>>,
}

/// An answer that will come, unless the connection ends.
pub struct Asked(oneshot::Receiver<Vec<u8>>);

impl Asked {
    /// The answer's PDU. Waits forever if the connection ended: whoever drives it says why.
    pub async fn answer(self) -> Vec<u8> {
        match self.0.await {
            Ok(pdu) => pdu,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Wire {
    /// Queues a request.
    pub async fn ask(&self, pdu: Vec<u8>) -> Asked {
        Self::push(&self.queue, pdu).await
    }

    /// As [`Self::ask`], before everything that waits.
    pub async fn ask_first(&self, pdu: Vec<u8>) -> Asked {
        Self::push(&self.first, pdu).await
    }

    async fn push(queue: &mpsc::Sender<Request>, pdu: Vec<u8>) -> Asked {
        let (answer, asked) = oneshot::channel();
        // The driver is gone: so is the sender of the answer, which tells.
        let _ = queue.send(Request { pdu, answer }).await;
        Asked(asked)
    }

    /// An answer that is none: for the session to end with.
    pub fn foreign(&self, error: FrameError) -> ConnectionError {
        ConnectionError::Frame { endpoint: self.endpoint.to_string(), error }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

/// Requests that wait for the driver.
const QUEUED_MOST: usize = 32;
const READ_BYTES: usize = 16 * 1024;

/// Owns the socket; to be run beside whatever uses the [`Wire`].
#[derive(Debug)]
pub struct Driver {
    endpoint: String,
    stream: TcpStream,
    assembler: Assembler,
    tpdu: usize,
    jobs: usize,
    timeout: Duration,
    queue: mpsc::Receiver<Request>,
    first: mpsc::Receiver<Request>,
    in_flight: VecDeque<InFlight>,
    reference: u16,
    out: Vec<u8>,
}

#[derive(Debug)]
struct InFlight {
    reference: u16,
    deadline: Instant,
    answer: oneshot::Sender<Vec<u8>>,
}

impl Dial {
    /// Connects and agrees on the size of a PDU and the jobs in flight.
    pub async fn connect(&self) -> Result<(Wire, Driver), ConnectionError> {
        let endpoint = || self.endpoint.clone();
        let connecting = timeout(self.timeout, TcpStream::connect(&*self.endpoint)).await;
        let stream = connecting
            .map_err(|_| ConnectionError::NoConnection { endpoint: endpoint(), wait: self.timeout })?
            .map_err(|error| ConnectionError::Connect { endpoint: endpoint(), error: error.to_string() })?;
        let _ = stream.set_nodelay(true);
        let (queue_in, queue) = mpsc::channel(QUEUED_MOST);
        let (first_in, first) = mpsc::channel(QUEUED_MOST);
        let mut driver = Driver {
            endpoint: endpoint(),
            stream,
            assembler: Assembler::default(),
            tpdu: 128,
            jobs: 1,
            timeout: self.timeout,
            queue,
            first,
            in_flight: VecDeque::new(),
            reference: 0,
            out: Vec::new(),
        };
        let refused = || ConnectionError::Refused { endpoint: endpoint(), named: self.named.clone(), tsap: self.remote_tsap };
        driver.send(&frame::connect(self.own_tsap, self.remote_tsap)).await?;
        match driver.receive().await {
            Ok(Received::Confirmed { tpdu }) => driver.tpdu = tpdu,
            Ok(Received::Disconnected(_)) | Err(ConnectionError::Closed { .. } | ConnectionError::Broken { .. }) => return Err(refused()),
            Ok(Received::Data(_)) => return Err(driver.foreign(FrameError::Foreign("data came before the connection was confirmed"))),
            Err(error) => return Err(error),
        }
        driver.request(&mut frame::setup(self.pdu, self.jobs)).await?;
        let answer = match driver.receive().await {
            Ok(Received::Data(pdu)) => pdu,
            Ok(Received::Disconnected(_)) | Err(ConnectionError::Closed { .. } | ConnectionError::Broken { .. }) => return Err(refused()),
            Ok(_) => return Err(driver.foreign(FrameError::Foreign("the connection was confirmed twice"))),
            Err(error) => return Err(error),
        };
        let answer = Answer::parse(&answer).map_err(|error| driver.foreign(error))?;
        if answer.error != 0 {
            return Err(ConnectionError::Setup { endpoint: endpoint(), error: answer.error });
        }
        let (pdu, jobs) = answer.agreed().map_err(|error| driver.foreign(error))?;
        // No more than was asked for, whatever it says.
        let (pdu, jobs) = (pdu.min(self.pdu), jobs.min(self.jobs));
        if pdu < 112 {
            return Err(ConnectionError::Pdu { endpoint: endpoint(), pdu });
        }
        driver.jobs = usize::from(jobs);
        Ok((Wire { endpoint: endpoint().into(), queue: queue_in, first: first_in, pdu, jobs }, driver))
    }
}

impl Driver {
    /// Carries requests and answers until the connection ends; says why it did. While nothing is asked it may be dropped, and run again.
    pub async fn run(&mut self) -> ConnectionError {
        match self.carry().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn carry(&mut self) -> Result<std::convert::Infallible, ConnectionError> {
        loop {
            let may_send = self.in_flight.len() < self.jobs;
            // The oldest was asked first, so its time is up first.
            let deadline = self.in_flight.front().map(|waiting| waiting.deadline);
            let late = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let buffer = self.assembler.buffer();
            buffer.reserve(READ_BYTES);
            tokio::select! {
                biased;
                read = self.stream.read_buf(buffer) => {
                    self.check(read)?;
                    while let Some(received) = self.next()? {
                        self.take(received)?;
                    }
                }
                Some(request) = self.first.recv(), if may_send => self.start(request).await?,
                Some(request) = self.queue.recv(), if may_send => self.start(request).await?,
                () = late => return Err(ConnectionError::Silent { endpoint: self.endpoint.clone(), wait: self.timeout }),
            }
        }
    }

    async fn start(&mut self, mut request: Request) -> Result<(), ConnectionError> {
        let reference = self.request(&mut request.pdu).await?;
        self.in_flight.push_back(InFlight { reference, deadline: Instant::now() + self.timeout, answer: request.answer });
        Ok(())
    }

    fn take(&mut self, received: Received) -> Result<(), ConnectionError> {
        let pdu = match received {
            Received::Data(pdu) => pdu,
            Received::Disconnected(_) => return Err(ConnectionError::Closed { endpoint: self.endpoint.clone() }),
            Received::Confirmed { .. } => return Err(self.foreign(FrameError::Foreign("the connection was confirmed twice"))),
        };
        let answer = Answer::parse(&pdu).map_err(|error| self.foreign(error))?;
        match self.in_flight.iter().position(|waiting| waiting.reference == answer.reference && answer.kind != 1) {
            Some(at) => {
                if let Some(waiting) = self.in_flight.remove(at) {
                    let _ = waiting.answer.send(pdu);
                }
            }
            None => tracing::debug!(endpoint = self.endpoint, reference = answer.reference, "dropped an answer that nobody waits for"),
        }
        Ok(())
    }

    /// Gives the request its reference and sends it.
    async fn request(&mut self, pdu: &mut [u8]) -> Result<u16, ConnectionError> {
        self.reference = self.reference.wrapping_add(1);
        frame::set_reference(pdu, self.reference);
        let mut out = std::mem::take(&mut self.out);
        out.clear();
        frame::wrap(pdu, self.tpdu, &mut out);
        let sent = self.send(&out).await;
        self.out = out;
        sent.map(|()| self.reference)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), ConnectionError> {
        let sent = timeout(self.timeout, self.stream.write_all(bytes)).await;
        sent.map_err(|_| ConnectionError::Silent { endpoint: self.endpoint.clone(), wait: self.timeout })?
            .map_err(|error| ConnectionError::Broken { endpoint: self.endpoint.clone(), error: error.to_string() })
    }

    /// The next thing that comes, while nothing is in flight.
    async fn receive(&mut self) -> Result<Received, ConnectionError> {
        let deadline = Instant::now() + self.timeout;
        loop {
            if let Some(received) = self.next()? {
                return Ok(received);
            }
            let buffer = self.assembler.buffer();
            let read = tokio::time::timeout_at(deadline, self.stream.read_buf(buffer)).await;
            let read = read.map_err(|_| ConnectionError::Silent { endpoint: self.endpoint.clone(), wait: self.timeout })?;
            self.check(read)?;
        }
    }

    fn check(&self, read: std::io::Result<usize>) -> Result<(), ConnectionError> {
        match read {
            Ok(0) => Err(ConnectionError::Closed { endpoint: self.endpoint.clone() }),
            Ok(_) => Ok(()),
            Err(error) => Err(ConnectionError::Broken { endpoint: self.endpoint.clone(), error: error.to_string() }),
        }
    }

    fn next(&mut self) -> Result<Option<Received>, ConnectionError> {
        self.assembler.take().map_err(|error| self.foreign(error))
    }

    fn foreign(&self, error: FrameError) -> ConnectionError {
        ConnectionError::Frame { endpoint: self.endpoint.clone(), error }
    }
}
