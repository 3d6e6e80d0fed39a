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
