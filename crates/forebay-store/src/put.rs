//! Putting: from a reservation, through the arena, to the ack.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use forebay_format::{
    EntryKind, FooterEntry, RecordKind, SegmentKind, TRAILER_HEADER_BYTES, Trailer, encode_trailer, trailer_len,
};
use forebay_io::{ARENA_ALIGN, Disk};
use forebay_tokenomics::Put;
use forebay_types::{BlockMeta, Class, Descriptor, Key, Millis, RefusedReason, Reuse};

use crate::admit::Declined;
use crate::dram::Cached;
use crate::face::{Committed, Event, PutSlot, Reserve};
use crate::flush::Action;
use crate::index::{Entry, Place};
use crate::lanes::Lane;
use crate::mutant::Mutant;
use crate::store::{Batch, Store};
use crate::write::{RecordOf, Whose};

/// Most bytes of puts that the drive has not taken yet: 8 MiB waiting and what is in flight. Acknowledged and unwritten is what a SIGKILL loses, so
/// it stays a few milliseconds of the drive; puts beyond it wait, and gets always find room in the arena. Of blocks that are larger two may be there,
/// one being filled while the other is written.
const UNWRITTEN_BYTES_MAX: usize = 12 << 20;

/// How long room is kept for a put that found none, unless it asks again: a shard tries again every half a millisecond.
const ROOM_KEPT_MS: Millis = 10;

/// Sizes that room is kept for: the first has it, the others stand in line. More than these are told `busy` without a place in it.
const AWAITED_MAX: usize = 8;

/// A size of puts that found no room, for which others leave it. Without, blocks of one size could keep out those of another for ever: as soon as a
/// small one is written there is room for a small one.
#[derive(Debug)]
pub(crate) struct Awaited {
    bytes: usize,
    until: Millis,
}

/// What a reservation remembers.
#[derive(Debug)]
pub(crate) struct PutMeta {
    pub(crate) descriptor: Descriptor,
    encoded: Vec<u8>,
    ns: u16,
    units: (u32, u32),
    batch: Batch,
    depth: u32,
    claim: Claim,
}

/// What a slot holds of the store's until it is committed or dropped.
struct Claim {
    claims: Rc<RefCell<BTreeSet<(u16, Key)>>>,
    put_bytes: Rc<RefCell<usize>>,
    name: Option<(u16, Key)>,
    held: usize,
}

impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Claim({} bytes)", self.held)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(name) = &self.name {
            self.claims.borrow_mut().remove(name);
        }
        *self.put_bytes.borrow_mut() -= self.held;
    }
}

impl<D: Disk> Store<D> {
    /// Takes a place for the block that `descriptor` describes, the `depth_in_batch`-th of its request. A slot holds memory until it is committed or
    /// dropped: fill it soon.
    pub fn reserve(&mut self, now: Millis, descriptor: &[u8], batch: Batch, depth_in_batch: u32) -> Reserve {
        let reserve = self.try_reserve(now, descriptor, batch, depth_in_batch);
        match &reserve {
            Reserve::Slot(_) => {}
            Reserve::Exists => self.counted.puts_exists += 1,
            Reserve::Refused(reason) => self.count_refused(*reason),
        }
        reserve
    }

    fn count_refused(&mut self, reason: RefusedReason) {
        self.counted.puts_refused += 1;
        self.counted.busy += u64::from(reason == RefusedReason::Busy);
    }

