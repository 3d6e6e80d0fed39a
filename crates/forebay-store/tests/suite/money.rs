//! What is counted of tokens, seconds and bytes is what happened; and what other capacities would find.

use forebay_store::Money;
use forebay_tokenomics::SpaceCost;
use forebay_types::{BlockMeta, Class, Descriptor, Fingerprint, Key, Namespace, Version};

use crate::rig::*;

const MODEL: &str = "Meta-Llama-3.1-70B";
const TOKENS: u32 = 512;

fn put(rig: &mut Rig, keys: &[Key], length: usize) {
    let batch = rig.store.begin_batch(keys.len() as u32);
    let bytes = content(1, length);
    for (depth, key) in keys.iter().enumerate() {
        let plain = BlockMeta::plain(CACHE, *key, Version(1), length as u64);
        let meta = BlockMeta { position: depth as u32, tokens: TOKENS, chain: 1, ..plain };
        let mut encoded = Vec::new();
        Descriptor::of(meta, &bytes).encode(&mut encoded);
        let forebay_store::Reserve::Slot(mut slot) = rig.store.reserve(rig.now, &encoded, batch, depth as u32) else {
            panic!("a put of few blocks finds room")
        };
        slot.buf_mut().copy_from_slice(&bytes);
        rig.store.commit(rig.now, 0, slot);
        rig.turns(4);
    }
}

fn money(rig: &Rig) -> Money {
    rig.store.accounts().find(|account| account.row.id == CACHE).unwrap().money
}

/// Four blocks of a prompt are put, got once, and asked for by somebody who finds the first two.
#[test]
fn tokens_and_seconds_are_those_of_the_blocks_that_were_put_and_found() {
    let mut fingerprint = Fingerprint::default();
    fingerprint.set("model", MODEL).unwrap();
    let space = Namespace { fingerprint, ..namespace(CACHE, Class::Cache, None) };
    let mut rig = Rig::new(Options { namespaces: vec![space], ..Options::default() });
    let keys: Vec<Key> = (0..4).map(key).collect();
    put(&mut rig, &keys, 100_000);
    let batch = rig.store.begin_batch(4);
    for (depth, key) in keys.iter().chain(&keys[..2]).enumerate() {
        let mut request = rig.request(CACHE, *key, 0, 0);
        (request.batch, request.depth_in_batch) = (batch, depth as u32 % 4);
        rig.ask(request).unwrap();
    }
    rig.settle();
    let cost = SpaceCost::new(MODEL, TOKENS);
    let us = |from: u32, to: u32| cost.prefill_s(f64::from(from * TOKENS), f64::from((to - from) * TOKENS)) * 1e6;
    let (money, stats) = (money(&rig), rig.store.stats());
    assert_eq!((money.missed_tokens, money.hit_tokens, money.refused_tokens), (4 * 512, 6 * 512, 0));
    assert!((money.missed_gpu_us as f64 - us(0, 4)).abs() < 10.0, "{money:?}");
    assert!((money.saved_gpu_us as f64 - us(0, 4) - us(0, 2)).abs() < 10.0, "{money:?}");
    assert_eq!(money.written_bytes, stats.put_bytes + stats.reappend_bytes);
}

/// Where nobody says how many tokens a block holds, none are counted.
#[test]
fn blocks_of_unknown_tokens_save_nothing_and_cost_their_bytes() {
    let mut rig = Rig::new(Options::default());
    rig.put(CACHE, key(1), 5000);
    assert!(matches!(rig.get(CACHE, key(1)), Got::Hit(_)));
    let money = money(&rig);
    assert_eq!((money.hit_tokens, money.missed_tokens, money.saved_gpu_us), (0, 0, 0));
    assert_eq!(money.written_bytes, rig.store.stats().put_bytes);
}

/// A loop over a third more than fits finds nothing with what there is, and a share with twice as much; a lookup alone asks for nothing.
#[test]
fn the_curve_says_what_twice_the_room_would_find() {
    let mut rig = Rig::new(Options { len: 3 * MIB + 20 * 4 * MIB, ..Options::default() });
    let loops = 1600;
    for _ in 0..4 {
        for n in 0..loops {
            if rig.store.presence(rig.now, CACHE, &key(n)).is_err() {
                rig.put(CACHE, key(n), 60_000);
                rig.turns(2);
            } else {
                assert!(matches!(rig.get(CACHE, key(n)), Got::Hit(_)));
            }
        }
    }
    let stats = rig.store.stats();
    let [half, now, twice] = stats.curve_found_ppm;
    // The request under way counts from its first block.
    assert_eq!(stats.curve_asked, 4 * loops);
    assert!(half < 20_000 && now < 20_000, "{half} {now}");
    // Three of four passes.
    assert!(twice.abs_diff(750_000) < 20_000, "{twice}");
    assert!(stats.curve_bytes <= (1 << 20) + 4096, "{}", stats.curve_bytes);
}
