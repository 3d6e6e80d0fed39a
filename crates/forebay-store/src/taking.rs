//! Taking what footers and scans list into the index: of each key the newest record, under the index's ceiling.

use std::collections::BTreeMap;

use forebay_format::{EntryKind, FOOTER_TAIL_BYTES, FooterEntry, SEGMENT_HEADER_BYTES};
use forebay_types::{Key, NamespaceId};

use crate::face::RecoveryReport;
use crate::index::{AGE_MAX, Entry, Index, Place};
use crate::namespaces::Namespaces;
use crate::segments::{Geometry, Segments};

/// Footer entries whose places in the index are looked for side by side: enough to hide the wait for memory, few enough to stay in the nearest cache.
const LOOK_AHEAD: usize = 64;

/// What the drive's records say, beside where blocks are.
pub(crate) struct Findings {
    pub(crate) tombstones: BTreeMap<(NamespaceId, Key), u64>,
    pub(crate) seq_max: u64,
    /// Ages in the index are counted from here.
    pub(crate) age_base: u64,
}

impl Findings {
    /// How old a number is, in the bits an index entry can spare: only those so far apart that no drive holds both are confused.
    pub(crate) fn age(&self, seq: u64) -> u64 {
        seq.saturating_sub(self.age_base).min(AGE_MAX)
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
        for entry in entries {
            self.found.seq_max = self.found.seq_max.max(entry.seq);
            match entry.kind {
                EntryKind::Tombstone => {
                    let s = self.segments.get_mut(segment);
                    s.tombstone_seq_max = s.tombstone_seq_max.max(entry.seq);
                    let seq = self.found.tombstones.entry((entry.namespace, entry.key)).or_default();
                    *seq = (*seq).max(entry.seq);
                }
                EntryKind::Block => ahead.extend(self.judge(segment, entry)),
            }
            if ahead.len() == LOOK_AHEAD {
                ahead.drain(..).for_each(|found| self.take(&found));
            }
        }
        ahead.drain(..).for_each(|found| self.take(&found));
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
            let generation = self.segments.get(place.segment).generation;
            // The same record twice: it was moved, and the later copy is the one whose segment is not about to be reused.
            if (age, generation) > (held.age(), self.segments.get(held.segment()).generation) {
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
