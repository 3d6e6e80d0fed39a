//! One shard: index, segments, eviction, recovery.
//!
//! Events in, actions out, on one thread: the caller drives [`Store::turn`], passes the time in, and takes [`Event`]s out. Everything slow is an
//! operation on a [`forebay_io::Disk`]. The room knows no network, reads no clock, and has no `unsafe`.

mod face;
mod put;
mod stats;

use std::sync::Arc;

use forebay_io::{Arena, Disk};
use forebay_types::{Entropy, Key, Millis, MissReason, Namespace, NamespaceId, ShardId, Tier, Version};

pub use face::{
    Committed, Event, FormatParams, Found, GetRequest, GetResult, GetStarted, PutSlot, RecoveryReport, Reserve,
    StoreError,
};
pub use stats::StoreStats;

/// How a store behaves.
pub struct StoreConfig {
    /// Most bytes of everything that grows with blocks; past it, blocks are evicted.
    pub index_bytes_max: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        StoreConfig { index_bytes_max: 64 << 20 }
    }
}

/// One shard on one slice of a drive.
pub struct Store<D: Disk> {
    disk: D,
    arena: Arena,
    shard: ShardId,
    namespaces: Vec<Namespace>,
}

/// Bytes a slice needs at least, with its segment size, `None` as in [`FormatParams`].
pub fn slice_bytes_min(segment_bytes: Option<u64>) -> u64 {
    segment_bytes.unwrap_or(forebay_types::limits::SEGMENT_BYTES_MIN) * forebay_types::limits::SEGMENTS_MIN + (4 << 20)
}

/// Makes an empty shard of a slice. Whatever was there is gone.
pub fn format_slice(_disk: &mut impl Disk, _arena: &Arena, _params: &FormatParams) -> Result<(), StoreError> {
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "the face is fixed before its body")]
impl<D: Disk> Store<D> {
    /// Opens a formatted slice: reads superblock, namespaces, headers and footers, scans and seals what was open. Waits for the disk.
    /// There is one way to start, the one after a crash. `utc_s` is for expiry, which comes later.
    pub fn open(
        disk: D,
        arena: Arena,
        _config: StoreConfig,
        _entropy: Arc<dyn Entropy>,
        _now: Millis,
        _utc_s: u64,
    ) -> Result<(Self, RecoveryReport), StoreError> {
        Ok((Store { disk, arena, shard: ShardId::default(), namespaces: Vec::new() }, RecoveryReport::default()))
    }

    /// Its uuid.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// Largest block it takes, in bytes.
    pub fn block_bytes_max(&self) -> u64 {
        0
    }

    /// Alignment of direct landings, in bytes.
    pub fn align(&self) -> usize {
        self.disk.info().align
    }

    /// The disk, for waiting on it.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Takes `len` bytes of the arena, evicting from DRAM for them. `None`: everything is in use, the caller is busy.
    pub fn alloc(&mut self, len: usize) -> Option<forebay_io::Buf> {
        self.arena.alloc(len)
    }

    /// Adds a namespace or changes its quota. [`Event::NamespaceSaved`] follows; it can be used at once.
    pub fn upsert_namespace(&mut self, _token: u64, _ns: &Namespace) {}

    /// Drops a namespace and all its blocks. [`Event::NamespaceSaved`] follows; its blocks are gone at once.
    pub fn remove_namespace(&mut self, _token: u64, _id: NamespaceId) {}

    /// The drive's table of namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.iter()
    }

    /// What a get would find, without touching it.
    pub fn presence(&mut self, _now: Millis, _ns: NamespaceId, _key: &Key) -> Result<Tier, MissReason> {
        Err(MissReason::Absent)
    }

    /// Holds a block for `hold_ms`, at most 30 s. False: absent, or a tenth of the shard is held already.
    pub fn lease(&mut self, _now: Millis, _ns: NamespaceId, _key: &Key, _hold_ms: u64) -> bool {
        false
    }

    /// Begins a get.
    pub fn get(&mut self, _now: Millis, _request: GetRequest) -> GetStarted {
        GetStarted::Miss(MissReason::Absent)
    }

    /// Takes a place for the block that `descriptor` describes. `depth_in_batch` as in [`GetRequest`].
    pub fn reserve(&mut self, _now: Millis, _descriptor: &[u8], _depth_in_batch: u32) -> Reserve {
        Reserve::Exists
    }

    /// Takes a filled slot, whose bytes the caller has verified against the descriptor.
    pub fn commit(&mut self, _now: Millis, _token: u64, _slot: PutSlot) -> Committed {
        Committed::Exists
    }

    /// Forgets blocks: true for each that was here. They are not served any more when this returns; [`Event::Forgotten`] follows when they never
    /// will be again.
    pub fn forget(&mut self, _now: Millis, _token: u64, _ns: NamespaceId, keys: &[Key]) -> Vec<bool> {
        vec![false; keys.len()]
    }

    /// A client saw bytes that did not verify. The record is read again and dropped if it is bad: a client's word alone drops nothing.
    pub fn drop_corrupt(&mut self, _ns: NamespaceId, _key: &Key, _version: Version) {}

    /// Collects completions, submits queued I/O by lane, cleans in bounded steps. True: there is more to do right now.
    pub fn turn(&mut self, _now: Millis, _events: &mut Vec<Event>) -> bool {
        false
    }

    /// Seals, flushes and waits. Nothing depends on it: the next start is the one after a crash either way.
    pub fn close(&mut self, _now: Millis) {}

    /// Plain numbers.
    pub fn stats(&self) -> StoreStats {
        StoreStats::default()
    }
}
