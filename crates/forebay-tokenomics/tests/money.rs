//! What a fleet costs: prices by class times tokens are the whole cost, prices are linear, and the smallest fleet is the smallest.

use forebay_tokenomics::book::Book;
use forebay_tokenomics::chain::{LoadParams, Outcome, TierTokens, Workload};
use forebay_tokenomics::money::{
    Choice, Classes, Scenario, StorageCost, Targets, advise, alone, interval, moves, run_side, smallest,
};
use forebay_tokenomics::trace::{FleetParams, Sharing, generate_fleet};
use proptest::prelude::*;

const CHOICE: Choice<'_> = Choice {
    model: "llama-3.1-70b",
    gpu: "h100",
    server: "hgx",
    drive: "nvme",
    storage: "default",
    prices: "sonnet-5",
};

fn scenario(rate: f64) -> Scenario {
    let load = LoadParams { sessions_per_hour: Some(rate), speed: None, hours: 1.0, seed: 1, bootstrap: false };
    let targets = Targets { ttft_s: 10.0, itl_s: 0.1, share: 0.9 };
    Scenario::new(Book::built_in(), &CHOICE, load, targets).expect("these rows are in the book")
}

fn work() -> Workload {
    Workload::new(&generate_fleet(&FleetParams { sessions: 12, seed: 3 }), Sharing::Private)
        .expect("blocks of 64 tokens")
}

proptest! {
    #[test]
    fn prices_times_tokens_are_the_whole_cost_to_the_cent(
        gpu in (0.0..1e6f64, 0.0..1e6f64, 0.0..1e5f64),
        tokens in prop::array::uniform5(prop_oneof![Just(0u64), 1u64..1_000_000_000_000]),
        read in (0.0..1.0f64, 0.0..1.0f64),
        held in prop_oneof![Just(0.0), 1.0..1e12f64],
        put in 0.0..1e15f64,
        servers in 1u32..200,
        measured_s in 1.0..1e6f64,
    ) {
        let scenario = scenario(10.0);
        let storage = scenario.storage_cost(servers, put);
        let mut outcome = Outcome::default();
        outcome.measured_s = measured_s;
        (outcome.prefill_gpu_s, outcome.decode_gpu_s, outcome.loading_gpu_s) = gpu;
        outcome.found_read_gpu_s = gpu.1 * read.0 * read.1;
        outcome.fresh_read_gpu_s = gpu.1 * read.0 * (1.0 - read.1);
        outcome.tokens = TierTokens { gpu: tokens[0], drive: tokens[1], fresh: tokens[2], ..TierTokens::default() };
        (outcome.output_tokens, outcome.written_tokens, outcome.held_token_hours) = (tokens[3], tokens[4], held);
        let classes = Classes::new(&scenario, servers, &outcome, &storage);
        let all = [classes.input, classes.cache_read, classes.cache_write, classes.hold, classes.output];
        let billed: f64 = all.iter().map(|class| class.per_million() * class.tokens / 1e6).sum();
        let cost = (scenario.gpu_dollars_per_hour(servers) + storage.total()) * measured_s / 3600.0;
        let anything = outcome.tokens.fresh > 0 || outcome.output_tokens > 0;
        prop_assert!(!anything || (billed - cost).abs() < 0.005 + cost * 1e-12, "{billed} {cost}");
        prop_assert!((classes.dollars() - cost).abs() < 0.005 + cost * 1e-12);
        prop_assert!(all.iter().all(|class| class.dollars >= 0.0));
    }

    #[test]
    fn a_drive_costs_the_larger_of_time_and_wear_and_never_both(put in 0.0..1e16f64, servers in 1u32..100) {
        let scenario = scenario(10.0);
        let cost = scenario.storage_cost(servers, put);
        let drives = f64::from(servers * scenario.storage.drives_per_server);
        let time = drives * scenario.drive.time_dollars_per_hour();
        prop_assert!((cost.drives - time.max(cost.wear)).abs() < 1e-9);
        prop_assert_eq!(cost.wear > time, cost.written_share > 1.0);
    }
}

#[test]
fn storage_costs_by_hand() {
    // Four drives of 7.68 TB at 100 $/TB are 3,072 $ over 43,800 h; written once a day they last their five years, so both shares are equal.
    let scenario = scenario(10.0);
    let a_day_an_hour = 4.0 * 7.68e12 / 24.0 / 1.34;
    let cost = scenario.storage_cost(1, a_day_an_hour);
    assert!((cost.drives - 3072.0 / 43_800.0).abs() < 1e-9 && (cost.wear - cost.drives).abs() < 1e-9);
    assert!((cost.written_share - 1.0).abs() < 1e-9);
    // 64 GB of DRAM at 4,000 $/TB and four slots at 150 $; 80 W at 0.10 $/kWh.
    assert!((cost.around - (256.0 + 600.0) / 43_800.0).abs() < 1e-9 && (cost.power - 0.008).abs() < 1e-12);
    assert_eq!(StorageCost::default().total(), 0.0);
}

