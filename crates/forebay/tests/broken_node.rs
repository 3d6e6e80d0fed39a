//! A node that breaks under its client, as a real process: stopped, killed, started again. What the client says, and that it finds the node
//! again by itself.
#![expect(clippy::unwrap_used, reason = "all of this is a test")]

mod support;

use std::time::Duration;

use forebay_client::{Client, Counters, NamespaceHandle, Options};
use forebay_types::{Address, Class, Fingerprint, Key, MissReason, PutOutcome, RefusedReason};
use rustix::process::Signal;
use support::{Node, Place, bytes};

fn attached(place: &Place) -> (Client, NamespaceHandle) {
    let client = Client::connect(&Address::unix(place.path("s")).unwrap(), Options::default()).unwrap();
    // Durable: what is missed after a kill was missed for the kill's sake, not because it was only cached.
    let space = client.create_namespace("kept", Class::Durable, None, &Fingerprint::default()).unwrap();
    (client, space)
}

type Blocks = Vec<(Key, Vec<u8>)>;

fn filled(space: &NamespaceHandle) -> Blocks {
    let blocks: Blocks = (0..40).map(|n| (space.derive_key(&[n as u8]), bytes(n, 1000 + 9000 * n as usize))).collect();
    let items: Vec<(Key, &[u8])> = blocks.iter().map(|(key, bytes)| (*key, bytes.as_slice())).collect();
    // A slow drive is no fault of the client's.
    let patient = space.with_deadline(Duration::from_secs(30));
    assert!(patient.put(&items).iter().all(|outcome| outcome.is_kept()));
    blocks
}

#[track_caller]
fn all_hit(space: &NamespaceHandle, blocks: &Blocks) {
    let keys: Vec<Key> = blocks.iter().map(|(key, _)| *key).collect();
    for (result, (key, bytes)) in space.with_deadline(Duration::from_secs(30)).get(&keys).into_iter().zip(blocks) {
        let missed = result.miss();
        assert!(result.hit().is_some_and(|block| *block == bytes[..]), "{key}: {missed:?}");
    }
}

/// Calls with short deadlines until one is answered at once; gives the reasons they had, in order.
fn until_taken_for_dead(client: &Client, space: &NamespaceHandle, key: Key) -> Vec<MissReason> {
    let hasty = space.with_deadline(Duration::from_millis(80));
    let opened = client.counters().breaker_opened;
    let mut reasons = Vec::new();
    while client.counters().breaker_opened == opened {
        reasons.push(hasty.get(&[key])[0].miss().expect("a node that cannot answer gave a block"));
        assert!(reasons.len() < 1000, "it is asked for ever");
    }
    reasons
}

/// Every verb answers `unavailable`, and nobody knocks.
fn dead(client: &Client, space: &NamespaceHandle, blocks: &Blocks) {
    let before = client.counters();
    let keys: Vec<Key> = blocks.iter().map(|(key, _)| *key).collect();
    let patient = space.with_deadline(Duration::from_secs(60));
    for _ in 0..200 {
        assert!(patient.get(&keys).iter().all(|result| result.miss() == Some(MissReason::Unavailable)));
        assert!(patient.contains(&keys).iter().all(|answer| *answer == Err(MissReason::Unavailable)));
        let new = space.derive_key(b"new");
        assert_eq!(patient.put(&[(new, b"bytes")]), [PutOutcome::Refused(RefusedReason::Unavailable)]);
    }
    let after = client.counters();
    assert_eq!((after.attempts, after.breaker_opened), (before.attempts, before.breaker_opened));
    adds_up(&after);
}

fn adds_up(counters: &Counters) {
    assert!(counters.get.adds_up() && counters.put.adds_up() && counters.contains.adds_up(), "{counters:?}");
    assert_eq!(counters.corrupt, 0);
}

#[test]
fn a_stopped_node_costs_deadlines_then_nothing_and_is_found_when_it_goes_on() {
    let place = Place::new();
    let node = place.serve();
    let (client, space) = attached(&place);
    let blocks = filled(&space);
    for _ in 0..3 {
        node.signal(Signal::STOP);
        let reasons = until_taken_for_dead(&client, &space, blocks[0].0);
        assert!(reasons.iter().all(|reason| *reason == MissReason::Deadline), "{reasons:?}");
        dead(&client, &space, &blocks);
        node.signal(Signal::CONT);
        assert!(client.wait_reachable(Duration::from_secs(30)));
        all_hit(&space, &blocks);
    }
    let counters = client.counters();
    assert_eq!((counters.restarts, counters.breaker_opened), (0, 3), "{counters:?}");
    adds_up(&counters);
}

#[test]
fn a_killed_node_is_unavailable_and_is_found_when_it_is_started_again() {
    let place = Place::new();
    let mut node = place.serve();
    let (client, space) = attached(&place);
    let blocks = filled(&space);
    for _ in 0..2 {
        node.kill();
        let reasons = until_taken_for_dead(&client, &space, blocks[0].0);
        // The kernel ends the connections of a node that is gone some milliseconds later, on a busy machine some hundreds: until then it is silent.
        let told = reasons.iter().position(|reason| *reason == MissReason::Unavailable).unwrap_or(reasons.len());
        assert!(reasons[..told].iter().all(|reason| *reason == MissReason::Deadline), "{reasons:?}");
        assert!(reasons[told..].iter().all(|reason| *reason == MissReason::Unavailable), "{reasons:?}");
        dead(&client, &space, &blocks);
        node = Node::start_when_free(|| place.forebay(support::SERVE));
        assert!(client.wait_reachable(Duration::from_secs(30)));
        all_hit(&space, &blocks);
    }
    let counters = client.counters();
    assert_eq!(counters.restarts, 2, "{counters:?}");
    adds_up(&counters);
}
