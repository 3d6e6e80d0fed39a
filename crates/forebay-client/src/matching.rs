//! Looking without fetching: `match_prefix` and `contains`.

use std::time::Duration;

use forebay_types::limits::{KEYS_PER_MESSAGE_MAX, LEASE_MS_DEFAULT, LEASE_MS_MAX};
use forebay_types::{Clock, Key, MissReason, NamespaceId, Tier};
use forebay_wire::{Message, Presence};

use crate::counters::GetCounters;
use crate::drive::{Lane, Moment, Part, Why, by_owner, drive};
use crate::handle::{CallLimits, Space};
use crate::link::{Link, LinkError, Nothing, Sink, miss_for};
use crate::mesh::Core;

/// What [`crate::NamespaceHandle::match_prefix`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matched {
    /// The first `n` keys were all present when their shards looked.
    pub n: usize,
    /// Where each of them was.
    pub tiers: Vec<Tier>,
    /// How many of them are held by a lease now. Fewer than `n` when a shard has no room for more leases.
    pub leased: usize,
    /// Why the key behind them was missed; `None` if all were present.
    pub gap: Option<MissReason>,
}

struct Look<'c> {
    namespace: NamespaceId,
    keys: &'c [Key],
    hold_ms: u32,
    stop_at_gap: bool,
    found: Vec<Seen>,
    moved: Option<Vec<u32>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    presence: Presence,
    local: bool,
}

struct LookPart {
    indices: Vec<u32>,
    answered: usize,
    asked: Option<(u32, usize)>,
    done: bool,
}

impl LookPart {
    fn set(&mut self, presence: Presence, local: bool, look: &mut Look<'_>) {
        look.found[self.indices[self.answered] as usize] = Seen { presence, local };
        self.answered += 1;
        if self.answered == self.indices.len() || (look.stop_at_gap && !matches!(presence, Presence::Here { .. })) {
            // What is behind the gap stays as it was: not asked.
            self.done = true;
        }
    }

    fn miss_all(&mut self, count: usize, reason: MissReason, look: &mut Look<'_>) {
        for _ in 0..count {
            if self.done {
                break;
            }
            self.set(Presence::Not(reason), false, look);
        }
    }
}

impl Part<Look<'_>> for LookPart {
    fn pump(&mut self, link: &mut Link, look: &mut Look<'_>, at: Moment) -> Result<bool, LinkError> {
        let mut moved = false;
        if self.asked.is_none() {
            let rest = &self.indices[self.answered..];
            let count = rest.len().min(KEYS_PER_MESSAGE_MAX);
            let request = link.number();
            link.queue(&Message::Match {
                request,
                namespace: look.namespace,
                deadline_us: at.wire_us(),
                hold_ms: look.hold_ms,
                stop_at_gap: look.stop_at_gap,
                keys: rest[..count].iter().map(|index| look.keys[*index as usize]).collect(),
            })?;
            self.asked = Some((request, count));
            moved = true;
        }
        moved |= link.flush(&mut Nothing)?;
        let local = link.local;
        Ok(moved | link.receive(&mut Sightings { part: self, look, local })?)
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn broken(&mut self, _look: &mut Look<'_>) {
        self.asked = None;
    }

    fn give_up(&mut self, link: &mut Link) -> Result<(), LinkError> {
        match self.asked.take() {
            Some((request, _)) => link.give_up(request, Vec::new()),
            None => Ok(()),
        }
    }

    fn fail(&mut self, why: Why, look: &mut Look<'_>) {
        let reason = match why {
            Why::Deadline => MissReason::Deadline,
            Why::Unavailable => MissReason::Unavailable,
            Why::Moved => MissReason::NotMine,
        };
        if why == Why::Moved
            && let Some(moved) = &mut look.moved
        {
            moved.extend(self.indices.drain(self.answered..));
            self.done = true;
        }
        self.miss_all(self.indices.len() - self.answered, reason, look);
    }

    fn may_move(&self, look: &Look<'_>) -> bool {
        look.moved.is_some()
    }
}

struct Sightings<'p, 'l, 'c> {
    part: &'p mut LookPart,
    look: &'l mut Look<'c>,
    local: bool,
}

