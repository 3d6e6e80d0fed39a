//! Room: capacity is a hard bound, quotas hold, leases hold and end, and making room costs less than a third of what is put.

use forebay_store::{Event, GetStarted};
use forebay_types::{Class, Entropy, Key, MissReason, NamespaceId, PutOutcome, RefusedReason, SeededEntropy};

use crate::rig::*;

#[test]
pub(crate) fn a_cache_takes_puts_for_ever_and_writes_each_byte_less_than_1_34_times() {
    let mut rig = Rig::new(Options { len: 3 * MIB + 24 * 4 * MIB, ..Options::default() });
    // A hot tenth is used again and again; the rest streams through. Then the drive has gone round three times.
    let mut hits = 0;
    for i in 0..6000u64 {
        assert_eq!(rig.put(CACHE, key(1000 + i), 40_000 + (i as usize * 977) % 20_000), PutOutcome::Cached, "{i}");
        let hot = key(1000 + i / 2 * 2 % 200);
        match rig.get(CACHE, hot) {
            Got::Hit(_) => hits += 1,
            Got::Miss(_) => {
                rig.put(CACHE, hot, 50_000);
            }
        }
        rig.turn();
    }
    rig.settle();
    let stats = rig.store.stats();
    println!("write amplification {:.3}, {hits} hits, {} evicted", stats.write_amplification(), stats.evicted);
    assert!(stats.put_bytes > 3 * 24 * 4 * MIB);
    assert!(stats.write_amplification() < 1.34, "{stats:?}");
    assert!(stats.reappend_bytes > 0 && hits > 3000, "what is used is kept: {hits} hits, {stats:?}");
    assert!(stats.live_bytes <= 22 * 4 * MIB, "{stats:?}");
    assert!(stats.segments_free >= 2);
    assert_eq!(stats.corrupt, 0);
    let evicted = (0..6000)
        .map(|i| key(1000 + i))
        .filter(|k| rig.store.presence(0, CACHE, k) == Err(MissReason::Evicted))
        .count();
    assert!(evicted > 100, "the ghosts remember: {evicted}");
    let mut rig = rig.reopen(true);
    let blocks = rig.store.stats().blocks;
    assert!(blocks as f64 >= 0.99 * stats.blocks as f64, "{blocks} of {}", stats.blocks);
    assert_eq!(rig.put(CACHE, key(1), 100_000), PutOutcome::Cached);
}

/// Writes ten times the capacity over a full drive and gives its write amplification, with `durable` of it held by durable blocks that are
/// forgotten and put again as well.
fn amplification_of_ten_laps(durable: u64, seed: u64) -> f64 {
    let segments = 24;
    let mut rig = Rig::new(Options { seed, len: 3 * MIB + segments * 4 * MIB, ..Options::default() });
    let capacity = segments * 4 * MIB;
    let random = SeededEntropy::new(seed);
    let length = || 20_000 + (random.word() % 100_000) as usize;
    let mut held = Vec::new();
    while rig.store.stats().durable_bytes < durable {
        let key = key(1_000_000 + held.len() as u64);
        assert_eq!(rig.put(DURABLE, key, length()), PutOutcome::Durable);
        held.push(key);
    }
    let mut put = 0;
    let warm = if durable == 0 { 800 } else { 300 };
    for i in 0u64.. {
        if rig.store.stats().put_bytes > 11 * capacity {
            break;
        }
        assert_eq!(rig.put(CACHE, key(i), length()), PutOutcome::Cached, "{i}");
        // Every fourth block is used again shortly before its segment's turn comes: as much to write again as there may be.
        let _ = rig.get(CACHE, key(i.saturating_sub(warm) / 4 * 4));
        rig.turn();
        if i % 8 == 0 && !held.is_empty() {
            let again = held[(random.word() % held.len() as u64) as usize];
            rig.forget(DURABLE, &[again]);
            put += u64::from(rig.put(DURABLE, again, length()) == PutOutcome::Durable);
        }
    }
    rig.settle();
    let stats = rig.store.stats();
    let written = rig.medium.counts().written_bytes;
    let counted = stats.put_bytes + stats.reappend_bytes + stats.meta_bytes;
    assert!(
        written >= counted && written - counted < 8 * MIB,
        "what is counted is what the drive wrote: {written} {counted}"
    );
    assert!(stats.reappend_bytes > capacity / 2, "{stats:?}");
    assert!(stats.evicted > 0 && stats.live_bytes > capacity / 2, "it is full: {stats:?}");
    assert!(durable == 0 || put > 100);
    println!("{} MiB durable: write amplification {:.3}", durable / MIB, stats.write_amplification());
    stats.write_amplification()
}

