//! The charts of the page: fleets, tokens, first tokens, limits, assumptions and sweeps, as drawings. They reckon nothing that is not in the answer already.

use forebay_tokenomics::chain::{Limit, Outcome};
use forebay_tokenomics::money::{Advice, Side};

use super::super::sweep::{Sweep, mark};
use super::super::{Forecast, Question};
use super::svg::{Anchor, Svg, steps};

/// Of the narrow charts, and of those over the whole page.
const WIDTH: f64 = 480.0;
const WIDE: f64 = 1000.0;
/// Where bars begin behind their names.
const NAMES: f64 = 92.0;
/// Where bars begin on the wide ones: names of assumptions are long.
const LEFT: f64 = 290.0;
/// First tokens at most drawn, in steps of a curve.
const CURVE_STEPS: usize = 120;

fn sides(advice: &Advice) -> [(&'static str, &Side, &'static str); 2] {
    [("today", &advice.today, "today"), ("with Forebay", &advice.proposed, "ours")]
}

/// Boxes with names, in a row.
fn legend(svg: &mut Svg, y: f64, entries: &[(&str, &str)]) {
    let mut x = NAMES;
    for (name, colour) in entries {
        svg.rect(x, y - 9.0, 10.0, 10.0, colour);
        svg.text(x + 15.0, y, name, Anchor::Start, true);
        x += 33.0 + 6.6 * name.len() as f64;
    }
}

/// GPUs and storage, today and with Forebay.
pub(super) fn cost(advice: &Advice) -> String {
    let mut svg = Svg::new(WIDTH, 150.0, "dollars an hour today and with Forebay");
    let most = advice.today.dollars().max(advice.proposed.dollars()).max(f64::MIN_POSITIVE);
    let scale = (WIDTH - NAMES - 84.0) / most;
    for (i, (name, side, colour)) in sides(advice).into_iter().enumerate() {
        let y = 14.0 + 48.0 * i as f64;
        let gpus = side.gpu_dollars * scale;
        svg.text(NAMES - 8.0, y + 19.0, name, Anchor::End, false);
        svg.rect(NAMES, y, gpus, 30.0, colour);
        svg.rect(NAMES + gpus, y, side.storage.total() * scale, 30.0, "drive");
        let end = NAMES + side.dollars() * scale + 8.0;
        svg.text(end, y + 19.0, &format!("{:.2} $", side.dollars()), Anchor::Start, false);
    }
    legend(&mut svg, 136.0, &[("GPUs today", "today"), ("GPUs with Forebay", "ours"), ("storage", "drive")]);
    svg.done()
}

/// Prompt tokens by where their KV came from.
pub(super) fn tiers(advice: &Advice) -> String {
    let mut svg = Svg::new(WIDTH, 150.0, "share of prompt tokens by where they were found");
    let width = WIDTH - NAMES - 10.0;
    for (i, (name, side, _)) in sides(advice).into_iter().enumerate() {
        let y = 14.0 + 48.0 * i as f64;
        svg.text(NAMES - 8.0, y + 19.0, name, Anchor::End, false);
        let tokens = side.outcome.tokens;
        let mut x = NAMES;
        for (colour, count) in [
            ("gpu", tokens.gpu),
            ("host", tokens.host),
            ("memory", tokens.memory),
            ("drive", tokens.drive),
            ("fresh", tokens.fresh),
        ] {
            let part = side.outcome.share(count) * width;
            svg.rect(x, y, part, 30.0, colour);
            x += part;
        }
        svg.text(NAMES, y + 42.0, &format!("{:.1} % found", side.outcome.hit_rate() * 100.0), Anchor::Start, true);
    }
    let entries = [("GPU", "gpu"), ("host", "host"), ("DRAM", "memory"), ("NVMe", "drive"), ("computed", "fresh")];
    legend(&mut svg, 136.0, &entries);
    svg.done()
}

