//! One small table of the index: open addressing in the order of hashes, in exactly as many 32-byte slots as it was given.
//!
//! A general hash table doubles, and leaves marks where something was removed that make it double again under churn: 33 to 130 bytes a block.
//! This one grows by a quarter, stays between two thirds and five sixths full, leaves no marks, and gives memory back: 38 to 48 bytes. Entries with
//! earlier hashes stand first, so a search for what is not there ends as soon as one for what is.

use forebay_types::Key;

use crate::index::{Entry, Seed};

/// Slots of the smallest table.
const SLOTS_MIN: usize = 2;
/// How far from its home an entry is looked for by its name alone: nine of ten stand nearer, and comparing names costs a tenth of hashing them.
const NEAR: usize = 8;

/// Entries in the order of their hashes, as far as collisions allow.
#[derive(Default)]
pub(crate) struct Table {
    slots: Vec<Option<Entry>>,
    /// When each slot's block expires, in seconds since 1970; 0 never. Empty until the first that does.
    expiries: Vec<u32>,
    len: usize,
}

/// [`Entry`] has a niche for "nothing here".
const _: () = assert!(size_of::<Option<Entry>>() == 32);

impl Table {
    /// Slot at which an entry of this hash would stand if it were alone.
    pub(crate) fn home(&self, hash: u64) -> usize {
        ((u128::from(hash) * self.slots.len() as u128) >> 64) as usize
    }

    fn after(&self, slot: usize) -> usize {
        if slot + 1 == self.slots.len() { 0 } else { slot + 1 }
    }

    /// How far an entry stands behind its home.
    fn distance(&self, seed: &Seed, slot: usize, entry: &Entry) -> usize {
        let home = self.home(seed.inner(entry.ns, &entry.key));
        if slot >= home { slot - home } else { slot + self.slots.len() - home }
    }

    /// True when entries stand at `home` and behind it, as far as most searches go.
    pub(crate) fn are_taken(&self, home: usize) -> bool {
        let taken = |slot: usize| self.slots.get(slot).is_some_and(Option::is_some);
        taken(home) & taken(home + 2)
    }

    /// Finds an entry whose home is `home`.
    pub(crate) fn position(&self, seed: &Seed, home: usize, ns: u16, key: &Key) -> Option<usize> {
        if self.len == 0 {
            return None;
        }
        let mut slot = home;
        for distance in 0.. {
            let entry = self.slots[slot].as_ref()?;
            if entry.key == *key && entry.ns == ns {
                return Some(slot);
            }
            // One that stands nearer to its home than we would: behind it nothing of ours can stand.
            if distance >= NEAR && self.distance(seed, slot, entry) < distance {
                return None;
            }
            slot = self.after(slot);
        }
        None
    }

    pub(crate) fn at(&self, slot: usize) -> Option<&Entry> {
        self.slots[slot].as_ref()
    }

    pub(crate) fn at_mut(&mut self, slot: usize) -> Option<&mut Entry> {
        self.slots[slot].as_mut()
    }

    /// True when one more makes it grow.
    pub(crate) fn is_full(&self) -> bool {
        // A sixth stays empty: searches look at four slots in the mean. Where a slot is dearer, an eighth.
        match self.expiries.is_empty() {
            true => (self.len + 1) * 6 > self.slots.len() * 5,
            false => (self.len + 1) * 8 > self.slots.len() * 7,
        }
    }

    /// Slots after growing.
    fn grown(&self) -> usize {
        (self.slots.len() * 5 / 4).max(self.slots.len() + SLOTS_MIN)
    }

    /// Bytes it grows by when it is full.
    pub(crate) fn growth_bytes(&self) -> usize {
        (self.grown() - self.slots.len()) * size_of::<Option<Entry>>()
    }

    /// Slots with which so many more do not make it grow; what it has, if that is enough.
    fn reserved(&self, more: usize) -> usize {
        // A sixth stays empty, as in [`Self::is_full`]; an eighth once there are expiries is less.
        ((self.len + more + 1) * 6).div_ceil(5).max(SLOTS_MIN).max(self.slots.len())
    }

    /// Bytes it grows by for so many more.
    pub(crate) fn reserve_bytes(&self, more: usize) -> usize {
        (self.reserved(more) - self.slots.len()) * size_of::<Option<Entry>>()
    }

    /// Makes room for so many more at once.
    pub(crate) fn reserve(&mut self, seed: &Seed, more: usize) {
        let slots = self.reserved(more);
        if slots > self.slots.len() {
            self.resize(seed, slots);
        }
    }

