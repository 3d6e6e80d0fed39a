//! What a real node never passes, and what it loses when its drives change: no more memory than it was given and 64 MiB, no more blocks than the
//! ideal share.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use forebay_client::{Client, NamespaceHandle, Options};
use forebay_types::{Address, Class, Fingerprint, Key};
use rustix::process::Signal;
use serde_json::Value;
use support::{Node, Place, bytes};

fn client(place: &Place) -> (Client, NamespaceHandle) {
    let address = Address::unix(place.path("s")).unwrap();
    let client =
        Client::connect(&address, Options { deadline: Duration::from_secs(30), ..Options::default() }).unwrap();
    let space = client.namespace("default").unwrap();
    (client, space)
}

fn stats(client: &Client) -> Value {
    serde_json::from_str(&client.node_stats().unwrap()).unwrap()
}

fn sum(stats: &Value, field: &str) -> u64 {
    stats["shards"].as_array().unwrap().iter().map(|shard| shard[field].as_u64().unwrap()).sum()
}

/// A process's own memory in KiB. What clients lend it is mapped there too, and is theirs.
fn own_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let of = |name: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    of("RssAnon:") + of("RssFile:")
}

#[expect(clippy::disallowed_methods, reason = "memory is looked at now and then")]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

/// Puts blocks of `length` bytes and gets some of them back, round and round, until `enough`.
fn load(space: &NamespaceHandle, seed: u64, length: usize, batch: u64, mut enough: impl FnMut(u64) -> bool) {
    let mut round = 0;
    while !enough(round) {
        let blocks: Vec<(Key, Vec<u8>)> = (0..batch)
            .map(|i| {
                let number = seed << 32 | (round * batch + i);
                (space.derive_key(&number.to_le_bytes()), bytes(number, length))
            })
            .collect();
        let items: Vec<(Key, &[u8])> = blocks.iter().map(|(key, bytes)| (*key, bytes.as_slice())).collect();
        space.put(&items);
        let keys: Vec<Key> = blocks.iter().map(|(key, _)| *key).collect();
        space.get_each(&keys, |i, found| {
            if let Ok(block) = found {
                assert!(block.bytes() == blocks[i].1, "a wrong byte");
            }
        });
        round += 1;
    }
}

#[test]
fn a_full_node_under_load_stays_within_its_memory_and_64_mib() {
    const MEMORY_KIB: u64 = 64 << 10;
    let place = Place::new();
    let args =
        ["serve", "--data", "drive", "--capacity", "256MiB", "--memory", "64MiB", "--shards", "2", "--socket", "s"];
    let node = Node::start(place.forebay(args));
    let pid = node.pid();
    let (over, highest) = (AtomicBool::new(false), AtomicU64::new(0));
    let full = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                highest.fetch_max(own_kib(pid), Ordering::Relaxed);
                pause();
            }
        });
        let (asker, small) = client(&place);
        // The index fills with the smallest blocks.
        load(&small, 1, 100, 1000, |round| {
            round >= 10
                && (round > 300 || sum(&stats(&asker), "evicted_index") > 0 || sum(&stats(&asker), "evicted") > 0)
        });
        let index_full = sum(&stats(&asker), "evicted_index") > 0;
        // Drive and DRAM fill with large ones, from several clients, while hundreds of connections say nothing.
        let crowd: Vec<UnixStream> = (0..200).map(|_| UnixStream::connect(place.path("s")).unwrap()).collect();
        let loaders: Vec<_> = (2..6u64)
            .map(|seed| {
                let place = &place;
                scope.spawn(move || {
                    let (_client, space) = client(place);
                    load(&space, seed, 20_000 * seed as usize * seed as usize, 16, |round| {
                        round >= 12 * 25 / seed / seed
                    });
                })
            })
            .collect();
        loaders.into_iter().for_each(|loader| loader.join().unwrap());
        drop(crowd);
        let stats = stats(&asker);
        over.store(true, Ordering::Relaxed);
        (index_full, stats)
    });
    let (index_full, stats) = full;
    let highest = highest.into_inner();
    println!("{highest} KiB at most, index full: {index_full}");
    assert!(sum(&stats, "evicted") > 0, "the drive was never full: {stats}");
    assert!(sum(&stats, "dram_evicted") > 0, "DRAM was never full: {stats}");
    // Where a drive asks for 4 KiB the smallest block takes 8, and the drive is full as soon as the index is.
    assert!(index_full || sum(&stats, "index_bytes") > 0, "{stats}");
    assert!(highest > MEMORY_KIB / 2, "it was looked at while it worked");
    assert!(highest <= MEMORY_KIB + (64 << 10), "{highest} KiB");
    drop(node);
}

