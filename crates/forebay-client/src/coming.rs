//! A connection on its way: addresses are tried one after the other and shaken hands with, and nobody waits for it but the part of a call that it is
//! for.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use forebay_net::Socket;
use forebay_types::{Address, Clock, Epoch};

use crate::link::{Handshake, Link, LinkError};
use crate::mesh::Core;
use crate::shard::{Checkout, Shard};

/// Addresses of one host that are tried: a name with more is somebody's mistake.
const HOST_ADDRESSES_MAX: usize = 8;
/// A connection that is being made. It goes on only when it is stepped, so that the other shards of a call need not wait for it.
pub(crate) struct Coming {
    shard: Arc<Shard>,
    handshake: Option<Box<Handshake>>,
    /// What is tried next: an address of the shard, and which of its host's addresses.
    next: (usize, usize),
    /// When the attempt under way is given up for the next.
    until_us: u64,
    /// When all is.
    deadline_us: u64,
    /// It counts among the shard's connections.
    open: bool,
}

impl Coming {
    /// Of a shard that counts it already. Nothing is tried before it is stepped.
    pub(crate) fn new(shard: Arc<Shard>, now_us: u64, deadline_us: u64) -> Self {
        Coming { shard, handshake: None, next: (0, 0), until_us: now_us, deadline_us, open: true }
    }

    /// Goes on as far as it can without waiting; says how it ended when it has.
    pub(crate) fn step(&mut self, core: &Core, epoch: Epoch) -> Option<Checkout> {
        loop {
            let ended = match self.handshake.as_mut().map(|handshake| handshake.pump()) {
                Some(Ok(_)) if self.handshake.as_ref().is_some_and(|handshake| handshake.is_done()) => {
                    match self.handshake.take().map(|handshake| handshake.finish()) {
                        Some(Ok(link)) => return Some(self.made(core, epoch, link)),
                        Some(Err(error)) => error,
                        None => LinkError::Closed,
                    }
                }
                Some(Ok(true)) => continue,
                Some(Ok(false)) if core.clock.now_us() < self.until_us => return None,
                Some(Ok(false)) => LinkError::Deadline,
                Some(Err(error)) => error,
                // The first attempt.
                None => LinkError::Closed,
            };
            self.handshake = None;
            if let Err(error) = self.begin(core, epoch, ended) {
                self.open = false;
                return Some(self.shard.unreached(core, &error));
            }
        }
    }

    /// Begins the next attempt; `last` is why the one before came to nothing, and comes back when there is no other.
    fn begin(&mut self, core: &Core, epoch: Epoch, mut last: LinkError) -> Result<(), LinkError> {
        loop {
            let now_us = core.clock.now_us();
            let (at, nth) = self.next;
            // A node that has answered is not to be had elsewhere.
            let answered = matches!(last, LinkError::Refused { .. } | LinkError::Wire(_) | LinkError::Protocol(_));
            let Some(address) = self.shard.addresses.get(at).filter(|_| !answered) else { return Err(last) };
            if now_us >= self.deadline_us {
                return Err(last);
            }
            let about = self.shard.introduction(core, epoch);
            let begun = Socket::begin_nth(address, nth).map_err(LinkError::from).and_then(|(socket, more)| {
                let local = matches!(address, Address::Unix(_));
                Handshake::begin(socket, local, &about).map(|handshake| (handshake, more))
            });
            self.next = (at, nth + 1);
            match begun {
                Ok((handshake, more)) => {
                    // A share each, so that one address that answers nothing leaves time for the others.
                    let others = (more + self.shard.addresses.len() - at) as u64;
                    self.until_us = now_us + ((self.deadline_us - now_us) / others).max(1);
                    self.handshake = Some(Box::new(handshake));
                    return Ok(());
                }
                Err(LinkError::Io(error)) if nth > 0 && error.kind() == std::io::ErrorKind::NotFound => {
                    self.next = (at + 1, 0);
                }
                Err(error) => {
                    last = error;
                    if matches!(address, Address::Unix(_)) || nth >= HOST_ADDRESSES_MAX {
                        self.next = (at + 1, 0);
                    }
                }
            }
        }
    }

    fn made(&mut self, core: &Core, epoch: Epoch, link: Link) -> Checkout {
        self.open = false;
        Checkout::Ready(self.shard.made(core, epoch, link))
    }

    /// The call's time is over: that counts as an attempt in vain.
    pub(crate) fn run_out(mut self, core: &Core) {
        self.open = false;
        self.shard.unreached(core, &LinkError::Deadline);
    }

    /// Its socket, to wait for, and whether it waits to send.
    pub(crate) fn fd(&self) -> Option<(BorrowedFd<'_>, bool)> {
        self.handshake.as_ref().map(|handshake| (handshake.as_fd(), handshake.wants_to_send()))
    }

    /// When it is to be stepped, whatever its socket does.
    pub(crate) fn until_us(&self) -> u64 {
        self.until_us
    }
}

impl Drop for Coming {
    fn drop(&mut self) {
        if self.open {
            self.shard.unmade();
        }
    }
}
