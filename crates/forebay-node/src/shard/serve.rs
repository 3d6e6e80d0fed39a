//! What messages and events mean.

use forebay_store::{Event, Reuse};
use forebay_types::limits::DEADLINE_US_MAX;
use forebay_types::{Key, MissReason, NamespaceId, PutOutcome, RefusedReason};
use forebay_wire::{ErrorCode, GetItem, GetOutcomeRef, GetOutcomesWriter, Message, Presence, PutItem};

use super::conn::{CREDIT_BYTES_MAX, REQUESTS_MAX};
use super::get::Get;
use super::put::Put;
use super::receive::Refusal;
use super::request::{Forget, Match, Request, Waiting, Work, from_token};
use super::{Saved, Shard};
use crate::counters::Timed;
use crate::lanes::Lane;
use crate::slab::Id;

/// Shortest patience with a peer that takes nothing, whatever its deadlines, in microseconds.
const PATIENCE_US_MIN: u64 = 1_000_000;

/// What a peer is told that takes a shard for control.
const NOT_A_SHARDS: &str =
    "the peer sent a shard a message that is none of a shard's; ask a control connection for namespaces and members";

impl Shard {
    pub(super) fn on_message(&mut self, id: Id, message: Message) -> Result<(), Refusal> {
        match message {
            Message::Get { request, namespace, deadline_us, hint, items } => {
                self.on_get(id, Ask { request, namespace, deadline_us }, hint.into(), items)?;
            }
            Message::Put { request, namespace, deadline_us, hint, caller_keeps, items } => {
                self.on_put(id, Ask { request, namespace, deadline_us }, (hint.into(), caller_keeps), items)?;
            }
            Message::Match { request, namespace, deadline_us, hold_ms, stop_at_gap, keys } => {
                let presence = Vec::with_capacity(keys.len());
                let matched = Match { keys, presence, hold_ms, stop_at_gap, gap: false, begun_us: self.core.now_us };
                self.on_match(id, Ask { request, namespace, deadline_us }, matched)?;
            }
            Message::Forget { request, namespace, deadline_us, keys } => {
                self.on_forget(id, Ask { request, namespace, deadline_us }, keys)?;
            }
            Message::RegionAdd { request, region, length, kind } => {
                self.region_add(id, request, region, length, kind);
            }
            Message::RegionDrop { request, region } => self.region_drop(id, request, region),
            Message::Cancel { request } => self.cancel(id, request),
            Message::Credit { bytes } => self.credit(id, bytes),
            Message::Corrupt { namespace, key, version } => {
                let tenant = self.conns.get(id).map(|conn| conn.tenant);
                if tenant.is_some_and(|tenant| self.core.allows(tenant, namespace)) {
                    self.core.counters.corrupt_reports.add(1);
                    self.core.store.drop_corrupt(namespace, &key, version);
                }
            }
            Message::Touch { namespace, hint, keys } => self.on_touch(id, namespace, hint.into(), keys),
            Message::Report { namespace, reported } => {
                let tenant = self.conns.get(id).map(|conn| conn.tenant);
                self.core.counters.requests.add(1);
                if tenant.is_some_and(|tenant| self.core.allows(tenant, namespace)) {
                    self.core.space(namespace).usage.report(&reported);
                }
            }
            Message::Prefetch { namespace, deadline_us, keys } => self.on_prefetch(id, namespace, deadline_us, keys),
            _ => return Err(Refusal::protocol(NOT_A_SHARDS)),
        }
        Ok(())
    }

    fn on_get(&mut self, id: Id, ask: Ask, hint: Reuse, items: Vec<GetItem>) -> Result<(), Refusal> {
        let admitted = self.admit(id, &ask, items.len())?;
        self.core.counters.get.asked.add(items.len() as u64);
        match admitted {
            Admitted::Begins => {
                let get = Get::new(items, hint, self.core.now_us);
                self.begin(id, ask, get.first_lane(), Work::Get(get));
            }
            Admitted::Not(reason, _) => {
                if reason != MissReason::Namespace {
                    self.core.space(ask.namespace).get_misses[reason.index()] += items.len() as u64;
                }
                self.miss_all(id, ask.request, items.len(), reason);
            }
        }
        Ok(())
    }