#[test]
pub(crate) fn ten_times_the_capacity_over_a_full_drive_is_written_less_than_1_34_times() {
    for seed in [1, 2] {
        assert!(amplification_of_ten_laps(0, seed) < 1.34);
    }
}

#[test]
pub(crate) fn with_a_third_of_the_drive_durable_and_changing_it_is_written_less_than_1_5_times() {
    for seed in [1, 2] {
        assert!(amplification_of_ten_laps(32 * MIB, seed) < 1.5);
    }
}

#[test]
pub(crate) fn a_full_durable_shard_says_so_and_forgetting_makes_room() {
    let mut rig = Rig::new(Options { len: 3 * MIB + 16 * 4 * MIB, ..Options::default() });
    rig.put(CACHE, key(0), 1_000_000);
    let mut kept = 0;
    let outcome = loop {
        match rig.put(DURABLE, key(kept), 900_000) {
            PutOutcome::Durable => kept += 1,
            other => break other,
        }
        assert!(kept < 100);
    };
    assert_eq!(outcome, PutOutcome::Refused(RefusedReason::Full));
    assert!(kept >= 4 * 12, "{kept} blocks of 900 kB in 64 MiB");
    rig.settle();
    // Full is no deadlock: everything is served, forgetting works, and its room is found again by cleaning.
    for lap in 0..4 {
        let odd: Vec<Key> = (0..kept).filter(|i| i % 2 == lap % 2).map(key).collect();
        let was = rig.forget(DURABLE, &odd);
        assert!(was.iter().all(|w| *w), "lap {lap}");
        rig.settle();
        for (n, k) in odd.iter().enumerate() {
            let outcome = rig.put(DURABLE, *k, 900_000);
            // What a forget leaves behind it, tombstones and unfinished segments, may cost a little of the room.
            assert!(
                outcome == PutOutcome::Durable || n + 6 > odd.len(),
                "lap {lap}: {outcome:?} after {n} of {}",
                odd.len()
            );
            if outcome != PutOutcome::Durable {
                break;
            }
        }
        for i in 0..kept {
            rig.get(DURABLE, key(i));
        }
        rig.settle();
        if lap == 1 {
            rig = rig.reopen(true);
        }
        let missing: Vec<Key> = (0..kept).map(key).filter(|k| rig.store.presence(0, DURABLE, k).is_err()).collect();
        for k in missing {
            if rig.put(DURABLE, k, 900_000) != PutOutcome::Durable {
                rig.forget(DURABLE, &[k]);
            }
        }
        let still: Vec<u64> = (0..60).filter(|i| rig.store.presence(0, DURABLE, &key(*i)).is_ok()).collect();
        kept = still.iter().zip(0..).take_while(|(a, b)| **a == *b).count() as u64;
        assert!(kept > 20, "lap {lap}: {kept}");
    }
}

#[test]
pub(crate) fn a_namespace_over_quota_loses_its_own_coldest_or_is_refused() {
    let small = NamespaceId(5);
    let strict = NamespaceId(6);
    let mut options = Options::default();
    options.namespaces.push(namespace(small, Class::Cache, Some(MIB)));
    options.namespaces.push(namespace(strict, Class::Durable, Some(MIB)));
    let mut rig = Rig::new(options);
    for i in 0..50 {
        rig.put(CACHE, key(i), 50_000);
    }
    for i in 0..100 {
        assert_eq!(rig.put(small, key(i), 50_000), PutOutcome::Cached);
        assert!(matches!(rig.get(small, key(0)), Got::Hit(_)), "the hottest stays: {i}");
        let held: u64 = (0..=i).filter(|i| rig.store.presence(0, small, &key(*i)).is_ok()).count() as u64;
        assert!(held * 57_344 <= MIB, "padding counts: {held}");
    }
    assert_eq!(rig.get(small, key(1)), Got::Miss(MissReason::Evicted));
    assert_eq!(
        rig.put(small, key(1000), MIB as usize),
        PutOutcome::Refused(RefusedReason::Quota),
        "its padding is over"
    );
    for i in 0..50 {
        assert!(matches!(rig.get(CACHE, key(i)), Got::Hit(_)), "nobody else pays");
    }
    let mut kept = 0;
    while rig.put(strict, key(kept), 50_000) == PutOutcome::Durable {
        kept += 1;
    }
    assert_eq!(kept, MIB / 57_344);
    assert_eq!(rig.put(strict, key(kept), 50_000), PutOutcome::Refused(RefusedReason::Quota));
    rig.forget(strict, &[key(0)]);
    assert_eq!(rig.put(strict, key(kept), 50_000), PutOutcome::Durable);
}

