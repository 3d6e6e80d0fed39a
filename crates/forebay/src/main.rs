//! The binary `forebay`: flags, help, words and exit codes. What was typed becomes what it means; what it means is done in other rooms.
//!
//! Exit codes: 0 done, 1 failed, 2 misused. Data goes to stdout, everything else to stderr, one sentence a trouble.

mod bench;
mod book_file;
mod cli;
mod connect;
mod demo;
mod doctor;
mod get;
mod inspect;
mod log;
mod misuse;
mod money;
mod namespace;
mod notify;
mod places;
mod plan;
mod progress;
mod put;
mod say;
mod serve;
mod settings;
mod stat;
mod stop;
mod top;
mod trace_file;
mod usage;
mod why;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use cli::{Cli, Verb};
use settings::Settings;
use stop::Stop;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(bug_sentence));
    let parsed = Cli::command().try_get_matches().and_then(|typed| Ok((Cli::from_arg_matches(&typed)?, typed)));
    let (cli, typed) = match parsed {
        Ok(parsed) => parsed,
        Err(told) => return misuse::tell(&told),
    };
    // The demo brings its own node and takes no settings: two machines show the same.
    let done = match cli.verb {
        Verb::Demo(args) => return demo::run(args),
        Verb::Serve(args) => {
            settings(&cli.config, args.layer()).and_then(|settings| serve::run(&settings, args.format_device))
        }
        Verb::Put(args) => settings(&cli.config, args.on.layer()).and_then(|settings| put::run(&args, &settings)),
        Verb::Get(args) => settings(&cli.config, args.on.layer()).and_then(|settings| get::run(&args, &settings)),
        Verb::Why(args) => settings(&cli.config, args.client.layer()).and_then(|settings| why::run(&args, &settings)),
        Verb::Stat(args) => settings(&cli.config, args.client.layer()).and_then(|settings| stat::run(&args, &settings)),
        Verb::Namespace(args) => {
            settings(&cli.config, args.client.layer()).and_then(|settings| namespace::run(&args, &settings))
        }
        Verb::Top(args) => settings(&cli.config, args.client.layer()).and_then(|settings| top::run(&args, &settings)),
        Verb::Doctor(args) => settings(&cli.config, args.layer()).and_then(|settings| doctor::run(&args, &settings)),
        Verb::Inspect(args) => inspect::run(&args),
        Verb::Plan(args) => plan::run(&args, &plan::typed(&typed)),
        Verb::Bench(args) => settings(&cli.config, args.on.layer()).and_then(|settings| bench::run(&args, &settings)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => stop.tell(),
    }
}

fn settings(config: &Option<std::path::PathBuf>, flags: settings::Layer) -> Result<Settings, Stop> {
    Settings::load(config.as_deref(), std::env::vars_os(), flags).map_err(Stop::Misused)
}

/// A bug is not a person's fault: one sentence for the report, and the process ends before anything is spoiled.
fn bug_sentence(bug: &std::panic::PanicHookInfo<'_>) {
    let what = bug.payload_as_str().unwrap_or("it gave no reason").replace('\n', " ");
    let place = bug.location().map_or(String::new(), |at| format!(" ({}:{})", at.file(), at.line()));
    say::error(&format!(
        "forebay stopped itself because of a bug{place}: {what}; what was acknowledged is safe, please report this sentence with the command"
    ));
    std::process::exit(1);
}
