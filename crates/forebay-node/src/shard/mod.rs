//! A shard's thread: one loop over its sockets, its store and its clock.
//!
//! Everything of a shard happens here: requests never change threads and nothing is locked. A turn takes what is ready, moves at most one step of
//! bytes for each lane, and sends what it has; then the thread waits on its engine for sockets, drive and wake-ups at once. What a message means is in
//! `serve.rs`; this file is the loop and its clocks.

mod ask;
pub(crate) mod conn;
pub(crate) mod core;
mod get;
mod get_move;
mod hints;
mod leaving;
mod life;
mod output;
mod put;
mod readers;
mod receive;
mod regions;
mod request;
mod room;
mod serve;
mod shown;
mod spin;
mod start;
mod turns;

use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay_io::Ready;
use forebay_store::{Damage, Event, StoreStats};
use forebay_types::limits::STEP_BYTES;
use forebay_types::{Clock, Namespace, NamespaceId, Usage};

use crate::lanes::Lane;
use crate::slab::{Id, Slab};
use crate::spaces::Spaces;
use conn::{Conn, HandedOver};
use core::Core;
use output::Unsent;
use request::Request;
use shown::PUBLISH_US;
use spin::Spin;

pub(crate) use shown::Shown;
pub(crate) use start::{ShardLink, ShardSetup, Starting, start};

/// Bytes sent at the end of a turn, over all connections: copying them into sockets takes some tens of microseconds.
const SEND_BYTES: usize = 2 * STEP_BYTES;

/// Requests of one shard, over all connections. More are answered `busy`.
const REQUESTS_MAX: usize = 16_384;

/// How often the store gets a turn when nothing else happens: half of what a put may stay off the drive.
const IDLE_TURN_MS: u64 = 50;

/// How often the wall clock is asked: expiry is in whole seconds.
const UTC_US: u64 = 100_000;

/// What other threads ask of a shard.
#[derive(Debug)]
pub(crate) enum Command {
    Connection(HandedOver),
    Upsert {
        token: u64,
        namespace: Namespace,
    },
    Remove {
        token: u64,
        id: NamespaceId,
    },
    /// What was put in namespaces in earlier lives: how many tokens their blocks hold.
    Sizes(Arc<Vec<(NamespaceId, Usage)>>),
    /// Finish by then, on the shard's clock.
    Close {
        deadline_us: u64,
    },
}

/// What a shard tells the control thread.
#[derive(Debug)]
pub(crate) struct Saved {
    pub(crate) token: u64,
    pub(crate) ok: bool,
}

/// A shard at work.
pub(crate) struct Shard {
    core: Core,
    conns: Slab<Conn>,
    requests: Slab<Request>,
    /// Requests that wait for memory or a queue's place.
    line: room::Line,
    /// Requests whose connection is gone.
    leaving: leaving::Leaving,
    /// Requests with something to say at the end of the turn.
    touched: Vec<Id>,
    /// Connections with something to send at the end of the turn.
    dirty: Vec<Id>,
    /// Connections that may have something to receive.
    readable: Vec<Id>,
    /// Connections whose half-received message waits for its part of the input budget.
    starved: Vec<Id>,
    hints: hints::Hints,
    events: Vec<Event>,
    scratch: Vec<u8>,
    /// Bytes of input granted to half-received messages.
    granted: usize,
    /// Descriptors that came and wait for their message.
    waiting_fds: usize,
    /// Bytes of answers that no peer has taken yet.
    unsent: Unsent,
    /// The connection whose clocks are looked at next.
    conn_clock_at: usize,
    /// No deadline is before this.
    deadline_us: u64,
    /// Where the search for what is past its deadline goes on, and the first deadline that it met so far.
    expiring: Option<(usize, u64)>,
    conn_clocks_us: u64,
    publish_us: u64,
    utc_at_us: u64,
    incarnation: u64,
    epoch: Arc<AtomicU64>,
    spin: Spin,
    commands: Receiver<Command>,
    replies: Replies,
    stats: Arc<Mutex<StoreStats>>,
    spaces: Arc<Mutex<Spaces>>,
    parted: Arc<Mutex<Spaces>>,
    damage: Arc<Mutex<Vec<Damage>>>,
    clock: Arc<dyn Clock>,
    closing: Option<u64>,
}

/// The way back to the control thread.
pub(crate) struct Replies {
    pub(crate) saved: std::sync::mpsc::SyncSender<Saved>,
    pub(crate) waker: crate::wake::Wake,
}

impl Shard {
    /// Serves until closed.
    fn run(mut self) {
        let mut ready = Vec::new();
        let mut last_work_us = self.clock.now_us();
        loop {
            let begun_us = self.clock.now_us();
            self.set_now(begun_us);
            let again = self.turn(&ready);
            let worked = again || !ready.is_empty() || !self.dirty.is_empty();
            self.flush(SEND_BYTES);
            let busy = again
                || !self.core.lanes.is_empty()
                || self.expiring.is_some()
                || self.core.has_dropped
                || !self.leaving.is_empty()
                || !self.hints.is_empty()
                || !self.readable.is_empty()
                || !self.dirty.is_empty();
            let now_us = self.clock.now_us();
            self.core.counters.turn_us_max.max(now_us - begun_us);
            self.core.counters.turns.add(1);
            if worked {
                self.spin.worked(begun_us - last_work_us);
                last_work_us = now_us;
            }
            if self.closing.is_some() && self.is_closed(now_us) {
                break;
            }
            ready.clear();
            if busy {
                self.look(&mut ready);
            } else if self.spin.goes_on(self.core.readers.len() > 0, now_us - last_work_us) {
                std::thread::yield_now();
                self.look(&mut ready);
                self.spin.looked(self.clock.now_us() - now_us);
            } else {
                self.sleep(now_us, &mut ready);
            }
        }
        self.close();
    }

