//! The face of a policy that evicts leaves.

use forebay_types::Reuse;

use super::tree::{ExtentId, Splits, Tree};

/// One request, as far as a policy may know of it.
#[derive(Debug, Clone, Copy)]
pub struct Use {
    /// Requests before it.
    pub index: u32,
    /// When, in seconds from the replay's start.
    pub at_s: f64,
    /// What the caller says of the next use; [`Reuse::Unknown`] without hints.
    pub hint: Reuse,
}

/// What is to leave: the last `blocks` blocks of a leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Victim {
    /// One of [`Tree::leaves`].
    pub leaf: ExtentId,
    /// How many of its blocks, from the end; at least 1, more than it has means all.
    pub blocks: u32,
}

/// Decides what leaves a cache that holds a prefix tree.
///
/// The order of calls: a request's path is walked (with splits), [`PrefixPolicy::touch`] sees it before what is missing is made resident, then
/// victims are asked for until what is held fits. What just came may be the first to leave: that is bypass.
pub trait PrefixPolicy: Splits {
    /// The word for `--policy`.
    fn name(&self) -> &'static str;

    /// A request uses the extents of `path`, head first. Those not resident are so after the call.
    fn touch(&mut self, tree: &Tree, path: &[ExtentId], request: &Use);

    /// What is to leave, where `need` blocks are too many. Asked only while something is held.
    fn victim(&mut self, tree: &Tree, need: u32) -> Victim;

    /// An extent was evicted.
    fn evicted(&mut self, tree: &Tree, extent: ExtentId) {
        let _ = (tree, extent);
    }
}

/// The first blocks of an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Which.
    pub id: ExtentId,
    /// How many, at least 1.
    pub blocks: u32,
}

/// A policy that can say what blocks are worth, for a drive that frees whole segments.
pub trait Valued: PrefixPolicy {
    /// What one block of each of `parts` is worth to keep, into `out` at the extent's number. `parts` are all that is held and not behind a gap, where the policy
    /// heeds gaps, deepest first: what is not held neither adds to what an end saves nor to what it takes.
    /// Values are comparable at one moment only; what hangs on an extent is never worth more than it.
    fn values(&self, tree: &Tree, parts: &[Part], out: &mut [f64]);

    /// Whether it lets go first of what lies behind a block that is missing. A policy that ranks each block by its own uses cannot know.
    fn heeds_gaps(&self) -> bool {
        false
    }
}

/// A policy of a tree that forgets.
pub(super) trait Forgets: PrefixPolicy {
    /// Of two extents, the one that was used later has more.
    fn last_use(&self, id: ExtentId) -> f64;

    /// The extent, of so many blocks, is no more; its number may be given to another.
    fn forgotten(&mut self, id: ExtentId, blocks: u32);

    /// Bytes that so many extents need, about: what [`Forgets::bytes`] would be had there never been more.
    fn live_bytes(&self, extents: usize) -> usize;

    /// Bytes it takes, about.
    fn bytes(&self) -> usize;
}
