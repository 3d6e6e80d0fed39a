//! 64 KiB gets from the drive while 16 MiB durable puts run: how far the tail of the gets moves, and what the puts pay, with fio under the same mix
//! beside it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use forebay_client::{NamespaceHandle, Options};
use forebay_types::{Key, Tier};
use serde_json::{Map, Value, json};

use crate::card::{Measured, Table};
use crate::node::{Node, Setup};
use crate::raw::drive::{self, Fio, Job};
use crate::raw::{self, Tools};
use crate::report::{Samples, percentile, round, say, shown, shown_value, verdict};
use crate::watch::{Watch, pause};
use crate::work::{MIB, attach, attach_durable, fill, one_by_one, pattern, shuffled, stamp};
use crate::{Common, Failed, Outcome, why};

#[derive(Args)]
pub(crate) struct BlenderArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Rounds of idle, puts alone and both, of ours and of fio.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=20))]
    rounds: u16,
    /// Gets of each phase, each block once.
    #[arg(long, value_name = "N", default_value_t = 8000, value_parser = clap::value_parser!(u32).range(1000..=50_000))]
    gets: u32,
    /// Puts in flight.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    depth: u8,
    /// Longest phase, in seconds.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(2..=120))]
    seconds: u16,
}

const SMALL: usize = 64 << 10;
const LARGE: usize = 16 << 20;
/// Large blocks in one call; a call's are forgotten when this many calls came after it, as checkpoints are.
const IN_A_CALL: usize = 4;
const CALLS_HELD: usize = 24;
/// Gets of a burst, after which the clock is looked at.
const BURST: usize = 50;

/// What the puts keep at least of their speed alone; what the tail of the gets may be, beside idle and beside fio under the same mix.
const PUTS_KEEP: f64 = 0.7;
const OVER_IDLE: f64 = 3.0;
const OVER_FIO: f64 = 1.2;

/// One side's rounds.
#[derive(Default)]
struct Side {
    /// p50, p99 and p99.9 in microseconds.
    idle: [Samples; 3],
    mixed: [Samples; 3],
    put_alone: Samples,
    put_mixed: Samples,
}

impl Side {
    fn gets(into: &mut [Samples; 3], us: [f64; 3]) {
        into.iter_mut().zip(us).for_each(|(samples, us)| samples.0.push(us));
    }
}

pub(crate) fn run(args: &BlenderArgs) -> Outcome<Measured> {
    let tools = raw::tools(!args.common.no_install);
    let dir = args.common.scratch("blender")?;
    let raw_file = dir.join("raw");
    let (gets, rounds) = (args.gets as usize, usize::from(args.rounds));
    let small_mib = 2 * rounds * gets * SMALL / MIB;
    say("blender: making drive and raw file");
    // Reads of its first part, writes to the rest.
    drive::written_file(&raw_file, (small_mib + WRITTEN_MIB) as u64)?;
    let setup = Setup {
        dir: dir.join("n"),
        capacity: format!("{}MiB", small_mib * 9 / 8 + CALLS_HELD * IN_A_CALL * 16 * 2 + 1024),
        memory: "768MiB".into(),
        tcp: false,
        extra: ["--segment", "64MiB", "--prewrite"].map(String::from).to_vec(),
    };
    let mut node = Node::start(&args.common, setup)?;
    let keys = fill(&attach(&node.unix()?)?, "small", 2 * rounds * gets, SMALL)?;
    // Nothing is in DRAM after this. Not by SIGKILL: the blocks are `cached`, and those that the drive had not taken yet would be gone.
    node.end_and_restart()?;
    let ours = Ours { node: &node, args };
    let fio = Raw { tools: &tools, args, file: &raw_file, small_mib: small_mib as u64 };
    let (mut here, mut there) = (Side::default(), Side::default());
    let mut parts = shuffled(&keys);
    for round in 0..rounds {
        say(&format!("blender: round {} of {rounds}", round + 1));
        let (idle, mixed) = (parts.split_off(parts.len() - gets), parts.split_off(parts.len() - gets));
        if round.is_multiple_of(2) {
            fio.round(round as u64, &mut there)?;
            ours.round(round, &idle, &mixed, &mut here)?;
        } else {
            ours.round(round, &idle, &mixed, &mut here)?;
            fio.round(round as u64, &mut there)?;
        }
    }
    Ok(Measured {
        bench: "blender",
        workload: format!(
            "Medians of {rounds} rounds. 64 KiB gets from the drive, one at a time, {gets} a phase, alone and while 16 MiB durable puts run, {} in \
             flight; fio does the same on a file of its own (direct, one fdatasync per {} writes).",
            args.depth, args.depth
        ),
        tools: tools.json(),
        result: result(&here, &there),
    })
}

