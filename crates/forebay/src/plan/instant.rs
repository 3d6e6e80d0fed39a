//! The instant replay: one trace, one policy, one capacity.

use std::path::Path;

use forebay_tokenomics::book::Book;
use forebay_tokenomics::cost::{Assumptions, CostCurve, Model};
use forebay_tokenomics::prefix::{
    Clairvoyant, Future, Gdsf, InstantCount, LruCurve, Min, PrefixLru, PrefixPolicy, PrefixS3Fifo, SegmentsCount,
    Sieve, Valued, Worth, WorthCurve, replay_instant, replay_on, replay_segments, upper_bound_s,
};
use forebay_tokenomics::trace::{Plan, PlanParams, Sharing};
use forebay_types::{Reuse, format_size};
use serde_json::{Map, Value, json};

use super::args::{ModeArg, PlanArgs, PolicyArg, ReplayArg, SharingArg, word};
use super::{card, forecast};
use crate::say::{self, grouped};
use crate::stop::Stop;
use crate::trace_file::read_trace;

/// Runs it.
pub(crate) fn run(args: &PlanArgs) -> Result<(), Stop> {
    let (Some(trace), Some(_), Some(_)) = (&args.trace, args.policy, args.capacity) else {
        return Err(Stop::Misused("a replay needs --trace, --policy and --capacity".to_owned()));
    };
    let result = told(args, trace)?;
    args.card.as_ref().map_or(Ok(()), |card| card::write(card, args, trace, &result))
}

/// The result, printed.
pub(crate) fn told(args: &PlanArgs, trace: &Path) -> Result<Map<String, Value>, Stop> {
    let result = answer(args, trace)?;
    if args.json {
        say::line(&Value::Object(result.clone()).to_string())?
    } else {
        show(&result)?
    }
    Ok(result)
}

/// What comes out, under the names that scripts read.
fn answer(args: &PlanArgs, trace: &Path) -> Result<Map<String, Value>, Stop> {
    let (Some(policy), Some(capacity)) = (args.policy, args.capacity) else {
        return Err(Stop::Misused("a replay needs --policy and --capacity".to_owned()));
    };
    let name = trace.file_name().map_or_else(|| trace.display().to_string(), |name| name.display().to_string());
    let book = forecast::book(&args.forecast)?;
    let (model, assumed) = of_book(&book, args)?;
    let plan = load(args, trace)?;
    let block_bytes = u64::from(plan.block_tokens) * model.kv_bytes_per_token();
    let blocks = capacity.blocks(plan.distinct(), block_bytes);
    let curve = CostCurve::new(model, &assumed);
    let (replayed, drive) = match args.mode {
        ModeArg::Ideal => (replay(policy, &plan, curve, blocks, args.hints), None),
        ModeArg::Segments => {
            let drive = on_segments(policy, &plan, curve, blocks, args)?;
            (drive.instant, Some(drive))
        }
    };
    let result = json!({
        "trace": name,
        "replay": word(&ReplayArg::Instant),
        "policy": word(&policy),
        "hints": args.hints,
        "model": model.name,
        "gpu": args.forecast.gpu,
        "seed": args.seed,
        "sharing": word(&args.sharing),
        "block_tokens": plan.block_tokens,
        "block_bytes": block_bytes,
        "distinct_blocks": plan.distinct(),
        "capacity_blocks": blocks,
        "requests": replayed.count.requests,
        "blocks": replayed.count.blocks,
        "hit_blocks": replayed.count.hit_blocks,
        "hit_rate": replayed.count.hit_rate(),
        "prompt_tokens": replayed.count.prompt_tokens,
        "hit_tokens": replayed.count.hit_tokens,
        "token_hit_rate": replayed.count.token_hit_rate(),
        "gpu_seconds_saved": replayed.gpu_s_saved,
        "gpu_seconds_total": replayed.gpu_s_total,
        "evicted_blocks": replayed.evicted_blocks,
    });
    match result {
        Value::Object(mut result) => {
            drive.into_iter().for_each(|drive| told_of(&drive, args, &mut result));
            // The curve is of blocks that leave one by one: beside what segments find it would say something else of the same capacity.
            let ideal = args.mode == ModeArg::Ideal;
            if let Some(found) = ideal.then(|| other_capacities(policy, &plan, curve, blocks, args.hints)).flatten() {
                result.insert("hit_rate_by_capacity".to_owned(), found);
            }
            if args.bound {
                result.insert("gpu_seconds_upper_bound".to_owned(), upper_bound_s(&plan, &curve, blocks).into());
            }
            Ok(result)
        }
        _ => Err(Stop::Failed("a result is an object".to_owned())),
    }
}

