//! One client beside others that are hostile, slow or greedy: how far the tail of its gets moves, beside the same gets alone in the same run.
//!
//! Each siege is measured in turn with a stretch alone before it, again and again, so that what the machine does meanwhile meets both. Beside each tail
//! stands what is left of it when the time is taken off in which the client's thread or the shard's was ready to run and had no core.

mod besieger;
mod drive;

use std::path::PathBuf;

use clap::Args;
use forebay_client::{Client, NamespaceHandle};
use forebay_types::{Class, Fingerprint, Key, MissReason};
use serde_json::{Value, json};

use crate::card::{Measured, Stolen, Table};
use crate::node::{Node, Setup};
use crate::queued::Queued;
use crate::raw;
use crate::report::{Samples, percentile, round, say, shown, shown_value};
use crate::watch::{Watch, pause, threads_ns};
use crate::work::{attach, fill, shard_sum};
use crate::{Common, Failed, Outcome, why};
pub(crate) use besieger::{BesiegerArgs, run as besiege};
use besieger::{Crowd, LARGE, Siege};
use drive::Drive;

#[derive(Args)]
pub(crate) struct SiegeArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Rounds of each siege, each after a stretch alone.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=50))]
    rounds: u16,
    /// Seconds of each stretch, alone and besieged.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=120))]
    seconds: u16,
    /// Besiegers of each kind, each with a connection or a client of its own.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    besiegers: u16,
    /// Sieges whose name contains this only.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// What the steady client gets, a call: blocks from DRAM and from the drive alike.
const BLOCK: usize = 64 << 10;
const BLOCKS: usize = 2048;
const CALL: usize = 4;
/// Its tail beside the besiegers, as a multiple of its tail alone.
const TIMES: f64 = 2.0;

pub(crate) fn run(args: &SiegeArgs) -> Outcome<Measured> {
    let tools = raw::tools(!args.common.no_install);
    let dir = args.common.scratch("siege")?;
    let place = dir.join("n");
    let setup = Setup {
        dir: place.clone(),
        capacity: "2GiB".into(),
        memory: "128MiB".into(),
        tcp: false,
        extra: vec!["--prewrite".into()],
    };
    let node = Node::start(&args.common, setup)?;
    let client = node.unix()?;
    // Its own blocks are durable, so that what is missed was missed for a besieger's sake.
    let space = client
        .create_namespace("steady", Class::Durable, None, &Fingerprint::default())
        .map_err(why("making a namespace"))?;
    let keys = fill(&space, "steady", BLOCKS, BLOCK)?;
    fill(&attach(&client)?, "large", LARGE, 1 << 20)?;
    let ground = Ground {
        socket: place.join("s"),
        besiegers: args.besiegers,
        seconds: f64::from(args.seconds),
        client: Queued::of_this_thread(),
        shards: Queued::of_shards(node.pid()),
    };
    let mut rows = Vec::new();
    for siege in Siege::ALL {
        if args.only.as_ref().is_some_and(|only| !siege.name().contains(only.as_str())) {
            continue;
        }
        say(&format!("siege: {}", siege.name()));
        let drive = match siege {
            Siege::Putters => Drive::new(&tools, &dir.join("raw"), args.seconds)?,
            _ => None,
        };
        rows.push(ground.row(args, (&client, &space, &keys), siege, drive)?);
    }
    if rows.is_empty() {
        return Err(Failed("no siege has that in its name".into()));
    }
    let met = rows.iter().all(|row| row["met"] == true);
    Ok(Measured {
        bench: "siege",
        workload: format!(
            "Medians of {} rounds on a drive that was written once before. One client gets {CALL} blocks of 64 KiB a call, a call at a time, for {} s alone and then for as long beside {} \
             besiegers of one kind, each a process of its own. Then the same beside as many processes that use as much of the CPU and do not touch the node. Beside greedy puts fio reads as the client does on a file of its own, alone and beside its own writes at the putters' rate: what the drive does by itself. Every get is a hit, or the bench fails.",
            args.rounds, args.seconds, args.besiegers
        ),
        tools: tools.json(),
        result: json!({ "rows": rows, "met": met }),
    })
}

