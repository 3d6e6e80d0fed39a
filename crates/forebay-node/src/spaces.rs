//! What becomes of each namespace's keys, for whoever wants to know why a run never hits: lookups, gets and puts by outcome, and what is held.
//!
//! One shard's thread counts into a table of its own, which is published with its other figures. Only namespaces that exist are counted, so the
//! table is as long as theirs.

use std::collections::BTreeMap;

use forebay_store::{Money, NamespaceRow};
use forebay_types::{MissReason, NamespaceId, PutOutcome, RefusedReason, Tenant};
use serde_json::{Map, Value, json};

/// Of one namespace, in keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    pub(crate) name: String,
    pub(crate) tenant: Tenant,
}

impl SpaceCounts {
    pub(crate) fn put(&mut self, outcome: PutOutcome) {
        match outcome {
            PutOutcome::Cached | PutOutcome::Durable => self.stored += 1,
            PutOutcome::Exists => self.present += 1,
            PutOutcome::Refused(reason) => self.refused[reason.index()] += 1,
        }
    }

    /// Takes over what another counts; what only publishing tells stays.
    pub(crate) fn count_as(&mut self, other: &SpaceCounts) {
        let SpaceCounts { bytes, money, model, tenant, .. } = *self;
        let name = std::mem::take(&mut self.name);
        *self = SpaceCounts { bytes, money, model, name, tenant, ..other.clone() };
    }

    /// What its shard's store says of it.
    pub(crate) fn shows(&mut self, row: &NamespaceRow, model: &'static str, money: Money, bytes: u64) {
        (self.model, self.money, self.bytes, self.tenant) = (model, money, bytes, row.tenant);
        self.name.clone_from(&row.name);
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
        if self.model.is_empty() {
            self.model = other.model;
        }
    }

    /// As the statistics tell it. A question goes to each shard that owns a key of it, so questions are a shard's largest count.
    fn json(&self, name: &str, id: NamespaceId) -> Value {
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
            "money": crate::money::json(&self.money, self.model),
        })
    }
}

/// All of a shard, or of a node.
pub(crate) type Spaces = BTreeMap<NamespaceId, SpaceCounts>;

/// The statistics' list: these namespaces, over all shards.
pub(crate) fn told<'a>(shards: &[Spaces], names: impl Iterator<Item = (NamespaceId, &'a str)>) -> Vec<Value> {
    let one = |(id, name): (NamespaceId, &str)| {
        let mut all = SpaceCounts::default();
        let mine = shards.iter().filter_map(|shard| shard.get(&id));
        let questions = mine.clone().map(|counts| counts.questions).max().unwrap_or(0);
        mine.for_each(|counts| all.add(counts));
        all.questions = questions;
        all.json(name, id)
    };
    names.map(one).collect()
}