#[test]
pub(crate) fn leased_blocks_stay_while_the_drive_goes_round_and_a_tenth_is_the_most() {
    let mut rig = Rig::new(Options { len: 3 * MIB + 20 * 4 * MIB, ..Options::default() });
    for i in 0..10 {
        rig.put(CACHE, key(i), 100_000);
    }
    for i in 0..5 {
        assert!(rig.lease(CACHE, &key(i), 1_000_000_000));
    }
    assert!(!rig.lease(CACHE, &key(99), 10), "absent");
    let start = rig.now;
    for i in 100..2000u64 {
        rig.now = start;
        assert_eq!(rig.put(CACHE, key(i), 100_000), PutOutcome::Cached);
    }
    rig.now = start;
    for i in 0..10 {
        let here = rig.store.presence(rig.now, CACHE, &key(i)).is_ok();
        assert_eq!(here, i < 5, "block {i} after the drive has gone round twice");
    }
    let granted = (100..2000).filter(|i| rig.lease(CACHE, &key(*i), 1000)).count() as u64;
    let most = 20 * 4 * MIB / 10 / 106_496;
    assert!((most - 6..=most).contains(&granted), "{granted}");
    assert_eq!(rig.store.stats().leased_bytes, (granted + 5) * 106_496);
    // 30 s at most.
    rig.now = start + 30_001;
    for _ in 0..10 {
        rig.turn();
    }
    assert_eq!(rig.store.stats().leased_bytes, 0);
    // The lease is over: they go like all others. They were moved to a segment that only warm blocks fill, so there must be some.
    for i in 2000..5000u64 {
        assert_eq!(rig.put(CACHE, key(i), 100_000), PutOutcome::Cached);
        let _ = rig.get(CACHE, key((i - 550) / 4 * 4));
        rig.turn();
    }
    let still = (0..5).filter(|i| rig.store.presence(rig.now, CACHE, &key(*i)).is_ok()).count();
    assert_eq!(still, 0, "of five blocks whose lease is over, after the drive has gone round twice more");
}

#[test]
pub(crate) fn a_leased_block_that_is_dropped_or_moved_leaves_no_lease_behind() {
    let mut rig = Rig::new(Options { len: 3 * MIB + 20 * 4 * MIB, ..Options::default() });
    for i in 0..200 {
        rig.put(CACHE, key(i), 100_000);
    }
    let start = rig.now;
    // Every fifth, so that segments still are victims; between them keys that are not here.
    let held = || (0..200).step_by(5);
    let keys: Vec<Key> = held().flat_map(|i| [key(i), key(100_000 + i)]).collect();
    let mut seen = Vec::new();
    rig.store.look(rig.now, CACHE, &keys, 10_000, false, |one| seen.push(one));
    assert_eq!(seen.len(), 80);
    for (at, one) in seen.iter().enumerate() {
        assert_eq!(one.is_ok_and(|s| s.leased), at % 2 == 0, "{at}");
        assert_eq!(one.is_ok(), at % 2 == 0, "{at}");
    }
    assert_eq!(rig.store.stats().leased_bytes, 40 * 106_496);
    // Forgotten: its lease goes with it, and what is put under the name later is not held by it.
    rig.forget(CACHE, &[key(0), key(5)]);
    assert_eq!(rig.put(CACHE, key(0), 100_000), PutOutcome::Cached);
    assert_eq!(rig.store.stats().leased_bytes, 38 * 106_496);
    // The drive goes round: leased blocks are moved to other segments, and their leases with them.
    for i in 1000..2500u64 {
        rig.now = start;
        assert_eq!(rig.put(CACHE, key(i), 100_000), PutOutcome::Cached);
    }
    assert!(rig.store.stats().reappend_bytes > 0);
    assert_eq!(rig.store.stats().leased_bytes, 38 * 106_496);
    assert!(held().skip(2).all(|i| rig.store.presence(start, CACHE, &key(i)).is_ok()));
    // A match ends at the first gap.
    let mut told = 0;
    rig.store.look(start, CACHE, &[key(10), key(5), key(15)], 10, true, |_| told += 1);
    assert_eq!(told, 2);
    rig.now = start + 10_500;
    rig.turn();
    assert_eq!(rig.store.stats().leased_bytes, 0);
    // Nothing is left that would hold a segment for ever: each that is freed is asked for what is leased in it.
    for i in 3000..6000u64 {
        assert_eq!(rig.put(CACHE, key(i), 100_000), PutOutcome::Cached);
    }
    assert!(rig.store.stats().segments_freed > 60);
}

