//! `forebay plan`: what a cache is worth to recorded load, without running one. What is forecast is reckoned in `forebay-tokenomics`; here are the
//! words, the files and the exit codes.

mod applies;
mod args;
mod card;
mod forecast;
mod instant;

pub(crate) use applies::typed;
pub(crate) use args::PlanArgs;

use args::ReplayArg;

use crate::stop::Stop;

/// Runs it. `typed` are the flags that stand on the command line.
pub(crate) fn run(args: &PlanArgs, typed: &[String]) -> Result<(), Stop> {
    if let Some(card) = &args.replay_card {
        applies::to_card(typed)?;
        return card::replay(card, args.trace.as_deref(), args.json);
    }
    let asked = args.policy.is_some() || args.capacity.is_some();
    match args.replay.unwrap_or(if asked { ReplayArg::Instant } else { ReplayArg::Chain }) {
        ReplayArg::Instant => {
            applies::to_instant(args, typed)?;
            instant::run(args)
        }
        ReplayArg::Chain => {
            applies::to_forecast(args, typed)?;
            forecast::run(args)
        }
    }
}
