//! Gets: starting reads, and moving what was found to where the client wants it.

use std::collections::VecDeque;

use forebay_io::Landing;
use forebay_store::{Batch, Found, GetRequest, GetResult, GetStarted, Reuse};
use forebay_types::{MissReason, NamespaceId};
use forebay_wire::{GetItem, GetOutcomeRef, GetOutcomesWriter};

use super::conn::{Conn, OUTPUT_BYTES_HIGH};
use super::core::Core;
use super::output::Output;
use super::request::{Lent, Step};
use crate::counters::{Dropped, PeerFault};
use crate::lanes::{Lane, SMALL_BYTES_MAX};
use crate::slab::Id;

/// What looking one key up costs at least of a lane's budget, in bytes that could be copied meanwhile.
const ITEM_COST: i64 = 2048;

/// Items of one get that may be read or held at once: enough to keep a drive busy.
const WINDOW_MAX: usize = 32;

/// Bytes they may have together, about: a reader that is slow must not hold the memory of its neighbours.
const WINDOW_BYTES: u64 = 32 << 20;

/// What a block is taken for before one was found, when the client does not say how much it takes.
const UNKNOWN_BYTES: u64 = 4 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    /// Being read into the arena.
    Reading,
    /// Being read into the client's memory: answered only when that has ended.
    Landing,
    /// Found, and waiting to be moved.
    Ready,
    Done,
}

/// Keys being got.
#[derive(Debug)]
pub(crate) struct Get {
    pub(super) items: Vec<GetItem>,
    pub(super) states: Vec<State>,
    /// The first item not started.
    pub(super) next: usize,
    /// Items without outcome.
    pub(crate) open: usize,
    /// Bytes its next block probably has.
    pub(super) size: u64,
    pub(super) reading: usize,
    pub(super) ready: VecDeque<(u32, Found)>,
    pub(super) moving: Option<Moving>,
    pub(super) told: Vec<(u32, Told)>,
    /// Its place in the order of uses, taken when its first item starts.
    pub(super) batch: Option<Batch>,
    hint: Reuse,
    /// It stands in line for its peer's next read; until then it begins none.
    waits: bool,
    /// It stood there, and its turn has come.
    waited: bool,
    /// When it was taken.
    pub(super) begun_us: u64,
}

#[derive(Debug)]
pub(super) struct Moving {
    pub(super) item: u32,
    pub(super) found: Found,
    pub(super) done: usize,
    /// Its outcome is said already: it goes out in DATA frames.
    pub(super) streaming: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Told {
    Landed { length: u64, trailer_offset: u64 },
    Miss(MissReason),
}

/// Where outcomes and bytes of one step go.
pub(super) struct Way<'a, 'b> {
    pub(super) id: Id,
    pub(super) number: u32,
    pub(super) namespace: NamespaceId,
    pub(super) regions: &'a mut [Lent],
    pub(super) direct: bool,
    pub(super) conn: Id,
    pub(super) peer: usize,
    pub(super) credit: &'a mut u64,
    /// Bytes that may be put in the output.
    pub(super) room: usize,
    pub(super) outcomes: GetOutcomesWriter<'b>,
    pub(super) frames: &'a mut Output,
}

impl Get {
    pub(crate) fn new(items: Vec<GetItem>, hint: Reuse, begun_us: u64) -> Self {
        let size = match items.first() {
            Some(item) if item.to.region.0 != 0 => item.to.room,
            _ => UNKNOWN_BYTES,
        };
        Get {
            states: vec![State::Waiting; items.len()],
            open: items.len(),
            items,
            next: 0,
            size,
            reading: 0,
            ready: VecDeque::new(),
            moving: None,
            told: Vec::new(),
            batch: None,
            hint,
            waits: false,
            waited: false,
            begun_us,
        }
    }

    /// It may begin reads again.
    pub(crate) fn has_waited(&mut self) {
        (self.waits, self.waited) = (false, true);
    }

    /// The lane it begins in: the size of a streamed block is known only when it is found.
    pub(crate) fn first_lane(&self) -> Lane {
        match self.items.first() {
            Some(item) if item.to.region.0 != 0 && item.to.room > 2 * SMALL_BYTES_MAX => Lane::Large,
            _ => Lane::Small,
        }
    }

