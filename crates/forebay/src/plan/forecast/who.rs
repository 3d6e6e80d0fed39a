//! Pages for those who are not the owner: the provider who sells tokens, the builder who buys them, the user with a rate limit.

use forebay_tokenomics::bill::{Bill, bill_tokens};
use forebay_tokenomics::money::{AdviceError, Ends, Scenario, Side, advise, each_draw, run_side};
use forebay_tokenomics::trace::{Pace, Session, Trace};
use forebay_types::format_span_s;
use serde_json::{Value, json};

use super::args::ForecastArgs;
use super::crew::crew;
use super::page::peak_told;
use super::sweep::brackets;
use super::{Forecast, Question};
use crate::say::{self, grouped};
use crate::stop::Stop;

/// Discounts on cached tokens that are sold today, in per cent.
const DISCOUNTS: [f64; 4] = [50.0, 75.0, 90.0, 95.0];
/// Halvings of the interval in which a load's limit lies: six tell it to 2 %.
const HALVINGS: u32 = 6;
/// Loads up to this many times the stated one are tried.
const LOAD_MAX: f64 = 16.0;
/// A limit that is promised holds for this share of requests.
const PROMISED: f64 = 0.99;

/// The builder's bill, by time to live. Needs no fleet.
pub(crate) fn builder(question: &Question, json: bool) -> Result<(), Stop> {
    let prices = &question.scenario.prices;
    let mut rows = vec![("no cache".to_owned(), Bill::of(bill_tokens(&question.trace, None), prices, prices.input))];
    for write in &prices.cache_writes {
        let tokens = bill_tokens(&question.trace, Some(write.ttl_s));
        rows.push((format_span_s(u64::from(write.ttl_s)), Bill::of(tokens, prices, write.dollars)));
    }
    if prices.cache_writes.is_empty() && prices.cache_read.is_some() {
        // Such lists say nothing of a time to live: what was ever sent is found.
        let tokens = bill_tokens(&question.trace, Some(u32::MAX));
        rows.push(("kept for good".to_owned(), Bill::of(tokens, prices, prices.input)));
    }
    if json {
        let rows: Vec<Value> = rows.iter().map(|(name, bill)| bill_json(name, bill)).collect();
        return say::line(&json!({"trace": question.source, "prices": prices.name, "bills": rows}).to_string());
    }
    let mut table = say::table(&[
        "time to live",
        "read, tokens",
        "written, tokens",
        "input $",
        "read $",
        "write $",
        "output $",
        "total $",
    ]);
    for (name, bill) in &rows {
        let dollars = |amount: f64| format!("{amount:.2}");
        table.add_row([
            name.clone(),
            grouped(bill.tokens.cache_read),
            grouped(bill.tokens.cache_write),
            dollars(bill.input),
            dollars(bill.cache_read),
            dollars(bill.cache_write),
            dollars(bill.output),
            dollars(bill.total()),
        ]);
    }
    say::show(&table)?;
    say::line(&format!(
        "Prices of {} ({}). Recorded times; every use renews; the tail behind the last whole block is billed as written.",
        prices.name, prices.source
    ))
}

fn bill_json(name: &str, bill: &Bill) -> Value {
    json!({
        "ttl": name,
        "input_tokens": bill.tokens.input,
        "cache_read_tokens": bill.tokens.cache_read,
        "cache_write_tokens": bill.tokens.cache_write,
        "output_tokens": bill.tokens.output,
        "input_dollars": bill.input,
        "cache_read_dollars": bill.cache_read,
        "cache_write_dollars": bill.cache_write,
        "output_dollars": bill.output,
        "dollars": bill.total(),
    })
}

/// What a provider may sell at.
pub(crate) struct Provider {
    fresh: f64,
    cached: f64,
    output: f64,
    /// Dollars an hour taken in at the price list, less what the fleet costs.
    margin: f64,
    /// Discount on cached tokens at which they are sold at what they cost, in per cent of the price of fresh ones.
    zero_margin: f64,
}

