//! Whether a forecast holds: a recorded hour of chat on a real node whose drive is far too small for it, beside the same by the forecaster.
//!
//! First another node of the same size tells what loads take, by blocks from DRAM and blocks from the drive; of the node that is replayed on the forecaster
//! knows only that, its number of segments, and how many blocks its DRAM holds.

use forebay_client::{GetResult, NamespaceHandle};
use forebay_tokenomics::prefix::{DriveParams, Found, PrefixLru, replay_drive};
use forebay_tokenomics::trace::Plan;
use forebay_types::{Key, Tier};
use serde_json::Value;

use super::traces::{Traces, curve, plan};
use super::{Mark, TokenomicsArgs, row};
use crate::node::{Node, Setup};
use crate::report::{percentile, round, say};
use crate::watch::Watch;
use crate::work::{fill, pattern, stamp};
use crate::{Common, Failed, Outcome, why};

/// KV scaled down: a block of 512 tokens is 56 KiB here, and with its trailer takes 60 KiB of a segment.
const BLOCK: usize = 56 << 10;
const RECORD: u64 = 60 << 10;
const SEGMENT: u64 = 4 << 20;
/// A segment's header and footer.
const AROUND: u64 = 12 << 10;
/// Some 520 segments.
const CAPACITY: &str = "2090MiB";
const MEMORY: &str = "256MiB";
const REQUESTS: usize = 5000;
/// Blocks of one put.
const BATCH: usize = 64;
/// Loads that are measured beforehand, and blocks of the largest.
const LOADS: usize = 160;
const LOAD_MAX: usize = 96;

const RATE_MAX: f64 = 1.0;
const P50_MAX: f64 = 25.0;
const P99_MAX: f64 = 50.0;

