//! Promises of a shard, each held here and broken on purpose: the scenario that finds nothing wrong with the store must find the mutant.

use forebay_store::{Event, Mutant, Reserve};
use forebay_types::{Class, Key, MissReason, NamespaceId, PutOutcome, RefusedReason};

use crate::rig::*;

/// The scenario says what is broken. It says nothing of the store as it is, and something of the store with a guard left out.
#[track_caller]
pub(crate) fn held_and_found(scenario: impl Fn(Option<Mutant>) -> Option<String>, mutant: Mutant) {
    assert_eq!(scenario(None), None);
    let broken = scenario(Some(mutant));
    println!("{mutant:?}: {}", broken.as_deref().unwrap_or("nothing"));
    assert!(broken.is_some(), "{mutant:?} was not found");
}

fn is_here(rig: &mut Rig, ns: NamespaceId, key: Key) -> bool {
    rig.store.presence(rig.now, ns, &key).is_ok()
}

/// The first complete put of a key wins while it is held; a later one is told `exists`.
fn two_puts_of_one_key(mutant: Option<Mutant>) -> Option<String> {
    let mut rig = Rig::new(Options { mutant, ..Options::default() });
    for ns in [CACHE, DURABLE] {
        assert!(matches!(rig.put(ns, key(1), 4000), PutOutcome::Cached | PutOutcome::Durable));
        rig.settle();
        let (_, second) = rig.begin_put(ns, key(1), 4000);
        if second != Err(PutOutcome::Exists) {
            return Some(format!("a second put was told {second:?}"));
        }
    }
    None
}

#[test]
pub(crate) fn the_first_put_wins() {
    held_and_found(two_puts_of_one_key, Mutant::LastPutWins);
}

/// What is held takes no room for a second time: it is told before its bytes move.
fn room_for_what_is_held(mutant: Option<Mutant>) -> Option<String> {
    let mut rig = Rig::new(Options { mutant, ..Options::default() });
    assert!(rig.put(CACHE, key(1), 4000).is_kept());
    rig.settle();
    let encoded = describe(CACHE, key(1), 2, &content(2, 4000));
    let batch = rig.store.begin_batch(1);
    let told = rig.store.reserve(rig.now, &encoded, batch, 0);
    (!matches!(told, Reserve::Exists)).then(|| format!("{told:?}"))
}

#[test]
fn what_is_held_takes_no_room_for_a_second_time() {
    held_and_found(room_for_what_is_held, Mutant::RoomForWhatExists);
}

/// A shard that is full of what may not be evicted says so, and not that it is busy.
fn full_of_durable_blocks(mutant: Option<Mutant>) -> Option<String> {
    let mut rig = Rig::new(Options { mutant, len: 3 * MIB + 16 * 4 * MIB, ..Options::default() });
    let mut busy = 0;
    for i in 0..200 {
        match rig.begin_put(DURABLE, key(i), 900_000).1 {
            Err(PutOutcome::Refused(RefusedReason::Full)) => return None,
            Err(PutOutcome::Refused(RefusedReason::Busy)) => busy += 1,
            Err(other) => return Some(format!("a put was told {other}")),
            Ok(_) => busy = 0,
        }
        // All is written then, and nothing is left to clean.
        rig.settle();
        if busy > 20 {
            return Some("it is busy for ever".to_owned());
        }
    }
    Some("200 blocks of 900 kB were taken into 64 MiB".to_owned())
}

#[test]
fn a_full_shard_says_full() {
    held_and_found(full_of_durable_blocks, Mutant::FullIsBusy);
}

/// A forgotten block is never served again, also not after a crash.
fn forgotten_then_crashed(mutant: Option<Mutant>) -> Option<String> {
    let mut rig = Rig::new(Options { mutant, ..Options::default() });
    for i in 0..10 {
        assert_eq!(rig.put(DURABLE, key(i), 5000), PutOutcome::Durable);
    }
    rig.settle();
    let keys: Vec<Key> = (0..5).map(key).collect();
    rig.forget(DURABLE, &keys);
    let mut rig = rig.reopen(true);
    assert!((5..10).all(|i| is_here(&mut rig, DURABLE, key(i))));
    keys.iter().find(|key| is_here(&mut rig, DURABLE, **key)).map(|key| format!("{key} was forgotten and is back"))
}

#[test]
pub(crate) fn what_is_forgotten_stays_forgotten_after_a_crash() {
    held_and_found(forgotten_then_crashed, Mutant::ForgetNotWritten);
}

