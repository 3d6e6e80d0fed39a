//! Opening: a shard is found again from its headers and footers. There is one way to start, the one after a crash.
//!
//! Of a sealed segment only the footer is read. A segment whose footer does not match its header was open: it is scanned from end to end, going on
//! behind bad records, and sealed, never appended to. Of several records of a key the one with the highest number counts; a tombstone kills all
//! with lower numbers.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use forebay_format::layout::{NAMESPACE_TABLES_AT, SLICE_SUPERBLOCKS_AT};
use forebay_format::{
    FOOTER_ENTRY_BYTES, FOOTER_TAIL_BYTES, FooterEntry, FooterTail, NAMESPACE_TABLE_BYTES_MAX, NamespaceTable,
    SEGMENT_HEADER_BYTES, SUPERBLOCK_BYTES, SegmentHeader, SliceLayout, SliceSuperblock, encode_footer, footer_bytes,
    footer_entries_bytes,
};
use forebay_io::{Arena, Disk};
use forebay_tokenomics::SpaceCost;
use forebay_types::{Entropy, Key, Millis};

use crate::blocking::{flush, read_many, read_one, write_all};
use crate::budget::Budget;
use crate::clock::ExpiryClock;
use crate::curve::Live;
use crate::dram::{Dram, OVERHEAD_BYTES};
use crate::evict::Moves;
use crate::face::{RecoveryReport, StoreError};
use crate::flush::Flusher;
use crate::gather::Buffers;
use crate::ghost::Ghosts;
use crate::hints::Ahead;
use crate::index::{AGE_MAX, ENTRY_BYTES_MEAN, Entry, Index, Seed};
use crate::lanes::Lanes;
use crate::leases::{LEASE_BYTES, Leases};
use crate::mutant::Mutant;
use crate::namespaces::Namespaces;
use crate::price::Market;
use crate::scan::scan_segment;
use crate::scrub::Scrub;
use crate::segments::{Geometry, SPARE_SEGMENTS, Segments, State};
use crate::slab::Slab;
use crate::stats::StoreStats;
use crate::store::{Store, StoreConfig};
use crate::sums::Sums;
use crate::taking::{Findings, Taking};
use crate::write::{ENTRIES_STEP, FOOTER_SHARE};

/// Ranks that blocks found again are given at most: far below where a policy would have to rebase.
const RECOVERED_RANK_BITS: u32 = 28;
/// How the memory that grows with blocks is divided: what is not for these is for the index itself.
struct Shares {
    index: usize,
    ghosts: usize,
    dram_blocks: usize,
    leases: usize,
    entries: usize,
}

impl Shares {
    fn of(bytes: usize, layout: &SliceLayout) -> Self {
        let (ghosts, dram, leases) = (bytes / 64, bytes / 8, bytes / 32);
        // Twice what a segment holds when blocks fill index and drive alike, no more than its footer may list, and a quarter of the memory at most.
        let even = 2 * bytes / ENTRY_BYTES_MEAN / layout.segments as usize;
        let listed = layout.segment_bytes / FOOTER_SHARE / FOOTER_ENTRY_BYTES as u64;
        let each = OPEN_SEGMENTS * size_of::<FooterEntry>();
        let entries = even.max(ENTRIES_STEP).min(listed as usize).min((bytes / 4 / each).max(64));
        Shares {
            index: bytes - 2 * ghosts - dram - leases - (entries * each).min(bytes / 4),
            ghosts: ghosts / 4,
            dram_blocks: dram / OVERHEAD_BYTES,
            leases: leases / LEASE_BYTES,
            entries,
        }
    }
}

/// Segments whose entries are in memory: three are open, and one is being sealed.
const OPEN_SEGMENTS: usize = 4;
/// Share of a shard that leases may hold.
const LEASED_SHARE: u64 = 10;

/// Segments with a footer that counts, and those that were open.
type Sorted = (Vec<(u16, FooterTail)>, Vec<u16>);

