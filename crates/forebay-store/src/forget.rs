//! Forgetting: a tombstone on the drive kills every older record of a key, also those that the index no longer knows and a start after a crash
//! would find again.

use forebay_format::{
    FooterEntry, RecordKind, SegmentKind, TOMBSTONES_MAX, Tombstone, Trailer, encode_tombstones, encode_trailer,
    tombstones_len, trailer_len,
};
use forebay_io::Disk;
use forebay_types::{Key, Millis, NamespaceId, Version};

use crate::face::Event;
use crate::flush::Action;
use crate::lanes::Lane;
use crate::mutant::Mutant;
use crate::store::Store;
use crate::write::{RecordOf, Whose};

/// Records of tombstones that may wait for a place. Each is one request; further ones are told that they failed.
const WAITING_MAX: usize = 1024;

impl<D: Disk> Store<D> {
    /// Forgets blocks: true for each that was here. They are not served any more when this returns; [`Event::Forgotten`] follows when they never
    /// will be again.
    ///
    /// A tombstone is written also for a key that is not here: it may have been evicted, and its record may still be found by a start after a crash.
    pub fn forget(&mut self, _now: Millis, token: u64, ns: NamespaceId, keys: &[Key]) -> Vec<bool> {
        let Some(at) = self.namespaces.find(ns) else {
            // Nothing of it is served, and its records are dead: numbers of namespaces are never used again.
            self.events.push(Event::Forgotten { token, ok: true });
            return vec![false; keys.len()];
        };
        let mut was_here = Vec::with_capacity(keys.len());
        for key in keys {
            let dropped = self.drop_entry(at, key).is_some();
            self.ghosts.remove(self.index.seed().hash(at, key));
            self.expired.remove(self.index.seed().hash(at, key));
            self.counted.forgotten += u64::from(dropped);
            was_here.push(dropped);
        }
        if keys.is_empty() || self.mutant(Mutant::ForgetNotWritten) {
            self.events.push(Event::Forgotten { token, ok: true });
            return was_here;
        }
        let chunks = keys.len().div_ceil(TOMBSTONES_MAX);
        if self.write_failed || self.tombstones_waiting.len() + chunks > WAITING_MAX {
            self.events.push(Event::Forgotten { token, ok: false });
            return was_here;
        }
        let group = self.forgets.insert((token, chunks, true));
        for chunk in keys.chunks(TOMBSTONES_MAX) {
            // Numbered now: a put of the key that comes next must not be killed by a tombstone that waited.
            let mut list = Vec::with_capacity(chunk.len());
            for key in chunk {
                list.push(Tombstone { namespace: ns, key: *key, version: Version(0), seq: self.number() });
            }
            self.tombstones_waiting.push_back((group, list));
        }
        self.tombstones_step();
        was_here
    }

    /// Writes tombstones that wait for a place. They may use one of the spare segments: forgetting makes room.
    pub(crate) fn tombstones_step(&mut self) {
        while let Some((group, list)) = self.tombstones_waiting.pop_front() {
            if !self.write_tombstones(&list, Whose::Tombstones, Some(Action::Forgot { group })) {
                self.tombstones_waiting.push_front((group, list));
                return;
            }
        }
    }

    /// Writes one record of tombstones. False: no place or no memory yet.
    pub(crate) fn write_tombstones(&mut self, list: &[Tombstone], whose: Whose, action: Option<Action>) -> bool {
        let align = self.geometry.align;
        let body_len = tombstones_len(list.len());
        let bytes = trailer_len(body_len, align);
        let units = (bytes / align) as u32;
        let Some(mut buf) = self.dram.alloc(&self.arena, bytes) else { return false };
        if !self.ensure_place(SegmentKind::Durable, units, list.len(), whose) {
            return false;
        }
        let entries: Vec<FooterEntry> = list.iter().map(FooterEntry::of_tombstone).collect();
        let Some(spot) = self.take_place(SegmentKind::Durable, units, &entries) else { return false };
        let mut body = vec![0; body_len];
        encode_tombstones(list, &mut body);
        let seq = list.iter().map(|t| t.seq).max().unwrap_or(0);
        let trailer = Trailer {
            generation: spot.generation,
            nonce: spot.nonce,
            seq,
            payload_padded: 0,
            kind: RecordKind::Tombstones,
        };
        encode_trailer(&trailer, &body, &mut buf);
        self.counted.meta_bytes += bytes as u64;
        self.write_record(Lane::Put, &spot, buf.freeze(), RecordOf::Tombstones, action);
        true
    }

    pub(crate) fn forgotten(&mut self, group: u64, ok: bool) {
        let Some((token, left, all)) = self.forgets.get_mut(group) else { return };
        *left -= 1;
        *all &= ok;
        if *left == 0 {
            let (token, ok) = (*token, *all);
            self.forgets.remove(group);
            self.events.push(Event::Forgotten { token, ok });
        }
    }
}
