//! `cargo xtask tidy`: how the house is kept, checked. Every finding says what to do about it.

mod arrows;
mod growth;
mod heads;
mod papers;
mod promises;
mod source;

use std::path::Path;

use serde_json::{Value, json};

use crate::{Stop, breaks};
pub(crate) use source::Source;

/// Today's sizes and papers, as they were last accepted.
const BASELINE: &str = "xtask/tidy-baseline.json";

pub(crate) fn run(root: &Path, args: &[String]) -> Result<(), Stop> {
    let mut accept = false;
    let mut bytes_unchanged = false;
    for arg in args {
        match arg.as_str() {
            "--accept" => accept = true,
            "--bytes-unchanged" => bytes_unchanged = true,
            other => return Err(Stop::Misused(format!("`tidy` has no flag {other:?}"))),
        }
    }
    match accept {
        true => accept_today(root, bytes_unchanged),
        false if bytes_unchanged => Err(Stop::Misused("--bytes-unchanged goes with --accept".into())),
        false => check(root),
    }
}

/// Checks everything; prints the findings.
pub(crate) fn check(root: &Path) -> Result<(), Stop> {
    let sources = source::all(root)?;
    let baseline = baseline(root)?;
    let mut findings = arrows::findings(root)?;
    findings.extend(heads::findings(&sources));
    findings.extend(papers::findings(root, &baseline["papers"])?);
    findings.extend(promises::findings(root, &sources)?);
    findings.extend(breaks::findings(root, &sources)?);
    findings.extend(growth::findings(&sources, &baseline["sizes"]));
    if findings.is_empty() {
        println!("tidy: {} modules, nothing to mend", sources.len());
        return Ok(());
    }
    findings.iter().for_each(|finding| println!("tidy: {finding}\n"));
    Err(Stop::Failed(format!("{} thing(s) to mend, told above", findings.len())))
}

fn accept_today(root: &Path, bytes_unchanged: bool) -> Result<(), Stop> {
    let sources: Vec<Source> = source::all(root)?;
    let papers = papers::accepted(root, &baseline(root)?["papers"], bytes_unchanged)?;
    let text = serde_json::to_string_pretty(&json!({ "papers": papers, "sizes": growth::sizes(&sources) }))
        .map_err(|e| Stop::Failed(e.to_string()))?;
    std::fs::write(root.join(BASELINE), text + "\n").map_err(|e| Stop::Failed(format!("{BASELINE}: {e}")))?;
    println!("tidy: wrote {BASELINE}; commit it with the change it belongs to");
    check(root)
}

fn baseline(root: &Path) -> Result<Value, Stop> {
    match std::fs::read_to_string(root.join(BASELINE)) {
        Ok(text) => serde_json::from_str(&text).map_err(|e| Stop::Failed(format!("{BASELINE}: {e}"))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(e) => Err(Stop::Failed(format!("{BASELINE}: {e}"))),
    }
}
