//! What a read of scrub says: whether a header, a footer or a record is what it must be, and what is done about one that is not.

use forebay_format::{FOOTER_TAIL_BYTES, FooterTail, SegmentHeader, decode_trailer, footer_bytes};
use forebay_io::{Buf, Disk, DiskError, ReadInto};
use forebay_types::limits::PIECE_BYTES;
use forebay_types::{Class, verify_range};

use crate::face::{Damage, Damaged, Event};
use crate::mutant::Mutant;
use crate::scrub::{CHECKS_PER_TURN, ENTRIES_AT_ONCE, Item, Job, Phase, READ_BYTES, Reading};
use crate::store::Store;

impl<D: Disk> Store<D> {
    /// A read has ended.
    pub(crate) fn scrub_done(&mut self, result: Result<(), DiskError>, read: Option<ReadInto>) {
        let (Some(reading), Some(mut job)) = (self.scrub.reading.take(), self.scrub.job.take()) else { return };
        let buf = match (result, read) {
            (Ok(()), Some(ReadInto::Buf(buf))) => Some(buf),
            _ => None,
        };
        self.counted.scrub_bytes += buf.as_ref().map_or(0, |buf| buf.len() as u64);
        let bytes = buf.as_deref();
        match reading {
            Reading::Header => self.scrub_header_read(&mut job, bytes),
            Reading::Footer => self.scrub_footer_read(&mut job, buf),
            Reading::Records(run) => {
                let mut at = 0;
                let mut bad = Vec::new();
                for item in run {
                    let len = self.geometry.bytes(item.place.units()) as usize;
                    let record = bytes.and_then(|bytes| bytes.get(at..at + len));
                    at += len;
                    if !record.is_some_and(|record| self.is_whole(&item, record)) {
                        bad.push(item);
                    }
                }
                bad.into_iter().rev().for_each(|item| self.scrub_bad(&mut job, item, bytes.is_some()));
            }
            Reading::Large => self.scrub_large_read(&mut job, bytes),
        }
        if !self.mutant(Mutant::ScrubHoldsNothing) {
            self.segments.unpin(job.segment);
        }
        self.scrub.job = Some(job);
    }

    /// Whether a whole record is what the index promises.
    fn is_whole(&self, item: &Item, record: &[u8]) -> bool {
        let trailer = &record[self.geometry.bytes(item.place.payload_units) as usize..];
        let descriptor =
            decode_trailer(trailer).ok().and_then(|view| self.is_record_of(&view, item.ns, &item.key, item.place));
        let payload = &record[..item.place.length(self.geometry.align) as usize];
        descriptor.is_some_and(|descriptor| descriptor.verify(payload)) || self.mutant(Mutant::ScrubChecksNothing)
    }

    fn scrub_large_read(&mut self, job: &mut Job, bytes: Option<&[u8]>) {
        let Some(mut large) = job.large.take() else { return };
        let item = large.item;
        let length = item.place.length(self.geometry.align) as usize;
        let good = match (&large.descriptor, bytes) {
            (_, None) => false,
            (None, Some(trailer)) => {
                large.descriptor = decode_trailer(trailer)
                    .ok()
                    .and_then(|view| self.is_record_of(&view, item.ns, &item.key, item.place));
                large.descriptor.is_some()
            }
            (Some(descriptor), Some(bytes)) => {
                let end = (large.checked + READ_BYTES).min(length);
                let piece = bytes.get(..end - large.checked);
                let (first, sums) = (large.checked / PIECE_BYTES, &descriptor.sums.0);
                large.checked = end;
                piece.is_some_and(|piece| verify_range(sums, &descriptor.meta.binding(), first, piece))
            }
        };
        if !good && !self.mutant(Mutant::ScrubChecksNothing) {
            self.scrub_bad(job, item, bytes.is_some());
        } else if large.descriptor.is_some() && large.checked < length && self.is_still_at(&item) {
            job.large = Some(large);
        }
    }

