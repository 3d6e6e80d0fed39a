//! Somebody between one client and its node on a Unix socket, who flips bits in the memory that the client lends, at the very moments when nobody
//! but a checksum could tell: behind the sums of a put and before the node copies, and behind a landing and before the client looks.
//!
//! Client, node, regions and landings are the real ones; only the frames pass through here, descriptors with them.

use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread::Scope;
use std::time::Duration;

use forebay_net::Socket;
use forebay_types::{Address, Descriptor, Entropy, Key, LandingKind, RegionId, SeededEntropy};
use forebay_wire::{Frame, GetOutcome, Message, Place, RegionKind, encode, next_frame};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;

/// Which bytes are flipped: one bit for each item of a message, but for one item in eight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Nothing,
    /// What a put is read from.
    Source,
    /// The payload that a get brought.
    Payload,
    /// The descriptor in the trailer that a direct landing brought.
    Trailer,
}

/// One flip.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flip {
    pub(crate) key: Key,
    /// How the bytes had come; `None` for a put.
    pub(crate) landing: Option<LandingKind>,
}

pub(crate) struct Between {
    path: PathBuf,
    node: PathBuf,
    /// The node gets memory that is not sealed against shrinking, as an engine's own file would be, and says that the client does not own it: it
    /// never maps that. What is put is copied there, and what lands there is copied back.
    borrowed: bool,
    over: AtomicBool,
    state: Mutex<State>,
}

struct State {
    target: Target,
    chance: SeededEntropy,
    flips: Vec<Flip>,
    seen: u64,
}

impl Between {
    pub(crate) fn new(path: PathBuf, node: PathBuf, borrowed: bool, seed: u64) -> Between {
        let state = State { target: Target::Nothing, chance: SeededEntropy::new(seed), flips: Vec::new(), seen: 0 };
        Between { path, node, borrowed, over: AtomicBool::new(false), state: Mutex::new(state) }
    }

    pub(crate) fn address(&self) -> Address {
        Address::Unix(self.path.clone())
    }

    pub(crate) fn listen(&self) -> UnixListener {
        UnixListener::bind(&self.path).unwrap()
    }

    pub(crate) fn serve<'scope, 'env>(&'env self, scope: &'scope Scope<'scope, 'env>, listener: UnixListener) {
        for client in listener.incoming() {
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            // A node that is not there is the client's to find out.
            let (Ok(client), Ok(node)) = (client, UnixStream::connect(&self.node)) else { continue };
            scope.spawn(move || Relay::new(self, client, node).run());
        }
    }

    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = UnixStream::connect(&self.path);
    }

    /// From now on these are flipped.
    pub(crate) fn aim(&self, target: Target) {
        self.lock().target = target;
    }

    /// The flips since this was last asked.
    pub(crate) fn flips(&self) -> Vec<Flip> {
        std::mem::take(&mut self.lock().flips)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Flips a bit of `len` bytes at `offset`, if it is the turn of these bytes.
    fn flip(&self, target: Target, key: Key, landing: Option<LandingKind>, memory: &OwnedFd, offset: u64, len: u64) {
        let mut state = self.lock();
        if state.target != target || len == 0 {
            return;
        }
        state.seen += 1;
        if state.seen.is_multiple_of(8) {
            return;
        }
        let at = offset + state.chance.word() % len;
        let mut byte = [0];
        assert_eq!(rustix::io::pread(memory, &mut byte, at).unwrap(), 1);
        byte[0] ^= 1 << (state.chance.word() % 8);
        assert_eq!(rustix::io::pwrite(memory, &byte, at).unwrap(), 1);
        state.flips.push(Flip { key, landing });
    }
}

/// A region as both sides know it.
struct Lent {
    client: OwnedFd,
    /// The node's, where that is another.
    node: Option<OwnedFd>,
}

impl Lent {
    fn of_node(&self) -> &OwnedFd {
        self.node.as_ref().unwrap_or(&self.client)
    }
}

fn copy(from: &OwnedFd, to: &OwnedFd, offset: u64, len: u64) {
    let mut bytes = vec![0; len as usize];
    assert_eq!(rustix::io::pread(from, &mut bytes, offset).unwrap(), bytes.len());
    assert_eq!(rustix::io::pwrite(to, &bytes, offset).unwrap(), bytes.len());
}

struct End {
    socket: Socket,
    inbox: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

impl End {
    fn new(stream: UnixStream) -> End {
        End { socket: Socket::from_fd(stream.into()).unwrap(), inbox: Vec::new(), fds: VecDeque::new() }
    }

    /// False: it is gone.
    fn read(&mut self) -> bool {
        let (mut bytes, mut fds) = ([0; 32 << 10], Vec::new());
        match self.socket.recv(&mut [IoSliceMut::new(&mut bytes)], &mut fds) {
            Ok(0) => return false,
            Ok(n) => self.inbox.extend_from_slice(&bytes[..n]),
            Err(e) => return e.kind() == ErrorKind::WouldBlock,
        }
        self.fds.extend(fds);
        true
    }

