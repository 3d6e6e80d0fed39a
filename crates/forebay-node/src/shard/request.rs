//! A request while it is being answered.

use forebay_types::{Key, NamespaceId, RegionId};
use forebay_wire::Presence;

use super::get::Get;
use super::put::Put;
use crate::lanes::{Lane, Room};
use crate::slab::Id;

/// A request of one connection.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) conn: Id,
    /// The client's number for it.
    pub(crate) number: u32,
    pub(crate) namespace: NamespaceId,
    /// On the shard's clock.
    pub(crate) deadline_us: u64,
    pub(crate) lane: Lane,
    /// It stands in a lane, or waits in a list that will put it there.
    pub(crate) queued: bool,
    /// Whether it waits for room.
    pub(crate) room: Waiting,
    /// Something about it changed that the client has not been told.
    pub(crate) touched: bool,
    /// The client has given up on it: nothing more is said but `Done`.
    pub(crate) cancelled: bool,
    pub(crate) work: Work,
}

/// Whether a request waits for room. See `room.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    No,
    /// It found none.
    Waits,
    /// It is in its lane to try again.
    Tries,
}

/// What it asks.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most requests are gets; a box would be an allocation for each")]
pub(crate) enum Work {
    Get(Get),
    Put(Box<Put>),
    Match(Match),
    Forget(Forget),
}

impl Work {
    /// What it waits for when it finds no room.
    pub(crate) fn room(&self) -> Room {
        if matches!(self, Work::Put(_)) { Room::Put } else { Room::Get }
    }

    /// Keys that have no outcome yet.
    pub(crate) fn open(&self) -> usize {
        match self {
            Work::Get(get) => get.open,
            Work::Put(put) => put.open,
            Work::Match(matched) => matched.keys.len() - matched.presence.len(),
            Work::Forget(forget) => forget.keys.len() - forget.forgotten.len(),
        }
    }
}

/// Presence of keys, a few hundred a turn.
#[derive(Debug)]
pub(crate) struct Match {
    pub(crate) keys: Vec<Key>,
    pub(crate) presence: Vec<Presence>,
    pub(crate) hold_ms: u32,
    pub(crate) stop_at_gap: bool,
    /// Keys behind the first gap are not asked.
    pub(crate) gap: bool,
    /// When it was taken.
    pub(crate) begun_us: u64,
}

/// Forgetting keys, a few hundred a turn.
#[derive(Debug)]
pub(crate) struct Forget {
    pub(crate) keys: Vec<Key>,
    pub(crate) forgotten: Vec<bool>,
    /// Parts of it that are not durable yet.
    pub(crate) pending: u32,
    pub(crate) failed: bool,
    /// Answered already, because its deadline passed.
    pub(crate) answered: bool,
    /// When it was taken.
    pub(crate) begun_us: u64,
}

/// How a step of a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// There is more to do now.
    Again,
    /// It waits for an event, or is done.
    Idle,
    /// It waits for its reader to take what is queued.
    Blocked,
    /// It waits for credit.
    Thirsty,
    /// It waits for memory or a queue's place: try again soon.
    Retry,
}

/// The token of a store operation for an item of a request: 48 bits of request, 16 of item.
pub(crate) fn token(id: Id, item: usize) -> u64 {
    id.word() << 16 | item as u64
}

/// What [`token`] made.
pub(crate) fn from_token(token: u64) -> (Id, usize) {
    (Id::from_word(token >> 16), usize::from(token as u16))
}

/// A region of a connection.
#[derive(Debug)]
pub(crate) struct Lent {
    pub(crate) id: RegionId,
    pub(crate) region: forebay_io::PeerRegion,
    /// Whose it is.
    pub(crate) kind: forebay_wire::RegionKind,
    /// Reads may land in it: allocated by the client library for that, and mapped here.
    pub(crate) lands: bool,
    /// Reads in flight that land in it.
    pub(crate) landings: u32,
    /// The request that asks to drop it.
    pub(crate) dropping: Option<u32>,
}
