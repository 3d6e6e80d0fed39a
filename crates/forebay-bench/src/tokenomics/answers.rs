//! Known answers, to the last digit that is published: hit rates, and a bill.

use forebay_tokenomics::bill::{Bill, bill_tokens};
use forebay_tokenomics::book::Book;
use forebay_tokenomics::replay_lru;
use forebay_tokenomics::trace::Plan;
use serde_json::{Value, json};

use super::TokenomicsArgs;
use super::traces::{Traces, percent_of, plan};
use crate::Outcome;

pub(crate) fn run(_: &TokenomicsArgs, traces: &Traces) -> Outcome<Vec<Value>> {
    let mut rows = Vec::new();
    let mut known = |what: &str, ours: f64, unit: &str, decimals: usize, published: f64| {
        let shown = format!("{ours:.decimals$}");
        let met = shown == format!("{published:.decimals$}");
        rows.push(json!({"path": format!("answers: {what}"), "ours": shown.parse::<f64>().unwrap_or(ours), "unit": unit, "target": format!("{published:.decimals$}"), "met": met}));
    };
    let percent = |rate: f64| rate * 100.0;
    if let Some(trace) = &traces.chat {
        let plan = plan(trace, 1)?;
        known("chat-512, block references", plan.references() as f64, "", 0, 288_500.0);
        known("chat-512, distinct blocks", f64::from(plan.distinct()), "", 0, 182_790.0);
        let all = replay_lru(&plan, None);
        known("chat-512, unlimited, blocks found", percent(all.hit_rate()), "%", 2, 36.64);
        known("chat-512, unlimited, tokens found", percent(all.token_hit_rate()), "%", 2, 37.34);
        for (share, published) in [(1, 5.25), (5, 19.58), (20, 34.53), (50, 36.31)] {
            let rate = replay_lru(&plan, Some(percent_of(&plan, share))).hit_rate();
            known(&format!("chat-512, LRU of {share} %, blocks found"), percent(rate), "%", 2, published);
        }
    }
    if let Some(trace) = &traces.agents {
        let plan: Plan = plan(trace, 1)?;
        known("agents-64, distinct blocks", f64::from(plan.distinct()), "", 0, 639_462.0);
        let all = replay_lru(&plan, None);
        known("agents-64, unlimited, blocks found", percent(all.hit_rate()), "%", 2, 96.21);
        known("agents-64, unlimited, tokens found", percent(all.token_hit_rate()), "%", 2, 96.18);
        let prices = &Book::built_in().prices["sonnet-5"];
        let total = |ttl_s, write| Bill::of(bill_tokens(trace, ttl_s), prices, write).total();
        known("agents-64, bill without a cache", total(None, 0.0), "$", 0, 2198.0);
        for (write, published) in prices.cache_writes.iter().zip([483.0, 429.0]) {
            let what = format!("agents-64, bill with {} s to live", write.ttl_s);
            known(&what, total(Some(write.ttl_s), write.dollars), "$", 0, published);
        }
    }
    Ok(rows)
}
