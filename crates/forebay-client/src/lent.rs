//! Memory that the caller lends: places in it, and gets that bring blocks there.
//!
//! A place is a range of lent memory in one owner's hand. A get takes it by value and gives it back with the block in it, or without one; what may
//! still be written to is *withheld*, and can be had again when that is proved to have ended. See `docs/decisions/0021-direct-into-lent-memory.md`
//! and `0031`.

use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use forebay_io::{Region, Slice};
use forebay_types::{BlockMeta, Descriptor, LandingKind, MissReason, RegionId, Tier};

use crate::block::Arrived;
use crate::get::Taker;
use crate::memory::Memory;
use crate::mesh::Core;
use crate::{Client, ClientError};

/// How blocks come into lent memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lending {
    /// Through memory of the client's own, with one copy that is verified as it is made. Every place comes back at the end of its call.
    #[default]
    Copied,
    /// Written there by the drive where it can, without a copy. A place whose landing has not ended when its call does is withheld.
    Direct,
}

/// Memory of the caller's that blocks come into. Cloning shares it.
///
/// Dropping the last clone and place ends the lending. If something is withheld then (see [`Self::withheld_bytes`]) it may still be written to:
/// keep it until nothing is, or keep your own hands off the memory.
#[derive(Debug, Clone)]
pub struct LentMemory(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    region: Region,
    /// Its number with nodes, when things land in it.
    id: Option<RegionId>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.core.regions.take_back(id);
        }
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LentMemory").field("region", &self.region).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Client {
    /// Lends the first `bytes` of `file`, a memfd or a file on tmpfs that is sealed against shrinking (`F_SEAL_SHRINK`). At most 16 at a time are lent
    /// for direct landings. While a place of it is taken, its bytes are touched through the place only.
    pub fn lend(&self, file: OwnedFd, bytes: usize, how: Lending) -> Result<LentMemory, ClientError> {
        let region = Region::lent(file, bytes).map_err(|error| ClientError::Invalid(error.to_string()))?;
        let core = self.shared();
        let id = match how {
            Lending::Copied => None,
            Lending::Direct => {
                let full = "16 memories are lent for direct landings already; lend one large one, or drop another";
                Some(core.regions.lend(region.clone()).ok_or_else(|| ClientError::Invalid(full.into()))?)
            }
        };
        Ok(LentMemory(Arc::new(Inner { core, region, id })))
    }
}

impl LentMemory {
    /// Takes `bytes` bytes at `offset`, a multiple of 4 KiB. The place has them rounded up to 4 KiB. An error when some of them lie outside, are in
    /// another place, or are withheld.
    pub fn place(&self, offset: usize, bytes: usize) -> Result<Place, ClientError> {
        let mut slice = self.0.region.take(offset, bytes);
        if slice.is_none() && self.withheld_bytes() > 0 {
            // The node's word may have come, over a connection that nobody has looked at since.
            self.0.core.settle();
            slice = self.0.region.take(offset, bytes);
        }
        Ok(Place { lent: self.clone(), slice: slice.ok_or(ClientError::PlaceTaken { offset, bytes })? })
    }

    /// Bytes that were in places and may still be written to, as far as is known; those of calls under way are among them. Each range can be had again
    /// when that has ended.
    pub fn withheld_bytes(&self) -> usize {
        self.0.region.withheld_bytes()
    }

    /// Bytes of it.
    pub fn len(&self) -> usize {
        self.0.region.len()
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of a place in which a block of `block_bytes` can land directly: there is padding and a trailer behind it.
    pub fn room_for(block_bytes: usize) -> usize {
        (block_bytes + Descriptor::landing_room(block_bytes as u64)).next_multiple_of(4096)
    }
}

/// A range of lent memory, in one owner's hand. Dereferences to its bytes. Dropping it makes the range free.
#[derive(Debug)]
pub struct Place {
    lent: LentMemory,
    slice: Slice,
}

impl Place {
    /// Bytes from the start of the lent memory.
    pub fn offset(&self) -> usize {
        self.slice.offset()
    }

    /// The memory it lies in.
    pub fn lent(&self) -> &LentMemory {
        &self.lent
    }
}

impl Deref for Place {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.slice
    }
}

impl DerefMut for Place {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.slice
    }
}

/// What [`crate::NamespaceHandle::get_lent`] answers for one key.
#[derive(Debug)]
pub enum LentResult {
    /// Verified bytes, where they were wanted.
    Hit(LentBlock),
    /// There is a block of `need` bytes, and the place is shorter. It counts as a hit.
    TooSmall {
        /// Bytes of the block.
        need: usize,
        /// The place; what is in it is unspecified.
        place: Place,
    },
    /// No verified bytes.
    Miss {
        /// Why.
        reason: MissReason,
        /// The place, and what is in it is unspecified; `None` when it is withheld.
        place: Option<Place>,
    },
}

