//! What blocks on a drive count for: their places in the order of value, as far as they are cold.
//!
//! Blocks of one extent are worth the same and stand side by side, the tail first, so an order of extents is one of blocks.

use super::policy::{Part, Valued};
use super::tree::{Extent, ExtentId, ROOT, Tree};

/// Of what there is room for, so much is cold. Less, and cleaning finds no segment that is cold as a whole; more, and what is warm leaves with what is cold.
const COLD_SHARE: (u64, u64) = (1, 10);

/// The blocks of an extent that are of use, or those behind a gap.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    usable: bool,
    value: f64,
    id: ExtentId,
    blocks: u32,
}

/// How much of an extent is held.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// Blocks before the first that is missing, up to behind the last that is there, and all that are there.
    pub(super) leading: u32,
    pub(super) end: u32,
    pub(super) blocks: u32,
}

/// What blocks count for; made anew for each request for which room is short.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// By extent: how many of its first blocks are of use, and where it ends.
    reach: Vec<u32>,
    end: Vec<u32>,
    /// What the last of those counts for, and the last of all. What stands before one counts for more, one by one.
    usable: Vec<u64>,
    behind: Vec<u64>,
    /// What a block counts for that is not cold.
    hot: u64,
    /// By extent, filled and emptied each time.
    values: Vec<f64>,
    stretches: Vec<Stretch>,
}

impl Order {
    /// Puts in order what is held or about to come, where `ids` are all extents of which blocks are, deepest first, and there is room for `room` blocks.
    pub(super) fn renew(
        &mut self,
        tree: &Tree,
        ids: &[ExtentId],
        room: u64,
        policy: &dyn Valued,
        held: impl Fn(ExtentId, &Extent) -> Held,
    ) {
        self.grow(tree.len());
        self.reach.fill(0);
        self.stretches.clear();
        let mut all = 0;
        let mut parts = Vec::with_capacity(ids.len());
        // Heads before what hangs on them.
        for id in ids.iter().rev() {
            let extent = tree.extent(*id);
            let Held { leading, end, blocks } = held(*id, extent);
            all += u64::from(blocks);
            let parent = extent.parent;
            let led = parent == ROOT || self.reach[parent as usize] == tree.extent(parent).blocks;
            let reach = match policy.heeds_gaps() {
                true if led => leading,
                true => 0,
                false => end,
            };
            (self.reach[*id as usize], self.end[*id as usize]) = (reach, end);
            let of_use = blocks.min(reach);
            if of_use > 0 {
                parts.push(Part { id: *id, blocks: of_use });
            }
            let kinds = [(true, of_use), (false, blocks - of_use)].into_iter().filter(|(_, blocks)| *blocks > 0);
            self.stretches.extend(kinds.map(|(usable, blocks)| Stretch { usable, value: 0.0, id: *id, blocks }));
        }
        parts.reverse();
        policy.values(tree, &parts, &mut self.values);
        for stretch in &mut self.stretches {
            if stretch.usable {
                stretch.value = self.values[stretch.id as usize];
            }
        }
        for part in &parts {
            self.values[part.id as usize] = 0.0;
        }
        let depth = |stretch: &Stretch| std::cmp::Reverse((tree.extent(stretch.id).depth, stretch.id));
        self.stretches.sort_unstable_by(|a, b| {
            a.usable.cmp(&b.usable).then(a.value.total_cmp(&b.value)).then(depth(a).cmp(&depth(b)))
        });
        let mut count = 0;
        for stretch in &self.stretches {
            let of = if stretch.usable { &mut self.usable } else { &mut self.behind };
            of[stretch.id as usize] = count;
            count += u64::from(stretch.blocks);
        }
        // Of what there is no room for, all leaves, and of what there is room for its share is cold.
        self.hot = all.saturating_sub(room - room * COLD_SHARE.0 / COLD_SHARE.1);
    }

    fn grow(&mut self, extents: usize) {
        if self.values.len() < extents {
            self.values.resize(extents, 0.0);
            self.reach.resize(extents, 0);
            self.end.resize(extents, 0);
            self.usable.resize(extents, 0);
            self.behind.resize(extents, 0);
        }
    }

    /// What a block counts for, the `within`-th of an extent.
    pub(super) fn count(&self, extent: ExtentId, within: u32) -> u64 {
        let at = extent as usize;
        let Some(reach) = self.reach.get(at) else { return self.hot };
        let count = match within < *reach {
            true => self.usable[at] + u64::from(reach - 1 - within),
            false => self.behind[at] + u64::from(self.end[at].saturating_sub(1 + within)),
        };
        count.min(self.hot)
    }

    /// What `blocks` of them count for, side by side.
    pub(super) fn sum(&self, extent: ExtentId, within: u32, blocks: u32) -> u64 {
        let whole = within + blocks;
        let least = self.count(extent, whole - 1);
        if least == self.hot && self.reach.get(extent as usize).is_some_and(|reach| whole <= *reach) {
            return u64::from(blocks) * self.hot;
        }
        (within..whole).map(|within| self.count(extent, within)).sum()
    }

    /// Whether a block that counts for so much is not cold.
    pub(super) fn is_hot(&self, count: u64) -> bool {
        count >= self.hot
    }
}
