//! Room for what waits to be committed, in bytes: who wants to hand over more waits in a row, so that nobody
//! is passed by and a producer goes as fast as the disk.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

/// One stream may have this part of the room.
const SHARES: usize = 4;

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Room {
    bytes: Semaphore,
    bytes_max: AtomicUsize,
    /// What a lowered limit could not take away, because it is in use.
    owed: AtomicUsize,
}

impl Room {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let bytes_max = bound(bytes_max);
        Self { bytes: Semaphore::new(bytes_max), bytes_max: bytes_max.into(), owed: AtomicUsize::new(0) }
    }

    /// What one stream may have.
    pub(crate) fn share(&self) -> usize {
        (self.bytes_max.load(Ordering::Relaxed) / SHARES).max(1)
    }

    /// Waits for room; `None` where there will be none.
    pub(crate) async fn reserve(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        acquire(&self.bytes, bytes).await
    }

    pub(crate) fn give_back(&self, bytes: usize) {
        let mut paid = 0;
        let _none_owed = self.owed.fetch_update(Ordering::AcqRel, Ordering::Acquire, |owed| {
            paid = owed.min(bytes);
            (paid > 0).then(|| owed - paid)
        });
        self.bytes.add_permits(bytes - paid);
    }

    /// Another limit.
    pub(crate) fn set(&self, bytes_max: usize) {
        let new = bound(bytes_max);
        let old = self.bytes_max.swap(new, Ordering::Relaxed);
        if new >= old {
            self.give_back(new - old);
        } else {
            let taken = self.bytes.forget_permits(old - new);
            self.owed.fetch_add(old - new - taken, Ordering::AcqRel);
        }
    }

    /// Bytes that wait.
    pub(crate) fn taken(&self) -> usize {
        let there = self.bytes_max.load(Ordering::Relaxed) + self.owed.load(Ordering::Relaxed);
        there.saturating_sub(self.bytes.available_permits())
    }

    pub(crate) fn close(&self) {
        self.bytes.close();
    }
}

/// Waits for `bytes` of a semaphore; `None` once it is closed.
pub(crate) async fn acquire(room: &Semaphore, bytes: usize) -> Option<SemaphorePermit<'_>> {
    room.acquire_many(u32::try_from(bytes).unwrap_or(u32::MAX)).await.ok()
}

/// What a semaphore counts to.
fn bound(bytes: usize) -> usize {
    bytes.clamp(SHARES, u32::MAX as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lowered_limit_takes_effect_as_room_is_given_back() {
        let room = Room::new(100);
        room.reserve(80).await.unwrap().forget();
        assert_eq!((room.taken(), room.share()), (80, 25));
        room.set(40);
        assert_eq!(room.taken(), 80);
        room.give_back(50);
        assert_eq!(room.taken(), 30);
        room.give_back(30);
        assert_eq!(room.taken(), 0);
        room.reserve(40).await.unwrap().forget();
        room.set(60);
        room.reserve(20).await.unwrap().forget();
        assert_eq!(room.taken(), 60);
        room.close();
        assert!(room.reserve(1).await.is_none());
    }
}
