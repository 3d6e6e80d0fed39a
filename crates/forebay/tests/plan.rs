//! `forebay plan` as a person runs it: small traces worked by hand, cards, and what is wrong with a trace in one sentence with its line.

#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

mod support;

use std::io::Write;

use serde_json::Value;
use support::Place;

/// Four prompts of 512-token blocks; the last id of each stands for a partial block.
const CHAT: &str = r#"{"timestamp":0,"input_length":1030,"output_length":1,"hash_ids":[1,2,3]}
{"timestamp":3000,"input_length":600,"output_length":1,"hash_ids":[8,9]}
{"timestamp":6000,"input_length":1536,"output_length":1,"hash_ids":[1,2,4]}
{"timestamp":9000,"input_length":1030,"output_length":1,"hash_ids":[1,2,3]}
"#;

fn plan(place: &Place, more: &[&str]) -> Value {
    let args = [&["plan", "--trace", "t", "--replay", "instant", "--json"], more].concat();
    serde_json::from_str(&place.run(&args).ok().out).unwrap()
}

/// Everything fits: of 3 + 2 + 3 + 3 blocks, 1 and 2 are found by the third request and 1, 2, 3 by the fourth: 5 of 11. Tokens: 1,024 each (3 is
/// partial: 1,030 tokens fill two blocks), of 4,196 in all.
#[test]
fn a_replay_answers_what_scripts_read() {
    let place = Place::new();
    place.file("t", CHAT.as_bytes());
    for policy in ["lru", "s3fifo", "sieve", "gdsf", "worth", "min", "clairvoyant"] {
        let out = plan(&place, &["--policy", policy, "--capacity", "100%", "--bound"]);
        assert!(out["gpu_seconds_upper_bound"].as_f64() >= out["gpu_seconds_saved"].as_f64());
        assert_eq!((out["policy"].as_str(), out["capacity_blocks"].as_u64()), (Some(policy), Some(6)));
        assert_eq!((out["hit_blocks"].as_u64(), out["blocks"].as_u64()), (Some(5), Some(11)));
        let is = |name: &str, rate: f64| (out[name].as_f64().unwrap() - rate).abs() < 1e-12;
        assert!(is("hit_rate", 5.0 / 11.0) && is("token_hit_rate", 2048.0 / 4196.0), "{out}");
        let (saved, total) = (out["gpu_seconds_saved"].as_f64().unwrap(), out["gpu_seconds_total"].as_f64().unwrap());
        assert!(saved > 0.0 && saved < total, "{saved} {total}");
    }
    // 327,680 B a token of the 70B model: a block of 512 is 160 MiB, so 1 GiB is six of them; 8B's are 64 MiB.
    assert_eq!(plan(&place, &["--policy", "lru", "--capacity", "1GiB"])["capacity_blocks"], 6);
    let small = plan(&place, &["--policy", "lru", "--capacity", "1GiB", "--model", "llama-3.1-8b"]);
    assert_eq!(small["capacity_blocks"], 16);
    // LRU of two: the second request leaves [8 9]; the third [1 2] of [1 2 4]; the fourth finds those two.
    assert_eq!(plan(&place, &["--policy", "lru", "--capacity", "34%"])["hit_blocks"], 2);
    let people = place.run(&["plan", "--trace", "t", "--policy", "lru", "--capacity", "100%"]).ok().out;
    assert!(people.contains("45.45 %") && people.contains("GPU seconds saved"), "{people}");
}

