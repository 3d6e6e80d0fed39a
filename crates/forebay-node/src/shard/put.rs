//! Puts: bytes into the arena, checked piece by piece as they arrive, then handed to the store.

use forebay_io::PeerRegion;
use forebay_store::{Batch, Committed, PutSlot, Reserve, Reuse};
use forebay_types::limits::PIECE_BYTES;
use forebay_types::{Descriptor, NamespaceId, PutOutcome, RefusedReason, SumBinding};
use forebay_wire::{Message, PutItem};

use super::conn::{Conn, OUTPUT_BYTES_HIGH, PUT_CREDIT_BYTES};
use super::core::Core;
use super::request::{Step, token};
use crate::counters::{Dropped, PeerFault, Timed};
use crate::slab::Id;

/// What one item costs at least of a lane's budget: its descriptor is decoded and looked up.
const ITEM_COST: i64 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Filling,
    /// Handed to the store; durable later.
    Committed,
    Done,
}

/// Blocks being put.
#[derive(Debug)]
pub(crate) struct Put {
    namespace: NamespaceId,
    items: Vec<PutItem>,
    states: Vec<State>,
    next: usize,
    /// Items without outcome.
    pub(crate) open: usize,
    /// Being copied from a region, and the region.
    copying: Option<(Filling, PeerRegion, u64)>,
    /// Being received in DATA frames.
    receiving: Vec<Filling>,
    gos: Vec<u32>,
    outcomes: Vec<(u32, PutOutcome)>,
    /// Its place in the order of uses, taken when its first item starts.
    batch: Option<Batch>,
    /// When the blocks will be used again, and whether the caller keeps them.
    told: (Reuse, bool),
    /// When it was taken.
    begun_us: u64,
}

#[derive(Debug)]
struct Filling {
    item: u32,
    slot: PutSlot,
    binding: SumBinding,
    filled: usize,
    /// Bytes whose sums were found right.
    checked: usize,
}

impl Filling {
    fn new(item: u32, slot: PutSlot) -> Self {
        let binding = slot.descriptor().meta.binding();
        Filling { item, slot, binding, filled: 0, checked: 0 }
    }

    /// Checks the pieces that are complete. False: one is wrong.
    fn check(&mut self) -> bool {
        let payload = self.slot.payload();
        let sums = &self.slot.descriptor().sums.0;
        while self.checked < self.filled {
            let end = payload.len().min(self.checked + PIECE_BYTES);
            if self.filled < end {
                break;
            }
            let index = self.checked / PIECE_BYTES;
            if sums.get(index) != Some(&self.binding.sum(index, &payload[self.checked..end])) {
                return false;
            }
            self.checked = end;
        }
        true
    }

    fn is_full(&self) -> bool {
        self.filled == self.slot.payload().len()
    }
}

impl Put {
    /// `told`: when the blocks will be used again, and whether the caller keeps them.
    pub(crate) fn new(namespace: NamespaceId, items: Vec<PutItem>, told: (Reuse, bool), begun_us: u64) -> Self {
        let (states, open) = (vec![State::Waiting; items.len()], items.len());
        Put {
            namespace,
            items,
            states,
            next: 0,
            open,
            copying: None,
            receiving: Vec::new(),
            gos: Vec::new(),
            outcomes: Vec::new(),
            batch: None,
            told,
            begun_us,
        }
    }

    /// Goes on, spending from `left`.
    pub(crate) fn step(
        &mut self,
        id: Id,
        namespace: NamespaceId,
        core: &mut Core,
        conn: &mut Conn,
        left: &mut i64,
    ) -> Step {
        if conn.output.len() >= OUTPUT_BYTES_HIGH {
            return Step::Blocked;
        }
        loop {
            if *left <= 0 {
                return Step::Again;
            }
            if self.copying.is_some() {
                self.copy(id, core, left);
            } else if self.next == self.items.len() {
                return Step::Idle;
            } else if !self.start(namespace, core, conn, left) {
                return Step::Retry;
            }
        }
    }

