//! Pages for those who are not the owner: the provider who sells tokens, the builder who buys them, the user with a rate limit.

use forebay_tokenomics::bill::{Bill, bill_tokens};
use forebay_tokenomics::money::{AdviceError, Scenario, Side, run_side};
use forebay_types::format_span_s;
use serde_json::{Value, json};

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
        json!({
            "fresh_dollars_per_million": self.fresh,
            "cached_dollars_per_million": self.cached,
            "output_dollars_per_million": self.output,
            "margin_dollars_per_hour": self.margin,
            "zero_margin_discount_percent": self.zero_margin,
        })
    }
}

impl std::fmt::Display for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "margin {:.2} $/h; cached input costs {:.4} $ a million, so its margin is zero at a discount of {:.2} %",
            self.margin, self.cached, self.zero_margin
        )
    }
}

/// The provider's page: costs by class, margin, and which discounts pay.
pub(crate) fn provider(question: &Question, forecast: &Forecast, json: bool) -> Result<(), Stop> {
    let scenario = &question.scenario;
    let [today, proposed] =
        [&forecast.advice.today, &forecast.advice.proposed].map(|side| Provider::new(scenario, side));
    if json {
        let told = json!({"trace": question.source, "prices": scenario.prices.name, "today": today.json(), "proposed": proposed.json()});
        return say::line(&told.to_string());
    }
    let list = scenario.prices.input;
    let mut table = say::table(&["$ per million tokens", "list", "costs today", "costs with Forebay"]);
    let cell = |n: f64, decimals: usize| format!("{n:.decimals$}");
    let cached = scenario.prices.cache_read.unwrap_or(list);
    for (name, sold, a, b) in [
        ("fresh input", list, today.fresh, proposed.fresh),
        ("cached input", cached, today.cached, proposed.cached),
        ("output", scenario.prices.output, today.output, proposed.output),
    ] {
        table.add_row([name.to_owned(), cell(sold, 4), cell(a, 4), cell(b, 4)]);
    }
    table.add_row(["margin, $/h".to_owned(), String::new(), cell(today.margin, 2), cell(proposed.margin, 2)]);
    say::show(&table)?;
    for discount in DISCOUNTS {
        let sold = list * (1.0 - discount / 100.0);
        let verdict = if sold >= proposed.cached { "covers its cost" } else { "does not cover its cost" };
        say::line(&format!("A discount of {discount:.0} % sells cached input at {sold:.3} $, which {verdict}."))?;
    }
    say::line(&format!(
        "At {:.2} % the margin on cached input is zero. Output costs {:.1} times fresh input.",
        proposed.zero_margin,
        proposed.output / proposed.fresh.max(f64::MIN_POSITIVE)
    ))
}

/// What users may be promised on the proposed fleet.
pub(crate) fn user(question: &Question, forecast: &Forecast, users: Option<u32>, json: bool) -> Result<(), Stop> {
    let servers = forecast.advice.proposed.servers;
    let (rate, side) = largest_load(question, servers).map_err(|e| Stop::Failed(e.to_string()))?;
    let minutes = side.outcome.measured_s / 60.0;
    let tokens = (side.outcome.tokens.prompt() + side.outcome.output_tokens) as f64 / minutes.max(f64::MIN_POSITIVE);
    let fresh = side.outcome.tokens.fresh as f64 / minutes.max(f64::MIN_POSITIVE);
    let users = users.unwrap_or(rate.round().max(1.0) as u32);
    let each = tokens / f64::from(users);
    if json {
        let told = json!({
            "trace": question.source, "servers": servers, "sessions_per_hour": rate, "users": users, "goodput": side.goodput,
            "tokens_per_minute": tokens, "tokens_per_minute_per_user": each, "fresh_tokens_per_minute_per_user": fresh / f64::from(users),
        });
        return say::line(&told.to_string());
    }
    say::line(&format!(
        "{servers} servers with Forebay hold a first token in {} s and {} ms a token for {:.0} % of requests up to {rate:.1} sessions an hour.",
        question.scenario.targets.ttft_s,
        question.scenario.targets.itl_s * 1000.0,
        PROMISED * 100.0
    ))?;
    say::line(&format!(
        "{users} users may be promised {} tokens a minute each, prompts and answers, of which {} are computed.",
        grouped(each as u64),
        grouped((fresh / f64::from(users)) as u64)
    ))
}

/// The largest load on a fleet that keeps the promise for [`PROMISED`] of requests.
fn largest_load(question: &Question, servers: u32) -> Result<(f64, Side), AdviceError> {
    let base = question.scenario.load;
    let run = |factor: f64| {
        let mut scenario = question.scenario.clone();
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