impl Provider {
    pub(crate) fn new(scenario: &Scenario, side: &Side) -> Self {
        let hours = (side.outcome.measured_s / 3600.0).max(f64::MIN_POSITIVE);
        let cached = side.classes.cached_per_million();
        Provider {
            fresh: side.classes.input.per_million(),
            cached,
            output: side.classes.output.per_million(),
            margin: side.classes.revenue(&scenario.prices) / hours - side.dollars(),
            zero_margin: (1.0 - cached / scenario.prices.input.max(f64::MIN_POSITIVE)) * 100.0,
        }
    }

    pub(crate) fn json(&self) -> Value {
        FIGURES.iter().map(|(name, of)| ((*name).to_owned(), json!(of(self)))).collect()
    }
}

/// One number of it.
type Figure = fn(&Provider) -> f64;

/// What is told of a provider to programs.
const FIGURES: [(&str, Figure); 5] = [
    ("fresh_dollars_per_million", |p| p.fresh),
    ("cached_dollars_per_million", |p| p.cached),
    ("output_dollars_per_million", |p| p.output),
    ("margin_dollars_per_hour", |p| p.margin),
    ("zero_margin_discount_percent", |p| p.zero_margin),
];

impl std::fmt::Display for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "margin {:.2} $/h; cached input costs {:.4} $ a million, so its margin is zero at a discount of {:.2} %",
            self.margin, self.cached, self.zero_margin
        )
    }
}

/// Nine of ten draws of the sessions, of what was told of each; and how many draws have no answer.
struct Drawn<T> {
    all: Vec<T>,
    draws: usize,
}

impl<T> Drawn<T> {
    fn new(all: Option<Vec<Option<T>>>) -> Self {
        let all = all.unwrap_or_default();
        Drawn { draws: all.len(), all: all.into_iter().flatten().collect() }
    }

    fn ends(&self, of: impl Fn(&T) -> f64) -> Option<Ends> {
        Ends::of(self.all.iter().map(of))
    }

    fn json(&self, of: impl Fn(&T) -> f64) -> Value {
        self.ends(of).map_or(Value::Null, |ends| json!({"low": ends.low, "high": ends.high}))
    }

    /// What the ranges of a page are, or why it has none.
    fn told(&self, question: &Question) -> String {
        match (self.draws, self.draws - self.all.len()) {
            (0, _) if question.work.is_open() => "No interval: the trace has no sessions to draw.".to_owned(),
            (0, _) => "No interval: ask for one with --draws 10.".to_owned(),
            (draws, failed) if failed == draws => {
                format!("No interval: each of {draws} draws of the trace's sessions keeps the promise with no fleet.")
            }
            (draws, 0) => brackets(draws),
            (draws, failed) => {
                format!("{} {failed} more keep the promise with no fleet and are left out.", brackets(draws - failed))
            }
        }
    }
}

/// Behind a figure: where it lies in nine of ten draws.
fn ranged(ends: Option<Ends>, shown: impl Fn(f64) -> String) -> String {
    ends.map_or(String::new(), |ends| format!(" ({} to {})", shown(ends.low), shown(ends.high)))
}