    /// Goes on, spending from `left`.
    pub(crate) fn step(
        &mut self,
        id: Id,
        number: u32,
        namespace: NamespaceId,
        core: &mut Core,
        conn: &mut Conn,
        left: &mut i64,
    ) -> Step {
        let queued = conn.output.len();
        if queued >= OUTPUT_BYTES_HIGH {
            return Step::Blocked;
        }
        let mut frames = std::mem::take(&mut core.staged);
        let step = conn.output.with(|out| {
            let mut way = Way {
                id,
                number,
                namespace,
                regions: &mut conn.regions,
                direct: conn.direct,
                conn: conn.id,
                peer: conn.peer,
                credit: &mut conn.credit,
                room: OUTPUT_BYTES_HIGH - queued,
                outcomes: GetOutcomesWriter::new(out, number),
                frames: &mut frames,
            };
            let step = self.run(core, &mut way, left);
            way.outcomes.finish();
            step
        });
        self.waited = false;
        conn.output.append(&mut frames);
        core.staged = frames;
        step
    }

    fn run(&mut self, core: &mut Core, way: &mut Way<'_, '_>, left: &mut i64) -> Step {
        for (item, told) in std::mem::take(&mut self.told) {
            self.tell(core, way, item, told);
        }
        loop {
            if *left <= 0 {
                return Step::Again;
            }
            // Reads start before bytes move: the drive works meanwhile.
            let most = ((WINDOW_BYTES / self.size.max(1)) as usize).clamp(2, WINDOW_MAX);
            let begins = self.next < self.items.len() && self.reading + self.ready.len() < most;
            let mut starved = false;
            if begins && self.may_read(core, way) {
                if self.start(core, way, left) {
                    continue;
                }
                starved = true;
            }
            if self.moving.is_none() {
                self.moving =
                    self.ready.pop_front().map(|(item, found)| Moving { item, found, done: 0, streaming: false });
            }
            let Some(moving) = self.moving.take() else {
                // What is being read comes back as an event; else only time helps.
                return if starved && self.reading == 0 { Step::Retry } else { Step::Idle };
            };
            let step = if self.items[moving.item as usize].to.region.0 == 0 {
                self.stream(core, way, left, moving)
            } else {
                self.copy(core, way, left, moving)
            };
            if step != Step::Again {
                return step;
            }
        }
    }

    /// Whether it may ask the store for one more block. If not, it stands in line for that.
    fn may_read(&mut self, core: &mut Core, way: &Way<'_, '_>) -> bool {
        if self.waits {
            return false;
        }
        let may = core.readers.may(core.now_us, way.peer) && (self.waited || !core.lanes.has_waiting(way.peer));
        if !may {
            (self.waits, self.waited) = (true, false);
            core.lanes.wait(way.conn, way.id);
        }
        may
    }

    /// Starts the next item. False: the store is busy, try again.
    fn start(&mut self, core: &mut Core, way: &mut Way<'_, '_>, left: &mut i64) -> bool {
        let index = self.next;
        let item = self.items[index];
        let region = item.to.region;
        let lent = way.regions.iter().position(|lent| lent.id == region && lent.dropping.is_none());
        if region.0 != 0 && lent.is_none() {
            self.next += 1;
            core.counters.fault(PeerFault::Region);
            self.miss(core, way, index as u32, MissReason::Unavailable);
            return true;
        }
        let (into, room) = target(lent.map(|at| &way.regions[at]), &item, way.direct, core);
        let direct = into.is_some();
        let Some(read) = core.readers.begin(way.id, index, way.peer, self.size) else { return false };
        let request = self.request(core, way, index, read, into, room);
        let started = core.store.get(core.now_ms, request);
        match started {
            GetStarted::Pending => core.readers.begun(core.now_us, read, &mut core.lanes),
            _ => core.readers.not_begun(read),
        }
        if matches!(started, GetStarted::Miss(MissReason::Busy)) {
            return false;
        }
        self.next += 1;
        *left -= ITEM_COST;
        match started {
            GetStarted::Hit(found) => {
                self.size = found.payload().len() as u64;
                let moving = Moving { item: index as u32, found, done: 0, streaming: false };
                self.states[index] = State::Ready;
                if lent.is_some() && moving.found.payload().len() as u64 <= SMALL_BYTES_MAX {
                    self.copy(core, way, left, moving);
                } else {
                    self.ready.push_back((moving.item, moving.found));
                }
            }
            GetStarted::Pending => {
                self.reading += 1;
                self.states[index] = State::Reading;
                if let (true, Some(at)) = (direct, lent) {
                    way.regions[at].landings += 1;
                    self.states[index] = State::Landing;
                }
            }
            GetStarted::Miss(reason) => self.miss(core, way, index as u32, reason),
            GetStarted::TooSmall { need } => {
                self.outcome(way, index as u32, GetOutcomeRef::TooSmall { need });
                core.counters.get.too_small.add(1);
                self.settle(core, index);
            }
        }
        true
    }

