//! Puts: blocks and the part of a call that goes to one shard.
//!
//! Sums are computed once, here, over the bytes that the node will read: the copy in a region, or the caller's own memory when they go through the
//! socket. From then on they are only checked. The bytes belong to the call until the node has answered.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;

use forebay_io::Slice;
use forebay_types::limits::{DATA_FRAME_BYTES_MAX, PIECE_BYTES};
use forebay_types::{
    BlockMeta, Descriptor, Key, NamespaceId, Part as BlockPart, PartName, PieceSums, PutOutcome, RefusedReason,
    RegionId, Version,
};
use forebay_wire::{DataHeader, Message, Place, PutItem, ReuseHint};

use crate::ClientError;
use crate::counters::PutCounters;
use crate::drive::{Moment, Part, Why};
use crate::link::{Link, LinkError, Owed, Sink, Source, refusal_for};
use crate::mesh::Core;

/// Most items of one message.
const ITEMS_PER_MESSAGE: usize = 256;
/// Payload bytes after which a message is sent: the node copies the first blocks while the next are summed.
const BYTES_PER_MESSAGE: usize = 1 << 20;

/// A block to put, with whatever is known about it beside its bytes.
#[derive(Debug)]
pub struct PutBlock<'a> {
    pub(crate) bytes: PutBytes<'a>,
    meta: BlockMeta,
}

/// A block's bytes before they are put.
#[derive(Debug)]
pub enum PutBytes<'a> {
    /// The caller's memory: copied once on a Unix socket, sent from where it is on TCP.
    Memory(Cow<'a, [u8]>),
    /// A slice from [`crate::Client::alloc`]: not copied at all on a Unix socket.
    Slice(Slice),
}

impl<'a> From<&'a [u8]> for PutBytes<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        PutBytes::Memory(Cow::Borrowed(bytes))
    }
}

impl From<Vec<u8>> for PutBytes<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        PutBytes::Memory(Cow::Owned(bytes))
    }
}

impl From<Slice> for PutBytes<'_> {
    fn from(slice: Slice) -> Self {
        PutBytes::Slice(slice)
    }
}

impl PutBytes<'_> {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            PutBytes::Memory(bytes) => bytes,
            PutBytes::Slice(slice) => slice,
        }
    }
}

impl<'a> PutBlock<'a> {
    /// A block of these bytes.
    pub fn new(key: Key, bytes: impl Into<PutBytes<'a>>) -> Self {
        let bytes = bytes.into();
        let meta = BlockMeta::plain(NamespaceId(0), key, Version(0), bytes.as_slice().len() as u64);
        PutBlock { bytes, meta }
    }

    /// Names ranges of the block. They are in order and do not overlap.
    pub fn parts(mut self, parts: &[(&str, Range<u64>)]) -> Result<Self, ClientError> {
        let named = parts.iter().map(|(name, range)| {
            let length = range.end.checked_sub(range.start);
            let invalid = || {
                ClientError::Invalid(format!(
                    "{name:?} is not a part: its name has 1 to 16 bytes, and its range does not end before it starts"
                ))
            };
            Ok(BlockPart {
                name: PartName::new(name).ok_or_else(invalid)?,
                offset: range.start,
                length: length.ok_or_else(invalid)?,
            })
        });
        self.meta.parts = named.collect::<Result<_, ClientError>>()?;
        match self.meta.problem() {
            // Its length has an outcome of its own, `too_large`.
            Some(problem) if self.meta.length > 0 && !self.meta.parts.is_empty() => {
                Err(ClientError::Invalid(problem.into()))
            }
            _ => Ok(self),
        }
    }

    /// The chain it belongs to: 64 bits that name its root.
    #[must_use]
    pub fn chain(mut self, root: u64) -> Self {
        self.meta.chain = root;
        self
    }

    /// The key of the block before it, and how many blocks are before it.
    #[must_use]
    pub fn behind(mut self, parent: &Key, position: u32) -> Self {
        self.meta.parent = parent.place_token();
        self.meta.position = position;
        self
    }