/// Share of requests with their first token within a time, on a scale of doublings.
pub(super) fn first_token(question: &Question, advice: &Advice) -> String {
    let mut svg = Svg::new(WIDTH, 230.0, "share of requests by time to the first token");
    let (left, top, width, height) = (46.0, 12.0, WIDTH - 60.0, 160.0);
    let all = || sides(advice).into_iter().map(|(_, side, _)| side);
    let target = question.scenario.targets.ttft_s;
    let low = all().map(|side| side.outcome.ttft(0.01)).fold(target, f64::min).max(0.01);
    let high = all().map(|side| side.outcome.ttft(1.0)).fold(target * 1.5, f64::max);
    let x = |seconds: f64| left + (seconds.max(low) / low).ln() / (high / low).ln().max(f64::MIN_POSITIVE) * width;
    let y = |share: f64| top + (1.0 - share) * height;
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        svg.line((left, y(share)), (left + width, y(share)), "line", false);
        svg.text(left - 6.0, y(share) + 4.0, &format!("{:.0} %", share * 100.0), Anchor::End, true);
    }
    let decades = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0];
    for seconds in decades.into_iter().filter(|s| (low..=high).contains(s)) {
        svg.text(x(seconds), top + height + 17.0, &format!("{seconds} s"), Anchor::Middle, true);
    }
    svg.line((x(target), top), (x(target), top + height), "bad", true);
    // At the foot: up there are the curves.
    svg.text(x(target) - 6.0, top + height - 8.0, &format!("promised: {target} s"), Anchor::End, true);
    for (_, side, colour) in sides(advice) {
        let sorted = &side.outcome.ttft_s;
        let points: Vec<(f64, f64)> = (0..=CURVE_STEPS)
            .map(|i| i as f64 / CURVE_STEPS as f64)
            .map(|share| (x(Outcome::quantile(sorted, share)), y(share)))
            .collect();
        svg.path(&points, colour);
    }
    let entries = [("today", "today"), ("with Forebay", "ours")];
    legend(&mut svg, 220.0, &entries);
    svg.done()
}

/// How far each limit is used up; what is above 100 % is drawn to the edge and says how much it is.
pub(super) fn limits(advice: &Advice) -> String {
    let proposed = advice.proposed.outcome.limits(advice.proposed.storage.written_share);
    let today = advice.today.outcome.limits(0.0);
    let mut svg = Svg::new(WIDTH, 32.0 * proposed.len() as f64 + 40.0, "how far each limit is used up");
    // The longest bar leaves room for what is said behind it.
    let (names, longest) = (112.0, 1.25);
    let full = (WIDTH - names - 110.0) / longest;
    let at = |used: f64| used.clamp(0.0, longest) * full;
    for (i, (limit, used)) in proposed.iter().enumerate() {
        let y = 12.0 + 32.0 * i as f64;
        let before = today.iter().find(|(other, _)| other == limit).map_or(0.0, |(_, used)| *used);
        svg.text(names - 8.0, y + 15.0, limit.name(), Anchor::End, false);
        svg.rect(names, y, at(before), 9.0, "today");
        svg.rect(names, y + 10.0, at(*used), 9.0, if *used > 1.0 { "bad" } else { "ours" });
        let end = names + at(before.max(*used)) + 6.0;
        let told = match limit {
            Limit::Endurance if *used > 1.0 => format!("{used:.1} x too fast"),
            _ => format!("{:.0} %", used * 100.0),
        };
        svg.text(end, y + 15.0, &told, Anchor::Start, true);
    }
    let bottom = 12.0 + 32.0 * proposed.len() as f64;
    svg.line((names + full, 4.0), (names + full, bottom), "line", true);
    svg.text(names + full, bottom + 16.0, "100 %", Anchor::Middle, true);
    legend(&mut svg, bottom + 16.0, &[("today", "today"), ("with Forebay", "ours")]);
    svg.done()
}

