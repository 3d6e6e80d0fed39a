//! `forebay plan`: what a cache is worth to recorded load, without running one. What is forecast is reckoned in `forebay-tokenomics`; here are the
//! words, the files and the exit codes.

mod args;
mod card;
mod instant;

pub(crate) use args::PlanArgs;

use crate::stop::Stop;

/// Runs it.
pub(crate) fn run(args: &PlanArgs) -> Result<(), Stop> {
    instant::run(args)
}