impl<D: Disk> Store<D> {
    /// Opens a formatted slice: reads superblock, namespaces, headers and footers, scans and seals what was open. Waits for the disk.
    /// `utc_s` is what the wall clock says; tell the store from then on with [`Self::set_utc`].
    pub fn open(
        mut disk: D,
        arena: Arena,
        config: StoreConfig,
        entropy: Arc<dyn Entropy>,
        now: Millis,
        utc_s: u64,
    ) -> Result<(Self, RecoveryReport), StoreError> {
        let info = disk.info();
        let superblock = read_superblock(&mut disk, &arena)?;
        let layout = superblock.layout(info.len, info.align).map_err(|e| StoreError::Format(e.to_string()))?;
        let geometry = Geometry::new(layout);
        let need = memory_needed(&geometry);
        if (arena.len() as u64) < need {
            return Err(StoreError::Memory { need, found: arena.len() as u64 });
        }
        let table = read_namespaces(&mut disk, &arena)?;
        let (clock, write) = (ExpiryClock::new(now, utc_s, table.clock), table.write);
        let namespaces = Namespaces::load(table, config.reckoning);
        let seed = Seed([entropy.word(), entropy.word()]);
        let gathering_buffers = Buffers::new(&arena);
        let shares = Shares::of(config.index_bytes_max, &layout);
        let mut store = Store {
            dram: Dram::new(seed, shares.dram_blocks),
            disk,
            arena,
            shard: superblock.shard,
            geometry,
            policy: config.policy,
            rebases: 0,
            sums: Sums::default(),
            live: Live::new(config.curve_bytes_max),
            entropy,
            utc_s,
            index: Index::new(seed, shares.index),
            ghosts: Ghosts::new(shares.ghosts),
            expired: Ghosts::new(shares.ghosts / 4),
            clock,
            sweep: None,
            leases: Leases::new(layout.segment_bytes * u64::from(layout.segments) / LEASED_SHARE, shares.leases),
            namespaces,
            segments: Segments::new(layout.segments),
            lanes: Lanes::new(),
            ops: Slab::new(),
            ranges: Slab::new(),
            verifies: VecDeque::new(),
            ahead: Ahead::default(),
            scrub: Scrub::default(),
            budget: Budget::new(write),
            market: Market::new(config.prices, now, layout.segment_bytes * u64::from(layout.segments)),
            seen: Ghosts::new(shares.ghosts),
            writing: Vec::new(),
            awaited: VecDeque::new(),
            gathering_buffers,
            flusher: Flusher::default(),
            cleaning: None,
            moves: Moves::new(layout.segments, geometry.segment_units),
            claims: Rc::new(RefCell::new(BTreeSet::new())),
            put_bytes: Rc::new(RefCell::new(0)),
            undurable: BTreeMap::new(),
            forgets: Slab::new(),
            tombstones_waiting: VecDeque::new(),
            entries_max: shares.entries,
            next: 1,
            shed_cursor: 0,
            batches: 0,
            write_failed: false,
            closing: false,
            events: Vec::new(),
            counted: StoreStats::default(),
            #[cfg(feature = "mutants")]
            mutant: config.mutant,
        };
        if store.mutant(Mutant::LeasesUnbounded) {
            store.leases = Leases::new(u64::MAX, shares.leases);
        }
        let rows = store
            .namespaces
            .rows()
            .filter_map(|row| Some((store.namespaces.find(row.id)?, store.namespaces.cost_of(row))));
        let costs: Vec<(u16, SpaceCost)> = rows.collect();
        costs.into_iter().for_each(|(at, cost)| store.policy.space(at, cost));
        let report = store.recover()?;
        Ok((store, report))
    }

    fn recover(&mut self) -> Result<RecoveryReport, StoreError> {
        let mut report = RecoveryReport::default();
        let (footers, scans) = self.read_headers(&mut report)?;
        let mut found =
            Findings { tombstones: BTreeMap::new(), seq_max: 0, age_base: self.next.saturating_sub(AGE_MAX / 2) };
        let mut to_scan = scans;
        self.read_footers(&footers, &mut found, &mut to_scan, &mut report)?;
        to_scan.sort_unstable();
        let mut unsealed = Vec::new();
        for segment in to_scan {
            let entries = self.scan(segment, &mut found, &mut report)?;
            unsealed.push((segment, entries));
        }
        self.next = self.next.max(found.seq_max + 1);
        found.note(&mut self.segments);
        self.bury(&found);
        report.expired = self.leave_expired(&found);
        report.tombstones = found.tombstones.len() as u64;
        self.rank_recovered(&found);
        self.seal_scanned(unsealed)?;
        self.free_empty();
        self.index.fit();
        report.blocks = self.index.len() as u64;
        report.bytes = self.namespaces.bytes().0;
        report.segments = self.segments.iter().filter(|(_, s)| s.live_units > 0).count() as u64;
        Ok(report)
    }

