//! Memory for what clients send and what they are sent, all connections together.
//!
//! Bytes are taken before they are needed, and go back when the last slice of them is dropped. Who finds no room waits in line; a client that
//! does not go on with what it holds room for is hung up on by [`crate::connection`].

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many bytes, and no more.
pub struct Room(Arc<Semaphore>);

/// Room that somebody has.
pub struct Taken(OwnedSemaphorePermit);

impl Room {
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes)))
    }

    /// Waits for room; never more than there is at all.
    pub async fn take(&self, bytes: usize) -> Taken {
        let bytes = u32::try_from(bytes).expect("a frame is shorter than 4 GiB");
        Taken(self.0.clone().acquire_many_owned(bytes).await.expect("nobody closes it"))
    }
}

impl Taken {
    /// Gives back what is beyond `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        drop(self.0.split(self.0.num_permits().saturating_sub(bytes)));
    }

    /// Bytes that give their room back when they are gone.
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
        let room = Room::new(100);
        let mut taken = room.take(80).await;
        taken.shrink(60);
        let bytes = taken.hold(vec![1; 60]);
        let slice = bytes.slice(10..20);
        drop(bytes);
        assert_eq!(room.0.available_permits(), 40);
        let mut waits = Box::pin(room.take(50));
        let look = waits.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(look.is_pending(), "there is no room for it yet");
        drop(slice);
        drop(waits.await);
        assert_eq!(room.0.available_permits(), 100);
    }
}
