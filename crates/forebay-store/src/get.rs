//! Getting: from DRAM at once, from the drive into the arena or straight into a client's memory.

use std::ops::Range;

use forebay_format::{RecordKind, TRAILER_HEADER_BYTES, TrailerView, decode_trailer};
use forebay_io::{Disk, DiskError, Landing, ReadInto, Shared};
use forebay_types::limits::{PIECE_BYTES, STEP_BYTES};
use forebay_types::{Descriptor, Key, Millis, MissReason, Tier};

use crate::dram::Cached;
use crate::face::{Event, Found, GetRequest, GetResult, GetStarted};
use crate::index::Place;
use crate::lanes::{Lane, SMALL_GET_BYTES};
use crate::mutant::Mutant;
use crate::range::RangeGet;
use crate::store::{Batch, Op, Store};
use crate::verify::{Purpose, VerifyJob};

/// A read of a record's end: from a piece of its payload to the end of its trailer.
pub(crate) struct ReadOp {
    pub(crate) token: u64,
    ns: u16,
    key: Key,
    pub(crate) place: Place,
    /// First byte of the block that is read.
    from: u64,
    /// Bytes of the block that were asked for, in whole pieces.
    want: Range<u64>,
    promote: bool,
    /// Its place in its request.
    depth: u32,
}

/// The pieces that cover `offset..offset + length` of a block, `length` 0 being "to the end".
fn whole_pieces(offset: u64, length: u64, block: u64) -> Range<u64> {
    let piece = PIECE_BYTES as u64;
    let end = if length == 0 { block } else { offset.saturating_add(length).min(block) };
    let start = (offset.min(block)) / piece * piece;
    start..end.next_multiple_of(piece).min(block).max(start)
}

impl<D: Disk> Store<D> {
    /// Begins a get.
    pub fn get(&mut self, now: Millis, request: GetRequest) -> GetStarted {
        let started = self.try_get(now, request);
        if let GetStarted::Miss(reason) = &started {
            self.counted.misses += 1;
            self.counted.busy += u64::from(*reason == MissReason::Busy);
        }
        started
    }