/// What fio writes to, round and round, in MiB.
const WRITTEN_MIB: usize = 2048;

/// Forebay's side.
struct Ours<'a> {
    node: &'a Node,
    args: &'a BlenderArgs,
}

impl Ours<'_> {
    fn round(&self, round: usize, idle: &[Key], mixed: &[Key], side: &mut Side) -> Outcome<()> {
        let client = self.node.unix()?;
        let space = attach(&client)?;
        Side::gets(&mut side.idle, self.gets(&space, idle)?);
        let puts = Puts::new(&format!("alone{round}"));
        let watch = Watch::start();
        let alone = std::thread::scope(|scope| {
            let putter = scope.spawn(|| self.put(&puts));
            while watch.s() < f64::from(self.args.seconds) / 2.0 && !putter.is_finished() {
                pause(2);
            }
            let rate = puts.rate();
            puts.stop.store(true, Ordering::Relaxed);
            joined(putter.join()).map(|()| rate)
        })?;
        side.put_alone.0.push(alone);
        let puts = Puts::new(&format!("mixed{round}"));
        let (us, rate) = std::thread::scope(|scope| {
            let putter = scope.spawn(|| self.put(&puts));
            while puts.bytes.load(Ordering::Relaxed) == 0 && !putter.is_finished() {
                pause(2);
            }
            puts.restart();
            let us = self.gets(&space, mixed);
            let rate = puts.rate();
            puts.stop.store(true, Ordering::Relaxed);
            joined(putter.join())?;
            us.map(|us| (us, rate))
        })?;
        Side::gets(&mut side.mixed, us);
        side.put_mixed.0.push(rate);
        Ok(())
    }

    /// p50, p99 and p99.9 of gets, one at a time, for as long as a phase may last.
    fn gets(&self, space: &NamespaceHandle, keys: &[Key]) -> Outcome<[f64; 3]> {
        let watch = Watch::start();
        let mut us = Vec::with_capacity(keys.len());
        for burst in keys.chunks(BURST) {
            us.extend(one_by_one(space, burst, SMALL, Tier::Nvme)?);
            if watch.s() > f64::from(self.args.seconds) {
                break;
            }
        }
        Ok([0.5, 0.99, 0.999].map(|share| percentile(&us, share)))
    }

    /// Puts until it is told to stop, and forgets what is old.
    fn put(&self, puts: &Puts) -> Outcome<()> {
        let depth = usize::from(self.args.depth);
        let options =
            Options { deadline: Duration::from_secs(30), in_flight_bytes: depth * LARGE, ..Options::default() };
        let client = self.node.unix_with(options)?;
        let space = attach_durable(&client)?.with_in_flight(depth);
        let mut blocks: Vec<Vec<u8>> = (0..IN_A_CALL).map(|_| pattern(LARGE)).collect();
        let mut held = std::collections::VecDeque::new();
        for call in 0u64.. {
            if puts.stop.load(Ordering::Relaxed) {
                break;
            }
            let keys: Vec<Key> =
                (0..IN_A_CALL).map(|i| space.derive_key(format!("{}/{call}/{i}", puts.name).as_bytes())).collect();
            keys.iter().zip(&mut blocks).for_each(|(key, block)| stamp(block, key));
            let items: Vec<(Key, &[u8])> = keys.iter().copied().zip(blocks.iter().map(Vec::as_slice)).collect();
            if let Some(outcome) = space.put(&items).iter().find(|outcome| !outcome.is_kept()) {
                return Err(Failed(format!("a put of 16 MiB answered {outcome}")));
            }
            puts.bytes.fetch_add((IN_A_CALL * LARGE) as u64, Ordering::Relaxed);
            held.push_back(keys);
            if held.len() > CALLS_HELD {
                let old = held.pop_front().unwrap_or_default();
                space.forget(&old).map_err(why("forgetting"))?;
            }
        }
        for old in held {
            space.forget(&old).map_err(why("forgetting"))?;
        }
        Ok(())
    }
}

