//! Gets: the ways a caller can have its blocks.

use forebay_types::MissReason;

use crate::block::{Arrived, BlockRef, GetResult, IntoError};
use crate::get::Taker;
use crate::memory::Memory;

/// A block whose slice has more than this many times its bytes is copied out: keeping the slice would waste the region.
const SLACK_MAX: usize = 2;

/// Keeps the blocks.
pub(crate) struct Keep {
    results: Vec<GetResult>,
    /// Bytes of the region this call may still hold when it returns; past it, blocks are copied out.
    budget: usize,
}

impl Keep {
    pub(crate) fn new(count: usize, budget: usize) -> Self {
        // Every ask gets its outcome; were one forgotten, it would be told as the weakest of misses.
        Keep { results: (0..count).map(|_| GetResult::Miss(MissReason::Unavailable)).collect(), budget }
    }

    pub(crate) fn results(self) -> Vec<GetResult> {
        self.results
    }
}

impl Taker for Keep {
    fn take(&mut self, index: usize, arrived: Arrived) -> Result<Option<Memory>, Memory> {
        if !arrived.is_right() {
            return Err(arrived.memory);
        }
        let copy = match &arrived.memory {
            Memory::Slice(slice) => {
                let capacity = slice.capacity();
                let wasteful = capacity > SLACK_MAX * arrived.range.len() || capacity > self.budget;
                self.budget -= if wasteful { 0 } else { capacity };
                wasteful
            }
            Memory::Heap(_) => false,
        };
        let (block, spare) = arrived.into_block(copy);
        self.results[index] = GetResult::Hit(block);
        Ok(spare)
    }

    fn miss(&mut self, index: usize, reason: MissReason) {
        self.results[index] = GetResult::Miss(reason);
    }
}

/// Shows each block to a visitor where it lies.
pub(crate) struct Visit<F>(pub(crate) F);

impl<F: FnMut(usize, Result<BlockRef<'_>, MissReason>)> Taker for Visit<F> {
    fn take(&mut self, index: usize, arrived: Arrived) -> Result<Option<Memory>, Memory> {
        if !arrived.is_right() {
            return Err(arrived.memory);
        }
        (self.0)(index, Ok(arrived.as_ref()));
        Ok(Some(arrived.memory))
    }

    fn miss(&mut self, index: usize, reason: MissReason) {
        (self.0)(index, Err(reason));
    }

    // A visit takes what the visitor takes.
    fn is_passive(&self) -> bool {
        false
    }
}

/// Copies blocks into the caller's buffers, checking the copies.
pub(crate) struct Fill<'b, 'm> {
    pub(crate) buffers: &'b mut [&'m mut [u8]],
    pub(crate) results: Vec<Result<usize, IntoError>>,
}

impl Taker for Fill<'_, '_> {
    fn take(&mut self, index: usize, arrived: Arrived) -> Result<Option<Memory>, Memory> {
        let length = arrived.length;
        let buffer = &mut *self.buffers[index];
        let (right, result) = if buffer.len() < length {
            (arrived.is_right(), Err(IntoError::TooSmall { need: length }))
        } else {
            (arrived.copy_checked(buffer), Ok(length))
        };
        if !right {
            return Err(arrived.memory);
        }
        self.results[index] = result;
        Ok(Some(arrived.memory))
    }

    fn miss(&mut self, index: usize, reason: MissReason) {
        self.results[index] = Err(IntoError::Miss(reason));
    }
}

/// Copies blocks into places of the caller's, several for each block, checking the copies.
pub(crate) struct Scatter<'b, 'm> {
    pub(crate) places: &'b mut [Vec<&'m mut [u8]>],
    pub(crate) results: Vec<Result<usize, IntoError>>,
}

impl Taker for Scatter<'_, '_> {
    fn take(&mut self, index: usize, arrived: Arrived) -> Result<Option<Memory>, Memory> {
        let length = arrived.length;
        let places = &mut self.places[index];
        let room: usize = places.iter().map(|place| place.len()).sum();
        let (right, result) = if room < length {
            (arrived.is_right(), Err(IntoError::TooSmall { need: length }))
        } else {
            (arrived.scatter_checked(places), Ok(length))
        };
        if !right {
            return Err(arrived.memory);
        }
        self.results[index] = result;
        Ok(Some(arrived.memory))
    }

    fn miss(&mut self, index: usize, reason: MissReason) {
        self.results[index] = Err(IntoError::Miss(reason));
    }
}
