//! Today against proposed: the smallest fleet that keeps the promise without Forebay, and with it.

use super::classes::Classes;
use super::scenario::{Scenario, StorageCost};
use crate::chain::{Load, LoadError, Outcome, Workload, simulate};

/// Most servers that are tried: past it, a promise that is not kept is not a matter of servers.
pub const SERVERS_MAX: u32 = 1024;
/// Doubling the fleet must win at least this share of requests, or more servers are no cure.
const WORTH_DOUBLING: f64 = 0.001;

/// Why there is no advice.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum AdviceError {
    /// The load.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The promise.
    #[error(
        "no fleet keeps the promise: {servers} servers {} answer {:.1} % of requests in time, and more servers do not help; allow more with --ttft or --itl, or promise less with --share",
        if *forebay { "with Forebay" } else { "without Forebay" },
        share * 100.0
    )]
    OutOfReach {
        /// With Forebay.
        forebay: bool,
        /// The largest fleet tried.
        servers: u32,
        /// What it reached.
        share: f64,
    },
    /// Nothing happened in the measured time.
    #[error("no request came in the measured time; ask for more sessions or hours")]
    Nothing,
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct Side {
    /// With Forebay.
    pub forebay: bool,
    /// Servers.
    pub servers: u32,
    /// What its run counted.
    pub outcome: Outcome,
    /// Share of requests in time.
    pub goodput: f64,
    /// GPUs, in dollars an hour.
    pub gpu_dollars: f64,
    /// Storage, in dollars an hour.
    pub storage: StorageCost,
    /// What tokens cost.
    pub classes: Classes,
}

impl Side {
    /// Dollars an hour.
    pub fn dollars(&self) -> f64 {
        self.gpu_dollars + self.storage.total()
    }
}

/// Both sides.
#[derive(Debug, Clone, PartialEq)]
pub struct Advice {
    /// Without Forebay.
    pub today: Side,
    /// With it.
    pub proposed: Side,
}

impl Advice {
    /// Servers of today and of the proposal: where a search on something like it begins.
    pub fn servers(&self) -> (u32, u32) {
        (self.today.servers, self.proposed.servers)
    }

    /// Dollars an hour less: GPUs released, less storage.
    pub fn cash(&self) -> f64 {
        self.today.dollars() - self.proposed.dollars()
    }

    /// GPUs released, in whole servers; negative if more are needed.
    pub fn released_gpus(&self, scenario: &Scenario) -> i64 {
        (i64::from(self.today.servers) - i64::from(self.proposed.servers)) * i64::from(scenario.server.gpus)
    }

    /// What the GPU seconds avoided would bring an hour if every one of them were sold at the GPU's price. Not cash.
    pub fn sold_value(&self, scenario: &Scenario) -> f64 {
        let outcome = &self.proposed.outcome;
        outcome.avoided_gpu_s() / outcome.measured_s.max(f64::MIN_POSITIVE) * scenario.gpu.dollars_per_hour
    }
}

/// Runs one fleet.
pub fn run_side(scenario: &Scenario, load: &Load<'_>, servers: u32, forebay: bool) -> Side {
    let outcome = simulate(&scenario.fleet(servers, forebay), load, load.span_s * scenario.warm_share);
    let hours = (outcome.measured_s / 3600.0).max(f64::MIN_POSITIVE);
    let put = outcome.written_tokens as f64 * scenario.model.kv_bytes_per_token() as f64 / hours;
    let storage = if forebay { scenario.storage_cost(servers, put) } else { StorageCost::default() };
    Side {
        forebay,
        servers,
        goodput: outcome.goodput(scenario.targets.ttft_s, scenario.targets.itl_s),
        gpu_dollars: scenario.gpu_dollars_per_hour(servers),
        classes: Classes::new(scenario, servers, &outcome, &storage),
        storage,
        outcome,
    }
}

/// The smallest fleet, in whole servers, that keeps the promise; looked for from `near` on.
///
/// # Errors
/// [`AdviceError::OutOfReach`], [`AdviceError::Nothing`].
pub fn smallest(scenario: &Scenario, load: &Load<'_>, forebay: bool, near: u32) -> Result<Side, AdviceError> {
    let run = |servers| run_side(scenario, load, servers, forebay);
    let good = |side: &Side| side.goodput >= scenario.targets.share;
    let mut best = run(near.clamp(1, SERVERS_MAX));
    if best.outcome.requests + best.outcome.refused == 0 {
        return Err(AdviceError::Nothing);
    }
    // A bad fleet below the answer, 0 if there is none.
    let mut bad = 0;
    if good(&best) {
        // Steps down that double: a start near the answer costs one or two runs.
        let mut step = 1;
        while best.servers > 1 {
            let side = run(best.servers.saturating_sub(step).max(1));
            if !good(&side) {
                bad = side.servers;
                break;
            }
            best = side;
            step *= 2;
        }
    } else {
        while !good(&best) {
            bad = best.servers;
            let larger = run((best.servers + best.servers.div_ceil(2)).min(SERVERS_MAX));
            let won = larger.goodput - best.goodput;
            if !good(&larger) && (larger.servers == SERVERS_MAX || (best.goodput > 0.5 && won < WORTH_DOUBLING)) {
                return Err(AdviceError::OutOfReach { forebay, servers: larger.servers, share: larger.goodput });
            }
            best = larger;
        }
    }
    while best.servers - bad > 1 {
        let side = run(bad + (best.servers - bad) / 2);
        if good(&side) { best = side } else { bad = side.servers }
    }
    Ok(best)
}

/// Both sides at their smallest; looked for from these numbers of servers on.
///
/// # Errors
/// [`AdviceError`].
pub fn advise(scenario: &Scenario, work: &Workload, near: (u32, u32)) -> Result<Advice, AdviceError> {
    let load = work.load(&scenario.load)?;
    let today = smallest(scenario, &load, false, near.0)?;
    let proposed = smallest(scenario, &load, true, near.1.min(today.servers))?;
    Ok(Advice { today, proposed })
}
