//! A client under a broken node: how late its calls end when the node is stopped or killed under them or has more to do than it can, how soon it
//! is found again, and what a call costs while it is taken for dead.
//!
//! Lateness is what a call took beyond its deadline. A machine whose cores are shared is late by itself, so beside it stands what is left when the time
//! is taken off that the calling thread could have run and had no core, the share of time that the host took from the machine, and what the machine
//! does by itself in the same run: how late a thread wakes that only sleeps as long, and how long a loop takes that only counts.

mod alone;
mod calls;
mod dead;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use forebay_client::NamespaceHandle;
use forebay_types::{Clock, Key, SystemClock};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::card::{Measured, Stolen, Table};
use crate::node::{Node, Setup};
use crate::report::{percentile, round, say, shown_value, verdict};
use crate::watch::pause;
use crate::work::fill;
use crate::{Common, Failed, Outcome, why};
use calls::{Seen, calls, greedy};

#[derive(Args)]
pub(crate) struct BrokenArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Seconds of each phase.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
    /// Deadline of the calls. While the node has too much to do it is a fifth of that.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(5..=10_000))]
    deadline_ms: u16,
    /// Threads that call, each with a client of its own.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,
}

const BLOCK: usize = 64 << 10;
const BLOCKS: usize = 1024;
/// Clients that ask for as much as they can get, in the phase that is about them.
const GREEDY: usize = 8;

/// The design's own: a call ends this long after its deadline at most, in milliseconds, at p99.9; and costs this much while its node is dead, in
/// microseconds, at p99.9.
const LATE_MS: f64 = 10.0;
const DEAD_US: f64 = 20.0;

pub(crate) fn run(args: &BrokenArgs) -> Outcome<Measured> {
    let dir = args.common.scratch("broken")?;
    let setup =
        Setup { dir: dir.join("n"), capacity: "1GiB".into(), memory: "128MiB".into(), tcp: false, extra: Vec::new() };
    let mut node = Node::start(&args.common, setup)?;
    let client = node.unix()?;
    let space = client.namespace("default").map_err(why("opening the namespace"))?;
    let keys = fill(&space, "broken", BLOCKS, BLOCK)?;
    let deadline_ms = u64::from(args.deadline_ms);
    let mut rows = Vec::new();
    let mut phase = |node: &mut Node, name, deadline_ms, break_it: &dyn Fn(&mut Node) -> Outcome<()>| {
        rows.push(phase(args, node, &keys, name, Duration::from_millis(deadline_ms), break_it)?);
        Outcome::Ok(())
    };
    phase(&mut node, "late, node stopped", deadline_ms, &|node| {
        node.signal(Signal::STOP)?;
        pause(400);
        node.signal(Signal::CONT)?;
        pause(200);
        Ok(())
    })?;
    phase(&mut node, "late, node killed", deadline_ms, &|node| {
        node.kill();
        pause(200);
        node.restart()?;
        pause(200);
        Ok(())
    })?;
    let large = fill(&space, "large", 96, 1 << 20)?;
    phase(&mut node, "late, node overloaded", deadline_ms / 5, &|node| greedy(node, &large, GREEDY))?;
    rows.extend(dead::run(&mut node, &client, &space, &keys)?);
    let met = rows.iter().all(|row| row["met"] != false);
    Ok(Measured {
        bench: "broken",
        workload: format!(
            "{} threads, each with a client of its own, get 16 blocks of 64 KiB a call and every fourth time put 4 new ones, {} s a phase, with a \
             deadline of {deadline_ms} ms. Stopped: SIGSTOP for 0.4 s, then 0.2 s of work, and so on. Killed: SIGKILL, 0.2 s later a new start. \
             Overloaded: {GREEDY} more clients get and put 1 MiB blocks as fast as they can, and the deadline is {} ms.",
            args.threads,
            args.seconds,
            deadline_ms / 5
        ),
        tools: json!({}),
        result: json!({ "rows": rows, "met": met }),
    })
}

