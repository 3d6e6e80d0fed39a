//! A slice: its superblocks, its tables of namespaces, its segments, and what of their records a start would find.

use std::collections::BTreeMap;

use forebay_format::layout::{NAMESPACE_TABLES_AT, SLICE_SUPERBLOCKS_AT};
use forebay_format::{
    EntryKind, FOOTER_TAIL_BYTES, FooterEntry, FooterTail, NAMESPACE_TABLE_BYTES_MAX, NamespaceTable,
    SEGMENT_HEADER_BYTES, SUPERBLOCK_BYTES, SegmentHeader, SliceLayout, SliceSuperblock, footer_bytes,
    footer_entries_bytes,
};

use super::read::Reader;
use super::records::{Opening, scan, verify};
use super::{Held, Report, Segment, Slice};

/// Entries kept to tell which of a key's records is the newest, 40 bytes each.
const ENTRIES_MAX: usize = 1 << 26;

/// Which slice, and how closely to look.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) len: u64,
    pub(super) verify: bool,
}

/// What is needed of a record to know whether a start would find it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Trace {
    namespace: u32,
    key: [u8; 16],
    seq: u64,
    /// 0 for a tombstone.
    length: u32,
    /// Seconds since 1970, as far as 32 bits go; 0 never.
    expiry_utc_s: u32,
}

const _: () = assert!(size_of::<Trace>() == 40);

/// Looks at a slice. `progress` hears of bytes of it that are done.
pub(super) fn look(reader: &Reader, place: Place, report: &mut Report, progress: &mut dyn FnMut(u64)) {
    let mut slice = Slice { offset: place.offset, ..Slice::default() };
    if let Some((superblock, layout)) = superblock(reader, place, report) {
        slice.shard = Some(superblock.shard);
        slice.segment_bytes = layout.segment_bytes;
        slice.created_utc_s = superblock.created_utc_s;
        let table = names(reader, place, report);
        let mut traces = Vec::new();
        for index in 0..layout.segments {
            let at = layout.segment_at(index);
            let one = Looking { reader, place, layout, superblock, index, offset: place.offset + at };
            slice.segments.push(one.segment(report, &mut traces));
            progress(at + layout.segment_bytes);
        }
        slice.blocks = traces.iter().filter(|trace| trace.length > 0).count() as u64;
        slice.tombstones = traces.len() as u64 - slice.blocks;
        slice.names_sequence = table.sequence;
        (slice.namespaces, slice.expired) = count(table, traces);
        slice.live = slice.namespaces.iter().map(|held| held.blocks).sum();
    }
    report.slices.push(slice);
}

fn superblock(reader: &Reader, place: Place, report: &mut Report) -> Option<(SliceSuperblock, SliceLayout)> {
    let copies = SLICE_SUPERBLOCKS_AT.map(|at| {
        let page = reader.read(place.offset + at, SUPERBLOCK_BYTES)?;
        SliceSuperblock::decode(&page).map_err(|e| e.to_string())
    });
    for (at, copy) in SLICE_SUPERBLOCKS_AT.iter().zip(&copies) {
        if let Err(why) = copy {
            report.damaged(place.offset + at, format!("a copy of the shard's superblock: {why}"), None);
        }
    }
    let found = match copies {
        [Ok(a), Ok(b)] if a != b => {
            report.damaged(place.offset, "the two copies of the shard's superblock differ".into(), None);
            return None;
        }
        [Ok(one), _] | [_, Ok(one)] => one,
        _ => return None,
    };
    match found.layout(place.len, found.align as usize) {
        Ok(layout) => Some((found, layout)),
        Err(error) => {
            report.damaged(place.offset, error.to_string(), None);
            None
        }
    }
}