    fn try_get(&mut self, _now: Millis, request: GetRequest) -> GetStarted {
        let GetRequest { token, namespace, key, offset, length, room, into, batch, depth_in_batch } = request;
        let Some(ns) = self.namespaces.find(namespace) else { return GetStarted::Miss(MissReason::Namespace) };
        let align = self.geometry.align;
        if self.is_over(ns, &key) {
            self.meet_expired(ns, &key);
            return GetStarted::Miss(MissReason::Expired);
        }
        let Some(entry) = self.index.find(ns, &key) else { return GetStarted::Miss(self.reason_gone(ns, &key)) };
        let (place, old_rank, touched) = (entry.place(), entry.rank, entry.touched());
        let block = place.length(align);
        let want = whole_pieces(offset, length, block);
        if want.end - want.start > room {
            return GetStarted::TooSmall { need: want.end - want.start };
        }
        let name = self.index.seed().hash(ns, &key);
        let rank = self.rank_use(ns, &key, name, old_rank, batch, depth_in_batch);
        self.asked_for(batch, name);

        if let Some(cached) = self.dram.get(ns, &key) {
            let found = found_in(cached.data, cached.length, cached.descriptor, Tier::Dram, want);
            self.dram.set_rank(ns, &key, rank);
            self.dram.wanted_here(ns, &key);
            self.was_wanted(ns, &key);
            self.counted.hits_dram += 1;
            self.count_found(ns, depth_in_batch, block);
            return GetStarted::Hit(found);
        }
        let promote = touched;
        if let Some(entry) = self.index.find_mut(ns, &key) {
            entry.set_touched(true);
        }
        let payload_padded = place.payload_units as usize * align;
        let record = place.units() as usize * align;
        let whole = want.start == 0 && want.end == block;
        let at_record = self.geometry.at(place.segment, place.page);

        if whole
            && !promote
            && let Some(mut landing) = into
            && landing.len() >= record
        {
            landing.truncate(record);
            if landing.is_aligned(align) {
                let lane = lane_for(record);
                if self.lanes.is_full(lane) {
                    return GetStarted::Miss(MissReason::Busy);
                }
                self.segments.pin(place.segment);
                let op = ReadOp { token, ns, key, place, from: 0, want, promote: false, depth: depth_in_batch };
                self.read(lane, Op::Read(op), at_record, ReadInto::Landing(landing));
                return GetStarted::Pending;
            }
        }

        // One read when it costs little more than two: the whole record of a small block, or everything up to the trailer.
        let to_end = want.end == block;
        let from = if promote || record <= SMALL_GET_BYTES { 0 } else { want.start };
        if to_end || from == 0 && (promote || record <= SMALL_GET_BYTES) {
            let len = record - from as usize;
            let lane = lane_for(len);
            if self.lanes.is_full(lane) {
                return GetStarted::Miss(MissReason::Busy);
            }
            let Some(buf) = self.dram.alloc(&self.arena, len) else { return GetStarted::Miss(MissReason::Busy) };
            self.segments.pin(place.segment);
            let op = ReadOp { token, ns, key, place, from, want, promote, depth: depth_in_batch };
            self.read(lane, Op::Read(op), at_record + from, ReadInto::Buf(buf));
            return GetStarted::Pending;
        }

        let pieces_len = (want.end.next_multiple_of(align as u64) - want.start) as usize;
        let lane = lane_for(pieces_len);
        if self.lanes.is_full(lane) {
            return GetStarted::Miss(MissReason::Busy);
        }
        let buffers = self.dram.alloc(&self.arena, pieces_len.max(align));
        let Some((pieces, trailer)) = buffers.zip(self.dram.alloc(&self.arena, record - payload_padded)) else {
            return GetStarted::Miss(MissReason::Busy);
        };
        // Once for each of the two reads.
        self.segments.pin(place.segment);
        self.segments.pin(place.segment);
        let at_pieces = at_record + want.start;
        let range = RangeGet::new(token, (ns, key, place), want, depth_in_batch);
        let range = self.ranges.insert(range);
        self.read(lane, Op::RangePieces(range), at_pieces, ReadInto::Buf(pieces));
        self.read(lane, Op::RangeTrailer(range), at_record + payload_padded as u64, ReadInto::Buf(trailer));
        GetStarted::Pending
    }

    /// Ranks a use of a block, whose hash in the index is `name`, and gives its rank in DRAM.
    pub(crate) fn rank_use(&mut self, ns: u16, key: &Key, name: u64, old: u32, batch: Batch, depth: u32) -> u32 {
        let turn = self.turn_of(batch);
        let rank = self.policy.used(turn, depth, old, batch.hint, (name, ns));
        self.set_rank(ns, key, rank);
        self.is_worth_following(ns, key);
        self.policy.rank_in_dram(Some((turn, depth)), rank)
    }

    pub(crate) fn set_rank(&mut self, ns: u16, key: &Key, rank: u32) {
        let Some(entry) = self.index.find_mut(ns, key) else { return };
        let (place, old) = (entry.place(), entry.rank);
        entry.rank = rank;
        self.remove_live(ns, key, place, old);
        self.add_live(ns, key, place, rank);
    }

    /// True when `view` is the record that the index promised at `place`.
    pub(crate) fn is_record_of(&self, view: &TrailerView<'_>, ns: u16, key: &Key, place: Place) -> Option<Descriptor> {
        let segment = self.segments.get(place.segment);
        let align = self.geometry.align;
        let whole = view.kind == RecordKind::Block
            && view.belongs_to(segment.generation, segment.nonce)
            && view.payload_padded as usize == place.payload_units as usize * align;
        let descriptor = Descriptor::decode(view.body).ok().filter(|_| whole)?;
        let meta = &descriptor.meta;
        let id = self.namespaces.get(ns)?.row.id;
        (meta.namespace == id && meta.key == *key && meta.length == place.length(align)).then_some(descriptor)
    }

