//! Lanes: who moves bytes next. Deficit round robin three times over: the kinds of work take turns, in each kind those who ask, and of each of
//! those its connections. So small answers never wait for large ones, and nobody gets more by asking more often or on more connections.

mod room;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use forebay_types::limits::STEP_BYTES;

#[cfg(test)]
use crate::mutant::Mutant;
use crate::slab::Id;
pub(crate) use room::Room;

/// A kind of work inside a shard's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Gets of small blocks, matches, forgets.
    Small,
    /// Gets of large blocks.
    Large,
    /// Puts.
    Put,
}

impl Lane {
    pub(crate) const ALL: [Lane; 3] = [Lane::Small, Lane::Large, Lane::Put];
}

/// Blocks of at most this many bytes are small: a copy of them is a few microseconds.
pub(crate) const SMALL_BYTES_MAX: u64 = 64 * 1024;

/// What a lane may move in one turn, in bytes: three lanes of one step each are about 60 us at memory speed.
const QUANTUM: i64 = STEP_BYTES as i64;

/// The same for a lane of large blocks while small ones are asked for: their turn comes sooner.
const QUANTUM_BESIDE_SMALL: i64 = QUANTUM / 2;

/// So long after something small the next is expected, in microseconds.
const SMALL_LASTS_US: u64 = 10_000;

/// What one request may spend before its neighbours in the lane have their turn, in bytes.
pub(crate) const SHARE: i64 = STEP_BYTES as i64 / 2;

/// Gets that wait until one of their peer's reads has ended stand here. It is no lane: nothing in it can go on.
const WAITS: usize = LANES;

/// Here stand those that wait for room, by its kind. No lane either.
const ROOM: usize = LANES + 1;

const LANES: usize = Lane::ALL.len();
const QUEUES: usize = ROOM + Room::ALL.len();

/// Who is at the other end, as far as fairness goes: what somebody cannot have more of by asking for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// A process of this machine.
    Process(u32),
    /// A machine.
    Host(IpAddr),
    /// The kernel does not say: a connection is somebody.
    Unknown(u64),
}

/// A connection's requests that have something to do now, by lane. Each stands here at most once, so they are bounded by their number.
#[derive(Debug)]
struct Flow {
    id: Id,
    peer: usize,
    queues: [VecDeque<Id>; QUEUES],
    deficits: [i64; LANES],
    /// It stands in its peer's ring.
    listed: [bool; QUEUES],
}

/// A process or machine with its connections.
#[derive(Debug)]
struct Peer {
    who: Who,
    connections: usize,
    /// Places of those with something to do.
    rings: [VecDeque<u16>; QUEUES],
    deficits: [i64; LANES],
    /// It stands in the ring of peers.
    listed: [bool; QUEUES],
    /// Reads at the store, which outlive their connection. Until they have ended the peer's number is not another's.
    reads: usize,
}

/// Whose turn it was, to be charged for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Served {
    lane: Lane,
    peer: usize,
    place: u16,
    /// What has its turn.
    pub(crate) request: Id,
}

/// Requests that have something to do now, by lane.
#[derive(Debug)]
pub(crate) struct Lanes {
    flows: Vec<Option<Flow>>,
    peers: Vec<Option<Peer>>,
    free: Vec<usize>,
    by_who: BTreeMap<Who, usize>,
    /// Peers with something to do, and those with something that waits for room.
    rings: [VecDeque<usize>; QUEUES],
    deficits: [i64; LANES],
    /// Until when something small is expected.
    small_until_us: u64,
    #[cfg(test)]
    pub(crate) mutant: Option<Mutant>,
}

impl Lanes {
    pub(crate) fn new() -> Self {
        Lanes {
            flows: Vec::new(),
            peers: Vec::new(),
            free: Vec::new(),
            by_who: BTreeMap::new(),
            rings: Default::default(),
            deficits: [0; LANES],
            small_until_us: 0,
            #[cfg(test)]
            mutant: None,
        }
    }

