//! Policies: which block is worth more than which.
//!
//! A policy turns uses into ranks; whoever holds the blocks keeps one rank a block and evicts the lowest. It knows neither keys nor bytes,
//! so a shard pays four bytes a block for it and a forecast can run the very same code.

mod lru;
mod s3_fifo;
mod worth;

pub use forebay_types::Reuse;
pub use lru::Lru;
pub use s3_fifo::S3Fifo;
pub use worth::Worth;

use crate::space::SpaceCost;

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
    /// The moment it began, where a policy counts them.
    moment: u16,
}

/// A block that is put, as far as it matters to a policy. What is not known is 0.
#[derive(Debug, Clone, Copy, Default)]
pub struct Put {
    /// Its place in its request, 0 the first.
    pub depth: u32,
    /// What the caller says of the next use.
    pub hint: Reuse,
    /// It was evicted not long ago: somebody wanted it back.
    pub again: bool,
    /// The same for the same block and hardly ever for another: a keyed hash of what it is called.
    pub name: u64,
    /// Number of its namespace, see [`Policy::space`].
    pub space: u16,
    /// Name of its chain.
    pub chain: u64,
    /// Name of the block before it.
    pub parent: u64,
    /// Its own name to those behind it.
    pub own: u64,
    /// Blocks before it in its chain.
    pub position: u32,
    /// Tokens in it.
    pub tokens: u32,
    /// Bytes it takes.
    pub bytes: u64,
}

/// What is expected of a block that is about to be put.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Expected {
    /// Probability that somebody asks for it within the time asked about.
    pub chance: f64,
    /// Tokens of the prompt it is put with, to its end.
    pub chain_tokens: f64,
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

    /// Told as often: into how many segments, each freed whole, the drive is cut that they are on.
    fn segments(&mut self, segments: u32) {
        let _ = segments;
    }

    /// New rank of a block of rank `rank` that was just used, the `depth`-th key of its request.
    fn touch(&mut self, turn: Turn, depth: u32, rank: Rank, hint: Reuse) -> Rank;

    /// Rank of a block that was just put, with all that is known of it.
    fn put(&mut self, turn: Turn, put: &Put) -> Rank {
        match put.again {
            true => self.insert_again(turn, put.depth, put.hint),
            false => self.insert(turn, put.depth, put.hint),
        }
    }

    /// Whether anything has been learned by which [`Policy::expects`] tells.
    fn has_learned(&self) -> bool {
        false
    }

    /// What is expected of a block that is about to be put, should it stay here for `stays_s` seconds; none where nothing has been learned, or nothing ever
    /// is. What callers say of the next use is in it only where it is learned from.
    fn expects(&self, turn: Turn, put: &Put, stays_s: f64) -> Option<Expected> {
        let _ = (turn, put, stays_s);
        None
    }

    /// New rank of a block that was just used, as [`Policy::touch`], with its name and its namespace's number.
    fn used(&mut self, turn: Turn, depth: u32, rank: Rank, hint: Reuse, (name, space): (u64, u16)) -> Rank {
        let _ = (name, space);
        self.touch(turn, depth, rank, hint)
    }

    /// What a rank is worth now, comparable among all blocks of a shard, and sums of it among groups of them.
    fn value(&self, rank: Rank, space: u16) -> u32 {
        let _ = space;
        rank
    }

    /// Whether values are a clock, of which only differences mean something, or count from nothing.
    fn is_clock(&self) -> bool {
        true
    }

    /// Whether values have changed so much by themselves that sums of them should be made anew. Says so once.
    fn resum(&mut self) -> bool {
        false
    }

    /// A rank that may be kept for longer. Whoever makes sums anew replaces each rank by it.
    fn renewed(&self, rank: Rank) -> Rank {
        rank
    }

    /// By what a block in faster memory is ranked, from its rank here: of a request's key when it is used, else as if it were used now. Compared with
    /// nothing but others of its kind.
    fn rank_in_dram(&self, used: Option<(Turn, u32)>, rank: Rank) -> Rank {
        let _ = used;
        rank
    }

    /// Rank of a block that was found again after a start, of which is known only that its place in the order of writing is `recency`, below 2^28.
    fn found_again(&self, recency: u32) -> Rank {
        recency
    }

    /// A start has found blocks again, all with a recency below `recencies`: what is used from now on ranks above them. It is no request, and nothing is
    /// learned from it.
    fn starts(&mut self, recencies: u32) {
        const MOST_AT_ONCE: u32 = 1 << 20;
        for _ in 0..=recencies / MOST_AT_ONCE {
            self.begin(MOST_AT_ONCE);
        }
    }

    /// A rank after [`Policy::rebase`] said to take off `less`.
    fn rebased(&self, rank: Rank, less: u32) -> Rank {
        rank.saturating_sub(less)
    }

    /// Time passes: milliseconds since any beginning. Does a bounded step of what there is to do now and then, some 50 us at most.
    fn passes(&mut self, now_ms: u64) {
        let _ = now_ms;
    }

    /// A namespace has this number from now on, and blocks that cost so much.
    fn space(&mut self, space: u16, cost: SpaceCost) {
        let _ = (space, cost);
    }

    /// Whether another policy decides at the moment, because it does better.
    fn gives_way(&self) -> bool {
        false
    }

    /// Bytes of memory it takes beside the ranks.
    fn memory_bytes(&self) -> usize {
        0
    }

    /// When ranks come near their end: what to subtract (saturating at 0) from the rank of every block held, before the next [`Policy::begin`].
    /// Turns begun before a rebase must not be used after it. Order is kept among all blocks used in the last 2^30 items; older ones become equally cold.
    /// Call it after each turn; it is a comparison.
    fn rebase(&mut self) -> Option<u32>;
}

/// Names [`policy_by_name`] knows.
pub const POLICY_NAMES: &[&str] = &["worth", "lru", "s3-fifo"];

/// Most bytes of memory that the policy of that name takes beside the ranks, whatever is held: what whoever runs it sets apart.
pub fn policy_bytes_max(name: &str) -> u64 {
    if name == "worth" { worth::BYTES_MAX } else { 0 }
}

/// The policy of that name.
pub fn policy_by_name(name: &str) -> Option<Box<dyn Policy>> {
    match name {
        "worth" => Some(Box::new(Worth::new())),
        "lru" => Some(Box::new(Lru::new())),
        "s3-fifo" => Some(Box::new(S3Fifo::new())),
        _ => None,
    }
}
