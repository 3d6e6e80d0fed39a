//! `forebay bench`: blocks put, then got at random, against a node that runs already. A first impression, not a measurement: it has no limit beside
//! it. For ratios against the machine's limits there is `cargo xtask bench limits`.

use std::sync::Mutex;
use std::time::Duration;

use forebay_client::NamespaceHandle;
use forebay_types::{Clock, Entropy, Key, PutOutcome, SeededEntropy, SystemClock, Tier, format_size};
use serde_json::{Value, json};

use crate::cli::BenchArgs;
use crate::settings::Settings;
use crate::stop::Stop;
use crate::{connect, say};

/// Puts of large blocks on a slow drive.
const DEADLINE: Duration = Duration::from_secs(30);

/// Runs it. The blocks are forgotten at the end.
pub(crate) fn run(args: &BenchArgs, settings: &Settings) -> Result<(), Stop> {
    if args.size == 0 || args.size > forebay_types::limits::BLOCK_BYTES_MAX {
        return Err(Stop::Misused(format!("--size: a block has 1 B to 64 MiB, not {}", format_size(args.size))));
    }
    let client = connect::client(settings, DEADLINE)?;
    let space = connect::namespace(&client, settings)?;
    let blocks: Vec<u32> = (0..args.blocks).collect();
    let keys: Vec<Key> = blocks.iter().map(|block| space.derive_key(&name(args.seed, *block))).collect();
    let work = Work { args, space: &space, keys: &keys, clock: SystemClock::new() };

    let puts = work.in_threads("putting", |thread, tally| work.put_share(thread, tally))?;
    let kept = keys.len() as u64 - puts.lost;
    if kept == 0 {
        let reason = puts.reason.unwrap_or_default();
        return Err(Stop::Failed(format!(
            "the node kept none of the {} blocks: {reason}; see `forebay stat`",
            keys.len()
        )));
    }
    let gets = work.in_threads("getting", |thread, tally| work.get_for_a_while(thread, tally))?;
    for part in keys.chunks(1024) {
        space.forget(part)?;
    }
    let rows = [row("put", args, &puts), row("get", args, &gets)];
    if args.on.client.json {
        say::line(&json!({ "rows": rows }).to_string())?;
    } else {
        show(&rows)?;
    }
    if gets.wrong > 0 {
        return Err(Stop::Failed(format!("{} bytes came back wrong; please report this", gets.wrong)));
    }
    Ok(())
}

fn name(seed: u64, block: u32) -> [u8; 12] {
    let mut name = [0; 12];
    name[..8].copy_from_slice(&seed.to_le_bytes());
    name[8..].copy_from_slice(&block.to_le_bytes());
    name
}

struct Work<'a> {
    args: &'a BenchArgs,
    space: &'a NamespaceHandle,
    keys: &'a [Key],
    clock: SystemClock,
}

/// What one phase did.
#[derive(Default)]
struct Tally {
    calls_us: Vec<u32>,
    blocks: u64,
    bytes: u64,
    from_dram: u64,
    lost: u64,
    wrong: u64,
    reason: Option<String>,
    seconds: f64,
}

impl Tally {
    fn add(&mut self, other: Tally) {
        self.calls_us.extend(other.calls_us);
        self.blocks += other.blocks;
        self.bytes += other.bytes;
        self.from_dram += other.from_dram;
        self.lost += other.lost;
        self.wrong += other.wrong;
        self.reason = self.reason.take().or(other.reason);
    }
}

