//! The index: where each block lies and what it is ranked, in at most 48 bytes of memory a block at the worst moment.
//!
//! Many small tables instead of one: a table grows in one step, and a small one does so in microseconds. Their shares of the hash space are
//! staggered geometrically, the largest being one step of growth above the smallest, so that at any moment some have just grown and others are
//! nearly full, and the sum grows smoothly. It knows no disk and no policy: a rank is a number.

use std::hint::black_box;
use std::num::NonZeroU64;

use forebay_types::Key;

use crate::table::Table;

mod bulk;

/// Entries of a table when the index is full: what one step of growth may cost.
const TABLE_ENTRIES: usize = 2048;
/// Bytes of memory a block takes in the mean.
pub(crate) const ENTRY_BYTES_MEAN: usize = 43;
/// What a table grows by.
const GROWTH: f64 = 1.25;
const COARSE_BITS: u32 = 12;

const PAGE_BITS: u32 = 20;
const PAYLOAD_BITS: u32 = 18;
const TRAILER_BITS: u32 = 5;
const TAIL_BITS: u32 = 12;
const TOUCHED: u64 = 1 << 63;
/// Bits of [`Entry::packed`] that recovery borrows, above the place.
const SPARE_SHIFT: u32 = PAGE_BITS + PAYLOAD_BITS + TRAILER_BITS + TAIL_BITS;
/// It is in DRAM as well, so that looking at a block is one search and not two.
const IN_DRAM: u64 = 1 << 56;
const LEASE_SHIFT: u32 = 57;
/// Marks a lease may have, 1 and up: the bits between the place's spare and [`TOUCHED`].
pub(crate) const LEASE_MARKS: u8 = (1 << (63 - LEASE_SHIFT)) - 1;
const LEASE: u64 = (LEASE_MARKS as u64) << LEASE_SHIFT;
const _: () = assert!(LEASE_SHIFT > SPARE_SHIFT && IN_DRAM >> SPARE_SHIFT > 0);

/// Where a record lies in its segment, in units of the drive's alignment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u16,
    /// First unit, from the segment's start.
    pub(crate) page: u32,
    /// Units of padded payload.
    pub(crate) payload_units: u32,
    /// Units of the trailer.
    pub(crate) trailer_units: u32,
    /// Zeros between the payload's end and its last unit's end, in bytes.
    pub(crate) tail: u32,
}

impl Place {
    pub(crate) fn units(&self) -> u32 {
        self.payload_units + self.trailer_units
    }

    /// Bytes of payload.
    pub(crate) fn length(&self, align: usize) -> u64 {
        u64::from(self.payload_units) * align as u64 - u64::from(self.tail)
    }
}

/// One block.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) rank: u32,
    segment: u16,
    /// The shard's own number for the namespace.
    pub(crate) ns: u16,
    /// Never zero: a block has at least one unit of payload.
    packed: NonZeroU64,
}

const _: () = assert!(size_of::<Entry>() == 32);

impl Entry {
    pub(crate) fn new(ns: u16, key: Key, rank: u32, place: Place) -> Self {
        let mut entry = Entry { key, rank, segment: 0, ns, packed: NonZeroU64::MIN };
        entry.set_place(place);
        entry
    }

    pub(crate) fn place(&self) -> Place {
        let field = |shift: u32, bits: u32| (self.packed.get() >> shift) as u32 & ((1 << bits) - 1);
        Place {
            segment: self.segment,
            page: field(0, PAGE_BITS),
            payload_units: field(PAGE_BITS, PAYLOAD_BITS),
            trailer_units: field(PAGE_BITS + PAYLOAD_BITS, TRAILER_BITS),
            tail: field(PAGE_BITS + PAYLOAD_BITS + TRAILER_BITS, TAIL_BITS),
        }
    }

    pub(crate) fn set_place(&mut self, place: Place) {
        // Segments have at most 2^19 units and blocks 2^17 (64 MiB of 512 bytes): see `forebay_types::limits`.
        assert!(place.page < 1 << PAGE_BITS && (1..1 << PAYLOAD_BITS).contains(&place.payload_units));
        assert!(place.trailer_units < 1 << TRAILER_BITS && place.tail < 1 << TAIL_BITS);
        self.segment = place.segment;
        let low = u64::from(place.page)
            | u64::from(place.payload_units) << PAGE_BITS
            | u64::from(place.trailer_units) << (PAGE_BITS + PAYLOAD_BITS)
            | u64::from(place.tail) << (PAGE_BITS + PAYLOAD_BITS + TRAILER_BITS);
        self.set_packed(self.packed.get() >> SPARE_SHIFT << SPARE_SHIFT | low);
    }

