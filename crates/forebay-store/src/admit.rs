//! Admission: which blocks of the cache are worth their write.
//!
//! A block pays for its write when what it is expected to save (probability that it is wanted while it stays, times GPU seconds, times their price) is no less
//! than what its bytes cost: nothing while endurance is to spare, its part of the drive's price when the drive is written faster than it is rated for
//! ([`crate::price`]). While a write budget is short, blocks are ranked by value per byte, and the price is what the budget keeps out. Where a value cannot be told,
//! everything is admitted, or what is likely to be used again while the budget is short.

use forebay_io::Disk;
use forebay_tokenomics::{Put, Turn};
use forebay_types::{BlockMeta, Class, Key, Millis, Reuse};

use crate::budget::Left;
use crate::mutant::Mutant;
use crate::namespaces::Slot;
use crate::store::{Batch, Store};

/// By what a namespace's blocks are admitted, what refuses least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdmitsBy {
    /// Durable blocks are promised.
    Durable,
    /// All are: the drive is written no faster than it is rated for.
    EnduranceToSpare,
    /// All are: the fingerprint names no model of the book.
    NoModel,
    /// All are: nobody has said how many tokens blocks hold.
    NoTokens,
    /// All are: nothing is known of what comes back.
    NothingLearned,
    /// What is expected to save as much as its write wears off.
    WearPrice,
    /// What is likely to be used again, since the write budget is short and no value can be told.
    LikelyOnly,
    /// What is worth most by the byte, since the write budget is short.
    ShadowPrice,
}

impl AdmitsBy {
    /// The word for it in statistics.
    pub fn word(self) -> &'static str {
        match self {
            AdmitsBy::Durable => "durable",
            AdmitsBy::EnduranceToSpare => "endurance_to_spare",
            AdmitsBy::NoModel => "no_model",
            AdmitsBy::NoTokens => "no_tokens",
            AdmitsBy::NothingLearned => "nothing_learned",
            AdmitsBy::WearPrice => "wear_price",
            AdmitsBy::LikelyOnly => "likely_only",
            AdmitsBy::ShadowPrice => "shadow_price",
        }
    }
}

/// Why a block is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Declined {
    /// It is expected to save less than its write costs.
    WillNotPay,
    /// The write budget is short, and others are worth more by the byte or likelier to be used.
    OverBudget,
}

/// Who says that a block will be used later than this says that it is not worth today's budget, in seconds.
const SOON_S: u32 = 86_400;
/// The half of a name that stands for "a block with this first half is worth following": [`BlockMeta::parent`] is the first half of a key.
const FOLLOWED_HALF: [u8; 8] = *b"followed";

/// Whether its caller says that a block will be used soon.
fn is_announced(hint: Reuse) -> bool {
    match hint {
        Reuse::Tool | Reuse::Turn => true,
        Reuse::Seconds(seconds) => seconds <= SOON_S,
        Reuse::Unknown | Reuse::Done => false,
    }
}

impl<D: Disk> Store<D> {
    /// Lets the drive be written so many bytes a day, from now on; 0 as many as come. What was spent before a restart is spent.
    pub fn limit_writes(&mut self, now: Millis, day_bytes: u64) {
        self.budget.set(now, self.utc_s, day_bytes);
    }

    /// Why a block of the cache that takes `units` of the drive is not admitted, if it is not. It is remembered: when it is wanted again it is admitted.
    pub(crate) fn declines(
        &mut self,
        ns: u16,
        meta: &BlockMeta,
        units: u32,
        batch: Batch,
        depth: u32,
    ) -> Option<Declined> {
        let is_on = self.budget.is_on() && !self.mutant(Mutant::BudgetIgnored);
        let wear = self.market.wear_dollars(self.amplification());
        if !is_on && wear == 0.0 {
            return None;
        }
        let turn = self.turn_of(batch);
        let put = self.put_of(meta, ns, units, batch.hint, depth);
        let again = put.again || self.seen.contains(put.name);
        let put = Put { again, ..put };
        let value = self.value_dollars(ns, meta, turn, &put);
        let likely = self.is_likely(ns, meta, &put);
        if let (true, Some(value)) = (is_on, value) {
            self.market.offered(value, put.bytes, self.budget.reserve_bytes());
        }
        let left = if is_on { self.budget.left_share(put.bytes) } else { Left::Plenty };
        let declined = match left {
            Left::Plenty => self.will_not_pay(value, wear, again),
            Left::Nothing => Some(Declined::OverBudget),
            Left::Share(share) => match value {
                None => (!likely).then_some(Declined::OverBudget),
                Some(value) => self.will_not_pay(Some(value), wear, again).or_else(|| {
                    // Behind a gap nothing is of use, whatever it is worth.
                    let dear = again || self.mutant(Mutant::PriceIgnored) || value >= self.market.shadow_dollars(share);
                    (!(dear && self.is_of_use(ns, meta, put.hint))).then_some(Declined::OverBudget)
                }),
            },
        };
        match declined {
            // One that only the plenty of the moment admitted says nothing for what comes behind it.
            None if likely || left != Left::Plenty => {
                self.is_worth_following(ns, &meta.key);
            }
            None => {}
            Some(_) => {
                self.seen.insert(put.name, self.index.len());
                // Whether it comes back is learned all the same, or what is refused once would be for ever.
                self.policy.put(turn, &put);
            }
        }
        declined
    }

