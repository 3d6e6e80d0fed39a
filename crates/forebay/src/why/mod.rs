//! `forebay why`: why a run never hits, as far as the node knows. The node counts what becomes of each namespace's keys; who else there is, and in what
//! they differ, is in the catalogue. What follows from it is found in `findings.rs`, here it is asked for and shown.

mod findings;

use std::time::Duration;

use forebay_types::{Namespace, format_size};
use serde_json::{Value, json};

use crate::cli::WhyArgs;
use crate::say::grouped;
use crate::settings::Settings;
use crate::stop::Stop;
use crate::{connect, say};
use findings::{Finding, Space, explain};

const DEADLINE: Duration = Duration::from_secs(5);
/// Columns of a terminal that does not say how many it has.
const COLUMNS: usize = 80;

/// Runs it.
pub(crate) fn run(args: &WhyArgs, settings: &Settings) -> Result<(), Stop> {
    let client = connect::client(settings, DEADLINE)?;
    let namespaces = client.list_namespaces()?;
    let stats: Value = serde_json::from_str(&client.node_stats()?).map_err(|e| {
        Stop::Failed(format!("the node's figures are not JSON ({e}); use builds of neighbouring versions"))
    })?;
    let Some(counts) = stats.get("namespaces").and_then(Value::as_array) else {
        return Err(Stop::Failed(
            "this node does not count by namespace; it is of an older version: start it anew with this one".into(),
        ));
    };
    let spaces: Vec<Space> = namespaces.iter().map(|namespace| Space::new(namespace.clone(), counts)).collect();
    let asked: Vec<&Space> = match &args.namespace {
        Some(name) => {
            vec![spaces.iter().find(|space| space.namespace.name == *name).ok_or_else(|| none(name, &namespaces))?]
        }
        None => spaces.iter().filter(|space| space.lookups() + space.gets() > 0).collect(),
    };
    for space in &asked {
        let findings = explain(space, &spaces);
        match args.client.json {
            true => say::line(&as_json(space, &findings).to_string())?,
            false => show(space, &findings)?,
        }
    }
    if asked.is_empty() && !args.client.json {
        say::line(
            "Nobody has asked this node for anything since it started. Does the engine's log name this address?",
        )?;
    }
    Ok(())
}

fn none(name: &str, namespaces: &[Namespace]) -> Stop {
    let mut names: Vec<&str> = namespaces.iter().map(|namespace| namespace.name.as_str()).collect();
    names.sort_unstable();
    let there = if names.is_empty() { "there are none".to_owned() } else { format!("there are {}", names.join(", ")) };
    Stop::Failed(format!(
        "there is no namespace {name:?} on this node, so nothing was ever stored or looked up in it; {there}. \
         The line in the engine's log has the name it uses"
    ))
}

fn as_json(space: &Space, findings: &[Finding]) -> Value {
    let told: Vec<Value> = findings
        .iter()
        .map(|finding| json!({ "kind": finding.kind, "what": finding.what, "next": finding.next }))
        .collect();
    json!({
        "namespace": space.namespace.name,
        "lookups": space.lookups(),
        "hits": space.hits(),
        "stored": space.stored,
        "bytes": space.bytes,
        "findings": told,
    })
}

fn show(space: &Space, findings: &[Finding]) -> Result<(), Stop> {
    let width = say::columns().unwrap_or(COLUMNS).min(100);
    let (lookups, hits) = (space.lookups(), space.hits());
    let rate = match lookups {
        0 => "never looked up".to_owned(),
        _ => format!(
            "{} of {} lookups hit ({:.1} %)",
            grouped(hits),
            grouped(lookups),
            100.0 * hits as f64 / lookups as f64
        ),
    };
    say::line(&space.namespace.name)?;
    say::line(&format!("  {rate}; {} put, {} held", grouped(space.stored), format_size(space.bytes)))?;
    for (at, finding) in findings.iter().enumerate() {
        say::line("")?;
        for (row, line) in say::wrapped(&finding.what, width - 5).iter().enumerate() {
            let head = if row == 0 { format!("{:3}. ", at + 1) } else { " ".repeat(5) };
            say::line(&format!("{head}{line}"))?;
        }
        say::wrapped(&finding.next, width - 8)
            .iter()
            .enumerate()
            .try_for_each(|(row, line)| say::line(&format!("     {} {line}", if row == 0 { "->" } else { "  " })))?;
    }
    say::line("")
}
