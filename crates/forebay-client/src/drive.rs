//! How one call drives several connections at once, on the caller's own thread.
//!
//! Each owner of some of the call's keys has a lane: a connection and the part of the call that goes over it. The call goes round its lanes
//! until each is done, has failed, or the deadline has passed. When nothing moves it spins for a little while, if spinning has been
//! worth it lately, and then waits for the sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use forebay_types::{Clock, Epoch};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::coming::Coming;
use crate::interrupt::Until;
use crate::link::{Link, LinkError};
use crate::mesh::{Core, Table};
use crate::shard::{Checkout, Lent, Shard};

/// Times a lane's connection may break before the call gives that shard up.
const BREAKS_MAX: u32 = 2;

/// Why the rest of a part is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Deadline,
    Unavailable,
    /// Another shard may own these keys by now.
    Moved,
}

/// When it is now and when it is over, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    pub(crate) now_us: u64,
    pub(crate) deadline_us: u64,
}

impl Moment {
    /// Time left as the node is told: a little less than there is, so that its last word still arrives.
    pub(crate) fn wire_us(&self) -> u32 {
        let left = self.deadline_us.saturating_sub(self.now_us);
        u32::try_from(left - (left / 10).min(1000)).unwrap_or(u32::MAX).max(1)
    }
}

/// What of a call goes to one shard. All parts of a call share an `S`.
pub(crate) trait Part<S> {
    /// Sends and receives what it can without waiting. True when anything moved.
    fn pump(&mut self, link: &mut Link, shared: &mut S, at: Moment) -> Result<bool, LinkError>;
    /// Every key has its outcome.
    fn is_done(&self) -> bool;
    /// The connection is gone: what has no outcome is to be asked again, where that is safe.
    fn broken(&mut self, shared: &mut S);
    /// Stops waiting: requests are cancelled, and what the node may still touch goes to the link.
    fn give_up(&mut self, link: &mut Link) -> Result<(), LinkError>;
    /// Gives every key without an outcome this one.
    fn fail(&mut self, why: Why, shared: &mut S);
    /// The call looks at who is who once more if it is told that its keys may have moved.
    fn may_move(&self, shared: &S) -> bool {
        let _ = shared;
        false
    }
}

/// A part and its way there.
pub(crate) struct Lane<P> {
    shard: Arc<Shard>,
    lent: Option<Lent>,
    /// A connection that is being made.
    coming: Option<Coming>,
    pub(crate) part: P,
    breaks: u32,
    /// When the connection was got, and how much had been heard on it by then.
    lent_at: (u64, u64),
    /// The shard cannot be reached.
    down: bool,
    again_us: u64,
    over: bool,
}

impl<P> Lane<P> {
    pub(crate) fn new(shard: Arc<Shard>, part: P) -> Self {
        Lane {
            shard,
            lent: None,
            coming: None,
            part,
            breaks: 0,
            lent_at: (0, 0),
            down: false,
            again_us: 0,
            over: false,
        }
    }

    fn end<S>(&mut self, why: Why, shared: &mut S)
    where
        P: Part<S>,
    {
        self.part.fail(why, shared);
        self.over = true;
    }

    /// One round. True when anything moved.
    fn turn<S>(&mut self, core: &Core, epoch: Epoch, shared: &mut S, at: Moment) -> bool
    where
        P: Part<S>,
    {
        if self.part.is_done() {
            self.finish(at);
            return true;
        }
        if at.now_us >= at.deadline_us {
            self.run_out(core, shared, at);
            return true;
        }
        if self.lent.is_none() {
            let reached = self.reach(core, epoch, shared, at);
            if self.lent.is_none() {
                return reached;
            }
        }
        let Some(link) = self.lent.as_mut().and_then(Lent::link) else { return false };
        match self.part.pump(link, shared, at) {
            Ok(moved) => {
                if self.part.is_done() {
                    self.finish(at);
                }
                moved
            }
            Err(error) => {
                self.broke(error, core, shared);
                true
            }
        }
    }

    fn finish(&mut self, at: Moment) {
        self.over = true;
        if let Some(mut lent) = self.lent.take() {
            let heard = self.has_heard(&mut lent);
            lent.give_back(at.now_us, heard);
        }
    }

    /// Whether anything came since the connection was got.
    fn has_heard(&self, lent: &mut Lent) -> bool {
        lent.link().is_some_and(|link| link.heard != self.lent_at.1)
    }

