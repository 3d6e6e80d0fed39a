//! The control thread: accepts, asks who it is, hands sockets to their shards, and keeps the catalogue.
//!
//! One poll loop. It never waits for a peer or a shard: a peer that is slow is one more descriptor to poll, and a change that shards must write down is
//! remembered until they have. It moves no payload.

mod catalogue;
mod gate;
mod hello;
mod peer;

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};

use forebay_coord::Coordinator;
use forebay_io::Waker;
use forebay_net::Listener;
use forebay_types::{Clock, ShardId, Tenant};
use forebay_wire::{ErrorCode, Frame, HEADER_BYTES, Message, next_frame};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::board::Board;
use crate::counters::PeerFault;
use crate::events::Lookout;
use crate::shard::{Command, Saved};
use crate::slab::{Id, Slab};
use crate::wake::Wake;
pub(crate) use catalogue::CHANGES_MAX;
use catalogue::Change;
pub(crate) use gate::Gate;
pub(crate) use peer::Peer;
use peer::{Fate, INPUT_BYTES_MAX, Role};

/// Connections that have not said `Hello` yet. More wait in the listener's queue.
const HANDSHAKES_MAX: usize = 256;

/// Descriptors that came behind a `Hello` and are not handed to a shard yet, over all peers.
const FDS_MAX: usize = 64;

/// A peer that takes nothing for this long is cut off.
const PATIENCE_US: u64 = 10_000_000;

/// How long a listener rests after an error, such as too many open descriptors.
const ACCEPT_REST_US: u64 = 100_000;

/// Connections accepted in one turn.
const ACCEPTS: usize = 32;

/// A shard, as control knows it.
pub(crate) struct ControlShard {
    pub(crate) id: ShardId,
    pub(crate) weight_mib: u32,
    pub(crate) block_bytes_max: u64,
    pub(crate) align: usize,
    pub(crate) commands: SyncSender<Command>,
    pub(crate) waker: Waker,
    /// Commands its channel had no room for. Bounded by the changes under way.
    pub(crate) backlog: VecDeque<Command>,
}

impl ControlShard {
    /// Sends a command that must arrive, now or when there is room.
    fn send(&mut self, command: Command) {
        self.backlog.push_back(command);
        self.send_backlog();
    }

    fn send_backlog(&mut self) {
        while let Some(command) = self.backlog.pop_front() {
            match self.commands.try_send(command) {
                Ok(()) => self.waker.wake(),
                Err(std::sync::mpsc::TrySendError::Full(command)) => {
                    self.backlog.push_front(command);
                    break;
                }
                Err(std::sync::mpsc::TrySendError::Disconnected(_)) => {}
            }
        }
    }
}

/// What the control thread works with.
pub(crate) struct Control {
    pub(crate) listeners: Vec<Listener>,
    /// One for each listener.
    pub(crate) gates: Vec<Gate>,
    pub(crate) shards: Vec<ControlShard>,
    pub(crate) coordinator: Arc<dyn Coordinator>,
    pub(crate) board: Arc<Board>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) token: Option<Vec<u8>>,
    /// Who TCP clients with the token are.
    pub(crate) own: Tenant,
    pub(crate) wake: Wake,
    pub(crate) saved: Receiver<Saved>,
    pub(crate) stop: Arc<AtomicBool>,
    /// Connections of the node, its shards' and these.
    pub(crate) connections_max: usize,
    pub(crate) peers: Slab<Peer>,
    pub(crate) changes: Vec<Change>,
    pub(crate) next_token: u64,
    pub(crate) lookout: Lookout,
}

impl Control {
    pub(crate) fn slab(connections_max: usize) -> Slab<Peer> {
        Slab::new(connections_max)
    }

    pub(crate) fn gates(listeners: &[Listener], now_us: u64) -> Vec<Gate> {
        vec![Gate::new(now_us); listeners.len()]
    }

