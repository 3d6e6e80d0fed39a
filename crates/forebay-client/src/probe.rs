//! Looking for shards that are taken for dead.
//!
//! One thread for a client, which lives only while one of its shards is dead. It connects and shakes hands without waiting for any one of them,
//! so many dead shards are each looked for on time. What it finds is a connection, ready for the next call; calls meanwhile do not touch the
//! kernel.
//!
//! A probe that has reached a node and is not greeted stays: a stopped node answers it in the moment it goes on, and others would only stand
//! in the node's queue behind it. It is replaced by a fresh one now and then, for somebody else may listen at that address by now; one that has
//! reached nobody is replaced whenever a probe is due. So a shard is always being looked for, over one connection.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::Duration;

use forebay_net::Socket;
use forebay_types::{Address, Clock};
use forebay_wire::ErrorCode;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::breaker::PROBE_US;
use crate::link::{Handshake, LinkError};
use crate::mesh::Core;
use crate::shard::Shard;

/// How long the first probe that has reached a node waits for its greeting before a fresh one takes its place, in microseconds. Each that
/// follows waits twice as long as the one before,
const PATIENCE_US_MIN: u64 = 1_000_000;
/// up to this long: in an hour a stopped node finds some hundred dead connections of a client in its queue, not ten thousand.
const PATIENCE_US_MAX: u64 = 32_000_000;
/// Longest sleep, in microseconds: a shard that has died meanwhile is looked for no later.
const SLEEP_US_MAX: u64 = 50_000;

/// Whether somebody is looking.
#[derive(Debug, Default)]
pub(crate) struct Prober {
    running: Mutex<bool>,
    ended: Condvar,
}

/// One attempt under way.
struct Probe {
    shard: Arc<Shard>,
    handshake: Handshake,
    begun_us: u64,
    /// How long it waits once it has reached a node.
    patience_us: u64,
    /// When it is to be replaced at the soonest: a fresh one could not be begun before.
    again_us: u64,
}

impl Prober {
    /// A shard was just taken for dead. Not to be called while its lock is held.
    pub(crate) fn start(&self, core: &Core) {
        core.cells.breaker_opened.fetch_add(1, Ordering::Relaxed);
        let mut running = self.lock();
        if *running {
            return;
        }
        let weak = core.this.clone();
        let named = std::thread::Builder::new().name("forebay-probe".into());
        // Should there be no thread to have, a call looks when the probe is overdue.
        *running = named.spawn(move || run(&weak)).is_ok();
    }

    /// Waits until no shard is taken for dead, at most this long. True when so.
    pub(crate) fn wait(&self, core: &Core, at_most: Duration) -> bool {
        let until_us = core.clock.now_us().saturating_add(at_most.as_micros() as u64);
        let mut running = self.lock();
        loop {
            let left = until_us.saturating_sub(core.clock.now_us());
            if !*running || left == 0 {
                return !core.any_dead();
            }
            let waited = self.ended.wait_timeout(running, Duration::from_micros(left));
            running = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }

    /// Ends the thread if there is nothing left to look for. Under the lock, so that a shard that dies now finds the flag down.
    fn may_end(&self, core: &Core) -> bool {
        let mut running = self.lock();
        if core.any_dead() {
            return false;
        }
        *running = false;
        self.ended.notify_all();
        true
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The thread. Between its rounds it holds no client: when the last clone is dropped, it ends.
fn run(weak: &Weak<Core>) {
    let mut probes: Vec<Probe> = Vec::new();
    loop {
        let Some(core) = weak.upgrade() else { return };
        probes = probes.into_iter().filter_map(|probe| probe.step(&core)).collect();
        for shard in core.dead_shards() {
            let probed = probes.iter().any(|probe| Arc::ptr_eq(&probe.shard, &shard));
            if shard.take_probe(core.clock.now_us(), probed) {
                match Probe::begin(&core, &shard, PATIENCE_US_MIN) {
                    Ok(probe) => probes.push(probe),
                    Err(_) => shard.probe_failed(&core),
                }
            }
        }
        if probes.is_empty() && core.prober.may_end(&core) {
            return;
        }
        let now_us = core.clock.now_us();
        let next_us = core.dead_shards().filter_map(|shard| shard.next_probe_us());
        let next_us = next_us.chain(probes.iter().map(Probe::ends_us)).min().unwrap_or(now_us);
        drop(core);
        wait(&probes, next_us.saturating_sub(now_us).clamp(1000, SLEEP_US_MAX));
    }
}

impl Probe {
    fn begin(core: &Core, shard: &Arc<Shard>, patience_us: u64) -> Result<Probe, LinkError> {
        core.cells.probes.fetch_add(1, Ordering::Relaxed);
        let (address, about) = shard.to_probe(core);
        let socket = Socket::begin(address)?;
        let handshake = Handshake::begin(socket, matches!(address, Address::Unix(_)), &about)?;
        Ok(Probe { shard: shard.clone(), handshake, begun_us: core.clock.now_us(), patience_us, again_us: 0 })
    }

    /// When a fresh one takes its place.
    fn ends_us(&self) -> u64 {
        // Whom it says hello to it has reached.
        let waits_us = if self.handshake.wants_to_send() { PROBE_US } else { self.patience_us };
        (self.begun_us + waits_us).max(self.again_us)
    }

    /// Its time is over. It goes only when there is another, so that at every moment one is with the node.
    fn replaced(mut self, core: &Core) -> Probe {
        let reached = !self.handshake.wants_to_send();
        let patience_us = if reached { (2 * self.patience_us).min(PATIENCE_US_MAX) } else { PATIENCE_US_MIN };
        match Probe::begin(core, &self.shard, patience_us) {
            Ok(fresh) => fresh,
            Err(_) => {
                self.again_us = core.clock.now_us() + PROBE_US;
                self
            }
        }
    }

    /// Goes on as far as it can without waiting; gives itself back while it is not over.
    fn step(mut self, core: &Core) -> Option<Probe> {
        loop {
            match self.handshake.pump() {
                Ok(true) if self.handshake.is_done() => {
                    match self.handshake.finish() {
                        Ok(link) => self.shard.probed(core, link),
                        Err(_) => self.shard.probe_failed(core),
                    }
                    return None;
                }
                Ok(true) => {}
                Ok(false) if core.clock.now_us() < self.ends_us() => return Some(self),
                Ok(false) => return Some(self.replaced(core)),
                // The node lives, and another has this shard now: the next call asks who.
                Err(LinkError::Refused { code: ErrorCode::Shard, .. }) => {
                    core.stale.store(true, Ordering::Relaxed);
                    self.shard.moved_away();
                    return None;
                }
                Err(_) => {
                    self.shard.probe_failed(core);
                    return None;
                }
            }
        }
    }
}

fn wait(probes: &[Probe], at_most_us: u64) {
    let flags = |probe: &Probe| {
        if probe.handshake.wants_to_send() { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN }
    };
    let mut fds: Vec<PollFd<'_>> =
        probes.iter().map(|probe| PollFd::from_borrowed_fd(probe.handshake.as_fd(), flags(probe))).collect();
    let timeout = Timespec { tv_sec: (at_most_us / 1_000_000) as i64, tv_nsec: (at_most_us % 1_000_000 * 1000) as i64 };
    // Interrupted or not, the next round looks at everything.
    let _ = rustix::event::poll(&mut fds, Some(&timeout));
}
