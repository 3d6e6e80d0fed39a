//! Clients that are broken on purpose: garbage, halves of frames, crowds that say nothing, regions that shrink while blocks land in them.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use forebay_client::NamespaceHandle;
use forebay_net::Socket;
use forebay_types::{Address, Entropy, Epoch, RegionId, SeededEntropy, ShardId};
use forebay_wire::{
    Frame, GetItem, Hello, Message, Place, RegionKind, ReuseHint, WIRE_VERSION, encode, features, next_frame,
};

use super::worker::key_of;
use crate::watch::pause;
use crate::{Failed, Outcome, why};

const MIB: u64 = 1 << 20;
/// How long any of this waits for the node.
const WAIT: Duration = Duration::from_secs(5);

/// Connections that send noise, or the beginning of a message, and go.
pub(crate) fn garbage(socket: &Path, port: u16, chance: &SeededEntropy) {
    for round in 0..40 {
        let mut noise = vec![0; 1 + (chance.word() % 20_000) as usize];
        chance.fill(&mut noise);
        if round % 3 == 0 {
            // It looks like ours for a while.
            let mut whole = Vec::new();
            let _ = encode(&Message::Hello(hello(ShardId::default())), &mut whole);
            let keep = (chance.word() as usize % whole.len()).max(1);
            noise.splice(..0, whole[..keep].iter().copied());
        }
        // What becomes of the connection is the node's to say.
        if round % 2 == 0 {
            let _ = UnixStream::connect(socket).and_then(|mut stream| stream.write_all(&noise));
        } else {
            let _ = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| stream.write_all(&noise));
        }
    }
}

/// Three hundred connections that say nothing, for a moment.
pub(crate) fn crowd(socket: &Path) {
    let held: Vec<_> = (0..300).map_while(|_| UnixStream::connect(socket).ok()).collect();
    pause(300);
    drop(held);
}

fn hello(shard: ShardId) -> Hello {
    Hello {
        version: WIRE_VERSION,
        features: features::REGIONS,
        shard,
        credential: Vec::new(),
        epoch: Epoch(0),
        lane: 0,
        trace: 0,
        credit_bytes: 32 << 20,
    }
}

/// A connection to one shard, made by hand.
struct Hand {
    socket: Socket,
    input: Vec<u8>,
}

impl Hand {
    fn connect(socket: &Path, shard: ShardId) -> Outcome<Hand> {
        let address = Address::unix(socket).map_err(why("the socket's path"))?;
        let socket = Socket::connect(&address, WAIT).map_err(why("connecting by hand"))?;
        let mut hand = Hand { socket, input: Vec::new() };
        hand.send(&Message::Hello(hello(shard)), None)?;
        match hand.message()? {
            Message::Welcome(_) => Ok(hand),
            other => Err(Failed(format!("the node answers Hello with {other:?}"))),
        }
    }

    fn send(&mut self, message: &Message, fd: Option<&File>) -> Outcome<()> {
        let mut bytes = Vec::new();
        encode(message, &mut bytes).map_err(why("a message"))?;
        let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
        let sent = self.socket.send(&[IoSlice::new(&bytes)], &fds).map_err(why("sending by hand"))?;
        if sent == bytes.len() { Ok(()) } else { Err(Failed("a short message was not taken whole".into())) }
    }

    fn message(&mut self) -> Outcome<Message> {
        loop {
            match next_frame(&self.input).map_err(why("the node's answer"))? {
                Some((Frame::Message(message), used)) => {
                    self.input.drain(..used);
                    return Ok(message);
                }
                Some((Frame::Data(_), _)) => return Err(Failed("the node streams what should land".into())),
                None => {}
            }
            let ready = self.socket.wait(true, false, WAIT).map_err(why("waiting by hand"))?;
            if !ready.readable {
                return Err(Failed("the node does not answer a hand".into()));
            }
            let mut chunk = vec![0; 64 << 10];
            match self.socket.recv(&mut [IoSliceMut::new(&mut chunk)], &mut Vec::new()) {
                Ok(0) => return Err(Failed("the node has closed the hand's connection".into())),
                Ok(n) => self.input.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(why("receiving by hand")(error)),
            }
        }
    }
}

/// Lends memory that can shrink, has blocks of a worker land in it, and shrinks it again and again meanwhile. Gives how many gets were answered;
/// none when the node was not there.
pub(crate) fn shrinking_region(
    socket: &Path,
    shards: &[ShardId],
    space: &NamespaceHandle,
    items: std::ops::Range<u64>,
    chance: &SeededEntropy,
) -> Outcome<u64> {
    let shard = shards[chance.word() as usize % shards.len()];
    let mut hand = Hand::connect(socket, shard)?;
    let memory = rustix::fs::memfd_create("vandal", rustix::fs::MemfdFlags::CLOEXEC).map_err(why("memory"))?;
    let memory = File::from(memory);
    memory.set_len(8 * MIB).map_err(why("memory"))?;
    hand.send(
        &Message::RegionAdd { request: 1, region: RegionId(1), length: 8 * MIB, kind: RegionKind::Borrowed },
        Some(&memory),
    )?;
    hand.message()?;
    let mut answered = 0;
    for request in 2..40 {
        let item = |i: u64| {
            let item = items.start + chance.word() % (items.end - items.start).max(1);
            let to = Place { region: RegionId(1), offset: i * MIB, room: MIB };
            GetItem { key: key_of(space, 1, item), offset: 0, length: 0, to }
        };
        let get = Message::Get {
            request,
            namespace: space.namespace().id,
            deadline_us: 5_000_000,
            hint: ReuseHint::default(),
            items: (0..8).map(item).collect(),
        };
        hand.send(&get, None)?;
        let mut left = 8;
        while left > 0 {
            memory.set_len(chance.word() % (8 * MIB)).map_err(why("shrinking memory"))?;
            match hand.message()? {
                Message::GetOutcomes { outcomes, .. } => {
                    left -= outcomes.len();
                    answered += outcomes.len() as u64;
                }
                other => return Err(Failed(format!("the node answers a get with {other:?}"))),
            }
        }
        memory.set_len(8 * MIB).map_err(why("memory"))?;
    }
    Ok(answered)
}

/// The node's shards.
pub(crate) fn shards(socket: &Path) -> Outcome<Vec<ShardId>> {
    let mut hand = Hand::connect(socket, ShardId::default())?;
    hand.send(&Message::Members { request: 1 }, None)?;
    match hand.message()? {
        Message::MembersAre { members, .. } => Ok(members.iter().map(|member| member.shard).collect()),
        other => Err(Failed(format!("the node answers Members with {other:?}"))),
    }
}
