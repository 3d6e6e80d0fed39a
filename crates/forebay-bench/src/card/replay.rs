//! A card run again, with both results side by side.

use std::path::Path;

use serde_json::{Value, json};

use super::{Measured, Table};
use crate::report::{print, say, shown};
use crate::{Failed, Outcome};

/// Reads a card, runs its command with `run` and shows both.
pub(crate) fn replay(path: &Path, json: bool, run: impl FnOnce(&[String]) -> Outcome<Measured>) -> Outcome<()> {
    let card = super::read(path)?;
    let command: Option<Vec<String>> =
        card["command"].as_array().and_then(|args| args.iter().map(|arg| arg.as_str().map(str::to_owned)).collect());
    let Some(command) = command.filter(|command| !command.is_empty()) else {
        return Err(Failed(format!("{} has no command to run again", path.display())));
    };
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    say(&format!(
        "replaying `cargo xtask bench {}`, first run on {} at commit {} on {}",
        command.join(" "),
        text(&card["date"]),
        text(&card["commit"]).get(..12).unwrap_or("unknown"),
        text(&card["machine"]["cpu"]),
    ));
    let now = run(&command)?;
    let (now, _) = super::split(&now.result);
    say(&side_by_side(&card["result"], &now).terminal());
    if json {
        print(&json!({ "card": card["result"], "now": now }).to_string());
    }
    Ok(())
}

fn side_by_side(card: &Value, now: &Value) -> Table {
    let (card, now) = (figures(card), figures(now));
    let mut rows: Vec<Vec<String>> = card
        .iter()
        .map(|(name, then)| {
            let today = now.iter().find(|(other, _)| other == name).map(|(_, value)| *value);
            let change = today.filter(|_| *then != 0.0).map(|today| format!("{:+.0} %", (today / then - 1.0) * 100.0));
            vec![name.clone(), shown(*then), today.map_or("-".into(), shown), change.unwrap_or_else(|| "-".into())]
        })
        .collect();
    for (name, today) in now.iter().filter(|(name, _)| card.iter().all(|(other, _)| other != name)) {
        rows.push(vec![name.clone(), "-".into(), shown(*today), "-".into()]);
    }
    let heads = ["", "card", "now", "change"].map(String::from).to_vec();
    Table { title: String::new(), heads, rows }
}

/// The figures of a result by name, in its order: ours, limit and ratio of each row, or each peer's.
fn figures(result: &Value) -> Vec<(String, f64)> {
    let mut figures = Vec::new();
    for row in result["rows"].as_array().into_iter().flatten() {
        let path = row["path"].as_str().unwrap_or_default();
        for name in ["ours", "limit", "ratio"] {
            if let Some(value) = row[name].as_f64() {
                figures.push((format!("{path}, {name}"), value));
            }
        }
        for (name, value) in row["peers"].as_object().into_iter().flatten() {
            if let Some(value) = value.as_f64() {
                figures.push((format!("{path}, {name}"), value));
            }
        }
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_runs_stand_side_by_side() {
        let card = json!({"rows": [{"path": "a", "ours": 2.0, "limit": 4.0, "ratio": 0.5}, {"path": "b", "peers": {"redis": 1.0}}]});
        let now =
            json!({"rows": [{"path": "a", "ours": 3.0, "limit": 4.0, "ratio": 0.75}, {"path": "c", "ours": 1.0}]});
        let table = side_by_side(&card, &now);
        let row = |name: &str| table.rows.iter().find(|row| row[0] == name).unwrap().clone();
        assert_eq!(row("a, ours"), ["a, ours", "2.00", "3.00", "+50 %"]);
        assert_eq!(row("b, redis"), ["b, redis", "1.00", "-", "-"]);
        assert_eq!(row("c, ours"), ["c, ours", "-", "1.00", "-"]);
    }

    #[test]
    fn what_is_no_card_is_not_run() {
        let path = std::env::temp_dir().join(format!("forebay-no-card-{}.json", std::process::id()));
        std::fs::write(&path, "{\"card\": 1}").unwrap();
        let said = replay(&path, false, |_| Err(Failed("it ran".into()))).unwrap_err().to_string();
        assert!(said.contains("no command"), "{said}");
        std::fs::remove_file(&path).unwrap();
    }
}
