//! Policies: which block is worth more than which.
//!
//! A policy turns uses into ranks; whoever holds the blocks keeps one rank a block and evicts the lowest. It knows neither keys nor bytes,
//! so a shard pays four bytes a block for it and a forecast can run the very same code.

mod lru;
mod s3_fifo;

pub use forebay_types::Reuse;
pub use lru::Lru;
pub use s3_fifo::S3Fifo;

/// What a block is worth to keep, comparable only inside one shard: larger is worth more.
pub type Rank = u32;

/// Rank of what nobody will ask for again, by the word of whoever put it.
const COLDEST: Rank = 0;

/// One request's place in the order of uses. Given by [`Policy::begin`], carried to each of the request's keys.
///
/// It is a value, not a state of the policy, so that requests of many clients may be interleaved key by key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    head: Rank,
    tail: Rank,
}

impl Turn {
    /// Rank of the key at `depth` (0 = the request's first): falls by one a key, so that heads outlive tails, and never below the turn's own ranks.
    fn rank(self, depth: u32) -> Rank {
        self.head.saturating_sub(depth).max(self.tail)
    }
}

/// Ranks blocks by their uses.
///
/// A request's keys are ranked as if they were used tail to head: an earlier key of one request ranks above a later one, because a chain
/// without its head is worth nothing. The order in which the calls come does not matter.
///
/// What callers say of the next use ([`Reuse`]) counts a little: what is put by one who is `done` is the coldest there is, and a use by one who is done warms
/// nothing, and cools nothing either, since others may share the block. What is announced to come back is ranked like what came back already, where
/// a policy tells the two apart.
pub trait Policy: Send {
    /// The word in settings, metrics and reports.
    fn name(&self) -> &'static str;

    /// Begins a request of `items` keys (an upper bound will do; ranks are spent for each, see [`Policy::rebase`]). All its ranks are above those of turns begun before.
    fn begin(&mut self, items: u32) -> Turn;

    /// Rank of a block that was just put, the `depth`-th key of its request.
    fn insert(&mut self, turn: Turn, depth: u32, hint: Reuse) -> Rank;

    /// The same of a block that was evicted not long ago: somebody wanted it back.
    fn insert_again(&mut self, turn: Turn, depth: u32, hint: Reuse) -> Rank {
        self.insert(turn, depth, hint)
    }

    /// Told now and then: how many blocks fit, about.
    fn holds(&mut self, blocks: u64) {
        let _ = blocks;
    }

    /// New rank of a block of rank `rank` that was just used, the `depth`-th key of its request.
    fn touch(&mut self, turn: Turn, depth: u32, rank: Rank, hint: Reuse) -> Rank;

    /// When ranks come near their end: what to subtract (saturating at 0) from the rank of every block held, before the next [`Policy::begin`].
    /// Turns begun before a rebase must not be used after it. Order is kept among all blocks used in the last 2^30 items; older ones become equally cold.
    /// Call it after each turn; it is a comparison.
    fn rebase(&mut self) -> Option<u32>;
}

/// Names [`policy_by_name`] knows.
pub const POLICY_NAMES: &[&str] = &["lru", "s3-fifo"];

/// The policy of that name.
pub fn policy_by_name(name: &str) -> Option<Box<dyn Policy>> {
    match name {
        "lru" => Some(Box::new(Lru::new())),
        "s3-fifo" => Some(Box::new(S3Fifo::new())),
        _ => None,
    }
}