    /// A connection begins. Gives its peer's number.
    pub(crate) fn join(&mut self, conn: Id, who: Who) -> usize {
        #[cfg(test)]
        let who = if self.mutant == Some(Mutant::TurnsByConnection) { Who::Unknown(conn.word()) } else { who };
        let peer = match self.by_who.get(&who) {
            Some(peer) => *peer,
            None => self.new_peer(who),
        };
        if let Some(Some(peer)) = self.peers.get_mut(peer) {
            peer.connections += 1;
        }
        let place = usize::from(conn.place());
        if self.flows.len() <= place {
            self.flows.resize_with(place + 1, || None);
        }
        let flow = Flow { id: conn, peer, queues: Default::default(), deficits: [0; LANES], listed: [false; QUEUES] };
        self.flows[place] = Some(flow);
        peer
    }

    fn new_peer(&mut self, who: Who) -> usize {
        let peer = Peer {
            who,
            connections: 0,
            rings: Default::default(),
            deficits: [0; LANES],
            listed: [false; QUEUES],
            reads: 0,
        };
        let at = self.free.pop().unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() - 1
        });
        self.peers[at] = Some(peer);
        self.by_who.insert(who, at);
        at
    }

    /// A connection ends, and all that stands here for it.
    pub(crate) fn leave(&mut self, conn: Id) {
        let Some(flow) = self.flows.get_mut(usize::from(conn.place())) else { return };
        let Some(flow) = flow.take_if(|flow| flow.id == conn) else { return };
        let Some(Some(peer)) = self.peers.get_mut(flow.peer) else { return };
        for (ring, _) in peer.rings.iter_mut().zip(flow.listed).filter(|(_, listed)| *listed) {
            ring.retain(|place| *place != conn.place());
        }
        peer.connections -= 1;
        self.let_go(flow.peer);
    }

    /// Forgets a peer of whom nothing is left.
    fn let_go(&mut self, at: usize) {
        let Some(Some(peer)) = self.peers.get(at) else { return };
        if peer.connections > 0 || peer.reads > 0 {
            return;
        }
        for (ring, _) in self.rings.iter_mut().zip(peer.listed).filter(|(_, listed)| *listed) {
            ring.retain(|peer| *peer != at);
        }
        self.by_who.remove(&peer.who);
        self.peers[at] = None;
        self.free.push(at);
    }

    /// A read of a peer is at the store.
    pub(crate) fn read_begun(&mut self, peer: usize) {
        if let Some(Some(peer)) = self.peers.get_mut(peer) {
            peer.reads += 1;
        }
    }

    /// It has ended.
    pub(crate) fn read_ended(&mut self, at: usize) {
        if let Some(Some(peer)) = self.peers.get_mut(at) {
            peer.reads -= 1;
            self.let_go(at);
        }
    }

    fn queue(&mut self, at: usize, conn: Id, request: Id) -> Option<&mut Peer> {
        let flow = self.flows.get_mut(usize::from(conn.place()))?.as_mut().filter(|flow| flow.id == conn)?;
        flow.queues[at].push_back(request);
        let peer = self.peers.get_mut(flow.peer)?.as_mut()?;
        if !std::mem::replace(&mut flow.listed[at], true) {
            peer.rings[at].push_back(conn.place());
        }
        Some(peer)
    }

    pub(crate) fn push(&mut self, lane: Lane, conn: Id, request: Id) {
        self.stand_in_line(lane as usize, conn, request);
    }

    fn stand_in_line(&mut self, at: usize, conn: Id, request: Id) {
        #[cfg(test)]
        let conn = match self.mutant {
            Some(Mutant::TurnsByRequest) => self.flows.iter().flatten().next().map_or(conn, |flow| flow.id),
            _ => conn,
        };
        let Some(peer) = self.queue(at, conn, request) else { return };
        if !std::mem::replace(&mut peer.listed[at], true)
            && let Some(Some(flow)) = self.flows.get(usize::from(conn.place()))
        {
            self.rings[at].push_back(flow.peer);
        }
    }

    /// Whose turn it is. What it costs must be told by [`Self::charge`] before the next is asked for.
    pub(crate) fn pop(&mut self, lane: Lane) -> Option<Served> {
        let at = lane as usize;
        // Ends: each round adds a share to every deficit, and none is lower than a step and a share below nothing.
        loop {
            let number = *self.rings[at].front()?;
            let Some(Some(peer)) = self.peers.get_mut(number) else {
                self.rings[at].pop_front();
                continue;
            };
            if !grant(&mut peer.deficits[at]) {
                self.rings[at].rotate_left(1);
                continue;
            }
            let Some(place) = peer.rings[at].front().copied() else {
                peer.listed[at] = false;
                self.rings[at].pop_front();
                continue;
            };
            let Some(Some(flow)) = self.flows.get_mut(usize::from(place)) else {
                peer.rings[at].pop_front();
                continue;
            };
            if !grant(&mut flow.deficits[at]) {
                peer.rings[at].rotate_left(1);
                continue;
            }
            let Some(request) = flow.queues[at].pop_front() else {
                flow.listed[at] = false;
                peer.rings[at].pop_front();
                continue;
            };
            return Some(Served { lane, peer: number, place, request });
        }
    }

    /// What the turn that was given last has cost.
    pub(crate) fn charge(&mut self, served: Served, cost: i64) {
        let at = served.lane as usize;
        let Some(Some(peer)) = self.peers.get_mut(served.peer) else { return };
        let ring = &mut peer.rings[at];
        if let Some(Some(flow)) = self.flows.get_mut(usize::from(served.place))
            && ring.front() == Some(&served.place)
        {
            flow.deficits[at] -= cost;
            if flow.queues[at].is_empty() {
                // What it saved up is lost with its place in the ring, what it owes is not.
                flow.deficits[at] = flow.deficits[at].min(0);
                flow.listed[at] = false;
                ring.pop_front();
            } else if flow.deficits[at] <= 0 {
                ring.rotate_left(1);
            }
        }
        peer.deficits[at] -= cost;
        if self.rings[at].front() != Some(&served.peer) {
            return;
        }
        if ring.is_empty() {
            peer.deficits[at] = peer.deficits[at].min(0);
            peer.listed[at] = false;
            self.rings[at].pop_front();
        } else if peer.deficits[at] <= 0 {
            self.rings[at].rotate_left(1);
        }
    }

    /// A get waits until a read of its peer has ended.
    pub(crate) fn wait(&mut self, conn: Id, request: Id) {
        self.queue(WAITS, conn, request);
    }

    /// Whether any get of the peer does.
    pub(crate) fn has_waiting(&self, peer: usize) -> bool {
        self.peers.get(peer).and_then(Option::as_ref).is_some_and(|peer| !peer.rings[WAITS].is_empty())
    }

    /// The next of them: connections take turns.
    pub(crate) fn waited(&mut self, peer: usize) -> Option<Id> {
        let peer = self.peers.get_mut(peer)?.as_mut()?;
        loop {
            let place = peer.rings[WAITS].pop_front()?;
            let Some(Some(flow)) = self.flows.get_mut(usize::from(place)) else { continue };
            let request = flow.queues[WAITS].pop_front();
            flow.listed[WAITS] = !flow.queues[WAITS].is_empty();
            if flow.listed[WAITS] {
                peer.rings[WAITS].push_back(place);
            }
            if request.is_some() {
                return request;
            }
        }
    }

    /// Whether nothing can go on.
    pub(crate) fn is_empty(&self) -> bool {
        self.rings[..LANES].iter().all(VecDeque::is_empty)
    }

    /// Whether anything but what is small has something to do.
    pub(crate) fn has_bulk(&self) -> bool {
        !self.rings[Lane::Large as usize].is_empty() || !self.rings[Lane::Put as usize].is_empty()
    }

    /// What the lane may spend in this turn; nothing is saved up while it has nothing to do.
    pub(crate) fn begin(&mut self, now_us: u64, lane: Lane) -> i64 {
        let empty = self.rings[lane as usize].is_empty();
        if lane == Lane::Small && !empty {
            self.small_until_us = now_us + SMALL_LASTS_US;
        }
        let beside = lane != Lane::Small && now_us < self.small_until_us;
        let quantum = if beside { QUANTUM_BESIDE_SMALL } else { QUANTUM };
        let deficit = &mut self.deficits[lane as usize];
        *deficit = if empty { 0 } else { (*deficit + quantum).min(quantum) };
        *deficit
    }

    /// What is left of it; what was overdrawn is missing next turn.
    pub(crate) fn end(&mut self, lane: Lane, left: i64) {
        self.deficits[lane as usize] = left.min(0);
    }
}

