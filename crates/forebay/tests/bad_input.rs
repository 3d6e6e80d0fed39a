//! What people get wrong. Each time: one clear sentence with what to do next, an exit code that is not 0, nothing lost, and nothing of our inside.

mod support;

use support::{Place, SERVE, bytes, set_mode};

#[test]
fn a_flag_a_verb_or_a_unit_that_does_not_exist() {
    let place = Place::new();
    place
        .run(&["serve", "--capacty", "1GiB"])
        .complains(2, &["--capacty", "--capacity", "forebay serve --help"])
        .once();
    place.run(&["srve"]).complains(2, &["srve", "serve", "forebay --help"]).once();
    place.run(&["put"]).complains(2, &["FILE", "forebay put --help"]).once();
    place
        .run(&["serve", "--data", "d", "--capacity", "12"])
        .complains(2, &["--capacity", "\"12\"", "no unit", "4GiB"])
        .once();
    place.run(&["serve", "--data", "d", "--capacity", "12gib"]).complains(2, &["unit is unknown", "GiB"]).once();
    place
        .run(&["serve", "--data", "d", "--capacity", "1GiB", "--memory", "99999999999TiB"])
        .complains(2, &["too large"]);
    place
        .run(&["serve", "--data", "d", "--capacity", "1GiB", "--shards", "0"])
        .complains(2, &["--shards", "\"0\"", "1 to"])
        .once();
    place
        .run(&["serve", "--data", "d", "--capacity", "1GiB", "--io", "magic"])
        .complains(2, &["magic", "auto, uring or threads"]);
    place
        .run(&["serve", "--data", "d", "--capacity", "1GiB", "--landing", "softly"])
        .complains(2, &["softly", "auto, direct or bounce"]);
    place
        .run(&["serve", "--data", "d", "--capacity", "1GiB", "--scrub", "never"])
        .complains(2, &["--scrub", "never", "or off"]);
    for (rating, why) in [
        ("600TB", "there is no /"),
        ("600/5y", "no unit"),
        ("600TB/never", "never"),
        ("600TB/0d", "0d"),
        ("0B/1d", "nothing could be written"),
    ] {
        place
            .run(&["serve", "--data", "d", "--capacity", "1GiB", "--endurance", rating])
            .complains(2, &["--endurance", rating, why, "600TB/5y"])
            .once();
    }
    place.run(&["namespace", "create", "x", "--class", "forever"]).complains(2, &["forever", "cache", "durable"]);
    place.run(&["namespace", "create", "x", "--quota", "9"]).complains(2, &["no unit"]);
    place
        .run(&["namespace", "create", "x", "--fingerprint", "modell=a"])
        .complains(2, &["modell", "its fields are model"]);
    place.run(&["namespace", "create", "x", "--fingerprint", "model"]).complains(2, &["FIELD=VALUE"]);
    assert!(!place.path("d").exists(), "nothing is made before everything is understood");
}

#[test]
fn an_address_that_is_none_or_where_nobody_answers() {
    let place = Place::new();
    place.run(&["stat", "--connect", "/tmp/x.sock"]).complains(2, &["unix:PATH", "tcp:HOST:PORT"]).once();
    place
        .run(&["stat", "--connect", &format!("unix:/tmp/{}", "x".repeat(110))])
        .complains(2, &["at most 107", "shorter"]);
    place.run(&["stat", "--connect", "unix:/nowhere/s"]).complains(1, &["/nowhere/s", "forebay serve"]).once();
    place.run(&["stat"]).complains(1, &["forebay.sock", "forebay serve"]).once();
    place.run(&["stat", "--connect", "tcp:127.0.0.1:1"]).complains(2, &["--token-file"]);
    place.run(&["put", "--connect", "unix:/nowhere/s", &place.file("a", b"a")]).complains(1, &["/nowhere/s"]).once();
}

#[test]
fn a_block_that_is_empty_too_large_or_not_there() {
    let place = Place::new();
    let _node = place.serve();
    place.ask(&["put", &place.file("empty", b"")]).complains(1, &["empty", "at least 1 byte"]).once();
    let large = place.file("large", &bytes(3, (1 << 20) + 1));
    place.ask(&["put", &large]).complains(1, &["large", "too_large", "--segment"]).once();
    std::fs::File::create(place.path("vast")).unwrap().set_len(65 << 20).unwrap();
    place.ask(&["put", &place.text("vast")]).complains(1, &["65 MiB", "at most 64 MiB", "split it"]).once();
    place.ask(&["put", "nowhere"]).complains(1, &["nowhere", "check its path"]).once();
    let one = place.file("one", b"a");
    assert_eq!(
        place.ask(&["put", "nowhere", &one]).complains(1, &["nowhere"]).put_lines().len(),
        1,
        "the others are put"
    );
    place.run(&["bench", "--blocks", "many"]).complains(2, &["--blocks", "a whole number"]).once();
}

