//! Durable puts, beside direct writes with one fdatasync for the same group.

use super::{Bench, in_turn};
use crate::Outcome;
use crate::node::Node;
use crate::raw::drive::{self, Job};
use crate::report::{Row, Rule, Samples, Side, Target, say, shown};
use crate::watch::{CpuMeter, Metered};
use crate::work::{MIB, attach_durable, fill_with, shard_sum};

const BLOCKS: usize = 512;
/// Blocks in one call, of which 8 are in flight: the window slides, as fio's does.
const IN_A_CALL: usize = 64;
const DEPTH: usize = 8;

#[derive(Default)]
struct Sides {
    ours: Samples,
    limit: Samples,
    limit_cpu: Samples,
    meter: CpuMeter,
}

impl Bench<'_> {
    pub(super) fn durable_row(&mut self) -> Outcome<()> {
        say("put_durable_1m: making drive and raw file");
        let pairs = self.pairs();
        let raw_file = self.dir.join("raw");
        drive::written_file(&raw_file, (pairs * BLOCKS) as u64)?;
        let setup = self.setup(pairs * 640 + 1024, "512MiB", false, &["--prewrite"]);
        let node = Node::start(&self.args.common, setup)?;
        let client = node.unix()?;
        let space = attach_durable(&client)?.with_in_flight(DEPTH);
        fill_with(&space, "warm", 0..IN_A_CALL, MIB, IN_A_CALL)?;
        let flushes = shard_sum(&client, "flushes")?;
        let mut sides = Sides::default();
        for pair in 0..pairs {
            self.say_pair("put_durable_1m", pair);
            let job = Job {
                file: &raw_file,
                from_mib: (pair * BLOCKS) as u64,
                size_mib: BLOCKS as u64,
                write: true,
                random: false,
                block_kib: 1024,
                depth: DEPTH as u32,
                seconds: None,
                sync_every: DEPTH as u32,
            };
            let mut limit = |sides: &mut Sides| {
                let result = drive::run(&self.tools, &job)?;
                sides.limit.0.push(result.gb_s);
                sides.limit_cpu.0.extend(result.cpu_s_per_gb);
                Ok(())
            };
            let mut ours = |sides: &mut Sides| {
                let work = Metered::start(node.pid());
                fill_with(&space, &format!("durable{pair}"), 0..BLOCKS, MIB, IN_A_CALL)?;
                sides.ours.0.push(work.stop(&mut sides.meter, (BLOCKS * MIB) as u64));
                Ok(())
            };
            in_turn(pair, &mut sides, [&mut limit, &mut ours])?;
        }
        let flushes = shard_sum(&client, "flushes")? - flushes;
        let what = format!(
            "1 MiB writes on written extents, depth 8, one fdatasync per 8 (ours: one per {})",
            shown((pairs * BLOCKS) as f64 / flushes.max(1.0))
        );
        self.rows.push(Row {
            path: "put_durable_1m",
            unit: "GB/s",
            ours: Side::speed(sides.ours, sides.meter.s_per_gb()),
            limit: Side::speed(sides.limit, sides.limit_cpu.some_median()),
            limit_is: drive::name(&self.tools, &what),
            target: Target { rule: Rule::RatioAtLeast, first: 0.85, goal: 0.95 },
        });
        let _ = std::fs::remove_file(&raw_file);
        Ok(())
    }
}
