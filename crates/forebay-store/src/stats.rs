//! Plain numbers about a shard: gauges as they are now, counters since it was opened.

/// See the fields. All bytes on the drive are with padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Blocks in the index.
    pub blocks: u64,
    /// Their bytes on the drive.
    pub live_bytes: u64,
    /// Of these, of durable namespaces.
    pub durable_bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of one.
    pub segment_bytes: u64,
    /// Segments free for writing.
    pub segments_free: u64,
    /// Bytes that records can take: segments without the spare ones and without headers. Footers take their part of it too.
    pub usable_bytes: u64,
    /// Blocks in DRAM.
    pub dram_blocks: u64,
    /// Their bytes of arena.
    pub dram_bytes: u64,
    /// Of these, bytes of blocks that whoever put them keeps in memory of its own, and nobody else has asked for.
    pub dram_duplicate_bytes: u64,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Of these, free.
    pub arena_free_bytes: u64,
    /// Bytes of memory that grow with the blocks held: the index, one of its tables once more for the moment in which it grows, what was evicted or
    /// expired lately, leases.
    pub index_bytes: u64,
    /// Bytes of memory beside the arena that blocks in DRAM take, whatever their size. It has a share of the index's ceiling.
    pub dram_overhead_bytes: u64,
    /// Bytes of the footers to be of segments that are being written. They have a share of the index's ceiling too.
    pub footer_bytes: u64,
    /// Bytes of memory that the policy takes beside its ranks. They do not grow with the blocks held.
    pub policy_bytes: u64,
    /// The policy lets LRU decide, because LRU has done better of late.
    pub policy_gives_way: bool,
    /// Blocks asked for of late, by which the curve counts.
    pub curve_asked: u64,
    /// Of a million of them, how many LRU would find with half of the room, with the room there is, and with twice as much.
    pub curve_found_ppm: [u64; 3],
    /// Bytes of memory the curve takes.
    pub curve_bytes: u64,
    /// Bytes under lease.
    pub leased_bytes: u64,
    /// Seconds between the wall clock and the time that expiry goes by, while one of them must be wrong; 0 otherwise.
    pub clock_apart_s: u64,
    /// The drive does not write any more.
    pub write_failed: bool,
    /// Bytes a day that the drive may be written; 0: as many as come.
    pub write_day_bytes: u64,
    /// Of these, what may be written now.
    pub write_budget_bytes: u64,
    /// Bytes written over the budget, by durable blocks and cleaning, and not filled up again.
    pub write_debt_bytes: u64,
    /// Segments that scrub has looked at in this pass.
    pub scrub_looked_at: u64,
    /// Milliseconds that the last whole pass of scrub took; 0 before the first.
    pub scrub_pass_ms: u64,
    /// Segments in which scrub found damage and that were not written anew since.
    pub segments_damaged: u64,

    /// Gets served from DRAM.
    pub hits_dram: u64,
    /// Gets served from the drive.
    pub hits_nvme: u64,
    /// Of these, landed directly.
    pub landed_direct: u64,
    /// Of these, through the arena.
    pub bounced: u64,
    /// Gets that found nothing.
    pub misses: u64,
    /// Blocks brought to DRAM by a get.
    pub promotions: u64,
    /// Blocks brought to DRAM because a prefetch asked for them.
    pub prefetched: u64,
    /// Of these, got from DRAM before their time was over.
    pub prefetch_used: u64,
    /// Records found bad by a get, a prefetch, cleaning, or because a client said so. What scrub finds is counted apart.
    pub corrupt: u64,
    /// Bytes read by scrub.
    pub scrub_bytes: u64,
    /// Whole passes of scrub.
    pub scrub_passes: u64,
    /// Blocks of the cache that scrub found damaged.
    pub scrub_damaged_cache: u64,
    /// Durable blocks that scrub found damaged.
    pub scrub_damaged_durable: u64,
    /// Headers and footers of segments that scrub found damaged.
    pub scrub_damaged_segments: u64,
    /// Puts kept.
    pub puts: u64,
    /// Puts told `exists`.
    pub puts_exists: u64,
    /// Puts refused.
    pub puts_refused: u64,
    /// Of these, by admission: because the write budget is short, or a block would not pay for its write.
    pub refused_admission: u64,
    /// Of these, because a block would not pay for its write.
    pub refused_will_not_pay: u64,
    /// Durable puts taken although the write budget was used up.
    pub durable_over_budget: u64,
    /// Blocks forgotten.
    pub forgotten: u64,
    /// Blocks evicted from the drive: by segment, quota or the index's ceiling.
    pub evicted: u64,
    /// Of these, for quota.
    pub evicted_quota: u64,
    /// Of these, for the index's ceiling.
    pub evicted_index: u64,
    /// Blocks dropped because their time was over.
    pub expired: u64,
    /// Blocks dropped from DRAM for room.
    pub dram_evicted: u64,
    /// Bytes of records written for puts.
    pub put_bytes: u64,
    /// Bytes of records written again by cleaning.
    pub reappend_bytes: u64,
    /// Bytes of headers, footers, tombstones and tables written.
    pub meta_bytes: u64,
    /// Bytes read for gets.
    pub read_bytes: u64,
    /// Segments freed by eviction or cleaning.
    pub segments_freed: u64,
    /// Leases granted.
    pub leases_granted: u64,
    /// Leases refused because a tenth of the shard was held.
    pub leases_refused: u64,
    /// Flushes completed.
    pub flushes: u64,
    /// Requests turned away because a queue was full or no memory could be freed.
    pub busy: u64,
}

impl StoreStats {
    /// Bytes written to the drive for each byte put; 1 before the first put.
    pub fn write_amplification(&self) -> f64 {
        if self.put_bytes == 0 {
            return 1.0;
        }
        (self.put_bytes + self.reappend_bytes + self.meta_bytes) as f64 / self.put_bytes as f64
    }
}