/// The model and the GPU by whose shape and peak seconds are reckoned.
fn of_book<'b>(book: &'b Book, args: &PlanArgs) -> Result<(&'b Model, Assumptions), Stop> {
    let unknown = |flag: &str, name: &str, known: Vec<&str>| {
        Stop::Misused(format!("{flag}: no book has {name}; they have {}", known.join(", ")))
    };
    let models = || book.models.iter().map(|model| model.name.as_str()).collect();
    let model = book.model(&args.model).ok_or_else(|| unknown("--model", &args.model, models()))?;
    let name = &args.forecast.gpu;
    let gpus = || book.gpus.keys().map(String::as_str).collect();
    let gpu = book.gpus.get(name).ok_or_else(|| unknown("--gpu", name, gpus()))?;
    Ok((model, Assumptions { gpu_peak_tflops: gpu.peak_flops / 1e12, ..Assumptions::default() }))
}

fn load(args: &PlanArgs, path: &Path) -> Result<Plan, Stop> {
    let mut trace = read_trace(path).map_err(Stop::Failed)?;
    if let Some(tokens) = args.chunk_tokens {
        if tokens % trace.block_tokens != 0 {
            return Err(Stop::Misused(format!(
                "--chunk-tokens {tokens} is no multiple of the trace's blocks of {} tokens",
                trace.block_tokens
            )));
        }
        let blocks = tokens / trace.block_tokens;
        trace = trace.chunked(blocks);
    }
    let sharing = if args.sharing == SharingArg::Modelled { Sharing::Modelled } else { Sharing::Private };
    Plan::new(&trace, PlanParams { seed: args.seed, sharing })
        .map_err(|e| Stop::Failed(format!("{}: {e}", path.display())))
}

fn replay(policy: PolicyArg, plan: &Plan, curve: CostCurve, capacity: u32, hints: bool) -> InstantCount {
    let mut online: Box<dyn PrefixPolicy> = match policy {
        PolicyArg::Lru => Box::new(PrefixLru::new()),
        PolicyArg::S3fifo => Box::new(PrefixS3Fifo::new(capacity)),
        PolicyArg::Sieve => Box::new(Sieve::new()),
        PolicyArg::Gdsf => Box::new(Gdsf::new(curve, plan.block_tokens)),
        PolicyArg::Worth => Box::new(Worth::new(curve, plan.block_tokens, capacity, hints)),
        PolicyArg::Min => {
            let (tree, future) = Future::new(plan);
            return replay_on(tree, plan, &curve, capacity, &mut Min::new(future));
        }
        PolicyArg::Clairvoyant => {
            let (tree, future) = Future::new(plan);
            return replay_on(tree, plan, &curve, capacity, &mut Clairvoyant::new(future, plan, curve));
        }
    };
    replay_instant(plan, &curve, capacity, online.as_mut())
}

/// What half of the capacity, all of it and twice as much would find, by the miss-ratio curve: one more pass of the trace, over a sample of its blocks. Other
/// policies have no curve.
fn other_capacities(policy: PolicyArg, plan: &Plan, cost: CostCurve, blocks: u32, hints: bool) -> Option<Value> {
    let capacities = [u64::from(blocks / 2), u64::from(blocks), 2 * u64::from(blocks)];
    let [half, now, twice] = match policy {
        PolicyArg::Lru => {
            let mut curve = LruCurve::new();
            plan.requests.iter().for_each(|request| curve.request(request.numbers().map(u64::from)));
            capacities.map(|capacity| curve.hit_rate(capacity))
        }
        PolicyArg::Worth if blocks > 1 => {
            let mut curve = WorthCurve::new(cost, plan.block_tokens, &capacities, hints);
            let mut keys = Vec::new();
            for request in &plan.requests {
                keys.clear();
                keys.extend(request.numbers().map(u64::from));
                let hint = if hints { request.hint } else { Reuse::Unknown };
                curve.request(&keys, request.at_s, hint);
            }
            let mut rates = curve.hit_rates().into_iter().map(|(_, rate)| rate);
            [rates.next()?, rates.next()?, rates.next()?]
        }
        _ => return None,
    };
    Some(json!({"half": half, "now": now, "twice": twice}))
}

