//! Taking what footers and scans list into the index: of each key the newest record, under the index's ceiling.

use std::collections::BTreeMap;

use forebay_format::{EntryKind, FOOTER_TAIL_BYTES, FooterEntry, SEGMENT_HEADER_BYTES, SegmentKind};
use forebay_types::{Key, NamespaceId};

use crate::face::RecoveryReport;
use crate::index::{AGE_MAX, Entry, Index, Place};
use crate::namespaces::Namespaces;
use crate::segments::{Geometry, Segments};

/// Footer entries whose places in the index are looked for side by side: enough to hide the wait for memory, few enough to stay in the nearest cache.
const LOOK_AHEAD: usize = 64;

/// What the drive's records say, beside where blocks are.
pub(crate) struct Findings {
    /// Of each key that was forgotten the highest number, and the segment that says so; of two with the same one the older.
    pub(crate) tombstones: BTreeMap<(NamespaceId, Key), (u64, u16)>,
    pub(crate) seq_max: u64,
    /// Ages in the index are counted from here.
    pub(crate) age_base: u64,
}

impl Findings {
    /// How old a number is, in the bits an index entry can spare: only those so far apart that no drive holds both are confused.
    pub(crate) fn age(&self, seq: u64) -> u64 {
        seq.saturating_sub(self.age_base).min(AGE_MAX)
    }

    /// Tells segments what they hold beside what lives.
    pub(crate) fn note(&self, segments: &mut Segments) {
        for (seq, segment) in self.tombstones.values() {
            segments.note_written(*segment, 0, 1, *seq);
        }
        for s in segments.iter_mut().filter(|s| !s.has_blocks) {
            s.oldest_on_disk = 0;
        }
    }
}

/// An entry of a footer, on its way into the index.
struct Found {
    hash: u64,
    ns: u16,
    place: Place,
    entry: FooterEntry,
}

/// Takes entries of footers and scans into the index.
pub(crate) struct Taking<'a> {
    pub(crate) geometry: Geometry,
    pub(crate) index: &'a mut Index,
    pub(crate) segments: &'a mut Segments,
    pub(crate) namespaces: &'a Namespaces,
    pub(crate) found: &'a mut Findings,
    pub(crate) report: &'a mut RecoveryReport,
}

impl Taking<'_> {
    /// Takes the entries of one segment.
    pub(crate) fn take_all(&mut self, segment: u16, entries: impl Iterator<Item = FooterEntry>) {
        let mut ahead: Vec<Found> = Vec::with_capacity(LOOK_AHEAD);
        let mut has_blocks = false;
        for entry in entries {
            self.found.seq_max = self.found.seq_max.max(entry.seq);
            match entry.kind {
                EntryKind::Tombstone => self.bury(segment, &entry),
                EntryKind::Block => {
                    has_blocks = true;
                    ahead.extend(self.judge(segment, entry));
                }
            }
            if ahead.len() == LOOK_AHEAD {
                ahead.drain(..).for_each(|found| self.take(&found));
            }
        }
        ahead.drain(..).for_each(|found| self.take(&found));
        self.segments.get_mut(segment).has_blocks |= has_blocks;
    }

    /// A tombstone with a higher number does all that one with a lower does. The same one twice was moved, and counts where it came from: then the copy
    /// needs no place of its own.
    fn bury(&mut self, segment: u16, entry: &FooterEntry) {
        let generation = self.segments.get(segment).generation;
        let held = self.found.tombstones.entry((entry.namespace, entry.key)).or_insert((entry.seq, segment));
        let older = generation < self.segments.get(held.1).generation;
        if entry.seq > held.0 || entry.seq == held.0 && older {
            *held = (entry.seq, segment);
        }
    }

    /// Where an entry's block would stand, if it can be one, and the memory there on its way.
    fn judge(&mut self, segment: u16, entry: FooterEntry) -> Option<Found> {
        let Some(place) = self.place(segment, &entry) else {
            self.report.bad_records += 1;
            return None;
        };
        let Some(ns) = self.namespaces.find(entry.namespace) else {
            self.report.unknown_namespace += 1;
            return None;
        };
        let hash = self.index.hash(ns, &entry.key);
        self.index.look_ahead(hash);
        Some(Found { hash, ns, place, entry })
    }

    fn take(&mut self, found: &Found) {
        let Found { hash, ns, place, entry } = found;
        let (hash, ns, place) = (*hash, *ns, *place);
        let age = self.found.age(entry.seq);
        if let Some(held) = self.index.find_hashed(hash, ns, &entry.key) {
            let (new, old) = (self.segments.get(place.segment), self.segments.get(held.segment()));
            // The same record twice: it was moved. Of the cache the later copy counts, whose segment is not about to be reused. A durable segment is
            // free only when its header is written over, and until then counts as if nothing had been moved: so a crash in the middle of cleaning
            // costs no room.
            let later = match new.kind {
                SegmentKind::Durable => new.generation < old.generation,
                _ => new.generation > old.generation,
            };
            if age > held.age() || age == held.age() && later {
                held.set_place(place);
                held.set_age(age);
                if entry.expiry_utc_s != 0 || self.index.any_expire() {
                    self.index.set_expiry(ns, &entry.key, entry.expiry_utc_s);
                }
            }
            return;
        }
        if let Some(table) = self.index.full_table_of(hash) {
            self.make_room(table);
        }
        let mut new = Entry::new(ns, entry.key, 0, place);
        new.set_age(age);
        self.index.insert_hashed(hash, new, entry.expiry_utc_s);
    }

    /// The index is full: a table loses its oldest blocks of the cache. Durable ones stay, whatever they cost.
    fn make_room(&mut self, table: usize) {
        let mut oldest: Vec<(u64, u16, Key)> = self
            .index
            .table(table)
            .filter(|e| !self.namespaces.is_durable(e.ns))
            .map(|e| (e.age(), e.ns, e.key))
            .collect();
        oldest.sort_unstable_by_key(|(age, ..)| *age);
        oldest.truncate(oldest.len().div_ceil(16));
        for (_, ns, key) in oldest {
            self.index.remove(ns, &key);
            self.report.over_index += 1;
        }
    }

    fn place(&self, segment: u16, entry: &FooterEntry) -> Option<Place> {
        let align = self.geometry.align as u32;
        let layout = &self.geometry.layout;
        let end = u64::from(entry.start) + u64::from(entry.record_bytes);
        let inside = entry.start >= SEGMENT_HEADER_BYTES as u32
            && end <= layout.segment_bytes - FOOTER_TAIL_BYTES as u64
            && entry.start.is_multiple_of(align)
            && entry.record_bytes.is_multiple_of(align)
            && (1..=layout.block_bytes_max()).contains(&u64::from(entry.length));
        let payload_units = entry.length.div_ceil(align);
        let trailer_units = (entry.record_bytes / align).checked_sub(payload_units)?;
        let tail = payload_units * align - entry.length;
        (inside && (1..32).contains(&trailer_units)).then_some(Place {
            segment,
            page: entry.start / align,
            payload_units,
            trailer_units,
            tail,
        })
    }
}