    /// Serves until told to stop.
    pub(crate) fn run(mut self) {
        let mut rest_until_us = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let now_us = self.clock.now_us();
            let accepting = now_us >= rest_until_us && self.strangers() < HANDSHAKES_MAX;
            let (accept, ready) = self.poll(accepting);
            self.wake.clear();
            self.take_saved();
            for shard in &mut self.shards {
                shard.send_backlog();
            }
            for id in ready {
                if self.serve(id) == Fate::Goes {
                    self.remove(id);
                }
            }
            if accept && !self.accept() {
                rest_until_us = self.clock.now_us() + ACCEPT_REST_US;
            }
            self.look_at_clocks();
            self.lookout.look(&self.board, self.clock.now_us());
        }
        self.lookout.last_words(&self.board, self.clock.now_us());
        self.say_closing();
    }

    fn strangers(&self) -> usize {
        self.peers.iter().filter(|(_, peer)| matches!(peer.role, Role::Stranger { .. })).count()
    }

    /// Waits for something to happen: whether somebody wants in, and which peers can go on.
    fn poll(&mut self, accepting: bool) -> (bool, Vec<Id>) {
        let mut fds = vec![PollFd::from_borrowed_fd(self.wake.fd(), PollFlags::IN)];
        let now_us = self.clock.now_us();
        let mut opens_us = u64::MAX;
        if accepting {
            for (listener, gate) in self.listeners.iter().zip(&mut self.gates) {
                if gate.is_open(now_us) {
                    fds.push(PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
                } else {
                    opens_us = opens_us.min(gate.opens_us());
                }
            }
        }
        let listeners = fds.len();
        let mut ids = Vec::with_capacity(self.peers.len());
        for (id, peer) in self.peers.iter() {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, peer.reads());
            flags.set(PollFlags::OUT, peer.sent < peer.output.len());
            ids.push(id);
            fds.push(PollFd::from_borrowed_fd(peer.socket.as_fd(), flags));
        }
        // Clocks are looked at often while somebody is on one, else now and then.
        let timeout_ms: i64 = if ids.is_empty() && self.changes.is_empty() && accepting { 1000 } else { 100 };
        let timeout_us = (timeout_ms as u64 * 1000).min(opens_us.saturating_sub(now_us));
        let timeout =
            Timespec { tv_sec: (timeout_us / 1_000_000) as i64, tv_nsec: (timeout_us % 1_000_000) as i64 * 1000 };
        // A signal only means an early turn.
        let _ = rustix::event::poll(&mut fds, Some(&timeout));
        let accept = fds[1..listeners].iter().any(|fd| !fd.revents().is_empty());
        let ready = ids.into_iter().zip(&fds[listeners..]).filter(|(_, fd)| !fd.revents().is_empty());
        (accept, ready.map(|(id, _)| id).collect())
    }

    /// Takes who waits. False: an error, the listeners should rest.
    fn accept(&mut self) -> bool {
        let now_us = self.clock.now_us();
        for at in 0..self.listeners.len() {
            for _ in 0..ACCEPTS {
                if self.strangers() >= HANDSHAKES_MAX {
                    return true;
                }
                if !self.gates.get_mut(at).is_some_and(|gate| gate.is_open(now_us)) {
                    break;
                }
                let socket = match self.listeners[at].accept() {
                    Ok(Some(socket)) => socket,
                    Ok(None) => break,
                    Err(error) => {
                        self.lookout.accept_failed(&error, now_us);
                        return false;
                    }
                };
                let mut peer = Peer::new(socket, at, now_us);
                if self.board.connections() as usize >= self.connections_max {
                    self.board.control.error(ErrorCode::TooMany);
                    self.board.control.fault(PeerFault::Crowd);
                    let most = self.connections_max;
                    let text = format!("the node has {most} connections, its most; close some, or connect later");
                    peer.say(&Message::Error { request: 0, code: ErrorCode::TooMany, text });
                    peer.closing = true;
                }
                let Ok(id) = self.peers.insert(peer) else { continue };
                self.board.control.accepted.add(1);
                self.count();
                if self.serve(id) == Fate::Goes {
                    self.remove(id);
                }
            }
        }
        true
    }

    /// Says how many are connected. A stranger that is only being told why it may not stay has no place; of those there are `HANDSHAKES_MAX` at most.
    fn count(&self) {
        let goes = |peer: &Peer| peer.closing && matches!(peer.role, Role::Stranger { .. });
        let held = self.peers.iter().filter(|(_, peer)| !goes(peer)).count();
        self.board.control.connections.set(held as u64);
    }

    /// Lets a peer go. One that never said who it is came to nothing.
    fn remove(&mut self, id: Id) {
        let Some(peer) = self.take(id) else { return };
        if matches!(peer.role, Role::Stranger { .. })
            && let Some(gate) = self.gates.get_mut(peer.listener)
            && gate.stray(self.clock.now_us())
        {
            self.board.control.accept_rests.add(1);
        }
    }

    fn take(&mut self, id: Id) -> Option<Peer> {
        let peer = self.peers.remove(id);
        self.count();
        peer
    }

    /// Receives, understands and sends for a peer.
    fn serve(&mut self, id: Id) -> Fate {
        let now_us = self.clock.now_us();
        let Some(peer) = self.peers.get_mut(id) else { return Fate::Stays };
        if peer.receive(now_us) == Fate::Goes {
            return Fate::Goes;
        }
        if matches!(peer.role, Role::Client { .. }) {
            // Control takes no descriptors.
            peer.fds.clear();
        } else if !peer.fds.is_empty() && self.peers.iter().map(|(_, peer)| peer.fds.len()).sum::<usize>() > FDS_MAX {
            self.board.control.fault(PeerFault::OverLimit);
            return Fate::Goes;
        }
        self.understand(id);
        // It may have been handed to its shard.
        self.peers.get_mut(id).map_or(Fate::Stays, |peer| peer.send(now_us))
    }

    /// Takes messages one after the other, as long as the peer waits for no answer.
    fn understand(&mut self, id: Id) {
        loop {
            let Some(peer) = self.peers.get_mut(id) else { return };
            if !peer.reads() {
                return;
            }
            let message = match next_frame(&peer.input) {
                Ok(Some((Frame::Message(message), used))) => {
                    peer.input.drain(..used);
                    message
                }
                Ok(Some((Frame::Data(_), _))) => {
                    return self.blame(
                        id,
                        PeerFault::Disorder,
                        ErrorCode::Protocol,
                        "the peer sent DATA to control".into(),
                    );
                }
                Ok(None) if peer.input.len() >= INPUT_BYTES_MAX => {
                    let text = format!("a message to control has at most {} bytes", INPUT_BYTES_MAX - HEADER_BYTES);
                    return self.blame(id, PeerFault::OverLimit, ErrorCode::Protocol, text);
                }
                Ok(None) => return,
                Err(error) => {
                    return self.blame(id, PeerFault::of(&error), ErrorCode::Protocol, error.to_string());
                }
            };
            match peer.role {
                Role::Stranger { .. } => self.on_hello(id, message),
                Role::Client { tenant } => self.on_request(id, tenant, message),
            }
        }
    }

    /// Refuses for what the peer did wrong.
    fn blame(&mut self, id: Id, fault: PeerFault, code: ErrorCode, text: String) {
        self.board.control.fault(fault);
        self.refuse(id, code, text);
    }

    /// Says why, then closes.
    fn refuse(&mut self, id: Id, code: ErrorCode, text: String) {
        self.board.control.error(code);
        if let Some(peer) = self.peers.get_mut(id) {
            peer.say(&Message::Error { request: 0, code, text });
            peer.closing = true;
        }
    }

    /// Says what a request came to. An answer over the wire's ceilings becomes an error.
    fn answer(&mut self, id: Id, request: u32, message: &Message) {
        if let Message::Error { code, .. } = message {
            self.board.control.error(*code);
        }
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.waiting = false;
        let plain =
            (peer.features & forebay_wire::features::TTL == 0).then(|| catalogue::without_ttl(message)).flatten();
        if !peer.say(plain.as_ref().unwrap_or(message)) {
            let text = "the answer is larger than a message may be".to_owned();
            peer.say(&Message::Error { request, code: ErrorCode::Unavailable, text });
        }
    }

    fn look_at_clocks(&mut self) {
        let now_us = self.clock.now_us();
        let late = |peer: &Peer| match peer.role {
            Role::Stranger { until_us } => (now_us >= until_us).then_some(PeerFault::HalfMessage),
            Role::Client { .. } => {
                let silent_us = now_us.saturating_sub(peer.progress_us);
                let deaf = peer.sent < peer.output.len() && silent_us > PATIENCE_US;
                let half = !peer.input.is_empty() && !peer.waiting && silent_us > PATIENCE_US;
                if deaf { Some(PeerFault::SlowReader) } else { half.then_some(PeerFault::HalfMessage) }
            }
        };
        let late: Vec<(Id, PeerFault)> = self.peers.iter().filter_map(|(id, peer)| Some((id, late(peer)?))).collect();
        for (id, fault) in late {
            self.board.control.cut_off.add(1);
            self.board.control.fault(fault);
            self.remove(id);
        }
        self.give_up_changes(now_us);
    }

    fn say_closing(&mut self) {
        let now_us = self.clock.now_us();
        let open: Vec<Id> = self.peers.iter().map(|(id, _)| id).collect();
        for id in open {
            self.refuse(id, ErrorCode::Closing, "the node is shutting down; connect again when it is back".into());
            if let Some(peer) = self.peers.get_mut(id) {
                // What the socket does not take at once is not waited for.
                let _ = peer.send(now_us);
            }
        }
    }
}
