//! The demo as a newcomer runs it, small: without privileges, with 8 MiB of locked memory, on both engines, and beside its twin without a kill.

mod support;

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::process::Command;

use serde_json::Value;
use support::{Place, Ran, set_mode};

const NOBODY: u32 = 65_534;

/// A demo in the place's folder `demo`, as a user who may do nothing special. Gives its line of JSON.
#[expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
fn demo(place: &Place, more: &[&str]) -> Value {
    let folder = place.path("demo");
    std::fs::create_dir_all(&folder).unwrap();
    // Wherever this was built may be closed to other users.
    let program = place.path("forebay");
    if !program.exists() {
        // Copied by another process: a descriptor open for writing here would be inherited by what a test beside this one starts at that moment,
        // and the copy could not be run ("text file busy").
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_forebay")).arg(&program).status().unwrap();
        assert!(copied.success());
        set_mode(&program, 0o755);
    }
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -l 8192 && exec \"$0\" \"$@\""]).arg(&program);
    command
        .args(["demo", "--json", "--sessions", "2", "--requests", "60", "--bytes-per-token", "32", "--dir"])
        .arg(&folder)
        .args(more);
    command.current_dir(&folder).env("TMPDIR", &folder);
    if rustix::process::geteuid().is_root() {
        chown(&folder, Some(NOBODY), Some(NOBODY)).unwrap();
        command.uid(NOBODY).gid(NOBODY).env("HOME", &folder);
    }
    let ran = Ran::of(command).ok();
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0, "the demo leaves nothing behind");
    serde_json::from_str(ran.out.lines().last().unwrap()).unwrap()
}

#[track_caller]
fn went_well(told: &Value) {
    assert_eq!(told["wrong_bytes"], 0, "{told}");
    assert_eq!(told["requests"], 60, "{told}");
    assert_eq!(told["evicted_before_kill"], 0, "{told}");
    // A fast machine may have acknowledged nothing more than a second before the kill; then there is nothing that had to survive.
    assert!(told["survived"].as_f64().is_none_or(|survived| survived >= 0.99), "{told}");
}

#[test]
fn a_kill_in_the_middle_costs_next_to_nothing() {
    let place = Place::new();
    let killed = demo(&place, &[]);
    went_well(&killed);
    assert!(killed["recovery_seconds"].as_f64().unwrap() > 0.0, "{killed}");
    assert!(killed["policy"].as_str().is_some_and(|policy| !policy.is_empty()), "{killed}");
    let twin = demo(&place, &["--no-kill"]);
    went_well(&twin);
    let after = |told: &Value| told["hit_rate_after_kill"].as_f64().unwrap();
    assert!(after(&killed) >= 0.99 * after(&twin), "killed {killed}\ntwin {twin}");
    for field in [
        "requests_in_file",
        "prompt_tokens",
        "hit_rate",
        "token_hit_rate",
        "hit_rate_before_kill",
        "get_p50_us",
        "get_p99_us",
        "get_p999_us",
        "gpu_seconds_saved",
        "dollars_saved",
        "drive_dollars_worn",
    ] {
        assert!(killed[field].is_number(), "{field} in {killed}");
    }
}

#[test]
fn threads_do_what_the_ring_does() {
    let place = Place::new();
    let told = demo(&place, &["--io", "threads"]);
    went_well(&told);
}

#[test]
fn a_trace_that_cannot_be_read_is_told_in_a_sentence() {
    let place = Place::new();
    place.run(&["demo", "--trace", "nowhere.jsonl"]).complains(1, &["nowhere.jsonl"]).once();
    let file = place.file("noise.jsonl", b"{\"what\": \"is this\"}\n");
    place.run(&["demo", "--trace", &file]).complains(1, &["noise.jsonl"]).once();
    place.run(&["demo", "--trace", &file, "--sessions", "3"]).complains(2, &["--sessions", "--trace"]).once();
    place.run(&["demo", "--model", "gpt-99"]).complains(2, &["gpt-99"]).once();
    place.run(&["demo", "--dir", "/nowhere"]).complains(1, &["/nowhere"]).once();
}
