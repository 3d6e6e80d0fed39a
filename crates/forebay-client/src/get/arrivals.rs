//! Gets: what comes back, and whether it is what was asked for.
//!
//! Nothing a node says is believed: outcomes for items that were not asked, descriptors of other blocks, lengths that do not fit and frames out of
//! order are found here. What contradicts the protocol ends the connection; what is only a wrong block is a miss by `corrupt`.

use forebay_types::limits::BLOCK_BYTES_MAX;
use forebay_types::{Clock, Descriptor, LandingKind, MissReason, RegionId, Tier, Version};
use forebay_wire::{DataHeader, GetOutcomeRef, GetOutcomesView, Message};

use super::{GetCall, GetPart, LARGE_BYTES, Landed, State, Stream};
use crate::block::Arrived;
use crate::link::{LinkError, Sink, miss_for};
use crate::memory::Memory;
use crate::options::Mutant;

/// Memory taken at once for a block outside regions, in bytes: what a node claims to send is believed as it comes.
const HEAP_STEP_BYTES: usize = 1 << 20;

/// Takes in what a connection brings for one part of a call.
pub(crate) struct Arrivals<'p, 'c, 'd> {
    pub(crate) part: &'p mut GetPart,
    pub(crate) call: &'c mut GetCall<'d>,
    pub(crate) local: bool,
}

/// What an outcome says about a hit.
struct Claim<'a> {
    tier: Tier,
    landing: LandingKind,
    offset: u64,
    length: u64,
    descriptor: &'a [u8],
    trailer_offset: u64,
}