    fn broke<S>(&mut self, error: LinkError, core: &Core, shared: &mut S)
    where
        P: Part<S>,
    {
        if let LinkError::Refused { code: forebay_wire::ErrorCode::Region, .. } = error {
            self.shard.without_regions.store(true, Ordering::Relaxed);
        }
        if let Some(lent) = self.lent.take() {
            lent.broke(core);
        }
        self.part.broken(shared);
        self.breaks += 1;
        if self.part.is_done() {
            self.over = true;
        } else if self.breaks > BREAKS_MAX {
            self.end(Why::Unavailable, shared);
        }
    }

    /// The deadline has passed.
    fn run_out<S>(&mut self, core: &Core, shared: &mut S, at: Moment)
    where
        P: Part<S>,
    {
        if let Some(mut lent) = self.lent.take() {
            let heard = self.has_heard(&mut lent);
            let sound = lent.link().is_some_and(|link| self.part.give_up(link).is_ok() && link.is_between_frames());
            if sound {
                lent.give_back(at.now_us, heard)
            } else {
                lent.broke(core)
            }
            if !heard {
                self.shard.silent(core, self.lent_at.0, at.now_us);
            }
        }
        if let Some(coming) = self.coming.take() {
            coming.run_out(core);
        }
        let why = if self.down { Why::Unavailable } else { Why::Deadline };
        self.end(why, shared);
    }

    /// Gets a connection, or goes on getting one. True when anything moved.
    fn reach<S>(&mut self, core: &Core, epoch: Epoch, shared: &mut S, at: Moment) -> bool
    where
        P: Part<S>,
    {
        let checkout = match &mut self.coming {
            Some(coming) => match coming.step(core, epoch) {
                None => return false,
                Some(ended) => {
                    self.coming = None;
                    ended
                }
            },
            None if at.now_us < self.again_us => return false,
            None => self.shard.checkout(core, at.deadline_us),
        };
        match checkout {
            Checkout::Ready(mut lent) => {
                let newer = lent.link().is_some_and(|link| link.welcome.epoch > epoch);
                if newer && self.part.may_move(shared) {
                    // Whom the old table names may still serve these keys to those who ask, and nobody who knows better would find what is put there.
                    lent.give_back(at.now_us, true);
                    self.end(Why::Moved, shared);
                    return true;
                }
                self.lent_at = (core.clock.now_us(), lent.link().map_or(0, |link| link.heard));
                self.lent = Some(lent);
                self.down = false;
            }
            Checkout::Coming(coming) => self.coming = Some(coming),
            Checkout::Wait { until_us, down } => {
                self.again_us = until_us;
                self.down = down;
                return false;
            }
            Checkout::Moved => self.end(Why::Moved, shared),
            Checkout::Dead => self.end(Why::Unavailable, shared),
        }
        true
    }
}

/// A shard and the items of a call that it owns.
pub(crate) type Owned = (Arc<Shard>, Vec<u32>);

/// Sorts the items of a call by the shard that owns them; behind it, those that nobody owns.
pub(crate) fn by_owner(
    table: &Table,
    indices: impl Iterator<Item = u32>,
    place: impl Fn(u32) -> u64,
) -> (Vec<Owned>, Vec<u32>) {
    if let [only] = &table.shards[..] {
        let all: Vec<u32> = indices.collect();
        // As with several shards: a part without keys would wait for an answer about nothing.
        let owned = if all.is_empty() { Vec::new() } else { vec![(only.clone(), all)] };
        return (owned, Vec::new());
    }
    let mut owned: Vec<Vec<u32>> = vec![Vec::new(); table.shards.len()];
    let mut orphans = Vec::new();
    for index in indices {
        match table.owner(place(index)) {
            Some(owner) => owned[owner].push(index),
            None => orphans.push(index),
        }
    }
    let owned = table.shards.iter().zip(owned).filter(|(_, indices)| !indices.is_empty());
    (owned.map(|(shard, indices)| (shard.clone(), indices)).collect(), orphans)
}

