//! The store against a plain map: whatever the order of puts, gets, ranges, forgets and restarts.

use std::collections::BTreeMap;

use forebay_store::GetResult;
use forebay_types::{Key, MissReason, NamespaceId, PutOutcome};
use proptest::prelude::*;

use crate::rig::*;

#[derive(Debug, Clone)]
enum Step {
    Put { durable: bool, key: u64, length: usize },
    Get { durable: bool, key: u64 },
    Range { durable: bool, key: u64, offset: u64, length: u64 },
    Forget { durable: bool, keys: Vec<u64> },
    Turns(usize),
    Kill,
    PowerCut,
    Close,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..12u64;
    let length = prop_oneof![1..5000usize, 60_000..140_000usize, Just(65_536), Just(1usize << 20)];
    let step = prop_oneof![
        8 => (any::<bool>(), key.clone(), length).prop_map(|(durable, key, length)| Step::Put { durable, key, length }),
        6 => (any::<bool>(), key.clone()).prop_map(|(durable, key)| Step::Get { durable, key }),
        3 => (any::<bool>(), key.clone(), 0..1u64 << 20, 0..200_000u64)
            .prop_map(|(durable, key, offset, length)| Step::Range { durable, key, offset, length }),
        3 => (any::<bool>(), proptest::collection::vec(key, 1..4)).prop_map(|(durable, keys)| Step::Forget { durable, keys }),
        3 => (1..30usize).prop_map(Step::Turns),
        1 => Just(Step::Kill),
        1 => Just(Step::PowerCut),
        1 => Just(Step::Close),
    ];
    proptest::collection::vec(step, 1..60)
}

type Map = BTreeMap<(NamespaceId, Key), (u64, usize)>;

fn ns(durable: bool) -> NamespaceId {
    if durable { DURABLE } else { CACHE }
}

/// After a restart: durable blocks are there; others are as they were or gone, and gone only if the restart was rough.
fn compare(rig: &mut Rig, map: &mut Map, rough: bool) {
    for i in 0..12 {
        for ns in [CACHE, DURABLE] {
            let name = (ns, key(i));
            match (rig.get(ns, name.1), map.get(&name)) {
                (Got::Hit(version), Some((expected, _))) => assert_eq!(version, *expected),
                (Got::Miss(_), None) => {}
                (Got::Miss(_), Some(_)) if rough && ns == CACHE => {
                    map.remove(&name);
                }
                (got, expected) => panic!("{name:?}: {got:?} where {expected:?} was put"),
            }
        }
    }
}

fn run(seed: u64, steps: Vec<Step>) {
    let mut rig =
        Rig::new(Options { seed, align: if seed.is_multiple_of(2) { 512 } else { 4096 }, ..Options::default() });
    let mut map = Map::new();
    for step in steps {
        match step {
            Step::Put { durable, key: k, length } => {
                let name = (ns(durable), key(k));
                let expected = match (map.contains_key(&name), durable) {
                    (true, _) => PutOutcome::Exists,
                    (false, true) => PutOutcome::Durable,
                    (false, false) => PutOutcome::Cached,
                };
                assert_eq!(rig.put(name.0, name.1, length), expected);
                let version = rig.oracle.borrow().next_version;
                map.entry(name).or_insert((version, length));
            }
            Step::Get { durable, key: k } => {
                let name = (ns(durable), key(k));
                let got = rig.get(name.0, name.1);
                assert_eq!(
                    got,
                    map.get(&name).map_or(Got::Miss(MissReason::Absent), |(version, _)| Got::Hit(*version))
                );
            }
            Step::Range { durable, key: k, offset, length } => {
                let name = (ns(durable), key(k));
                let request = rig.request(name.0, name.1, offset, length);
                match (rig.ask(request), map.get(&name)) {
                    (Ok(GetResult::Found(found)), Some((version, whole))) => {
                        assert_eq!(rig.verify(name.0, name.1, &found), Got::Hit(*version));
                        let end = if length == 0 { *whole as u64 } else { (offset + length).min(*whole as u64) };
                        assert!(
                            found.offset <= offset
                                && found.offset + found.payload().len() as u64 >= end.min(*whole as u64)
                        );
                    }
                    (Err(MissReason::Absent), None) => {}
                    (got, expected) => panic!("{got:?} where {expected:?} was put"),
                }
            }
            Step::Forget { durable, keys } => {
                let keys: Vec<Key> = keys.into_iter().map(key).collect();
                let was = rig.forget(ns(durable), &keys);
                for (key, was) in keys.iter().zip(was) {
                    assert_eq!(map.remove(&(ns(durable), *key)).is_some(), was);
                }
            }
            Step::Turns(n) => rig.turns(n),
            Step::Kill => {
                rig = rig.reopen(false);
                compare(&mut rig, &mut map, true);
            }
            Step::PowerCut => {
                rig = rig.reopen(true);
                compare(&mut rig, &mut map, true);
            }
            Step::Close => {
                rig.store.close(rig.now);
                rig = rig.reopen(true);
                assert_eq!((rig.report.sealed_open, rig.report.bad_records), (0, 0), "{:?}", rig.report);
                compare(&mut rig, &mut map, false);
            }
        }
    }
    rig.settle();
    compare(&mut rig, &mut map, false);
    assert_eq!(rig.store.stats().corrupt, 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map_that_survives(seed in 1..1000u64, steps in steps()) {
        run(seed, steps);
    }
}