/// All that the index's ceiling is for.
fn memory(rig: &Rig) -> u64 {
    let stats = rig.store.stats();
    stats.index_bytes + stats.dram_overhead_bytes + stats.footer_bytes
}

#[test]
fn a_block_costs_little_memory_also_where_there_are_few_and_many_were_evicted() {
    let small = NamespaceId(7);
    let mut options =
        Options { align: 512, len: 3 * MIB + 40 * 4 * MIB, index_bytes_max: 64 << 20, ..Options::default() };
    options.namespaces.push(namespace(small, Class::Cache, Some(6 * MIB)));
    let mut rig = Rig::new(options);
    let empty = rig.store.stats().index_bytes;
    assert!(empty <= 64 << 10, "{empty} bytes before the first block");
    let mut worst: f64 = 0.0;
    for i in 0..30_000u64 {
        rig.put(small, key(i), 100);
        if i >= 4000 {
            let stats = rig.store.stats();
            worst = worst.max((stats.index_bytes - empty) as f64 / stats.blocks as f64);
        }
    }
    assert!(rig.store.stats().evicted > 20_000, "{:?}", rig.store.stats());
    assert!(worst <= 64.0, "{worst:.1} bytes a block");
}

#[test]
pub(crate) fn an_index_at_its_ceiling_evicts_and_never_passes_it() {
    let max = 2 << 20;
    let mut rig =
        Rig::new(Options { align: 512, len: 3 * MIB + 40 * 4 * MIB, index_bytes_max: max, ..Options::default() });
    for i in 0..40_000 {
        assert_eq!(rig.put(CACHE, key(i), 100), PutOutcome::Cached, "{i}");
        if i % 64 == 0 {
            assert!(memory(&rig) <= max as u64, "{:?}", rig.store.stats());
        }
    }
    rig.settle();
    let stats = rig.store.stats();
    assert!(stats.evicted_index > 0 && stats.blocks < 40_000, "{stats:?}");
    let newest = (11_900..40_000).filter(|i| rig.store.presence(0, CACHE, &key(*i)).is_ok()).count();
    assert!(newest > 90, "the coldest go: {newest} of the newest 100 are here");
    let rig = rig.reopen(false);
    assert!(memory(&rig) <= max as u64, "{:?} {:?}", rig.report, rig.store.stats());
    assert!(rig.report.over_index > 0);
}

#[test]
pub(crate) fn puts_on_their_way_never_take_the_whole_arena() {
    let mut rig = Rig::new(Options::default());
    rig.put(DURABLE, key(1), 900_000);
    rig.settle();
    let mut rig = rig.reopen(false);
    let mut slots = Vec::new();
    for i in 100..200 {
        let bytes = content(1, 1 << 20);
        let encoded = describe(CACHE, key(i), 1, &bytes);
        let batch = rig.store.begin_batch(1);
        match rig.store.reserve(0, &encoded, batch, 0) {
            forebay_store::Reserve::Slot(slot) => slots.push(slot),
            forebay_store::Reserve::Refused(reason) => assert_eq!(reason, RefusedReason::Busy),
            forebay_store::Reserve::Exists => panic!(),
        }
    }
    assert!((4..=8).contains(&slots.len()), "{}", slots.len());
    assert!(matches!(rig.get(DURABLE, key(1)), Got::Hit(_)), "gets find room");
    drop(slots);
    let request = rig.request(DURABLE, key(1), 0, 0);
    assert!(!matches!(rig.store.get(0, request), GetStarted::Miss(_)));
    rig.until(|e| matches!(e, Event::Got { .. }));
}
