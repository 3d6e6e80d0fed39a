//! The usage log of a real node that is killed again and again: what it told is never taken back, nothing is counted twice, and at rest the log, what the
//! node tells and what the client knows are the same.

mod support;

use std::time::Duration;

use forebay_client::{Client, GetResult, NamespaceHandle, Options};
use forebay_types::{Class, Fingerprint, Key, PutOutcome};
use serde_json::Value;
use support::{Node, Place, pause};

const KILLS: u64 = 12;
const BLOCK_TOKENS: u64 = 16;
const PUTS: u64 = 8;
const MISSES: u64 = 3;

/// Tokens that a client knows of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Known {
    served: u64,
    missed: u64,
    written: u64,
}

fn usage(place: &Place, from_log: bool) -> Value {
    let args = ["stat", "--usage", "--json"];
    let ran = match from_log {
        true => place.run(&[&args[..], &["--log", "drive.usage"]].concat()),
        false => place.ask(&args),
    };
    serde_json::from_str(&ran.ok().out).expect("it is JSON")
}

fn known(told: &Value) -> Known {
    let count = |name: &str| told["all"][name].as_u64().unwrap_or_else(|| panic!("no {name} in {told}"));
    let served = count("served_dram_tokens") + count("served_nvme_tokens");
    let missed = count("missed_tokens");
    assert_eq!(count("offered_tokens"), served + missed, "{told}");
    Known { served, missed, written: count("written_tokens") }
}

/// What the node has recorded, once that is all that happened.
fn at_rest(place: &Place, all: Known) -> Known {
    loop {
        let told = known(&usage(place, false));
        assert!(
            told.served <= all.served && told.missed <= all.missed && told.written <= all.written,
            "{told:?}, of {all:?}"
        );
        if told == all {
            return told;
        }
        pause(50);
    }
}

fn connect(place: &Place) -> NamespaceHandle {
    let address = format!("unix:{}", place.text("s")).parse().expect("an address");
    let client = Client::connect(&address, Options { deadline: Duration::from_secs(60), ..Options::default() })
        .expect("the node is there");
    let mut fingerprint = Fingerprint::default();
    fingerprint.set("block_tokens", &BLOCK_TOKENS.to_string()).expect("a field");
    client.create_namespace("metered", Class::Cache, None, &fingerprint).expect("it can be made")
}

/// Puts blocks, gets them, and asks for some that are not there.
fn work(space: &NamespaceHandle, round: u64) -> Known {
    let key = |what: &str, at: u64| space.derive_key(format!("{what} {round} {at}").as_bytes());
    let block = vec![round as u8; 4096];
    let keys: Vec<Key> = (0..PUTS).map(|at| key("put", at)).collect();
    for key in &keys {
        assert_eq!(space.put(&[(*key, &block)]), [PutOutcome::Cached]);
    }
    let absent: Vec<Key> = (0..MISSES).map(|at| key("never", at)).collect();
    let found = space.get(&[keys, absent].concat());
    let hits = found.iter().filter(|result| matches!(result, GetResult::Hit(_))).count() as u64;
    assert_eq!(hits, PUTS);
    Known { served: PUTS * BLOCK_TOKENS, missed: MISSES * BLOCK_TOKENS, written: PUTS * BLOCK_TOKENS }
}

fn plus(a: Known, b: Known) -> Known {
    Known { served: a.served + b.served, missed: a.missed + b.missed, written: a.written + b.written }
}

