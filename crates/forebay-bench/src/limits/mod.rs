//! Every speed row of the design, each beside its limit in the same run.

mod dram;
mod drive;
mod million;
mod moved;
mod puts;

use clap::Args;
use serde_json::{Value, json};

use crate::card::Measured;
use crate::node::Setup;
use crate::raw::{self, Tools};
use crate::report::{Row, say};
use crate::{Common, Outcome, Scratch};

#[derive(Args)]
pub(crate) struct LimitsArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Interleaved pairs of limit and ours a row.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50))]
    pairs: u16,
    /// Only rows whose path contains this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Blocks in the index for the rows of 1,000,000 blocks; fewer are named in the row.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(32_768..=4_000_000))]
    blocks: u64,
}

/// What all rows share.
struct Bench<'a> {
    args: &'a LimitsArgs,
    tools: Tools,
    dir: Scratch,
    rows: Vec<Row>,
}

pub(crate) fn run(args: &LimitsArgs) -> Outcome<Measured> {
    let tools = raw::tools(!args.common.no_install);
    let mut bench = Bench { args, tools, dir: args.common.scratch("limits")?, rows: Vec::new() };
    bench.all()?;
    let rows: Vec<Value> = bench.rows.iter().filter(|row| args.wants(row.path)).map(Row::json).collect();
    say(&format!(
        "{} of {} rows reach their first target; medians of {} interleaved pairs, ours first in every second one",
        rows.iter().filter(|row| row["met"] == true).count(),
        rows.len(),
        args.pairs
    ));
    Ok(Measured {
        bench: "limits",
        workload: format!(
            "Medians of {} interleaved pairs, ours first in every second one; A / B is ours / limit; spread is (max - min) / median.",
            args.pairs
        ),
        tools: bench.tools.json(),
        result: json!({ "rows": rows }),
    })
}

impl LimitsArgs {
    fn wants(&self, path: &str) -> bool {
        self.only.as_deref().is_none_or(|only| path.contains(only))
    }
}

impl Bench<'_> {
    fn all(&mut self) -> Outcome<()> {
        let wants = |paths: &[&str]| paths.iter().any(|path| self.args.wants(path));
        let drive = wants(&["nvme_1m_qd16", "nvme_64k_qd1_p50_us"]);
        let dram = wants(&["dram_1m", "dram_16k_p50_us", "tcp_1m"]);
        let puts = wants(&puts::PATHS);
        let million =
            wants(&["match_1024_us", "recover_1m_blocks_s", "index_bytes_per_block", "dram_bytes_per_resident_block"]);
        if drive {
            self.drive_rows()?;
        }
        if dram {
            self.dram_rows()?;
        }
        if puts {
            self.put_rows()?;
        }
        if million {
            self.million_rows()?;
        }
        Ok(())
    }

    fn pairs(&self) -> usize {
        usize::from(self.args.pairs)
    }

    fn setup(&self, capacity_mib: usize, memory: &str, tcp: bool, extra: &[&str]) -> Setup {
        let extra = extra.iter().map(|x| (*x).to_owned()).collect();
        Setup { dir: self.dir.join("n"), capacity: format!("{capacity_mib}MiB"), memory: memory.into(), tcp, extra }
    }

    fn say_pair(&self, what: &str, pair: usize) {
        say(&format!("{what}: pair {} of {}", pair + 1, self.pairs()));
    }
}

/// One side of a pair.
type Turn<'a, C> = &'a mut dyn FnMut(&mut C) -> Outcome<()>;

/// Runs both sides of a pair, the limit first in even pairs and ours first in odd ones: neither always profits from, or always suffers under, the
/// state the other left the drive and the cores in.
fn in_turn<C>(pair: usize, with: &mut C, sides: [Turn<'_, C>; 2]) -> Outcome<()> {
    let [limit, ours] = sides;
    if pair.is_multiple_of(2) {
        limit(with)?;
        ours(with)
    } else {
        ours(with)?;
        limit(with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_take_turns_in_going_first() {
        let mut order = String::new();
        for pair in 0..3 {
            let mut limit = |order: &mut String| {
                order.push('l');
                Ok(())
            };
            let mut ours = |order: &mut String| {
                order.push('o');
                Ok(())
            };
            in_turn(pair, &mut order, [&mut limit, &mut ours]).unwrap();
        }
        assert_eq!(order, "loollo");
    }
}
