//! Those that wait for room stand here by kind, and take turns by peer and by connection as others do.

use super::{Lanes, ROOM};
use crate::slab::Id;

/// What a request that found no room waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// Memory or a queue's place, to read.
    Get,
    /// Memory, or a place on the drive, to be written from.
    Put,
}

impl Room {
    pub(crate) const ALL: [Room; 2] = [Room::Get, Room::Put];
}

impl Lanes {
    /// A request waits for room.
    pub(crate) fn wait_for_room(&mut self, room: Room, conn: Id, request: Id) {
        self.stand_in_line(ROOM + room as usize, conn, request);
    }

    /// Whether any request stands here for that.
    pub(crate) fn has_waiting_for_room(&self, room: Room) -> bool {
        !self.rings[ROOM + room as usize].is_empty()
    }

    /// The next of them, which stands here no longer: peers take turns, and of each its connections.
    pub(crate) fn next_for_room(&mut self, room: Room) -> Option<Id> {
        let at = ROOM + room as usize;
        loop {
            let number = self.rings[at].pop_front()?;
            let Some(Some(peer)) = self.peers.get_mut(number) else { continue };
            let place = peer.rings[at].pop_front();
            let flow = place.and_then(|place| self.flows.get_mut(usize::from(place))?.as_mut());
            let request = flow.and_then(|flow| {
                let request = flow.queues[at].pop_front();
                flow.listed[at] = !flow.queues[at].is_empty();
                if flow.listed[at] {
                    peer.rings[at].push_back(flow.id.place());
                }
                request
            });
            peer.listed[at] = !peer.rings[at].is_empty();
            if peer.listed[at] {
                self.rings[at].push_back(number);
            }
            if request.is_some() {
                return request;
            }
        }
    }
}
