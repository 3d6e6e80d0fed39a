//! Looking without reading: which blocks are here, and holding those that are.

use forebay_io::Disk;
use forebay_types::{Key, Millis, MissReason, NamespaceId, Tier};

use crate::face::Sighting;
use crate::index::Place;
use crate::leases::Granted;
use crate::mutant::Mutant;
use crate::store::Store;

/// Keys whose memory is asked for side by side: more than any processor can have under way.
const SIDE_BY_SIDE: usize = 64;

impl<D: Disk> Store<D> {
    /// Looks for keys in order, tells `each` of them what a get would find, and holds what is here for `hold_ms`, 30 s at most; 0 holds nothing. A lease
    /// is not given when a tenth of the shard is held already. With `stop_at_gap` it ends behind the first key that is missed.
    pub fn look(
        &mut self,
        now: Millis,
        ns: NamespaceId,
        keys: &[Key],
        hold_ms: u64,
        stop_at_gap: bool,
        mut each: impl FnMut(Result<Sighting, MissReason>),
    ) {
        let Some(at) = self.namespaces.find(ns) else {
            let told = if stop_at_gap { keys.len().min(1) } else { keys.len() };
            return (0..told).for_each(|_| each(Err(MissReason::Namespace)));
        };
        self.note_dram_left();
        let end = self.leases.end(now, hold_ms);
        let heedless = self.mutant(Mutant::LeaseNotHeeded);
        let mut spots = Vec::with_capacity(SIDE_BY_SIDE);
        'all: for keys in keys.chunks(SIDE_BY_SIDE) {
            self.index.spots(keys.iter().map(|key| (at, key)), &mut spots);
            for (key, spot) in keys.iter().zip(&spots) {
                // What is over is dropped by the sweep: here it would move what the spots say.
                let over = self.is_over(at, key);
                let Some(entry) = self.index.find_at(*spot, at, key).filter(|_| !over) else {
                    each(Err(if over { MissReason::Expired } else { self.reason_gone_hashed(spot.hash) }));
                    if stop_at_gap {
                        break 'all;
                    }
                    continue;
                };
                let mut leased = false;
                if hold_ms > 0 && heedless {
                    leased = true;
                } else if hold_ms > 0 {
                    let place = entry.place();
                    let granted = self.leases.grant(entry, self.geometry.bytes(place.units()), end);
                    leased = granted != Granted::No;
                    match granted {
                        Granted::New => self.segments.get_mut(place.segment).leased_units += place.units(),
                        Granted::Longer => {}
                        Granted::No => self.counted.leases_refused += 1,
                    }
                    self.counted.leases_granted += u64::from(leased);
                }
                let tier = if entry.is_in_dram() { Tier::Dram } else { Tier::Nvme };
                each(Ok(Sighting { tier, leased }));
            }
        }
    }

    /// Notes in the index who has left DRAM.
    pub(crate) fn note_dram_left(&mut self) {
        let left = self.dram.take_left();
        if left.is_empty() {
            return;
        }
        let mut spots = Vec::with_capacity(SIDE_BY_SIDE);
        for names in left.chunks(SIDE_BY_SIDE) {
            self.index.spots(names.iter().map(|(ns, key)| (*ns, key)), &mut spots);
            for ((ns, key), spot) in names.iter().zip(&spots) {
                if let Some(entry) = self.index.find_at(*spot, *ns, key) {
                    entry.set_in_dram(self.dram.contains(*ns, key));
                }
            }
        }
    }

    /// What a get would find, without touching it.
    pub fn presence(&mut self, now: Millis, ns: NamespaceId, key: &Key) -> Result<Tier, MissReason> {
        let mut found = Err(MissReason::Absent);
        self.look(now, ns, std::slice::from_ref(key), 0, false, |seen| found = seen.map(|seen| seen.tier));
        found
    }

    pub(crate) fn reason_gone(&self, ns: u16, key: &Key) -> MissReason {
        self.reason_gone_hashed(self.index.seed().hash(ns, key))
    }

    fn reason_gone_hashed(&self, hash: u64) -> MissReason {
        if self.expired.contains(hash) {
            return MissReason::Expired;
        }
        if self.ghosts.contains(hash) { MissReason::Evicted } else { MissReason::Absent }
    }

    /// Lets go of leases whose time is over, some hundred a turn. True: there may be more.
    pub(crate) fn end_leases(&mut self, now: Millis) -> bool {
        let mut spots = Vec::with_capacity(SIDE_BY_SIDE);
        let mut more = false;
        if self.mutant(Mutant::LeasesUnending) {
            return more;
        }
        while let Some((mark, names)) = self.leases.due(now) {
            for names in names.chunks(SIDE_BY_SIDE) {
                self.index.spots(names.iter().map(|(ns, key)| (*ns, key)), &mut spots);
                for ((ns, key), spot) in names.iter().zip(&spots) {
                    // Gone, put again, or held longer meanwhile: not this lease.
                    let held = self.index.find_at(*spot, *ns, key).filter(|entry| entry.lease() == Some(mark));
                    let Some(entry) = held else { continue };
                    entry.set_lease(None);
                    let place = entry.place();
                    self.lease_ended(place);
                }
            }
            more = true;
            if !self.leases.is_late(now) {
                break;
            }
        }
        more
    }

    /// A leased block is held no longer, or is gone.
    pub(crate) fn lease_ended(&mut self, place: Place) {
        self.segments.get_mut(place.segment).leased_units -= place.units();
        self.leases.ended(self.geometry.bytes(place.units()));
    }
}
