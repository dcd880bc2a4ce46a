//! One client's connection: requests in, answers out in the same order.
//!
//! A request is begun when it has come in, up to [`WINDOW`] of them; its answer waits for those before it. So a client that sends several
//! batches without waiting for answers (librdkafka: five) has them synced together.
//!
//! Whatever comes in, memory is bounded: a frame's length before anything is allocated, what it is decoded to and what is answered before it is decoded
//! ([`crate::limits`]), the lists inside by their bytes ([`crate::net::request_bounds`]). Before its login a client sends small frames or none. A
//! request that cannot be read ends its connection, no other.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::{ApiKey, RequestHeader};
use kafka_protocol::protocol::Decodable;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;

use crate::api::{self, Broken, sasl};
use crate::broker::Broker;
use crate::call::{Call, Session};
use crate::limits::{SMALL_FRAME, Taken};
use crate::net::request_bounds;

/// The largest frame that is read.
pub const MAX_FRAME: usize = 32 << 20;
/// What is read or written at once where a frame does not need more.
const BUFFER: usize = 4 << 10;
/// Requests of one connection that wait for their answers.
const WINDOW: usize = 8;
/// How long a frame may take to come or to go, and a second more for each of its [`SLOWEST`] bytes.
const STALLED: Duration = Duration::from_secs(30);
const SLOWEST: usize = 1 << 20;
/// As Kafka's `connections.max.idle.ms`.
const IDLE: Duration = Duration::from_secs(600);
/// How long a login may take, TLS apart.
const LOGIN: Duration = Duration::from_secs(30);
/// An answer up to this size is covered by its request's room.
const SMALL_ANSWER: usize = 4 << 10;

/// Why a connection ended, where it is worth a line in the log.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("a frame of {0} bytes is larger than {MAX_FRAME}")]
    TooLarge(i32),
    #[error("{} requests of version {version} are not served (client {client:?}); versions {served}", name_of(*key))]
    Unknown { key: i16, version: i16, client: String, served: String },
    #[error("a request's header cannot be read: {0}")]
    Header(String),
    #[error("{0:?} was asked for before a login")]
    Stranger(ApiKey),
    #[error("a frame of {0} bytes came before a login, where {SMALL_FRAME} are the most")]
    LargeBeforeLogin(usize),
    #[error("nobody logged in within {} seconds", LOGIN.as_secs())]
    NoLogin,
    #[error("a login failed")]
    NotKnown,
    #[error("half a request came, and its rest did not in time")]
    Stalled,
    #[error("an answer was not taken in time")]
    Unread,
}

type Answer = Pin<Box<dyn Future<Output = Result<Option<Bytes>, Broken>> + Send>>;

/// An answer or what makes it, with the room that its request has until it is written.
struct Pending {
    work: Work,
    _room: Option<Taken>,
}

enum Work {
    Done(Result<Option<Bytes>, Broken>),
    Working(Answer),
}

impl Pending {
    fn done(answer: Bytes) -> Self {
        Self { work: Work::Done(Ok(Some(answer))), _room: None }
    }
}