/// Where it happens.
struct Ground {
    socket: PathBuf,
    besiegers: u16,
    seconds: f64,
    /// The thread of the steady client.
    client: Queued,
    /// Those that answer it.
    shards: Queued,
}

/// What calls of the steady client took, in microseconds each.
#[derive(Default)]
struct Calls {
    us: Vec<f64>,
    /// The same less what the client's thread and the shard's waited for a core meanwhile, at least 0.
    own_us: Vec<f64>,
}

impl Ground {
    /// All rounds of one siege.
    fn row(
        &self,
        args: &SiegeArgs,
        (client, space, keys): (&Client, &NamespaceHandle, &[Key]),
        siege: Siege,
        mut drive: Option<Drive>,
    ) -> Outcome<Value> {
        let (mut alone, mut beside, mut burnt) = (Tails::default(), Tails::default(), Tails::default());
        let (mut cores, stolen) = (Samples::default(), Stolen::start());
        for _ in 0..args.rounds {
            alone.add(&self.calls(space, keys)?);
            let (watch, put) = (Watch::start(), shard_sum(client, "drive_put_bytes")?);
            let (calls, used) = self.beside(space, keys, siege, 1.0)?;
            let put_gb_s = (shard_sum(client, "drive_put_bytes")? - put) / 1e9 / watch.s();
            beside.add(&calls);
            cores.0.push(used);
            // What the besiegers' use of the CPU does by itself: no node can mend that.
            let share = (used / f64::from(args.besiegers)).min(1.0);
            burnt.add(&self.beside(space, keys, Siege::Burners, share)?.0);
            if let Some(drive) = &mut drive {
                drive.round(put_gb_s)?;
            }
        }
        let mut row = row(siege, &alone, &beside, &burnt, &cores, stolen.share());
        if let Some(drive) = drive {
            row["drive"] = drive.json();
        }
        Ok(row)
    }

    /// The calls of the steady client beside a crowd, and how many cores the crowd used.
    fn beside(&self, space: &NamespaceHandle, keys: &[Key], siege: Siege, share: f64) -> Outcome<(Calls, f64)> {
        let crowd = Crowd::start(siege, &self.socket, self.besiegers, share)?;
        // They are all at it before the first call counts.
        pause(200);
        let pids = crowd.pids();
        let used_ns = || threads_ns(&pids).values().sum::<u64>();
        let (before_ns, watch) = (used_ns(), Watch::start());
        let calls = self.calls(space, keys)?;
        let cores = used_ns().saturating_sub(before_ns) as f64 / 1e9 / watch.s();
        crowd.end()?;
        Ok((calls, cores))
    }

    /// The steady client's calls, one at a time.
    fn calls(&self, space: &NamespaceHandle, keys: &[Key]) -> Outcome<Calls> {
        let (mut calls, watch, mut at) = (Calls::default(), Watch::start(), 0);
        while watch.s() < self.seconds {
            at = (at + CALL * 37) % (keys.len() - CALL);
            let before_ms = self.client.ms() + self.shards.ms();
            let call = Watch::start();
            let mut missed: Option<MissReason> = None;
            space.get_each(&keys[at..at + CALL], |_, result| missed = missed.or(result.err()));
            let us = call.us();
            let waited_ms = self.client.ms() + self.shards.ms() - before_ms;
            calls.us.push(us);
            calls.own_us.push((us - waited_ms * 1e3).max(0.0));
            if let Some(reason) = missed {
                return Err(Failed(format!("the steady client missed a block ({reason})")));
            }
        }
        Ok(calls)
    }
}

/// p50, p99 and p99.9 of each round, in microseconds, and p99 with a core.
#[derive(Default)]
struct Tails([Samples; 3], Samples);

