//! Connections that end badly: a wrong word, a region cut short, a client that goes in the middle.

#[expect(dead_code, reason = "this test uses a part of it")]
mod hand;

use std::time::Duration;

use forebay_io::Region;
use forebay_types::{Class, LandingKind, MissReason, PutOutcome, RefusedReason, RegionId};
use forebay_wire::{ErrorCode, GetItem, GetOutcome, Message, Place, PutItem, RegionKind};
use hand::{Folder, Hand, MIB, assert_identity, block, descriptor, key};

fn place(region: u32, offset: usize, room: usize) -> Place {
    Place { region: RegionId(region), offset: offset as u64, room: room as u64 }
}

fn one_outcome(message: Message) -> GetOutcome {
    match message {
        Message::GetOutcomes { mut outcomes, .. } => outcomes.remove(0).1,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_peer_that_speaks_wrongly_is_told_and_let_go() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    let mut hand = Hand::shard(&node);
    hand.send_bytes(&[0x55; 64], &[]);
    assert_eq!(hand.last_error().0, ErrorCode::Protocol);

    let mut hand = Hand::shard(&node);
    hand.send(&Message::Members { request: 1 });
    assert_eq!(hand.last_error().0, ErrorCode::Protocol);

    // DATA behind the end of its block.
    let mut hand = Hand::shard(&node);
    let item = PutItem { descriptor: descriptor(ns, key(1), &block(1, 1000)), from: Place::default() };
    let (request, put) = hand.put_message(ns, vec![item]);
    assert!(matches!(hand.ask(&put), Message::PutGo { .. }));
    hand.send_data(request, 0, 0, &[1; 1001]);
    assert_eq!(hand.last_error().0, ErrorCode::Protocol);

    // A region without a descriptor, and one that is no memory, cost only themselves.
    let mut hand = Hand::shard(&node);
    let add = Message::RegionAdd { request: 5, region: RegionId(1), length: 4096, kind: RegionKind::Owned };
    assert!(matches!(hand.ask(&add), Message::Error { request: 5, code: ErrorCode::Region, .. }));
    let file = std::fs::File::open("/proc/self/status").unwrap();
    hand.send_with(&add, &[std::os::fd::AsFd::as_fd(&file)]);
    assert!(matches!(hand.message(), Message::Error { request: 5, code: ErrorCode::Region, .. }));
    assert!(matches!(hand.get_stream(ns, &[key(1)])[0].0, GetOutcome::Miss(MissReason::Absent)));
    assert_identity(&node.metrics_text());
}

#[test]
fn a_region_cut_by_its_owner_hurts_only_its_owner() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    let mut hand = Hand::shard(&node);
    let bytes = block(1, 100_000);
    assert_eq!(hand.put_stream(ns, key(1), &bytes), PutOutcome::Cached);
    // Unsealed, as an engine's file in /dev/shm is.
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let fd = rustix::fs::memfd_create("engine", flags).unwrap();
    rustix::fs::ftruncate(&fd, MIB).unwrap();
    let region = Region::borrowed(fd.try_clone().unwrap(), MIB as usize);
    hand.lend(1, &region);
    let to = place(1, 0, MIB as usize);
    let (_, get) = hand.get_message(ns, vec![GetItem { key: key(1), offset: 0, length: 0, to }], 30_000_000);
    assert!(matches!(one_outcome(hand.ask(&get)), GetOutcome::Hit { landing: LandingKind::Bounce, .. }));
    let mut back = vec![0; bytes.len()];
    rustix::io::pread(&fd, &mut back, 0).unwrap();
    assert!(back == bytes);
    rustix::fs::ftruncate(&fd, 0).unwrap();
    let item = PutItem { descriptor: descriptor(ns, key(2), &bytes), from: place(1, 0, bytes.len()) };
    let (request, put) = hand.put_message(ns, vec![item]);
    hand.send(&put);
    assert_eq!(hand.put_outcome(request), PutOutcome::Refused(RefusedReason::Unavailable));
    let mut other = Hand::shard(&node);
    assert!(other.get_stream(ns, &[key(1)])[0].1 == bytes);
}

#[test]
#[expect(clippy::disallowed_methods, reason = "nothing tells when the node has seen a connection go")]
fn a_client_that_goes_away_leaves_the_sums_right() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    let bytes = block(1, 500_000);
    let mut hand = Hand::shard(&node);
    assert_eq!(hand.put_stream(ns, key(1), &bytes), PutOutcome::Cached);
    let item = PutItem { descriptor: descriptor(ns, key(2), &bytes), from: Place::default() };
    let (request, put) = hand.put_message(ns, vec![item]);
    assert!(matches!(hand.ask(&put), Message::PutGo { .. }));
    hand.send_data(request, 0, 0, &bytes[..100_000]);
    drop(hand);
    // Its reservation is gone with it: another may put the key.
    let mut hand = Hand::shard(&node);
    let mut outcome = hand.put_stream(ns, key(2), &bytes);
    for _ in 0..100 {
        if outcome != PutOutcome::Exists {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
        outcome = hand.put_stream(ns, key(2), &bytes);
    }
    assert_eq!(outcome, PutOutcome::Cached);
    assert_identity(&node.metrics_text());
}

#[test]
fn a_connection_that_the_node_lets_go_is_seen_to_end() {
    // What happened: the ring's poll of a socket could not be taken back while news of it was on its way, and held the socket open for ever.
    let folder = Folder::new();
    let node = folder.start();
    let region = Region::owned(2 << 20).unwrap();
    for _ in 0..300 {
        let mut hand = Hand::shard(&node);
        for _ in 0..9 {
            hand.send_with(&Message::Credit { bytes: 1 }, &[region.fd(); 2]);
        }
        assert_eq!(hand.last_error().0, ErrorCode::Protocol);
    }
}
