//! The moving half of gets: bytes into a region or into frames, and outcomes said and counted.

use forebay_store::Found;
use forebay_types::limits::{DATA_FRAME_BYTES_MAX, PIECE_BYTES, STEP_BYTES};
use forebay_types::{LandingKind, MissReason, Tier};
use forebay_wire::{DataHeader, GetOutcomeRef, RegionKind};

use super::core::Core;
use super::get::{Get, Moving, State, Told, Way};
use super::request::Step;
use crate::counters::{PeerFault, Timed};

impl Get {
    /// Copies the next step into the client's region.
    pub(super) fn copy(&mut self, core: &mut Core, way: &mut Way<'_, '_>, left: &mut i64, mut moving: Moving) -> Step {
        let to = self.items[moving.item as usize].to;
        let payload = moving.found.payload();
        let step = STEP_BYTES.min(usize::try_from(*left).unwrap_or(0).max(PIECE_BYTES));
        let end = payload.len().min(moving.done + step);
        let written = match way.regions.iter().find(|lent| lent.id == to.region) {
            Some(lent) if payload.len() as u64 <= to.room => {
                lent.region.write_at(to.offset + moving.done as u64, &payload[moving.done..end]).is_ok()
            }
            _ => false,
        };
        *left -= (end - moving.done) as i64;
        if !written {
            // The file was cut, its memory is full, or the region went away meanwhile.
            core.counters.fault(PeerFault::Region);
            self.miss(core, way, moving.item, MissReason::Unavailable);
        } else if end < payload.len() {
            moving.done = end;
            self.moving = Some(moving);
        } else {
            self.hit(core, way, &moving, LandingKind::Bounce);
        }
        Step::Again
    }

    /// Queues the next DATA frame.
    pub(super) fn stream(
        &mut self,
        core: &mut Core,
        way: &mut Way<'_, '_>,
        left: &mut i64,
        mut moving: Moving,
    ) -> Step {
        let (shared, range) = moving.found.shared();
        let take = (range.len() - moving.done)
            .min(DATA_FRAME_BYTES_MAX)
            .min(usize::try_from(*way.credit).unwrap_or(usize::MAX));
        if take == 0 || way.frames.len() >= way.room {
            self.moving = Some(moving);
            return if take == 0 { Step::Thirsty } else { Step::Blocked };
        }
        let header = DataHeader {
            request: way.number,
            item: moving.item,
            offset: moving.found.offset + moving.done as u64,
            length: take as u32,
        };
        let at = range.start + moving.done;
        way.frames.data(&header, shared, at..at + take);
        let all = range.len();
        if !moving.streaming {
            moving.streaming = true;
            let outcome = found_outcome(&moving.found, LandingKind::Stream);
            self.outcome(way, moving.item, outcome);
        }
        *way.credit -= take as u64;
        *left -= take as i64;
        moving.done += take;
        if moving.done < all {
            self.moving = Some(moving);
        } else {
            self.count_hit(core, way, moving.item, moving.found.tier, LandingKind::Stream, all as u64);
            self.settle(core, moving.item as usize);
        }
        Step::Again
    }

    pub(super) fn hit(&mut self, core: &mut Core, way: &mut Way<'_, '_>, moving: &Moving, kind: LandingKind) {
        self.outcome(way, moving.item, found_outcome(&moving.found, kind));
        self.count_hit(core, way, moving.item, moving.found.tier, kind, moving.found.payload().len() as u64);
        self.settle(core, moving.item as usize);
    }

    fn count_hit(&self, core: &mut Core, way: &Way<'_, '_>, item: u32, tier: Tier, kind: LandingKind, bytes: u64) {
        core.counters.get.hit(tier);
        core.served(way.namespace, tier, bytes);
        let to = self.items[item as usize].to.region;
        let lent = way.regions.iter().any(|region| region.id == to && region.kind == RegionKind::Lent);
        core.counters.landed(kind, lent, bytes);
        let timed = match tier {
            Tier::Dram => Timed::GetDram,
            Tier::Nvme => Timed::GetNvme,
        };
        core.took(timed, self.begun_us);
    }

    pub(super) fn miss(&mut self, core: &mut Core, way: &mut Way<'_, '_>, item: u32, reason: MissReason) {
        self.outcome(way, item, GetOutcomeRef::Miss(reason));
        core.counters.get.miss(reason);
        core.space(way.namespace).get_misses[reason.index()] += 1;
        self.settle(core, item as usize);
    }

    pub(super) fn tell(&mut self, core: &mut Core, way: &mut Way<'_, '_>, item: u32, told: Told) {
        match told {
            Told::Miss(reason) => self.miss(core, way, item, reason),
            Told::Landed { length, trailer_offset } => {
                let outcome = GetOutcomeRef::Hit {
                    tier: Tier::Nvme,
                    landing: LandingKind::Direct,
                    offset: 0,
                    length,
                    descriptor: &[],
                    trailer_offset,
                };
                self.outcome(way, item, outcome);
                self.count_hit(core, way, item, Tier::Nvme, LandingKind::Direct, length);
                self.settle(core, item as usize);
            }
        }
    }

    pub(super) fn outcome(&self, way: &mut Way<'_, '_>, item: u32, outcome: GetOutcomeRef<'_>) {
        // A step's outcomes are a few hundred at most, far under a message's 4 MiB.
        let fits = way.outcomes.push(item, outcome);
        debug_assert!(fits);
    }

    pub(super) fn settle(&mut self, core: &mut Core, item: usize) {
        debug_assert!(self.states[item] != State::Done);
        self.states[item] = State::Done;
        self.open -= 1;
        core.items -= 1;
    }
}

fn found_outcome(found: &Found, landing: LandingKind) -> GetOutcomeRef<'_> {
    GetOutcomeRef::Hit {
        tier: found.tier,
        landing,
        offset: found.offset,
        length: found.payload().len() as u64,
        descriptor: found.descriptor(),
        trailer_offset: 0,
    }
}