    /// Headers and tails of all segments: which have a footer that counts, which must be scanned.
    fn read_headers(&mut self, report: &mut RecoveryReport) -> Result<Sorted, StoreError> {
        let layout = self.geometry.layout;
        let ignore_generation = self.mutant(Mutant::GenerationIgnored);
        let list: Vec<(u64, usize)> = (0..layout.segments)
            .flat_map(|i| {
                let at = layout.segment_at(i);
                let tail_at = at + layout.segment_bytes - FOOTER_TAIL_BYTES as u64;
                [(at, SEGMENT_HEADER_BYTES), (tail_at, FOOTER_TAIL_BYTES)]
            })
            .collect();
        let mut headers = vec![None; layout.segments as usize];
        let mut tails = vec![None; layout.segments as usize];
        let mut unreadable = 0;
        let shard = self.shard;
        read_many(&mut self.disk, &self.arena, &list, |at, result| {
            let index = at / 2;
            match result {
                Ok(page) if at % 2 == 0 => {
                    let header = SegmentHeader::decode(&page);
                    // Damaged, not merely never written: what it held is lost.
                    unreadable += u64::from(header.as_ref().is_err_and(|e| !e.is_foreign()));
                    headers[index] = header.ok().filter(|h| h.shard == shard && h.index == index as u32);
                }
                Ok(page) => tails[index] = FooterTail::decode(&page).ok(),
                Err(_) if at % 2 == 0 => unreadable += 1,
                Err(_) => {}
            }
        })?;
        report.bad_headers = unreadable;
        let (mut footers, mut scans) = (Vec::new(), Vec::new());
        for (i, (header, tail)) in headers.into_iter().zip(tails).enumerate() {
            let Some(header): Option<SegmentHeader> = header else { continue };
            let segment = i as u16;
            let s = self.segments.get_mut(segment);
            s.state = State::Sealed;
            s.kind = header.kind;
            s.generation = header.generation;
            s.nonce = header.nonce;
            s.oldest_on_disk = header.generation;
            self.next = self.next.max(header.generation + 1);
            let counts = |tail: &FooterTail| {
                (tail.generation == header.generation && tail.nonce == header.nonce && tail.kind == header.kind)
                    || ignore_generation
            };
            let fits = |tail: &FooterTail| {
                let len = footer_bytes(tail.count, layout.align) as u64;
                len + SEGMENT_HEADER_BYTES as u64 <= layout.segment_bytes
            };
            match tail.filter(counts).filter(fits) {
                Some(tail) => footers.push((segment, tail)),
                None => scans.push(segment),
            }
        }
        Ok((footers, scans))
    }

    fn read_footers(
        &mut self,
        footers: &[(u16, FooterTail)],
        found: &mut Findings,
        to_scan: &mut Vec<u16>,
        report: &mut RecoveryReport,
    ) -> Result<(), StoreError> {
        let layout = self.geometry.layout;
        for (segment, tail) in footers {
            self.segments.get_mut(*segment).footer_count = Some(tail.count);
        }
        let listed: u64 = footers.iter().map(|(_, tail)| u64::from(tail.count)).sum();
        self.index.reserve(listed as usize);
        let with_entries: Vec<&(u16, FooterTail)> = footers.iter().filter(|(_, tail)| tail.count > 0).collect();
        let list: Vec<(u64, usize)> = with_entries
            .iter()
            .map(|(segment, tail)| {
                let len = footer_bytes(tail.count, layout.align) as u64;
                let at = layout.segment_at(u32::from(*segment)) + layout.segment_bytes - len;
                (at, footer_entries_bytes(tail.count, layout.align))
            })
            .collect();
        let mut taking = Taking {
            geometry: self.geometry,
            index: &mut self.index,
            segments: &mut self.segments,
            namespaces: &self.namespaces,
            found,
            report,
        };
        read_many(&mut self.disk, &self.arena, &list, |at, result| {
            let (segment, tail) = with_entries[at];
            match result.as_ref().ok().and_then(|buf| tail.entries(buf).ok()) {
                Some(entries) => taking.take_all(*segment, entries),
                None => {
                    taking.report.bad_footers += 1;
                    taking.segments.get_mut(*segment).footer_count = None;
                    to_scan.push(*segment);
                }
            }
        })
    }

