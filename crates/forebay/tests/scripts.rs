//! The contract for scripts: what each verb takes, prints and answers, from outside, as a shell sees it.

mod support;

use support::{Place, bytes};

#[test]
fn files_go_in_by_content_and_come_back_by_key() {
    let place = Place::new();
    let _node = place.serve();
    let (small, large) = (bytes(1, 1), bytes(2, 1_000_000));
    let files = [place.file("small", &small), place.file("large", &large), place.file("same", &small)];

    let put = place.ask(&["put", "--namespace", "default", &files[0], &files[1], &files[2]]).ok();
    let lines = put.put_lines();
    assert_eq!(lines.iter().map(|(_, file)| file.as_str()).collect::<Vec<_>>(), files);
    assert!(
        lines.iter().all(|(key, _)| key.len() == 32 && key.chars().all(|c| c.is_ascii_hexdigit() && !c.is_uppercase()))
    );
    assert_eq!(lines[0].0, lines[2].0, "equal content has one key");
    assert_ne!(lines[0].0, lines[1].0);
    assert_eq!(put.err, "");

    let again = place.ask(&["put", &files[0], "--json"]).ok();
    let told: serde_json::Value = serde_json::from_str(again.out.trim()).unwrap();
    assert_eq!((told["outcome"].as_str(), told["key"].as_str()), (Some("exists"), Some(lines[0].0.as_str())));

    let out = place.text("out/deep");
    place.ask(&["get", "--namespace", "default", &lines[0].0, &lines[1].0, "--out", &out]).ok();
    assert_eq!(std::fs::read(format!("{out}/{}", lines[0].0)).unwrap(), small);
    assert_eq!(std::fs::read(format!("{out}/{}", lines[1].0)).unwrap(), large);
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 2, "nothing else is left in the folder");
}

#[test]
fn a_get_of_what_is_missing_brings_the_rest_and_says_why() {
    let place = Place::new();
    let _node = place.serve();
    let put = place.ask(&["put", &place.file("a", b"abc")]).ok();
    let key = &put.put_lines()[0].0;
    let absent = "0".repeat(32);
    let get = place.ask(&["get", &absent, key, "--out", &place.text("out")]);
    let get = get.complains(1, &[&absent, "absent"]).once();
    assert_eq!(get.out, "");
    assert_eq!(std::fs::read(place.path("out").join(key)).unwrap(), b"abc");
    assert!(!place.path("out").join(&absent).exists());
    let json = place.ask(&["get", &absent, key, "--out", &place.text("out"), "--json"]);
    let lines: Vec<serde_json::Value> = json.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().any(|line| line["outcome"] == "hit" && line["key"] == key.as_str() && line["bytes"] == 3));
    assert!(lines.iter().any(|line| line["outcome"] == "miss" && line["reason"] == "absent"));
}

#[test]
fn a_put_of_what_cannot_be_a_block_keeps_the_rest() {
    let place = Place::new();
    let _node = place.serve();
    let (empty, good) = (place.file("empty", b""), place.file("good", b"good"));
    // Segments are 4 MiB here, and the largest block is a quarter of one.
    let large = place.file("large", &bytes(3, (1 << 20) + 1));
    let folder = place.text(".");
    let put = place.ask(&["put", &empty, &good, &large, &folder, &place.text("nothing")]);
    let put = put.complains(1, &[&empty, "at least 1 byte"]).complains(1, &[&large, "too_large", "--segment"]);
    let put = put.complains(1, &["is a folder"]).complains(1, &["nothing cannot be read"]);
    assert_eq!(put.put_lines().len(), 1);
    assert_eq!(put.put_lines()[0].1, good);
}

#[test]
fn a_block_over_every_limit_is_told_before_it_is_read() {
    let place = Place::new();
    let _node = place.serve();
    let file = place.file("huge", b"");
    std::fs::File::options().write(true).open(&file).unwrap().set_len((64 << 20) + 1).unwrap();
    place.ask(&["put", &file]).complains(1, &["huge has 64 MiB", "at most 64 MiB", "split it"]).once();
}

