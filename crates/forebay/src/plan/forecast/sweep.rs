//! Many fleets side by side: which is the cheapest that keeps the promise, and where the trace can say nothing.

use forebay_tokenomics::money::{Ends, Scenario, Side, Spread, run_side, spread};
use forebay_types::parse_size;
use serde_json::{Value, json};

use super::crew::crew;
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
    load: Option<(f64, f64)>,
}

impl Axes {
    fn parse(texts: &[String]) -> Result<Self, Stop> {
        let mut axes = Axes::default();
        for text in texts {
            let wrong = |why: &str| {
                Stop::Misused(format!("--sweep {text}: {why}; write gpus=8..64, nvme=8TB..512TB or load=50..400"))
            };
            let (what, range) = text.split_once('=').ok_or_else(|| wrong("it says not what"))?;
            let (from, to) = range.split_once("..").ok_or_else(|| wrong("it has no two ends"))?;
            let number = |end: &str| match what {
                "gpus" => end.parse::<u32>().ok().map(f64::from).ok_or_else(|| wrong("an end is no whole number")),
                "nvme" => parse_size(end).map(|bytes| bytes as f64).map_err(|e| wrong(&e.to_string())),
                "load" => end.parse::<f64>().ok().filter(|n| n.is_finite()).ok_or_else(|| wrong("an end is no number")),
                _ => Err(wrong("only gpus, nvme and load can be swept")),
            };
            let ends = (number(from)?, number(to)?);
            if ends.0 <= 0.0 || ends.1 < ends.0 {
                return Err(wrong("its ends are 0 or fall"));
            }
            let axis = match what {
                "gpus" => &mut axes.gpus,
                "nvme" => &mut axes.nvme,
                _ => &mut axes.load,
            };
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

/// All that was tried.
pub(crate) struct Sweep {
    pub(crate) points: Vec<Point>,
    /// The cheapest that keeps the promise and that the trace can speak of.
    pub(crate) best: Option<usize>,
}

/// One fleet of a sweep, at one load.
pub(crate) struct Point {
    pub(crate) side: Side,
    drive_bytes: f64,
    /// The most that the trace can speak of at this load.
    supported_bytes: f64,
    sessions_per_hour: Option<f64>,
    pub(crate) supported: bool,
    pub(crate) met: bool,
    spread: Option<Spread>,
}

impl Point {
    /// In a few words.
    pub(crate) fn name(&self, scenario: &Scenario) -> String {
        let load = self.sessions_per_hour.map_or(String::new(), |rate| format!(", {rate:.0} sessions/h"));
        format!("{} GPUs, {:.1} TB{load}", self.side.servers * scenario.server.gpus, self.drive_bytes / 1e12)
    }
}

/// Runs all points and shows them.
pub(crate) fn run(
    question: &Question,
    forecast: &Forecast,
    texts: &[String],
    draws: u32,
    json: bool,
) -> Result<Sweep, Stop> {
    let axes = Axes::parse(texts)?;
    let scenario = &question.scenario;
    let per_server = f64::from(scenario.server.gpus);
    let base = &forecast.advice.proposed;
    let mut servers: Vec<u32> = match axes.gpus {
        Some(ends) => doubling(ends).iter().map(|gpus| (gpus / per_server).ceil().max(1.0) as u32).collect(),
        None => vec![base.servers],
    };
    servers.dedup();
    let points = tried(question, &axes, &servers, draws)?;
    // Which load there will be is nobody's choice.
    let best = if axes.load.is_none() { cheapest(&points) } else { None };
    let sweep = Sweep { points, best };
    if json {
        let points = sweep.points.iter().enumerate();
        let all: Vec<Value> = points.map(|(i, point)| point_json(scenario, point, best == Some(i))).collect();
        say::line(&json!({"trace": question.source, "sweep": all}).to_string())?;
    } else {
        show(scenario, &sweep, draws)?;
    }
    Ok(sweep)
}

/// Runs each fleet with each size of drives at each load, and the fleets between them that the choice hangs on.
fn tried(question: &Question, axes: &Axes, servers: &[u32], draws: u32) -> Result<Vec<Point>, Stop> {
    let scenario = &question.scenario;
    let sizes = axes.nvme.map_or(vec![0.0], doubling);
    let loads: Vec<Option<f64>> =
        axes.load.map_or(vec![scenario.load.sessions_per_hour], |ends| doubling(ends).into_iter().map(Some).collect());
    let count = servers.len() * sizes.len() * loads.len();
    if count > POINTS_MAX {
        return Err(Stop::Misused(format!("the sweep has {count} fleets, and {POINTS_MAX} is the most")));
    }
    let mut points = Vec::new();
    for rate in &loads {
        for size in &sizes {
            let try_one = |servers: u32| {
                let mut sized = resized(scenario, servers, *size);
                sized.load.sessions_per_hour = *rate;
                point(question, &sized, servers, draws)
            };
            let mut of_size = servers.iter().map(|servers| try_one(*servers)).collect::<Result<Vec<_>, _>>()?;
            // Where the load is swept nothing is chosen, so no fleet is looked for.
            if axes.load.is_none() {
                refine(&mut of_size, &try_one)?;
            }
            points.append(&mut of_size);
        }
    }
    points.sort_by(|a: &Point, b: &Point| {
        let load = a.sessions_per_hour.unwrap_or(0.0).total_cmp(&b.sessions_per_hour.unwrap_or(0.0));
        load.then(a.side.servers.cmp(&b.side.servers)).then(a.drive_bytes.total_cmp(&b.drive_bytes))
    });
    Ok(points)
}

/// The cheapest that keeps the promise and that the trace can speak of.
fn cheapest(points: &[Point]) -> Option<usize> {
    let sound = points.iter().enumerate().filter(|(_, point)| point.met && point.supported);
    sound.min_by(|a, b| a.1.side.dollars().total_cmp(&b.1.side.dollars())).map(|(i, _)| i)
}

/// Between the largest fleet that breaks the promise and the smallest that keeps it, the smallest in whole servers that does.
fn refine(points: &mut Vec<Point>, try_one: &dyn Fn(u32) -> Result<Point, Stop>) -> Result<(), Stop> {
    let Some(mut kept) = points.iter().filter(|point| point.met).map(|point| point.side.servers).min() else {
        return Ok(());
    };
    let broken = points.iter().map(|point| point.side.servers).filter(|servers| *servers < kept).max();
    let Some(mut broken) = broken else { return Ok(()) };
    while kept - broken > 1 {
        let tried = try_one(broken + (kept - broken) / 2)?;
        if tried.met {
            kept = tried.side.servers
        } else {
            broken = tried.side.servers
        }
        points.push(tried);
    }
    Ok(())
}

fn point(question: &Question, sized: &Scenario, servers: u32, draws: u32) -> Result<Point, Stop> {
    let load = question.work.load(&sized.load).map_err(|e| Stop::Failed(e.to_string()))?;
    let drives = f64::from(sized.storage.drives_per_server * servers);
    let drive_bytes = sized.drive.capacity_bytes * drives;
    let side = run_side(sized, &load, servers, true);
    let supported_bytes = supported_bytes(question, sized, &side);
    Ok(Point {
        met: side.goodput >= sized.targets.share,
        supported: drive_bytes <= supported_bytes,
        spread: spread(sized, &question.work, servers, draws, &crew),
        sessions_per_hour: sized.load.sessions_per_hour,
        side,
        drive_bytes,
        supported_bytes,
    })
}

/// What the trace can tell of capacity ends where every byte that it has fits once: what more would bring are sessions that nobody recorded. And where blocks
/// would be kept longer than the trace lasts, for of a return after that it says nothing.
fn supported_bytes(question: &Question, sized: &Scenario, side: &Side) -> f64 {
    let tokens = question.work.distinct_chunks() as f64 * f64::from(question.work.chunk_tokens);
    let written = side.outcome.written_tokens as f64 / side.outcome.measured_s.max(f64::MIN_POSITIVE);
    // With nothing written, blocks stay for ever.
    let kept = written * question.work.span_s / sized.load.speed.unwrap_or(1.0);
    let usable = tokens.min(kept) * sized.model.kv_bytes_per_token() as f64;
    usable * sized.storage.copies / sized.storage.fill
}

/// Drives of another size in the same slots; 0 leaves them.
fn resized(scenario: &Scenario, servers: u32, bytes: f64) -> Scenario {
    let mut sized = scenario.clone();
    if bytes > 0.0 {
        sized.drive.capacity_bytes = bytes / f64::from(sized.storage.drives_per_server * servers);
    }
    sized
}

pub(crate) fn mark(point: &Point, best: bool) -> &'static str {
    match (best, point.supported, point.met) {
        (true, ..) => "cheapest that keeps the promise",
        (_, false, _) => "not supported by this trace",
        (_, _, false) => "breaks the promise",
        _ => "",
    }
}

/// A share, and where it lies in nine of ten draws.
fn ranged(share: f64, ends: Option<Ends>) -> String {
    let ends = ends.map_or(String::new(), |e| format!(" ({:.1} to {:.1})", e.low * 100.0, e.high * 100.0));
    format!("{:.1} %{ends}", share * 100.0)
}

/// What stands in brackets. With fewer than twenty draws the twentieth part at either end is less than one of them.
pub(super) fn brackets(draws: usize) -> String {
    let between = match draws {
        1 => "a draw of the trace's sessions with replacement lies".to_owned(),
        2..20 => format!("{draws} draws of the trace's sessions with replacement, from the least to the most, lie"),
        _ => format!("nine of ten of {draws} draws of the trace's sessions with replacement lie"),
    };
    let finer = if draws < 20 { "; --draws 100 tells it finer" } else { "" };
    format!("In brackets: {between} there. What was recorded is none of them, and may lie outside{finer}.")
}

fn show(scenario: &Scenario, sweep: &Sweep, draws: u32) -> Result<(), Stop> {
    let mut table = say::table(&["GPUs", "NVMe", "sessions/h", "in time", "tokens found", "$/h", "of it storage", ""]);
    for (i, point) in sweep.points.iter().enumerate() {
        let side = &point.side;
        table.add_row([
            (side.servers * scenario.server.gpus).to_string(),
            format!("{:.1} TB", point.drive_bytes / 1e12),
            point.sessions_per_hour.map_or("-".to_owned(), |rate| format!("{rate:.0}")),
            ranged(side.goodput, point.spread.map(|s| s.goodput)),
            ranged(side.outcome.hit_rate(), point.spread.map(|s| s.found)),
            format!("{:.2}", side.dollars()),
            format!("{:.2}", side.storage.total()),
            mark(point, sweep.best == Some(i)).to_owned(),
        ]);
    }
    say::show(&table)?;
    if sweep.points.iter().any(|point| point.spread.is_some()) {
        say::line(&brackets(draws as usize))?;
    }
    if sweep.points.iter().all(|point| !point.supported) {
        let most = sweep.points.iter().map(|point| point.supported_bytes).fold(0.0, f64::max);
        let (unit, name) = if most < 1e12 { (1e9, "GB") } else { (1e12, "TB") };
        say::line(&format!(
            "All that this trace writes, or writes while it lasts, fits into {:.2} {name}, and of more it says nothing. Ask of less as well: --sweep nvme={:.2}{name}..{:.2}{name}",
            most / unit,
            most / 4.0 / unit,
            most / 2.0 / unit,
        ))?;
    }
    Ok(())
}

fn point_json(scenario: &Scenario, point: &Point, best: bool) -> Value {
    let ends = |of: Option<Ends>| of.map(|e| json!({"low": e.low, "high": e.high}));
    json!({
        "gpus": point.side.servers * scenario.server.gpus,
        "nvme_bytes": point.drive_bytes,
        "sessions_per_hour": point.sessions_per_hour,
        "goodput": point.side.goodput,
        "goodput_interval": ends(point.spread.map(|s| s.goodput)),
        "hit_rate": point.side.outcome.hit_rate(),
        "hit_rate_interval": ends(point.spread.map(|s| s.found)),
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
    fn a_few_draws_are_not_nine_of_ten() {
        assert!(brackets(2).contains("2 draws") && brackets(2).contains("from the least to the most"));
        assert!(!brackets(2).contains("nine of ten") && brackets(20).contains("nine of ten of 20 draws"));
    }

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
            ("racks=1..2", "only gpus, nvme and load"),
            ("load=x..2", "an end is no number"),
        ] {
            assert!(Axes::parse(&[bad.into()]).unwrap_err().sentence().contains(said), "{bad}");
        }
    }
}
