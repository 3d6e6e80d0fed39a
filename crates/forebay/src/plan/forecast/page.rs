//! The first page: today, proposed, difference, in at most twelve lines; below it, all that it rests on.

use forebay_tokenomics::book::PriceList;
use forebay_tokenomics::chain::Limit;
use forebay_tokenomics::money::{Advice, BackTest, Move, Side};

use super::capacity::Bandwidth;
use super::cells::{bill, prices, quantiles, row};
use super::who::Provider;
use super::{Forecast, MOVES_SHOWN, Question};
use crate::say::{self, grouped};
use crate::stop::Stop;

/// Hours of a month, on average.
pub(crate) const MONTH_HOURS: f64 = 730.0;

/// Prints it.
pub(crate) fn show(question: &Question, forecast: &Forecast) -> Result<(), Stop> {
    for line in first_page(question, forecast) {
        say::line(&line)?;
    }
    say::line("")?;
    for line in below(question, forecast) {
        say::line(&line)?;
    }
    Ok(())
}

/// The page.
pub(crate) fn first_page(question: &Question, forecast: &Forecast) -> Vec<String> {
    let (scenario, advice) = (&question.scenario, &forecast.advice);
    let (today, proposed) = (&advice.today, &advice.proposed);
    let targets = scenario.targets;
    let released = advice.released_gpus(scenario);
    let both =
        |name: &str, of: &dyn Fn(&Side) -> String, difference: String| row(name, [of(today), of(proposed), difference]);
    let outcome = &proposed.outcome;
    let avoided = outcome.avoided_gpu_s() / outcome.gpu_s().max(f64::MIN_POSITIVE) * 100.0;
    vec![
        format!(
            "{}: {}, {}; first token in {} s, then {} ms a token (mean of an answer), for {:.0} % of requests",
            question.source,
            scenario.model.name,
            load(question),
            targets.ttft_s,
            targets.itl_s * 1000.0,
            targets.share * 100.0
        ),
        row("", ["today".into(), "with Forebay".into(), "difference".into()]),
        both(
            "fleet",
            &|s| format!("{} servers, {} GPUs", s.servers, s.servers * scenario.server.gpus),
            if released >= 0 { format!("{released} GPUs released") } else { format!("{} GPUs more", -released) },
        ),
        both("cash, $/h", &|s| money(s), format!("{} a month", signed(-advice.cash() * MONTH_HOURS, 0))),
        row(
            "GPU time avoided",
            [
                "-".into(),
                format!(
                    "{} of {} GPU s",
                    grouped(outcome.avoided_gpu_s().max(0.0) as u64),
                    grouped(outcome.gpu_s() as u64)
                ),
                format!("{avoided:.1} %, net; {:.2} $/h if that time is sold", advice.sold_value(scenario)),
            ],
        ),
        both("tokens found", &|s| found(s), found_more(forecast)),
        quantiles("first token, s", [today, proposed], &|s, q| s.outcome.ttft(q)),
        quantiles("token, ms", [today, proposed], &|s, q| s.outcome.itl(q) * 1000.0),
        prices([today, proposed]),
        both(
            "binds",
            &|s| binding(s),
            format!(
                "in time {:.1} %, {:.1} %: {}",
                today.goodput * 100.0,
                proposed.goodput * 100.0,
                points(today.goodput, proposed.goodput)
            ),
        ),
        interval_line(question, forecast),
        moves_line(&forecast.moves),
    ]
}

fn load(question: &Question) -> String {
    let load = question.scenario.load;
    match load.sessions_per_hour {
        Some(rate) => format!("{rate:.0} sessions an hour for {} h", load.hours),
        None => format!("open loop at {} x its speed", load.speed.unwrap_or(1.0)),
    }
}

fn money(side: &Side) -> String {
    match side.forebay {
        true => format!("{:.2} ({:.2} of it storage)", side.dollars(), side.storage.total()),
        false => format!("{:.2}", side.dollars()),
    }
}

fn found(side: &Side) -> String {
    let outcome = &side.outcome;
    let share = |tokens: u64| outcome.share(tokens) * 100.0;
    let (gpu, host) = (share(outcome.tokens.gpu), share(outcome.tokens.host));
    let (memory, drives) = (share(outcome.tokens.memory), share(outcome.tokens.drive));
    let far = if side.forebay { format!(", DRAM {memory:.1}, drives {drives:.1}") } else { String::new() };
    format!("GPU {gpu:.1}, host {host:.1}{far} %")
}

