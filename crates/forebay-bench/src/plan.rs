//! Whether `plan_fetch` is right: what it expects of a get, beside what the very next get takes.

use clap::Args;
use forebay_client::NamespaceHandle;
use forebay_types::{Entropy, Key, SeededEntropy};
use serde_json::json;

use crate::node::{Node, Setup};
use crate::report::{percentile, print, say};
use crate::watch::Watch;
use crate::work::fill;
use crate::{Common, Failed, Outcome, why};

#[derive(Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Gets that are planned and then made.
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    gets: u32,
}

const BLOCK: usize = 256 << 10;
/// Twice what the node has DRAM for, so that calls are from DRAM, from the drive and mixed.
const BLOCKS: usize = 1024;
const CALL_MAX: u64 = 32;
/// Gets before the first that counts: nothing is known then.
const WARM_UP: u32 = 100;

pub(crate) fn run(args: &PlanArgs) -> Outcome<()> {
    let dir = args.common.scratch("plan")?;
    let setup =
        Setup { dir: dir.join("n"), capacity: "1GiB".into(), memory: "128MiB".into(), tcp: false, extra: Vec::new() };
    let node = Node::start(&args.common, setup)?;
    let space = node.unix()?.namespace("default").map_err(why("opening the namespace"))?;
    let keys = fill(&space, "plan", BLOCKS, BLOCK)?;
    let chance = SeededEntropy::new(7);
    let mut errors = Vec::new();
    let mut bias = Vec::new();
    for n in 0..WARM_UP + args.gets {
        // Half of the calls want what was wanted lately.
        let hot = chance.word().is_multiple_of(2);
        let from = chance.word() as usize % if hot { BLOCKS / 8 } else { BLOCKS };
        let count = 1 + (chance.word() % CALL_MAX) as usize;
        let wanted: Vec<Key> = (from..from + count).map(|at| keys[at % BLOCKS]).collect();
        let (expected, took) = planned(&space, &wanted)?;
        if n >= WARM_UP {
            errors.push((expected - took).abs() / took);
            bias.push(expected / took);
        }
    }
    let (p50, p90) = (percentile(&errors, 0.5), percentile(&errors, 0.9));
    let ratio = percentile(&bias, 0.5);
    say(&format!(
        "plan_fetch over {} gets of 1 to {CALL_MAX} blocks of 256 KiB from DRAM and drive: off by {:.0} % at the median (goal 25), {:.0} % at p90; expected/took {ratio:.2} at the median",
        errors.len(),
        p50 * 100.0,
        p90 * 100.0
    ));
    if args.common.json {
        print(
            &json!({"gets": errors.len(), "error_p50": p50, "error_p90": p90, "expected_by_took_p50": ratio})
                .to_string(),
        );
    }
    Ok(())
}

fn planned(space: &NamespaceHandle, keys: &[Key]) -> Outcome<(f64, f64)> {
    let plan = space.plan_fetch(keys);
    let watch = Watch::start();
    let blocks = space.get(keys);
    let took = watch.s();
    if plan.missing > 0 || blocks.iter().any(|block| block.miss().is_some()) {
        return Err(Failed("a block that was put is missing".into()));
    }
    Ok((plan.seconds, took))
}
