//! Puts: blocks and the part of a call that goes to one shard.
//!
//! Sums are computed once, here, over the bytes that the node will read: the copy in a region, or the caller's own memory when they go through the
//! socket. From then on they are only checked. The bytes belong to the call until the node has answered.

mod answers;
mod block;
mod item;

use std::collections::VecDeque;

use forebay_types::{Clock, NamespaceId, PutOutcome, RefusedReason, RegionId, Reuse};
use forebay_wire::{Message, Place, PutItem, features};

use crate::counters::PutCounters;
use crate::drive::{Moment, Part, Why};
use crate::link::{Link, LinkError, Owed};
use crate::mesh::Core;
use crate::options::{ALWAYS_IN_FLIGHT, Mutant};
use crate::request::{self, Request};
use answers::Answers;
pub use block::{PutBlock, PutBytes};
pub(crate) use item::PutItemState;
use item::State;

/// Most items of one message.
const ITEMS_PER_MESSAGE: usize = 256;
/// Payload bytes that are worth a message of their own: what a shard copies in a turn of its loop, and in the time of a wake-up.
const BYTES_WORTH_SENDING: usize = 256 << 10;
/// Payload bytes after which a message is sent: the node copies the first blocks while the next are summed.
const BYTES_PER_MESSAGE: usize = 1 << 20;

/// What the parts of one call share.
pub(crate) struct PutCall<'c, 'b> {
    pub(crate) core: &'c Core,
    pub(crate) namespace: NamespaceId,
    pub(crate) window_items: usize,
    pub(crate) hint: Reuse,
    pub(crate) caller_keeps: bool,
    pub(crate) outcomes: Vec<Option<PutOutcome>>,
    /// Blocks whose shard is not where the table says, once.
    pub(crate) moved: Option<Vec<PutItemState<'b>>>,
    pub(crate) counts: PutCounters,
    pub(crate) bytes: u64,
    pub(crate) no_room: u64,
}

impl PutCall<'_, '_> {
    pub(crate) fn outcome(&mut self, index: u32, bytes: usize, outcome: PutOutcome) {
        self.counts.outcome(outcome);
        if matches!(outcome, PutOutcome::Cached | PutOutcome::Durable) {
            self.bytes += bytes as u64;
        }
        self.outcomes[index as usize] = Some(outcome);
    }
}

/// The blocks of a call that one shard owns.
pub(crate) struct PutPart<'b> {
    items: Vec<PutItemState<'b>>,
    next: usize,
    again: VecDeque<u32>,
    requests: Vec<Request>,
    in_flight: usize,
    in_flight_bytes: usize,
    done: usize,
    /// Payload to send: request, slot, item, first byte not yet sent.
    to_send: VecDeque<(u32, u32, u32, usize)>,
    /// The item whose frame is being sent.
    sending: u32,
}

impl<'b> PutPart<'b> {
    pub(crate) fn new(items: Vec<PutItemState<'b>>) -> Self {
        PutPart {
            items,
            next: 0,
            again: VecDeque::new(),
            requests: Vec::new(),
            in_flight: 0,
            in_flight_bytes: 0,
            done: 0,
            to_send: VecDeque::new(),
            sending: 0,
        }
    }

    fn peek(&self) -> Option<u32> {
        self.again.front().copied().or_else(|| (self.next < self.items.len()).then_some(self.next as u32))
    }

    fn pop(&mut self) {
        if self.again.pop_front().is_none() {
            self.next += 1;
        }
    }

    fn fits(&self, length: usize, link: &Link, call: &PutCall<'_, 'b>) -> bool {
        // Credit is for what is streamed. What lies in a region waits there, in memory of ours.
        let credit = if link.with_regions { u64::MAX } else { link.welcome.credit_bytes };
        let bytes = call.core.options.in_flight_bytes.min(usize::try_from(credit).unwrap_or(usize::MAX));
        let always = if link.with_regions { ALWAYS_IN_FLIGHT } else { 1 };
        self.in_flight == 0
            || (self.in_flight < call.window_items
                && (self.in_flight < always || self.in_flight_bytes + length <= bytes))
    }

