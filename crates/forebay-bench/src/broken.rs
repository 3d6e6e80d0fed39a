//! A client under a broken node: how late its calls end when the node is stopped or killed under them, and what a call costs while the node is
//! taken for dead.
//!
//! Lateness is what a call took beyond its deadline. A machine whose cores are shared is late by itself, so the share of time that was stolen
//! from it stands beside.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use forebay_client::{Client, NamespaceHandle};
use forebay_types::{Clock, Key, MissReason, SystemClock};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::node::{Node, Setup};
use crate::report::{percentile, print, say};
use crate::watch::Watch;
use crate::work::fill;
use crate::{Common, Failed, Outcome, why};

#[derive(Args)]
pub(crate) struct BrokenArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Seconds of each phase.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
    /// Deadline of the calls.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    deadline_ms: u16,
    /// Threads that call, each with a client of its own.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
}

const BLOCK: usize = 64 << 10;
const BLOCKS: usize = 1024;
/// Blocks of one call.
const CALL: usize = 16;
/// Calls whose cost is taken while the node is dead.
const DEAD_CALLS: usize = 20_000;

/// What the calls of a phase took.
#[derive(Default)]
struct Seen {
    /// Beyond the deadline, in milliseconds, of the calls that used all their time.
    late_ms: Vec<f64>,
    calls: u64,
    hits: u64,
    deadline: u64,
    unavailable: u64,
}

pub(crate) fn run(args: &BrokenArgs) -> Outcome<()> {
    let dir = args.common.scratch("broken")?;
    let setup =
        Setup { dir: dir.join("n"), capacity: "1GiB".into(), memory: "128MiB".into(), tcp: false, extra: Vec::new() };
    let mut node = Node::start(&args.common, setup)?;
    let client = node.unix()?;
    let space = client.namespace("default").map_err(why("opening the namespace"))?;
    let keys = fill(&space, "broken", BLOCKS, BLOCK)?;
    let stopped = phase(args, &mut node, &keys, "stopped (SIGSTOP 0.4 s, SIGCONT 0.2 s)", &|node| {
        node.signal(Signal::STOP)?;
        pause(400);
        node.signal(Signal::CONT)?;
        pause(200);
        Ok(())
    })?;
    let killed = phase(args, &mut node, &keys, "killed (SIGKILL, 0.2 s later a new start)", &|node| {
        node.kill();
        pause(200);
        node.restart()?;
        pause(200);
        Ok(())
    })?;
    node.signal(Signal::STOP)?;
    let dead_stopped = dead(&client, &space, &keys, "stopped")?;
    node.signal(Signal::CONT)?;
    if !client.wait_reachable(Duration::from_secs(10)) {
        return Err(Failed("the node goes on and the client does not find it".into()));
    }
    node.kill();
    let dead_killed = dead(&client, &space, &keys, "killed")?;
    if args.common.json {
        let all = json!({"deadline_ms": args.deadline_ms, "threads": args.threads, "stopped": stopped, "killed": killed,
            "dead_stopped": dead_stopped, "dead_killed": dead_killed});
        print(&all.to_string());
    }
    Ok(())
}

/// Threads call without a pause while the node is broken again and again.
fn phase(
    args: &BrokenArgs,
    node: &mut Node,
    keys: &[Key],
    name: &str,
    break_it: &dyn Fn(&mut Node) -> Outcome<()>,
) -> Outcome<Value> {
    let deadline = Duration::from_millis(args.deadline_ms.into());
    let space = |_| -> Outcome<NamespaceHandle> {
        Ok(node.unix()?.namespace("default").map_err(why("opening the namespace"))?.with_deadline(deadline))
    };
    let spaces = (0..args.threads).map(space).collect::<Outcome<Vec<NamespaceHandle>>>()?;
    let stop = AtomicBool::new(false);
    let all = Mutex::new(Seen::default());
    let before = stolen();
    let broken = std::thread::scope(|scope| {
        for (number, space) in spaces.iter().enumerate() {
            let (stop, all) = (&stop, &all);
            scope.spawn(move || {
                let seen = calls(space, keys, number, deadline, stop);
                all.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).add(seen);
            });
        }
        let clock = SystemClock::new();
        let mut broken = Ok(());
        while broken.is_ok() && clock.now_us() < u64::from(args.seconds) * 1_000_000 {
            broken = break_it(node);
        }
        stop.store(true, Ordering::Relaxed);
        broken
    });
    broken?;
    let steal = stolen_since(before);
    let seen = all.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    if seen.late_ms.is_empty() || seen.hits == 0 {
        return Err(Failed(format!("{name}: no call used all its time, or none got a block; nothing was measured")));
    }
    let (p50, p999, max) =
        (percentile(&seen.late_ms, 0.5), percentile(&seen.late_ms, 0.999), percentile(&seen.late_ms, 1.0));
    say(&format!(
        "{name}: {} calls, {} of them used all of their {} ms; late by p50 {p50:.2} ms, p99.9 {p999:.2} ms (goal 10), max {max:.2} ms; steal {:.1} %; \
         keys: {} hits, {} deadline, {} unavailable",
        seen.calls,
        seen.late_ms.len(),
        args.deadline_ms,
        steal * 100.0,
        seen.hits,
        seen.deadline,
        seen.unavailable
    ));
    Ok(
        json!({"calls": seen.calls, "ended_by_deadline": seen.late_ms.len(), "late_p50_ms": p50, "late_p999_ms": p999, "late_max_ms": max,
        "steal": steal, "hits": seen.hits, "deadline": seen.deadline, "unavailable": seen.unavailable}),
    )
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.late_ms.extend(other.late_ms);
        self.calls += other.calls;
        self.hits += other.hits;
        self.deadline += other.deadline;
        self.unavailable += other.unavailable;
    }
}

