//! Wins and losses: which columns may be compared, and what the targets say.

use serde_json::{Map, Value, json};

use super::{LOADS, Op};
use crate::card::Table;
use crate::report::{Samples, round, shown, shown_value};

pub(super) const FOREBAY: &str = "forebay";
pub(super) const FOREBAY_TCP: &str = "forebay tcp";
/// Not a peer but a limit.
pub(super) const DRIVE: &str = "drive (fio)";
pub(super) const MOONCAKE: &str = "mooncake tcp";
pub(super) const REDIS_TCP: &str = "redis tcp";

/// Peers at the far end of a TCP connection: Forebay's own TCP stands beside them, not its Unix socket.
const OVER_TCP: [&str; 2] = [MOONCAKE, REDIS_TCP];

/// One row: every column's median, and how Forebay does beside the best peer it may be compared with.
pub(super) fn row(op: Op, load: &str, seen: &[(&'static str, &Samples)]) -> Value {
    let mut row = Map::new();
    row.insert("path".into(), json!(format!("{}_{load}", op.name())));
    row.insert("op".into(), json!(op.name()));
    row.insert("size".into(), json!(load));
    row.insert("unit".into(), json!("GB/s"));
    let figure = |value: fn(&Samples) -> f64| -> Map<String, Value> {
        seen.iter().map(|(column, samples)| ((*column).to_owned(), json!(round(value(samples))))).collect()
    };
    row.insert("peers".into(), Value::Object(figure(Samples::median)));
    row.insert("spreads".into(), Value::Object(figure(Samples::spread)));
    for (column, samples) in seen {
        row.insert(format!("{column}_samples"), samples.json());
    }
    let local = best(seen, |column| !OVER_TCP.contains(&column));
    let tcp = best(seen, |column| OVER_TCP.contains(&column));
    for (ours, name, best) in [(FOREBAY, "local", local), (FOREBAY_TCP, "tcp", tcp)] {
        let ours = seen.iter().find(|(column, _)| *column == ours).map(|(_, samples)| samples.median());
        if let (Some(ours), Some((peer, speed))) = (ours, best) {
            row.insert(format!("best_{name}_peer"), json!(peer));
            row.insert(format!("ratio_{name}"), json!(round(ours / speed)));
            row.insert(format!("won_{name}"), json!(ours > speed));
        }
    }
    Value::Object(row)
}

fn best(seen: &[(&'static str, &Samples)], fair: impl Fn(&str) -> bool) -> Option<(&'static str, f64)> {
    seen.iter()
        .filter(|(column, _)| ![FOREBAY, FOREBAY_TCP, DRIVE].contains(column) && fair(column))
        .map(|(column, samples)| (*column, samples.median()))
        .max_by(|a, b| a.1.total_cmp(&b.1))
}

/// What the design asks for, where both sides were measured.
pub(super) fn targets(rows: &[Value]) -> Vec<Value> {
    let speed = |path: &str, column: &str| {
        rows.iter().find(|row| row["path"] == path).and_then(|row| row["peers"][column].as_f64())
    };
    let mut targets = Vec::new();
    let mut judge = |path: String, ours: Option<f64>, limit: Option<f64>, limit_is: &str, mark: f64| {
        if let (Some(ours), Some(limit)) = (ours, limit) {
            targets.push(json!({
                "path": path, "unit": "GB/s", "ours": ours, "limit": limit, "limit_is": limit_is,
                "ratio": round(ours / limit), "target": mark, "met": ours / limit >= mark,
            }));
        }
    };
    let warm = "get_warm_1m";
    judge(format!("tcp {warm}"), speed(warm, FOREBAY_TCP), speed(warm, MOONCAKE), MOONCAKE, 2.5);
    for load in &LOADS {
        let path = format!("put_{}", load.name);
        judge(path.clone(), speed(&path, FOREBAY), speed(&path, DRIVE), "the drive's own direct writes", 0.85);
    }
    for row in rows.iter().filter(|row| row["op"] == "put" || row["op"] == "get_cold") {
        let (Some(path), Some(peer)) = (row["path"].as_str(), row["best_local_peer"].as_str()) else { continue };
        judge(format!("{path} beside peers"), speed(path, FOREBAY), speed(path, peer), peer, 1.0);
    }
    targets
}

/// The tables of a result.
pub(crate) fn tables(result: &Value) -> Vec<Table> {
    let drive = "On the drive (puts end with O_DIRECT or fsync, gets come from the drive), GB/s";
    let memory = "In memory (page cache, DRAM tier), a table apart; puts into memory for information, GB/s";
    let mut tables = vec![
        side_by_side(drive, result, &[Op::Put, Op::GetCold]),
        side_by_side(memory, result, &[Op::GetWarm, Op::PutMemory]),
        target_table(result),
    ];
    if let Some(skipped) = result["skipped"].as_object().filter(|skipped| !skipped.is_empty()) {
        let rows = skipped.iter().map(|(who, why)| vec![who.clone(), why.as_str().unwrap_or("").replace('|', "/")]);
        tables.push(Table { title: "Skipped".into(), heads: vec!["who".into(), "why".into()], rows: rows.collect() });
    }
    tables.retain(|table| !table.rows.is_empty());
    tables
}

fn side_by_side(title: &str, result: &Value, ops: &[Op]) -> Table {
    let all = result["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let rows: Vec<&Value> = all.iter().filter(|row| ops.iter().any(|op| row["op"] == op.name())).collect();
    let mut columns: Vec<&str> = [FOREBAY, FOREBAY_TCP, DRIVE].to_vec();
    for row in &rows {
        for name in row["peers"].as_object().into_iter().flat_map(Map::keys) {
            if !columns.contains(&name.as_str()) {
                columns.push(name);
            }
        }
    }
    columns.retain(|name| rows.iter().any(|row| row["peers"][*name].is_number()));
    let mut heads = vec![String::new()];
    heads.extend(rows.iter().map(|row| row["path"].as_str().unwrap_or_default().to_owned()));
    let line = |name: &str, cell: &dyn Fn(&Value) -> String| {
        let mut line = vec![name.to_owned()];
        line.extend(rows.iter().map(|row| cell(row)));
        line
    };
    let mut lines: Vec<Vec<String>> =
        columns.iter().map(|name| line(name, &|row| shown_value(&row["peers"][*name]))).collect();
    for (name, label) in [("local", "forebay / best local peer"), ("tcp", "forebay tcp / best TCP peer")] {
        let field = format!("ratio_{name}");
        if rows.iter().any(|row| row[&field].is_number()) {
            let who = format!("best_{name}_peer");
            lines.push(line(label, &|row| match row[&field].as_f64() {
                Some(ratio) => format!("{} ({})", shown(ratio), row[&who].as_str().unwrap_or("")),
                None => "-".into(),
            }));
        }
    }
    Table { title: title.into(), heads, rows: if rows.is_empty() { Vec::new() } else { lines } }
}

fn target_table(result: &Value) -> Table {
    let rows = result["targets"].as_array().map_or(&[][..], Vec::as_slice).iter().map(|row| {
        let text = |name: &str| row[name].as_str().unwrap_or("-").to_owned();
        vec![
            text("path"),
            shown_value(&row["ours"]),
            shown_value(&row["limit"]),
            shown_value(&row["ratio"]),
            format!(">= {:.2}", row["target"].as_f64().unwrap_or(0.0)),
            if row["met"] == true { "yes".into() } else { "no".into() },
            text("limit_is"),
        ]
    });
    Table {
        title: "Targets".into(),
        heads: ["target", "forebay", "beside", "ratio", "asked", "met", "beside is"].map(String::from).to_vec(),
        rows: rows.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Value> {
        let s = |x: f64| Samples(vec![x]);
        let (two, one, half, three) = (s(2.0), s(1.0), s(0.5), s(3.0));
        vec![
            row(Op::Put, "1m", &[(FOREBAY, &two), (DRIVE, &three), ("files", &one)]),
            row(Op::GetWarm, "1m", &[(FOREBAY, &two), (FOREBAY_TCP, &two), ("files", &three), (MOONCAKE, &half)]),
        ]
    }

    #[test]
    fn forebay_is_compared_with_its_like() {
        let rows = rows();
        assert!(rows[0]["best_local_peer"] == "files" && rows[0]["ratio_local"] == 2.0 && rows[0]["won_local"] == true);
        assert!(rows[1]["won_local"] == false && rows[1]["ratio_tcp"] == 4.0 && rows[1]["best_tcp_peer"] == MOONCAKE);
    }

    #[test]
    fn targets_are_judged_where_both_sides_are_there() {
        let targets = targets(&rows());
        let met = |path: &str| targets.iter().find(|t| t["path"] == path).map(|t| t["met"] == true);
        assert_eq!(met("tcp get_warm_1m"), Some(true));
        assert_eq!(met("put_1m"), Some(false));
        assert_eq!(met("put_1m beside peers"), Some(true));
        assert_eq!(met("put_64k"), None);
    }

    #[test]
    fn losses_are_shown_too() {
        let result = json!({"rows": rows(), "targets": targets(&rows()), "skipped": {"nixl": "no | python"}});
        let tables = tables(&result);
        assert_eq!(tables.len(), 4);
        let last = tables[1].rows.iter().find(|row| row[0] == "forebay / best local peer").unwrap();
        assert_eq!(last[1], "0.67 (files)");
        assert_eq!(tables[3].rows, [["nixl", "no / python"]]);
    }
}