#[test]
fn namespaces_are_made_listed_and_deleted() {
    let place = Place::new();
    let _node = place.serve();
    let make = ["namespace", "create", "kv", "--class", "durable", "--quota", "8MiB", "--ttl", "7d"];
    let make = [&make[..], &["--fingerprint", "model=tiny"]].concat();
    place.ask(&make).ok();
    place.ask(&make).ok();
    let list = place.ask(&["namespace", "list", "--json"]).ok();
    let rows: Vec<serde_json::Value> = list.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = rows.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["default", "kv"]);
    assert_eq!(rows[1]["class"], "durable");
    assert_eq!(rows[1]["quota_bytes"], 8 << 20);
    assert_eq!(rows[1]["ttl_s"], 7 * 86_400);
    assert_eq!(rows[1]["fingerprint"]["model"], "tiny");
    assert!(!list.out.contains("secret"));
    let shown = place.ask(&["namespace", "list"]).ok();
    assert!(
        shown.out.contains("8 MiB")
            && shown.out.contains("7d")
            && shown.out.contains("model=tiny")
            && !shown.out.contains('\x1b'),
        "{}",
        shown.out
    );

    let key = place.ask(&["put", "--namespace", "kv", &place.file("a", b"abc")]).ok().put_lines()[0].0.clone();
    place.ask(&["get", &key, "--out", &place.text("o")]).complains(1, &[&key, "absent"]);
    place.ask(&["get", "--namespace", "kv", &key, "--out", &place.text("o")]).ok();
    let brief = place.file("brief", b"not for long");
    let brief = place.ask(&["put", "--namespace", "kv", "--ttl", "2s", &brief]).ok().put_lines()[0].0.clone();
    for _ in 0..10_000 {
        if place.ask(&["get", "--namespace", "kv", &brief, "--out", &place.text("o")]).err.contains("expired") {
            break;
        }
    }
    place.ask(&["get", "--namespace", "kv", &brief, "--out", &place.text("o")]).complains(1, &[&brief, "expired"]);
    place.ask(&["put", "--ttl", "soon", "x"]).complains(2, &["12h"]);
    place.ask(&["namespace", "delete", "kv"]).ok();
    place
        .ask(&["get", "--namespace", "kv", &key, "--out", &place.text("o")])
        .complains(1, &["no namespace \"kv\"", "create"]);
}

#[test]
fn what_a_node_holds_is_told_to_people_and_to_programs() {
    let place = Place::new();
    let _node = place.serve();
    place.ask(&["put", &place.file("a", b"abc")]).ok();
    let stat = place.ask(&["stat", "--json"]).ok();
    assert_eq!(stat.out.lines().count(), 1);
    let stats: serde_json::Value = serde_json::from_str(&stat.out).unwrap();
    assert_eq!(stats["shards"].as_array().unwrap().len(), 1);
    assert_eq!(stats["put"]["asked"], 1);
    let shown = place.ask(&["stat"]).ok();
    assert!(shown.out.contains("put.asked") && shown.out.contains("shards"), "{}", shown.out);
}

#[test]
fn a_bench_reports_and_leaves_nothing() {
    let place = Place::new();
    let _node = place.serve();
    let flags = ["bench", "--size", "64KiB", "--blocks", "32", "--threads", "2", "--seconds", "1"];
    let told = place.ask(&[&flags[..], &["--json"]].concat()).ok();
    let told: serde_json::Value = serde_json::from_str(told.out.trim()).unwrap();
    assert_eq!(told["rows"][0]["blocks"], 32);
    assert!(told["rows"][1]["blocks"].as_u64().unwrap() > 0);
    assert_eq!(told["rows"][1]["wrong_bytes"], 0);
    assert!(place.ask(&flags).ok().out.contains("GB/s"));
    let stats: serde_json::Value = serde_json::from_str(&place.ask(&["stat", "--json"]).ok().out).unwrap();
    assert_eq!(stats["shards"][0]["blocks"], 0);
}

#[test]
fn serve_without_flags_lives_in_the_users_own_folder() {
    let place = Place::new();
    // Only the size is said: a tenth of a test machine's free space may be much.
    let node = support::Node::start(place.forebay(["serve", "--capacity", "96MiB", "--memory", "64MiB"]));
    let home = place.path(".local/share/forebay");
    for name in ["drive", "drive.catalog", "forebay.sock"] {
        assert!(home.join(name).exists(), "{name}");
    }
    let put = place.run(&["put", &place.file("a", b"abc")]).ok();
    place.run(&["get", &put.put_lines()[0].0, "--out", &place.text("out")]).ok();
    assert_eq!(node.end(rustix::process::Signal::TERM).0, 0);
}

#[test]
fn help_is_no_failure() {
    let place = Place::new();
    for args in [vec!["--help"], vec!["--version"], vec!["serve", "--help"], vec!["namespace", "create", "--help"]] {
        let ran = place.run(&args).ok();
        assert!(!ran.out.is_empty() && ran.err.is_empty(), "{ran:?}");
    }
    assert_eq!(place.run(&[]).code, 2);
}
