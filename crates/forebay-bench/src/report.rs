//! Medians, spreads, the table for people and the line for programs.

use std::io::Write;

use serde_json::{Map, Value, json};

use crate::card::Table;
use crate::watch::Latencies;

/// A line for people, on stderr.
pub(crate) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A line on stdout.
pub(crate) fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Samples of one side of a row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(pub(crate) Vec<f64>);

impl Samples {
    pub(crate) fn median(&self) -> f64 {
        percentile(&self.0, 0.5)
    }

    /// (max - min) / median.
    pub(crate) fn spread(&self) -> f64 {
        let (low, high) = self.0.iter().fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(*x), h.max(*x)));
        if self.0.is_empty() || self.median() == 0.0 { 0.0 } else { (high - low) / self.median() }
    }

    /// None when there are none.
    pub(crate) fn some_median(&self) -> Option<f64> {
        (!self.0.is_empty()).then(|| self.median())
    }

    pub(crate) fn json(&self) -> Value {
        self.0.iter().map(|x| round(*x)).collect()
    }
}

/// The value below which `share` of the samples lie (nearest rank); NaN when there are none.
pub(crate) fn percentile(samples: &[f64], share: f64) -> f64 {
    if samples.is_empty() {
        return f64::NAN;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len()) - 1]
}

/// How a row is judged.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rule {
    /// ours / limit at least this.
    RatioAtLeast,
    /// ours / limit at most this.
    RatioAtMost,
    /// ours at most limit + this.
    Above,
    /// ours at most this.
    AtMost,
}

/// What the design asks of a row: a rule and two marks for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) rule: Rule,
    pub(crate) first: f64,
    pub(crate) goal: f64,
}

impl Target {
    fn half_way(&self) -> f64 {
        self.first.midpoint(self.goal)
    }

    fn met(&self, mark: f64, ours: f64, limit: f64) -> bool {
        match self.rule {
            Rule::RatioAtLeast => ours / limit >= mark,
            Rule::RatioAtMost => ours / limit <= mark,
            Rule::Above => ours <= limit + mark,
            Rule::AtMost => ours <= mark,
        }
    }

    fn text(&self, mark: f64, unit: &str) -> String {
        match self.rule {
            Rule::RatioAtLeast => format!(">= {mark:.2} x"),
            Rule::RatioAtMost => format!("<= {mark:.2} x"),
            Rule::Above => format!("<= limit + {mark:.0}"),
            Rule::AtMost => format!("<= {} {unit}", round(mark)),
        }
    }
}

/// One side of a row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Side {
    /// One for each pair: GB/s, or the median latency.
    pub(crate) samples: Samples,
    /// p99 and p99.9 of each pair in microseconds, where anything was timed.
    pub(crate) tails: Option<(Samples, Samples)>,
    /// None where no bytes move, or nobody counted.
    pub(crate) cpu_s_per_gb: Option<f64>,
}

impl Side {
    pub(crate) fn speed(samples: Samples, cpu_s_per_gb: Option<f64>) -> Side {
        Side { samples, tails: None, cpu_s_per_gb }
    }

    /// A speed, and how long single blocks took.
    pub(crate) fn speed_of_blocks(samples: Samples, blocks: Latencies, cpu_s_per_gb: Option<f64>) -> Side {
        Side { samples, tails: blocks.tails(), cpu_s_per_gb }
    }

    pub(crate) fn latency(all: Latencies, cpu_s_per_gb: Option<f64>) -> Side {
        Side { samples: all.p50, tails: Some((all.p99, all.p999)), cpu_s_per_gb }
    }

