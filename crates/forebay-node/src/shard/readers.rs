//! Reads of gets that are at the store, and who may have more of them there.
//!
//! What stands in front of the drive stands there in the order it came. So little of it does while several read: whoever has asked for more waits
//! here, where connections take turns, where what is given up is dropped without a read, and where nothing holds memory yet.

use super::core::Core;
use crate::counters::Dropped;
use crate::lanes::Lanes;
#[cfg(test)]
use crate::mutant::Mutant;
use crate::slab::{Id, Slab};

/// Reads and bytes at the store while one peer alone reads: what keeps a drive busy. A peer may have two blocks there whatever their size.
const ALONE: Share = Share { reads: 128, bytes: 16 << 20 };
/// Of all peers together while several do. One read each is always allowed. On a drive of 1.5 GB/s this is what it does in 2 ms.
const TOGETHER: Share = Share { reads: 16, bytes: 4 << 20 };
/// Another's read is expected for so long after the last, in microseconds.
const OTHERS_LAST_US: u64 = 100_000;

/// Reads at the store at most: more than one for each connection that there can be, so that every peer has one whatever the others have.
const READS_MAX: usize = 32_768;

#[derive(Debug, Clone, Copy)]
struct Share {
    reads: usize,
    bytes: u64,
}

/// A read at the store. Its number is the store's token.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) request: Id,
    pub(crate) item: usize,
    peer: usize,
    bytes: u64,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Readers {
    reads: Slab<Reading>,
    /// What each peer has there, by its number.
    peers: Vec<Share>,
    /// How many of them have any.
    active: usize,
    /// Who began the last one, who before that another did, and when.
    latest: [(usize, u64); 2],
    #[cfg(test)]
    mutant: Option<Mutant>,
}