/// 100 prompts of a block each, asked twice over. A drive of 80 blocks is 16 segments of five (each prompt has a partial block behind it, so 200 distinct).
#[test]
fn a_drive_of_segments_tells_what_it_wrote() {
    let place = Place::new();
    let line = |i: u64| {
        let id = 10 * (i % 100);
        format!(
            r#"{{"timestamp":{},"input_length":600,"output_length":1,"hash_ids":[{},{}]}}"#,
            i * 3000,
            id + 1,
            id + 2
        )
    };
    place.file("t", (0..200).map(line).collect::<Vec<_>>().join("\n").as_bytes());
    let told = plan(&place, &["--policy", "lru", "--capacity", "40%", "--mode", "segments", "--segments", "16"]);
    assert_eq!((told["segments"].as_u64(), told["segment_blocks"].as_u64()), (Some(16), Some(5)));
    // A loop longer than the drive: nothing is found, everything is written once each time.
    assert_eq!((told["hit_blocks"].as_u64(), told["put_blocks"].as_u64()), (Some(0), Some(400)));
    let amplification = told["write_amplification"].as_f64().unwrap();
    assert!((1.0..=1.34).contains(&amplification), "{told}");
    let ideal = plan(&place, &["--policy", "lru", "--capacity", "100%"]);
    assert!(ideal.get("segments").is_none());
    // Of half and twice as much the curve speaks, which is one of blocks that leave one by one.
    assert!(ideal["hit_rate_by_capacity"]["half"].is_f64() && told.get("hit_rate_by_capacity").is_none(), "{told}");
    let args = ["plan", "--trace", "t", "--replay", "instant", "--mode", "segments", "--capacity"];
    let with = |more: &[&str]| place.run(&[&args[..], more].concat());
    with(&["10%", "--policy", "lru"]).complains(1, &["20 blocks", "16 segments of 4 blocks"]).once();
    with(&["40%", "--policy", "gdsf"]).complains(2, &["gdsf", "lru and worth"]).once();
    place.run(&["plan", "--trace", "t", "--mode", "segments"]).complains(2, &["--mode", "--replay instant"]).once();
    place.run(&[&args[..], &["40%", "--policy", "worth", "--card", "c"]].concat()).ok();
    assert!(place.run(&["plan", "--replay-card", "c"]).ok().err.contains("the same to the digit"));
}

#[test]
fn a_card_comes_out_the_same_to_the_digit_and_says_when_it_does_not() {
    let place = Place::new();
    place.file("t", CHAT.as_bytes());
    place.run(&["plan", "--trace", "t", "--policy", "gdsf", "--capacity", "50%", "--card", "c"]).ok();
    let again = place.run(&["plan", "--replay-card", "c"]).ok();
    assert!(again.err.contains("the same to the digit"), "{again:?}");
    let card = std::fs::read_to_string(place.path("c")).unwrap();
    let saved: Value = serde_json::from_str(&card).unwrap();
    let saved = saved["result"]["gpu_seconds_saved"].to_string();
    // The last digit is another.
    let last = saved.chars().last().unwrap();
    let other = format!("{}{}", &saved[..saved.len() - 1], if last == '1' { '2' } else { '1' });
    place.file("c2", card.replace(&saved, &other).as_bytes());
    place.run(&["plan", "--replay-card", "c2"]).complains(1, &["c2", "gpu_seconds_saved", &saved, &other]).once();
    place.file("t", CHAT.replace("[8,9]", "[8,7]").as_bytes());
    place.run(&["plan", "--replay-card", "c"]).complains(1, &["another file", "--trace", "CRC-32"]).once();
    place.file("c3", b"{}");
    place.run(&["plan", "--replay-card", "c3"]).complains(1, &["c3", "no card of `plan`"]).once();
    place.run(&["plan", "--replay-card", "none"]).complains(1, &["none", "cannot be read"]).once();
}

#[test]
fn what_is_wrong_with_a_trace_is_one_sentence_with_its_line() {
    let place = Place::new();
    let lines: Vec<&str> = CHAT.lines().collect();
    let session = r#"{"id":"s","models":["m"],"block_size":64,"requests":[{"t":0,"in":130,"out":1,"hash_ids":[1,2]}]}"#;
    let cases: [(&str, String, &[&str]); 8] = [
        ("empty", String::new(), &["holds no request"]),
        ("cut", CHAT[..CHAT.len() - 20].to_owned(), &["line 4", "EOF"]),
        ("unordered", format!("{}\n{}\n", lines[1], lines[0]), &["line 2", "before the line it follows"]),
        ("mixed", format!("{session}\n{}\n", session.replace(":64", ":32")), &["line 2", "block_size is 32"]),
        ("both", format!("{session}\n{}\n", lines[0]), &["line 2", "block_size"]),
        ("ids", CHAT.replace("[8,9]", "[8,9,10]"), &["line 2", "3 hash_ids for 600 tokens"]),
        ("huge", CHAT.replace("600", "9999999999999"), &["line 2", "9999999999999 prompt tokens"]),
        ("prose", "hello\n".to_owned(), &["line 1"]),
    ];
    for (name, text, words) in cases {
        place.file(name, text.as_bytes());
        let ran = place.run(&["plan", "--trace", name, "--policy", "lru", "--capacity", "5%", "--json"]);
        ran.complains(1, &[words, &[name]].concat()).once();
    }
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(CHAT.as_bytes()).unwrap();
    let bytes = packed.finish().unwrap();
    place.file("cut.gz", &bytes[..bytes.len() / 2]);
    place.run(&["plan", "--trace", "cut.gz", "--policy", "lru", "--capacity", "5%"]).complains(1, &["cut.gz", "line"]);
    place
        .run(&["plan", "--trace", "none", "--policy", "lru", "--capacity", "5%"])
        .complains(1, &["none", "check its path"]);
    place.run(&["plan", "--trace", ".", "--policy", "lru", "--capacity", "5%"]).complains(1, &["is a directory"]);
}

