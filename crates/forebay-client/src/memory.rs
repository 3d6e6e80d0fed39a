//! Memory for blocks: slices of regions that nodes can land in, and ordinary memory when the regions are full.
//!
//! Regions are made as they are needed, in steps, and get their pages with the slices that lie in them, so that no call pays for more than it moves:
//! taking pages costs about what moving the bytes costs (a step of 128 MiB was seen to end a call 180 ms after its deadline, one of 16 MiB 60 ms
//! after it on a busy machine). A region of which half is retired (a node died in the middle of landings) is replaced by a fresh one: what the
//! kernel may still write into is the old one's file.
//!
//! Memory that the caller lends stands in the same list, so that nodes learn of it in the same way. Nothing is cut from it here.

use std::ops::Deref;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use forebay_io::{Region, Slice, Writer};
use forebay_types::{Descriptor, RegionId, ShardId};

/// One region, in bytes, unless a block is longer: a handful of large blocks or a window of small ones. A block of 16 MiB fits with what the drive writes
/// behind it, so that regions made for small blocks serve such ones later.
const STEP_BYTES: usize = 18 << 20;
/// Most regions that a client means to have. A node takes 64 on a connection, and some may be spoilt.
const REGIONS_MAX: usize = 32;
/// Most memories that a caller lends for direct landings, for the same reason.
const LENT_MAX: usize = 16;

/// Bytes of one block, wherever they are.
#[derive(Debug)]
pub(crate) enum Memory {
    /// In a region.
    Slice(Slice),
    /// In ordinary memory.
    Heap(Vec<u8>),
}

impl Deref for Memory {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Memory::Slice(slice) => slice,
            Memory::Heap(bytes) => bytes,
        }
    }
}

impl Memory {
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Memory::Slice(slice) => slice,
            Memory::Heap(bytes) => bytes,
        }
    }

    /// Bytes it can be lengthened to without moving.
    pub(crate) fn capacity(&self) -> usize {
        match self {
            Memory::Slice(slice) => slice.capacity(),
            Memory::Heap(bytes) => bytes.capacity(),
        }
    }

    /// Sets the length inside the capacity.
    pub(crate) fn set_len(&mut self, len: usize) {
        match self {
            Memory::Slice(slice) => slice.set_len(len),
            Memory::Heap(bytes) => bytes.resize(len, 0),
        }
    }
}

/// All regions of a client.
#[derive(Debug)]
pub(crate) struct Regions {
    limit: usize,
    /// Nodes may land blocks in them.
    land: bool,
    state: Mutex<State>,
    /// Changes whenever the list does; pairs with nothing: a stale value only makes a connection look at the list under its lock once more.
    version: AtomicU64,
    /// Regions that are lent. Pairs with nothing: who lends one does so before anything is withheld in it.
    lent: AtomicUsize,
}

#[derive(Debug)]
struct State {
    list: Vec<(RegionId, Region)>,
    /// The caller's.
    lent: Vec<(RegionId, Region)>,
    next: u32,
}

