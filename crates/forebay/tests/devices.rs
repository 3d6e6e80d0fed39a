//! A raw block device as a drive, end to end: what becomes one, what is left alone, what a kill leaves.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../../forebay-io/tests/loops/mod.rs"]
mod loops;
mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

use loops::Loop;
use serde_json::Value;
use support::{Node, Place, Ran, bytes};

const MIB: u64 = 1 << 20;

fn device(place: &Place, sector: u32) -> Option<(Loop, String)> {
    let made = Loop::new(&place.path("behind"), 96 * MIB, sector)?;
    let name = made.path().display().to_string();
    Some((made, name))
}

/// What `serve` is given for a drive at `device`.
fn serve<'a>(device: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["serve", "--data", device, "--memory", "64MiB", "--socket", "s"], more].concat()
}

const CATALOG: [&str; 2] = ["--catalog", "catalog"];

fn refused(place: &Place, device: &str, more: &[&str]) -> Ran {
    place.serve_refused(&serve(device, more)[1..])
}

/// The first and the last mebibyte.
fn ends(device: &str) -> Vec<u8> {
    let file = File::open(device).unwrap();
    let mut ends = vec![0; 2 * MIB as usize];
    let (first, last) = ends.split_at_mut(MIB as usize);
    file.read_exact_at(first, 0).unwrap();
    file.read_exact_at(last, 95 * MIB).unwrap();
    ends
}

