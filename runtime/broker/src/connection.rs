//! One client's connection: requests in, answers out in the same order.
//!
//! A request is begun when it has come in, up to [`WINDOW`] of them; its answer waits for those before it. So a client that sends several
//! batches without waiting for answers (librdkafka: five) has them synced together.
//!
//! Whatever comes in, memory is bounded: a frame's length before anything is allocated, all frames together by [`REQUESTS`], the lists inside by
//! their bytes ([`crate::shape`]). Small frames are read whatever room there is, so that large ones hold up only each other. A request that
//! cannot be read ends its connection, no other.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, RequestHeader};
use kafka_protocol::protocol::Decodable;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufWriter};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::api::{self, Broken, Call};
use crate::broker::Broker;
use crate::sasl::{self, Login};

/// The largest frame that is read.
pub const MAX_FRAME: usize = 32 << 20;
/// Bytes of all frames together that have come, at least in part, and are not answered; those up to [`READ`] are not counted.
pub const REQUESTS: usize = 2 * MAX_FRAME;
/// What is read at once where no frame needs more.
const READ: usize = 16 << 10;
/// Requests of one connection that wait for their answers.
const WINDOW: usize = 8;
/// How long a frame may take to come or to go, and a second more for each of its [`SLOWEST`] bytes.
const STALLED: Duration = Duration::from_secs(30);
const SLOWEST: usize = 1 << 20;
/// As Kafka's `connections.max.idle.ms`.
const IDLE: Duration = Duration::from_secs(600);

/// Who is at the other end.
pub struct Session {
    pub peer: SocketAddr,
    /// The address the client reached: what it is told to connect to.
    pub local: SocketAddr,
    /// Who it has proved to be, where the listener asks.
    pub login: Mutex<Login>,
    /// What it sends now are words of a login, without a request around them.
    pub sends_bare_tokens: AtomicBool,
}

/// Why a connection ended, where it is worth a line in the log.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("a frame of {0} bytes is larger than {MAX_FRAME}")]
    TooLarge(i32),
    #[error("request {key} version {version} is not served")]
    Unknown { key: i16, version: i16 },
    #[error("a request's header cannot be read: {0}")]
    Header(String),
    #[error("{0:?} was asked for before a login")]
    Stranger(ApiKey),
    #[error("a login failed")]
    NotKnown,
    #[error("half a request came, and its rest did not in time")]
    Stalled,
    #[error("an answer was not taken in time")]
    Unread,
}

type Answer = Pin<Box<dyn Future<Output = Result<Option<Bytes>, Broken>> + Send>>;

/// An answer, or what makes it.
enum Pending {
    Done(Result<Option<Bytes>, Broken>),
    Working(Answer),
}

/// Serves a connection until either side ends it.
pub async fn serve<S: AsyncRead + AsyncWrite + Send>(broker: Arc<Broker>, stream: S, session: Session) -> Result<(), Ended> {
    let (reader, writer) = tokio::io::split(stream);
    let (queue, answers) = mpsc::channel(WINDOW);
    let session = Arc::new(session);
    tokio::select! {
        // Answers first: when reading ends, what was asked before is still answered.
        biased;
        written = write(writer, answers) => written,
        failed = async {
            let read = read(broker, session, reader, queue).await;
            match read {
                Ok(()) => std::future::pending().await,
                Err(e) => e,
            }
        } => Err(failed),
    }
}