/// What only a drive of segments has.
fn told_of(drive: &SegmentsCount, args: &PlanArgs, result: &mut Map<String, Value>) {
    let told = [
        ("mode", json!(word(&args.mode))),
        ("segments", json!(drive.segments)),
        ("segment_blocks", json!(drive.segment_blocks)),
        ("put_blocks", json!(drive.put_blocks)),
        ("moved_blocks", json!(drive.moved_blocks)),
        ("write_amplification", json!(drive.write_amplification())),
    ];
    result.extend(told.map(|(name, value)| (name.to_owned(), value)));
}

/// The policy on a drive of segments. It is asked what blocks are worth, which only some can say.
fn on_segments(
    policy: PolicyArg,
    plan: &Plan,
    curve: CostCurve,
    capacity: u32,
    args: &PlanArgs,
) -> Result<SegmentsCount, Stop> {
    let mut online: Box<dyn Valued> = match policy {
        PolicyArg::Lru => Box::new(PrefixLru::new()),
        PolicyArg::Worth => Box::new(Worth::new(curve, plan.block_tokens, capacity, args.hints)),
        other => {
            return Err(Stop::Misused(format!(
                "--mode segments runs lru and worth, which say what a block is worth; {} only says which block leaves",
                word(&other)
            )));
        }
    };
    replay_segments(plan, &curve, capacity, args.segments, online.as_mut()).map_err(|e| Stop::Failed(e.to_string()))
}

fn show(result: &Map<String, Value>) -> Result<(), Stop> {
    let count = |name: &str| grouped(result[name].as_u64().unwrap_or(0));
    let text = |name: &str| result[name].as_str().unwrap_or("").to_owned();
    let number = |name: &str| result[name].as_f64().unwrap_or(0.0);
    let percent = |share: f64| format!("{:.2} %", share * 100.0);
    let bytes =
        result["capacity_blocks"].as_u64().unwrap_or(0).saturating_mul(result["block_bytes"].as_u64().unwrap_or(0));
    let share = number("gpu_seconds_saved") / number("gpu_seconds_total").max(f64::MIN_POSITIVE);
    let mut table = say::table(&["instant replay", &text("trace")]);
    for (name, value) in [
        ("policy", format!("{}{}", text("policy"), if result["hints"] == true { ", with hints" } else { "" })),
        ("capacity", format!("{} blocks ({} of {})", count("capacity_blocks"), format_size(bytes), text("model"))),
        ("distinct blocks", format!("{} of {} tokens", count("distinct_blocks"), count("block_tokens"))),
        ("requests", format!("{}, {} blocks", count("requests"), count("blocks"))),
        ("blocks found", percent(number("hit_rate"))),
        ("tokens saved", percent(number("token_hit_rate"))),
        (
            "GPU seconds saved",
            format!("{:.0} of {:.0} ({})", number("gpu_seconds_saved"), number("gpu_seconds_total"), percent(share)),
        ),
    ] {
        table.add_row([name.to_owned(), value]);
    }
    if let Some(found) = result.get("hit_rate_by_capacity") {
        let of = |name: &str| percent(found[name].as_f64().unwrap_or(0.0));
        let told = format!("half the capacity: {}, now: {}, twice: {}", of("half"), of("now"), of("twice"));
        table.add_row(["by the curve".to_owned(), told]);
    }
    if result.contains_key("segments") {
        let drive = format!(
            "{} segments of {} blocks; {:.3} bytes written by byte put",
            count("segments"),
            count("segment_blocks"),
            number("write_amplification")
        );
        table.add_row(["drive".to_owned(), drive]);
    }
    if let Some(bound_s) = result.get("gpu_seconds_upper_bound").and_then(Value::as_f64) {
        table.add_row(["no policy saves more than".to_owned(), format!("{bound_s:.0}")]);
    }
    say::show(&table)
}