    /// Starts the next item. False: no room now.
    fn start(&mut self, namespace: NamespaceId, core: &mut Core, conn: &mut Conn, left: &mut i64) -> bool {
        let index = self.next as u32;
        let item = &self.items[self.next];
        *left -= ITEM_COST;
        // A descriptor that is none is the peer's mistake; nothing of it can be kept.
        let Ok(descriptor) = Descriptor::decode(&item.descriptor) else {
            core.counters.fault(PeerFault::Garbage);
            return self.refuse(core, index, RefusedReason::Unavailable);
        };
        if descriptor.meta.namespace != namespace {
            return self.refuse(core, index, RefusedReason::Namespace);
        }
        let length = descriptor.meta.length;
        let streamed = item.from.region.0 == 0;
        if streamed && conn.put_bytes > 0 && conn.put_bytes + length > PUT_CREDIT_BYTES {
            return false;
        }
        let items = self.items.len() as u32;
        let batch = *self
            .batch
            .get_or_insert_with(|| core.store.begin_batch(items).hinted(self.told.0).kept_by_caller(self.told.1));
        match core.store.reserve(core.now_ms, &item.descriptor, batch, index) {
            Reserve::Exists => self.outcome(core, index, PutOutcome::Exists),
            Reserve::Refused(RefusedReason::Busy) => return false,
            Reserve::Refused(reason) => return self.refuse(core, index, reason),
            Reserve::Slot(slot) => {
                let filling = Filling::new(index, slot);
                self.states[self.next] = State::Filling;
                if streamed {
                    conn.put_bytes += length;
                    self.receiving.push(filling);
                    self.gos.push(index);
                } else {
                    let lent = conn.regions.iter().find(|lent| lent.id == item.from.region && lent.dropping.is_none());
                    match lent {
                        Some(lent) if item.from.room >= length => {
                            self.copying = Some((filling, lent.region.clone(), item.from.offset));
                        }
                        _ => {
                            core.counters.fault(PeerFault::Region);
                            return self.refuse(core, index, RefusedReason::Unavailable);
                        }
                    }
                }
            }
        }
        self.next += 1;
        true
    }

    /// Copies the next piece out of the client's region, and checks the copy while it is warm.
    fn copy(&mut self, id: Id, core: &mut Core, left: &mut i64) {
        let Some((mut filling, region, offset)) = self.copying.take() else { return };
        let at = filling.filled;
        let buf = filling.slot.buf_mut();
        let end = buf.len().min(at + PIECE_BYTES);
        let read = region.read_at(offset + at as u64, &mut buf[at..end]);
        *left -= (end - at) as i64;
        filling.filled = end;
        let item = filling.item;
        if read.is_err() {
            core.counters.fault(PeerFault::Region);
            self.outcome(core, item, PutOutcome::Refused(RefusedReason::Unavailable));
        } else if !filling.check() {
            core.counters.put_sum_mismatch.add(1);
            core.counters.fault(PeerFault::Damaged);
            self.outcome(core, item, PutOutcome::Refused(RefusedReason::Unavailable));
        } else if filling.is_full() {
            self.commit(id, core, filling);
        } else {
            self.copying = Some((filling, region, offset));
        }
    }

    fn commit(&mut self, id: Id, core: &mut Core, filling: Filling) {
        let item = filling.item;
        core.counters.bytes_in.add(filling.filled as u64);
        match core.store.commit(core.now_ms, token(id, item as usize), filling.slot) {
            Committed::Cached => self.outcome(core, item, PutOutcome::Cached),
            Committed::Exists => self.outcome(core, item, PutOutcome::Exists),
            Committed::Refused(reason) => self.outcome(core, item, PutOutcome::Refused(reason)),
            Committed::Pending => self.states[item as usize] = State::Committed,
        }
    }

