//! How long an instant replay of 16.9 million block references takes on one core, and how much memory.

use std::process::{Command, Stdio};

use rustix::thread::{CpuSet, sched_setaffinity};
use serde_json::Value;

use super::traces::Traces;
use super::{Mark, TokenomicsArgs, row};
use crate::node::binary;
use crate::report::round;
use crate::watch::{Watch, pause};
use crate::{Failed, Outcome, why};

const SECONDS_MAX: f64 = 10.0;
const GB_MAX: f64 = 1.0;

pub(crate) fn run(args: &TokenomicsArgs, traces: &Traces) -> Outcome<Vec<Value>> {
    if traces.agents.is_none() {
        return Ok(Vec::new());
    }
    let mut rows = Vec::new();
    for policy in ["lru", "worth"] {
        let mut command = Command::new(binary(&args.common)?);
        command.args(["plan", "--replay", "instant", "--json", "--capacity", "5%", "--policy", policy, "--trace"]);
        command.arg(traces.agents_path());
        let (seconds, bytes) = on_one_core(command)?;
        let what = |of: &str| format!("agents-64, {policy} of 5 %, one core: {of}");
        rows.push(row("instant", what("read and replayed in"), round(seconds), "s", Mark::AtMost(SECONDS_MAX)));
        rows.push(row("instant", what("peak memory"), round(bytes / 1e9), "GB", Mark::AtMost(GB_MAX)));
    }
    Ok(rows)
}

/// Runs it with one core for itself; gives seconds and the most memory it was seen to hold.
fn on_one_core(mut command: Command) -> Outcome<(f64, f64)> {
    let watch = Watch::start();
    std::thread::scope(|scope| {
        // A child inherits the cores of the thread that starts it.
        let child = scope.spawn(|| {
            let mut one = CpuSet::new();
            one.set(0);
            let bound = sched_setaffinity(None, &one);
            let started = bound.map_err(|e| e.to_string()).and_then(|()| {
                command.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().map_err(|e| e.to_string())
            });
            let mut child = started?;
            let mut peak = 0.0f64;
            loop {
                peak = peak.max(peak_bytes(child.id()));
                match child.try_wait() {
                    Ok(Some(status)) if status.success() => return Ok(peak),
                    Ok(Some(status)) => return Err(format!("it ended with {status}")),
                    Ok(None) => pause(5),
                    Err(e) => return Err(e.to_string()),
                }
            }
        });
        let peak = child.join().map_err(|_| Failed("the thread that watches a replay ended early".into()))?;
        Ok((watch.s(), peak.map_err(why("forebay plan"))?))
    })
}

/// The most a process has held so far, as the kernel counts it.
fn peak_bytes(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or(0.0) * 1024.0
}