    fn try_reserve(&mut self, now: Millis, encoded: &[u8], batch: Batch, depth: u32) -> Reserve {
        let refused = Reserve::Refused;
        // The caller has decoded it: what does not decode here is told what a block of 0 bytes is told.
        let Ok(descriptor) = Descriptor::decode(encoded) else { return refused(RefusedReason::TooLarge) };
        let meta = &descriptor.meta;
        if meta.length == 0 || meta.length > self.block_bytes_max() && !self.mutant(Mutant::AnyLength) {
            return refused(RefusedReason::TooLarge);
        }
        let Some(ns) = self.namespaces.find(meta.namespace) else { return refused(RefusedReason::Namespace) };
        let durable = self.namespaces.is_durable(ns);
        let name = (ns, meta.key);
        if meta.expiry_utc_s != 0 && meta.expiry_utc_s <= self.clock.shown() {
            return refused(RefusedReason::Admission);
        }
        if self.is_over(ns, &meta.key) {
            self.expire_entry(ns, &meta.key);
        }
        if self.mutant(Mutant::LastPutWins) {
            self.drop_entry(ns, &meta.key);
        }
        // A durable put may not be told `exists` before the first one is durable: it takes its bytes and waits at the commit.
        let present = self.index.find(ns, &meta.key).is_some() && !(durable && self.undurable.contains_key(&name));
        let exists = present || (!durable && self.claims.borrow().contains(&name));
        if exists && !self.mutant(Mutant::RoomForWhatExists) {
            if present {
                // Whoever puts it has just used it.
                self.used(ns, &meta.key, batch, depth);
            }
            return Reserve::Exists;
        }
        if self.write_failed || self.closing {
            return refused(RefusedReason::Unavailable);
        }
        let align = self.geometry.align;
        let payload_units = meta.length.div_ceil(align as u64) as u32;
        let trailer_units = (trailer_len(encoded.len(), align) / align) as u32;
        let units = payload_units + trailer_units;
        let kind = if durable { SegmentKind::Durable } else { SegmentKind::Cache };
        if let Some(reason) = self.over_quota(ns, units) {
            return refused(reason);
        }
        if !durable && let Some(declined) = self.declines(ns, meta, units, batch, depth) {
            self.counted.refused_admission += 1;
            self.counted.refused_will_not_pay += u64::from(declined == Declined::WillNotPay);
            self.count_computed(ns, meta, depth, Some(declined));
            self.asked_for(batch, self.index.seed().hash(ns, &meta.key));
            return refused(RefusedReason::Admission);
        }
        if !self.has_place(kind, units, 1, Whose::Put) {
            let busy = self.can_make_room() || self.mutant(Mutant::FullIsBusy);
            return refused(if busy { RefusedReason::Busy } else { RefusedReason::Full });
        }
        let bytes = self.geometry.bytes(units) as usize;
        if !self.dram.has_room(self.claims.borrow().len()) || !self.may_hold(now, bytes) {
            return refused(RefusedReason::Busy);
        }
        let Some(buf) = self.dram.alloc(&self.arena, bytes) else { return refused(RefusedReason::Busy) };
        *self.put_bytes.borrow_mut() += buf.capacity();
        // Of two durable puts of one key only the first owns the name; the second finds it held when it commits.
        let owns = self.claims.borrow_mut().insert(name);
        let claim = Claim {
            claims: self.claims.clone(),
            put_bytes: self.put_bytes.clone(),
            name: owns.then_some(name),
            held: buf.capacity(),
        };
        let meta = PutMeta {
            descriptor,
            encoded: encoded.to_vec(),
            ns,
            units: (payload_units, trailer_units),
            batch,
            depth,
            claim,
        };
        Reserve::Slot(PutSlot { buf, meta })
    }

    /// Whether a put of `bytes` may take memory now. One goes whatever its size.
    fn may_hold(&mut self, now: Millis, bytes: usize) -> bool {
        let held = *self.put_bytes.borrow();
        let bytes = bytes.next_multiple_of(ARENA_ALIGN);
        let large =
            2 + usize::from(self.mutant(Mutant::ThreeLargePuts)) - usize::from(self.mutant(Mutant::OneLargePut));
        let share = if self.mutant(Mutant::PutsTakeAll) { 1 } else { 2 };
        let most = UNWRITTEN_BYTES_MAX.max(large * bytes).min(self.arena.len() / share);
        self.awaited.retain(|awaited| now < awaited.until);
        let mine = self.awaited.iter().position(|awaited| awaited.bytes == bytes);
        let first = self.awaited.front().filter(|_| !self.mutant(Mutant::NoRoomKept));
        let kept = first.map_or(0, |first| if mine == Some(0) { 0 } else { first.bytes });
        let may = held == 0 && kept == 0 || held + bytes + kept <= most;
        let until = now + ROOM_KEPT_MS;
        match mine {
            Some(at) if may => drop(self.awaited.remove(at)),
            Some(at) => self.awaited[at].until = until,
            None if !may && self.awaited.len() < AWAITED_MAX => self.awaited.push_back(Awaited { bytes, until }),
            None => {}
        }
        may
    }

    /// `Some` when a block of `units` cannot be within its namespace's quota.
    fn over_quota(&self, ns: u16, units: u32) -> Option<RefusedReason> {
        let slot = self.namespaces.get(ns)?;
        let quota = slot.row.quota_bytes.filter(|_| !self.mutant(Mutant::QuotaIgnored))?;
        let bytes = self.geometry.bytes(units);
        let over = match slot.row.class {
            Class::Cache => bytes > quota,
            Class::Durable => slot.bytes + bytes > quota,
        };
        over.then_some(RefusedReason::Quota)
    }

    /// Takes a filled slot, whose bytes the caller has verified against the descriptor.
    pub fn commit(&mut self, _now: Millis, token: u64, slot: PutSlot) -> Committed {
        debug_assert!(slot.meta.descriptor.verify(slot.payload()), "the caller verifies before it commits");
        let committed = self.try_commit(token, slot);
        match committed {
            Committed::Cached | Committed::Pending => {}
            Committed::Exists => self.counted.puts_exists += 1,
            Committed::Refused(reason) => self.count_refused(reason),
        }
        committed
    }

