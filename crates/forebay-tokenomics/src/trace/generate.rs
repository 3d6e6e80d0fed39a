//! A fleet of coding-agent sessions from a seed, for those who have no trace at hand.
//!
//! Calibrated on published figures: starting context P25 / P50 / P75 of 18.7k / 24.8k / 105k tokens, 48 requests a session in the median, 10 s
//! of pause in the median, about 15k tokens of prompt shared by all. What is not published (growth a request, time of an answer, the point
//! where an agent compacts its context) is an assumption, named below.

use super::{Pace, Request, Runs, Session, Trace};
use crate::seeded::Seeded;

const BLOCK_TOKENS: u64 = 64;

/// Tokens of tools and of system prompt, equal in all sessions.
const SHARED_TOOL_TOKENS: u64 = 12_200;
const SHARED_SYSTEM_TOKENS: u64 = 2_800;

/// Starting context: quantile and tokens. The three middle ones are published; the ends are assumed.
const START_TOKENS: [(f64, f64); 5] =
    [(0.0, 15_600.0), (0.25, 18_700.0), (0.5, 24_800.0), (0.75, 105_000.0), (1.0, 160_000.0)];

const REQUESTS_MEDIAN: f64 = 48.0;
/// Assumed: deviation of the logarithm.
const REQUESTS_SPREAD: f64 = 0.8;
/// Assumed ceiling, so that one session cannot be the whole fleet.
const REQUESTS_MAX: f64 = 400.0;

const THINK_S_MEDIAN: f64 = 10.0;
/// Assumed: from a quick tool to a person who went for lunch.
const THINK_SPREAD: f64 = 1.4;

/// Assumed: tokens that a request adds (the last answer and a tool's output), in the median.
const GROWTH_TOKENS_MEDIAN: f64 = 700.0;
const GROWTH_SPREAD: f64 = 1.1;
/// Assumed: tokens of an answer and seconds it takes, in the median.
const OUTPUT_TOKENS_MEDIAN: f64 = 250.0;
const API_S_MEDIAN: f64 = 6.0;
const ANSWER_SPREAD: f64 = 0.7;

/// Assumed: context at which an agent replaces its history by a summary, and tokens of the summary.
const COMPACT_ABOVE_TOKENS: u64 = 180_000;
const SUMMARY_TOKENS: u64 = 6_000;

/// Which fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FleetParams {
    /// How many sessions.
    pub sessions: u32,
    /// Where chance comes from.
    pub seed: u64,
}

/// Generates sessions. The same parameters give the same trace, and a larger fleet begins with the sessions of a smaller one.
pub fn generate_fleet(params: &FleetParams) -> Trace {
    let sessions = (0..params.sessions).map(|i| session(params.seed, i)).collect();
    Trace { block_tokens: BLOCK_TOKENS as u32, pace: Pace::Sessions, sessions }
}

fn session(seed: u64, index: u32) -> Session {
    let mut chance = Seeded::new(crate::seeded::finish(seed ^ (u64::from(index) << 32 | 0x5e55_1045)));
    let shared_tokens = SHARED_TOOL_TOKENS + SHARED_SYSTEM_TOKENS;
    let count = chance.around(REQUESTS_MEDIAN, REQUESTS_SPREAD).clamp(1.0, REQUESTS_MAX).round() as usize;
    let mut tokens = start_tokens(chance.unit()) as u64;
    // A block's id stands for all tokens up to its end, so only full blocks are kept when the context grows.
    let mut blocks = Runs::new();
    let mut next_id = 1;
    fill(&mut blocks, &mut next_id, tokens);
    let shared = blocks.prefix(shared_tokens / BLOCK_TOKENS);
    let mut requests = Vec::with_capacity(count);
    let (mut at_s, mut think_s) = (0.0, 0.0);
    for _ in 0..count {
        let output_tokens = chance.around(OUTPUT_TOKENS_MEDIAN, ANSWER_SPREAD).clamp(1.0, 8_000.0) as u64;
        let api_s = chance.around(API_S_MEDIAN, ANSWER_SPREAD).clamp(0.5, 120.0);
        requests.push(Request {
            at_s,
            prompt_tokens: tokens,
            output_tokens,
            blocks: blocks.clone(),
            api_s: Some(api_s),
            think_s: Some(think_s),
            flow: 0,
            stop: if think_s > 60.0 { "end_turn".into() } else { "tool_use".into() },
        });
        think_s = chance.around(THINK_S_MEDIAN, THINK_SPREAD).min(3_600.0);
        at_s += api_s + think_s;
        tokens += output_tokens + chance.around(GROWTH_TOKENS_MEDIAN, GROWTH_SPREAD).min(20_000.0) as u64;
        if tokens > COMPACT_ABOVE_TOKENS {
            blocks = shared.clone();
            tokens = shared_tokens + SUMMARY_TOKENS;
        }
        fill(&mut blocks, &mut next_id, tokens);
    }
    Session {
        id: format!("generated-{index}"),
        model: "generated".into(),
        tool_tokens: SHARED_TOOL_TOKENS,
        system_tokens: SHARED_SYSTEM_TOKENS,
        requests,
    }
}

