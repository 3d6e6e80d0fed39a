//! A real node as a child process, and what it costs in CPU.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_client::{Client, Options};
use forebay_types::{Address, Clock, SystemClock};
use rustix::process::{Pid, Signal, kill_process};

use crate::watch::{Watch, pause};
use crate::{Common, Failed, Outcome, why};

/// How a node is started.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) dir: PathBuf,
    pub(crate) capacity: String,
    pub(crate) memory: String,
    pub(crate) tcp: bool,
    pub(crate) extra: Vec<String>,
}

/// A running node. Dropping it kills the process by its pid.
pub(crate) struct Node {
    child: Child,
    setup: Setup,
    forebay: PathBuf,
    io: String,
    /// Seconds from spawn to the line `ready`.
    pub(crate) ready_s: f64,
    tcp_port: u16,
}

/// The binary to measure: `--forebay`, else beside this one.
pub(crate) fn binary(common: &Common) -> Outcome<PathBuf> {
    if let Some(path) = &common.forebay {
        return Ok(path.clone());
    }
    let own = std::env::current_exe().map_err(why("finding this program"))?;
    let beside = own.with_file_name("forebay");
    if beside.exists() {
        return Ok(beside);
    }
    Err(Failed(format!(
        "{} is not there; build it with `cargo build --release` or name it with --forebay",
        beside.display()
    )))
}

impl Node {
    pub(crate) fn start(common: &Common, setup: Setup) -> Outcome<Node> {
        std::fs::create_dir_all(&setup.dir).map_err(why("making the bench folder"))?;
        let forebay = binary(common)?;
        let tcp_port = if setup.tcp { free_port()? } else { 0 };
        let (child, ready_s) = spawn(&forebay, &setup, &common.io, tcp_port)?;
        Ok(Node { child, setup, forebay, io: common.io.clone(), ready_s, tcp_port })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL, then a new process on the same drive.
    pub(crate) fn kill_and_restart(&mut self) -> Outcome<()> {
        self.kill();
        self.restart()
    }

    /// The same, and for how many seconds of the start the dead one's lock on the drive was still held: the kernel frees its memory, and what its ring
    /// had registered of it, before it lets go of the file.
    pub(crate) fn kill_and_restart_watched(&mut self) -> Outcome<f64> {
        let dead = self.pid();
        self.kill();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watching = scope.spawn(|| {
                let watch = Watch::start();
                while holds_a_lock(dead) && !over.load(Ordering::Relaxed) {
                    pause(1);
                }
                watch.s()
            });
            let restarted = self.restart();
            over.store(true, Ordering::Relaxed);
            let held_s = watching.join().map_err(|_| Failed("the thread that watches the lock panicked".into()))?;
            restarted.map(|()| held_s)
        })
    }

    /// A new process on the same drive, after a kill.
    pub(crate) fn restart(&mut self) -> Outcome<()> {
        let (child, ready_s) = spawn(&self.forebay, &self.setup, &self.io, self.tcp_port)?;
        (self.child, self.ready_s) = (child, ready_s);
        Ok(())
    }

    /// Sends the process a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Outcome<()> {
        kill_process(Pid::from_child(&self.child), signal).map_err(why("sending the node a signal"))
    }

    /// An orderly end: SIGTERM, and what was begun is finished.
    pub(crate) fn end(&mut self) -> Outcome<()> {
        self.signal(Signal::TERM)?;
        let status = self.child.wait().map_err(why("waiting for the node"))?;
        if status.success() { Ok(()) } else { Err(Failed(format!("the node did not end in order: {status}"))) }
    }

    /// An orderly end, then a new process on the same drive: everything is there, and nothing is in DRAM.
    pub(crate) fn end_and_restart(&mut self) -> Outcome<()> {
        self.end()?;
        self.restart()
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|status| status.to_string())
    }

    /// Where it listens on loopback; 0 when it does not.
    pub(crate) fn tcp_port(&self) -> u16 {
        self.tcp_port
    }

    /// SIGKILL; returns when the process is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn unix(&self) -> Outcome<Client> {
        self.unix_with(options())
    }

    pub(crate) fn tcp(&self) -> Outcome<Client> {
        self.tcp_with(options())
    }

    pub(crate) fn unix_with(&self, options: Options) -> Outcome<Client> {
        let address = Address::unix(self.setup.dir.join("s")).map_err(why("the socket's path"))?;
        Client::connect(&address, options).map_err(why("connecting to the node"))
    }

    pub(crate) fn tcp_with(&self, options: Options) -> Outcome<Client> {
        let token = std::fs::read(self.setup.dir.join("token")).map_err(why("reading the token"))?;
        let address = Address::Tcp(format!("127.0.0.1:{}", self.tcp_port));
        Client::connect(&address, Options { token: Some(token), ..options }).map_err(why("connecting over TCP"))
    }
}

/// Whether a lock that this process took on a file is held by somebody, if only by the kernel on its way to let it go.
fn holds_a_lock(pid: u32) -> bool {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let pid = pid.to_string();
    locks.lines().any(|line| line.contains(" FLOCK ") && line.split_whitespace().nth(4) == Some(pid.as_str()))
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.setup.dir);
    }
}

/// A client's, with a deadline that no busy machine meets.
pub(crate) fn options() -> Options {
    Options { deadline: Duration::from_secs(30), ..Options::default() }
}

fn free_port() -> Outcome<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(why("finding a free port"))?;
    Ok(listener.local_addr().map_err(why("finding a free port"))?.port())
}

fn spawn(forebay: &Path, setup: &Setup, io: &str, tcp_port: u16) -> Outcome<(Child, f64)> {
    let clock = SystemClock::new();
    let mut command = Command::new(forebay);
    for setting in settings(std::env::vars_os().map(|(name, _)| name)) {
        command.env_remove(setting);
    }
    command.arg("serve").arg("--data").arg(setup.dir.join("drive"));
    command.args(["--capacity", &setup.capacity, "--memory", &setup.memory, "--io", io]);
    command.arg("--socket").arg(setup.dir.join("s")).args(&setup.extra);
    if tcp_port != 0 {
        let token = setup.dir.join("token");
        if !token.exists() {
            write_token(&token)?;
        }
        command.arg("--listen").arg(format!("127.0.0.1:{tcp_port}")).arg("--token-file").arg(token);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command.spawn().map_err(why("starting the node"))?;
    let Some(stdout) = child.stdout.take() else { return Err(Failed("the node has no stdout".into())) };
    for line in BufReader::new(stdout).lines() {
        if line.map_err(why("reading the node's stdout"))?.trim().starts_with("ready") {
            return Ok((child, clock.now_us() as f64 / 1e6));
        }
    }
    let status = child.wait().map_err(why("waiting for the node"))?;
    Err(Failed(format!("the node ended before it was ready ({status})")))
}

/// What of the environment a node would take for settings of its own. The chore tells the bench where engines are by such names, and a node refuses those
/// that it does not know.
fn settings(names: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    names.filter(|name| name.as_encoded_bytes().starts_with(b"FOREBAY_"))
}

fn write_token(path: &Path) -> Outcome<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(why("writing the token"))?;
    file.write_all(b"0123456789abcdef0123456789abcdef").map_err(why("writing the token"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_told_by_flags_alone() {
        let names = ["HOME", "FOREBAY_ENGINES_VLLM", "FOREBAY_IO", "PATH"].map(OsString::from).into_iter();
        assert_eq!(settings(names).collect::<Vec<_>>(), ["FOREBAY_ENGINES_VLLM", "FOREBAY_IO"]);
    }
}
