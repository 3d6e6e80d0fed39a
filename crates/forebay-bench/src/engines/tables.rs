//! What the parts gave, as tables.

use serde_json::{Value, json};

use super::Part;
use crate::card::Table;
use crate::peers;
use crate::report::shown_value;

/// The tables of a result.
pub(crate) fn tables(result: &Value) -> Vec<Table> {
    let of = |part: Part| -> Vec<Value> {
        let all = result["rows"].as_array().map_or(&[][..], Vec::as_slice);
        all.iter().filter(|row| row["part"] == part.name()).cloned().collect()
    };
    let mut tables = vec![calls(&of(Part::Calls)), ttft(&of(Part::Ttft)), tax(&of(Part::Tax))];
    tables.extend(peers::tables(&json!({ "rows": of(Part::Stores) })));
    let skipped = result["skipped"].as_object().into_iter().flatten();
    let skipped = skipped.map(|(who, why)| vec![who.clone(), why.as_str().unwrap_or("").replace('|', "/")]).collect();
    tables.push(table("Skipped".into(), &["who", "why"], skipped));
    tables.retain(|table| !table.rows.is_empty());
    tables
}

fn calls(rows: &[Value]) -> Table {
    let line = |row: &Value| {
        let mut line = vec![text(row, "path")];
        line.extend(["p50", "p50_on_core", "p99", "max", "limit"].map(|name| shown_value(&row[name])));
        line.extend([met(row), text(row, "dearest")]);
        line
    };
    let heads = ["", "p50", "p50 on a core", "p99", "max", "at most", "met by p50", "dearest hook"];
    table("Calls, us".into(), &heads, rows.iter().map(line).collect())
}

fn ttft(rows: &[Value]) -> Table {
    let about = rows.first().map_or(String::new(), |row| {
        let mib = row["kv_bytes"].as_f64().unwrap_or(0.0) / 1_048_576.0;
        format!(", {mib:.0} MiB of KV, a drive of {} GB/s", shown_value(&row["drive_gb_s"]))
    });
    let ms = |row: &Value, name: &str| row[name].as_f64().map_or("-".into(), |s| format!("{:.0}", s * 1000.0));
    let line = |row: &Value| {
        let [faster, ratio] = ["faster", "ratio"].map(|name| shown_value(&row[name]));
        vec![text(row, "path"), ms(row, "seconds"), faster, ms(row, "limit"), ratio, met(row)]
    };
    let heads = ["", "ttft", "times faster than computing", "at most", "of that", "met"];
    table(format!("Time to first token, ms{about}"), &heads, rows.iter().map(line).collect())
}

fn tax(rows: &[Value]) -> Table {
    let line = |row: &Value| {
        let mut line = vec![text(row, "path")];
        line.extend(["mean", "low", "high"].map(|name| shown_value(&row[name])));
        line.push(row["pairs"].as_u64().map_or("-".into(), |pairs| pairs.to_string()));
        line.extend([shown_value(&row["limit"]), met(row)]);
        line
    };
    let heads = ["", "mean", "95 % from", "to", "pairs", "at most", "met"];
    let title = "Tax of a miss, % of the engine's CPU seconds";
    table(title.into(), &heads, rows.iter().map(line).collect())
}

fn table(title: String, heads: &[&str], rows: Vec<Vec<String>>) -> Table {
    Table { title, heads: heads.iter().map(|head| (*head).to_owned()).collect(), rows }
}

fn text(row: &Value, name: &str) -> String {
    row[name].as_str().unwrap_or("-").to_owned()
}

fn met(row: &Value) -> String {
    match row["met"].as_bool() {
        Some(true) => "yes".into(),
        Some(false) => "no".into(),
        None => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_table_and_what_was_not_measured_is_named() {
        let result = json!({
            "rows": [
                {"part": "calls", "path": "a", "p50": 0.5, "p50_on_core": 0.25, "p99": 1.5, "limit": 1.0, "met": true},
                {"part": "ttft", "path": "forebay", "seconds": 0.25, "faster": 20.0, "limit": 0.2, "ratio": 1.25, "met": false, "drive_gb_s": 2.0, "kv_bytes": 104_857_600},
                {"part": "tax", "path": "lookups alone", "mean": 0.2, "low": -0.1, "high": 0.5, "pairs": 9, "limit": 1.0, "met": true},
                {"part": "stores", "path": "put_1m", "op": "put", "size": "1m", "unit": "GB/s", "peers": {"forebay": 2.0}},
            ],
            "skipped": {"lmcache": "no | server"},
        });
        let tables = tables(&result);
        assert_eq!(tables.len(), 5);
        assert_eq!(tables[0].rows[0][..7], ["a", "0.50", "0.25", "1.50", "-", "1.00", "yes"]);
        assert!(tables[1].title.contains("100 MiB of KV, a drive of 2.00 GB/s"));
        assert_eq!(tables[1].rows[0], ["forebay", "250", "20.0", "200", "1.25", "no"]);
        assert_eq!(tables[2].rows[0][4], "9");
        assert_eq!(tables[4].rows, [["lmcache", "no / server"]]);
    }
}
