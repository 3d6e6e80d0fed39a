//! Hints: what is touched stays, what is prefetched is in DRAM, and neither does more harm than good.

use forebay_io::sim::{Fault, OpKind};
use forebay_store::{Event, Reuse};
use forebay_types::{Key, MissReason, PutOutcome, Tier};

use crate::rig::*;

/// Every block of these, as a prefetch answered for it.
fn prefetch(rig: &mut Rig, keys: &[Key], until: u64) -> Vec<Result<Tier, MissReason>> {
    let batch = rig.store.begin_batch(keys.len() as u32);
    let mut answers = Vec::new();
    for (depth, key) in keys.iter().enumerate() {
        answers.extend(rig.store.prefetch(rig.now, CACHE, key, batch, depth as u32, until));
    }
    while answers.len() < keys.len() {
        let Event::Prefetched { result } = rig.until(|e| matches!(e, Event::Prefetched { .. })) else { unreachable!() };
        answers.push(result);
    }
    answers
}

#[test]
pub(crate) fn a_block_that_is_only_touched_stays_while_ten_times_the_capacity_goes_by() {
    let mut rig = Rig::new(Options { len: 3 * MIB + 20 * 4 * MIB, ..Options::default() });
    let (touched, left): (Vec<Key>, Vec<Key>) = ((0..10).map(key).collect(), (100..120).map(key).collect());
    for key in touched.iter().chain(&left) {
        assert_eq!(rig.put(CACHE, *key, 60_000), PutOutcome::Cached);
    }
    let written = rig.store.stats().put_bytes;
    for i in 1000u64.. {
        assert_eq!(rig.put(CACHE, key(i), 100_000), PutOutcome::Cached);
        if i % 50 == 0 {
            let batch = rig.store.begin_batch(10).hinted(Reuse::Turn);
            for (depth, key) in touched.iter().enumerate() {
                assert!(rig.store.touch(rig.now, CACHE, key, batch, depth as u32).is_ok(), "{depth} after {i}");
            }
        }
        rig.turn();
        if rig.store.stats().put_bytes - written > 10 * 20 * 4 * MIB {
            break;
        }
    }
    rig.settle();
    for key in left {
        assert!(rig.store.presence(rig.now, CACHE, &key).is_err(), "nobody used it");
    }
    for key in touched {
        assert!(matches!(rig.get(CACHE, key), Got::Hit(_)));
    }
    assert!(rig.store.stats().write_amplification() < 1.34);
    let batch = rig.store.begin_batch(1);
    assert_eq!(rig.store.touch(rig.now, CACHE, &key(5_000_000), batch, 0), Err(MissReason::Absent));
}

#[test]
pub(crate) fn a_prefetched_block_is_in_dram_when_it_is_asked_for() {
    let mut rig = Rig::new(Options::default());
    let keys: Vec<Key> = (0..12).map(key).collect();
    for (i, key) in keys.iter().enumerate() {
        rig.put(CACHE, *key, [1, 5000, 200_000, 900_000][i % 4]);
    }
    rig.settle();
    let mut rig = rig.reopen(false);
    assert_eq!(rig.store.presence(rig.now, CACHE, &keys[0]), Ok(Tier::Nvme));
    let until = rig.now + 10_000;
    assert_eq!(prefetch(&mut rig, &keys, until), [Ok(Tier::Nvme); 12]);
    assert_eq!(prefetch(&mut rig, &keys, until), [Ok(Tier::Dram); 12]);
    let reads = rig.medium.counts().reads;
    for key in &keys {
        assert!(matches!(rig.get(CACHE, *key), Got::Hit(_)));
    }
    let stats = rig.store.stats();
    assert_eq!((stats.hits_dram, stats.hits_nvme), (12, 0));
    assert_eq!((stats.prefetched, stats.prefetch_used, stats.promotions), (12, 12, 0));
    assert_eq!(rig.medium.counts().reads, reads, "nothing is read again");
    assert_eq!(prefetch(&mut rig, &[key(99)], until), [Err(MissReason::Absent)]);
}

#[test]
fn a_prefetch_that_comes_too_late_or_meets_a_bad_record_says_so_and_costs_nothing() {
    let mut rig = Rig::new(Options::default());
    for i in 0..3 {
        rig.put(CACHE, key(i), 5000);
    }
    rig.settle();
    let mut rig = rig.reopen(false);
    let reads = rig.medium.counts().reads;
    let now = rig.now;
    assert_eq!(prefetch(&mut rig, &[key(0)], now), [Err(MissReason::Deadline)]);
    assert_eq!(rig.medium.counts().reads, reads);
    rig.medium.fault(Fault::next(OpKind::Read));
    let until = rig.now + 10_000;
    assert_eq!(prefetch(&mut rig, &[key(1)], until), [Err(MissReason::Unavailable)]);
    // One byte of the payload of block 2 goes bad where it lies.
    let mut page = vec![0; 4 * MIB as usize];
    let bytes = content(3, 5000);
    rig.medium.peek(3 * MIB, &mut page);
    let at = page.windows(64).position(|window| *window == bytes[..64]).unwrap();
    rig.medium.flip((3 * MIB + at as u64) * 8);
    assert_eq!(prefetch(&mut rig, &[key(2)], until), [Err(MissReason::Corrupt)]);
    assert_eq!(rig.get(CACHE, key(2)), Got::Miss(MissReason::Absent), "it was dropped");
    assert!(matches!(rig.get(CACHE, key(1)), Got::Hit(_)), "an unreadable one was not");
    assert_eq!(rig.store.stats().prefetched, 0);
}

