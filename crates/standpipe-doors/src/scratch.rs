//! The buffers of a turn, shared by all connections of a thread: a connection that is not in its
//! turn holds none.

use std::cell::RefCell;

/// Bytes one turn reads at most, and of replies after which it stops to begin commands.
pub(crate) const TURN_BYTES: usize = 16 << 10;

/// Above this the room for replies is given back after the turn that needed it.
const OUT_BYTES_KEPT: usize = 256 << 10;

/// Room for one turn.
pub(crate) struct Scratch {
    pub(crate) input: Box<[u8]>,
    pub(crate) out: Vec<u8>,
}

impl Scratch {
    fn new() -> Self {
        Self { input: vec![0; TURN_BYTES].into(), out: Vec::with_capacity(TURN_BYTES) }
    }

    /// Gives back what a large reply took.
    pub(crate) fn shrink(&mut self) {
        if self.out.capacity() > OUT_BYTES_KEPT {
            self.out = Vec::with_capacity(TURN_BYTES);
        }
    }
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new());
}

/// Lends this thread's buffers; a turn never waits while it has them.
pub(crate) fn with_scratch<T>(turn: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(turn)
}
