//! Bytes moved by either side of a row: what rows against fio have in common.

use crate::Outcome;
use crate::node::Node;
use crate::raw::Tools;
use crate::raw::drive::{self, Job};
use crate::report::{Row, Samples, Side, Target};
use crate::watch::{CpuMeter, Metered};

/// Both sides' speeds, and what they cost.
#[derive(Default)]
pub(super) struct Moved {
    ours: Samples,
    limit: Samples,
    limit_cpu: Samples,
    meter: CpuMeter,
}

impl Moved {
    /// The limit's turn.
    pub(super) fn limit(&mut self, tools: &Tools, job: &Job<'_>) -> Outcome<()> {
        let result = drive::run(tools, job)?;
        self.limit.0.push(result.gb_s);
        self.limit_cpu.0.extend(result.cpu_s_per_gb);
        Ok(())
    }

    /// Ours: `work` moves so many bytes.
    pub(super) fn ours(&mut self, node: &Node, bytes: usize, work: impl FnOnce() -> Outcome<()>) -> Outcome<()> {
        let metered = Metered::start(node.pid());
        work()?;
        self.ours.0.push(metered.stop(&mut self.meter, bytes as u64));
        Ok(())
    }

    pub(super) fn row(self, path: &'static str, limit_is: String, target: Target) -> Row {
        Row {
            path,
            unit: "GB/s",
            ours: Side::speed(self.ours, self.meter.s_per_gb()),
            limit: Side::speed(self.limit, self.limit_cpu.some_median()),
            limit_is,
            target,
        }
    }
}
