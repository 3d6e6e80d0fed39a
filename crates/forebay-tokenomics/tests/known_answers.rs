//! Both recorded traces give the answers that others found for them. Skips aloud where the traces are not there.

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use flate2::bufread::MultiGzDecoder;
use forebay_tokenomics::bill::{Bill, bill_tokens};
use forebay_tokenomics::book::Book;
use forebay_tokenomics::cost::{Assumptions, CostCurve, model_by_name};
use forebay_tokenomics::prefix::{Future, LruCurve, Min, PrefixLru, replay_instant, replay_on};
use forebay_tokenomics::trace::{Pace, Plan, PlanParams, Sharing, Trace, parse_trace, starts_s};
use forebay_tokenomics::{Lru, ReplayCount, S3Fifo, replay, replay_lru};

#[expect(clippy::print_stderr, reason = "a skipped test says so aloud")]
fn trace(name: &str) -> Option<Trace> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/traces").join(name);
    let Ok(file) = File::open(&path) else {
        eprintln!("SKIP: {} is not there, so its known answers are not checked", path.display());
        return None;
    };
    let unpacked = MultiGzDecoder::new(BufReader::new(file));
    Some(parse_trace(BufReader::with_capacity(1 << 20, unpacked)).expect("a known trace parses"))
}

/// In hundredths of a per cent, as published.
fn basis_points(rate: f64) -> u32 {
    (rate * 10_000.0).round() as u32
}

#[test]
fn the_chat_trace_gives_its_known_hit_rates_at_every_capacity() {
    let Some(trace) = trace("mooncake-conversation.jsonl.gz") else { return };
    assert_eq!((trace.pace, trace.requests()), (Pace::Open, 12_031));
    let plan = Plan::new(&trace, PlanParams::default()).unwrap();
    assert_eq!((plan.references(), plan.distinct()), (288_500, 182_790));
    let unlimited = replay_lru(&plan, None);
    assert_eq!(basis_points(unlimited.hit_rate()), 3664);
    assert_eq!(basis_points(unlimited.token_hit_rate()), 3734);
    for (share, rate) in [(0.01, 525), (0.05, 1958), (0.20, 3453), (0.50, 3631)] {
        let capacity = (share * f64::from(plan.distinct())).floor() as u32;
        assert_eq!(basis_points(replay_lru(&plan, Some(capacity)).hit_rate()), rate, "LRU of {share}");
    }
}

/// Hit rates in hundredths of a per cent. LRU's are those that others found; S3-FIFO's are what this code gives, so that a change of it is seen.
#[test]
fn policies_on_the_chat_trace_give_their_known_hit_rates() {
    let Some(trace) = trace("mooncake-conversation.jsonl.gz") else { return };
    let plan = Plan::new(&trace, PlanParams::default()).unwrap();
    let mut found = Vec::new();
    for share in [0.01, 0.05, 0.20, 0.50] {
        let capacity = (share * f64::from(plan.distinct())).floor() as u32;
        let lru = replay(&plan, capacity, &mut Lru::new());
        assert_eq!(lru, replay_lru(&plan, Some(capacity)), "ranks say what the ring says");
        found.push([lru, replay(&plan, capacity, &mut S3Fifo::new())].map(|count| basis_points(count.hit_rate())));
    }
    assert_eq!(found, [[525, 552], [1958, 2156], [3453, 3390], [3631, 3629]]);
}

#[test]
fn the_agent_trace_gives_its_known_hit_rates_whatever_the_start_offsets() {
    let Some(trace) = trace("agent-sessions.jsonl.gz") else { return };
    assert_eq!((trace.pace, trace.sessions.len(), trace.requests()), (Pace::Sessions, 116, 8_616));
    let runs: usize = trace.sessions.iter().flat_map(|s| &s.requests).map(|r| r.blocks.runs().len()).sum();
    assert!(runs < 1_000_000, "{runs} runs are no run-length encoding");
    let counts: Vec<ReplayCount> = [1, 2]
        .map(|seed| {
            let plan = Plan::new(&trace, PlanParams { seed, sharing: Sharing::Private }).unwrap();
            assert_eq!(plan.distinct(), 639_462);
            replay_lru(&plan, None)
        })
        .into();
    assert_eq!(counts[0], counts[1]);
    assert_eq!(basis_points(counts[0].hit_rate()), 9621);
    assert_eq!(basis_points(counts[0].token_hit_rate()), 9618);
    let shared = Plan::new(&trace, PlanParams { seed: 1, sharing: Sharing::Modelled }).unwrap();
    assert!(shared.distinct() < 639_462);
}

