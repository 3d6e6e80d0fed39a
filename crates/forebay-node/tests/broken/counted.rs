//! Each kind of misbehaviour ends the connection it came by, or only its request, and moves a counter of its own.

use std::time::Duration;

use forebay_io::Region;
use forebay_node::{Node, NodeHandle};
use forebay_types::{Class, NamespaceId, PutOutcome, RefusedReason, RegionId, ShardId, crc64};
use forebay_wire::{ErrorCode, GetItem, Kind, Message, Place, PutItem, RegionKind, encode};

use crate::hand::{Folder, Hand, In, block, descriptor, hello, key, samples};
use crate::steady;

fn faults(node: &NodeHandle, kind: &str) -> f64 {
    samples(&node.metrics_text())[&format!("forebay_peer_faults_total{{kind=\"{kind}\"}}")]
}

/// Waits for the counter of `kind` to pass `before`: a connection's end is seen a little after it.
#[expect(clippy::disallowed_methods, reason = "nothing tells when the node has seen a connection go")]
fn moves(node: &NodeHandle, kind: &str, before: f64) {
    for _ in 0..2000 {
        if faults(node, kind) > before {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("nobody counted {kind}: {}", node.metrics_text());
}

/// A frame with right checksums around whatever one wants to say.
fn forged(kind: Kind, length: u32, body: &[u8]) -> Vec<u8> {
    let mut out = vec![b'F', b'B', kind as u8, 0];
    for word in [length, 1, 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&crc64(body).to_le_bytes());
    out.extend_from_slice(&crc64(&out).to_le_bytes());
    out.extend_from_slice(body);
    out
}

/// Ends with an error of this code.
#[track_caller]
fn refused(mut hand: Hand, bytes: &[u8], code: ErrorCode) {
    hand.send_bytes(bytes, &[]);
    assert_eq!(hand.last_error().0, code);
}

fn bytes_that_are_no_message(node: &NodeHandle) {
    let address = &node.addresses()[0];
    refused(Hand::raw(address), &[0x55; 64], ErrorCode::Protocol);
    refused(Hand::shard(node), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", ErrorCode::Protocol);
    refused(Hand::shard(node), &forged(Kind::Get, 3, &[1, 2, 3]), ErrorCode::Protocol);
    refused(Hand::control(node), &forged(Kind::Attach, 1, &[9]), ErrorCode::Protocol);
}

fn lengths_and_counts_over_their_ceilings(node: &NodeHandle) {
    let address = &node.addresses()[0];
    for length in [(4 << 20) + 1, u32::MAX] {
        refused(Hand::raw(address), &forged(Kind::Hello, length, &[]), ErrorCode::Protocol);
        refused(Hand::shard(node), &forged(Kind::Put, length, &[]), ErrorCode::Protocol);
    }
    let counted = [vec![0; 13], u32::MAX.to_le_bytes().to_vec()].concat();
    refused(Hand::shard(node), &forged(Kind::Get, counted.len() as u32, &counted), ErrorCode::Protocol);
    let region = Region::owned(2 << 20).expect("memory");
    let mut hoarder = Hand::shard(node);
    for _ in 0..9 {
        hoarder.send_with(&Message::Credit { bytes: 1 }, &[region.fd(); 2]);
    }
    assert_eq!(hoarder.last_error().0, ErrorCode::Protocol);
}

fn bytes_that_changed_on_the_way(node: &NodeHandle, ns: NamespaceId) {
    let mut wire = Vec::new();
    encode(&Message::Cancel { request: 7 }, &mut wire).expect("a small message");
    wire[9] ^= 1;
    refused(Hand::shard(node), &wire, ErrorCode::Protocol);
    // Payload is told from its sums, and costs its block only.
    let (mut hand, bytes) = (Hand::shard(node), block(5, 70_000));
    let item = PutItem { descriptor: descriptor(ns, key(5), &bytes), from: Place::default() };
    let (request, put) = hand.put_message(ns, vec![item]);
    assert!(matches!(hand.ask(&put), Message::PutGo { .. }));
    let mut changed = bytes;
    changed[69_000] ^= 4;
    hand.send_block(request, 0, &changed);
    assert_eq!(hand.put_outcome(request), PutOutcome::Refused(RefusedReason::Unavailable));
}

fn messages_where_they_do_not_belong(node: &NodeHandle, ns: NamespaceId) {
    let mut wire = Vec::new();
    encode(&Message::Members { request: 1 }, &mut wire).expect("a small message");
    refused(Hand::raw(&node.addresses()[0]), &wire, ErrorCode::Protocol);
    refused(Hand::shard(node), &wire, ErrorCode::Protocol);
    wire.clear();
    encode(&Message::Cancel { request: 1 }, &mut wire).expect("a small message");
    refused(Hand::control(node), &wire, ErrorCode::Protocol);
    // DATA behind the end of its block.
    let mut hand = Hand::shard(node);
    let item = PutItem { descriptor: descriptor(ns, key(6), &block(6, 1000)), from: Place::default() };
    let (request, put) = hand.put_message(ns, vec![item]);
    assert!(matches!(hand.ask(&put), Message::PutGo { .. }));
    hand.send_data(request, 0, 0, &[1; 1001]);
    assert_eq!(hand.last_error().0, ErrorCode::Protocol);
}

fn regions_that_are_none(node: &NodeHandle, ns: NamespaceId) {
    let mut hand = Hand::shard(node);
    let add = Message::RegionAdd { request: 5, region: RegionId(1), length: 4096, kind: RegionKind::Owned };
    assert!(matches!(hand.ask(&add), Message::Error { request: 5, code: ErrorCode::Region, .. }));
    let to = Place { region: RegionId(7), offset: 0, room: 1 << 20 };
    let (_, get) = hand.get_message(ns, vec![GetItem { key: steady_key(), offset: 0, length: 0, to }], 1_000_000);
    assert!(matches!(hand.ask(&get), Message::GetOutcomes { .. }));
}

fn steady_key() -> forebay_types::Key {
    key(steady::KEYS.start)
}

/// Asks for far more than it takes.
fn deaf(node: &NodeHandle, ns: NamespaceId) -> Hand {
    let mut hello = hello(node.shards()[0], &[]);
    hello.credit_bytes = 1 << 30;
    let (mut deaf, _) = Hand::with(&node.addresses()[0], hello);
    let to = Place { room: u64::MAX, ..Place::default() };
    for _ in 0..8 {
        let item = GetItem { key: steady_key(), offset: 0, length: 0, to };
        let (_, get) = deaf.get_message(ns, vec![item; 4000], 1_000_000);
        deaf.send(&get);
    }
    deaf
}

#[test]
fn every_kind_of_misbehaviour_is_counted_and_hurts_nobody_else() {
    let folder = Folder::new();
    let mut config = folder.config();
    config.listen = Some("127.0.0.1:0".into());
    config.token = Some(b"secret".to_vec());
    let node = Node::start(config).expect("a node");
    let (address, shard) = (node.addresses()[0].clone(), node.shards()[0]);
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    steady::fill(&address, shard, ns);
    steady::beside(&address, shard, ns, 1000, || {
        // What is found by its age begins first.
        let mut half = Hand::shard(&node);
        half.send_bytes(&forged(Kind::Put, 100_000, &[])[..20], &[]);
        let mut stranger = Hand::raw(&address);
        let deaf = deaf(&node, ns);

        let counts = |kind: &str, misbehave: &dyn Fn(&NodeHandle)| {
            let before = faults(&node, kind);
            misbehave(&node);
            moves(&node, kind, before);
        };
        counts("garbage", &bytes_that_are_no_message);
        counts("over_limit", &lengths_and_counts_over_their_ceilings);
        counts("damaged", &|node| bytes_that_changed_on_the_way(node, ns));
        counts("disorder", &|node| messages_where_they_do_not_belong(node, ns));
        counts("region", &|node| regions_that_are_none(node, ns));
        counts("version", &|node| {
            let mut old = hello(ShardId::default(), &[]);
            old.version = 0;
            let mut hand = Hand::raw(&node.addresses()[0]);
            hand.send(&Message::Hello(old));
            assert_eq!(hand.last_error().0, ErrorCode::Version);
        });
        counts("credential", &|node| {
            let mut hand = Hand::raw(&node.addresses()[1]);
            hand.send(&Message::Hello(hello(ShardId::default(), b"guess")));
            assert_eq!(hand.last_error().0, ErrorCode::Credential);
        });
        counts("vanished", &|node| {
            let (mut hand, bytes) = (Hand::shard(node), block(8, 70_000));
            let item = PutItem { descriptor: descriptor(ns, key(8), &bytes), from: Place::default() };
            let (_, put) = hand.put_message(ns, vec![item]);
            assert!(matches!(hand.ask(&put), Message::PutGo { .. }));
        });

        moves(&node, "slow_reader", 0.0);
        drop(deaf);
        moves(&node, "half_message", 0.0);
        while !matches!(stranger.next(), In::Closed) {}
        while !matches!(half.next(), In::Closed) {}
        assert!(faults(&node, "half_message") >= 2.0, "the stranger and the half message");
    });
    crate::hand::assert_identity(&node.metrics_text());
    assert!(samples(&node.metrics_text())["forebay_connections_cut_total"] >= 3.0);
}