#[test]
fn what_was_told_is_there_after_a_kill_and_nothing_is_counted_twice() {
    let place = Place::new();
    let mut node = place.serve();
    // What the log must hold, and what it may hold at most.
    let mut held = Known::default();
    for round in 0..KILLS {
        let space = connect(&place);
        let most = plus(held, work(&space, round));
        let told = match round % 3 {
            // At rest all of it is recorded.
            0 => at_rest(&place, most),
            // Somewhere between.
            1 => known(&usage(&place, false)),
            _ => held,
        };
        node.kill();
        let log = known(&usage(&place, true));
        assert!(
            told.served <= log.served && told.missed <= log.missed && told.written <= log.written,
            "{told:?}, {log:?}"
        );
        assert!(
            log.served <= most.served && log.missed <= most.missed && log.written <= most.written,
            "{log:?}, {most:?}"
        );
        if round % 4 == 3 {
            // It died while it wrote.
            let mut bytes = std::fs::read(place.path("drive.usage")).expect("the log is there");
            bytes.extend_from_slice(b"FBUE\x90\x01\0\0 half an entry");
            std::fs::write(place.path("drive.usage"), bytes).expect("it can be written");
        }
        node = place.serve();
        assert_eq!(known(&usage(&place, false)), log, "a start tells what the log says");
        held = log;
    }
    // A stop in order loses nothing.
    let all = plus(held, work(&connect(&place), KILLS));
    stop(node);
    assert_eq!(known(&usage(&place, true)), all);
}

fn stop(node: Node) {
    assert_eq!(node.end(rustix::process::Signal::TERM).0, 0);
}

/// A namespace that is deleted takes its blocks along, and leaves what it used.
#[test]
fn a_deleted_namespace_leaves_its_usage() {
    let place = Place::new();
    let node = place.serve();
    let all = work(&connect(&place), 1);
    place.ask(&["namespace", "delete", "metered"]).ok();
    stop(node);
    assert_eq!(known(&usage(&place, true)), all);
}

/// `stat --money` tells the token-hours of this life, which are the log's and what came since.
#[test]
fn money_is_told_for_the_token_hours_that_are_in_the_log() {
    let place = Place::new();
    let _node = place.serve();
    let space = connect(&place);
    let (mut all, mut round) = (Known::default(), 0);
    loop {
        all = plus(all, work(&space, round));
        round += 1;
        at_rest(&place, all);
        let log = usage(&place, false)["all"]["held_token_s"].as_u64().expect("a count");
        let told: Value =
            serde_json::from_str(&place.ask(&["stat", "--money", "--json"]).ok().out).expect("it is JSON");
        let accounts = told["money"].as_array().expect("accounts");
        let held: u64 = accounts.iter().filter_map(|account| account["held_token_s"].as_u64()).sum();
        assert!(held >= log, "{held} of {log}: {told}");
        if log > 0 {
            assert!(accounts.iter().any(|account| account["storage_dollars"].as_f64() > Some(0.0)), "{told}");
            return;
        }
    }
}

#[test]
fn a_usage_log_that_is_none_stops_the_start_and_is_left_alone() {
    let place = Place::new();
    place.file("drive.usage", &[9; 300]);
    let refused = place.serve_refused(&support::SERVE[1..]);
    refused.complains(1, &["drive.usage", "move it away"]);
    assert_eq!(std::fs::read(place.path("drive.usage")).expect("the log is there"), [9; 300]);
}

/// Somebody gives the drive, a text, or a folder in place of the log.
#[test]
fn what_is_no_usage_log_is_told_with_what_to_give_instead() {
    let place = Place::new();
    let foreign = [place.file("notes.txt", b"notes"), place.file("long.txt", &[b'n'; 5000])];
    for name in &foreign {
        let ran = place.run(&["stat", "--usage", "--log", name]);
        ran.complains(1, &[name, "no usage log", ".usage", "stat --json"]).once();
    }
    place.run(&["stat", "--usage", "--log", "nowhere.usage"]).complains(1, &["nowhere.usage"]).once();
    // A log that was damaged is one all the same, and nobody is told to move away what he only wants to read.
    let mut log = b"FBUSAGE\0".to_vec();
    log.resize(4096, 0);
    let ran = place.run(&["stat", "--usage", "--log", &place.file("damaged.usage", &log)]);
    ran.complains(1, &["damaged.usage"]).once();
}