/// Threads call without a pause while the node is broken again and again.
fn phase(
    args: &BrokenArgs,
    node: &mut Node,
    keys: &[Key],
    name: &str,
    deadline: Duration,
    break_it: &dyn Fn(&mut Node) -> Outcome<()>,
) -> Outcome<Value> {
    say(&format!("broken: {name}"));
    let space = |_| -> Outcome<NamespaceHandle> {
        Ok(node.unix()?.namespace("default").map_err(why("opening the namespace"))?.with_deadline(deadline))
    };
    let spaces = (0..args.threads).map(space).collect::<Outcome<Vec<NamespaceHandle>>>()?;
    let stop = AtomicBool::new(false);
    let (all, slept_ms) = (Mutex::new(Seen::default()), Mutex::new(Vec::new()));
    let stolen = Stolen::start();
    let broken = std::thread::scope(|scope| {
        for (number, space) in spaces.iter().enumerate() {
            let (stop, all) = (&stop, &all);
            scope.spawn(move || {
                let seen = calls(space, keys, number, deadline, stop);
                all.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).add(seen);
            });
        }
        scope.spawn(|| {
            *slept_ms.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = alone::sleeps(deadline, &stop)
        });
        let clock = SystemClock::new();
        let mut broken = Ok(());
        while broken.is_ok() && clock.now_us() < u64::from(args.seconds) * 1_000_000 {
            broken = break_it(node);
        }
        stop.store(true, Ordering::Relaxed);
        broken
    });
    broken?;
    let seen = all.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let slept_ms = slept_ms.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    if seen.calls == 0 {
        return Err(Failed(format!("{name}: no call ended; nothing was measured")));
    }
    if !seen.late_ms.is_empty() {
        say(&format!("broken: the latest was {}", seen.worst));
    }
    // Where no call used all its time there is nothing to be late, and nothing is said of it.
    let of = |samples: &[f64], share| (!samples.is_empty()).then(|| round(percentile(samples, share)));
    let p999 = of(&seen.late_ms, 0.999);
    Ok(json!({
        "path": name, "unit": "ms", "deadline_ms": deadline.as_millis() as u64,
        "calls": seen.calls, "ended_by_deadline": seen.late_ms.len(),
        "p50": of(&seen.late_ms, 0.5), "p99": of(&seen.late_ms, 0.99), "p999": p999, "max": of(&seen.late_ms, 1.0),
        "without_waiting_p999": of(&seen.own_ms, 0.999), "without_waiting_max": of(&seen.own_ms, 1.0),
        "alone_p999": of(&slept_ms, 0.999), "alone_max": of(&slept_ms, 1.0), "first_max": of(&seen.first_ms, 1.0),
        "stolen": round(stolen.share()),
        "hits": seen.hits, "deadline": seen.deadline, "unavailable": seen.unavailable, "kept": seen.kept, "other": seen.other,
        "ours": p999, "limit": LATE_MS, "met": p999.is_none_or(|p999| p999 <= LATE_MS),
    }))
}

const LATE_FIELDS: [&str; 11] = [
    "calls",
    "hits",
    "ended_by_deadline",
    "p50",
    "p99",
    "p999",
    "max",
    "without_waiting_p999",
    "alone_p999",
    "first_max",
    "stolen",
];

/// The tables of a result.
pub(crate) fn tables(result: &Value) -> Vec<Table> {
    let rows = result["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let lines = |unit: &str, fields: &[&str]| {
        let mine = rows.iter().filter(|row| row["unit"] == unit);
        mine.map(|row| {
            let mut line = vec![row["path"].as_str().unwrap_or_default().to_owned()];
            let cell = |value: &Value| value.as_u64().map_or_else(|| shown_value(value), |count| count.to_string());
            line.extend(fields.iter().map(|field| cell(&row[*field])));
            line.push(verdict(row));
            line
        })
        .collect()
    };
    let table = |title: &str, heads: &[&str], rows| Table {
        title: title.into(),
        heads: heads.iter().map(|head| (*head).to_owned()).collect(),
        rows,
    };
    vec![
        table(
            "Beyond the deadline, ms",
            &[
                "",
                "calls",
                "blocks got",
                "used all their time",
                "p50",
                "p99",
                "p99.9",
                "max",
                "p99.9 with a core",
                "p99.9 of a sleep as long",
                "max of first calls",
                "stolen",
                "met",
            ],
            lines("ms", &LATE_FIELDS),
        ),
        table(
            "A dead node, us",
            &["", "p50", "p99", "p99.9", "max", "switched", "p99.9 of a loop as long", "its max", "switched", "met"],
            lines("us", &["p50", "p99", "p999", "max", "switches", "alone_p999", "alone_max", "alone_switches"]),
        ),
        table("Found again, s", &["", "p50", "max", "met"], lines("s", &["p50", "max"])),
    ]
}
