//! One shard as its client sees it: a few connections, and patience with a node that is down.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use forebay_types::{Address, Clock, Entropy, Epoch, ShardId};
use forebay_wire::ErrorCode;

use crate::breaker::{Admit, Breaker};
use crate::coming::Coming;
use crate::link::{Introduction, Link, LinkError};
use crate::mesh::Core;
use crate::options::Mutant;

/// Longest one attempt may take, in microseconds: it may be the connection that is lost, not the node.
const CONNECT_US_MAX: u64 = 1_000_000;
/// How soon a call looks again for a connection when all are in use, in microseconds.
const BUSY_US: u64 = 200;
/// The same when the node has no more connections to give.
const TOO_MANY_US: u64 = 10_000;
/// So soon after a call a node has mostly said that it is done with what the call gave up, in microseconds.
const SETTLES_US: u64 = 10_000;
/// A connection idle for longer, in microseconds, is looked at before it is used: slices lent over one that is dead would be lost.
const RESTED_US: u64 = 1000;

/// A shard and the connections to it.
pub(crate) struct Shard {
    pub(crate) id: ShardId,
    /// Weight in placement.
    pub(crate) weight: u32,
    /// Where to try, in order. Never empty.
    pub(crate) addresses: Vec<Address>,
    /// The node would not take a region of ours: bytes go through the socket.
    pub(crate) without_regions: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// With the time each was given back. Boxed: a link is some hundred bytes and moves between calls all the time.
    idle: Vec<(u64, Box<Link>)>,
    open: usize,
    breaker: Breaker,
    /// Probes so far: each tries the next of the addresses.
    probes: usize,
    /// The node's last known start.
    incarnation: Option<u64>,
    had_broken: bool,
}

/// A connection lent to a call. Dropped without being given back, it is closed.
pub(crate) struct Lent {
    shard: Arc<Shard>,
    link: Option<Box<Link>>,
}

/// What asking for a connection gives.
pub(crate) enum Checkout {
    Ready(Lent),
    /// It is on its way.
    Coming(Coming),
    /// Ask again at this time. `down`: because the node could not be reached.
    Wait {
        until_us: u64,
        down: bool,
    },
    /// The node does not have this shard any more.
    Moved,
    /// The node is taken for dead, or trying again will not help.
    Dead,
}

impl Shard {
    pub(crate) fn new(id: ShardId, weight: u32, addresses: Vec<Address>) -> Self {
        Shard { id, weight, addresses, without_regions: AtomicBool::new(false), state: Mutex::default() }
    }

    /// A connection: an idle one, else a new one that is on its way. No word to the kernel while the shard is taken for dead.
    pub(crate) fn checkout(self: &Arc<Self>, core: &Core, deadline_us: u64) -> Checkout {
        let now = core.clock.now_us();
        let proves = self.may_prove(core);
        {
            let mut state = self.lock();
            let admitted = state.breaker.admit(now);
            if admitted == Admit::Never {
                return Checkout::Dead;
            }
            // What it has let go is free when it has greeted once more.
            let greets = proves && admitted == Admit::Ask && make_way(&mut state, core.options.connections);
            if !greets && let Some(link) = self.take_idle(&mut state, core, now) {
                return Checkout::Ready(Lent { shard: self.clone(), link: Some(link) });
            }
            if state.open >= core.options.connections || !greets && settles_soon(&state, now) {
                return Checkout::Wait { until_us: now + BUSY_US, down: false };
            }
            if let Admit::At(until_us) = admitted {
                return Checkout::Wait { until_us, down: true };
            }
            state.open += 1;
        }
        core.cells.attempts.fetch_add(1, Ordering::Relaxed);
        let deadline_us = deadline_us.min(now + CONNECT_US_MAX);
        Checkout::Coming(Coming::new(self.clone(), now, deadline_us))
    }

