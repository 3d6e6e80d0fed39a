//! The cheapest end of a chain to lose.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use super::policy::Part;
use super::tree::{ExtentId, ROOT, Tree};
use crate::seeded::Mixed;

/// An end of a chain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Suffix {
    pub(super) leaf: ExtentId,
    /// How many blocks, from the leaf's end upwards.
    pub(super) blocks: u32,
    /// Value by weight.
    pub(super) density: f64,
}

/// What is worth least among all ends of chains: for each leaf, the end with the lowest sum of values by sum of weights, then the lowest of those.
///
/// Deep blocks cost most to compute, so the last block alone always looks dearest and a long chain would never shrink; but who loses it loses the
/// chain bit by bit. An end reaches up as far as nothing else hangs on what is above.
pub(super) fn least_suffix(tree: &Tree, mut of: impl FnMut(ExtentId) -> (f64, f64)) -> Option<Suffix> {
    let mut least: Option<Suffix> = None;
    for leaf in tree.leaves() {
        let suffix = least_of_leaf(tree, *leaf, &mut of);
        if least.is_none_or(|least| suffix.density < least.density) {
            least = Some(suffix);
        }
    }
    least
}

fn least_of_leaf(tree: &Tree, leaf: ExtentId, of: &mut impl FnMut(ExtentId) -> (f64, f64)) -> Suffix {
    let (mut value, mut weight, mut blocks) = (0.0, 0.0, 0);
    let mut least = Suffix { leaf, blocks: 0, density: f64::INFINITY };
    let mut id = leaf;
    loop {
        let (more_value, more_weight) = of(id);
        value += more_value;
        weight += more_weight;
        blocks += tree.extent(id).blocks;
        let density = value / weight;
        if density < least.density || least.blocks == 0 {
            least = Suffix { leaf, blocks, density };
        }
        id = tree.extent(id).parent;
        if id == ROOT || tree.extent(id).resident_children > 1 {
            return least;
        }
    }
}

/// An end that is being taken away, block by block, until there is room: it is not weighed again after each step.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Leaving {
    /// The extent that leaves next, and how many blocks of the end are left.
    next: Option<(ExtentId, u32)>,
}

impl Leaving {
    pub(super) fn forget(&mut self) {
        self.next = None;
    }

    /// The end that was begun, or the one that `choose` gives. Gives the extent and how much of it may go.
    pub(super) fn next(&mut self, tree: &Tree, need: u32, choose: impl FnOnce() -> Suffix) -> (ExtentId, u32) {
        let (leaf, left) = match self.next {
            Some((id, left)) if left > 0 && id != ROOT && tree.is_leaf(id) => (id, left),
            _ => {
                let suffix = choose();
                (suffix.leaf, suffix.blocks)
            }
        };
        let extent = tree.extent(leaf);
        let blocks = need.min(extent.blocks).min(left).max(1);
        self.next = (blocks == extent.blocks).then_some((extent.parent, left - blocks));
        (leaf, blocks)
    }
}

/// The density at which each of `ids` would leave, into `out`: an end of a chain leaves as a whole while what is above it is worth less, and what chains
/// share stays as long as the best of them. `ids` come deepest first.
pub(super) fn chain_densities(tree: &Tree, parts: &[Part], mut of: impl FnMut(Part) -> (f64, f64), out: &mut [f64]) {
    // Ends that leave as one, as a forest: of each extent the one whose end it joined.
    let mut joined: HashMap<ExtentId, End, BuildHasherDefault<Mixed>> =
        HashMap::with_capacity_and_hasher(parts.len(), BuildHasherDefault::default());
    for part in parts {
        let id = &part.id;
        let (value, weight) = of(*part);
        // Behind it: the end it would be a part of, unless there are several or none.
        let behind = joined.get(id).copied();
        let own = match behind {
            Some(End { several: false, value: v, weight: w, least }) if value * w < v * weight => {
                End { value: value + v, weight: weight + w, least, several: false }
            }
            Some(end) => End { value, weight, least: end.least.max(end.value / end.weight), several: false },
            None => End { value, weight, least: 0.0, several: false },
        };
        out[*id as usize] = (own.value / own.weight).max(own.least);
        let parent = tree.extent(*id).parent;
        joined
            .entry(parent)
            .and_modify(|known| {
                known.least = known.least.max(known.value / known.weight).max(out[*id as usize]);
                known.several = true;
            })
            .or_insert(own);
    }
    // What joined an end above it leaves with it, at its density.
    for Part { id, .. } in parts.iter().rev() {
        let parent = tree.extent(*id).parent;
        if parent != ROOT && out[parent as usize] > 0.0 {
            out[*id as usize] = out[*id as usize].min(out[parent as usize]);
        }
    }
}

/// What hangs on an extent.
#[derive(Debug, Clone, Copy)]
struct End {
    value: f64,
    weight: f64,
    /// At least this dense.
    least: f64,
    several: bool,
}