const KEYS: u64 = 3000;
/// At the node's figures, a [`pause`] apart: a minute and more.
const LOOKS_MAX: u32 = 12_000;

fn serve(place: &Place, drives: &[&str]) -> Node {
    let mut args = vec!["serve", "--capacity", "96MiB", "--memory", "96MiB", "--socket", "s"];
    drives.iter().for_each(|drive| args.extend(["--data", drive]));
    Node::start(place.forebay(args))
}

/// How many of the keys are there; each with its bytes.
fn there(space: &NamespaceHandle, keys: &[Key]) -> u64 {
    let mut hits = 0;
    space.get_each(keys, |i, found| {
        if let Ok(block) = found {
            assert!(block.bytes() == bytes(i as u64, 900), "key {i} came back otherwise");
            hits += 1;
        }
    });
    hits
}

#[test]
fn drives_in_another_order_lose_nothing_and_one_more_loses_its_share() {
    let place = Place::new();
    let node = serve(&place, &["d1", "d2", "d3"]);
    let (maker, _) = client(&place);
    let space = maker.create_namespace("kept", Class::Durable, None, &Fingerprint::default()).unwrap();
    let keys: Vec<Key> = (0..KEYS).map(|i| space.derive_key(&i.to_le_bytes())).collect();
    let blocks: Vec<Vec<u8>> = (0..KEYS).map(|i| bytes(i, 900)).collect();
    for (keys, blocks) in keys.chunks(500).zip(blocks.chunks(500)) {
        let items: Vec<(Key, &[u8])> = keys.iter().copied().zip(blocks.iter().map(Vec::as_slice)).collect();
        assert!(space.put(&items).iter().all(|outcome| outcome.is_kept()));
    }
    drop((space, maker));
    assert_eq!(node.end(Signal::TERM).0, 0);

    let node = serve(&place, &["d3", "d1", "d2"]);
    let (maker, _) = client(&place);
    assert_eq!(there(&maker.namespace("kept").unwrap(), &keys), KEYS, "in another order");
    drop(maker);
    assert_eq!(node.end(Signal::TERM).0, 0);

    // One more, named first: of four equal drives it owns a quarter of the keys, and no key changes between the three others.
    let _node = serve(&place, &["d0", "d2", "d3", "d1"]);
    let (maker, _) = client(&place);
    let space = maker.namespace("kept").unwrap();
    let left = there(&space, &keys);
    let lost = KEYS - left;
    let ideal = KEYS / 4;
    // Three standard deviations of a fair draw of that many.
    let slack = 3 * (KEYS as f64 * 0.25 * 0.75).sqrt() as u64;
    println!("{lost} of {KEYS} lost, {ideal} are the ideal share");
    assert!(lost <= ideal + slack && lost >= ideal - slack, "{lost} of {KEYS} lost, {ideal} are the ideal share");
    let before = stats(&maker);
    let of_new = |stats: &Value| {
        let shards = stats["shards"].as_array().unwrap();
        let new = shards.iter().find(|shard| shard["path"].as_str().unwrap().ends_with("d0")).unwrap();
        new["blocks"].as_u64().unwrap()
    };
    assert_eq!(of_new(&before), 0);
    for (keys, blocks) in keys.chunks(500).zip(blocks.chunks(500)) {
        let items: Vec<(Key, &[u8])> = keys.iter().copied().zip(blocks.iter().map(Vec::as_slice)).collect();
        assert!(space.put(&items).iter().all(|outcome| outcome.is_kept()));
    }
    // What was lost is what the new one owns: put again, all of it went there. A node tells of what was up to a fifth of a second ago.
    for _ in 0..LOOKS_MAX {
        if of_new(&stats(&maker)) == lost {
            break;
        }
        pause();
    }
    assert_eq!(of_new(&stats(&maker)), lost);
    assert_eq!(there(&space, &keys), KEYS);
}
