//! Tombstones are needed as long as blocks that were written before them may be found on the drive, dead ones as well. When they take more of the drive
//! than their share, or find no room, the segments with the oldest blocks are emptied first, whatever is in them, and headers are written over those
//! that are free and still hold some. So tombstones cannot fill a drive: once all has been gone round, none is needed.

use forebay_format::{FOOTER_ENTRY_BYTES, SegmentKind, TOMBSTONES_MAX};
use forebay_io::Disk;

use crate::mutant::Mutant;
use crate::segments::State;
use crate::store::Store;
use crate::write::{FOOTER_SHARE, Whose};

/// Tombstones may take so much of the drive, by the room that segments have for them, before blocks must go for their sake: a quarter.
const TOMBSTONES_SHARE: u64 = 4;
/// Segments whose headers are written over at once: enough to share a flush, few enough that puts find a free one.
const RENEWED_AT_ONCE: usize = 4;

impl<D: Disk> Store<D> {
    /// Tombstones that a segment has room for.
    fn tombstones_each(&self) -> u32 {
        let listed = self.geometry.layout.segment_bytes / FOOTER_SHARE / FOOTER_ENTRY_BYTES as u64;
        (listed as usize).min(self.entries_max) as u32
    }

    /// Tombstones for one record when they are moved: what the open segment still has room for, so that none is closed half full.
    pub(super) fn tombstones_at_once(&self) -> usize {
        self.entries_left(SegmentKind::Durable).clamp(1, TOMBSTONES_MAX)
    }

    /// True when tombstones take more than their share.
    pub(super) fn is_burdened(&self) -> bool {
        let room = self.segments.len() as u64 * u64::from(self.tombstones_each());
        self.segments.tombstones() * TOMBSTONES_SHARE > room
    }

    /// True when a forget waits for a place.
    pub(super) fn tombstones_lack_room(&self) -> bool {
        !self.tombstones_waiting.is_empty() && !self.has_place(SegmentKind::Durable, 1, 1, Whose::Tombstones)
    }

    /// The durable segment to move out of that wins most, if that is `gain` units.
    pub(super) fn movable(&self, gain: u32) -> Option<u16> {
        let victim = self.segments.durable_victim(&self.geometry, gain, self.tombstones_each())?;
        self.can_move_out(victim).then_some(victim)
    }

    /// True when there is room for certain for what would be moved out of a durable segment.
    fn can_move_out(&self, segment: u16) -> bool {
        let s = self.segments.get(segment);
        let kept = s.live_units + self.segments.needed_tombstones(segment, &self.segments.horizon());
        let entries = s.footer_count.unwrap_or(s.live_units) as usize;
        kept == 0 || self.has_place(SegmentKind::Durable, kept, entries, Whose::Cleaning)
    }

    /// The segment with the oldest blocks, if it can be emptied now and tombstones wait for that. What stands in the way otherwise is begun.
    pub(super) fn oldest_to_empty(&mut self) -> Option<u16> {
        let horizon = self.segments.horizon();
        let oldest = horizon.oldest()?;
        if !self.segments.iter().any(|(i, _)| self.segments.needed_tombstones(i, &horizon) > 0) {
            return None;
        }
        let s = self.segments.get(oldest);
        let leased = s.leased_units > self.geometry.segment_units / 4;
        match s.state {
            State::Sealed if s.pins > 0 || s.stuck => None,
            State::Sealed if s.kind == SegmentKind::Durable => self.can_move_out(oldest).then_some(oldest),
            State::Sealed => (!leased).then_some(oldest),
            State::Free => {
                if self.segments.take_free(oldest) {
                    self.segments.push_emptied(oldest);
                }
                None
            }
            State::Open if s.generation == s.oldest_on_disk => {
                if self.segments.free_len() > 0 {
                    self.seal(s.kind);
                }
                None
            }
            State::Open | State::Sealing => {
                // Its new header is written; what was there before counts until that is flushed.
                self.flusher.demand();
                None
            }
            State::Leaving | State::Emptied => None,
        }
    }

    /// Writes new headers over what lies in segments that were emptied. They are free when that is done.
    pub(super) fn renew_emptied(&mut self) -> bool {
        let mut began = false;
        while self.renewing() < RENEWED_AT_ONCE
            && let Some(segment) = self.segments.pop_emptied()
        {
            if self.mutant(Mutant::NotWrittenOver) {
                self.segments.get_mut(segment).oldest_on_disk = 0;
                self.segments.push_free(segment);
                continue;
            }
            if !self.renew_segment(segment) {
                self.segments.push_emptied(segment);
                break;
            }
            began = true;
        }
        began
    }
}
