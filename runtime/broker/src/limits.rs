//! What all connections together may take: the one bound of the broker's memory above what it stores.
//!
//! ```text
//! connection   buffers of its own, and a frame of up to SMALL_FRAME      CONNECTIONS_MAX of them    about 20 MiB
//! frames       a larger frame, from its length on until it is decoded    FRAMES                          40 MiB
//! decoded      a request and its answer, until that is written           SMALL_REQUESTS + WIDE_REQUESTS  28 MiB
//! answers      what is fetched or listed, until that is written          ANSWERS                         24 MiB
//! ```
//!
//! With 16 MiB of batches that wait for their fdatasync that is 128 MiB, however many clients send whatever they like. Who holds room in one line waits
//! only for a later one, so nobody waits in a circle; each line is first come, first served. A client that does not go on with what it holds
//! room for is disconnected by [`crate::net::connection`]. Before its login a client has its connection and small frames, nothing else.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections at once; what comes beyond is closed.
pub const CONNECTIONS_MAX: usize = 1_000;
/// Of these, clients that have not logged in yet, where a login is asked for.
pub const STRANGERS_MAX: usize = 250;
/// A frame up to this size needs no room in advance. A login's are smaller.
pub const SMALL_FRAME: usize = 8 << 10;
pub const FRAMES: usize = 40 << 20;
/// A request that costs more stands in another line, so that it holds up only its like.
const SMALL_REQUEST: usize = 64 << 10;
const SMALL_REQUESTS: usize = 12 << 20;
const WIDE_REQUESTS: usize = 16 << 20;
/// Elements of all lists of a request together.
pub const ELEMENTS_MAX: usize = WIDE_REQUESTS / ELEMENT - SMALL_FRAME / ELEMENT;
/// An element of a list, decoded, with what is answered to it.
const ELEMENT: usize = 512;
const ANSWERS: usize = 24 << 20;
/// Answers made at the same time whose size depends on what the broker holds, not on what it was asked.
const LISTINGS: usize = 2;

/// The lines that clients stand in for memory.
pub struct Limits {
    pub frames: MemoryLimit,
    small: MemoryLimit,
    wide: MemoryLimit,
    pub answers: MemoryLimit,
    pub listings: Semaphore,
    /// Held by the one that unpacks batches for a client.
    pub unpacking: Semaphore,
    pub strangers: Arc<Semaphore>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frames: MemoryLimit::new(FRAMES),
            small: MemoryLimit::new(SMALL_REQUESTS),
            wide: MemoryLimit::new(WIDE_REQUESTS),
            answers: MemoryLimit::new(ANSWERS),
            listings: Semaphore::new(LISTINGS),
            unpacking: Semaphore::new(1),
            strangers: Arc::new(Semaphore::new(STRANGERS_MAX)),
        }
    }
}

impl Limits {
    /// Waits for room for a request of so many elements, and for its frame where that is a small one.
    pub async fn request(&self, frame: usize, elements: usize) -> Taken {
        let frame = if frame > SMALL_FRAME { 0 } else { frame };
        let cost = frame + (elements + 1) * ELEMENT;
        if cost > SMALL_REQUEST { self.wide.take(cost).await } else { self.small.take(cost).await }
    }
}

/// So many bytes, and no more.
pub struct MemoryLimit {
    bytes: usize,
    left: Arc<Semaphore>,
}

/// Room that somebody has; it is back when this is dropped.
pub struct Taken(OwnedSemaphorePermit);

impl MemoryLimit {
    pub fn new(bytes: usize) -> Self {
        Self { bytes, left: Arc::new(Semaphore::new(bytes)) }
    }

    /// Waits for room. Who wants more than there is at all gets all there is.
    pub async fn take(&self, bytes: usize) -> Taken {
        let bytes = u32::try_from(bytes.min(self.bytes)).expect("a limit is below 4 GiB");
        Taken(self.left.clone().acquire_many_owned(bytes).await.expect("nobody closes it"))
    }
}

impl Taken {
    /// Gives back what is beyond `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        drop(self.0.split(self.0.num_permits().saturating_sub(bytes)));
    }

    /// Bytes that give their room back when the last slice of them is gone.
    pub fn hold(self, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        struct Held<T>(T, #[expect(dead_code, reason = "it is dropped with the bytes")] Taken);

        impl<T: AsRef<[u8]>> AsRef<[u8]> for Held<T> {
            fn as_ref(&self) -> &[u8] {
                self.0.as_ref()
            }
        }

        Bytes::from_owner(Held(bytes, self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::task::{Context, Waker};

    #[tokio::test]
    async fn room_is_back_when_the_last_slice_of_the_bytes_is_gone() {
        let room = MemoryLimit::new(100);
        let mut taken = room.take(80).await;
        taken.shrink(60);
        let bytes = taken.hold(vec![1; 60]);
        let slice = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(room.left.available_permits(), 40);
        let mut waits = Box::pin(room.take(50));
        let look = waits.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(look.is_pending(), "there is no room for it yet");
        drop(slice);
        drop(waits.await);
        drop(room.take(1_000).await);
        assert_eq!(room.left.available_permits(), 100);
    }

    #[tokio::test]
    async fn the_widest_request_has_room_and_holds_up_no_small_one() {
        let limits = Limits::default();
        let wide = limits.request(SMALL_FRAME, ELEMENTS_MAX).await;
        assert!(wide.0.num_permits() <= WIDE_REQUESTS);
        let _waits = Box::pin(limits.request(0, ELEMENTS_MAX));
        drop(limits.request(100, 1).await);
    }
}