/// Adds fresh ids until every full block of `tokens` has one.
fn fill(blocks: &mut Runs, next_id: &mut u64, tokens: u64) {
    let fresh = (tokens / BLOCK_TOKENS).saturating_sub(blocks.len());
    blocks.push_run(*next_id, fresh as u32);
    *next_id += fresh;
}

/// Starting context at a quantile: straight lines in the logarithm between the published points.
fn start_tokens(quantile: f64) -> f64 {
    let above = START_TOKENS.iter().position(|(q, _)| *q > quantile).unwrap_or(START_TOKENS.len() - 1);
    let ((q0, t0), (q1, t1)) = (START_TOKENS[above - 1], START_TOKENS[above]);
    let share = (quantile - q0) / (q1 - q0);
    (t0.ln() + share * (t1.ln() - t0.ln())).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantile(mut values: Vec<f64>, q: f64) -> f64 {
        values.sort_by(f64::total_cmp);
        values[((values.len() - 1) as f64 * q) as usize]
    }

    #[test]
    fn a_fleet_has_the_published_quantiles() {
        let fleet = generate_fleet(&FleetParams { sessions: 4000, seed: 1 });
        let within = |value: f64, published: f64, share: f64| {
            assert!((value / published - 1.0).abs() < share, "{value} is not near {published}");
        };
        let starts: Vec<f64> = fleet.sessions.iter().map(|s| s.requests[0].prompt_tokens as f64).collect();
        within(quantile(starts.clone(), 0.25), 18_700.0, 0.03);
        within(quantile(starts.clone(), 0.50), 24_800.0, 0.10);
        within(quantile(starts, 0.75), 105_000.0, 0.05);
        within(quantile(fleet.sessions.iter().map(|s| s.requests.len() as f64).collect(), 0.5), 48.0, 0.06);
        let thinks = fleet.sessions.iter().flat_map(|s| s.requests.iter().skip(1)).filter_map(|r| r.think_s).collect();
        within(quantile(thinks, 0.5), 10.0, 0.03);
    }

    #[test]
    fn a_prompt_has_an_id_for_each_full_block_and_begins_with_the_shared_ones() {
        let fleet = generate_fleet(&FleetParams { sessions: 50, seed: 9 });
        let shared = (SHARED_TOOL_TOKENS + SHARED_SYSTEM_TOKENS) / BLOCK_TOKENS;
        assert!(shared * BLOCK_TOKENS > 14_000);
        for session in &fleet.sessions {
            let head = session.requests[0].blocks.prefix(shared);
            for request in &session.requests {
                assert_eq!(request.blocks.len(), request.prompt_tokens / BLOCK_TOKENS);
                assert_eq!(request.blocks.prefix(shared), head);
            }
        }
        assert!(
            fleet.sessions.iter().any(|s| s.requests.iter().any(|r| r.blocks.runs().len() > 1)),
            "none ever compacts"
        );
    }

    #[test]
    fn the_same_seed_is_the_same_fleet_and_a_larger_one_begins_with_it() {
        let small = generate_fleet(&FleetParams { sessions: 3, seed: 5 });
        let large = generate_fleet(&FleetParams { sessions: 6, seed: 5 });
        assert_eq!(small.sessions[..], large.sessions[..3]);
        assert_ne!(small, generate_fleet(&FleetParams { sessions: 3, seed: 6 }));
    }
}
