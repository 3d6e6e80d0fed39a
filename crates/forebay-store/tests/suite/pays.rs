//! What will not pay for its own write is refused: with prices at which some blocks pay and others do not, on a drive that is written faster than it is rated for;
//! and while a write budget is short, what is worth most by the byte is admitted.

use std::sync::Arc;

use forebay_io::Arena;
use forebay_store::{Batch, Committed, Money, Mutant, Prices, Reserve, Store, StoreConfig};
use forebay_tokenomics::policy_by_name;
use forebay_types::{
    BlockMeta, Class, Descriptor, Fingerprint, Namespace, NamespaceId, PutOutcome, RefusedReason, Reuse, SeededEntropy,
    Version,
};

use crate::rig::*;

/// Of a large model, and of one that nobody knows.
const LARGE: NamespaceId = NamespaceId(7);
const UNKNOWN: NamespaceId = NamespaceId(8);
const LENGTH: usize = 60_000;
const TOKENS: u32 = 16;
const REFUSED: PutOutcome = PutOutcome::Refused(RefusedReason::Admission);
/// At fifty times the book's price a block of 16 tokens of the 8B model in 64 KiB pays from one return in two on.
const DEAR: f64 = 50.0;

fn of_model(id: NamespaceId, model: &str) -> Namespace {
    let mut fingerprint = Fingerprint::default();
    if !model.is_empty() {
        fingerprint.set("model", model).unwrap();
    }
    Namespace { fingerprint, ..namespace(id, Class::Cache, None) }
}

/// A drive of 80 MiB, where a byte written costs so many times what it does in the book.
fn rig(times: f64, mutant: Option<Mutant>) -> Rig {
    rig_under("worth", times, mutant)
}

fn rig_under(policy: &str, times: f64, mutant: Option<Mutant>) -> Rig {
    let namespaces = vec![
        of_model(CACHE, "llama-3.1-8b"),
        of_model(LARGE, "llama-3.1-70b"),
        of_model(UNKNOWN, ""),
        namespace(DURABLE, Class::Durable, None),
    ];
    let mut rig = Rig::new(Options { len: 3 * MIB + 20 * 4 * MIB, namespaces, ..Options::default() });
    let book = Prices::default();
    let config = StoreConfig {
        policy: policy_by_name(policy).unwrap(),
        prices: Prices { written_byte_dollars: book.written_byte_dollars * times, ..book },
        index_bytes_max: 4 << 20,
        mutant,
        ..StoreConfig::default()
    };
    let chance = Arc::new(SeededEntropy::new(1));
    rig.store = Store::open(rig.medium.open(), Arena::new(16 << 20).unwrap(), config, chance, rig.now, UTC).unwrap().0;
    rig
}

/// Puts a block as the `depth`-th of a chain of its request.
fn put_in(rig: &mut Rig, (ns, n): (NamespaceId, u64), batch: Batch, depth: u32, first: u64) -> PutOutcome {
    let bytes = content(n, LENGTH);
    let plain = BlockMeta::plain(ns, key(n), Version(n + 1), LENGTH as u64);
    let parent = if depth == 0 { 0 } else { key(n - 1).place_token() };
    let chain = key(first).place_token();
    let meta = BlockMeta { parent, chain, position: depth, tokens: TOKENS, ..plain };
    let mut encoded = Vec::new();
    Descriptor::of(meta, &bytes).encode(&mut encoded);
    loop {
        match rig.store.reserve(rig.now, &encoded, batch, depth) {
            Reserve::Slot(mut slot) => {
                slot.buf_mut().copy_from_slice(&bytes);
                return match rig.store.commit(rig.now, 0, slot) {
                    Committed::Cached => PutOutcome::Cached,
                    other => panic!("{other:?}"),
                };
            }
            Reserve::Refused(RefusedReason::Busy) => drop(rig.turn()),
            Reserve::Refused(reason) => return PutOutcome::Refused(reason),
            Reserve::Exists => return PutOutcome::Exists,
        }
    }
}

fn put_each(rig: &mut Rig, ns: NamespaceId, first: u64, blocks: u64, hint: Reuse) -> Vec<PutOutcome> {
    let batch = rig.store.begin_batch(blocks as u32).hinted(hint);
    (0..blocks).map(|at| put_in(rig, (ns, first + at), batch, at as u32, first)).collect()
}

/// Puts a new chain of `blocks`. What became of its first block becomes of all.
fn put_chain(rig: &mut Rig, ns: NamespaceId, first: u64, blocks: u64, hint: Reuse) -> PutOutcome {
    let outcomes = put_each(rig, ns, first, blocks, hint);
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "{hint:?}: {outcomes:?}");
    outcomes[0]
}

fn pass(rig: &mut Rig, seconds: u64) {
    for _ in 0..seconds.min(20) {
        rig.now += seconds * 1000 / seconds.min(20);
        rig.turns(3);
    }
}

/// A session that waits for its tool comes back after 20 seconds, every time; beside it three prompts never do.
fn lives(rig: &mut Rig, rounds: std::ops::Range<u64>) {
    for round in rounds {
        let session = round * 1000;
        put_chain(rig, CACHE, session, 4, Reuse::Tool);
        for prompt in 1..4 {
            // An estimate that is made anew between two blocks may part a chain.
            put_each(rig, CACHE, session + prompt * 100, 4, Reuse::Unknown);
        }
        pass(rig, 20);
        let batch = rig.store.begin_batch(4);
        for depth in 0..4 {
            let found = rig.store.touch(rig.now, CACHE, &key(session + depth), batch, depth as u32);
            assert!(found.is_ok(), "round {round}: what pays is kept: {:?}", rig.store.stats());
        }
    }
}

