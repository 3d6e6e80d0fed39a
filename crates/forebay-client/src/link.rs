//! One connection: its handshake, its frames, and what it still owes after a call has given up.
//!
//! Bytes come in through [`Sink`] and go out through [`Source`], both played by the call that has checked the link out. The link knows frames and
//! requests' numbers; it knows no keys.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use forebay_io::{Loan, Region, Slice};
use forebay_net::Socket;
use forebay_types::limits::CREDIT_BYTES_DEFAULT;
use forebay_types::{Address, Clock, Epoch, MissReason, RefusedReason, RegionId, ShardId};
use forebay_wire::{
    DataHeader, ErrorCode, FrameHeader, GetOutcomesView, HEADER_BYTES, Hello, Kind, Message, WIRE_VERSION, Welcome,
    WireError, decode_body, decode_header, encode, encode_data_header, features, get_outcomes_view,
};

use crate::memory::Regions;

/// What is read at once when no large payload is on its way, in bytes: some hundred outcomes.
const INBOX_BYTES: usize = 64 << 10;
/// What is read behind a large payload, in bytes: the next header and the small messages behind it. What of the next payload falls in here is
/// copied once more, so it stays small.
const TAIL_BYTES: usize = 4 << 10;
/// From here a payload is large.
const LARGE_PAYLOAD_BYTES: usize = 32 << 10;
/// Payload bytes read into nowhere at once.
const SCRATCH_BYTES: usize = 64 << 10;
/// A link that owes more landings than this, in bytes, is not used until it has settled.
const LOST_BYTES_MAX: usize = 32 << 20;

/// Reads before a drain stops: a node that never falls silent must not hold a call up. Enough for all the credit it has.
const DRAIN_READS_MAX: usize = 2048;

/// Why a link cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the node closed it")]
    Closed,
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("the node broke the protocol: {0}")]
    Protocol(&'static str),
    #[error("the node said: {text}")]
    Refused { code: ErrorCode, text: String },
    #[error("the node did not answer in time")]
    Deadline,
}

/// The miss nearest to a node's refusal of a whole request.
pub(crate) fn miss_for(code: ErrorCode) -> MissReason {
    match code {
        ErrorCode::NamespaceUnknown => MissReason::Namespace,
        ErrorCode::TooMany => MissReason::Busy,
        _ => MissReason::Unavailable,
    }
}

/// The refusal nearest to a node's refusal of a whole request.
pub(crate) fn refusal_for(code: ErrorCode) -> RefusedReason {
    match code {
        ErrorCode::NamespaceUnknown => RefusedReason::Namespace,
        ErrorCode::TooMany => RefusedReason::Busy,
        _ => RefusedReason::Unavailable,
    }
}

/// Takes what comes in.
pub(crate) trait Sink {
    /// A message that is not about something given up.
    fn message(&mut self, message: Message) -> Result<(), LinkError>;
    /// Outcomes of a get.
    fn outcomes(&mut self, view: GetOutcomesView<'_>) -> Result<(), LinkError> {
        let _ = view;
        Ok(())
    }
    /// Where the payload of this frame goes, exactly its length; `None`: nowhere.
    fn target(&mut self, header: &DataHeader) -> Result<Option<&mut [u8]>, LinkError> {
        let _ = header;
        Ok(None)
    }
    /// The payload is there.
    fn filled(&mut self, header: &DataHeader) -> Result<(), LinkError> {
        let _ = header;
        Ok(())
    }
}

/// Gives payload to send.
pub(crate) trait Source {
    /// The next frame to begin, if any.
    fn next(&mut self) -> Option<DataHeader>;
    /// The payload of a frame it has begun.
    fn payload(&self, header: &DataHeader) -> &[u8];
}

/// Has nothing to send and ignores what comes in.
pub(crate) struct Nothing;

impl Sink for Nothing {
    fn message(&mut self, _message: Message) -> Result<(), LinkError> {
        Ok(())
    }
}

impl Source for Nothing {
    fn next(&mut self) -> Option<DataHeader> {
        None
    }
    fn payload(&self, _header: &DataHeader) -> &[u8] {
        &[]
    }
}

/// Memory that a node may still touch for an item nobody waits for.
pub(crate) enum Owed {
    /// It may write there. Lost for good if the link breaks.
    Landing(Loan),
    /// It may read there. Free again if the link breaks: what it then reads does not match its sums.
    Reading(Slice),
}

impl Owed {
    fn bytes(&self) -> usize {
        match self {
            Owed::Landing(loan) => loan.capacity(),
            Owed::Reading(slice) => slice.capacity(),
        }
    }

