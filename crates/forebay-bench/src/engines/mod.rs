//! Engines with Forebay beside engines without: what the adapters' calls cost the scheduler, time to first token, what a miss costs, and the stores
//! that engines may choose between.
//!
//! The engines run in their own environments, which the chore makes (`cargo xtask bench engines`); the parts that drive them are programs of
//! `python/bench`. Limits of the machine are measured here, in the same run.

pub(crate) mod part;
mod tables;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use crate::card::Measured;
use crate::peers;
use crate::raw::{self, drive};
use crate::report::{percentile, round, say};
use crate::{Common, Outcome, Scratch};

pub(crate) use part::interpreter;
pub(crate) use tables::tables;

#[derive(Args)]
pub(crate) struct EnginesArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Only these parts, with commas between [default: all].
    #[arg(long, value_name = "PART", value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Prompts whose time to first token is taken.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=12))]
    prompts: u16,
    /// Interleaved pairs of the tax, at most; it ends sooner when it is known to within a point.
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u16).range(3..=200))]
    pairs: u16,
    /// Rounds of the stores.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=50))]
    rounds: u16,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// The adapters' calls, in microseconds of the engine's scheduler.
    Calls,
    /// Time to first token of vLLM.
    Ttft,
    /// CPU seconds of engine and node when nothing is ever found.
    Tax,
    /// Forebay, LMCache, Mooncake and SGLang's files, on the same blocks.
    Stores,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Calls => "calls",
            Part::Ttft => "ttft",
            Part::Tax => "tax",
            Part::Stores => "stores",
        }
    }
}

/// What the design asks of time to first token: the engine's own prefix cache and this many times what the drive needs for the bytes; and this many
/// times faster than computing.
const DRIVE_TIMES: f64 = 1.5;
const FASTER: f64 = 15.0;
/// The tax of lookups, in percent of the engine's CPU seconds.
const TAX_PERCENT: f64 = 1.0;

pub(crate) fn run(args: &EnginesArgs) -> Outcome<Measured> {
    let dir = args.common.scratch("engines")?;
    let mut all = All::default();
    let parts = Part::value_variants().iter().filter(|part| args.only.is_empty() || args.only.contains(part));
    for part in parts {
        say(&format!("engines: {}", part.name()));
        let done = match part {
            Part::Calls => calls(args, &dir, &mut all),
            Part::Ttft => ttft(args, &dir, &mut all),
            Part::Tax => tax(args, &dir, &mut all),
            Part::Stores => stores(args, &mut all),
        };
        if let Err(reason) = done {
            all.skip(part.name(), &reason.to_string());
        }
    }
    let met = all.skipped.is_empty() && all.rows.iter().all(|row| row["met"] != false);
    Ok(Measured {
        bench: "engines",
        workload: format!(
            "vLLM on CPU with a Llama of random weights (77 M parameters, bfloat16, 12,288 B of KV a token) and prompts of 8,192 tokens of this repository's text, {} of them. \
             Each engine is a new process, warmed by another prompt; the node was started anew, so nothing is in its DRAM.",
            args.prompts
        ),
        tools: Value::Object(all.tools),
        result: json!({ "rows": all.rows, "skipped": all.skipped, "met": met }),
    })
}

/// What was seen.
#[derive(Default)]
struct All {
    rows: Vec<Value>,
    skipped: Map<String, Value>,
    tools: Map<String, Value>,
}

impl All {
    fn skip(&mut self, who: &str, reason: &str) {
        say(&format!("skipped: {who}: {reason}"));
        self.skipped.insert(who.to_owned(), json!(reason));
    }

    /// The rows of a part, judged; what it skipped; the versions it found.
    fn add(&mut self, part: Part, said: &Value, judge: impl Fn(&mut Value)) {
        for row in said["rows"].as_array().into_iter().flatten() {
            let mut row = row.clone();
            row["part"] = json!(part.name());
            // A figure that a row does not have reads as null.
            judge(&mut row);
            let tidy = |value: &mut Value| {
                if let Some(number) = value.as_f64().filter(|_| value.is_f64()) {
                    *value = json!(round(number));
                }
            };
            row.as_object_mut().into_iter().flat_map(Map::values_mut).for_each(tidy);
            self.rows.push(row);
        }
        for (who, reason) in said["skipped"].as_object().into_iter().flatten() {
            self.skip(who, reason.as_str().unwrap_or("no reason given"));
        }
        self.tools.extend(said["tools"].as_object().cloned().unwrap_or_default());
    }
}

fn calls(args: &EnginesArgs, dir: &Scratch, all: &mut All) -> Outcome<()> {
    let said = part::run(&args.common, dir, "calls.py", "FOREBAY_ENGINES_VLLM", &[])?;
    all.add(Part::Calls, &said, judge_call);
    Ok(())
}

/// What a call takes in the middle; a row without a limit is told only.
fn judge_call(row: &mut Value) {
    row["ours"] = row["p50"].clone();
    if let Some((ours, limit)) = row["ours"].as_f64().zip(row["limit"].as_f64()) {
        row["met"] = json!(ours <= limit);
    }
}

