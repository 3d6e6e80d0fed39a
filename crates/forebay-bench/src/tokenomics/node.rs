//! Whether a forecast holds: a recorded hour of chat on a real node whose drive is far too small for it, beside the same by the forecaster.
//!
//! The forecaster counts first what each request would find and put. Then another node of the same size, filled once over, tells what loads of those sizes take
//! while as much is put beside them; of the node that is replayed on nobody knows more than its number of segments, and how many blocks its DRAM holds.

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
use crate::work::{Content, fill, pattern, stamp};
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
/// Requests whose loads and puts are measured beforehand, evenly among those forecast.
const MEASURED: usize = 1500;
/// Blocks that the measured node is filled with: more than fit.
const FILL: usize = 36_000;
/// The first of them that are read, counted from the last: older than DRAM holds, and read before they are evicted.
const READ_FROM: usize = 14_000;

const RATE_MAX: f64 = 1.0;
const P50_MAX: f64 = 25.0;
const P99_MAX: f64 = 50.0;

pub(crate) fn run(args: &TokenomicsArgs, traces: &Traces) -> Outcome<Vec<Value>> {
    let Some(trace) = &traces.chat else { return Ok(Vec::new()) };
    let mut plan = plan(trace, 1)?;
    plan.requests.truncate(REQUESTS);
    let dir = args.common.scratch("tokenomics")?;
    let start = |name: &str| node(&args.common, dir.join(name));
    let node = start("m")?;
    // What fits into DRAM is seen when it is full.
    let keys = filled(&node)?;
    let params = params(&node)?;
    say(&format!(
        "tokenomics: the drive has {} segments, room for {} blocks, DRAM for {}",
        params.segments, params.capacity, params.memory
    ));
    let mut forecast = Vec::new();
    let counted = replay_drive(&plan, &curve()?, params, &mut PrefixLru::new(), &mut |found| forecast.push(found));
    let counted = counted.map_err(why("the drive of a replay"))?;
    let loads = measured(&node, keys, &plan, &forecast)?;
    drop(node);
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
    let expected = loads.expected(&forecast);
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

/// What a load takes: a fixed part, and a part for each block by its tier; and how far loads were from that. A load is short or long by what else the
/// machine does, so a mean alone tells no tail.
struct Loads {
    parts: [f64; 3],
    /// What loads took of what the parts say, in order, by how long the parts say: quick ones and slow ones are not off alike.
    off: Vec<(f64, Vec<f64>)>,
}

/// Groups of loads whose spread is told apart.
const GROUPS: usize = 6;

impl Loads {
    fn seconds(&self, found: &Found) -> f64 {
        let [fixed, memory, drive] = self.parts;
        fixed + memory * f64::from(found.memory) + drive * f64::from(found.blocks - found.memory)
    }

    /// What loads of these sizes would take, one more of each kind as far off as the next of those measured.
    fn expected(&self, found: &[Found]) -> Vec<f64> {
        let mut next = vec![0usize; self.off.len()];
        let loads = found.iter().filter(|found| found.blocks > 0);
        loads
            .map(|found| {
                let seconds = self.seconds(found);
                let group = self.off.partition_point(|(upto, _)| *upto < seconds).min(self.off.len() - 1);
                let off = &self.off[group].1;
                // Steps of the golden section of the list: all of it is gone through evenly, whatever the number of loads.
                next[group] += 1;
                let at = (next[group] as f64 * 0.618_033_988_749_895).fract();
                seconds * off[(at * off.len() as f64) as usize]
            })
            .collect()
    }

    fn fitted(samples: &[(Found, f64)]) -> Outcome<Loads> {
        let mut loads = Loads { parts: parts(samples)?, off: Vec::new() };
        let mut by_size: Vec<(f64, f64)> =
            samples.iter().map(|(found, seconds)| (loads.seconds(found), *seconds)).collect();
        by_size.sort_by(|a, b| a.0.total_cmp(&b.0));
        for group in by_size.chunks(by_size.len().div_ceil(GROUPS).max(1)) {
            let mut off: Vec<f64> = group.iter().map(|(expected, seconds)| seconds / expected).collect();
            off.sort_by(f64::total_cmp);
            loads.off.push((group.last().map_or(0.0, |(expected, _)| *expected), off));
        }
        Ok(loads)
    }
}

/// Least squares of relative errors: a long load tells no more than a short one.
fn parts(samples: &[(Found, f64)]) -> Outcome<[f64; 3]> {
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
    // A load takes some time, whatever chance says of its fixed part.
    Ok([0, 1, 2].map(|i| (sums[i][3] / sums[i][i]).max(if i == 0 { 1e-6 } else { 0.0 })))
}

/// Puts more than fits.
fn filled(node: &Node) -> Outcome<Vec<Key>> {
    let client = node.unix()?;
    let space = client.namespace("default").map_err(why("opening the namespace"))?;
    fill(&space, "measured", FILL, BLOCK)
}

/// On a filled node, does what some of the requests are forecast to do: loads as much by tier, puts as much, with other blocks.
fn measured(node: &Node, mut keys: Vec<Key>, plan: &Plan, forecast: &[Found]) -> Outcome<Loads> {
    let client = node.unix()?;
    let space = client.namespace("default").map_err(why("opening the namespace"))?;
    let mut content = Content::new(BATCH, BLOCK);
    let mut samples = Vec::new();
    let mut old = FILL - READ_FROM;
    let every = (forecast.len() / MEASURED).max(1);
    for (request, found) in plan.requests.iter().zip(forecast).step_by(every) {
        // Each old one once: a second time it would come to DRAM.
        let from_drive = (found.blocks - found.memory) as usize;
        let newest = keys.len();
        let wanted: Vec<Key> =
            keys[old..old + from_drive].iter().chain(&keys[newest - found.memory as usize..]).copied().collect();
        old += from_drive;
        if !wanted.is_empty() {
            samples.push(load(&space, &wanted)?);
        }
        for first in (0..request.blocks - found.blocks).step_by(BATCH) {
            let last = (first + BATCH as u32).min(request.blocks - found.blocks);
            keys.extend(content.put(&space, "measured", newest + first as usize..newest + last as usize)?);
        }
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
        let truth = Loads { parts: [0.0004, 0.00002, 0.00011], off: Vec::new() };
        let sizes = [(1, 0), (0, 1), (10, 0), (0, 10), (30, 60), (96, 0), (0, 96)];
        let samples: Vec<(Found, f64)> = sizes.map(|(m, d)| (found(m, d), truth.seconds(&found(m, d)))).into();
        let fitted = Loads::fitted(&samples).ok().unwrap();
        assert!(fitted.parts.iter().zip(truth.parts).all(|(a, b)| (a / b - 1.0).abs() < 1e-6), "{:?}", fitted.parts);
        let expected = fitted.expected(&[found(30, 60), found(0, 0), found(1, 0)]);
        assert!(expected.len() == 2 && (expected[0] / samples[4].1 - 1.0).abs() < 1e-6, "{expected:?}");
        // One in ten takes twenty times as long: the middle is told as it was, and so is the tail.
        let tailed: Vec<(Found, f64)> = (0..600usize)
            .map(|i| (samples[i % sizes.len()].0, samples[i % sizes.len()].1 * if i % 10 == 3 { 20.0 } else { 1.0 }))
            .collect();
        let fitted = Loads::fitted(&tailed).ok().unwrap();
        let again = fitted.expected(&tailed.iter().map(|(found, _)| *found).collect::<Vec<_>>());
        let took: Vec<f64> = tailed.iter().map(|(_, seconds)| *seconds).collect();
        for q in [0.5, 0.99] {
            let apart = percentile(&again, q) / percentile(&took, q) - 1.0;
            assert!(apart.abs() < 0.1, "{apart} at {q}");
        }
        assert!(Loads::fitted(&[(found(3, 0), 0.1), (found(5, 0), 0.2)]).is_err());
    }
}