    fn set_packed(&mut self, packed: u64) {
        self.packed = NonZeroU64::new(packed).expect("a block has at least one unit of payload");
    }

    pub(crate) fn segment(&self) -> u16 {
        self.segment
    }

    pub(crate) fn is_at(&self, segment: u16, page: u32) -> bool {
        self.segment == segment && self.place().page == page
    }

    /// Read once from the drive since it came: the next read brings it to DRAM.
    pub(crate) fn touched(&self) -> bool {
        self.packed.get() & TOUCHED != 0
    }

    pub(crate) fn set_touched(&mut self, on: bool) {
        let packed = self.packed.get();
        self.set_packed(if on { packed | TOUCHED } else { packed & !TOUCHED });
    }

    pub(crate) fn is_in_dram(&self) -> bool {
        self.packed.get() & IN_DRAM != 0
    }

    pub(crate) fn set_in_dram(&mut self, on: bool) {
        let packed = self.packed.get();
        self.set_packed(if on { packed | IN_DRAM } else { packed & !IN_DRAM });
    }

    /// The mark of the lease it is under.
    pub(crate) fn lease(&self) -> Option<u8> {
        let mark = ((self.packed.get() & LEASE) >> LEASE_SHIFT) as u8;
        (mark != 0).then_some(mark)
    }

    pub(crate) fn is_leased(&self) -> bool {
        self.packed.get() & LEASE != 0
    }

    pub(crate) fn set_lease(&mut self, mark: Option<u8>) {
        let mark = mark.unwrap_or(0);
        debug_assert!(mark <= LEASE_MARKS);
        self.set_packed(self.packed.get() & !LEASE | u64::from(mark) << LEASE_SHIFT);
    }

    /// While a shard is being opened, rank and flags hold how old the record is: 41 bits of its sequence number.
    pub(crate) fn age(&self) -> u64 {
        u64::from(self.rank) | self.packed.get() >> SPARE_SHIFT << 32
    }

    /// Ends the loan: a rank, and no flag set.
    pub(crate) fn settle(&mut self, rank: u32) {
        self.set_age(u64::from(rank));
    }

    /// See [`Self::age`].
    pub(crate) fn set_age(&mut self, age: u64) {
        debug_assert!(age <= AGE_MAX);
        self.rank = age as u32;
        self.set_packed(self.packed.get() & ((1 << SPARE_SHIFT) - 1) | (age >> 32) << SPARE_SHIFT);
    }
}

/// Largest [`Entry::age`].
pub(crate) const AGE_MAX: u64 = (1 << (32 + 64 - SPARE_SHIFT)) - 1;

/// A keyed hash of a block's name: two rounds of folded multiplication. The seed is the shard's secret, so that a tenant who chooses keys cannot
/// fill one bucket.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seed(pub(crate) [u64; 2]);

impl Seed {
    pub(crate) fn hash(&self, ns: u16, key: &Key) -> u64 {
        let fold = |a: u64, b: u64| {
            let wide = u128::from(a) * u128::from(b);
            wide as u64 ^ (wide >> 64) as u64
        };
        let (low, high) = key.halves();
        let first = fold(low ^ self.0[0], high ^ self.0[1] ^ 0x9e37_79b9_7f4a_7c15);
        fold(first ^ u64::from(ns) ^ self.0[1], 0xd6e8_feb8_6659_fd93 ^ self.0[0])
    }

    /// The hash inside a table.
    pub(crate) fn inner(&self, ns: u16, key: &Key) -> u64 {
        inner(self.hash(ns, key))
    }
}

/// The hash inside a table, from the hash of the whole: its top bits chose the table and say nothing there.
fn inner(hash: u64) -> u64 {
    hash.rotate_left(24).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// A time as the tables keep it: up to the year 2106.
fn seconds(expiry: u64) -> u32 {
    u32::try_from(expiry).unwrap_or(u32::MAX)
}

/// Where the search for a block begins.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Spot {
    pub(crate) hash: u64,
    table: u32,
    home: u32,
}