    fn will_not_pay(&self, value: Option<f64>, wear: f64, again: bool) -> Option<Declined> {
        let refused = value.is_some_and(|value| value < wear) && !again && !self.mutant(Mutant::PriceIgnored);
        refused.then_some(Declined::WillNotPay)
    }

    /// Dollars by the byte that a block is expected to save while it stays: the probability that it is wanted, times what computing its tokens costs, in the
    /// mean over its chain. None where that cannot be told: the model is not in the book, nobody says how many tokens it holds, or nothing was learned yet.
    fn value_dollars(&self, ns: u16, meta: &BlockMeta, turn: Turn, put: &Put) -> Option<f64> {
        let account = &self.namespaces.get(ns)?.account;
        let tokens = account.tokens_of(meta);
        if !account.cost.knows_model() || tokens == 0.0 {
            return None;
        }
        let expected = self.policy.expects(turn, put, self.market.stays_s(self.room_bytes()))?;
        let chance = match put.hint {
            // Believed, for no class of the past tells these apart.
            Reuse::Seconds(seconds) if seconds <= SOON_S => 1.0,
            Reuse::Done if !put.again => 0.0,
            _ => expected.chance,
        };
        let saves_s = tokens * account.cost.chain_token_s(expected.chain_tokens);
        Some(chance * saves_s * self.market.prices.gpu_second_dollars / put.bytes.max(1) as f64)
    }

    /// Bytes written to the drive for a byte put, as measured. As if a segment more had been written without any other, so that the first headers and tables
    /// of a new shard say nothing.
    fn amplification(&self) -> f64 {
        let (counted, segment) = (&self.counted, self.geometry.layout.segment_bytes);
        let all = counted.put_bytes + counted.reappend_bytes + counted.meta_bytes + segment;
        all as f64 / (counted.put_bytes + segment) as f64
    }

    /// Dollars of a byte put that wears the drive off.
    pub(crate) fn full_wear_dollars(&self) -> f64 {
        self.market.prices.written_byte_dollars * self.amplification()
    }

    /// By what blocks of a namespace are admitted now.
    pub(crate) fn admits_by(&self, slot: &Slot) -> AdmitsBy {
        let cost = &slot.account.cost;
        let unpriced = match () {
            () if !cost.knows_model() => Some(AdmitsBy::NoModel),
            () if cost.key_tokens() == 0.0 => Some(AdmitsBy::NoTokens),
            () if !self.policy.has_learned() => Some(AdmitsBy::NothingLearned),
            () => None,
        };
        let short = self.budget.is_on() && self.budget.left_share(0) != Left::Plenty;
        match unpriced {
            _ if slot.row.class == Class::Durable => AdmitsBy::Durable,
            Some(_) if short => AdmitsBy::LikelyOnly,
            None if short => AdmitsBy::ShadowPrice,
            _ if !self.market.wears_out() => AdmitsBy::EnduranceToSpare,
            Some(why) => why,
            None => AdmitsBy::WearPrice,
        }
    }

    /// Whether a block is likely to be used again: its caller says so, it goes on a chain that was found worth keeping, or it begins one and was evicted or
    /// refused lately and is wanted again. Behind a gap nothing is likely, however often it was wanted: nobody can use it.
    fn is_likely(&self, ns: u16, meta: &BlockMeta, put: &Put) -> bool {
        let head = meta.parent == 0;
        let follows = self.follows(ns, meta);
        match put.hint {
            hint if is_announced(hint) => true,
            Reuse::Unknown if follows => true,
            // Whoever is done comes not back; somebody else may have asked for it all the same.
            _ => (head || follows) && put.again,
        }
    }

    /// Whether what a block hangs on is here, as far as is known, or its caller says that it will be used.
    fn is_of_use(&self, ns: u16, meta: &BlockMeta, hint: Reuse) -> bool {
        is_announced(hint) || meta.parent == 0 || self.follows(ns, meta)
    }

    fn follows(&self, ns: u16, meta: &BlockMeta) -> bool {
        meta.parent != 0 && self.seen.contains(self.followed_hash(ns, meta.parent))
    }

    fn followed_hash(&self, ns: u16, first_half: u64) -> u64 {
        let mut name = [0; 16];
        name[..8].copy_from_slice(&first_half.to_le_bytes());
        name[8..].copy_from_slice(&FOLLOWED_HALF);
        self.index.seed().hash(ns, &Key(name))
    }

    /// A block was used, or put because that is likely: what comes behind it in its chain is likely to be used with it.
    pub(crate) fn is_worth_following(&mut self, ns: u16, key: &Key) {
        if self.budget.is_on() {
            self.seen.insert(self.followed_hash(ns, key.place_token()), self.index.len());
        }
    }

    /// A block was wanted and is not here.
    pub(crate) fn wanted_in_vain(&mut self, ns: u16, key: &Key) {
        if self.budget.is_on() || self.market.wears_out() {
            self.seen.insert(self.index.seed().hash(ns, key), self.index.len());
        }
    }

    /// A durable put is taken, whatever the budget says.
    pub(crate) fn count_durable_put(&mut self) {
        if self.budget.is_on() && self.budget.left_bytes() == 0 {
            self.counted.durable_over_budget += 1;
        }
    }
}
