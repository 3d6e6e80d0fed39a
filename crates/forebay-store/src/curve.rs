//! What half and twice the room would find: LRU's miss-ratio curve of what is asked of this shard, from a sample of the blocks.
//!
//! A block is asked for when it is found (a get, a touch) or when it is put, since who puts it did not find it here. A lookup alone asks for nothing: the get
//! or the put that follows does. The curve is LRU's whatever policy runs.

use forebay_io::Disk;
use forebay_tokenomics::Turn;
use forebay_tokenomics::prefix::LruCurve;

use crate::store::{Batch, Store};

/// So many times what fits is the largest capacity that is told.
const REACH: u64 = 4;
/// Capacities that are told, in halves of what fits.
const TOLD_HALVES: [u64; 3] = [1, 2, 4];

/// The curve, and the request that is being asked: it is told whole, for its blocks must not push each other out.
pub(crate) struct Live {
    curve: LruCurve,
    turn: Option<Turn>,
    names: Vec<u64>,
    others: u64,
}

impl Live {
    /// Takes so many bytes at most.
    pub(crate) fn new(bytes: usize) -> Self {
        Live { curve: LruCurve::live(bytes, 1 << 20), turn: None, names: Vec::new(), others: 0 }
    }

    fn asked(&mut self, turn: Turn, name: u64) {
        if self.turn != Some(turn) {
            self.tell();
            self.turn = Some(turn);
        }
        if self.curve.follows(name) { self.names.push(name) } else { self.others += 1 }
    }

    fn tell(&mut self) {
        self.curve.asked(std::mem::take(&mut self.others));
        if !self.names.is_empty() {
            self.curve.request(self.names.drain(..));
        }
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.curve.memory_bytes() + self.names.capacity() * size_of::<u64>()
    }

    /// Blocks asked for of late, and of a million of them, how many half of what fits, what fits, and twice that would find.
    pub(crate) fn told(&self, fits: u64) -> (u64, [u64; 3]) {
        let found = TOLD_HALVES.map(|halves| (self.curve.hit_rate(fits * halves / 2) * 1e6).round() as u64);
        // What the request under way asks for is told already, though where it was found is not yet known.
        (self.curve.weight() as u64 + self.others + self.names.len() as u64, found)
    }
}

impl<D: Disk> Store<D> {
    pub(crate) fn asked_for(&mut self, batch: Batch, name: u64) {
        self.live.asked(batch.turn, name);
    }

    /// Bytes of all segments.
    pub(crate) fn room_bytes(&self) -> u64 {
        self.geometry.layout.segment_bytes * self.segments.len() as u64
    }

    /// How many blocks fit, by the size of those that are here.
    pub(crate) fn blocks_that_fit(&self) -> u64 {
        let (live, _) = self.namespaces.bytes();
        let room = self.room_bytes();
        let blocks = self.index.len() as u64;
        // Before there is anything to judge by, as if blocks had 64 KiB.
        if live == 0 { room >> 16 } else { (u128::from(room) * u128::from(blocks) / u128::from(live)) as u64 }
    }

    /// What fits is told to the policy and to the curve.
    pub(crate) fn tell_what_fits(&mut self) {
        let fits = self.blocks_that_fit();
        self.policy.holds(fits);
        self.policy.segments(self.segments.len() as u32);
        self.live.curve.reach(fits * REACH);
    }
}