    fn request(
        &mut self,
        core: &mut Core,
        way: &Way<'_, '_>,
        index: usize,
        read: Id,
        into: Option<Landing>,
        room: u64,
    ) -> GetRequest {
        let items = self.items.len() as u32;
        let batch = *self.batch.get_or_insert_with(|| core.store.begin_batch(items).hinted(self.hint));
        let GetItem { key, offset, length, .. } = self.items[index];
        let (token, namespace) = (read.word(), way.namespace);
        GetRequest { token, namespace, key, offset, length, room, into, batch, depth_in_batch: index as u32 }
    }

    /// A read ended. Gives the region whose landing ended, if one did.
    pub(crate) fn got(
        &mut self,
        core: &mut Core,
        item: usize,
        result: GetResult,
        cancelled: bool,
    ) -> Option<forebay_types::RegionId> {
        self.reading = self.reading.saturating_sub(1);
        let state = *self.states.get(item)?;
        let region = (state == State::Landing).then(|| self.items[item].to.region);
        if state != State::Reading && state != State::Landing {
            return region;
        }
        if cancelled {
            core.counters.get.miss(MissReason::Deadline);
            self.settle(core, item);
            return region;
        }
        self.states[item] = State::Ready;
        match result {
            GetResult::Found(found) => {
                self.size = found.payload().len() as u64;
                self.ready.push_back((item as u32, found));
            }
            GetResult::Landed { length, trailer_offset, .. } => {
                self.told.push((item as u32, Told::Landed { length, trailer_offset }));
            }
            GetResult::Miss(reason) => self.told.push((item as u32, Told::Miss(reason))),
        }
        region
    }

    /// Answers all that can be answered with a miss. What is landing is answered when it has landed, unless nobody is there to hear it.
    pub(crate) fn give_up(&mut self, core: &mut Core, reason: MissReason, gone: bool, mut outcome: impl FnMut(u32)) {
        core.counters.dropped[Dropped::Start as usize].add((self.items.len() - self.next) as u64);
        core.counters.dropped[Dropped::Copy as usize].add(self.ready.len() as u64 + u64::from(self.moving.is_some()));
        self.next = self.items.len();
        self.ready.clear();
        self.moving = None;
        // What is landed but not yet told is a hit nobody waited for; its slice is free again either way.
        self.told.clear();
        for item in 0..self.items.len() {
            let state = self.states[item];
            if state != State::Done && (gone || state != State::Landing) {
                outcome(item as u32);
                core.counters.get.miss(reason);
                self.settle(core, item);
            }
        }
    }

    /// The size of what moves now, for its lane.
    pub(crate) fn lane(&self, current: Lane) -> Lane {
        let found =
            self.moving.as_ref().map(|moving| &moving.found).or_else(|| self.ready.front().map(|(_, found)| found));
        match found {
            Some(found) if found.payload().len() as u64 > SMALL_BYTES_MAX => Lane::Large,
            Some(_) => Lane::Small,
            None => current,
        }
    }
}

/// Where the drive may write directly, and the bytes there are for the payload.
fn target(lent: Option<&Lent>, item: &GetItem, direct: bool, core: &Core) -> (Option<Landing>, u64) {
    let Some(lent) = lent else { return (None, item.to.room) };
    let room = item.to.room.min(lent.region.len().saturating_sub(item.to.offset));
    let whole = item.offset == 0 && item.length == 0;
    let into = if direct && lent.lands && whole { landing(lent, item, core) } else { None };
    (into, room)
}

/// The slice as a landing, when the drive can write there.
fn landing(lent: &Lent, item: &GetItem, core: &Core) -> Option<Landing> {
    let (align, offset) = (core.align as u64, item.to.offset);
    let room = item.to.room & !(align - 1);
    if room == 0 || !offset.is_multiple_of(align) || !core.landings.allow(&lent.region, offset, room) {
        return None;
    }
    lent.region.landing(offset, room).ok()
}
