//! Lanes: who moves bytes next. Deficit round robin, so that small answers never wait for large ones.

use std::collections::VecDeque;

use forebay_types::limits::STEP_BYTES;

use crate::slab::Id;

/// A kind of work inside a shard's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Gets of small blocks, matches, forgets.
    Small,
    /// Gets of large blocks.
    Large,
    /// Puts.
    Put,
}

impl Lane {
    pub(crate) const ALL: [Lane; 3] = [Lane::Small, Lane::Large, Lane::Put];
}

/// Blocks of at most this many bytes are small: a copy of them is a few microseconds.
pub(crate) const SMALL_BYTES_MAX: u64 = 64 * 1024;

/// What a lane may move in one turn, in bytes: three lanes of one step each are about 60 us at memory speed.
const QUANTUM: i64 = STEP_BYTES as i64;

/// Requests that have something to do now, by lane. Each stands here at most once, so it is bounded by their number.
#[derive(Debug)]
pub(crate) struct Lanes {
    queues: [VecDeque<Id>; 3],
    deficits: [i64; 3],
}

impl Lanes {
    pub(crate) fn new() -> Self {
        Lanes { queues: std::array::from_fn(|_| VecDeque::new()), deficits: [0; 3] }
    }

    pub(crate) fn push(&mut self, lane: Lane, id: Id) {
        self.queues[lane as usize].push_back(id);
    }

    pub(crate) fn pop(&mut self, lane: Lane) -> Option<Id> {
        self.queues[lane as usize].pop_front()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queues.iter().all(VecDeque::is_empty)
    }

    /// What the lane may spend in this turn; nothing is saved up while it has nothing to do.
    pub(crate) fn begin(&mut self, lane: Lane) -> i64 {
        let deficit = &mut self.deficits[lane as usize];
        *deficit = if self.queues[lane as usize].is_empty() { 0 } else { (*deficit + QUANTUM).min(QUANTUM) };
        *deficit
    }

    /// What is left of it; what was overdrawn is missing next turn.
    pub(crate) fn end(&mut self, lane: Lane, left: i64) {
        self.deficits[lane as usize] = left.min(0);
    }
}
