//! Deadlines, and nodes that die and come again.

use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_client::{Client, IntoError, NamespaceHandle, Options};
use forebay_types::{Class, Fingerprint, Key, MissReason, PutOutcome, RefusedReason, Reuse};

use crate::fake::{Fake, Trick, wait_ms};
use crate::{assert_adds_up, assert_hits, attached, filled, keys};

fn both() -> [Fake; 2] {
    [Fake::unix(), Fake::tcp()]
}

#[test]
fn a_silent_node_costs_no_more_than_the_deadline() {
    for fake in both() {
        let (client, space) = attached(&fake, Options::default());
        let blocks = filled(&space, &[5000; 20]);
        let keys = keys(&blocks);
        fake.state.set(Trick::Silent);
        let hasty = space.with_deadline(Duration::from_millis(50));
        for result in hasty.get(&keys) {
            assert_eq!(result.miss(), Some(MissReason::Deadline));
        }
        let new = space.derive_key(b"new");
        assert_eq!(hasty.put(&[(new, b"bytes")]), [PutOutcome::Refused(RefusedReason::Deadline)]);
        assert!(fake.state.cancels.load(Ordering::Relaxed) >= 1, "nobody told the node");
        fake.state.set(Trick::None);
        assert_hits(space.get(&keys), &blocks);
        assert_adds_up(&client);
    }
}

