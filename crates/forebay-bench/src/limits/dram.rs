//! Blocks from DRAM, over a region and over TCP.

use forebay_client::NamespaceHandle;
use forebay_types::{Key, Tier};

use super::{Bench, in_turn};
use crate::Outcome;
use crate::node::Node;
use crate::raw::memory::Memcpy;
use crate::raw::sockets::{Payload, PingPong, iperf3_gb_s, request_response};
use crate::report::{Row, Rule, Samples, Side, Target, say};
use crate::watch::{CpuMeter, Latencies, Metered};
use crate::work::{MIB, attach, expect_all, fill, one_by_one};

const LARGE: usize = 512;
const ROUNDS_A_PAIR: usize = 4;
const SMALL: usize = 16 << 10;
const SMALL_COUNT: usize = 4096;
/// Bursts of ping-pong and of gets that take turns inside a pair.
const BURSTS: usize = 8;

/// Both sides of a row of GB/s.
#[derive(Default)]
struct Speeds {
    ours: Samples,
    ours_us: Latencies,
    meter: CpuMeter,
    limit: Samples,
    limit_us: Latencies,
    limit_meter: CpuMeter,
}

impl Bench<'_> {
    pub(super) fn dram_rows(&mut self) -> Outcome<()> {
        say("DRAM rows: filling");
        let node = Node::start(&self.args.common, self.setup(2048, "1536MiB", true, &[]))?;
        let (unix, tcp) = (node.unix()?, node.tcp()?);
        // One tenant, one namespace: what the Unix side puts, the TCP side gets.
        let (local, remote) = (attach(&unix)?, attach(&tcp)?);
        let large = fill(&local, "large", LARGE, MIB)?;
        let small = fill(&local, "small", SMALL_COUNT, SMALL)?;
        // The first reading makes the client's regions, the second finds all in place.
        for warm in [&large, &small, &large, &small] {
            for chunk in warm.chunks(256) {
                local.get_each(chunk, |_, _| ());
            }
        }
        if self.args.wants("dram_1m") {
            self.local_row(&node, &local, &large)?;
        }
        if self.args.wants("dram_16k_p50_us") {
            self.short_row(&node, &local, &small)?;
        }
        if self.args.wants("tcp_1m") {
            self.tcp_row(&node, &remote, &large)?;
        }
        Ok(())
    }

    fn local_row(&mut self, node: &Node, space: &NamespaceHandle, keys: &[Key]) -> Outcome<()> {
        let mut memcpy = Memcpy::new()?;
        let mut sides = Speeds::default();
        memcpy.run();
        for pair in 0..self.pairs() {
            self.say_pair("dram_1m", pair);
            let mut limit = |sides: &mut Speeds| {
                let work = Metered::start(std::process::id());
                let us = memcpy.run();
                sides.limit.0.push(work.stop(&mut sides.limit_meter, Memcpy::BYTES as u64));
                sides.limit_us.add(us);
                sides.limit_us.close();
                Ok(())
            };
            let mut ours = |sides: &mut Speeds| rounds(node, space, keys, sides);
            in_turn(pair, &mut sides, [&mut limit, &mut ours])?;
        }
        self.rows.push(Row {
            path: "dram_1m",
            unit: "GB/s",
            ours: Side::speed_of_blocks(sides.ours, sides.ours_us, sides.meter.s_per_gb()),
            limit: Side::speed_of_blocks(sides.limit, sides.limit_us, sides.limit_meter.s_per_gb()),
            limit_is: "one core's memcpy, 1 MiB blocks, in the same kind of memory".into(),
            target: Target { rule: Rule::RatioAtLeast, first: 0.75, goal: 0.92 },
        });
        Ok(())
    }

    fn short_row(&mut self, node: &Node, space: &NamespaceHandle, keys: &[Key]) -> Outcome<()> {
        let mut ping = PingPong::start(64, 64)?;
        let (mut ours, mut limit, mut meter) = (Latencies::default(), Latencies::default(), CpuMeter::default());
        for pair in 0..self.pairs() {
            self.say_pair("dram_16k_p50_us", pair);
            for burst in keys.chunks(SMALL_COUNT / BURSTS) {
                limit.add(ping.burst(burst.len())?);
                let work = Metered::start(node.pid());
                ours.add(one_by_one(space, burst, SMALL, Tier::Dram)?);
                work.stop(&mut meter, (burst.len() * SMALL) as u64);
            }
            ours.close();
            limit.close();
        }
        self.rows.push(Row {
            path: "dram_16k_p50_us",
            unit: "us",
            ours: Side::latency(ours, meter.s_per_gb()),
            limit: Side::latency(limit, None),
            limit_is: format!(
                "Unix-socket ping-pong of 64 B to another process, in {BURSTS} bursts a pair between ours"
            ),
            target: Target { rule: Rule::RatioAtMost, first: 1.2, goal: 0.3 },
        });
        Ok(())
    }

    /// Two rows from one set of runs of ours: beside what TCP can move at all, and beside a plain program whose payload comes from memory too.
    fn tcp_row(&mut self, node: &Node, space: &NamespaceHandle, keys: &[Key]) -> Outcome<()> {
        let mut sides = Speeds::default();
        let mut from_memory = (Samples::default(), Latencies::default());
        expect_all(space, keys, MIB, 8, Tier::Dram)?;
        for pair in 0..self.pairs() {
            self.say_pair("tcp_1m", pair);
            let iperf3 = self.tools.iperf3.is_some();
            let mut limit = |sides: &mut Speeds| {
                let (plain, us) = request_response(1.0, 8, Payload::Cached)?;
                let iperf = if iperf3 { iperf3_gb_s(1)? } else { 0.0 };
                sides.limit.0.push(plain.max(iperf));
                sides.limit_us.add(us);
                sides.limit_us.close();
                let (plain, us) = request_response(1.0, 8, Payload::FromMemory(keys.len()))?;
                from_memory.0.0.push(plain);
                from_memory.1.add(us);
                from_memory.1.close();
                Ok(())
            };
            let mut ours = |sides: &mut Speeds| rounds(node, space, keys, sides);
            in_turn(pair, &mut sides, [&mut limit, &mut ours])?;
        }
        let limit_is = match self.tools.iperf3 {
            Some(_) => "the faster of iperf3 and a request/response of the same 1 MiB again and again, 8 in flight",
            None => "own request/response of the same 1 MiB again and again, 8 in flight",
        };
        let target = Target { rule: Rule::RatioAtLeast, first: 0.75, goal: 0.92 };
        let ours = Side::speed_of_blocks(sides.ours, sides.ours_us, sides.meter.s_per_gb());
        self.rows.push(Row {
            path: "tcp_1m",
            unit: "GB/s",
            ours: ours.clone(),
            limit: Side::speed_of_blocks(sides.limit, sides.limit_us, sides.limit_meter.s_per_gb()),
            limit_is: limit_is.into(),
            target,
        });
        self.rows.push(Row {
            path: "tcp_1m_from_memory",
            unit: "GB/s",
            ours,
            limit: Side::speed_of_blocks(from_memory.0, from_memory.1, None),
            limit_is: format!(
                "a request/response of {} blocks of 1 MiB in turn into 8 places, 8 in flight",
                keys.len()
            ),
            target,
        });
        Ok(())
    }
}

fn rounds(node: &Node, space: &NamespaceHandle, keys: &[Key], sides: &mut Speeds) -> Outcome<()> {
    let work = Metered::start(node.pid());
    let mut us = Vec::with_capacity(ROUNDS_A_PAIR * keys.len());
    for _ in 0..ROUNDS_A_PAIR {
        us.extend(expect_all(space, keys, MIB, 8, Tier::Dram)?);
    }
    sides.ours.0.push(work.stop(&mut sides.meter, (ROUNDS_A_PAIR * keys.len() * MIB) as u64));
    sides.ours_us.add(us);
    sides.ours_us.close();
    Ok(())
}
