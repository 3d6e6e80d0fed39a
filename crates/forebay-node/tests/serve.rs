//! What a shard answers, seen from a connection.

#[expect(dead_code, reason = "this test uses a part of it")]
mod hand;

use std::time::Duration;

use forebay_io::Region;
use forebay_types::{Class, Descriptor, LandingKind, MissReason, PutOutcome, RefusedReason, RegionId, Tier};
use forebay_wire::{GetItem, GetOutcome, Message, Place, Presence, PutItem};
use hand::{Folder, Hand, In, assert_identity, block, descriptor, hello, key, samples, sum, verify};

fn place(region: u32, offset: usize, room: usize) -> Place {
    Place { region: RegionId(region), offset: offset as u64, room: room as u64 }
}

fn one_outcome(message: Message) -> GetOutcome {
    match message {
        Message::GetOutcomes { mut outcomes, .. } => {
            assert_eq!(outcomes.len(), 1);
            outcomes.remove(0).1
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_block_put_from_a_region_comes_back_to_a_region() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    let mut hand = Hand::shard(&node);
    let region = Region::owned(8 << 20).unwrap();
    hand.lend(1, &region);
    for (number, len) in [(1, 1), (2, 4096), (3, 65_536), (4, 65_537), (5, 1_000_000)] {
        let bytes = block(number, len);
        let mut slice = region.alloc(len).unwrap();
        slice.copy_from_slice(&bytes);
        let item = PutItem { descriptor: descriptor(ns, key(number), &bytes), from: place(1, slice.offset(), len) };
        let (request, put) = hand.put_message(ns, vec![item.clone()]);
        hand.send(&put);
        assert_eq!(hand.put_outcome(request), PutOutcome::Cached);
        let (request, put) = hand.put_message(ns, vec![item]);
        hand.send(&put);
        assert_eq!(hand.put_outcome(request), PutOutcome::Exists);

        let room = len + Descriptor::landing_room(len as u64);
        let target = region.alloc(room).unwrap();
        let to = place(1, target.offset(), room);
        let (_, get) = hand.get_message(ns, vec![GetItem { key: key(number), offset: 0, length: 0, to }], 30_000_000);
        match one_outcome(hand.ask(&get)) {
            GetOutcome::Hit {
                tier: Tier::Dram, landing: LandingKind::Bounce, offset: 0, length, descriptor, ..
            } => {
                assert_eq!(length, len as u64);
                verify(&descriptor, ns, key(number), &target[..len]);
                assert!(target[..len] == bytes[..]);
            }
            other => panic!("{other:?}"),
        }
        if len > 1 {
            let to = place(1, target.offset(), len - 1);
            let (_, get) =
                hand.get_message(ns, vec![GetItem { key: key(number), offset: 0, length: 0, to }], 30_000_000);
            assert_eq!(one_outcome(hand.ask(&get)), GetOutcome::TooSmall { need: len as u64 });
        }
    }
    assert_identity(&node.metrics_text());
    let request = hand.number();
    assert_eq!(hand.ask(&Message::RegionDrop { request, region: RegionId(1) }), Message::Done { request });
    node.shutdown(Duration::from_secs(5));
}

#[test]
fn what_exists_is_told_before_its_bytes_move() {
    let folder = Folder::new();
    let node = folder.start();
    let mut hand = Hand::shard(&node);
    let region = Region::owned(2 << 20).unwrap();
    hand.lend(1, &region);
    for (name, class) in [("a", Class::Cache), ("b", Class::Durable)] {
        let ns = Hand::control(&node).namespace(name, class).id;
        let bytes = block(1, 300_000);
        assert!(hand.put_stream(ns, key(1), &bytes).is_kept());
        let descriptor = descriptor(ns, key(1), &bytes);
        // In frames: the node asks for none of them.
        let item = PutItem { descriptor: descriptor.clone(), from: Place::default() };
        let (request, put) = hand.put_message(ns, vec![item]);
        let exists = Message::PutOutcomes { request, outcomes: vec![(0, PutOutcome::Exists)] };
        assert_eq!(hand.ask(&put), exists);
        // Out of a region where there are other bytes: nobody has looked.
        let slice = region.alloc(bytes.len()).unwrap();
        let item = PutItem { descriptor, from: place(1, slice.offset(), bytes.len()) };
        let (request, put) = hand.put_message(ns, vec![item]);
        hand.send(&put);
        assert_eq!(hand.put_outcome(request), PutOutcome::Exists);
    }
    let all = samples(&node.metrics_text());
    assert_eq!((all["forebay_put_sum_mismatch_total"], all["forebay_put_exists_total"]), (0.0, 4.0));
    assert_identity(&node.metrics_text());
}

#[test]
fn blocks_come_back_in_frames_and_after_a_restart() {
    let folder = Folder::new();
    let lens = [1usize, 5_000, 65_536, 300_000, 1_048_576];
    let mut ns = Default::default();
    for round in 0..2 {
        let node = folder.start();
        if round == 0 {
            ns = Hand::control(&node).namespace("durable", Class::Durable).id;
        }
        let mut hand = Hand::shard(&node);
        let keys: Vec<_> = (0..lens.len() as u64).map(key).collect();
        if round == 0 {
            for (number, len) in lens.iter().enumerate() {
                let outcome = hand.put_stream(ns, key(number as u64), &block(number as u64, *len));
                assert_eq!(outcome, PutOutcome::Durable);
            }
        }
        for (number, (outcome, bytes)) in hand.get_stream(ns, &keys).into_iter().enumerate() {
            match outcome {
                GetOutcome::Hit { tier, landing: LandingKind::Stream, descriptor, .. } => {
                    assert_eq!(tier, if round == 0 { Tier::Dram } else { Tier::Nvme });
                    verify(&descriptor, ns, key(number as u64), &bytes);
                    assert!(bytes == block(number as u64, lens[number]));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_identity(&node.metrics_text());
        node.shutdown(Duration::from_secs(5));
    }
}

#[test]
fn a_block_on_the_drive_lands_in_an_owned_region() {
    let folder = Folder::new();
    let len = 300_000;
    let node = folder.start();
    let ns = Hand::control(&node).namespace("durable", Class::Durable).id;
    assert_eq!(Hand::shard(&node).put_stream(ns, key(1), &block(1, len)), PutOutcome::Durable);
    drop(node);
    let node = folder.start();
    let mut hand = Hand::shard(&node);
    let region = Region::owned(2 << 20).unwrap();
    hand.lend(3, &region);
    let room = len + Descriptor::landing_room(len as u64);
    let target = region.alloc(room).unwrap();
    let to = place(3, target.offset(), target.capacity());
    let (_, get) = hand.get_message(ns, vec![GetItem { key: key(1), offset: 0, length: 0, to }], 30_000_000);
    match one_outcome(hand.ask(&get)) {
        GetOutcome::Hit { tier: Tier::Nvme, length, .. } => assert_eq!(length, len as u64),
        other => panic!("{other:?}"),
    }
    assert!(target[..len] == block(1, len)[..]);
    node.shutdown(Duration::from_secs(5));
}

#[test]
fn a_range_brings_whole_pieces() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    let mut hand = Hand::shard(&node);
    let bytes = block(9, 200_000);
    assert_eq!(hand.put_stream(ns, key(9), &bytes), PutOutcome::Cached);
    let to = Place { room: u64::MAX, ..Place::default() };
    let (_, get) = hand.get_message(ns, vec![GetItem { key: key(9), offset: 65_536, length: 10, to }], 30_000_000);
    match one_outcome(hand.ask(&get)) {
        GetOutcome::Hit { offset: 65_536, length: 65_536, .. } => {}
        other => panic!("{other:?}"),
    }
    match hand.next() {
        In::Data(header, payload) => {
            assert_eq!(header.offset, 65_536);
            assert!(payload == bytes[65_536..131_072]);
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn bytes_that_do_not_match_their_sums_are_not_kept() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    let mut hand = Hand::shard(&node);
    let mut bytes = block(1, 200_000);
    let encoded = descriptor(ns, key(1), &bytes);
    bytes[150_000] ^= 4;
    let region = Region::owned(2 << 20).unwrap();
    hand.lend(1, &region);
    let mut slice = region.alloc(bytes.len()).unwrap();
    slice.copy_from_slice(&bytes);
    let from = place(1, slice.offset(), bytes.len());
    let (request, put) = hand.put_message(ns, vec![PutItem { descriptor: encoded.clone(), from }]);
    hand.send(&put);
    assert_eq!(hand.put_outcome(request), PutOutcome::Refused(RefusedReason::Unavailable));
    let (request, put) = hand.put_message(ns, vec![PutItem { descriptor: encoded, from: Place::default() }]);
    assert!(matches!(hand.ask(&put), Message::PutGo { .. }));
    hand.send_block(request, 0, &bytes);
    assert_eq!(hand.put_outcome(request), PutOutcome::Refused(RefusedReason::Unavailable));
    let got = hand.get_stream(ns, &[key(1)]);
    assert!(matches!(got[0].0, GetOutcome::Miss(MissReason::Absent)));
    assert_eq!(samples(&node.metrics_text())["forebay_put_sum_mismatch_total"], 2.0);
    // And once the bytes are right, they are taken.
    assert_eq!(hand.put_stream(ns, key(1), &block(1, 200_000)), PutOutcome::Cached);
    assert_identity(&node.metrics_text());
}

#[test]
fn a_match_stops_at_the_gap_and_what_is_forgotten_is_gone() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    let mut hand = Hand::shard(&node);
    for number in [0, 1, 3] {
        assert_eq!(hand.put_stream(ns, key(number), &block(number, 10_000)), PutOutcome::Cached);
    }
    let keys: Vec<_> = (0..5).map(key).collect();
    let mut asked = |stop_at_gap, hold_ms| {
        let request = hand.number();
        let ask =
            Message::Match { request, namespace: ns, deadline_us: 1_000_000, hold_ms, stop_at_gap, keys: keys.clone() };
        match hand.ask(&ask) {
            Message::MatchOutcomes { request: of, presence } if of == request => presence,
            other => panic!("{other:?}"),
        }
    };
    let here = |leased| Presence::Here { tier: Tier::Dram, leased };
    let absent = Presence::Not(MissReason::Absent);
    let not_asked = Presence::NotAsked;
    assert_eq!(asked(true, 2000), [here(true), here(true), absent, not_asked, not_asked]);
    assert_eq!(asked(false, 0), [here(false), here(false), absent, here(false), absent]);
    let request = hand.number();
    let forget = Message::Forget { request, namespace: ns, deadline_us: 30_000_000, keys: vec![key(1), key(2)] };
    let forgotten = Message::ForgetOutcomes { request, failed: false, forgotten: vec![true, false] };
    assert_eq!(hand.ask(&forget), forgotten);
    assert!(matches!(hand.get_stream(ns, &[key(1)])[0].0, GetOutcome::Miss(MissReason::Absent)));
    assert_identity(&node.metrics_text());
    let all = samples(&node.metrics_text());
    assert_eq!(sum(&all, "forebay_match_not_asked_total"), 2.0);
    assert_eq!(sum(&all, "forebay_contains_hits_total"), 3.0);
}

#[test]
fn a_thousand_small_blocks_are_one_request() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    let mut hand = Hand::shard(&node);
    let region = Region::owned(16 << 20).unwrap();
    hand.lend(1, &region);
    let (count, len) = (2000usize, 1500usize);
    let mut slice = region.alloc(count * 4096).unwrap();
    let mut puts = Vec::new();
    for number in 0..count {
        let bytes = block(number as u64, len);
        let at = number * 4096;
        slice[at..at + len].copy_from_slice(&bytes);
        puts.push(PutItem {
            descriptor: descriptor(ns, key(number as u64), &bytes),
            from: place(1, slice.offset() + at, len),
        });
    }
    let (_, put) = hand.put_message(ns, puts);
    hand.send(&put);
    let mut left = count;
    while left > 0 {
        match hand.message() {
            Message::PutOutcomes { outcomes, .. } => {
                assert!(outcomes.iter().all(|(_, outcome)| *outcome == PutOutcome::Cached));
                left -= outcomes.len();
            }
            other => panic!("{other:?}"),
        }
    }
    slice.fill(0);
    let item = |number: usize| {
        let to = place(1, slice.offset() + number * 4096, 4096);
        GetItem { key: key(number as u64), offset: 0, length: 0, to }
    };
    let (_, get) = hand.get_message(ns, (0..count).map(item).collect(), 30_000_000);
    hand.send(&get);
    let mut left = count;
    while left > 0 {
        match hand.message() {
            Message::GetOutcomes { outcomes, .. } => {
                for (number, outcome) in outcomes {
                    let GetOutcome::Hit { descriptor, length, .. } = outcome else { panic!("{outcome:?}") };
                    let at = number as usize * 4096;
                    verify(&descriptor, ns, key(u64::from(number)), &slice[at..at + length as usize]);
                    left -= 1;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert_identity(&node.metrics_text());
}

#[test]
fn a_namespace_that_is_not_there_is_a_miss_of_its_own_kind() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    let other = forebay_types::NamespaceId(ns.0 + 77);
    let mut hand = Hand::shard(&node);
    assert!(matches!(hand.get_stream(other, &[key(1)])[0].0, GetOutcome::Miss(MissReason::Namespace)));
    assert_eq!(hand.put_stream(other, key(1), b"x"), PutOutcome::Refused(RefusedReason::Namespace));
    // A descriptor that names another namespace than its request does not slip through, also where that one is there.
    let second = Hand::control(&node).namespace("b", Class::Cache).id;
    let item = PutItem { descriptor: descriptor(second, key(1), b"x"), from: Place::default() };
    let (request, put) = hand.put_message(ns, vec![item]);
    hand.send(&put);
    assert_eq!(hand.put_outcome(request), PutOutcome::Refused(RefusedReason::Namespace));
    let request = hand.number();
    let ask = Message::Match {
        request,
        namespace: other,
        deadline_us: 1_000_000,
        hold_ms: 0,
        stop_at_gap: true,
        keys: vec![key(1)],
    };
    assert_eq!(
        hand.ask(&ask),
        Message::MatchOutcomes { request, presence: vec![Presence::Not(MissReason::Namespace)] }
    );
    assert_identity(&node.metrics_text());
}

#[test]
fn a_deadline_answers_what_is_unanswered() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    let mut hand = Hand::shard(&node);
    let bytes = block(1, 300_000);
    let item = PutItem { descriptor: descriptor(ns, key(1), &bytes), from: Place::default() };
    let (request, mut put) = hand.put_message(ns, vec![item]);
    if let Message::Put { deadline_us, .. } = &mut put {
        *deadline_us = 50_000;
    }
    assert!(matches!(hand.ask(&put), Message::PutGo { .. }));
    hand.send_data(request, 0, 0, &bytes[..100_000]);
    assert_eq!(hand.put_outcome(request), PutOutcome::Refused(RefusedReason::Deadline));
    // What still comes of it is dropped, and the connection goes on.
    hand.send_data(request, 0, 100_000, &bytes[100_000..200_000]);
    assert_eq!(hand.put_stream(ns, key(1), &bytes), PutOutcome::Cached);
    assert_identity(&node.metrics_text());
}

#[test]
fn nothing_is_sent_without_credit() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    let mut hello = hello(node.shards()[0], &[]);
    hello.credit_bytes = 100_000;
    let (mut hand, _) = Hand::with(&node.addresses()[0], hello);
    let bytes = block(1, 500_000);
    assert_eq!(hand.put_stream(ns, key(1), &bytes), PutOutcome::Cached);
    let to = Place { room: u64::MAX, ..Place::default() };
    let (_, get) = hand.get_message(ns, vec![GetItem { key: key(1), offset: 0, length: 0, to }], 30_000_000);
    assert!(matches!(one_outcome(hand.ask(&get)), GetOutcome::Hit { .. }));
    let mut got = Vec::new();
    while got.len() < bytes.len() {
        let room = 100_000.min(bytes.len() - got.len());
        let before = got.len();
        while got.len() < before + room {
            match hand.next() {
                In::Data(_, payload) => got.extend_from_slice(&payload),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(got.len(), before + room);
        assert!(hand.next_within(Duration::from_millis(30)).is_none(), "more came than was granted");
        hand.send(&Message::Credit { bytes: 100_000 });
    }
    assert!(got == bytes);
}

#[test]
fn a_cancelled_request_ends_with_done() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    let mut hand = Hand::shard(&node);
    let bytes = block(1, 300_000);
    let item = PutItem { descriptor: descriptor(ns, key(1), &bytes), from: Place::default() };
    let (request, put) = hand.put_message(ns, vec![item]);
    assert!(matches!(hand.ask(&put), Message::PutGo { .. }));
    assert_eq!(hand.ask(&Message::Cancel { request }), Message::Done { request });
    assert_eq!(hand.ask(&Message::Cancel { request: 999 }), Message::Done { request: 999 });
    assert!(matches!(hand.get_stream(ns, &[key(1)])[0].0, GetOutcome::Miss(MissReason::Absent)));
    assert_identity(&node.metrics_text());
}
