//! What worth costs the store: a node that runs it and one that runs LRU, the same puts and gets, by turns.
//!
//! A turn is short and turns are many, since the drive of a shared machine is not the same from one second to the next; told is the median of the pairs' ratios.
//! CPU seconds of node and client stand beside it: a drive that is slow hides what a policy costs the core. Gets are those from DRAM, where a get is the shortest
//! and a policy's part of it the largest.

use forebay_client::NamespaceHandle;
use forebay_types::{Key, Tier, format_size};
use serde_json::Value;

use super::traces::Traces;
use super::{Mark, TokenomicsArgs, row};
use crate::node::{Node, Setup};
use crate::report::{percentile, round, say, shown};
use crate::watch::{CpuMeter, Metered};
use crate::work::{Content, MIB, attach, expect_all, fill_with};
use crate::{Common, Failed, Outcome};

/// Worth may take so much of what LRU moves, in per cent.
const COST_MAX: f64 = 3.0;
/// Of each node's drive: some hundred thousand blocks of 64 KiB, since worth follows two thousand of however many there are. It is written one and a half
/// times over before anything counts: from then on each put has another block evicted.
const CAPACITY_MIB: usize = 6144;
const FILL_MIB: usize = 9216;
/// Blocks of one call are one chain.
const CHAIN: usize = 64;
/// Pairs of turns at `--rounds 3`.
const PAIRS_A_ROUND: usize = 40;

/// What a turn does.
struct Load {
    what: &'static str,
    bytes: usize,
    depth: usize,
    /// Of one turn.
    mib: usize,
}

const PUTS: [Load; 2] = [
    Load { what: "puts", bytes: 64 << 10, depth: 128, mib: 96 },
    Load { what: "puts", bytes: 16 << 10, depth: 256, mib: 48 },
];
const GETS: [Load; 2] = [
    Load { what: "gets from DRAM", bytes: 64 << 10, depth: 64, mib: 256 },
    Load { what: "gets from DRAM", bytes: 16 << 10, depth: 64, mib: 96 },
];
/// Blocks that gets ask for again and again, in MiB.
const RESIDENT_MIB: usize = 16;

/// A node, and what it took.
struct Side {
    node: Node,
    space: NamespaceHandle,
    resident: Vec<Key>,
    speeds: Vec<f64>,
    meter: CpuMeter,
}

impl Side {
    fn start(common: &Common, dir: std::path::PathBuf, policy: &str) -> Outcome<Side> {
        let extra =
            ["--segment", "16MiB", "--shards", "1", "--prewrite", "--policy", policy].map(String::from).to_vec();
        let capacity = format!("{CAPACITY_MIB}MiB");
        let node = Node::start(common, Setup { dir, capacity, memory: "256MiB".into(), tcp: false, extra })?;
        let client = node.unix()?;
        let space = attach(&client)?;
        Ok(Side { node, space, resident: Vec::new(), speeds: Vec::new(), meter: CpuMeter::default() })
    }

    fn turn(&mut self, load: &Load, content: &mut Content, number: usize) -> Outcome<()> {
        let count = load.mib * MIB / load.bytes;
        let work = Metered::start(self.node.pid());
        if self.resident.is_empty() {
            let space = self.space.with_in_flight(load.depth);
            content.put(&space, &format!("{}/{number}", load.bytes), 0..count)?;
        } else {
            for _ in 0..count / self.resident.len() {
                expect_all(&self.space, &self.resident, load.bytes, load.depth, Tier::Dram)?;
            }
        }
        self.speeds.push(work.stop(&mut self.meter, (count * load.bytes) as u64));
        Ok(())
    }

    /// Puts blocks that are read until they are in DRAM.
    fn make_resident(&mut self, load: &Load) -> Outcome<()> {
        let count = RESIDENT_MIB * MIB / load.bytes;
        self.resident = fill_with(&self.space, &format!("resident/{}", load.bytes), 0..count, load.bytes, CHAIN)?;
        for _ in 0..3 {
            self.resident.chunks(CHAIN).for_each(|chain| self.space.get_each(chain, |_, _| ()));
        }
        Ok(())
    }
}