    /// An attempt of a call came to nothing.
    pub(crate) fn unreached(&self, core: &Core, error: &LinkError) -> Checkout {
        let now = core.clock.now_us();
        let patience_us = core.options.patience.as_micros() as u64;
        let mut state = self.lock();
        state.open -= 1;
        let (checkout, patience_us) = match error {
            LinkError::Refused { code: ErrorCode::TooMany, .. } if state.open > 0 => {
                // The node is there and has no more connections to give; one of ours will be free.
                return Checkout::Wait { until_us: now + TOO_MANY_US, down: false };
            }
            LinkError::Refused { code: ErrorCode::Shard, .. } => return Checkout::Moved,
            LinkError::Refused { code: ErrorCode::Credential | ErrorCode::Version | ErrorCode::Protocol, .. } => {
                (Some(Checkout::Dead), 0)
            }
            _ => (None, patience_us),
        };
        state.had_broken = true;
        let opened = state.breaker.failed(now, patience_us, core.chance.word());
        let admitted = state.breaker.admit(now);
        drop(state);
        if opened {
            core.prober.start(core);
        }
        match (checkout, admitted) {
            (Some(checkout), _) => checkout,
            (None, Admit::At(until_us)) => Checkout::Wait { until_us, down: true },
            (None, _) => Checkout::Dead,
        }
    }

    /// What a fresh connection tells of its node.
    fn welcomed(&self, state: &mut State, core: &Core, epoch: Epoch, link: &Link) {
        state.breaker.reached();
        if state.had_broken {
            core.cells.reconnects.fetch_add(1, Ordering::Relaxed);
        }
        let incarnation = link.welcome.incarnation;
        // It has the drive, and it has it alone: what an earlier start had under way there has ended. And it has lived since it was seen to have let
        // go of what it was lent over connections that are no more, so it has done that itself, behind the last landing.
        let freed = core.regions.welcomed(self.id, incarnation, &link.let_go);
        core.cells.lent_freed.fetch_add(freed as u64, Ordering::Relaxed);
        if state.incarnation.replace(incarnation).is_some_and(|old| old != incarnation) {
            core.cells.restarts.fetch_add(1, Ordering::Relaxed);
            self.without_regions.store(false, Ordering::Relaxed);
        }
        if link.welcome.epoch != epoch {
            core.stale.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn introduction<'c>(&self, core: &'c Core, epoch: Epoch) -> Introduction<'c> {
        Introduction {
            shard: self.id,
            token: core.options.token.as_deref(),
            epoch,
            regions: core.options.region_bytes > 0 && !self.without_regions.load(Ordering::Relaxed),
            interrupt: core.options.interrupt.as_ref(),
            let_go: match core.options.mutant(Mutant::GreetingIsEnough) {
                true => core.regions.withheld_for(self.id),
                false => core.regions.let_go(self.id),
            },
        }
    }

    /// Whether a greeting would prove that lent memory is free.
    fn may_prove(&self, core: &Core) -> bool {
        let let_go = core.regions.let_go(self.id);
        if core.options.mutant(Mutant::LetGoIsEnough) && !let_go.is_empty() {
            core.regions.welcomed(self.id, let_go[0].start, &let_go);
        }
        !let_go.is_empty()
    }

    /// A connection that a call has made; it counts among the shard's already.
    pub(crate) fn made(self: &Arc<Self>, core: &Core, epoch: Epoch, link: Link) -> Lent {
        self.welcomed(&mut self.lock(), core, epoch, &link);
        Lent { shard: self.clone(), link: Some(Box::new(link)) }
    }

    /// A connection that was being made is not wanted any more.
    pub(crate) fn unmade(&self) {
        self.lock().open -= 1;
    }

    /// It is taken for dead, and no call would be let try: what [`Self::checkout`] would say, without a connection's frame being made for it.
    pub(crate) fn is_refused(&self, core: &Core) -> bool {
        self.lock().breaker.is_refused(core.clock.now_us())
    }

    /// It is taken for dead.
    pub(crate) fn is_dead(&self) -> bool {
        self.lock().breaker.is_open()
    }

    /// When it is to be looked for, if it is dead and nobody is looking.
    pub(crate) fn next_probe_us(&self) -> Option<u64> {
        self.lock().breaker.next_probe_us()
    }

    /// See [`Breaker::take_probe`].
    pub(crate) fn take_probe(&self, now_us: u64, probed: bool) -> bool {
        self.lock().breaker.take_probe(now_us, probed)
    }

