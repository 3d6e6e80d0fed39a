//! Flushes: one at a time, each for all that was completed before it was submitted. A failed one takes the drive out for writing; it is never
//! retried, because what it covered counts as clean to the kernel and would never be written again.

use forebay_io::{Disk, DiskError};
use forebay_types::{Key, PutOutcome, RefusedReason};

use crate::face::Event;
use crate::mutant::Mutant;
use crate::store::{Op, Store};

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
}

impl Flusher {
    /// Adds what has just completed. Without `demand` it rides on the next flush that somebody else demands.
    pub(crate) fn add(&mut self, action: Action, demand: bool) {
        self.ready.push(action);
        self.demand |= demand;
    }

    pub(crate) fn demand(&mut self) {
        self.demand = true;
    }

    pub(crate) fn take_all(&mut self) -> Vec<Action> {
        self.ready.drain(..).chain(self.flying.drain(..)).collect()
    }
}

impl<D: Disk> Store<D> {
    pub(crate) fn flush_step(&mut self) {
        if !self.flusher.demand || self.flusher.in_flight {
            return;
        }
        if self.mutant(Mutant::FlushInCompany) {
            let acks = self.flusher.ready.iter().filter(|action| matches!(action, Action::Ack { .. }));
            if acks.count() == 1 {
                return;
            }
        }
        self.flusher.demand = false;
        self.flusher.flying = std::mem::take(&mut self.flusher.ready);
        if self.mutant(Mutant::FlushForOne) && self.flusher.flying.len() > 1 {
            self.flusher.ready = self.flusher.flying.split_off(1);
            self.flusher.demand = true;
        }
        if self.mutant(Mutant::NoFlush) {
            return self.flush_done(Ok(()));
        }
        self.flusher.in_flight = true;
        let token = self.ops.insert(Op::Flush);
        self.lanes.push_flush(token);
    }

    pub(crate) fn flush_done(&mut self, result: Result<(), DiskError>) {
        self.flusher.in_flight = false;
        if let Err(error) = result
            && !self.mutant(Mutant::FailedFlushDone)
        {
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
                    if !ok && !self.mutant(Mutant::RefusedStays) {
                        // Whoever put it was told that it is not kept. A later put that was told `exists` would believe that it is durable.
                        self.drop_entry(ns, &key);
                    }
                    let outcome = if ok { PutOutcome::Exists } else { outcome };
                    self.events.extend(others.into_iter().map(|token| Event::Put { token, outcome }));
                }
            }
            Action::Forgot { group } => self.forgotten(group, ok),
            Action::SealFooter { segment } if ok => self.write_footer_soon(segment),
            Action::HeaderWritten { segment, generation } if ok => {
                let s = self.segments.get_mut(segment);
                if s.generation == generation {
                    s.oldest_on_disk = if s.has_blocks { generation } else { 0 };
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
