//! Checking sums of large records in steps, so that no turn of the loop is long.

use forebay_format::decode_trailer;
use forebay_io::{Disk, DiskError, ReadInto, Shared};
use forebay_types::limits::{PIECE_BYTES, STEP_BYTES};
use forebay_types::{Descriptor, Key, Millis, NamespaceId, Version, verify_range};

use crate::dram::Cached;
use crate::hints::Fetching;
use crate::index::{Entry, Place};
use crate::lanes::Lane;
use crate::mutant::Mutant;
use crate::store::{Op, Store};

/// A record whose sums are being checked.
pub(crate) struct VerifyJob {
    data: Shared,
    descriptor: Descriptor,
    next_piece: usize,
    purpose: Purpose,
}

/// What for.
pub(crate) enum Purpose {
    /// To be taken into DRAM.
    Promote { ns: u16, key: Key, place: Place, cached: Cached },
    /// Wanted in DRAM before it is asked for.
    Prefetch { fetching: Fetching, cached: Cached },
    /// To be moved out of a victim.
    Move { item: usize },
    /// A client saw bad bytes.
    Suspect { ns: u16, key: Key, place: Place },
    /// A client saw bad bytes, and this is the copy in DRAM.
    SuspectDram { ns: u16, key: Key },
}

impl VerifyJob {
    pub(crate) fn new(data: Shared, descriptor: Descriptor, purpose: Purpose) -> Self {
        VerifyJob { data, descriptor, next_piece: 0, purpose }
    }
}

impl<D: Disk> Store<D> {
    /// One step of the oldest job.
    pub(crate) fn verify_step(&mut self, now: Millis) -> bool {
        let Some(mut job) = self.verifies.pop_front() else { return false };
        let length = job.descriptor.meta.length as usize;
        let start = job.next_piece * PIECE_BYTES;
        let end = (start + STEP_BYTES).min(length);
        let step = job.data.get(start..end);
        let sums = &job.descriptor.sums.0;
        let good = step.is_some_and(|step| verify_range(sums, &job.descriptor.meta.binding(), job.next_piece, step))
            || self.mutant(Mutant::SkipCheck);
        if good && end < length {
            job.next_piece += STEP_BYTES / PIECE_BYTES;
            self.verifies.push_front(job);
            return true;
        }
        let VerifyJob { data, purpose, .. } = job;
        match purpose {
            Purpose::Promote { ns, key, place, cached } if good => {
                self.promote(ns, key, place, cached);
            }
            Purpose::Promote { ns, key, place, .. } | Purpose::Suspect { ns, key, place } => {
                if !good {
                    self.drop_bad(ns, &key, place);
                }
            }
            Purpose::SuspectDram { ns, key } => {
                if !good {
                    self.counted.corrupt += 1;
                    self.dram.remove(ns, &key);
                    if let Some(entry) = self.index.find_mut(ns, &key) {
                        entry.set_in_dram(false);
                    }
                }
            }
            Purpose::Prefetch { fetching, cached } => {
                self.prefetch_verified(fetching, cached, good);
            }
            Purpose::Move { item } => self.move_verified(now, item, data, good),
        }
        true
    }

    /// A client saw bytes that did not verify. The record is read again and dropped if it is bad: a client's word alone drops nothing.
    pub fn drop_corrupt(&mut self, ns: NamespaceId, key: &Key, _version: Version) {
        let Some(at) = self.namespaces.find(ns) else { return };
        let Some(place) = self.index.find(at, key).map(Entry::place) else { return };
        if let Some(cached) = self.dram.get(at, key)
            && let Ok(descriptor) = Descriptor::decode(&cached.data[cached.descriptor.clone()])
        {
            let job = VerifyJob::new(cached.data.clone(), descriptor, Purpose::SuspectDram { ns: at, key: *key });
            self.verifies.push_back(job);
            // One that is still being written cannot be read back yet.
            if cached.data.holders() > 2 {
                return;
            }
        }
        // A queue of suspicions has an end: whoever reads it again will suspect it again.
        if self.lanes.is_full(Lane::Scrub) {
            return;
        }
        let record = place.units() as usize * self.geometry.align;
        let Some(buf) = self.dram.alloc(&self.arena, record) else { return };
        self.segments.pin(place.segment);
        let offset = self.geometry.at(place.segment, place.page);
        self.read(Lane::Scrub, Op::Suspect { ns: at, key: *key, place }, offset, ReadInto::Buf(buf));
    }

    pub(crate) fn suspect_done(
        &mut self,
        ns: u16,
        key: Key,
        place: Place,
        result: Result<(), DiskError>,
        read: Option<ReadInto>,
    ) {
        if let (Ok(()), Some(ReadInto::Buf(buf))) = (result, read) {
            let trailer_at = place.payload_units as usize * self.geometry.align;
            let descriptor =
                decode_trailer(&buf[trailer_at..]).ok().and_then(|view| self.is_record_of(&view, ns, &key, place));
            match descriptor {
                Some(descriptor) => {
                    let purpose = Purpose::Suspect { ns, key, place };
                    self.verifies.push_back(VerifyJob::new(buf.freeze(), descriptor, purpose));
                }
                None => self.drop_bad(ns, &key, place),
            }
        }
        self.segments.unpin(place.segment);
    }
}
