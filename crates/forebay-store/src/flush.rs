//! Flushes: one at a time, each for all that was completed before it was submitted. A failed one takes the drive out for writing; it is never
//! retried, because what it covered counts as clean to the kernel and would never be written again.
//!
//! A flush waits for company: until as many durable puts are ready for it as are still being written, so one of two windows is written while the
//! other is flushed, and the drive neither rests nor flushes for each block. Who comes alone waits for nobody, and nobody for longer than
//! [`COMPANY_MS`].

use forebay_io::{Disk, DiskError};
use forebay_types::{Key, Millis, PutOutcome, RefusedReason};

use crate::face::Event;
use crate::mutant::Mutant;
use crate::store::{Op, Store};

/// Longest that a flush waits for company: what half of the writes in flight take on a slow drive, and less than a client would notice.
const COMPANY_MS: Millis = 3;

/// What waits for a flush.
#[derive(Debug)]
pub(crate) enum Action {
    /// A durable put of this number.
    Ack { token: u64, ns: u16, key: Key, seq: u64 },
    /// A record of tombstones.
    Forgot { group: u64 },
    /// Every record of the segment is completed: its footer may be written.
    SealFooter { segment: u16 },
    /// What was in the segment before cannot come back any more.
    HeaderWritten { segment: u16, generation: u64 },
    /// A durable record moved by cleaning.
    Moved,
    /// The table of namespaces.
    TableSaved(Vec<u64>),
}

/// What waits for the next flush and for the one in flight.
#[derive(Default)]
pub(crate) struct Flusher {
    ready: Vec<Action>,
    flying: Vec<Action>,
    in_flight: bool,
    demand: bool,
    /// When the store first had a turn with what demands one.
    since: Option<Millis>,
    /// Durable puts in `ready`, and those whose records are being written or stand behind one that is.
    acks_ready: usize,
    acks_coming: usize,
}

impl Action {
    fn is_ack(&self) -> bool {
        matches!(self, Action::Ack { .. })
    }
}

impl Flusher {
    /// Adds what has just completed. Without `demand` it rides on the next flush that somebody else demands.
    pub(crate) fn add(&mut self, action: Action, demand: bool) {
        if action.is_ack() {
            self.acks_ready += 1;
            self.acks_coming -= 1;
        }
        self.ready.push(action);
        self.demand |= demand;
    }

    pub(crate) fn demand(&mut self) {
        self.demand = true;
    }

    /// This will be added when its record, and those before it, are written.
    pub(crate) fn comes(&mut self, action: Option<&Action>) {
        self.acks_coming += usize::from(action.is_some_and(Action::is_ack));
    }

    /// Whether a flush is to go now. One that is demanded had better wait for what is being written, but not for long.
    fn is_due(&mut self, now: Millis) -> bool {
        if !self.demand {
            return false;
        }
        let since = *self.since.get_or_insert(now);
        let has_company = self.acks_ready == 0 || self.acks_ready >= self.acks_coming;
        !self.in_flight && (has_company || now >= since + COMPANY_MS)
    }

    fn take_ready(&mut self) {
        (self.demand, self.since, self.acks_ready) = (false, None, 0);
        self.flying = std::mem::take(&mut self.ready);
    }

    /// All that waits, when nothing will be written any more.
    pub(crate) fn take_all(&mut self) -> Vec<Action> {
        (self.acks_ready, self.acks_coming) = (0, 0);
        self.ready.drain(..).chain(self.flying.drain(..)).collect()
    }
}

impl<D: Disk> Store<D> {
    /// When the store wants a turn though nothing may have happened by then.
    pub fn wants_turn_at(&self) -> Option<Millis> {
        self.flusher.since.filter(|_| !self.flusher.in_flight).map(|since| since + COMPANY_MS)
    }

    pub(crate) fn flush_step(&mut self, now: Millis) {
        if !self.flusher.is_due(now) {
            return;
        }
        self.flusher.take_ready();
        if self.mutant(Mutant::NoFlush) {
            return self.flush_done(Ok(()));
        }
        self.flusher.in_flight = true;
        let token = self.ops.insert(Op::Flush);
        self.lanes.push_flush(token);
    }

    pub(crate) fn flush_done(&mut self, result: Result<(), DiskError>) {
        self.flusher.in_flight = false;
        if let Err(error) = result {
            return self.fail_writes(error);
        }
        self.counted.flushes += 1;
        for action in std::mem::take(&mut self.flusher.flying) {
            self.act(action, true);
        }
    }

    /// Does what waited for a flush, or says that it will never be.
    pub(crate) fn act(&mut self, action: Action, ok: bool) {
        match action {
            Action::Ack { token, ns, key, seq } => {
                let outcome = if ok { PutOutcome::Durable } else { PutOutcome::Refused(RefusedReason::Unavailable) };
                self.events.push(Event::Put { token, outcome });
                if self.undurable.get(&(ns, key)).is_some_and(|(waits_for, _)| *waits_for == seq)
                    && let Some((_, others)) = self.undurable.remove(&(ns, key))
                {
                    let outcome = if ok { PutOutcome::Exists } else { outcome };
                    self.events.extend(others.into_iter().map(|token| Event::Put { token, outcome }));
                }
            }
            Action::Forgot { group } => self.forgotten(group, ok),
            Action::SealFooter { segment } if ok => self.write_footer_soon(segment),
            Action::HeaderWritten { segment, generation } if ok => {
                let s = self.segments.get_mut(segment);
                if s.generation == generation {
                    s.oldest_on_disk = generation;
                }
            }
            Action::Moved => self.moved(ok),
            Action::SealFooter { .. } | Action::HeaderWritten { .. } => {}
            Action::TableSaved(tokens) => {
                self.namespaces.saving = false;
                if ok {
                    self.clock.marked();
                }
                self.events.extend(tokens.into_iter().map(|token| Event::NamespaceSaved { token, ok }));
            }
        }
    }
}
