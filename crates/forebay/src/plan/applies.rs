//! Which flags mean something to which kind of run: one that would be ignored is refused, since whoever typed it believes that it counts.

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command};

use super::args::{ModeArg, PlanArgs};
use super::forecast::Who;
use crate::stop::Stop;

/// Flags of every run but that of a card.
const ALWAYS: [&str; 5] = ["trace", "replay", "json", "policy", "book"];
/// Flags of an instant replay.
const INSTANT: [&str; 10] =
    ["capacity", "model", "gpu", "seed", "sharing", "chunk-tokens", "hints", "bound", "mode", "card"];
/// Flags of everything that runs a fleet.
const FLEET: [&str; 18] = [
    "model",
    "seed",
    "sharing",
    "as",
    "measured",
    "sessions-per-hour",
    "speed",
    "hours",
    "gpu",
    "server",
    "drive",
    "storage",
    "prices",
    "gpus-per-engine",
    "ttft",
    "itl",
    "share",
    "prefill",
];

/// The flags that stand on the command line, by their long names; what only has its default is not among them.
pub(crate) fn typed(matches: &ArgMatches) -> Vec<String> {
    let Some((_, matches)) = matches.subcommand() else { return Vec::new() };
    let known = PlanArgs::augment_args(Command::new("plan"));
    known
        .get_arguments()
        .filter(|arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine))
        .filter_map(|arg| arg.get_long().map(str::to_owned))
        .collect()
}

/// Refuses the first flag that means nothing to an instant replay.
pub(crate) fn to_instant(args: &PlanArgs, typed: &[String]) -> Result<(), Stop> {
    let segments = args.mode == ModeArg::Segments;
    refuse(typed, &[&ALWAYS, &INSTANT], |flag| match flag {
        "segments" if segments => None,
        "segments" => Some("belongs to --mode segments"),
        _ => Some("belongs to a forecast, which is run without --capacity or with --replay chain"),
    })
}

/// Refuses the first flag that means nothing to that forecast.
pub(crate) fn to_forecast(args: &PlanArgs, typed: &[String]) -> Result<(), Stop> {
    let (who, swept) = (args.forecast.who, !args.forecast.sweep.is_empty());
    let owner = who == Who::Owner;
    let page = "belongs to the owner's first page; leave --as and --sweep out";
    if who == Who::Builder {
        return refuse(typed, &[&ALWAYS, &["as", "prices"]], |flag| match flag {
            "card" | "backtest" | "html" => Some(page),
            _ => Some(
                "means nothing to --as builder, whose bill takes recorded times and a price list and runs no fleet",
            ),
        });
    }
    refuse(typed, &[&ALWAYS, &FLEET, &["draws"]], |flag| match flag {
        "card" | "backtest" if owner && !swept => None,
        "html" if owner => None,
        "sweep" if owner => None,
        "users" if who == Who::User => None,
        "card" | "backtest" | "html" => Some(page),
        "sweep" => Some("belongs to the owner; leave --as out"),
        "users" => Some("belongs to --as user"),
        _ => Some("belongs to --replay instant, which needs --policy and --capacity too"),
    })
}

/// Refuses the first flag that means nothing where a card says all.
pub(crate) fn to_card(typed: &[String]) -> Result<(), Stop> {
    refuse(typed, &[&["replay-card", "trace", "json"]], |_| {
        Some(
            "does not go with --replay-card: the card says what is asked, and only its trace may lie elsewhere (--trace)",
        )
    })
}

fn refuse<'w>(typed: &[String], known: &[&[&str]], why: impl Fn(&str) -> Option<&'w str>) -> Result<(), Stop> {
    let unknown = typed.iter().filter(|flag| !known.iter().any(|all| all.contains(&flag.as_str())));
    let told = unknown.into_iter().find_map(|flag| Some((flag, why(flag)?)));
    told.map_or(Ok(()), |(flag, why)| Err(Stop::Misused(format!("--{flag} {why}"))))
}