/// Puts in progress.
struct Puts {
    name: String,
    stop: AtomicBool,
    bytes: AtomicU64,
    watch: std::sync::Mutex<(Watch, u64)>,
}

impl Puts {
    fn new(name: &str) -> Puts {
        Puts {
            name: name.to_owned(),
            stop: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            watch: std::sync::Mutex::new((Watch::start(), 0)),
        }
    }

    /// Counts from here.
    fn restart(&self) {
        *self.watch.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) =
            (Watch::start(), self.bytes.load(Ordering::Relaxed));
    }

    /// GB/s since then.
    fn rate(&self) -> f64 {
        let since = self.watch.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        (self.bytes.load(Ordering::Relaxed) - since.1) as f64 / 1e9 / since.0.s()
    }
}

fn joined(outcome: std::thread::Result<Outcome<()>>) -> Outcome<()> {
    outcome.unwrap_or_else(|_| Err(Failed("the putting thread panicked".into())))
}

/// fio's side.
struct Raw<'a> {
    tools: &'a Tools,
    args: &'a BlenderArgs,
    file: &'a Path,
    small_mib: u64,
}

impl Raw<'_> {
    fn round(&self, round: u64, side: &mut Side) -> Outcome<()> {
        if self.tools.fio.is_none() {
            return Ok(());
        }
        let part = (self.args.gets as usize * SMALL / MIB) as u64;
        let seconds = u32::from(self.args.seconds);
        let depth = u32::from(self.args.depth);
        let reads = |at: u64| Job {
            file: self.file,
            from_mib: at * part,
            size_mib: part,
            write: false,
            random: true,
            block_kib: 64,
            depth: 1,
            seconds: None,
            sync_every: 0,
        };
        let writes = |seconds| Job {
            from_mib: self.small_mib,
            size_mib: WRITTEN_MIB as u64,
            write: true,
            random: false,
            block_kib: 16 << 10,
            depth,
            seconds: Some(seconds),
            sync_every: depth,
            ..reads(0)
        };
        let us = |result: drive::JobResult| [result.p50_us, result.p99_us, result.p999_us];
        Side::gets(&mut side.idle, us(drive::run(self.tools, &reads(2 * round))?));
        side.put_alone.0.push(drive::run(self.tools, &writes(seconds / 2))?.gb_s);
        let writer = Fio::start(&writes(seconds))?;
        Side::gets(&mut side.mixed, us(drive::run(self.tools, &reads(2 * round + 1))?));
        side.put_mixed.0.push(writer.finish()?.gb_s);
        Ok(())
    }
}

