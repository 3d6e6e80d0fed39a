//! Puts, beside direct writes of the same size at the same depth: durable ones beside writes with one fdatasync for the same group, those of the
//! cache beside writes alone.

use std::path::Path;

use forebay_client::{Client, NamespaceHandle, Options};
use forebay_types::format_size;

use super::moved::Moved;
use super::{Bench, in_turn};
use crate::Outcome;
use crate::node::{Node, options};
use crate::raw::drive::{self, Job};
use crate::report::{Rule, Target, say, shown};
use crate::work::{Content, MIB, attach, attach_durable, fill_with, shard_sum};

/// A size of blocks.
struct Load {
    bytes: usize,
    /// In flight: the window slides, as fio's does.
    depth: usize,
    /// Bytes of one side of a pair.
    pair_mib: usize,
    durable: &'static str,
    cache: &'static str,
}

/// As many in flight as make 8 MiB, and four of the large ones.
const LOADS: [Load; 3] = [
    Load { bytes: 64 << 10, depth: 128, pair_mib: 256, durable: "put_durable_64k", cache: "put_cache_64k" },
    Load { bytes: 1 << 20, depth: 8, pair_mib: 512, durable: "put_durable_1m", cache: "put_cache_1m" },
    Load { bytes: 16 << 20, depth: 4, pair_mib: 512, durable: "put_durable_16m", cache: "put_cache_16m" },
];

pub(super) const PATHS: [&str; 6] = {
    let [a, b, c] = &LOADS;
    [a.durable, a.cache, b.durable, b.cache, c.durable, c.cache]
};

impl Load {
    fn count(&self) -> usize {
        (self.pair_mib << 20) / self.bytes
    }

    /// Blocks of one call: several windows, so that a window that empties at a call's end is a small part.
    fn in_a_call(&self) -> usize {
        self.count() / 2
    }
}

/// What a row is made with.
struct Puts<'a> {
    path: &'static str,
    load: &'a Load,
    is_durable: bool,
    space: NamespaceHandle,
    /// For the last block of a pair.
    durable: &'a NamespaceHandle,
    client: &'a Client,
    node: &'a Node,
    raw_file: &'a Path,
}

impl Puts<'_> {
    /// One side of a pair. `cached` is said before the drive has the block, so at the end there is a durable one, which stands in line behind all others.
    fn put_all(&self, pair: usize, content: &mut Content) -> Outcome<()> {
        content.put(&self.space, &format!("{}{pair}", self.path), 0..self.load.count())?;
        if !self.is_durable {
            fill_with(self.durable, &format!("{}{pair}/last", self.path), 0..1, 4096, 1)?;
        }
        Ok(())
    }
}

impl Bench<'_> {
    pub(super) fn put_rows(&mut self) -> Outcome<()> {
        for load in &LOADS {
            let wanted = [(load.durable, true), (load.cache, false)];
            let wanted: Vec<_> = wanted.into_iter().filter(|(path, _)| self.args.wants(path)).collect();
            if !wanted.is_empty() {
                self.put_rows_of(load, &wanted)?;
            }
        }
        Ok(())
    }

    fn put_rows_of(&mut self, load: &Load, wanted: &[(&'static str, bool)]) -> Outcome<()> {
        say(&format!("puts of {}: making drive and raw file", format_size(load.bytes as u64)));
        let raw_file = self.dir.join("raw");
        drive::written_file(&raw_file, (self.pairs() * load.pair_mib) as u64)?;
        let row_mib = (self.pairs() + 1) * load.pair_mib * 9 / 8;
        // Blocks of 16 MiB want segments of 64 MiB at least.
        let flags = ["--segment", "64MiB", "--prewrite"];
        let setup = self.setup(wanted.len() * row_mib + 1024, "512MiB", false, &flags);
        let node = Node::start(&self.args.common, setup)?;
        let client = node.unix_with(Options { in_flight_bytes: 64 * MIB, ..options() })?;
        let (durable, cache) = (attach_durable(&client)?, attach(&client)?);
        for (path, is_durable) in wanted.iter().copied() {
            let space = if is_durable { &durable } else { &cache };
            let space = space.with_in_flight(load.depth);
            let (durable, client, node, raw_file) = (&durable, &client, &node, raw_file.as_path());
            self.put_row(&Puts { path, load, is_durable, space, durable, client, node, raw_file })?;
        }
        let _ = std::fs::remove_file(&raw_file);
        Ok(())
    }

    fn put_row(&mut self, puts: &Puts<'_>) -> Outcome<()> {
        let (pairs, load) = (self.pairs(), puts.load);
        let mut sides = Moved::default();
        let mut content = Content::new(load.in_a_call(), load.bytes);
        content.put(&puts.space, &format!("{}/warm", puts.path), 0..load.in_a_call())?;
        let flushes = shard_sum(puts.client, "flushes")?;
        for pair in 0..pairs {
            self.say_pair(puts.path, pair);
            let job = Job {
                file: puts.raw_file,
                from_mib: (pair * load.pair_mib) as u64,
                size_mib: load.pair_mib as u64,
                write: true,
                random: false,
                block_kib: (load.bytes >> 10) as u64,
                depth: load.depth as u32,
                seconds: None,
                sync_every: if puts.is_durable { load.depth as u32 } else { 0 },
            };
            let mut limit = |sides: &mut Moved| sides.limit(&self.tools, &job);
            let mut ours = |sides: &mut Moved| {
                sides.ours(puts.node, load.count() * load.bytes, || {
                    // A put's answer comes with its call's: what single ones took is not seen from here.
                    puts.put_all(pair, &mut content).map(|_| Vec::new())
                })
            };
            in_turn(pair, &mut sides, [&mut limit, &mut ours])?;
        }
        let flushes = shard_sum(puts.client, "flushes")? - flushes;
        let group = match puts.is_durable {
            true => {
                let each = shown((pairs * load.count()) as f64 / flushes.max(1.0));
                format!(", one fdatasync per {} (ours: one per {each})", load.depth)
            }
            false => String::new(),
        };
        let size = format_size(load.bytes as u64);
        let what = format!("{size} writes on written extents, depth {}{group}", load.depth);
        let target = Target { rule: Rule::RatioAtLeast, first: 0.85, goal: 0.95 };
        self.rows.push(sides.row(puts.path, drive::name(&self.tools, &what), target));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_divide_a_pair_and_are_longer_than_the_window() {
        for load in LOADS {
            assert!(load.count().is_multiple_of(load.in_a_call()), "{}", load.durable);
            assert!(load.in_a_call() >= 4 * load.depth, "{}", load.durable);
        }
    }
}