/// All blocks of a shard.
pub(crate) struct Index {
    seed: Seed,
    tables: Vec<Table>,
    /// `bounds[i]` is the first hash of table i.
    bounds: Vec<u64>,
    /// For each value of a hash's top bits, the table its first hash belongs to.
    coarse: Vec<u32>,
    len: usize,
    table_bytes: usize,
    expiry_bytes: usize,
    /// Ceiling of all but the times of expiry, for which a ninth is set apart: an eighth of what slots take.
    bytes_max: usize,
    /// Blocks that expire.
    expiring: usize,
    /// None expires before this.
    soonest: u64,
}

impl Index {
    /// For at most `bytes_max` bytes. The number of tables follows from it.
    pub(crate) fn new(seed: Seed, bytes_max: usize) -> Self {
        let bytes_max = bytes_max / 9 * 8;
        let n = (bytes_max / ENTRY_BYTES_MEAN / TABLE_ENTRIES).clamp(1, 1 << 20);
        let bound = |i: usize| (GROWTH.powf(i as f64 / n as f64) - 1.0) / (GROWTH - 1.0) * 2f64.powi(64);
        let bounds: Vec<u64> = (0..n).map(|i| bound(i) as u64).collect();
        let mut table = 0;
        let coarse = (0..1u64 << COARSE_BITS)
            .map(|top| {
                while table + 1 < n && bounds[table + 1] <= top << (64 - COARSE_BITS) {
                    table += 1;
                }
                table as u32
            })
            .collect();
        Index {
            seed,
            tables: (0..n).map(|_| Table::default()).collect(),
            bounds,
            coarse,
            len: 0,
            table_bytes: 0,
            expiry_bytes: 0,
            bytes_max,
            expiring: 0,
            soonest: u64::MAX,
        }
    }

    pub(crate) fn seed(&self) -> Seed {
        self.seed
    }

    fn table_of(&self, hash: u64) -> usize {
        let mut table = self.coarse[(hash >> (64 - COARSE_BITS)) as usize] as usize;
        while self.bounds.get(table + 1).is_some_and(|bound| *bound <= hash) {
            table += 1;
        }
        table
    }

    /// The table a block is in, or would be.
    pub(crate) fn table_number(&self, ns: u16, key: &Key) -> usize {
        self.table_of(self.seed.hash(ns, key))
    }

    fn position(&self, ns: u16, key: &Key) -> Option<(usize, usize)> {
        let hash = self.seed.hash(ns, key);
        let table = self.table_of(hash);
        let home = self.tables[table].home(inner(hash));
        let slot = self.tables[table].position(&self.seed, home, ns, key)?;
        Some((table, slot))
    }