/// A block in its place. Dereferences to its bytes, which were verified where they lie.
#[derive(Debug)]
pub struct LentBlock {
    place: Place,
    length: usize,
    meta: BlockMeta,
    tier: Tier,
    landing: LandingKind,
    direct: bool,
}

impl LentBlock {
    /// What the block is.
    pub fn meta(&self) -> &BlockMeta {
        &self.meta
    }

    /// Where it came from.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// How it came to this client.
    pub fn landing(&self) -> LandingKind {
        self.landing
    }

    /// It came straight into the place, not through memory of the client's own.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// The place. What lies behind the block in it is unspecified.
    pub fn into_place(self) -> Place {
        self.place
    }
}

impl Deref for LentBlock {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.place[..self.length]
    }
}

/// Brings blocks to places.
pub(crate) struct Land {
    /// Absent while a node may write there.
    places: Vec<Option<Place>>,
    /// Lent to a node once: what has come back is not lent again in the same call.
    lent: Vec<Option<(LentMemory, usize)>>,
    results: Vec<Option<Taken>>,
}

enum Taken {
    Hit { length: usize, meta: BlockMeta, tier: Tier, landing: LandingKind, direct: bool },
    TooSmall { need: usize },
    Miss(MissReason),
}

impl Land {
    pub(crate) fn new(places: Vec<Place>) -> Self {
        let count = places.len();
        let lent = (0..count).map(|_| None).collect();
        Land { places: places.into_iter().map(Some).collect(), lent, results: (0..count).map(|_| None).collect() }
    }

    /// The results; and how many blocks were copied, and how many places are withheld.
    pub(crate) fn results(self) -> (Vec<LentResult>, u64, u64) {
        let (mut copied, mut withheld) = (0, 0);
        let results = self.results.into_iter().zip(self.places).map(|(taken, place)| match (taken, place) {
            (Some(Taken::Hit { length, meta, tier, landing, direct }), Some(place)) => {
                copied += u64::from(!direct);
                LentResult::Hit(LentBlock { place, length, meta, tier, landing, direct })
            }
            (Some(Taken::TooSmall { need }), Some(place)) => LentResult::TooSmall { need, place },
            (taken, place) => {
                withheld += u64::from(place.is_none());
                let reason = if let Some(Taken::Miss(reason)) = taken { reason } else { MissReason::Unavailable };
                LentResult::Miss { reason, place }
            }
        });
        let results = results.collect();
        (results, copied, withheld)
    }
}

impl Taker for Land {
    fn take(&mut self, index: usize, arrived: Arrived) -> Result<Option<Memory>, Memory> {
        let (length, tier, landing) = (arrived.length, arrived.tier, arrived.landing);
        let Some(place) = &mut self.places[index] else {
            // What has come is the place itself.
            if !arrived.is_right() {
                return Err(arrived.memory);
            }
            let hit = Taken::Hit { length, meta: arrived.descriptor.meta, tier, landing, direct: true };
            if let Memory::Slice(slice) = arrived.memory {
                self.own_back(index, slice);
            }
            self.results[index] = Some(hit);
            return Ok(None);
        };
        let (right, taken) = if place.len() < length {
            (arrived.is_right(), Taken::TooSmall { need: length })
        } else {
            let right = arrived.copy_checked(place);
            (right, Taken::Hit { length, meta: arrived.descriptor.meta.clone(), tier, landing, direct: false })
        };
        if !right {
            return Err(arrived.memory);
        }
        self.results[index] = Some(taken);
        Ok(Some(arrived.memory))
    }

    fn miss(&mut self, index: usize, reason: MissReason) {
        self.results[index] = Some(Taken::Miss(reason));
    }

    fn own(&mut self, index: usize) -> Option<(RegionId, Slice)> {
        if self.lent[index].is_some() {
            return None;
        }
        let id = self.places[index].as_ref()?.lent.0.id?;
        let Place { lent, slice } = self.places[index].take()?;
        self.lent[index] = Some((lent, slice.len()));
        Some((id, slice))
    }

    fn own_back(&mut self, index: usize, mut slice: Slice) {
        if let Some((lent, len)) = &self.lent[index] {
            slice.set_len(*len);
            self.places[index] = Some(Place { lent: lent.clone(), slice });
        }
    }
}
