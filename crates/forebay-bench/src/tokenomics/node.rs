//! Whether a forecast holds: a recorded hour of chat on a real node whose drive is far too small for it, beside the same by the forecaster.
//!
//! The forecaster counts first what each request would find and put. Then requests come to the node at the times of the record, forty times as fast; and between
//! them, to another node of the same size, filled once over, come requests for other blocks that ask as the forecast says: as many keys matched, as many got
//! from each tier, those of them again that come again, as many put. What loads take there is the machine's curve. Of the node that is replayed on nobody
//! knows more than its number of segments, and how many blocks its DRAM holds.
//!
//! Asked one behind the other, without any pause, half of the loads of one block stood behind what the request before had put, and took ten times as long as
//! the others: no middle of such times says anything. Measured minutes before, the machine and its drive were not what they were at the replay; and a node that
//! is asked a third as often takes a quarter longer for a block in DRAM. An engine computes between two requests, so there is a pause.

use std::collections::HashMap;

use forebay_client::{GetResult, NamespaceHandle};
use forebay_tokenomics::prefix::{DriveParams, Found, PrefixLru, replay_drive};
use forebay_tokenomics::trace::Plan;
use forebay_types::{Key, Tier};
use serde_json::Value;

use super::traces::{Traces, curve, plan};
use super::{Mark, TokenomicsArgs, row};
use crate::node::{Node, Setup};
use crate::report::{percentile, round, say, shown};
use crate::watch::Watch;
use crate::work::{Content, fill, pattern, stamp};
use crate::{Common, Failed, Outcome, Scratch, why};

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
/// Blocks that the measured node is filled with: more than fit.
const FILL: usize = 36_000;
/// Blocks that are read from the drive are this much older than the newest at most: older than DRAM holds, and read before they are evicted.
const READ_FROM: usize = 14_000;

/// Requests come as many times as fast as they were recorded: one in eight milliseconds.
const SPEED: f64 = 40.0;

const RATE_MAX: f64 = 1.0;
const P50_MAX: f64 = 25.0;
const P99_MAX: f64 = 50.0;

pub(crate) fn run(args: &TokenomicsArgs, traces: &Traces) -> Outcome<Vec<Value>> {
    let Some(trace) = &traces.chat else { return Ok(Vec::new()) };
    let mut plan = plan(trace, 1)?;
    plan.requests.truncate(REQUESTS);
    let dir = args.common.scratch("tokenomics")?;
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        rounds.push(round_of(args, &dir, &plan)?);
    }
    let names = [
        "blocks found in all",
        "blocks found from DRAM",
        "blocks found from the drive",
        "p50 of loads",
        "p99 of loads",
    ];
    let mut rows = Vec::new();
    for (at, name) in names.into_iter().enumerate() {
        let mut pairs: Vec<[f64; 2]> = rounds.iter().map(|round| round.pairs[at]).collect();
        let is_time = at >= SHARES;
        let off = |[forecast, found]: &[f64; 2]| {
            if is_time { (forecast / found - 1.0).abs() * 100.0 } else { (forecast - found).abs() }
        };
        pairs.sort_by(|a, b| off(a).total_cmp(&off(b)));
        let [forecast, found] = pairs[pairs.len() / 2];
        let (unit, both_in, most) = match at {
            3 => ("%", "ms", P50_MAX),
            4 => ("%", "ms", P99_MAX),
            _ => ("points", "%", RATE_MAX),
        };
        let mut row = row(
            "node",
            format!("chat-512, {name}: off by"),
            round(off(&pairs[pairs.len() / 2])),
            unit,
            Mark::AtMost(most),
        );
        (row["forecast"], row["found"], row["both_in"]) = (round(forecast).into(), round(found).into(), both_in.into());
        row["off_samples"] = pairs.iter().map(|pair| round(off(pair))).collect();
        row["spread"] = format!("{} to {}", shown(off(&pairs[0])), shown(off(&pairs[pairs.len() - 1]))).into();
        rows.push(row);
    }
    let written = rounds[0].written;
    rows.push(row("node", "chat-512, bytes written by byte put, forecast", round(written), "", Mark::Told));
    Ok(rows)
}

/// What is a share of blocks; the others are times.
const SHARES: usize = 3;

/// Forecast and found: shares in per cent, then times in milliseconds; and the forecast of bytes written by byte put.
struct Round {
    pairs: [[f64; 2]; 5],
    written: f64,
}