    fn scan(
        &mut self,
        segment: u16,
        found: &mut Findings,
        report: &mut RecoveryReport,
    ) -> Result<Vec<FooterEntry>, StoreError> {
        let s = self.segments.get(segment);
        let check = !self.mutant(Mutant::SkipCheck);
        let scanned =
            scan_segment(&mut self.disk, &self.arena, &self.geometry, segment, (s.generation, s.nonce), check)?;
        report.bad_records += scanned.bad;
        report.sealed_open += 1;
        let mut taking = Taking {
            geometry: self.geometry,
            index: &mut self.index,
            segments: &mut self.segments,
            namespaces: &self.namespaces,
            found,
            report,
        };
        taking.take_all(segment, scanned.entries.iter().copied());
        // What could not be read today may be read tomorrow.
        self.segments.get_mut(segment).has_blocks |= scanned.bad > 0;
        Ok(scanned.entries)
    }

    /// Forgets what tombstones say is forgotten.
    fn bury(&mut self, found: &Findings) {
        for ((namespace, key), (seq, _)) in &found.tombstones {
            let Some(ns) = self.namespaces.find(*namespace) else { continue };
            if self.index.find(ns, key).is_some_and(|e| e.age() < found.age(*seq)) {
                self.index.remove(ns, key);
            }
        }
    }

    /// Leaves out what the drive knows to be over. Only now: an older record of the same key must not come in its place.
    fn leave_expired(&mut self, found: &Findings) -> u64 {
        let old = found.age(self.clock.old_seq());
        let mut over = Vec::new();
        for table in 0..self.index.tables() {
            let is_over = |entry: &Entry, expiry| self.clock.is_over(expiry, entry.age() < old);
            over.extend(self.index.expiries(table).filter(|(e, at)| is_over(e, *at)).map(|(e, _)| (e.ns, e.key)));
        }
        for (ns, key) in &over {
            self.index.remove(*ns, key);
            self.expired.insert(self.index.seed().hash(*ns, key), self.index.len());
        }
        over.len() as u64
    }

    /// Gives every block a rank by when it was last written, and counts what lives where. When each was last read is not known any more.
    fn rank_recovered(&mut self, found: &Findings) {
        let recency =
            |entry: &Entry, segments: &Segments| entry.age().max(found.age(segments.get(entry.segment()).generation));
        let (mut least, mut most) = (u64::MAX, 0);
        for entry in (0..self.index.tables()).flat_map(|table| self.index.table(table)) {
            let at = recency(entry, &self.segments);
            (least, most) = (least.min(at), most.max(at));
        }
        let mut shift = 0;
        while most.saturating_sub(least) >> shift >= 1 << RECOVERED_RANK_BITS {
            shift += 1;
        }
        for table in 0..self.index.tables() {
            for entry in self.index.table_mut(table) {
                let rank = self.policy.found_again(((recency(entry, &self.segments) - least) >> shift) as u32);
                entry.settle(rank);
                let place = entry.place();
                let (units, count) = (place.units(), self.sums.order.count(self.policy.value(rank, entry.ns)));
                self.segments.add_live(entry.segment(), units, count);
                self.namespaces.add_block(entry.ns, self.geometry.bytes(units), place.length(self.geometry.align));
            }
        }
        // What is used from now on ranks above.
        self.policy.starts(1 << RECOVERED_RANK_BITS);
    }

