//! One of two drives fails while both are worked with: the other serves on as if nothing had been, and nothing hangs.
//!
//! The failing drive is a memfd. Sealed against writing, the kernel refuses the node's writes and still serves its reads; cut short, it serves no
//! reads either. Both need no privileges and no driver that pretends.

#[expect(dead_code, reason = "this test uses a part of it")]
mod hand;

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_node::{DataConfig, Node, NodeConfig, NodeHandle};
use forebay_types::{Class, MissReason, NamespaceId, PutOutcome, RefusedReason};
use forebay_wire::{ErrorCode, GetOutcome, Message};
use hand::{Folder, Hand, MIB, assert_identity, block, key, samples};

const BLOCKS: u64 = 200;
/// All of them are more than a shard has memory, so that most gets must read the drive.
const BLOCK: usize = 200_000;
const SMALL: usize = 20_000;
const REFUSED: PutOutcome = PutOutcome::Refused(RefusedReason::Unavailable);

fn config(folder: &Folder, sick: Option<&OwnedFd>) -> NodeConfig {
    let mut config = folder.config();
    let sick = sick.map(|fd| format!("/proc/self/fd/{}", fd.as_raw_fd()).into());
    let paths = std::iter::once(folder.0.join("steady")).chain(sick);
    config.data = paths.map(|path| DataConfig { path, capacity: Some(160 * MIB) }).collect();
    config.memory_bytes = 32 * MIB * config.data.len() as u64;
    config
}

fn hand_of(node: &NodeHandle, shard: usize) -> Hand {
    Hand::with(&node.addresses()[0], hand::hello(node.shards()[shard], &[])).0
}

/// Waits until a shard's drive is told to be out for writing.
#[expect(clippy::disallowed_methods, reason = "figures are published a few times a second, and nothing tells when")]
fn until_told(node: &NodeHandle) {
    let told = |shard: usize| {
        samples(&node.metrics_text())[&format!("forebay_drive_write_failed{{shard=\"{}\"}}", node.shards()[shard])]
    };
    for _ in 0..1500 {
        assert_eq!(told(0), 0.0, "the other drive is well");
        if told(1) == 1.0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("not within 30 s: the metrics tell that the drive failed");
}

/// Puts and gets on the drive that is well until told to stop: not one miss, not one refusal. How many of each.
fn work(mut hand: Hand, ns: NamespaceId, stop: &AtomicBool) -> u64 {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let number = rounds % BLOCKS;
        let (outcome, bytes) = &hand.get_stream(ns, &[key(number)])[0];
        assert!(*bytes == block(number, BLOCK), "round {rounds}: {outcome:?}");
        // No more than the drive has room for, however long the other one takes.
        let new = 1000 + rounds;
        let outcome = hand.put_stream(ns, key(new), &block(new, SMALL));
        assert!(rounds > 2000 || outcome == PutOutcome::Durable, "round {rounds}: {outcome:?}");
        rounds += 1;
    }
    rounds
}

/// Takes the writes away, then the reads, and asks all the while.
fn fail(node: &NodeHandle, fd: &OwnedFd, ns: NamespaceId) {
    let mut sick = hand_of(node, 1);
    rustix::fs::fcntl_add_seals(fd, rustix::fs::SealFlags::WRITE).expect("the drive is no longer writable");
    assert_eq!(sick.put_stream(ns, key(900), &block(900, SMALL)), REFUSED);
    assert_eq!(sick.put_stream(ns, key(901), &block(901, SMALL)), REFUSED, "for good");
    until_told(node);
    let keys: Vec<_> = (0..BLOCKS).map(key).collect();
    for (got, number) in sick.get_stream(ns, &keys).iter().zip(0..) {
        assert!(got.1 == block(number, BLOCK), "what is there is still read: {number} {:?}", got.0);
    }
    let mut control = Hand::control(node);
    let request = control.number();
    let (class, fingerprint) = (Class::Cache, Default::default());
    let create =
        Message::NamespaceCreate { request, name: "b".into(), class, quota_bytes: None, ttl_s: None, fingerprint };
    let answer = control.ask(&create);
    assert!(matches!(answer, Message::Error { code: ErrorCode::Unavailable, .. }), "{answer:?}");

    // The superblocks stay, the segments are gone.
    rustix::fs::ftruncate(fd, MIB).expect("the drive is cut short");
    let mut missed = 0;
    for (got, number) in sick.get_stream(ns, &keys).iter().zip(0..) {
        match got.0 {
            GetOutcome::Miss(reason) => {
                assert_eq!(reason, MissReason::Unavailable);
                missed += 1;
            }
            // From DRAM.
            _ => assert!(got.1 == block(number, BLOCK), "{number}"),
        }
    }
    assert!(missed > BLOCKS / 4, "{missed}");
    assert_eq!(sick.put_stream(ns, key(902), &block(902, SMALL)), REFUSED);
    let text = node.metrics_text();
    assert_eq!(samples(&text)["forebay_get_misses_total{reason=\"unavailable\"}"], missed as f64);
}

#[test]
fn the_other_drive_serves_on_while_one_fails_under_load() {
    let folder = Folder::new();
    let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("drive", flags).unwrap();
    rustix::fs::ftruncate(&fd, 160 * MIB).unwrap();
    let node = Node::start(config(&folder, Some(&fd))).unwrap();
    let ns = Hand::control(&node).namespace("a", Class::Durable).id;
    for shard in 0..2 {
        let mut hand = hand_of(&node, shard);
        for number in 0..BLOCKS {
            assert_eq!(hand.put_stream(ns, key(number), &block(number, BLOCK)), PutOutcome::Durable);
        }
    }
    let stop = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let steady = hand_of(&node, 0);
        let worker = scope.spawn(|| work(steady, ns, &stop));
        let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| fail(&node, &fd, ns)));
        stop.store(true, Ordering::Relaxed);
        failed.unwrap();
        worker.join().unwrap()
    });
    assert!(rounds > 10, "{rounds}");
    assert_identity(&node.metrics_text());
    node.shutdown(Duration::from_secs(5));

    // A start with what is left of it is refused by name, and harms the other drive in nothing.
    let text = Node::start(config(&folder, Some(&fd))).expect_err("the drive is cut short").to_string();
    assert!(text.contains("/proc/self/fd/"), "{text}");
    let node = Node::start(config(&folder, None)).unwrap();
    let mut hand = hand_of(&node, 0);
    let keys: Vec<_> = (0..BLOCKS).map(key).collect();
    for (got, number) in hand.get_stream(ns, &keys).iter().zip(0..) {
        assert!(got.1 == block(number, BLOCK), "{number} {:?}", got.0);
    }
    let last = 1000 + rounds.min(2000) - 1;
    assert!(hand.get_stream(ns, &[key(last)])[0].1 == block(last, SMALL), "and what was put while the other failed");
    assert_eq!(hand.put_stream(ns, key(903), &block(903, SMALL)), PutOutcome::Durable);
}
