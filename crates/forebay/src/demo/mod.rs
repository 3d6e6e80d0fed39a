//! `forebay demo`: a real node as a child process, a fleet of coding-agent sessions with real bytes, SIGKILL in the middle, and a table that says
//! what it was worth.
//!
//! It talks to the node as any application does, and believes nothing it can check itself: every byte that comes back is compared with content made
//! anew. It knows the client and the binary's own flags, nothing of the node's inside.

mod args;
#[cfg(test)]
mod bucket;
mod content;
mod error;
mod keeper;
mod kill;
mod pool;
mod replay;
mod report;
mod sizing;
mod tally;
mod workload;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use forebay_client::{Client, Options};
use forebay_tokenomics::cost::{Assumptions, CostCurve, MODEL_DEFAULT, Model, model_by_name, models};
use forebay_types::{Address, SystemClock, format_size};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;

pub(crate) use args::DemoArgs;
use error::DemoError;
use keeper::Keeper;
use kill::{Kill, Killer, kill_and_restart};
use pool::Node;
use replay::{Course, Replay};
use report::Summary;
use sizing::{Need, Sizes};
use workload::Workload;

use crate::say;

/// Runs the demo.
pub(crate) fn run(args: DemoArgs) -> ExitCode {
    let parent = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    if args.keeper {
        return keeper::run(&parent);
    }
    match play(&args, &parent) {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(problem)) => fail(&problem),
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(sentence: &str) -> ExitCode {
    say::error(sentence);
    ExitCode::FAILURE
}

/// Plays the whole demo and prints what came of it. `Some` is why it is a failure.
fn play(args: &DemoArgs, parent: &Path) -> Result<Option<String>, DemoError> {
    let model = model_of(args)?;
    let spinner = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    spinner.set_message(if args.trace.is_some() { "reading the trace" } else { "generating sessions" });
    spinner.tick();
    let mut workload = workload::load(args)?;
    let (sizes, distinct, references) = fit(args, &mut workload, model, parent)?;
    spinner.finish_and_clear();
    say::note(&format!(
        "{}: {} requests, {references} block references, {distinct} distinct blocks of {}",
        workload.source,
        workload.requests,
        format_size(sizes.block_bytes)
    ));
    let mut node = Child { keeper: Keeper::start(parent)?, args: node_args(args, &sizes) };
    say::note(&format!(
        "starting a node in {} ({} drive, {} memory)",
        node.keeper.dir().display(),
        format_size(sizes.capacity),
        format_size(sizes.memory)
    ));
    node.keeper.start_node(&node.args)?;
    let pool = connect(&node, &sizes, Options::default().patience)?;
    let hasty = connect(&node, &sizes, Duration::ZERO)?;

    let mut assumed = Assumptions::default();
    assumed.gpu_dollars_per_hour = args.gpu_dollars_per_hour.unwrap_or(assumed.gpu_dollars_per_hour);
    let clock = SystemClock::new();
    let course = Course {
        plan: &workload.plan,
        requests: workload.requests,
        mark: workload.requests / 2,
        seed: args.seed,
        block_bytes: sizes.block_bytes as usize,
        curve: CostCurve::new(model, &assumed),
        clock: &clock,
    };
    let policy = policy(&pool)?;
    let played = replay_all(args, &course, [&pool, &hasty], &mut node)?;
    drop(node);
    let summary = Summary {
        source: &workload.source,
        requests_in_file: workload.requests_in_file,
        sessions: workload.sessions,
        tally: &played.tally,
        kill: played.kill.as_ref(),
        evicted_before_kill: played.evicted_before_kill,
        sizes: &sizes,
        distinct,
        block_tokens: u64::from(workload.plan.block_tokens),
        call_blocks: course.call_blocks(),
        model,
        assumed: &assumed,
        replay_s: played.replay_s,
        seed: args.seed,
        io: &args.io,
        policy: &policy,
    };
    let text = if args.json {
        format!("{}\n", summary.json())
    } else {
        format!("\n{}", summary.text(say::table(&["", "", "what it means"])))
    };
    // A closed pipe is the reader's choice.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(summary.problem())
}

/// A replay from the first request to the last.
struct Played {
    tally: tally::Tally,
    kill: Option<Kill>,
    evicted_before_kill: u64,
    replay_s: f64,
}

/// `hasty` is a second way to the node, on which a call to a dead node fails at once: what the kill interrupts is not tried again after the restart.
fn replay_all(
    args: &DemoArgs,
    course: &Course,
    [pool, hasty]: [&Node; 2],
    node: &mut Child,
) -> Result<Played, DemoError> {
    let bar = progress_bar(course.requests as u64);
    let mut replay = Replay::new(course, pool);
    let (mut kill, mut evicted_before_kill) = (None, 0);
    let start_us = course.clock.now_us();
    let mut away_us = 0;
    for index in 0..course.requests {
        if index == course.mark {
            evicted_before_kill = evicted(pool)?;
            if !args.no_kill {
                let killed_us = course.clock.now_us();
                let done = kill_and_restart(course, &replay, hasty, index, node)?;
                away_us = course.clock.now_us() - killed_us;
                bar.suspend(|| say::note(&told(index, &done)));
                kill = Some(done);
            }
        }
        replay.play(index);
        node.keeper.check_node()?;
        bar.inc(1);
        let rate = replay.tally.all().hit_rate();
        bar.set_message(format!("{:.1} % hits, {} fetched", rate * 100.0, format_size(replay.tally.fetched.bytes)));
    }
    bar.finish_and_clear();
    let replay_s = (course.clock.now_us() - start_us - away_us) as f64 / 1e6;
    Ok(Played { tally: replay.tally, kill, evicted_before_kill, replay_s })
}

fn told(index: usize, kill: &Kill) -> String {
    format!(
        "request {index}: SIGKILL with {}; back in {:.2} s with {} of {} blocks",
        kill.in_flight_words(),
        kill.recovery.as_secs_f64(),
        kill.survived,
        kill.asked
    )
}

fn progress_bar(requests: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(requests), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} requests  {msg}  {eta} left") {
        bar.set_style(style);
    }
    bar
}