/// The provider's page: costs by class, margin, and which discounts pay.
pub(crate) fn provider(question: &Question, forecast: &Forecast, draws: u32, json: bool) -> Result<(), Stop> {
    let scenario = &question.scenario;
    let of = |scenario: &Scenario, sides: [&Side; 2]| sides.map(|side| Provider::new(scenario, side));
    let sides = of(scenario, [&forecast.advice.today, &forecast.advice.proposed]);
    let near = forecast.advice.servers();
    let drawn = Drawn::new(each_draw(scenario, &question.work, draws, &crew, |drawn| {
        let advice = advise(drawn, &question.work, near).ok()?;
        Some(of(drawn, [&advice.today, &advice.proposed]))
    }));
    if json {
        let [today, proposed] = [0, 1].map(|i| {
            let mut told = sides[i].json();
            told["intervals"] =
                FIGURES.iter().map(|(name, of)| ((*name).to_owned(), drawn.json(|all| of(&all[i])))).collect();
            told
        });
        let told = json!({"trace": question.source, "prices": scenario.prices.name, "draws": drawn.draws, "failed": drawn.draws - drawn.all.len(), "today": today, "proposed": proposed});
        return say::line(&told.to_string());
    }
    let list = scenario.prices.input;
    let mut table = say::table(&["$ per million tokens", "list", "costs today", "costs with Forebay"]);
    let cell = |of: Figure, decimals: usize| {
        [0, 1].map(|i| {
            let shown = |n: f64| format!("{n:.decimals$}");
            shown(of(&sides[i])) + &ranged(drawn.ends(|all| of(&all[i])), shown)
        })
    };
    let mut add = |name: &str, sold: Option<f64>, of: Figure, decimals: usize| {
        let [today, proposed] = cell(of, decimals);
        let sold = sold.map_or(String::new(), |sold| format!("{sold:.4}"));
        table.add_row([name.to_owned(), sold, today, proposed]);
    };
    add("fresh input", Some(list), |p| p.fresh, 4);
    add("cached input", Some(scenario.prices.cache_read.unwrap_or(list)), |p| p.cached, 4);
    add("output", Some(scenario.prices.output), |p| p.output, 4);
    add("margin, $/h", None, |p| p.margin, 2);
    say::show(&table)?;
    say::line(&drawn.told(question))?;
    say::line(&peak_told(&scenario.prices))?;
    let [_, proposed] = &sides;
    let most = drawn.ends(|[_, proposed]| proposed.cached).map_or(proposed.cached, |ends| ends.high);
    for discount in DISCOUNTS {
        let sold = list * (1.0 - discount / 100.0);
        let verdict = match (sold >= proposed.cached, sold >= most) {
            (true, true) => "covers its cost",
            (true, false) => "covers its cost, but not in all of nine of ten draws",
            _ => "does not cover its cost",
        };
        say::line(&format!("A discount of {discount:.0} % sells cached input at {sold:.3} $, which {verdict}."))?;
    }
    let percent = |n: f64| format!("{n:.2}");
    say::line(&format!(
        "At {} %{} the margin on cached input is zero. Output costs {:.1} times fresh input.",
        percent(proposed.zero_margin),
        ranged(drawn.ends(|[_, proposed]| proposed.zero_margin), percent),
        proposed.output / proposed.fresh.max(f64::MIN_POSITIVE)
    ))
}

/// What a load's limit says, and of how many tokens a minute.
struct Largest {
    rate: f64,
    /// Prompts and answers.
    tokens: f64,
    fresh: f64,
    goodput: f64,
}

impl Largest {
    fn new(scenario: &Scenario, question: &Question, servers: u32) -> Result<Largest, AdviceError> {
        let (rate, side) = largest_load(scenario, question, servers)?;
        let minutes = (side.outcome.measured_s / 60.0).max(f64::MIN_POSITIVE);
        let tokens = side.outcome.tokens.prompt() + side.outcome.output_tokens;
        let fresh = side.outcome.tokens.fresh;
        Ok(Largest { rate, tokens: tokens as f64 / minutes, fresh: fresh as f64 / minutes, goodput: side.goodput })
    }
}