fn binding(side: &Side) -> String {
    let limits = side.outcome.limits(side.storage.written_share);
    let told: Vec<String> = limits.iter().take(2).map(|(limit, used)| limit_words(*limit, *used)).collect();
    told.join(", ")
}

/// How much more is found, and what other capacities would find.
fn found_more(forecast: &Forecast) -> String {
    let Advice { today, proposed } = &forecast.advice;
    let more = points(today.outcome.hit_rate(), proposed.outcome.hit_rate());
    more + &forecast.by_capacity.map_or(String::new(), |by| format!("; {by}"))
}

/// How far a limit is used up, so that nobody has to guess what more than all of it means: drives that are written faster than they are rated for wear out
/// early, and go on working till then.
fn limit_words(limit: Limit, used: f64) -> String {
    match limit {
        Limit::Endurance if used > 1.0 => format!("wears out {used:.1} x too fast"),
        _ => format!("{} {:.0} %", limit.name(), used * 100.0),
    }
}

/// What the limits that are used up most mean, a sentence each.
pub(crate) fn limits_told(question: &Question, advice: &Advice) -> Vec<String> {
    let sides = [("Today", &advice.today), ("With Forebay", &advice.proposed)];
    let mut told = Vec::new();
    for (name, side) in sides {
        for (limit, used) in side.outcome.limits(side.storage.written_share).into_iter().take(2) {
            told.push(format!("{name}, {}", limit_told(question, side, limit, used)));
        }
    }
    told
}

fn limit_told(question: &Question, side: &Side, limit: Limit, used: f64) -> String {
    let share = format!("{:.0} %", used * 100.0);
    match limit {
        Limit::Prefill => format!("{share} of all GPU time computes prompts."),
        Limit::Decode => format!("{share} of all GPU time makes tokens of answers."),
        Limit::GpuMemory => format!("in {share} of the time the next request waits for room in GPU memory."),
        Limit::Capacity => {
            format!("{share} of prompt tokens had been held by Forebay and were evicted before they came back.")
        }
        Limit::Drives => busy_or_late(side, "drives", side.outcome.late_drive_tokens, used),
        Limit::Links => busy_or_late(side, "the busiest server's link", side.outcome.late_link_tokens, used),
        Limit::Endurance if used > 1.0 => {
            let years = question.scenario.drive.life_years;
            format!(
                "drives are written {used:.1} times as fast as they are rated for over {years} years, so they last {:.1} months; buying them that much more often is in the cost ({:.2} $/h for drives). Larger drives, or ones rated for more writes, last longer.",
                years * 12.0 / used,
                side.storage.drives
            )
        }
        Limit::Endurance => format!("drives are written {share} of what they are rated for."),
    }
}

/// Whichever is more: the time it was busy, or what it would have brought too late.
fn busy_or_late(side: &Side, what: &str, late_tokens: u64, used: f64) -> String {
    let share = format!("{:.0} %", used * 100.0);
    if side.outcome.late_share(late_tokens) >= used && used > 0.0 {
        return format!(
            "{share} of the tokens that Forebay had were computed all the same, since {what} would have brought them later."
        );
    }
    format!("{what}: busy {share} of the time.")
}

fn points(from: f64, to: f64) -> String {
    format!("{} points", signed((to - from) * 100.0, 1))
}

/// With its sign.
pub(crate) fn signed(number: f64, decimals: usize) -> String {
    let magnitude = format!("{:.decimals$}", number.abs());
    let sign = if magnitude.trim_matches(['0', '.']).is_empty() {
        ""
    } else if number < 0.0 {
        "-"
    } else {
        "+"
    };
    match decimals {
        0 => format!("{sign}{} $", grouped(number.abs().round() as u64)),
        _ => format!("{sign}{magnitude}"),
    }
}

fn interval_line(question: &Question, forecast: &Forecast) -> String {
    let cash = forecast.advice.cash();
    let drawn = forecast.interval.and_then(|interval| Some((interval, interval.cash?)));
    let of = match drawn {
        Some((i, cash_of_draws)) => format!(
            "saves {cash:.2} $/h; 90 % of {} draws of sessions between {:.2} and {:.2}{}",
            i.draws,
            cash_of_draws.low,
            cash_of_draws.high,
            if i.failed > 0 { format!(", {} draws keep the promise with no fleet", i.failed) } else { String::new() }
        ),
        None => format!("saves {cash:.2} $/h; no interval{}", why_none(question, forecast)),
    };
    let tested = forecast.back_test.as_ref().map_or("not back-tested".to_owned(), |(_, test)| {
        format!("back-tested: {:.2} $/h, {:.1} points off", test.cash_error().abs(), test.found_error().abs())
    });
    format!("{:<16} {of}; {tested}", "interval")
}

