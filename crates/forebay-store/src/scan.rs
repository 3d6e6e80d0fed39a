//! Scanning a segment that was open: finding its records without a footer.
//!
//! A record's trailer stands behind its payload. The scan looks for trailers at every aligned place; one counts when it carries the stamp of the
//! segment's opening, which no payload can forge. Then the payload before it is read again and checked. Completions of the dead owner came out of
//! order, so a bad record says nothing about those behind it.

use std::ops::Range;

use forebay_format::{
    FooterEntry, RecordKind, SEGMENT_HEADER_BYTES, TRAILER_BODY_BYTES_MAX, TrailerView, decode_tombstones,
    decode_trailer, trailer_len,
};
use forebay_io::{Arena, Buf, Disk};
use forebay_types::limits::PIECE_BYTES;
use forebay_types::{Descriptor, verify_range};

use crate::blocking::read_one;
use crate::face::StoreError;
use crate::segments::Geometry;

/// Bytes looked at in one read, beside what a trailer that begins in them may need.
const WINDOW_BYTES: usize = 1 << 20;

/// Bytes before those that are looked at which a window holds too, at most: the payload of a record that ends in the window lies there, if it is not
/// larger, and need not be read again. A read for each block of 4 KiB would make a scan as slow as the drive is in single reads.
const BEHIND_BYTES: usize = 256 << 10;

/// What a scan found.
pub(crate) struct Scanned {
    pub(crate) entries: Vec<FooterEntry>,
    /// Trailers of this opening whose record is not whole.
    pub(crate) bad: u64,
}

/// Finds the records of the opening with this `(generation, nonce)`.
pub(crate) fn scan_segment(
    disk: &mut impl Disk,
    arena: &Arena,
    geometry: &Geometry,
    segment: u16,
    opening: (u64, u64),
    check: bool,
) -> Result<Scanned, StoreError> {
    let (align, size) = (geometry.align, geometry.layout.segment_bytes as usize);
    let base = geometry.at(segment, 0);
    let overlap = trailer_len(TRAILER_BODY_BYTES_MAX, align);
    let mut scanned = Scanned { entries: Vec::new(), bad: 0 };
    // Everything before is spoken for by the header or a whole record.
    let mut taken = SEGMENT_HEADER_BYTES;
    let mut at = SEGMENT_HEADER_BYTES;
    while at < size {
        let end = (at + WINDOW_BYTES).min(size);
        // The next record's payload begins where the last whole one ended, or behind that.
        let from = taken.max(at.saturating_sub(BEHIND_BYTES)).min(at);
        let span = from..at + (WINDOW_BYTES + overlap).min(size - at);
        let Some((window_at, window)) = window(disk, arena, base, span, at)? else {
            // A spot that cannot be read loses the records in it, not those behind it.
            scanned.bad += 1;
            at = end;
            continue;
        };
        while at < end {
            let view =
                decode_trailer(&window[at - window_at..]).ok().filter(|view| view.belongs_to(opening.0, opening.1));
            let Some(view) = view else {
                at += align;
                continue;
            };
            let trailer_end = at + view.len_padded(align);
            let start = at.checked_sub(view.payload_padded as usize).filter(|start| *start >= taken);
            let entries = match start {
                Some(start) if trailer_end <= size => {
                    let near = start.checked_sub(window_at).map(|from| &window[from..at - window_at]);
                    let mut payload = Payload { disk, arena, from: base + start as u64, near, align };
                    record(&mut payload, &view, check)?
                }
                _ => None,
            };
            match entries {
                Some(entries) => {
                    let start = (at - view.payload_padded as usize) as u32;
                    let record_bytes = trailer_end as u32 - start;
                    scanned.entries.extend(entries.into_iter().map(|e| FooterEntry { start, record_bytes, ..e }));
                    taken = trailer_end;
                    at = trailer_end;
                }
                None => {
                    scanned.bad += 1;
                    at += align;
                }
            }
        }
    }
    Ok(scanned)
}

/// Those bytes of the segment, or, when they cannot be read, what of them is new, from `at` on: a bad spot in what was looked at already must not cost
/// what comes now. With the place where they begin; `None` when neither can be read.
fn window(
    disk: &mut impl Disk,
    arena: &Arena,
    base: u64,
    span: Range<usize>,
    at: usize,
) -> Result<Option<(usize, Buf)>, StoreError> {
    for from in [span.start, at] {
        if let Ok(read) = read_one(disk, arena, base + from as u64, span.end - from)? {
            return Ok(Some((from, read)));
        }
        if from == at {
            break;
        }
    }
    Ok(None)
}

/// Where a record's payload is to be had.
struct Payload<'a, D: Disk> {
    disk: &'a mut D,
    arena: &'a Arena,
    /// Where it begins on the disk.
    from: u64,
    /// All of it, if it is in memory already.
    near: Option<&'a [u8]>,
    align: usize,
}

impl<D: Disk> Payload<'_, D> {
    /// Whether it is what its sums say.
    fn matches(&mut self, descriptor: &Descriptor) -> Result<bool, StoreError> {
        let (binding, length) = (descriptor.meta.binding(), descriptor.meta.length as usize);
        if let Some(near) = self.near {
            return Ok(verify_range(&descriptor.sums.0, &binding, 0, &near[..length]));
        }
        let mut at = 0;
        while at < length {
            let end = (at + WINDOW_BYTES).min(length);
            let len = (end - at).next_multiple_of(self.align);
            let Ok(bytes) = read_one(self.disk, self.arena, self.from + at as u64, len)? else { return Ok(false) };
            if !verify_range(&descriptor.sums.0, &binding, at / PIECE_BYTES, &bytes[..end - at]) {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }
}

/// The entries of a record, if it is whole.
fn record<D: Disk>(
    payload: &mut Payload<'_, D>,
    view: &TrailerView<'_>,
    check: bool,
) -> Result<Option<Vec<FooterEntry>>, StoreError> {
    if view.kind == RecordKind::Tombstones {
        return Ok(decode_tombstones(view.body).ok().map(|list| list.map(|t| FooterEntry::of_tombstone(&t)).collect()));
    }
    let Ok(descriptor) = Descriptor::decode(view.body) else { return Ok(None) };
    let meta = &descriptor.meta;
    if (meta.length as usize).next_multiple_of(payload.align) != view.payload_padded as usize {
        return Ok(None);
    }
    if check && !payload.matches(&descriptor)? {
        return Ok(None);
    }
    Ok(Some(vec![FooterEntry::of_block(meta, view.seq)]))
}
