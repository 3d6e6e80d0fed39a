//! Settings from a file, the environment and flags, seen from outside.

mod support;

use support::{Node, Place, Ran};

#[test]
fn flags_win_over_the_environment_and_it_over_the_file() {
    for (flag, variable, expected) in
        [(None, None, 96), (None, Some("112MiB"), 112), (Some("128MiB"), Some("112MiB"), 128)]
    {
        let place = Place::new();
        let file = place.file(
            "forebay.toml",
            b"data = [\"drive\"]\ncapacity = \"96MiB\"\nmemory = \"64MiB\"\nsocket = \"s\"\nshards = 1\n",
        );
        let mut command = place.forebay(["serve", "--config", &file]);
        command.args(flag.map(|size| ["--capacity", size]).into_iter().flatten());
        if let Some(size) = variable {
            command.env("FOREBAY_CAPACITY", size);
        }
        let _node = Node::start(command);
        assert_eq!(std::fs::metadata(place.path("drive")).unwrap().len(), expected << 20);
    }
}

#[test]
fn a_client_finds_the_node_by_the_same_settings() {
    let place = Place::new();
    let _node = place.serve();
    let file = place.file("forebay.toml", b"socket = \"s\"\nnamespace = \"kv\"\n");
    let with = |args: &[&str]| {
        let mut command = place.forebay(args);
        command.env("FOREBAY_CONFIG", &file);
        Ran::of(command)
    };
    with(&["namespace", "create", "kv"]).ok();
    let key = with(&["put", &place.file("a", b"abc")]).ok().put_lines()[0].0.clone();
    place.ask(&["get", "--namespace", "kv", &key, "--out", &place.text("out")]).ok();
    // A flag still wins.
    with(&["get", "--namespace", "default", &key, "--out", &place.text("out")]).complains(1, &["absent"]);
}

#[test]
fn several_drives_come_from_the_environment_too() {
    let place = Place::new();
    let mut command = place.forebay(["serve", "--capacity", "96MiB", "--memory", "128MiB", "--socket", "s"]);
    command.env("FOREBAY_DATA", "one:two");
    let _node = Node::start(command);
    let stats: serde_json::Value = serde_json::from_str(&place.ask(&["stat", "--json"]).ok().out).unwrap();
    assert_eq!(stats["shards"].as_array().unwrap().len(), 2);
    assert!(place.path("one").exists() && place.path("two").exists() && place.path("one.catalog").exists());
}

#[test]
fn the_policy_comes_from_flag_environment_or_file_and_is_shown() {
    let place = Place::new();
    let file = place.file("forebay.toml", b"policy = \"s3-fifo\"\n");
    for (flag, variable, expected) in [
        (None, None, "worth"),
        (Some("lru"), None, "lru"),
        (Some("s3-fifo"), None, "s3-fifo"),
        (None, Some(("FOREBAY_POLICY", "s3-fifo")), "s3-fifo"),
        (None, Some(("FOREBAY_CONFIG", file.as_str())), "s3-fifo"),
        (Some("lru"), Some(("FOREBAY_CONFIG", file.as_str())), "lru"),
    ] {
        let mut command = place.forebay(support::SERVE);
        command.args(flag.map(|name| ["--policy", name]).into_iter().flatten()).envs(variable);
        let _node = Node::start(command);
        let stats: serde_json::Value = serde_json::from_str(&place.ask(&["stat", "--json"]).ok().out).unwrap();
        assert_eq!(stats["policy"], expected, "{flag:?} {variable:?}");
    }
    let refused = place.serve_refused(&["--policy", "random"]);
    assert!(refused.err.contains("lru, s3-fifo"), "{}", refused.err);
}

/// A GPU at ten times the rent, and a drive that may be written whole once in ten thousand days: what is found is worth ten times as much, and endurance is no
/// longer to spare.
#[test]
fn a_book_of_ones_own_changes_dollars_and_admission() {
    let fingerprint = ["--fingerprint", "model=llama-3.1-8b", "--fingerprint", "block_tokens=16"];
    let told = |more: &[&str], admission: &str| -> serde_json::Value {
        let place = Place::new();
        place.file("rent.toml", b"[gpus.h100]\ndollars_per_hour = 25\n");
        place.file("drive.toml", b"[drives.nvme]\nwrites_per_day = 0.0001\n");
        let _node = place.serve_with(more);
        place.ask(&[&["namespace", "create", "kv"], &fingerprint[..]].concat()).ok();
        let key =
            place.ask(&["put", "--namespace", "kv", &place.file("a", &[7; 1 << 20])]).ok().put_lines()[0].0.clone();
        place.ask(&["get", "--namespace", "kv", &key, "--out", &place.text("out")]).ok();
        // A node's figures are those of a moment ago.
        for _ in 0..200 {
            let told: serde_json::Value =
                serde_json::from_str(&place.ask(&["stat", "--money", "--json"]).ok().out).unwrap();
            let all = told["money"].as_array().unwrap();
            let kv = all.iter().find(|account| account["namespace"] == "kv");
            if kv.is_some_and(|kv| kv["tokens_hit"] == 16 && kv["admission"] == admission) {
                return serde_json::json!({"kv": kv, "by": told["money_by"]});
            }
            support::pause(50);
        }
        panic!("admission is never {admission}: {}", place.ask(&["stat", "--money", "--json"]).ok().out);
    };
    let default = told(&[], "endurance_to_spare");
    let ours = told(&["--book", "rent.toml", "--book", "drive.toml"], "nothing_learned");
    let of = |told: &serde_json::Value, name: &str| told["kv"][name].as_f64().unwrap();
    assert_eq!(of(&ours, "gpu_s_saved"), of(&default, "gpu_s_saved"));
    assert!((of(&ours, "dollars_saved") / of(&default, "dollars_saved") - 10.0).abs() < 1e-6, "{default} {ours}");
    // Ten thousand times the wear by the byte, ten times the worth of a second.
    assert!(of(&ours, "pays_from_share") > 100.0 * of(&default, "pays_from_share"), "{default} {ours}");
    assert!(
        default["by"].as_str().unwrap().contains("at 2.50 $/h")
            && ours["by"].as_str().unwrap().contains("at 25.00 $/h")
    );
}

#[test]
fn a_book_that_is_wrong_stops_the_start_in_one_sentence() {
    let place = Place::new();
    place.file("bad.toml", b"[gpus.h100]\n\ndollars_per_hour = -1\n");
    for (book, said) in [("bad.toml", "bad.toml, line 3"), ("none.toml", "none.toml cannot be read")] {
        place.serve_refused(&[&support::SERVE[1..], &["--book", book]].concat()).complains(2, &[said]).once();
    }
    assert!(!place.path("drive").exists());
}