/// Why there is no interval, where that can be said in a few words.
fn why_none(question: &Question, forecast: &Forecast) -> String {
    match forecast.interval {
        Some(i) => format!(": {} of {} draws keep the promise with no fleet", i.failed, i.draws),
        None if question.work.is_open() => ": the trace has no sessions to draw".to_owned(),
        None => String::new(),
    }
}

/// Whether a price list's peak hours are counted.
pub(crate) fn peak_told(prices: &PriceList) -> String {
    let (name, factor) = (&prices.name, short(prices.peak_factor));
    match prices.peak_hours {
        _ if prices.peak_factor == 1.0 => format!("Peak hours: {name} has none; its prices are the same all day."),
        Some(hours) => format!(
            "Peak hours: counted; from {} to {} UTC {name} takes {factor} times its prices, {} times in the mean of a day.",
            hours.from,
            hours.to,
            short(prices.day_factor())
        ),
        None => format!(
            "Peak hours: not counted; {name} takes {factor} times its prices then, and no book says when that is (peak_hours = \"14-20\" in one of yours does)."
        ),
    }
}

/// What a back-test found, for below the page.
fn back_test_told(log: &str, test: &BackTest) -> String {
    let (forecast, kept) = (&test.forecast, &test.kept);
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    format!(
        "Back-tested on {log}, the second half ({}) from the first ({}): {} servers forecast, {} would have been right; in time {} forecast, {} were; found {} forecast, {} were; saves {:.2} $/h forecast, {:.2} would have been right",
        test.later,
        test.known,
        forecast.proposed.servers,
        test.hindsight.proposed.servers,
        percent(forecast.proposed.goodput),
        percent(kept.goodput),
        percent(forecast.proposed.outcome.hit_rate()),
        percent(kept.outcome.hit_rate()),
        forecast.cash(),
        test.hindsight.cash()
    )
}

fn moves_line(moves: &[Move]) -> String {
    let one = |m: &Move| {
        let turns = m.flips_at.map_or("holds within 4 x".to_owned(), |at| format!("turns at {}", short(at)));
        format!("{} {} {}: {turns}", m.name, short(m.value), m.unit)
    };
    format!("{:<16} {}", "moves it most", moves.iter().take(MOVES_SHOWN).map(one).collect::<Vec<_>>().join("; "))
}

