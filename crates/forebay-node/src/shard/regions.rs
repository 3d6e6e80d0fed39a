//! Regions of a connection: taken, checked, and let go when nothing lands in them any more.

use std::os::fd::OwnedFd;

use forebay_io::{PeerRegion, close_elsewhere};
use forebay_types::RegionId;
use forebay_wire::{ErrorCode, Message, RegionKind};

use super::Shard;
use super::conn::REGIONS_MAX;
use super::request::Lent;
use crate::counters::PeerFault;
use crate::slab::Id;

impl Shard {
    pub(super) fn region_add(&mut self, id: Id, request: u32, region: RegionId, length: u64, kind: RegionKind) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let fd: Option<OwnedFd> = conn.fds.pop_front();
        self.waiting_fds -= usize::from(fd.is_some());
        let problem = if !conn.lends {
            Some("regions can be lent over Unix sockets only; on TCP bytes come in DATA frames".to_owned())
        } else if region.0 == 0 {
            Some("a region's number is not 0".to_owned())
        } else if conn.region(region).is_some() {
            Some(format!("region {} is there already; drop it first", region.0))
        } else if conn.regions.len() >= REGIONS_MAX {
            Some(format!("a connection lends at most {REGIONS_MAX} regions; drop one first"))
        } else if self.core.counters.regions.get() as usize >= self.core.shares.regions {
            // Nobody's fault: blocks come in DATA frames then.
            let text =
                format!("this shard's clients lend {} regions, its most; ask without one", self.core.shares.regions);
            fd.into_iter().for_each(close_elsewhere);
            return self.complain(id, request, ErrorCode::Region, text);
        } else {
            None
        };
        let imported = match (problem, fd) {
            (Some(problem), fd) => {
                fd.into_iter().for_each(close_elsewhere);
                Err(problem)
            }
            (None, None) => Err("no descriptor came with it".to_owned()),
            (None, Some(fd)) => PeerRegion::import(fd, length).map_err(|error| error.to_string()),
        };
        match imported {
            Err(text) => {
                self.core.counters.fault(PeerFault::Region);
                self.complain(id, request, ErrorCode::Region, text);
            }
            Ok(imported) => {
                self.core.counters.regions.add(1);
                if !imported.is_mapped() {
                    self.core.counters.regions_unmapped.add(1);
                }
                let lands = kind.is_for_landings() && imported.is_mapped();
                conn.regions.push(Lent { id: region, region: imported, kind, lands, landings: 0, dropping: None });
                self.say(id, &Message::Done { request });
            }
        }
    }

    pub(super) fn region_drop(&mut self, id: Id, request: u32, region: RegionId) {
        let found = self.conns.get_mut(id).and_then(|conn| conn.region(region));
        match found {
            Some(lent) if lent.dropping.is_none() => {
                lent.dropping = Some(request);
                self.region_gone(id, region);
            }
            _ => {
                self.core.counters.fault(PeerFault::Region);
                let text = format!("there is no region {} on this connection", region.0);
                self.complain(id, request, ErrorCode::Region, text);
            }
        }
    }

    /// Lets a region go that is to be dropped, when nothing lands in it any more.
    pub(super) fn region_gone(&mut self, id: Id, region: RegionId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(at) = conn.regions.iter().position(|lent| lent.id == region) else { return };
        let lent = &conn.regions[at];
        if let (Some(request), 0) = (lent.dropping, lent.landings) {
            conn.regions.swap_remove(at);
            self.core.counters.regions.set(self.core.counters.regions.get() - 1);
            self.say(id, &Message::Done { request });
        }
    }
}
