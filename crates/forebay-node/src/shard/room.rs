//! Requests that found no room: no memory, no place in a queue, too much unwritten.
//!
//! Whenever something ends there may be room. Were all asked then that wait, each event would cost by their number, and a turn would be as long as
//! somebody likes to put. So two are asked: who waits longest, and the next in turn. Whoever finds room lets the next one try.

use super::Shard;
use super::request::Waiting;
use crate::lanes::{Lanes, Room};
use crate::slab::Id;

/// How soon they try again although nothing has ended, in microseconds.
const RETRY_US: u64 = 500;

/// Requests that are gone and still stand in line: so many are passed over in one go. Each has cost a turn of its own before, so they do not pile up.
const PASSED_MAX: usize = 64;

/// Who waits for room. All but the first stand in [`Lanes`].
#[derive(Debug, Default)]
pub(super) struct Line {
    /// By kind of room: who has waited longest. It is asked every time, so that the store keeps room for it.
    first: [Option<Id>; Room::ALL.len()],
    /// When they try again.
    pub(super) at_us: u64,
}

impl Line {
    pub(super) fn is_empty(&self, lanes: &Lanes) -> bool {
        Room::ALL.iter().all(|room| self.first[*room as usize].is_none() && !lanes.has_waiting_for_room(*room))
    }

    /// One more waits, or again. `waits`: whether a request does.
    fn wait(&mut self, lanes: &mut Lanes, room: Room, conn: Id, request: Id, waits: impl Fn(Id) -> bool) {
        let first = &mut self.first[room as usize];
        if first.is_none_or(|first| first == request || !waits(first)) {
            *first = Some(request);
        } else {
            lanes.wait_for_room(room, conn, request);
        }
    }

    /// Who has waited longest.
    fn first(&mut self, room: Room, waits: impl Fn(Id) -> bool) -> Option<Id> {
        self.first[room as usize].filter(|first| waits(*first))
    }

    /// The next in turn.
    fn next(&mut self, lanes: &mut Lanes, room: Room, waits: impl Fn(Id) -> bool) -> Option<Id> {
        (0..PASSED_MAX).map_while(|_| lanes.next_for_room(room)).find(|id| waits(*id))
    }
}

impl Shard {
    /// It found none. Something may end soon, or has.
    pub(super) fn wait_for_room(&mut self, room: Room, conn: Id, id: Id) {
        if self.line.is_empty(&self.core.lanes) {
            self.line.at_us = self.core.now_us + RETRY_US;
        }
        let requests = &self.requests;
        self.line.wait(&mut self.core.lanes, room, conn, id, |id| requests.get(id).is_some());
    }

    /// It was asked and found room: there may be more.
    pub(super) fn found_room(&mut self, room: Room, id: Id) {
        let first = &mut self.line.first[room as usize];
        if *first == Some(id) {
            *first = None;
        }
        self.next_tries(room);
    }

    /// Two of each kind try again.
    pub(super) fn try_for_room(&mut self) {
        self.line.at_us = self.core.now_us + RETRY_US;
        for room in Room::ALL {
            let requests = &self.requests;
            if let Some(first) = self.line.first(room, |id| requests.get(id).is_some()) {
                self.tries(first);
            } else {
                self.line.first[room as usize] = None;
            }
            self.next_tries(room);
        }
    }

    fn next_tries(&mut self, room: Room) {
        let requests = &self.requests;
        let waits = |id| requests.get(id).is_some_and(|request| request.room == Waiting::Waits);
        if let Some(id) = self.line.next(&mut self.core.lanes, room, waits) {
            self.tries(id);
        }
    }

    /// Puts it in its lane, where it may be already.
    fn tries(&mut self, id: Id) {
        if let Some(request) = self.requests.get_mut(id)
            && request.room == Waiting::Waits
        {
            request.room = Waiting::Tries;
            self.enqueue_again(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Who;
    use crate::slab::Slab;

    /// Those that wait, and how often each was asked.
    struct Rig {
        ids: Slab<()>,
        lanes: Lanes,
        line: Line,
        asked: Vec<(Id, Id, usize)>,
    }

    impl Rig {
        /// So many requests of one process that all found no room, and one of another.
        fn new(greedy: usize) -> Rig {
            let mut rig = Rig { ids: Slab::new(5000), lanes: Lanes::new(), line: Line::default(), asked: Vec::new() };
            let conns = [1, 2].map(|pid| {
                let conn = rig.ids.insert(()).unwrap();
                rig.lanes.join(conn, Who::Process(pid));
                conn
            });
            for at in 0..=greedy {
                let conn = conns[usize::from(at == greedy)];
                let id = rig.ids.insert(()).unwrap();
                rig.asked.push((id, conn, 0));
                rig.line.wait(&mut rig.lanes, Room::Put, conn, id, |_| true);
            }
            rig
        }

        /// Something ended: who is asked, none of whom finds room.
        fn event(&mut self) -> Vec<Id> {
            let mut ids: Vec<Id> = self.line.first(Room::Put, |_| true).into_iter().collect();
            ids.extend(self.line.next(&mut self.lanes, Room::Put, |_| true));
            for id in &ids {
                let (_, conn, times) = self.asked.iter_mut().find(|(of, ..)| of == id).unwrap();
                *times += 1;
                let conn = *conn;
                self.line.wait(&mut self.lanes, Room::Put, conn, *id, |_| true);
            }
            ids
        }
    }

    #[test]
    fn an_event_asks_two_however_many_wait() {
        for waiting in [1, 10, 1000] {
            let mut rig = Rig::new(waiting);
            let first = rig.asked[0].0;
            for _ in 0..50 {
                let ids = rig.event();
                assert!(ids.len() == 2 && ids[0] == first, "who waits longest is asked every time: {ids:?}");
            }
            let (_, _, modest) = rig.asked[waiting];
            assert!(modest >= 24, "of {waiting} and one of another process, that one was asked {modest} times of 50");
        }
    }

    #[test]
    fn all_are_asked_in_the_end_and_those_that_are_gone_are_passed_over() {
        let mut rig = Rig::new(100);
        (0..300).for_each(|_| _ = rig.event());
        assert!(rig.asked.iter().all(|(.., times)| *times > 0));
        let last = rig.asked[99].0;
        assert_eq!(rig.line.first(Room::Put, |id| id == last), None);
        let found: Vec<Id> = (0..4).filter_map(|_| rig.line.next(&mut rig.lanes, Room::Put, |id| id == last)).collect();
        assert_eq!(found, [last]);
        assert!(!rig.lanes.has_waiting_for_room(Room::Put));
    }
}
