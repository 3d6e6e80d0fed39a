//! What moves the answer: each assumption halved and doubled, and the value at which the advice turns over.

use super::advice::{Advice, advise, smallest};
use super::crew::{self, Crew};
use super::scenario::Scenario;
use crate::chain::Workload;

/// Where the advice turns is looked for within this factor, up and down.
const REACH: f64 = 4.0;
/// Halvings of the interval in which it turns: each costs several runs, and three tell the factor to 9 %.
const HALVINGS: u32 = 3;

/// An assumption.
pub struct Knob {
    /// In words.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// What it is, in that unit; `None` where it does not matter here.
    pub get: fn(&Scenario) -> Option<f64>,
    /// The same scenario with it times a factor.
    pub turn: fn(&mut Scenario, f64),
    /// What has to be run again when it is turned.
    pub again: Again,
}

/// What of an answer an assumption changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// Prices only: no fleet has to be run again.
    Nothing,
    /// Forebay's tiers: today's fleet stays as it is.
    Proposed,
    /// Both fleets.
    Both,
}

/// All of them.
pub const KNOBS: &[Knob] = &[
    Knob {
        name: "GPU rent",
        unit: "$/h",
        get: |s| Some(s.gpu.dollars_per_hour),
        turn: |s, f| s.gpu.dollars_per_hour *= f,
        again: Again::Nothing,
    },
    Knob {
        name: "drives",
        unit: "$/TB",
        get: |s| Some(s.drive.dollars_per_tb),
        turn: |s, f| s.drive.dollars_per_tb *= f,
        again: Again::Nothing,
    },
    Knob {
        name: "endurance",
        unit: "drive writes/day",
        get: |s| Some(s.drive.writes_per_day),
        turn: |s, f| s.drive.writes_per_day *= f,
        again: Again::Nothing,
    },
    Knob {
        name: "electricity",
        unit: "$/kWh",
        get: |s| Some(s.storage.electricity_dollars_per_kwh),
        turn: |s, f| s.storage.electricity_dollars_per_kwh *= f,
        again: Again::Nothing,
    },
    Knob {
        name: "load",
        unit: "sessions/h",
        get: |s| s.load.sessions_per_hour,
        turn: |s, f| s.load.sessions_per_hour = s.load.sessions_per_hour.map(|rate| rate * f),
        again: Again::Both,
    },
    Knob {
        name: "prefill efficiency",
        unit: "of peak",
        get: |s| Some(s.linear_efficiency),
        turn: |s, f| {
            s.linear_efficiency *= f;
            s.attention_efficiency *= f;
        },
        again: Again::Both,
    },
    Knob {
        name: "host tier",
        unit: "GB/server",
        get: |s| Some(s.server.host_memory_bytes / 1e9),
        turn: |s, f| s.server.host_memory_bytes *= f,
        again: Again::Both,
    },
    Knob {
        name: "first token within",
        unit: "s",
        get: |s| Some(s.targets.ttft_s),
        turn: |s, f| s.targets.ttft_s *= f,
        again: Again::Both,
    },
    Knob {
        name: "decode efficiency",
        unit: "of bandwidth",
        get: |s| Some(s.decode_efficiency),
        turn: |s, f| s.decode_efficiency *= f,
        again: Again::Both,
    },
    Knob {
        name: "bandwidth of drives",
        unit: "GB/s",
        get: |s| Some(s.drive.read_bandwidth / 1e9),
        turn: |s, f| s.drive.read_bandwidth *= f,
        again: Again::Proposed,
    },
];

/// How one assumption moves the answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Move {
    /// The assumption.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// What it is.
    pub value: f64,
    /// Dollars an hour saved when it is halved; `None` where no fleet keeps the promise.
    pub halved: Option<f64>,
    /// The same when it is doubled.
    pub doubled: Option<f64>,
    /// Where the advice turns over, to a tenth, if within a factor of four.
    pub flips_at: Option<f64>,
}

impl Move {
    fn span(&self, cash: f64) -> f64 {
        let away = |other: Option<f64>| other.map_or(0.0, |other| (other - cash).abs());
        away(self.halved).max(away(self.doubled))
    }
}

