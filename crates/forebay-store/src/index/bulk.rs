//! Many blocks at once: tables of their final size, and searches whose waits for memory overlap. For a start, which takes a million in a row.

use std::hint::black_box;

use forebay_types::Key;

use super::{Entry, Index, inner};
use crate::table::Table;

/// Blocks a table in the mean from which on room for all is made at once: with fewer, what is set apart for chance would outweigh them.
const RESERVED_MIN: usize = 64;

impl Index {
    /// Makes each table large enough at once for its share of so many blocks more. Tables grow by themselves; a start, which knows how many are
    /// coming, need not move each block five times. Does nothing when so many do not fit under the ceiling, or are too few to be worth it. See
    /// [`Self::fit`].
    pub(crate) fn reserve(&mut self, blocks: usize) {
        if blocks / self.tables.len() < RESERVED_MIN {
            return;
        }
        let shares: Vec<usize> = (0..self.tables.len())
            .map(|i| {
                let end = self.bounds.get(i + 1).copied().unwrap_or(u64::MAX);
                let share = (end - self.bounds[i]) as f64 / 2f64.powi(64) * blocks as f64;
                // Three standard deviations: one table in a thousand grows once more.
                (share + 3.0 * share.sqrt()) as usize
            })
            .collect();
        let grown: usize = self.tables.iter().zip(&shares).map(|(table, more)| table.reserve_bytes(*more)).sum();
        if self.slot_bytes() + grown > self.bytes_max {
            return;
        }
        for (table, more) in self.tables.iter_mut().zip(shares) {
            table.reserve(&self.seed, more);
        }
        self.count_bytes();
    }

    /// Gives back what tables have too much, after fewer blocks came than [`Self::reserve`] was told.
    pub(crate) fn fit(&mut self) {
        self.tables.iter_mut().for_each(|table| table.fit(&self.seed));
        self.count_bytes();
    }

    fn count_bytes(&mut self) {
        self.table_bytes = self.tables.iter().map(Table::bytes).sum();
        self.expiry_bytes = self.tables.iter().map(Table::expiry_bytes).sum();
    }

    /// The hash by which a block is found, for those who look for it more than once.
    pub(crate) fn hash(&self, ns: u16, key: &Key) -> u64 {
        self.seed.hash(ns, key)
    }

    /// Brings in the memory around a block's place without waiting for it: see [`Self::spots`]. Nothing is promised of what happens in between.
    pub(crate) fn look_ahead(&self, hash: u64) {
        let table = &self.tables[self.table_of(hash)];
        black_box(table.are_taken(table.home(inner(hash))));
    }

    /// Finds a block by its hash.
    pub(crate) fn find_hashed(&mut self, hash: u64, ns: u16, key: &Key) -> Option<&mut Entry> {
        let table = self.table_of(hash);
        let table = &mut self.tables[table];
        let slot = table.position(&self.seed, table.home(inner(hash)), ns, key)?;
        table.at_mut(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{key, place};
    use super::*;
    use crate::index::Seed;

    #[test]
    fn a_start_that_knows_how_many_come_costs_no_more_and_moves_none_twice() {
        let mut index = Index::new(Seed([3, 4]), 54 << 20);
        index.reserve(1_000_000);
        let reserved = index.bytes();
        for i in 0..1_000_000 {
            assert!(index.full_table_for(1, &key(i)).is_none());
            index.insert_until(Entry::new(1, key(i), 0, place(i as u32)), i % 3);
        }
        index.fit();
        assert!(index.bytes() as f64 / 1e6 <= 48.0, "{}", index.bytes());
        assert!(index.slot_bytes() <= reserved + reserved / 100, "{} after {reserved}", index.slot_bytes());
        assert!((0..1_000_000).all(|i| index.find(1, &key(i)).is_some() && index.expiry(1, &key(i)) == i % 3));

        // Most of what footers list may be dead: what was made too large is given back.
        let mut index = Index::new(Seed([3, 4]), 54 << 20);
        index.reserve(1_000_000);
        (0..200_000).for_each(|i| index.insert_until(Entry::new(1, key(i), 0, place(i as u32)), 0));
        index.fit();
        assert!(index.bytes() as f64 / 2e5 <= 48.0, "{}", index.bytes());
        assert!((0..200_000).all(|i| index.find(1, &key(i)).is_some_and(|e| e.place() == place(i as u32))));

        // More than the ceiling allows: it grows by itself, as far as it may.
        let mut index = Index::new(Seed([3, 4]), 4 << 20);
        let before = index.bytes();
        index.reserve(1_000_000);
        assert_eq!(index.bytes(), before);
    }
}
