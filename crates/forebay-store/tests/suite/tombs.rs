//! Tombstones: they kill what was forgotten for as long as it can be found on the drive, and they never fill the drive.

use std::cell::RefCell;
use std::rc::Rc;

use forebay_store::Mutant;
use forebay_types::{Entropy, Key, PutOutcome, RefusedReason, SeededEntropy};

use crate::crash::{Broken, check_image};
use crate::rig::*;

/// A drive of 96 MiB with the least memory that a node gives a shard's index: a segment has room for some thousand tombstones.
fn small(seed: u64) -> Options {
    Options { seed, len: 96 * MIB, index_bytes_max: 1 << 20, ..Options::default() }
}

/// A cache of 96 MiB was given 12,000 small blocks and told to forget each by itself: the last 3,808 forgets failed, because tombstones had filled the
/// drive and cleaning won nothing.
#[test]
fn a_small_cache_forgets_one_by_one_all_it_was_given() {
    let mut rig = Rig::new(small(1));
    for i in 0..12_000 {
        assert_eq!(rig.put(CACHE, key(i), 1000), PutOutcome::Cached, "{i}");
    }
    for i in 0..12_000 {
        rig.forget(CACHE, &[key(i)]);
    }
    rig.settle();
    println!("{:?}", rig.store.stats());
    let mut rig = rig.reopen(true);
    assert_eq!(rig.store.stats().blocks, 0, "what was forgotten is back: {:?}", rig.report);
    for i in 0..12_000 {
        assert_eq!(rig.put(CACHE, key(i), 1000), PutOutcome::Cached, "{i}");
    }
    assert_eq!(rig.store.stats().corrupt, 0);
}

/// A drive full of small durable blocks, forgotten in an order of chance: no segment is ever empty before the end, so making room for tombstones means
/// moving blocks, while the power goes again and again.
#[test]
fn a_drive_full_of_durable_blocks_forgets_them_in_any_order_whenever_the_power_goes() {
    for seed in [1, 2] {
        let mut rig = Rig::new(Options { len: 3 * MIB + 16 * 4 * MIB, ..small(seed) });
        let fill = |rig: &mut Rig, first: u64| {
            let mut held: Vec<Key> = Vec::new();
            loop {
                let key = key(first + held.len() as u64);
                match rig.put(DURABLE, key, 4000) {
                    PutOutcome::Durable => held.push(key),
                    outcome => break assert_eq!(outcome, PutOutcome::Refused(RefusedReason::Full)),
                }
            }
            held
        };
        let mut held = fill(&mut rig, 0);
        let all = held.len();
        assert!(all > 12 * 500, "{all} blocks of 8 KiB with their trailers in 64 MiB");
        let random = SeededEntropy::new(seed);
        while !held.is_empty() {
            let some = held.swap_remove((random.word() % held.len() as u64) as usize);
            rig.forget(DURABLE, &[some]);
            if random.word().is_multiple_of(400) {
                rig.turns((random.word() % 40) as usize);
                rig = rig.reopen(true);
                // Nothing that is left is lost, whatever was being moved.
                let some = held.iter().step_by(97).copied().collect::<Vec<Key>>();
                for key in some {
                    assert!(matches!(rig.get(DURABLE, key), Got::Hit(_)), "{key}");
                }
            }
        }
        rig.settle();
        let mut rig = rig.reopen(true);
        assert_eq!(rig.store.stats().blocks, 0, "what was forgotten is back: {:?}", rig.report);
        let again = fill(&mut rig, 100_000).len();
        println!("{all} blocks, then {again}: {:?}", rig.store.stats());
        assert!(again > all / 10 * 9, "{again} of {all} blocks find room again");
    }
}

/// Blocks are forgotten and put again beside so many tombstones that all that is on the drive must be gone round for their sake, several times. What a
/// crash at every so manieth step breaks, and how many crashes there were.
pub(crate) fn forgetful_run(seed: u64, every: u64, mutant: Option<Mutant>) -> (Vec<String>, u64) {
    let mut rig = Rig::new(Options { len: 72 * MIB, mutant, ..small(seed) });
    let broken: Broken = Rc::default();
    let crashes = Rc::new(RefCell::new(0u64));
    let (oracle, found, count) = (rig.oracle.clone(), broken.clone(), crashes.clone());
    rig.medium.on_step(Box::new(move |op, image| {
        if op % every == 0 {
            *count.borrow_mut() += 1;
            check_image(&image, &oracle.borrow(), seed ^ op, mutant, &mut found.borrow_mut());
        }
    }));
    let random = SeededEntropy::new(seed);
    let (mut names, mut strangers) = (Vec::new(), 1_000_000);
    // Some four times as many tombstones as may be on the drive at once.
    for round in 0..70u64 {
        if !broken.borrow().is_empty() {
            break;
        }
        for ns in [CACHE, DURABLE, DURABLE] {
            let name = (ns, key(round * 3 + names.len() as u64 % 3));
            if rig.put(name.0, name.1, 150_000 + (random.word() % 100_000) as usize) != PutOutcome::Exists {
                names.push(name);
            }
        }
        // Some go, and what was forgotten may come again under the same key.
        let (ns, gone) = names.swap_remove((random.word() % names.len() as u64) as usize);
        rig.forget(ns, &[gone]);
        let absent: Vec<Key> = (0..300).map(|i| key(strangers + i)).collect();
        strangers += 300;
        rig.forget(CACHE, &absent);
        rig.oracle.borrow_mut().forgotten.retain(|(_, key), _| !absent.contains(key));
        if random.word().is_multiple_of(3) {
            rig.put(ns, gone, 90_000);
            names.push((ns, gone));
        }
    }
    rig.settle();
    rig.medium.no_hook();
    if mutant.is_none() {
        let stats = rig.store.stats();
        println!("{stats:?}");
        assert!(stats.segments_freed > 17, "all of the drive was gone round: {stats:?}");
        let mut rig = rig.reopen(true);
        for (ns, key) in names {
            rig.get(ns, key);
        }
        assert!(rig.report.tombstones < 17 * 1024 / 2, "tombstones go when nobody needs them: {:?}", rig.report);
    }
    let (broken, crashes) = (broken.borrow().clone(), *crashes.borrow());
    (broken, crashes)
}

#[test]
fn a_crash_while_tombstones_make_the_drive_go_round_brings_nothing_back() {
    let mut crashes = 0;
    for seed in 1..=2 {
        let (broken, n) = forgetful_run(seed, 37, None);
        assert_eq!(broken, Vec::<String>::new(), "seed {seed}");
        crashes += n;
    }
    assert!(crashes > 40, "{crashes} crashes");
    println!("{crashes} crashes");
}

fn is_found(mutant: Mutant) {
    for seed in 1..=6 {
        let (broken, crashes) = forgetful_run(seed, 11, Some(mutant));
        if let Some(first) = broken.first() {
            println!("{mutant:?} was found with seed {seed} after at most {crashes} crashes: {first}");
            return;
        }
    }
    panic!("{mutant:?} was not found");
}

#[test]
fn tombstones_that_are_left_behind_are_found() {
    is_found(Mutant::TombstonesDropped);
}

#[test]
fn an_emptied_segment_that_is_not_written_over_is_found() {
    is_found(Mutant::NotWrittenOver);
}
