//! Flipped bits on the wire: between client and node stands somebody who changes one bit in each direction of each connection, ten thousand in all.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Scope;
use std::time::Duration;

use forebay_client::{Client, GetResult, Options};
use forebay_types::{Address, Entropy, SeededEntropy};

use crate::{Home, assert_adds_up, assert_all_hit, content, filled};

const FLIPS: u64 = 10_000;
const WORKERS: u64 = 3;
const LENGTHS: [usize; 4] = [300, 5000, 66_000, 150_000];

/// Stands between clients and a node.
struct Proxy {
    port: u16,
    flips: AtomicU64,
    /// Those that came behind a connection's first 4 KiB: mostly payload.
    deep: AtomicU64,
    over: AtomicBool,
}

impl Proxy {
    fn serve<'scope, 'env>(&'env self, scope: &'scope Scope<'scope, 'env>, listener: TcpListener, node: u16) {
        let chance = SeededEntropy::new(20);
        for client in listener.incoming() {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let (Ok(client), Ok(node)) = (client, TcpStream::connect(("127.0.0.1", node))) else { continue };
            for (from, to) in [(&client, &node), (&node, &client)] {
                let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                // As often in the first bytes of a connection as deep in its payload.
                let at = chance.word() % (1 << (4 + chance.word() % 14));
                let bit = chance.word() % 8;
                scope.spawn(move || self.pump(from, to, at, bit));
            }
        }
    }

    fn pump(&self, mut from: TcpStream, mut to: TcpStream, at: u64, bit: u64) {
        let (mut buf, mut seen) = ([0; 16 << 10], 0u64);
        while let Ok(n @ 1..) = from.read(&mut buf) {
            if let Some(byte) = at.checked_sub(seen).and_then(|at| buf[..n].get_mut(at as usize)) {
                *byte ^= 1 << bit;
                self.flips.fetch_add(1, Ordering::Relaxed);
                self.deep.fetch_add(u64::from(at >= 4096), Ordering::Relaxed);
            }
            seen += n as u64;
            if to.write_all(&buf[..n]).is_err() {
                break;
            }
        }
        // Whoever waits at the other side learns of the end.
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    }
}

/// What a worker saw.
#[derive(Debug, Default)]
struct Seen {
    hits: u64,
    misses: u64,
    kept: u64,
    refused: u64,
    errors: u64,
    corrupt: u64,
}

impl Seen {
    fn add(&mut self, other: &Seen) {
        self.hits += other.hits;
        self.misses += other.misses;
        self.kept += other.kept;
        self.refused += other.refused;
        self.errors += other.errors;
        self.corrupt += other.corrupt;
    }
}

/// The bytes of one block: no two have them in common.
fn bytes_of(worker: u64, round: u64, i: usize, length: usize) -> Vec<u8> {
    content((worker << 32) | (round << 8) | i as u64, length)
}

/// One application's life behind the proxy: connects, puts, gets, goes.
fn live(address: &Address, worker: u64, round: u64, seen: &mut Seen) {
    let options = Options {
        token: Some(b"secret".to_vec()),
        deadline: Duration::from_millis(500),
        patience: Duration::ZERO,
        ..Options::default()
    };
    let Ok(client) = Client::connect(address, options) else {
        seen.errors += 1;
        return;
    };
    let Ok(space) = client.namespace("default") else {
        seen.errors += 1;
        return;
    };
    let name = |i: usize| format!("wire/{worker}/{}/{i}", round % 64);
    let blocks: Vec<_> = LENGTHS
        .iter()
        .enumerate()
        .map(|(i, length)| (space.derive_key(name(i).as_bytes()), bytes_of(worker, round % 64, i, *length)))
        .collect();
    let items: Vec<_> = blocks.iter().map(|(key, bytes)| (*key, bytes.as_slice())).collect();
    for outcome in space.put(&items) {
        if outcome.is_kept() { seen.kept += 1 } else { seen.refused += 1 }
    }
    let keys: Vec<_> = blocks.iter().map(|(key, _)| *key).collect();
    for (result, (key, bytes)) in space.get(&keys).into_iter().zip(&blocks) {
        match result {
            GetResult::Hit(block) => {
                assert!(*block == bytes[..], "{key}: a wrong byte was handed over");
                seen.hits += 1;
            }
            GetResult::Miss(_) => seen.misses += 1,
        }
    }
    let counters = client.counters();
    seen.corrupt += counters.corrupt;
    assert!(counters.get.adds_up() && counters.put.adds_up(), "{counters:?}");
}

/// One application after the other, until enough bits were flipped.
fn lives(address: &Address, worker: u64, proxy: &Proxy) -> Seen {
    let mut seen = Seen::default();
    let mut round = 0;
    while proxy.flips.load(Ordering::Relaxed) < FLIPS {
        live(address, worker, round, &mut seen);
        round += 1;
    }
    seen
}

#[test]
fn ten_thousand_flips_on_the_wire_are_misses_and_never_bytes() {
    let home = Home::new(1);
    let (steady, space) = home.client(&home.unix());
    let blocks = filled(&space, "steady", &[70_000; 8]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let proxy = Proxy { port, flips: AtomicU64::new(0), deep: AtomicU64::new(0), over: AtomicBool::new(false) };
    let address = Address::Tcp(format!("127.0.0.1:{port}"));
    let mut seen = Seen::default();
    std::thread::scope(|scope| {
        let proxy = &proxy;
        let node = home.port;
        scope.spawn(move || std::thread::scope(|pumps| proxy.serve(pumps, listener, node)));
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let address = &address;
                scope.spawn(move || lives(address, worker, proxy))
            })
            .collect();
        while proxy.flips.load(Ordering::Relaxed) < FLIPS && !workers.iter().any(|worker| worker.is_finished()) {
            assert_all_hit(&space, &blocks);
        }
        workers.into_iter().for_each(|worker| seen.add(&worker.join().unwrap()));
        proxy.over.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", proxy.port));
    });
    println!(
        "{} flips, {} of them deep: {seen:?}",
        proxy.flips.load(Ordering::Relaxed),
        proxy.deep.load(Ordering::Relaxed)
    );
    // The campaign met every part of a conversation, and each shows.
    assert!(proxy.deep.load(Ordering::Relaxed) > FLIPS / 20);
    assert!(seen.hits > 100 && seen.misses > 100 && seen.kept > 100 && seen.errors > 100, "{seen:?}");
    assert!(seen.corrupt > 10, "{seen:?}");
    let stats = steady.node_stats().unwrap();
    let damaged = number_behind(&stats, "\"damaged\":");
    let mismatches = number_behind(&stats, "\"sum_mismatch\":");
    println!("the node counted {damaged} damaged, {mismatches} of them payload");
    assert!(damaged > 1000 && mismatches > 10, "{stats}");
    // What went through all this is still right, and everything goes on.
    assert_all_hit(&space, &blocks);
    for worker in 0..WORKERS {
        for round in 0..64 {
            for (i, length) in LENGTHS.iter().enumerate() {
                let key = space.derive_key(format!("wire/{worker}/{round}/{i}").as_bytes());
                if let Some(block) = space.get(&[key]).remove(0).hit() {
                    assert!(*block == bytes_of(worker, round, i, *length)[..], "{key} was stored otherwise");
                }
            }
        }
    }
    assert_adds_up(&steady);
}

/// The number behind `name` in JSON.
fn number_behind(json: &str, name: &str) -> u64 {
    let at = json.find(name).unwrap_or_else(|| panic!("{name} is not in {json}")) + name.len();
    json[at..].chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}