impl Readers {
    pub(crate) fn new() -> Self {
        Readers {
            reads: Slab::new(READS_MAX),
            peers: Vec::new(),
            active: 0,
            latest: [(usize::MAX, 0); 2],
            #[cfg(test)]
            mutant: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.reads.len()
    }

    /// Whether a peer may begin another read now.
    pub(crate) fn may(&self, now_us: u64, peer: usize) -> bool {
        let has = self.peers.get(peer).copied().unwrap_or(Share { reads: 0, bytes: 0 });
        if has.reads == 0 {
            return true;
        }
        #[cfg(test)]
        if self.mutant == Some(Mutant::ReadsUnbounded) {
            return self.reads.len() < 1000;
        }
        let is_other = |(other, at_us): &(usize, u64)| {
            *other != peer && *other != usize::MAX && now_us.saturating_sub(*at_us) < OTHERS_LAST_US
        };
        let others = self.active > 1 || self.latest.iter().any(is_other);
        if others {
            let all = self.active.max(2);
            has.reads < TOGETHER.reads / all && has.bytes < TOGETHER.bytes / all as u64
        } else {
            has.reads < 2 || has.reads < ALONE.reads && has.bytes < ALONE.bytes
        }
    }

    /// The token of a read that is about to begin. `None`: there are too many.
    pub(crate) fn begin(&mut self, request: Id, item: usize, peer: usize, bytes: u64) -> Option<Id> {
        self.reads.insert(Reading { request, item, peer, bytes }).ok()
    }

    /// It did begin.
    pub(crate) fn begun(&mut self, now_us: u64, read: Id, lanes: &mut Lanes) {
        let Some(&Reading { peer, bytes, .. }) = self.reads.get(read) else { return };
        if self.peers.len() <= peer {
            self.peers.resize(peer + 1, Share { reads: 0, bytes: 0 });
        }
        let has = &mut self.peers[peer];
        self.active += usize::from(has.reads == 0);
        has.reads += 1;
        has.bytes += bytes;
        if self.latest[0].0 != peer {
            self.latest[1] = self.latest[0];
        }
        self.latest[0] = (peer, now_us);
        lanes.read_begun(peer);
    }

    /// It did not.
    pub(crate) fn not_begun(&mut self, read: Id) {
        self.reads.remove(read);
    }

    /// One has ended.
    pub(crate) fn ended(&mut self, read: Id, lanes: &mut Lanes) -> Option<Reading> {
        let read = self.reads.remove(read)?;
        if let Some(has) = self.peers.get_mut(read.peer) {
            has.reads -= 1;
            has.bytes -= read.bytes;
            self.active -= usize::from(has.reads == 0);
        }
        lanes.read_ended(read.peer);
        Some(read)
    }

    /// Whose read it is.
    fn request(&self, read: Id) -> Option<Id> {
        self.reads.get(read).map(|read| read.request)
    }
}

impl Reading {
    pub(crate) fn peer(&self) -> usize {
        self.peer
    }
}

impl Core {
    /// Drops what such requests still have in front of the drive. The store tells of each that it dropped.
    pub(crate) fn drop_reads(&mut self, is_given_up: impl Fn(Id) -> bool) {
        let readers = &self.readers;
        let dropped =
            self.store.drop_gets(self.now_ms, |token| readers.request(Id::from_word(token)).is_some_and(&is_given_up));
        self.counters.dropped[Dropped::Read as usize].add(dropped);
        self.has_dropped |= dropped > 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::Who;

    struct Rig {
        ids: Slab<()>,
        lanes: Lanes,
        readers: Readers,
    }

    impl Rig {
        fn new() -> Rig {
            Rig { ids: Slab::new(1000), lanes: Lanes::new(), readers: Readers::new() }
        }

        fn peer(&mut self, pid: u32) -> usize {
            let conn = self.ids.insert(()).unwrap();
            self.lanes.join(conn, Who::Process(pid))
        }

        /// Begins as many as it may, of so many bytes each.
        fn fill(&mut self, now_us: u64, peer: usize, bytes: u64) -> Vec<Id> {
            let mut begun = Vec::new();
            while self.readers.may(now_us, peer) {
                let request = self.ids.insert(()).unwrap();
                let read = self.readers.begin(request, 0, peer, bytes).unwrap();
                self.readers.begun(now_us, read, &mut self.lanes);
                begun.push(read);
            }
            begun
        }

        fn end(&mut self, reads: Vec<Id>) {
            for read in reads {
                assert!(self.readers.ended(read, &mut self.lanes).is_some());
            }
        }
    }

    #[test]
    fn alone_a_peer_may_keep_the_drive_busy() {
        let mut rig = Rig::new();
        let peer = rig.peer(1);
        for (bytes, most) in [(4096, 128), (64 << 10, 128), (1 << 20, 16), (16 << 20, 2)] {
            let reads = rig.fill(0, peer, bytes);
            assert_eq!(reads.len(), most, "of {bytes} bytes");
            rig.end(reads);
        }
    }

    #[test]
    fn beside_others_each_has_its_share_and_one_in_any_case() {
        let mut rig = Rig::new();
        let peers: Vec<usize> = (0..40).map(|pid| rig.peer(pid)).collect();
        let deep = rig.fill(0, peers[0], 64 << 10);
        let second = rig.fill(0, peers[1], 64 << 10);
        assert_eq!((deep.len(), second.len()), (128, 8), "who was alone keeps what it has, and gets no more");
        assert!(!rig.readers.may(0, peers[0]));
        rig.end(deep);
        assert_eq!(rig.fill(0, peers[0], 64 << 10).len(), 8);
        for peer in &peers[2..] {
            assert!(!rig.fill(0, *peer, 1 << 20).is_empty(), "one in any case");
        }
        assert_eq!(rig.fill(0, peers[39], 1 << 20).len(), 0);
    }

    /// What one peer has at the store when it takes all that it may, beside another.
    fn reads_beside_another(mutant: Option<Mutant>) -> usize {
        let mut rig = Rig { ids: Slab::new(5000), ..Rig::new() };
        rig.readers.mutant = mutant;
        let (greedy, modest) = (rig.peer(1), rig.peer(2));
        let read = rig.fill(0, modest, 64 << 10);
        rig.end(read);
        rig.fill(0, greedy, 64 << 10).len()
    }

    #[test]
    fn what_a_peer_may_have_at_the_store_beside_another_has_a_bound() {
        assert_eq!(reads_beside_another(None), 8);
        assert!(reads_beside_another(Some(Mutant::ReadsUnbounded)) > 500, "reads without a bound are not found");
    }

    #[test]
    fn who_asks_now_and_then_finds_little_before_it() {
        let mut rig = Rig::new();
        let (greedy, modest) = (rig.peer(1), rig.peer(2));
        for call in 0..10 {
            let now_us = call * OTHERS_LAST_US / 2;
            let mut before = rig.fill(now_us, greedy, 64 << 10);
            if call > 0 {
                assert_eq!(before.len(), 8, "call {call}");
            }
            let mine = rig.fill(now_us, modest, 64 << 10);
            assert!(!mine.is_empty());
            rig.end(mine);
            before.append(&mut rig.fill(now_us, greedy, 64 << 10));
            rig.end(before);
        }
        let late_us = 11 * OTHERS_LAST_US;
        let first = rig.fill(late_us, greedy, 64 << 10);
        assert_eq!(first.len(), 128, "nobody else came for long");
    }

    #[test]
    fn a_read_outlives_its_connection_and_its_peer_is_not_taken_for_another() {
        let mut rig = Rig::new();
        let conn = rig.ids.insert(()).unwrap();
        let peer = rig.lanes.join(conn, Who::Process(1));
        let read = rig.readers.begin(conn, 3, peer, 4096).unwrap();
        rig.readers.begun(0, read, &mut rig.lanes);
        rig.lanes.leave(conn);
        assert_ne!(rig.peer(2), peer);
        let ended = rig.readers.ended(read, &mut rig.lanes).unwrap();
        assert_eq!((ended.request, ended.item, ended.peer()), (conn, 3, peer));
        assert!(rig.readers.ended(read, &mut rig.lanes).is_none());
        assert_eq!(rig.peer(3), peer, "free again");
    }
}