#[test]
fn closed_loops_with_the_recorded_service_times_stay_near_the_recorded_times() {
    let Some(trace) = trace("agent-sessions.jsonl.gz") else { return };
    let mut apart: Vec<f64> = Vec::new();
    for session in &trace.sessions {
        let starts = starts_s(session, |k| session.requests[k].api_s.unwrap_or(0.0));
        let steps =
            starts.windows(2).zip(session.requests.windows(2)).filter(|(_, r)| r[0].flow == 0 && r[1].flow == 0);
        apart.extend(steps.map(|(s, r)| ((s[1] - s[0]) - (r[1].at_s - r[0].at_s)).abs()));
    }
    apart.sort_by(f64::total_cmp);
    // Recorded times are whole seconds.
    assert!(apart[apart.len() * 9 / 10] < 2.0, "{}", apart[apart.len() * 9 / 10]);
}

/// In dollars, as published, and with cents, as this code gives it.
#[test]
fn the_agent_trace_gives_its_known_bill() {
    let Some(trace) = trace("agent-sessions.jsonl.gz") else { return };
    let prices = &Book::built_in().prices["sonnet-5"];
    let none = bill_tokens(&trace, None);
    assert_eq!((none.input, none.output), (1_079_743_004, 3_856_037));
    let total = |ttl_s, write| (Bill::of(bill_tokens(&trace, ttl_s), prices, write).total() * 100.0).round() as u64;
    assert_eq!(total(None, 0.0), 219_805);
    let [short, long] = [0, 1].map(|i| prices.cache_writes[i]);
    assert_eq!((short.ttl_s, long.ttl_s), (300, 3600));
    assert_eq!(total(Some(300), short.dollars), 48_334);
    assert_eq!(total(Some(3600), long.dollars), 42_867);
}

/// The replay over extents gives what the replay over single blocks gives, and MIN finds what an unlimited cache finds at a tenth of its size.
#[test]
fn the_replay_over_extents_gives_the_known_answers_too() {
    let curve = CostCurve::new(model_by_name("llama-3.1-70b").unwrap(), &Assumptions::default());
    if let Some(trace) = trace("mooncake-conversation.jsonl.gz") {
        let plan = Plan::new(&trace, PlanParams::default()).unwrap();
        for (share, rate) in [(0.01, 525), (0.05, 1958), (0.20, 3453), (0.50, 3631), (1.0, 3664)] {
            let capacity = (share * f64::from(plan.distinct())).floor() as u32;
            let lru = replay_instant(&plan, &curve, capacity, &mut PrefixLru::new());
            assert_eq!(basis_points(lru.count.hit_rate()), rate, "LRU of {share}");
            assert_eq!(lru.count, replay_lru(&plan, Some(capacity)));
        }
        let (tree, future) = Future::new(&plan);
        let min = replay_on(tree, &plan, &curve, plan.distinct() / 10, &mut Min::new(future));
        assert_eq!((basis_points(min.count.hit_rate()), basis_points(min.count.token_hit_rate())), (3664, 3734));
    }
    if let Some(trace) = trace("agent-sessions.jsonl.gz") {
        let plan = Plan::new(&trace, PlanParams { seed: 1, sharing: Sharing::Private }).unwrap();
        for percent in [1, 5, 20, 100] {
            let capacity = (u64::from(plan.distinct()) * percent / 100) as u32;
            let lru = replay_instant(&plan, &curve, capacity, &mut PrefixLru::new());
            assert_eq!(lru.count, replay_lru(&plan, Some(capacity)), "LRU of {percent} %");
        }
        let all = replay_instant(&plan, &curve, plan.distinct(), &mut PrefixLru::new());
        assert_eq!((basis_points(all.count.hit_rate()), basis_points(all.count.token_hit_rate())), (9621, 9618));
    }
}

/// One pass says what LRU finds at six capacities: at most a point off on average and three at most, by blocks and on both traces.
#[test]
fn the_miss_ratio_curve_of_lru_is_that_of_the_replays() {
    for name in ["mooncake-conversation.jsonl.gz", "agent-sessions.jsonl.gz"] {
        let Some(trace) = trace(name) else { continue };
        let plan = Plan::new(&trace, PlanParams { seed: 1, sharing: Sharing::Private }).unwrap();
        let mut curve = LruCurve::new();
        plan.requests.iter().for_each(|request| curve.request(request.numbers().map(u64::from)));
        let cost = CostCurve::new(model_by_name("llama-3.1-70b").unwrap(), &Assumptions::default());
        let apart = [1, 2, 5, 10, 20, 50].map(|percent| {
            let capacity = u64::from(plan.distinct()) * percent / 100;
            let replayed = replay_instant(&plan, &cost, capacity as u32, &mut PrefixLru::new()).count.hit_rate();
            (curve.hit_rate(capacity) - replayed).abs()
        });
        let mean = apart.iter().sum::<f64>() / apart.len() as f64;
        assert!(mean <= 0.01 && apart.iter().all(|apart| *apart <= 0.03), "{name}: {apart:?}");
    }
}
