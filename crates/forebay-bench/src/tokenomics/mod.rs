//! What forecasts and policies must reach, measured on the recorded traces in one run: speed and memory of a replay, known answers, what worth saves, how far
//! curves and segments are from the truth, and whether a forecast holds on a real node.
//!
//! All but the first part and the last come out the same on any machine. Traces that are not there are skipped aloud, and a run that skipped has not met its targets.

mod answers;
mod curves;
mod instant;
mod node;
mod segments;
mod traces;
mod worth;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use crate::card::{Measured, Table};
use crate::report::{say, shown_value};
use crate::{Common, Outcome};
use traces::Traces;

#[derive(Args)]
pub(crate) struct TokenomicsArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Folder with agent-sessions.jsonl.gz and mooncake-conversation.jsonl.gz.
    #[arg(long, value_name = "DIR", default_value = "../shared/traces")]
    traces: PathBuf,
    /// Only parts whose name contains this: instant, answers, worth, curves, segments, node.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// How a row is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mark {
    AtMost(f64),
    AtLeast(f64),
    /// Told only.
    Told,
}

/// One thing that was measured.
pub(crate) fn row(path: &str, what: impl Into<String>, ours: f64, unit: &str, mark: Mark) -> Value {
    let (target, met) = match mark {
        Mark::AtMost(most) => (format!("at most {most}"), Some(ours <= most)),
        Mark::AtLeast(least) => (format!("at least {least}"), Some(ours >= least)),
        Mark::Told => (String::new(), None),
    };
    json!({"path": path, "what": what.into(), "ours": ours, "unit": unit, "target": target, "met": met})
}

type Part = fn(&TokenomicsArgs, &Traces) -> Outcome<Vec<Value>>;
const PARTS: [(&str, Part); 6] = [
    ("instant", instant::run),
    ("answers", answers::run),
    ("worth", worth::run),
    ("curves", curves::run),
    ("segments", segments::run),
    ("node", node::run),
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
            "Policies, curves and forecasts on two recorded traces: coding-agent sessions (private ids, start offsets by seed) and an hour of a chat service, \
             Llama-3.1-70B in bf16. Rows but those in seconds and bytes are the same on any machine.{}",
            if traces.all_there() { "" } else { " Not all traces were there." }
        ),
        tools: json!({}),
        result: json!({ "rows": rows, "met": met }),
    })
}

/// The table of a result.
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
        vec![
            format!("{}: {}", text(row, "path"), text(row, "what")),
            ours.trim().to_owned(),
            text(row, "target"),
            verdict.to_owned(),
        ]
    };
    let heads = ["", "measured", "target", ""].map(String::from).to_vec();
    vec![Table { title: String::new(), heads, rows: rows.iter().map(line).collect() }]
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
    }
}