/// Each assumption halved and doubled.
pub(super) fn moves(forecast: &Forecast) -> String {
    let cash = forecast.advice.cash();
    let moves = &forecast.moves;
    let mut svg = Svg::new(
        WIDE,
        34.0 * moves.len() as f64 + 46.0,
        "dollars an hour saved with each assumption halved and doubled",
    );
    let ends = || moves.iter().flat_map(|m| [m.halved, m.doubled]).flatten().chain([cash, 0.0]);
    let (low, high) = (ends().fold(f64::INFINITY, f64::min), ends().fold(f64::NEG_INFINITY, f64::max));
    let (left, width) = (LEFT, WIDE - LEFT - 190.0);
    let x = |dollars: f64| left + (dollars - low) / (high - low).max(f64::MIN_POSITIVE) * width;
    let bottom = 34.0 * moves.len() as f64 + 8.0;
    svg.line((x(0.0), 0.0), (x(0.0), bottom), "bad", true);
    svg.line((x(cash), 0.0), (x(cash), bottom), "today", false);
    for (i, moved) in moves.iter().enumerate() {
        let y = 8.0 + 34.0 * i as f64;
        let name = format!("{} ({} {})", moved.name, super::super::page::short(moved.value), moved.unit);
        svg.text(left - 14.0, y + 15.0, &name, Anchor::End, false);
        let mut bar = |end: Option<f64>, opacity: f64, at: f64| {
            if let Some(end) = end {
                svg.faint(x(end.min(cash)), y + at, (x(end) - x(cash)).abs().max(1.5), 10.0, "ours", opacity);
            }
        };
        bar(moved.halved, 0.45, 0.0);
        bar(moved.doubled, 1.0, 11.0);
        let told = match (moved.flips_at, moved.halved, moved.doubled) {
            (Some(at), ..) => format!("turns at {}", super::super::page::short(at)),
            (None, None, _) => "halved: no fleet keeps it".to_owned(),
            (None, _, None) => "doubled: no fleet keeps it".to_owned(),
            _ => String::new(),
        };
        svg.text(left + width + 14.0, y + 15.0, &told, Anchor::Start, true);
    }
    svg.text(x(0.0), bottom + 16.0, "0 $/h", Anchor::Middle, true);
    // Where the two marks are near each other one line would lie on the other.
    let near = (x(cash) - x(0.0)).abs() < 120.0;
    svg.text(x(cash), bottom + if near { 32.0 } else { 16.0 }, &format!("{cash:.2} $/h saved"), Anchor::Middle, true);
    svg.done()
}

/// Each fleet of a sweep.
pub(super) fn sweep(question: &Question, sweep: &Sweep) -> String {
    let points = &sweep.points;
    let mut svg = Svg::new(WIDE, 30.0 * points.len() as f64 + 34.0, "dollars an hour of each fleet");
    let (left, width) = (LEFT, WIDE - LEFT - 330.0);
    let most = points.iter().map(|point| point.side.dollars()).fold(0.0, f64::max);
    let ticks = steps(most);
    let scale = width / ticks.last().copied().unwrap_or(1.0);
    let bottom = 30.0 * points.len() as f64 + 6.0;
    for tick in &ticks {
        svg.line((left + tick * scale, 0.0), (left + tick * scale, bottom), "line", false);
        svg.text(left + tick * scale, bottom + 16.0, &format!("{tick} $"), Anchor::Middle, true);
    }
    for (i, point) in points.iter().enumerate() {
        let (y, best) = (6.0 + 30.0 * i as f64, sweep.best == Some(i));
        let name = point.name(&question.scenario);
        svg.text(left - 14.0, y + 15.0, &name, Anchor::End, false);
        let colour = if best { "ours" } else { "today" };
        let opacity = if point.met && point.supported { 1.0 } else { 0.4 };
        svg.faint(left, y, point.side.dollars() * scale, 20.0, colour, opacity);
        if best {
            svg.dot((left + point.side.dollars() * scale, y + 10.0), 5.0, "ours");
        }
        let told = format!("{:.1} % in time; {}", point.side.goodput * 100.0, mark(point, best));
        svg.text(left + width + 14.0, y + 15.0, told.trim_end_matches("; "), Anchor::Start, true);
    }
    svg.done()
}
