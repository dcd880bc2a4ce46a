//! A body within its bounds: of size, of time, of memory for all of them; compressed ones measured by what comes out.

use crate::answer::Answer;
use bytes::{Buf, Bytes, BytesMut};
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::{Body as _, Incoming};
use hyper::header::CONTENT_ENCODING;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory is handed out in pieces of this many bytes.
const PIECE: usize = 1024;

/// What bodies may take.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// Of one body, as it comes and as it is unpacked.
    pub most: usize,
    /// How long one may take to come.
    pub within: Duration,
    /// The memory for all that wait.
    pub memory: Arc<Semaphore>,
}

/// A body; its memory is free again when it is dropped.
#[derive(Debug)]
pub struct Body {
    pub bytes: Bytes,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Body {
    pub fn of(bytes: Bytes) -> Self {
        Self { bytes, _memory: None }
    }
}

impl Bounds {
    /// The semaphore of so many bytes.
    pub fn memory(bytes: u64) -> Arc<Semaphore> {
        Arc::new(Semaphore::new((bytes as usize / PIECE).clamp(1, Semaphore::MAX_PERMITS)))
    }

    /// Reads a body. Errors: the answer to give: 408, 413, 415, 429.
    pub async fn read(&self, incoming: Incoming, headers: &HeaderMap) -> Result<Body, Answer> {
        let too_large = || Answer::refused(413, format!("the body is larger than {} bytes, the source's `max_body`", self.most));
        let hint = incoming.size_hint();
        let length = hint.exact().unwrap_or(self.most as u64);
        if hint.lower() > self.most as u64 {
            return Err(too_large());
        }
        let encoding = headers.get(CONTENT_ENCODING).map_or("identity", |value| value.to_str().unwrap_or("?"));
        // What is compressed may become as large as allowed.
        let wanted = if encoding == "identity" { length } else { length + self.most as u64 };
        let pieces = (wanted as usize).div_ceil(PIECE) as u32;
        let Ok(memory) = self.memory.clone().try_acquire_many_owned(pieces.max(1)) else {
            return Err(Answer::later(429, 1, "too many posts wait for their answers"));
        };
        let reading = self.collect(incoming);
        let bytes = match tokio::time::timeout(self.within, reading).await {
            Err(_) => return Err(Answer::refused(408, format!("the body did not come within {:?}", self.within)).closing()),
            Ok(Err(Some(why))) => return Err(Answer::refused(400, format!("the body ended early: {why}")).closing()),
            Ok(Err(None)) => return Err(too_large().closing()),
            Ok(Ok(bytes)) => bytes,
        };
        let unpacked = match encoding {
            "identity" => Ok(bytes),
            "gzip" | "x-gzip" => self.unpack(move || MultiGzDecoder::new(bytes.reader())).await,
            "deflate" => self.unpack(move || ZlibDecoder::new(bytes.reader())).await,
            other => return Err(Answer::refused(415, format!("the content encoding `{other}` is not known; there are gzip and deflate"))),
        };
        match unpacked {
            Ok(bytes) => Ok(Body { bytes, _memory: Some(memory) }),
            Err(None) => Err(too_large()),
            Err(Some(why)) => Err(Answer::refused(400, format!("the body cannot be decompressed: {why}"))),
        }
    }

    /// `Err(None)`: too large.
    async fn collect(&self, mut incoming: Incoming) -> Result<Bytes, Option<String>> {
        let mut first = Bytes::new();
        let mut all = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            let Ok(data) = frame.map_err(|error| Some(error.to_string()))?.into_data() else { continue };
            if first.len() + all.len() + data.len() > self.most {
                return Err(None);
            }
            if first.is_empty() && all.is_empty() {
                first = data;
                continue;
            }
            if all.is_empty() {
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&data);
        }
        Ok(if all.is_empty() { first } else { all.freeze() })
    }

    /// Beside the threads that serve: a small body may take long to unpack.
    async fn unpack<R: Read>(&self, open: impl FnOnce() -> R + Send + 'static) -> Result<Bytes, Option<String>> {
        let most = self.most;
        let unpacked = tokio::task::spawn_blocking(move || {
            let mut out = Vec::new();
            open().take(most as u64 + 1).read_to_end(&mut out).map_err(|error| Some(error.to_string()))?;
            if out.len() > most { Err(None) } else { Ok(out.into()) }
        });
        unpacked.await.unwrap_or_else(|error| Err(Some(error.to_string())))
    }
}
