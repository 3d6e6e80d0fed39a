//! Expiry: a block is served until its second and never after, whatever clocks, crashes and restarts do.

use std::collections::BTreeMap;

use forebay_io::sim::OpKind;
use forebay_store::{Event, GetResult, GetStarted};
use forebay_types::{Entropy, Key, MissReason, PutOutcome, RefusedReason, SeededEntropy, Tier};

use crate::rig::*;

const EXPIRED: Got = Got::Miss(MissReason::Expired);

#[test]
fn a_block_is_served_to_its_second_and_not_after_and_then_can_be_put_again() {
    let mut rig = Rig::new(Options::default());
    for i in 0..4 {
        assert_eq!(rig.put_until(CACHE, key(i), 5000, UTC + 10 + i / 2 * 10), PutOutcome::Cached);
    }
    rig.put(CACHE, key(9), 5000);
    rig.clock(9, UTC + 9);
    assert!(matches!(rig.get(CACHE, key(0)), Got::Hit(_)));
    rig.clock(1, UTC + 10);
    let batch = rig.store.begin_batch(1);
    for i in 0..2 {
        assert_eq!(rig.store.presence(rig.now, CACHE, &key(i)), Err(MissReason::Expired));
        assert_eq!(rig.store.touch(rig.now, CACHE, &key(i), batch, 0), Err(MissReason::Expired));
        assert!(!rig.lease(CACHE, &key(i), 1000));
        assert_eq!(rig.get(CACHE, key(i)), EXPIRED);
        assert!(matches!(rig.get(CACHE, key(i + 2)), Got::Hit(_)), "its neighbour lives on");
    }
    assert_eq!((rig.store.stats().expired, rig.store.stats().blocks), (2, 3));
    assert_eq!(
        rig.put_until(CACHE, key(0), 100, UTC + 5),
        PutOutcome::Refused(RefusedReason::Admission),
        "over already"
    );
    assert_eq!(rig.put_until(CACHE, key(0), 100, UTC + 30), PutOutcome::Cached);
    rig.clock(15, UTC + 25);
    assert!(matches!(rig.get(CACHE, key(0)), Got::Hit(_)));
    assert_eq!(rig.get(CACHE, key(2)), EXPIRED);
    assert!(matches!(rig.get(CACHE, key(9)), Got::Hit(_)), "one without a time stays");
}

#[test]
fn a_read_that_is_under_way_when_the_time_is_over_is_a_miss() {
    let mut rig = Rig::new(Options::default());
    rig.put_until(CACHE, key(1), 300_000, UTC + 10);
    rig.settle();
    let mut rig = rig.reopen(false);
    rig.medium.hold(OpKind::Read);
    let (whole, range) = (rig.request(CACHE, key(1), 0, 0), rig.request(CACHE, key(1), 0, 70_000));
    for request in [whole, range] {
        assert!(matches!(rig.store.get(rig.now, request), GetStarted::Pending));
    }
    rig.turn();
    rig.clock(10, UTC + 10);
    rig.medium.release();
    for _ in 0..2 {
        let Event::Got { result, .. } = rig.until(|e| matches!(e, Event::Got { .. })) else { unreachable!() };
        assert!(matches!(result, GetResult::Miss(MissReason::Expired)), "{result:?}");
    }
}

#[test]
fn what_has_expired_stays_so_after_a_restart_with_a_clock_that_was_set_back() {
    for power_cut in [false, true] {
        let mut rig = Rig::new(Options::default());
        for i in 0..6 {
            let ns = if i % 2 == 0 { CACHE } else { DURABLE };
            rig.put_until(ns, key(i), 5000, UTC + 10 + 100 * (i / 2));
        }
        rig.oracle.borrow_mut().durable.clear();
        rig.clock(150, UTC + 150);
        assert_eq!(rig.get(CACHE, key(0)), EXPIRED);
        rig.settle();
        rig.utc = UTC - 5_000_000;
        let mut rig = rig.reopen(power_cut);
        assert_eq!(rig.report.expired, 4, "{:?}", rig.report);
        for i in 0..6 {
            let got = rig.get(if i % 2 == 0 { CACHE } else { DURABLE }, key(i));
            assert_eq!(got == EXPIRED, i < 4, "{i}: {got:?}");
        }
        // And a start that finds the time gone by, without anybody having asked before.
        rig.utc = UTC + 1000;
        let mut rig = rig.reopen(power_cut);
        assert_eq!(rig.get(CACHE, key(4)), EXPIRED);
        assert_eq!(rig.get(DURABLE, key(5)), EXPIRED);
    }
}

