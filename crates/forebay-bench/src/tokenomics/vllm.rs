//! Whether the forecast of an engine holds: vLLM on CPU with one, four and eight callers at once, beside the same simulated.
//!
//! The simulation is the one of `forebay plan`, with the engine's model as a row of a book. Its curve of prefill is calibrated by two lengths alone, the fixed
//! part of a step and what a token of an answer takes by answers alone and eight at once, all of it measured in turn with what is forecast. Nothing of what
//! callers see together is used.

use forebay_tokenomics::book::{Book, Model};
use forebay_tokenomics::chain::{Engine, Fleet, Outcome as Run, Workload, simulate};
use forebay_tokenomics::cost::{Measured, Shape};
use forebay_tokenomics::trace::{Pace, Request, Session, Sharing, Trace};
use serde_json::Value;

use super::traces::Traces;
use super::{Mark, TokenomicsArgs, row};
use crate::engines::part;
use crate::report::{percentile, round, say, shown};
use crate::{Failed, Outcome, why};

/// Where the engine's Python is told.
const ENVIRONMENT: &str = "FOREBAY_ENGINES_VLLM";
/// The engine's model, as `python/bench/model.py` makes it.
const MODEL: &str = r#"
[models."bench-llama"]
source = "python/bench/model.py"
date = "2026-11"
layers = 12
hidden = 768
heads = 12
kv_heads = 4
head_size = 64
ffn = 2048
vocab = 2048
kv_dtype = "bf16"
weight_dtype = "bf16"
"#;
/// Operations a second that efficiencies are told of. Which does not matter: they are measured.
const PEAK_FLOPS: f64 = 1e12;
/// Longer than anything takes here.
const SPAN_S: f64 = 1e6;
const OFF_MAX: f64 = 25.0;

pub(crate) fn run(args: &TokenomicsArgs, _: &Traces) -> Outcome<Vec<Value>> {
    if std::env::var_os(ENVIRONMENT).is_none() {
        say(&format!(
            "SKIP: no environment of vLLM is here, so no forecast stands beside a real engine: `cargo xtask bench engines` makes one, or {ENVIRONMENT} names its Python"
        ));
        let mut skipped = row("vllm", "no environment of vLLM here", 0.0, "", Mark::Told);
        (skipped["ours"], skipped["met"]) = (Value::Null, false.into());
        return Ok(vec![skipped]);
    }
    let dir = args.common.scratch("forecast")?;
    let rounds = args.rounds.to_string();
    let said = part::run(&args.common, &dir, "forecast.py", ENVIRONMENT, &["--rounds", &rounds])?;
    judged(&said)
}

fn judged(said: &Value) -> Outcome<Vec<Value>> {
    let rounds = said["rounds"].as_array().filter(|rounds| !rounds.is_empty());
    let rounds = rounds.ok_or_else(|| Failed("the engine's program said no rounds".into()))?;
    let callers = said["callers"].as_object().ok_or_else(|| Failed("the engine's program said no callers".into()))?;
    let mut rows = Vec::new();
    let mut by_name: Vec<(u64, &Value)> =
        callers.iter().filter_map(|(name, lengths)| Some((name.parse().ok()?, lengths))).collect();
    by_name.sort_by_key(|(at_once, _)| *at_once);
    for (at_once, lengths) in by_name {
        let lengths: Vec<Vec<u64>> = numbers(lengths)?;
        let mut pairs = Vec::new();
        for one in rounds {
            // Of an even number of requests there are two in the middle: the same one on both sides.
            let forecast = percentile(&simulated(said, one, &lengths)?.ttft_s, 0.5);
            let found = percentile(&seconds(&one["together"][at_once.to_string()], "ttft_s", None), 0.5);
            pairs.push([forecast, found]);
        }
        let off = |[forecast, found]: &[f64; 2]| (forecast / found - 1.0).abs() * 100.0;
        pairs.sort_by(|a, b| off(a).total_cmp(&off(b)));
        let middle = pairs[pairs.len() / 2];
        let what = format!("{at_once} at once, median of first tokens: off by");
        let mut row = row("vllm", what, round(off(&middle)), "%", Mark::AtMost(OFF_MAX));
        (row["forecast"], row["found"], row["both_in"]) =
            (round(middle[0]).into(), round(middle[1]).into(), "s".into());
        row["off_samples"] = pairs.iter().map(|pair| round(off(pair))).collect();
        row["spread"] = format!("{} to {}", shown(off(&pairs[0])), shown(off(&pairs[pairs.len() - 1]))).into();
        rows.push(row);
    }
    Ok(rows)
}

/// What the forecast says of callers with these prompts, calibrated by what was measured in the same round.
fn simulated(said: &Value, round: &Value, lengths: &[Vec<u64>]) -> Outcome<Run> {
    let answer = said["answer"].as_u64().ok_or_else(|| Failed("the engine's program said no answer".into()))?;
    let work = Workload::new(&asked(lengths, answer), Sharing::Private).map_err(why("the callers' load"))?;
    let load = work.at_once(SPAN_S).map_err(why("the callers' load"))?;
    let fleet = Fleet { engine: engine(said, round)?, engines: 1, engines_per_server: 1, store: None };
    Ok(simulate(&fleet, &load, 0.0))
}

