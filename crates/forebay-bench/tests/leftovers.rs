//! What a bench leaves behind: nothing, however it ends.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, and waits for others"
)]

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let place = Place(std::env::temp_dir().join(format!("forebay-leftovers-{name}-{}", std::process::id())));
        std::fs::create_dir_all(place.0.join("bench")).unwrap();
        // In place of a node: it runs, and is never ready.
        let script = "#!/bin/sh\nwhile :; do sleep 0.1; done\n";
        std::fs::write(place.0.join("node"), script).unwrap();
        std::fs::set_permissions(place.0.join("node"), std::fs::Permissions::from_mode(0o755)).unwrap();
        place
    }

    fn bench(&self) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay-bench"));
        command.args(["mixed", "--no-install", "--dir"]).arg(self.0.join("bench"));
        command.arg("--forebay").arg(self.0.join("node"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn folders(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.0.join("bench")).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// Processes whose arguments have a path of the benches' folder, and which serve.
    fn nodes(&self) -> usize {
        let bench = self.0.join("bench");
        let serves = |pid: PathBuf| {
            let words = std::fs::read(pid.join("cmdline")).unwrap_or_default();
            let words: Vec<&[u8]> = words.split(|b| *b == 0).collect();
            words.contains(&&b"serve"[..])
                && words.iter().any(|w| std::str::from_utf8(w).is_ok_and(|w| Path::new(w).starts_with(&bench)))
        };
        std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).filter(|entry| serves(entry.path())).count()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..6000 {
        if is() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("two minutes have passed: {what}");
}

#[test]
fn a_bench_that_is_killed_or_interrupted_leaves_no_folder_and_no_node() {
    let place = Place::new("killed");
    for signal in [Signal::KILL, Signal::INT, Signal::TERM] {
        let mut bench = place.bench();
        until("a node has started", || place.nodes() == 1);
        assert_eq!(place.folders().len(), 1);
        kill_process(Pid::from_child(&bench), signal).unwrap();
        bench.wait().unwrap();
        until("the folder is gone", || place.folders().is_empty());
        until("the node is gone", || place.nodes() == 0);
    }
}

#[test]
fn what_a_dead_bench_left_is_cleared_by_the_next_and_what_others_use_is_not() {
    let place = Place::new("left");
    let folder = |name: &str| {
        let dir = place.0.join("bench").join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("raw"), [1; 4096]).unwrap();
        dir
    };
    let (dead, alive, other) = (folder("limits-1"), folder("limits-2"), folder("mine"));
    File::create(dead.join("lock")).unwrap();
    let held = File::create(alive.join("lock")).unwrap();
    flock(&held, FlockOperation::LockExclusive).unwrap();
    let mut bench = place.bench();
    until("a node has started", || place.nodes() == 1);
    assert!(!dead.exists() && alive.exists() && other.exists());
    kill_process(Pid::from_child(&bench), Signal::TERM).unwrap();
    bench.wait().unwrap();
    until("its folder is gone", || place.folders().len() == 2);
    until("the node is gone", || place.nodes() == 0);
}
