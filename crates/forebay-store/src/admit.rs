//! Admission: which blocks of the cache are worth a write when the write budget is short.

use forebay_io::Disk;
use forebay_types::{BlockMeta, Key, Millis, Reuse};

use crate::mutant::Mutant;
use crate::store::Store;

/// Who says that a block will be used later than this says that it is not worth today's budget, in seconds.
const SOON_S: u32 = 86_400;
/// The half of a name that stands for "a block with this first half is worth following": [`BlockMeta::parent`] is the first half of a key.
const FOLLOWED_HALF: [u8; 8] = *b"followed";

impl<D: Disk> Store<D> {
    /// Lets the drive be written so many bytes a day, from now on; 0 as many as come. What was spent before a restart is spent.
    pub fn limit_writes(&mut self, now: Millis, day_bytes: u64) {
        self.budget.set(now, self.utc_s, day_bytes);
    }

    /// Whether a block of the cache that takes `bytes` of the drive is admitted. One that is not is remembered: the next time it is wanted again.
    pub(crate) fn is_admitted(&mut self, ns: u16, meta: &BlockMeta, bytes: u64, hint: Reuse) -> bool {
        if !self.budget.is_on() || self.mutant(Mutant::BudgetIgnored) {
            return true;
        }
        let likely = self.is_likely(ns, meta, hint);
        if self.budget.admits(bytes, || likely) {
            // One that only the plenty of the moment admitted says nothing for what comes behind it.
            if likely {
                self.is_worth_following(ns, &meta.key);
            }
            return true;
        }
        self.wanted_in_vain(ns, &meta.key);
        false
    }

    /// Whether a block is likely to be used again: its caller says so, it goes on a chain that was found worth keeping, or it begins one and was evicted or
    /// refused lately and is wanted again. Behind a gap nothing is likely, however often it was wanted: nobody can use it.
    fn is_likely(&self, ns: u16, meta: &BlockMeta, hint: Reuse) -> bool {
        let hash = self.index.seed().hash(ns, &meta.key);
        let head = meta.parent == 0;
        let follows = !head && self.seen.contains(self.followed_hash(ns, meta.parent));
        let again = self.ghosts.contains(hash) || self.seen.contains(hash);
        match hint {
            Reuse::Tool | Reuse::Turn => true,
            Reuse::Seconds(seconds) => seconds <= SOON_S || (head || follows) && again,
            Reuse::Unknown => follows || head && again,
            // Whoever is done comes not back; somebody else may have asked for it all the same.
            Reuse::Done => (head || follows) && again,
        }
    }

    fn followed_hash(&self, ns: u16, first_half: u64) -> u64 {
        let mut name = [0; 16];
        name[..8].copy_from_slice(&first_half.to_le_bytes());
        name[8..].copy_from_slice(&FOLLOWED_HALF);
        self.index.seed().hash(ns, &Key(name))
    }

    /// A block was used, or put because that is likely: what comes behind it in its chain is likely to be used with it.
    pub(crate) fn is_worth_following(&mut self, ns: u16, key: &Key) {
        if self.budget.is_on() {
            self.seen.insert(self.followed_hash(ns, key.place_token()), self.index.len());
        }
    }

    /// A block was wanted and is not here.
    pub(crate) fn wanted_in_vain(&mut self, ns: u16, key: &Key) {
        if self.budget.is_on() {
            self.seen.insert(self.index.seed().hash(ns, key), self.index.len());
        }
    }

    /// A durable put is taken, whatever the budget says.
    pub(crate) fn count_durable_put(&mut self) {
        if self.budget.is_on() && self.budget.left_bytes() == 0 {
            self.counted.durable_over_budget += 1;
        }
    }
}
