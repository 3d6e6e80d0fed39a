//! The miss-ratio curve of LRU: what every capacity would find, from one pass and little memory.

use std::collections::BTreeMap;

use crate::seeded::is_sampled;

/// Most blocks followed at a time. A followed block takes less than 100 bytes, the counts less than a mebibyte: 8 MiB in all.
const FOLLOWED_MAX: usize = 1 << 16;
/// Memory of a followed block: a place in a tree of the standard library, and four moments.
const FOLLOWED_BYTES: usize = 48;
/// Distances are counted in so many steps an octave: two per cent of a capacity.
const STEPS: u32 = 32;
const OCTAVES: usize = 40;
const COUNTS: usize = OCTAVES * STEPS as usize;

/// How much LRU would find at any capacity, by the distances of a sample of the blocks (Waldspurger and others, SHARDS, FAST 2015).
///
/// A block is followed if the hash of its key is small; of followed ones the place in LRU's stack, divided by the share that is followed, is the
/// smallest capacity that would have held it. When more would be followed than fit, the share is halved. Blocks and not chains are sampled: a few
/// chains hold most of the load, and a sample without them tells nothing. All blocks of a request are looked up before any of them is touched, and
/// then touched from tail to head, as in a replay. Where the sample counts more or fewer blocks than were asked for, the difference is
/// put to the hottest (their SHARDS-adj).
#[derive(Debug, Clone)]
pub struct LruCurve {
    /// Hashes with all of their first `halvings` bits 0 are followed.
    halvings: u32,
    /// When each followed block was touched last, by key.
    touched: BTreeMap<u64, u32>,
    moments: Moments,
    found: Vec<f64>,
    /// Of each octave of `found` the sum: what a capacity would find is a shard's question each time it comes to rest.
    octaves: [f64; OCTAVES],
    asked: f64,
    /// Blocks asked for, reckoned from the followed ones.
    reckoned: f64,
    followed: Vec<u64>,
    followed_max: usize,
    /// Blocks that nobody has asked for while so many others were are followed no longer; 0: for as long as there is room.
    reach: u64,
}

impl LruCurve {
    /// Nothing asked yet.
    pub fn new() -> Self {
        LruCurve::with(FOLLOWED_MAX, 0)
    }

    /// For a load without end, and capacities up to `reach` blocks: what is further back is forgotten, and what was counted long ago counts less. Takes no
    /// more than `bytes` of memory, as far as a few thousand followed blocks allow.
    pub fn live(bytes: usize, reach: u64) -> Self {
        LruCurve::with((bytes.saturating_sub(COUNTS * 8) / FOLLOWED_BYTES).clamp(1 << 10, FOLLOWED_MAX), reach.max(1))
    }

    fn with(followed_max: usize, reach: u64) -> Self {
        LruCurve {
            halvings: 0,
            touched: BTreeMap::new(),
            moments: Moments::new(4 * followed_max),
            found: vec![0.0; COUNTS],
            octaves: [0.0; OCTAVES],
            asked: 0.0,
            reckoned: 0.0,
            followed: Vec::new(),
            followed_max,
            reach,
        }
    }

    /// Another reach for a curve that is [`LruCurve::live`].
    pub fn reach(&mut self, blocks: u64) {
        if self.reach > 0 {
            self.reach = blocks.max(1);
        }
    }

    /// Whether a block is followed. Of blocks that are not, [`LruCurve::asked`] alone need be told.
    pub fn follows(&self, key: u64) -> bool {
        is_sampled(key, self.halvings)
    }

    /// So many blocks that are not followed were asked for.
    pub fn asked(&mut self, blocks: u64) {
        self.asked += blocks as f64;
    }

    /// Blocks asked for of late.
    pub fn weight(&self) -> f64 {
        self.asked
    }

    /// Bytes of memory it takes.
    pub fn memory_bytes(&self) -> usize {
        self.followed_max * FOLLOWED_BYTES + self.found.capacity() * size_of::<f64>()
    }

    /// A request for these blocks, head first.
    pub fn request(&mut self, keys: impl IntoIterator<Item = u64>) {
        let mut followed = std::mem::take(&mut self.followed);
        followed.clear();
        for key in keys {
            self.asked += 1.0;
            if is_sampled(key, self.halvings) {
                followed.push(key);
            }
        }
        let share = f64::from(1u32 << self.halvings);
        self.reckoned += share * followed.len() as f64;
        for key in &followed {
            if let Some(moment) = self.touched.get(key) {
                let place = f64::from(self.moments.after(*moment));
                // The smallest capacity that holds it: the followed block itself and what is above it.
                let at = count_of(place * share + 1.0);
                self.found[at] += share;
                self.octaves[at / STEPS as usize] += share;
            }
        }
        for key in followed.iter().rev() {
            self.touch(*key);
        }
        self.followed = followed;
        if self.reach > 0 && self.touched.len() > self.followed_max {
            self.forget();
        }
        while self.touched.len() > self.followed_max {
            self.halve();
        }
    }

    /// What is out of reach; and what was counted before as much was asked for again counts half.
    fn forget(&mut self) {
        let share = f64::from(1u32 << self.halvings);
        let most = (self.reach as f64 / share) as u32;
        let moments = &self.moments;
        self.touched.retain(|_, moment| moments.after(*moment) <= most);
        self.renumber();
        for sum in self.found.iter_mut().chain(&mut self.octaves).chain([&mut self.asked, &mut self.reckoned]) {
            *sum /= 2.0;
        }
        // Forgetting one by one would cost a pass each: with little room left, fewer are followed.
        if self.touched.len() > self.followed_max / 4 * 3 {
            self.halve();
        }
    }