impl Work<'_> {
    /// The same work in every thread; what all did together, over the time it took.
    fn in_threads(&self, what: &str, work: impl Fn(u32, &mut Tally) + Sync) -> Result<Tally, Stop> {
        say::note(&format!(
            "{what} {} blocks of {} in {} threads",
            self.keys.len(),
            format_size(self.args.size),
            self.args.threads
        ));
        let all = Mutex::new(Tally::default());
        let start_us = self.clock.now_us();
        std::thread::scope(|scope| {
            for thread in 0..self.args.threads {
                let (all, work) = (&all, &work);
                let run = move || {
                    let mut tally = Tally::default();
                    work(thread, &mut tally);
                    all.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).add(tally);
                };
                std::thread::Builder::new()
                    .name(format!("bench-{thread}"))
                    .spawn_scoped(scope, run)
                    .map_err(|e| Stop::Failed(format!("a thread cannot be started: {e}; ask for fewer --threads")))?;
            }
            Ok::<(), Stop>(())
        })?;
        let mut tally = all.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        tally.seconds = (self.clock.now_us() - start_us) as f64 / 1e6;
        tally.calls_us.sort_unstable();
        Ok(tally)
    }

    fn put_share(&self, thread: u32, tally: &mut Tally) {
        let threads = self.args.threads as usize;
        let mine: Vec<u32> = (thread..self.args.blocks).step_by(threads).collect();
        for batch in mine.chunks(self.args.batch as usize) {
            let contents: Vec<Vec<u8>> = batch.iter().map(|block| self.content(*block)).collect();
            let blocks: Vec<(Key, &[u8])> = batch
                .iter()
                .zip(&contents)
                .map(|(block, bytes)| (self.keys[*block as usize], bytes.as_slice()))
                .collect();
            let start_us = self.clock.now_us();
            let outcomes = self.space.put(&blocks);
            tally.calls_us.push((self.clock.now_us() - start_us) as u32);
            for outcome in outcomes {
                match outcome {
                    PutOutcome::Refused(reason) => {
                        tally.lost += 1;
                        tally.reason.get_or_insert_with(|| reason.to_string());
                    }
                    _ => {
                        tally.blocks += 1;
                        tally.bytes += self.args.size;
                    }
                }
            }
        }
    }

    fn get_for_a_while(&self, thread: u32, tally: &mut Tally) {
        let chance = SeededEntropy::new(self.args.seed ^ u64::from(thread) << 32);
        let until_us = self.clock.now_us() + u64::from(self.args.seconds) * 1_000_000;
        while self.clock.now_us() < until_us {
            let picked: Vec<u32> =
                (0..self.args.batch).map(|_| (chance.word() % self.keys.len() as u64) as u32).collect();
            let keys: Vec<Key> = picked.iter().map(|block| self.keys[*block as usize]).collect();
            let start_us = self.clock.now_us();
            self.space.get_each(&keys, |at, found| match found {
                Ok(block) => {
                    tally.blocks += 1;
                    tally.bytes += block.bytes().len() as u64;
                    tally.from_dram += u64::from(block.tier() == Tier::Dram);
                    tally.wrong += wrong(&mark(self.args.seed, picked[at]), block.bytes());
                }
                Err(reason) => {
                    tally.lost += 1;
                    tally.reason.get_or_insert_with(|| reason.to_string());
                }
            });
            tally.calls_us.push((self.clock.now_us() - start_us) as u32);
        }
    }

    fn content(&self, block: u32) -> Vec<u8> {
        let mark = mark(self.args.seed, block);
        let mut bytes = vec![0; self.args.size as usize];
        // The mark opens every 4 KiB: two blocks differ in each of them, and checking it costs little beside the get.
        bytes.chunks_mut(4096).for_each(|chunk| {
            let length = chunk.len().min(8);
            chunk[..length].copy_from_slice(&mark[..length]);
        });
        bytes
    }
}

fn mark(seed: u64, block: u32) -> [u8; 8] {
    SeededEntropy::new(seed.rotate_left(32) ^ u64::from(block)).word().to_le_bytes()
}

/// Bytes that differ from what was put, looked at where the marks are.
fn wrong(mark: &[u8; 8], bytes: &[u8]) -> u64 {
    let differ = |chunk: &[u8]| chunk.iter().zip(mark).filter(|(a, b)| a != b).count() as u64;
    bytes.chunks(4096).map(differ).sum()
}

fn row(verb: &str, args: &BenchArgs, tally: &Tally) -> Value {
    let at = |share: f64| {
        let last = tally.calls_us.len().saturating_sub(1);
        tally.calls_us.get((last as f64 * share) as usize).copied().unwrap_or(0)
    };
    json!({
        "verb": verb,
        "block_bytes": args.size,
        "threads": args.threads,
        "batch": args.batch,
        "blocks": tally.blocks,
        "lost": tally.lost,
        "lost_reason": tally.reason,
        "from_dram": tally.from_dram,
        "wrong_bytes": tally.wrong,
        "seconds": tally.seconds,
        "gb_per_s": tally.bytes as f64 / 1e9 / tally.seconds.max(1e-9),
        "call_p50_us": at(0.50),
        "call_p99_us": at(0.99),
        "call_p999_us": at(0.999),
    })
}

fn show(rows: &[Value]) -> Result<(), Stop> {
    let mut table = say::table(&["", "blocks", "GB/s", "p50 us", "p99 us", "p99.9 us", "from DRAM", "lost"]);
    for row in rows {
        let number = |name: &str| row[name].as_u64().unwrap_or(0).to_string();
        let blocks = row["blocks"].as_f64().unwrap_or(0.0).max(1.0);
        let dram = match row["verb"].as_str() {
            Some("get") => format!("{:.1} %", row["from_dram"].as_f64().unwrap_or(0.0) / blocks * 100.0),
            _ => "-".to_owned(),
        };
        table.add_row([
            row["verb"].as_str().unwrap_or("").to_owned(),
            number("blocks"),
            format!("{:.2}", row["gb_per_s"].as_f64().unwrap_or(0.0)),
            number("call_p50_us"),
            number("call_p99_us"),
            number("call_p999_us"),
            dram,
            number("lost"),
        ]);
    }
    say::show(&table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_byte_where_a_mark_is_counts() {
        let mut bytes = vec![0; 10_000];
        let ours = mark(1, 2);
        bytes.chunks_mut(4096).for_each(|chunk| chunk[..8].copy_from_slice(&ours));
        assert_eq!(wrong(&ours, &bytes), 0);
        bytes[4097] ^= 1;
        assert_eq!(wrong(&ours, &bytes), 1);
        assert!(wrong(&mark(1, 3), &bytes) > 8);
    }
}
