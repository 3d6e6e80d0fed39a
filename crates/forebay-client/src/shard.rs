//! One shard as its client sees it: a few connections, and patience with a node that is down.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use forebay_types::{Address, Clock, Epoch, ShardId};
use forebay_wire::ErrorCode;

use crate::link::{Introduction, Link, LinkError};
use crate::mesh::Core;

/// First wait after an attempt that failed, in microseconds.
const BACKOFF_US_MIN: u64 = 10_000;
/// Longest wait between attempts, in microseconds: the first hit comes well within a second of the node being back.
pub(crate) const BACKOFF_US_MAX: u64 = 200_000;
/// Longest one attempt may take, in microseconds: other shards of the call wait meanwhile.
const CONNECT_US_MAX: u64 = 1_000_000;
/// How soon a call looks again for a connection when all are in use, in microseconds.
const BUSY_US: u64 = 200;

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
    next_try_us: u64,
    backoff_us: u64,
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
    /// Ask again at this time. `down`: because the node could not be reached.
    Wait {
        until_us: u64,
        down: bool,
    },
    /// This attempt failed; another may be made at `again_us`.
    Failed {
        again_us: u64,
    },
    /// The node does not have this shard any more.
    Moved,
    /// Trying again will not help.
    Refused,
}

impl Shard {
    pub(crate) fn new(id: ShardId, weight: u32, addresses: Vec<Address>) -> Self {
        Shard { id, weight, addresses, without_regions: AtomicBool::new(false), state: Mutex::default() }
    }

    /// A connection: an idle one, else a new one.
    pub(crate) fn checkout(self: &Arc<Self>, core: &Core, epoch: Epoch, deadline_us: u64) -> Checkout {
        let now = core.clock.now_us();
        {
            let mut state = self.lock();
            if let Some(link) = self.take_idle(&mut state, core, now) {
                return Checkout::Ready(Lent { shard: self.clone(), link: Some(link) });
            }
            if state.open >= core.options.connections {
                return Checkout::Wait { until_us: now + BUSY_US, down: false };
            }
            if now < state.next_try_us {
                return Checkout::Wait { until_us: state.next_try_us, down: true };
            }
            state.open += 1;
        }
        let timeout = Duration::from_micros(deadline_us.saturating_sub(now).min(CONNECT_US_MAX));
        let connected = self.connect(core, epoch, timeout);
        let mut state = self.lock();
        match connected {
            Ok(link) => {
                state.backoff_us = 0;
                if state.had_broken {
                    core.cells.reconnects.fetch_add(1, Ordering::Relaxed);
                }
                if state
                    .incarnation
                    .replace(link.welcome.incarnation)
                    .is_some_and(|old| old != link.welcome.incarnation)
                {
                    core.cells.restarts.fetch_add(1, Ordering::Relaxed);
                    self.without_regions.store(false, Ordering::Relaxed);
                }
                if link.welcome.epoch != epoch {
                    core.stale.store(true, Ordering::Relaxed);
                }
                Checkout::Ready(Lent { shard: self.clone(), link: Some(Box::new(link)) })
            }
            Err(error) => {
                state.open -= 1;
                if matches!(error, LinkError::Refused { code: ErrorCode::TooMany, .. }) && state.open > 0 {
                    // The node is there and has no more connections to give; one of ours will be free.
                    return Checkout::Wait { until_us: core.clock.now_us() + BACKOFF_US_MIN, down: false };
                }
                state.had_broken = true;
                state.backoff_us = (state.backoff_us * 2).clamp(BACKOFF_US_MIN, BACKOFF_US_MAX);
                state.next_try_us = core.clock.now_us() + state.backoff_us;
                match error {
                    LinkError::Refused { code: ErrorCode::Shard, .. } => Checkout::Moved,
                    LinkError::Refused {
                        code: ErrorCode::Credential | ErrorCode::Version | ErrorCode::Protocol,
                        ..
                    } => Checkout::Refused,
                    _ => Checkout::Failed { again_us: state.next_try_us },
                }
            }
        }
    }

    fn connect(&self, core: &Core, epoch: Epoch, timeout: Duration) -> Result<Link, LinkError> {
        let about = Introduction {
            shard: self.id,
            token: core.options.token.as_deref(),
            epoch,
            regions: core.options.region_bytes > 0 && !self.without_regions.load(Ordering::Relaxed),
        };
        let mut last = Err(LinkError::Closed);
        for address in &self.addresses {
            last = Link::connect(address, &about, timeout, &core.clock);
            if last.is_ok() {
                break;
            }
        }
        last
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

impl Lent {
    pub(crate) fn link(&mut self) -> Option<&mut Link> {
        self.link.as_deref_mut()
    }

    /// The connection is sound and may serve the next call.
    pub(crate) fn give_back(mut self, now_us: u64) {
        if let Some(link) = self.link.take() {
            let mut state = self.shard.lock();
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
