//! How far to believe an answer: the trace's sessions drawn anew with replacement, again and again. In the recorded coding sessions 12 of 116 hold 43 % of what
//! is asked, so which sessions were recorded matters more than any price.

use super::advice::{Advice, advise, run_side};
use super::crew::{Crew, all};
use super::scenario::Scenario;
use crate::chain::{LoadParams, Outcome, Workload};

/// Between which figures nine of ten worlds lie that could have been recorded as well.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ends {
    /// 5 % of them are below.
    pub low: f64,
    /// 5 % of them are above.
    pub high: f64,
}

impl Ends {
    /// Of what draws said; `None` of none.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Ends> {
        let mut all: Vec<f64> = values.collect();
        all.sort_by(f64::total_cmp);
        let quantile = |q| Outcome::quantile(&all, q);
        (!all.is_empty()).then(|| Ends { low: quantile(0.05), high: quantile(0.95) })
    }
}

/// What `of` says of each of `draws` worlds, in their order. `None` for a trace without sessions, and for no draws.
pub fn each_draw<T: Send>(
    scenario: &Scenario,
    work: &Workload,
    draws: u32,
    crew: &Crew<'_>,
    of: impl Fn(&Scenario) -> T + Sync,
) -> Option<Vec<T>> {
    if work.is_open() || draws == 0 {
        return None;
    }
    let drawn = |draw: usize| Scenario { load: drawn(&scenario.load, draw), ..scenario.clone() };
    Some(all(crew, draws as usize, |draw| of(&drawn(draw))))
}

/// The same load of sessions drawn anew.
fn drawn(load: &LoadParams, draw: usize) -> LoadParams {
    LoadParams { seed: crate::seeded::finish(load.seed + draw as u64), bootstrap: true, ..*load }
}

/// Where the saving lies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// How many were drawn.
    pub draws: u32,
    /// How many of them keep the promise with no fleet, or cannot be run.
    pub failed: u32,
    /// In how many of them nothing is saved.
    pub nothing: u32,
    /// Dollars an hour saved; `None` where all failed.
    pub cash: Option<Ends>,
}

/// Draws the sessions `draws` times and advises on each. `None` for a trace without sessions.
pub fn interval(
    scenario: &Scenario,
    work: &Workload,
    advice: &Advice,
    draws: u32,
    crew: &Crew<'_>,
) -> Option<Interval> {
    let near = advice.servers();
    let cash =
        each_draw(scenario, work, draws, crew, |drawn| advise(drawn, work, near).ok().map(|other| other.cash()))?;
    let failed = cash.iter().filter(|cash| cash.is_none()).count() as u32;
    let nothing = cash.iter().flatten().filter(|cash| **cash <= 0.0).count() as u32;
    Some(Interval { draws, failed, nothing, cash: Ends::of(cash.into_iter().flatten()) })
}

/// Where one fleet's figures lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// Share of requests in time.
    pub goodput: Ends,
    /// Share of prompt tokens found.
    pub found: Ends,
}

/// Runs one fleet with Forebay on sessions drawn anew, `draws` times. `None` for a trace without sessions.
pub fn spread(scenario: &Scenario, work: &Workload, servers: u32, draws: u32, crew: &Crew<'_>) -> Option<Spread> {
    let seen = each_draw(scenario, work, draws, crew, |drawn| {
        let load = work.load(&drawn.load).ok()?;
        let side = run_side(drawn, &load, servers, true);
        Some((side.goodput, side.outcome.hit_rate()))
    })?;
    let seen: Vec<(f64, f64)> = seen.into_iter().collect::<Option<_>>()?;
    let ends = |of: fn(&(f64, f64)) -> f64| Ends::of(seen.iter().map(of));
    Some(Spread { goodput: ends(|seen| seen.0)?, found: ends(|seen| seen.1)? })
}
