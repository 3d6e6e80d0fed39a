//! Gets: the part of a call that goes to one shard.
//!
//! Items go out in messages of bounded size while a bounded number is unanswered, so that one large call keeps node and client busy at once
//! and never holds more memory than the window. Over regions an item takes a slice before it is asked for; over a plain socket it takes memory
//! when its first byte comes.

mod arrivals;
mod call;
mod pump;
pub(crate) mod take;

use std::collections::VecDeque;

use forebay_io::{Loan, Slice};
use forebay_types::limits::BLOCK_BYTES_MAX;
use forebay_types::{Clock, Descriptor, Key, LandingKind, RegionId, ShardId, Tier, Version};
use forebay_wire::{GetItem, Message, Place};

use crate::drive::Moment;
use crate::handle::EXPECTED_BYTES_MAX;
use crate::link::{Link, LinkError, Nothing};
use crate::memory::Memory;
use crate::mesh::Core;
use crate::options::{ALWAYS_IN_FLIGHT, Mutant};
use crate::request::Request;
use call::GetCall;
pub(crate) use call::{Ask, Taker, run};

/// Most items of one message: the node starts on the first while the next is still being written.
const ITEMS_PER_MESSAGE: usize = 256;
/// Blocks from here go out one by one as room appears; smaller ones wait until a good part of the window is free, for fewer messages.
const LARGE_BYTES: usize = 64 << 10;
/// Of a window, so much may have landed and be unchecked before no more is asked for: enough that the node has its hands full while a block is checked.
const UNCHECKED_SHARE: usize = 4;
/// Slices kept for the next items instead of going back to their region.
const SPARES_MAX: usize = 64;
/// Times an item may come back as too small before it comes through the socket, where any length fits.
const GROWN_MAX: u8 = 1;

/// Where an item stands.
pub(crate) enum State {
    /// To be asked for.
    Waiting,
    /// Asked for; a node may write here.
    Landing(RegionId, Loan),
    /// Asked for through the socket.
    Asked,
    /// Its bytes are coming through the socket.
    Streaming(Box<Stream>),
    Done,
}

pub(crate) struct Stream {
    pub(crate) descriptor: Descriptor,
    pub(crate) tier: Tier,
    pub(crate) offset: u64,
    pub(crate) length: usize,
    pub(crate) got: usize,
    pub(crate) memory: Option<(RegionId, Memory)>,
}

/// A block that is here whole and not yet checked.
pub(crate) struct Landed {
    pub(crate) at: u32,
    pub(crate) region: RegionId,
    pub(crate) memory: Memory,
    pub(crate) descriptor: Descriptor,
    pub(crate) tier: Tier,
    pub(crate) landing: LandingKind,
    pub(crate) offset: u64,
    pub(crate) length: usize,
    /// It came from a node on this machine.
    pub(crate) local: bool,
}

pub(crate) struct Item {
    pub(crate) index: u32,
    /// Request that it is asked for in; 0 if none.
    pub(crate) request: u32,
    /// Bytes of payload it has room for.
    pub(crate) room: usize,
    pub(crate) grown: u8,
    /// What it lands in is the caller's.
    pub(crate) own: bool,
    pub(crate) state: State,
}

/// The keys of a call that one shard owns.
pub(crate) struct GetPart {
    pub(crate) items: Vec<Item>,
    /// Items before this one have been asked for at least once.
    pub(crate) next: usize,
    pub(crate) again: VecDeque<u32>,
    pub(crate) requests: Vec<Request>,
    pub(crate) in_flight: usize,
    pub(crate) in_flight_bytes: usize,
    pub(crate) done: usize,
    /// Large blocks that have landed. They are checked one by one, and what comes next is asked for before.
    pub(crate) unchecked: VecDeque<Landed>,
    pub(crate) unchecked_bytes: usize,
    pub(crate) spare: Vec<(RegionId, Slice)>,
    pub(crate) corrupt: Vec<(Key, Version)>,
    /// Who is asked.
    shard: ShardId,
    /// See [`Mutant::ReuseOverdue`].
    reuse_overdue: bool,
    /// What that mutant gives back too early.
    early: Vec<(u32, Slice)>,
}