    /// Tokens it holds.
    #[must_use]
    pub fn tokens(mut self, tokens: u32) -> Self {
        self.meta.tokens = tokens;
        self
    }

    /// When it expires, in seconds since 1970, UTC; 0 never.
    #[must_use]
    pub fn expiry_utc_s(mut self, seconds: u64) -> Self {
        self.meta.expiry_utc_s = seconds;
        self
    }
}

/// What the parts of one call share.
pub(crate) struct PutCall<'c, 'b> {
    pub(crate) core: &'c Core,
    pub(crate) namespace: NamespaceId,
    pub(crate) window_items: usize,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// The node reads it from its slice.
    InRegion,
    /// The node says when its bytes may come.
    Announced,
    /// Its bytes are on their way.
    Going,
    Done,
}

/// A block on its way.
pub(crate) struct PutItemState<'b> {
    pub(crate) index: u32,
    meta: BlockMeta,
    bytes: PutBytes<'b>,
    /// Length at the start; the bytes may be gone when the outcome comes.
    length: usize,
    /// The descriptor's encoding, once its sums are computed.
    descriptor: Vec<u8>,
    request: u32,
    state: State,
}

impl<'b> PutItemState<'b> {
    pub(crate) fn new(index: u32, block: PutBlock<'b>, namespace: NamespaceId, version: Version) -> Self {
        let PutBlock { bytes, mut meta } = block;
        let length = bytes.as_slice().len();
        meta.namespace = namespace;
        meta.version = version;
        PutItemState { index, meta, bytes, length, descriptor: Vec::new(), request: 0, state: State::Waiting }
    }

    pub(crate) fn place(&self) -> u64 {
        self.meta.place
    }

    /// Computes the sums, over a copy in `to` if there is one.
    fn describe(&mut self, to: Option<&mut Slice>) {
        let binding = self.meta.binding();
        let bytes = self.bytes.as_slice();
        let sums = match to {
            None => PieceSums::of(&binding, bytes),
            // Each piece is summed right after it was copied, while it is near: the sums are of what the node will read.
            Some(to) => {
                let pieces = bytes.chunks(PIECE_BYTES).zip(to.chunks_mut(PIECE_BYTES)).enumerate();
                PieceSums(
                    pieces
                        .map(|(i, (from, to))| {
                            to.copy_from_slice(from);
                            binding.sum(i, to)
                        })
                        .collect(),
                )
            }
        };
        Descriptor { meta: self.meta.clone(), sums }.encode(&mut self.descriptor);
    }
}

