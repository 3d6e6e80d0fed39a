//! Gets: how a part of a call moves on, and what becomes of it when its connection breaks or its time is over.

use std::sync::atomic::Ordering;

use forebay_types::MissReason;
use forebay_wire::Message;

use super::arrivals::Arrivals;
use super::{GetCall, GetPart, State};
use crate::drive::{Moment, Part, Why};
use crate::link::{Link, LinkError, Nothing, Owed};
use crate::options::Mutant;
use crate::request;

impl Part<GetCall<'_>> for GetPart {
    fn pump(&mut self, link: &mut Link, call: &mut GetCall<'_>, at: Moment) -> Result<bool, LinkError> {
        let asked = self.refill(link, call, at)?;
        let sent = link.flush(&mut Nothing)?;
        let mut received = link.receive(&mut Arrivals { part: self, call, local: link.local })?;
        if !self.unchecked.is_empty() {
            self.refill(link, call, at)?;
            Arrivals { part: self, call, local: link.local }.check_one();
            received = true;
        }
        for (key, version) in self.corrupt.drain(..) {
            link.queue(&Message::Corrupt { namespace: call.namespace, key, version })?;
        }
        if link.wants_to_send() {
            link.flush(&mut Nothing)?;
        }
        Ok(asked | sent | received)
    }

    fn is_done(&self) -> bool {
        self.done == self.items.len()
    }

    fn broken(&mut self, call: &mut GetCall<'_>) {
        // What is here needs no connection.
        while let Some(local) = self.unchecked.front().map(|landed| landed.local) {
            Arrivals { part: self, call, local }.check_one();
        }
        self.requests.clear();
        self.corrupt.clear();
        for at in 0..self.next as u32 {
            let item = &mut self.items[at as usize];
            if item.request == 0 {
                continue;
            }
            item.request = 0;
            let (index, own) = (item.index, std::mem::take(&mut item.own));
            if let State::Landing(_, loan) = std::mem::replace(&mut item.state, State::Waiting) {
                call.core.cells.lost_landings.fetch_add(1, Ordering::Relaxed);
                if call.core.options.mutant(Mutant::ReuseBroken) {
                    let slice = loan.returned();
                    if own {
                        call.taker.own_back(index as usize, slice);
                    }
                }
                // Dropping the loan retires its slice, or withholds it from its owner: the node's last read may still land there.
            }
            if own {
                // There is no place for the block any more.
                item.state = State::Done;
                self.done += 1;
                call.miss(index, MissReason::Unavailable);
                continue;
            }
            self.again.push_back(at);
            if call.core.options.mutant(Mutant::RetryCounted) {
                call.counts.keys.miss(MissReason::Unavailable);
            }
        }
        (self.in_flight, self.in_flight_bytes) = (0, 0);
    }

    fn give_up(&mut self, link: &mut Link) -> Result<(), LinkError> {
        request::give_up(&mut self.requests, link, |number, at| {
            let item = &mut self.items[at as usize];
            if item.request != number {
                return None;
            }
            item.request = 0;
            match std::mem::replace(&mut item.state, State::Waiting) {
                State::Landing(_, loan) if self.reuse_overdue => {
                    self.early.push((item.index, loan.returned()));
                    None
                }
                State::Landing(_, loan) => Some(Owed::Landing(loan)),
                _ => None,
            }
        })
    }

    fn fail(&mut self, why: Why, call: &mut GetCall<'_>) {
        let reason = match why {
            Why::Deadline => MissReason::Deadline,
            Why::Unavailable => MissReason::Unavailable,
            Why::Moved => MissReason::NotMine,
        };
        for (index, slice) in self.early.drain(..) {
            call.taker.own_back(index as usize, slice);
        }
        for landed in std::mem::take(&mut self.unchecked) {
            self.put_by(landed.at, landed.region, landed.memory, call);
        }
        for item in &mut self.items {
            if !matches!(item.state, State::Done) {
                item.state = State::Done;
                call.miss(item.index, reason);
            }
        }
        self.done = self.items.len();
    }

    fn may_move(&self, call: &GetCall<'_>) -> bool {
        call.moved.is_some()
    }
}
