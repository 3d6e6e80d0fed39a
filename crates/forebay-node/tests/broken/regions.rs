//! Clients that are killed while blocks land in their memory, and clients that take away the memory they lent.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_io::Region;
use forebay_types::{Class, Entropy, NamespaceId, PutOutcome, RegionId, SeededEntropy};
use forebay_wire::{GetItem, GetOutcome, Message, Place, PutItem};

use crate::hand::{Folder, Hand, MIB, assert_identity, block, descriptor, hello, key, samples};
use crate::other::{NodeProcess, Other};
use crate::roles::{LANDED, text_of};
use crate::steady;

#[expect(clippy::disallowed_methods, reason = "when the kill comes is what this test varies")]
fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

#[test]
fn clients_killed_in_mid_landing_leave_nothing_behind_and_nobody_worse_off() {
    let folder = Folder::new();
    let node = NodeProcess::start(&folder, 64);
    let ns = node.control().namespace("a", Class::Durable).id;
    let shard = node.shard_id();
    {
        let mut hand = Hand::with(&node.address, hello(shard, &[])).0;
        for number in 0..LANDED {
            assert_eq!(hand.put_stream(ns, key(number), &block(number, 1 << 20)), PutOutcome::Durable);
        }
    }
    drop(node);
    // After a restart they are on the drive, which writes straight into the clients' memory.
    let node = NodeProcess::start(&folder, 64);
    steady::fill(&node.address, shard, ns);
    let before = (node.memory_kib(), node.descriptors());
    let (address, shard_text) = (node.address.to_string(), text_of(shard));
    let chance = SeededEntropy::new(3);
    steady::beside(&node.address, shard, ns, 1000, || {
        for round in 0..20 {
            let first = (round * 16 % LANDED).to_string();
            let mut lander = Other::start(&["land", &address, &shard_text, &ns.0.to_string(), &first]);
            // Its first blocks are there, and it has asked for the next.
            assert_eq!(lander.told(), "lands");
            pause(chance.word() % 60);
            lander.kill();
        }
    });
    let all = || samples(&node.metrics_text());
    assert!(all()["forebay_peer_faults_total{kind=\"vanished\"}"] >= 10.0, "{:?}", all());
    // Nothing was in DRAM, so what the first of them got before it was killed the drive wrote itself.
    assert!(all()["forebay_landing_total{kind=\"direct\"}"] >= 16.0, "{:?}", all());
    while all()["forebay_regions"] > 0.0 || all()["forebay_connections"] > 1.0 {
        pause(20);
    }
    let after = (node.memory_kib(), node.descriptors());
    println!("KiB and descriptors: {before:?} before, {after:?} after 20 kills");
    assert!(after.1 <= before.1 + 4, "descriptors stay behind");
    assert!(after.0 < before.0 + 32 * 1024, "memory stays behind: {before:?} became {after:?}");
    assert_identity(&node.metrics_text());
}

/// Memory that can shrink, as an engine's file in `/dev/shm` can.
fn unsealed(bytes: u64) -> (std::os::fd::OwnedFd, Region) {
    let fd = rustix::fs::memfd_create("engine", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, bytes).unwrap();
    let region = Region::borrowed(fd.try_clone().unwrap(), bytes as usize);
    (fd, region)
}

/// Gets that land in region 1.
fn land_eight(hand: &mut Hand, ns: NamespaceId, round: u64) -> Vec<bool> {
    let item = |i: u64| {
        let to = Place { region: RegionId(1), offset: i * 2 * MIB, room: 2 * MIB };
        GetItem { key: key((round + i) % 8), offset: 0, length: 0, to }
    };
    let (_, get) = hand.get_message(ns, (0..8).map(item).collect(), 30_000_000);
    hand.send(&get);
    let mut hits = Vec::new();
    while hits.len() < 8 {
        let Message::GetOutcomes { outcomes, .. } = hand.message() else { panic!() };
        hits.extend(outcomes.iter().map(|(_, outcome)| matches!(outcome, GetOutcome::Hit { .. })));
    }
    hits
}

