//! A connection of the control thread: what it said, what it is still to be told, and whether it stays.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;

use forebay_net::Socket;
use forebay_types::Tenant;
use forebay_wire::{HEADER_BYTES, Message, encode};

/// A peer that has not said `Hello` after this long is let go.
const HELLO_US: u64 = 5_000_000;

/// Bytes a peer may send before it is understood: a namespace's fingerprint is under 4 KiB.
pub(super) const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Past this many unsent bytes nothing more is read from a peer.
const OUTPUT_BYTES_HIGH: usize = 1 << 20;

/// What a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// It has until then to say `Hello`.
    Stranger { until_us: u64 },
    /// It asks control.
    Client { tenant: Tenant },
}

/// A connection of the control thread.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(super) socket: Socket,
    /// Which listener it came through.
    pub(super) listener: usize,
    pub(super) role: Role,
    pub(super) input: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
    pub(super) output: Vec<u8>,
    pub(super) sent: usize,
    /// An answer is on its way; the next request waits.
    pub(super) waiting: bool,
    /// Feature bits in force.
    pub(super) features: u64,
    pub(super) progress_us: u64,
    /// Closed when the output is sent.
    pub(super) closing: bool,
}

/// What is to become of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Stays,
    Goes,
}

impl Peer {
    pub(super) fn new(socket: Socket, listener: usize, now_us: u64) -> Self {
        Peer {
            socket,
            listener,
            role: Role::Stranger { until_us: now_us + HELLO_US },
            input: Vec::new(),
            fds: Vec::new(),
            output: Vec::new(),
            sent: 0,
            waiting: false,
            features: 0,
            progress_us: now_us,
            closing: false,
        }
    }

    /// Whether its next message is wanted now.
    pub(super) fn reads(&self) -> bool {
        !self.waiting && !self.closing && self.output.len() - self.sent < OUTPUT_BYTES_HIGH
    }

    pub(super) fn receive(&mut self, now_us: u64) -> Fate {
        let mut chunk = [0; 4096];
        while self.reads() && self.input.len() < INPUT_BYTES_MAX {
            let before = self.input.len();
            match self.socket.recv(&mut [IoSliceMut::new(&mut chunk)], &mut self.fds) {
                Ok(0) => return Fate::Goes,
                Ok(n) => self.input.extend_from_slice(&chunk[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(_) => return Fate::Goes,
            }
            self.progress_us = now_us;
            // One message is looked at before more is taken: what follows a `Hello` belongs to a shard.
            if before == 0 && self.input.len() >= HEADER_BYTES {
                break;
            }
        }
        Fate::Stays
    }

    /// False: it is larger than a message may be, and nothing was said.
    pub(super) fn say(&mut self, message: &Message) -> bool {
        encode(message, &mut self.output).is_ok()
    }

    pub(super) fn send(&mut self, now_us: u64) -> Fate {
        while self.sent < self.output.len() {
            match self.socket.send(&[IoSlice::new(&self.output[self.sent..])], &[]) {
                Ok(n) => {
                    self.sent += n;
                    self.progress_us = now_us;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Fate::Stays,
                Err(_) => return Fate::Goes,
            }
        }
        self.output.clear();
        self.sent = 0;
        if self.closing { Fate::Goes } else { Fate::Stays }
    }
}
