//! Forebay measured against the limits of the machine it runs on, and beside its peers.
//!
//! Each row is a ratio: ours and the limit, interleaved in one run, on the same file system, at the same depth and sizes, with verified payload.
//! The product is never tuned for the bench: it starts the same binary with the flags anybody can give. Run it as `cargo xtask bench`.

mod limits;
mod mixed;
mod node;
mod raw;
mod report;
mod watch;
mod work;

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
    /// The far end of a ping-pong: a child of this program.
    #[command(hide = true)]
    Echo(raw::sockets::EchoArgs),
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
    /// Do with what is installed. Otherwise root on a machine with apt-get gets fio and iperf3 if they are missing, and is told.
    #[arg(long)]
    no_install: bool,
}

impl Common {
    /// A folder of this run's own under `--dir`.
    fn scratch(&self, name: &str) -> Outcome<Scratch> {
        let base = std::env::current_dir().map_err(why("the current folder"))?.join(&self.dir);
        let dir = base.join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).map_err(why("making the bench folder"))?;
        Ok(Scratch(dir))
    }
}

/// A folder that goes when the bench ends, however it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
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
    let done = match Cli::parse().verb {
        Verb::Limits(args) => limits::run(&args),
        Verb::Mixed(args) => mixed::run(&args),
        Verb::Echo(args) => raw::sockets::echo(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            report::say(&format!("bench: {e}"));
            ExitCode::FAILURE
        }
    }
}