    fn send(&self, mut bytes: &[u8], mut fds: &[BorrowedFd<'_>]) -> bool {
        while !bytes.is_empty() {
            match self.socket.send(&[IoSlice::new(bytes)], fds) {
                Ok(n) => (bytes, fds) = (&bytes[n..], &[]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let _ = self.socket.wait(false, true, Duration::from_secs(1));
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// The next whole frame: its message, unless it is payload, and its bytes.
    fn frame(&mut self) -> Option<(Option<Message>, Vec<u8>)> {
        let (message, took) = match next_frame(&self.inbox).unwrap()? {
            (Frame::Message(message), took) => (Some(message), took),
            (Frame::Data(header), took) => (None, took + header.length as usize),
        };
        (self.inbox.len() >= took).then(|| (message, self.inbox.drain(..took).collect()))
    }
}

/// One connection.
struct Relay<'b> {
    between: &'b Between,
    client: End,
    node: End,
    regions: BTreeMap<RegionId, Lent>,
    /// Where the items of gets shall land.
    places: BTreeMap<(u32, u32), (Key, Place)>,
}

impl<'b> Relay<'b> {
    fn new(between: &'b Between, client: UnixStream, node: UnixStream) -> Relay<'b> {
        let (client, node) = (End::new(client), End::new(node));
        Relay { between, client, node, regions: BTreeMap::new(), places: BTreeMap::new() }
    }

    fn run(mut self) {
        while !self.between.over.load(Ordering::Relaxed) && self.client.read() && self.node.read() {
            while let Some((message, frame)) = self.client.frame() {
                if !self.asked(message, &frame) {
                    return;
                }
            }
            while let Some((message, frame)) = self.node.frame() {
                if let Some(Message::GetOutcomes { request, outcomes }) = message {
                    outcomes.iter().for_each(|(slot, outcome)| self.landed((request, *slot), outcome));
                }
                if !self.client.send(&frame, &[]) {
                    return;
                }
            }
            let mut both =
                [&self.client, &self.node].map(|end| PollFd::from_borrowed_fd(end.socket.as_fd(), PollFlags::IN));
            let _ = poll(&mut both, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }));
        }
    }

    fn asked(&mut self, message: Option<Message>, frame: &[u8]) -> bool {
        match message {
            Some(Message::RegionAdd { request, region, length, .. }) => return self.region(request, region, length),
            Some(Message::Get { request, items, .. }) => {
                for (slot, item) in items.iter().enumerate().filter(|(_, item)| item.to.region.0 != 0) {
                    self.places.insert((request, slot as u32), (item.key, item.to));
                }
            }
            Some(Message::Put { items, .. }) => {
                for item in items.iter().filter(|item| item.from.region.0 != 0) {
                    let meta = Descriptor::decode(&item.descriptor).unwrap().meta;
                    let (lent, offset) = (&self.regions[&item.from.region], item.from.offset);
                    if let Some(node) = &lent.node {
                        copy(&lent.client, node, offset, meta.length);
                    }
                    self.between.flip(Target::Source, meta.key, None, lent.of_node(), offset, meta.length);
                }
            }
            _ => {}
        }
        self.node.send(frame, &[])
    }

    fn region(&mut self, request: u32, region: RegionId, length: u64) -> bool {
        let client = self.client.fds.pop_front().unwrap();
        let node = self.between.borrowed.then(|| {
            let fd = rustix::fs::memfd_create("borrowed", MemfdFlags::CLOEXEC).unwrap();
            rustix::fs::ftruncate(&fd, length).unwrap();
            fd
        });
        let lent = Lent { client, node };
        let mut frame = Vec::new();
        let kind = if self.between.borrowed { RegionKind::Borrowed } else { RegionKind::Owned };
        encode(&Message::RegionAdd { request, region, length, kind }, &mut frame).unwrap();
        let sent = self.node.send(&frame, &[lent.of_node().as_fd()]);
        self.regions.insert(region, lent);
        sent
    }

    /// An item has its outcome; the client does not know it yet.
    fn landed(&mut self, item: (u32, u32), outcome: &GetOutcome) {
        let Some((key, place)) = self.places.remove(&item) else { return };
        let GetOutcome::Hit { landing, length, trailer_offset, .. } = outcome else { return };
        let (lent, landing) = (&self.regions[&place.region], *landing);
        if let Some(node) = &lent.node {
            copy(node, &lent.client, place.offset, *length);
        }
        self.between.flip(Target::Payload, key, Some(landing), &lent.client, place.offset, *length);
        if landing == LandingKind::Direct {
            let at = place.offset + trailer_offset;
            let mut head = [0; 256];
            rustix::io::pread(&lent.client, &mut head, at).unwrap();
            let len = Descriptor::encoded_len_of(&head).unwrap() as u64;
            self.between.flip(Target::Trailer, key, Some(landing), &lent.client, at, len);
        }
    }
}