    fn touch(&mut self, key: u64) {
        if self.moments.is_full() {
            self.renumber();
        }
        let now = self.moments.add();
        if let Some(before) = self.touched.insert(key, now) {
            self.moments.remove(before);
        }
    }

    /// Share of all blocks asked for that LRU with room for `capacity` blocks would have found; 0 before the first.
    pub fn hit_rate(&self, capacity: u64) -> f64 {
        if self.asked == 0.0 || capacity == 0 {
            return 0.0;
        }
        let last = count_of(capacity as f64);
        let whole = last / STEPS as usize;
        let found = self.octaves[..whole].iter().chain(&self.found[whole * STEPS as usize..=last]).sum::<f64>();
        // What the sample has too much or too little is a few blocks that everybody asks for, followed or not by chance; any capacity finds those.
        let chance = self.asked - self.reckoned;
        ((found + chance) / self.asked).clamp(0.0, 1.0)
    }

    /// Blocks followed at the moment.
    pub fn followed(&self) -> usize {
        self.touched.len()
    }

    fn halve(&mut self) {
        self.halvings += 1;
        let halvings = self.halvings;
        self.touched.retain(|key, _| is_sampled(*key, halvings));
        self.renumber();
    }

    /// Moments anew from 0, in their order: those of blocks touched again since, or followed no more, leave gaps.
    fn renumber(&mut self) {
        let mut order: Vec<(u32, u64)> = self.touched.iter().map(|(key, moment)| (*moment, *key)).collect();
        order.sort_unstable();
        self.moments.clear();
        for (_, key) in order {
            let now = self.moments.add();
            self.touched.insert(key, now);
        }
    }
}

impl Default for LruCurve {
    fn default() -> Self {
        LruCurve::new()
    }
}

fn count_of(capacity: f64) -> usize {
    let step = (capacity.max(1.0).log2() * f64::from(STEPS)).floor();
    (step as usize).min(COUNTS - 1)
}

/// Moments that still are somebody's last, counted: a Fenwick tree.
#[derive(Debug, Clone)]
struct Moments {
    sums: Vec<u32>,
    next: u32,
    held: u32,
}

impl Moments {
    fn new(most: usize) -> Self {
        Moments { sums: vec![0; most + 1], next: 0, held: 0 }
    }

    fn clear(&mut self) {
        self.sums.fill(0);
        (self.next, self.held) = (0, 0);
    }

    fn is_full(&self) -> bool {
        self.next as usize + 1 >= self.sums.len()
    }

    fn add(&mut self) -> u32 {
        let moment = self.next;
        self.change(moment, 1);
        self.next += 1;
        self.held += 1;
        moment
    }

    fn remove(&mut self, moment: u32) {
        self.change(moment, u32::MAX);
        self.held -= 1;
    }

    fn change(&mut self, moment: u32, by: u32) {
        let mut at = moment as usize + 1;
        while at < self.sums.len() {
            self.sums[at] = self.sums[at].wrapping_add(by);
            at += at & at.wrapping_neg();
        }
    }

    /// How many came after a moment.
    fn after(&self, moment: u32) -> u32 {
        let (mut at, mut upto) = (moment as usize + 1, 0u32);
        while at > 0 {
            upto = upto.wrapping_add(self.sums[at]);
            at -= at & at.wrapping_neg();
        }
        self.held - upto
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Requests [1 2], [5], [1 2], each looked up whole: at the third, above 1 lies 5, above 2 lie 5 and 1. So 2 places find 1 and 3 find both.
    #[test]
    fn a_block_is_found_from_the_capacity_on_that_held_it() {
        let mut curve = LruCurve::new();
        for request in [vec![1, 2], vec![5], vec![1, 2]] {
            curve.request(request);
        }
        let found = |capacity| (curve.hit_rate(capacity) * 5.0).round() as u32;
        assert_eq!([0, 1, 2, 3, 100].map(found), [0, 0, 1, 2, 2]);
    }

    /// New blocks for ever, and a hundred that come back each time: what is out of reach is forgotten, so the sample does not thin out, and the share that
    /// comes back is still told.
    #[test]
    fn a_live_curve_neither_grows_nor_thins_out() {
        let mut curve = LruCurve::live(1 << 20, 40_000);
        let mut new = 1000u64;
        for _ in 0..20_000 {
            curve.request((0..100).chain(new..new + 100));
            new += 100;
        }
        assert!(curve.memory_bytes() <= 1 << 20 && curve.halvings <= 2, "{} {}", curve.memory_bytes(), curve.halvings);
        let (some, all) = (curve.hit_rate(50), curve.hit_rate(20_000));
        assert!((all - 0.5).abs() < 0.05 && some < all - 0.1, "{some} {all}");
        assert!((0..100).filter(|key| curve.follows(*key)).count() >= 10);
        // Octaves are summed as counts come and are halved, and still are the sums of their steps.
        for (octave, steps) in curve.octaves.iter().zip(curve.found.chunks(STEPS as usize)) {
            assert!((octave - steps.iter().sum::<f64>()).abs() < 1e-6, "{octave} {steps:?}");
        }
    }

    /// A loop through 300,000 blocks, of which an eighth fit: with a place less than the loop nothing is found, with all of it everything.
    #[test]
    fn more_blocks_than_are_followed_give_the_same_cliff() {
        let mut curve = LruCurve::new();
        for _ in 0..3 {
            (0..3000u64).for_each(|chunk| curve.request(chunk * 100..chunk * 100 + 100));
        }
        assert!(curve.followed() <= FOLLOWED_MAX && curve.followed() > FOLLOWED_MAX / 3, "{}", curve.followed());
        assert!(curve.hit_rate(270_000) < 0.02, "{}", curve.hit_rate(270_000));
        let all = curve.hit_rate(330_000);
        assert!((all - 2.0 / 3.0).abs() < 0.03, "{all}");
    }
}