/// With as many digits as tell something.
pub(crate) fn short(number: f64) -> String {
    let text = if number.abs() >= 100.0 { format!("{number:.0}") } else { format!("{number:.3}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// What the page rests on.
fn below(question: &Question, forecast: &Forecast) -> Vec<String> {
    let provider = Provider::new(&question.scenario, &forecast.advice.proposed);
    let mut lines = verdict(question, forecast);
    lines.extend(limits_told(question, &forecast.advice));
    lines.extend(Bandwidth::new(question, &forecast.advice.proposed).told(question));
    lines.extend(forecast.by_capacity.map(|by| by.dram_or_drives()));
    lines.push(bill(&forecast.advice.proposed));
    lines.extend(forecast.back_test.as_ref().map(|(log, test)| back_test_told(log, test)));
    let prices = &question.scenario.prices;
    lines.extend([format!("Sold at {}: {provider}", prices.name), peak_told(prices), "It rests on".to_owned()]);
    lines.extend(assumptions(question).into_iter().map(|(name, value)| format!("  {name}: {value}")));
    lines.push("Halved and doubled, it saves, $/h".to_owned());
    let told = |cash: Option<f64>| cash.map_or("no fleet".to_owned(), |cash| format!("{cash:.2}"));
    lines.extend(
        forecast
            .moves
            .iter()
            .map(|m| format!("  {} ({} {}): {}, {}", m.name, short(m.value), m.unit, told(m.halved), told(m.doubled))),
    );
    lines
}

/// What to make of the page, for somebody who has to act on it.
fn verdict(question: &Question, forecast: &Forecast) -> Vec<String> {
    let (scenario, advice) = (&question.scenario, &forecast.advice);
    let (cash, released) = (advice.cash(), advice.released_gpus(scenario));
    let servers = |count: u32| format!("{count} server{}", if count == 1 { "" } else { "s" });
    let (today, proposed) = (servers(advice.today.servers), servers(advice.proposed.servers));
    let mut told = vec![if cash > 0.0 {
        format!(
            "The promise needs {today} without Forebay and {proposed} with it, which saves {cash:.2} $/h. Servers are whole: the saving is in steps of {:.2} $/h.",
            scenario.gpu_dollars_per_hour(1)
        )
    } else if released > 0 {
        format!(
            "The promise needs {today} without Forebay and {proposed} with it, but storage costs more than that releases: {:.2} $/h more in all.",
            -cash
        )
    } else {
        format!(
            "The promise needs {today} without Forebay and {proposed} with it, so nothing is released, and storage costs {:.2} $/h more. What it brings here is earlier first tokens.",
            -cash
        )
    }];
    if let Some(i) = forecast.interval.filter(|i| i.failed < i.draws) {
        let of = i.draws - i.failed;
        told.push(match i.nothing {
            0 => format!("It saves in each of {of} draws of the sessions."),
            nothing => format!("In {nothing} of {of} draws of the sessions it saves nothing: which sessions come decides, so try a record of more of them before servers are given back."),
        });
    }
    let tokens = advice.proposed.outcome.tokens;
    let missed = tokens.forebay() + tokens.fresh;
    if missed > 0 {
        told.push(format!(
            "Of the tokens that GPU memory and host tier had not, Forebay had {:.0} %; the rest was computed.",
            tokens.forebay() as f64 / missed as f64 * 100.0
        ));
    }
    if let Some((moved, at)) = forecast.moves.iter().find_map(|m| Some((m, m.flips_at?))) {
        told.push(format!(
            "Check first what {} really is: {} {} is assumed, and at {} the advice turns.",
            moved.name,
            short(moved.value),
            moved.unit,
            short(at)
        ));
    }
    told
}

/// Every assumption in words, with its source.
pub(crate) fn assumptions(question: &Question) -> Vec<(String, String)> {
    let scenario = &question.scenario;
    let mut all: Vec<(String, String)> = [
        ("engine", format!("{} GPUs, {} tokens of KV in their memory", scenario.gpus_per_engine, grouped(scenario.kv_tokens()))),
        ("KV", format!("{} B a token", grouped(scenario.model.kv_bytes_per_token()))),
        (
            "prefill",
            format!(
                "{:.0} % of peak in matrices, {:.0} % in attention, {} ms a step of {} tokens (assumed unless --prefill measured it)",
                scenario.linear_efficiency * 100.0,
                scenario.attention_efficiency * 100.0,
                scenario.step_s * 1000.0,
                grouped(scenario.step_tokens)
            ),
        ),
        ("decode", format!("{:.0} % of memory bandwidth (assumed)", scenario.decode_efficiency * 100.0)),
        ("memory", "90 % of a GPU's memory is the engine's; room for a whole answer is held from the start".to_owned()),
        ("load", format!("{}, seed {}; the second half is counted; sessions of all ages are there at the start, as far on as their record says, and caches hold what was asked last", load(question), scenario.load.seed)),
        ("routing", "a session stays with its engine, a request without session goes where its prompt lies".to_owned()),
        ("policy", "lru in every tier, and every put is admitted: worth and the refusal of what does not pay for its write, as a node has them, are not simulated, so storage wears no more than is said; KV of answers is computed again as part of the next prompt".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    for prefix in &question.rows {
        all.extend(figures(question, prefix));
    }
    all
}

/// A row's figures, those of one source together.
fn figures(question: &Question, prefix: &str) -> Vec<(String, String)> {
    let mut by_source: Vec<(String, Vec<String>)> = Vec::new();
    for figure in question.book.figures(prefix) {
        let date = if figure.date.is_empty() { String::new() } else { format!(", {}", figure.date) };
        let source = format!("{}{date}", figure.source);
        let told = format!("{} {}", figure.key.trim_start_matches(prefix), figure.value);
        match by_source.iter_mut().find(|(known, _)| *known == source) {
            Some((_, all)) => all.push(told),
            None => by_source.push((source, vec![told])),
        }
    }
    let row = prefix.trim_end_matches('.');
    by_source
        .into_iter()
        .enumerate()
        .map(|(i, (source, all))| {
            let name = if i == 0 { row.to_owned() } else { format!("{row} ({})", i + 1) };
            (name, format!("{} ({source})", all.join(", ")))
        })
        .collect()
}
