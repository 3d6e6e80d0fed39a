//! A sample of the blocks that is followed whether they are held or not: what is learned is learned from it, and two caches without bytes stand in it,
//! one ranked by worth and one by LRU, to see which does better on a drive that frees whole segments.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::seeded::{Mixed, is_sampled};

use super::super::Rank;
use super::shadow::{Held, NOWHERE, Shadow};

/// Blocks of a shadow cache at most. Enough that one chain more or less decides nothing.
const SHADOW_BLOCKS: u64 = 2048;
/// So many times what a shadow holds is followed; what was used longest ago is lost sight of.
const FOLLOWED: usize = 8;
/// So much more than that is followed before those lost sight of are let go at once.
const LOST_SHARE: usize = 32;
/// Savings are forgotten over so many requests, and no fewer uses of followed blocks.
const REMEMBERED_REQUESTS: f64 = 1000.0;
const REMEMBERED_USES: f64 = 8192.0;
/// How far worth must lead before LRU gives way, and how far LRU must before worth does: less is chance. Whoever has decided has filled the drive by his
/// own order, and each change costs some of it.
const LEAD: f64 = 1.02;
const LEAD_BACK: f64 = 1.005;

/// Segments of a drive before anybody says how many.
const SEGMENTS_USUAL: usize = 256;

/// Who ranks a shadow.
pub(super) const BY_WORTH: usize = 0;
pub(super) const BY_LRU: usize = 1;

/// The request that a use is part of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    /// Larger than those of earlier ones.
    pub(super) turn: u64,
    /// The block's place in it.
    pub(super) depth: u32,
    /// Blocks of a request, in the mean.
    pub(super) blocks: f64,
}

/// A block that is followed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Block {
    name: u64,
    /// The last use, larger is later and within a request nearer to the head.
    used: u64,
    pub(super) rank: Rank,
    pub(super) space: u16,
    /// Its segment in each shadow.
    held: [u8; 2],
}

/// See the module.
#[derive(Debug, Clone)]
pub(super) struct Followed {
    blocks: Vec<Block>,
    by_name: HashMap<u64, u32, BuildHasherDefault<Mixed>>,
    /// Names whose hash begins with so many zeros are followed.
    halvings: u32,
    /// Blocks that each shadow may hold.
    capacity: usize,
    /// The capacity that both follow from.
    fits: u64,
    /// Segments of the drive.
    segments: usize,
    shadows: [Shadow; 2],
    saved: [f64; 2],
    /// The request that is being used, and whether each shadow has a gap in it: what lies behind is no use.
    request: u64,
    gaps: [bool; 2],
    /// Uses of followed blocks that were counted, up to what is remembered: before that LRU decides.
    counted: f64,
    lru_leads: bool,
}

impl Followed {
    pub(super) fn new() -> Self {
        let mut followed = Followed {
            blocks: Vec::new(),
            by_name: HashMap::default(),
            halvings: 0,
            capacity: 0,
            fits: 0,
            segments: SEGMENTS_USUAL,
            shadows: [BY_WORTH, BY_LRU].map(|_| Shadow::new(1, 1)),
            saved: [0.0; 2],
            request: 0,
            gaps: [false; 2],
            counted: 0.0,
            lru_leads: true,
        };
        followed.holds(1 << 16);
        followed
    }

    /// So many blocks fit. The sample changes only when that is far from what it was made for.
    pub(super) fn holds(&mut self, fits: u64) {
        let fits = fits.max(1);
        if fits * 4 > self.fits * 3 && fits * 3 < self.fits * 4 {
            return;
        }
        self.fits = fits;
        self.halvings = (fits / SHADOW_BLOCKS).checked_ilog2().map_or(0, |log| log + 1);
        self.capacity = ((fits >> self.halvings) as usize).max(1);
        let halvings = self.halvings;
        let mut at = 0;
        while at < self.blocks.len() {
            if is_sampled(self.blocks[at].name, halvings) { at += 1 } else { self.remove(at) }
        }
        self.begin_shadows();
    }

    /// The drive is cut into so many segments.
    pub(super) fn segments(&mut self, segments: usize) {
        if segments != self.segments {
            self.segments = segments;
            self.begin_shadows();
        }
    }

    /// Both begin with nothing.
    fn begin_shadows(&mut self) {
        self.shadows = [BY_WORTH, BY_LRU].map(|_| Shadow::new(self.capacity, self.segments));
        self.blocks.iter_mut().for_each(|block| block.held = [NOWHERE; 2]);
    }

    pub(super) fn follows(&self, name: u64) -> bool {
        is_sampled(name, self.halvings)
    }

    /// Blocks that a followed one stands for.
    pub(super) fn each(&self) -> f64 {
        f64::from(1u32 << self.halvings)
    }