impl Sink for Arrivals<'_, '_, '_> {
    fn message(&mut self, message: Message) -> Result<(), LinkError> {
        match message {
            // The node could not even begin: every item of the request gets the reason nearest to it.
            Message::Error { request, code, .. } => {
                self.refuse(request, miss_for(code));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn outcomes(&mut self, view: GetOutcomesView<'_>) -> Result<(), LinkError> {
        let number = view.request();
        let Some(request) = self.part.requests.iter().position(|request| request.number == number) else {
            return Ok(());
        };
        for (slot, outcome) in view {
            let at = self.item(request, number, slot)?;
            self.outcome(at, outcome)?;
        }
        self.part.forget_finished();
        Ok(())
    }

    fn target(&mut self, header: &DataHeader) -> Result<Option<&mut [u8]>, LinkError> {
        let Some(request) = self.part.requests.iter().position(|request| request.number == header.request) else {
            return Ok(None);
        };
        let Ok(at) = self.item(request, header.request, header.item) else {
            // What was missed or found wrong may still be on its way.
            return Ok(None);
        };
        let State::Streaming(stream) = &mut self.part.items[at as usize].state else {
            return Err(LinkError::Protocol("payload before its outcome"));
        };
        let (from, length) = (stream.got, header.length as usize);
        if header.offset != stream.offset + from as u64 || length > stream.length - from {
            return Err(LinkError::Protocol("payload out of order"));
        }
        let (_, memory) = stream.memory.get_or_insert_with(|| match self.call.core.regions.alloc(stream.length) {
            Some((region, slice)) => (region, Memory::Slice(slice)),
            None => (RegionId(0), Memory::Heap(Vec::new())),
        });
        if memory.len() < from + length {
            let step =
                if memory.capacity() >= stream.length { stream.length } else { from + length.max(HEAP_STEP_BYTES) };
            memory.set_len(step.min(stream.length));
        }
        Ok(memory.bytes_mut().get_mut(from..from + length))
    }

    fn filled(&mut self, header: &DataHeader) -> Result<(), LinkError> {
        let Some(request) = self.part.requests.iter().position(|request| request.number == header.request) else {
            return Ok(());
        };
        let Ok(at) = self.item(request, header.request, header.item) else { return Ok(()) };
        let state = &mut self.part.items[at as usize].state;
        if let State::Streaming(stream) = state {
            stream.got += header.length as usize;
            if stream.got < stream.length {
                return Ok(());
            }
        }
        if let State::Streaming(stream) = std::mem::replace(state, State::Asked) {
            self.streamed(at, *stream);
            self.part.forget_finished();
        }
        Ok(())
    }
}

impl Arrivals<'_, '_, '_> {
    /// The item in a slot of a request, if it has no outcome yet.
    fn item(&self, request: usize, number: u32, slot: u32) -> Result<u32, LinkError> {
        let at = *self.part.requests[request]
            .items
            .get(slot as usize)
            .ok_or(LinkError::Protocol("an item that was not asked for"))?;
        if self.part.items[at as usize].request != number {
            return Err(LinkError::Protocol("two outcomes for one item"));
        }
        Ok(at)
    }

    fn refuse(&mut self, number: u32, reason: MissReason) {
        let Some(request) = self.part.requests.iter().find(|request| request.number == number) else { return };
        for at in request.items.clone() {
            if self.part.items[at as usize].request == number {
                self.miss(at, reason);
            }
        }
        self.part.forget_finished();
    }

    fn miss(&mut self, at: u32, reason: MissReason) {
        let item = &mut self.part.items[at as usize];
        if let State::Landing(region, loan) = std::mem::replace(&mut item.state, State::Asked) {
            self.part.put_by(at, region, Memory::Slice(loan.returned()), self.call);
        }
        self.part.end(at);
        self.call.miss(self.part.items[at as usize].index, reason);
    }

    fn outcome(&mut self, at: u32, outcome: GetOutcomeRef<'_>) -> Result<(), LinkError> {
        match outcome {
            GetOutcomeRef::Miss(reason) => self.miss(at, reason),
            GetOutcomeRef::TooSmall { need } => self.grow(at, need)?,
            GetOutcomeRef::Hit { tier, landing, offset, length, descriptor, trailer_offset } => {
                let claim = Claim { tier, landing, offset, length, descriptor, trailer_offset };
                match claim.landing {
                    LandingKind::Stream => self.begin_stream(at, &claim)?,
                    LandingKind::Direct | LandingKind::Bounce => self.landed(at, &claim)?,
                }
            }
        }
        Ok(())
    }

    /// The block is longer than its place: it is asked for again with room enough.
    fn grow(&mut self, at: u32, need: u64) -> Result<(), LinkError> {
        let item = &mut self.part.items[at as usize];
        let State::Landing(region, loan) = std::mem::replace(&mut item.state, State::Waiting) else {
            return Err(LinkError::Protocol("too small where any length fits"));
        };
        if need > BLOCK_BYTES_MAX {
            return Err(LinkError::Protocol("a block longer than any may be"));
        }
        let memory = Memory::Slice(loan.returned());
        self.part.unask(at);
        self.part.put_by(at, region, memory, self.call);
        let item = &mut self.part.items[at as usize];
        item.room = item.room.max(need as usize);
        item.grown += 1;
        self.part.again.push_back(at);
        self.call.counts.grown += 1;
        // Its neighbours are probably as long.
        self.call.counts.longest = self.call.counts.longest.max(need as usize);
        Ok(())
    }

    /// Bytes have landed in the item's slice.
    fn landed(&mut self, at: u32, claim: &Claim<'_>) -> Result<(), LinkError> {
        let item = &mut self.part.items[at as usize];
        let State::Landing(region, loan) = std::mem::replace(&mut item.state, State::Asked) else {
            return Err(LinkError::Protocol("a landing where there is no slice"));
        };
        let memory = Memory::Slice(loan.returned());
        let descriptor = if claim.descriptor.is_empty() {
            usize::try_from(claim.trailer_offset).ok().and_then(|from| descriptor_at(&memory, from))
        } else {
            Descriptor::decode(claim.descriptor).ok()
        };
        let right = descriptor.as_ref().is_some_and(|it| {
            self.is_asked(at, it, claim) && usize::try_from(claim.length).is_ok_and(|length| length <= memory.len())
        });
        match descriptor {
            Some(descriptor) if right => {
                let (tier, landing, offset) = (claim.tier, claim.landing, claim.offset);
                let length = claim.length as usize;
                let local = self.local;
                let landed = Landed { at, region, memory, descriptor, tier, landing, offset, length, local };
                if length >= LARGE_BYTES {
                    self.part.unask(at);
                    self.part.unchecked_bytes += length;
                    self.part.unchecked.push_back(landed);
                } else {
                    self.hand_over(landed);
                }
            }
            descriptor => {
                self.part.put_by(at, region, memory, self.call);
                self.corrupt(at, descriptor.as_ref());
            }
        }
        Ok(())
    }

    /// Checks the large block that landed first of those that are not checked.
    pub(crate) fn check_one(&mut self) {
        if let Some(landed) = self.part.unchecked.pop_front() {
            self.part.unchecked_bytes -= landed.length;
            self.hand_over(landed);
        }
    }

    /// Bytes will come in frames.
    fn begin_stream(&mut self, at: u32, claim: &Claim<'_>) -> Result<(), LinkError> {
        let item = &mut self.part.items[at as usize];
        let memory = match std::mem::replace(&mut item.state, State::Asked) {
            // Nothing lands when it is streamed, so the slice is free. The caller's goes back; another serves if it is long enough.
            State::Landing(region, loan) if item.own => {
                self.part.put_by(at, region, Memory::Slice(loan.returned()), self.call);
                None
            }
            State::Landing(region, loan) => Some((region, Memory::Slice(loan.returned()))),
            State::Asked => None,
            _ => return Err(LinkError::Protocol("two outcomes for one item")),
        };
        let descriptor = Descriptor::decode(claim.descriptor).ok();
        let (descriptor, length) = match descriptor {
            Some(descriptor) if self.is_asked(at, &descriptor, claim) => (descriptor, claim.length as usize),
            // Its frames, which say themselves how long they are, go nowhere.
            descriptor => {
                self.corrupt(at, descriptor.as_ref());
                return Ok(());
            }
        };
        let memory = memory.filter(|(_, memory)| memory.capacity() >= length);
        let stream = Stream { descriptor, tier: claim.tier, offset: claim.offset, length, got: 0, memory };
        if length == 0 {
            self.streamed(at, stream);
        } else {
            self.part.items[at as usize].state = State::Streaming(Box::new(stream));
        }
        Ok(())
    }

    fn streamed(&mut self, at: u32, stream: Stream) {
        let (region, mut memory) = stream.memory.unwrap_or((RegionId(0), Memory::Heap(Vec::new())));
        memory.set_len(stream.length);
        self.hand_over(Landed {
            at,
            region,
            memory,
            descriptor: stream.descriptor,
            tier: stream.tier,
            landing: LandingKind::Stream,
            offset: stream.offset,
            length: stream.length,
            local: self.local,
        });
    }

    /// Whether a claim is about the very bytes that were asked for.
    fn is_asked(&self, at: u32, descriptor: &Descriptor, claim: &Claim<'_>) -> bool {
        let ask = &self.call.asks[self.part.items[at as usize].index as usize];
        let meta = &descriptor.meta;
        let (offset, length) = ask.on_wire();
        let rest = meta.length.saturating_sub(offset);
        let sent = if length == 0 { rest } else { rest.min(length) };
        meta.namespace == self.call.namespace && meta.key == ask.key && claim.offset == offset && claim.length == sent
    }

    fn hand_over(&mut self, landed: Landed) {
        let Landed { at, region, memory, descriptor, tier, landing, offset, length, local } = landed;
        if self.call.core.clock.now_us() >= self.call.deadline_us {
            // Hundreds of blocks may have come at once, and looking at each takes its time.
            self.part.put_by(at, region, memory, self.call);
            self.miss(at, MissReason::Deadline);
            return;
        }
        let index = self.part.items[at as usize].index;
        let ask = &self.call.asks[index as usize];
        let from = (ask.start.saturating_sub(offset) as usize).min(length);
        let to = ask.end.map_or(length, |end| (end.saturating_sub(offset) as usize).clamp(from, length));
        let block_length = descriptor.meta.length as usize;
        let (key, version) = (ask.key, descriptor.meta.version);
        let unchecked = self.call.core.options.mutant(Mutant::SkipCheck);
        let range = from..to;
        let arrived = Arrived { memory, descriptor, length, offset, range, tier, landing, unchecked };
        match self.call.taker.take(index as usize, arrived) {
            Ok(spare) => {
                let own = std::mem::take(&mut self.part.items[at as usize].own);
                if let Some(memory) = spare {
                    self.part.put_by(at, region, memory, self.call);
                }
                let counts = &mut self.call.counts;
                counts.lent_landings[landing.index()] += u64::from(own);
                counts.keys.hit(tier, local);
                counts.bytes += (to - from) as u64;
                counts.tier_bytes[tier.index()] += (to - from) as u64;
                counts.landings[landing.index()] += 1;
                counts.longest = counts.longest.max(block_length);
                self.part.end(at);
            }
            Err(memory) => {
                self.part.put_by(at, region, memory, self.call);
                self.report(at, key, version);
            }
        }
    }

    fn corrupt(&mut self, at: u32, descriptor: Option<&Descriptor>) {
        let key = self.call.asks[self.part.items[at as usize].index as usize].key;
        // The version of another block would be no help to the node.
        let version = descriptor.filter(|it| it.meta.key == key).map_or(Version(0), |it| it.meta.version);
        self.report(at, key, version);
    }

    fn report(&mut self, at: u32, key: forebay_types::Key, version: Version) {
        self.part.corrupt.push((key, version));
        self.call.counts.corrupt += 1;
        self.miss(at, MissReason::Corrupt);
    }
}

/// The descriptor whose encoding begins at `from`.
fn descriptor_at(memory: &[u8], from: usize) -> Option<Descriptor> {
    let bytes = memory.get(from..)?;
    let len = Descriptor::encoded_len_of(bytes)?;
    Descriptor::decode(bytes.get(..len)?).ok()
}