    fn look(&mut self, ready: &mut Vec<Ready>) {
        self.core.store.disk_mut().wait(Some(Duration::ZERO), ready);
    }

    /// Waits for something to happen.
    fn sleep(&mut self, now_us: u64, ready: &mut Vec<Ready>) {
        if self.publish_us <= now_us + PUBLISH_US {
            // What is asked of a shard at rest is exact.
            self.publish(now_us);
        }
        let timeout = Duration::from_micros(self.next_clock_us(now_us).saturating_sub(now_us).max(1));
        self.core.store.disk_mut().wait(Some(timeout), ready);
    }

    fn next_clock_us(&self, now_us: u64) -> u64 {
        let mut next = (now_us + IDLE_TURN_MS * 1000).min(self.deadline_us);
        if !self.line.is_empty(&self.core.lanes) {
            next = next.min(self.line.at_us);
        }
        if let Some(deadline_us) = self.closing {
            next = next.min(deadline_us).min(now_us + 1000);
        }
        next
    }

    fn set_now(&mut self, now_us: u64) {
        self.core.now_us = now_us;
        self.core.now_ms = now_us / 1000;
        if now_us >= self.utc_at_us {
            self.utc_at_us = now_us + UTC_US;
            self.core.store.set_utc(self.core.now_ms, self.clock.utc_s());
        }
    }

    /// Does what can be done now, within its bounds. True: there is more.
    fn turn(&mut self, ready: &[Ready]) -> bool {
        self.take_commands();
        for ready in ready {
            self.on_ready(ready);
        }
        self.receive_all();
        let mut again = self.store_turn();
        again |= self.leave_step();
        if self.core.now_us >= self.deadline_us || self.expiring.is_some() {
            self.expire();
        }
        if self.core.now_us >= self.line.at_us && !self.line.is_empty(&self.core.lanes) {
            self.try_for_room();
        }
        let mut ran = self.hints_step();
        for lane in Lane::ALL {
            let moved = self.run_lane(lane);
            ran |= moved;
            if moved && lane == Lane::Small && self.core.lanes.has_bulk() {
                // What is small does not wait for the bytes that move behind it in this turn, on either side.
                self.core.store.hurry();
                self.flush(STEP_BYTES);
            }
        }
        if ran || self.core.has_dropped {
            // What was just asked of the store lies in its lanes until its next turn; asleep, nobody would hand it to the drive.
            again |= self.store_turn();
        }
        for id in std::mem::take(&mut self.touched) {
            self.settle(id);
        }
        if self.core.now_us >= self.conn_clocks_us {
            self.look_at_connections();
        }
        if self.core.now_us >= self.publish_us {
            self.publish(self.core.now_us);
        }
        again
    }

    fn take_commands(&mut self) {
        // A turn takes a bounded number; the rest waits in the channel.
        for _ in 0..16 {
            match self.commands.try_recv() {
                Ok(Command::Connection(handed)) => self.welcome(handed),
                Ok(Command::Upsert { token, namespace }) => {
                    self.core.store.upsert_namespace(token, &namespace);
                    self.core.learn_tenants();
                }
                Ok(Command::Sizes(sizes)) => self.core.remember(&sizes),
                Ok(Command::Remove { token, id }) => {
                    self.part_with(id);
                    self.core.store.remove_namespace(token, id);
                    self.core.learn_tenants();
                }
                Ok(Command::Close { deadline_us }) => self.begin_close(deadline_us),
                Err(TryRecvError::Empty) => break,
                // The node is gone without a word: so are we.
                Err(TryRecvError::Disconnected) => {
                    if self.closing.is_none() {
                        self.begin_close(self.core.now_us);
                    }
                    break;
                }
            }
        }
    }

    fn on_ready(&mut self, ready: &Ready) {
        let id = Id::from_word(ready.token);
        let Some(conn) = self.conns.get_mut(id) else { return };
        if ready.writable || ready.hangup {
            conn.writable = true;
        }
        if ready.readable || ready.hangup {
            conn.readable = true;
            self.list_readable(id);
        }
        self.mark_dirty(id);
    }

    fn store_turn(&mut self) -> bool {
        self.core.has_dropped = false;
        let mut events = std::mem::take(&mut self.events);
        let again = self.core.store.turn(self.core.now_ms, &mut events);
        if !events.is_empty() {
            // Something ended, so there may be room.
            self.line.at_us = self.core.now_us;
        }
        for event in events.drain(..) {
            self.on_event(event);
        }
        self.events = events;
        again
    }
}