/// Serves a connection until either side ends it; `stranger` is given back when the client has logged in.
pub async fn serve<S: AsyncRead + AsyncWrite + Send>(
    broker: Arc<Broker>,
    stream: S,
    session: Session,
    stranger: Option<OwnedSemaphorePermit>,
) -> Result<(), Ended> {
    let (reader, writer) = tokio::io::split(stream);
    let (queue, answers) = mpsc::channel(WINDOW);
    let session = Arc::new(session);
    tokio::select! {
        // Answers first: when reading ends, what was asked before is still answered.
        biased;
        written = write(writer, answers) => written,
        failed = async {
            let read = read(broker, session, reader, queue, stranger).await;
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
    reader: R,
    queue: mpsc::Sender<Pending>,
    stranger: Option<OwnedSemaphorePermit>,
) -> Result<(), Ended> {
    let mut reader = BufReader::with_capacity(BUFFER, reader);
    if !serve_strangers(&broker, &session, &mut reader, &queue).await? {
        return Ok(());
    }
    drop(stranger);
    while let Some(frame) = next_frame(&broker, &mut reader, MAX_FRAME).await? {
        let pending = begin(&broker, &session, frame).await?;
        if queue.send(pending).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Serves a client until it has logged in, where a login is asked for: one of a few, with small frames, for a short time. False: it has hung up.
async fn serve_strangers<R: AsyncRead + Unpin>(
    broker: &Arc<Broker>,
    session: &Arc<Session>,
    reader: &mut BufReader<R>,
    queue: &mpsc::Sender<Pending>,
) -> Result<bool, Ended> {
    let login = async {
        while broker.guard.is_some() && !session.login.lock().is_known() {
            let Some(frame) = next_frame(broker, reader, SMALL_FRAME).await? else { return Ok(false) };
            let pending = begin(broker, session, frame).await?;
            if queue.send(pending).await.is_err() {
                return Ok(false);
            }
        }
        Ok(true)
    };
    timeout(LOGIN, login).await.unwrap_or(Err(Ended::NoLogin))
}

/// The next frame without its length, of `most` bytes at most; `None` when the client has hung up between two.
async fn next_frame<R: AsyncRead + Unpin>(broker: &Broker, reader: &mut BufReader<R>, most: usize) -> Result<Option<Bytes>, Ended> {
    let mut head = [0; 4];
    match timeout(IDLE, reader.read(&mut head[..1])).await {
        Ok(Ok(0)) | Err(_) => return Ok(None),
        Ok(read) => read?,
    };
    match timeout(STALLED, reader.read_exact(&mut head[1..])).await {
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Ok(read) => read?,
        Err(_) => return Err(Ended::Stalled),
    };
    let length = i32::from_be_bytes(head);
    let size = usize::try_from(length).ok().filter(|size| *size <= MAX_FRAME).ok_or(Ended::TooLarge(length))?;
    if size > most {
        return Err(Ended::LargeBeforeLogin(size));
    }
    let taken = if size > SMALL_FRAME { Some(broker.limits.frames.take(size).await) } else { None };
    let mut frame = Vec::with_capacity(size);
    let rest = async {
        let mut reader = reader.take(size as u64);
        while frame.len() < size {
            if reader.read_buf(&mut frame).await? == 0 {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let is_whole = timeout(patience(size), rest).await.unwrap_or(Err(Ended::Stalled))?;
    Ok(is_whole.then(|| match taken {
        Some(taken) => taken.hold(frame),
        None => frame.into(),
    }))
}

fn patience(size: usize) -> Duration {
    STALLED + Duration::from_secs((size / SLOWEST) as u64)
}

/// What an error calls a request.
fn name_of(key: i16) -> String {
    ApiKey::try_from(key).map_or_else(|()| format!("key {key}"), |key| format!("{key:?}"))
}

/// Why a request is not served: who sent what, and what could be sent.
fn unknown(key: i16, version: i16, frame: &Bytes) -> Ended {
    // The client's name stands at the same place in every header but the oldest of one request.
    let client = RequestHeader::decode(&mut frame.clone(), 1).ok().and_then(|header| header.client_id);
    let client: String = client.as_deref().unwrap_or_default().chars().filter(|one| !one.is_control()).take(64).collect();
    let served = api::versions_of(key).map_or_else(|| "none are".to_owned(), |(min, max)| format!("{min} to {max} are"));
    Ended::Unknown { key, version, client, served }
}

/// Reads a request's header, finds room for what it will become, and sets its handler to work.
async fn begin(broker: &Arc<Broker>, session: &Arc<Session>, mut frame: Bytes) -> Result<Pending, Ended> {
    if let Some(guard) = broker.guard.as_ref().filter(|_| session.sends_bare_tokens.load(Relaxed)) {
        return sasl::bare(guard, session, &frame).map(Pending::done).ok_or(Ended::NotKnown);
    }
    let size = frame.len();
    let head = frame.first_chunk::<8>().ok_or_else(|| Ended::Header(format!("it is {size} bytes long")))?;
    let (key, version) = (i16::from_be_bytes([head[0], head[1]]), i16::from_be_bytes([head[2], head[3]]));
    let correlation = i32::from_be_bytes([head[4], head[5], head[6], head[7]]);
    let key = match api::find(key, version) {
        Ok(key) => key,
        Err(Some(ApiKey::ApiVersions)) => return Ok(Pending::done(api::unsupported_version(correlation))),
        Err(_) => return Err(unknown(key, version, &frame)),
    };
    if broker.guard.is_some() && !session.login.lock().allows(key) {
        return Err(Ended::Stranger(key));
    }
    let header = RequestHeader::decode(&mut frame, key.request_header_version(version)).map_err(|e| Ended::Header(e.to_string()))?;
    let Some(elements) = request_bounds::elements(key, version, &frame) else {
        return Err(Broken::Request(key, version, "a length in it is larger than the frame, or its lists are too long".to_owned()).into());
    };
    let room = broker.limits.request(size, elements).await;
    // Few at a time make an answer whose size nobody knows before it is there.
    let listing = if api::lists(key) { Some(broker.limits.listings.acquire().await.expect("nobody closes it")) } else { None };
    let call = Call { broker: broker.clone(), session: session.clone(), key, version, correlation, client_id: header.client_id };
    let mut answer: Answer = Box::pin(api::answer(call, frame));
    // What a handler does before it waits is done now, in the order of the requests.
    let first = std::future::poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await;
    let work = match first {
        Poll::Ready(Ok(Some(bytes))) if listing.is_some() && bytes.len() > SMALL_ANSWER => {
            Work::Done(Ok(Some(broker.limits.answers.take(bytes.len()).await.hold(bytes))))
        }
        Poll::Ready(done) => Work::Done(done),
        Poll::Pending => Work::Working(answer),
    };
    Ok(Pending { work, _room: Some(room) })
}

async fn write<W: AsyncWrite + Unpin>(writer: W, mut answers: mpsc::Receiver<Pending>) -> Result<(), Ended> {
    let mut writer = BufWriter::with_capacity(BUFFER, writer);
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
        let answer = match pending.work {
            Work::Done(answer) => answer,
            Work::Working(work) => {
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
