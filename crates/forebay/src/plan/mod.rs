//! `forebay plan`: what a cache is worth to recorded load, without running one. What is forecast is reckoned in `forebay-tokenomics`; here are the
//! words, the files and the exit codes.

mod args;
mod card;
mod forecast;
mod instant;

pub(crate) use args::PlanArgs;

use args::ReplayArg;

use crate::stop::Stop;

/// Runs it.
pub(crate) fn run(args: &PlanArgs) -> Result<(), Stop> {
    if let Some(card) = &args.replay_card {
        return card::replay(card, args.trace.as_deref(), args.json);
    }
    let asked = args.policy.is_some() || args.capacity.is_some();
    match args.replay.unwrap_or(if asked { ReplayArg::Instant } else { ReplayArg::Chain }) {
        ReplayArg::Instant => instant::run(args),
        ReplayArg::Chain => forecast::run(args),
    }
}
