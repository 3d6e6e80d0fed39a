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
