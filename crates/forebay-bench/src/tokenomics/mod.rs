//! What forecasts and policies must reach, measured on the recorded traces in one run: speed and memory of a replay, known answers, what worth saves, how far
//! curves and segments are from the truth, what worth costs the store, and whether a forecast holds on a real node and beside a real engine.
//!
//! All but the first part and the last three come out the same on any machine. Traces that are not there are skipped aloud, and a run that skipped has not met its targets.

mod answers;
mod curves;
mod instant;
mod node;
mod segments;
mod store;
mod traces;
mod vllm;
mod worth;

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use clap::Args;
use serde_json::{Value, json};

use crate::card::{Measured, Table};
use crate::report::{round, say, shown, shown_value};
use crate::{Common, Outcome};
use traces::Traces;

#[derive(Args)]
pub(crate) struct TokenomicsArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Folder with agent-sessions.jsonl.gz and mooncake-conversation.jsonl.gz.
    #[arg(long, value_name = "DIR", default_value = "../shared/traces")]
    traces: PathBuf,
    /// Only parts whose name contains this: instant, answers, worth, curves, segments, store, node, vllm.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Rounds of node and vllm, of which the one in the middle is told; and forty pairs of turns each of store.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=50))]
    rounds: u16,
}

/// How a row is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mark {
    AtMost(f64),
    AtLeast(f64),
    /// Told only.
    Told,
}

/// Per cents of a trace's distinct blocks.
pub(crate) const CAPACITIES: [u32; 5] = [1, 2, 5, 10, 20];

/// One thing that was measured.
pub(crate) fn row(part: &str, what: impl std::fmt::Display, ours: f64, unit: &str, mark: Mark) -> Value {
    let (target, met) = match mark {
        Mark::AtMost(most) => (format!("at most {most}"), Some(ours <= most)),
        Mark::AtLeast(least) => (format!("at least {least}"), Some(ours >= least)),
        Mark::Told => (String::new(), None),
    };
    json!({"path": format!("{part}: {what}"), "ours": ours, "unit": unit, "target": target, "met": met})
}

/// A row, with what it is at each of [`CAPACITIES`].
pub(crate) fn at_capacities(mut row: Value, at: impl Iterator<Item = f64>) -> Value {
    row["at"] = CAPACITIES.iter().zip(at).map(|(capacity, at)| json!([capacity, round(at)])).collect();
    row
}

/// What `of` gives for each number below `count`, worked out on two cores.
pub(crate) fn on_two_cores<T: Send>(count: usize, of: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::with_capacity(count));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= count {
                        return;
                    }
                    let one = of(i);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((i, one));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, one)| one).collect()
}

type Part = fn(&TokenomicsArgs, &Traces) -> Outcome<Vec<Value>>;
const PARTS: [(&str, Part); 8] = [
    ("instant", instant::run),
    ("answers", answers::run),
    ("worth", worth::run),
    ("curves", curves::run),
    ("segments", segments::run),
    ("store", store::run),
    ("node", node::run),
    ("vllm", vllm::run),
];

pub(crate) fn run(args: &TokenomicsArgs) -> Outcome<Measured> {
    let traces = Traces::new(&args.traces)?;
    let mut rows = Vec::new();
    for (name, part) in PARTS {
        if args.only.as_ref().is_some_and(|only| !name.contains(only.as_str())) {
            continue;
        }
        say(&format!("tokenomics: {name}"));
        rows.extend(part(args, &traces)?);
    }
    let met = traces.all_there() && rows.iter().all(|row| row["met"] != false);
    Ok(Measured {
        bench: "tokenomics",
        workload: format!(
            "Policies, curves and forecasts on two recorded traces: coding-agent sessions (private ids, start offsets by seeds; worth by seeds 1 to 5) and an hour of a chat service, \
             Llama-3.1-70B in bf16; behind a trace's name stand the tokens of a block. A lead is GPU seconds saved more than LRU, summed over 1 to 10 % of the distinct blocks. \
             In `node` the chat's first 5,000 requests go to a real node forty times as fast as they came, blocks scaled down to 56 KiB; in `store` a node with worth and one with LRU take turns; in `vllm` callers ask vLLM on CPU for prompts of 512 to 2,048 tokens. Rows but `instant`, `store`, `node` and `vllm` are the same on any machine.{}",
            if traces.all_there() { "" } else { " Not all traces were there." }
        ),
        tools: json!({}),
        result: json!({ "rows": rows, "met": met }),
    })
}

/// The tables of a result: all rows, and what some are at each capacity or beside a forecast.
pub(crate) fn tables(result: &Value) -> Vec<Table> {
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    let rows = result["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let line = |row: &Value| {
        let verdict = match row["met"].as_bool() {
            Some(true) => "met",
            Some(false) => "missed",
            None => "",
        };
        let ours = format!("{} {}", shown_value(&row["ours"]), text(row, "unit"));
        vec![text(row, "path"), ours.trim().to_owned(), text(row, "target"), verdict.to_owned()]
    };
    let heads = |heads: &[&str]| heads.iter().map(|head| (*head).to_owned()).collect();
    let mut tables = vec![Table {
        title: String::new(),
        heads: heads(&["", "measured", "target", ""]),
        rows: rows.iter().map(line).collect(),
    }];
    let at: Vec<Vec<String>> = rows
        .iter()
        .filter_map(|row| {
            let at = row["at"].as_array()?.iter().map(|at| shown_value(&at[1]));
            Some([text(row, "path")].into_iter().chain(at).collect())
        })
        .collect();
    if !at.is_empty() {
        let capacities = CAPACITIES.map(|capacity| format!("{capacity} %"));
        tables.push(Table {
            title: "By capacity, in per cent of the distinct blocks".into(),
            heads: [String::new()].into_iter().chain(capacities).collect(),
            rows: at,
        });
    }
    let beside: Vec<Vec<String>> = rows
        .iter()
        .filter_map(|row| {
            let both = ["forecast", "found"].map(|name| row[name].as_f64());
            let [Some(forecast), Some(found)] = both else { return None };
            let cell = |x: f64| format!("{} {}", shown(x), text(row, "both_in"));
            let name = text(row, "path").trim_end_matches(": off by").to_owned();
            Some(vec![name, cell(forecast), cell(found), format!("{} {}", text(row, "spread"), text(row, "unit"))])
        })
        .collect();
    if !beside.is_empty() {
        let title = "What was forecast, and what was seen".into();
        tables.push(Table { title, heads: heads(&["", "forecast", "seen", "off by, all rounds"]), rows: beside });
    }
    tables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_judged_by_its_mark_and_one_that_is_told_is_not() {
        let met = |mark| row("a", "b", 2.0, "s", mark)["met"].as_bool();
        assert_eq!(met(Mark::AtMost(2.0)), Some(true));
        assert_eq!(met(Mark::AtMost(1.9)), Some(false));
        assert_eq!(met(Mark::AtLeast(2.1)), Some(false));
        assert_eq!(met(Mark::Told), None);
        let result = json!({"rows": [row("a", "b", 2.0, "s", Mark::AtMost(1.0))]});
        assert_eq!(tables(&result)[0].rows[0], ["a: b", "2.00 s", "at most 1", "missed"]);
        assert_eq!(tables(&result).len(), 1);
    }
}
