//! Scanning a segment that was open: finding its records without a footer.
//!
//! A record's trailer stands behind its payload. The scan looks for trailers at every aligned place; one counts when it carries the stamp of the
//! segment's opening, which no payload can forge. Then the payload before it is read again and checked. Completions of the dead owner came out of
//! order, so a bad record says nothing about those behind it.

use forebay_format::{
    EntryKind, FooterEntry, RecordKind, SEGMENT_HEADER_BYTES, TRAILER_BODY_BYTES_MAX, TrailerView, decode_tombstones,
    decode_trailer, trailer_len,
};
use forebay_io::{Arena, Disk};
use forebay_types::limits::PIECE_BYTES;
use forebay_types::{Descriptor, verify_range};

use crate::blocking::read_one;
use crate::face::StoreError;
use crate::forget::footer_entry;
use crate::segments::Geometry;

/// Bytes looked at in one read, beside what a trailer that begins in them may need.
const WINDOW_BYTES: usize = 1 << 20;

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
        let len = (WINDOW_BYTES + overlap).min(size - at);
        let end = (at + WINDOW_BYTES).min(size);
        let window_at = at;
        let Ok(window) = read_one(disk, arena, base + at as u64, len)? else {
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
                Some(start) if trailer_end <= size => record(disk, arena, base, start, &view, align, check)?,
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

/// The entries of a record, if it is whole.
fn record(
    disk: &mut impl Disk,
    arena: &Arena,
    base: u64,
    start: usize,
    view: &TrailerView<'_>,
    align: usize,
    check: bool,
) -> Result<Option<Vec<FooterEntry>>, StoreError> {
    if view.kind == RecordKind::Tombstones {
        return Ok(decode_tombstones(view.body).ok().map(|list| list.map(|t| footer_entry(&t)).collect()));
    }
    let Ok(descriptor) = Descriptor::decode(view.body) else { return Ok(None) };
    let meta = &descriptor.meta;
    let length = meta.length as usize;
    if length.next_multiple_of(align) != view.payload_padded as usize {
        return Ok(None);
    }
    let binding = meta.binding();
    let mut at = 0;
    while check && at < length {
        let end = (at + WINDOW_BYTES).min(length);
        let Ok(bytes) = read_one(disk, arena, base + (start + at) as u64, (end - at).next_multiple_of(align))? else {
            return Ok(None);
        };
        if !verify_range(&descriptor.sums.0, &binding, at / PIECE_BYTES, &bytes[..end - at]) {
            return Ok(None);
        }
        at = end;
    }
    Ok(Some(vec![FooterEntry {
        kind: EntryKind::Block,
        namespace: meta.namespace,
        key: meta.key,
        version: meta.version,
        seq: view.seq,
        length: meta.length as u32,
        start: 0,
        record_bytes: 0,
        rank: 0,
        expiry_utc_s: meta.expiry_utc_s,
    }]))
}