/// The node's process, as the kill needs it.
struct Child {
    keeper: Keeper,
    args: Vec<String>,
}

impl Killer for Child {
    fn kill(&mut self) -> Result<(), DemoError> {
        self.keeper.kill_node()
    }
    fn restart(&mut self) -> Result<(), DemoError> {
        // The dead process's last write may still be under way; until it has ended the drive is locked and a node refuses to start.
        let mut tries = RESTARTS_MAX;
        loop {
            let started = self.keeper.start_node(&self.args);
            tries -= 1;
            if started.is_ok() || tries == 0 {
                return started;
            }
            self.keeper.pause(BETWEEN_RESTARTS);
        }
    }
}

/// Tries to start the node again: ten seconds of them, while a dead process's last writes end within a fraction of one.
const RESTARTS_MAX: u32 = 400;
const BETWEEN_RESTARTS: Duration = Duration::from_millis(20);

/// The node runs in the demo's directory, so its paths are short and its socket's path fits.
const DRIVE: &str = "drive";
const SOCKET: &str = "node.sock";

fn node_args(args: &DemoArgs, sizes: &Sizes) -> Vec<String> {
    let bytes = |n: u64| format!("{n}B");
    let words = [
        ["--data", DRIVE],
        ["--capacity", &bytes(sizes.capacity)],
        ["--segment", &bytes(sizes.segment)],
        ["--memory", &bytes(sizes.memory)],
        ["--socket", SOCKET],
        ["--io", &args.io],
    ];
    std::iter::once("serve").chain(words.into_iter().flatten()).map(str::to_owned).collect()
}

