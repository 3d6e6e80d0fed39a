//! What worth saves more than LRU, of what a policy that knows the future saves more.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use forebay_tokenomics::cost::CostCurve;
use forebay_tokenomics::prefix::{Clairvoyant, Future, PrefixLru, Worth, replay_instant, replay_on, upper_bound_s};
use forebay_tokenomics::trace::Plan;
use serde_json::Value;

use super::traces::{Traces, curve, percent_of, plan};
use super::{Mark, TokenomicsArgs, row};
use crate::Outcome;
use crate::report::{round, say};

const SEEDS: std::ops::RangeInclusive<u64> = 1..=5;
/// Per cents of the distinct blocks; the last is told and not summed.
const CAPACITIES: [u32; 5] = [1, 2, 5, 10, 20];
const SUMMED: usize = 4;
const SHARE_MIN: f64 = 0.15;
/// Below LRU by so many per cent at most, anywhere.
const BELOW_MAX: f64 = 0.5;

/// GPU seconds saved at one point.
#[derive(Debug, Clone, Copy, Default)]
struct Point {
    lru_s: f64,
    worth_s: f64,
    clairvoyant_s: f64,
    bound_s: f64,
}

pub(crate) fn run(_: &TokenomicsArgs, traces: &Traces) -> Outcome<Vec<Value>> {
    let curve = curve()?;
    let mut rows = Vec::new();
    let mut loads: Vec<(&str, Vec<Plan>, bool)> = Vec::new();
    if traces.agents.is_some() {
        let plans = SEEDS.map(|seed| traces.agent_chunks(seed)).collect::<Outcome<Vec<_>>>()?;
        let plans: Vec<Plan> = plans.into_iter().flatten().collect();
        loads.push(("agents, chunks of 2,048 tokens, seeds 1 to 5", plans.clone(), false));
        loads.push(("agents, chunks of 2,048 tokens, seeds 1 to 5, with hints", plans, true));
    }
    if let Some(trace) = &traces.chat {
        loads.push(("chat, blocks of 512 tokens", vec![plan(trace, 1)?], false));
    }
    for (name, plans, hints) in loads {
        let points = points(&plans, &curve, hints);
        rows.extend(judged(name, &points));
    }
    Ok(rows)
}

/// All capacities of all plans, on two cores.
fn points(plans: &[Plan], curve: &CostCurve, hints: bool) -> Vec<[Point; CAPACITIES.len()]> {
    let next = AtomicUsize::new(0);
    let all = Mutex::new(vec![[Point::default(); CAPACITIES.len()]; plans.len()]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(plan) = plans.get(i / CAPACITIES.len()) else { return };
                    let at = i % CAPACITIES.len();
                    let point = point(plan, curve, percent_of(plan, CAPACITIES[at]), hints);
                    let mut all = all.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                    all[i / CAPACITIES.len()][at] = point;
                }
            });
        }
    });
    all.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn point(plan: &Plan, curve: &CostCurve, capacity: u32, hints: bool) -> Point {
    let lru = replay_instant(plan, curve, capacity, &mut PrefixLru::new());
    let worth = replay_instant(plan, curve, capacity, &mut Worth::new(*curve, plan.block_tokens, capacity, hints));
    let (tree, future) = Future::new(plan);
    let clairvoyant = replay_on(tree, plan, curve, capacity, &mut Clairvoyant::new(future, plan, *curve));
    Point {
        lru_s: lru.gpu_s_saved,
        worth_s: worth.gpu_s_saved,
        clairvoyant_s: clairvoyant.gpu_s_saved,
        bound_s: upper_bound_s(plan, curve, capacity),
    }
}

fn judged(name: &str, plans: &[[Point; CAPACITIES.len()]]) -> Vec<Value> {
    let share = |points: &mut dyn Iterator<Item = Point>| {
        let (ours, best) =
            points.fold((0.0, 0.0), |(ours, best), p| (ours + p.worth_s - p.lru_s, best + p.clairvoyant_s - p.lru_s));
        if best > 0.0 { ours / best } else { 0.0 }
    };
    let mut rows = Vec::new();
    let sum = share(&mut plans.iter().flat_map(|points| points[..SUMMED].iter().copied()));
    let what = format!("{name}: more than LRU, of what the clairvoyant saves more, summed over 1 to 10 %");
    rows.push(row("worth", what, round(sum), "", Mark::AtLeast(SHARE_MIN)));
    for (at, capacity) in CAPACITIES.iter().enumerate() {
        let one = share(&mut plans.iter().map(|points| points[at]));
        say(&format!("{name}, {capacity} %: {one:.3}"));
        rows.push(row("worth", format!("{name}: the same at {capacity} %"), round(one), "", Mark::Told));
    }
    let points = || plans.iter().flatten();
    let below = points().map(|p| (1.0 - p.worth_s / p.lru_s) * 100.0).fold(0.0, f64::max);
    let what = format!("{name}: the point furthest below LRU");
    rows.push(row("worth", what, round(below), "%", Mark::AtMost(BELOW_MAX)));
    let over = points().map(|p| p.worth_s.max(p.clairvoyant_s) / p.bound_s).fold(0.0, f64::max);
    rows.push(row(
        "worth",
        format!("{name}: most of the upper bound that any point saves"),
        round(over),
        "",
        Mark::AtMost(1.0),
    ));
    rows
}