/// What users may be promised on the proposed fleet.
pub(crate) fn user(question: &Question, forecast: &Forecast, asked: &ForecastArgs, json: bool) -> Result<(), Stop> {
    let servers = forecast.advice.proposed.servers;
    let scenario = &question.scenario;
    let found = Largest::new(scenario, question, servers).map_err(|e| Stop::Failed(e.to_string()))?;
    let drawn = Drawn::new(each_draw(scenario, &question.work, asked.draws, &crew, |drawn| {
        Largest::new(drawn, question, servers).ok()
    }));
    let users = asked.users.or_else(|| going_on(&question.trace, found.rate));
    let each = |of: fn(&Largest) -> f64| move |l: &Largest| of(l) / f64::from(users.unwrap_or(1));
    let (tokens, fresh) = (each(|l| l.tokens), each(|l| l.fresh));
    if json {
        let of_one = |value: Value| users.map_or(Value::Null, |_| value);
        let told = json!({
            "trace": question.source, "servers": servers, "sessions_per_hour": found.rate, "users": users, "goodput": found.goodput,
            "tokens_per_minute": found.tokens, "tokens_per_minute_per_user": of_one(tokens(&found).into()),
            "fresh_tokens_per_minute_per_user": of_one(fresh(&found).into()),
            "draws": drawn.draws, "failed": drawn.draws - drawn.all.len(),
            "intervals": {
                "sessions_per_hour": drawn.json(|l| l.rate), "tokens_per_minute": drawn.json(|l| l.tokens),
                "tokens_per_minute_per_user": of_one(drawn.json(tokens)), "fresh_tokens_per_minute_per_user": of_one(drawn.json(fresh)),
            },
        });
        return say::line(&told.to_string());
    }
    let (rate, whole) = (|n: f64| format!("{n:.1}"), |n: f64| grouped(n as u64));
    let what = if question.work.is_open() { "times the recorded load" } else { "sessions an hour" };
    say::line(&format!(
        "{servers} servers with Forebay hold a first token in {} s and {} ms a token for {:.0} % of requests up to {}{} {what}.",
        scenario.targets.ttft_s,
        scenario.targets.itl_s * 1000.0,
        PROMISED * 100.0,
        rate(found.rate),
        ranged(drawn.ends(|l| l.rate), rate)
    ))?;
    let (who, apart) = match users {
        Some(users) => (format!("{users} users"), " each"),
        None => ("All users together".to_owned(), ""),
    };
    say::line(&format!(
        "{who} may be promised {}{} tokens a minute{apart}, prompts and answers, of which {}{} are computed.",
        whole(tokens(&found)),
        ranged(drawn.ends(tokens), whole),
        whole(fresh(&found)),
        ranged(drawn.ends(fresh), whole)
    ))?;
    if let (None, Some(users)) = (asked.users, users) {
        say::line(&format!("{users} is how many sessions go on at once there, each for as long as it was recorded."))?;
    } else if users.is_none() {
        say::line(
            "A trace without sessions does not say how many users that is; --users N tells what each of N may be promised.",
        )?;
    }
    say::line(&drawn.told(question))
}

/// Sessions that go on at once where so many start in an hour, each for as long as it was recorded (Little's law): the users of the moment. None of a trace
/// without sessions.
fn going_on(trace: &Trace, sessions_per_hour: f64) -> Option<u32> {
    if trace.pace == Pace::Open {
        return None;
    }
    let ends_s =
        |session: &Session| session.requests.iter().map(|r| r.at_s + r.api_s.unwrap_or(0.0)).fold(0.0, f64::max);
    let mean_s = trace.sessions.iter().map(ends_s).sum::<f64>() / trace.sessions.len().max(1) as f64;
    Some((sessions_per_hour * mean_s / 3600.0).round().max(1.0) as u32)
}

/// The largest load on a fleet that keeps the promise for [`PROMISED`] of requests.
fn largest_load(scenario: &Scenario, question: &Question, servers: u32) -> Result<(f64, Side), AdviceError> {
    let base = scenario.load;
    let run = |factor: f64| {
        let mut scenario = scenario.clone();
        scenario.load.sessions_per_hour = base.sessions_per_hour.map(|rate| rate * factor);
        if base.sessions_per_hour.is_none() {
            scenario.load.speed = Some(base.speed.unwrap_or(1.0) * factor);
        }
        let load = question.work.load(&scenario.load)?;
        Ok::<Side, AdviceError>(run_side(&scenario, &load, servers, true))
    };
    let (mut good, mut bad) = (None, None);
    let mut factor = 1.0;
    while good.is_none() || bad.is_none() {
        let side = run(factor)?;
        if side.goodput >= PROMISED {
            good = Some((factor, side));
            factor *= 2.0;
        } else {
            bad = Some(factor);
            factor /= 2.0;
        }
        if factor > LOAD_MAX {
            bad = Some(factor);
        }
        if factor < 1.0 / LOAD_MAX {
            return Err(AdviceError::OutOfReach { forebay: true, servers, share: run(factor)?.goodput });
        }
    }
    let (Some((mut low, mut side)), Some(mut high)) = (good, bad) else { return Err(AdviceError::Nothing) };
    for _ in 0..HALVINGS {
        let middle = (low * high).sqrt();
        let tried = run(middle)?;
        if tried.goodput >= PROMISED { (low, side) = (middle, tried) } else { high = middle }
    }
    Ok((base.sessions_per_hour.unwrap_or(base.speed.unwrap_or(1.0)) * low, side))
}