#[test]
fn what_is_typed_wrong_is_said_before_anything_is_read() {
    let place = Place::new();
    place.file("t", CHAT.as_bytes());
    fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["plan", "--trace", "t"], more].concat()
    }
    place.run(&with(&["--policy", "mru", "--capacity", "5%"])).complains(2, &["mru", "s3fifo"]).once();
    place.run(&with(&["--policy", "lru", "--capacity", "5"])).complains(2, &["--capacity", "no unit"]).once();
    place.run(&with(&["--policy", "lru", "--capacity", "101%"])).complains(2, &["between 0% and 100%"]).once();
    place.run(&with(&["--policy", "lru"])).complains(2, &["--capacity"]).once();
    place
        .run(&with(&["--policy", "lru", "--capacity", "5%", "--model", "gpt-2"]))
        .complains(2, &["gpt-2", "llama-3.1-70b"])
        .once();
    place
        .run(&with(&["--policy", "lru", "--capacity", "5%", "--chunk-tokens", "700"]))
        .complains(2, &["700", "512"])
        .once();
    place.run(&["plan", "--policy", "lru", "--capacity", "5%"]).complains(2, &["--trace"]).once();
    place.run(&["plan"]).complains(2, &["--trace"]).once();
}

/// A flag that would be ignored is refused: whoever typed `--html` waits for a page, whoever typed `--as provider` believes the answer is for providers.
#[test]
fn what_means_nothing_to_a_run_is_refused_in_one_sentence() {
    let place = Place::new();
    place.file("t", CHAT.as_bytes());
    let run = |more: &[&str]| place.run(&[&["plan", "--trace", "t"], more].concat());
    let lru = ["--policy", "lru", "--capacity", "5%"];
    for (flag, value) in [
        ("--html", "page.html"),
        ("--as", "provider"),
        ("--sweep", "gpus=8..16"),
        ("--backtest", "nofile"),
        ("--measured", "nofile"),
        ("--sessions-per-hour", "9"),
        ("--draws", "10"),
        ("--prefill", "2000:0.3"),
        ("--users", "3"),
    ] {
        run(&[&lru[..], &[flag, value]].concat()).complains(2, &[flag, "belongs to a forecast"]).once();
    }
    run(&[&lru[..], &["--segments", "32"]].concat()).complains(2, &["--segments", "--mode segments"]).once();
    assert!(!place.path("page.html").exists());
    for (flag, value) in [("--capacity", "5%"), ("--segments", "32")] {
        run(&["--replay", "chain", flag, value]).complains(2, &[flag, "--replay instant"]).once();
    }
    run(&["--bound"]).complains(2, &["--bound", "--replay instant"]).once();
    run(&["--users", "3"]).complains(2, &["--users", "--as user"]).once();
    run(&["--as", "provider", "--sweep", "gpus=8..16"]).complains(2, &["--sweep", "leave --as out"]).once();
    run(&["--as", "builder", "--ttft", "3"]).complains(2, &["--ttft", "--as builder"]).once();
    run(&[&lru[..], &["--card", "c"]].concat()).ok();
    place.run(&["plan", "--replay-card", "c", "--model", "glm-5.2"]).complains(2, &["--model", "--replay-card"]).once();
}

