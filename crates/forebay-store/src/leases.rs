//! Leases: blocks that a `match_prefix` promised, held against eviction for seconds. Bounded in bytes and in time, so that nothing can hold
//! eviction up for ever.

use std::collections::{BTreeMap, BTreeSet};

use forebay_types::limits::LEASE_MS_MAX;
use forebay_types::{Key, Millis};

type Name = (u16, Key);

/// Who is held until when.
pub(crate) struct Leases {
    held: BTreeMap<Name, (Millis, u64)>,
    by_end: BTreeSet<(Millis, Name)>,
    bytes: u64,
    bytes_max: u64,
    count_max: usize,
}

/// What one lease costs: two tree places of about its own size.
pub(crate) const LEASE_BYTES: usize = 128;

/// What asking for a lease did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Granted {
    /// Held now, was not before.
    New,
    /// Held longer.
    Longer,
    /// A tenth of the shard is held.
    No,
}

impl Leases {
    /// At most `count_max` leases of `bytes_max` bytes of blocks.
    pub(crate) fn new(bytes_max: u64, count_max: usize) -> Self {
        Leases { held: BTreeMap::new(), by_end: BTreeSet::new(), bytes: 0, bytes_max, count_max }
    }

    pub(crate) fn grant(&mut self, now: Millis, name: Name, bytes: u64, hold_ms: u64) -> Granted {
        let end = now + hold_ms.min(LEASE_MS_MAX);
        if let Some((old, _)) = self.held.get_mut(&name) {
            if end > *old {
                self.by_end.remove(&(*old, name));
                self.by_end.insert((end, name));
                *old = end;
            }
            return Granted::Longer;
        }
        if self.bytes + bytes > self.bytes_max || self.held.len() >= self.count_max {
            return Granted::No;
        }
        self.bytes += bytes;
        self.held.insert(name, (end, bytes));
        self.by_end.insert((end, name));
        Granted::New
    }

    pub(crate) fn holds(&self, now: Millis, name: &Name) -> bool {
        self.held.get(name).is_some_and(|(end, _)| *end > now)
    }

    /// True while a lease counts in its segment, ended or not.
    pub(crate) fn holds_any(&self, name: &Name) -> bool {
        self.held.contains_key(name)
    }

    /// Lets go of a block that is gone. True if it was held.
    pub(crate) fn release(&mut self, name: &Name) -> bool {
        let Some((end, bytes)) = self.held.remove(name) else { return false };
        self.by_end.remove(&(end, *name));
        self.bytes -= bytes;
        true
    }

    /// Lets go of one lease that has ended.
    pub(crate) fn expire_one(&mut self, now: Millis) -> Option<Name> {
        let (end, name) = *self.by_end.first()?;
        if end > now {
            return None;
        }
        self.release(&name);
        Some(name)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_ends_and_leaves_room() {
        let mut leases = Leases::new(100, 10);
        let name = |i| (1, Key([i; 16]));
        assert_eq!(leases.grant(0, name(1), 60, 1_000_000), Granted::New);
        assert_eq!(leases.grant(0, name(2), 60, 10), Granted::No);
        assert_eq!(leases.grant(5, name(1), 60, 10), Granted::Longer);
        assert!(leases.holds(LEASE_MS_MAX - 1, &name(1)), "a shorter one does not cut a longer one");
        assert!(!leases.holds(LEASE_MS_MAX, &name(1)), "30 s at most");
        assert_eq!(leases.expire_one(LEASE_MS_MAX - 1), None);
        assert_eq!(leases.expire_one(LEASE_MS_MAX), Some(name(1)));
        assert_eq!((leases.bytes(), leases.len()), (0, 0));
        assert_eq!(leases.grant(0, name(2), 60, 10), Granted::New);
        assert!(leases.release(&name(2)) && !leases.release(&name(2)));
    }
}