impl Sink for Sightings<'_, '_, '_> {
    fn message(&mut self, message: Message) -> Result<(), LinkError> {
        let Some((asked, count)) = self.part.asked else { return Ok(()) };
        match message {
            Message::MatchOutcomes { request, presence } if request == asked => {
                if presence.len() != count {
                    return Err(LinkError::Protocol("another number of outcomes than keys"));
                }
                self.part.asked = None;
                for presence in presence {
                    if self.part.done {
                        break;
                    }
                    if presence == Presence::NotAsked {
                        return Err(LinkError::Protocol("a key left out that is behind no gap"));
                    }
                    self.part.set(presence, self.local, self.look);
                }
                Ok(())
            }
            Message::Error { request, code, .. } if request == asked => {
                self.part.asked = None;
                self.part.miss_all(count, miss_for(code), self.look);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn look<'c>(
    space: &Space,
    core: &Core,
    keys: &'c [Key],
    hold_ms: u32,
    stop_at_gap: bool,
    limits: CallLimits,
) -> Look<'c> {
    let deadline_us = core.clock.now_us() + limits.deadline_us;
    let not_asked = Seen { presence: Presence::NotAsked, local: false };
    let mut look = Look {
        namespace: space.namespace.id,
        keys,
        hold_ms,
        stop_at_gap,
        found: vec![not_asked; keys.len()],
        moved: Some(Vec::new()),
    };
    round(core, &mut look, 0..keys.len() as u32, deadline_us);
    let moved = look.moved.take().unwrap_or_default();
    if !moved.is_empty() {
        core.cells.add(|all| all.moved += moved.len() as u64);
        core.stale.store(true, std::sync::atomic::Ordering::Relaxed);
        round(core, &mut look, moved.into_iter(), deadline_us);
    }
    look
}

fn round(core: &Core, look: &mut Look<'_>, indices: impl Iterator<Item = u32>, deadline_us: u64) {
    let table = core.table(deadline_us);
    let keys = look.keys;
    let (owned, orphans) = by_owner(&table, indices, |index| keys[index as usize].place_token());
    for index in orphans {
        look.found[index as usize].presence = Presence::Not(MissReason::Unavailable);
    }
    let lane = |(shard, indices)| Lane::new(shard, LookPart { indices, answered: 0, asked: None, done: false });
    let mut lanes: Vec<_> = owned.into_iter().map(lane).collect();
    drive(core, table.epoch, &mut lanes, look, deadline_us);
}

pub(crate) fn match_prefix(
    space: &Space,
    core: &Core,
    keys: &[Key],
    hold: Option<Duration>,
    limits: CallLimits,
) -> Matched {
    let hold_ms = hold.map_or(LEASE_MS_DEFAULT, |hold| hold.as_millis() as u64).min(LEASE_MS_MAX);
    // Leases begin when the shards look, not before now: what expires here first is no promise any more.
    let begun_us = core.clock.now_us();
    let until_us = begun_us + hold_ms * 1000;
    let look = look(space, core, keys, hold_ms as u32, true, limits);
    let now_us = core.clock.now_us();
    let mut matched = Matched::default();
    let mut counts = GetCounters { asked: keys.len() as u64, ..GetCounters::default() };
    let mut leased = Vec::new();
    for (key, seen) in keys.iter().zip(&look.found) {
        match seen.presence {
            Presence::Here { tier, leased: held } => {
                matched.n += 1;
                matched.tiers.push(tier);
                counts.hit(tier, seen.local);
                if held {
                    leased.push(*key);
                }
            }
            Presence::Not(reason) => {
                matched.gap = Some(reason);
                break;
            }
            // Its owner found a gap before it, which then comes before it in the call as well.
            Presence::NotAsked => {
                matched.gap = Some(MissReason::Unavailable);
                break;
            }
        }
    }
    if let Some(reason) = matched.gap {
        counts.miss(reason);
        counts.not_asked = (keys.len() - matched.n - 1) as u64;
    }
    matched.leased = leased.len();
    // Who could not be reached has not answered, and how long that took says nothing of those who do.
    if !keys.is_empty() && !matches!(matched.gap, Some(MissReason::Unavailable | MissReason::Deadline)) {
        space.model().looked(now_us - begun_us, now_us);
    }
    core.promises.remember(space.namespace.id, until_us, leased.into_iter());
    core.cells.add(|all| all.matched.add(&counts));
    matched
}

pub(crate) fn contains(space: &Space, core: &Core, keys: &[Key], limits: CallLimits) -> Vec<Result<Tier, MissReason>> {
    let look = look(space, core, keys, 0, false, limits);
    let mut counts = GetCounters { asked: keys.len() as u64, ..GetCounters::default() };
    let answers = look.found.iter().map(|seen| match seen.presence {
        Presence::Here { tier, .. } => {
            counts.hit(tier, seen.local);
            Ok(tier)
        }
        Presence::Not(reason) => {
            counts.miss(reason);
            Err(reason)
        }
        Presence::NotAsked => {
            counts.miss(MissReason::Unavailable);
            Err(MissReason::Unavailable)
        }
    });
    let answers = answers.collect();
    core.cells.add(|all| all.contains.add(&counts));
    answers
}