#[test]
fn an_older_record_of_a_key_does_not_come_in_the_place_of_one_that_expired() {
    let mut rig = Rig::new(Options::default());
    rig.put_until(DURABLE, key(1), 5000, UTC + 50);
    rig.forget(DURABLE, &[key(1)]);
    rig.put_until(DURABLE, key(1), 6000, UTC + 10);
    rig.oracle.borrow_mut().durable.clear();
    rig.clock(20, UTC + 20);
    rig.settle();
    let mut rig = rig.reopen(true);
    assert_eq!(rig.get(DURABLE, key(1)), EXPIRED);
}

#[test]
fn a_clock_that_jumps_ahead_hides_and_gives_back() {
    let mut rig = Rig::new(Options::default());
    for i in 0..10 {
        rig.put_until(DURABLE, key(i), 5000, UTC + 10_000);
    }
    rig.clock(1, UTC + 500_000_000);
    rig.oracle.borrow_mut().durable.clear();
    for i in 0..10 {
        assert_eq!(rig.get(DURABLE, key(i)), EXPIRED);
    }
    assert!(rig.store.stats().clock_apart_s > 400_000_000);
    rig.clock(60, UTC + 61);
    for i in 0..10 {
        assert!(matches!(rig.get(DURABLE, key(i)), Got::Hit(_)), "{i} is back");
    }
    assert_eq!((rig.store.stats().expired, rig.store.stats().clock_apart_s), (0, 0));
    // Also over a restart.
    rig.utc = UTC + 500_000_000;
    let mut rig = rig.reopen(true);
    rig.clock(1, UTC + 500_000_001);
    assert_eq!(rig.get(DURABLE, key(0)), EXPIRED);
    rig.utc = UTC + 100;
    let mut rig = rig.reopen(true);
    assert!(matches!(rig.get(DURABLE, key(0)), Got::Hit(_)));
}

#[test]
fn a_wrong_clock_that_was_believed_is_left_behind_and_brings_nothing_back() {
    let mut rig = Rig::new(Options::default());
    for i in 0..10 {
        rig.put_until(CACHE, key(i), 5000, UTC + 10_000 + 2_000_000_000 * (i % 2));
    }
    for s in 1..=13 {
        rig.clock(60, UTC + 500_000_000 + s * 60);
    }
    rig.settle();
    assert_eq!(rig.store.stats().expired, 5, "it stood for ten minutes");
    for s in 1..=12 {
        rig.clock(60, UTC + 2000 + s * 60);
    }
    rig.settle();
    // What is put now lives by the right clock; what the wrong one ended stays away.
    let now = rig.utc;
    assert_eq!(rig.put_until(CACHE, key(50), 5000, now + 100), PutOutcome::Cached);
    rig.settle();
    for power_cut in [false, true] {
        rig = rig.reopen(power_cut);
        assert!(matches!(rig.get(CACHE, key(50)), Got::Hit(_)), "{:?}", rig.report);
        for i in 0..10 {
            let got = rig.get(CACHE, key(i));
            assert_eq!(matches!(got, Got::Hit(_)), i % 2 == 1, "{i}: {got:?}");
        }
    }
    rig.clock(100, now + 100);
    assert_eq!(rig.get(CACHE, key(50)), EXPIRED);
}