fn connect(node: &Child, sizes: &Sizes, patience: Duration) -> Result<Node, DemoError> {
    let address = Address::unix(node.keeper.dir().join(SOCKET))
        .map_err(|e| DemoError::new(format!("{e}; give a shorter --dir")))?;
    let options = Options {
        block_bytes_hint: sizes.block_bytes as usize,
        deadline: Duration::from_secs(30),
        patience,
        ..Options::default()
    };
    let failed = |e: forebay_client::ClientError| DemoError::new(format!("the demo's node cannot be reached: {e}"));
    Node::new(Client::connect(&address, options).map_err(failed)?).map_err(failed)
}

/// What the node says of itself.
fn figures(pool: &Node) -> Result<Value, DemoError> {
    let stats = pool.stats().map_err(|e| DemoError::new(format!("the node's figures cannot be read: {e}")))?;
    serde_json::from_str(&stats).map_err(|e| DemoError::new(format!("the node's figures are not JSON: {e}")))
}

/// Blocks that the node says it has evicted.
fn evicted(pool: &Node) -> Result<u64, DemoError> {
    let of = |stats: Value| -> Option<u64> {
        stats["shards"].as_array()?.iter().map(|shard| shard["evicted"].as_u64()).sum()
    };
    of(figures(pool)?)
        .ok_or_else(|| DemoError::new("the node's figures do not say how many blocks it evicted".to_owned()))
}

/// The policy by which the node says it keeps blocks.
fn policy(pool: &Node) -> Result<String, DemoError> {
    match figures(pool)?["policy"].as_str() {
        Some(policy) => Ok(policy.to_owned()),
        None => Err(DemoError::new("the node's figures do not say by which policy it keeps blocks".to_owned())),
    }
}

fn model_of(args: &DemoArgs) -> Result<&'static Model, DemoError> {
    let name = args.model.unwrap_or(MODEL_DEFAULT);
    model_by_name(name).or(models().first()).ok_or_else(|| DemoError::new(format!("the model {name} is not known")))
}

/// Chooses sizes. Where neither file nor number of requests was given, requests are left out at the end until the KV of `--model` suits the machine.
fn fit(args: &DemoArgs, workload: &mut Workload, model: &Model, parent: &Path) -> Result<(Sizes, u64, u64), DemoError> {
    let free = args.trace.is_none() && args.requests.is_none() && args.sessions.is_none();
    loop {
        let (distinct, references) = workload.blocks();
        let sizes = sizing::choose(&need_of(args, workload, model, parent, distinct, references)?);
        let fits = sizes.as_ref().is_ok_and(|sizes| sizes.is_modest(references));
        if fits || !free || workload.requests <= FEWEST_REQUESTS {
            return Ok((sizes.map_err(DemoError::new)?, distinct, references));
        }
        workload.requests = (workload.requests * 3 / 4).max(FEWEST_REQUESTS);
    }
}

/// Fewer requests show nothing.
const FEWEST_REQUESTS: usize = 4;

fn need_of(
    args: &DemoArgs,
    workload: &Workload,
    model: &Model,
    parent: &Path,
    distinct: u64,
    references: u64,
) -> Result<Need, DemoError> {
    let room = rustix::fs::statvfs(parent).map_err(|e| {
        DemoError::new(format!("the directory {} cannot be used: {e}; give another --dir", parent.display()))
    })?;
    Ok(Need {
        distinct,
        references,
        block_tokens: u64::from(workload.plan.block_tokens),
        bytes_per_token: args.bytes_per_token.or_else(|| args.model.map(|_| model.kv_bytes_per_token())),
        model_bytes_per_token: model.kv_bytes_per_token(),
        trace: args.trace.is_some(),
        free_bytes: room.f_bavail.saturating_mul(room.f_frsize),
        memory: args.memory,
        memory_free: memory_free(),
    })
}

/// Memory that the machine has available, in bytes; a cautious guess where it does not say.
fn memory_free() -> u64 {
    const GUESS: u64 = 2 << 30;
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map_or(GUESS, |kib| kib * 1024)
}
