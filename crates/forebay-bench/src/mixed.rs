//! 64 KiB gets while 16 MiB puts run: shows that nobody starves.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use clap::Args;
use forebay_types::{Clock, Key, SystemClock};
use serde_json::json;

use crate::node::{Node, Setup};
use crate::report::{percentile, print, say};
use crate::work::fill_with;
use crate::{Common, Failed, Outcome, why};

#[derive(Args)]
pub(crate) struct MixedArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Seconds of each phase.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
}

const SMALL: usize = 64 << 10;
const LARGE: usize = 16 << 20;

pub(crate) fn run(args: &MixedArgs) -> Outcome<()> {
    let dir = args.common.scratch("mixed")?;
    let setup = Setup {
        dir: dir.join("n"),
        capacity: "6GiB".into(),
        memory: "512MiB".into(),
        tcp: false,
        extra: ["--segment", "64MiB", "--prewrite"].map(String::from).to_vec(),
    };
    let node = Node::start(&args.common, setup)?;
    let client = node.unix()?;
    let space = client.namespace("default").map_err(why("opening the namespace"))?;
    let keys = fill_with(&space, "small", 0..8192, SMALL, 64)?;
    fill_with(&space, "filler", 0..24, LARGE, 1)?;
    let stop = AtomicBool::new(false);
    let put_bytes = AtomicU64::new(0);
    let (mut idle, mut mixed) = (Vec::new(), Vec::new());
    let seconds = u64::from(args.seconds);
    gets(&space, &keys, seconds, &mut idle)?;
    let put_failed = std::thread::scope(|scope| {
        let putter = scope.spawn(|| -> Outcome<()> {
            let other = node.unix()?;
            let space = other.namespace("default").map_err(why("opening the namespace"))?;
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                fill_with(&space, &format!("large{round}"), 0..4, LARGE, 4)?;
                put_bytes.fetch_add(4 * LARGE as u64, Ordering::Relaxed);
                round += 1;
            }
            Ok(())
        });
        let got = gets(&space, &keys, seconds, &mut mixed);
        stop.store(true, Ordering::Relaxed);
        let put = putter.join().unwrap_or_else(|_| Err(Failed("the putting thread panicked".into())));
        got.and(put)
    });
    put_failed?;
    let put_gb_s = put_bytes.load(Ordering::Relaxed) as f64 / 1e9 / seconds as f64;
    for (name, samples) in [("idle", &idle), ("with 16 MiB puts", &mixed)] {
        say(&format!(
            "64 KiB gets {name}: {} gets, p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us",
            samples.len(),
            percentile(samples, 0.5),
            percentile(samples, 0.99),
            percentile(samples, 0.999)
        ));
    }
    say(&format!("16 MiB puts meanwhile: {put_gb_s:.2} GB/s"));
    if mixed.is_empty() || put_gb_s == 0.0 {
        return Err(Failed("one side starved: it did nothing while the other ran".into()));
    }
    if args.common.json {
        let side = |s: &[f64]| json!({"gets": s.len(), "p50_us": percentile(s, 0.5), "p99_us": percentile(s, 0.99), "p999_us": percentile(s, 0.999)});
        print(&json!({"idle": side(&idle), "mixed": side(&mixed), "put_gb_s": put_gb_s}).to_string());
    }
    Ok(())
}

/// Gets one block at a time for a while, in an order that DRAM does not know.
fn gets(space: &forebay_client::NamespaceHandle, keys: &[Key], seconds: u64, samples: &mut Vec<f64>) -> Outcome<()> {
    let clock = SystemClock::new();
    let mut state = 1usize;
    while clock.now_us() < seconds * 1_000_000 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let key = keys[(state >> 33) % keys.len()];
        let start = clock.now_us();
        let mut hit = false;
        space.get_each(&[key], |_, result| hit = result.is_ok_and(|block| block.len() == SMALL));
        samples.push((clock.now_us() - start) as f64);
        if !hit {
            return Err(Failed(format!("block {key} that was put is missing")));
        }
    }
    Ok(())
}