    /// What is known of a block.
    pub(super) fn get(&self, name: u64) -> Option<Block> {
        self.by_name.get(&name).map(|at| self.blocks[*at as usize])
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn at(&self, at: usize) -> Option<&Block> {
        self.blocks.get(at)
    }

    /// A followed block is used, the `depth`-th of a request, and has this rank from now on. `saves_s` is what a cache that holds it saves; `value` says
    /// what a rank is worth now. Whoever is lost sight of for it is told to `lost`.
    pub(super) fn used(
        &mut self,
        name: u64,
        (rank, space): (Rank, u16),
        Request { turn: request, depth, blocks }: Request,
        saves_s: f64,
        value: impl Fn(&Block) -> u32,
        lost: impl FnMut(&Block),
    ) {
        let used = (request << 24 | 0xff_ffff).saturating_sub(u64::from(depth.min(0xff_ffff)));
        if self.request != request {
            (self.request, self.gaps) = (request, [false; 2]);
        }
        let at = match self.by_name.get(&name) {
            Some(at) => *at as usize,
            None => {
                self.lose_sight(lost);
                self.by_name.insert(name, self.blocks.len() as u32);
                self.blocks.push(Block { name, used, rank, space, held: [NOWHERE; 2] });
                self.blocks.len() - 1
            }
        };
        let block = &mut self.blocks[at];
        (block.rank, block.space, block.used) = (rank, space, used.max(block.used));
        let remembered = REMEMBERED_USES.max(REMEMBERED_REQUESTS * blocks / self.each());
        let block = &mut self.blocks[at];
        for shadow in [BY_WORTH, BY_LRU] {
            let saved = &mut self.saved[shadow];
            *saved -= *saved / remembered;
            if block.held[shadow] != NOWHERE {
                *saved += if self.gaps[shadow] { 0.0 } else { saves_s };
            } else {
                self.gaps[shadow] = true;
                block.held[shadow] = self.shadows[shadow].put();
            }
        }
        self.make_room(BY_WORTH, |block| (u64::from(value(block)), block.used));
        self.make_room(BY_LRU, |block| (block.used, 0));
        self.counted = (self.counted + 1.0).min(remembered);
        let [worth, lru] = self.saved;
        self.lru_leads = match self.lru_leads {
            true => self.counted < remembered || lru * LEAD >= worth,
            false => lru > worth * LEAD_BACK,
        };
    }

    /// Whether LRU has done better of late.
    pub(super) fn lru_leads(&self) -> bool {
        self.lru_leads
    }

    /// What each shadow has saved of late, in seconds of the sample.
    #[cfg(test)]
    pub(super) fn saved(&self) -> [f64; 2] {
        self.saved
    }

    fn make_room(&mut self, shadow: usize, order: impl Fn(&Block) -> (u64, u64)) {
        if !self.shadows[shadow].needs_room() {
            return;
        }
        let here = self.blocks.iter().enumerate().filter(|(_, block)| block.held[shadow] != NOWHERE);
        let held: Vec<Held> = here.map(|(at, block)| (order(block), block.held[shadow], at as u32)).collect();
        for at in self.shadows[shadow].empty_one(held) {
            self.blocks[at as usize].held[shadow] = NOWHERE;
        }
    }

    /// When there are too many: of those that no shadow holds, what was used longest ago is followed no longer.
    fn lose_sight(&mut self, mut lost: impl FnMut(&Block)) {
        let most = FOLLOWED * self.capacity;
        if self.blocks.len() <= most + most.div_ceil(LOST_SHARE) {
            return;
        }
        let mut used: Vec<u64> = self.blocks.iter().map(|block| block.used).collect();
        let count = self.blocks.len() - most;
        let (_, line, _) = used.select_nth_unstable(count);
        let line = *line;
        let mut at = 0;
        while at < self.blocks.len() {
            if self.blocks[at].used < line {
                lost(&self.blocks[at]);
                self.remove(at);
            } else {
                at += 1;
            }
        }
    }

    fn remove(&mut self, at: usize) {
        let block = self.blocks.swap_remove(at);
        self.by_name.remove(&block.name);
        if let Some(moved) = self.blocks.get(at) {
            self.by_name.insert(moved.name, at as u32);
        }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        // A table of the standard library: eight bytes of key, four of place, one of its own, an eighth of it empty at least.
        let shadows: usize = self.shadows.iter().map(Shadow::memory_bytes).sum();
        self.blocks.capacity() * size_of::<Block>() + self.by_name.capacity() * 20 + shadows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A few blocks are used all the time and many once. Ranked by how often, the few stay; by LRU, with room for fewer than come between, they go.
    #[test]
    fn the_shadow_that_keeps_what_comes_back_leads() {
        let mut followed = Followed::new();
        followed.holds(1 << 20);
        assert!(followed.lru_leads());
        let (mut n, mut used) = (0u64, 0);
        for _ in 0..200 {
            let hot = 0..150_000u64;
            let once = (0..1_500_000u64).map(|_| {
                n += 1;
                1_000_000_000 + n
            });
            for (name, rank) in hot.map(|name| (name, 2)).chain(once.map(|name| (name, 1))) {
                used += 1;
                if followed.follows(name) {
                    let request = Request { turn: used, depth: 0, blocks: 1.0 };
                    followed.used(name, (rank, 0), request, 1.0, |block| block.rank, |_| {});
                }
            }
            if used > 10_000_000 {
                break;
            }
        }
        let [worth, lru] = followed.saved();
        assert!(worth > 100.0 && lru == 0.0, "{worth} {lru}");
        assert!(!followed.lru_leads());
        assert!(followed.len() <= FOLLOWED * 2048 * 33 / 32 + 1, "{}", followed.len());
        assert_eq!(followed.blocks.len(), followed.by_name.len());
        for shadow in [BY_WORTH, BY_LRU] {
            let held = followed.blocks.iter().filter(|block| block.held[shadow] != NOWHERE).count();
            assert!((1..=followed.capacity).contains(&held), "{held}");
        }
    }
}