    /// Waits until a message is worth sending: a window in which each answer lets one block go would become messages of one block.
    fn is_worth_sending(&self, length: usize, link: &Link, call: &PutCall<'_, 'b>) -> bool {
        let waiting = self.items.len() - self.next + self.again.len();
        let free = call.window_items.saturating_sub(self.in_flight);
        let enough = waiting.min(call.window_items / 4).min(BYTES_WORTH_SENDING / length.max(1));
        self.fits(length, link, call) && (self.in_flight == 0 || free >= enough)
    }

    fn refill(&mut self, link: &mut Link, call: &mut PutCall<'_, 'b>, at: Moment) -> Result<bool, LinkError> {
        let mut moved = false;
        while let Some(first) = self.peek() {
            if !self.is_worth_sending(self.items[first as usize].length, link, call) {
                break;
            }
            link.sync_regions(&call.core.regions, self.in_flight == 0, &call.core.chance)?;
            let number = link.number();
            let (mut asked, mut slots, mut bytes) = (Vec::new(), Vec::new(), 0);
            while let Some(next) = self.peek() {
                let length = self.items[next as usize].length;
                if asked.len() == ITEMS_PER_MESSAGE || bytes >= BYTES_PER_MESSAGE || !self.fits(length, link, call) {
                    break;
                }
                if length == 0 || length as u64 > link.welcome.block_bytes_max {
                    self.pop();
                    self.done += 1;
                    self.items[next as usize].state = State::Done;
                    let refused = PutOutcome::Refused(RefusedReason::TooLarge);
                    call.outcome(self.items[next as usize].index, length, refused);
                    moved = true;
                    continue;
                }
                // Sums, a copy and its memory take their time: none are made for a call that is over.
                if call.core.clock.now_us() >= at.deadline_us {
                    break;
                }
                let Some(from) = self.prepare(next, link, call)? else { break };
                self.pop();
                let item = &mut self.items[next as usize];
                item.request = number;
                self.in_flight += 1;
                self.in_flight_bytes += length;
                bytes += length;
                asked.push(PutItem { descriptor: item.descriptor.clone(), from });
                slots.push(next);
            }
            if asked.is_empty() {
                break;
            }
            self.requests.push(Request { number, left: slots.len(), items: slots });
            let (namespace, deadline_us) = (call.namespace, at.wire_us());
            let hint = call.hint.into();
            let caller_keeps = call.caller_keeps && link.welcome.features & features::CALLER_KEEPS != 0;
            link.queue(&Message::Put { request: number, namespace, deadline_us, hint, caller_keeps, items: asked })?;
            link.flush(self)?;
            moved = true;
        }
        Ok(moved)
    }

    /// Computes the sums and says where the bytes are. `None`: wait until something of this call has been answered.
    fn prepare(&mut self, at: u32, link: &mut Link, call: &mut PutCall<'_, 'b>) -> Result<Option<Place>, LinkError> {
        let in_flight = self.in_flight;
        let item = &mut self.items[at as usize];
        let room = item.length as u64;
        if link.with_regions {
            let mut region = None;
            if let Some((slice, _)) = item.bytes.in_region() {
                region = call.core.regions.number_of(slice);
            }
            if region.is_none() {
                match call.core.regions.alloc(item.length) {
                    Some((id, mut slice)) => {
                        if item.descriptor.is_empty() {
                            item.describe(Some(&mut slice));
                        } else {
                            item.bytes.copy_to(&mut slice, |_, _| {});
                        }
                        item.bytes = PutBytes::Slice(slice);
                        region = Some(id);
                    }
                    None if in_flight > 0 => return Ok(None),
                    None => call.no_room += 1,
                }
            }
            if let (Some(region), Some((slice, start))) = (region, item.bytes.in_region()) {
                let offset = (slice.offset() + start) as u64;
                if !link.knows(region) {
                    link.sync_regions(&call.core.regions, false, &call.core.chance)?;
                }
                if link.knows(region) {
                    if item.descriptor.is_empty() {
                        item.describe(None);
                    }
                    item.state = State::InRegion;
                    return Ok(Some(Place { region, offset, room }));
                }
            }
        }
        if item.descriptor.is_empty() {
            item.describe(None);
        }
        item.state = State::Announced;
        Ok(Some(Place { region: RegionId(0), offset: 0, room }))
    }

