//! Who besieges a node: a process of its own, so that it shares no memory, no locks and no identity with the client it stands beside.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use forebay_client::{Client, NamespaceHandle};
use forebay_types::{Address, Entropy, Key, SystemEntropy};

use crate::report::print;
use crate::watch::{Watch, pause};
use crate::work::{attach, pattern, stamp};
use crate::{Failed, Outcome, why};

/// Blocks of 1 MiB that getters ask for: `large/0` and so on, in the namespace `default`.
pub(super) const LARGE: usize = 128;

/// A burner's rhythm: it burns its share of each such stretch.
const BURN_US: f64 = 2000.0;

#[derive(Args)]
pub(crate) struct BesiegerArgs {
    #[arg(long)]
    socket: PathBuf,
    #[arg(long)]
    siege: Siege,
    #[arg(long)]
    number: usize,
    /// Of a core, for those who only burn.
    #[arg(long, default_value_t = 1.0)]
    share: f64,
}

/// What besiegers do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Siege {
    /// Bytes that are no message, over fresh connections without end.
    Garbage,
    /// Connections that begin a message and say no more, opened and left by the hundred.
    Half,
    /// Clients that ask for blocks and give up at once.
    Hasty,
    /// Clients that get large blocks without a pause.
    Getters,
    /// Clients that put large blocks without a pause.
    Putters,
    /// They use the CPU and leave the node alone.
    Burners,
}

impl Siege {
    /// Those that touch the node.
    pub(super) const ALL: [Siege; 5] = [Siege::Garbage, Siege::Half, Siege::Hasty, Siege::Getters, Siege::Putters];

    pub(super) fn name(self) -> &'static str {
        match self {
            Siege::Garbage => "garbage on fresh connections",
            Siege::Half => "half messages, then silence",
            Siege::Hasty => "calls given up after 1 ms",
            Siege::Getters => "greedy gets of 1 MiB",
            Siege::Putters => "greedy puts of 1 MiB",
            Siege::Burners => "CPU burners",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Siege::Garbage => "garbage",
            Siege::Half => "half",
            Siege::Hasty => "hasty",
            Siege::Getters => "getters",
            Siege::Putters => "putters",
            Siege::Burners => "burners",
        }
    }
}

/// Besiegers at work. They end when this is dropped.
pub(super) struct Crowd(Vec<Child>);

impl Crowd {
    /// Starts so many, and returns when all are at it.
    pub(super) fn start(siege: Siege, socket: &Path, count: u16, share: f64) -> Outcome<Crowd> {
        let own = std::env::current_exe().map_err(why("finding this program"))?;
        let mut crowd = Crowd(Vec::new());
        for number in 0..count {
            let mut command = Command::new(&own);
            command.arg("besieger").arg("--socket").arg(socket).args(["--siege", siege.word()]);
            command.args(["--number", &number.to_string(), "--share", &share.to_string()]);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
            crowd.0.push(command.spawn().map_err(why("starting a besieger"))?);
        }
        for child in &mut crowd.0 {
            let mut line = String::new();
            let stdout = child.stdout.take().ok_or_else(|| Failed("a besieger has no stdout".into()))?;
            BufReader::new(stdout).read_line(&mut line).map_err(why("reading a besieger's word"))?;
            if line.trim() != "ready" {
                return Err(Failed(format!("a besieger ({}) ended before it began", siege.name())));
            }
        }
        Ok(crowd)
    }

    pub(super) fn pids(&self) -> Vec<u32> {
        self.0.iter().map(Child::id).collect()
    }