    /// Where to look for it this time, and what to say there.
    pub(crate) fn to_probe<'c>(&self, core: &'c Core) -> (&Address, Introduction<'c>) {
        let mut state = self.lock();
        state.probes = state.probes.wrapping_add(1);
        (&self.addresses[state.probes % self.addresses.len()], self.introduction(core, core.known_epoch()))
    }

    /// A probe found nobody.
    pub(crate) fn probe_failed(&self, core: &Core) {
        self.lock().breaker.probe_failed(core.clock.now_us(), core.chance.word());
    }

    /// A probe found it. The connection is the next call's.
    pub(crate) fn probed(&self, core: &Core, link: Link) {
        let mut state = self.lock();
        self.welcomed(&mut state, core, core.known_epoch(), &link);
        if state.open < core.options.connections {
            state.open += 1;
            state.idle.push((core.clock.now_us(), Box::new(link)));
        }
    }

    /// A probe found that the node serves it no more: calls learn it the same way.
    pub(crate) fn moved_away(&self) {
        self.lock().breaker.reached();
    }

    /// A call's time is up, and nothing came on its connection since `asked_us`.
    pub(crate) fn silent(&self, core: &Core, asked_us: u64, now_us: u64) {
        let opened = self.lock().breaker.silent(asked_us, now_us);
        if opened {
            core.prober.start(core);
        }
    }

    /// Looks at the idle connections that owe something.
    pub(crate) fn settle(&self, core: &Core) {
        let mut state = self.lock();
        for (since_us, mut link) in std::mem::take(&mut state.idle) {
            if link.owes() && link.drain().is_err() {
                self.count_broken(&mut state, core);
            } else {
                state.idle.push((since_us, link));
            }
        }
    }

    fn take_idle(&self, state: &mut State, core: &Core, now_us: u64) -> Option<Box<Link>> {
        let mut aside = Vec::new();
        let mut found = None;
        while let Some((since_us, mut link)) = state.idle.pop() {
            let rested = now_us.saturating_sub(since_us) > RESTED_US;
            if (rested || link.owes()) && link.drain().is_err() {
                self.count_broken(state, core);
                continue;
            }
            if link.owes_too_much() {
                aside.push((since_us, link));
                continue;
            }
            found = Some(link);
            break;
        }
        state.idle.extend(aside);
        found
    }

    fn count_broken(&self, state: &mut State, core: &Core) {
        state.open -= 1;
        state.had_broken = true;
        core.cells.broken.fetch_add(1, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// One that is idle owes too much and has not for long. Over a new one this call would take as much memory again as calls have given up over that, and the
/// next ones once more: four callers that gave each call 1 ms took 90 MiB each so, in half a second of the kernel's work, where they need 54.
fn settles_soon(state: &State, now_us: u64) -> bool {
    state.idle.iter().any(|(since_us, link)| link.owes_too_much() && now_us.saturating_sub(*since_us) < SETTLES_US)
}

/// Room for one more connection, if need be in the place of an idle one that owes nothing.
fn make_way(state: &mut State, connections: usize) -> bool {
    if state.open >= connections
        && let Some(at) = state.idle.iter().position(|(_, link)| !link.owes())
    {
        state.idle.swap_remove(at);
        state.open -= 1;
    }
    state.open < connections
}

impl Lent {
    pub(crate) fn link(&mut self) -> Option<&mut Link> {
        self.link.as_deref_mut()
    }

    /// The connection is sound and may serve the next call. `heard`: the node has said something on it.
    pub(crate) fn give_back(mut self, now_us: u64, heard: bool) {
        if let Some(link) = self.link.take() {
            let mut state = self.shard.lock();
            if heard {
                state.breaker.heard();
            }
            if link.is_between_frames() {
                state.idle.push((now_us, link));
            } else {
                state.open -= 1;
            }
        }
    }

    /// The connection broke: so, probably, did those that are idle. Those that are dead are let go, so that the next attempt does not
    /// find one of them.
    pub(crate) fn broke(mut self, core: &Core) {
        let shard = self.shard.clone();
        let mut state = shard.lock();
        if self.link.take().is_some() {
            shard.count_broken(&mut state, core);
        }
        for (since_us, mut link) in std::mem::take(&mut state.idle) {
            match link.drain() {
                Ok(()) => state.idle.push((since_us, link)),
                Err(_) => shard.count_broken(&mut state, core),
            }
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if self.link.take().is_some() {
            self.shard.lock().open -= 1;
        }
    }
}

impl Lent {
    /// Its socket, to wait for; `None` once given back.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.link.as_deref().map(AsFd::as_fd)
    }

    /// It waits to send.
    pub(crate) fn wants_to_send(&self) -> bool {
        self.link.as_deref().is_some_and(Link::wants_to_send)
    }
}
