//! Hints: what was used without being fetched, and what will be wanted. Sent and not waited for; a hint that cannot be sent soon is dropped and counted.

use std::time::Duration;

use forebay_types::limits::KEYS_PER_MESSAGE_MAX;
use forebay_types::{Clock, Key, NamespaceId, Reuse};
use forebay_wire::{Message, features};

use crate::counters::HintCounters;
use crate::drive::{Lane, Moment, Part, Why, by_owner, drive};
use crate::handle::{CallLimits, Space};
use crate::link::{Link, LinkError, Nothing};
use crate::mesh::Core;
use crate::options::bounded_deadline;

/// Longest a hint may take, in microseconds: a favour must not cost what it is to save.
pub(crate) const SEND_US_MAX: u64 = 20_000;

/// What is said.
#[derive(Debug, Clone, Copy)]
enum Deed {
    Touch(Reuse),
    /// Wanted before this time on the client's clock.
    Prefetch {
        until_us: u64,
    },
}

struct Call<'c> {
    namespace: NamespaceId,
    keys: &'c [Key],
    deed: Deed,
    sent: u64,
}

struct HintPart {
    indices: Vec<u32>,
    /// In messages that are on their way.
    queued: usize,
    /// In messages that the socket has taken.
    sent: usize,
    over: bool,
}

impl Part<Call<'_>> for HintPart {
    fn pump(&mut self, link: &mut Link, call: &mut Call<'_>, at: Moment) -> Result<bool, LinkError> {
        if link.welcome.features & features::HINTS == 0 {
            // It would take them and not act upon them.
            self.over = true;
            return Ok(true);
        }
        let mut moved = false;
        if self.queued == self.sent {
            let rest = &self.indices[self.sent..];
            let count = rest.len().min(KEYS_PER_MESSAGE_MAX);
            let keys = rest[..count].iter().map(|index| call.keys[*index as usize]).collect();
            let namespace = call.namespace;
            link.queue(&match call.deed {
                Deed::Touch(hint) => Message::Touch { namespace, hint: hint.into(), keys },
                Deed::Prefetch { until_us } => {
                    let left_us = until_us.saturating_sub(at.now_us);
                    Message::Prefetch { namespace, deadline_us: u32::try_from(left_us).unwrap_or(u32::MAX), keys }
                }
            })?;
            self.queued += count;
            moved = true;
        }
        moved |= link.flush(&mut Nothing)?;
        moved |= link.receive(&mut Nothing)?;
        if !link.wants_to_send() {
            call.sent += (self.queued - self.sent) as u64;
            self.sent = self.queued;
        }
        Ok(moved)
    }

    fn is_done(&self) -> bool {
        self.over || self.sent == self.indices.len()
    }

    // What was on its way is said again: to be used twice is to be used.
    fn broken(&mut self, _call: &mut Call<'_>) {
        self.queued = self.sent;
    }

    fn give_up(&mut self, _link: &mut Link) -> Result<(), LinkError> {
        Ok(())
    }

    fn fail(&mut self, _why: Why, _call: &mut Call<'_>) {
        self.over = true;
    }
}

fn send(space: &Space, core: &Core, keys: &[Key], deed: Deed, limits: CallLimits) -> HintCounters {
    let deadline_us = core.clock.now_us() + limits.deadline_us.min(SEND_US_MAX);
    let mut call = Call { namespace: space.namespace.id, keys, deed, sent: 0 };
    let table = core.table(deadline_us);
    let (owned, _) = by_owner(&table, 0..keys.len() as u32, |index| keys[index as usize].place_token());
    let lane = |(shard, indices)| Lane::new(shard, HintPart { indices, queued: 0, sent: 0, over: false });
    let mut lanes: Vec<_> = owned.into_iter().map(lane).collect();
    drive(core, table.epoch, &mut lanes, &mut call, deadline_us);
    let asked = keys.len() as u64;
    HintCounters { asked, sent: call.sent, dropped: asked - call.sent }
}

pub(crate) fn touch(space: &Space, core: &Core, keys: &[Key], hint: Reuse, limits: CallLimits) {
    let counts = send(space, core, keys, Deed::Touch(hint), limits);
    core.cells.add(|all| all.touch.add(&counts));
}

pub(crate) fn prefetch(space: &Space, core: &Core, keys: &[Key], deadline: Duration, limits: CallLimits) {
    let until_us = core.clock.now_us() + bounded_deadline(deadline).as_micros() as u64;
    let counts = send(space, core, keys, Deed::Prefetch { until_us }, limits);
    core.cells.add(|all| all.prefetch.add(&counts));
}
