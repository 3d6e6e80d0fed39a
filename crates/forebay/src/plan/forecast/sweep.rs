//! Many fleets side by side: which is the cheapest that keeps the promise, and where the trace can say nothing.

use forebay_tokenomics::money::{Scenario, Side, run_side};
use forebay_types::parse_size;
use serde_json::{Value, json};

use super::{Forecast, Question};
use crate::say;
use crate::stop::Stop;

/// Most points of a sweep.
const POINTS_MAX: usize = 64;

/// What is swept, as it was typed.
#[derive(Debug, Default)]
struct Axes {
    gpus: Option<(f64, f64)>,
    nvme: Option<(f64, f64)>,
}

impl Axes {
    fn parse(texts: &[String]) -> Result<Self, Stop> {
        let mut axes = Axes::default();
        for text in texts {
            let wrong =
                |why: &str| Stop::Misused(format!("--sweep {text}: {why}; write gpus=8..64 or nvme=8TB..512TB"));
            let (what, range) = text.split_once('=').ok_or_else(|| wrong("it says not what"))?;
            let (from, to) = range.split_once("..").ok_or_else(|| wrong("it has no two ends"))?;
            let number = |end: &str| match what {
                "gpus" => end.parse::<u32>().ok().map(f64::from).ok_or_else(|| wrong("an end is no whole number")),
                "nvme" => parse_size(end).map(|bytes| bytes as f64).map_err(|e| wrong(&e.to_string())),
                _ => Err(wrong("only gpus and nvme can be swept")),
            };
            let ends = (number(from)?, number(to)?);
            if ends.0 <= 0.0 || ends.1 < ends.0 {
                return Err(wrong("its ends are 0 or fall"));
            }
            let axis = if what == "gpus" { &mut axes.gpus } else { &mut axes.nvme };
            if axis.replace(ends).is_some() {
                return Err(wrong("it is given twice"));
            }
        }
        Ok(axes)
    }
}

/// Values that double from one end to the other, both ends among them.
fn doubling((from, to): (f64, f64)) -> Vec<f64> {
    let mut all: Vec<f64> = std::iter::successors(Some(from), |n| Some(n * 2.0)).take_while(|n| *n < to).collect();
    all.push(to);
    all
}

/// One fleet of a sweep.
struct Point {
    side: Side,
    drive_bytes: f64,
    supported: bool,
    met: bool,
}

/// Runs all points and shows them.
pub(crate) fn run(question: &Question, forecast: &Forecast, texts: &[String], json: bool) -> Result<(), Stop> {
    let axes = Axes::parse(texts)?;
    let scenario = &question.scenario;
    let per_server = f64::from(scenario.server.gpus);
    let base = &forecast.advice.proposed;
    let mut servers: Vec<u32> = match axes.gpus {
        Some(ends) => doubling(ends).iter().map(|gpus| (gpus / per_server).ceil().max(1.0) as u32).collect(),
        None => vec![base.servers],
    };
    servers.dedup();
    let sizes = axes.nvme.map_or(vec![0.0], doubling);
    if servers.len() * sizes.len() > POINTS_MAX {
        return Err(Stop::Misused(format!(
            "the sweep has {} fleets, and {POINTS_MAX} is the most",
            servers.len() * sizes.len()
        )));
    }
    let load = question.work.load(&scenario.load).map_err(|e| Stop::Failed(e.to_string()))?;
    // What it can tell of capacity ends where every byte that is ever written fits.
    let distinct = load.distinct_tokens() as f64 * scenario.model.kv_bytes_per_token() as f64;
    let mut points = Vec::new();
    for servers in servers {
        for size in &sizes {
            let sized = resized(scenario, servers, *size);
            let drives = f64::from(sized.storage.drives_per_server * servers);
            let drive_bytes = sized.drive.capacity_bytes * drives;
            let side = run_side(&sized, &load, servers, true);
            let supported = drive_bytes * sized.storage.fill / 2.0 <= distinct;
            points.push(Point { met: side.goodput >= scenario.targets.share, side, drive_bytes, supported });
        }
    }
    let best = points
        .iter()
        .enumerate()
        .filter(|(_, point)| point.met && point.supported)
        .min_by(|a, b| a.1.side.dollars().total_cmp(&b.1.side.dollars()))
        .map(|(i, _)| i);
    if json {
        let all: Vec<Value> =
            points.iter().enumerate().map(|(i, point)| point_json(scenario, point, best == Some(i))).collect();
        return say::line(&json!({"trace": question.source, "sweep": all}).to_string());
    }
    show(scenario, &points, best)
}

/// Drives of another size in the same slots; 0 leaves them.
fn resized(scenario: &Scenario, servers: u32, bytes: f64) -> Scenario {
    let mut sized = scenario.clone();
    if bytes > 0.0 {
        sized.drive.capacity_bytes = bytes / f64::from(sized.storage.drives_per_server * servers);
    }
    sized
}

fn mark(point: &Point, best: bool) -> &'static str {
    match (best, point.supported, point.met) {
        (true, ..) => "cheapest that keeps the promise",
        (_, false, _) => "not supported by this trace",
        (_, _, false) => "breaks the promise",
        _ => "",
    }
}

fn show(scenario: &Scenario, points: &[Point], best: Option<usize>) -> Result<(), Stop> {
    let mut table = say::table(&["GPUs", "NVMe", "in time", "tokens found", "$/h", "of it storage", ""]);
    for (i, point) in points.iter().enumerate() {
        let side = &point.side;
        table.add_row([
            (side.servers * scenario.server.gpus).to_string(),
            format!("{:.1} TB", point.drive_bytes / 1e12),
            format!("{:.1} %", side.goodput * 100.0),
            format!("{:.1} %", side.outcome.hit_rate() * 100.0),
            format!("{:.2}", side.dollars()),
            format!("{:.2}", side.storage.total()),
            mark(point, best == Some(i)).to_owned(),
        ]);
    }
    say::show(&table)
}

fn point_json(scenario: &Scenario, point: &Point, best: bool) -> Value {
    json!({
        "gpus": point.side.servers * scenario.server.gpus,
        "nvme_bytes": point.drive_bytes,
        "goodput": point.side.goodput,
        "hit_rate": point.side.outcome.hit_rate(),
        "dollars_per_hour": point.side.dollars(),
        "storage_dollars_per_hour": point.side.storage.total(),
        "meets": point.met,
        "supported": point.supported,
        "cheapest": best,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_double_between_their_ends() {
        assert_eq!(doubling((8.0, 64.0)), [8.0, 16.0, 32.0, 64.0]);
        assert_eq!(doubling((8.0, 50.0)), [8.0, 16.0, 32.0, 50.0]);
        assert_eq!(doubling((8.0, 8.0)), [8.0]);
        let axes = Axes::parse(&["gpus=8..64".into(), "nvme=1TB..4TB".into()]).unwrap();
        assert_eq!((axes.gpus, axes.nvme), (Some((8.0, 64.0)), Some((1e12, 4e12))));
        for (bad, said) in [
            ("gpus", "says not what"),
            ("gpus=8", "no two ends"),
            ("gpus=a..8", "no whole number"),
            ("gpus=8..4", "fall"),
            ("nvme=1..2", "no unit"),
            ("racks=1..2", "only gpus and nvme"),
        ] {
            assert!(Axes::parse(&[bad.into()]).unwrap_err().sentence().contains(said), "{bad}");
        }
    }
}
