//! `forebay plan` as a forecast: its page, its answers for programs, the four who ask, sweeps, and what is wrong in one sentence. Each command of
//! docs/tokenomics.md is run as it stands there.

#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

mod support;

use serde_json::Value;
use support::Place;

/// Sessions of a few requests, each prompt the last one and some more, like a coding agent's.
fn sessions(count: u64) -> String {
    let session = |s: u64| {
        let request = |k: u64| {
            let tokens = 20_000 + k * 3000;
            let ids: Vec<u64> = (1..=tokens / 64).collect();
            format!(
                r#"{{"t":{},"in":{tokens},"out":{},"hash_ids":{ids:?},"stop":"tool_use","api_time":5,"think_time":{}}}"#,
                k * 40,
                200 + 10 * s,
                10 + s
            )
        };
        let requests: Vec<String> = (0..6).map(request).collect();
        format!(r#"{{"id":"s{s}","models":["m"],"block_size":64,"requests":[{}]}}"#, requests.join(","))
    };
    (0..count).map(session).collect::<Vec<_>>().join("\n")
}

fn place() -> Place {
    let place = Place::new();
    place.file("load.jsonl", sessions(12).as_bytes());
    place
}

fn json(place: &Place, more: &[&str]) -> Value {
    let args = [&["plan", "--trace", "load.jsonl", "--json"], more].concat();
    serde_json::from_str(&place.run(&args).ok().out).unwrap()
}

#[test]
fn the_first_page_has_twelve_lines_and_says_what_is_not_known() {
    let place = place();
    let out = place.run(&["plan", "--trace", "load.jsonl", "--model", "llama-3.1-8b", "--draws", "2"]).ok().out;
    let page: Vec<&str> = out.lines().take_while(|line| !line.is_empty()).collect();
    assert!(page.len() <= 12, "{out}");
    let page = page.join("\n");
    for word in [
        "today",
        "with Forebay",
        "difference",
        "fleet",
        "cash",
        "if that time is sold",
        "$ per million",
        "binds",
        "interval",
        "not back-tested",
        "moves it most",
    ] {
        assert!(page.contains(word), "{word} in\n{page}");
    }
    // Below it stands what it rests on, with sources.
    for word in ["gpus.h100", "NVIDIA", "prices.sonnet-5", "assumed", "Halved and doubled", "margin"] {
        assert!(out.contains(word), "{word} in\n{out}");
    }
}

#[test]
fn the_answer_for_programs_repeats_and_its_prices_are_its_cost() {
    let place = place();
    let flags = ["--model", "llama-3.1-8b", "--draws", "0"];
    let told = json(&place, &flags);
    assert_eq!(told, json(&place, &flags));
    for side in [&told["today"], &told["proposed"]] {
        let classes = side["classes"].as_object().unwrap();
        let billed: f64 = classes
            .values()
            .map(|class| class["dollars_per_million"].as_f64().unwrap() * class["tokens"].as_f64().unwrap() / 1e6)
            .sum();
        // One hour of two is measured.
        let cost = side["dollars_per_hour"].as_f64().unwrap();
        assert!((billed - cost).abs() < 0.005, "{billed} {cost}");
        assert!(side["goodput"].as_f64().unwrap() >= 0.95);
    }
    let cash =
        told["today"]["dollars_per_hour"].as_f64().unwrap() - told["proposed"]["dollars_per_hour"].as_f64().unwrap();
    assert!((told["cash_dollars_per_hour"].as_f64().unwrap() - cash).abs() < 1e-9);
    assert_eq!(told["back_tested"], false);
}

#[test]
fn own_books_and_measured_prefill_change_the_answer() {
    let place = place();
    let flags = ["--model", "llama-3.1-8b", "--draws", "0"];
    let base = json(&place, &flags);
    place.file("mine.toml", b"[gpus.h100]\ndollars_per_hour = 5.0\ndollars_per_hour_source = \"our contract\"\n");
    let dear = json(&place, &[&flags[..], &["--book", "mine.toml"]].concat());
    assert_eq!(dear["today"]["gpu_dollars_per_hour"], 2.0 * base["today"]["gpu_dollars_per_hour"].as_f64().unwrap());
    assert!(dear["assumptions"].to_string().contains("our contract"));
    let slow = json(&place, &[&flags[..], &["--prefill", "2000:0.5", "40000:20"]].concat());
    assert!(slow["proposed"]["ttft_s"]["p50"].as_f64() > base["proposed"]["ttft_s"]["p50"].as_f64());
}

#[test]
fn each_who_pays_has_a_page() {
    let place = place();
    let with = |who: &[&str]| {
        place.run(&[&["plan", "--trace", "load.jsonl", "--model", "llama-3.1-8b", "--as"], who].concat()).ok().out
    };
    let provider = with(&["provider"]);
    assert!(
        provider.contains("A discount of 95 % sells cached input at 0.100 $")
            && provider.contains("the margin on cached input is zero"),
        "{provider}"
    );
    let user = with(&["user", "--users", "10"]);
    assert!(user.contains("10 users may be promised") && user.contains("for 99 % of requests"), "{user}");
    let builder = with(&["builder"]);
    for row in ["no cache", "5m", "1h"] {
        assert!(builder.contains(row), "{builder}");
    }
    // By hand: 12 sessions of 20,000 to 35,000 tokens, 165,000 in all, at 2 $ a million; output 12 x 6 x 255 tokens on average at 10 $.
    let bills = json(&place, &["--as", "builder"]);
    let total = bills["bills"][0]["dollars"].as_f64().unwrap();
    assert!((total - (12.0 * 165_000.0 * 2e-6 + 72.0 * 255.0 * 1e-5)).abs() < 1e-9, "{total}");
}

#[test]
fn sweeps_choose_the_cheapest_fleet_that_holds_and_none_the_trace_cannot_speak_of() {
    let place = place();
    let told = json(&place, &["--model", "llama-3.1-8b", "--sweep", "gpus=8..16", "--sweep", "nvme=1GB..64TB"]);
    let points = told["sweep"].as_array().unwrap();
    let of = |name: &str| points.iter().filter(|point| point[name] == true).count();
    assert_eq!(of("cheapest"), 1);
    assert!(of("supported") > 0 && of("supported") < points.len());
    let chosen = points.iter().find(|point| point["cheapest"] == true).unwrap();
    assert!(chosen["supported"] == true && chosen["meets"] == true);
    let text =
        place.run(&["plan", "--trace", "load.jsonl", "--model", "llama-3.1-8b", "--sweep", "nvme=1GB..64TB"]).ok().out;
    assert!(text.contains("not supported by this trace") && text.contains("cheapest that keeps the promise"), "{text}");
}

#[test]
fn what_is_wrong_is_one_sentence() {
    let place = place();
    let run = |more: &[&str]| place.run(&[&["plan", "--trace", "load.jsonl"], more].concat());
    place.file("bad.toml", b"[gpus.h100]\n\ndollars_per_hour = -1\n");
    run(&["--book", "bad.toml"]).complains(1, &["bad.toml, line 3", "must not be negative"]).once();
    run(&["--book", "none.toml"]).complains(1, &["none.toml", "cannot be read"]).once();
    run(&["--model", "gpt-2"]).complains(2, &["gpt-2", "llama-3.1-8b"]).once();
    run(&["--gpu", "abacus"]).complains(2, &["abacus", "h100"]).once();
    run(&["--prices", "free"]).complains(2, &["free", "sonnet-5"]).once();
    run(&["--speed", "2"]).complains(2, &["--sessions-per-hour"]).once();
    run(&["--sessions-per-hour", "0"]).complains(2, &["above 0"]).once();
    run(&["--prefill", "2000:0.5"]).complains(1, &["two different lengths"]).once();
    run(&["--prefill", "soon"]).complains(2, &["tokens and seconds"]).once();
    run(&["--sweep", "racks=1..2"]).complains(2, &["only gpus and nvme"]).once();
    run(&["--gpus-per-engine", "3"]).complains(1, &["do not divide"]).once();
    run(&["--model", "llama-3.1-405b", "--gpus-per-engine", "1"]).complains(1, &["leave nothing for KV"]).once();
    run(&["--model", "llama-3.1-8b", "--ttft", "0.000001"])
        .complains(1, &["no fleet keeps the promise", "--ttft"])
        .once();
    run(&["--card", "c"]).complains(2, &["--card", "--replay instant"]).once();
    run(&["--replay", "chain", "--policy", "min"]).complains(2, &["lru", "--replay instant"]).once();
}

/// The commands of the document, with its traces where they are: each answers.
#[test]
fn every_command_of_the_document_answers() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("docs/tokenomics.md")).unwrap();
    let commands: Vec<&str> = text.lines().filter(|line| line.starts_with("forebay plan ")).collect();
    assert!(commands.len() >= 7, "{commands:?}");
    let place = place();
    for command in commands {
        let words: Vec<&str> =
            command.split_whitespace().skip(1).map(|word| if word == "TRACE" { "load.jsonl" } else { word }).collect();
        assert!(words.contains(&"load.jsonl"), "{command}");
        let out = place.run(&words).ok().out;
        assert!(!out.is_empty(), "{command}");
    }
}
