//! The same for programs.

use forebay_tokenomics::chain::Outcome;
use forebay_tokenomics::money::{BackTest, ClassCost, Side};
use serde_json::{Map, Value, json};

use super::capacity::Bandwidth;
use super::page::assumptions;
use super::who::Provider;
use super::{Forecast, Question};

/// One object.
pub(crate) fn of(question: &Question, forecast: &Forecast) -> Map<String, Value> {
    let (scenario, advice) = (&question.scenario, &forecast.advice);
    let moves: Vec<Value> = forecast
        .moves
        .iter()
        .map(|m| {
            json!({"name": m.name, "unit": m.unit, "value": m.value, "cash_halved": m.halved, "cash_doubled": m.doubled, "flips_at": m.flips_at})
        })
        .collect();
    let rests: Map<String, Value> =
        assumptions(question).into_iter().map(|(name, value)| (name, Value::String(value))).collect();
    let told = json!({
        "trace": question.source,
        "replay": "chain",
        "policy": "lru",
        "model": scenario.model.name,
        "sessions_per_hour": scenario.load.sessions_per_hour,
        "speed": scenario.load.speed,
        "hours": scenario.load.hours,
        "seed": scenario.load.seed,
        "targets": {"ttft_s": scenario.targets.ttft_s, "itl_s": scenario.targets.itl_s, "share": scenario.targets.share},
        "today": side(&advice.today),
        "proposed": side(&advice.proposed),
        "gpus_released": advice.released_gpus(scenario),
        "cash_dollars_per_hour": advice.cash(),
        "gpu_seconds_avoided": advice.proposed.outcome.avoided_gpu_s(),
        "value_if_the_time_is_sold_dollars_per_hour": advice.sold_value(scenario),
        "by_capacity": forecast.by_capacity.map(|by| by.json()),
        "gb_per_s": Bandwidth::new(question, &advice.proposed).json(),
        "interval": forecast.interval.map(|i| json!({"draws": i.draws, "failed": i.failed, "nothing_saved": i.nothing, "low": i.cash.map(|c| c.low), "high": i.cash.map(|c| c.high)})),
        "margin": Provider::new(scenario, &advice.proposed).json(),
        "back_tested": forecast.back_test.as_ref().map_or(Value::Bool(false), |(log, test)| back_test(log, test)),
        "moves": moves,
        "assumptions": rests,
    });
    match told {
        Value::Object(told) => told,
        _ => Map::new(),
    }
}

fn back_test(log: &str, test: &BackTest) -> Value {
    json!({
        "log": log,
        "known": test.known,
        "later": test.later,
        "servers": {"forecast": test.forecast.proposed.servers, "hindsight": test.hindsight.proposed.servers},
        "hit_rate": {"forecast": test.forecast.proposed.outcome.hit_rate(), "later": test.kept.outcome.hit_rate()},
        "goodput": {"forecast": test.forecast.proposed.goodput, "later": test.kept.goodput},
        "cash_dollars_per_hour": {"forecast": test.forecast.cash(), "hindsight": test.hindsight.cash()},
    })
}

fn class(class: &ClassCost) -> Value {
    json!({"dollars": class.dollars, "tokens": class.tokens, "dollars_per_million": class.per_million()})
}

/// One side.
pub(crate) fn side(side: &Side) -> Value {
    let (o, c) = (&side.outcome, &side.classes);
    let limits: Map<String, Value> = o
        .limits(side.storage.written_share)
        .into_iter()
        .map(|(limit, used)| (limit.name().replace(' ', "_"), json!(used)))
        .collect();
    json!({
        "servers": side.servers,
        "engines": o.engines,
        "dollars_per_hour": side.dollars(),
        "gpu_dollars_per_hour": side.gpu_dollars,
        "storage_dollars_per_hour": side.storage.total(),
        "goodput": side.goodput,
        "requests": o.requests,
        "refused": o.refused,
        "beyond": o.beyond,
        "hit_rate": o.hit_rate(),
        "tokens": {"gpu": o.tokens.gpu, "host": o.tokens.host, "memory": o.tokens.memory, "drive": o.tokens.drive, "fresh": o.tokens.fresh},
        "in_flight_tokens": o.in_flight_tokens,
        "evicted_tokens": o.evicted_tokens,
        "recomputed_tokens": o.recomputed_tokens,
        "late_drive_tokens": o.late_drive_tokens,
        "late_link_tokens": o.late_link_tokens,
        "written_tokens": o.written_tokens,
        "output_tokens": o.output_tokens,
        "ttft_s": quantiles(&|q| o.ttft(q)),
        "itl_s": quantiles(&|q| o.itl(q)),
        "load_s": quantiles(&|q| Outcome::quantile(&o.load_s, q)),
        "gpu_seconds": o.gpu_s(),
        "gpu_seconds_prefill": o.prefill_gpu_s,
        "gpu_seconds_decode": o.decode_gpu_s,
        "limits": limits,
        "classes": {
            "input": class(&c.input),
            "cache_read": class(&c.cache_read),
            "cache_write": class(&c.cache_write),
            "hold": class(&c.hold),
            "output": class(&c.output),
        },
        "cached_dollars_per_million": c.cached_per_million(),
    })
}

fn quantiles(of: &dyn Fn(f64) -> f64) -> Value {
    json!({"p50": of(0.5), "p95": of(0.95), "p99": of(0.99)})
}