/// A hundred and fifty rounds write the drive twice within an hour, once a day is what it is rated for.
const ROUNDS: u64 = 150;

fn account(rig: &Rig, ns: NamespaceId) -> (Money, &'static str, f64) {
    let account = rig.store.accounts().find(|account| account.row.id == ns).unwrap();
    (account.money, account.admits_by.word(), account.pays_from)
}

#[test]
fn what_will_not_pay_for_its_write_is_refused_and_remembered() {
    let mut rig = rig(DEAR, None);
    lives(&mut rig, 0..ROUNDS);
    let (before, by, pays_from) = account(&rig, CACHE);
    assert_eq!(by, "wear_price");
    assert!((0.3..0.8).contains(&pays_from), "{pays_from}");
    let refused = before.will_not_pay_blocks;
    assert!(refused > 4 * ROUNDS, "prompts that never come back were found out: {refused}");
    // A new prompt of that kind, and the same again.
    assert_eq!(put_chain(&mut rig, CACHE, 1_000_000, 4, Reuse::Unknown), REFUSED);
    let (after, ..) = account(&rig, CACHE);
    assert_eq!((after.will_not_pay_blocks, after.over_budget_blocks), (refused + 4, 0));
    assert_eq!(after.refused_tokens - before.refused_tokens, 4 * u64::from(TOKENS));
    assert_eq!(rig.store.stats().refused_will_not_pay, rig.store.stats().refused_admission);
    assert_eq!(put_chain(&mut rig, CACHE, 1_000_000, 4, Reuse::Unknown), PutOutcome::Cached, "it is wanted after all");
    // Who says that it will be used is believed, as far as it was true; who is done is not asked.
    assert_eq!(put_chain(&mut rig, CACHE, 1_001_000, 4, Reuse::Tool), PutOutcome::Cached);
    assert_eq!(put_chain(&mut rig, CACHE, 1_002_000, 4, Reuse::Seconds(60)), PutOutcome::Cached);
    assert_eq!(put_chain(&mut rig, CACHE, 1_003_000, 4, Reuse::Done), REFUSED);
    // Nobody knows what this saves, and this is promised.
    assert_eq!(put_chain(&mut rig, UNKNOWN, 1_004_000, 4, Reuse::Unknown), PutOutcome::Cached);
    assert_eq!(account(&rig, UNKNOWN).1, "no_model");
    assert_eq!(rig.put(DURABLE, key(1), LENGTH), PutOutcome::Durable);
    assert_eq!(account(&rig, DURABLE).1, "durable");
    // A drive at rest ages by time alone: its writes are free again.
    pass(&mut rig, 5 * 86_400);
    assert_eq!(account(&rig, CACHE).1, "endurance_to_spare");
    assert_eq!(put_chain(&mut rig, CACHE, 1_005_000, 4, Reuse::Unknown), PutOutcome::Cached);
}

#[test]
fn nothing_is_refused_before_anything_was_learned_or_while_there_is_endurance_to_spare() {
    // A price at which nothing pays: until as much is written as the drive holds, writes are free. Under LRU nothing is ever learned, and all is admitted.
    for (policy, most, by) in [("worth", 70, "endurance_to_spare"), ("lru", 170, "nothing_learned")] {
        let mut rig = rig_under(policy, 1e6, None);
        assert_eq!(account(&rig, CACHE).1, "endurance_to_spare");
        let mut chain = 0;
        while rig.store.stats().put_bytes < most * MIB {
            chain += 10;
            assert_eq!(put_chain(&mut rig, CACHE, chain, 4, Reuse::Unknown), PutOutcome::Cached, "{policy}");
            pass(&mut rig, 1);
        }
        assert_eq!((account(&rig, CACHE).1, rig.store.stats().refused_admission), (by, 0));
    }
}

#[test]
fn a_price_that_is_ignored_is_found() {
    let mut rig = rig(DEAR, Some(Mutant::PriceIgnored));
    lives(&mut rig, 0..ROUNDS);
    assert_eq!(rig.store.stats().refused_will_not_pay, 0);
    assert_eq!(put_chain(&mut rig, CACHE, 1_000_000, 4, Reuse::Unknown), PutOutcome::Cached);
}

/// Half of what the rest of the budget would take is offered by a model whose blocks save nine times as much by the byte. How many of each are admitted.
fn admitted_when_short(mutant: Option<Mutant>) -> [u64; 2] {
    let mut rig = rig(0.0, mutant);
    rig.store.limit_writes(rig.now, 400 * MIB);
    lives(&mut rig, 0..ROUNDS);
    let (mut admitted, mut next) = ([0; 2], 2_000_000);
    for _ in 0..4000 {
        let (budget, day) = (rig.store.stats().write_budget_bytes, rig.store.stats().write_day_bytes);
        let counts = budget < day / 10;
        if budget < day / 20 {
            break;
        }
        for (of, ns) in [CACHE, LARGE].into_iter().enumerate() {
            next += 10;
            let outcome = put_chain(&mut rig, ns, next, 1, Reuse::Unknown);
            admitted[of] += u64::from(counts && outcome == PutOutcome::Cached);
        }
        rig.turns(2);
    }
    admitted
}

#[test]
fn while_the_budget_is_short_what_is_worth_most_by_the_byte_is_admitted() {
    let [small, large] = admitted_when_short(None);
    assert!(large > 100 && small * 10 < large, "{small} of the small model's, {large} of the large one's");
    let [small, large] = admitted_when_short(Some(Mutant::PriceIgnored));
    assert!(small * 2 > large, "without the price they are alike: {small} {large}");
}