    fn fields(&self, name: &str, into: &mut Map<String, Value>) {
        let there = !self.samples.0.is_empty();
        let tails = self.tails.as_ref().filter(|_| there);
        let mut put = |field: &str, value: Value| into.insert(format!("{name}{field}"), value);
        put("", json!(there.then(|| round(self.samples.median()))));
        put("_spread", json!(there.then(|| round(self.samples.spread()))));
        put("_samples", self.samples.json());
        put("_p99", json!(tails.map(|(p99, _)| round(p99.median()))));
        put("_p999", json!(tails.map(|(_, p999)| round(p999.median()))));
        if let Some((p99, p999)) = tails {
            put("_p99_samples", p99.json());
            put("_p999_samples", p999.json());
        }
    }
}

/// One row of the table.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) path: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) ours: Side,
    /// Empty where there is no limit.
    pub(crate) limit: Side,
    pub(crate) limit_is: String,
    pub(crate) target: Target,
}

impl Row {
    fn medians(&self) -> (f64, f64) {
        (self.ours.samples.median(), self.limit.samples.median())
    }

    fn ratio(&self) -> Option<f64> {
        let (ours, limit) = self.medians();
        (!self.limit.samples.0.is_empty()).then(|| ours / limit)
    }

    pub(crate) fn met(&self) -> bool {
        let (ours, limit) = self.medians();
        self.target.met(self.target.first, ours, limit)
    }

    /// How far it is: goal, half way, first target, or short of it.
    fn reaches(&self) -> &'static str {
        let (ours, limit) = self.medians();
        let target = &self.target;
        match () {
            () if target.met(target.goal, ours, limit) => "goal",
            () if target.met(target.half_way(), ours, limit) => "half way",
            () if self.met() => "first",
            () => "no",
        }
    }

    pub(crate) fn json(&self) -> Value {
        let (ours, limit) = self.medians();
        let target = &self.target;
        let mut row = Map::new();
        row.insert("path".into(), json!(self.path));
        row.insert("unit".into(), json!(self.unit));
        self.ours.fields("ours", &mut row);
        self.limit.fields("limit", &mut row);
        row.insert("limit_is".into(), json!(self.limit_is));
        // The design has no limit, and so no ratio, for this one row.
        row.insert("ratio".into(), json!(self.ratio().map(round)));
        row.insert("cpu_s_per_gb".into(), json!(self.ours.cpu_s_per_gb.map(round)));
        row.insert("limit_cpu_s_per_gb".into(), json!(self.limit.cpu_s_per_gb.map(round)));
        row.insert("target".into(), json!(target.first));
        row.insert("target_is".into(), json!(target.text(target.first, self.unit)));
        row.insert("met".into(), json!(self.met()));
        row.insert("half_way".into(), json!(round(target.half_way())));
        row.insert("half_way_is".into(), json!(target.text(target.half_way(), self.unit)));
        row.insert("half_way_met".into(), json!(target.met(target.half_way(), ours, limit)));
        row.insert("goal".into(), json!(target.goal));
        row.insert("goal_met".into(), json!(target.met(target.goal, ours, limit)));
        row.insert("reaches".into(), json!(self.reaches()));
        Value::Object(row)
    }
}

pub(crate) fn round(x: f64) -> f64 {
    (x * 10_000.0).round() / 10_000.0
}

/// A number as it is shown: three figures or so.
pub(crate) fn shown(x: f64) -> String {
    match x.abs() {
        x if x >= 100.0 => format!("{x:.0}"),
        x if x >= 10.0 => format!("{x:.1}"),
        _ => format!("{x:.2}"),
    }
}

/// A number of JSON as it is shown.
pub(crate) fn shown_value(value: &Value) -> String {
    value.as_f64().map_or("-".into(), shown)
}

/// What a row is judged by, and how: `ours of limit: yes`; `-` where it is not judged.
pub(crate) fn verdict(row: &Value) -> String {
    let Some(met) = row["met"].as_bool() else { return "-".into() };
    format!("{} of {}: {}", shown_value(&row["ours"]), shown_value(&row["limit"]), if met { "yes" } else { "no" })
}

/// The heads of [`cells`]. One set of columns for the terminal and for the page.
pub(crate) const COLUMNS: [&str; 10] =
    ["path", "ours", "limit", "ratio", "target", "reaches", "spread", "p99 us", "p99.9 us", "CPU s/GB"];