    fn settle(self) {
        match self {
            Owed::Landing(loan) => drop(loan.returned()),
            Owed::Reading(slice) => drop(slice),
        }
    }
}

/// A request that was given up, and what of it may still be touched.
struct Lost {
    request: u32,
    items: Vec<(u32, Owed)>,
}

/// A connection after its handshake.
pub(crate) struct Link {
    socket: Socket,
    pub(crate) welcome: Welcome,
    /// Over a Unix socket.
    pub(crate) local: bool,
    /// Regions are in force.
    pub(crate) with_regions: bool,
    known_regions: Vec<RegionId>,
    regions_version: u64,
    /// Requests that add regions; the node's refusal comes with one of these numbers.
    adding: Vec<u32>,
    out: Vec<u8>,
    sent: usize,
    /// Descriptors, and the place in `out` of the byte each rides on.
    riding: VecDeque<(usize, Region)>,
    /// A DATA frame whose header is the last in `out`, and how much of its payload is sent. What is queued meanwhile waits in `behind`.
    sending: Option<(DataHeader, usize)>,
    behind: Vec<u8>,
    inbox: Vec<u8>,
    start: usize,
    end: usize,
    /// A DATA frame whose payload is coming in, and how much of it is there.
    coming: Option<(DataHeader, usize)>,
    large: bool,
    scratch: Vec<u8>,
    next_request: u32,
    /// Payload taken and not yet granted again.
    owed_credit: u64,
    lost: Vec<Lost>,
    lost_bytes: usize,
}

/// What a link introduces itself with.
pub(crate) struct Introduction<'a> {
    pub(crate) shard: ShardId,
    pub(crate) token: Option<&'a [u8]>,
    pub(crate) epoch: Epoch,
    pub(crate) regions: bool,
}

impl Link {
    /// Connects and shakes hands, in at most `timeout`.
    pub(crate) fn connect(
        address: &Address,
        about: &Introduction<'_>,
        timeout: Duration,
        clock: &dyn Clock,
    ) -> Result<Link, LinkError> {
        let deadline_us = clock.now_us().saturating_add(timeout.as_micros() as u64);
        let socket = Socket::connect(address, timeout)?;
        Link::greet(socket, matches!(address, Address::Unix(_)), about, deadline_us, clock)
    }

    /// Shakes hands on a fresh connection.
    pub(crate) fn greet(
        socket: Socket,
        local: bool,
        about: &Introduction<'_>,
        deadline_us: u64,
        clock: &dyn Clock,
    ) -> Result<Link, LinkError> {
        let with_regions = about.regions && local;
        let offered = if with_regions { features::REGIONS | features::DIRECT } else { 0 };
        let hello = Hello {
            version: WIRE_VERSION,
            features: offered,
            shard: about.shard,
            credential: if local { Vec::new() } else { about.token.unwrap_or_default().to_vec() },
            epoch: about.epoch,
            lane: 0,
            trace: 0,
            credit_bytes: CREDIT_BYTES_DEFAULT,
        };
        let mut link = Link {
            socket,
            welcome: Welcome {
                version: 0,
                features: 0,
                incarnation: 0,
                epoch: Epoch(0),
                block_bytes_max: 0,
                align: 0,
                credit_bytes: 0,
            },
            local,
            with_regions: false,
            known_regions: Vec::new(),
            regions_version: 0,
            adding: Vec::new(),
            out: Vec::new(),
            sent: 0,
            riding: VecDeque::new(),
            sending: None,
            behind: Vec::new(),
            inbox: vec![0; INBOX_BYTES],
            start: 0,
            end: 0,
            coming: None,
            large: false,
            scratch: Vec::new(),
            next_request: 1,
            owed_credit: 0,
            lost: Vec::new(),
            lost_bytes: 0,
        };
        link.queue(&Message::Hello(hello))?;
        let mut greeting = Greeting(None);
        while greeting.0.is_none() {
            link.step(&mut greeting, deadline_us, clock)?;
        }
        if let Some(welcome) = greeting.0 {
            if welcome.version == 0 || welcome.version > WIRE_VERSION {
                return Err(LinkError::Protocol("it welcomed with a version that was not offered"));
            }
            link.with_regions = with_regions && welcome.features & features::REGIONS != 0;
            link.welcome = welcome;
        }
        Ok(link)
    }

    /// A number for a request.
    pub(crate) fn number(&mut self) -> u32 {
        let number = self.next_request;
        self.next_request = self.next_request.checked_add(1).unwrap_or(1);
        number
    }