    /// A record is bad: it is read once more, alone, and if it was so already it is damaged.
    fn scrub_bad(&mut self, job: &mut Job, item: Item, was_read: bool) {
        if !self.is_still_at(&item) {
            return;
        }
        if !item.again {
            return job.items.push_front(Item { again: true, ..item });
        }
        let Some(slot) = self.namespaces.get(item.ns) else { return };
        let (namespace, class) = (slot.row.id, slot.row.class);
        match class {
            Class::Cache => self.counted.scrub_damaged_cache += 1,
            Class::Durable => self.counted.scrub_damaged_durable += 1,
        }
        // A durable block that cannot be read may be readable another day. One of the cache would only be in the way of a put that brings it back.
        if was_read || class == Class::Cache {
            self.drop_entry(item.ns, &item.key);
        }
        let what = Damaged::Block { namespace, key: item.key, class };
        self.scrub_found(job.segment, item.place.page, what, was_read);
    }

    fn scrub_found(&mut self, segment: u16, page: u32, what: Damaged, was_read: bool) {
        self.segments.get_mut(segment).damaged = true;
        let offset = self.geometry.at(segment, page);
        self.events.push(Event::Damage(Damage { what, segment, offset, was_read }));
    }

    fn scrub_header_read(&mut self, job: &mut Job, bytes: Option<&[u8]>) {
        let s = self.segments.get(job.segment);
        let header = bytes.and_then(|page| SegmentHeader::decode(page).ok());
        let good = header.is_some_and(|h| {
            (h.shard, h.index, h.generation) == (self.shard, u32::from(job.segment), s.generation)
                && (h.nonce, h.kind) == (s.nonce, s.kind)
        });
        if good || job.again {
            job.phase = Phase::Footer;
        }
        if !good && job.again {
            self.counted.scrub_damaged_segments += 1;
            self.scrub.rescue.retain(|(segment, _)| *segment != job.segment);
            self.scrub.rescue.push((job.segment, job.generation));
            self.scrub_found(job.segment, 0, Damaged::Header, bytes.is_some());
        }
        job.again = !good && !job.again;
    }

    fn scrub_footer_read(&mut self, job: &mut Job, footer: Option<Buf>) {
        let s = self.segments.get(job.segment);
        let was_read = footer.is_some();
        let begun = footer.and_then(|buf| {
            let tail = FooterTail::decode(&buf[buf.len().checked_sub(FOOTER_TAIL_BYTES)?..]).ok()?;
            let is_its = (tail.generation, tail.nonce, tail.kind) == (s.generation, s.nonce, s.kind);
            is_its.then(|| (buf, tail.check()))
        });
        match begun {
            Some(footer) => (job.footer, job.phase) = (Some(footer), Phase::Checking),
            None => self.scrub_footer_bad(job, was_read),
        }
    }

    /// Checks a few entries of a footer that was read; when all are right, takes the next of them.
    pub(crate) fn scrub_check(&mut self, job: &mut Job) -> bool {
        let Some((buf, mut check)) = job.footer.take() else {
            job.phase = Phase::Footer;
            return true;
        };
        match check.step(&buf, CHECKS_PER_TURN) {
            Ok(false) => job.footer = Some((buf, check)),
            Ok(true) => {
                let entries = check.entries(&buf, job.taken).into_iter().flatten().take(ENTRIES_AT_ONCE);
                job.entries = entries.collect();
                job.taken += job.entries.len();
                job.phase = Phase::Records;
                job.again = false;
                // No longer what it was: no more to be had of it.
                if job.entries.is_empty() {
                    job.taken = usize::MAX;
                }
            }
            Err(_) => self.scrub_footer_bad(job, true),
        }
        true
    }

    /// A footer is bad: it is read once more, and if it was so already it is damaged.
    fn scrub_footer_bad(&mut self, job: &mut Job, was_read: bool) {
        job.phase = Phase::Footer;
        if !std::mem::replace(&mut job.again, true) {
            return;
        }
        self.counted.scrub_damaged_segments += 1;
        let count = self.segments.get(job.segment).footer_count;
        let len = count.map_or(0, |count| footer_bytes(count, self.geometry.align));
        let page = self.geometry.segment_units - (len / self.geometry.align) as u32;
        self.scrub_found(job.segment, page, Damaged::Footer, was_read);
        job.phase = Phase::Sweep(0);
        job.taken = usize::MAX;
        job.again = false;
    }
}