    fn on_put(&mut self, id: Id, ask: Ask, told: (Reuse, bool), items: Vec<PutItem>) -> Result<(), Refusal> {
        let admitted = self.admit(id, &ask, items.len())?;
        self.core.counters.put_asked.add(items.len() as u64);
        match admitted {
            Admitted::Begins => {
                let put = Put::new(ask.namespace, items, told, self.core.now_us);
                self.begin(id, ask, Lane::Put, Work::Put(Box::new(put)));
            }
            Admitted::Not(_, reason) => self.refuse_all(id, ask.request, items.len(), reason),
        }
        Ok(())
    }

    fn on_match(&mut self, id: Id, ask: Ask, matched: Match) -> Result<(), Refusal> {
        let keys = matched.keys.len();
        let admitted = self.admit(id, &ask, keys)?;
        let counts = matched.counts(&self.core);
        counts.asked.add(keys as u64);
        match admitted {
            Admitted::Begins => self.begin(id, ask, Lane::Small, Work::Match(matched)),
            Admitted::Not(reason, _) => {
                (0..keys).for_each(|_| counts.miss(reason));
                let presence = vec![Presence::Not(reason); keys];
                self.say(id, &Message::MatchOutcomes { request: ask.request, presence });
            }
        }
        Ok(())
    }

    fn on_forget(&mut self, id: Id, ask: Ask, keys: Vec<Key>) -> Result<(), Refusal> {
        let admitted = self.admit(id, &ask, keys.len())?;
        self.core.counters.forget_asked.add(keys.len() as u64);
        match admitted {
            Admitted::Begins => {
                let begun_us = self.core.now_us;
                let forgotten = Vec::new();
                let forget = Forget { keys, forgotten, pending: 0, failed: false, answered: false, begun_us };
                self.begin(id, ask, Lane::Small, Work::Forget(forget));
            }
            Admitted::Not(reason, _) => {
                // What is in no namespace of this tenant was not here for it; a busy shard has not forgotten anything.
                let failed = reason != MissReason::Namespace;
                let forgotten = vec![false; keys.len()];
                self.say(id, &Message::ForgetOutcomes { request: ask.request, failed, forgotten });
            }
        }
        Ok(())
    }

    /// Whether a request may begin; else what to answer for its keys.
    fn admit(&mut self, id: Id, ask: &Ask, items: usize) -> Result<Admitted, Refusal> {
        self.core.counters.requests.add(1);
        let not = |miss, refused| Ok(Admitted::Not(miss, refused));
        let Some(conn) = self.conns.get(id) else { return not(MissReason::Unavailable, RefusedReason::Unavailable) };
        if conn.request(ask.request).is_some() {
            return Err(Refusal::protocol(format!(
                "the peer began request {} while another of that number is unanswered",
                ask.request
            )));
        }
        if !self.core.allows(conn.tenant, ask.namespace) {
            return not(MissReason::Namespace, RefusedReason::Namespace);
        }
        if self.closing.is_some() {
            return not(MissReason::Unavailable, RefusedReason::Unavailable);
        }
        let full = self.requests.is_full()
            || conn.requests.len() >= REQUESTS_MAX
            || self.core.items + items > self.core.shares.items;
        if full { not(MissReason::Busy, RefusedReason::Busy) } else { Ok(Admitted::Begins) }
    }

