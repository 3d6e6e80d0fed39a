//! The life of a shard's connections: welcomed, sent to, cut off, let go; and the end of the shard itself.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use forebay_io::close_elsewhere;
use forebay_net::{Peer, Socket};
use forebay_types::Epoch;
use forebay_types::limits::STEP_BYTES;
use forebay_wire::{ErrorCode, Message, Welcome};

use super::Shard;
use super::conn::{Conn, HALF_MESSAGE_US, HandedOver, OUTPUT_BYTES_LOW, PUT_CREDIT_BYTES};
use super::output::Flushed;
use crate::counters::PeerFault;
use crate::lanes::Who;
use crate::slab::Id;

/// How often clocks of connections are looked at, and how many in one turn: some tens of microseconds' worth.
const CONN_CLOCKS_US: u64 = 100_000;
const CONN_CLOCKS: usize = 1024;

/// A connection that has been silent for so long gives back what it keeps for its next answer.
const REST_US: u64 = 1_000_000;

/// Why a connection is to be cut off, if it is.
fn stuck(conn: &Conn, now_us: u64) -> Option<PeerFault> {
    let silent_us = now_us.saturating_sub(conn.progress_us);
    let half = !conn.input.is_empty() || conn.data_in.is_some();
    if !conn.output.is_empty() && silent_us > conn.patience_us {
        Some(PeerFault::SlowReader)
    } else if half && silent_us > HALF_MESSAGE_US && !conn.is_paused() {
        Some(PeerFault::HalfMessage)
    } else {
        // It was told why and does not take that.
        conn.closing.is_some_and(|at| now_us >= at).then_some(PeerFault::SlowReader)
    }
}

/// Whose turns a connection's requests take.
fn who(socket: &Socket, id: Id) -> Who {
    match socket.peer() {
        Some(Peer::Process(pid)) => Who::Process(pid),
        Some(Peer::Host(host)) => Who::Host(host),
        // A process that the node cannot see, in a container beside it, has no number here.
        None => Who::Unknown(id.word()),
    }
}

impl Shard {
    pub(super) fn welcome(&mut self, handed: HandedOver) {
        if self.closing.is_some() {
            return;
        }
        let features = handed.features;
        self.waiting_fds += handed.fds.len();
        let mut conn = Conn::new(handed, self.unsent.clone(), self.core.now_us);
        conn.output.message(&Message::Welcome(Welcome {
            version: forebay_wire::WIRE_VERSION,
            features,
            incarnation: self.incarnation,
            epoch: Epoch(self.epoch.load(Ordering::Relaxed)),
            block_bytes_max: self.core.store.block_bytes_max(),
            align: self.core.align as u32,
            credit_bytes: PUT_CREDIT_BYTES,
        }));
        // The control thread counts connections before it hands them over, so a full slab is only a race lost: the socket closes.
        let id = match self.conns.insert(conn) {
            Ok(id) => id,
            Err(conn) => {
                self.waiting_fds -= conn.fds.len();
                conn.fds.into_iter().for_each(close_elsewhere);
                return;
            }
        };
        self.core.counters.connections.set(self.conns.len() as u64);
        self.core.counters.accepted.add(1);
        if let Some(conn) = self.conns.get_mut(id) {
            conn.id = id;
            conn.peer = self.core.lanes.join(id, who(&conn.socket, id));
            self.core.store.disk_mut().watch(conn.socket.as_fd(), id.word());
        }
        self.list_readable(id);
        self.mark_dirty(id);
        // What came behind `Hello` is here already, and nothing will tell of it again.
        self.parse_input(id);
    }

    pub(super) fn mark_dirty(&mut self, id: Id) {
        if let Some(conn) = self.conns.get_mut(id)
            && !conn.dirty
        {
            conn.dirty = true;
            self.dirty.push(id);
        }
    }

    /// Reads from a connection in the next turn, if it may be read from.
    pub(super) fn list_readable(&mut self, id: Id) {
        if let Some(conn) = self.conns.get_mut(id)
            && conn.readable
            && !conn.listed
            && !conn.is_paused()
        {
            conn.listed = true;
            self.readable.push(id);
        }
    }

    /// Sends what there is to send, about `left` bytes of it. What is left stays listed.
    pub(super) fn flush(&mut self, mut left: usize) {
        let dirty = std::mem::take(&mut self.dirty);
        for (at, id) in dirty.iter().enumerate() {
            if left == 0 {
                self.dirty.extend_from_slice(&dirty[at..]);
                break;
            }
            let Some(conn) = self.conns.get_mut(*id) else { continue };
            conn.dirty = false;
            if self.send(*id, &mut left).is_err() {
                self.lose_connection(*id);
                continue;
            }
            self.after_sending(*id);
        }
        self.bound_unsent();
    }

    /// Sends to one connection up to a step, so that others get theirs.
    fn send(&mut self, id: Id, left: &mut usize) -> std::io::Result<()> {
        let Some(conn) = self.conns.get_mut(id) else { return Ok(()) };
        if !conn.writable || conn.output.is_empty() {
            return Ok(());
        }
        let before = conn.output.len();
        let mut share = STEP_BYTES.min(*left);
        let flushed = conn.output.flush(&conn.socket, &mut share)?;
        let sent = before - conn.output.len();
        *left -= sent;
        if sent > 0 {
            conn.progress_us = self.core.now_us;
        }
        match flushed {
            Flushed::All => {}
            Flushed::Blocked => conn.writable = false,
            Flushed::More => self.mark_dirty(id),
        }
        Ok(())
    }

