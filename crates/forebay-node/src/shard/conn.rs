//! A connection of a shard: what it sent that is not understood yet, what it is still to get, and what it lent.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use forebay_net::Socket;
use forebay_types::limits::{CREDIT_BYTES_DEFAULT, DEADLINE_US_DEFAULT};
use forebay_types::{RegionId, Tenant};

use super::output::{Output, Unsent};
use super::request::Lent;
use crate::slab::Id;

/// Past this many unsent bytes nothing is added for a connection and nothing is read from it: the peer must read first.
pub(crate) const OUTPUT_BYTES_HIGH: usize = 1 << 20;

/// Blocks past this go on when the output has come down to this.
pub(crate) const OUTPUT_BYTES_LOW: usize = OUTPUT_BYTES_HIGH / 2;

/// Bytes of streamed puts a connection may have reserved at once.
pub(crate) const PUT_CREDIT_BYTES: u64 = CREDIT_BYTES_DEFAULT;

/// Most bytes a client can let us have unsent: more would only be memory it does not have.
pub(crate) const CREDIT_BYTES_MAX: u64 = 1 << 30;

/// Regions of one connection. A client needs one or two; each costs a descriptor and a mapping.
pub(crate) const REGIONS_MAX: usize = 64;

/// Requests a connection may have unanswered. More are answered `busy`.
pub(crate) const REQUESTS_MAX: usize = 1024;

/// Descriptors that came and wait for their `RegionAdd`.
pub(crate) const FDS_MAX: usize = 16;

/// Bytes of a message that may lie about half received without asking the shard's budget.
pub(crate) const INPUT_FREE_BYTES: usize = 8 * 1024;

/// A message that is not complete after this long will not be.
pub(crate) const HALF_MESSAGE_US: u64 = 10_000_000;

/// A connection that was handed over by the control thread.
#[derive(Debug)]
pub(crate) struct HandedOver {
    pub(crate) socket: Socket,
    pub(crate) tenant: Tenant,
    /// Bits in force.
    pub(crate) features: u64,
    pub(crate) credit_bytes: u64,
    /// Bytes behind `Hello`, and descriptors that came with them.
    pub(crate) leftover: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

/// A DATA frame of which bytes are still to come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DataIn {
    /// The put it belongs to; none: the bytes are dropped.
    pub(crate) put: Option<(Id, u32)>,
    /// Where in the block the next byte goes.
    pub(crate) at: u64,
    pub(crate) left: usize,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Conn {
    /// Its number in the shard.
    pub(crate) id: Id,
    pub(crate) socket: Socket,
    pub(crate) tenant: Tenant,
    /// The number of its peer among those who share the shard's turns.
    pub(crate) peer: usize,
    /// Regions may be lent.
    pub(crate) lends: bool,
    /// Reads may land in owned regions.
    pub(crate) direct: bool,
    pub(crate) input: Vec<u8>,
    pub(crate) fds: VecDeque<OwnedFd>,
    pub(crate) data_in: Option<DataIn>,
    /// Bytes of the shard's input budget it holds.
    pub(crate) grant: usize,
    pub(crate) output: Output,
    /// Bytes of payload the client lets us send.
    pub(crate) credit: u64,
    /// Bytes reserved for streamed puts.
    pub(crate) put_bytes: u64,
    pub(crate) regions: Vec<Lent>,
    /// Unanswered requests by the client's number.
    pub(crate) requests: Vec<(u32, Id)>,
    /// Those that wait until output is sent.
    pub(crate) blocked: Vec<Id>,
    /// Those that wait for credit.
    pub(crate) thirsty: Vec<Id>,
    /// There may be something to receive.
    pub(crate) readable: bool,
    /// It stands in the list of those to receive from.
    pub(crate) listed: bool,
    /// The kernel takes bytes, as far as we know.
    pub(crate) writable: bool,
    pub(crate) watching_writable: bool,
    /// Output waits for the end of the turn.
    pub(crate) dirty: bool,
    /// When the peer last took or sent something.
    pub(crate) progress_us: u64,
    /// How long the peer may take nothing.
    pub(crate) patience_us: u64,
    /// Nothing is read any more; closed when the output is sent, or at this time.
    pub(crate) closing: Option<u64>,
}

impl Conn {
    pub(crate) fn new(handed: HandedOver, unsent: Unsent, now_us: u64) -> Self {
        use forebay_wire::features::{DIRECT, REGIONS};
        Conn {
            id: Id::from_word(u64::MAX),
            socket: handed.socket,
            tenant: handed.tenant,
            peer: usize::MAX,
            lends: handed.features & REGIONS != 0,
            direct: handed.features & DIRECT != 0,
            input: handed.leftover,
            fds: handed.fds.into(),
            data_in: None,
            grant: 0,
            output: Output::counted(unsent),
            credit: handed.credit_bytes.min(CREDIT_BYTES_MAX),
            put_bytes: 0,
            regions: Vec::new(),
            requests: Vec::new(),
            blocked: Vec::new(),
            thirsty: Vec::new(),
            readable: true,
            listed: false,
            writable: true,
            watching_writable: false,
            dirty: false,
            progress_us: now_us,
            patience_us: DEADLINE_US_DEFAULT,
            closing: None,
        }
    }

    /// Nothing is read from it now.
    pub(crate) fn is_paused(&self) -> bool {
        self.closing.is_some() || self.output.len() >= OUTPUT_BYTES_HIGH
    }

    pub(crate) fn region(&mut self, id: RegionId) -> Option<&mut Lent> {
        self.regions.iter_mut().find(|lent| lent.id == id)
    }

    pub(crate) fn request(&self, number: u32) -> Option<Id> {
        self.requests.iter().find(|(n, _)| *n == number).map(|(_, id)| *id)
    }
}