/// Callers as sessions without pauses, of whose prompts none begins like another.
fn asked(lengths: &[Vec<u64>], answer: u64) -> Trace {
    let request = |tokens: &u64| Request {
        prompt_tokens: *tokens,
        output_tokens: answer,
        api_s: Some(1.0),
        think_s: Some(0.0),
        ..Request::default()
    };
    let session =
        |lengths: &Vec<u64>| Session { requests: lengths.iter().map(request).collect(), ..Session::default() };
    Trace { block_tokens: 64, pace: Pace::Sessions, sessions: lengths.iter().map(session).collect() }
}

/// The engine as it was measured: a step takes a fixed part, which is what a step takes in which one token is made, less that token; each token made more, a
/// part that eight at once tell; and prompts the curve that their lengths tell.
fn engine(said: &Value, round: &Value) -> Outcome<Engine> {
    let step_s = |n: &str| {
        let all: Vec<f64> = round["step_s"][n].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        percentile(&all, 0.5)
    };
    let output_s = ((step_s("8") - step_s("1")) / 7.0).max(0.0);
    let fixed_s = (step_s("1") - output_s).max(0.0);
    let model = model()?;
    let shape = Shape {
        gpus: 1,
        peak_flops: PEAK_FLOPS,
        linear_efficiency: 1.0,
        attention_efficiency: 1.0,
        step_s: fixed_s,
        step_tokens: said["step_tokens"].as_u64().unwrap_or(0),
    };
    let mut alone: Vec<u64> = seconds_of(&round["alone"]).map(|(tokens, _)| tokens).collect();
    alone.sort_unstable();
    alone.dedup();
    let measured =
        |to: u64| Measured { from: 0, to, seconds: percentile(&seconds(&round["alone"], "ttft_s", Some(to)), 0.5) };
    let measured: Vec<Measured> = alone.into_iter().map(measured).collect();
    let curve = shape.calibrate(&model.work(), &measured).map_err(why("the curve of prefill"))?.curve(&model.work());
    Ok(Engine {
        gpus: 1,
        curve,
        // What reading weights takes is in the fixed part.
        output_s: output_s - curve.c1_s,
        memory_bandwidth: f64::INFINITY,
        kv_tokens: 1 << 16,
        running_max: 16,
        host_tokens: 0,
        host_bandwidth: f64::INFINITY,
        model,
    })
}

fn model() -> Outcome<Model> {
    let book = Book::with(&[("the bench's model", MODEL)]).map_err(why("the bench's book"))?;
    book.model("bench-llama").cloned().ok_or_else(|| Failed("the bench's book has lost its model".into()))
}

fn seconds_of(requests: &Value) -> impl Iterator<Item = (u64, &Value)> {
    requests.as_array().into_iter().flatten().filter_map(|one| Some((one["tokens"].as_u64()?, one)))
}

/// A figure of requests, of one length only if it is named.
fn seconds(requests: &Value, name: &str, tokens: Option<u64>) -> Vec<f64> {
    let those = seconds_of(requests).filter(|(of, _)| tokens.is_none_or(|tokens| *of == tokens));
    those.filter_map(|(_, one)| one[name].as_f64()).collect()
}

fn numbers(lists: &Value) -> Outcome<Vec<Vec<u64>>> {
    serde_json::from_value(lists.clone()).map_err(why("the callers' prompts"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// An engine that takes 10 ms a step, 2 ms more for each token it makes, and 0.2 ms a token of a prompt, asked by one caller and by two.
    #[test]
    fn callers_of_an_engine_by_hand() {
        let prompt = |tokens: u64| {
            // Attention is a small part, so that there is a curve to find.
            let steps = tokens.div_ceil(1024) as f64;
            0.010 * steps + 0.0002 * tokens as f64 + 1e-9 * (tokens * tokens) as f64
        };
        let alone: Vec<Value> = [512, 2048].map(|n| json!({"tokens": n, "ttft_s": prompt(n)})).into();
        let one = [json!({"tokens": 1024, "ttft_s": prompt(1024)})];
        let round = json!({
            "alone": alone, "step_s": {"1": [0.012], "8": [0.026]},
            "together": {"1": one, "2": [{"tokens": 1024, "ttft_s": 0.2}, {"tokens": 1024, "ttft_s": 1.0}]},
        });
        let said = json!({"rounds": [round], "callers": {"2": [[1024], [1024]], "1": [[1024]]}, "answer": 4, "step_tokens": 1024});
        let rows = judged(&said).ok().unwrap();
        assert_eq!(rows[0]["path"], "vllm: 1 at once, median of first tokens: off by");
        assert!(rows[0]["ours"].as_f64().unwrap() < 1.0 && rows[0]["met"] == true, "{rows:?}");
        // The second's step has a token of the first in it, so that one token of its prompt is left for another step.
        let two = simulated(&said, &said["rounds"][0], &[vec![1024], vec![1024]]).ok().unwrap();
        let second = 2.0 * prompt(1024) + 2.0 * 0.002 + 0.010;
        assert!(
            (two.ttft_s[0] - prompt(1024)).abs() < 0.002 && (two.ttft_s[1] - second).abs() < 0.004,
            "{:?}",
            two.ttft_s
        );
    }
}
