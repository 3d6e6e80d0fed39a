//! Hints: uses that no get tells of, and blocks that are wanted in DRAM before they are asked for.
//!
//! Both are favours and have bounds of their own. A prefetch waits in a queue of keys, reads a few blocks at a time in a lane of its own, and takes
//! memory only from what ranks lower than a block used now. What was brought in vain may hold half of the arena: then further ones are told `busy`, so
//! that a caller who prefetches more than he gets does not turn the whole tier over.

use std::collections::{BTreeMap, VecDeque};

use forebay_format::{TRAILER_HEADER_BYTES, decode_trailer};
use forebay_io::{Disk, DiskError, ReadInto};
use forebay_types::{Key, Millis, MissReason, NamespaceId, Tier};

use crate::dram::Cached;
use crate::face::Event;
use crate::index::Place;
use crate::lanes::Lane;
use crate::mutant::Mutant;
use crate::store::{Batch, Op, Store};
use crate::verify::{Purpose, VerifyJob};

/// Keys that may wait: a message's worth, 64 bytes each.
const WAITING_MAX: usize = 4096;
/// Bytes of prefetches being read and checked at once. A larger block goes alone.
const FLYING_BYTES_MAX: u64 = 4 << 20;
/// Keys taken from the queue in one turn.
const KEYS_PER_TURN: usize = 128;
/// Blocks brought in vain that are remembered.
const UNUSED_MAX: usize = 4096;

/// A block that is wanted.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    ns: u16,
    key: Key,
    until: Millis,
    batch: Batch,
    depth: u32,
}

/// A block being read because it is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetching {
    wanted: Wanted,
    place: Place,
    bytes: u64,
}

/// Prefetches of a shard.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    waiting: VecDeque<Wanted>,
    flying_bytes: u64,
    /// Brought and not got yet: until when somebody wants it, and its bytes.
    unused: BTreeMap<(u16, Key), (Millis, u64)>,
    unused_bytes: u64,
}

impl Ahead {
    fn take_unused(&mut self, name: &(u16, Key)) -> bool {
        let taken = self.unused.remove(name);
        self.unused_bytes -= taken.map_or(0, |(_, bytes)| bytes);
        taken.is_some()
    }

    /// Whether `bytes` more may be held in vain. What nobody came for in time does not count any more.
    fn has_room(&mut self, now: Millis, bytes: u64, bytes_max: u64) -> bool {
        let fits = |ahead: &Ahead| {
            ahead.unused.len() < UNUSED_MAX && ahead.unused_bytes + ahead.flying_bytes + bytes <= bytes_max
        };
        if !fits(self) {
            self.unused.retain(|_, (until, _)| *until > now);
            self.unused_bytes = self.unused.values().map(|(_, bytes)| bytes).sum();
        }
        fits(self)
    }
}

impl<D: Disk> Store<D> {
    /// Ranks a block as used, the `depth`-th of its request, without moving a byte.
    pub fn touch(
        &mut self,
        now: Millis,
        namespace: NamespaceId,
        key: &Key,
        batch: Batch,
        depth: u32,
    ) -> Result<Tier, MissReason> {
        let found = self.presence(now, namespace, key);
        if found.is_err()
            && let Some(ns) = self.namespaces.find(namespace)
        {
            self.wanted_in_vain(ns, key);
        }
        let tier = found?;
        if let Some(ns) = self.namespaces.find(namespace) {
            self.used(ns, key, batch, depth);
        }
        Ok(tier)
    }

    /// Ranks a block that is here as used, the `depth`-th of its request.
    pub(crate) fn used(&mut self, ns: u16, key: &Key, batch: Batch, depth: u32) {
        let Some(old) = self.index.find(ns, key).map(|entry| entry.rank) else { return };
        let name = self.index.seed().hash(ns, key);
        if !self.mutant(Mutant::TouchIgnored) {
            let rank = self.rank_use(ns, key, name, old, batch, depth);
            self.dram.set_rank(ns, key, rank);
        }
        self.asked_for(batch, name);
    }

    /// Brings a block to DRAM before `until`. `Some`: that is the answer; `None`: [`Event::Prefetched`] follows.
    pub fn prefetch(
        &mut self,
        now: Millis,
        namespace: NamespaceId,
        key: &Key,
        batch: Batch,
        depth: u32,
        until: Millis,
    ) -> Option<Result<Tier, MissReason>> {
        match self.presence(now, namespace, key) {
            Err(reason) => Some(Err(reason)),
            // It must not leave before it is got.
            Ok(Tier::Dram) => {
                if let Some(ns) = self.namespaces.find(namespace) {
                    self.dram.wanted_here(ns, key);
                }
                Some(self.touch(now, namespace, key, batch, depth))
            }
            Ok(Tier::Nvme) if self.ahead.waiting.len() >= WAITING_MAX || self.closing => Some(Err(MissReason::Busy)),
            Ok(Tier::Nvme) => {
                let ns = self.namespaces.find(namespace)?;
                self.ahead.waiting.push_back(Wanted { ns, key: *key, until, batch, depth });
                None
            }
        }
    }