    /// Where each of `keys` would stand, for [`Self::find_at`]. The memory around these places comes in side by side: in a large index the search
    /// for a block is one wait for memory, and a thousand of them in a row would be a thousand waits. Good until a block is added or removed.
    pub(crate) fn spots<'k>(&self, keys: impl Iterator<Item = (u16, &'k Key)>, spots: &mut Vec<Spot>) {
        spots.clear();
        spots.extend(keys.map(|(ns, key)| {
            let hash = self.seed.hash(ns, key);
            let table = self.table_of(hash);
            Spot { hash, table: table as u32, home: self.tables[table].home(inner(hash)) as u32 }
        }));
        for spot in spots.iter() {
            // A look that nobody waits for.
            black_box(self.tables[spot.table as usize].are_taken(spot.home as usize));
        }
    }

    /// Finds a block from where its search begins.
    pub(crate) fn find_at(&mut self, spot: Spot, ns: u16, key: &Key) -> Option<&mut Entry> {
        let table = &mut self.tables[spot.table as usize];
        let slot = table.position(&self.seed, spot.home as usize, ns, key)?;
        table.at_mut(slot)
    }

    pub(crate) fn find(&self, ns: u16, key: &Key) -> Option<&Entry> {
        let (table, slot) = self.position(ns, key)?;
        self.tables[table].at(slot)
    }

    pub(crate) fn find_mut(&mut self, ns: u16, key: &Key) -> Option<&mut Entry> {
        let (table, slot) = self.position(ns, key)?;
        self.tables[table].at_mut(slot)
    }

    /// Adds a block that is not there yet and expires then; 0 never.
    pub(crate) fn insert_until(&mut self, entry: Entry, expiry: u64) {
        self.insert_hashed(self.seed.hash(entry.ns, &entry.key), entry, expiry);
    }

    /// The same, when its hash is known.
    pub(crate) fn insert_hashed(&mut self, hash: u64, entry: Entry, expiry: u64) {
        let seconds = seconds(expiry);
        let at = self.table_of(hash);
        let table = &mut self.tables[at];
        let (before, times) = (table.bytes(), table.expiry_bytes());
        table.insert(&self.seed, inner(hash), entry, seconds);
        self.table_bytes = self.table_bytes + table.bytes() - before;
        self.expiry_bytes = self.expiry_bytes + table.expiry_bytes() - times;
        self.len += 1;
        self.expires(0, seconds);
    }

    /// Counts that what expired at one time (0: never) does so at another.
    fn expires(&mut self, before: u32, after: u32) {
        self.expiring = self.expiring + usize::from(after != 0) - usize::from(before != 0);
        if after != 0 {
            self.soonest = self.soonest.min(u64::from(after));
        }
    }

    /// When a block expires, in seconds since 1970; 0 never, or not there.
    pub(crate) fn expiry(&self, ns: u16, key: &Key) -> u64 {
        self.position(ns, key).map_or(0, |(table, slot)| u64::from(self.tables[table].expiry(slot)))
    }

    /// Says when a block expires.
    pub(crate) fn set_expiry(&mut self, ns: u16, key: &Key, expiry: u64) {
        let Some((table, slot)) = self.position(ns, key) else { return };
        let table = &mut self.tables[table];
        let (before, times) = (table.expiry(slot), table.expiry_bytes());
        table.set_expiry(slot, seconds(expiry));
        self.expiry_bytes = self.expiry_bytes + table.expiry_bytes() - times;
        self.expires(before, seconds(expiry));
    }

    /// True when any block expires.
    pub(crate) fn any_expire(&self) -> bool {
        self.expiring > 0
    }

    /// No block expires before this.
    pub(crate) fn soonest(&self) -> u64 {
        self.soonest
    }

    pub(crate) fn set_soonest(&mut self, soonest: u64) {
        self.soonest = soonest;
    }

    /// The blocks of one table that expire, and when.
    pub(crate) fn expiries(&self, table: usize) -> impl Iterator<Item = (&Entry, u64)> {
        self.tables[table].expiring().map(|(entry, expiry)| (entry, u64::from(expiry)))
    }

    pub(crate) fn remove(&mut self, ns: u16, key: &Key) -> Option<Entry> {
        let (table, slot) = self.position(ns, key)?;
        let table = &mut self.tables[table];
        let (before, times, expiry) = (table.bytes(), table.expiry_bytes(), table.expiry(slot));
        let removed = table.remove(&self.seed, slot)?;
        self.table_bytes = self.table_bytes + table.bytes() - before;
        self.expiry_bytes = self.expiry_bytes + table.expiry_bytes() - times;
        self.len -= 1;
        self.expires(expiry, 0);
        Some(removed)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.slot_bytes() + self.expiry_bytes
    }

    /// Bytes it takes for the moment in which a table grows, and is there twice.
    pub(crate) fn growing_bytes(&self) -> usize {
        self.tables.iter().map(Table::bytes).max().unwrap_or(0)
    }

    fn slot_bytes(&self) -> usize {
        self.table_bytes
            + self.tables.len() * (size_of::<Table>() + size_of::<u64>())
            + self.coarse.len() * size_of::<u32>()
    }

    /// When a block cannot be added under the ceiling: the table that has no room for it.
    pub(crate) fn full_table_for(&self, ns: u16, key: &Key) -> Option<usize> {
        self.full_table_of(self.seed.hash(ns, key))
    }

    /// The same, when its hash is known.
    pub(crate) fn full_table_of(&self, hash: u64) -> Option<usize> {
        let at = self.table_of(hash);
        let table = &self.tables[at];
        (table.is_full() && self.slot_bytes() + table.growth_bytes() > self.bytes_max).then_some(at)
    }

    /// Number of tables, for sweeping one at a time.
    pub(crate) fn tables(&self) -> usize {
        self.tables.len()
    }

    /// The blocks of one table.
    pub(crate) fn table(&self, table: usize) -> impl Iterator<Item = &Entry> {
        self.tables[table].iter()
    }

    /// The blocks of one table, to be changed; never their names.
    pub(crate) fn table_mut(&mut self, table: usize) -> impl Iterator<Item = &mut Entry> {
        self.tables[table].iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn key(i: u64) -> Key {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&i.to_le_bytes());
        Key(bytes)
    }

    pub(super) fn place(i: u32) -> Place {
        Place {
            segment: (i % 60_000) as u16,
            page: i % (1 << 19),
            payload_units: 1 + i % 131_072,
            trailer_units: 1 + i % 21,
            tail: i % 4096,
        }
    }

    #[test]
    fn an_entry_keeps_what_it_was_given() {
        for i in [0, 1, 77, 131_071, 524_287, 4_000_000] {
            let mut entry = Entry::new(9, key(1), 5, place(i));
            assert_eq!(entry.place(), place(i));
            entry.set_touched(true);
            assert!(entry.touched() && entry.place() == place(i));
            entry.set_lease(Some(LEASE_MARKS));
            assert!(entry.lease() == Some(LEASE_MARKS) && entry.touched() && entry.place() == place(i));
            entry.set_in_dram(true);
            entry.set_lease(None);
            assert!(!entry.is_leased() && entry.lease().is_none() && entry.touched() && entry.is_in_dram());
            entry.set_in_dram(false);
            assert!(!entry.is_in_dram() && entry.touched() && entry.place() == place(i));
            entry.set_place(place(i + 1));
            assert!(entry.touched() && entry.place() == place(i + 1));
            entry.set_age(AGE_MAX - u64::from(i));
            assert!(entry.age() == AGE_MAX - u64::from(i) && entry.place() == place(i + 1));
        }
    }

    #[test]
    fn a_block_costs_at_most_48_bytes_at_the_worst_moment() {
        // Whoever gives the index 43 MiB wants a million blocks in it, and not only on average: a table that doubles would need twice that.
        costs_at_most_48_bytes(|_| 0);
    }

    #[test]
    fn a_block_that_expires_costs_at_most_48_bytes_too() {
        costs_at_most_48_bytes(|i| 1_700_000_000 + i);
        // Nor do a few of them make all others dear.
        costs_at_most_48_bytes(|i| if i % 1000 == 0 { 5 } else { 0 });
    }

    fn costs_at_most_48_bytes(expiry: impl Fn(u64) -> u64) {
        let mut index = Index::new(Seed([3, 4]), 54 << 20);
        let (mut worst, mut worst_step) = (0.0f64, 0);
        for i in 0..1_000_000u64 {
            let before = index.bytes();
            index.insert_until(Entry::new(1, key(i), 0, place(i as u32)), expiry(i));
            worst_step = worst_step.max(index.bytes() - before);
            if i > 100_000 {
                worst = worst.max(index.bytes() as f64 / (i + 1) as f64);
            }
        }
        println!("worst bytes a block: {worst:.1}, largest growth in one insert: {worst_step} bytes");
        assert!(worst <= 48.0, "{worst}");
        assert!(worst_step <= 4096 * 36 / 4, "{worst_step}");
        assert!((0..1_000_000).all(|i| index.find(1, &key(i)).is_some_and(|e| e.place() == place(i as u32))));
        assert!(index.find(2, &key(1)).is_none() && index.find(1, &key(1_000_000)).is_none());

        // Churn leaves no marks that would make it grow.
        for i in 0..500_000u64 {
            assert!(index.remove(1, &key(i)).is_some());
            index.insert_until(Entry::new(1, key(1_000_000 + i), 0, place(i as u32)), expiry(1_000_000 + i));
            worst = worst.max(index.bytes() as f64 / 1e6);
        }
        println!("after churn: {worst:.1}");
        assert!(worst <= 48.0, "{worst}");
        assert_eq!(index.len(), 1_000_000);
        assert!(
            (500_000..1_500_000).all(|i| index.find(1, &key(i)).is_some() && index.expiry(1, &key(i)) == expiry(i))
        );
        let expiring = (500_000..1_500_000).filter(|i| expiry(*i) != 0).count();
        let listed: usize = (0..index.tables()).map(|table| index.expiries(table).count()).sum();
        assert_eq!((index.expiring, listed), (expiring, expiring));
        assert!((0..500_000).all(|i| index.find(1, &key(i)).is_none()));
    }
}
