//! Getting a range that does not reach its block's end: pieces and trailer are read apart, and answered when both are there.

use std::ops::Range;

use forebay_format::{TRAILER_HEADER_BYTES, decode_trailer};
use forebay_io::{Disk, DiskError, ReadInto, Shared};
use forebay_types::{Key, Millis, MissReason, Tier};

use crate::face::{Found, GetResult};
use crate::index::Place;
use crate::store::Store;

/// A range that does not reach its block's end: its pieces and the trailer are read apart.
pub(crate) struct RangeGet {
    pub(crate) token: u64,
    ns: u16,
    key: Key,
    place: Place,
    want: Range<u64>,
    pieces: Option<Shared>,
    trailer: Option<Shared>,
    pub(crate) failed: Option<MissReason>,
    left: u8,
    depth: u32,
}

impl RangeGet {
    /// Both reads are to come.
    pub(crate) fn new(token: u64, (ns, key, place): (u16, Key, Place), want: Range<u64>, depth: u32) -> Self {
        RangeGet { token, ns, key, place, want, pieces: None, trailer: None, failed: None, left: 2, depth }
    }
}

impl<D: Disk> Store<D> {
    pub(crate) fn range_done(
        &mut self,
        now: Millis,
        number: u64,
        is_pieces: bool,
        result: Result<(), DiskError>,
        read: Option<ReadInto>,
    ) {
        let Some(range) = self.ranges.get_mut(number) else { return };
        let segment = range.place.segment;
        range.left -= 1;
        match (result, read) {
            (Ok(()), Some(ReadInto::Buf(buf))) => {
                self.counted.read_bytes += buf.len() as u64;
                let part = if is_pieces { &mut range.pieces } else { &mut range.trailer };
                *part = Some(buf.freeze());
            }
            _ => range.failed = range.failed.or(Some(MissReason::Unavailable)),
        }
        let last = range.left == 0;
        if last && let Some(range) = self.ranges.remove(number) {
            let token = range.token;
            if range.failed.is_none() && self.is_displaced(range.ns, &range.key, range.place) {
                let block = range.place.length(self.geometry.align);
                self.get_again(now, token, (range.ns, range.key), range.want, block, None);
            } else {
                let result = self.range_ended(range);
                self.got(token, result);
            }
        }
        self.segments.unpin(segment);
    }

    fn range_ended(&mut self, range: RangeGet) -> GetResult {
        let RangeGet { ns, key, place, want, pieces, trailer, failed, depth, .. } = range;
        if let Some(reason) = failed.or_else(|| self.gone(ns, &key)) {
            return GetResult::Miss(reason);
        }
        let Some((pieces, trailer)) = pieces.zip(trailer) else { return GetResult::Miss(MissReason::Unavailable) };
        let checked = decode_trailer(&trailer)
            .ok()
            .filter(|view| self.is_record_of(view, ns, &key, place).is_some())
            .map(|view| view.body.len());
        let Some(body_len) = checked else {
            self.drop_bad(ns, &key, place);
            return GetResult::Miss(MissReason::Corrupt);
        };
        self.count_found(ns, depth, want.end - want.start);
        GetResult::Found(Found {
            tier: Tier::Nvme,
            payload: 0..(want.end - want.start) as usize,
            data: pieces,
            descriptor_in: trailer,
            descriptor: TRAILER_HEADER_BYTES..TRAILER_HEADER_BYTES + body_len,
            offset: want.start,
            block_length: place.length(self.geometry.align),
        })
    }
}
