//! Blocks from the drive. Each block is asked for once, so none comes from DRAM (and the bench fails if one does), and fio reads each byte of its
//! file once: a host or a controller with a cache of its own helps neither side.

use std::path::Path;

use forebay_client::NamespaceHandle;
use forebay_types::{Key, Tier};

use super::moved::Moved;
use super::{Bench, in_turn};
use crate::Outcome;
use crate::node::Node;
use crate::raw::drive::{self, Job};
use crate::raw::sockets::PingPong;
use crate::report::{Row, Rule, Samples, Side, Target, say, shown};
use crate::watch::{CpuMeter, Latencies, Metered};
use crate::work::{MIB, attach, expect_all, fill, one_by_one, shuffled};

const LARGE_A_PAIR: usize = 768;
const SMALL: usize = 64 << 10;
const SMALL_A_PAIR: usize = 3008;
const SMALL_MIB_A_PAIR: usize = SMALL_A_PAIR * SMALL / MIB;
/// Bursts of ping-pong and of gets that take turns inside a pair.
const BURSTS: usize = 8;
/// Pushes what the filling left out of the node's DRAM.
const FILLER_MIB: usize = 400;

impl Bench<'_> {
    pub(super) fn drive_rows(&mut self) -> Outcome<()> {
        let pairs = self.pairs();
        say("drive rows: filling");
        let raw_file = self.dir.join("raw");
        drive::written_file(&raw_file, (pairs * (LARGE_A_PAIR + SMALL_MIB_A_PAIR)) as u64)?;
        let capacity_mib = pairs * (LARGE_A_PAIR + SMALL_MIB_A_PAIR) * 9 / 8 + FILLER_MIB + 1024;
        let setup = self.setup(capacity_mib, "320MiB", false, &["--prewrite"]);
        let node = Node::start(&self.args.common, setup)?;
        let client = node.unix()?;
        let space = attach(&client)?;
        let large = fill(&space, "large", LARGE_A_PAIR * pairs, MIB)?;
        let small = fill(&space, "small", SMALL_A_PAIR * pairs, SMALL)?;
        fill(&space, "filler", FILLER_MIB, MIB)?;
        self.large_row(&node, &space, &large, &raw_file)?;
        self.small_row(&node, &space, &small, &raw_file)?;
        let _ = std::fs::remove_file(&raw_file);
        Ok(())
    }

    fn large_row(&mut self, node: &Node, space: &NamespaceHandle, keys: &[Key], raw_file: &Path) -> Outcome<()> {
        const WHAT: &str = "nvme_1m_qd16";
        if !self.args.wants(WHAT) {
            return Ok(());
        }
        let mut sides = Moved::default();
        for pair in 0..self.pairs() {
            self.say_pair(WHAT, pair);
            let job = read_job(raw_file, pair * LARGE_A_PAIR, LARGE_A_PAIR, 1024, 16);
            let mine = shuffled(&keys[pair * LARGE_A_PAIR..(pair + 1) * LARGE_A_PAIR]);
            let mut limit = |sides: &mut Moved| sides.limit(&self.tools, &job);
            let mut ours = |sides: &mut Moved| {
                sides.ours(node, LARGE_A_PAIR * MIB, || expect_all(space, &mine, MIB, 16, Tier::Nvme))
            };
            in_turn(pair, &mut sides, [&mut limit, &mut ours])?;
        }
        let limit_is = drive::name(&self.tools, "1 MiB, depth 16, each block once in an order of chance");
        self.rows.push(sides.row(WHAT, limit_is, Target { rule: Rule::RatioAtLeast, first: 0.90, goal: 0.97 }));
        Ok(())
    }

    fn small_row(&mut self, node: &Node, space: &NamespaceHandle, keys: &[Key], raw_file: &Path) -> Outcome<()> {
        const WHAT: &str = "nvme_64k_qd1_p50_us";
        if !self.args.wants(WHAT) {
            return Ok(());
        }
        let mut ping = PingPong::start(64, 64)?;
        let (mut ours, mut pings, mut drives) = (Latencies::default(), Latencies::default(), Vec::new());
        let mut meter = CpuMeter::default();
        for pair in 0..self.pairs() {
            self.say_pair(WHAT, pair);
            let from_mib = self.pairs() * LARGE_A_PAIR + pair * SMALL_MIB_A_PAIR;
            let job = read_job(raw_file, from_mib, SMALL_MIB_A_PAIR, 64, 1);
            let mine = shuffled(&keys[pair * SMALL_A_PAIR..(pair + 1) * SMALL_A_PAIR]);
            let mut limit = |drives: &mut Vec<drive::JobResult>| {
                drives.push(drive::run(&self.tools, &job)?);
                Ok(())
            };
            let mut bursts = |_: &mut Vec<drive::JobResult>| {
                for burst in mine.chunks(SMALL_A_PAIR / BURSTS) {
                    pings.add(ping.burst(burst.len())?);
                    let work = Metered::start(node.pid());
                    ours.add(one_by_one(space, burst, SMALL, Tier::Nvme)?);
                    work.stop(&mut meter, (burst.len() * SMALL) as u64);
                }
                Ok(())
            };
            in_turn(pair, &mut drives, [&mut limit, &mut bursts])?;
            ours.close();
            pings.close();
        }
        let sum = |pings: &Samples, at: fn(&drive::JobResult) -> f64| {
            Samples(pings.0.iter().zip(&drives).map(|(ping, drive)| ping + at(drive)).collect())
        };
        let tails = (sum(&pings.p99, |d| d.p99_us), sum(&pings.p999, |d| d.p999_us));
        let cpu = Samples(drives.iter().filter_map(|d| d.cpu_s_per_gb).collect());
        self.rows.push(Row {
            path: WHAT,
            unit: "us",
            limit: Side { samples: sum(&pings.p50, |d| d.p50_us), tails: Some(tails), cpu_s_per_gb: cpu.some_median() },
            ours: Side::latency(ours, meter.s_per_gb()),
            limit_is: format!(
                "{}, {} us + Unix ping-pong of {} us to another process",
                drive::name(&self.tools, "64 KiB, depth 1"),
                shown(median(&drives, |d| d.p50_us)),
                shown(pings.p50.median())
            ),
            target: Target { rule: Rule::RatioAtMost, first: 1.2, goal: 0.8 },
        });
        Ok(())
    }
}

fn median(drives: &[drive::JobResult], at: fn(&drive::JobResult) -> f64) -> f64 {
    Samples(drives.iter().map(at).collect()).median()
}

fn read_job(file: &Path, from_mib: usize, size_mib: usize, block_kib: u64, depth: u32) -> Job<'_> {
    Job {
        file,
        from_mib: from_mib as u64,
        size_mib: size_mib as u64,
        write: false,
        random: true,
        block_kib,
        depth,
        seconds: None,
        sync_every: 0,
    }
}
