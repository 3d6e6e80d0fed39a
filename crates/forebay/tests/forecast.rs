//! `forebay plan` as a forecast: its page, its answers for programs, the four who ask, sweeps, and what is wrong in one sentence.

#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

mod support;

use serde_json::Value;
use support::Place;

fn place() -> Place {
    let place = Place::new();
    place.file("load.jsonl", support::coding_sessions(12).as_bytes());
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
    for word in [
        "The promise needs",
        "without Forebay and",
        "Of the tokens that GPU memory",
        "gpus.h100",
        "NVIDIA",
        "prices.sonnet-5",
        "assumed",
        "Halved and doubled",
        "margin",
    ] {
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

/// Whether a list's peak hours are in the margin is said, and not left to the words of a source.
#[test]
fn the_page_says_whether_peak_hours_are_counted() {
    let place = place();
    place.file("mine.toml", b"[prices.deepseek-v4-flash]\npeak_hours = \"22-4\"\n");
    let page = |more: &[&str]| {
        let flags = ["plan", "--trace", "load.jsonl", "--model", "llama-3.1-8b", "--draws", "0", "--hours", "1"];
        place.run(&[&flags[..], more].concat()).ok().out
    };
    let plain = page(&[]);
    assert!(plain.contains("Peak hours: sonnet-5 has none"), "{plain}");
    let list = ["--prices", "deepseek-v4-flash"];
    let unknown = page(&list);
    assert!(unknown.contains("Peak hours: not counted; deepseek-v4-flash takes 2 times"), "{unknown}");
    let counted = page(&[&list[..], &["--book", "mine.toml"]].concat());
    assert!(
        counted.contains("Peak hours: counted; from 22 to 4 UTC") && counted.contains("1.25 times in the mean"),
        "{counted}"
    );
}

#[test]
fn a_measured_store_takes_the_place_of_the_books_drive() {
    let place = place();
    let card = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/cards/limits.json");
    place.file("limits.json", &std::fs::read(card).unwrap());
    let flags = ["--model", "llama-3.1-8b", "--draws", "0"];
    let base = json(&place, &flags);
    let here = json(&place, &[&flags[..], &["--measured", "limits.json"]].concat());
    let rests = here["assumptions"].to_string();
    for word in ["nvme_1m_qd16", "dram_1m", "nvme_64k_qd1_p50_us", "measured 2"] {
        assert!(rests.contains(word) && !base["assumptions"].to_string().contains(word), "{word} in {rests}");
    }
    // In the place of the book's drive, not beside it.
    let read = |told: &Value| told["assumptions"].to_string().contains("read 12GB/s");
    assert!(read(&base) && !read(&here), "{rests}");
}

#[test]
fn each_who_pays_has_a_page() {
    let place = place();
    let with = |who: &[&str]| {
        let flags = ["plan", "--trace", "load.jsonl", "--as"];
        place.run(&[&flags[..], who].concat()).ok().out
    };
    let fleet = ["--model", "llama-3.1-8b", "--draws", "2"];
    let provider = with(&[&["provider"], &fleet[..]].concat());
    assert!(
        provider.contains("A discount of 95 % sells cached input at 0.100 $")
            && provider.contains("the margin on cached input is zero"),
        "{provider}"
    );
    let user = with(&[&["user", "--users", "10"], &fleet[..]].concat());
    assert!(user.contains("10 users may be promised") && user.contains("for 99 % of requests"), "{user}");
    // Without --users they are the sessions that go on at once: each is recorded to take 5 x 40 s, and 5 s for its last answer.
    let told = json(&place, &[&["--as", "user"], &fleet[..]].concat());
    let (users, rate) = (told["users"].as_f64().unwrap(), told["sessions_per_hour"].as_f64().unwrap());
    let hours = users / rate;
    assert!((205.0 / 3600.0 - hours).abs() <= 0.5 / rate, "{users} users at {rate} an hour");
    // A trace without sessions does not say.
    place.file("open.jsonl", open_load().as_bytes());
    let flags = ["plan", "--trace", "open.jsonl", "--as", "user", "--model", "llama-3.1-8b", "--draws", "0"];
    let all = place.run(&flags).ok().out;
    assert!(all.contains("All users together may be promised") && all.contains("--users N"), "{all}");
    let told: Value = serde_json::from_str(&place.run(&[&flags[..], &["--json"]].concat()).ok().out).unwrap();
    assert!(told["users"].is_null() && told["tokens_per_minute_per_user"].is_null(), "{told}");
    assert!(told["tokens_per_minute"].as_f64() > Some(0.0), "{told}");
    let builder = with(&["builder"]);
    for row in ["no cache", "5m", "1h"] {
        assert!(builder.contains(row), "{builder}");
    }
    // By hand: 12 sessions of 20,000 to 35,000 tokens, 165,000 in all, at 2 $ a million; output 12 x 6 x 255 tokens on average at 10 $.
    let bills = json(&place, &["--as", "builder"]);
    let total = bills["bills"][0]["dollars"].as_f64().unwrap();
    assert!((total - (12.0 * 165_000.0 * 2e-6 + 72.0 * 255.0 * 1e-5)).abs() < 1e-9, "{total}");
}

/// Half of the sessions never come back to a prompt, so which of them were recorded is what the provider's and the user's answers hang on.
#[test]
fn provider_and_user_are_told_how_far_to_believe_it() {
    let place = place();
    place.file("turned.jsonl", turned().as_bytes());
    let asked =
        |more: &[&str]| place.run(&[&["plan", "--trace", "turned.jsonl", "--model", "llama-3.1-8b"], more].concat());
    let told =
        |more: &[&str]| -> Value { serde_json::from_str(&asked(&[more, &["--json"]].concat()).ok().out).unwrap() };
    let ends = |of: &Value| ["low", "high"].map(|end| of[end].as_f64().unwrap_or_else(|| panic!("{of}")));
    let provider = told(&["--draws", "4", "--as", "provider"]);
    for side in ["today", "proposed"] {
        for (name, ends_of) in provider[side]["intervals"].as_object().unwrap() {
            let [low, high] = ends(ends_of);
            assert!(low <= high && provider[side][name].is_f64(), "{side} {name}: {low} to {high}");
        }
    }
    let [low, high] = ends(&provider["proposed"]["intervals"]["fresh_dollars_per_million"]);
    assert!(low < high && provider["draws"] == 4, "{provider}");
    let user = told(&["--draws", "4", "--as", "user"]);
    let [low, high] = ends(&user["intervals"]["tokens_per_minute_per_user"]);
    assert!(low < high && user["draws"] == 4, "{user}");
    for who in ["provider", "user"] {
        let page = asked(&["--draws", "2", "--as", who]).ok().out;
        assert!(
            page.contains(" to ")
                && page.contains("2 draws of the trace's sessions")
                && !page.contains("nine of ten of 2"),
            "{page}"
        );
        let page = asked(&["--draws", "0", "--as", who]).ok().out;
        assert!(page.contains("No interval: ask for one with --draws 10"), "{page}");
    }
}

#[test]
fn sweeps_choose_the_cheapest_fleet_that_holds_and_none_the_trace_cannot_speak_of() {
    let place = place();
    let told = json(&place, &["--model", "llama-3.1-8b", "--sweep", "gpus=8..16", "--sweep", "nvme=1GB..64TB"]);
    let points = told["sweep"].as_array().unwrap();
    let of = |name: &str| points.iter().filter(|point| point[name] == true).count();
    assert_eq!(of("cheapest"), 1);
    // Nine of ten draws lie around each point, and not all in one place.
    for point in points {
        for (name, ends) in [("goodput", "goodput_interval"), ("hit_rate", "hit_rate_interval")] {
            let [low, high] = ["low", "high"].map(|end| point[ends][end].as_f64().unwrap());
            assert!(low <= high && (0.0..=1.0).contains(&low) && (0.0..=1.0).contains(&high), "{name} {point}");
        }
    }
    // Where sessions differ, so do the draws.
    place.file("turned.jsonl", turned().as_bytes());
    let args = ["plan", "--trace", "turned.jsonl", "--json", "--model", "llama-3.1-8b", "--sweep", "gpus=8..8"];
    let told: Value = serde_json::from_str(&place.run(&args).ok().out).unwrap();
    let ends = &told["sweep"][0]["hit_rate_interval"];
    assert!(ends["high"].as_f64().unwrap() > ends["low"].as_f64().unwrap() + 0.05, "{told}");
    assert!(of("supported") > 0 && of("supported") < points.len());
    let chosen = points.iter().find(|point| point["cheapest"] == true).unwrap();
    assert!(chosen["supported"] == true && chosen["meets"] == true);
    let text =
        place.run(&["plan", "--trace", "load.jsonl", "--model", "llama-3.1-8b", "--sweep", "nvme=1GB..64TB"]).ok().out;
    assert!(text.contains("not supported by this trace") && text.contains("cheapest that keeps the promise"), "{text}");
    // Where the trace can speak of none, it is said what to ask instead, and that is an answer.
    let all = ["plan", "--trace", "load.jsonl", "--model", "llama-3.1-8b", "--draws", "0", "--sweep", "gpus=8..16"];
    let text = place.run(&all).ok().out;
    let instead = text.split("Ask of less as well: ").nth(1).unwrap_or_else(|| panic!("{text}")).trim();
    let text = place.run(&[&all[..], &instead.split(' ').collect::<Vec<_>>()[..]].concat()).ok().out;
    assert!(!text.contains("Ask of less") && text.contains("cheapest that keeps the promise"), "{text}");
}

/// Between doubled fleets the sweep looks on by whole servers: what it chooses is what the first page proposes. Drives larger than the trace can speak of are
/// cheaper by the servers they release, and are not chosen.
#[test]
fn the_sweep_chooses_the_fleet_that_the_first_page_proposes() {
    let place = place();
    place.file("small.toml", b"[drives.nvme]\ncapacity = \"500MB\"\ncapacity_source = \"a guess\"\n");
    let flags = "--draws 0 --model llama-3.1-70b --sessions-per-hour 3000 --hours 0.5 --book small.toml";
    let flags: Vec<&str> = flags.split(' ').collect();
    let page = json(&place, &flags);
    let servers = page["proposed"]["servers"].as_u64().unwrap();
    assert!(servers > 2 && !servers.is_power_of_two(), "a fleet between doubled ones, not {servers}");
    let swept = json(&place, &[&flags[..], &["--sweep", "gpus=8..64"]].concat());
    let points = swept["sweep"].as_array().unwrap();
    let chosen = points.iter().find(|point| point["cheapest"] == true).unwrap_or_else(|| panic!("{swept}"));
    assert_eq!(chosen["gpus"].as_u64().unwrap(), servers * 8, "{swept}");
    // 12 sessions of at most 34,816 tokens are 137 GB of KV at 70B, and no larger drive is chosen, whatever the load.
    let gpus = format!("gpus={0}..{0}", servers * 8);
    let swept = json(&place, &[&flags[..], &["--sweep", gpus.as_str(), "--sweep", "nvme=16GB..1TB"]].concat());
    for point in swept["sweep"].as_array().unwrap() {
        let fits = point["nvme_bytes"].as_f64().unwrap() <= 137e9 * 2.0 / 0.9;
        assert!(fits || (point["supported"] == false && point["cheapest"] == false), "{point}");
    }
}

#[test]
fn more_load_is_swept_too_and_is_nobodys_choice() {
    let place = place();
    let told = json(&place, &["--model", "llama-3.1-8b", "--draws", "2", "--sweep", "load=6..48"]);
    let points = told["sweep"].as_array().unwrap();
    let rates: Vec<f64> = points.iter().map(|point| point["sessions_per_hour"].as_f64().unwrap()).collect();
    assert_eq!(rates, [6.0, 12.0, 24.0, 48.0]);
    assert!(points.iter().all(|point| point["cheapest"] == false));
}

#[test]
fn a_forecasts_card_comes_out_the_same_to_the_digit_without_its_books() {
    let place = place();
    place.file("mine.toml", b"[gpus.h100]\ndollars_per_hour = 5.0\ndollars_per_hour_source = \"our contract\"\n");
    let flags = [
        "--model",
        "llama-3.1-8b",
        "--draws",
        "2",
        "--hours",
        "1.5",
        "--book",
        "mine.toml",
        "--prefill",
        "2000:0.5",
        "40000:20",
    ];
    place.run(&[&["plan", "--trace", "load.jsonl", "--card", "c"], &flags[..]].concat()).ok();
    std::fs::remove_file(place.path("mine.toml")).unwrap();
    let again = place.run(&["plan", "--replay-card", "c"]).ok();
    assert!(again.err.contains("the same to the digit") && again.out.contains("our contract"), "{again:?}");
    let card = std::fs::read_to_string(place.path("c")).unwrap();
    assert!(card.contains("\"servers\": 1"), "{card}");
    place.file("c2", card.replace("\"servers\": 1", "\"servers\": 7").as_bytes());
    place.run(&["plan", "--replay-card", "c2"]).complains(1, &["c2", "today.servers was 7 and is 1"]).once();
}

/// A hundred requests at absolute times, three seconds apart, of eight families.
fn open_load() -> String {
    let request = |i: u64| {
        let ids: Vec<u64> = (0..8).map(|k| i % 8 * 100 + k).collect();
        format!(r#"{{"timestamp":{},"input_length":4096,"output_length":100,"hash_ids":{ids:?}}}"#, i * 3000)
    };
    (0..100).map(request).collect::<Vec<_>>().join("\n")
}

/// Twelve sessions, in the second half of which nobody ever comes back to a prompt.
fn turned() -> String {
    let alike = support::coding_sessions(6);
    let other = alike.lines().enumerate().map(|(i, line)| {
        let mut session: Value = serde_json::from_str(line).unwrap();
        for (k, request) in session["requests"].as_array_mut().unwrap().iter_mut().enumerate() {
            let from = 1_000_000 * (k as u64 + 1);
            let count = request["hash_ids"].as_array().unwrap().len() as u64;
            request["hash_ids"] = (from..from + count).collect::<Vec<_>>().into();
        }
        session["id"] = format!("other{i}").into();
        session.to_string()
    });
    alike.lines().map(str::to_owned).chain(other).collect::<Vec<_>>().join("\n")
}

/// The sessions of both halves are alike but for their answers, so the forecast is near; a second half of other sessions makes it far.
#[test]
fn a_back_test_tells_how_far_off_the_forecast_is() {
    let place = place();
    let flags = ["--model", "llama-3.1-8b", "--draws", "0"];
    let near = json(&place, &[&flags[..], &["--backtest", "load.jsonl"]].concat());
    let off = |told: &Value| {
        let rate = &told["back_tested"]["hit_rate"];
        (rate["forecast"].as_f64().unwrap() - rate["later"].as_f64().unwrap()).abs()
    };
    assert_eq!((near["back_tested"]["known"].as_u64(), near["back_tested"]["later"].as_u64()), (Some(6), Some(6)));
    assert!(off(&near) < 0.05, "{near}");
    place.file("turned.jsonl", turned().as_bytes());
    let far = json(&place, &[&flags[..], &["--backtest", "turned.jsonl"]].concat());
    assert!(off(&far) > 0.5, "{far}");
    let page =
        place.run(&[&["plan", "--trace", "load.jsonl", "--backtest", "turned.jsonl"], &flags[..]].concat()).ok().out;
    assert!(
        page.contains("back-tested: ")
            && page.contains("Back-tested on turned.jsonl, the second half (6) from the first (6)"),
        "{page}"
    );
    assert!(!page.contains("not back-tested"), "{page}");
    assert!(page.lines().take_while(|line| !line.is_empty()).count() <= 12, "{page}");
}

/// A drive that may be written once in thousand days is written much faster: the page says what that means, and in how many months it is worn.
#[test]
fn a_stranger_understands_what_too_much_writing_means() {
    let place = place();
    place.file("worn.toml", b"[drives.nvme]\nwrites_per_day = 0.001\nwrites_per_day_source = \"a guess\"\n");
    let flags = ["plan", "--trace", "load.jsonl", "--model", "llama-3.1-8b", "--draws", "0", "--book", "worn.toml"];
    let page = place.run(&flags).ok().out;
    assert!(page.contains("x too fast") && !page.contains("endurance 1"), "{page}");
    assert!(page.contains("times as fast as they are rated for over") && page.contains("months"), "{page}");
}

#[test]
fn what_is_wrong_is_one_sentence() {
    let place = place();
    let run = |more: &[&str]| place.run(&[&["plan", "--trace", "load.jsonl"], more].concat());
    place.file("bad.toml", b"[gpus.h100]\n\ndollars_per_hour = -1\n");
    run(&["--book", "bad.toml"]).complains(1, &["bad.toml, line 3", "must not be negative"]).once();
    run(&["--book", "none.toml"]).complains(1, &["none.toml", "cannot be read"]).once();
    run(&["--measured", "none.json"]).complains(1, &["none.json", "cannot be read"]).once();
    run(&["--measured", "load.jsonl"]).complains(1, &["load.jsonl", "bench limits --card"]).once();
    run(&["--model", "gpt-2"]).complains(2, &["gpt-2", "llama-3.1-8b"]).once();
    run(&["--gpu", "abacus"]).complains(2, &["abacus", "h100"]).once();
    run(&["--prices", "free"]).complains(2, &["free", "sonnet-5"]).once();
    run(&["--speed", "2"]).complains(2, &["--sessions-per-hour"]).once();
    run(&["--sessions-per-hour", "0"]).complains(2, &["above 0"]).once();
    run(&["--prefill", "2000:0.5"]).complains(1, &["two different lengths"]).once();
    run(&["--prefill", "soon"]).complains(2, &["tokens and seconds"]).once();
    run(&["--sweep", "racks=1..2"]).complains(2, &["only gpus, nvme and load"]).once();
    run(&["--gpus-per-engine", "3"]).complains(1, &["do not divide"]).once();
    run(&["--model", "llama-3.1-405b", "--gpus-per-engine", "1"]).complains(1, &["leave nothing for KV"]).once();
    run(&["--model", "llama-3.1-8b", "--ttft", "0.000001"])
        .complains(1, &["no fleet keeps the promise", "--ttft"])
        .once();
    run(&["--card", "c", "--as", "user"]).complains(2, &["--card", "owner's first page"]).once();
    run(&["--html", "p", "--as", "builder"]).complains(2, &["--html", "owner's first page"]).once();
    // Before anything is reckoned: a forecast that cannot be shown is not made, and no empty page is left where one can.
    run(&["--html", "no/folder/p.html", "--ttft", "0.000001"])
        .complains(1, &["no/folder/p.html", "cannot be written"])
        .once();
    run(&["--html", "p.html", "--ttft", "0.000001"]).complains(1, &["no fleet keeps the promise"]).once();
    assert!(!place.path("p.html").exists());
    run(&["--backtest", "none", "--model", "llama-3.1-8b", "--draws", "0"]).complains(1, &["none"]).once();
    place.file("two.jsonl", support::coding_sessions(2).as_bytes());
    run(&["--backtest", "two.jsonl", "--model", "llama-3.1-8b", "--draws", "0"])
        .complains(1, &["two.jsonl", "2 sessions", "two in each half"])
        .once();
    run(&["--replay", "chain", "--policy", "min"]).complains(2, &["lru", "--replay instant"]).once();
}