/// The table that counts. One copy that was never written, and one that a newer one has left behind half overwritten, are as they should be.
fn names(reader: &Reader, place: Place, report: &mut Report) -> NamespaceTable {
    let tables = NAMESPACE_TABLES_AT.map(|at| {
        let bytes = reader.read(place.offset + at, NAMESPACE_TABLE_BYTES_MAX).unwrap_or_default();
        NamespaceTable::decode(&bytes)
    });
    for (at, table) in NAMESPACE_TABLES_AT.iter().zip(&tables) {
        if let Err(error) = table
            && !error.is_foreign()
        {
            let what = format!("a copy of the table of namespaces: {error}");
            report.damaged(place.offset + at, what, None);
        }
    }
    let newest = tables.into_iter().filter_map(Result::ok).max_by_key(|table| table.sequence);
    newest.unwrap_or_else(|| {
        let what = "no table of namespaces can be read: a start would take every block for nobody's".to_owned();
        report.damaged(place.offset + NAMESPACE_TABLES_AT[0], what, None);
        NamespaceTable::default()
    })
}

struct Looking<'a> {
    reader: &'a Reader,
    place: Place,
    layout: SliceLayout,
    superblock: SliceSuperblock,
    index: u32,
    /// From the drive's start.
    offset: u64,
}

impl Looking<'_> {
    fn segment(&self, report: &mut Report, traces: &mut Vec<Trace>) -> Segment {
        let mut segment =
            Segment { offset: self.offset, kind: None, generation: 0, sealed: false, records: 0, bytes: 0 };
        let Some(header) = self.header(report) else { return segment };
        (segment.kind, segment.generation) = (Some(header.kind), header.generation);
        let opening = Opening {
            offset: self.offset,
            bytes: self.layout.segment_bytes,
            align: self.layout.align,
            generation: header.generation,
            nonce: header.nonce,
        };
        let entries = match self.footer(&header, report) {
            Some(entries) => {
                segment.sealed = true;
                if self.place.verify {
                    entries.iter().for_each(|entry| verify(self.reader, &opening, entry, report));
                }
                entries
            }
            None => scan(self.reader, &opening, report),
        };
        let records: BTreeMap<u32, u32> = entries.iter().map(|entry| (entry.start, entry.record_bytes)).collect();
        segment.records = records.len() as u32;
        segment.bytes = records.values().map(|bytes| u64::from(*bytes)).sum();
        let room = ENTRIES_MAX.saturating_sub(traces.len());
        traces.extend(entries.iter().take(room).map(trace));
        segment
    }

    fn header(&self, report: &mut Report) -> Option<SegmentHeader> {
        let decoded = self.reader.read(self.offset, SEGMENT_HEADER_BYTES).map(|page| SegmentHeader::decode(&page));
        match decoded {
            Ok(Ok(header)) if header.shard == self.superblock.shard && header.index == self.index => Some(header),
            // Never opened, or left from an earlier formatting.
            Ok(Ok(_)) => None,
            Ok(Err(error)) if error.is_foreign() => None,
            Ok(Err(error)) => {
                report.damaged(
                    self.offset,
                    format!("the header of segment {}: {error}; what it held is lost", self.index),
                    None,
                );
                None
            }
            Err(why) => {
                report.damaged(
                    self.offset,
                    format!("the header of segment {}: {why}; what it held is lost", self.index),
                    None,
                );
                None
            }
        }
    }

    /// What the footer lists, if there is one of this opening.
    fn footer(&self, header: &SegmentHeader, report: &mut Report) -> Option<Vec<FooterEntry>> {
        let end = self.offset + self.layout.segment_bytes;
        let tail = self.reader.read(end - FOOTER_TAIL_BYTES as u64, FOOTER_TAIL_BYTES);
        let tail = match tail.map(|page| FooterTail::decode(&page)) {
            Ok(Ok(tail)) => tail,
            // Records lie there, or nothing: the segment was open.
            Ok(Err(error)) if error.is_foreign() => return None,
            Ok(Err(error)) => return self.no_footer(&error.to_string(), report),
            Err(why) => return self.no_footer(&why, report),
        };
        if (tail.generation, tail.nonce, tail.kind) != (header.generation, header.nonce, header.kind) {
            // Of an opening before: the segment was open.
            return None;
        }
        let (all, entries) =
            (footer_bytes(tail.count, self.layout.align), footer_entries_bytes(tail.count, self.layout.align));
        let place = (all + SEGMENT_HEADER_BYTES) as u64 <= self.layout.segment_bytes;
        let read = if place { self.reader.read(end - all as u64, entries) } else { Err("it does not fit".into()) };
        let listed = read.and_then(|bytes| tail.entries(&bytes).map(Iterator::collect).map_err(|e| e.to_string()));
        match listed {
            Ok(entries) => Some(entries),
            Err(why) => self.no_footer(&why, report),
        }
    }

    /// It was cut off by a crash, or is damaged; a start scans the segment either way.
    fn no_footer(&self, why: &str, report: &mut Report) -> Option<Vec<FooterEntry>> {
        let at = self.offset + self.layout.segment_bytes - FOOTER_TAIL_BYTES as u64;
        let what = format!("the footer of segment {}: {why}; a start scans the segment", self.index);
        report.damaged(at, what, None);
        None
    }
}