    /// Seals what was open when the last owner died. Without it nothing is lost: it would be scanned again.
    fn seal_scanned(&mut self, unsealed: Vec<(u16, Vec<FooterEntry>)>) -> Result<(), StoreError> {
        if unsealed.is_empty() {
            return Ok(());
        }
        let layout = self.geometry.layout;
        // What a scan found may lie in the drive's cache only: a footer may not promise it before it is flushed.
        let mut written = flush(&mut self.disk, "sealing").is_ok();
        for (segment, entries) in unsealed {
            let len = footer_bytes(entries.len() as u32, layout.align);
            let end = entries.iter().map(|e| u64::from(e.start) + u64::from(e.record_bytes)).max().unwrap_or(0);
            let start = layout.segment_bytes - len as u64;
            if end > start || !written {
                continue;
            }
            let s = self.segments.get_mut(segment);
            let mut bytes = vec![0; len];
            encode_footer(s.generation, s.nonce, s.kind, entries.iter().copied(), layout.align, &mut bytes);
            let at = layout.segment_at(u32::from(segment)) + start;
            match write_all(&mut self.disk, &self.arena, "sealing", &[(at, &bytes)]) {
                Ok(()) => self.segments.get_mut(segment).footer_count = Some(entries.len() as u32),
                Err(StoreError::Disk { .. }) => written = false,
                Err(other) => return Err(other),
            }
        }
        written = written && flush(&mut self.disk, "sealing").is_ok();
        // A drive that cannot be written can still be read.
        self.write_failed = !written;
        Ok(())
    }

    /// Free are segments without a header, and those in which nothing lives any more, the oldest first.
    fn free_empty(&mut self) {
        let horizon = self.segments.horizon();
        let mut empty: Vec<(u64, u16)> = self
            .segments
            .iter()
            .filter(|(i, s)| s.live_units == 0 && self.segments.needed_tombstones(*i, &horizon) == 0)
            .map(|(i, s)| (s.generation, i))
            .collect();
        empty.sort_unstable();
        for (_, segment) in empty {
            self.segments.push_free(segment);
        }
        // Cleaning needs somewhere to move to. If every crash came in the middle of it, the cache pays.
        while self.segments.free_len() < SPARE_SEGMENTS {
            let Some(victim) = self.segments.cache_victim(&self.geometry, true) else { break };
            for table in 0..self.index.tables() {
                let here: Vec<(u16, Key)> =
                    self.index.table(table).filter(|e| e.segment() == victim).map(|e| (e.ns, e.key)).collect();
                for (ns, key) in here {
                    self.evict_entry(ns, &key);
                }
            }
            self.segments.push_free(victim);
        }
    }
}

/// Arena without which no block or footer of the largest kind could be handled, in bytes.
fn memory_needed(geometry: &Geometry) -> u64 {
    let record = geometry.layout.block_bytes_max() + (256 << 10);
    let footer = geometry.layout.segment_bytes / 16;
    record + footer + (4 << 20)
}

fn read_superblock(disk: &mut impl Disk, arena: &Arena) -> Result<SliceSuperblock, StoreError> {
    let mut pages = [vec![0; SUPERBLOCK_BYTES], vec![0; SUPERBLOCK_BYTES]];
    for (page, at) in pages.iter_mut().zip(SLICE_SUPERBLOCKS_AT) {
        if let Ok(buf) = read_one(disk, arena, at, SUPERBLOCK_BYTES)? {
            page.copy_from_slice(&buf);
        }
    }
    SliceSuperblock::choose(&pages[0], &pages[1]).map_err(|e| StoreError::Format(e.to_string()))
}

fn read_namespaces(disk: &mut impl Disk, arena: &Arena) -> Result<NamespaceTable, StoreError> {
    let mut tables = Vec::new();
    for at in NAMESPACE_TABLES_AT {
        // One that cannot be read is one that does not count.
        let buf = read_one(disk, arena, at, NAMESPACE_TABLE_BYTES_MAX)?;
        tables.push(buf.map(|buf| buf.to_vec()).unwrap_or_default());
    }
    NamespaceTable::newest(&tables[0], &tables[1]).map_err(|e| StoreError::Format(e.to_string()))
}