    pub(crate) fn read_done(&mut self, now: Millis, op: ReadOp, result: Result<(), DiskError>, read: Option<ReadInto>) {
        let block = op.place.length(self.geometry.align);
        if result.is_ok() && self.is_displaced(op.ns, &op.key, op.place) {
            let into = match read {
                Some(ReadInto::Landing(landing)) => Some(landing),
                _ => None,
            };
            self.segments.unpin(op.place.segment);
            return self.get_again(now, op.token, (op.ns, op.key), op.want, block, into);
        }
        let (ns, depth) = (op.ns, op.depth);
        let (token, result) = self.read_ended(op, result, read);
        if !matches!(result, GetResult::Miss(_)) {
            self.count_found(ns, depth, block);
        }
        self.got(token, result);
    }

    /// True when the block lies elsewhere since a read of it began: moved by cleaning, or forgotten and put again. What was read may be forgotten.
    pub(crate) fn is_displaced(&self, ns: u16, key: &Key, place: Place) -> bool {
        self.index.find(ns, key).is_some_and(|entry| entry.place() != place)
    }

    pub(crate) fn get_again(
        &mut self,
        now: Millis,
        token: u64,
        (ns, key): (u16, Key),
        want: Range<u64>,
        block: u64,
        into: Option<Landing>,
    ) {
        let Some(namespace) = self.namespaces.get(ns).map(|slot| slot.row.id) else { return };
        let batch = self.begin_batch(1);
        let length = if want.end == block { 0 } else { want.end - want.start };
        let room = want.end - want.start;
        let request =
            GetRequest { token, namespace, key, offset: want.start, length, room, into, batch, depth_in_batch: 0 };
        match self.try_get(now, request) {
            GetStarted::Pending => {}
            GetStarted::Hit(found) => self.events.push(Event::Got { token, result: GetResult::Found(found) }),
            GetStarted::Miss(reason) => self.got(token, GetResult::Miss(reason)),
            // What was asked for is gone, and what was put since is larger than the caller has room for.
            GetStarted::TooSmall { .. } => self.got(token, GetResult::Miss(MissReason::Absent)),
        }
    }

    pub(crate) fn got(&mut self, token: u64, result: GetResult) {
        match &result {
            GetResult::Found(_) => {
                self.counted.hits_nvme += 1;
                self.counted.bounced += 1;
            }
            GetResult::Landed { .. } => {
                self.counted.hits_nvme += 1;
                self.counted.landed_direct += 1;
            }
            GetResult::Miss(_) => self.counted.misses += 1,
        }
        self.events.push(Event::Got { token, result });
    }

    /// Why a read must not be answered although it succeeded: the namespace or the block has gone meanwhile.
    pub(crate) fn gone(&self, ns: u16, key: &Key) -> Option<MissReason> {
        if self.namespaces.get(ns).is_none_or(|slot| slot.purging) {
            return Some(MissReason::Namespace);
        }
        if self.is_over(ns, key) {
            return Some(MissReason::Expired);
        }
        self.index.find(ns, key).is_none().then(|| self.reason_gone(ns, key))
    }

