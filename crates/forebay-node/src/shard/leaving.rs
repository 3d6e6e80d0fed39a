//! Requests whose connection is gone: given up a few keys a turn.
//!
//! A connection may have a thousand requests of thousands of keys each. All of them at once would be a turn of milliseconds, for which everybody else
//! would wait.

use std::collections::VecDeque;

use forebay_types::{MissReason, RefusedReason};

use super::Shard;
use super::request::{Request, Work};
use crate::slab::{Id, Slab};

/// Keys that are given up in one turn: some tens of microseconds. A request goes as a whole.
const KEYS: usize = 4096;

/// Requests that nobody waits for any more. Each is still in its slab, so there are never more than that holds.
#[derive(Debug, Default)]
pub(super) struct Leaving(VecDeque<Id>);

impl Leaving {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next ones to go: as many as have a turn's keys, and one in any case.
    fn next(&mut self, requests: &mut Slab<Request>) -> Vec<Request> {
        let (mut gone, mut keys) = (Vec::new(), 0);
        while keys < KEYS {
            let Some(id) = self.0.pop_front() else { break };
            let Some(request) = requests.remove(id) else { continue };
            keys += request.work.open().max(1);
            gone.push(request);
        }
        gone
    }
}

impl Shard {
    /// Takes over what a connection asked for that is gone. It has left the lanes, so none of it goes on.
    pub(super) fn leave(&mut self, conn: Id, asked: &[(u32, Id)]) {
        if asked.is_empty() {
            return;
        }
        self.leaving.0.extend(asked.iter().map(|(_, id)| *id));
        let requests = &self.requests;
        self.core.drop_reads(|id| requests.get(id).is_some_and(|request| request.conn == conn));
    }

    /// Gives up some of it. True: there is more.
    pub(super) fn leave_step(&mut self) -> bool {
        for mut request in self.leaving.next(&mut self.requests) {
            match &mut request.work {
                Work::Get(get) => get.give_up(&mut self.core, MissReason::Unavailable, true, |_| ()),
                Work::Put(put) => put.give_up(&mut self.core, None, RefusedReason::Unavailable),
                Work::Match(matched) => matched.give_up(&mut self.core, MissReason::Unavailable),
                Work::Forget(forget) => forget.give_up(&mut self.core),
            }
        }
        !self.leaving.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use forebay_types::{Key, NamespaceId};

    use super::*;
    use crate::lanes::Lane;
    use crate::shard::request::{Match, Waiting};

    fn request(keys: usize) -> Request {
        let keys = vec![Key([0; 16]); keys];
        let matched = Match { keys, presence: Vec::new(), hold_ms: 0, stop_at_gap: false, gap: false, begun_us: 0 };
        Request {
            conn: Id::from_word(0),
            number: 1,
            namespace: NamespaceId(1),
            deadline_us: 0,
            lane: Lane::Small,
            queued: false,
            room: Waiting::No,
            touched: false,
            cancelled: false,
            work: Work::Match(matched),
        }
    }

    #[test]
    fn a_turn_gives_up_its_keys_and_one_request_in_any_case() {
        let mut requests = Slab::new(2000);
        let mut leaving = Leaving::default();
        for keys in std::iter::repeat_n(100, 1000).chain([60_000, 60_000]) {
            leaving.0.push_back(requests.insert(request(keys)).unwrap());
        }
        // One was answered meanwhile.
        requests.remove(leaving.0[500]);
        let mut turns = Vec::new();
        while !leaving.is_empty() {
            turns.push(leaving.next(&mut requests).len());
        }
        assert_eq!(turns.iter().sum::<usize>(), 1001);
        assert!(turns.len() >= 26 && turns.iter().all(|gone| *gone <= KEYS / 100 + 1), "{turns:?}");
        assert_eq!(requests.len(), 0);
    }
}