    fn begin(&mut self, id: Id, ask: Ask, lane: Lane, work: Work) {
        let Ask { request: number, namespace, deadline_us } = ask;
        let patience_us = u64::from(deadline_us).min(DEADLINE_US_MAX);
        let deadline_us = self.core.now_us + patience_us;
        let items = work.open();
        let (queued, room, touched, cancelled) = (false, Waiting::No, false, false);
        let request =
            Request { conn: id, number, namespace, deadline_us, lane, queued, room, touched, cancelled, work };
        // `admit` has seen that there is a place.
        let Ok(request) = self.requests.insert(request) else { return };
        self.core.items += items;
        self.deadline_us = self.deadline_us.min(deadline_us);
        if let Some(conn) = self.conns.get_mut(id) {
            conn.patience_us = patience_us.max(PATIENCE_US_MIN);
            if conn.output.is_empty() {
                conn.progress_us = self.core.now_us;
            }
            conn.requests.push((number, request));
        }
        self.enqueue(request);
    }

    fn miss_all(&mut self, id: Id, number: u32, items: usize, reason: MissReason) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.output.with(|out| {
            let mut outcomes = GetOutcomesWriter::new(out, number);
            for item in 0..items {
                outcomes.push(item as u32, GetOutcomeRef::Miss(reason));
                self.core.counters.get.miss(reason);
            }
            outcomes.finish();
        });
        self.mark_dirty(id);
    }

    fn refuse_all(&mut self, id: Id, request: u32, items: usize, reason: RefusedReason) {
        let outcome = PutOutcome::Refused(reason);
        for _ in 0..items {
            self.core.counters.put(outcome);
        }
        let outcomes = (0..items as u32).map(|item| (item, outcome)).collect();
        self.say(id, &Message::PutOutcomes { request, outcomes });
    }

    pub(super) fn say(&mut self, id: Id, message: &Message) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.output.message(message);
            self.mark_dirty(id);
        }
    }

    pub(super) fn complain(&mut self, id: Id, request: u32, code: ErrorCode, text: String) {
        self.core.counters.error(code);
        self.say(id, &Message::Error { request, code, text });
    }

    fn credit(&mut self, id: Id, bytes: u64) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        conn.credit = conn.credit.saturating_add(bytes).min(CREDIT_BYTES_MAX);
        for request in std::mem::take(&mut conn.thirsty) {
            self.enqueue_again(request);
        }
    }

    fn cancel(&mut self, id: Id, number: u32) {
        match self.conns.get(id).and_then(|conn| conn.request(number)) {
            Some(request) => {
                if let Some(found) = self.requests.get_mut(request) {
                    found.cancelled = true;
                }
                self.give_up(request, MissReason::Deadline, RefusedReason::Deadline);
            }
            None => self.say(id, &Message::Done { request: number }),
        }
    }

    /// Answers what a request still has without outcome, as far as that can be answered.
    pub(super) fn give_up(&mut self, id: Id, miss: MissReason, refused: RefusedReason) {
        let Some(request) = self.requests.get_mut(id) else { return };
        let Some(conn) = self.conns.get_mut(request.conn) else { return };
        let (number, cancelled) = (request.number, request.cancelled);
        let space = self.core.space(request.namespace);
        match &request.work {
            Work::Get(get) => space.get_misses[miss.index()] += get.open as u64,
            Work::Match(matched) => space.lookup_misses[miss.index()] += matched.open() as u64,
            Work::Put(_) | Work::Forget(_) => {}
        }
        if matches!(&request.work, Work::Get(get) if get.reading > 0) {
            self.core.drop_reads(|of| of == id);
        }
        match &mut request.work {
            Work::Get(get) if cancelled => get.give_up(&mut self.core, miss, false, |_| ()),
            Work::Get(get) => conn.output.with(|out| {
                let mut outcomes = GetOutcomesWriter::new(out, number);
                get.give_up(&mut self.core, miss, false, |item| {
                    outcomes.push(item, GetOutcomeRef::Miss(miss));
                });
                outcomes.finish();
            }),
            Work::Put(put) => put.give_up(&mut self.core, Some(conn), refused),
            Work::Match(matched) => matched.give_up(&mut self.core, miss),
            Work::Forget(forget) => forget.give_up(&mut self.core),
        }
        let conn = request.conn;
        self.settle(id);
        self.mark_dirty(conn);
    }

    /// Remembers that a request has something to say at the end of the turn.
    pub(super) fn touch(&mut self, id: Id) {
        if let Some(request) = self.requests.get_mut(id)
            && !request.touched
        {
            request.touched = true;
            self.touched.push(id);
        }
    }

    /// Says what a request has to say, and lets it go when that was all.
    pub(super) fn settle(&mut self, id: Id) {
        let Some(request) = self.requests.get_mut(id) else { return };
        request.touched = false;
        let conn_id = request.conn;
        let Some(conn) = self.conns.get_mut(conn_id) else { return };
        let (number, silent) = (request.number, request.cancelled);
        let done = match &mut request.work {
            Work::Get(get) => get.open == 0,
            Work::Put(put) => {
                if !silent {
                    put.flush(number, conn);
                }
                put.open == 0
            }
            Work::Match(matched) => {
                let done = matched.is_done();
                if done && !silent {
                    let timed = if matched.stop_at_gap { Timed::Match } else { Timed::Contains };
                    self.core.took(timed, matched.begun_us);
                    matched.answer(number, conn);
                }
                done
            }
            Work::Forget(forget) => {
                let done = forget.is_done();
                if done && !silent {
                    self.core.took(Timed::Forget, forget.begun_us);
                    forget.answer(number, conn);
                }
                done
            }
        };
        if done {
            if silent {
                conn.output.message(&Message::Done { request: number });
            }
            if let Some(at) = conn.requests.iter().position(|(n, _)| *n == number) {
                conn.requests.swap_remove(at);
            }
            self.requests.remove(id);
        }
        self.mark_dirty(conn_id);
    }

    pub(super) fn on_event(&mut self, event: Event) {
        match event {
            Event::Damage(damage) => self.tell_damage(damage),
            Event::Got { token, result } => {
                let core = &mut self.core;
                let Some(read) = core.readers.ended(Id::from_word(token), &mut core.lanes) else { return };
                self.go_on_reading(read.peer());
                let (id, item) = (read.request, read.item);
                let Some(request) = self.requests.get_mut(id) else { return };
                let (conn, cancelled) = (request.conn, request.cancelled);
                let Work::Get(get) = &mut request.work else { return };
                let region = get.got(&mut self.core, item, result, cancelled);
                if let Some(region) = region
                    && let Some(lent) = self.conns.get_mut(conn).and_then(|conn| conn.region(region))
                {
                    lent.landings -= 1;
                    self.region_gone(conn, region);
                }
                if cancelled {
                    self.touch(id);
                } else {
                    self.enqueue(id);
                }
            }
            Event::Put { token, outcome } => {
                let (id, item) = from_token(token);
                if let Some(Work::Put(put)) = self.requests.get_mut(id).map(|request| &mut request.work) {
                    put.ended(&mut self.core, item, outcome);
                    self.touch(id);
                }
            }
            Event::Forgotten { token, ok } => {
                let (id, _) = from_token(token);
                if let Some(Work::Forget(forget)) = self.requests.get_mut(id).map(|request| &mut request.work) {
                    forget.ended(ok);
                    self.touch(id);
                }
            }
            Event::Prefetched { result } => super::hints::count(&self.core.counters.prefetch, result),
            Event::NamespaceSaved { token, ok } => {
                // The channel has room for every change the control thread lets be under way.
                let _ = self.replies.saved.try_send(Saved { token, ok });
                self.replies.waker.wake();
            }
        }
    }
}

/// The head of a request.
struct Ask {
    request: u32,
    namespace: NamespaceId,
    deadline_us: u32,
}

/// What becomes of a request.
enum Admitted {
    Begins,
    /// The answer for all its keys.
    Not(MissReason, RefusedReason),
}
