//! A real node that is asked for more at once than it takes in, as its clients see it: `busy`, counted on both sides, and all well again at once.
#![expect(clippy::unwrap_used, reason = "all of this is a test")]

mod support;

use std::time::Duration;

use forebay_client::{Client, NamespaceHandle, Options};
use forebay_types::{Address, Class, Fingerprint, Key, MissReason, PutOutcome, RefusedReason};
use rustix::process::Signal;
use support::{Node, Place, bytes};

/// Clients that ask whether 4096 keys are there, all of them when the node goes on: 131,072 are the most that a node holds.
const LOOKERS: usize = 44;
/// Clients that get, and that put, behind them: told that it is busy or served, as room comes.
const GETTERS: usize = 4;
const PUTTERS: usize = 4;
/// Blocks of a putter's call.
const PUTS: usize = 100;

fn client(place: &Place) -> Client {
    let minute = Duration::from_secs(60);
    let options = Options {
        deadline: minute,
        patience: minute,
        in_flight: 4096,
        in_flight_bytes: 1 << 30,
        region_bytes: 1 << 20,
        block_bytes_hint: 512,
        ..Options::default()
    };
    Client::connect(&Address::unix(place.path("s")).unwrap(), options).unwrap()
}

fn key(space: &NamespaceHandle, number: usize) -> Key {
    space.derive_key(&number.to_le_bytes())
}

/// Puts blocks of these numbers in one call.
fn put(space: &NamespaceHandle, numbers: std::ops::Range<usize>) -> Vec<PutOutcome> {
    let blocks: Vec<(Key, Vec<u8>)> = numbers.map(|n| (key(space, n), bytes(n as u64, 300))).collect();
    let items: Vec<(Key, &[u8])> = blocks.iter().map(|(key, block)| (*key, &block[..])).collect();
    space.put(&items)
}

/// Whether it was missed because the node is busy, and for nothing else.
fn is_busy(missed: Option<MissReason>) -> bool {
    assert!(matches!(missed, None | Some(MissReason::Busy)), "{missed:?}");
    missed.is_some()
}

/// All ask while the node stands still, so that all of it is there at once when it goes on. How many looks and gets were told that it is busy.
fn crowd(node: &Node, spaces: &[NamespaceHandle], keys: &[Key], first: usize) -> (usize, usize) {
    let (lookers, rest) = spaces.split_at(LOOKERS);
    let (getters, putters) = rest.split_at(GETTERS);
    node.signal(Signal::STOP);
    std::thread::scope(|scope| {
        let lookers: Vec<_> = lookers.iter().map(|space| scope.spawn(|| space.contains(keys))).collect();
        support::pause(1000);
        let getters: Vec<_> = getters.iter().map(|space| scope.spawn(|| space.get(&keys[..8]))).collect();
        let numbers = (0..PUTTERS).map(|putter| first + putter * PUTS..first + (putter + 1) * PUTS);
        let putters: Vec<_> =
            putters.iter().zip(numbers).map(|(space, numbers)| scope.spawn(|| put(space, numbers))).collect();
        support::pause(1000);
        node.signal(Signal::CONT);
        let looked = lookers.into_iter().flat_map(|looker| looker.join().unwrap());
        let looks = looked.filter(|looked| is_busy(looked.err())).count();
        let got = getters.into_iter().flat_map(|getter| getter.join().unwrap());
        let gets = got.filter_map(|got| is_busy(got.miss()).then_some(())).count();
        for outcome in putters.into_iter().flat_map(|putter| putter.join().unwrap()) {
            let busy = outcome == PutOutcome::Refused(RefusedReason::Busy);
            assert!(busy || outcome == PutOutcome::Durable, "{outcome:?}");
        }
        (looks, gets)
    })
}

#[test]
fn a_node_asked_for_more_keys_than_it_holds_says_busy_and_serves_on() {
    let place = Place::new();
    let mut node = place.serve();
    let clients: Vec<Client> = (0..LOOKERS + GETTERS + PUTTERS).map(|_| client(&place)).collect();
    let space = clients[0].create_namespace("kept", Class::Durable, None, &Fingerprint::default()).unwrap();
    assert!(put(&space, 0..64).iter().all(|outcome| *outcome == PutOutcome::Durable));
    // Each has its connection, with which it asks at once.
    let spaces: Vec<NamespaceHandle> = clients.iter().map(|client| client.namespace("kept").unwrap()).collect();
    assert!(spaces.iter().flat_map(|space| space.get(&[key(space, 1)])).all(|result| result.hit().is_some()));
    let keys: Vec<Key> = (0..64).map(|number| key(&space, number)).cycle().take(4096).collect();
    let (mut looks, mut gets) = (0, 0);
    for round in 0..10 {
        let (busy_looks, busy_gets) = crowd(&node, &spaces, &keys, 1000 + round * PUTTERS * PUTS);
        (looks, gets) = (looks + busy_looks as u64, gets + busy_gets as u64);
        if looks > 0 {
            break;
        }
    }
    assert!(looks > 0, "nobody was told that it is busy");
    let counted = |of: fn(&Client) -> u64| clients.iter().map(of).sum::<u64>();
    assert_eq!(counted(|client| client.counters().contains.missed(MissReason::Busy)), looks);
    assert_eq!(counted(|client| client.counters().get.missed(MissReason::Busy)), gets);
    // It was for the moment: the same are served now.
    for (space, client) in spaces.iter().zip(&clients) {
        assert!(space.get(&keys[..64]).into_iter().all(|result| result.hit().is_some()));
        let counters = client.counters();
        assert!(counters.get.adds_up() && counters.put.adds_up(), "{counters:?}");
        assert_eq!(counters.restarts, 0);
    }
    assert_eq!(put(&space, 900..901), [PutOutcome::Durable]);
    assert!(node.lives());
}