    /// Goes on with what waited for the output to be sent.
    fn after_sending(&mut self, id: Id) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let waits = !conn.writable;
        if waits != conn.watching_writable {
            conn.watching_writable = waits;
            self.core.store.disk_mut().watch_writable(conn.socket.as_fd(), id.word(), waits);
        }
        if conn.closing.is_some() && conn.output.is_empty() {
            return self.close_connection(id);
        }
        if conn.output.len() <= OUTPUT_BYTES_LOW {
            for request in std::mem::take(&mut conn.blocked) {
                self.enqueue_again(request);
            }
        }
        self.list_readable(id);
    }

    /// Cuts off peers that take nothing or send half a message, and takes back the memory of those at rest. Some connections a turn.
    pub(super) fn look_at_connections(&mut self) {
        let now_us = self.core.now_us;
        let (some, next) = self.conns.some(self.conn_clock_at, CONN_CLOCKS);
        let (mut cut, mut rest) = (Vec::new(), Vec::new());
        for (id, conn) in some {
            match stuck(conn, now_us) {
                Some(fault) => cut.push((id, fault)),
                None if conn.output.own() > 0 && now_us.saturating_sub(conn.progress_us) > REST_US => rest.push(id),
                None => {}
            }
        }
        self.conn_clock_at = next;
        if next == 0 {
            self.conn_clocks_us = now_us + CONN_CLOCKS_US;
        }
        for (id, fault) in cut {
            self.cut(id, fault);
        }
        for id in rest {
            if let Some(conn) = self.conns.get_mut(id) {
                conn.output.rest();
            }
        }
    }

    /// Keeps what peers have not taken under its ceiling: those who hold the most of it and take nothing go first.
    fn bound_unsent(&mut self) {
        let most = self.core.shares.output_bytes;
        if self.unsent.get() <= most {
            return;
        }
        let mut holders = Vec::new();
        for (id, conn) in self.conns.iter_mut() {
            conn.output.rest();
            holders.push((conn.writable, std::cmp::Reverse(conn.output.own()), id));
        }
        holders.sort_unstable_by_key(|(writable, own, _)| (*writable, *own));
        for (writable, _, id) in holders {
            // Peers that take what they are sent are cut only when waiting for them does not help either.
            let ceiling = if writable { 2 * most } else { most };
            if self.unsent.get() <= ceiling {
                break;
            }
            self.cut(id, PeerFault::SlowReader);
        }
    }

    pub(super) fn cut(&mut self, id: Id, fault: PeerFault) {
        self.core.counters.cut_off.add(1);
        self.core.counters.fault(fault);
        self.close_connection(id);
    }

    /// Lets a connection go whose peer has gone.
    pub(super) fn lose_connection(&mut self, id: Id) {
        if self.conns.get(id).is_some_and(|conn| !conn.requests.is_empty()) {
            self.core.counters.fault(PeerFault::Vanished);
        }
        self.close_connection(id);
    }

    /// Lets a connection go with all it asked for. What still lands in its regions holds them until it has landed.
    pub(super) fn close_connection(&mut self, id: Id) {
        let Some(conn) = self.conns.remove(id) else { return };
        self.core.store.disk_mut().unwatch(id.word());
        self.release(conn.grant);
        self.waiting_fds -= conn.fds.len();
        conn.fds.into_iter().for_each(close_elsewhere);
        self.core.lanes.leave(id);
        self.leave(id, &conn.requests);
        self.core.counters.regions.set(self.core.counters.regions.get() - conn.regions.len() as u64);
        self.core.counters.connections.set(self.conns.len() as u64);
    }

    pub(super) fn begin_close(&mut self, deadline_us: u64) {
        self.closing = Some(deadline_us);
        let idle: Vec<Id> = self.conns.iter().map(|(id, _)| id).collect();
        for id in idle {
            self.say_closing(id);
        }
    }

    pub(super) fn say_closing(&mut self, id: Id) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.requests.is_empty() && conn.closing.is_none() {
            let text = "the node is shutting down; connect again when it is back".to_owned();
            conn.output.message(&Message::Error { request: 0, code: ErrorCode::Closing, text });
            conn.closing = Some(self.core.now_us + 1_000_000);
            self.mark_dirty(id);
        }
    }

    /// Whether nothing is left to finish, or the time for it is over.
    pub(super) fn is_closed(&mut self, now_us: u64) -> bool {
        let open: Vec<Id> = self.conns.iter().map(|(id, _)| id).collect();
        for id in open {
            self.say_closing(id);
        }
        self.flush(super::SEND_BYTES);
        self.conns.len() == 0 || self.closing.is_some_and(|deadline_us| now_us >= deadline_us)
    }

    pub(super) fn close(mut self) {
        let open: Vec<Id> = self.conns.iter().map(|(id, _)| id).collect();
        for id in open {
            self.close_connection(id);
        }
        while self.leave_step() {}
        let now_us = self.clock.now_us();
        self.set_now(now_us);
        self.core.store.close(self.core.now_ms);
        self.publish(now_us);
    }
}
