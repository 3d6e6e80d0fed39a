//! Other processes: this test program once more, told by an environment variable what to be.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStderr, Command, Stdio};

use forebay_types::{Address, ShardId};
use forebay_wire::{ErrorCode, Message};

use crate::hand::{Folder, Hand, hello};

/// What a process of a role was told to be, and with which words.
pub(crate) const ROLE: &str = "FOREBAY_TEST_ROLE";

/// What a role says begins with this, so that the test runner's own words are told from it.
const MARK: &str = "> ";

/// Says a line to the test that started this process.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{MARK}{line}");
}

/// Waits until the test that started this process lets it go.
pub(crate) fn wait_to_go() {
    let mut line = String::new();
    let _ = std::io::stdin().read_line(&mut line);
}

/// A process of a role. Dropping it kills it.
pub(crate) struct Other {
    child: Child,
    said: BufReader<ChildStderr>,
}

impl Other {
    pub(crate) fn start(role: &[&str]) -> Self {
        Other::start_by(Command::new(std::env::current_exe().unwrap()), role)
    }

    /// The same with at most so many descriptors.
    pub(crate) fn start_with_descriptors(most: u32, role: &[&str]) -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {most} && exec \"$0\" \"$@\"")]).arg(std::env::current_exe().unwrap());
        Other::start_by(command, role)
    }

    fn start_by(mut command: Command, role: &[&str]) -> Self {
        command.args(["--exact", "roles::a_process_in_another_role", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, role.join("\n")).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        Other { child, said }
    }

    /// The next line it tells. What else it says, such as why it panics, is shown.
    #[track_caller]
    pub(crate) fn told(&mut self) -> String {
        loop {
            let mut line = String::new();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "it ended: {:?}", self.child.wait());
            match line.trim_end().strip_prefix(MARK) {
                Some(told) => return told.to_owned(),
                None => std::io::stderr().write_all(line.as_bytes()).unwrap(),
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A node in a process of its own.
pub(crate) struct NodeProcess {
    pub(crate) process: Other,
    pub(crate) address: Address,
    pub(crate) notes: Vec<String>,
    metrics: SocketAddr,
}

impl NodeProcess {
    pub(crate) fn start(folder: &Folder, memory_mib: u64) -> Self {
        NodeProcess::of(Other::start(&["node", folder.0.to_str().unwrap(), &memory_mib.to_string()]), folder)
    }

    pub(crate) fn start_with_descriptors(folder: &Folder, memory_mib: u64, most: u32) -> Self {
        let role = ["node", folder.0.to_str().unwrap(), &memory_mib.to_string()];
        NodeProcess::of(Other::start_with_descriptors(most, &role), folder)
    }

    fn of(mut process: Other, folder: &Folder) -> Self {
        let mut notes = Vec::new();
        let metrics = loop {
            let told = process.told();
            match told.strip_prefix("serves ") {
                Some(metrics) => break metrics.parse().unwrap(),
                None => notes.push(told),
            }
        };
        NodeProcess { process, address: Address::Unix(folder.0.join("s")), notes, metrics }
    }

    pub(crate) fn control(&self) -> Hand {
        Hand::with(&self.address, hello(ShardId::default(), &[])).0
    }

    pub(crate) fn shard_id(&self) -> ShardId {
        match self.control().ask(&Message::Members { request: 1 }) {
            Message::MembersAre { members, .. } => members[0].shard,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn metrics_text(&self) -> String {
        use std::io::Read;
        let mut stream = TcpStream::connect(self.metrics).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// Its own memory in KiB: what clients lend it is theirs.
    pub(crate) fn memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let of = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        of("RssAnon:") + of("RssFile:")
    }

    /// Its open descriptors.
    pub(crate) fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.pid())).unwrap().count()
    }
}

/// Whether a connection is refused because the node serves no more.
pub(crate) fn is_crowded(hand: &mut Hand) -> bool {
    matches!(hand.message(), Message::Error { code: ErrorCode::TooMany, .. })
}