    /// Ends them; all must have kept on to the end.
    pub(super) fn end(mut self) -> Outcome<()> {
        for child in &mut self.0 {
            drop(child.stdin.take());
            let status = child.wait().map_err(why("waiting for a besieger"))?;
            if !status.success() {
                return Err(Failed(format!("a besieger ended early ({status})")));
            }
        }
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A besieger's whole life.
pub(crate) fn run(args: &BesiegerArgs) -> Outcome<()> {
    let over = Arc::new(AtomicBool::new(false));
    let seen = over.clone();
    let listen = move || {
        let _ = std::io::stdin().read(&mut [0]);
        seen.store(true, Ordering::Relaxed);
    };
    std::thread::Builder::new().name("end".into()).spawn(listen).map_err(why("starting a thread"))?;
    match args.siege {
        Siege::Garbage => garbage(&args.socket, &over),
        Siege::Half => half(&args.socket, &over),
        Siege::Hasty => {
            let (_client, space) = client(&args.socket)?;
            gets(&space.with_deadline(Duration::from_millis(1)), args.number, &over);
            Ok(())
        }
        Siege::Getters => {
            let (_client, space) = client(&args.socket)?;
            gets(&space, args.number, &over);
            Ok(())
        }
        Siege::Putters => {
            let (_client, space) = client(&args.socket)?;
            puts(&space, &over);
            Ok(())
        }
        Siege::Burners => {
            burn(args.share, &over);
            Ok(())
        }
    }
}

fn ready() {
    print("ready");
}

fn client(socket: &Path) -> Outcome<(Client, NamespaceHandle)> {
    let address = Address::unix(socket).map_err(why("the socket's path"))?;
    let client = Client::connect(&address, crate::node::options()).map_err(why("connecting to the node"))?;
    let space = attach(&client)?;
    Ok((client, space))
}

fn gets(space: &NamespaceHandle, number: usize, over: &AtomicBool) {
    let keys: Vec<Key> = (0..LARGE).map(|i| space.derive_key(format!("large/{i}").as_bytes())).collect();
    let mut at = number * 16;
    ready();
    while !over.load(Ordering::Relaxed) {
        at = (at + 16) % (keys.len() - 16);
        space.get_each(&keys[at..at + 16], |_, _| {});
    }
}

fn puts(space: &NamespaceHandle, over: &AtomicBool) {
    let mut blocks: Vec<Vec<u8>> = (0..8).map(|_| pattern(1 << 20)).collect();
    ready();
    while !over.load(Ordering::Relaxed) {
        let new = |_: &Vec<u8>| space.derive_key(&SystemEntropy.word().to_le_bytes());
        let keys: Vec<Key> = blocks.iter().map(new).collect();
        keys.iter().zip(&mut blocks).for_each(|(key, block)| stamp(block, key));
        let items: Vec<(Key, &[u8])> = keys.iter().copied().zip(blocks.iter().map(Vec::as_slice)).collect();
        space.put(&items);
    }
}

fn garbage(socket: &Path, over: &AtomicBool) -> Outcome<()> {
    let bytes = pattern(8192);
    ready();
    while !over.load(Ordering::Relaxed) {
        // The node closes in the middle: that it does is the point.
        let mut socket = UnixStream::connect(socket).map_err(why("connecting"))?;
        let _ = socket.write_all(&bytes);
    }
    Ok(())
}

fn half(socket: &Path, over: &AtomicBool) -> Outcome<()> {
    let mut held = std::collections::VecDeque::new();
    ready();
    while !over.load(Ordering::Relaxed) {
        let mut socket = UnixStream::connect(socket).map_err(why("connecting"))?;
        let _ = socket.write_all(b"FB\x01\x00\x37");
        held.push_back(socket);
        if held.len() > 100 {
            held.pop_front();
        }
        pause(1);
    }
    Ok(())
}

fn burn(share: f64, over: &AtomicBool) {
    ready();
    while !over.load(Ordering::Relaxed) {
        let stretch = Watch::start();
        while stretch.us() < share * BURN_US {
            std::hint::black_box(0);
        }
        let left_us = BURN_US - stretch.us();
        if left_us > 50.0 {
            doze(left_us);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the part of its rhythm in which it does not burn")]
fn doze(us: f64) {
    std::thread::sleep(Duration::from_nanos((us * 1e3) as u64));
}
