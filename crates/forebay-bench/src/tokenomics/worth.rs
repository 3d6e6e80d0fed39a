//! What worth saves more than LRU, of what a policy that knows the future saves more.

use forebay_tokenomics::cost::CostCurve;
use forebay_tokenomics::prefix::{Clairvoyant, Future, PrefixLru, Worth, replay_instant, replay_on, upper_bound_s};
use forebay_tokenomics::trace::Plan;
use serde_json::Value;

use super::traces::{Traces, curve, percent_of, plan};
use super::{CAPACITIES, Mark, TokenomicsArgs, at_capacities, on_two_cores, row};
use crate::Outcome;
use crate::report::round;

const SEEDS: std::ops::RangeInclusive<u64> = 1..=5;
/// The first capacities, which the target sums over; the last is told and not summed.
const SUMMED: usize = 4;
const SHARE_MIN: f64 = 0.15;
/// Below LRU by so many per cent at most, anywhere.
const BELOW_MAX: f64 = 0.5;

/// GPU seconds saved at one point.
#[derive(Debug, Clone, Copy, Default)]
struct Point {
    lru_s: f64,
    worth_s: f64,
    /// With hints; as without where the trace has none.
    hinted_s: f64,
    clairvoyant_s: f64,
    bound_s: f64,
}

pub(crate) fn run(_: &TokenomicsArgs, traces: &Traces) -> Outcome<Vec<Value>> {
    let curve = curve()?;
    let mut rows = Vec::new();
    if traces.agents.is_some() {
        let plans = SEEDS.map(|seed| traces.agent_chunks(seed)).collect::<Outcome<Vec<_>>>()?;
        let plans: Vec<Plan> = plans.into_iter().flatten().collect();
        let mut points = points(&plans, &curve, true);
        rows.extend(judged("agents-2048", &points));
        points.iter_mut().flatten().for_each(|point| point.worth_s = point.hinted_s);
        rows.extend(judged("agents-2048, hints", &points));
    }
    if let Some(trace) = &traces.chat {
        rows.extend(judged("chat-512", &points(&[plan(trace, 1)?], &curve, false)));
    }
    Ok(rows)
}

/// All capacities of all plans.
fn points(plans: &[Plan], curve: &CostCurve, hints: bool) -> Vec<[Point; CAPACITIES.len()]> {
    let points = on_two_cores(plans.len() * CAPACITIES.len(), |i| {
        let plan = &plans[i / CAPACITIES.len()];
        point(plan, curve, percent_of(plan, CAPACITIES[i % CAPACITIES.len()]), hints)
    });
    points.as_chunks().0.to_vec()
}

fn point(plan: &Plan, curve: &CostCurve, capacity: u32, hints: bool) -> Point {
    let saved_s = |hints| {
        replay_instant(plan, curve, capacity, &mut Worth::new(*curve, plan.block_tokens, capacity, hints)).gpu_s_saved
    };
    let lru = replay_instant(plan, curve, capacity, &mut PrefixLru::new());
    let (tree, future) = Future::new(plan);
    let clairvoyant = replay_on(tree, plan, curve, capacity, &mut Clairvoyant::new(future, plan, *curve));
    let worth_s = saved_s(false);
    Point {
        lru_s: lru.gpu_s_saved,
        worth_s,
        hinted_s: if hints { saved_s(true) } else { worth_s },
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
    let what = format!("{name}: lead over LRU, of the clairvoyant's");
    let at = CAPACITIES.iter().enumerate().map(|(at, _)| share(&mut plans.iter().map(|points| points[at])));
    rows.push(at_capacities(row("worth", what, round(sum), "", Mark::AtLeast(SHARE_MIN)), at));
    let points = || plans.iter().flatten();
    let below = points().map(|p| (1.0 - p.worth_s / p.lru_s) * 100.0).fold(0.0, f64::max);
    let what = format!("{name}: furthest below LRU");
    rows.push(row("worth", what, round(below), "%", Mark::AtMost(BELOW_MAX)));
    let over = points().map(|p| p.worth_s.max(p.clairvoyant_s) / p.bound_s).fold(0.0, f64::max);
    let what = format!("{name}: most of the upper bound that is saved");
    rows.push(row("worth", what, round(over), "", Mark::AtMost(1.0)));
    rows
}
