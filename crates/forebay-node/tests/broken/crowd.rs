//! Many clients at once: idle ones by the thousand, readers that take nothing, more than there are descriptors for.

use std::time::Duration;

use forebay_types::{Class, PutOutcome};
use forebay_wire::{GetItem, Message, Place};

use crate::hand::{Folder, Hand, block, hello, key, samples, sum};
use crate::other::{NodeProcess, Other, is_crowded};
use crate::roles::text_of;
use crate::steady;

/// Memory a node is given here, in MiB, and the most it may take: 64 MiB more.
const MEMORY_MIB: u64 = 64;
const MOST_KIB: u64 = (MEMORY_MIB + 64) * 1024;

#[expect(clippy::disallowed_methods, reason = "nothing tells when the node has seen connections go")]
fn pause() {
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn ten_thousand_idle_connections_are_held_in_little_memory_and_leave_the_others_as_they_were() {
    let folder = Folder::new();
    let node = NodeProcess::start(&folder, MEMORY_MIB);
    let (shard, ns) = (node.shard_id(), node.control().namespace("a", Class::Cache).id);
    steady::fill(&node.address, shard, ns);
    let connections = |what: &str| samples(&node.metrics_text())[what];
    if connections("forebay_connections_max") < 10_100.0 {
        println!("skipped: ten thousand connections; {}", node.notes.join(" "));
        return;
    }
    let (before_kib, descriptors) = (node.memory_kib(), node.descriptors());
    let got = steady::beside(&node.address, shard, ns, 1000, || {
        let role = ["idle", &node.address.to_string(), &text_of(shard), "2500"].map(str::to_owned);
        let role = role.each_ref().map(String::as_str);
        let mut crowd: Vec<Other> = (0..4).map(|_| Other::start(&role)).collect();
        for idle in &mut crowd {
            assert_eq!(idle.told(), "holds 2500");
        }
        assert!(connections("forebay_connections") >= 10_000.0);
        let kib = node.memory_kib();
        println!("{before_kib} KiB without them, {kib} KiB with 10,000 connections");
        assert!(kib < MOST_KIB, "{kib} KiB");
        assert!(kib < before_kib + 10_000 * 4, "an idle connection costs less than 4 KiB: {before_kib} became {kib}");
        // One more comes in and puts.
        steady::put_one(&mut Hand::with(&node.address, hello(shard, &[])).0, ns, 77);
    });
    assert!(got >= 1000);
    // All of them were killed: nothing is left of them.
    while connections("forebay_connections") > 2.0 {
        pause();
    }
    assert!(node.descriptors() <= descriptors + 4, "{descriptors} descriptors became {}", node.descriptors());
}

#[test]
fn a_node_with_few_descriptors_says_so_and_serves_as_many_as_it_can() {
    let folder = Folder::new();
    let node = NodeProcess::start_with_descriptors(&folder, MEMORY_MIB, 300);
    let note = node.notes.join("\n");
    for word in ["300 descriptors", "ulimit -n", "LimitNOFILE", "connections"] {
        assert!(note.contains(word), "{word:?} is not in {note:?}");
    }
    let (shard, ns) = (node.shard_id(), node.control().namespace("a", Class::Cache).id);
    steady::fill(&node.address, shard, ns);
    steady::beside(&node.address, shard, ns, 100, || {
        let mut held = Vec::new();
        let crowded = loop {
            let mut hand = Hand::raw(&node.address);
            hand.send(&Message::Hello(hello(shard, &[])));
            if is_crowded(&mut hand) {
                break hand;
            }
            held.push(hand);
            assert!(held.len() < 300, "more connections than descriptors");
        };
        drop(crowded);
        let all = samples(&node.metrics_text());
        assert_eq!(all["forebay_connections"], all["forebay_connections_max"]);
        assert!(all["forebay_peer_faults_total{kind=\"crowd\"}"] >= 1.0);
        assert!(held.len() > 100, "only {} of 300", held.len());
    });
    // When they are gone, others are let in.
    while samples(&node.metrics_text())["forebay_connections"] > 2.0 {
        pause();
    }
    steady::put_one(&mut Hand::with(&node.address, hello(shard, &[])).0, ns, 77);
}

#[test]
fn readers_that_take_nothing_hold_little_memory_and_nobody_else_up() {
    let folder = Folder::new();
    let node = NodeProcess::start(&folder, MEMORY_MIB);
    let (shard, ns) = (node.shard_id(), node.control().namespace("a", Class::Cache).id);
    steady::fill(&node.address, shard, ns);
    // Small blocks are copied into answers, large ones are sent from where they lie: both are asked for without end.
    let mut filler = Hand::with(&node.address, hello(shard, &[])).0;
    for (number, len) in [(1, 6000), (2, 1 << 20), (3, 900_000)] {
        assert_eq!(filler.put_stream(ns, key(number), &block(number, len)), PutOutcome::Cached);
    }
    let mut highest = 0;
    steady::beside(&node.address, shard, ns, 2000, || {
        let mut deaf = Vec::new();
        for number in 0..300u64 {
            let mut hello = hello(shard, &[]);
            hello.credit_bytes = 1 << 30;
            let (mut hand, _) = Hand::with(&node.address, hello);
            let to = Place { room: u64::MAX, ..Place::default() };
            let item = GetItem { key: key(1 + number % 3), offset: 0, length: 0, to };
            let (_, get) = hand.get_message(ns, vec![item; 200], 3_000_000);
            hand.send(&get);
            deaf.push(hand);
            highest = highest.max(node.memory_kib());
        }
        // Each is cut off: for what it holds, or when its patience is over.
        let cut = || sum(&samples(&node.metrics_text()), "forebay_connections_cut_total");
        while cut() < 300.0 {
            highest = highest.max(node.memory_kib());
            pause();
        }
    });
    println!("{highest} KiB at most");
    assert!(highest < MOST_KIB, "{highest} KiB");
    let all = samples(&node.metrics_text());
    assert!(all["forebay_peer_faults_total{kind=\"slow_reader\"}"] >= 300.0);
    crate::hand::assert_identity(&node.metrics_text());
}
