//! One client beside others that are hostile, slow or greedy: how far the tail of its gets moves, beside the same gets alone in the same run.
//!
//! Each siege is measured in turn with a stretch alone before it, again and again, so that what the machine does meanwhile meets both.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use forebay_client::{Client, NamespaceHandle, Options};
use forebay_types::{Class, Entropy, Fingerprint, Key, MissReason, SystemEntropy};
use serde_json::{Value, json};

use crate::card::{Measured, Stolen, Table};
use crate::node::{Node, Setup};
use crate::report::{Samples, percentile, round, say, shown, shown_value};
use crate::watch::{Watch, pause};
use crate::work::{fill, pattern, stamp};
use crate::{Common, Failed, Outcome, why};

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
}

/// What the steady client gets, a call: blocks from DRAM and from the drive alike.
const BLOCK: usize = 64 << 10;
const BLOCKS: usize = 2048;
const CALL: usize = 4;
/// Its tail beside the besiegers, as a multiple of its tail alone.
const TIMES: f64 = 2.0;

/// Who besieges.
#[derive(Debug, Clone, Copy)]
enum Siege {
    /// Bytes that are no message, over fresh connections without end.
    Garbage,
    /// Connections that begin a message and say no more, opened and left by the hundred.
    Half,
    /// Clients that ask for blocks and give up at once.
    Hasty,
    /// Clients that get large blocks without a pause.
    Getters,
    /// Clients that put large blocks without a pause.
    Putters,
}

impl Siege {
    const ALL: [Siege; 5] = [Siege::Garbage, Siege::Half, Siege::Hasty, Siege::Getters, Siege::Putters];

    fn name(self) -> &'static str {
        match self {
            Siege::Garbage => "garbage on fresh connections",
            Siege::Half => "half messages, then silence",
            Siege::Hasty => "calls given up after 1 ms",
            Siege::Getters => "greedy gets of 1 MiB",
            Siege::Putters => "greedy puts of 1 MiB",
        }
    }
}

pub(crate) fn run(args: &SiegeArgs) -> Outcome<Measured> {
    let dir = args.common.scratch("siege")?;
    let place = dir.join("n");
    let setup =
        Setup { dir: place.clone(), capacity: "2GiB".into(), memory: "128MiB".into(), tcp: false, extra: Vec::new() };
    let node = Node::start(&args.common, setup)?;
    let client = node.unix()?;
    // Its own blocks are durable, so that what is missed was missed for a besieger's sake.
    let space = client
        .create_namespace("steady", Class::Durable, None, &Fingerprint::default())
        .map_err(why("making a namespace"))?;
    let keys = fill(&space, "steady", BLOCKS, BLOCK)?;
    let others = client.namespace("default").map_err(why("opening the namespace"))?;
    let large = fill(&others, "large", 128, 1 << 20)?;
    let ground = Ground { node: &node, socket: place.join("s"), large: &large, seconds: f64::from(args.seconds) };
    let mut rows = Vec::new();
    for siege in Siege::ALL {
        say(&format!("siege: {}", siege.name()));
        let (mut alone, mut beside) = (Tails::default(), Tails::default());
        let stolen = Stolen::start();
        for _ in 0..args.rounds {
            alone.add(&ground.steady(&space, &keys, None, 0)?);
            beside.add(&ground.steady(&space, &keys, Some(siege), args.besiegers)?);
        }
        rows.push(row(siege, &alone, &beside, stolen.share()));
    }
    let met = rows.iter().all(|row| row["met"] == true);
    Ok(Measured {
        bench: "siege",
        workload: format!(
            "Medians of {} rounds. One client gets {CALL} blocks of 64 KiB a call, a call at a time, for {} s alone and then for as long beside {} \
             besiegers of one kind. Every get is a hit, or the bench fails.",
            args.rounds, args.seconds, args.besiegers
        ),
        tools: json!({}),
        result: json!({ "rows": rows, "met": met }),
    })
}

/// Where it happens.
struct Ground<'a> {
    node: &'a Node,
    socket: PathBuf,
    large: &'a [Key],
    seconds: f64,
}

