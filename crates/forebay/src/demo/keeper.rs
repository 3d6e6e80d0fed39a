//! The keeper: a small process between the demo and its node, which outlives both and leaves nothing behind.
//!
//! It makes the temporary directory, starts and kills the node as it is told on its stdin, and when its stdin ends, for whatever reason (the demo
//! is done, failed, was interrupted or killed), it kills the node and removes the directory. It runs in a process group of its own, so that Ctrl-C
//! in a terminal reaches the demo and not the keeper. It knows no client and no trace.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::time::Duration;

use forebay_types::{Entropy, SystemEntropy};

use super::error::DemoError;

/// A node that has not said `ready` by then will not. Formatting a large drive takes seconds.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// The keeper answers at once unless something is very wrong.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// Between the arguments of a node in one line; no path that the keeper makes has it.
const SEPARATOR: char = '\u{1f}';

/// The demo's end: tells the keeper what to do.
pub(crate) struct Keeper {
    child: Child,
    orders: Option<ChildStdin>,
    said: Receiver<String>,
    dir: PathBuf,
    running: bool,
}

impl Keeper {
    /// Starts a keeper, which makes a directory inside `parent`.
    pub(crate) fn start(parent: &Path) -> Result<Self, DemoError> {
        let failed =
            |e: std::io::Error| DemoError::new(format!("the demo cannot start a second process of itself: {e}"));
        let program = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(program)
            .args(["demo", "--keeper", "--dir"])
            .arg(parent)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let orders = child.stdin.take();
        let Some(stdout) = child.stdout.take() else {
            return Err(DemoError::new("the demo's second process has no output".to_owned()));
        };
        let (tell, said) = channel();
        let listen = move || {
            // Ends when the keeper does, or when nobody listens any more.
            BufReader::new(stdout).lines().map_while(Result::ok).all(|line| tell.send(line).is_ok());
        };
        std::thread::Builder::new().name("demo-keeper".into()).spawn(listen).map_err(failed)?;
        let mut keeper = Keeper { child, orders, said, dir: PathBuf::new(), running: false };
        let line = keeper.hear(ANSWER_WITHIN)?;
        match line.strip_prefix("dir ") {
            Some(dir) => keeper.dir = PathBuf::from(dir),
            None => return Err(DemoError::new(line.trim_start_matches("failed ").to_owned())),
        }
        Ok(keeper)
    }

    /// The temporary directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts the node with `args` and waits until it serves.
    pub(crate) fn start_node(&mut self, args: &[String]) -> Result<(), DemoError> {
        let separator = SEPARATOR.to_string();
        self.order(&format!("start{SEPARATOR}{}", args.join(&separator)))?;
        self.running = true;
        loop {
            let line = self.hear(READY_WITHIN)?;
            match line.as_str() {
                "node ready" => return Ok(()),
                "gone" => return Err(self.node_failed("did not start")),
                _ => match line.strip_prefix("failed ") {
                    Some(why) => return Err(DemoError::new(why.to_owned())),
                    None => continue,
                },
            }
        }
    }

    /// Kills the node with SIGKILL. Returns when the process is gone.
    pub(crate) fn kill_node(&mut self) -> Result<(), DemoError> {
        self.running = false;
        self.order("kill")?;
        let mut gone = 0;
        while gone < 2 {
            let line = self.hear(ANSWER_WITHIN)?;
            gone += usize::from(line == "killed" || line == "gone");
        }
        Ok(())
    }

    /// Waits, unless the keeper has something to say.
    pub(crate) fn pause(&mut self, time: Duration) {
        // What it could say now is the end of a node that is known to be gone.
        let _ = self.said.recv_timeout(time);
    }

    /// Fails if the node ended by itself.
    pub(crate) fn check_node(&mut self) -> Result<(), DemoError> {
        loop {
            match self.said.try_recv() {
                Ok(line) if line == "gone" => return Err(self.node_failed("ended in the middle of the run")),
                Ok(_) => continue,
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(keeper_gone()),
            }
        }
    }

    /// What the node said last, if anything.
    fn node_failed(&self, what: &str) -> DemoError {
        let log = std::fs::read_to_string(log_of(&self.dir)).unwrap_or_default();
        let last: String =
            log.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("nothing").chars().take(400).collect();
        DemoError::new(format!("the node {what}; the last it said was: {last}"))
    }

    fn order(&mut self, line: &str) -> Result<(), DemoError> {
        let orders = self.orders.as_mut().ok_or_else(keeper_gone)?;
        writeln!(orders, "{line}").and_then(|()| orders.flush()).map_err(|_| keeper_gone())
    }

    fn hear(&mut self, within: Duration) -> Result<String, DemoError> {
        match self.said.recv_timeout(within) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                Err(self.node_failed(&format!("did not answer within {} s", within.as_secs())))
            }
            Err(RecvTimeoutError::Disconnected) => Err(keeper_gone()),
        }
    }
}

impl Drop for Keeper {
    /// Waits until everything is gone.
    fn drop(&mut self) {
        drop(self.orders.take());
        // The keeper ends by itself when its orders do; what it could say is of no use any more.
        let _ = self.child.wait();
    }
}

fn keeper_gone() -> DemoError {
    DemoError::new("the demo's second process, which keeps the node, is gone; start the demo again".to_owned())
}

/// Where the node's words go.
fn log_of(dir: &Path) -> PathBuf {
    dir.join("node.log")
}

/// The keeper's own end: `forebay demo --keeper`.
pub(crate) fn run(parent: &Path) -> ExitCode {
    let dir = match make_dir(parent) {
        Ok(dir) => dir,
        Err(e) => {
            say(&format!(
                "failed a temporary directory cannot be made in {}: {e}; give another --dir",
                parent.display()
            ));
            return ExitCode::FAILURE;
        }
    };
    say(&format!("dir {}", dir.display()));
    let mut node: Option<Child> = None;
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let mut words = line.split(SEPARATOR);
        match words.next() {
            Some("start") => match start(&dir, words) {
                Ok(child) => node = Some(child),
                Err(e) => say(&format!("failed the node cannot be started: {e}")),
            },
            Some("kill") => {
                end(node.take());
                say("killed");
            }
            _ => break,
        }
    }
    end(node);
    let removed = std::fs::remove_dir_all(&dir);
    if removed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn make_dir(parent: &Path) -> std::io::Result<PathBuf> {
    let dir = std::path::absolute(parent)?.join(format!("forebay-demo-{:016x}", SystemEntropy.word()));
    std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
    Ok(dir)
}

fn start<'a>(dir: &Path, args: impl Iterator<Item = &'a str>) -> std::io::Result<Child> {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log_of(dir))?;
    let mut command = Command::new(std::env::current_exe()?);
    // Settings of whoever runs the demo are for other nodes.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"FOREBAY_")) {
        command.env_remove(name);
    }
    let mut child =
        command.args(args).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
    let stdout = child.stdout.take();
    let relay = move || {
        if let Some(stdout) = stdout {
            BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| say(&format!("node {line}")));
        }
        // Its stdout ends when the process does.
        say("gone");
    };
    std::thread::Builder::new().name("demo-relay".into()).spawn(relay)?;
    Ok(child)
}

fn end(node: Option<Child>) {
    if let Some(mut node) = node {
        // It may be gone already; either way it is waited for.
        let _ = node.kill();
        let _ = node.wait();
    }
}

/// A line for the demo. If the demo is gone nobody needs it.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
