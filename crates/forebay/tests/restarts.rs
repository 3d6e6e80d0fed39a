//! A node that ends, in order and not, and what is there when it comes again. TCP with its token.

mod support;

use rustix::process::Signal;
use support::{Place, bytes};

fn put_some(place: &Place, namespace: &str) -> Vec<(String, Vec<u8>)> {
    let contents: Vec<Vec<u8>> = (0..20).map(|i| bytes(100 + i, 1 + 50_000 * i as usize)).collect();
    let files: Vec<String> =
        contents.iter().enumerate().map(|(i, content)| place.file(&format!("f{i}"), content)).collect();
    let mut args = vec!["put", "--namespace", namespace];
    args.extend(files.iter().map(String::as_str));
    let put = place.ask(&args).ok();
    put.put_lines().into_iter().map(|(key, _)| key).zip(contents).collect()
}

#[track_caller]
fn all_are_there(place: &Place, namespace: &str, blocks: &[(String, Vec<u8>)]) {
    let out = place.text("out");
    let mut args = vec!["get", "--namespace", namespace, "--out", &out];
    args.extend(blocks.iter().map(|(key, _)| key.as_str()));
    place.ask(&args).ok();
    for (key, content) in blocks {
        assert!(
            std::fs::read(format!("{out}/{key}")).is_ok_and(|bytes| &bytes == content),
            "{key} came back otherwise"
        );
    }
}

#[test]
fn a_node_that_is_asked_to_end_ends_in_order_and_comes_back_warm() {
    for signal in [Signal::TERM, Signal::INT] {
        let place = Place::new();
        let node = place.serve();
        let blocks = put_some(&place, "default");
        let (code, said) = node.end(signal);
        assert_eq!(code, 0, "{said}");
        assert!(!place.path("s").exists(), "the socket is gone with the node");
        let _node = place.serve();
        all_are_there(&place, "default", &blocks);
    }
}

#[test]
fn with_8_mib_of_locked_memory_a_node_serves_and_says_what_it_does_without() {
    let place = Place::new();
    // Root may lock what it wants unless that right is taken away; others have only the limit.
    let mut command = std::process::Command::new("prlimit");
    if let Err(e) = std::process::Command::new("prlimit").arg("--version").output() {
        return println!("skipped: 8 MiB of locked memory: prlimit cannot be run ({e})");
    }
    command.arg("--memlock=8388608:8388608");
    if rustix::process::geteuid().is_root() {
        command.args(["setpriv", "--bounding-set=-ipc_lock"]);
    }
    command.arg(env!("CARGO_BIN_EXE_forebay")).args([
        "serve",
        "--data",
        "drive",
        "--capacity",
        "96MiB",
        "--memory",
        "512MiB",
        "--socket",
        "s",
    ]);
    command.current_dir(place.path("")).env("HOME", place.path("")).env_remove("XDG_RUNTIME_DIR");
    let node = match support::Node::try_start(command) {
        Ok(node) => node,
        Err(said) if said.contains("error: ") => panic!("{said}"),
        Err(said) => return println!("skipped: 8 MiB of locked memory: prlimit and setpriv do not do it ({said})"),
    };
    let blocks = put_some(&place, "default");
    all_are_there(&place, "default", &blocks);
    // Memory that cannot be pinned is taken as it is used.
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let rss_kb: u64 = rss.trim().trim_end_matches(" kB").trim().parse().unwrap();
    let (code, said) = node.end(Signal::TERM);
    assert_eq!(code, 0, "{said}");
    if said.contains("I/O by uring") {
        assert!(said.contains("registered_buffers: 0 of") && said.contains("ulimit -l"), "{said}");
        assert!(rss_kb < 256 << 10, "{rss_kb} kB of memory for 10 MB of blocks");
    }
    let _node = place.serve();
    all_are_there(&place, "default", &blocks);
}

#[test]
fn what_was_durable_is_there_after_sigkill() {
    let place = Place::new();
    let node = place.serve();
    place.ask(&["namespace", "create", "kept", "--class", "durable"]).ok();
    let blocks = put_some(&place, "kept");
    node.kill();
    assert!(place.path("s").exists(), "nobody removed the socket");
    let _node = place.serve();
    all_are_there(&place, "kept", &blocks);
    // The catalogue came back as it was.
    place.ask(&["namespace", "create", "kept", "--class", "durable"]).ok();
}

#[test]
fn a_key_comes_over_tcp_for_those_who_show_the_token() {
    let place = Place::new();
    let token = place.token("token", "correct horse\n");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = format!("127.0.0.1:{port}");
    let _node = place.serve_with(&["--listen", &listen, "--token-file", &token]);
    let address = format!("tcp:{listen}");
    let put =
        place.run(&["put", "--connect", &address, "--token-file", &token, &place.file("a", &bytes(9, 300_000))]).ok();
    let key = &put.put_lines()[0].0;
    // The same tenant by both doors.
    place.ask(&["get", key, "--out", &place.text("out")]).ok();
    place.run(&["get", "--connect", &address, "--token-file", &token, key, "--out", &place.text("tcp")]).ok();
    assert_eq!(std::fs::read(place.path("tcp").join(key)).unwrap(), bytes(9, 300_000));

    let wrong = place.token("wrong", "incorrect horse");
    place
        .run(&["stat", "--connect", &address, "--token-file", &wrong])
        .complains(1, &[&address, "token", "--token-file"])
        .once();
    place.ask(&["stat"]).ok();
}

#[test]
fn metrics_are_there_for_who_asks_for_them() {
    use std::io::{Read, Write};
    let place = Place::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let metrics = format!("127.0.0.1:{port}");
    let _node = place.serve_with(&["--metrics", &metrics]);
    place.ask(&["put", &place.file("a", b"abc")]).ok();
    let mut scrape = std::net::TcpStream::connect(&metrics).unwrap();
    scrape.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut told = String::new();
    scrape.read_to_string(&mut told).unwrap();
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    assert!(told.contains("\nforebay_put_asked_total 1\n"), "{told}");
}
