//! The operator's tools, as an operator uses them: on a healthy place, on a bad one, by eye and by script.

mod support;

use serde_json::Value;
use support::Place;

fn lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn the_doctor_finds_a_place_fit_or_says_what_is_wrong_with_it() {
    let place = Place::new();
    let args = ["doctor", "--data", "drive", "--socket", "s", "--memory", "64MiB"];
    let well = place.run(&args).ok();
    assert!(well.out.contains("direct I/O") && well.out.contains("GB/s") && well.err.is_empty(), "{well:?}");
    assert!(!well.out.contains("cure: -") && !well.out.contains('\x1b'), "{well:?}");
    assert_eq!(std::fs::read_dir(place.path("")).unwrap().count(), 0, "it leaves nothing behind");

    let _node = place.serve();
    let told = lines(&place.run(&[&args[..], &["--json"]].concat()).ok().out);
    let of = |check: &str| told.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("{check}"));
    assert!(of("place")["found"].as_str().unwrap().contains("a node uses now"), "{told:?}");
    assert!(of("socket")["found"].as_str().unwrap().contains("a node listens now"), "{told:?}");
    assert!(told.iter().all(|finding| (finding["level"] == "ok") == finding["cure"].is_null()), "{told:?}");

    let bad = place.run(&["doctor", "--data", "nowhere/drive", "--socket", "nowhere/s"]);
    assert_eq!(bad.code, 1, "{bad:?}");
    assert!(bad.out.contains("cure: make its folder: `mkdir -p nowhere`") && bad.out.contains("2 of "), "{bad:?}");
    place.run(&["doctor", "--memory", "much"]).complains(2, &["--memory", "not a size"]).once();
}
