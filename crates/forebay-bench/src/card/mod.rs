//! Claim cards: a measurement with all that is needed to make it again, as one file of JSON.
//!
//! A card holds what was run, on which machine and commit, the raw samples, and the result. It is versioned; no path of the machine is in it, so
//! it can lie in the repository and be replayed anywhere.

mod machine;
mod page;
mod replay;

use std::path::Path;

use forebay_types::{Clock, SystemClock};
use serde_json::{Map, Value, json};

pub(crate) use machine::{Quiet, Stolen};
pub(crate) use page::{Table, report};
pub(crate) use replay::replay;

use crate::{Failed, Outcome, why};

/// Version of the cards this build writes, and the only one it reads.
const VERSION: u64 = 1;

/// Flags that say where something is done or shown, not what: they have no place on a card. All take a value but the last.
const FLAGS_OF_PLACE: [&str; 5] = ["--dir", "--forebay", "--card", "--traces", "--json"];

/// What a bench gave.
pub(crate) struct Measured {
    /// One of the verbs.
    pub(crate) bench: &'static str,
    /// What was done, in a sentence or two.
    pub(crate) workload: String,
    /// Versions of what stood beside Forebay.
    pub(crate) tools: Value,
    /// The line for programs. Fields of rows that end in `_samples` are the raw samples.
    pub(crate) result: Value,
}

/// Writes a card.
pub(crate) fn write(path: &Path, measured: &Measured, quiet: &Quiet, args: &[String], dir: &Path) -> Outcome<()> {
    let (result, samples) = split(&measured.result);
    let (commit, dirty) = machine::commit();
    let card = json!({
        "card": VERSION,
        "bench": measured.bench,
        "workload": measured.workload,
        "command": command(args),
        "date": machine::utc(SystemClock::new().utc_s()),
        "commit": commit,
        "dirty": dirty,
        "machine": machine::machine(dir),
        "quiet": quiet.json(),
        "tools": measured.tools,
        "result": result,
        "samples": samples,
    });
    let text = serde_json::to_string_pretty(&card).map_err(why("writing the card"))? + "\n";
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(why("making the card's folder"))?;
    }
    std::fs::write(path, text).map_err(why("writing the card"))
}

/// Reads a card of this version.
pub(crate) fn read(path: &Path) -> Outcome<Value> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| Failed(format!("the card {name} cannot be read: {e}")))?;
    let card: Value = serde_json::from_str(&text).map_err(|e| Failed(format!("{name} is not a card: {e}")))?;
    match card["card"].as_u64() {
        Some(VERSION) => Ok(card),
        Some(other) => Err(Failed(format!(
            "{name} is a card of version {other}, and this build reads {VERSION}; replay it with the build of its commit {}",
            card["commit"].as_str().unwrap_or("")
        ))),
        None => Err(Failed(format!("{name} is not a card: it has no field `card` with a version"))),
    }
}

/// The command without what says where.
fn command(args: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let name = arg.split('=').next().unwrap_or(arg);
        if !FLAGS_OF_PLACE.contains(&name) {
            kept.push(arg.clone());
        } else if name != "--json" && !arg.contains('=') {
            args.next();
        }
    }
    kept
}

/// Takes the raw samples out of the rows: the result to read, and the samples by path and side.
fn split(result: &Value) -> (Value, Value) {
    let mut result = result.clone();
    let mut samples = Map::new();
    for row in result["rows"].as_array_mut().into_iter().flatten() {
        let path = row["path"].as_str().unwrap_or_default().to_owned();
        let Some(fields) = row.as_object_mut() else { continue };
        let names: Vec<String> = fields.keys().filter(|name| name.ends_with("_samples")).cloned().collect();
        let raw: Map<String, Value> = names
            .into_iter()
            .filter_map(|name| {
                let value = fields.remove(&name)?;
                Some((name.trim_end_matches("_samples").to_owned(), value))
            })
            .collect();
        samples.insert(path, Value::Object(raw));
    }
    (result, Value::Object(samples))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_says_what_and_not_where() {
        let args = ["limits", "--dir", "/mnt/x", "--pairs", "7", "--card=/tmp/c.json", "--json", "--only", "nvme"];
        assert_eq!(command(&args.map(String::from)), ["limits", "--pairs", "7", "--only", "nvme"]);
    }

    #[test]
    fn a_card_comes_back_and_another_version_is_refused() {
        let path = std::env::temp_dir().join(format!("forebay-card-{}.json", std::process::id()));
        let measured = Measured {
            bench: "limits",
            workload: "w".into(),
            tools: json!({}),
            result: json!({"rows": [{"path": "a", "ours": 2.0, "ours_samples": [1.0, 2.0]}]}),
        };
        write(&path, &measured, &Quiet::start(), &["limits".into()], Path::new(".")).unwrap();
        let card = read(&path).unwrap();
        assert_eq!(card["result"], json!({"rows": [{"path": "a", "ours": 2.0}]}));
        assert_eq!(card["samples"], json!({"a": {"ours": [1.0, 2.0]}}));
        let text = std::fs::read_to_string(&path).unwrap();
        let here = std::env::current_dir().unwrap();
        assert!(!text.contains(here.to_str().unwrap()), "{text}");
        std::fs::write(&path, text.replace("\"card\": 1", "\"card\": 2")).unwrap();
        let said = read(&path).unwrap_err().to_string();
        assert!(said.contains("version 2"), "{said}");
        std::fs::remove_file(&path).unwrap();
    }
}
