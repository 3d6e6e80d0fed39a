//! What a drive that frees whole segments loses of what the policy would have found.

use forebay_tokenomics::prefix::{PrefixLru, Valued, Worth, replay_instant, replay_segments};
use forebay_tokenomics::trace::Plan;
use serde_json::Value;

use super::traces::{Traces, curve, percent_of, plan};
use super::{CAPACITIES, Mark, TokenomicsArgs, at_capacities, on_two_cores, row};
use crate::report::round;
use crate::{Outcome, why};

/// Of the coding agents' blocks of 64 tokens eight make one here, as in the chat trace.
const BLOCKS: u32 = 8;
/// More than there are: a segment then has four blocks, the coarsest blocks that a drive takes. Segments of a terabyte are 256 MiB, a block of 512 tokens of
/// this model is 160 MiB and would be stored as several, so real segments are finer.
const SEGMENTS: u32 = 65_536;
const LOST_MAX: f64 = 2.0;
const AMPLIFICATION_MAX: f64 = 1.34;

pub(crate) fn run(_: &TokenomicsArgs, traces: &Traces) -> Outcome<Vec<Value>> {
    let mut rows = Vec::new();
    if let Some(trace) = &traces.agents {
        rows.extend(compared(&plan(&trace.clone().chunked(BLOCKS), 1)?, "agents-512")?);
    }
    if let Some(trace) = &traces.chat {
        rows.extend(compared(&plan(trace, 1)?, "chat-512")?);
    }
    Ok(rows)
}

fn compared(plan: &Plan, name: &str) -> Outcome<Vec<Value>> {
    const POLICIES: [&str; 2] = ["lru", "worth"];
    let cost = curve()?;
    let points = on_two_cores(POLICIES.len() * CAPACITIES.len(), |i| {
        let capacity = percent_of(plan, CAPACITIES[i % CAPACITIES.len()]);
        let make = || -> Box<dyn Valued> {
            match POLICIES[i / CAPACITIES.len()] {
                "lru" => Box::new(PrefixLru::new()),
                _ => Box::new(Worth::new(cost, plan.block_tokens, capacity, false)),
            }
        };
        let ideal = replay_instant(plan, &cost, capacity, make().as_mut()).count.hit_rate();
        let drive = replay_segments(plan, &cost, capacity, SEGMENTS, make().as_mut());
        let drive = drive.map_err(why("the drive of a replay"))?;
        Ok(((ideal - drive.instant.count.hit_rate()) * 100.0, drive.write_amplification()))
    });
    let points = points.into_iter().collect::<Outcome<Vec<(f64, f64)>>>()?;
    let mut rows = Vec::new();
    for (policy, points) in POLICIES.iter().zip(points.chunks(CAPACITIES.len())) {
        let most = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).fold(0.0, f64::max);
        let what = format!("{name}, {policy}: most hit rate lost");
        let lost = row("segments", what, round(most(|point| point.0)), "points", Mark::AtMost(LOST_MAX));
        rows.push(at_capacities(lost, points.iter().map(|point| point.0)));
        let what = format!("{name}, {policy}: most bytes written by byte put");
        rows.push(row("segments", what, round(most(|point| point.1)), "", Mark::AtMost(AMPLIFICATION_MAX)));
    }
    Ok(rows)
}