async fn read<R: AsyncRead + Unpin>(
    broker: Arc<Broker>,
    session: Arc<Session>,
    mut reader: R,
    queue: mpsc::Sender<Pending>,
) -> Result<(), Ended> {
    let mut buffer = BytesMut::new();
    while let Some(frame) = next_frame(&broker, &mut reader, &mut buffer).await? {
        let pending = begin(&broker, &session, frame)?;
        if queue.send(pending).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The next frame without its length; `None` when the client has hung up between two.
async fn next_frame<R: AsyncRead + Unpin>(broker: &Broker, reader: &mut R, buffer: &mut BytesMut) -> Result<Option<Bytes>, Ended> {
    while buffer.len() < 4 {
        buffer.reserve(READ);
        match timeout(IDLE, reader.read_buf(buffer)).await {
            Ok(Ok(0)) | Err(_) => return Ok(None),
            Ok(read) => read?,
        };
    }
    let length = buffer.get_i32();
    let size = usize::try_from(length).ok().filter(|size| *size <= MAX_FRAME).ok_or(Ended::TooLarge(length))?;
    if size <= READ {
        buffer.reserve(READ);
        return Ok(complete(reader, buffer, size).await?.then(|| buffer.split_to(size).freeze()));
    }
    let taken = broker.requests.take(size).await;
    let mut frame = Vec::with_capacity(size);
    frame.extend_from_slice(&buffer.split_to(size.min(buffer.len())));
    Ok(complete(&mut reader.take(size as u64 - frame.len() as u64), &mut frame, size).await?.then(|| taken.hold(frame)))
}

/// Reads on until there are `size` bytes; false: the client has hung up.
async fn complete<R: AsyncRead + Unpin, B: BufMut + AsRef<[u8]>>(reader: &mut R, buffer: &mut B, size: usize) -> Result<bool, Ended> {
    let rest = async {
        while buffer.as_ref().len() < size {
            if reader.read_buf(buffer).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    };
    timeout(patience(size), rest).await.unwrap_or(Err(Ended::Stalled))
}

fn patience(size: usize) -> Duration {
    STALLED + Duration::from_secs((size / SLOWEST) as u64)
}

/// Reads a request's header and sets its handler to work.
fn begin(broker: &Arc<Broker>, session: &Arc<Session>, mut frame: Bytes) -> Result<Pending, Ended> {
    if let Some(guard) = broker.guard.as_ref().filter(|_| session.sends_bare_tokens.load(Relaxed)) {
        return sasl::bare(guard, session, &frame).map(|answer| Pending::Done(Ok(Some(answer)))).ok_or(Ended::NotKnown);
    }
    let head = frame.first_chunk::<8>().ok_or_else(|| Ended::Header(format!("it is {} bytes long", frame.len())))?;
    let (key, version) = (i16::from_be_bytes([head[0], head[1]]), i16::from_be_bytes([head[2], head[3]]));
    let correlation = i32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let key = match api::find(key, version) {
        Ok(key) => key,
        Err(Some(ApiKey::ApiVersions)) => return Ok(Pending::Done(Ok(Some(api::unsupported_version(correlation))))),
        Err(_) => return Err(Ended::Unknown { key, version }),
    };
    if broker.guard.is_some() && !session.login.lock().allows(key) {
        return Err(Ended::Stranger(key));
    }
    let header = RequestHeader::decode(&mut frame, key.request_header_version(version)).map_err(|e| Ended::Header(e.to_string()))?;
    let call = Call { broker: broker.clone(), session: session.clone(), key, version, correlation, client_id: header.client_id };
    let mut answer: Answer = Box::pin(api::answer(call, frame));
    // What a handler does before it waits is done now, in the order of the requests.
    Ok(match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Pending::Done(done),
        Poll::Pending => Pending::Working(answer),
    })
}

async fn write<W: AsyncWrite + Unpin>(writer: W, mut answers: mpsc::Receiver<Pending>) -> Result<(), Ended> {
    let mut writer = BufWriter::with_capacity(16 << 10, writer);
    loop {
        let pending = match answers.try_recv() {
            Ok(pending) => pending,
            Err(_) => {
                writer.flush().await?;
                match answers.recv().await {
                    Some(pending) => pending,
                    None => return Ok(()),
                }
            }
        };
        let answer = match pending {
            Pending::Done(answer) => answer,
            Pending::Working(work) => {
                // What is written already must not wait for this one.
                writer.flush().await?;
                work.await
            }
        };
        if let Some(bytes) = answer? {
            timeout(patience(bytes.len()), writer.write_all(&bytes)).await.map_err(|_| Ended::Unread)??;
        }
    }
}