    /// Puts a message in the queue of what is sent next.
    pub(crate) fn queue(&mut self, message: &Message) -> Result<(), LinkError> {
        let to = if self.sending.is_some() { &mut self.behind } else { &mut self.out };
        encode(message, to).map_err(|_| LinkError::Protocol("a message came out too large"))
    }

    /// Tells the node of regions it does not know yet; their use may follow at once, for messages are read in order. When nothing is unanswered
    /// (`quiet`), also of those that are no more: what is unanswered may still need them.
    pub(crate) fn sync_regions(&mut self, regions: &Regions, quiet: bool) -> Result<(), LinkError> {
        if !self.with_regions || self.regions_version == regions.version() || self.sending.is_some() {
            return Ok(());
        }
        let (version, list) = regions.list();
        for (id, region) in &list {
            if self.known_regions.contains(id) {
                continue;
            }
            let request = self.number();
            self.adding.push(request);
            self.riding.push_back((self.out.len(), region.clone()));
            let length = region.len() as u64;
            self.queue(&Message::RegionAdd { request, region: *id, length, owned: true })?;
            self.known_regions.push(*id);
        }
        let gone: Vec<RegionId> =
            self.known_regions.iter().copied().filter(|id| list.iter().all(|(other, _)| other != id)).collect();
        let may_drop = quiet && self.lost.is_empty();
        if !gone.is_empty() && !may_drop {
            return Ok(());
        }
        for region in gone {
            let request = self.number();
            self.queue(&Message::RegionDrop { request, region })?;
            self.known_regions.retain(|id| *id != region);
        }
        self.regions_version = version;
        Ok(())
    }

    /// Whether the node knows this region.
    pub(crate) fn knows(&self, region: RegionId) -> bool {
        self.known_regions.contains(&region)
    }

    /// Something waits to be sent.
    pub(crate) fn wants_to_send(&self) -> bool {
        self.sent < self.out.len() || self.sending.is_some()
    }