/// Whether somebody has something to spend, with the share that is due at each visit without.
fn grant(deficit: &mut i64) -> bool {
    if *deficit <= 0 {
        *deficit += SHARE;
    }
    *deficit > 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Slab;

    struct Rig {
        ids: Slab<()>,
        lanes: Lanes,
    }

    impl Rig {
        fn new() -> Rig {
            Rig { ids: Slab::new(1000), lanes: Lanes::new() }
        }

        fn id(&mut self) -> Id {
            self.ids.insert(()).unwrap()
        }

        fn join(&mut self, pid: u32) -> (Id, usize) {
            let conn = self.id();
            let peer = self.lanes.join(conn, Who::Process(pid));
            (conn, peer)
        }

        /// Requests that never end, each of whose steps costs so much. What each has spent after `steps`.
        fn spent(&mut self, asks: &[(Id, i64)], steps: usize) -> Vec<i64> {
            let mut of: Vec<(Id, Id, i64)> = Vec::new();
            for (conn, cost) in asks {
                let request = self.id();
                of.push((request, *conn, *cost));
                self.lanes.push(Lane::Large, *conn, request);
            }
            let mut spent = vec![0; of.len()];
            for _ in 0..steps {
                let served = self.lanes.pop(Lane::Large).unwrap();
                let at = of.iter().position(|(request, ..)| *request == served.request).unwrap();
                let (request, conn, cost) = of[at];
                self.lanes.push(Lane::Large, conn, request);
                self.lanes.charge(served, cost);
                spent[at] += cost;
            }
            spent
        }
    }

    fn is_near(a: i64, b: i64) -> bool {
        (a - b).abs() <= 4 * SHARE
    }

    /// What one connection with 500 requests gets, and what one with a single request does.
    fn a_thousand_times_and_once(mutant: Option<Mutant>) -> (i64, i64) {
        let mut rig = Rig::new();
        rig.lanes.mutant = mutant;
        let ((greedy, _), (modest, _)) = (rig.join(1), rig.join(2));
        let mut asks = vec![(greedy, SHARE); 500];
        asks.push((modest, SHARE));
        let spent = rig.spent(&asks, 2000);
        (spent[..500].iter().sum(), spent[500])
    }

    #[test]
    fn who_asks_a_thousand_times_gets_no_more_than_who_asks_once() {
        let (greedy, modest) = a_thousand_times_and_once(None);
        assert!(is_near(greedy, modest), "{greedy} beside {modest}");
        let (greedy, modest) = a_thousand_times_and_once(Some(Mutant::TurnsByRequest));
        assert!(greedy > 100 * modest, "turns by request are not found: {greedy} beside {modest}");
    }

    /// What each of a hundred connections of one process gets, and what a single one of another does.
    fn a_hundred_connections_and_one(mutant: Option<Mutant>) -> (Vec<i64>, i64) {
        let mut rig = Rig::new();
        rig.lanes.mutant = mutant;
        let mut asks: Vec<_> = (0..100).map(|_| (rig.join(1).0, SHARE)).collect();
        asks.push((rig.join(2).0, 4096));
        let mut spent = rig.spent(&asks, 40_000);
        let modest = spent.pop().unwrap();
        (spent, modest)
    }

    #[test]
    fn a_hundred_connections_of_one_process_get_no_more_than_one_of_another() {
        let (spent, modest) = a_hundred_connections_and_one(None);
        let greedy: i64 = spent.iter().sum();
        assert!(is_near(greedy, modest), "{greedy} beside {modest}");
        assert!(spent.iter().all(|of| is_near(*of, greedy / 100)), "its connections share: {spent:?}");
        let (spent, modest) = a_hundred_connections_and_one(Some(Mutant::TurnsByConnection));
        let greedy: i64 = spent.iter().sum();
        assert!(greedy > 10 * modest, "turns by connection are not found: {greedy} beside {modest}");
    }

    #[test]
    fn who_comes_last_waits_for_one_share_of_each_other() {
        let mut rig = Rig::new();
        let others: Vec<Id> = (0..4).map(|pid| rig.join(pid).0).collect();
        for conn in &others {
            for _ in 0..50 {
                let request = rig.id();
                rig.lanes.push(Lane::Small, *conn, request);
            }
        }
        let (last, _) = rig.join(9);
        let mine = rig.id();
        rig.lanes.push(Lane::Small, last, mine);
        let mut before = 0;
        loop {
            let served = rig.lanes.pop(Lane::Small).unwrap();
            rig.lanes.charge(served, SHARE);
            if served.request == mine {
                break;
            }
            before += 1;
        }
        assert_eq!(before, 4);
    }

    #[test]
    fn those_that_wait_for_a_read_take_turns_by_connection() {
        let mut rig = Rig::new();
        let ((a, peer), (b, same)) = (rig.join(1), rig.join(1));
        assert_eq!(peer, same);
        let ids: Vec<Id> = (0..4).map(|_| rig.id()).collect();
        for request in &ids[..3] {
            rig.lanes.wait(a, *request);
        }
        rig.lanes.wait(b, ids[3]);
        assert!(rig.lanes.has_waiting(peer) && rig.lanes.is_empty(), "nothing in it can go on");
        let order: Vec<Id> = std::iter::from_fn(|| rig.lanes.waited(peer)).collect();
        assert_eq!(order, [ids[0], ids[3], ids[1], ids[2]]);
    }

    #[test]
    fn those_that_wait_for_room_take_turns_by_peer_and_then_by_connection() {
        let mut rig = Rig::new();
        let ((a, _), (b, _), (other, _)) = (rig.join(1), rig.join(1), rig.join(2));
        let ids: Vec<Id> = (0..5).map(|_| rig.id()).collect();
        for request in &ids[..3] {
            rig.lanes.wait_for_room(Room::Put, a, *request);
        }
        rig.lanes.wait_for_room(Room::Put, b, ids[3]);
        rig.lanes.wait_for_room(Room::Put, other, ids[4]);
        assert!(rig.lanes.is_empty() && rig.lanes.has_waiting_for_room(Room::Put), "nothing of it can go on");
        assert!(rig.lanes.next_for_room(Room::Get).is_none(), "those that read stand apart");
        let order: Vec<Id> = std::iter::from_fn(|| rig.lanes.next_for_room(Room::Put)).collect();
        assert_eq!(order, [ids[0], ids[4], ids[3], ids[1], ids[2]]);
        assert!(!rig.lanes.has_waiting_for_room(Room::Put));
        rig.lanes.wait_for_room(Room::Put, a, ids[0]);
        rig.lanes.wait_for_room(Room::Put, other, ids[4]);
        rig.lanes.leave(a);
        assert_eq!(rig.lanes.next_for_room(Room::Put), Some(ids[4]), "who leaves stands here no longer");
        assert!(rig.lanes.next_for_room(Room::Put).is_none());
    }

    #[test]
    fn who_leaves_leaves_nothing_behind() {
        let mut rig = Rig::new();
        let ((a, peer), (b, _)) = (rig.join(1), rig.join(2));
        let ids: Vec<Id> = (0..3).map(|_| rig.id()).collect();
        rig.lanes.push(Lane::Put, a, ids[0]);
        rig.lanes.wait(a, ids[1]);
        rig.lanes.push(Lane::Put, b, ids[2]);
        rig.lanes.read_begun(peer);
        rig.lanes.leave(a);
        rig.lanes.push(Lane::Put, a, ids[0]);
        assert!(!rig.lanes.has_waiting(peer) && rig.lanes.waited(peer).is_none());
        let (_, again) = rig.join(1);
        assert_eq!(again, peer, "a read of its own is still under way");
        let served = rig.lanes.pop(Lane::Put).unwrap();
        assert_eq!(served.request, ids[2]);
        rig.lanes.charge(served, SHARE);
        assert!(rig.lanes.pop(Lane::Put).is_none() && rig.lanes.is_empty());
        rig.lanes.leave(b);
        rig.lanes.read_ended(peer);
        let (_, other) = rig.join(3);
        assert_ne!(other, peer);
    }
}
