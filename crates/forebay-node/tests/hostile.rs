//! Peers that are slow, silent, greedy or wrong hurt only themselves.

#[expect(dead_code, reason = "this test uses a part of it")]
mod hand;

use std::os::fd::AsFd;
use std::time::Duration;

use forebay_io::Region;
use forebay_net::Socket;
use forebay_types::{Class, Entropy, MissReason, NamespaceId, PutOutcome, RegionId, SeededEntropy};
use forebay_wire::{ErrorCode, GetItem, GetOutcome, Message, Place, Presence, PutItem, RegionKind, ReuseHint};
use hand::{Folder, Hand, In, WAIT, assert_identity, block, descriptor, hello, key, samples};

#[test]
fn a_reader_that_takes_nothing_is_cut_off() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    let mut deaf_hello = hello(node.shards()[0], &[]);
    deaf_hello.credit_bytes = 1 << 30;
    let (mut deaf, _) = Hand::with(&node.addresses()[0], deaf_hello);
    let bytes = block(1, 1 << 20);
    assert_eq!(deaf.put_stream(ns, key(1), &bytes), PutOutcome::Cached);
    let to = Place { room: u64::MAX, ..Place::default() };
    let item = GetItem { key: key(1), offset: 0, length: 0, to };
    let (_, get) = deaf.get_message(ns, vec![item; 64], 1_000_000);
    deaf.send(&get);
    // Meanwhile others are served.
    let mut other = Hand::shard(&node);
    let mut cut = 0.0;
    while cut == 0.0 {
        assert!(other.get_stream(ns, &[key(1)])[0].1 == bytes);
        cut = samples(&node.metrics_text())["forebay_connections_cut_total"];
        assert!(other.next_within(Duration::from_millis(20)).is_none());
    }
    // What it asked for and never took is a miss, not lost from the sums.
    assert_identity(&node.metrics_text());
    while !matches!(deaf.next(), In::Closed) {}
}

#[test]
fn a_crowd_of_strangers_lets_others_in_when_it_leaves() {
    let folder = Folder::new();
    let node = folder.start();
    let crowd: Vec<Socket> = (0..256).map(|_| Socket::connect(&node.addresses()[0], WAIT).unwrap()).collect();
    drop(crowd);
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    assert_eq!(Hand::shard(&node).put_stream(ns, key(1), b"x"), PutOutcome::Cached);
}

#[test]
fn only_so_many_regions_can_be_lent() {
    let folder = Folder::new();
    let node = folder.start();
    let mut hand = Hand::shard(&node);
    let region = Region::owned(2 << 20).unwrap();
    for id in 1..=64 {
        hand.lend(id, &region);
    }
    let length = region.len() as u64;
    let add = |id| Message::RegionAdd { request: 9, region: RegionId(id), length, kind: RegionKind::Owned };
    for id in [65, 64, 0] {
        hand.send_with(&add(id), &[region.fd()]);
        assert!(matches!(hand.message(), Message::Error { request: 9, code: ErrorCode::Region, .. }));
    }
    assert_eq!(hand.ask(&Message::RegionDrop { request: 10, region: RegionId(1) }), Message::Done { request: 10 });
    hand.lend(65, &region);
    assert_eq!(samples(&node.metrics_text())["forebay_regions"], 64.0);

    // More descriptors than messages for them end the connection.
    let mut hoarder = Hand::shard(&node);
    for _ in 0..9 {
        let fd = region.fd();
        hoarder.send_with(&Message::Credit { bytes: 1 }, &[fd.as_fd(); 2]);
    }
    assert_eq!(hoarder.last_error().0, ErrorCode::Protocol);
}