    fn read_ended(&mut self, op: ReadOp, result: Result<(), DiskError>, read: Option<ReadInto>) -> (u64, GetResult) {
        let ReadOp { token, ns, key, place, from, want, promote, .. } = op;
        let gone = self.gone(ns, &key);
        let align = self.geometry.align;
        let miss = |reason| (token, GetResult::Miss(reason));
        let ended = match (result, read, gone) {
            (Err(_), _, _) | (_, None, _) => miss(MissReason::Unavailable),
            (Ok(()), _, Some(reason)) => miss(reason),
            (Ok(()), Some(ReadInto::Landing(landing)), None) => {
                self.counted.read_bytes += landing.len() as u64;
                let trailer_offset = (place.payload_units as usize * align + TRAILER_HEADER_BYTES) as u64;
                (token, GetResult::Landed { landing, length: place.length(align), trailer_offset })
            }
            (Ok(()), Some(ReadInto::Buf(buf)), None) => {
                self.counted.read_bytes += buf.len() as u64;
                let trailer_at = place.payload_units as usize * align - from as usize;
                let checked = decode_trailer(&buf[trailer_at..])
                    .ok()
                    .and_then(|view| Some((self.is_record_of(&view, ns, &key, place)?, view.body.len())));
                match checked {
                    None => {
                        self.drop_bad(ns, &key, place);
                        miss(MissReason::Corrupt)
                    }
                    Some((descriptor, body_len)) => {
                        let descriptor_at = trailer_at + TRAILER_HEADER_BYTES;
                        let length = place.length(align);
                        let small = promote && length as usize <= STEP_BYTES;
                        if small && !self.mutant(Mutant::SkipCheck) && !descriptor.verify(&buf[..length as usize]) {
                            self.drop_bad(ns, &key, place);
                            self.segments.unpin(place.segment);
                            return miss(MissReason::Corrupt);
                        }
                        let data = buf.freeze();
                        let range = descriptor_at..descriptor_at + body_len;
                        let cached = Cached { data: data.clone(), length, descriptor: range.clone() };
                        if small {
                            self.promote(ns, key, place, cached);
                        } else if promote {
                            let purpose = Purpose::Promote { ns, key, place, cached };
                            self.verifies.push_back(VerifyJob::new(data.clone(), descriptor, purpose));
                        }
                        let payload = (want.start - from) as usize..(want.end - from) as usize;
                        let found = Found {
                            tier: Tier::Nvme,
                            descriptor_in: data.clone(),
                            data,
                            payload,
                            descriptor: range,
                            offset: want.start,
                            block_length: length,
                        };
                        (token, GetResult::Found(found))
                    }
                }
            }
        };
        self.segments.unpin(place.segment);
        ended
    }

    /// Takes a verified record that was read into DRAM, unless it has gone or moved meanwhile.
    pub(crate) fn promote(&mut self, ns: u16, key: Key, place: Place, cached: Cached) {
        if self.dram.contains(ns, &key) {
            return;
        }
        if self.cache(ns, key, place, cached) {
            self.counted.promotions += 1;
        }
    }

    /// Takes a verified record into DRAM. False: it has gone or moved meanwhile.
    pub(crate) fn cache(&mut self, ns: u16, key: Key, place: Place, cached: Cached) -> bool {
        let Some(entry) = self.index.find_mut(ns, &key).filter(|e| e.place() == place) else { return false };
        entry.set_in_dram(true);
        let rank = self.policy.rank_in_dram(None, entry.rank);
        self.dram.insert(ns, key, rank, cached);
        true
    }
}

fn lane_for(bytes: usize) -> Lane {
    if bytes <= SMALL_GET_BYTES { Lane::SmallGet } else { Lane::LargeGet }
}

fn found_in(data: &Shared, block_length: u64, descriptor: Range<usize>, tier: Tier, want: Range<u64>) -> Found {
    Found {
        tier,
        data: data.clone(),
        payload: want.start as usize..want.end as usize,
        descriptor_in: data.clone(),
        descriptor,
        offset: want.start,
        block_length,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_widened_to_whole_pieces() {
        let piece = PIECE_BYTES as u64;
        assert_eq!(whole_pieces(0, 0, 100), 0..100);
        assert_eq!(whole_pieces(10, 20, 100), 0..100);
        assert_eq!(whole_pieces(piece + 1, 1, 5 * piece), piece..2 * piece);
        assert_eq!(whole_pieces(piece, 0, 2 * piece + 7), piece..2 * piece + 7);
        assert_eq!(whole_pieces(2 * piece, u64::MAX, 2 * piece + 7), 2 * piece..2 * piece + 7);
        assert_eq!(whole_pieces(9 * piece, 5, 2 * piece), 2 * piece..2 * piece);
    }
}