    fn item(&self, number: u32, slot: u32) -> Result<Option<u32>, LinkError> {
        let Some(request) = self.requests.iter().find(|request| request.number == number) else { return Ok(None) };
        let at = *request.items.get(slot as usize).ok_or(LinkError::Protocol("an item that was not put"))?;
        if self.items[at as usize].request != number {
            return Err(LinkError::Protocol("two outcomes for one item"));
        }
        Ok(Some(at))
    }

    fn end(&mut self, at: u32, outcome: PutOutcome, call: &mut PutCall<'_, 'b>) {
        let item = &mut self.items[at as usize];
        if let Some(request) = self.requests.iter_mut().find(|request| request.number == item.request) {
            request.left -= 1;
        }
        item.request = 0;
        if item.state == State::InRegion {
            // Its slice goes back now: the next blocks of the call need room. Bytes in a frame are kept to the end of the call.
            item.bytes = PutBytes::from(Vec::new());
        }
        item.state = State::Done;
        self.in_flight -= 1;
        self.in_flight_bytes -= item.length;
        self.done += 1;
        call.outcome(item.index, item.length, outcome);
        self.requests.retain(|request| request.left > 0);
    }
}

impl<'b> Part<PutCall<'_, 'b>> for PutPart<'b> {
    fn pump(&mut self, link: &mut Link, call: &mut PutCall<'_, 'b>, at: Moment) -> Result<bool, LinkError> {
        let asked = self.refill(link, call, at)?;
        let sent = link.flush(self)?;
        let received = link.receive(&mut Answers { part: self, call })?;
        Ok(asked | sent | received)
    }

    fn is_done(&self) -> bool {
        self.done == self.items.len()
    }

    fn broken(&mut self, call: &mut PutCall<'_, 'b>) {
        // Asking again is safe: the version is the same, so a block that was kept after all answers `exists`.
        self.requests.clear();
        self.to_send.clear();
        for at in 0..self.next as u32 {
            let item = &mut self.items[at as usize];
            if item.request != 0 {
                item.request = 0;
                item.state = State::Waiting;
                self.again.push_back(at);
                if call.core.options.mutant(Mutant::RetryCounted) {
                    call.counts.outcome(PutOutcome::Refused(RefusedReason::Unavailable));
                }
            }
        }
        (self.in_flight, self.in_flight_bytes) = (0, 0);
    }

    fn give_up(&mut self, link: &mut Link) -> Result<(), LinkError> {
        request::give_up(&mut self.requests, link, |number, at| {
            let item = &mut self.items[at as usize];
            if item.request != number || item.state != State::InRegion {
                return None;
            }
            match std::mem::replace(&mut item.bytes, PutBytes::from(Vec::new())) {
                PutBytes::Slice(slice) => Some(Owed::Reading(slice)),
                PutBytes::Shared(slice, _) => Some(Owed::Sharing(slice)),
                PutBytes::Memory(_) | PutBytes::Scattered(_) => None,
            }
        })?;
        self.to_send.clear();
        Ok(())
    }

    fn fail(&mut self, why: Why, call: &mut PutCall<'_, 'b>) {
        let reason = match why {
            Why::Deadline => RefusedReason::Deadline,
            Why::Unavailable | Why::Moved => RefusedReason::Unavailable,
        };
        for mut item in std::mem::take(&mut self.items) {
            match &mut call.moved {
                _ if item.state == State::Done => {}
                Some(moved) if why == Why::Moved => {
                    item.request = 0;
                    item.state = State::Waiting;
                    moved.push(item);
                }
                _ => call.outcome(item.index, item.length, PutOutcome::Refused(reason)),
            }
        }
        self.done = 0;
    }

    fn may_move(&self, call: &PutCall<'_, 'b>) -> bool {
        call.moved.is_some()
    }
}
