//! Rows on an index of a million blocks of 4 KiB: matching, starting after a SIGKILL, memory a block.

use std::path::Path;

use forebay_client::NamespaceHandle;
use forebay_types::Key;

use super::{Bench, in_turn};
use crate::node::Node;
use crate::raw::Tools;
use crate::raw::drive::{self, Job};
use crate::raw::sockets::PingPong;
use crate::report::{Row, Rule, Samples, Side, Target, say};
use crate::watch::{Latencies, Watch};
use crate::work::{MIB, attach, count_hits, fill_with, shard_sum};
use crate::{Failed, Outcome};

const BLOCK: usize = 4096;
/// Moments at which the index is weighed while it fills.
const MOMENTS: usize = 32;
const MATCHED: usize = 1024;
const BURSTS: usize = 8;
const MATCHES_A_BURST: usize = 50;
/// Bytes of a footer's entry.
pub(crate) const FOOTER_ENTRY: usize = 64;

impl Bench<'_> {
    pub(super) fn million_rows(&mut self) -> Outcome<()> {
        let blocks = usize::try_from(self.args.blocks).unwrap_or(usize::MAX);
        let setup = self.setup(blocks / 96 + 512, "1GiB", false, &[]);
        let mut node = Node::start(&self.args.common, setup)?;
        let (keys, weights) = fill_and_weigh(&node, blocks)?;
        let n = if blocks == 1_000_000 { String::new() } else { format!("; {blocks} blocks") };
        if self.args.wants("match_1024_us") {
            self.match_row(&node, &keys, &n)?;
        }
        if self.args.wants("recover_1m_blocks_s") {
            self.recover_row(&mut node, &keys, &n)?;
        }
        let mut weight = |path, worst, limit_is, first, goal| {
            self.rows.push(Row {
                path,
                unit: "B",
                ours: Side::speed(Samples(vec![worst]), None),
                limit: Side::default(),
                limit_is,
                target: Target { rule: Rule::AtMost, first, goal },
            });
        };
        let what = "tables, one of them growing, what left lately, leases, footers to be";
        let when = format!("worst of {MOMENTS} moments while filling{n}");
        weight("index_bytes_per_block", weights.block, format!("{what}; {when}"), 64.0, 48.0);
        // The smallest record takes 8 KiB of the arena: a sixty-fourth of it, or half of that.
        let when = format!("beside its bytes, whatever their size; {when}");
        weight("dram_bytes_per_resident_block", weights.resident, when, 128.0, 64.0);
        Ok(())
    }

    fn match_row(&mut self, node: &Node, keys: &[Key], n: &str) -> Outcome<()> {
        let mut ping = PingPong::start(16 << 10, 64)?;
        let client = node.unix()?;
        let space = attach(&client)?;
        let (mut ours, mut limit) = (Latencies::default(), Latencies::default());
        let mut at = 0;
        for pair in 0..self.pairs() {
            self.say_pair("match_1024_us", pair);
            for _ in 0..BURSTS {
                limit.add(ping.burst(MATCHES_A_BURST * 4)?);
                ours.add(matches(&space, keys, &mut at)?);
            }
            ours.close();
            limit.close();
        }
        self.rows.push(Row {
            path: "match_1024_us",
            unit: "us",
            ours: Side::latency(ours, None),
            limit: Side::latency(limit, None),
            limit_is: format!("Unix-socket ping-pong, 16 KiB there, to another process; ours leases what it finds{n}"),
            target: Target { rule: Rule::Above, first: 300.0, goal: 80.0 },
        });
        Ok(())
    }

    fn recover_row(&mut self, node: &mut Node, keys: &[Key], n: &str) -> Outcome<()> {
        let footers = self.dir.join("footers");
        let mib = (keys.len() * FOOTER_ENTRY).div_ceil(MIB) as u64;
        drive::written_file(&footers, mib)?;
        let sample: Vec<Key> = keys.iter().step_by(997).copied().collect();
        let (mut ours, mut limit, mut locked) = (Samples::default(), Samples::default(), Samples::default());
        for pair in 0..self.pairs() {
            self.say_pair("recover_1m_blocks_s", pair);
            let mut read = |limit: &mut Samples| {
                limit.0.push(read_footers_s(&self.tools, &footers, mib)?);
                Ok(())
            };
            let mut start = |_: &mut Samples| {
                locked.0.push(node.kill_and_restart_watched()?);
                ours.0.push(node.ready_s);
                let client = node.unix()?;
                let found = count_hits(&attach(&client)?, &sample, BLOCK)?;
                if found * 100 < sample.len() * 99 {
                    return Err(Failed(format!("after the restart {found} of {} blocks were there", sample.len())));
                }
                Ok(())
            };
            in_turn(pair, &mut limit, [&mut read, &mut start])?;
        }
        self.rows.push(Row {
            path: "recover_1m_blocks_s",
            unit: "s",
            ours: Side::speed(ours, None),
            limit: Side::speed(limit, None),
            limit_is: format!(
                "reading as many bytes as the footers have, once; for {:.2} s of ours the killed node's lock was still held{n}",
                locked.median()
            ),
            target: Target { rule: Rule::AtMost, first: 1.0, goal: 0.3 },
        });
        Ok(())
    }
}

