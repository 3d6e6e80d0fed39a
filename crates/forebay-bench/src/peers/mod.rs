//! Forebay beside its peers, in one run: the same blocks, the same drive, as many in flight, and what comes back is checked.
//!
//! Two tables. In the first, puts end on the drive (O_DIRECT, or fsync inside the timed part) and gets come from it. In the second everything is in
//! memory: there Forebay's DRAM tier stands beside peers that answer from the page cache or from memory of their own.

mod child;
mod drive;
mod files;
mod forebay;
mod install;
mod redis;
mod verdict;

use clap::{Args, ValueEnum};
use forebay_types::format_size;
use serde_json::{Map, Value, json};

use crate::card::Measured;
use crate::report::{Samples, say};
use crate::watch::Watch;
use crate::{Common, Outcome, raw};

pub(crate) use verdict::tables;

#[derive(Args)]
pub(crate) struct PeersArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Rounds; every peer has its turn in each.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=50))]
    rounds: u16,
    /// Only these peers beside Forebay, with commas between [default: all].
    #[arg(long, value_name = "PEER", value_enum, value_delimiter = ',')]
    only: Vec<Name>,
    /// Only blocks of these sizes, with commas between [default: all].
    #[arg(long, value_name = "SIZE", value_delimiter = ',', value_parser = LOADS.map(|load| load.name))]
    sizes: Vec<String>,
}

impl PeersArgs {
    /// The stores that engines may choose between.
    pub(crate) fn of_engines(common: &Common, rounds: u16) -> PeersArgs {
        PeersArgs {
            common: common.clone(),
            rounds,
            only: vec![Name::Lmcache, Name::Mooncake, Name::Sglang],
            sizes: Vec::new(),
        }
    }

    fn wants(&self, load: &Load) -> bool {
        self.sizes.is_empty() || self.sizes.iter().any(|size| size == load.name)
    }
}

/// Peers, as they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Name {
    /// The drive itself, by fio.
    Drive,
    /// Plain files.
    Files,
    /// Redis, from the distribution.
    Redis,
    /// foyer, from its crate.
    Foyer,
    /// Mooncake Store over TCP, from PyPI.
    Mooncake,
    /// NIXL with its POSIX backend, from PyPI.
    Nixl,
    /// LMCache's L2 adapters by its own bench, from PyPI.
    Lmcache,
    /// SGLang's storage backend of files, in the environment that `cargo xtask bench engines` makes.
    Sglang,
}

/// What is done with a set of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Op {
    /// Onto the drive, and there to stay.
    Put,
    /// From the drive.
    GetCold,
    /// From memory.
    GetWarm,
    /// Into memory; what Forebay calls `cached` goes to the drive as well, later.
    PutMemory,
}

impl Op {
    const ALL: [Op; 4] = [Op::Put, Op::GetCold, Op::GetWarm, Op::PutMemory];

    fn name(self) -> &'static str {
        match self {
            Op::Put => "put",
            Op::GetCold => "get_cold",
            Op::GetWarm => "get_warm",
            Op::PutMemory => "put_memory",
        }
    }
}

/// A set of blocks.
#[derive(Debug, Clone, Copy)]
struct Load {
    bytes: usize,
    count: usize,
    /// Blocks in flight, for everybody who can be told: eight, or as many as make 8 MiB.
    in_flight: usize,
    /// Its short name in paths of rows.
    name: &'static str,
}

const LOADS: [Load; 3] = [
    Load { bytes: 64 << 10, count: 2048, in_flight: 128, name: "64k" },
    Load { bytes: 1 << 20, count: 256, in_flight: 8, name: "1m" },
    Load { bytes: 16 << 20, count: 16, in_flight: 8, name: "16m" },
];

impl Load {
    fn total(&self) -> u64 {
        (self.bytes * self.count) as u64
    }
}

/// One measured speed.
struct Figure {
    column: &'static str,
    op: Op,
    gb_s: f64,
}

/// Somebody who can be asked.
trait Peer {
    fn name(&self) -> &'static str;
    /// Does what it can with set number `set`, and leaves nothing of it behind.
    fn round(&mut self, load: &Load, set: u32) -> Outcome<Vec<Figure>>;
}