pub(crate) fn run(args: &TokenomicsArgs, _: &Traces) -> Outcome<Vec<Value>> {
    let dir = args.common.scratch("policies")?;
    let pairs = usize::from(args.rounds) * PAIRS_A_ROUND;
    let mut sides =
        [Side::start(&args.common, dir.join("worth"), "worth")?, Side::start(&args.common, dir.join("lru"), "lru")?];
    say("tokenomics: both drives are filled, and written over by half");
    for side in &mut sides {
        fill_with(&side.space, "fill", 0..FILL_MIB * MIB / (64 << 10), 64 << 10, CHAIN)?;
    }
    let mut rows = Vec::new();
    for load in &PUTS {
        rows.extend(compared(&mut sides, load, pairs)?);
    }
    for load in &GETS {
        for side in &mut sides {
            side.make_resident(load)?;
        }
        rows.extend(compared(&mut sides, load, pairs)?);
    }
    Ok(rows)
}

/// A load on both, by turns, whoever goes first changing pair by pair.
fn compared(sides: &mut [Side; 2], load: &Load, pairs: usize) -> Outcome<[Value; 2]> {
    let mut content = Content::new(CHAIN, load.bytes);
    for side in sides.iter_mut() {
        // The first turn takes memory and finds its pace.
        side.turn(load, &mut content, usize::MAX)?;
        (side.speeds, side.meter) = (Vec::new(), CpuMeter::default());
    }
    for pair in 0..pairs {
        for at in [pair % 2, 1 - pair % 2] {
            sides[at].turn(load, &mut content, pair)?;
        }
    }
    let [worth, lru] = [&sides[0], &sides[1]];
    let mut less: Vec<f64> =
        worth.speeds.iter().zip(&lru.speeds).map(|(worth, lru)| (1.0 - worth / lru) * 100.0).collect();
    less.sort_by(f64::total_cmp);
    let what = format!("{} of {}", load.what, format_size(load.bytes as u64));
    let mut speed = row(
        "store",
        format!("{what}, worth moves less than LRU by"),
        round(percentile(&less, 0.5)),
        "%",
        Mark::AtMost(COST_MAX),
    );
    let (low, high) = around_the_median(&less);
    speed["spread"] = format!("{} to {}", shown(low), shown(high)).into();
    speed["gb_s"] = serde_json::json!([worth, lru].map(|side| round(percentile(&side.speeds, 0.5))));
    let [Some(ours), Some(theirs)] = [worth.meter.s_per_gb(), lru.meter.s_per_gb()] else {
        return Err(Failed("nothing was moved".into()));
    };
    let cpu = row(
        "store",
        format!("{what}, CPU seconds more than LRU"),
        round((ours / theirs - 1.0) * 100.0),
        "%",
        Mark::Told,
    );
    let moved = [worth, lru].map(|side| shown(percentile(&side.speeds, 0.5)));
    say(&format!(
        "tokenomics: {what}: {} and {} GB/s, worth less by {} % ({} to {}), CPU {} and {} s/GB",
        moved[0],
        moved[1],
        shown(percentile(&less, 0.5)),
        shown(low),
        shown(high),
        shown(ours),
        shown(theirs)
    ));
    Ok([speed, cpu])
}

/// Between which of the sorted samples their median lies with 95 %: the binomial's, by its normal.
fn around_the_median(sorted: &[f64]) -> (f64, f64) {
    let n = sorted.len() as f64;
    let half = 0.98 * n.sqrt();
    let at = |place: f64| sorted[(place.max(0.0) as usize).min(sorted.len() - 1)];
    (at((n / 2.0 - half).floor()), at((n / 2.0 + half).ceil()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_of_a_hundred_lies_within_ten_places_of_the_middle() {
        let sorted: Vec<f64> = (0..100).map(f64::from).collect();
        assert_eq!(around_the_median(&sorted), (40.0, 60.0));
        assert_eq!(around_the_median(&[7.0]), (7.0, 7.0));
    }

    #[test]
    fn turns_are_whole_chains() {
        for load in PUTS {
            assert!((load.mib * MIB / load.bytes).is_multiple_of(CHAIN));
        }
        for load in GETS {
            assert!((load.mib).is_multiple_of(RESIDENT_MIB));
        }
    }
}
