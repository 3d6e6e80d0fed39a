//! Chores of the house: `cargo xtask test | tidy | python | bench | soak | breaks | fuzz`.
//!
//! Each is what a person would type by hand, in the right order, with a sentence for what could not be done here. It knows how the house is kept
//! and nothing of what the house does.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a chore talks to the person who started it")]

mod bench;
mod breaks;
mod engines;
mod fuzz;
mod python;
mod run;
mod test;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

const HELP: &str = "\
cargo xtask test [--io-engines] [--runner cargo|nextest]
    Everything that must hold before a change is handed in: format, lints, tidy, licences, all tests, doc tests.
    --io-engines   once more, the tests that start nodes, with each I/O engine forced in turn
    --runner       which runner; by default nextest where it is installed
cargo xtask test --engines [--only ENGINE]... [--allow-skip ENGINE]... [--minutes N]
    Only the adapters of python/, under the engines' own wheels (transformers, vllm, sglang, lmcache) on CPU. Their environments, 7 GB together, are made once in your
    cache directory. An engine that does not run here fails, unless it is named, or cannot be had (no network, no room) and `--allow-skip unmade` is there.
    --minutes      the most valuable first, and no test is begun in the last four of so many minutes; what did not run is said by name
cargo xtask tidy [--accept [--bytes-unchanged]]
    Arrows between rooms, heads of modules, formats and their papers, growth of files and functions.
    --accept       records today's sizes and papers as the new baseline
    --bytes-unchanged  with --accept: a format's source changed, its bytes did not (its golden files prove it)
cargo xtask python [ARG...]
    Builds the Python package's wheel, installs it in an environment under target/ and tests it; arguments are pytest's.
cargo xtask bench VERB [FLAG...]
    Builds a release and runs a bench: limits, peers, blender, mixed, broken, plan, engines, tokenomics; `cargo xtask bench --help` lists the verbs and `cargo xtask bench VERB --help` their
    flags, docs/measurements.md tells how each is measured. Missing fio and iperf3 are installed where root runs it (--no-install: not).
    --card FILE writes a claim card beside the result.
cargo xtask bench --replay CARD [--dir DIR] [--json] | --report
    Runs a claim card again and shows both results; writes docs/measurements.md from docs/cards.
cargo xtask soak [--minutes N] [--json]
    Builds a release and runs it under load and faults for an hour, or N minutes: no wrong byte, flat memory, flat descriptors.
cargo xtask breaks [--only TEXT] [--from N]
    Breaks each guard of xtask/breaks.txt in the source, one after the other, and runs the test that must find it: some 20 s each. --only: those that contain this;
    --from: beginning with the Nth of them.
    The files are put back; if it is ended in between, `git checkout` puts the last one back.
cargo xtask fuzz [SECONDS]
    Runs the cargo-fuzz targets where cargo-fuzz is installed; `cargo xtask test` runs the same functions on seeded input.";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let root = root();
    let done = match args.first().map(String::as_str) {
        Some("test") => test::run(&root, &args[1..]),
        Some("tidy") => tidy::run(&root, &args[1..]),
        Some("bench") => bench::run(&root, &args[1..]),
        Some("soak") => bench::soak(&root, &args[1..]),
        Some("python") => python::run(&root, &args[1..]),
        Some("breaks") => breaks::run(&root, &args[1..]),
        Some("fuzz") => fuzz::run(&root, &args[1..]),
        Some("help" | "-h" | "--help") => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Some(other) => Err(Stop::Misused(format!("there is no chore {other:?}"))),
        None => Err(Stop::Misused("which chore?".into())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Failed(why)) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
        Err(Stop::Misused(why)) => {
            eprintln!("xtask: {why}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}

/// Why a chore stopped.
enum Stop {
    /// What it was asked to hold does not hold.
    Failed(String),
    /// It was asked for something it does not know.
    Misused(String),
}

/// The workspace: the folder above this crate.
fn root() -> PathBuf {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    own.parent().map(PathBuf::from).unwrap_or(own)
}
