//! Medians, spreads, the table for people and the line for programs.

use std::io::{IsTerminal, Write};

use comfy_table::{Cell, CellAlignment, Color, Table, presets};
use serde_json::{Value, json};

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

/// How a row is met.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// ours / limit at least this.
    RatioAtLeast(f64),
    /// ours / limit at most this.
    RatioAtMost(f64),
    /// ours at most limit + this.
    Above(f64),
    /// ours at most this.
    AtMost(f64),
}

/// One row of the table.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) path: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) ours: Samples,
    /// Empty where there is no limit.
    pub(crate) limit: Samples,
    pub(crate) limit_is: String,
    pub(crate) cpu_s_per_gb: Option<f64>,
    pub(crate) target: Target,
}

impl Row {
    fn ratio(&self) -> Option<f64> {
        (!self.limit.0.is_empty()).then(|| self.ours.median() / self.limit.median())
    }

    pub(crate) fn met(&self) -> bool {
        let (ours, limit) = (self.ours.median(), self.limit.median());
        match self.target {
            Target::RatioAtLeast(x) => ours / limit >= x,
            Target::RatioAtMost(x) => ours / limit <= x,
            Target::Above(x) => ours <= limit + x,
            Target::AtMost(x) => ours <= x,
        }
    }

    fn target_text(&self) -> String {
        match self.target {
            Target::RatioAtLeast(x) => format!(">= {x:.2} x"),
            Target::RatioAtMost(x) => format!("<= {x:.1} x"),
            Target::Above(x) => format!("<= limit + {x:.0}"),
            Target::AtMost(x) => format!("<= {x:.0} {}", self.unit),
        }
    }

    pub(crate) fn json(&self) -> Value {
        let has_limit = !self.limit.0.is_empty();
        json!({
            "path": self.path, "unit": self.unit,
            "ours": round(self.ours.median()), "ours_spread": round(self.ours.spread()), "ours_samples": self.ours.0.iter().map(|x| round(*x)).collect::<Vec<_>>(),
            "limit": has_limit.then(|| round(self.limit.median())), "limit_spread": has_limit.then(|| round(self.limit.spread())),
            "limit_samples": self.limit.0.iter().map(|x| round(*x)).collect::<Vec<_>>(),
            "limit_is": self.limit_is, "ratio": self.ratio().map(round), "cpu_s_per_gb": self.cpu_s_per_gb.map(round),
            "target": match self.target { Target::RatioAtLeast(x) | Target::RatioAtMost(x) | Target::Above(x) | Target::AtMost(x) => x },
            "target_is": self.target_text(), "met": self.met(),
        })
    }
}

fn round(x: f64) -> f64 {
    (x * 10_000.0).round() / 10_000.0
}

/// The table of all rows.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["path", "ours", "limit", "ratio", "target", "met", "spread", "CPU s/GB", "the limit is"]);
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for row in rows {
        let number = |x: f64| if x >= 100.0 { format!("{x:.0}") } else { format!("{x:.2}") };
        let met = Cell::new(if row.met() { "yes" } else { "no" });
        let met = match (colour, row.met()) {
            (false, _) => met,
            (true, true) => met.fg(Color::Green),
            (true, false) => met.fg(Color::Yellow),
        };
        let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row([
            Cell::new(row.path),
            right(format!("{} {}", number(row.ours.median()), row.unit)),
            right(if row.limit.0.is_empty() { "-".into() } else { number(row.limit.median()) }),
            right(row.ratio().map_or("-".into(), |r| format!("{r:.2}"))),
            Cell::new(row.target_text()),
            met,
            right(format!("{:.0} % / {:.0} %", row.ours.spread() * 100.0, row.limit.spread() * 100.0)),
            right(row.cpu_s_per_gb.map_or("-".into(), |c| format!("{c:.2}"))),
            Cell::new(&row.limit_is),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_met_by_its_own_rule() {
        let row = |target, ours: f64, limit: f64| Row {
            path: "x",
            unit: "GB/s",
            ours: Samples(vec![ours]),
            limit: Samples(vec![limit]),
            limit_is: String::new(),
            cpu_s_per_gb: None,
            target,
        };
        assert!(row(Target::RatioAtLeast(0.9), 0.9, 1.0).met() && !row(Target::RatioAtLeast(0.9), 0.89, 1.0).met());
        assert!(row(Target::RatioAtMost(1.2), 1.2, 1.0).met() && !row(Target::RatioAtMost(1.2), 1.3, 1.0).met());
        assert!(row(Target::Above(300.0), 310.0, 10.0).met() && !row(Target::Above(300.0), 311.0, 10.0).met());
        assert!(row(Target::AtMost(1.0), 1.0, 0.1).met() && !row(Target::AtMost(1.0), 1.1, 0.1).met());
        assert_eq!(percentile(&[3.0, 1.0, 2.0], 0.5), 2.0);
    }
}