fn trace(entry: &FooterEntry) -> Trace {
    let length = if entry.kind == EntryKind::Tombstone { 0 } else { entry.length.max(1) };
    let expiry_utc_s = u32::try_from(entry.expiry_utc_s).unwrap_or(u32::MAX);
    Trace { namespace: entry.namespace.0, key: entry.key.0, seq: entry.seq, length, expiry_utc_s }
}

/// What each namespace holds: of each key the record with the highest number, unless a tombstone has one as high, or the drive knows it to be over.
/// And how many are.
fn count(table: NamespaceTable, mut traces: Vec<Trace>) -> (Vec<Held>, u64) {
    let (clock, mut expired) = (table.clock, 0);
    let mut held: BTreeMap<u32, Held> =
        table.rows.into_iter().map(|row| (row.id.0, Held { row, blocks: 0, bytes: 0 })).collect();
    traces.sort_unstable();
    // Sorted, the last of a key's is the newest; of equal numbers a tombstone comes first, and a moved record twice.
    for group in traces.chunk_by(|a, b| (a.namespace, a.key) == (b.namespace, b.key)) {
        if let Some(newest) = group.last()
            && newest.length > 0
            && let Some(held) = held.get_mut(&newest.namespace)
        {
            if clock.is_over(newest.expiry_utc_s.into(), newest.seq) {
                expired += 1;
                continue;
            }
            held.blocks += 1;
            held.bytes += u64::from(newest.length);
        }
    }
    (held.into_values().collect(), expired)
}

#[cfg(test)]
mod tests {
    use super::*;
    use forebay_format::{ClockMark, NamespaceRow};
    use forebay_types::{Class, Fingerprint, NamespaceId, Tenant};

    #[test]
    fn what_is_over_is_not_what_a_start_finds() {
        let row = NamespaceRow {
            id: NamespaceId(1),
            name: "a".into(),
            tenant: Tenant(0),
            class: Class::Cache,
            fingerprint: Fingerprint::default(),
            quota_bytes: None,
            ttl_s: None,
        };
        let clock = ClockMark { utc_s: 1000, old_utc_s: 5000, old_seq: 10 };
        let table = NamespaceTable { sequence: 1, clock, rows: vec![row], ..NamespaceTable::default() };
        let one =
            |key: u8, seq, length, expiry_utc_s| Trace { namespace: 1, key: [key; 16], seq, length, expiry_utc_s };
        let traces = vec![
            one(1, 20, 7, 0),
            // Over since the drive's time, and one that is not yet.
            one(2, 21, 7, 1000),
            one(3, 22, 7, 1001),
            // Over by a time that was once believed, for records of then.
            one(4, 9, 7, 1001),
            one(5, 10, 7, 1001),
            // What an older record of the key says does not count, and what is forgotten is not over.
            one(6, 1, 7, 0),
            one(6, 23, 7, 5),
            one(7, 24, 7, 5),
            one(7, 25, 0, 0),
        ];
        let (held, expired) = count(table, traces);
        assert_eq!((held[0].blocks, held[0].bytes, expired), (3, 21, 3));
    }
}