#[test]
fn a_model_gets_the_fewest_gpus_that_hold_it_and_the_longest_request() {
    let mut scenario = scenario(10.0);
    let work = work();
    scenario.fit(&work, None).unwrap();
    // 141 GB of weights: two GPUs leave 3 GB, four leave 147 GB, 448,000 tokens.
    assert_eq!((scenario.gpus_per_engine, scenario.kv_tokens() / 1000), (4, 448));
    assert!(scenario.fit(&work, Some(3)).unwrap_err().contains("do not divide"));
    assert!(scenario.fit(&work, Some(1)).unwrap_err().contains("leave nothing for KV"));
    let unknown = Scenario::new(Book::built_in(), &Choice { gpu: "abacus", ..CHOICE }, scenario.load, scenario.targets);
    assert!(unknown.unwrap_err().contains("no book has the GPU \"abacus\"; they have h100, h200"));
}

#[test]
fn found_tokens_pay_for_the_memory_they_hold_and_for_reading_it() {
    let (mut scenario, work) = (scenario(40.0), work());
    scenario.fit(&work, None).unwrap();
    let load = work.load(&scenario.load).unwrap();
    // Without Forebay everything that is found is in the engines' own memory.
    let side = run_side(&scenario, &load, 4, false);
    let (classes, hours) = (side.classes, side.outcome.measured_s / 3600.0);
    assert!(side.outcome.loading_gpu_s == 0.0 && side.outcome.tokens.cached() > 0);
    // A terabyte of host memory at 4,000 $ over 43,800 h a server, and beside it what decoding reads.
    let host = 4.0 * 4000.0 / 43_800.0 * hours;
    assert!(classes.cache_read.dollars > 1.1 * host, "{classes:?} {host}");
    // What is read of prompts is not charged to answers, and the whole is what it was.
    let gpus = scenario.gpu_dollars_per_hour(4) * hours;
    let busy = side.outcome.prefill_gpu_s + side.outcome.decode_gpu_s;
    assert!(classes.output.dollars < gpus * side.outcome.decode_gpu_s / busy * 0.99);
    assert!((classes.dollars() - gpus).abs() < 0.005);
}

#[test]
fn the_smallest_fleet_is_the_smallest_wherever_the_search_begins() {
    let (mut scenario, work) = (scenario(40.0), work());
    scenario.fit(&work, None).unwrap();
    let load = work.load(&scenario.load).unwrap();
    let found = smallest(&scenario, &load, false, 1).unwrap();
    assert!(found.goodput >= 0.9);
    assert!(found.servers == 1 || run_side(&scenario, &load, found.servers - 1, false).goodput < 0.9);
    assert_eq!(smallest(&scenario, &load, false, found.servers + 3).unwrap().servers, found.servers);
    // What no fleet can keep is said, and how near it comes.
    scenario.targets.ttft_s = 1e-6;
    let refusal = smallest(&scenario, &load, false, 1).unwrap_err().to_string();
    assert!(refusal.contains("no fleet keeps the promise") && refusal.contains("--ttft"), "{refusal}");
}

#[test]
fn advice_repeats_to_the_digit_and_prices_move_it_in_line() {
    let (mut scenario, work) = (scenario(40.0), work());
    scenario.fit(&work, None).unwrap();
    let advice = advise(&scenario, &work, (2, 2)).unwrap();
    assert_eq!(advice, advise(&scenario, &work, (3, 1)).unwrap());
    assert!(advice.proposed.outcome.hit_rate() >= advice.today.outcome.hit_rate());
    // GPU rent moves the GPU's part of the cash and nothing else.
    let mut dear = scenario.clone();
    dear.gpu.dollars_per_hour *= 3.0;
    let dearer = advise(&dear, &work, (2, 2)).unwrap();
    let gpus = |a: &forebay_tokenomics::money::Advice| a.today.gpu_dollars - a.proposed.gpu_dollars;
    assert!((gpus(&dearer) - 3.0 * gpus(&advice)).abs() < 1e-9);
    assert!((dearer.cash() - gpus(&dearer) - (advice.cash() - gpus(&advice))).abs() < 1e-9);
    let drawn = interval(&scenario, &work, &advice, 2, &alone).unwrap();
    assert!(drawn.cash.is_some_and(|cash| cash.low <= cash.high) && drawn.draws == 2);
    let moved = moves(&scenario, &work, &advice, 0, &alone);
    assert!(moved.iter().any(|m| m.name == "GPU rent" && m.value == 2.5));
    assert!(moved.iter().all(|m| m.flips_at.is_none()));
}