/// Moves every assumption, the strongest first; for the first `flips` of them says where the advice turns over.
pub fn moves(scenario: &Scenario, work: &Workload, advice: &Advice, flips: usize, crew: &Crew<'_>) -> Vec<Move> {
    let cash = |knob: &Knob, factor: f64| cash_at(scenario, work, advice, knob, factor);
    let here: Vec<(&Knob, f64)> = KNOBS.iter().filter_map(|knob| Some((knob, (knob.get)(scenario)?))).collect();
    let turned = crew::all(crew, 2 * here.len(), |i| cash(here[i / 2].0, if i % 2 == 0 { 0.5 } else { 2.0 }));
    let mut moved: Vec<(Move, &Knob)> = here
        .iter()
        .zip(turned.as_chunks().0)
        .map(|((knob, value), [halved, doubled])| {
            let (halved, doubled) = (*halved, *doubled);
            (Move { name: knob.name, unit: knob.unit, value: *value, halved, doubled, flips_at: None }, *knob)
        })
        .collect();
    moved.sort_by(|a, b| b.0.span(advice.cash()).total_cmp(&a.0.span(advice.cash())));
    let found = crew::all(crew, flips.min(moved.len()), |i| {
        let (moved, knob) = &moved[i];
        let known = |factor: f64| match factor {
            0.5 => moved.halved,
            2.0 => moved.doubled,
            _ => cash(knob, factor),
        };
        flip(advice.cash(), known).map(|factor| moved.value * factor)
    });
    moved.iter_mut().zip(found).for_each(|((moved, _), found)| moved.flips_at = found);
    moved.into_iter().map(|(moved, _)| moved).collect()
}

/// The factor nearest to 1 at which saving becomes losing or the other way round.
fn flip(cash: f64, at: impl Fn(f64) -> Option<f64>) -> Option<f64> {
    let other = |factor: f64| at(factor).is_some_and(|found| (found > 0.0) != (cash > 0.0));
    let mut found: Vec<f64> = Vec::new();
    for toward in [2.0, 0.5] {
        let mut same: f64 = 1.0;
        while same.ln().abs() < REACH.ln() - 1e-9 {
            let next = same * toward;
            if other(next) {
                found.push(bisect(same, next, &other));
                break;
            }
            same = next;
        }
    }
    found.into_iter().min_by(|a, b| a.ln().abs().total_cmp(&b.ln().abs()))
}

fn bisect(mut same: f64, mut turned: f64, other: &impl Fn(f64) -> bool) -> f64 {
    for _ in 0..HALVINGS {
        let middle = (same * turned).sqrt();
        if other(middle) { turned = middle } else { same = middle }
    }
    turned
}

/// Dollars an hour saved with one assumption turned.
fn cash_at(scenario: &Scenario, work: &Workload, advice: &Advice, knob: &Knob, factor: f64) -> Option<f64> {
    let mut turned = scenario.clone();
    (knob.turn)(&mut turned, factor);
    if knob.again == Again::Nothing {
        // The same fleets, priced anew.
        let hours = (advice.proposed.outcome.measured_s / 3600.0).max(f64::MIN_POSITIVE);
        let put = advice.proposed.outcome.written_tokens as f64 * turned.model.kv_bytes_per_token() as f64 / hours;
        let today = turned.gpu_dollars_per_hour(advice.today.servers);
        let servers = advice.proposed.servers;
        return Some(today - turned.gpu_dollars_per_hour(servers) - turned.storage_cost(servers, put).total());
    }
    if knob.again == Again::Proposed {
        let load = work.load(&turned.load).ok()?;
        let proposed = smallest(&turned, &load, true, advice.proposed.servers).ok()?;
        return Some(advice.today.dollars() - proposed.dollars());
    }
    advise(&turned, work, (advice.today.servers, advice.proposed.servers)).ok().map(|other| other.cash())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flip_is_found_on_either_side_to_a_tenth() {
        let near = |found: Option<f64>, wanted: f64| (found.unwrap() / wanted - 1.0).abs() < 0.1;
        assert!(near(flip(1.0, |f| Some(3.0 - f)), 3.0));
        assert!(near(flip(1.0, |f| Some(f - 0.3)), 0.3));
        // Nearer wins: 0.7 is nearer to 1 than 2.
        assert!(near(flip(1.0, |f| Some((f - 0.7) * (2.0 - f))), 0.7));
        assert_eq!(flip(1.0, |_| Some(1.0)), None);
        assert_eq!(flip(1.0, |_| None), None);
        assert!(near(flip(-1.0, |f| Some(f - 3.5)), 3.5));
        assert_eq!(flip(-1.0, |f| Some(f - 5.0)), None);
    }
}
