//! What becomes of each namespace's keys, for whoever wants to know why a run never hits: lookups, gets and puts by outcome, and what is held.
//!
//! One shard's thread counts into a table of its own, which is published with its other figures. Only namespaces that exist are counted, so the
//! table is as long as theirs.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay_store::{AccountView, AdmitsBy, Money};
use forebay_tokenomics::Reckoning;
use forebay_types::{MissReason, NamespaceId, PutOutcome, RefusedReason, Tenant, Usage};
use serde_json::{Map, Value, json};

use crate::usage::Recorded;

/// Of one namespace, in keys.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct SpaceCounts {
    /// Questions for presence: matches and `contains`.
    pub(crate) questions: u64,
    pub(crate) lookup_hits: u64,
    pub(crate) lookup_misses: [u64; MissReason::ALL.len()],
    pub(crate) get_hits: u64,
    pub(crate) get_misses: [u64; MissReason::ALL.len()],
    pub(crate) stored: u64,
    pub(crate) present: u64,
    pub(crate) refused: [u64; RefusedReason::ALL.len()],
    /// Bytes on the drive, with padding, when it was published.
    pub(crate) bytes: u64,
    /// What its blocks saved and cost, and by which model that is reckoned; when it was published.
    pub(crate) money: Money,
    pub(crate) model: &'static str,
    /// By what its blocks are admitted, and the share of blocks that must come back for their writes to pay.
    pub(crate) admits_by: Option<AdmitsBy>,
    pub(crate) pays_from: f64,
    /// Shared, since what is shown is copied whenever the shard comes to rest.
    pub(crate) name: Arc<str>,
    pub(crate) tenant: Tenant,
    /// What the usage log is made of, since the start.
    pub(crate) usage: Usage,
    /// Keys of gets that missed and whose tokens are counted.
    pub(crate) missed_keys: u64,
    /// Tokens held times microseconds, and bytes held on the drive, with padding, up to when.
    pub(crate) held_token_us: u128,
    pub(crate) held_byte_us: u128,
    pub(crate) held_until_us: Option<u64>,
}

impl SpaceCounts {
    pub(crate) fn put(&mut self, outcome: PutOutcome) {
        match outcome {
            PutOutcome::Cached | PutOutcome::Durable => self.stored += 1,
            PutOutcome::Exists => self.present += 1,
            PutOutcome::Refused(reason) => self.refused[reason.index()] += 1,
        }
    }

    /// Brings up to now what is not counted as it happens. Blocks held are those of this moment: it is called several times a second.
    pub(crate) fn meter(&mut self, now_us: u64, account: &AccountView<'_>) {
        if *self.name != *account.row.name {
            self.name = account.row.name.as_str().into();
        }
        (self.tenant, self.model, self.money, self.bytes) =
            (account.row.tenant, account.model, account.money, account.bytes);
        (self.admits_by, self.pays_from) = (Some(account.admits_by), account.pays_from);
        let missed_keys = self.get_misses.iter().sum::<u64>();
        self.usage.missed_tokens += (missed_keys - self.missed_keys) * account.key_tokens;
        self.missed_keys = missed_keys;
        let held_us = now_us.saturating_sub(self.held_until_us.unwrap_or(now_us));
        self.held_token_us += u128::from(account.held_tokens) * u128::from(held_us);
        self.held_byte_us += u128::from(account.bytes) * u128::from(held_us);
        self.held_until_us = Some(now_us);
        let (usage, money) = (&mut self.usage, &account.money);
        usage.offered_tokens = usage.served_dram_tokens + usage.served_nvme_tokens + usage.missed_tokens;
        usage.held_token_s = u64::try_from(self.held_token_us / 1_000_000).unwrap_or(u64::MAX);
        usage.written_tokens = money.missed_tokens - money.refused_tokens;
        usage.written_blocks = money.kept_blocks;
        usage.written_payload_bytes = money.kept_payload_bytes;
        usage.refused_tokens = money.refused_tokens;
        usage.drive_bytes = money.written_bytes;
        usage.saved_gpu_us = money.saved_gpu_us;
    }

    fn add(&mut self, other: &SpaceCounts) {
        let each = |mine: &mut [u64], theirs: &[u64]| mine.iter_mut().zip(theirs).for_each(|(a, b)| *a += b);
        self.questions += other.questions;
        self.lookup_hits += other.lookup_hits;
        each(&mut self.lookup_misses, &other.lookup_misses);
        self.get_hits += other.get_hits;
        each(&mut self.get_misses, &other.get_misses);
        self.stored += other.stored;
        self.present += other.present;
        each(&mut self.refused, &other.refused);
        self.bytes += other.bytes;
        self.money.add(&other.money);
        self.held_token_us += other.held_token_us;
        self.held_byte_us += other.held_byte_us;
        if self.model.is_empty() {
            self.model = other.model;
        }
        // Of shards that differ, the one that refuses most: it is the one that is asked about.
        self.admits_by = self.admits_by.max(other.admits_by);
        self.pays_from = self.pays_from.max(other.pays_from);
    }

    /// As the statistics tell it. A question goes to each shard that owns a key of it, so questions are a shard's largest count.
    fn json(&self, name: &str, id: NamespaceId, recorded: &Recorded, by: Reckoning) -> Value {
        let named = |words: Vec<String>, counts: &[u64]| {
            let told = words.into_iter().zip(counts).filter(|(_, count)| **count > 0);
            told.map(|(word, count)| (word, Value::from(*count))).collect::<Map<_, _>>()
        };
        let misses = |counts: &[u64]| named(MissReason::ALL.iter().map(ToString::to_string).collect(), counts);
        let refused = named(RefusedReason::ALL.iter().map(ToString::to_string).collect(), &self.refused);
        json!({
            "name": name,
            "id": id.0,
            "bytes": self.bytes,
            "lookup": { "questions": self.questions, "hits": self.lookup_hits, "misses": misses(&self.lookup_misses) },
            "get": { "hits": self.get_hits, "misses": misses(&self.get_misses) },
            "put": { "stored": self.stored, "exists": self.present, "refused": refused },
            "money": crate::money::json(self, by),
            "usage": crate::usage::json(&recorded.usage(id)),
        })
    }
}

/// All of a shard, or of a node.
pub(crate) type Spaces = BTreeMap<NamespaceId, SpaceCounts>;

/// The statistics' list: these namespaces, over all shards.
pub(crate) fn told<'a>(
    shards: &[Spaces],
    names: impl Iterator<Item = (NamespaceId, &'a str)>,
    recorded: &Recorded,
    by: Reckoning,
) -> Vec<Value> {
    let one = |(id, name): (NamespaceId, &str)| {
        let mut all = SpaceCounts::default();
        let mine = shards.iter().filter_map(|shard| shard.get(&id));
        let questions = mine.clone().map(|counts| counts.questions).max().unwrap_or(0);
        mine.for_each(|counts| all.add(counts));
        all.questions = questions;
        all.json(name, id, recorded, by)
    };
    names.map(one).collect()
}