#[test]
fn a_key_of_the_wrong_length() {
    let place = Place::new();
    let _node = place.serve();
    let good = place.ask(&["put", &place.file("a", b"abc")]).ok().put_lines()[0].0.clone();
    for bad in ["abc", &good.to_uppercase(), &format!("{good}0"), ""] {
        if bad != good {
            place
                .ask(&["get", &good, bad, "--out", &place.text("out")])
                .complains(2, &["32 lower-case hex digits"])
                .once();
        }
    }
    assert!(!place.path("out").exists(), "a typing error fetches nothing");
}

#[test]
fn a_drive_that_cannot_be_one() {
    let place = Place::new();
    let serve = |data: &str, capacity: &str| {
        place.serve_refused(&["--data", data, "--capacity", capacity, "--memory", "64MiB", "--socket", "s"])
    };
    std::fs::create_dir(place.path("folder")).unwrap();
    serve("folder", "96MiB").complains(1, &["folder", "is a directory", "name a file"]).once();
    serve("nowhere/drive", "96MiB").complains(1, &["nowhere", "make the folder first"]).once();
    serve("", "96MiB").complains(2, &["--data", "is empty"]).once();
    place.file("hollow", b"");
    serve("hollow", "96MiB").complains(1, &["hollow", "at least 1 MiB", "remove the file"]).once();
    serve("small", "8MiB").complains(1, &["8 MiB", "too small", "--capacity"]).once();
    assert!(!place.path("small").exists(), "what is refused leaves no file");
    serve("vast", "900TiB").complains(1, &["vast"]).once();
    assert!(!place.path("vast").exists(), "what does not fit leaves no file");
    let foreign = bytes(5, 96 << 20);
    place.file("foreign", &foreign);
    serve("foreign", "96MiB").complains(1, &["foreign", "not a drive of Forebay"]).once();
    assert!(std::fs::read(place.path("foreign")).unwrap() == foreign, "another's file is left as it was");
    // Root may write what nobody may.
    if !rustix::process::geteuid().is_root() {
        set_mode(place.file("locked", &[0; 4096]), 0o400);
        serve("locked", "96MiB").complains(1, &["locked", "cannot be written"]).once();
    }
}

#[test]
fn a_drive_a_socket_and_a_size_that_are_taken() {
    let place = Place::new();
    let mut node = place.serve();
    let key = place.ask(&["put", &place.file("a", b"abc")]).ok().put_lines()[0].0.clone();
    let also = |socket: &str| {
        place.serve_refused(&["--data", "drive", "--capacity", "96MiB", "--memory", "64MiB", "--socket", socket])
    };
    also("s2").complains(1, &["drive", "in use"]).once();
    place
        .serve_refused(&["--data", "drive2", "--capacity", "96MiB", "--memory", "64MiB", "--socket", "s"])
        .complains(1, &["taken"])
        .once();
    assert!(node.lives(), "the node that was there goes on");
    place.ask(&["get", &key, "--out", &place.text("out")]).ok();
    assert_eq!(node.end(rustix::process::Signal::TERM).0, 0);
    let other = ["--data", "drive", "--capacity", "128MiB", "--memory", "64MiB", "--socket", "s"];
    place.serve_refused(&other).complains(1, &["drive", "128 MiB", "96 MiB", "--capacity"]).once();
    let two = [&SERVE[1..], &["--shards", "2"]].concat();
    place.serve_refused(&two).complains(1, &["1 shard(s)", "--shards 1"]).once();
    let _again = place.serve();
    place.ask(&["get", &key, "--out", &place.text("out")]).ok();
}

#[test]
fn a_socket_path_that_cannot_be() {
    let place = Place::new();
    let long = place.text(&"x".repeat(120));
    let with = |socket: &str| {
        place.serve_refused(&["--data", "d", "--capacity", "96MiB", "--memory", "64MiB", "--socket", socket])
    };
    with(&long).complains(2, &["at most 107", "shorter"]).once();
    with("").complains(2, &["--socket", "is empty"]).once();
    with("nowhere/s").complains(1, &["nowhere", "create it first"]).once();
    let file = place.file("file", b"precious");
    with(&file).complains(1, &["file"]).once();
    assert_eq!(std::fs::read(&file).unwrap(), b"precious", "a file that is no socket is never removed");
    assert!(!place.path("d").exists());
}

#[test]
fn too_little_memory_and_segments_that_cannot_be() {
    let place = Place::new();
    let base = ["--data", "d", "--capacity", "96MiB", "--socket", "s", "--memory"];
    place
        .serve_refused(&[&base[..], &["1MiB"]].concat())
        .complains(1, &["1 MiB of memory is too little", "--memory"])
        .once();
    place
        .serve_refused(&[&base[..], &["512TiB"]].concat())
        .complains(2, &["--memory", "512 TiB", "this machine", "give less"])
        .once();
    let segment = |size| [&base[..], &["64MiB", "--segment", size]].concat();
    place.serve_refused(&segment("5MiB")).complains(1, &["power of two between 4 MiB and 256 MiB"]).once();
    place.serve_refused(&segment("64MiB")).complains(1, &["needs at least", "--capacity"]).once();
    assert!(!place.path("d").exists());
}