impl GetPart {
    pub(crate) fn new(indices: impl Iterator<Item = u32>, shard: ShardId, core: &Core) -> Self {
        let item = |index| Item { index, request: 0, room: 0, grown: 0, own: false, state: State::Waiting };
        let items = indices.map(item).collect();
        GetPart {
            items,
            next: 0,
            again: VecDeque::new(),
            requests: Vec::new(),
            in_flight: 0,
            in_flight_bytes: 0,
            done: 0,
            unchecked: VecDeque::new(),
            unchecked_bytes: 0,
            spare: Vec::new(),
            corrupt: Vec::new(),
            shard,
            early: Vec::new(),
            reuse_overdue: core.options.mutant(Mutant::ReuseOverdue),
        }
    }

    fn waiting(&self) -> usize {
        self.items.len() - self.next + self.again.len()
    }

    fn peek(&self) -> Option<u32> {
        self.again.front().copied().or_else(|| (self.next < self.items.len()).then_some(self.next as u32))
    }

    fn pop(&mut self) {
        if self.again.pop_front().is_none() {
            self.next += 1;
        }
    }

    /// Asks for as much as the window allows.
    fn refill(&mut self, link: &mut Link, call: &mut GetCall<'_>, at: Moment) -> Result<bool, LinkError> {
        let mut moved = false;
        while let Some(first) = self.peek() {
            let cost = self.room_of(first, call);
            if !self.is_worth_asking(cost, call) {
                break;
            }
            link.sync_regions(&call.core.regions, self.in_flight == 0, &call.core.chance)?;
            let number = link.number();
            let mut request = Request { number, items: Vec::new(), left: 0 };
            let mut asked = Vec::new();
            while let Some(next) = self.peek() {
                let cost = self.room_of(next, call);
                if asked.len() == ITEMS_PER_MESSAGE || self.in_flight >= call.window_items || !self.fits(cost, call) {
                    break;
                }
                let Some(to) = self.place(next, cost, link, call)? else { break };
                self.pop();
                let item = &mut self.items[next as usize];
                item.request = number;
                item.room = cost;
                self.in_flight += 1;
                self.in_flight_bytes += cost;
                let ask = &call.asks[item.index as usize];
                let (offset, length) = ask.on_wire();
                asked.push(GetItem { key: ask.key, offset, length, to });
                request.items.push(next);
            }
            if asked.is_empty() {
                break;
            }
            request.left = asked.len();
            self.requests.push(request);
            link.queue(&Message::Get {
                request: number,
                namespace: call.namespace,
                deadline_us: at.wire_us(),
                hint: call.hint.into(),
                items: asked,
            })?;
            link.flush(&mut Nothing)?;
            moved = true;
        }
        Ok(moved)
    }

    /// Bytes of payload that an item gets room for.
    fn room_of(&self, at: u32, call: &GetCall<'_>) -> usize {
        let item = &self.items[at as usize];
        let expected = item.room.max(call.expected_bytes.max(call.counts.longest.min(EXPECTED_BYTES_MAX)));
        match call.asks[item.index as usize].on_wire() {
            (_, 0) => expected,
            (_, length) => length as usize,
        }
    }

    fn fits(&self, cost: usize, call: &GetCall<'_>) -> bool {
        let held = self.in_flight_bytes + self.unchecked_bytes;
        self.in_flight < ALWAYS_IN_FLIGHT || held + cost <= call.core.options.in_flight_bytes
    }

    fn is_worth_asking(&self, cost: usize, call: &GetCall<'_>) -> bool {
        if self.in_flight == 0 {
            return true;
        }
        let free = call.window_items.saturating_sub(self.in_flight);
        if cost >= LARGE_BYTES {
            let unchecked_max = (call.window_items / UNCHECKED_SHARE).max(1);
            return free > 0 && self.unchecked.len() <= unchecked_max && self.fits(cost, call);
        }
        let batch = self.waiting().min(call.window_items / 4).max(1);
        let limit = call.core.options.in_flight_bytes;
        free >= batch && self.in_flight_bytes + (batch * cost).min(limit / 4) <= limit
    }