pub(crate) fn run(args: &TokenomicsArgs, traces: &Traces) -> Outcome<Vec<Value>> {
    let Some(trace) = &traces.chat else { return Ok(Vec::new()) };
    let mut plan = plan(trace, 1)?;
    plan.requests.truncate(REQUESTS);
    let dir = args.common.scratch("tokenomics")?;
    let start = |name: &str| node(&args.common, dir.join(name));
    let (loads, params) = {
        let node = start("m")?;
        (measured(&node)?, params(&node)?)
    };
    say(&format!(
        "tokenomics: the drive has {} segments, room for {} blocks, DRAM for {}",
        params.segments, params.capacity, params.memory
    ));
    let mut forecast = Vec::new();
    let counted = replay_drive(&plan, &curve()?, params, &mut PrefixLru::new(), &mut |found| forecast.push(found));
    let counted = counted.map_err(why("the drive of a replay"))?;
    let seen = replayed(&start("r")?, &plan)?;
    let blocks: f64 = plan.requests.iter().map(|request| f64::from(request.blocks)).sum();
    let share =
        |of: &dyn Fn(&Found) -> u32, all: &[Found]| all.iter().map(|f| f64::from(of(f))).sum::<f64>() / blocks * 100.0;
    let found: Vec<Found> = seen.iter().map(|(found, _)| *found).collect();
    let mut rows = Vec::new();
    type Part<'a> = (&'a str, &'a dyn Fn(&Found) -> u32);
    let parts: [Part<'_>; 3] =
        [("in all", &|f| f.blocks), ("from DRAM", &|f| f.memory), ("from the drive", &|f| f.blocks - f.memory)];
    for (name, of) in parts {
        let (expected, is) = (share(of, &forecast), share(of, &found));
        let what =
            format!("chat on a real node, blocks found {name}: {expected:.2} % forecast, {is:.2} % found, apart");
        rows.push(row("node", what, round((expected - is).abs()), "points", Mark::AtMost(RATE_MAX)));
    }
    let expected: Vec<f64> = forecast.iter().filter(|f| f.blocks > 0).map(|f| loads.seconds(f)).collect();
    let took: Vec<f64> = seen.iter().filter(|(f, _)| f.blocks > 0).map(|(_, seconds)| *seconds).collect();
    for (name, q, most) in [("p50", 0.5, P50_MAX), ("p99", 0.99, P99_MAX)] {
        let (expected, took) = (percentile(&expected, q) * 1e3, percentile(&took, q) * 1e3);
        let what = format!("chat on a real node, {name} of loads: {expected:.2} ms forecast, {took:.2} ms took, apart");
        rows.push(row("node", what, round((expected / took - 1.0).abs() * 100.0), "%", Mark::AtMost(most)));
    }
    let written = counted.write_amplification();
    rows.push(row("node", "chat on a real node, bytes written by byte put, forecast", round(written), "", Mark::Told));
    Ok(rows)
}

fn node(common: &Common, dir: std::path::PathBuf) -> Outcome<Node> {
    let extra = ["--segment", "4MiB", "--shards", "1"].map(String::from).to_vec();
    Node::start(common, Setup { dir, capacity: CAPACITY.into(), memory: MEMORY.into(), tcp: false, extra })
}

/// What a load takes: a fixed part, and a part for each block by its tier.
struct Loads([f64; 3]);

impl Loads {
    fn seconds(&self, found: &Found) -> f64 {
        let [fixed, memory, drive] = self.0;
        fixed + memory * f64::from(found.memory) + drive * f64::from(found.blocks - found.memory)
    }

    /// Least squares of relative errors: a long load tells no more than a short one.
    fn fitted(samples: &[(Found, f64)]) -> Outcome<Loads> {
        let mut sums = [[0.0f64; 4]; 3];
        for (found, seconds) in samples {
            let weight = 1.0 / (seconds * seconds).max(1e-12);
            let x = [1.0, f64::from(found.memory), f64::from(found.blocks - found.memory)];
            for (i, sums) in sums.iter_mut().enumerate() {
                (0..3).for_each(|k| sums[k] += weight * x[i] * x[k]);
                sums[3] += weight * x[i] * seconds;
            }
        }
        for i in 0..3 {
            let pivot = sums[i];
            if pivot[i].abs() < 1e-9 {
                return Err(Failed("loads of one tier only were measured".into()));
            }
            for k in (0..3).filter(|k| *k != i) {
                let times = sums[k][i] / pivot[i];
                (0..4).for_each(|c| sums[k][c] -= times * pivot[c]);
            }
        }
        Ok(Loads([0, 1, 2].map(|i| (sums[i][3] / sums[i][i]).max(0.0))))
    }
}

/// Fills a node twice over its DRAM and loads from both tiers.
fn measured(node: &Node) -> Outcome<Loads> {
    let client = node.unix()?;
    let space = client.namespace("default").map_err(why("opening the namespace"))?;
    let keys = fill(&space, "measured", 12_000, BLOCK)?;
    let mut samples = Vec::new();
    let (mut old, mut new) = (0, keys.len());
    for i in 0..LOADS {
        // Each old one once: a second time it would come to DRAM.
        let count = 1 + (i * 37) % LOAD_MAX;
        let from_drive = [0, count, count / 2][i % 3].min(4000usize.saturating_sub(old));
        let from_memory = count - from_drive;
        new = if new < keys.len() - 1500 { keys.len() } else { new };
        let wanted: Vec<Key> =
            keys[old..old + from_drive].iter().chain(&keys[new - from_memory..new]).copied().collect();
        (old, new) = (old + from_drive, new - from_memory);
        samples.push(load(&space, &wanted)?);
    }
    Loads::fitted(&samples)
}

/// Gets blocks: how many came, from where, and the seconds it took. What is behind a gap is no part of a load.
fn load(space: &NamespaceHandle, keys: &[Key]) -> Outcome<(Found, f64)> {
    let watch = Watch::start();
    let blocks = space.get(keys);
    let seconds = watch.s();
    let mut found = Found::default();
    for block in blocks.iter().map_while(|block| if let GetResult::Hit(block) = block { Some(block) } else { None }) {
        found.blocks += 1;
        found.memory += u32::from(block.tier() == Tier::Dram);
    }
    Ok((found, seconds))
}

/// What the forecaster may know of a node of this size.
fn params(node: &Node) -> Outcome<DriveParams> {
    let client = node.unix()?;
    let text = client.node_stats().map_err(why("asking for statistics"))?;
    let stats: Value = serde_json::from_str(&text).map_err(why("reading statistics"))?;
    let of = |name: &str| stats["shards"][0][name].as_u64().unwrap_or(0);
    let (segments, memory) = (of("segments"), of("dram_blocks"));
    if segments == 0 || memory == 0 {
        return Err(Failed("the node's statistics have lost segments or dram_blocks".into()));
    }
    let segment_blocks = (SEGMENT - AROUND) / RECORD;
    Ok(DriveParams { capacity: (segments * segment_blocks) as u32, segments: segments as u32, memory: memory as u32 })
}

/// Every request as an engine makes it: match, get what leads, put the rest.
fn replayed(node: &Node, plan: &Plan) -> Outcome<Vec<(Found, f64)>> {
    let client = node.unix()?;
    let space = client.namespace("default").map_err(why("opening the namespace"))?;
    let keys: Vec<Key> = (0..plan.distinct()).map(|number| space.derive_key(&number.to_le_bytes())).collect();
    let mut content: Vec<Vec<u8>> = vec![pattern(BLOCK); BATCH];
    let mut seen = Vec::with_capacity(plan.requests.len());
    for request in &plan.requests {
        let wanted: Vec<Key> = request.numbers().map(|number| keys[number as usize]).collect();
        let matched = space.match_prefix(&wanted, None).n;
        let found = if matched > 0 { load(&space, &wanted[..matched])? } else { (Found::default(), 0.0) };
        for part in wanted[found.0.blocks as usize..].chunks(BATCH) {
            part.iter().zip(&mut content).for_each(|(key, block)| stamp(block, key));
            let items: Vec<(Key, &[u8])> = part.iter().copied().zip(content.iter().map(Vec::as_slice)).collect();
            space.put(&items);
        }
        seen.push(found);
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_loads_take_is_found_again() {
        let found = |memory: u32, drive: u32| Found { blocks: memory + drive, memory };
        let truth = Loads([0.0004, 0.00002, 0.00011]);
        let samples: Vec<(Found, f64)> = [(1, 0), (0, 1), (10, 0), (0, 10), (30, 60), (96, 0), (0, 96)]
            .map(|(m, d)| (found(m, d), truth.seconds(&found(m, d))))
            .into();
        let fitted = Loads::fitted(&samples).ok().unwrap();
        assert!(fitted.0.iter().zip(truth.0).all(|(a, b)| (a / b - 1.0).abs() < 1e-6), "{:?}", fitted.0);
        assert!(Loads::fitted(&[(found(3, 0), 0.1), (found(5, 0), 0.2)]).is_err());
    }
}
