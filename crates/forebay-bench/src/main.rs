//! Forebay measured against the limits of the machine it runs on, and beside its peers.
//!
//! Each row is a ratio: ours and the limit, interleaved in one run, on the same file system, at the same depth and sizes, with verified payload.
//! The product is never tuned for the bench: it starts the same binary with the flags anybody can give. Run it as `cargo xtask bench`.

mod blender;
mod broken;
mod card;
mod engines;
mod limits;
mod mixed;
mod node;
mod peers;
mod plan;
mod queued;
mod raw;
mod recover;
mod report;
mod scratch;
mod siege;
mod soak;
mod tokenomics;
mod watch;
mod work;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::Value;

use card::{Measured, Quiet, Table};
use scratch::Scratch;

#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    about = "Forebay measured against the limits of this machine",
    arg_required_else_help = true
)]
struct Cli {
    /// Run a claim card again, and show both side by side.
    #[arg(long, value_name = "CARD")]
    replay: Option<PathBuf>,
    /// With --replay: the folder to measure in.
    #[arg(long, value_name = "DIR", requires = "replay")]
    dir: Option<PathBuf>,
    /// With --replay: end with one line of JSON on stdout.
    #[arg(long, requires = "replay")]
    json: bool,
    /// Write docs/measurements.md from the cards in docs/cards.
    #[arg(long, conflicts_with = "replay")]
    report: bool,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand)]
enum Verb {
    /// Every speed row of the design, each beside its limit in the same run.
    Limits(limits::LimitsArgs),
    /// Forebay beside Redis, plain files, foyer, Mooncake, NIXL and LMCache, on the same blocks and the same drive.
    Peers(peers::PeersArgs),
    /// 64 KiB gets while 16 MiB durable puts run: the tail of the gets, alone and mixed, beside fio's.
    Blender(blender::BlenderArgs),
    /// 64 KiB gets while 16 MiB puts run: shows that nobody starves.
    Mixed(mixed::MixedArgs),
    /// How soon a node is back on a sparse drive of 4 TB.
    Recover(recover::RecoverArgs),
    /// How late calls end when the node is stopped or killed under them, and what a dead node costs a call.
    Broken(broken::BrokenArgs),
    /// The tail of one client's gets beside hostile, slow and greedy clients, and alone in the same run.
    Siege(siege::SiegeArgs),
    /// Engines with Forebay: their adapters' calls, time to first token, the tax of a miss, and the stores they may choose between.
    Engines(engines::EnginesArgs),
    /// What `plan_fetch` expects of a get, beside what the get takes.
    Plan(plan::PlanArgs),
    /// What policies, curves and forecasts must reach, on the recorded traces.
    Tokenomics(tokenomics::TokenomicsArgs),
    /// Mixed load from several processes with one fault after the other; `cargo xtask soak`.
    Soak(soak::SoakArgs),
    /// An application under the soak: a child of this program.
    #[command(hide = true)]
    SoakWorker(soak::WorkerArgs),
    /// One who besieges a node: a child of this program.
    #[command(hide = true)]
    Besieger(siege::BesiegerArgs),
    /// Clears up behind a bench: a child of this program.
    #[command(hide = true)]
    Janitor(scratch::JanitorArgs),
    /// The far end of a ping-pong: a child of this program.
    #[command(hide = true)]
    Echo(raw::sockets::EchoArgs),
}

impl Verb {
    /// Measures; `None` for what gives no result of its own.
    fn run(&self) -> Outcome<Option<Measured>> {
        match self {
            Verb::Limits(args) => limits::run(args).map(Some),
            Verb::Peers(args) => peers::run(args).map(Some),
            Verb::Blender(args) => blender::run(args).map(Some),
            Verb::Recover(args) => recover::run(args).map(Some),
            Verb::Mixed(args) => mixed::run(args).map(|()| None),
            Verb::Broken(args) => broken::run(args).map(Some),
            Verb::Siege(args) => siege::run(args).map(Some),
            Verb::Engines(args) => engines::run(args).map(Some),
            Verb::Plan(args) => plan::run(args).map(|()| None),
            Verb::Tokenomics(args) => tokenomics::run(args).map(Some),
            Verb::Soak(args) => soak::run(args).map(|()| None),
            Verb::SoakWorker(args) => soak::work(args).map(|()| None),
            Verb::Besieger(args) => siege::besiege(args).map(|()| None),
            Verb::Janitor(args) => scratch::clear_when_it_ends(args).map(|()| None),
            Verb::Echo(args) => raw::sockets::echo(args).map(|()| None),
        }
    }