fn calls(space: &NamespaceHandle, keys: &[Key], number: usize, deadline: Duration, stop: &AtomicBool) -> Seen {
    let clock = SystemClock::new();
    let mut seen = Seen::default();
    let mut at = number * CALL;
    while !stop.load(Ordering::Relaxed) {
        at = (at + CALL * 7) % (keys.len() - CALL);
        let (begun, before) = (clock.now_us(), seen.unavailable);
        space.get_each(&keys[at..at + CALL], |_, result| match result {
            Ok(_) => seen.hits += 1,
            Err(MissReason::Unavailable) => seen.unavailable += 1,
            Err(_) => seen.deadline += 1,
        });
        let took = clock.now_us() - begun;
        seen.calls += 1;
        if took >= deadline.as_micros() as u64 {
            seen.late_ms.push((took as f64 - deadline.as_micros() as f64) / 1000.0);
        }
        if seen.unavailable > before {
            // A dead node answers within microseconds: a caller has something better to do meanwhile.
            pause(1);
        }
    }
    seen
}

/// What a call costs once the node is taken for dead.
fn dead(client: &Client, space: &NamespaceHandle, keys: &[Key], name: &str) -> Outcome<Value> {
    let clock = SystemClock::new();
    let opened = client.counters().breaker_opened;
    let hasty = space.with_deadline(Duration::from_millis(100));
    for _ in 0..100 {
        hasty.get(&keys[..1]);
        if client.counters().breaker_opened > opened {
            break;
        }
    }
    let before = client.counters();
    let begun = clock.now_us();
    let mut rows = Vec::new();
    for count in [1, 64] {
        let mut us = Vec::with_capacity(DEAD_CALLS);
        for _ in 0..DEAD_CALLS {
            let watch = Watch::start();
            let missed = hasty.get(&keys[..count]).iter().all(|result| result.miss() == Some(MissReason::Unavailable));
            us.push(watch.us());
            if !missed {
                return Err(Failed("a dead node answered".into()));
            }
        }
        let (p50, p999, mean) =
            (percentile(&us, 0.5), percentile(&us, 0.999), us.iter().sum::<f64>() / us.len() as f64);
        say(&format!(
            "dead ({name}), {count} keys a call: p50 {p50:.2} us, mean {mean:.2} us, p99.9 {p999:.2} us (goal 20)"
        ));
        rows.push(json!({"keys": count, "p50_us": p50, "mean_us": mean, "p999_us": p999}));
    }
    pause(2000);
    let after = client.counters();
    let seconds = (clock.now_us() - begun) as f64 / 1e6;
    let rate = (after.probes - before.probes) as f64 / seconds;
    say(&format!("dead ({name}): {} attempts by calls, {rate:.1} probes a second", after.attempts - before.attempts));
    Ok(json!({"calls": rows, "attempts": after.attempts - before.attempts, "probes_per_s": rate}))
}

#[expect(clippy::disallowed_methods, reason = "how long a node is broken is what this bench sets")]
fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// Ticks that all cores were kept from running, and all ticks.
fn stolen() -> (u64, u64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u64> =
        stat.lines().next().unwrap_or("").split_whitespace().skip(1).filter_map(|t| t.parse().ok()).collect();
    (ticks.get(7).copied().unwrap_or(0), ticks.iter().take(8).sum())
}

fn stolen_since(before: (u64, u64)) -> f64 {
    let now = stolen();
    (now.0 - before.0) as f64 / (now.1 - before.1).max(1) as f64
}