type Verb = (&'static str, Box<dyn FnOnce() + Send>);

/// Every verb, and what it must answer when its time is over.
fn verbs(client: &Client, hasty: &NamespaceHandle, keys: &[Key]) -> Vec<Verb> {
    fn late(reason: Option<MissReason>) {
        assert_eq!(reason, Some(MissReason::Deadline));
    }
    let refused = PutOutcome::Refused(RefusedReason::Deadline);
    let mut all: Vec<Verb> = Vec::new();
    let mut of_handle = |name, verb: fn(&NamespaceHandle, &[Key])| {
        let (hasty, keys) = (hasty.clone(), keys.to_vec());
        all.push((name, Box::new(move || verb(&hasty, &keys))));
    };
    of_handle("get", |space, keys| space.get(keys).iter().for_each(|result| late(result.miss())));
    of_handle("get_ranges", |space, keys| late(space.get_ranges(&[(keys[0], 0..10)])[0].miss()));
    of_handle("get_each", |space, keys| space.get_each(keys, |_, result| late(result.err())));
    of_handle("get_into", |space, keys| {
        let into = space.get_into(&keys[..1], &mut [&mut [0; 5000]]);
        assert!(matches!(into[0], Err(IntoError::Miss(MissReason::Deadline))), "{into:?}");
    });
    of_handle("match_prefix", |space, keys| late(space.match_prefix(keys, None).gap));
    of_handle("contains", |space, keys| space.contains(keys).iter().for_each(|found| late(found.err())));
    of_handle("plan_fetch", |space, keys| assert_eq!(space.plan_fetch(keys).missing, keys.len()));
    of_handle("touch", |space, keys| space.touch(keys, Reuse::default()));
    of_handle("prefetch", |space, keys| space.prefetch(keys, Duration::from_millis(50)));
    // It is forgotten all the same when the node goes on, so it is one that nobody asks for.
    of_handle("forget", |space, _| assert!(space.forget(&[space.derive_key(b"other")]).is_err()));
    let (space, key) = (hasty.clone(), hasty.derive_key(b"new"));
    all.push(("put", Box::new(move || assert_eq!(space.put(&[(key, b"bytes")]), [refused]))));
    let space = hasty.clone();
    let parts: [(&str, &[u8]); 2] = [("a", b"bytes"), ("b", b"more")];
    all.push(("put_group", Box::new(move || assert_eq!(space.put_group(key, &parts).unwrap(), refused))));
    let mut of_client = |name, verb: fn(&Client) -> bool| {
        let client = client.clone();
        all.push((name, Box::new(move || assert!(verb(&client), "{name} answered"))));
    };
    of_client("namespace", |client| client.namespace("kv").is_err());
    of_client("list_namespaces", |client| client.list_namespaces().is_err());
    of_client("node_stats", |client| client.node_stats().is_err());
    of_client("delete_namespace", |client| client.delete_namespace("n").is_err());
    of_client("create_namespace", |client| {
        client.create_namespace("n", Class::Cache, None, &Fingerprint::default()).is_err()
    });
    all
}

#[test]
fn every_verb_ends_by_its_deadline_when_the_node_is_stopped() {
    for fake in both() {
        let options = Options { deadline: Duration::from_secs(1), ..Options::default() };
        let (client, space) = attached(&fake, options);
        let patient = space.with_deadline(Duration::from_secs(60));
        let blocks = filled(&patient, &[5000; 3]);
        let hasty = space.with_deadline(Duration::from_millis(50));
        for (name, verb) in verbs(&client, &hasty, &keys(&blocks)) {
            fake.state.set(Trick::Frozen);
            let (told, ended) = std::sync::mpsc::channel();
            let caller = std::thread::Builder::new().spawn(move || {
                verb();
                told.send(())
            });
            // Without a deadline it would wait for ever.
            let in_time = ended.recv_timeout(Duration::from_secs(60));
            fake.state.set(Trick::None);
            assert!(caller.unwrap().join().is_ok(), "{name} ends otherwise");
            assert!(in_time.is_ok(), "{name} does not end");
            // What the silence has taught is forgotten: nothing but its deadline ends the next one.
            assert!(client.wait_reachable(Duration::from_secs(60)));
            assert_hits(patient.get(&keys(&blocks)), &blocks);
        }
        assert_adds_up(&client);
    }
}

#[test]
fn what_a_node_may_still_write_is_not_used_until_it_says_done() {
    let fake = Fake::unix();
    let options = Options { region_bytes: 16 << 20, ..Options::default() };
    let (client, space) = attached(&fake, options);
    let blocks = filled(&space, &[1 << 20; 8]);
    let keys = keys(&blocks);
    let hasty = space.with_deadline(Duration::from_millis(30));
    // It does not even answer to a cancel: its slices stay aside, and calls go on through the socket when none is left.
    fake.state.set(Trick::Dead);
    for _ in 0..4 {
        assert!(hasty.get(&keys).iter().all(|result| result.miss() == Some(MissReason::Deadline)));
    }
    assert!(client.alloc(12 << 20).is_err(), "slices that may still be written were given out");
    fake.state.set(Trick::None);
    assert_hits(space.get(&keys), &blocks);
    assert_adds_up(&client);
}

#[test]
fn slices_come_back_when_the_node_is_done() {
    let fake = Fake::unix();
    // Patient: on a slow machine silence would have it taken for dead, and this is about slices.
    let patience = Duration::from_secs(60);
    let options = Options { region_bytes: 16 << 20, connections: 1, patience, ..Options::default() };
    let (client, space) = attached(&fake, options);
    let blocks = filled(&space, &[1 << 20; 8]);
    let keys = keys(&blocks);
    fake.state.set(Trick::Silent);
    let hasty = space.with_deadline(Duration::from_millis(30));
    for _ in 0..20 {
        assert!(hasty.get(&keys).iter().all(|result| result.miss() == Some(MissReason::Deadline)));
    }
    fake.state.set(Trick::None);
    assert_hits(space.get(&keys), &blocks);
    drop(client.alloc(15 << 20).expect("every slice came back"));
}

#[test]
fn a_dead_node_is_a_miss_and_not_an_error() {
    for mut fake in both() {
        let (client, space) = attached(&fake, Options { patience: Duration::from_millis(50), ..Options::default() });
        let blocks = filled(&space, &[5000; 5]);
        let keys = keys(&blocks);
        fake.stop();
        for _ in 0..3 {
            for result in space.get(&keys) {
                assert_eq!(result.miss(), Some(MissReason::Unavailable));
            }
        }
        assert_eq!(space.match_prefix(&keys, None).gap, Some(MissReason::Unavailable));
        assert_eq!(space.contains(&keys[..1]), [Err(MissReason::Unavailable)]);
        let new = space.derive_key(b"new");
        assert_eq!(space.put(&[(new, b"bytes")]), [PutOutcome::Refused(RefusedReason::Unavailable)]);
        assert!(space.forget(&keys).unwrap_err().to_string().contains("could not be reached"));
        assert!(client.node_stats().is_err());
        assert_adds_up(&client);
    }
}

#[test]
fn a_node_that_comes_again_is_found_without_anybody_asking_for_it() {
    for mut fake in both() {
        let (client, space) = attached(&fake, Options::default());
        let blocks = filled(&space, &[5000; 50]);
        let keys = keys(&blocks);
        // Several idle connections die with it.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_hits(space.get(&keys), &blocks));
            }
        });
        fake.stop();
        for _ in 0..5 {
            assert_eq!(space.get(&keys[..1])[0].miss(), Some(MissReason::Unavailable));
        }
        fake.start();
        assert!(client.wait_reachable(Duration::from_secs(30)));
        assert_hits(space.get(&keys), &blocks);
        let counters = client.counters();
        assert!(counters.restarts >= 1 && counters.broken >= 1 && counters.reconnects >= 1, "{counters:?}");
        assert_eq!(client.node_stats().unwrap(), "{}");
        assert_adds_up(&client);
    }
}