pub(crate) fn run(args: &PeersArgs) -> Outcome<Measured> {
    let dir = args.common.scratch("peers")?;
    let tools = raw::tools(!args.common.no_install);
    let mut all = Bench { skipped: Map::new(), versions: Map::new(), seen: Vec::new() };
    let mut peers: Vec<Box<dyn Peer>> = vec![Box::new(forebay::Forebay::start(&args.common, &dir)?)];
    let wanted = |name: Name| args.only.is_empty() || args.only.contains(&name);
    for name in Name::value_variants().iter().copied().filter(|name| wanted(*name)) {
        match install::peer(name, args, &tools, &dir, &mut all.versions) {
            Ok(peer) => peers.push(peer),
            Err(reason) => all.skip(&format!("{name:?}").to_lowercase(), &reason.to_string()),
        }
    }
    for round in 0..args.rounds {
        for (i, load) in LOADS.iter().enumerate().filter(|(_, load)| args.wants(load)) {
            say(&format!("round {} of {}: blocks of {}", round + 1, args.rounds, format_size(load.bytes as u64)));
            all.round(&mut peers, load, u32::from(round), i);
        }
    }
    drop(peers);
    Ok(Measured {
        bench: "peers",
        workload: format!(
            "Medians of {} rounds in which every peer has its turn: {}. What comes back is checked.",
            args.rounds,
            LOADS
                .iter()
                .filter(|load| args.wants(load))
                .map(|l| format!("{} blocks of {}, {} in flight", l.count, format_size(l.bytes as u64), l.in_flight))
                .collect::<Vec<_>>()
                .join("; ")
        ),
        tools: Value::Object(all.versions.clone()),
        result: all.result(),
    })
}

/// What was seen.
struct Bench {
    skipped: Map<String, Value>,
    versions: Map<String, Value>,
    seen: Vec<(Op, &'static str, &'static str, Samples)>,
}

impl Bench {
    fn skip(&mut self, who: &str, why: &str) {
        say(&format!("skipped: {who}: {why}"));
        self.skipped.insert(who.to_owned(), json!(why));
    }

    /// Everybody's turn, beginning with another one each round. Who fails is out, aloud.
    fn round(&mut self, peers: &mut Vec<Box<dyn Peer>>, load: &Load, round: u32, size: usize) {
        let first = (round as usize + size) % peers.len();
        let mut out = Vec::new();
        for i in 0..peers.len() {
            let at = (first + i) % peers.len();
            let watch = Watch::start();
            let done = peers[at].round(load, round * LOADS.len() as u32 + size as u32 + 1);
            say(&format!("  {}: {:.1} s", peers[at].name(), watch.s()));
            match done {
                Ok(figures) => figures.into_iter().for_each(|figure| self.add(load.name, figure)),
                Err(reason) => {
                    let who = format!("{} at blocks of {}", peers[at].name(), format_size(load.bytes as u64));
                    self.skip(&who, &reason.to_string());
                    out.push(at);
                }
            }
        }
        out.sort_unstable();
        for at in out.into_iter().rev() {
            // Forebay itself, which is first, stays: its failure is told and its cells are empty.
            if at != 0 {
                peers.remove(at);
            }
        }
    }

    fn add(&mut self, load: &'static str, figure: Figure) {
        let same = |(op, name, column, _): &&mut (Op, &str, &str, Samples)| {
            (*op, *name, *column) == (figure.op, load, figure.column)
        };
        match self.seen.iter_mut().find(same) {
            Some((.., samples)) => samples.0.push(figure.gb_s),
            None => self.seen.push((figure.op, load, figure.column, Samples(vec![figure.gb_s]))),
        }
    }

    fn result(&self) -> Value {
        let mut rows = Vec::new();
        for op in Op::ALL {
            for load in &LOADS {
                let seen: Vec<(&'static str, &Samples)> = self
                    .seen
                    .iter()
                    .filter(|(other, name, ..)| (*other, *name) == (op, load.name))
                    .map(|(_, _, column, samples)| (*column, samples))
                    .collect();
                if !seen.is_empty() {
                    rows.push(verdict::row(op, load.name, &seen));
                }
            }
        }
        let targets = verdict::targets(&rows);
        json!({ "rows": rows, "targets": targets, "skipped": self.skipped })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Failed;

    struct Fake(&'static str, Option<f64>);

    impl Peer for Fake {
        fn name(&self) -> &'static str {
            self.0
        }

        fn round(&mut self, _: &Load, _: u32) -> Outcome<Vec<Figure>> {
            let gb_s = self.1.ok_or_else(|| Failed("it broke".into()))?;
            Ok(vec![Figure { column: self.0, op: Op::Put, gb_s }])
        }
    }

    #[test]
    fn who_fails_is_out_and_told() {
        let mut all = Bench { skipped: Map::new(), versions: Map::new(), seen: Vec::new() };
        let mut peers: Vec<Box<dyn Peer>> = vec![
            Box::new(Fake("forebay", Some(3.0))),
            Box::new(Fake("files", None)),
            Box::new(Fake("foyer", Some(2.0))),
        ];
        all.round(&mut peers, &LOADS[1], 0, 1);
        all.round(&mut peers, &LOADS[1], 1, 1);
        assert_eq!(peers.len(), 2);
        let result = all.result();
        assert_eq!(result["skipped"]["files at blocks of 1 MiB"], "it broke");
        assert_eq!(result["rows"][0]["peers"], json!({"forebay": 3.0, "foyer": 2.0}));
        assert_eq!(result["rows"][0]["forebay_samples"], json!([3.0, 3.0]));
    }
}
