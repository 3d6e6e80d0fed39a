//! Blocks that go one by one: the coldest of a namespace over its quota, and of a full table of the index.

use forebay_io::Disk;
use forebay_types::Key;

use crate::mutant::Mutant;
use crate::store::Store;

/// Blocks compared in one search for the coldest: about 50 us.
const SHED_VISITS: usize = 4096;
/// Such searches for one put.
const SHEDS_PER_PUT: usize = 64;

impl<D: Disk> Store<D> {
    /// Makes room for `units` in a namespace of the cache: when it would be over its quota it loses its coldest, down to 15/16 of it, so that the
    /// search is paid once for many puts.
    pub(crate) fn make_quota(&mut self, ns: u16, units: u32) -> bool {
        let bytes = self.geometry.bytes(units);
        let Some(slot) = self.namespaces.get(ns) else { return false };
        let Some(quota) = slot.row.quota_bytes else { return true };
        if slot.bytes + bytes <= quota {
            return true;
        }
        let goal = slot.bytes + bytes - quota.min((quota / 16 * 15).max(bytes));
        let before = self.counted.evicted;
        self.shed(ns, goal);
        self.counted.evicted_quota += self.counted.evicted - before;
        self.namespaces.get(ns).is_some_and(|slot| slot.bytes + bytes <= quota)
    }

    /// Makes room in the index for a block: its table may not grow past the ceiling, so that table loses its coldest sixteenth.
    pub(crate) fn make_index_room(&mut self, ns: u16, key: &Key) -> bool {
        let Some(table) = self.index.full_table_for(ns, key) else { return true };
        if self.mutant(Mutant::IndexUnbounded) {
            return true;
        }
        let mut coldest: Vec<(bool, u32, u16, Key)> = self
            .index
            .table(table)
            .filter(|e| !self.namespaces.is_durable(e.ns))
            .map(|e| (e.is_leased(), self.policy.value(e.rank, e.ns), e.ns, e.key))
            .collect();
        coldest.sort_unstable_by_key(|(leased, value, ..)| (*leased, *value));
        coldest.truncate(coldest.len().div_ceil(16));
        let evicted = coldest.len();
        for (_, _, ns, key) in coldest {
            self.evict_entry(ns, &key);
        }
        self.counted.evicted_index += evicted as u64;
        evicted > 0
    }

    /// Evicts the coldest of a namespace of the cache until `bytes` are free. Blocks are spread over the index's tables by hash,
    /// so a few tables are a fair sample; a small index is looked at whole.
    fn shed(&mut self, ns: u16, bytes: u64) {
        let mut freed = 0;
        for heed_leases in [true, false] {
            for _ in 0..SHEDS_PER_PUT {
                if freed >= bytes {
                    return;
                }
                let (mut sample, whole) = self.sample(ns, heed_leases);
                if sample.is_empty() && whole {
                    break;
                }
                sample.sort_unstable_by_key(|(value, _)| *value);
                let most = if whole { sample.len() } else { sample.len().div_ceil(16) };
                for (_, key) in sample.into_iter().take(most) {
                    if freed >= bytes {
                        break;
                    }
                    freed += self.evict_entry(ns, &key);
                }
            }
        }
    }

    /// Candidates from the next tables of the index, and whether these were all tables.
    fn sample(&mut self, ns: u16, heed_leases: bool) -> (Vec<(u32, Key)>, bool) {
        let mut sample = Vec::new();
        let (mut visited, mut tables) = (0, 0);
        while visited < SHED_VISITS && tables < self.index.tables() {
            self.shed_cursor = (self.shed_cursor + 1) % self.index.tables();
            tables += 1;
            for entry in self.index.table(self.shed_cursor) {
                visited += 1;
                if entry.ns == ns && !(heed_leases && entry.is_leased()) {
                    sample.push((self.policy.value(entry.rank, ns), entry.key));
                }
            }
        }
        (sample, tables == self.index.tables())
    }
}