    /// Where the bytes of an item shall go. `None`: wait until something of this call has come back.
    fn place(
        &mut self,
        at: u32,
        room: usize,
        link: &mut Link,
        call: &mut GetCall<'_>,
    ) -> Result<Option<Place>, LinkError> {
        let through_socket = Place { region: RegionId(0), offset: 0, room: BLOCK_BYTES_MAX };
        let item = &mut self.items[at as usize];
        if !link.with_regions || item.grown > GROWN_MAX {
            item.state = State::Asked;
            return Ok(Some(through_socket));
        }
        if let Some((region, slice)) = call.taker.own(item.index as usize) {
            if !link.knows(region) {
                link.sync_regions(&call.core.regions, false, &call.core.chance)?;
            }
            if link.knows(region) {
                let loan = slice.lend_to(link.writer(self.shard, region));
                let to = Place { region, offset: loan.offset() as u64, room: loan.capacity() as u64 };
                (item.own, item.state) = (true, State::Landing(region, loan));
                return Ok(Some(to));
            }
            call.taker.own_back(item.index as usize, slice);
        }
        // A range never lands directly, so it needs no room for a trailer.
        let whole = call.asks[item.index as usize].end.is_none();
        let need = if whole { room + Descriptor::landing_room(room as u64) } else { room };
        let slice = match self.spare.pop() {
            Some((region, slice)) if slice.capacity() >= need => Some((region, slice)),
            // Memory takes its time, most of all a client's first. None is taken for a call that is over.
            _ if call.core.clock.now_us() >= call.deadline_us => return Ok(None),
            _ => call.core.regions.alloc(need),
        };
        if let Some((region, mut slice)) = slice {
            if !link.knows(region) {
                // It was just made. The node learns of it before it reads of this item.
                link.sync_regions(&call.core.regions, false, &call.core.chance)?;
            }
            if link.knows(region) {
                slice.set_len(slice.capacity());
                let loan = slice.lend();
                let to = Place { region, offset: loan.offset() as u64, room: loan.capacity() as u64 };
                item.state = State::Landing(region, loan);
                return Ok(Some(to));
            }
        } else if self.in_flight > 0 || !self.unchecked.is_empty() {
            return Ok(None);
        }
        call.counts.no_room += 1;
        item.state = State::Asked;
        Ok(Some(through_socket))
    }

    /// Takes an item out of its request.
    pub(crate) fn unask(&mut self, at: u32) {
        let item = &mut self.items[at as usize];
        if let Some(request) = self.requests.iter_mut().find(|request| request.number == item.request) {
            request.left -= 1;
        }
        item.request = 0;
        self.in_flight -= 1;
        self.in_flight_bytes -= item.room;
    }

    pub(crate) fn end(&mut self, at: u32) {
        if self.items[at as usize].request != 0 {
            self.unask(at);
        }
        self.items[at as usize].state = State::Done;
        self.done += 1;
    }

    /// Memory that an item landed in, without a block: the caller's goes back to the caller.
    pub(crate) fn put_by(&mut self, at: u32, region: RegionId, memory: Memory, call: &mut GetCall<'_>) {
        let item = &mut self.items[at as usize];
        match memory {
            Memory::Slice(slice) if std::mem::take(&mut item.own) => call.taker.own_back(item.index as usize, slice),
            memory => self.keep_spare(region, memory),
        }
    }

    fn keep_spare(&mut self, region: RegionId, memory: Memory) {
        if let Memory::Slice(slice) = memory
            && self.spare.len() < SPARES_MAX
            && region != RegionId(0)
        {
            self.spare.push((region, slice));
        }
    }

    pub(crate) fn forget_finished(&mut self) {
        self.requests.retain(|request| request.left > 0);
    }
}
