//! Records, one by one: is each whole, and is it the one its segment lists?

use forebay_format::{
    EntryKind, FooterEntry, RecordKind, SEGMENT_HEADER_BYTES, TRAILER_BODY_BYTES_MAX, TrailerView, decode_tombstones,
    decode_trailer, trailer_len,
};
use forebay_types::{Descriptor, Key, verify_range};

use super::Report;
use super::read::Reader;

/// Bytes looked at in one read of a scan, beside what a trailer that begins in them may need.
const WINDOW_BYTES: usize = 1 << 20;

/// The opening of a segment to which its records belong.
pub(super) struct Opening {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) align: usize,
    pub(super) generation: u64,
    pub(super) nonce: u64,
}

/// Reads a record that a footer lists, and says what is wrong with it.
pub(super) fn verify(reader: &Reader, opening: &Opening, entry: &FooterEntry, report: &mut Report) {
    let at = opening.offset + u64::from(entry.start);
    if let Err(why) = check(reader, opening, entry) {
        let what = match entry.kind {
            EntryKind::Block => format!("a block of {} bytes in namespace {}", entry.length, entry.namespace.0),
            EntryKind::Tombstone => format!("a tombstone in namespace {}", entry.namespace.0),
        };
        report.damaged(at, format!("{what}: {why}"), Some(entry.key));
    }
}

fn check(reader: &Reader, opening: &Opening, entry: &FooterEntry) -> Result<(), String> {
    let (start, len, align) = (u64::from(entry.start), entry.record_bytes as usize, opening.align);
    if start + len as u64 > opening.bytes {
        return Err("its footer places it outside its segment".into());
    }
    let padded = match entry.kind {
        EntryKind::Block => (entry.length as usize).next_multiple_of(align),
        EntryKind::Tombstone => 0,
    };
    if padded >= len {
        return Err("its footer gives it no room for a trailer".into());
    }
    let bytes = reader.read(opening.offset + start, len)?;
    let view = decode_trailer(&bytes[padded..]).map_err(|e| e.to_string())?;
    if !view.belongs_to(opening.generation, opening.nonce) {
        return Err("its trailer is of another opening of the segment".into());
    }
    let found = record(&view, &bytes[..padded], align)?;
    let right = |one: &FooterEntry| {
        (one.kind, one.namespace, one.key, one.version, one.seq, one.length)
            == (entry.kind, entry.namespace, entry.key, entry.version, entry.seq, entry.length)
    };
    if found.iter().any(right) { Ok(()) } else { Err("another record lies where its footer places it".into()) }
}

/// Entries of a record whose trailer is whole, if its payload is too. Its place is not known here.
fn record(view: &TrailerView<'_>, payload: &[u8], align: usize) -> Result<Vec<FooterEntry>, String> {
    if view.kind == RecordKind::Tombstones {
        let list = decode_tombstones(view.body).map_err(|e| e.to_string())?;
        return Ok(list.map(|t| FooterEntry::of_tombstone(&t)).collect());
    }
    let descriptor = Descriptor::decode(view.body).map_err(|e| e.to_string())?;
    let meta = &descriptor.meta;
    let length = meta.length as usize;
    if view.payload_padded as usize != payload.len() || length.next_multiple_of(align) != payload.len() {
        return Err("its lengths contradict each other".into());
    }
    if !verify_range(&descriptor.sums.0, &meta.binding(), 0, &payload[..length]) {
        return Err("its bytes do not match their sums".into());
    }
    Ok(vec![FooterEntry::of_block(meta, view.seq)])
}

/// Finds the records of a segment without a footer, as a start does: what is not whole was being written, or is damaged, and nobody can tell which.
pub(super) fn scan(reader: &Reader, opening: &Opening, report: &mut Report) -> Vec<FooterEntry> {
    let (align, size) = (opening.align, opening.bytes as usize);
    let overlap = trailer_len(TRAILER_BODY_BYTES_MAX, align);
    let mut found = Vec::new();
    let (mut taken, mut at) = (SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES);
    while at < size {
        let (window_at, end) = (at, (at + WINDOW_BYTES).min(size));
        let window = match reader.read(opening.offset + at as u64, (WINDOW_BYTES + overlap).min(size - at)) {
            Ok(window) => window,
            Err(why) => {
                report.damaged(opening.offset + at as u64, format!("a stretch of {} bytes: {why}", end - at), None);
                at = end;
                continue;
            }
        };
        while at < end {
            let view = decode_trailer(&window[at - window_at..]).ok();
            let Some(view) = view.filter(|view| view.belongs_to(opening.generation, opening.nonce)) else {
                at += align;
                continue;
            };
            let trailer_end = at + view.len_padded(align);
            let start = at.checked_sub(view.payload_padded as usize).filter(|start| *start >= taken);
            let whole = match start {
                Some(start) if trailer_end <= size => payload(reader, opening, start, at)
                    .and_then(|payload| record(&view, &payload, align))
                    .map(|entries| (start, entries)),
                _ => Err("it overlaps the one before it, or its segment's end".into()),
            };
            match whole {
                Ok((start, entries)) => {
                    let (start, record_bytes) = (start as u32, (trailer_end - start) as u32);
                    found.extend(entries.into_iter().map(|entry| FooterEntry { start, record_bytes, ..entry }));
                    (taken, at) = (trailer_end, trailer_end);
                }
                Err(why) => {
                    let what = format!("a record of a segment that was open: {why}");
                    let begins = opening.offset + at.saturating_sub(view.payload_padded as usize) as u64;
                    report.damaged(begins, what, key(&view));
                    at += align;
                }
            }
        }
    }
    found
}

fn payload(reader: &Reader, opening: &Opening, start: usize, end: usize) -> Result<Vec<u8>, String> {
    reader.read(opening.offset + start as u64, end - start)
}

fn key(view: &TrailerView<'_>) -> Option<Key> {
    (view.kind == RecordKind::Block).then(|| Descriptor::decode(view.body).ok()).flatten().map(|found| found.meta.key)
}