#[test]
fn expired_blocks_give_their_room_back() {
    let mut rig = Rig::new(Options { len: 3 * MIB + 16 * 4 * MIB, ..Options::default() });
    let mut kept = 0;
    while rig.put_until(DURABLE, key(kept), 900_000, UTC + 100) == PutOutcome::Durable {
        kept += 1;
    }
    assert!(kept >= 40);
    rig.oracle.borrow_mut().durable.clear();
    rig.clock(100, UTC + 100);
    rig.settle();
    assert_eq!((rig.store.stats().expired, rig.store.stats().live_bytes), (kept, 0));
    for i in 0..40 {
        assert_eq!(rig.put(DURABLE, key(1000 + i), 900_000), PutOutcome::Durable, "{i}");
    }
    for i in 0..40 {
        assert!(matches!(rig.get(DURABLE, key(1000 + i)), Got::Hit(_)));
    }
}

#[test]
fn times_are_kept_through_cleaning_and_recovery() {
    let mut rig = Rig::new(Options { len: 3 * MIB + 18 * 4 * MIB, ..Options::default() });
    let hot: Vec<Key> = (0..8).map(key).collect();
    for (i, key) in hot.iter().enumerate() {
        rig.put_until(CACHE, *key, 60_000, UTC + 1000 + i as u64);
    }
    for i in 0..2000 {
        rig.put(CACHE, key(100 + i), 100_000);
        if i % 20 == 0 {
            let batch = rig.store.begin_batch(8);
            hot.iter().for_each(|key| assert!(rig.store.touch(rig.now, CACHE, key, batch, 0).is_ok(), "{i}"));
        }
        rig.turns(2);
    }
    assert!(rig.store.stats().reappend_bytes > 0);
    // Room, so that a start, which does not know what was hot, need not evict.
    let cold: Vec<Key> = (0..2000).map(|i| key(100 + i)).collect();
    rig.forget(CACHE, &cold);
    rig.settle();
    let mut rig = rig.reopen(true);
    rig.clock(1003, UTC + 1003);
    for (i, key) in hot.iter().enumerate() {
        let expected = if i <= 3 { Err(MissReason::Expired) } else { Ok(Tier::Nvme) };
        assert_eq!(rig.store.presence(rig.now, CACHE, key), expected, "{i}");
    }
}

/// Puts with times, a clock that walks and steps back, crashes and closes: nothing is served at or after its second.
#[test]
fn nothing_is_served_after_its_time_whatever_happens() {
    for seed in 1..=12 {
        let random = SeededEntropy::new(seed);
        let below = |n: u64| random.word() % n;
        let mut rig = Rig::new(Options { seed, len: 72 * MIB, ..Options::default() });
        // The latest time the store has been told, and what each version expires at.
        let (mut latest, mut until) = (UTC, BTreeMap::<u64, u64>::new());
        let (mut hits, mut expired) = (0, 0);
        for _ in 0..600 {
            let (ns, key) = (if below(3) == 0 { DURABLE } else { CACHE }, key(below(40)));
            match below(20) {
                0..=7 => {
                    let expiry = if below(4) == 0 { 0 } else { latest + 1 + below(200) };
                    rig.put_until(ns, key, 1 + below(200_000) as usize, expiry);
                    until.insert(rig.oracle.borrow().next_version, expiry);
                    rig.oracle.borrow_mut().durable.clear();
                }
                8..=14 => match rig.get(ns, key) {
                    Got::Hit(version) => {
                        hits += 1;
                        assert!(until[&version] == 0 || until[&version] > latest, "seed {seed}: {version} at {latest}");
                    }
                    Got::Miss(reason) => expired += u64::from(reason == MissReason::Expired),
                },
                15..=17 => {
                    let step = below(20);
                    let utc = if below(4) == 0 { latest - below(300) } else { latest + step };
                    latest = latest.max(utc);
                    rig.clock(step, utc);
                }
                18 => {
                    // The mark is on the drive after a close; after a crash the clock is at least not set back.
                    rig.store.close(rig.now);
                    rig.utc = latest - below(5000);
                    rig = rig.reopen(true);
                }
                _ => {
                    rig.utc = latest;
                    rig = rig.reopen(below(2) == 0);
                }
            }
        }
        assert!(hits > 30 && expired > 5, "seed {seed}: {hits} hits, {expired} expired");
        assert_eq!(rig.store.stats().corrupt, 0);
    }
}