    fn try_commit(&mut self, token: u64, slot: PutSlot) -> Committed {
        let PutSlot { mut buf, meta } = slot;
        let PutMeta { descriptor, encoded, ns, units: (payload_units, trailer_units), batch, depth, mut claim } = meta;
        let block = &descriptor.meta;
        let (key, units) = (block.key, payload_units + trailer_units);
        if self.namespaces.find(block.namespace) != Some(ns) {
            return Committed::Refused(RefusedReason::Namespace);
        }
        if self.is_over(ns, &key) {
            self.expire_entry(ns, &key);
        }
        if self.index.find(ns, &key).is_some() {
            return match self.undurable.get_mut(&(ns, key)) {
                Some((_, waiting)) => {
                    waiting.push(token);
                    Committed::Pending
                }
                None => Committed::Exists,
            };
        }
        if self.write_failed {
            return Committed::Refused(RefusedReason::Unavailable);
        }
        if let Some(reason) = self.over_quota(ns, units) {
            return Committed::Refused(reason);
        }
        let durable = self.namespaces.is_durable(ns);
        if !durable && !self.make_quota(ns, units) {
            return Committed::Refused(RefusedReason::Quota);
        }
        if !self.make_index_room(ns, &key) {
            return Committed::Refused(RefusedReason::Full);
        }
        let turn = self.turn_of(batch);
        let put = self.put_of(block, ns, units, batch.hint, depth);
        let name = put.name;
        let rank = self.policy.put(turn, &put);
        self.asked_for(batch, name);
        let kind = if durable { SegmentKind::Durable } else { SegmentKind::Cache };
        if !self.ensure_place(kind, units, 1, Whose::Put) {
            return Committed::Refused(RefusedReason::Busy);
        }
        let seq = self.number();
        let entry = FooterEntry {
            kind: EntryKind::Block,
            namespace: block.namespace,
            key,
            version: block.version,
            seq,
            length: block.length as u32,
            start: 0,
            record_bytes: 0,
            rank,
            expiry_utc_s: block.expiry_utc_s,
        };
        let Some(spot) = self.take_place(kind, units, &[entry]) else {
            return Committed::Refused(RefusedReason::Busy);
        };
        let align = self.geometry.align;
        let payload_padded = payload_units as usize * align;
        let total = units as usize * align;
        buf.set_len(total);
        buf[block.length as usize..payload_padded].fill(0);
        let trailer = Trailer {
            generation: spot.generation,
            nonce: spot.nonce,
            seq,
            payload_padded: payload_padded as u32,
            kind: RecordKind::Block,
        };
        encode_trailer(&trailer, &encoded, &mut buf[payload_padded..]);
        let tail = (payload_padded as u64 - block.length) as u32;
        let place = Place { segment: spot.segment, page: spot.page, payload_units, trailer_units, tail };
        let mut entry = Entry::new(ns, key, rank, place);
        entry.set_in_dram(true);
        self.index.insert_until(entry, block.expiry_utc_s);
        self.add_live(ns, &key, place, rank);
        self.namespaces.add_block(ns, total as u64, block.length);
        self.ghosts.remove(name);
        self.expired.remove(name);
        let descriptor_at = payload_padded + TRAILER_HEADER_BYTES;
        let data = buf.freeze();
        let cached = Cached {
            data: data.clone(),
            length: block.length,
            descriptor: descriptor_at..descriptor_at + encoded.len(),
        };
        self.dram.insert(ns, key, self.policy.rank_in_dram(Some((turn, depth)), rank), cached);
        if batch.caller_keeps {
            self.dram.set_duplicate(ns, &key);
        }

        self.counted.puts += 1;
        self.counted.put_bytes += total as u64;
        if !durable {
            self.moves.put(units);
        }
        self.count_computed(ns, block, depth, None);
        self.count_written(ns, total as u64);
        // From here the write owns the memory, and gives it back to the budget when it is completed.
        let held = std::mem::take(&mut claim.held);
        let of = RecordOf::Put { ns, key, place, held };
        let early = self.mutant(Mutant::AckBeforeCompletion);
        let action = (durable && !early).then_some(Action::Ack { token, ns, key, seq });
        self.write_record(Lane::Put, &spot, data, of, action);
        if !durable {
            return Committed::Cached;
        }
        self.count_durable_put();
        if early {
            self.events.push(Event::Put { token, outcome: forebay_types::PutOutcome::Durable });
        } else {
            self.undurable.insert((ns, key), (seq, Vec::new()));
        }
        Committed::Pending
    }

    /// A block that is put, the `depth`-th of its request, as the policy knows it.
    pub(crate) fn put_of(&self, block: &BlockMeta, ns: u16, units: u32, hint: Reuse, depth: u32) -> Put {
        let name = self.index.seed().hash(ns, &block.key);
        Put {
            depth,
            hint,
            again: self.ghosts.contains(name),
            name,
            space: ns,
            chain: block.chain,
            parent: block.parent,
            own: block.key.place_token(),
            position: block.position,
            tokens: block.tokens,
            bytes: self.geometry.bytes(units),
        }
    }
}
