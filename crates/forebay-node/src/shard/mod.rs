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
mod life;
mod output;
mod put;
mod receive;
mod regions;
mod request;
mod serve;
mod shown;
mod spin;
mod start;

use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forebay_io::Ready;
use forebay_store::{Damage, Event, StoreStats};
use forebay_types::limits::STEP_BYTES;
use forebay_types::{Clock, MissReason, Namespace, NamespaceId, RefusedReason};

use crate::lanes::{Lane, Lanes};
use crate::slab::{Id, Slab};
use conn::{Conn, HandedOver};
use core::Core;
use output::Unsent;
use request::{Request, Step, Work};
use shown::PUBLISH_US;
use spin::Spin;

pub(crate) use shown::Shown;
pub(crate) use start::{ShardLink, ShardSetup, Starting, start};

/// Requests of one shard, over all connections. More are answered `busy`.
const REQUESTS_MAX: usize = 16_384;

/// What one request may spend before its neighbours in the lane have their turn, in bytes.
const SHARE: i64 = STEP_BYTES as i64 / 2;

/// How often the store gets a turn when nothing else happens: half of what a put may stay off the drive.
const IDLE_TURN_MS: u64 = 50;

/// How soon work that found a queue full or no memory is tried again, in microseconds.
const RETRY_US: u64 = 500;

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
    lanes: Lanes,
    /// Requests that wait for memory or a queue's place.
    retry: Vec<Id>,
    retry_at_us: u64,
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
    conn_clocks_us: u64,
    publish_us: u64,
    utc_at_us: u64,
    incarnation: u64,
    epoch: Arc<AtomicU64>,
    spin: Spin,
    commands: Receiver<Command>,
    replies: Replies,
    stats: Arc<Mutex<StoreStats>>,
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
            self.flush();
            let busy = again
                || !self.lanes.is_empty()
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
            } else if self.spin.goes_on(self.core.reads > 0, now_us - last_work_us) {
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
        if !self.retry.is_empty() {
            next = next.min(self.retry_at_us);
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
        if self.core.now_us >= self.deadline_us {
            self.expire();
        }
        if !self.retry.is_empty() && self.core.now_us >= self.retry_at_us {
            for id in std::mem::take(&mut self.retry) {
                self.enqueue_again(id);
            }
        }
        let mut ran = self.hints_step();
        for lane in Lane::ALL {
            ran |= self.run_lane(lane);
        }
        if ran {
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
                Ok(Command::Remove { token, id }) => {
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
        let mut events = std::mem::take(&mut self.events);
        let again = self.core.store.turn(self.core.now_ms, &mut events);
        if !events.is_empty() && !self.retry.is_empty() {
            // Something ended, so there may be room.
            self.retry_at_us = self.core.now_us;
        }
        for event in events.drain(..) {
            self.on_event(event);
        }
        self.events = events;
        again
    }

    /// True if any request had its turn.
    fn run_lane(&mut self, lane: Lane) -> bool {
        let mut left = self.lanes.begin(lane);
        let mut ran = false;
        while left > 0 {
            let Some(id) = self.lanes.pop(lane) else { break };
            ran = true;
            let Some(request) = self.requests.get_mut(id) else { continue };
            request.queued = false;
            let Some(conn) = self.conns.get_mut(request.conn) else { continue };
            let (number, namespace) = (request.number, request.namespace);
            // One request does not spend all of it, so that its neighbours in the lane move too.
            let share = left.min(SHARE);
            let mut budget = share;
            let step = match &mut request.work {
                Work::Get(get) => {
                    let step = get.step(id, number, namespace, &mut self.core, conn, &mut budget);
                    request.lane = get.lane(request.lane);
                    step
                }
                Work::Put(put) => put.step(id, namespace, &mut self.core, conn, &mut budget),
                Work::Match(matched) => matched.step(namespace, &mut self.core, &mut budget),
                Work::Forget(forget) => forget.step(id, namespace, &mut self.core, &mut budget),
            };
            left -= share - budget;
            match step {
                Step::Again => {
                    request.queued = true;
                    let lane = request.lane;
                    self.lanes.push(lane, id);
                }
                Step::Idle => {}
                Step::Blocked => {
                    request.queued = true;
                    conn.blocked.push(id);
                }
                Step::Thirsty => {
                    request.queued = true;
                    conn.thirsty.push(id);
                }
                Step::Retry => {
                    request.queued = true;
                    if self.retry.is_empty() {
                        self.retry_at_us = self.core.now_us + RETRY_US;
                    }
                    self.retry.push(id);
                }
            }
            let conn = request.conn;
            self.settle(id);
            self.mark_dirty(conn);
        }
        self.lanes.end(lane, left);
        ran
    }

    /// Puts a request that has something to do in its lane.
    fn enqueue(&mut self, id: Id) {
        if let Some(request) = self.requests.get_mut(id)
            && !request.queued
        {
            request.queued = true;
            self.lanes.push(request.lane, id);
        }
    }

    /// The same for one that stood in another list.
    fn enqueue_again(&mut self, id: Id) {
        if let Some(request) = self.requests.get_mut(id) {
            request.queued = true;
            self.lanes.push(request.lane, id);
        }
    }

    /// Answers what is past its deadline, and finds the next one.
    fn expire(&mut self) {
        let now_us = self.core.now_us;
        let mut next = u64::MAX;
        let mut late = Vec::new();
        for (id, request) in self.requests.iter() {
            if request.deadline_us > now_us {
                next = next.min(request.deadline_us);
            } else {
                late.push(id);
            }
        }
        self.deadline_us = next;
        for id in late {
            self.give_up(id, MissReason::Deadline, RefusedReason::Deadline);
        }
    }
}
