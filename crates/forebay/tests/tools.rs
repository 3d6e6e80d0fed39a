//! The operator's tools, as an operator uses them: on a healthy place, on a bad one, by eye and by script.

mod support;

use std::io::{Read, Write};

use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};
use serde_json::Value;
use support::{Place, bytes};

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
    // `serve` makes its own socket's folder: on a fresh machine the doctor called it missing when only the drive was named.
    place.run(&["doctor", "--data", "drive", "--memory", "64MiB"]).ok();
    place.run(&["doctor", "--memory", "much"]).complains(2, &["--memory", "not a size"]).once();
}

#[test]
fn top_prints_one_frame_for_pipes() {
    let place = Place::new();
    let _node = place.serve();
    place.ask(&["put", &place.file("a", &bytes(1, 300_000)), &place.file("b", &bytes(2, 10))]).ok();
    let frame = place.ask(&["top", "--once", "--interval-ms", "100"]).ok();
    for word in ["up ", "1 shard", "gets", "latency", "longest turn", "2 in ", "drive"] {
        assert!(frame.out.contains(word), "no {word:?} in {}", frame.out);
    }
    assert!(frame.out.lines().all(|line| line.chars().count() <= 80) && !frame.out.contains('\x1b'), "{}", frame.out);
    place.ask(&["top"]).complains(2, &["needs a terminal", "--once"]).once();
    place.ask(&["top", "--interval-ms", "5"]).complains(2, &["--interval-ms", "100"]).once();
    place.run(&["top", "--once", "--connect", "unix:nowhere"]).complains(1, &["nowhere", "forebay serve"]).once();
}