/// Bytes of memory, the most at any of the moments.
#[derive(Default)]
struct Weights {
    /// A block that is held.
    block: f64,
    /// What one that is in DRAM costs besides.
    resident: f64,
}

/// Puts the blocks; their keys, and what they weigh.
fn fill_and_weigh(node: &Node, blocks: usize) -> Outcome<(Vec<Key>, Weights)> {
    let client = node.unix()?;
    let space = attach(&client)?;
    let mut keys = Vec::with_capacity(blocks);
    let mut weights = Weights::default();
    for moment in 0..MOMENTS {
        let numbers = moment * blocks / MOMENTS..(moment + 1) * blocks / MOMENTS;
        keys.extend(fill_with(&space, "m", numbers, BLOCK, 1024)?);
        let sum = |field| shard_sum(&client, field);
        let (held, resident) = (sum("blocks")?, sum("dram_blocks")?);
        if held > 0.0 && resident > 0.0 {
            weights.block = weights.block.max((sum("index_bytes")? + sum("footer_bytes")?) / held);
            weights.resident = weights.resident.max(sum("dram_overhead_bytes")? / resident);
        }
        if moment % 8 == 7 {
            say(&format!("rows of {blocks} blocks: {} put", keys.len()));
        }
    }
    Ok((keys, weights))
}

/// The microseconds of each match of a burst.
fn matches(space: &NamespaceHandle, keys: &[Key], at: &mut usize) -> Outcome<Vec<f64>> {
    let mut samples = Vec::with_capacity(MATCHES_A_BURST);
    for _ in 0..MATCHES_A_BURST {
        *at = (*at + 1021 * 17) % (keys.len() - MATCHED);
        let watch = Watch::start();
        let matched = space.match_prefix(&keys[*at..*at + MATCHED], None);
        samples.push(watch.us());
        if matched.n != MATCHED {
            return Err(Failed(format!("a match of {MATCHED} keys that were put found {}", matched.n)));
        }
    }
    Ok(samples)
}

/// Seconds to read the file once by direct I/O in steps of 256 KiB.
pub(crate) fn read_footers_s(tools: &Tools, file: &Path, mib: u64) -> Outcome<f64> {
    let job = Job {
        file,
        from_mib: 0,
        size_mib: mib,
        write: false,
        random: false,
        block_kib: 256,
        depth: 16,
        seconds: None,
        sync_every: 0,
    };
    Ok(((mib << 20) as f64 / 1e9) / drive::run(tools, &job)?.gb_s)
}