impl Regions {
    /// At most `limit` bytes. `land`: nodes hear of them, so that drives may write there; else they are only where blocks are kept.
    pub(crate) fn new(limit: usize, land: bool) -> Self {
        let state = Mutex::new(State { list: Vec::new(), lent: Vec::new(), next: 1 });
        Regions { limit, land, state, version: AtomicU64::new(1), lent: AtomicUsize::new(0) }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// A slice of `len` bytes, with the number of its region. `None` when all regions are full.
    pub(crate) fn alloc(&self, len: usize) -> Option<(RegionId, Slice)> {
        let (region, mut slice) = self.cut(len)?;
        // Not under the lock: it takes its time, and others need none of it.
        slice.take_pages().ok().map(|()| (region, slice))
    }

    fn cut(&self, len: usize) -> Option<(RegionId, Slice)> {
        // Dropped behind the lock: giving pages back takes time too.
        let mut spoilt = Vec::new();
        let mut state = self.lock();
        loop {
            // The last is the emptiest.
            for (id, region) in state.list.iter().rev() {
                if let Some(slice) = region.cut(len) {
                    return Some((*id, slice));
                }
            }
            if !self.grow(&mut state, len, &mut spoilt) {
                drop(state);
                return None;
            }
        }
    }

    /// Takes in memory of the caller's. `None` when there is too much of it already.
    pub(crate) fn lend(&self, region: Region) -> Option<RegionId> {
        let mut state = self.lock();
        if state.lent.len() == LENT_MAX {
            return None;
        }
        let id = RegionId(state.next);
        state.next += 1;
        state.lent.push((id, region));
        self.lent.store(state.lent.len(), Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Relaxed);
        Some(id)
    }

    /// It is the caller's alone again.
    pub(crate) fn take_back(&self, id: RegionId) {
        let mut state = self.lock();
        state.lent.retain(|(other, _)| *other != id);
        self.lent.store(state.lent.len(), Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    /// This start of a shard has welcomed us, so whatever earlier ones had under way has ended, and so has what it had let go before we greeted it.
    /// Gives how many pieces are free for that.
    pub(crate) fn welcomed(&self, shard: ShardId, start: u64, let_go: &[Writer]) -> usize {
        let ended = |of: Writer| of.shard == shard.0 && (of.start != start || let_go.contains(&of));
        self.lent().iter().map(|region| region.ended(ended)).sum()
    }

    /// Who of a shard has let go of lent memory that is withheld for his sake. That he lived afterwards is to be seen.
    pub(crate) fn let_go(&self, shard: ShardId) -> Vec<Writer> {
        let mut all = Vec::new();
        for region in self.lent() {
            let writers = region.withheld_for(|of| of.shard == shard.0 && of.witness.is_some());
            let gone = |of: &Writer| of.witness.is_some_and(|number| region.is_let_go(number));
            all.extend(writers.into_iter().filter(gone));
        }
        all
    }

    /// All for whose sake lent memory is withheld: see [`crate::options::Mutant`].
    pub(crate) fn withheld_for(&self, shard: ShardId) -> Vec<Writer> {
        self.lent().iter().flat_map(|region| region.withheld_for(|of| of.shard == shard.0)).collect()
    }

    /// What is lent; nothing on an ordinary day, without a lock.
    fn lent(&self) -> Vec<Region> {
        if self.lent.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        self.lock().lent.iter().map(|(_, region)| region.clone()).collect()
    }

    /// Whether it is the caller's.
    pub(crate) fn is_lent(&self, id: RegionId) -> bool {
        self.lent.load(Ordering::Relaxed) > 0 && self.lock().lent.iter().any(|(other, _)| *other == id)
    }

    /// The number of the region that `slice` lies in, if it is one of these.
    pub(crate) fn number_of(&self, slice: &Slice) -> Option<RegionId> {
        self.lock().list.iter().find(|(_, region)| region.same(slice.region())).map(|(id, _)| *id)
    }

    /// Number of the list's state; see [`Self::list`].
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// All regions, with the version of this list.
    pub(crate) fn list(&self) -> (u64, Vec<(RegionId, Region)>) {
        let state = self.lock();
        (self.version(), state.list.iter().chain(&state.lent).cloned().collect())
    }

    fn grow(&self, state: &mut State, len: usize, spoilt: &mut Vec<(RegionId, Region)>) -> bool {
        // What is spoilt for half is let go: its memory comes back when the last slice in it is dropped.
        let before = state.list.len();
        spoilt.extend(state.list.extract_if(.., |(_, region)| region.retired_bytes() >= region.len() / 2));
        let taken: usize = state.list.iter().map(|(_, region)| region.len()).sum();
        let step = STEP_BYTES.max(self.limit / REGIONS_MAX);
        // A block that was put from here must have room to land here as well: regions of exactly 16 MiB, made for puts, would be too short for what the
        // drive writes behind each block of 16 MiB, and the gets that find no room come through the socket.
        let whole = len.saturating_add(Descriptor::landing_room(len as u64));
        let wanted = step.max(whole.next_multiple_of(2 << 20)).min(self.limit.saturating_sub(taken));
        let make = if self.land { Region::owned } else { Region::kept };
        let made = if wanted >= len && wanted > 0 { make(wanted).ok() } else { None };
        let grown = made.is_some();
        if let Some(region) = made {
            state.list.push((RegionId(state.next), region));
            state.next += 1;
        }
        if grown || state.list.len() != before {
            self.version.fetch_add(1, Ordering::Relaxed);
        }
        grown
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_grow_as_they_are_needed_and_stop_at_the_limit() {
        let regions = Regions::new(40 << 20, true);
        let small = regions.alloc(4096).unwrap();
        assert_eq!(regions.list().1.len(), 1);
        let large = regions.alloc(20 << 20).unwrap();
        assert_ne!(small.0, large.0);
        assert_eq!(regions.number_of(&large.1), Some(large.0));
        assert!(regions.alloc(20 << 20).is_none());
        drop(large);
        assert!(regions.alloc(20 << 20).is_some());
    }

    #[test]
    fn blocks_that_were_put_from_regions_have_room_to_land_in_the_same() {
        let regions = Regions::new(256 << 20, true);
        for bytes in [64 << 10, 1 << 20, 16 << 20] {
            let in_flight = (128 << 20) / bytes;
            let puts: Vec<_> = (0..in_flight).map(|_| regions.cut(bytes).unwrap()).collect();
            drop(puts);
            let room = bytes + Descriptor::landing_room(bytes as u64);
            let gets: Vec<_> = (0..in_flight).map_while(|_| regions.cut(room)).collect();
            assert_eq!(gets.len(), in_flight, "blocks of {bytes}");
        }
    }

    #[test]
    fn a_region_spoilt_by_lost_landings_is_replaced() {
        let regions = Regions::new(16 << 20, true);
        for _ in 0..50 {
            let (_, slice) = regions.alloc(7 << 20).unwrap();
            drop(slice.lend());
        }
    }
}