/// Drives all lanes to their end. On return every key of every part has its outcome.
pub(crate) fn drive<S, P: Part<S>>(core: &Core, epoch: Epoch, lanes: &mut [Lane<P>], shared: &mut S, deadline_us: u64) {
    let mut idle_since_us = None;
    let mut spinning = false;
    let mut until = Until::new(core.options.interrupt.as_ref(), deadline_us, core.clock.now_us());
    loop {
        let now_us = core.clock.now_us();
        let at = Moment { now_us, deadline_us: until.deadline_us(now_us) };
        let mut moved = false;
        for lane in lanes.iter_mut().filter(|lane| !lane.over) {
            moved |= lane.turn(core, epoch, shared, at);
        }
        if moved && let Some(since) = idle_since_us.take() {
            core.spin.learn(at.now_us - since);
        }
        if lanes.iter().all(|lane| lane.over) {
            return;
        }
        if moved {
            continue;
        }
        let since = *idle_since_us.get_or_insert_with(|| {
            spinning = core.spin.is_worth_it();
            at.now_us
        });
        if spinning && at.now_us - since < core.spin.max_us {
            // The node may be waiting for this very core: a spin that kept it made a get four times as long.
            std::thread::yield_now();
            core.spin.looked(core.clock.now_us() - at.now_us);
            continue;
        }
        spinning = false;
        // By the clock as it is now: the round may have taken its time.
        if wait(lanes, until.wait_until_us(), core.clock.now_us()) {
            until.signalled();
        }
    }
}

/// Sleeps until a socket moves, a connection may be tried again, or that time has come. True when a signal ended it.
fn wait<P>(lanes: &[Lane<P>], mut until_us: u64, now_us: u64) -> bool {
    let mut fds = Vec::with_capacity(lanes.len());
    for lane in lanes.iter().filter(|lane| !lane.over) {
        let (socket, again_us) = match (&lane.lent, &lane.coming) {
            (Some(lent), _) => (lent.fd().map(|fd| (fd, lent.wants_to_send())), u64::MAX),
            (None, Some(coming)) => (coming.fd(), coming.until_us()),
            (None, None) => (None, lane.again_us),
        };
        until_us = until_us.min(again_us.max(now_us + 1));
        fds.extend(socket.map(|(fd, sends)| {
            let out = if sends { PollFlags::OUT } else { PollFlags::empty() };
            PollFd::from_borrowed_fd(fd, PollFlags::IN | out)
        }));
    }
    let left = until_us.saturating_sub(now_us);
    let timeout = Timespec { tv_sec: (left / 1_000_000) as i64, tv_nsec: (left % 1_000_000 * 1000) as i64 };
    // Interrupted or not, the next round looks at everything again.
    rustix::event::poll(&mut fds, Some(&timeout)) == Err(rustix::io::Errno::INTR)
}

/// Whether to spin before a wait: waking a sleeping thread can cost more than a small get, but spinning through a long wait only burns a core.
#[derive(Debug)]
pub(crate) struct Spin {
    max_us: u64,
    score: AtomicI32,
}

impl Spin {
    const SCORE_MAX: i32 = 8;
    /// Longer away than this, in microseconds, and somebody else uses the core. Who sleeps gets it back sooner than who yields.
    const STOLEN_US: u64 = 500;
    /// So many waits that would have been short make good for one time the core was stolen.
    const STOLEN_SCORE: i32 = -64;

    pub(crate) fn new(max_us: u32) -> Self {
        Spin { max_us: u64::from(max_us), score: AtomicI32::new(Self::SCORE_MAX) }
    }

    /// It has been lately.
    fn is_worth_it(&self) -> bool {
        self.max_us > 0 && self.score.load(Ordering::Relaxed) > 0
    }

    /// A wait took this long: short ones speak for spinning, long ones against. Half as long again is short too: who slept has paid for waking.
    /// Races between threads only lose a vote.
    fn learn(&self, waited_us: u64) {
        let score = self.score.load(Ordering::Relaxed);
        let vote = if waited_us < self.max_us * 3 / 2 { 1 } else { -1 };
        // A score below the range climbs back; it is not lifted there.
        self.score.store((score + vote).min(Self::SCORE_MAX).max(score.min(-Self::SCORE_MAX)), Ordering::Relaxed);
    }

    /// A look took this long.
    fn looked(&self, away_us: u64) {
        if away_us > Self::STOLEN_US {
            self.score.store(Self::STOLEN_SCORE, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_stops_while_waits_are_long_and_while_others_use_the_core() {
        let spin = Spin::new(150);
        assert!(spin.is_worth_it() && !Spin::new(0).is_worth_it());
        (0..8).for_each(|_| spin.learn(10_000));
        assert!(!spin.is_worth_it());
        (0..9).for_each(|_| spin.learn(100));
        assert!(spin.is_worth_it());
        spin.looked(3000);
        (0..60).for_each(|_| spin.learn(100));
        assert!(!spin.is_worth_it());
        (0..5).for_each(|_| spin.learn(100));
        assert!(spin.is_worth_it());
    }
}