#[test]
fn top_gives_the_terminal_back_as_it_was() {
    let place = Place::new();
    let _node = place.serve();
    for key in ["q", "\x03"] {
        let ours = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
        rustix::pty::grantpt(&ours).unwrap();
        rustix::pty::unlockpt(&ours).unwrap();
        let name = rustix::pty::ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
        let theirs = std::fs::File::options().read(true).write(true).open(name).unwrap();
        tcsetwinsize(&theirs, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let before = tcgetattr(&theirs).unwrap().local_modes;
        let mut command =
            place.forebay(["top", "--interval-ms", "100", "--connect", &format!("unix:{}", place.text("s"))]);
        command.stdin(theirs.try_clone().unwrap()).stdout(theirs.try_clone().unwrap()).env("TERM", "xterm");
        let mut child = command.spawn().unwrap();
        let mut screen = std::fs::File::from(ours);
        let mut seen = String::new();
        let mut read_until = |screen: &mut std::fs::File, word: &str| {
            while !seen.contains(word) {
                let mut chunk = [0; 4096];
                let n = screen.read(&mut chunk).unwrap();
                seen.push_str(&String::from_utf8_lossy(&chunk[..n]));
            }
        };
        read_until(&mut screen, "longest turn");
        assert!(!tcgetattr(&theirs).unwrap().local_modes.contains(LocalModes::ECHO));
        screen.write_all(key.as_bytes()).unwrap();
        // The cursor, no colour, the first screen: the last thing it says.
        read_until(&mut screen, "\x1b[?25h\x1b[?1049l");
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert_eq!(tcgetattr(&theirs).unwrap().local_modes, before);
    }
}

#[test]
fn a_drive_is_explained_and_its_damage_listed() {
    let place = Place::new();
    let node = place.serve_with(&["--shards", "1"]);
    place.ask(&["namespace", "create", "kv", "--class", "durable", "--fingerprint", "model=m1"]).ok();
    let files: Vec<String> = (0..20).map(|i| place.file(&format!("f{i}"), &bytes(i, 200_000))).collect();
    let names: Vec<&str> = files.iter().map(String::as_str).collect();
    let keys = place.ask(&[&["put", "--namespace", "kv"], &names[..]].concat()).ok().put_lines();
    place.run(&["inspect", "drive"]).complains(1, &["drive", "in use by a node"]).once();
    // Killed: its segment is open, and is read as a start would read it.
    node.kill();
    let told = place.run(&["inspect", "drive", "--verify", "--json"]).ok();
    let told: Value = serde_json::from_str(&told.out).unwrap();
    let slice = &told["slices"][0];
    assert_eq!((&slice["blocks"], &slice["live"], &told["damaged"]), (&20.into(), &20.into(), &0.into()), "{told}");
    let kv = slice["namespaces"].as_array().unwrap().iter().find(|ns| ns["name"] == "kv").unwrap();
    assert_eq!(
        (&kv["blocks"], &kv["bytes"], &kv["fingerprint"]["model"]),
        (&20.into(), &4_000_000.into(), &"m1".into())
    );
    assert!(!told.to_string().contains("secret"));

    let node = place.serve();
    assert_eq!(node.end(rustix::process::Signal::TERM).0, 0);
    let text = place.run(&["inspect", "drive", "--verify", "--segments"]).ok().out;
    for word in
        ["format version 1", "1 durable", "20 records", "finds 20 blocks", "sealed", "model=m1", "nothing is damaged"]
    {
        assert!(text.contains(word), "no {word:?} in {text}");
    }

    // One byte of one block, found by its own content.
    let needle = &bytes(7, 200_000)[100_000..100_064];
    let mut drive = std::fs::read(place.path("drive")).unwrap();
    let at = drive.windows(64).position(|window| window == needle).unwrap();
    drive[at] ^= 1;
    place.file("drive", &drive);
    place.run(&["inspect", "drive"]).ok();
    let hurt = place.run(&["inspect", "drive", "--verify"]);
    assert_eq!(hurt.code, 1, "{hurt:?}");
    assert!(
        hurt.out.contains(&keys[7].0) && hurt.out.contains("do not match their sums") && hurt.out.contains("1 damaged"),
        "{hurt:?}"
    );
}

#[test]
fn a_drive_damaged_anywhere_is_read_without_a_bug() {
    use forebay_types::Entropy;
    let place = Place::new();
    let node = place.serve_with(&["--shards", "1"]);
    let files: Vec<String> = (0..30).map(|i| place.file(&format!("f{i}"), &bytes(i, 90_000))).collect();
    place.ask(&[&["put"], &files.iter().map(String::as_str).collect::<Vec<_>>()[..]].concat()).ok();
    assert_eq!(node.end(rustix::process::Signal::TERM).0, 0);
    let whole = std::fs::read(place.path("drive")).unwrap();
    let chance = forebay_types::SeededEntropy::new(3);
    let written: Vec<usize> =
        (0..whole.len() / 512).filter(|i| whole[i * 512..][..512].iter().any(|b| *b != 0)).collect();
    for round in 0..60 {
        let mut drive = whole.clone();
        for _ in 0..1 << (round % 12) {
            let at = written[chance.word() as usize % written.len()] * 512 + chance.word() as usize % 512;
            drive[at] = chance.word() as u8;
        }
        drive.truncate(if round % 10 == 9 { chance.word() as usize % drive.len() + 1 } else { drive.len() });
        place.file("hurt", &drive);
        let told = place.run(&["inspect", "hurt", "--verify", "--json"]);
        assert!(told.code == 0 || told.code == 1, "{told:?}");
        assert!(!told.err.contains("because of a bug"), "round {round}: {told:?}");
        assert!(told.code == 1 || drive == whole || told.out.contains("\"damaged\":0"), "{told:?}");
    }
    for file in ["nowhere", "folder"] {
        std::fs::create_dir_all(place.path("folder")).unwrap();
        place.run(&["inspect", file]).complains(1, &[file]).once();
    }
    place
        .run(&["inspect", &place.file("letter", b"dear sir")])
        .complains(1, &["letter", "not a drive of Forebay"])
        .once();
    place
        .run(&["inspect", &place.file("zeros", &[0; 1 << 20])])
        .complains(1, &["zeros", "not a drive of Forebay"])
        .once();
    place.run(&["inspect", &place.file("empty", b"")]).complains(1, &["empty", "not a drive of Forebay"]).once();
}

#[test]
fn the_log_has_a_line_for_each_event_for_people_and_for_programs() {
    let place = Place::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (right, wrong) = (place.token("right", "right"), place.token("wrong", "wrong"));
    let node = place.serve_with(&["--log", "json", "--listen", &free, "--token-file", &right]);
    for _ in 0..20 {
        let refused = place.run(&["stat", "--connect", &format!("tcp:{free}"), "--token-file", &wrong]);
        refused.complains(1, &["the token is not this node's"]).once();
    }
    let (code, err) = node.end(rustix::process::Signal::TERM);
    let events = lines(&err);
    let of = |kind: &str| events.iter().filter(move |event| event["kind"] == kind).collect::<Vec<_>>();
    assert_eq!(code, 0, "{err}");
    for kind in ["shard", "serving", "stopping", "stopped"] {
        assert_eq!(of(kind).len(), 1, "{kind}: {err}");
    }
    // A storm is a few lines, and nobody is left out of the count.
    let refused = of("client_refused");
    assert!((1..=4).contains(&refused.len()), "{err}");
    assert_eq!(refused.iter().map(|event| event["count"].as_u64().unwrap()).sum::<u64>(), 20);
    assert!(
        events.iter().all(|event| event["text"].is_string() && event["utc_s"].is_u64() && event["level"].is_string())
    );
    let failed = place.serve_refused(&[
        "--data",
        "drive",
        "--capacity",
        "128MiB",
        "--memory",
        "64MiB",
        "--socket",
        "s",
        "--log",
        "json",
    ]);
    assert_eq!(failed.code, 1);
    let told = lines(&failed.err);
    assert!(
        told.len() == 1
            && told[0]["kind"] == "start_failed"
            && told[0]["text"].as_str().unwrap().contains("--capacity"),
        "{failed:?}"
    );
    let quiet = place.serve_with(&["--log-level", "warn"]);
    assert_eq!(quiet.end(rustix::process::Signal::TERM), (0, String::new()));
    let chatty = place.serve_with(&["--log-level", "info"]);
    let said = chatty.end(rustix::process::Signal::TERM).1;
    assert!(said.contains("UTC serving on unix:") && said.contains("UTC ended: "), "{said}");
    place.run(&["serve", "--log", "xml"]).complains(2, &["--log", "\"xml\"", "text, json"]).once();
    place.run(&["serve", "--log-level", "loud"]).complains(2, &["--log-level", "error, warn, info"]).once();
}