    /// Where the next bytes of an item go, when it waits for bytes at `offset`.
    pub(crate) fn target(&mut self, item: u32, offset: u64, len: usize) -> Option<&mut [u8]> {
        let filling = self.receiving.iter_mut().find(|filling| filling.item == item)?;
        let at = filling.filled;
        let end = at.checked_add(len)?;
        if offset != at as u64 {
            return None;
        }
        filling.slot.buf_mut().get_mut(at..end)
    }

    /// Whether an item waits for DATA at `offset`, and has room for it.
    pub(crate) fn expects(&mut self, item: u32, offset: u64, len: usize) -> Option<bool> {
        let waits = self.receiving.iter().any(|filling| filling.item == item);
        waits.then(|| self.target(item, offset, len).is_some())
    }

    /// `n` bytes more of an item arrived.
    pub(crate) fn received(&mut self, id: Id, core: &mut Core, conn: &mut Conn, item: u32, n: usize) {
        let Some(place) = self.receiving.iter().position(|filling| filling.item == item) else { return };
        let filling = &mut self.receiving[place];
        filling.filled += n;
        let right = filling.check();
        if right && !filling.is_full() {
            return;
        }
        let filling = self.receiving.swap_remove(place);
        conn.put_bytes = conn.put_bytes.saturating_sub(filling.slot.payload().len() as u64);
        if right {
            self.commit(id, core, filling);
        } else {
            core.counters.put_sum_mismatch.add(1);
            core.counters.fault(PeerFault::Damaged);
            self.outcome(core, item, PutOutcome::Refused(RefusedReason::Unavailable));
        }
    }

    /// The store says how a committed item ended.
    pub(crate) fn ended(&mut self, core: &mut Core, item: usize, outcome: PutOutcome) {
        if self.states.get(item) == Some(&State::Committed) {
            self.outcome(core, item as u32, outcome);
        }
    }

    /// Answers all that has no outcome.
    pub(crate) fn give_up(&mut self, core: &mut Core, conn: Option<&mut Conn>, reason: RefusedReason) {
        core.counters.dropped[Dropped::Start as usize].add((self.items.len() - self.next) as u64);
        let begun = self.receiving.len() as u64 + u64::from(self.copying.is_some());
        core.counters.dropped[Dropped::Copy as usize].add(begun);
        self.next = self.items.len();
        self.copying = None;
        self.gos.clear();
        let held: u64 = self.receiving.drain(..).map(|filling| filling.slot.payload().len() as u64).sum();
        if let Some(conn) = conn {
            conn.put_bytes = conn.put_bytes.saturating_sub(held);
        }
        for item in 0..self.items.len() {
            if self.states[item] != State::Done {
                self.outcome(core, item as u32, PutOutcome::Refused(reason));
            }
        }
    }

    /// Says what there is to say.
    pub(crate) fn flush(&mut self, number: u32, conn: &mut Conn) {
        if !self.gos.is_empty() {
            conn.output.message(&Message::PutGo { request: number, items: std::mem::take(&mut self.gos) });
        }
        if !self.outcomes.is_empty() {
            let outcomes = std::mem::take(&mut self.outcomes);
            conn.output.message(&Message::PutOutcomes { request: number, outcomes });
        }
    }

    /// Always true: the next item goes on.
    fn refuse(&mut self, core: &mut Core, item: u32, reason: RefusedReason) -> bool {
        self.outcome(core, item, PutOutcome::Refused(reason));
        self.next += 1;
        true
    }

    fn outcome(&mut self, core: &mut Core, item: u32, outcome: PutOutcome) {
        debug_assert!(self.states[item as usize] != State::Done);
        core.counters.put(outcome);
        core.space(self.namespace).put(outcome);
        match outcome {
            PutOutcome::Cached => core.took(Timed::PutCached, self.begun_us),
            PutOutcome::Durable => core.took(Timed::PutDurable, self.begun_us),
            PutOutcome::Exists | PutOutcome::Refused(_) => {}
        }
        self.outcomes.push((item, outcome));
        self.states[item as usize] = State::Done;
        self.open -= 1;
        core.items -= 1;
    }
}