/// A model of one's own: two layers of one head of 64 in bf16 are 512 B a token, 262,144 B a block of 512; of 8 MiB that is 32.
#[test]
fn a_replay_reads_books_of_ones_own() {
    let place = Place::new();
    place.file("t", CHAT.as_bytes());
    let ours = "[models.ours]\nsource = \"our config.json\"\nlayers = 2\nhidden = 512\nheads = 8\nkv_heads = 1\nhead_size = 64\nffn = 2048\nvocab = 32000\n";
    place.file("mine.toml", format!("{ours}weight_dtype = \"bf16\"\nkv_dtype = \"bf16\"\n").as_bytes());
    let flags = ["--policy", "lru", "--capacity", "8MiB", "--model", "ours", "--book", "mine.toml"];
    let told = plan(&place, &flags);
    assert_eq!((told["model"].as_str(), told["capacity_blocks"].as_u64()), (Some("ours"), Some(32)), "{told}");
    // Half the peak, twice the seconds, but for the fixed part of each step.
    place.file("slow.toml", b"[gpus.h100]\npeak = \"494.5TFLOP/s\"\n");
    let flags = ["--policy", "lru", "--capacity", "100%"];
    let total = |told: &Value| told["gpu_seconds_total"].as_f64().unwrap() - 4.0 * 0.005;
    let (fast, slow) = (plan(&place, &flags), plan(&place, &[&flags[..], &["--book", "slow.toml"]].concat()));
    assert!((total(&slow) / total(&fast) - 2.0).abs() < 1e-9, "{fast} {slow}");
    // Its card needs no book.
    place.run(&[&["plan", "--trace", "t", "--book", "slow.toml", "--card", "c"], &flags[..]].concat()).ok();
    std::fs::remove_file(place.path("slow.toml")).unwrap();
    assert!(place.run(&["plan", "--replay-card", "c"]).ok().err.contains("the same to the digit"));
    place.file("bad.toml", b"[gpus.h100]\n\ndollars_per_hour = -1\n");
    let run = |more: &[&str]| place.run(&[&["plan", "--trace", "t"], &flags[..], more].concat());
    run(&["--book", "bad.toml"]).complains(1, &["bad.toml, line 3", "must not be negative"]).once();
    run(&["--book", "none.toml"]).complains(1, &["none.toml", "cannot be read"]).once();
    run(&["--gpu", "abacus"]).complains(2, &["abacus", "h100"]).once();
}

/// What drifted between a card's result and the same run now: numbers by nine digits, since logarithms of other machines may end otherwise. Words of
/// assumptions may change.
fn drifted(was: &Value, is: &Value, at: &str, told: &mut Vec<String>) {
    match (was, is) {
        (Value::Object(was), Value::Object(is)) => {
            for (name, was) in was.iter().filter(|(name, _)| *name != "assumptions" && *name != "trace") {
                drifted(was, is.get(name).unwrap_or(&Value::Null), &format!("{at}.{name}"), told);
            }
        }
        (Value::Array(was), Value::Array(is)) if was.len() == is.len() => {
            was.iter().zip(is).enumerate().for_each(|(i, (was, is))| drifted(was, is, &format!("{at}[{i}]"), told));
        }
        (Value::Number(was), Value::Number(is)) => {
            let (a, b) = (was.as_f64().unwrap(), is.as_f64().unwrap());
            if (a - b).abs() > 1e-9 * a.abs().max(b.abs()) {
                told.push(format!("{at} was {was} and is {is}"));
            }
        }
        _ if was == is => {}
        _ => told.push(format!("{at} was {was} and is {is}")),
    }
}

/// Cards of a small load, six sessions with pauses of 5, 40 and 400 s: what a forecast says does not drift unseen. Who means a change writes them anew with
/// FOREBAY_WRITE_GOLDEN=1, looks at the difference, and says in the commit why the numbers are others.
#[test]
fn the_golden_cards_have_not_drifted() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let place = Place::new();
    place.file("load.jsonl", &std::fs::read(golden.join("load.jsonl")).unwrap());
    let mut told = Vec::new();
    for name in ["chain.json", "own-book.json", "instant.json"] {
        let mut card: Value = serde_json::from_slice(&std::fs::read(golden.join(name)).unwrap()).unwrap();
        let mut flags = vec!["plan", "--trace", "load.jsonl", "--json"];
        flags.extend(card["flags"].as_array().unwrap().iter().map(|flag| flag.as_str().unwrap()));
        for book in card["books"].as_array().into_iter().flatten() {
            place.file("own.toml", book[1].as_str().unwrap().as_bytes());
            flags.extend(["--book", "own.toml"]);
        }
        let mut now: Value = serde_json::from_str(&place.run(&flags).ok().out).unwrap();
        if std::env::var_os("FOREBAY_WRITE_GOLDEN").is_some() {
            now.as_object_mut().unwrap().remove("assumptions");
            card["result"] = now;
            std::fs::write(golden.join(name), serde_json::to_string_pretty(&card).unwrap() + "\n").unwrap();
            continue;
        }
        drifted(&card["result"], &now, name, &mut told);
    }
    assert!(told.is_empty(), "{}", told.join("\n"));
}