/// Opens the breaker by calls alone.
fn given_up(space: &forebay_client::NamespaceHandle, key: forebay_types::Key, client: &forebay_client::Client) {
    for _ in 0..100 {
        assert!(space.get(&[key])[0].miss().is_some());
        if client.counters().breaker_opened > 0 {
            return;
        }
    }
    panic!("a hundred calls in vain, and it is still asked");
}

#[test]
fn while_a_node_is_taken_for_dead_no_call_knocks_and_one_prober_does() {
    for mut fake in both() {
        let (client, space) = attached(&fake, Options { patience: Duration::ZERO, ..Options::default() });
        let blocks = filled(&space, &[5000; 5]);
        let keys = keys(&blocks);
        fake.stop();
        given_up(&space, keys[0], &client);
        let before = client.counters();
        let long = space.with_deadline(Duration::from_secs(60));
        for n in 0..2000 {
            assert!(long.get(&keys).iter().all(|result| result.miss() == Some(MissReason::Unavailable)));
            assert_eq!(long.contains(&keys[..1]), [Err(MissReason::Unavailable)]);
            let new = space.derive_key(&[n as u8]);
            assert_eq!(long.put(&[(new, b"bytes")]), [PutOutcome::Refused(RefusedReason::Unavailable)]);
            assert!(long.forget(&keys).is_err());
        }
        let after = client.counters();
        assert_eq!(after.attempts, before.attempts, "a call knocked at a dead node");
        while client.counters().probes < before.probes + 3 {
            wait_ms(10);
        }
        assert_eq!(client.counters().breaker_opened, 1, "what is open is not opened again");
        assert!(!client.wait_reachable(Duration::from_millis(1)));
        fake.start();
        assert!(client.wait_reachable(Duration::from_secs(30)));
        assert_hits(space.get(&keys), &blocks);
        assert_eq!(client.counters().attempts, before.attempts, "the probe's own connection serves");
        assert_adds_up(&client);
    }
}

#[test]
fn a_node_that_says_nothing_is_taken_for_dead_and_found_again() {
    for fake in both() {
        let (client, space) = attached(&fake, Options::default());
        let blocks = filled(&space, &[5000; 5]);
        let keys = keys(&blocks);
        fake.state.set(Trick::Frozen);
        let hasty = space.with_deadline(Duration::from_millis(60));
        given_up(&hasty, keys[0], &client);
        assert_eq!(space.get(&keys[..1])[0].miss(), Some(MissReason::Unavailable));
        fake.state.set(Trick::None);
        assert!(client.wait_reachable(Duration::from_secs(30)));
        assert_hits(space.get(&keys), &blocks);
        assert_adds_up(&client);
    }
}

#[test]
fn a_node_that_stays_silent_finds_a_handful_of_connections_in_its_queue_and_is_found_by_the_one_that_waits() {
    let fake = Fake::unix();
    let (client, space) = attached(&fake, Options::default());
    let blocks = filled(&space, &[5000; 5]);
    let keys = keys(&blocks);
    fake.state.set(Trick::Frozen);
    given_up(&space.with_deadline(Duration::from_millis(60)), keys[0], &client);
    let (before, probes) = (fake.state.connections.load(Ordering::Relaxed), client.counters().probes);
    wait_ms(4000);
    // One waits for a second, the next for two, the next for four; the first may not have been seen yet.
    let queued = fake.state.connections.load(Ordering::Relaxed) - before;
    assert!(queued <= 4, "{queued} connections in four seconds");
    assert!(client.counters().probes - probes <= 4);
    assert_eq!(client.counters().breaker_opened, 1);
    fake.state.set(Trick::None);
    assert!(client.wait_reachable(Duration::from_secs(30)));
    assert_hits(space.get(&keys), &blocks);
    assert_adds_up(&client);
}