/// Puts out of region 1, written just before.
fn put_eight(hand: &mut Hand, fd: &std::os::fd::OwnedFd, ns: NamespaceId, first: u64) -> Vec<PutOutcome> {
    let item = |i: u64| {
        let bytes = block(first + i, 500_000);
        let from = Place { region: RegionId(1), offset: i * 2 * MIB, room: bytes.len() as u64 };
        rustix::io::pwrite(fd, &bytes, from.offset).unwrap();
        PutItem { descriptor: descriptor(ns, key(first + i), &bytes), from }
    };
    let (_, put) = hand.put_message(ns, (0..8).map(item).collect());
    hand.send(&put);
    let mut all = Vec::new();
    while all.len() < 8 {
        let Message::PutOutcomes { outcomes, .. } = hand.message() else { panic!() };
        all.extend(outcomes.into_iter().map(|(_, outcome)| outcome));
    }
    all
}

#[test]
fn a_region_that_is_cut_short_again_and_again_under_load_hurts_only_its_owner() {
    let folder = Folder::new();
    let node = folder.start();
    let (address, shard) = (node.addresses()[0].clone(), node.shards()[0]);
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    steady::fill(&address, shard, ns);
    let mut hand = Hand::shard(&node);
    for number in 0..8 {
        assert_eq!(hand.put_stream(ns, key(number), &block(number, 1 << 20)), PutOutcome::Cached);
    }
    let (fd, region) = unsealed(16 * MIB);
    hand.lend(1, &region);
    let (mut kept, mut refused) = (0, 0);
    steady::beside(&address, shard, ns, 1000, || {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let chance = SeededEntropy::new(8);
                while !over.load(Ordering::Relaxed) {
                    rustix::fs::ftruncate(&fd, chance.word() % (16 * MIB)).unwrap();
                    pause(1);
                    rustix::fs::ftruncate(&fd, 16 * MIB).unwrap();
                    pause(1);
                }
            });
            for round in 0..200 {
                // What is written to a place behind the end makes the file longer again; what is read there is an error.
                assert!(land_eight(&mut hand, ns, round).iter().all(|hit| *hit), "writing into it is possible");
                for outcome in put_eight(&mut hand, &fd, ns, 100 + round * 8) {
                    kept += u32::from(outcome.is_kept());
                    refused += u32::from(!outcome.is_kept());
                }
            }
            over.store(true, Ordering::Relaxed);
        });
    });
    println!("its owner's puts: {kept} kept and {refused} refused");
    assert!(kept > 0 && refused > 0, "{kept} kept, {refused} refused: the cuts met no put");
    // What was kept is what its descriptor says, whatever the region held when the node read it.
    let mut other = Hand::shard(&node);
    for number in 100..1700 {
        let (outcome, bytes) = other.get_stream(ns, &[key(number)]).remove(0);
        match outcome {
            GetOutcome::Hit { .. } => assert!(bytes == block(number, 500_000), "key {number}"),
            GetOutcome::Miss(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(samples(&node.metrics_text())["forebay_peer_faults_total{kind=\"region\"}"] >= 1.0);
    assert_identity(&node.metrics_text());
}

#[test]
fn a_client_that_unmaps_and_closes_what_it_lent_hurts_nobody() {
    let folder = Folder::new();
    let node = folder.start();
    let (address, shard) = (node.addresses()[0].clone(), node.shards()[0]);
    let ns = Hand::control(&node).namespace("a", Class::Cache).id;
    steady::fill(&address, shard, ns);
    assert_eq!(Hand::shard(&node).put_stream(ns, key(1), &block(1, 1 << 20)), PutOutcome::Cached);
    steady::beside(&address, shard, ns, 500, || {
        for _ in 0..50 {
            let mut hand = Hand::shard(&node);
            let region = Region::owned(16 << 20).unwrap();
            hand.lend(1, &region);
            let item = |i: u64| {
                let to = Place { region: RegionId(1), offset: i * 2 * MIB, room: 2 * MIB };
                GetItem { key: key(1), offset: 0, length: 0, to }
            };
            let (_, get) = hand.get_message(ns, (0..8).map(item).collect(), 30_000_000);
            hand.send(&get);
            // Unmapped and closed here while blocks land: the node's own mapping of it stays.
            drop(region);
            let mut left = 8;
            while left > 0 {
                let Message::GetOutcomes { outcomes, .. } = hand.message() else { panic!() };
                left -= outcomes.len();
            }
        }
    });
    let all = || samples(&node.metrics_text());
    while all()["forebay_regions"] > 0.0 {
        pause(10);
    }
    assert_identity(&node.metrics_text());
}
