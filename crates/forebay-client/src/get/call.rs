//! One get call: what is asked, who takes it, and what is counted.

use std::ops::Range;
use std::sync::atomic::Ordering;

use forebay_io::Slice;
use forebay_types::limits::{BLOCK_BYTES_MAX, PIECE_BYTES};
use forebay_types::{Clock, Key, LandingKind, MissReason, NamespaceId, RegionId, Reuse, Tier};

use super::GetPart;
use crate::block::Arrived;
use crate::counters::GetCounters;
use crate::drive::{Lane, by_owner, drive};
use crate::handle::{CallLimits, Space};
use crate::memory::Memory;
use crate::mesh::Core;

/// One key of a call, and what of its block: bytes from `start`, up to `end` (`None`: all).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask {
    pub(crate) key: Key,
    pub(crate) start: u64,
    pub(crate) end: Option<u64>,
}

impl Ask {
    pub(crate) fn whole(key: Key) -> Self {
        Ask { key, start: 0, end: None }
    }

    pub(crate) fn range(key: Key, range: &Range<u64>) -> Self {
        // Beyond the largest block there is nothing: the answer is empty, and its numbers stay small.
        let start = range.start.min(BLOCK_BYTES_MAX);
        Ask { key, start, end: Some(range.end.clamp(start, BLOCK_BYTES_MAX)) }
    }

    /// First byte and length on the wire: whole pieces, at least one; length 0 is "to the end".
    pub(crate) fn on_wire(&self) -> (u64, u64) {
        let piece = PIECE_BYTES as u64;
        let offset = self.start / piece * piece;
        match self.end {
            None => (offset, 0),
            Some(end) => (offset, end.max(offset + 1).next_multiple_of(piece) - offset),
        }
    }
}

/// Takes what a call gets, on the calling thread.
pub(crate) trait Taker {
    /// Checks and takes a block. The memory comes back if it is not kept; `Err` if the bytes are not right.
    fn take(&mut self, index: usize, arrived: Arrived) -> Result<Option<Memory>, Memory>;
    /// No block.
    fn miss(&mut self, index: usize, reason: MissReason);
    /// The caller's own memory for a block to land in, once for each.
    fn own(&mut self, index: usize) -> Option<(RegionId, Slice)> {
        let _ = index;
        None
    }
    /// That memory again: nothing writes there any more.
    fn own_back(&mut self, index: usize, slice: Slice) {
        let _ = (index, slice);
    }
    /// Taking costs the same for any caller, so that the time of the call tells of the node and of this client.
    fn is_passive(&self) -> bool {
        true
    }
}

/// What the parts of one call share.
pub(crate) struct GetCall<'a> {
    pub(crate) core: &'a Core,
    pub(crate) namespace: NamespaceId,
    pub(crate) asks: &'a [Ask],
    pub(crate) taker: &'a mut dyn Taker,
    pub(crate) window_items: usize,
    pub(crate) hint: Reuse,
    /// When the call is over, on the client's clock.
    pub(crate) deadline_us: u64,
    /// Bytes a block probably has.
    pub(crate) expected_bytes: usize,
    /// This may be the fault of an old table: keys that another shard may own go here instead of being missed, once.
    pub(crate) moved: Option<Vec<u32>>,
    pub(crate) counts: GetCounts,
}

/// What one call counts.
#[derive(Default)]
pub(crate) struct GetCounts {
    pub(crate) keys: GetCounters,
    pub(crate) bytes: u64,
    pub(crate) tier_bytes: [u64; Tier::ALL.len()],
    pub(crate) landings: [u64; LandingKind::ALL.len()],
    pub(crate) lent_landings: [u64; LandingKind::ALL.len()],
    pub(crate) corrupt: u64,
    pub(crate) grown: u64,
    pub(crate) no_room: u64,
    pub(crate) longest: usize,
    pub(crate) missed: Vec<Key>,
}

impl GetCall<'_> {
    /// What a dead node costs is what is done here for each key.
    fn miss_all(&mut self, indices: &[u32], reason: MissReason) {
        self.counts.keys.misses[reason.index()] += indices.len() as u64;
        self.counts.missed.extend(indices.iter().map(|index| self.asks[*index as usize].key));
        indices.iter().for_each(|index| self.taker.miss(*index as usize, reason));
    }

    pub(crate) fn miss(&mut self, index: u32, reason: MissReason) {
        if matches!(reason, MissReason::NotMine)
            && let Some(moved) = &mut self.moved
        {
            moved.push(index);
            return;
        }
        self.counts.keys.miss(reason);
        self.counts.missed.push(self.asks[index as usize].key);
        self.taker.miss(index as usize, reason);
    }
}

/// Runs one get call: every ask has its outcome with the taker when this returns.
pub(crate) fn run(space: &Space, core: &Core, asks: &[Ask], taker: &mut dyn Taker, limits: CallLimits) {
    let begun_us = core.clock.now_us();
    let deadline_us = begun_us + limits.deadline_us;
    let mut call = GetCall {
        core,
        namespace: space.namespace.id,
        asks,
        taker,
        window_items: limits.in_flight,
        hint: limits.hint,
        deadline_us,
        expected_bytes: space.expected_bytes.load(Ordering::Relaxed),
        moved: Some(Vec::new()),
        counts: GetCounts::default(),
    };
    round(&mut call, 0..asks.len() as u32, deadline_us);
    let moved = call.moved.take().unwrap_or_default();
    let asked_anew = moved.len() as u64;
    if !moved.is_empty() {
        core.stale.store(true, Ordering::Relaxed);
        round(&mut call, moved.into_iter(), deadline_us);
    }
    let (mut counts, passive) = (call.counts, call.taker.is_passive());
    let in_time = counts.keys.missed(MissReason::Deadline) + counts.keys.missed(MissReason::Unavailable) == 0;
    if passive && in_time && counts.bytes > 0 {
        let took_us = core.clock.now_us().saturating_sub(begun_us);
        space.model().learn(&counts.tier_bytes, took_us);
    }
    counts.keys.asked = asks.len() as u64;
    space.expect(counts.longest);
    let broken = core.promises.broken(space.namespace.id, core.clock.now_us(), &counts.missed);
    core.cells.add(|all| {
        all.get.add(&counts.keys);
        all.get_bytes += counts.bytes;
        crate::counters::add(&mut all.landings, &counts.landings);
        crate::counters::add(&mut all.lent_landings, &counts.lent_landings);
        all.corrupt += counts.corrupt;
        all.grown += counts.grown;
        all.no_room += counts.no_room;
        all.match_broken += broken;
        all.moved += asked_anew;
    });
}

fn round(call: &mut GetCall<'_>, indices: impl Iterator<Item = u32>, deadline_us: u64) {
    let table = call.core.table(deadline_us);
    let asks = call.asks;
    let (owned, orphans) = by_owner(&table, indices, |index| asks[index as usize].key.place_token());
    for index in orphans {
        call.miss(index, MissReason::Unavailable);
    }
    let mut lanes = Vec::with_capacity(owned.len());
    for (shard, indices) in owned {
        if shard.is_refused(call.core) {
            call.miss_all(&indices, MissReason::Unavailable);
            continue;
        }
        let part = GetPart::new(indices.into_iter(), shard.id, call.core);
        lanes.push(Lane::new(shard, part));
    }
    if lanes.is_empty() {
        return;
    }
    drive(call.core, table.epoch, &mut lanes, call, deadline_us);
}