impl Tails {
    fn add(&mut self, calls: &Calls) {
        self.0.iter_mut().zip([0.5, 0.99, 0.999]).for_each(|(into, share)| into.0.push(percentile(&calls.us, share)));
        self.1.0.push(percentile(&calls.own_us, 0.99));
    }
}

fn row(siege: Siege, alone: &Tails, beside: &Tails, burnt: &Tails, cores: &Samples, stolen: f64) -> Value {
    let (limit, ours, floor) = (alone.0[1].median(), beside.0[1].median(), burnt.0[1].median());
    let mut row = json!({
        "path": siege.name(), "unit": "us", "ours": round(ours), "limit": round(limit), "ratio": round(ours / limit),
        "target": TIMES, "met": ours / limit <= TIMES, "limit_is": "p99 of the same gets alone", "stolen": round(stolen),
        "burners": round(floor), "burners_ratio": round(floor / limit), "cores": round(cores.median()),
        "burners_are": "as many processes that use as much of the CPU and do not touch the node",
        "alone_spread": round(alone.0[1].spread()), "beside_spread": round(beside.0[1].spread()),
        "burners_spread": round(burnt.0[1].spread()), "burners_samples": burnt.0[1].json(),
        "alone_samples": alone.0[1].json(), "beside_samples": beside.0[1].json(),
    });
    for (name, tails) in [("alone", alone), ("beside", beside), ("burners", burnt)] {
        row[format!("{name}_with_a_core")] = json!(round(tails.1.median()));
    }
    row["with_a_core_ratio"] = json!(round(beside.1.median() / alone.1.median()));
    row["with_a_core_is"] =
        json!("p99 less the time in which the client's thread or the shard's was ready to run and had no core");
    for (name, at) in [("p50", 0), ("p999", 2)] {
        row[format!("alone_{name}")] = json!(round(alone.0[at].median()));
        row[format!("beside_{name}")] = json!(round(beside.0[at].median()));
        row[format!("burners_{name}")] = json!(round(burnt.0[at].median()));
    }
    row
}

/// The table of a result.
pub(crate) fn tables(result: &Value) -> Vec<Table> {
    let rows = result["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let times = |ratio: &Value| ratio.as_f64().map_or("-".into(), |ratio| format!("{} x", shown(ratio)));
    let lines = rows.iter().map(|row| {
        let mut line = vec![row["path"].as_str().unwrap_or_default().to_owned()];
        line.extend(
            ["alone_p50", "beside_p50", "limit", "ours", "burners", "alone_p999", "beside_p999"]
                .map(|name| shown_value(&row[name])),
        );
        line.extend(["ratio", "burners_ratio", "with_a_core_ratio"].map(|name| times(&row[name])));
        line.push(times(&row["drive"]["ratio"]));
        line.push(if row["met"] == true { "yes".into() } else { "no".into() });
        line.extend(["cores", "stolen"].map(|name| shown_value(&row[name])));
        line
    });
    let heads = [
        "us",
        "p50 alone",
        "besieged",
        "p99 alone",
        "besieged",
        "burners",
        "p99.9 alone",
        "besieged",
        "p99",
        "burners",
        "with a core",
        "fio beside fio",
        "within 2 x",
        "cores used",
        "stolen",
    ];
    vec![Table { title: String::new(), heads: heads.map(String::from).to_vec(), rows: lines.collect() }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_twice_as_long_is_the_most() {
        let tails = |us: f64| {
            let mut tails = Tails::default();
            tails.add(&Calls { us: vec![us], own_us: vec![us / 2.0] });
            tails
        };
        let cores = Samples(vec![1.5]);
        let row = |ours| row(Siege::Garbage, &tails(100.0), &tails(ours), &tails(120.0), &cores, 0.0);
        assert_eq!((row(200.0)["met"].as_bool(), row(201.0)["met"].as_bool()), (Some(true), Some(false)));
        let table = &tables(&json!({"rows": [row(150.0)]}))[0];
        assert!(table.rows[0].len() == table.heads.len() && table.rows[0].contains(&"1.50 x".to_owned()), "{table:?}");
    }
}