/// A removed namespace takes its blocks along, also after a crash.
fn removed_then_crashed(mutant: Option<Mutant>) -> Option<String> {
    let other = NamespaceId(7);
    let mut options = Options { mutant, ..Options::default() };
    options.namespaces.push(namespace(other, Class::Durable, None));
    let mut rig = Rig::new(options);
    assert_eq!(rig.put(other, key(1), 5000), PutOutcome::Durable);
    rig.settle();
    rig.store.remove_namespace(5, other);
    rig.until(|e| matches!(e, Event::NamespaceSaved { token: 5, ok: true }));
    let mut rig = rig.reopen(true);
    is_here(&mut rig, other, key(1)).then(|| "a removed namespace is back with its blocks".to_owned())
}

#[test]
pub(crate) fn a_removed_namespace_stays_removed_after_a_crash() {
    held_and_found(removed_then_crashed, Mutant::RemovalNotWritten);
}

/// A durable namespace is refused what is over its quota.
fn more_than_the_quota(mutant: Option<Mutant>) -> Option<String> {
    let strict = NamespaceId(6);
    let mut options = Options { mutant, ..Options::default() };
    options.namespaces.push(namespace(strict, Class::Durable, Some(MIB)));
    let mut rig = Rig::new(options);
    for i in 0..40 {
        match rig.put(strict, key(i), 50_000) {
            PutOutcome::Durable if (i + 1) * 57_344 > MIB => return Some(format!("{} blocks are over 1 MiB", i + 1)),
            PutOutcome::Durable => {}
            outcome => assert_eq!(outcome, PutOutcome::Refused(RefusedReason::Quota)),
        }
    }
    None
}

#[test]
pub(crate) fn a_quota_is_a_quota() {
    held_and_found(more_than_the_quota, Mutant::QuotaIgnored);
}

/// What a match leased is there while the lease lasts.
fn leased_while_the_drive_goes_round(mutant: Option<Mutant>) -> Option<String> {
    let mut rig = Rig::new(Options { mutant, len: 3 * MIB + 20 * 4 * MIB, ..Options::default() });
    for i in 0..5 {
        rig.put(CACHE, key(i), 100_000);
        assert!(rig.lease(CACHE, &key(i), 30_000));
    }
    let start = rig.now;
    for i in 100..1500u64 {
        rig.now = start;
        assert_eq!(rig.put(CACHE, key(i), 100_000), PutOutcome::Cached);
    }
    rig.now = start;
    (0..5).find(|i| !is_here(&mut rig, CACHE, key(*i))).map(|i| format!("block {i} was leased and is gone"))
}

#[test]
pub(crate) fn a_lease_holds_while_it_lasts() {
    held_and_found(leased_while_the_drive_goes_round, Mutant::LeaseNotHeeded);
}

/// A block is not served after its time.
fn asked_for_after_its_time(mutant: Option<Mutant>) -> Option<String> {
    let mut rig = Rig::new(Options { mutant, ..Options::default() });
    assert_eq!(rig.put_until(CACHE, key(1), 5000, UTC + 10), PutOutcome::Cached);
    rig.clock(9, UTC + 9);
    assert!(is_here(&mut rig, CACHE, key(1)));
    // No turn comes between: the sweep is not what keeps it from being served.
    rig.now += 1000;
    rig.store.set_utc(rig.now, UTC + 10);
    match rig.store.presence(rig.now, CACHE, &key(1)) {
        Ok(_) => Some("it was over and is here".into()),
        Err(reason) => (reason != MissReason::Expired).then(|| format!("it is missed as {reason}")),
    }
}

#[test]
pub(crate) fn what_is_over_is_not_served() {
    held_and_found(asked_for_after_its_time, Mutant::ExpiryIgnored);
}

/// The index stays under its ceiling.
fn more_blocks_than_the_index_holds(mutant: Option<Mutant>) -> Option<String> {
    let max = 2 << 20;
    let len = 3 * MIB + 40 * 4 * MIB;
    let mut rig = Rig::new(Options { mutant, align: 512, len, index_bytes_max: max, ..Options::default() });
    // Some thousands more than fill it.
    let mut more = 3000;
    for i in 0..100_000u64 {
        more -= u64::from(rig.store.stats().evicted_index > 0);
        if more == 0 {
            break;
        }
        rig.put(CACHE, key(i), 100);
        let bytes = rig.store.stats().index_bytes;
        if bytes > max as u64 {
            return Some(format!("{bytes} bytes of index for {i} blocks, where {max} are the most"));
        }
    }
    assert!(rig.store.stats().evicted_index > 0, "it was never full: {:?}", rig.store.stats());
    None
}

#[test]
pub(crate) fn the_index_has_a_ceiling() {
    held_and_found(more_blocks_than_the_index_holds, Mutant::IndexUnbounded);
}
