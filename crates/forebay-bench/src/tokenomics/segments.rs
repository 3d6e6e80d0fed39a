//! What a drive that frees whole segments loses of what the policy would have found.

use forebay_tokenomics::prefix::{PrefixLru, Valued, Worth, replay_instant, replay_segments};
use forebay_tokenomics::trace::Plan;
use serde_json::Value;

use super::traces::{Traces, curve, percent_of, plan};
use super::{Mark, TokenomicsArgs, row};
use crate::report::round;
use crate::{Outcome, why};

/// Of the coding agents' blocks of 64 tokens eight make one here, as in the chat trace.
const BLOCKS: u32 = 8;
const CAPACITIES: [u32; 5] = [1, 2, 5, 10, 20];
/// More than there are: a segment then has four blocks, the coarsest blocks that a drive takes. Segments of a terabyte are 256 MiB, a block of 512 tokens of
/// this model is 160 MiB and would be stored as several, so real segments are finer.
const SEGMENTS: u32 = 65_536;
const LOST_MAX: f64 = 2.0;
const AMPLIFICATION_MAX: f64 = 1.34;

pub(crate) fn run(_: &TokenomicsArgs, traces: &Traces) -> Outcome<Vec<Value>> {
    let mut rows = Vec::new();
    if let Some(trace) = &traces.agents {
        rows.extend(compared(&plan(&trace.clone().chunked(BLOCKS), 1)?, "agents, blocks of 512 tokens")?);
    }
    if let Some(trace) = &traces.chat {
        rows.extend(compared(&plan(trace, 1)?, "chat, blocks of 512 tokens")?);
    }
    Ok(rows)
}

fn compared(plan: &Plan, name: &str) -> Outcome<Vec<Value>> {
    let cost = curve()?;
    let mut rows = Vec::new();
    for policy in ["lru", "worth"] {
        let (mut lost, mut amplification, mut told) = (0.0f64, 0.0f64, Vec::new());
        for percent in CAPACITIES {
            let capacity = percent_of(plan, percent);
            let make = || -> Box<dyn Valued> {
                match policy {
                    "lru" => Box::new(PrefixLru::new()),
                    _ => Box::new(Worth::new(cost, plan.block_tokens, capacity, false)),
                }
            };
            let ideal = replay_instant(plan, &cost, capacity, make().as_mut()).count.hit_rate();
            let drive = replay_segments(plan, &cost, capacity, SEGMENTS, make().as_mut());
            let drive = drive.map_err(why("the drive of a replay"))?;
            let here = (ideal - drive.instant.count.hit_rate()) * 100.0;
            told.push(format!("{percent} %: {here:.2}"));
            lost = lost.max(here);
            amplification = amplification.max(drive.write_amplification());
        }
        let what = format!("{name}, {policy}: most hit rate lost ({})", told.join(", "));
        rows.push(row("segments", what, round(lost), "points", Mark::AtMost(LOST_MAX)));
        let what = format!("{name}, {policy}: most bytes written by byte put");
        rows.push(row("segments", what, round(amplification), "", Mark::AtMost(AMPLIFICATION_MAX)));
    }
    Ok(rows)
}