#[test]
fn one_dead_shard_of_two_costs_only_its_own_keys() {
    let fake = Fake::with(2, false, None);
    let (client, space) = attached(&fake, Options::default());
    let blocks = filled(&space, &[5000; 64]);
    let keys = keys(&blocks);
    fake.state.frozen_shard.store(1, Ordering::Relaxed);
    let hasty = space.with_deadline(Duration::from_millis(60));
    for _ in 0..100 {
        hasty.get(&keys);
        if client.counters().breaker_opened > 0 {
            break;
        }
    }
    let results = space.get(&keys);
    let missed = results.iter().filter(|result| result.miss() == Some(MissReason::Unavailable)).count();
    assert!(results.iter().all(|result| matches!(result.miss(), None | Some(MissReason::Unavailable))));
    assert!(missed > 0 && missed < keys.len(), "{missed} of {}", keys.len());
    drop(results);
    fake.state.frozen_shard.store(0, Ordering::Relaxed);
    assert!(client.wait_reachable(Duration::from_secs(30)));
    assert_hits(space.get(&keys), &blocks);
    assert_adds_up(&client);
}

#[test]
fn a_shard_that_does_not_even_greet_costs_only_its_own_keys() {
    let fake = Fake::with(2, false, None);
    let (client, space) = attached(&fake, Options::default());
    let blocks = filled(&space, &[5000; 64]);
    let keys = keys(&blocks);
    // Another client, which has no connection to either yet.
    for frozen in [1, 2] {
        let (other, space) = attached(&fake, Options { patience: Duration::from_secs(60), ..Options::default() });
        fake.state.frozen_shard.store(frozen, Ordering::Relaxed);
        let results = space.with_deadline(Duration::from_millis(1500)).get(&keys);
        let missed = results.iter().filter(|result| result.miss().is_some()).count();
        // After a second an attempt to reach it is given up, so it may be either.
        let silent = |reason| matches!(reason, MissReason::Deadline | MissReason::Unavailable);
        assert!(results.iter().all(|result| result.miss().is_none_or(silent)));
        assert!(missed > 0 && missed < keys.len(), "shard {frozen}: {missed} of {}", keys.len());
        fake.state.frozen_shard.store(0, Ordering::Relaxed);
        assert_adds_up(&other);
    }
    assert_hits(space.get(&keys), &blocks);
    assert_adds_up(&client);
}

#[test]
fn a_client_that_is_dropped_while_it_looks_for_a_node_looks_no_more() {
    let mut fake = Fake::unix();
    let (client, space) = attached(&fake, Options { patience: Duration::ZERO, ..Options::default() });
    let key = space.derive_key(b"a");
    fake.stop();
    given_up(&space, key, &client);
    drop((client, space));
    fake.start();
    let before = fake.state.connections.load(Ordering::Relaxed);
    wait_ms(700);
    assert!(fake.state.connections.load(Ordering::Relaxed) <= before + 1, "a probe under way may still end");
}

#[test]
fn a_call_waits_a_little_for_a_node_that_is_just_starting() {
    let mut fake = Fake::unix();
    let (_, space) = attached(&fake, Options { patience: Duration::from_secs(10), ..Options::default() });
    let blocks = filled(&space, &[5000; 5]);
    fake.stop();
    std::thread::scope(|scope| {
        let call = scope.spawn(|| space.with_deadline(Duration::from_secs(20)).get(&keys(&blocks)));
        wait_ms(150);
        fake.start();
        assert_hits(call.join().unwrap(), &blocks);
    });
}

#[test]
fn restarts_under_load_cost_misses_and_never_wrong_bytes_or_memory() {
    let mut fake = Fake::unix();
    let options = Options { region_bytes: 32 << 20, ..Options::default() };
    let (client, space) = attached(&fake, options);
    let blocks = filled(&space, &[300_000; 16]);
    let keys = keys(&blocks);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    space.get_each(&keys, |i, result| match result {
                        Ok(block) => assert!(block.bytes() == &blocks[i].1[..]),
                        Err(reason) => assert_eq!(reason, MissReason::Unavailable),
                    });
                }
            });
        }
        for _ in 0..6 {
            wait_ms(30);
            fake.stop();
            fake.start();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_hits(space.get(&keys), &blocks);
    assert_adds_up(&client);
    drop(client);
}