#[test]
fn places_outside_a_region_are_not_touched() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    let mut hand = Hand::shard(&node);
    let region = Region::owned(2 << 20).unwrap();
    hand.lend(1, &region);
    let bytes = block(1, 10_000);
    assert_eq!(hand.put_stream(ns, key(1), &bytes), PutOutcome::Cached);
    let end = region.len() as u64;
    for (offset, room) in [(end - 4096, 1 << 20), (end, 1 << 20), (u64::MAX - 100, 1 << 20), (u64::MAX, u64::MAX)] {
        let to = Place { region: RegionId(1), offset, room };
        let (_, get) = hand.get_message(ns, vec![GetItem { key: key(1), offset: 0, length: 0, to }], 30_000_000);
        let Message::GetOutcomes { outcomes, .. } = hand.ask(&get) else { panic!() };
        assert!(!matches!(outcomes[0].1, GetOutcome::Hit { .. }), "{offset}+{room}: {outcomes:?}");
        let (request, put) =
            hand.put_message(ns, vec![PutItem { descriptor: descriptor(ns, key(2), &bytes), from: to }]);
        hand.send(&put);
        assert!(!hand.put_outcome(request).is_kept());
    }
    let elsewhere = Place { region: RegionId(7), offset: 0, room: 1 << 20 };
    let (_, get) = hand.get_message(ns, vec![GetItem { key: key(1), offset: 0, length: 0, to: elsewhere }], 30_000_000);
    let Message::GetOutcomes { outcomes, .. } = hand.ask(&get) else { panic!() };
    assert_eq!(outcomes, [(0, GetOutcome::Miss(MissReason::Unavailable))]);
    assert_identity(&node.metrics_text());
}

/// A few messages, well formed, as bytes.
fn conversation(ns: NamespaceId, round: u64) -> Vec<u8> {
    let small = block(round + 2, 3000);
    let to = Place { room: u64::MAX, ..Place::default() };
    let messages = [
        Message::Get {
            request: 1,
            namespace: ns,
            deadline_us: 1_000_000,
            hint: ReuseHint::default(),
            items: vec![GetItem { key: key(1), offset: 0, length: 0, to }; 3],
        },
        Message::Match {
            request: 2,
            namespace: ns,
            deadline_us: 1_000_000,
            hold_ms: 100,
            stop_at_gap: true,
            keys: vec![key(1); 10],
        },
        Message::Put {
            request: 3,
            namespace: ns,
            deadline_us: 1_000_000,
            hint: ReuseHint::default(),
            caller_keeps: round % 2 == 1,
            items: vec![PutItem { descriptor: descriptor(ns, key(round + 2), &small), from: Place::default() }],
        },
        Message::Cancel { request: 1 },
    ];
    let mut wire = Vec::new();
    for message in &messages {
        forebay_wire::encode(message, &mut wire).expect("a small message");
    }
    wire
}

#[test]
fn mutated_conversations_do_not_hurt_the_node() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    let mut steady = Hand::shard(&node);
    let bytes = block(1, 100_000);
    assert_eq!(steady.put_stream(ns, key(1), &bytes), PutOutcome::Cached);
    let chance = SeededEntropy::new(7);
    for round in 0..200u64 {
        let mut hand = if round % 4 == 0 { Hand::raw(&node.addresses()[0]) } else { Hand::shard(&node) };
        let mut wire = conversation(ns, round);
        let flips = chance.word() % 3;
        for _ in 0..flips {
            let bit = chance.word() as usize % (wire.len() * 8);
            wire[bit / 8] ^= 1 << (bit % 8);
        }
        let cut = if chance.word().is_multiple_of(2) { wire.len() } else { chance.word() as usize % wire.len() };
        // The node may close while this is being sent.
        let _ = hand.socket.send(&[std::io::IoSlice::new(&wire[..cut.max(1)])], &[]);
        if chance.word().is_multiple_of(2) {
            let _ = hand.next_within(Duration::from_millis(1));
        }
        drop(hand);
        if round % 20 == 0 {
            assert!(steady.get_stream(ns, &[key(1)])[0].1 == bytes);
        }
    }
    let request = steady.number();
    let ask = Message::Match {
        request,
        namespace: ns,
        deadline_us: 1_000_000,
        hold_ms: 0,
        stop_at_gap: true,
        keys: vec![key(1)],
    };
    match steady.ask(&ask) {
        Message::MatchOutcomes { presence, .. } => assert!(matches!(presence[0], Presence::Here { .. })),
        other => panic!("{other:?}"),
    }
    // All that was asked for has been answered or counted, once the last of them is gone.
    let quiet = |text: &str| samples(text)["forebay_connections"] <= 1.0;
    let mut text = node.metrics_text();
    for _ in 0..500 {
        if quiet(&text) {
            break;
        }
        assert!(steady.next_within(Duration::from_millis(10)).is_none());
        text = node.metrics_text();
    }
    assert_identity(&text);
}