#[test]
fn a_namespace_that_is_not_there_or_is_another() {
    let place = Place::new();
    let _node = place.serve();
    let file = place.file("a", b"abc");
    place
        .ask(&["put", "--namespace", "nope", &file])
        .complains(1, &["\"nope\"", "forebay namespace create nope"])
        .once();
    place.ask(&["put", "--namespace", "a b", &file]).complains(2, &["1 to 64 letters"]).once();
    place.ask(&["namespace", "create", &"n".repeat(65)]).complains(2, &["1 to 64 letters"]).once();
    place.ask(&["namespace", "delete", "nope"]).complains(1, &["\"nope\"", "forebay namespace list"]).once();
    place.ask(&["namespace", "create", "kv", "--fingerprint", "model=a", "--fingerprint", "dtype=bf16"]).ok();
    place
        .ask(&["namespace", "create", "kv", "--fingerprint", "model=a", "--fingerprint", "dtype=fp8"])
        .complains(1, &["\"kv\"", "field dtype is \"bf16\", and \"fp8\"", "choose another name"])
        .once();
    place
        .ask(&["namespace", "create", "kv", "--fingerprint", "model=a"])
        .complains(1, &["\"kv\"", "field dtype is \"bf16\", and not set"])
        .once();
    place
        .ask(&[
            "namespace",
            "create",
            "kv",
            "--class",
            "durable",
            "--fingerprint",
            "model=a",
            "--fingerprint",
            "dtype=bf16",
        ])
        .complains(1, &["\"kv\"", "class"])
        .once();
}

#[test]
fn tokens_that_are_missing_wrong_or_open_to_others() {
    let place = Place::new();
    let serve = |more: &[&str]| place.serve_refused(&[&SERVE[1..], more].concat());
    serve(&["--listen", "127.0.0.1:0"]).complains(2, &["--listen", "--token-file"]).once();
    let open = place.file("open", b"secret");
    set_mode(&open, 0o644);
    serve(&["--listen", "127.0.0.1:0", "--token-file", &open]).complains(2, &["mode 0644", "chmod 600"]).once();
    serve(&["--listen", "127.0.0.1:0", "--token-file", &place.token("empty", "\n")]).complains(2, &["is empty"]).once();
    serve(&["--listen", "127.0.0.1:0", "--token-file", "nowhere"]).complains(2, &["nowhere", "cannot be read"]).once();
    let token = place.token("token", "right\n");
    serve(&["--listen", "0.0.0.0:0", "--token-file", &token]).complains(1, &["0.0.0.0", "--insecure-network"]).once();
    serve(&["--listen", "nonsense", "--token-file", &token]).complains(1, &["nonsense"]).once();
    serve(&["--metrics", "nonsense"]).complains(2, &["--metrics", "HOST:PORT"]).once();
    place.run(&["stat", "--connect", "tcp:127.0.0.1:1", "--token-file", &open]).complains(1, &["chmod 600"]).once();
    serve(&["--metrics", "0.0.0.0:0"]).complains(1, &["other machines", "--insecure-network"]).once();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let _node = place.serve_with(&["--listen", &free, "--token-file", &token]);
    let stat = |token: &str| place.run(&["stat", "--connect", &format!("tcp:{free}"), "--token-file", token]);
    stat(&token).ok();
    stat(&place.token("wrong", "wrong")).complains(1, &["the token is not this node's", "--token-file"]).once();
}

#[test]
fn a_region_of_words_is_no_settings_file() {
    let place = Place::new();
    place.run(&["stat", "--config", "nowhere.toml"]).complains(2, &["nowhere.toml", "cannot be read"]).once();
    let file = place.file("f.toml", b"capacity = ");
    place.run(&["stat", "--config", &file]).complains(2, &["f.toml", "not TOML", "line 1"]).once();
    let file = place.file("f.toml", b"sockte = \"s\"\n");
    place.run(&["stat", "--config", &file]).complains(2, &["\"sockte\"", "did you mean socket?"]).once();
    let mut command = place.forebay(["stat"]);
    command.env("FOREBAY_CONECT", "unix:s");
    support::Ran::of(command).complains(2, &["FOREBAY_CONECT", "did you mean FOREBAY_CONNECT?"]).once();
}

#[test]
fn an_output_that_nobody_can_write_or_reads() {
    let place = Place::new();
    let _node = place.serve();
    let key = place.ask(&["put", &place.file("a", b"abc")]).ok().put_lines()[0].0.clone();
    let file = place.file("plain", b"");
    place.ask(&["get", &key, "--out", &file]).complains(1, &["plain", "--out"]).once();
    let mut command = place.forebay(["stat", "--connect", &format!("unix:{}", place.text("s"))]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let out = command.stdout(writer).output().unwrap();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&out.stderr));
}
