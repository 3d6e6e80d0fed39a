//! What of a victim of the cache is written again: what is leased, then what is worth most, as far as its share goes.
//!
//! Records are looked at one after the other, a few a turn, and what cannot be among the best any more is let go at once. A segment may hold sixty
//! thousand records: sorting them all at the end was a turn of several milliseconds.

use std::collections::BTreeMap;

use forebay_io::Disk;
use forebay_tokenomics::cleaning::MOVED_OF_VICTIM;

use super::{Cleaning, Item};
use crate::segments::SPARE_SEGMENTS;
use crate::store::Store;

/// Of a victim of the cache, so much of what is leased may be written again: 15/64 and the footers stay under a third of what is freed. In a hurry so much of all.
pub(super) const REAPPEND_SHARE: (u64, u64) = (15, 64);
/// Of victims that puts wait for, on average. One may have the larger share when those before it left so much over: blocks that are used together were
/// written together, and a prefix that is used all the time must not lose its end because it lies in one segment.
const HURRIED_SHARE: (u64, u64) = (1, 16);

/// The order of keeping: leased, value, and of equals who came first.
type Order = (bool, u32, u32);

/// The best so far.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    best: BTreeMap<Order, Item>,
    units: u64,
    /// The highest that found no place. Nothing below it will, however small.
    floor: Option<Order>,
    seen: u32,
    limits: Limits,
}

/// What may be kept.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Limits {
    /// What is not leased must be worth more.
    pub(super) above: u64,
    /// Units of all that is kept, and of all that is leased.
    pub(super) units: u64,
    pub(super) leased_units: u64,
}

impl Chosen {
    pub(super) fn new(limits: Limits) -> Self {
        Chosen { limits, ..Chosen::default() }
    }

    /// Looks at one more. What has no place among the best goes to `dropped`, be it this one or others.
    pub(super) fn add(&mut self, item: Item, dropped: &mut Vec<Item>) {
        let order = (item.leased, item.value, u32::MAX - self.seen);
        self.seen += 1;
        let worth = item.leased || u64::from(item.value) > self.limits.above;
        if !worth || self.floor.is_some_and(|floor| order < floor) {
            return dropped.push(item);
        }
        self.units += u64::from(item.place.units());
        self.best.insert(order, item);
        while let Some(lowest) = self.best.first_entry() {
            let most = if lowest.key().0 { self.limits.leased_units } else { self.limits.units };
            if self.units <= most {
                break;
            }
            self.floor = self.floor.max(Some(*lowest.key()));
            let item = lowest.remove();
            self.units -= u64::from(item.place.units());
            dropped.push(item);
        }
    }

    /// Units of what is kept.
    fn units(&self) -> u64 {
        self.units
    }

    pub(super) fn is_empty(&self) -> bool {
        self.best.is_empty()
    }

    /// Takes the best of those that are left.
    pub(super) fn take(&mut self) -> Option<Item> {
        self.best.pop_last().map(|(_, item)| item)
    }
}

impl<D: Disk> Store<D> {
    /// Judged as late as may be: since the footer's read was asked for, room may have been found.
    pub(super) fn begin_to_choose(&self, cleaning: &mut Cleaning) {
        if cleaning.next == 0 {
            cleaning.chosen = Chosen::new(self.keep_limits());
        }
    }

    /// All of a victim was looked at: what it keeps is taken from what the next ones may keep in a hurry.
    pub(super) fn all_found(&mut self, cleaning: &mut Cleaning) {
        if !cleaning.durable {
            self.moves.take(cleaning.chosen.units());
            let left = self.hurried_units().saturating_sub(cleaning.chosen.units());
            self.moves.left_over_units = left.min(self.share_units(REAPPEND_SHARE));
        }
        cleaning.all_found();
    }

    /// What of a victim of the cache may be written again.
    fn keep_limits(&self) -> Limits {
        let leased_units = self.share_units(REAPPEND_SHARE);
        // When puts wait for room there is little time to write again. Before it is known what is cold, nothing says what is hot.
        let units = if self.segments.free_len() <= SPARE_SEGMENTS {
            self.hurried_units().min(leased_units)
        } else {
            self.share_units(MOVED_OF_VICTIM)
        };
        let units = if self.sums.order.is_known() { units.min(self.moves.left_units()) } else { 0 };
        Limits { above: u64::from(self.sums.order.least_hot()), units, leased_units }
    }

    /// What the next victim may keep when puts wait for it.
    fn hurried_units(&self) -> u64 {
        // Where writes have a budget, what is written again is taken from what may be put.
        let left_over = if self.budget.is_on() { 0 } else { self.moves.left_over_units };
        left_over + self.share_units(HURRIED_SHARE)
    }

    fn share_units(&self, (of, whole): (u64, u64)) -> u64 {
        u64::from(self.geometry.segment_units) * of / whole
    }
}

#[cfg(test)]
mod tests {
    use forebay_types::{Entropy, Key, SeededEntropy};

    use super::*;
    use crate::index::Place;

    fn item(number: u8, value: u32, leased: bool, units: u32) -> Item {
        let place = Place { segment: 0, page: 0, payload_units: units, trailer_units: 0, tail: 0 };
        Item { ns: 0, key: Key([number; 16]), place, value, leased }
    }

    /// All sorted, and taken while they fit.
    fn by_sorting(items: &[Item], limits: Limits) -> Vec<Key> {
        let mut items = items.to_vec();
        items.sort_by_key(|item| std::cmp::Reverse((item.leased, item.value)));
        let mut units = 0;
        let fits = |item: &&Item| {
            units += u64::from(item.place.units());
            let most = if item.leased { limits.leased_units } else { limits.units };
            (item.leased || u64::from(item.value) > limits.above) && units <= most
        };
        items.iter().take_while(fits).map(|item| item.key).collect()
    }

    #[test]
    fn the_best_are_those_that_sorting_finds_and_the_rest_is_let_go() {
        let random = SeededEntropy::new(15);
        let below = |most: u64| random.word() % most;
        for _ in 0..2000 {
            let limits = Limits { above: below(12), units: below(40), leased_units: 40 + below(40) };
            let count = below(60) as u8;
            let items: Vec<Item> =
                (0..count).map(|number| item(number, below(20) as u32, below(4) == 0, 1 + below(12) as u32)).collect();
            let (mut chosen, mut dropped) = (Chosen::new(limits), Vec::new());
            for item in &items {
                chosen.add(item.clone(), &mut dropped);
            }
            let kept: Vec<Key> = std::iter::from_fn(|| chosen.take()).map(|item| item.key).collect();
            assert_eq!(kept, by_sorting(&items, limits), "{limits:?} {items:?}");
            assert_eq!(kept.len() + dropped.len(), items.len());
        }
    }

    #[test]
    fn no_more_is_remembered_than_may_be_kept() {
        let limits = Limits { above: 0, units: 100, leased_units: 100 };
        let (mut chosen, mut dropped) = (Chosen::new(limits), Vec::new());
        for number in 0..10_000u32 {
            chosen.add(item(0, number.reverse_bits() >> 8, false, 2), &mut dropped);
            assert!(chosen.best.len() <= 50);
            dropped.clear();
        }
    }
}
