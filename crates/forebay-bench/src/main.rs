//! Forebay measured against the limits of the machine it runs on.
//!
//! Each row is a ratio: ours and the limit, interleaved in one run, on the same file system, at the same depth and sizes, with verified payload.
//! The product is never tuned for the bench: it starts the same binary with the flags anybody can give. Run it as `cargo xtask bench`.

mod limits;
mod mixed;
mod node;
mod raw;
mod report;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask bench", about = "Forebay measured against the limits of this machine")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Every speed row of the design, each beside its limit in the same run.
    Limits(limits::LimitsArgs),
    /// 64 KiB gets while 16 MiB puts run: shows that nobody starves.
    Mixed(mixed::MixedArgs),
}

/// What every bench takes.
#[derive(Args, Clone)]
struct Common {
    /// Folder for drives and raw files; it should lie on the file system to be measured.
    #[arg(long, default_value = ".bench")]
    dir: PathBuf,
    /// The `forebay` binary; default: beside this one.
    #[arg(long)]
    forebay: Option<PathBuf>,
    /// End with one line of JSON on stdout.
    #[arg(long)]
    json: bool,
    /// I/O engine of the node: auto, uring or threads.
    #[arg(long, default_value = "auto")]
    io: String,
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
    let done = match Cli::parse().verb {
        Verb::Limits(args) => limits::run(&args),
        Verb::Mixed(args) => mixed::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            report::say(&format!("bench: {e}"));
            ExitCode::FAILURE
        }
    }
}