/// A row of JSON as cells, so that a card of another day is shown as today's rows are. `ours / limit` where both have it.
pub(crate) fn cells(row: &Value) -> Vec<String> {
    let text = |name: &str| row[name].as_str().unwrap_or("-").to_owned();
    let pair = |ours: &str, limit: &str, show: fn(f64) -> String| match (row[ours].as_f64(), row[limit].as_f64()) {
        (Some(ours), Some(limit)) => format!("{} / {}", show(ours), show(limit)),
        (Some(ours), None) => show(ours),
        _ => "-".into(),
    };
    vec![
        text("path"),
        format!("{} {}", shown_value(&row["ours"]), row["unit"].as_str().unwrap_or("")),
        shown_value(&row["limit"]),
        shown_value(&row["ratio"]),
        text("target_is"),
        text("reaches"),
        pair("ours_spread", "limit_spread", |x| format!("{:.0} %", x * 100.0)),
        pair("ours_p99", "limit_p99", shown),
        pair("ours_p999", "limit_p999", shown),
        pair("cpu_s_per_gb", "limit_cpu_s_per_gb", |x| format!("{x:.2}")),
    ]
}

/// The table of rows that each have a limit.
pub(crate) fn table(result: &Value) -> Table {
    let rows = result["rows"].as_array().map_or(&[][..], Vec::as_slice);
    Table { title: String::new(), heads: COLUMNS.map(String::from).to_vec(), rows: rows.iter().map(cells).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(rule: Rule, first: f64, goal: f64, ours: f64, limit: f64) -> Row {
        let side = |x| Side::speed(Samples(vec![x]), None);
        Row {
            path: "x",
            unit: "GB/s",
            ours: side(ours),
            limit: side(limit),
            limit_is: String::new(),
            target: Target { rule, first, goal },
        }
    }

    #[test]
    fn a_row_is_met_by_its_own_rule() {
        for (rule, first, goal, good, bad) in [
            (Rule::RatioAtLeast, 0.9, 0.97, 0.9, 0.89),
            (Rule::RatioAtMost, 1.2, 0.8, 1.2, 1.21),
            (Rule::Above, 300.0, 80.0, 301.0, 302.0),
            (Rule::AtMost, 1.0, 0.3, 1.0, 1.01),
        ] {
            assert!(row(rule, first, goal, good, 1.0).met(), "{rule:?}");
            assert!(!row(rule, first, goal, bad, 1.0).met(), "{rule:?}");
        }
        assert_eq!(percentile(&[3.0, 1.0, 2.0], 0.5), 2.0);
    }

    #[test]
    fn a_row_says_how_far_it_reaches() {
        let reaches = |ours| row(Rule::RatioAtMost, 1.2, 0.8, ours, 1.0).reaches();
        assert_eq!([1.3, 1.1, 0.9, 0.8].map(reaches), ["no", "first", "half way", "goal"]);
    }

    #[test]
    fn the_line_keeps_its_contract() {
        let mut with_tails = row(Rule::RatioAtMost, 1.2, 0.8, 12.0, 10.0);
        with_tails.ours.tails = Some((Samples(vec![20.0]), Samples(vec![30.0])));
        let line = with_tails.json();
        for (field, value) in
            [("ours", 12.0), ("limit", 10.0), ("ratio", 1.2), ("target", 1.2), ("ours_p99", 20.0), ("ours_p999", 30.0)]
        {
            assert_eq!(line[field].as_f64(), Some(value), "{field}");
        }
        assert!(line["path"] == "x" && line["unit"] == "GB/s" && line["met"] == true && line["cpu_s_per_gb"].is_null());
        let mut alone = row(Rule::AtMost, 64.0, 48.0, 60.0, 0.0);
        alone.limit = Side::default();
        let line = alone.json();
        assert!(line["ratio"].is_null() && line["limit"].is_null() && line["met"] == true);
    }
}
