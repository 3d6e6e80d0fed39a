//! A place of its own for each test, the binary run as a person runs it, and nodes that are gone when the test is.
#![expect(dead_code, reason = "each test file uses its share of these")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// A folder that is removed at the end; short, because sockets lie in it.
pub(crate) struct Place(PathBuf);

impl Place {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("fb-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Place(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// A file with these bytes.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        self.text(name)
    }

    /// A file with a token that only its owner can read.
    pub(crate) fn token(&self, name: &str, token: &str) -> String {
        let path = self.file(name, token.as_bytes());
        set_mode(&path, 0o600);
        path
    }

    /// The binary, with a home of its own and no settings of whoever runs the tests but the I/O engine they ask for.
    pub(crate) fn forebay(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FOREBAY_") && name != "FOREBAY_IO" {
                command.env_remove(name);
            }
        }
        command.env("HOME", &self.0).env_remove("XDG_DATA_HOME").env_remove("XDG_RUNTIME_DIR").env_remove("NO_COLOR");
        command.current_dir(&self.0).args(args).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.forebay(args))
    }

    /// Runs a client verb against the node that serves in this place.
    pub(crate) fn ask(&self, args: &[&str]) -> Ran {
        let mut command = self.forebay(args);
        command.arg("--connect").arg(format!("unix:{}", self.text("s")));
        Ran::of(command)
    }

    /// A node of modest size on the drive `drive` and the socket `s`.
    pub(crate) fn serve(&self) -> Node {
        self.serve_with(&[])
    }

    pub(crate) fn serve_with(&self, more: &[&str]) -> Node {
        let mut command = self.forebay(SERVE);
        command.args(more);
        Node::start(command)
    }

    /// A node that is expected not to come to be.
    #[track_caller]
    pub(crate) fn serve_refused(&self, args: &[&str]) -> Ran {
        let mut command = self.forebay(["serve"]);
        let mut child = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut out = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut out).unwrap();
        if !out.is_empty() {
            let _ = child.kill();
        }
        let ended = child.wait_with_output().unwrap();
        assert_eq!(out, "", "it serves with {args:?}");
        Ran { code: ended.status.code().unwrap_or(-1), out, err: String::from_utf8_lossy(&ended.stderr).into_owned() }
    }
}

/// What `serve` is given: drive and socket are names in the place, where every command runs.
pub(crate) const SERVE: [&str; 9] =
    ["serve", "--data", "drive", "--capacity", "96MiB", "--memory", "64MiB", "--socket", "s"];

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn set_mode(path: impl AsRef<Path>, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// What a run of the binary gave.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    pub(crate) fn of(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let code = status.code().unwrap_or_else(|| panic!("it ended by a signal: {status}"));
        Ran {
            code,
            out: String::from_utf8_lossy(&stdout).into_owned(),
            err: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }

    /// It went well.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{self:?}");
        self
    }

    /// It went wrong, and says so in sentences without a trace of its inside; one of them holds each of `words`.
    #[track_caller]
    pub(crate) fn complains(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        let errors: Vec<&str> = self.err.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(!errors.is_empty(), "nobody says what is wrong: {self:?}");
        for bad in ["panicked", "RUST_BACKTRACE", "stack backtrace", "because of a bug", "\x1b", "Err(", "Os {"] {
            assert!(!self.err.contains(bad), "{bad:?} shows in {self:?}");
        }
        let one = errors.iter().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(one, "no sentence holds all of {words:?}: {}", self.err);
        self
    }

    /// Its only error is one sentence.
    #[track_caller]
    pub(crate) fn once(self) -> Self {
        assert_eq!(self.err.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{self:?}");
        self
    }

    /// Keys and files that `put` printed.
    pub(crate) fn put_lines(&self) -> Vec<(String, String)> {
        let lines = self.out.lines().map(|line| line.split_once('\t').unwrap_or_else(|| panic!("no tab: {line:?}")));
        lines.map(|(key, file)| (key.to_owned(), file.to_owned())).collect()
    }
}

/// A node as a child. Dropping it kills it by its id.
pub(crate) struct Node {
    child: Child,
}

impl Node {
    /// Starts it and waits for the line `ready`.
    #[track_caller]
    pub(crate) fn start(command: Command) -> Self {
        Node::try_start(command).unwrap_or_else(|said| panic!("the node did not become ready: {said}"))
    }

    /// The same; an error is what it said on stderr.
    pub(crate) fn try_start(mut command: Command) -> Result<Self, String> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line == "ready\n" {
            return Ok(Node { child });
        }
        let _ = child.kill();
        let said = child.wait_with_output().unwrap();
        Err(format!("{line:?}, {}", String::from_utf8_lossy(&said.stderr)))
    }

    /// Starts it on a drive that a dead node may still hold: its last writes may be ending, and nobody else can have the drive meanwhile.
    #[track_caller]
    pub(crate) fn start_when_free(command: impl Fn() -> Command) -> Self {
        for _ in 0..100 {
            match Node::try_start(command()) {
                Ok(node) => return node,
                Err(said) => assert!(said.contains("in use"), "{said}"),
            }
            pause(20);
        }
        panic!("the drive stayed in use for two seconds after its node was dead");
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
        if signal == Signal::STOP {
            // Until each of its threads has come by the kernel it still answers.
            waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED).unwrap();
        }
    }

    /// Ends it in order; gives its exit code and what it said on stderr.
    pub(crate) fn end(mut self, signal: Signal) -> (i32, String) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let mut err = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        (self.child.wait().unwrap().code().unwrap_or(-1), err)
    }

    /// SIGKILL: nothing is flushed, drained or said.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// True while it runs.
    pub(crate) fn lives(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's node is broken for a while, or is given time")]
pub(crate) fn pause(ms: u64) {
    std::thread::sleep(std::time::Duration::from_millis(ms));
}

/// Bytes that no other call makes.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    use forebay_types::Entropy;
    let mut bytes = vec![0; length];
    forebay_types::SeededEntropy::new(seed).fill(&mut bytes);
    bytes
}

/// Sessions of a few requests, each prompt the last one and some more, like a coding agent's.
pub(crate) fn coding_sessions(count: u64) -> String {
    let session = |s: u64| {
        let request = |k: u64| {
            let tokens = 20_000 + k * 3000;
            let ids: Vec<u64> = (1..=tokens / 64).collect();
            format!(
                r#"{{"t":{},"in":{tokens},"out":{},"hash_ids":{ids:?},"stop":"tool_use","api_time":5,"think_time":{}}}"#,
                k * 40,
                200 + 10 * s,
                10 + s
            )
        };
        let requests: Vec<String> = (0..6).map(request).collect();
        format!(r#"{{"id":"s{s}","models":["m"],"block_size":64,"requests":[{}]}}"#, requests.join(","))
    };
    (0..count).map(session).collect::<Vec<_>>().join("\n")
}
