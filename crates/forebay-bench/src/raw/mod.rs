//! The limits: fio and iperf3 where they are installed, else raw loops of our own, named as such.

pub(crate) mod drive;
pub(crate) mod memory;
pub(crate) mod sockets;

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::report::say;

/// What measures this machine.
#[derive(Debug, Clone)]
pub(crate) struct Tools {
    pub(crate) fio: Option<String>,
    pub(crate) iperf3: Option<String>,
}

impl Tools {
    pub(crate) fn json(&self) -> Value {
        json!({ "fio": self.fio, "iperf3": self.iperf3 })
    }
}

/// Finds fio and iperf3; with `install` and as root, on a machine with apt-get, gets what is missing. Says aloud what it does and what it does
/// without.
pub(crate) fn tools(install: bool) -> Tools {
    let missing: Vec<&str> = ["fio", "iperf3"].into_iter().filter(|name| version(name).is_none()).collect();
    if !missing.is_empty() && install {
        apt_install(&missing);
    }
    let tools = Tools { fio: version("fio"), iperf3: version("iperf3") };
    if tools.fio.is_none() {
        say("fio is not installed: rows against the drive use our own raw loops (pread and pwrite with O_DIRECT in \
             threads), named as such; `apt-get install fio` mends it");
    }
    if tools.iperf3.is_none() {
        say(
            "iperf3 is not installed: the TCP row uses our own request/response loop alone; `apt-get install iperf3` mends it",
        );
    }
    tools
}

/// The version in the first line of `NAME --version`: its first word with a digit.
pub(crate) fn version(name: &str) -> Option<String> {
    let output = Command::new(name).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let first = text.lines().next().unwrap_or("");
    let word = first.split_whitespace().find(|word| word.contains(|c: char| c.is_ascii_digit()) && word.contains('.'));
    output.status.success().then(|| word.unwrap_or(first).trim_start_matches(&format!("{name}-")).to_owned())
}

/// Installs packages of the distribution, where this user may; says so, and what came of it.
pub(crate) fn apt_install(packages: &[&str]) -> bool {
    let names = packages.join(" ");
    if !rustix::process::geteuid().is_root() {
        say(&format!("{names}: not installed, and only root may; `apt-get install {names}`"));
        return false;
    }
    say(&format!("installing {names}: apt-get install --no-install-recommends {names}"));
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let install: Vec<&str> =
        ["install", "-y", "-qq", "--no-install-recommends"].into_iter().chain(packages.iter().copied()).collect();
    let done = apt(&install) || (apt(&["update", "-qq"]) && apt(&install));
    if !done {
        say(&format!("apt-get could not install {names}"));
    }
    done
}