fn ttft(args: &EnginesArgs, dir: &Scratch, all: &mut All) -> Outcome<()> {
    let tools = raw::tools(!args.common.no_install);
    all.tools.insert("fio".into(), json!(tools.fio));
    let before = drive_gb_s(&tools, dir)?;
    let prompts = args.prompts.to_string();
    let said = part::run(&args.common, dir, "ttft.py", "FOREBAY_ENGINES_VLLM", &["--samples", &prompts])?;
    let gb_s = percentile(&[before, drive_gb_s(&tools, dir)?], 0.5);
    let of = |path: &str| {
        let rows = said["rows"].as_array().map_or(&[][..], Vec::as_slice);
        rows.iter().find(|row| row["path"] == path).and_then(|row| row["seconds"].as_f64())
    };
    let bytes = said["kv_bytes"].as_f64().unwrap_or(f64::NAN);
    let limit = of("own prefix cache").map(|own| own + DRIVE_TIMES * bytes / 1e9 / gb_s);
    let lmcache = of("lmcache fs_native, O_DIRECT");
    all.add(Part::Ttft, &said, |row| {
        row["unit"] = json!("s");
        row["ours"] = row["seconds"].clone();
        row["drive_gb_s"] = json!(gb_s);
        row["kv_bytes"] = json!(bytes);
        let is_ours = row["path"].as_str().is_some_and(|path| path.starts_with("forebay"));
        if let (true, Some(limit), Some(seconds)) = (is_ours, limit, row["seconds"].as_f64()) {
            let faster = row["faster"].as_f64().unwrap_or(0.0);
            row["limit"] = json!(limit);
            row["ratio"] = json!(seconds / limit);
            let beats = lmcache.is_none_or(|theirs| seconds < theirs);
            row["met"] = json!(seconds <= limit && faster >= FASTER && beats);
        }
    });
    Ok(())
}

/// Direct reads of 1 MiB at random, 16 at once: what the drive gives.
fn drive_gb_s(tools: &raw::Tools, dir: &Scratch) -> Outcome<f64> {
    let file = dir.join("raw");
    if !file.exists() {
        drive::written_file(&file, 1024)?;
    }
    let job = drive::Job {
        file: &file,
        from_mib: 0,
        size_mib: 1024,
        write: false,
        random: true,
        block_kib: 1024,
        depth: 16,
        seconds: None,
        sync_every: 0,
    };
    Ok(drive::run(tools, &job)?.gb_s)
}

fn tax(args: &EnginesArgs, dir: &Scratch, all: &mut All) -> Outcome<()> {
    let pairs = args.pairs.to_string();
    let said = part::run(&args.common, dir, "tax.py", "FOREBAY_ENGINES_VLLM", &["--pairs", &pairs])?;
    all.add(Part::Tax, &said, judge_tax);
    Ok(())
}

/// The upper end of the interval; what the engine takes alone has none.
fn judge_tax(row: &mut Value) {
    if row["high"].is_null() {
        return;
    }
    (row["unit"], row["ours"]) = (json!("%"), row["high"].clone());
    if row["path"] == "lookups alone" {
        row["limit"] = json!(TAX_PERCENT);
        row["met"] = json!(row["high"].as_f64().is_some_and(|high| high <= TAX_PERCENT));
    }
}

fn stores(args: &EnginesArgs, all: &mut All) -> Outcome<()> {
    let measured = peers::run(&peers::PeersArgs::of_engines(&args.common, args.rounds))?;
    all.tools.extend(measured.tools.as_object().cloned().unwrap_or_default());
    for row in measured.result["rows"].as_array().into_iter().flatten() {
        let mut row = row.clone();
        row["part"] = json!(Part::Stores.name());
        all.rows.push(row);
    }
    for (who, reason) in measured.result["skipped"].as_object().into_iter().flatten() {
        all.skip(who, reason.as_str().unwrap_or("no reason given"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_a_limit_or_an_interval_are_told_and_not_judged() {
        let mut all = All::default();
        let said =
            json!({"rows": [{"path": "a step", "p50": 60.0, "limit": 50.0}, {"path": "an arrival", "p50": 60.0}]});
        all.add(Part::Calls, &said, judge_call);
        assert_eq!(all.rows.iter().map(|row| row["met"].as_bool()).collect::<Vec<_>>(), [Some(false), None]);
        assert!(all.rows.iter().all(|row| row["ours"] == 60.0 && row["part"] == "calls"), "{:?}", all.rows);
        let mut all = All::default();
        let said = json!({"rows": [{"path": "lookups alone", "mean": 0.2, "low": -0.3, "high": 0.7}, {"path": "with puts", "mean": 1.0, "low": 0.4, "high": 1.6}, {"path": "alone", "mean": 3.5}]});
        all.add(Part::Tax, &said, judge_tax);
        assert_eq!(all.rows.iter().map(|row| row["met"].as_bool()).collect::<Vec<_>>(), [Some(true), None, None]);
    }
}
