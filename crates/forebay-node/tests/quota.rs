//! A quota bounds what the node holds, however many shards and drives it has.

#[expect(dead_code, reason = "this test uses a part of it")]
mod hand;

use forebay_node::{DataConfig, Node, NodeConfig, NodeHandle};
use forebay_types::{Class, Fingerprint, Namespace, NamespaceId, PutOutcome, RefusedReason};
use forebay_wire::Message;
use hand::{Folder, Hand, MIB};

const QUOTA: u64 = 9 * MIB + 5;
const BLOCK: usize = 50_000;
const OVER: PutOutcome = PutOutcome::Refused(RefusedReason::Quota);

fn config(folder: &Folder, drives: &[(&str, u64)], shards: u32) -> NodeConfig {
    let mut config = folder.config();
    let data = |(name, mib): &(&str, u64)| DataConfig { path: folder.0.join(name), capacity: Some(mib * MIB) };
    config.data = drives.iter().map(data).collect();
    config.shards_per_drive = shards;
    config.memory_bytes = 32 * MIB * u64::from(shards) * drives.len() as u64;
    config
}

fn hands(node: &NodeHandle) -> Vec<Hand> {
    node.shards().into_iter().map(|shard| Hand::with(&node.addresses()[0], hand::hello(shard, &[])).0).collect()
}

/// What a block takes on the drive: its bytes with padding, and the descriptor behind them.
fn on_drive(node: &NodeHandle) -> u64 {
    let (_, welcome) = Hand::with(&node.addresses()[0], hand::hello(node.shards()[0], &[]));
    let align = u64::from(welcome.align);
    (BLOCK as u64).next_multiple_of(align) + align
}

fn make(node: &NodeHandle, name: &str, class: Class) -> Namespace {
    let mut control = Hand::control(node);
    let request = control.number();
    let (quota_bytes, fingerprint) = (Some(QUOTA), Fingerprint::default());
    let create = Message::NamespaceCreate { request, name: name.into(), class, quota_bytes, ttl_s: None, fingerprint };
    match control.ask(&create) {
        Message::NamespaceIs { namespace, .. } => namespace,
        other => panic!("{other:?}"),
    }
}

/// Puts to one shard until it refuses: how many it took. Numbers begin at `first`.
fn fill(hand: &mut Hand, ns: NamespaceId, first: u64) -> u64 {
    for number in 0..2 * QUOTA / BLOCK as u64 {
        let block = hand::block(first + number, BLOCK);
        match hand.put_stream(ns, hand::key(first + number), &block) {
            PutOutcome::Durable => {}
            outcome => {
                assert_eq!(outcome, OVER);
                return number;
            }
        }
    }
    panic!("twice the quota was taken by one shard");
}

#[test]
fn all_shards_together_hold_a_quota_and_no_block_more() {
    let folder = Folder::new();
    // Two drives of unlike size, two shards on each.
    let drives = [("small", 160), ("large", 320)];
    let node = Node::start(config(&folder, &drives, 2)).unwrap();
    let ns = make(&node, "strict", Class::Durable);
    let mut hands = hands(&node);
    let took: Vec<u64> = hands.iter_mut().zip(0..).map(|(hand, at)| fill(hand, ns.id, at * 1000)).collect();
    let on_drive = on_drive(&node);
    let held = took.iter().sum::<u64>() * on_drive;
    assert!(held <= QUOTA, "{took:?}");
    assert!(held + 4 * on_drive > QUOTA, "all but a block a shard can be used: {took:?}");
    assert!(took[2] > took[0] * 3 / 2, "the larger drive has the larger part: {took:?}");
    // Who asks sees what was asked for.
    assert_eq!(ns.quota_bytes, Some(QUOTA));
    let mut control = Hand::control(&node);
    let request = control.number();
    match control.ask(&Message::NamespaceList { request }) {
        Message::NamespacesAre { namespaces, .. } => assert_eq!(namespaces[0].quota_bytes, Some(QUOTA)),
        other => panic!("{other:?}"),
    }
    // Making it again is no change, and room that is made is room.
    assert_eq!(make(&node, "strict", Class::Durable).id, ns.id);
    let request = hands[0].number();
    hands[0].ask(&Message::Forget { request, namespace: ns.id, deadline_us: 30_000_000, keys: vec![hand::key(0)] });
    assert_eq!(fill(&mut hands[0], ns.id, 500), 1);
}

#[test]
fn a_cache_keeps_to_its_quota_over_all_shards() {
    let folder = Folder::new();
    let node = Node::start(config(&folder, &[("d", 256)], 2)).unwrap();
    let ns = make(&node, "loose", Class::Cache).id;
    let mut held = 0;
    for hand in &mut hands(&node) {
        let numbers = 0..2 * QUOTA / BLOCK as u64;
        for number in numbers.clone() {
            assert_eq!(hand.put_stream(ns, hand::key(number), &hand::block(number, BLOCK)), PutOutcome::Cached);
        }
        let keys: Vec<_> = numbers.map(hand::key).collect();
        let got = hand.get_stream(ns, &keys);
        held += got.iter().filter(|(_, bytes)| !bytes.is_empty()).count() as u64 * on_drive(&node);
    }
    assert!(held <= QUOTA && held > QUOTA / 2, "{held}");
}

#[test]
fn a_drive_more_adds_no_quota() {
    let folder = Folder::new();
    let node = Node::start(config(&folder, &[("d1", 128)], 1)).unwrap();
    let ns = make(&node, "strict", Class::Durable).id;
    let first = fill(&mut hands(&node)[0], ns, 0);
    let on_drive = on_drive(&node);
    assert_eq!(first, QUOTA / on_drive);
    drop(node);

    // The first drive holds all of it: what it was promised stays, and neither takes more.
    let both = [("d1", 128), ("d2", 128)];
    let node = Node::start(config(&folder, &both, 1)).unwrap();
    let mut shards = hands(&node);
    assert_eq!((fill(&mut shards[0], ns, 1000), fill(&mut shards[1], ns, 2000)), (0, 0));
    let keys: Vec<_> = (0..first).map(hand::key).collect();
    assert!(shards[0].get_stream(ns, &keys).iter().all(|(_, bytes)| bytes.len() == BLOCK));
    // Half is forgotten, and two blocks: from the next start on the second drive has room, and the first for what is left of its half.
    let request = shards[0].number();
    shards[0].ask(&Message::Forget {
        request,
        namespace: ns,
        deadline_us: 30_000_000,
        keys: keys[..first as usize / 2 + 2].to_vec(),
    });
    drop((shards, node));

    let node = Node::start(config(&folder, &both, 1)).unwrap();
    let mut shards = hands(&node);
    let left = first - (first / 2 + 2);
    let more = (fill(&mut shards[0], ns, 1000), fill(&mut shards[1], ns, 2000));
    let part = QUOTA / 2 / on_drive;
    assert_eq!(more, (part - left, part));
    drop((shards, node));

    // Alone again, the first has the whole.
    let node = Node::start(config(&folder, &both[..1], 1)).unwrap();
    assert_eq!(fill(&mut hands(&node)[0], ns, 3000), QUOTA / on_drive - part);
}
