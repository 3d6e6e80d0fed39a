//! What each namespace's blocks saved and cost: tokens found and computed, GPU seconds, bytes written. Counted here, in what is physical; what a second and a
//! byte cost is for those who tell it.

use forebay_format::NamespaceRow;
use forebay_io::Disk;
use forebay_tokenomics::SpaceCost;
use forebay_types::{BlockMeta, NamespaceId};

use crate::admit::AdmitsBy;
use crate::admit::Declined;
use crate::store::Store;

/// Of one namespace since the start. Tokens are those that puts or the fingerprint name; where neither does, none are counted, and no seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Money {
    /// Tokens of blocks that gets found.
    pub hit_tokens: u64,
    /// Tokens of blocks that were put: they had to be computed.
    pub missed_tokens: u64,
    /// Of these, tokens of blocks that were not kept, so they may have to be computed again.
    pub refused_tokens: u64,
    /// Blocks that admission refused because they would not pay for their write.
    pub will_not_pay_blocks: u64,
    /// Blocks that admission refused because the write budget is short.
    pub over_budget_blocks: u64,
    /// GPU time that computing what was found would have taken, in microseconds.
    pub saved_gpu_us: u64,
    /// GPU time that computing what was put took, in microseconds.
    pub missed_gpu_us: u64,
    /// Bytes written to the drive for it, cleaning's share with them.
    pub written_bytes: u64,
    /// Blocks that were put and kept.
    pub kept_blocks: u64,
    /// Bytes of payload of those whose tokens are known.
    pub kept_payload_bytes: u64,
}

/// A namespace's account, as it is told.
#[derive(Debug, Clone, Copy)]
pub struct AccountView<'s> {
    /// The namespace.
    pub row: &'s NamespaceRow,
    /// The model by which seconds are reckoned.
    pub model: &'static str,
    /// What its blocks saved and cost.
    pub money: Money,
    /// By what its blocks are admitted now.
    pub admits_by: AdmitsBy,
    /// Share of blocks that must come back so that keeping them pays for writing them once, with all endurance paid for; 0 where nobody has ever said how
    /// many tokens they hold.
    pub pays_from: f64,
    /// Bytes on the drive, with padding, that it holds here.
    pub bytes: u64,
    /// Tokens that a key stands for whose block is not here; 0 where nobody has ever said how many.
    pub key_tokens: u64,
    /// Tokens of all blocks that it holds here.
    pub held_tokens: u64,
}

/// A namespace's account.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) cost: SpaceCost,
    money: Money,
}

impl Account {
    pub(crate) fn new(cost: SpaceCost) -> Self {
        Account { cost, money: Money::default() }
    }

    pub(crate) fn found(&mut self, depth: u32, bytes: u64) {
        let tokens = self.cost.block_tokens(bytes);
        self.money.hit_tokens += tokens.round() as u64;
        self.money.saved_gpu_us += micros(self.cost.prefill_s(f64::from(depth) * tokens, tokens));
    }

    pub(crate) fn computed(&mut self, meta: &BlockMeta, depth: u32, declined: Option<Declined>) {
        let tokens = self.tokens_of(meta);
        let before = if meta.position == 0 && meta.parent == 0 { depth } else { meta.position };
        self.money.missed_tokens += tokens.round() as u64;
        self.money.missed_gpu_us += micros(self.cost.prefill_s(f64::from(before) * tokens, tokens));
        if declined.is_none() {
            self.cost.put(meta.tokens, meta.length);
            self.money.kept_blocks += 1;
            self.money.kept_payload_bytes += if tokens > 0.0 { meta.length } else { 0 };
        } else {
            self.money.refused_tokens += tokens.round() as u64;
        }
        self.money.will_not_pay_blocks += u64::from(declined == Some(Declined::WillNotPay));
        self.money.over_budget_blocks += u64::from(declined == Some(Declined::OverBudget));
    }

    pub(crate) fn tokens_of(&self, meta: &BlockMeta) -> f64 {
        if meta.tokens > 0 { f64::from(meta.tokens) } else { self.cost.block_tokens(meta.length) }
    }
}

fn micros(seconds: f64) -> u64 {
    (seconds * 1e6).round() as u64
}

impl Money {
    /// Adds another account.
    pub fn add(&mut self, other: &Money) {
        self.hit_tokens += other.hit_tokens;
        self.missed_tokens += other.missed_tokens;
        self.refused_tokens += other.refused_tokens;
        self.will_not_pay_blocks += other.will_not_pay_blocks;
        self.over_budget_blocks += other.over_budget_blocks;
        self.saved_gpu_us += other.saved_gpu_us;
        self.missed_gpu_us += other.missed_gpu_us;
        self.written_bytes += other.written_bytes;
        self.kept_blocks += other.kept_blocks;
        self.kept_payload_bytes += other.kept_payload_bytes;
    }
}

impl<D: Disk> Store<D> {
    /// Each namespace's account.
    pub fn accounts(&self) -> impl Iterator<Item = AccountView<'_>> {
        self.namespaces.slots().map(|slot| {
            let Account { cost, money } = &slot.account;
            let key_tokens = cost.key_tokens().round() as u64;
            let held_tokens = match cost.knows_sizes() {
                true => cost.block_tokens(slot.payload_bytes).round() as u64,
                false => slot.blocks * key_tokens,
            };
            AccountView {
                row: &slot.row,
                model: cost.model(),
                money: *money,
                admits_by: self.admits_by(slot),
                pays_from: match key_tokens {
                    0 => 0.0,
                    _ => cost.pays_from(self.market.prices.gpu_second_dollars, self.full_wear_dollars()),
                },
                bytes: slot.bytes,
                key_tokens,
                held_tokens,
            }
        })
    }

    /// Tokens of a namespace's block, or part of one, of so many bytes, as its puts or its fingerprint say; 0 where nobody has ever said.
    pub fn block_tokens(&self, id: NamespaceId, bytes: u64) -> u64 {
        self.namespaces
            .find(id)
            .and_then(|at| self.namespaces.get(at))
            .map_or(0, |slot| slot.account.cost.block_tokens(bytes).round() as u64)
    }

    /// Tells what was put in a namespace in an earlier life: so many blocks of so many tokens in so many bytes.
    pub fn remember_sizes(&mut self, id: NamespaceId, blocks: u64, tokens: u64, bytes: u64) {
        if let Some(at) = self.namespaces.find(id)
            && let Some(account) = self.account(at)
        {
            account.cost.remember(blocks, tokens, bytes);
        }
    }

    fn account(&mut self, ns: u16) -> Option<&mut Account> {
        self.namespaces.get_mut(ns).map(|slot| &mut slot.account)
    }

    /// A get is served with a block, the `depth`-th of its request.
    pub(crate) fn count_found(&mut self, ns: u16, depth: u32, bytes: u64) {
        if let Some(account) = self.account(ns) {
            account.found(depth, bytes);
        }
    }

    /// A block was computed and is put; kept, or refused.
    pub(crate) fn count_computed(&mut self, ns: u16, meta: &BlockMeta, depth: u32, declined: Option<Declined>) {
        if let Some(account) = self.account(ns) {
            account.computed(meta, depth, declined);
        }
    }

    /// A record of the namespace is written, or written again.
    pub(crate) fn count_written(&mut self, ns: u16, bytes: u64) {
        if let Some(account) = self.account(ns) {
            account.money.written_bytes += bytes;
        }
    }
}
