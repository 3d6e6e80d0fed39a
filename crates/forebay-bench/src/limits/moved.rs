//! Bytes moved by either side of a row: what rows against fio have in common.

use crate::Outcome;
use crate::node::Node;
use crate::raw::Tools;
use crate::raw::drive::{self, Job};
use crate::report::{Row, Samples, Side, Target};
use crate::watch::{CpuMeter, Latencies, Metered};

/// Both sides' speeds, and what they cost.
#[derive(Default)]
pub(super) struct Moved {
    ours: Samples,
    limit: Samples,
    limit_cpu: Samples,
    limit_tails: (Samples, Samples),
    meter: CpuMeter,
    blocks: Latencies,
}

impl Moved {
    /// The limit's turn.
    pub(super) fn limit(&mut self, tools: &Tools, job: &Job<'_>) -> Outcome<()> {
        let result = drive::run(tools, job)?;
        self.limit.0.push(result.gb_s);
        self.limit_cpu.0.extend(result.cpu_s_per_gb);
        self.limit_tails.0.0.push(result.p99_us);
        self.limit_tails.1.0.push(result.p999_us);
        Ok(())
    }

    /// Ours: `work` moves so many bytes, and gives the microseconds of each block if it knows them.
    pub(super) fn ours(&mut self, node: &Node, bytes: usize, work: impl FnOnce() -> Outcome<Vec<f64>>) -> Outcome<()> {
        let metered = Metered::start(node.pid());
        let blocks_us = work()?;
        self.ours.0.push(metered.stop(&mut self.meter, bytes as u64));
        self.blocks.add(blocks_us);
        self.blocks.close();
        Ok(())
    }

    pub(super) fn row(self, path: &'static str, limit_is: String, target: Target) -> Row {
        Row {
            path,
            unit: "GB/s",
            ours: Side::speed_of_blocks(self.ours, self.blocks, self.meter.s_per_gb()),
            limit: Side {
                samples: self.limit,
                tails: Some(self.limit_tails),
                cpu_s_per_gb: self.limit_cpu.some_median(),
            },
            limit_is,
            target,
        }
    }
}