#[test]
pub(crate) fn who_prefetches_more_than_he_gets_holds_half_of_dram_and_no_more() {
    let mut rig = Rig::new(Options { len: 3 * MIB + 40 * 4 * MIB, ..Options::default() });
    for i in 0..40 {
        rig.put(CACHE, key(i), 1_000_000);
    }
    rig.settle();
    let mut rig = rig.reopen(false);
    let arena = rig.store.stats().arena_bytes;
    let keys: Vec<Key> = (0..30).map(key).collect();
    let (now, until) = (rig.now, rig.now + 10_000);
    let answers = prefetch(&mut rig, &keys, until);
    let brought = answers.iter().filter(|answer| **answer == Ok(Tier::Nvme)).count() as u64;
    assert!(brought * MIB <= arena / 2 && brought * MIB > arena / 4, "{brought} of {arena} bytes");
    assert!(answers.iter().all(|a| matches!(a, Ok(Tier::Nvme) | Err(MissReason::Busy))), "{answers:?}");
    // What was got does not count any more, and what nobody came for in time neither.
    for key in &keys[..4] {
        assert!(matches!(rig.get(CACHE, *key), Got::Hit(_)));
    }
    assert_eq!(rig.store.stats().prefetch_used, 4);
    assert_eq!(prefetch(&mut rig, &[key(35)], until), [Ok(Tier::Nvme)]);
    rig.now = now + 20_000;
    let later = rig.now + 10_000;
    assert_eq!(prefetch(&mut rig, &[key(36), key(37)], later), [Ok(Tier::Nvme); 2]);
}

#[test]
pub(crate) fn a_prefetched_block_that_cleaning_moves_meanwhile_is_read_where_it_is() {
    // Reads are held back while the drive is gone round, so that what is prefetched is moved or gone before its read ends.
    for seed in 1..8 {
        let mut rig = Rig::new(Options { seed, len: 3 * MIB + 18 * 4 * MIB, ..Options::default() });
        for i in 0..60 {
            rig.put(CACHE, key(i), 100_000);
        }
        rig.settle();
        let mut rig = rig.reopen(false);
        let batch = rig.store.begin_batch(60);
        let mut asked = 0;
        for i in 0..60u64 {
            let until = rig.now + 1_000_000;
            asked += u64::from(rig.store.prefetch(rig.now, CACHE, &key(i), batch, i as u32, until).is_none());
            for j in 0..12 {
                rig.put(CACHE, key(1000 + i * 12 + j), 100_000);
            }
        }
        rig.settle();
        let answered = rig.events.iter().filter(|e| matches!(e, Event::Prefetched { .. })).count() as u64;
        assert_eq!(answered, asked, "every key has one answer");
        for i in 0..60 {
            rig.get(CACHE, key(i));
        }
        assert_eq!(rig.oracle.borrow().wrong + rig.store.stats().corrupt, 0);
    }
}

#[test]
fn what_the_caller_keeps_leaves_dram_when_it_is_written_unless_somebody_else_asks() {
    let mut rig = Rig::new(Options::default());
    rig.put(CACHE, key(100), 5000);
    rig.settle();
    let before = rig.store.stats().dram_bytes;
    rig.caller_keeps = true;
    for i in 0..8 {
        assert_eq!(rig.put(CACHE, key(i), 50_000), PutOutcome::Cached);
    }
    let stats = rig.store.stats();
    assert!(stats.dram_duplicate_bytes >= 8 * 50_000, "not written yet: {}", stats.dram_duplicate_bytes);
    assert_eq!(rig.store.presence(rig.now, CACHE, &key(0)), Ok(Tier::Dram), "and served from there meanwhile");
    // Two are asked for before they are written: one by a get, one by a prefetch.
    assert!(matches!(rig.get(CACHE, key(1)), Got::Hit(_)));
    let until = rig.now + 10_000;
    assert_eq!(prefetch(&mut rig, &[key(2)], until), [Ok(Tier::Dram)]);
    rig.settle();
    let stats = rig.store.stats();
    assert_eq!(stats.dram_duplicate_bytes, 0);
    let tiers: Vec<Tier> = (0..8).map(|i| rig.store.presence(rig.now, CACHE, &key(i)).unwrap()).collect();
    let (stayed, left) = (Tier::Dram, Tier::Nvme);
    assert_eq!(tiers, [left, stayed, stayed, left, left, left, left, left]);
    assert!(stats.dram_bytes - before < 3 * 55_000, "{} bytes more than before", stats.dram_bytes - before);
    // A touch moves nothing; the second reader, and a prefetch, bring it back.
    let batch = rig.store.begin_batch(1);
    assert!(rig.store.touch(rig.now, CACHE, &key(3), batch, 0).is_ok());
    assert_eq!(rig.store.presence(rig.now, CACHE, &key(3)), Ok(left));
    assert!(matches!(rig.get(CACHE, key(4)), Got::Hit(_)));
    assert_eq!(rig.store.presence(rig.now, CACHE, &key(4)), Ok(left));
    assert!(matches!(rig.get(CACHE, key(4)), Got::Hit(_)));
    assert_eq!(rig.store.presence(rig.now, CACHE, &key(4)), Ok(stayed));
    let until = rig.now + 10_000;
    assert_eq!(prefetch(&mut rig, &[key(5)], until), [Ok(Tier::Nvme)]);
    assert_eq!(rig.store.presence(rig.now, CACHE, &key(5)), Ok(stayed));
    assert_eq!(rig.store.stats().dram_duplicate_bytes, 0, "it is there because somebody wants it");
    // Durable ones too.
    assert_eq!(rig.put(DURABLE, key(50), 50_000), PutOutcome::Durable);
    rig.settle();
    assert_eq!(rig.store.presence(rig.now, DURABLE, &key(50)), Ok(left));
    let mut rig = rig.reopen(true);
    assert!(matches!(rig.get(DURABLE, key(50)), Got::Hit(_)));
}
