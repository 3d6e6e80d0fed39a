//! Whose turn it is: a lane's share of a turn spent request by request, and what is past its deadline answered.

use forebay_types::{MissReason, RefusedReason};

use super::Shard;
use super::request::{Request, Step, Waiting, Work};
use crate::lanes::{Lane, SHARE};
use crate::slab::Id;

/// Requests whose deadline is looked at in one turn, and keys that are given up in one: some tens of microseconds each.
const EXPIRE_REQUESTS: usize = 1024;
const EXPIRE_KEYS: usize = 4096;

impl Shard {
    /// True if any request had its turn.
    pub(super) fn run_lane(&mut self, lane: Lane) -> bool {
        let mut left = self.core.lanes.begin(self.core.now_us, lane);
        let mut ran = false;
        while left > 0 {
            let Some(served) = self.core.lanes.pop(lane) else { break };
            ran = true;
            let cost = self.run_request(served.request, left.min(SHARE));
            self.core.lanes.charge(served, cost);
            left -= cost;
        }
        self.core.lanes.end(lane, left);
        ran
    }

    /// Gives a request its turn, in which it may spend `share`. Gives what it spent.
    fn run_request(&mut self, id: Id, share: i64) -> i64 {
        let Some(request) = self.requests.get_mut(id) else { return 0 };
        request.queued = false;
        let conn_id = request.conn;
        let Some(conn) = self.conns.get_mut(conn_id) else { return 0 };
        let (number, namespace) = (request.number, request.namespace);
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
        let tried = std::mem::replace(&mut request.room, Waiting::No) == Waiting::Tries;
        match step {
            Step::Again => {
                request.queued = true;
                self.core.lanes.push(request.lane, conn_id, id);
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
                request.room = Waiting::Waits;
            }
        }
        let (peer, room) = (conn.peer, request.work.room());
        if step == Step::Retry {
            self.wait_for_room(room, conn_id, id);
        } else if tried {
            self.found_room(room, id);
        }
        self.settle(id);
        self.mark_dirty(conn_id);
        self.go_on_reading(peer);
        share - budget
    }

    /// Lets the next get of a peer begin its reads, if the peer may have more.
    pub(super) fn go_on_reading(&mut self, peer: usize) {
        while self.core.lanes.has_waiting(peer) && self.core.readers.may(self.core.now_us, peer) {
            let Some(id) = self.core.lanes.waited(peer) else { break };
            let Some(Request { work: Work::Get(get), .. }) = self.requests.get_mut(id) else { continue };
            get.has_waited();
            self.enqueue(id);
            break;
        }
    }

    /// Puts a request that has something to do in its lane.
    pub(super) fn enqueue(&mut self, id: Id) {
        if let Some(request) = self.requests.get_mut(id)
            && !request.queued
        {
            request.queued = true;
            self.core.lanes.push(request.lane, request.conn, id);
        }
    }

    /// The same for one that stood in another list.
    pub(super) fn enqueue_again(&mut self, id: Id) {
        if let Some(request) = self.requests.get_mut(id) {
            request.queued = true;
            self.core.lanes.push(request.lane, request.conn, id);
        }
    }

    /// Answers what is past its deadline, and finds the next one: as many requests and keys as a turn bears, the rest in the next.
    pub(super) fn expire(&mut self) {
        let now_us = self.core.now_us;
        let (from, mut next) = self.expiring.take().unwrap_or((0, u64::MAX));
        if from == 0 {
            // What begins from here on, in places that are behind us, sets this lower.
            self.deadline_us = u64::MAX;
        }
        let (some, end) = self.requests.some(from, EXPIRE_REQUESTS);
        let (mut late, mut keys, mut stopped) = (Vec::new(), 0, None);
        for (id, request) in some {
            if request.deadline_us > now_us {
                next = next.min(request.deadline_us);
            } else if keys < EXPIRE_KEYS {
                keys += request.work.open().max(1);
                late.push(id);
            } else {
                stopped = Some(usize::from(id.place()));
                break;
            }
        }
        for id in late {
            self.give_up(id, MissReason::Deadline, RefusedReason::Deadline);
        }
        match stopped.unwrap_or(end) {
            0 => self.deadline_us = self.deadline_us.min(next),
            at => self.expiring = Some((at, next)),
        }
    }
}