    /// Gives back what is more than growth by itself would have left: at most a third stays empty.
    pub(crate) fn fit(&mut self, seed: &Seed) {
        if self.slots.len() > 8 * SLOTS_MIN && self.len * 3 < self.slots.len() * 2 {
            self.resize(seed, self.len * 4 / 3 + SLOTS_MIN);
        }
    }

    /// Adds what is not there yet, and when it expires.
    pub(crate) fn insert(&mut self, seed: &Seed, hash: u64, entry: Entry, expiry: u32) {
        if self.is_full() {
            self.resize(seed, self.grown());
        }
        if expiry != 0 && self.expiries.is_empty() {
            self.expiries = vec![0; self.slots.len()];
        }
        self.place(seed, hash, entry, expiry);
        self.len += 1;
    }

    /// When the block in a slot expires; 0 never.
    pub(crate) fn expiry(&self, slot: usize) -> u32 {
        self.expiries.get(slot).copied().unwrap_or(0)
    }

    /// Says when the block in a slot expires.
    pub(crate) fn set_expiry(&mut self, slot: usize, expiry: u32) {
        if expiry != 0 && self.expiries.is_empty() {
            self.expiries = vec![0; self.slots.len()];
        }
        if let Some(place) = self.expiries.get_mut(slot) {
            *place = expiry;
        }
    }

    /// Blocks that expire, and when.
    pub(crate) fn expiring(&self) -> impl Iterator<Item = (&Entry, u32)> {
        let slots = self.expiries.iter().zip(&self.slots).filter(|(expiry, _)| **expiry != 0);
        slots.filter_map(|(expiry, slot)| Some((slot.as_ref()?, *expiry)))
    }

    fn place(&mut self, seed: &Seed, hash: u64, mut entry: Entry, mut expiry: u32) {
        let mut slot = self.home(hash);
        let mut distance = 0;
        while let Some(other) = self.slots[slot] {
            let its = self.distance(seed, slot, &other);
            if its < distance {
                self.slots[slot] = Some(entry);
                (entry, distance) = (other, its);
                if let Some(place) = self.expiries.get_mut(slot) {
                    std::mem::swap(place, &mut expiry);
                }
            }
            slot = self.after(slot);
            distance += 1;
        }
        self.slots[slot] = Some(entry);
        if let Some(place) = self.expiries.get_mut(slot) {
            *place = expiry;
        }
    }

    pub(crate) fn remove(&mut self, seed: &Seed, slot: usize) -> Option<Entry> {
        let removed = self.slots[slot].take()?;
        self.len -= 1;
        // Those behind it move up, until one stands at its home.
        let (mut hole, mut next) = (slot, self.after(slot));
        while let Some(entry) = self.slots[next] {
            if self.distance(seed, next, &entry) == 0 {
                break;
            }
            self.slots[hole] = Some(entry);
            self.slots[next] = None;
            if !self.expiries.is_empty() {
                self.expiries.swap(hole, next);
            }
            (hole, next) = (next, self.after(next));
        }
        if let Some(place) = self.expiries.get_mut(hole) {
            *place = 0;
        }
        if self.slots.len() > 8 * SLOTS_MIN && self.len * 2 < self.slots.len() {
            self.resize(seed, self.len * 4 / 3 + SLOTS_MIN);
        }
        Some(removed)
    }

    fn resize(&mut self, seed: &Seed, slots: usize) {
        let mut fresh = Vec::with_capacity(slots);
        fresh.resize(slots, None);
        let old = std::mem::replace(&mut self.slots, fresh);
        let mut expiries = std::mem::take(&mut self.expiries);
        // None that expires is left: the array goes.
        if expiries.iter().any(|expiry| *expiry != 0) {
            self.expiries = vec![0; slots];
        } else {
            expiries.clear();
        }
        for (at, entry) in old.into_iter().enumerate() {
            if let Some(entry) = entry {
                self.place(seed, seed.inner(entry.ns, &entry.key), entry, expiries.get(at).copied().unwrap_or(0));
            }
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.slots.iter().flatten()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.slots.iter_mut().flatten()
    }

    /// Bytes of its slots.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Option<Entry>>()
    }

    /// Bytes of the times beside them.
    pub(crate) fn expiry_bytes(&self) -> usize {
        self.expiries.capacity() * size_of::<u32>()
    }
}
