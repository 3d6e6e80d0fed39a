//! One connection: its handshake, its frames, and what it still owes after a call has given up.
//!
//! Bytes come in through [`Sink`] and go out through [`Source`], both played by the call that has checked the link out. The link knows frames and
//! requests' numbers; it knows no keys.

mod greet;
mod lost;
mod receive;
mod send;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use forebay_io::{Region, Writer};
use forebay_net::Socket;
use forebay_types::{Clock, Entropy, MissReason, RefusedReason, RegionId, ShardId};
use forebay_wire::{DataHeader, ErrorCode, GetOutcomesView, Message, RegionKind, Welcome, WireError, encode, features};

use crate::interrupt::Until;
use crate::memory::Regions;
pub(crate) use greet::{Handshake, Introduction};
use lost::Lost;
pub(crate) use lost::Owed;

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

/// A descriptor that rides on a message.
enum Rider {
    Region(Region),
    Witness(OwnedFd),
}

impl AsFd for Rider {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Rider::Region(region) => region.fd(),
            Rider::Witness(fd) => fd.as_fd(),
        }
    }
}

/// A connection after its handshake.
pub(crate) struct Link {
    socket: Socket,
    pub(crate) welcome: Welcome,
    /// Over a Unix socket.
    pub(crate) local: bool,
    /// Regions are in force.
    pub(crate) with_regions: bool,
    /// Who was seen to have let go of lent memory, before the greeting.
    pub(crate) let_go: Vec<Writer>,
    known_regions: Vec<RegionId>,
    /// Of lent regions that the node knows: what it holds of them is a witness of this number.
    witnesses: Vec<(RegionId, u64)>,
    regions_version: u64,
    /// Requests that add regions; the node's refusal comes with one of these numbers.
    adding: Vec<u32>,
    out: Vec<u8>,
    sent: usize,
    /// Descriptors, and the place in `out` of the byte each rides on.
    riding: VecDeque<(usize, Rider)>,
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
    /// Times that anything came. Whoever waits in vain sees it stand still.
    pub(crate) heard: u64,
    /// Payload taken and not yet granted again.
    owed_credit: u64,
    lost: Vec<Lost>,
    lost_bytes: usize,
}

impl Link {
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
    pub(crate) fn sync_regions(
        &mut self,
        regions: &Regions,
        quiet: bool,
        chance: &dyn Entropy,
    ) -> Result<(), LinkError> {
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
            let number = chance.word();
            let lent = regions.is_lent(*id);
            let witness = if lent { region.witness(number) } else { None };
            let rider = match witness {
                Some(fd) => {
                    self.witnesses.push((*id, number));
                    Rider::Witness(fd)
                }
                None => Rider::Region(region.clone()),
            };
            self.riding.push_back((self.out.len(), rider));
            let length = region.len() as u64;
            let told = lent && self.welcome.features & features::LENT != 0;
            let kind = if told { RegionKind::Lent } else { RegionKind::Owned };
            self.queue(&Message::RegionAdd { request, region: *id, length, kind })?;
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
            self.witnesses.retain(|(id, _)| *id != region);
        }
        self.regions_version = version;
        Ok(())
    }

    /// Whether the node knows this region.
    pub(crate) fn knows(&self, region: RegionId) -> bool {
        self.known_regions.contains(&region)
    }

    /// Who writes what the node is told to land in this region over this connection.
    pub(crate) fn writer(&self, shard: ShardId, region: RegionId) -> Writer {
        let witness = self.witnesses.iter().find(|(id, _)| *id == region).map(|(_, number)| *number);
        Writer { shard: shard.0, start: self.welcome.incarnation, witness }
    }

    /// Something waits to be sent.
    pub(crate) fn wants_to_send(&self) -> bool {
        self.sent < self.out.len() || self.sending.is_some()
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

    /// [`Self::step`], which comes back at times so that its caller can be told to stop.
    pub(crate) fn step_until(
        &mut self,
        sink: &mut dyn Sink,
        until: &mut Until<'_>,
        clock: &dyn Clock,
    ) -> Result<(), LinkError> {
        let now = clock.now_us();
        if now >= until.deadline_us(now) {
            return Err(LinkError::Deadline);
        }
        match self.step(sink, until.wait_until_us(), clock) {
            // Time to ask; whether it is over is judged above.
            Err(LinkError::Deadline) => Ok(()),
            done => done,
        }
    }

    /// A link between calls must not be in the middle of sending a payload: its bytes belong to the call.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.sending.is_none()
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