impl Ground<'_> {
    /// The microseconds of each call of the steady client.
    fn steady(&self, space: &NamespaceHandle, keys: &[Key], siege: Option<Siege>, besiegers: u16) -> Outcome<Vec<f64>> {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let crowd: Vec<_> = (0..if siege.is_some() { besiegers } else { 0 })
                .map(|number| {
                    let over = &over;
                    scope.spawn(move || siege.map_or(Ok(()), |siege| self.besiege(siege, number.into(), over)))
                })
                .collect();
            // They are all at it before the first call counts.
            pause(200);
            let us = self.calls(space, keys);
            over.store(true, Ordering::Relaxed);
            for one in crowd {
                one.join().unwrap_or_else(|_| Err(Failed("a besieger panicked".into())))?;
            }
            us
        })
    }

    fn calls(&self, space: &NamespaceHandle, keys: &[Key]) -> Outcome<Vec<f64>> {
        let (mut us, watch, mut at) = (Vec::new(), Watch::start(), 0);
        while watch.s() < self.seconds {
            at = (at + CALL * 37) % (keys.len() - CALL);
            let call = Watch::start();
            let mut missed: Option<MissReason> = None;
            space.get_each(&keys[at..at + CALL], |_, result| missed = missed.or(result.err()));
            us.push(call.us());
            if let Some(reason) = missed {
                return Err(Failed(format!("the steady client missed a block ({reason})")));
            }
        }
        Ok(us)
    }

    fn besiege(&self, siege: Siege, number: usize, over: &AtomicBool) -> Outcome<()> {
        match siege {
            Siege::Garbage => self.garbage(over),
            Siege::Half => self.half(over),
            Siege::Hasty => {
                let (_client, space) = self.client()?;
                let hasty = space.with_deadline(Duration::from_millis(1));
                self.gets(&hasty, number, over);
                Ok(())
            }
            Siege::Getters => {
                let (_client, space) = self.client()?;
                self.gets(&space, number, over);
                Ok(())
            }
            Siege::Putters => {
                let (_client, space) = self.client()?;
                let mut blocks: Vec<Vec<u8>> = (0..8).map(|_| pattern(1 << 20)).collect();
                while !over.load(Ordering::Relaxed) {
                    let new = |_: &Vec<u8>| space.derive_key(&SystemEntropy.word().to_le_bytes());
                    let keys: Vec<Key> = blocks.iter().map(new).collect();
                    keys.iter().zip(&mut blocks).for_each(|(key, block)| stamp(block, key));
                    let items: Vec<(Key, &[u8])> = keys.iter().copied().zip(blocks.iter().map(Vec::as_slice)).collect();
                    space.put(&items);
                }
                Ok(())
            }
        }
    }

    fn client(&self) -> Outcome<(Client, NamespaceHandle)> {
        let client = self.node.unix_with(Options { deadline: Duration::from_secs(30), ..Options::default() })?;
        let space = client.namespace("default").map_err(why("opening the namespace"))?;
        Ok((client, space))
    }

    fn gets(&self, space: &NamespaceHandle, number: usize, over: &AtomicBool) {
        let mut at = number * 16;
        while !over.load(Ordering::Relaxed) {
            at = (at + 16) % (self.large.len() - 16);
            space.get_each(&self.large[at..at + 16], |_, _| {});
        }
    }

    fn garbage(&self, over: &AtomicBool) -> Outcome<()> {
        let bytes = pattern(8192);
        while !over.load(Ordering::Relaxed) {
            // The node closes in the middle: that it does is the point.
            let mut socket = UnixStream::connect(&self.socket).map_err(why("connecting"))?;
            let _ = socket.write_all(&bytes);
        }
        Ok(())
    }

    fn half(&self, over: &AtomicBool) -> Outcome<()> {
        let mut held = std::collections::VecDeque::new();
        while !over.load(Ordering::Relaxed) {
            let mut socket = UnixStream::connect(&self.socket).map_err(why("connecting"))?;
            let _ = socket.write_all(b"FB\x01\x00\x37");
            held.push_back(socket);
            if held.len() > 100 {
                held.pop_front();
            }
            pause(1);
        }
        Ok(())
    }
}

/// p50, p99 and p99.9 of each round, in microseconds.
#[derive(Default)]
struct Tails([Samples; 3]);

impl Tails {
    fn add(&mut self, us: &[f64]) {
        self.0.iter_mut().zip([0.5, 0.99, 0.999]).for_each(|(into, share)| into.0.push(percentile(us, share)));
    }
}

fn row(siege: Siege, alone: &Tails, beside: &Tails, stolen: f64) -> Value {
    let (limit, ours) = (alone.0[1].median(), beside.0[1].median());
    let mut row = json!({
        "path": siege.name(), "unit": "us", "ours": round(ours), "limit": round(limit), "ratio": round(ours / limit),
        "target": TIMES, "met": ours / limit <= TIMES, "limit_is": "p99 of the same gets alone", "stolen": round(stolen),
        "alone_spread": round(alone.0[1].spread()), "beside_spread": round(beside.0[1].spread()),
        "alone_samples": alone.0[1].json(), "beside_samples": beside.0[1].json(),
    });
    for (name, at) in [("p50", 0), ("p999", 2)] {
        row[format!("alone_{name}")] = json!(round(alone.0[at].median()));
        row[format!("beside_{name}")] = json!(round(beside.0[at].median()));
    }
    row
}

/// The table of a result.
pub(crate) fn tables(result: &Value) -> Vec<Table> {
    let rows = result["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let times = |row: &Value| row["ratio"].as_f64().map_or("-".into(), |ratio| format!("{} x", shown(ratio)));
    let lines = rows.iter().map(|row| {
        let mut line = vec![row["path"].as_str().unwrap_or_default().to_owned()];
        line.extend(
            ["alone_p50", "beside_p50", "limit", "ours", "alone_p999", "beside_p999"]
                .map(|name| shown_value(&row[name])),
        );
        line.push(times(row));
        line.push(if row["met"] == true { "yes".into() } else { "no".into() });
        line.push(shown_value(&row["stolen"]));
        line
    });
    let heads = [
        "us",
        "p50 alone",
        "besieged",
        "p99 alone",
        "besieged",
        "p99.9 alone",
        "besieged",
        "p99",
        "within 2 x",
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
            tails.add(&[us]);
            tails
        };
        let row = |ours| row(Siege::Garbage, &tails(100.0), &tails(ours), 0.0);
        assert_eq!((row(200.0)["met"].as_bool(), row(201.0)["met"].as_bool()), (Some(true), Some(false)));
        let table = &tables(&json!({"rows": [row(150.0)]}))[0];
        assert!(table.rows[0].len() == table.heads.len() && table.rows[0].contains(&"1.50 x".to_owned()), "{table:?}");
    }
}