fn overwrite(device: &str, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(device).unwrap();
    file.write_all_at(bytes, at).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_blank_device_becomes_a_drive_that_outlives_a_kill() {
    for sector in [512, 4096] {
        let place = Place::new();
        let Some((_behind, device)) = device(&place, sector) else { return };
        // Its catalogue cannot lie beside it: said before anything is written.
        refused(&place, &device, &[]).complains(1, &["catalogue", "--catalog PATH"]).once();
        refused(&place, &device, &["--catalog", "/dev/catalog"]).complains(1, &["/dev/catalog", "next boot"]).once();
        let larger = [&CATALOG[..], &["--capacity", "1GiB"]].concat();
        refused(&place, &device, &larger).complains(1, &["96 MiB", "--capacity", "1 GiB"]).once();
        assert!(ends(&device).iter().all(|byte| *byte == 0), "nothing was written yet");

        let node = Node::start(place.forebay(serve(&device, &CATALOG)));
        assert!(place.path("catalog").exists());
        place.ask(&["namespace", "create", "kv", "--class", "durable"]).ok();
        let contents: Vec<Vec<u8>> = (0..20).map(|seed| bytes(seed, 200_000 + seed as usize)).collect();
        let files: Vec<String> =
            contents.iter().enumerate().map(|(at, bytes)| place.file(&format!("f{at}"), bytes)).collect();
        let names: Vec<&str> = files.iter().map(String::as_str).collect();
        let put = place.ask(&[&["put", "--namespace", "kv"], &names[..]].concat()).ok().put_lines();
        // One owner, whoever asks.
        place.run(&["inspect", &device]).complains(1, &[&device, "in use by a node"]).once();
        let other: Vec<&str> = vec!["--data", &device, "--catalog", "other", "--memory", "64MiB", "--socket", "t"];
        place.serve_refused(&other).complains(1, &[&device, "in use by another node"]).once();
        let seen = place.run(&["doctor", "--data", &device, "--catalog", "catalog", "--socket", "s"]);
        assert!(seen.out.contains("a node uses now"), "{seen:?}");
        node.kill();

        let told = place.run(&["inspect", &device, "--verify", "--json"]).ok();
        let told: Value = serde_json::from_str(&told.out).unwrap();
        assert_eq!(told["damaged"], 0, "{told}");
        let keys: Vec<&str> = put.iter().map(|(key, _)| key.as_str()).collect();
        let start = || place.forebay(serve(&device, &CATALOG));
        let node = Node::start_when_free(start);
        place.ask(&[&["get", "--namespace", "kv", "--out", "back"], &keys[..]].concat()).ok();
        for (key, content) in keys.iter().zip(&contents) {
            assert!(std::fs::read(place.path("back").join(key)).unwrap() == *content, "{key}");
        }
        assert_eq!(node.end(rustix::process::Signal::TERM).0, 0);
        let seen = place.run(&["doctor", "--data", &device, "--catalog", "catalog", "--socket", "s"]).ok();
        assert!(seen.out.contains("see `forebay inspect`") && seen.out.contains("GB/s"), "{seen:?}");

        // A drive keeps what it took, and is never formatted again.
        let smaller = [&CATALOG[..], &["--capacity", "90MiB"]].concat();
        refused(&place, &device, &smaller).complains(1, &["keeps the size", "90 MiB"]).once();
        let again = [&CATALOG[..], &["--format-device", &device]].concat();
        refused(&place, &device, &again).complains(1, &["already", "--format-device"]).once();
        // Another catalogue would lose every key.
        refused(&place, &device, &["--catalog", "new"]).complains(1, &["its catalogue", "--catalog", "new"]).once();
        drop(Node::start(start()));
        let held = place.run(&["inspect", &device, "--json"]).ok();
        let held: Value = serde_json::from_str(&held.out).unwrap();
        assert_eq!((&held["damaged"], held["slices"][0]["live"].as_u64()), (&Value::from(0), Some(20)), "{held}");
    }
}

#[test]
fn a_part_of_a_device_can_be_a_drive() {
    let place = Place::new();
    let Some((_behind, device)) = device(&place, 512) else { return };
    let sized = [&CATALOG[..], &["--capacity", "80MiB"]].concat();
    drop(Node::start(place.forebay(serve(&device, &sized))));
    // With the size it was made with, or with none.
    drop(Node::start_when_free(|| place.forebay(serve(&device, &sized))));
    drop(Node::start_when_free(|| place.forebay(serve(&device, &CATALOG))));
    refused(&place, &device, &[&CATALOG[..], &["--capacity", "96MiB"]].concat())
        .complains(1, &["80 MiB", "keeps the size"])
        .once();
}

#[test]
fn what_is_on_a_device_is_left_alone_until_its_owner_gives_it_away() {
    let place = Place::new();
    let Some((_behind, device)) = device(&place, 512) else { return };
    // A mark in the first mebibyte, or only at the end, where RAID and the copy of a table of partitions lie.
    for (at, mark, what) in
        [(1080, &b"\x53\xef"[..], "ext4"), (96 * MIB - 512, b"EFI PART", "copy of a table"), (65_536, b"x", "bytes")]
    {
        overwrite(&device, at, mark);
        let before = ends(&device);
        refused(&place, &device, &CATALOG).complains(1, &[what, "--format-device", &device]).once();
        let seen = place.run(&["doctor", "--data", &device, "--catalog", "catalog", "--socket", "s"]);
        assert!(seen.code == 1 && seen.out.contains("--format-device"), "{seen:?}");
        let wrong = [&CATALOG[..], &["--format-device", "/dev/null"]].concat();
        refused(&place, &device, &wrong).complains(1, &["/dev/null", "none of the drives"]).once();
        assert!(ends(&device) == before, "{what}: nothing was written");
        overwrite(&device, at, &vec![0; mark.len()]);
    }
    overwrite(&device, 1080, b"\x53\xef");
    overwrite(&device, 96 * MIB - 512, b"EFI PART");
    let given = [&CATALOG[..], &["--format-device", &device]].concat();
    drop(Node::start(place.forebay(serve(&device, &given))));
    // Nobody finds the older owner by its other mark, and the flag is needed no more.
    let now = ends(&device);
    assert!(now[2 * MIB as usize - 512..].iter().all(|byte| *byte == 0) && now[1080..1082] != *b"\x53\xef");
    drop(Node::start_when_free(|| place.forebay(serve(&device, &CATALOG))));
    // Not for files, and not by a setting that stays.
    let file: Vec<&str> = vec!["--data", "drive", "--format-device", "drive", "--capacity", "96MiB", "--socket", "s"];
    place.serve_refused(&file).complains(1, &["--format-device", "is none"]).once();
    place.file("f.toml", b"format_device = \"/dev/x\"\n");
    place.serve_refused(&["--config", "f.toml"]).complains(2, &["unknown key", "format_device"]).once();
}

#[test]
fn a_formatting_that_was_cut_off_is_done_again() {
    let place = Place::new();
    let Some((_behind, device)) = device(&place, 512) else { return };
    drop(Node::start(place.forebay(serve(&device, &CATALOG))));
    // As it is before the drive's superblocks are written, which comes last.
    overwrite(&device, 0, &[0; MIB as usize]);
    std::fs::remove_file(place.path("catalog")).unwrap();
    let node = Node::start_when_free(|| place.forebay(serve(&device, &CATALOG)));
    place.ask(&["put", &place.file("a", b"abc")]).ok();
    drop(node);
}

#[test]
fn a_mounted_device_is_refused_and_says_where() {
    let place = Place::new();
    let Some((_behind, device)) = device(&place, 512) else { return };
    std::fs::create_dir(place.path("m")).unwrap();
    // In a namespace of its own, so that the mount is gone with the shell, and the node sees it.
    let script = format!(
        "mkfs.ext4 -q {device} && mount {device} m || {{ echo skipped; exit 0; }}; exec {} \"$@\"",
        env!("CARGO_BIN_EXE_forebay")
    );
    let mut shell = Command::new("unshare");
    shell.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]).args(serve(&device, &CATALOG));
    shell.current_dir(place.path("")).env("HOME", place.path("")).stdin(Stdio::null());
    let ran = match shell.output() {
        Ok(_) if !place.path("m").is_dir() => unreachable!("the folder is the test's own"),
        Ok(ran) if ran.stdout == b"skipped\n" => {
            println!("skipped: a mounted device: {}", String::from_utf8_lossy(&ran.stderr).trim());
            return;
        }
        Ok(ran) => Ran {
            code: ran.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&ran.stdout).into_owned(),
            err: String::from_utf8_lossy(&ran.stderr).into_owned(),
        },
        Err(e) => {
            println!("skipped: a mounted device: unshare cannot be run ({e})");
            return;
        }
    };
    let folder = std::fs::canonicalize(place.path("m")).unwrap().display().to_string();
    ran.complains(1, &[&device, &format!("mounted at {folder}"), "Nothing on it was changed"]).once();
}

#[test]
fn a_device_that_is_not_there_is_not_made() {
    let place = Place::new();
    let missing: Vec<&str> = vec!["--data", "/dev/forebay-no-such-device", "--catalog", "catalog", "--socket", "s"];
    place.serve_refused(&missing).complains(1, &["no device /dev/forebay-no-such-device", "lsblk"]).once();
    assert!(!std::path::Path::new("/dev/forebay-no-such-device").exists());
}
