//! `forebay plan` answers what is asked of it: each question of docs/tokenomics.md by the command under it, and the first page on recorded loads.

mod support;

use support::Place;

/// The commands of the document, in their order, and what the answer to the question above each must contain.
const ANSWERS: [(&str, &[&str]); 13] = [
    ("--model llama-3.1-70b", &["difference", "half the capacity"]),
    ("--backtest", &["Back-tested on load.jsonl", "points off"]),
    ("--html", &["difference"]),
    (
        "--as provider",
        &[
            "A discount of 75 % sells cached input",
            "A discount of 95 % sells cached input",
            "margin on cached input is zero",
        ],
    ),
    ("--sessions-per-hour 24", &["Output costs", "times fresh input"]),
    ("--as builder", &["no cache", "5m", "1h", "total $"]),
    ("--as user", &["10 users may be promised", "tokens a minute each"]),
    ("--sweep nvme=1TB..16TB", &["not supported by this trace"]),
    ("--sweep gpus=8..32", &["tokens found", "\n 8 ", "\n 16 ", "of it storage"]),
    ("--sweep load=6..24", &["sessions/h", " 6  ", " 24  ", "draws of the trace's sessions"]),
    ("--hours 1", &["GB/s needed: ", "GB/s used, in the mean: "]),
    ("--draws 0", &["DRAM against NVMe: as proposed ", "with twice Forebay's DRAM ", "with twice the drives "]),
    ("stat --money", &["tokens found", "half the capacity", "Reckoned for llama-3.1-8b"]),
];

/// Each question of the document is answered by the command under it: not only with something, but with what was asked.
#[test]
fn every_command_of_the_document_answers_its_question() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let text = std::fs::read_to_string(root.join("docs/tokenomics.md")).unwrap();
    let commands: Vec<&str> = text.lines().filter(|line| line.starts_with("forebay ")).collect();
    assert_eq!(commands.len(), ANSWERS.len(), "{commands:?}");
    let place = Place::new();
    place.file("load.jsonl", support::coding_sessions(12).as_bytes());
    let _node = place.serve();
    // A namespace of a model that the book knows, with a block of 16 tokens.
    place.file("block", &[7; 4096]);
    let fingerprint = ["--fingerprint", "model=llama-3.1-8b", "--fingerprint", "block_tokens=16"];
    place.ask(&[&["namespace", "create", "kv"], &fingerprint[..]].concat()).ok();
    let put = place.ask(&["put", "--namespace", "kv", "block"]).ok().out;
    place.ask(&["get", "--namespace", "kv", put.split('\t').next().unwrap(), "--out", "back"]).ok();
    for (command, (flags, expected)) in commands.into_iter().zip(ANSWERS) {
        assert!(command.contains(flags), "{command} is not where {flags} is expected");
        let words: Vec<&str> =
            command.split_whitespace().skip(1).map(|word| if word == "TRACE" { "load.jsonl" } else { word }).collect();
        let says = |out: &str| expected.iter().all(|phrase| out.contains(phrase));
        let mut out = String::new();
        // A node's figures are those of a moment ago.
        for _ in 0..if words[0] == "stat" { 100 } else { 1 } {
            out = if words[0] == "stat" { place.ask(&words) } else { place.run(&words) }.ok().out;
            if says(&out) {
                break;
            }
            support::pause(50);
        }
        for phrase in expected {
            assert!(out.contains(phrase), "{command} does not say {phrase:?}:\n{out}");
        }
    }
}

/// The page of each recorded load: twelve lines, a difference in every row, every class of tokens, and what other capacities would find.
#[test]
fn the_first_page_of_recorded_loads_has_differences_and_all_classes() {
    let traces = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/traces");
    let place = Place::new();
    for (file, more) in [
        ("agent-sessions.jsonl.gz", &["--model", "llama-3.1-70b", "--sessions-per-hour", "40", "--hours", "1"][..]),
        ("mooncake-conversation.jsonl.gz", &["--model", "llama-3.1-8b"]),
    ] {
        let trace = traces.join(file);
        if !trace.is_file() {
            eprintln!("SKIP: ../shared/traces/{file} is not here, so its page was not looked at");
            continue;
        }
        let trace = trace.to_str().unwrap();
        let out = place.run(&[&["plan", "--draws", "0", "--trace", trace], more].concat()).ok().out;
        let page: Vec<&str> = out.lines().take_while(|line| !line.is_empty()).collect();
        assert!(page.len() <= 12, "{out}");
        assert!(
            page[1].contains("today") && page[1].contains("with Forebay") && page[1].contains("difference"),
            "{out}"
        );
        let row =
            |name: &str| *page.iter().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {out}"));
        // What stands in the last column is a change: it has a sign or is nothing.
        for name in ["first token, s", "token, ms", "$ per million"] {
            let last = row(name).rsplit("  ").next().unwrap();
            for part in last.split(", ") {
                let number = part.rsplit(' ').next().unwrap();
                assert!(number.starts_with(['+', '-']) || number.trim_matches(['0', '.']).is_empty(), "{name}: {last}");
            }
        }
        let prices = row("$ per million");
        for class in ["in ", "read ", "write ", "hold ", "out "] {
            assert!(prices.matches(class).count() >= 2, "{class}: {prices}");
        }
        let found = row("tokens found");
        for word in ["DRAM ", "drives ", "points; half the capacity: ", "now: ", "twice: "] {
            assert!(found.contains(word), "{word}: {found}");
        }
        assert!(row("binds").contains("points"), "{out}");
        // What classes cost is what the fleet costs, to the cent.
        let bill = out.lines().find(|line| line.starts_with("Prices times tokens, with Forebay, $/h: ")).unwrap();
        let dollars = |text: &str| text.trim_end_matches('.').parse::<f64>().unwrap();
        let each: f64 = ["in ", "read ", "write ", "hold ", "out "]
            .map(|name| dollars(bill.split(&format!(" {name}")).nth(1).unwrap().split(' ').next().unwrap()))
            .iter()
            .sum();
        let all = dollars(bill.split(" = ").nth(1).unwrap().split(". ").next().unwrap());
        // Five numbers rounded to the cent.
        assert!((each - all).abs() < 0.03 && row("cash").contains(&format!("{all:.2} (")), "{each} {all}: {bill}");
    }
}