    fn common(&self) -> Option<&Common> {
        match self {
            Verb::Limits(args) => Some(&args.common),
            Verb::Peers(args) => Some(&args.common),
            Verb::Blender(args) => Some(&args.common),
            Verb::Recover(args) => Some(&args.common),
            Verb::Mixed(args) => Some(&args.common),
            Verb::Broken(args) => Some(&args.common),
            Verb::Siege(args) => Some(&args.common),
            Verb::Engines(args) => Some(&args.common),
            Verb::Plan(args) => Some(&args.common),
            Verb::Tokenomics(args) => Some(&args.common),
            Verb::Soak(args) => Some(&args.common),
            Verb::SoakWorker(_) | Verb::Besieger(_) | Verb::Janitor(_) | Verb::Echo(_) => None,
        }
    }
}

/// What a bench's result looks like to people.
fn tables(bench: &str, result: &Value) -> Vec<Table> {
    match bench {
        "limits" => vec![report::table(result)],
        "blender" => blender::tables(result),
        "broken" => broken::tables(result),
        "engines" => engines::tables(result),
        "siege" => siege::tables(result),
        "peers" => peers::tables(result),
        "recover" => recover::tables(result),
        "tokenomics" => tokenomics::tables(result),
        _ => Vec::new(),
    }
}

/// What every bench takes.
#[derive(Args, Clone)]
struct Common {
    /// Folder for drives and raw files; it should lie on the file system to be measured.
    #[arg(long, value_name = "DIR", default_value = ".bench")]
    dir: PathBuf,
    /// The `forebay` binary [default: beside this one].
    #[arg(long, value_name = "FILE")]
    forebay: Option<PathBuf>,
    /// End with one line of JSON on stdout.
    #[arg(long)]
    json: bool,
    /// I/O engine of the node: auto, uring or threads.
    #[arg(long, value_name = "ENGINE", default_value = "auto")]
    io: String,
    /// Also write a claim card: what was run, on what, with all samples.
    #[arg(long, value_name = "FILE")]
    card: Option<PathBuf>,
    /// Do with what is installed. Otherwise root on a machine with apt-get gets fio and iperf3 if they are missing, and is told.
    #[arg(long)]
    no_install: bool,
}

impl Common {
    /// A folder of this run's own under `--dir`.
    fn scratch(&self, name: &str) -> Outcome<Scratch> {
        let base = std::env::current_dir().map_err(why("the current folder"))?.join(&self.dir);
        Scratch::new(&base, name)
    }
}

/// Why a bench stopped: one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

type Outcome<T> = Result<T, Failed>;

/// Adds what was being done to an error.
fn why<E: std::fmt::Display>(doing: &str) -> impl FnOnce(E) -> Failed + '_ {
    move |e| Failed(format!("{doing}: {e}"))
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(Cli::parse(), &args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            report::say(&format!("bench: {e}"));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, args: &[String]) -> Outcome<()> {
    if let Some(path) = &cli.replay {
        return card::replay(path, cli.json, |command| again(command, cli.dir.as_deref()));
    }
    match &cli.verb {
        Some(verb) => measure(verb, args),
        None => card::report(),
    }
}

fn measure(verb: &Verb, args: &[String]) -> Outcome<()> {
    let quiet = Quiet::start();
    let measured = verb.run()?;
    let (Some(measured), Some(common)) = (measured, verb.common()) else { return Ok(()) };
    tables(measured.bench, &measured.result).iter().for_each(|table| report::say(&table.terminal()));
    if let Some(path) = &common.card {
        card::write(path, &measured, &quiet, args, &common.dir)?;
    }
    if common.json {
        report::print(&measured.result.to_string());
    }
    Ok(())
}

/// The command of a card, in another folder if one is given.
fn again(command: &[String], dir: Option<&Path>) -> Outcome<Measured> {
    let mut words: Vec<&OsStr> = vec![OsStr::new("bench")];
    words.extend(command.iter().map(OsStr::new));
    if let Some(dir) = dir {
        words.extend([OsStr::new("--dir"), dir.as_os_str()]);
    }
    let cli =
        Cli::try_parse_from(words).map_err(|e| Failed(format!("this build cannot run the card's command: {e}")))?;
    let measured = cli.verb.as_ref().map(Verb::run).transpose()?.flatten();
    measured.ok_or_else(|| Failed("the card's command measures nothing".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_typed_makes_sense() {
        <Cli as clap::CommandFactory>::command().debug_assert();
        assert!(Cli::try_parse_from(["bench", "--replay", "x", "--dir", "y"]).is_ok());
        assert!(Cli::try_parse_from(["bench", "--replay", "x", "--report"]).is_err());
        assert!(Cli::try_parse_from(["bench", "limits", "--pairs", "0"]).is_err());
    }

    #[test]
    fn a_card_of_a_verb_that_is_gone_is_refused() {
        let said = again(&["gone".into()], None).err().unwrap().to_string();
        assert!(said.contains("cannot run the card's command"), "{said}");
    }
}
