//! How far miss-ratio curves are from replays, and what memory they take.

use forebay_tokenomics::prefix::{LruCurve, PrefixLru, Worth, WorthCurve, replay_instant};
use forebay_tokenomics::trace::Plan;
use forebay_types::Reuse;
use serde_json::Value;

use super::traces::{Traces, curve, percent_of, plan};
use super::{Mark, TokenomicsArgs, row};
use crate::Outcome;
use crate::report::round;

const CAPACITIES: [u32; 6] = [1, 2, 5, 10, 20, 50];
/// In points of hit rate.
const MEAN_MAX: f64 = 1.0;
const WORST_MAX: f64 = 3.0;
const MIB_MAX: f64 = 16.0;

pub(crate) fn run(_: &TokenomicsArgs, traces: &Traces) -> Outcome<Vec<Value>> {
    let mut rows = Vec::new();
    if let Some(plan) = traces.agent_chunks(1)? {
        rows.extend(worth(&plan, "agents-2048")?);
    }
    if let Some(trace) = &traces.agents {
        rows.extend(lru(&plan(trace, 1)?, "agents-64")?);
    }
    if let Some(trace) = &traces.chat {
        let plan = plan(trace, 1)?;
        rows.extend(worth(&plan, "chat-512")?);
        rows.extend(lru(&plan, "chat-512")?);
    }
    Ok(rows)
}

fn lru(plan: &Plan, name: &str) -> Outcome<Vec<Value>> {
    let cost = curve()?;
    let mut curve = LruCurve::new();
    plan.requests.iter().for_each(|request| curve.request(request.numbers().map(u64::from)));
    let apart = CAPACITIES.map(|percent| {
        let capacity = percent_of(plan, percent);
        let replayed = replay_instant(plan, &cost, capacity, &mut PrefixLru::new()).count.hit_rate();
        curve.hit_rate(u64::from(capacity)) - replayed
    });
    let mut rows = judged("LRU", name, &apart);
    rows.push(memory("LRU", name, curve.memory_bytes()));
    Ok(rows)
}

/// Half, all, twice and four times of each capacity: 24 points, of which many are the same capacity seen from another one.
fn worth(plan: &Plan, name: &str) -> Outcome<Vec<Value>> {
    let cost = curve()?;
    let (mut apart, mut bytes) = (Vec::new(), 0);
    let mut replayed: Vec<(u64, f64)> = Vec::new();
    let mut keys = Vec::new();
    for percent in CAPACITIES {
        let mut curve = WorthCurve::around(cost, plan.block_tokens, u64::from(percent_of(plan, percent)), false);
        for request in &plan.requests {
            keys.clear();
            keys.extend(request.numbers().map(u64::from));
            curve.request(&keys, request.at_s, Reuse::Unknown);
            bytes = bytes.max(curve.bytes());
        }
        for (capacity, rate) in curve.hit_rates() {
            let known = replayed.iter().find(|(of, _)| *of == capacity).map(|(_, rate)| *rate);
            let truth = known.unwrap_or_else(|| {
                let mut worth = Worth::new(cost, plan.block_tokens, capacity as u32, false);
                replay_instant(plan, &cost, capacity as u32, &mut worth).count.hit_rate()
            });
            replayed.push((capacity, truth));
            apart.push(rate - truth);
        }
    }
    let mut rows = judged("worth", name, &apart);
    rows.push(memory("worth", name, bytes));
    Ok(rows)
}

fn memory(policy: &str, name: &str, bytes: usize) -> Value {
    let what = format!("{name}, {policy}: most memory of a curve");
    row("curves", what, round(bytes as f64 / f64::from(1 << 20)), "MiB", Mark::AtMost(MIB_MAX))
}

fn judged(policy: &str, name: &str, apart: &[f64]) -> Vec<Value> {
    let points = || apart.iter().map(|apart| apart.abs() * 100.0);
    let mean = points().sum::<f64>() / apart.len() as f64;
    let worst = points().fold(0.0, f64::max);
    let what = |of: &str| format!("{name}, {policy}: {of} at {} capacities", apart.len());
    vec![
        row("curves", what("mean error"), round(mean), "points", Mark::AtMost(MEAN_MAX)),
        row("curves", what("largest error"), round(worst), "points", Mark::AtMost(WORST_MAX)),
    ]
}
