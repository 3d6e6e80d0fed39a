//! The files for other people's programs say what is true of this one: the dashboard, the unit, and the metrics that the manual names.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use support::{Place, pause};

fn file(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Words that begin like a metric of ours, and are longer than that.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("forebay_")).map(str::to_owned).collect()
}

/// What a node that has done something of everything shows.
fn shown() -> BTreeSet<String> {
    let place = Place::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let _node = place.serve_with(&["--metrics", &free]);
    place.ask(&["put", &place.file("a", b"abc")]).ok();
    // Shards tell of themselves a few times a second.
    for _ in 0..400 {
        if scraped(&free).contains("forebay_curve_found_ratio") {
            break;
        }
        pause(50);
    }
    scraped(&free)
}

/// Names of the samples that are shown now.
fn scraped(address: &str) -> BTreeSet<String> {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let samples = answer.lines().filter(|line| line.starts_with("forebay_"));
    samples.filter_map(|line| line.split(['{', ' ']).next()).map(str::to_owned).collect()
}

#[test]
fn the_dashboard_asks_only_for_metrics_that_there_are() {
    let dashboard: Value = serde_json::from_str(&file("deploy/grafana/forebay.json")).unwrap();
    let shown = shown();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut asked = 0;
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have one id: {panel}");
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expr = target["expr"].as_str().unwrap();
            assert_eq!(expr.matches('(').count(), expr.matches(')').count(), "{expr}");
            let names = metrics_in(expr);
            assert!(!names.is_empty(), "{expr}");
            for name in names {
                assert!(shown.contains(&name), "{:?} asks for {name}, which no node shows", panel["title"]);
                asked += 1;
            }
        }
    }
    assert!(asked > 40, "only {asked} metrics are asked for");
    let others = ["/templating", "/annotations"].map(|part| dashboard.pointer(part).unwrap().to_string());
    for name in metrics_in(&others.concat()) {
        assert!(shown.contains(&name), "{name}");
    }
}

#[test]
fn the_manual_names_only_metrics_that_there_are_and_all_of_them() {
    let (manual, shown) = (metrics_in(&file("docs/operations.md")), shown());
    let is_shown = |name: &&String| shown.contains(*name) || shown.contains(&format!("{name}_bucket"));
    let unknown: Vec<&String> = manual.iter().filter(|name| !is_shown(name)).collect();
    assert!(unknown.is_empty(), "the manual names what no node shows: {unknown:?}");
    // Families are written as `forebay_get_asked_total`, `_hits_total`, ...
    let text = file("docs/operations.md");
    let told = |name: &String| {
        let family = name.split('_').nth(1).unwrap_or_default();
        let rest = name.trim_start_matches("forebay_").trim_start_matches(family);
        manual.contains(name) || (text.contains(&format!("`forebay_{family}_")) && text.contains(&format!("`{rest}`")))
    };
    let histogram = |name: &String| ["_bucket", "_sum", "_count"].iter().any(|end| name.ends_with(end));
    let untold: Vec<&String> = shown.iter().filter(|name| !histogram(name) && !told(name)).collect();
    assert!(untold.is_empty(), "the manual does not tell of {untold:?}");
}

#[test]
fn the_unit_starts_what_there_is() {
    let unit = file("deploy/systemd/forebay.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let place = Place::new();
    let help = place.run(&["serve", "--help"]).ok().out;
    let flags: Vec<&str> = start.split(' ').filter(|word| word.starts_with("--")).collect();
    assert!(flags.len() >= 2 && flags.iter().all(|flag| help.contains(flag)), "{start}");
    for line in [
        "LimitMEMLOCK=infinity",
        "LimitNOFILE=65536",
        "TasksMax=8192",
        "io_uring_setup io_uring_enter io_uring_register",
    ] {
        assert!(unit.contains(line), "{line}");
    }
    let ours =
        unit.replace("/usr/local/bin/forebay", env!("CARGO_BIN_EXE_forebay")).replace("User=forebay", "User=root");
    let path = place.file("forebay.service", ours.as_bytes());
    match Command::new("systemd-analyze").args(["verify", &path]).output() {
        Ok(judged) => assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr)),
        Err(e) => println!("skipped: systemd-analyze is not here ({e})"),
    }
}

#[test]
fn the_service_manager_hears_that_the_node_serves_and_ends() {
    let place = Place::new();
    let heard = UnixDatagram::bind(place.path("n")).unwrap();
    let mut command = place.forebay(support::SERVE);
    command.env("NOTIFY_SOCKET", place.path("n"));
    let node = support::Node::start(command);
    let mut word = [0; 64];
    let n = heard.recv(&mut word).unwrap();
    assert_eq!(&word[..n], b"READY=1\n");
    assert_eq!(node.end(rustix::process::Signal::TERM).0, 0);
    let n = heard.recv(&mut word).unwrap();
    assert_eq!(&word[..n], b"STOPPING=1\n");
}