    /// Sends what can be sent without waiting. True when something was.
    pub(crate) fn flush(&mut self, source: &mut dyn Source) -> Result<bool, LinkError> {
        let mut progressed = false;
        loop {
            if self.sending.is_none()
                && self.sent == self.out.len()
                && let Some(header) = source.next()
            {
                self.begin_payload(header);
            }
            let stuck = self.sent == self.out.len()
                && self.sending.as_ref().is_some_and(|(header, at)| source.payload(header).len() <= *at);
            if !self.wants_to_send() || stuck {
                return Ok(progressed);
            }
            match self.send_some(source) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(n) => {
                    progressed = true;
                    self.count_sent(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(progressed),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn begin_payload(&mut self, header: DataHeader) {
        let mut bytes = [0; HEADER_BYTES];
        encode_data_header(&header, &mut bytes);
        self.out.extend_from_slice(&bytes);
        self.sending = Some((header, 0));
    }

    fn send_some(&mut self, source: &dyn Source) -> io::Result<usize> {
        // A descriptor rides on the first byte of what is sent with it.
        let (fd, stop) = match self.riding.front() {
            Some((at, region)) if *at == self.sent => {
                let next = self.riding.get(1).map_or(self.out.len(), |(at, _)| *at);
                (Some(region.fd()), next)
            }
            Some((at, _)) => (None, *at),
            None => (None, self.out.len()),
        };
        let bytes = IoSlice::new(&self.out[self.sent..stop]);
        let payload = match &self.sending {
            Some((header, at)) if stop == self.out.len() => source.payload(header).get(*at..).unwrap_or(&[]),
            _ => &[],
        };
        let fds: &[BorrowedFd<'_>] = fd.as_slice();
        let n = self.socket.send(&[bytes, IoSlice::new(payload)], fds)?;
        if n > 0 && fd.is_some() {
            self.riding.pop_front();
        }
        Ok(n)
    }

    fn count_sent(&mut self, n: usize) {
        let of_out = n.min(self.out.len() - self.sent);
        self.sent += of_out;
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        if let Some((header, at)) = &mut self.sending {
            *at += n - of_out;
            if *at == header.length as usize {
                self.sending = None;
                // Only now may what was queued meanwhile follow.
                std::mem::swap(&mut self.out, &mut self.behind);
            }
        }
    }

    /// Reads once without waiting and hands on all that is whole. False when nothing was there.
    pub(crate) fn receive(&mut self, sink: &mut dyn Sink) -> Result<bool, LinkError> {
        let n = match self.read_some(sink) {
            Ok(n) => n,
            Err(LinkError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(LinkError::Io(e)) if e.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(e) => return Err(e),
        };
        if n == 0 {
            return Err(LinkError::Closed);
        }
        self.parse(sink)?;
        Ok(true)
    }

    fn read_some(&mut self, sink: &mut dyn Sink) -> Result<usize, LinkError> {
        let mut fds = Vec::new();
        let Some((header, got)) = self.coming else {
            let room =
                if self.large { TAIL_BYTES.min(self.inbox.len() - self.end) } else { self.inbox.len() - self.end };
            let room = &mut self.inbox[self.end..][..room];
            let n = self.socket.recv(&mut [IoSliceMut::new(room)], &mut fds)?;
            self.end += n;
            return Ok(n);
        };
        // The inbox is empty here: whatever it held of this payload went ahead.
        let left = header.length as usize - got;
        let target = match sink.target(&header)? {
            Some(target) if !self.is_lost(header.request) => target.get_mut(got..),
            _ => None,
        };
        let (payload, tail) = match target {
            Some(target) => (target, TAIL_BYTES),
            None => {
                self.scratch.resize(SCRATCH_BYTES, 0);
                let some = left.min(SCRATCH_BYTES);
                // Behind a part of the payload nothing else may be read.
                (&mut self.scratch[..some], if some == left { TAIL_BYTES } else { 0 })
            }
        };
        let tail = if left >= LARGE_PAYLOAD_BYTES || tail == 0 { tail } else { self.inbox.len() };
        let expected = payload.len();
        let n =
            self.socket.recv(&mut [IoSliceMut::new(payload), IoSliceMut::new(&mut self.inbox[..tail])], &mut fds)?;
        let of_payload = n.min(expected);
        (self.start, self.end) = (0, n - of_payload);
        self.advance_payload(header, got + of_payload, sink)?;
        Ok(n)
    }

    fn advance_payload(&mut self, header: DataHeader, got: usize, sink: &mut dyn Sink) -> Result<(), LinkError> {
        if got < header.length as usize {
            self.coming = Some((header, got));
            return Ok(());
        }
        self.coming = None;
        self.grant(u64::from(header.length))?;
        if !self.is_lost(header.request) {
            sink.filled(&header)?;
        }
        Ok(())
    }

    /// Grants payload again once a good part of the credit is used: a message per frame would be a waste.
    fn grant(&mut self, bytes: u64) -> Result<(), LinkError> {
        self.owed_credit += bytes;
        if self.owed_credit >= CREDIT_BYTES_DEFAULT / 8 {
            let bytes = std::mem::take(&mut self.owed_credit);
            self.queue(&Message::Credit { bytes })?;
        }
        Ok(())
    }

    fn parse(&mut self, sink: &mut dyn Sink) -> Result<(), LinkError> {
        while self.coming.is_none() {
            let Some(header) = self.inbox[self.start..self.end].first_chunk::<HEADER_BYTES>() else { break };
            let header = decode_header(header)?;
            if let Some(data) = header.data() {
                self.start += HEADER_BYTES;
                self.large = data.length as usize >= LARGE_PAYLOAD_BYTES;
                self.begin_coming(data, sink)?;
                continue;
            }
            let whole = HEADER_BYTES + header.body_len as usize;
            if self.end - self.start < whole {
                self.large = false;
                self.make_room(whole);
                return Ok(());
            }
            // Taken out for the while, so that the body can be looked at while the link is changed.
            let inbox = std::mem::take(&mut self.inbox);
            let handled = self.frame(&header, &inbox[self.start + HEADER_BYTES..self.start + whole], sink);
            self.inbox = inbox;
            handled?;
            self.start += whole;
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.inbox.truncate(INBOX_BYTES);
        } else {
            self.make_room(HEADER_BYTES);
        }
        Ok(())
    }

    /// Moves what is there to the front, and makes room for a frame of `whole` bytes (bounded by the wire's largest message).
    fn make_room(&mut self, whole: usize) {
        if self.start + whole > self.inbox.len() || self.start > self.inbox.len() / 2 {
            self.inbox.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if whole > self.inbox.len() {
            self.inbox.resize(whole, 0);
        }
    }

    fn begin_coming(&mut self, data: DataHeader, sink: &mut dyn Sink) -> Result<(), LinkError> {
        let here = (self.end - self.start).min(data.length as usize);
        if let Some(target) = sink.target(&data)?
            && !self.is_lost(data.request)
        {
            if target.len() != data.length as usize {
                return Err(LinkError::Protocol("a frame of another length than its place"));
            }
            target[..here].copy_from_slice(&self.inbox[self.start..self.start + here]);
        }
        self.start += here;
        self.advance_payload(data, here, sink)
    }

    fn frame(&mut self, header: &FrameHeader, body: &[u8], sink: &mut dyn Sink) -> Result<(), LinkError> {
        if header.kind == Kind::GetOutcomes {
            let view = get_outcomes_view(header, body)?;
            if !self.is_lost(header.request) {
                return sink.outcomes(view);
            }
            self.settle_items(header.request, view.map(|(item, _)| item));
            return Ok(());
        }
        match decode_body(header, body)? {
            Message::Error { request, code, text } => {
                if self.adding.contains(&request) || request == 0 {
                    return Err(LinkError::Refused { code, text });
                }
                self.settle(request);
                sink.message(Message::Error { request, code, text })
            }
            Message::Done { request } if self.adding.contains(&request) => {
                self.adding.retain(|adding| *adding != request);
                Ok(())
            }
            Message::Done { request } => {
                self.settle(request);
                sink.message(Message::Done { request })
            }
            Message::PutOutcomes { request, outcomes } if self.is_lost(request) => {
                self.settle_items(request, outcomes.iter().map(|(item, _)| *item));
                Ok(())
            }
            message => sink.message(message),
        }
    }

    /// Flushes, reads, and waits for more until the deadline. For one question and one answer.
    pub(crate) fn step(&mut self, sink: &mut dyn Sink, deadline_us: u64, clock: &dyn Clock) -> Result<(), LinkError> {
        let sent = self.flush(&mut Nothing)?;
        if self.receive(sink)? || sent {
            return Ok(());
        }
        let now = clock.now_us();
        if now >= deadline_us {
            return Err(LinkError::Deadline);
        }
        self.socket.wait(true, self.wants_to_send(), Duration::from_micros(deadline_us - now))?;
        Ok(())
    }

    /// Gives a request up: the node is told, and what it may still touch stays with the link until the node says that it does not any more.
    pub(crate) fn give_up(&mut self, request: u32, items: Vec<(u32, Owed)>) -> Result<(), LinkError> {
        if !items.is_empty() {
            self.lost_bytes += items.iter().map(|(_, owed)| owed.bytes()).sum::<usize>();
            self.lost.push(Lost { request, items });
        }
        self.queue(&Message::Cancel { request })?;
        self.flush(&mut Nothing)?;
        Ok(())
    }

    /// A link between calls must not be in the middle of sending a payload: its bytes belong to the call.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.sending.is_none()
    }

    /// Takes in what has come for requests that were given up. An error when the link is dead.
    pub(crate) fn drain(&mut self) -> Result<(), LinkError> {
        self.flush(&mut Nothing)?;
        for _ in 0..DRAIN_READS_MAX {
            if !self.receive(&mut Nothing)? {
                break;
            }
        }
        Ok(())
    }

    /// Requests were given up and are not settled.
    pub(crate) fn owes(&self) -> bool {
        !self.lost.is_empty()
    }

    /// It owes so much that it should settle first.
    pub(crate) fn owes_too_much(&self) -> bool {
        self.lost_bytes > LOST_BYTES_MAX
    }

    fn is_lost(&self, request: u32) -> bool {
        self.lost.iter().any(|lost| lost.request == request)
    }

    fn settle(&mut self, request: u32) {
        if let Some(at) = self.lost.iter().position(|lost| lost.request == request) {
            let lost = self.lost.swap_remove(at);
            for (_, owed) in lost.items {
                self.lost_bytes -= owed.bytes();
                owed.settle();
            }
        }
    }

    fn settle_items(&mut self, request: u32, items: impl Iterator<Item = u32>) {
        let Some(at) = self.lost.iter().position(|lost| lost.request == request) else { return };
        let lost = &mut self.lost[at];
        for item in items {
            if let Some(at) = lost.items.iter().position(|(other, _)| *other == item) {
                let (_, owed) = lost.items.swap_remove(at);
                self.lost_bytes -= owed.bytes();
                owed.settle();
            }
        }
        if lost.items.is_empty() {
            self.lost.swap_remove(at);
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits for the node's first message.
struct Greeting(Option<Welcome>);

impl Sink for Greeting {
    fn message(&mut self, message: Message) -> Result<(), LinkError> {
        match message {
            Message::Welcome(welcome) if self.0.is_none() => {
                self.0 = Some(welcome);
                Ok(())
            }
            Message::Error { code, text, .. } => Err(LinkError::Refused { code, text }),
            _ => Err(LinkError::Protocol("its first message is not a welcome")),
        }
    }
}