fn result(ours: &Side, fio: &Side) -> Value {
    let mut rows = Vec::new();
    let mut tail_met = false;
    for (i, name) in ["get_64k_p50_us", "get_64k_p99_us", "get_64k_p999_us"].into_iter().enumerate() {
        let (idle, mixed) = (&ours.idle[i], &ours.mixed[i]);
        let (fio_idle, fio_mixed) = (&fio.idle[i], &fio.mixed[i]);
        let mut row =
            fields(name, "us", [("idle", idle), ("mixed", mixed), ("fio_idle", fio_idle), ("fio_mixed", fio_mixed)]);
        if name.ends_with("p999_us") {
            let allowed = OVER_IDLE * idle.median();
            let allowed = fio_mixed.some_median().map_or(allowed, |fio| allowed.max(OVER_FIO * fio));
            tail_met = mixed.median() <= allowed;
            row.extend(judged(mixed.median(), allowed, 1.0, tail_met));
            row.insert("limit_is".into(), json!("the larger of 3 x idle and 1.2 x fio under the same mix"));
        }
        rows.push(Value::Object(row));
    }
    let (alone, mixed) = (&ours.put_alone, &ours.put_mixed);
    let mut puts = fields(
        "put_16m",
        "GB/s",
        [("idle", alone), ("mixed", mixed), ("fio_idle", &fio.put_alone), ("fio_mixed", &fio.put_mixed)],
    );
    let puts_met = mixed.median() >= PUTS_KEEP * alone.median();
    puts.extend(judged(mixed.median(), alone.median(), PUTS_KEEP, puts_met));
    puts.insert("limit_is".into(), json!("the same puts alone"));
    rows.push(Value::Object(puts));
    json!({ "rows": rows, "met": tail_met && puts_met })
}

fn fields(path: &str, unit: &str, sides: [(&str, &Samples); 4]) -> Map<String, Value> {
    let mut row = Map::new();
    row.insert("path".into(), json!(path));
    row.insert("unit".into(), json!(unit));
    for (name, samples) in sides {
        row.insert(name.into(), json!(samples.some_median().map(round)));
        row.insert(format!("{name}_spread"), json!(samples.some_median().map(|_| round(samples.spread()))));
        row.insert(format!("{name}_samples"), samples.json());
    }
    row
}

fn judged(ours: f64, limit: f64, target: f64, met: bool) -> Map<String, Value> {
    [
        ("ours", json!(round(ours))),
        ("limit", json!(round(limit))),
        ("ratio", json!(round(ours / limit))),
        ("target", json!(target)),
        ("met", json!(met)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into_iter()
    .collect()
}

/// The table of a result.
pub(crate) fn tables(result: &Value) -> Vec<Table> {
    let rows = result["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let times = |row: &Value, ours: &str, other: &str| match (row[ours].as_f64(), row[other].as_f64()) {
        (Some(ours), Some(other)) => shown(ours / other),
        _ => "-".into(),
    };
    let lines = rows.iter().map(|row| {
        vec![
            row["path"].as_str().unwrap_or_default().to_owned(),
            shown_value(&row["idle"]),
            shown_value(&row["mixed"]),
            times(row, "mixed", "idle"),
            shown_value(&row["fio_idle"]),
            shown_value(&row["fio_mixed"]),
            times(row, "mixed", "fio_mixed"),
            verdict(row),
        ]
    });
    let heads = ["", "alone", "mixed", "mixed / alone", "fio alone", "fio mixed", "mixed / fio mixed", "met"];
    vec![Table { title: String::new(), heads: heads.map(String::from).to_vec(), rows: lines.collect() }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(idle: f64, mixed: f64, alone: f64, puts: f64) -> Side {
        let s = |x: f64| Samples(vec![x]);
        let three = |x: f64| [s(x / 4.0), s(x / 2.0), s(x)];
        Side { idle: three(idle), mixed: three(mixed), put_alone: s(alone), put_mixed: s(puts) }
    }

    #[test]
    fn the_tail_and_the_puts_must_both_hold() {
        let met = |ours: Side, fio: Side| result(&ours, &fio)["met"] == true;
        assert!(met(side(100.0, 299.0, 2.0, 1.5), Side::default()), "within three times idle");
        assert!(!met(side(100.0, 301.0, 2.0, 1.5), Side::default()));
        assert!(met(side(100.0, 500.0, 2.0, 1.5), side(90.0, 450.0, 2.0, 1.5)), "fio's tail moves as far");
        assert!(!met(side(100.0, 200.0, 2.0, 1.3), Side::default()), "the puts paid for it");
    }
}