struct Request {
    number: u32,
    items: Vec<u32>,
    left: usize,
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
        let credit = usize::try_from(link.welcome.credit_bytes).unwrap_or(usize::MAX);
        self.in_flight == 0
            || (self.in_flight < call.window_items
                && self.in_flight_bytes + length <= call.core.options.in_flight_bytes.min(credit))
    }

    /// For small blocks, waits until a message is worth sending.
    fn is_worth_sending(&self, length: usize, link: &Link, call: &PutCall<'_, 'b>) -> bool {
        let waiting = self.items.len() - self.next + self.again.len();
        let free = call.window_items.saturating_sub(self.in_flight);
        self.fits(length, link, call)
            && (self.in_flight == 0 || length >= PIECE_BYTES || free >= waiting.min(call.window_items / 4))
    }

    fn refill(&mut self, link: &mut Link, call: &mut PutCall<'_, 'b>, at: Moment) -> Result<bool, LinkError> {
        let mut moved = false;
        while let Some(first) = self.peek() {
            if !self.is_worth_sending(self.items[first as usize].length, link, call) {
                break;
            }
            link.sync_regions(&call.core.regions, self.in_flight == 0)?;
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
            let hint = ReuseHint::default();
            link.queue(&Message::Put { request: number, namespace, deadline_us, hint, items: asked })?;
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
            if let PutBytes::Slice(slice) = &item.bytes {
                region = call.core.regions.number_of(slice);
            }
            if region.is_none() {
                match call.core.regions.alloc(item.length) {
                    Some((id, mut slice)) => {
                        if item.descriptor.is_empty() {
                            item.describe(Some(&mut slice));
                        } else {
                            slice.copy_from_slice(item.bytes.as_slice());
                        }
                        item.bytes = PutBytes::Slice(slice);
                        region = Some(id);
                    }
                    None if in_flight > 0 => return Ok(None),
                    None => call.no_room += 1,
                }
            }
            if let (Some(region), PutBytes::Slice(slice)) = (region, &item.bytes) {
                let offset = slice.offset() as u64;
                if !link.knows(region) {
                    link.sync_regions(&call.core.regions, false)?;
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

    fn broken(&mut self, _call: &mut PutCall<'_, 'b>) {
        // Asking again is safe: the version is the same, so a block that was kept after all answers `exists`.
        self.requests.clear();
        self.to_send.clear();
        for at in 0..self.next as u32 {
            let item = &mut self.items[at as usize];
            if item.request != 0 {
                item.request = 0;
                item.state = State::Waiting;
                self.again.push_back(at);
            }
        }
        (self.in_flight, self.in_flight_bytes) = (0, 0);
    }

    fn give_up(&mut self, link: &mut Link) -> Result<(), LinkError> {
        for request in std::mem::take(&mut self.requests) {
            let mut owed = Vec::new();
            for (slot, at) in request.items.iter().enumerate() {
                let item = &mut self.items[*at as usize];
                if item.request == request.number && item.state == State::InRegion {
                    let bytes = std::mem::replace(&mut item.bytes, PutBytes::from(Vec::new()));
                    if let PutBytes::Slice(slice) = bytes {
                        owed.push((slot as u32, Owed::Reading(slice)));
                    }
                }
            }
            link.give_up(request.number, owed)?;
        }
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
}

impl Source for PutPart<'_> {
    fn next(&mut self) -> Option<DataHeader> {
        loop {
            let (request, slot, at, from) = *self.to_send.front()?;
            let item = &self.items[at as usize];
            let left = item.length - from;
            if item.request != request || item.state != State::Going || left == 0 {
                self.to_send.pop_front();
                continue;
            }
            let length = left.min(DATA_FRAME_BYTES_MAX);
            // Blocks take turns, so that a small one does not wait for a large one.
            self.to_send.pop_front();
            if length < left {
                self.to_send.push_back((request, slot, at, from + length));
            }
            self.sending = at;
            return Some(DataHeader { request, item: slot, offset: from as u64, length: length as u32 });
        }
    }

    fn payload(&self, header: &DataHeader) -> &[u8] {
        let from = header.offset as usize;
        let bytes = self.items.get(self.sending as usize).map_or(&[][..], |item| item.bytes.as_slice());
        bytes.get(from..from + header.length as usize).unwrap_or(&[])
    }
}

/// Takes in what a connection brings for one part of a call.
struct Answers<'p, 'k, 'c, 'b> {
    part: &'p mut PutPart<'b>,
    call: &'k mut PutCall<'c, 'b>,
}

impl Sink for Answers<'_, '_, '_, '_> {
    fn message(&mut self, message: Message) -> Result<(), LinkError> {
        match message {
            Message::PutOutcomes { request, outcomes } => {
                for (slot, outcome) in outcomes {
                    if let Some(at) = self.part.item(request, slot)? {
                        self.part.end(at, outcome, self.call);
                    }
                }
            }
            Message::PutGo { request, items } => {
                for slot in items {
                    let Some(at) = self.part.item(request, slot)? else { continue };
                    if self.part.items[at as usize].state != State::Announced {
                        return Err(LinkError::Protocol("a go for a block that was not announced"));
                    }
                    self.part.items[at as usize].state = State::Going;
                    self.part.to_send.push_back((request, slot, at, 0));
                }
            }
            Message::Error { request, code, .. } => {
                let Some(found) = self.part.requests.iter().find(|found| found.number == request) else {
                    return Ok(());
                };
                for at in found.items.clone() {
                    if self.part.items[at as usize].request == request {
                        self.part.end(at, PutOutcome::Refused(refusal_for(code)), self.call);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}
