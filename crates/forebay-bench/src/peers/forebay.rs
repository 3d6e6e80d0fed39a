//! Forebay's own turn, over the Unix socket and over TCP.

use std::time::Duration;

use forebay_client::{Client, NamespaceHandle, Options};
use forebay_types::{Key, Tier};

use super::verdict::{FOREBAY, FOREBAY_TCP};
use super::{Figure, Load, Op, Peer};
use crate::node::{Node, Setup};
use crate::watch::Watch;
use crate::work::{attach, attach_durable, expect_all, pattern, stamp};
use crate::{Common, Failed, Outcome, Scratch, why};

pub(super) struct Forebay {
    node: Node,
}

impl Forebay {
    pub(super) fn start(common: &Common, dir: &Scratch) -> Outcome<Forebay> {
        let setup = Setup {
            dir: dir.join("forebay"),
            capacity: "6GiB".into(),
            memory: "1536MiB".into(),
            tcp: true,
            // Blocks of 16 MiB want segments of 64 MiB at least.
            extra: ["--segment", "64MiB", "--prewrite"].map(String::from).to_vec(),
        };
        Ok(Forebay { node: Node::start(common, setup)? })
    }

    /// Both ways to the node, with room for eight blocks of 16 MiB on the way.
    fn ways(&self) -> Outcome<[(&'static str, Client); 2]> {
        let options =
            || Options { deadline: Duration::from_secs(30), in_flight_bytes: 128 << 20, ..Options::default() };
        Ok([(FOREBAY, self.node.unix_with(options())?), (FOREBAY_TCP, self.node.tcp_with(options())?)])
    }
}

impl Peer for Forebay {
    fn name(&self) -> &'static str {
        FOREBAY
    }

    fn round(&mut self, load: &Load, set: u32) -> Outcome<Vec<Figure>> {
        let mut figures = Vec::new();
        let mut sets = Vec::new();
        {
            let mut blocks: Vec<Vec<u8>> = (0..load.count).map(|_| pattern(load.bytes)).collect();
            for (column, client) in &self.ways()? {
                let (durable, cache) = (attach_durable(client)?, attach(client)?);
                warm_up(&cache, load, &format!("{column} before {set}"))?;
                for (op, space) in [(Op::Put, &durable), (Op::PutMemory, &cache)] {
                    let keys: Vec<Key> = (0..load.count)
                        .map(|i| space.derive_key(format!("{column}/{op:?}/{set}/{i}").as_bytes()))
                        .collect();
                    let gb_s = put(space, load, &keys, &mut blocks)?;
                    figures.push(Figure { column, op, gb_s });
                    if op == Op::Put {
                        sets.push(keys);
                    } else {
                        forget(space, &keys)?;
                    }
                }
            }
        }
        // A node that was killed has nothing in DRAM: what comes next is cold beyond doubt.
        self.node.kill_and_restart()?;
        for ((column, client), keys) in self.ways()?.iter().zip(&sets) {
            let space = attach_durable(client)?;
            warm_up(&attach(client)?, load, &format!("{column} after {set}"))?;
            figures.push(Figure { column, op: Op::GetCold, gb_s: get(&space, load, keys, Tier::Nvme)? });
            // The second reading brings them to DRAM.
            for _ in 0..2 {
                space.with_in_flight(load.in_flight).get_each(keys, |_, _| ());
            }
            figures.push(Figure { column, op: Op::GetWarm, gb_s: get(&space, load, keys, Tier::Dram)? });
            forget(&space, keys)?;
        }
        Ok(figures)
    }
}

/// Makes the connection and the client's regions before anything is timed.
fn warm_up(space: &NamespaceHandle, load: &Load, name: &str) -> Outcome<()> {
    let keys = crate::work::fill_with(space, name, 0..load.in_flight, load.bytes, load.in_flight)?;
    space.get_each(&keys, |_, _| ());
    forget(space, &keys)
}

fn put(space: &NamespaceHandle, load: &Load, keys: &[Key], blocks: &mut [Vec<u8>]) -> Outcome<f64> {
    for (key, block) in keys.iter().zip(blocks.iter_mut()) {
        stamp(block, key);
    }
    let items: Vec<(Key, &[u8])> = keys.iter().copied().zip(blocks.iter().map(Vec::as_slice)).collect();
    let space = space.with_in_flight(load.in_flight);
    let watch = Watch::start();
    let outcomes = space.put(&items);
    let seconds = watch.s();
    match outcomes.iter().find(|outcome| !outcome.is_kept()) {
        Some(outcome) => Err(Failed(format!("a put answered {outcome}"))),
        None => Ok(load.total() as f64 / 1e9 / seconds),
    }
}

fn get(space: &NamespaceHandle, load: &Load, keys: &[Key], tier: Tier) -> Outcome<f64> {
    let watch = Watch::start();
    expect_all(space, keys, load.bytes, load.in_flight, tier)?;
    Ok(load.total() as f64 / 1e9 / watch.s())
}

fn forget(space: &NamespaceHandle, keys: &[Key]) -> Outcome<()> {
    space.forget(keys).map(|_| ()).map_err(why("forgetting"))
}