fn round_of(args: &TokenomicsArgs, dir: &Scratch, plan: &Plan) -> Outcome<Round> {
    let start = |name: &str| node(&args.common, dir.join(name));
    // It lives until the end: what becomes of its drive then is not to be felt by the other.
    let measured_on = start("m")?;
    // What fits into DRAM is seen when it is full.
    fill(&opened(&measured_on)?, "measured", FILL, BLOCK)?;
    let params = params(&measured_on)?;
    say(&format!(
        "tokenomics: the drive has {} segments, room for {} blocks, DRAM for {}",
        params.segments, params.capacity, params.memory
    ));
    let mut forecast = Vec::new();
    let counted = replay_drive(plan, &curve()?, params, &mut PrefixLru::new(), &mut |found| forecast.push(found));
    let counted = counted.map_err(why("the drive of a replay"))?;
    let [samples, seen] = in_turn(&measured_on, &start("r")?, plan, &forecast)?;
    let loads = Loads::fitted(&samples)?;
    let blocks: f64 = plan.requests.iter().map(|request| f64::from(request.blocks)).sum();
    let share =
        |of: &dyn Fn(&Found) -> u32, all: &[Found]| all.iter().map(|f| f64::from(of(f))).sum::<f64>() / blocks * 100.0;
    let found: Vec<Found> = seen.iter().map(|(found, _)| *found).collect();
    let shares = |of: &dyn Fn(&Found) -> u32| [share(of, &forecast), share(of, &found)];
    let expected = loads.expected(&forecast);
    let took: Vec<f64> = seen.iter().filter(|(f, _)| f.blocks > 0).map(|(_, seconds)| *seconds).collect();
    let times = |q: f64| [percentile(&expected, q) * 1e3, percentile(&took, q) * 1e3];
    let pairs =
        [shares(&|f| f.blocks), shares(&|f| f.memory), shares(&|f| f.blocks - f.memory), times(0.5), times(0.99)];
    Ok(Round { pairs, written: counted.write_amplification() })
}

fn node(common: &Common, dir: std::path::PathBuf) -> Outcome<Node> {
    // On extents that were never written a write is dearer and a load behind it waits longer: a node is so for its first lap only, and a forecast is for those
    // that follow.
    let extra = ["--segment", "4MiB", "--shards", "1", "--prewrite", "--policy", "lru"].map(String::from).to_vec();
    Node::start(common, Setup { dir, capacity: CAPACITY.into(), memory: MEMORY.into(), tcp: false, extra })
}

/// What a load takes: a fixed part, and a part for each block by its tier; and how far loads were from that. A load is short or long by what else the
/// machine does, so a mean alone tells no tail.
struct Loads {
    parts: [f64; 3],
    /// Of each load that was measured, the seconds that the parts say and those it took of them; quickest by the parts first.
    seen: Vec<(f64, f64)>,
}

/// A load is as far off as one of so many that are most like it: quick ones and slow ones are not off alike.
const ALIKE: usize = 200;

impl Loads {
    fn seconds(&self, found: &Found) -> f64 {
        let [fixed, memory, drive] = self.parts;
        fixed + memory * f64::from(found.memory) + drive * f64::from(found.blocks - found.memory)
    }

    /// What loads of these sizes would take, one more of each size as far off as the next of those measured that are like it.
    fn expected(&self, found: &[Found]) -> Vec<f64> {
        let mut next: HashMap<usize, usize> = HashMap::new();
        let loads = found.iter().filter(|found| found.blocks > 0);
        loads
            .map(|found| {
                let seconds = self.seconds(found);
                let alike = self.alike(seconds);
                // Steps of the golden section of the list: all of it is gone through evenly, whatever the number of loads.
                let turn = next.entry(alike.start).or_insert(0);
                *turn += 1;
                let at = (*turn as f64 * 0.618_033_988_749_895).fract();
                let alike = &self.seen[alike];
                seconds * alike[(at * alike.len() as f64) as usize].1
            })
            .collect()
    }

    /// Where those measured stand that are most like a load of so many seconds: all that are just like it, and as many more as are wanted.
    fn alike(&self, seconds: f64) -> std::ops::Range<usize> {
        let same = 1e-9 * seconds;
        let mut begin = self.seen.partition_point(|(other, _)| *other < seconds - same);
        let mut end = self.seen.partition_point(|(other, _)| *other <= seconds + same);
        while end - begin < ALIKE.min(self.seen.len()) {
            let (before, behind) = (begin.checked_sub(1), Some(end).filter(|end| *end < self.seen.len()));
            let far = |at: usize| (self.seen[at].0 - seconds).abs();
            match (before, behind) {
                (Some(before), Some(behind)) if far(before) < far(behind) => begin = before,
                (Some(before), None) => begin = before,
                _ => end += 1,
            }
        }
        begin..end
    }

