//! What a link still owes after a call has given up: memory that the node may touch until it says that it does not any more.

use std::sync::Arc;

use forebay_io::{Loan, Slice};
use forebay_wire::Message;

use super::{Link, LinkError, Nothing};

/// A link that owes more landings than this, in bytes, is not used until it has settled.
const LOST_BYTES_MAX: usize = 32 << 20;
/// Reads before a drain stops: a node that never falls silent must not hold a call up. Enough for all the credit it has.
const DRAIN_READS_MAX: usize = 2048;

/// Memory that a node may still touch for an item nobody waits for.
pub(crate) enum Owed {
    /// It may write there. Lost for good if the link breaks.
    Landing(Loan),
    /// It may read there. Free again if the link breaks: what it then reads does not match its sums.
    Reading(Slice),
    /// The same, of a slice that others hold as well.
    Sharing(Arc<Slice>),
}

impl Owed {
    fn bytes(&self) -> usize {
        match self {
            Owed::Landing(loan) => loan.capacity(),
            Owed::Reading(slice) => slice.capacity(),
            // Held by others in any case: giving up the link would free nothing.
            Owed::Sharing(_) => 0,
        }
    }

    fn settle(self) {
        match self {
            Owed::Landing(loan) => drop(loan.returned()),
            Owed::Reading(slice) => drop(slice),
            Owed::Sharing(slice) => drop(slice),
        }
    }
}

/// A request that was given up, and what of it may still be touched.
pub(super) struct Lost {
    pub(super) request: u32,
    pub(super) items: Vec<(u32, Owed)>,
}

impl Link {
    /// Gives a request up: the node is told, and what it may still touch stays with the link until the node says that it does not any more.
    pub(crate) fn give_up(&mut self, request: u32, items: Vec<(u32, Owed)>) -> Result<(), LinkError> {
        if !items.is_empty() {
            self.lost_bytes += items.iter().map(|(_, owed)| owed.bytes()).sum::<usize>();
            self.lost.push(Lost { request, items });
        }
        self.queue(&Message::Cancel { request })?;
        self.flush(&mut Nothing)?;
        Ok(())
    }

    /// Takes in what has come for requests that were given up. An error when the link is dead.
    pub(crate) fn drain(&mut self) -> Result<(), LinkError> {
        self.flush(&mut Nothing)?;
        for _ in 0..DRAIN_READS_MAX {
            if !self.receive(&mut Nothing)? {
                break;
            }
        }
        Ok(())
    }

    /// Requests were given up and are not settled.
    pub(crate) fn owes(&self) -> bool {
        !self.lost.is_empty()
    }

    /// It owes so much that it should settle first.
    pub(crate) fn owes_too_much(&self) -> bool {
        self.lost_bytes > LOST_BYTES_MAX
    }

    pub(super) fn is_lost(&self, request: u32) -> bool {
        self.lost.iter().any(|lost| lost.request == request)
    }

    pub(super) fn settle_items(&mut self, request: u32, items: impl Iterator<Item = u32>) {
        let Some(at) = self.lost.iter().position(|lost| lost.request == request) else { return };
        let lost = &mut self.lost[at];
        for item in items {
            if let Some(at) = lost.items.iter().position(|(other, _)| *other == item) {
                let (_, owed) = lost.items.swap_remove(at);
                self.lost_bytes -= owed.bytes();
                owed.settle();
            }
        }
        if lost.items.is_empty() {
            self.lost.swap_remove(at);
        }
    }

    pub(super) fn settle(&mut self, request: u32) {
        if let Some(at) = self.lost.iter().position(|lost| lost.request == request) {
            let lost = self.lost.swap_remove(at);
            for (_, owed) in lost.items {
                self.lost_bytes -= owed.bytes();
                owed.settle();
            }
        }
    }
}