    /// Starts reads of what is wanted, as far as lane and memory allow. True: there are more.
    pub(crate) fn prefetch_step(&mut self, now: Millis) -> bool {
        for _ in 0..KEYS_PER_TURN {
            let Some(wanted) = self.ahead.waiting.front().copied() else { return false };
            let started = self.start_prefetch(now, wanted);
            if started == Some(Err(MissReason::Busy)) && wanted.until > now && self.ahead.flying_bytes > 0 {
                // Room comes back when what is flying has landed.
                return false;
            }
            self.ahead.waiting.pop_front();
            if let Some(result) = started {
                self.events.push(Event::Prefetched { result });
            }
        }
        !self.ahead.waiting.is_empty()
    }

    /// `None`: it is being read. `busy`: not now.
    fn start_prefetch(&mut self, now: Millis, wanted: Wanted) -> Option<Result<Tier, MissReason>> {
        let Wanted { ns, key, until, batch, depth } = wanted;
        if let Some(reason) = self.gone(ns, &key) {
            return Some(Err(reason));
        }
        let (place, old) = self.index.find(ns, &key).map(|entry| (entry.place(), entry.rank))?;
        if self.dram.contains(ns, &key) {
            return Some(Ok(Tier::Dram));
        }
        if until <= now {
            return Some(Err(MissReason::Deadline));
        }
        let bytes = self.geometry.bytes(place.units());
        let flies = self.ahead.flying_bytes == 0 || self.ahead.flying_bytes + bytes <= FLYING_BYTES_MAX;
        let room = self.arena.len() as u64 / 2;
        if !flies || self.lanes.is_full(Lane::Prefetch) || !self.ahead.has_room(now, bytes, room) {
            return Some(Err(MissReason::Busy));
        }
        let rank = self.rank_use(ns, &key, self.index.seed().hash(ns, &key), old, batch, depth);
        let Some(buf) = self.dram.alloc_above(&self.arena, bytes as usize, rank) else {
            return Some(Err(MissReason::Busy));
        };
        self.ahead.flying_bytes += bytes;
        self.segments.pin(place.segment);
        let offset = self.geometry.at(place.segment, place.page);
        let op = Op::Prefetch(Fetching { wanted, place, bytes });
        self.read(Lane::Prefetch, op, offset, ReadInto::Buf(buf));
        None
    }

    pub(crate) fn prefetch_read(&mut self, fetching: Fetching, result: Result<(), DiskError>, read: Option<ReadInto>) {
        let Fetching { wanted: Wanted { ns, key, .. }, place, .. } = fetching;
        self.segments.unpin(place.segment);
        let Some(ReadInto::Buf(buf)) = read.filter(|_| result.is_ok()) else {
            return self.prefetch_ended(fetching, Err(MissReason::Unavailable));
        };
        self.counted.read_bytes += buf.len() as u64;
        if self.is_displaced(ns, &key, place) {
            return self.prefetch_again(fetching);
        }
        let trailer_at = place.payload_units as usize * self.geometry.align;
        let checked = decode_trailer(&buf[trailer_at..])
            .ok()
            .and_then(|view| Some((self.is_record_of(&view, ns, &key, place)?, view.body.len())));
        let Some((descriptor, body_len)) = checked else {
            self.drop_bad(ns, &key, place);
            return self.prefetch_ended(fetching, Err(MissReason::Corrupt));
        };
        let at = trailer_at + TRAILER_HEADER_BYTES;
        let data = buf.freeze();
        let length = descriptor.meta.length;
        let cached = Cached { data: data.clone(), length, descriptor: at..at + body_len };
        let purpose = Purpose::Prefetch { fetching, cached };
        self.verifies.push_back(VerifyJob::new(data, descriptor, purpose));
    }

    pub(crate) fn prefetch_verified(&mut self, fetching: Fetching, cached: Cached, good: bool) {
        let Fetching { wanted: Wanted { ns, key, until, .. }, place, bytes } = fetching;
        if !good {
            self.drop_bad(ns, &key, place);
            return self.prefetch_ended(fetching, Err(MissReason::Corrupt));
        }
        if self.is_displaced(ns, &key, place) {
            return self.prefetch_again(fetching);
        }
        let here = self.dram.contains(ns, &key);
        if here || self.mutant(Mutant::PrefetchNotKept) || self.cache(ns, key, place, cached) {
            if !here {
                self.ahead.take_unused(&(ns, key));
                self.ahead.unused.insert((ns, key), (until, bytes));
                self.ahead.unused_bytes += bytes;
                self.counted.prefetched += 1;
            }
            return self.prefetch_ended(fetching, Ok(Tier::Nvme));
        }
        let reason = self.gone(ns, &key).unwrap_or(MissReason::Absent);
        self.prefetch_ended(fetching, Err(reason));
    }

    /// It was moved by cleaning meanwhile: read from where it is now.
    fn prefetch_again(&mut self, fetching: Fetching) {
        self.ahead.flying_bytes -= fetching.bytes;
        self.ahead.waiting.push_front(fetching.wanted);
    }

    fn prefetch_ended(&mut self, fetching: Fetching, result: Result<Tier, MissReason>) {
        self.ahead.flying_bytes -= fetching.bytes;
        self.events.push(Event::Prefetched { result });
    }

    /// The shard closes: nobody will come for what still waits.
    pub(crate) fn drop_prefetches(&mut self) {
        self.ahead.waiting.clear();
    }

    /// A block was got from DRAM: if it was brought there in advance, that was of use.
    pub(crate) fn was_wanted(&mut self, ns: u16, key: &Key) {
        if !self.ahead.unused.is_empty() && self.ahead.take_unused(&(ns, *key)) {
            self.counted.prefetch_used += 1;
        }
    }
}