    fn fitted(samples: &[(Found, f64)]) -> Outcome<Loads> {
        let samples: Vec<(Found, f64)> = samples.iter().copied().filter(|(found, _)| found.blocks > 0).collect();
        let mut loads = Loads { parts: parts(&samples)?, seen: Vec::new() };
        loads.seen =
            samples.iter().map(|(found, seconds)| (loads.seconds(found), *seconds / loads.seconds(found))).collect();
        // By the order of what they took among equals, so that steps through the list meet quick and slow ones evenly.
        loads.seen.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
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

/// What the requests are forecast to ask, with blocks of a filled node: as many keys to match, as many to load from each tier, as many to put.
fn alike(space: &NamespaceHandle, plan: &Plan, forecast: &[Found]) -> Vec<Vec<Key>> {
    // What stands for a block of the trace that is found in DRAM: the same whenever it comes again, so what is hot there is hot here.
    let mut standing: HashMap<u32, Key> = HashMap::new();
    let key = |number: usize| Content::key(space, "measured", number);
    let (mut old, mut newest) = (FILL - READ_FROM, FILL);
    let mut requests = Vec::new();
    for (request, found) in plan.requests.iter().zip(forecast) {
        let numbers: Vec<u32> = request.numbers().collect();
        let (led, rest) = numbers.split_at(found.blocks as usize);
        // Heads are used last and stay in DRAM longest.
        let (memory, drive) = led.split_at(found.memory as usize);
        let mut wanted: Vec<Key> = Vec::with_capacity(numbers.len());
        for (back, number) in memory.iter().enumerate() {
            wanted.push(*standing.entry(*number).or_insert_with(|| key(newest - 1 - back)));
        }
        // Each old one once: a second time it would come to DRAM. Those that are about to be evicted are left out.
        old = old.max(newest - READ_FROM);
        wanted.extend((old..old + drive.len()).map(key));
        wanted.extend((newest..newest + rest.len()).map(key));
        standing.extend(rest.iter().copied().zip(wanted[led.len()..].iter().copied()));
        (old, newest) = (old + drive.len(), newest + rest.len());
        requests.push(wanted);
    }
    requests
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
    Ok(DriveParams {
        capacity: (segments * segment_blocks) as u32,
        segments: segments as u32,
        segment_bytes: SEGMENT,
        memory: memory as u32,
    })
}

/// Every request of the trace on one node, and between them, on the other, what stands for each: what the machine and its drive do besides is the same for
/// both, and so is how long a node and its client have rested. What each found, and the seconds of its load.
fn in_turn(measured: &Node, replayed: &Node, plan: &Plan, forecast: &[Found]) -> Outcome<[Vec<(Found, f64)>; 2]> {
    let (mut like, mut real) = (Asker::new(opened(measured)?), Asker::new(opened(replayed)?));
    let likes = alike(&like.space, plan, forecast);
    let keys: Vec<Key> = (0..plan.distinct()).map(|number| real.space.derive_key(&number.to_le_bytes())).collect();
    let times: Vec<f64> = plan.requests.iter().map(|request| request.at_s / SPEED).collect();
    let (mut seen, mut samples) = (Vec::with_capacity(plan.requests.len()), Vec::new());
    let watch = Watch::start();
    for (i, request) in plan.requests.iter().enumerate() {
        let wanted: Vec<Key> = request.numbers().map(|number| keys[number as usize]).collect();
        watch.until_s(times[i]);
        seen.push(real.asks(&wanted)?);
        let next_s = times.get(i + 1).copied().unwrap_or(times[i]);
        watch.until_s(f64::midpoint(times[i], next_s));
        samples.push(like.asks(&likes[i])?);
    }
    Ok([samples, seen])
}

/// Who asks a node as an engine does.
struct Asker {
    space: NamespaceHandle,
    content: Vec<Vec<u8>>,
}

impl Asker {
    fn new(space: NamespaceHandle) -> Asker {
        Asker { space, content: vec![pattern(BLOCK); BATCH] }
    }

    /// Matches, gets what leads, puts the rest: what was found, and the seconds of its load.
    fn asks(&mut self, wanted: &[Key]) -> Outcome<(Found, f64)> {
        let matched = self.space.match_prefix(wanted, None).n;
        let found = if matched > 0 { load(&self.space, &wanted[..matched])? } else { (Found::default(), 0.0) };
        for part in wanted[found.0.blocks as usize..].chunks(BATCH) {
            part.iter().zip(&mut self.content).for_each(|(key, block)| stamp(block, key));
            let items: Vec<(Key, &[u8])> = part.iter().copied().zip(self.content.iter().map(Vec::as_slice)).collect();
            self.space.put(&items);
        }
        Ok(found)
    }
}

fn opened(node: &Node) -> Outcome<NamespaceHandle> {
    node.unix()?.namespace("default").map_err(why("opening the namespace"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_loads_take_is_found_again() {
        let found = |memory: u32, drive: u32| Found { blocks: memory + drive, memory };
        let truth = Loads { parts: [0.0004, 0.00002, 0.00011], seen: Vec::new() };
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
