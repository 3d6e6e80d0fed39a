//! What messages and events mean.

use std::os::fd::OwnedFd;

use forebay_io::PeerRegion;
use forebay_store::Event;
use forebay_types::limits::DEADLINE_US_MAX;
use forebay_types::{MissReason, NamespaceId, PutOutcome, RefusedReason, RegionId};
use forebay_wire::{ErrorCode, GetOutcomeRef, GetOutcomesWriter, Message, Presence};

use super::conn::{CREDIT_BYTES_MAX, REGIONS_MAX, REQUESTS_MAX};
use super::core::ITEMS_MAX;
use super::get::Get;
use super::put::Put;
use super::receive::Refusal;
use super::request::{Forget, Lent, Match, Request, Work, from_token};
use super::{Saved, Shard};
use crate::lanes::Lane;
use crate::slab::Id;

/// Shortest patience with a peer that takes nothing, whatever its deadlines, in microseconds.
const PATIENCE_US_MIN: u64 = 1_000_000;

impl Shard {
    pub(super) fn on_message(&mut self, id: Id, message: Message) -> Result<(), Refusal> {
        match message {
            Message::Get { request, namespace, deadline_us, items, .. } => {
                self.core.counters.get.asked.add(items.len() as u64);
                match self.admit(id, request, namespace, items.len())? {
                    Ok(()) => {
                        let get = Get::new(items);
                        self.begin(id, request, namespace, deadline_us, get.first_lane(), Work::Get(get));
                    }
                    Err((reason, _)) => self.miss_all(id, request, items.len(), reason),
                }
            }
            Message::Put { request, namespace, deadline_us, items, .. } => {
                self.core.counters.put_asked.add(items.len() as u64);
                match self.admit(id, request, namespace, items.len())? {
                    Ok(()) => self.begin(id, request, namespace, deadline_us, Lane::Put, Work::Put(Put::new(items))),
                    Err((_, reason)) => self.refuse_all(id, request, items.len(), reason),
                }
            }
            Message::Match { request, namespace, deadline_us, hold_ms, stop_at_gap, keys } => {
                let counts = if stop_at_gap { &self.core.counters.matched } else { &self.core.counters.contains };
                counts.asked.add(keys.len() as u64);
                match self.admit(id, request, namespace, keys.len())? {
                    Ok(()) => {
                        let presence = Vec::with_capacity(keys.len());
                        let matched = Match { keys, presence, hold_ms, stop_at_gap, gap: false };
                        self.begin(id, request, namespace, deadline_us, Lane::Small, Work::Match(matched));
                    }
                    Err((reason, _)) => {
                        for _ in &keys {
                            counts_of(self, stop_at_gap).miss(reason);
                        }
                        self.say(
                            id,
                            &Message::MatchOutcomes { request, presence: vec![Presence::Not(reason); keys.len()] },
                        );
                    }
                }
            }
            Message::Forget { request, namespace, deadline_us, keys } => {
                self.core.counters.forget_asked.add(keys.len() as u64);
                match self.admit(id, request, namespace, keys.len())? {
                    Ok(()) => {
                        let forget = Forget { keys, forgotten: Vec::new(), pending: 0, failed: false, answered: false };
                        self.begin(id, request, namespace, deadline_us, Lane::Small, Work::Forget(forget));
                    }
                    Err((reason, _)) => {
                        // What is in no namespace of this tenant was not here for it; a busy shard has not forgotten anything.
                        let failed = reason != MissReason::Namespace;
                        self.say(id, &Message::ForgetOutcomes { request, failed, forgotten: vec![false; keys.len()] });
                    }
                }
            }
            Message::RegionAdd { request, region, length, owned } => {
                self.region_add(id, request, region, length, owned)
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
            // Hints are not acted upon yet, and the feature bit says so.
            Message::Touch { .. } | Message::Prefetch { .. } => {}
            _ => {
                return Err(Refusal::protocol(
                    "the peer sent a shard a message that is none of a shard's; namespaces and members are asked for on a control connection",
                ));
            }
        }
        Ok(())
    }

    /// Whether a request may begin; else what to answer for its keys.
    fn admit(
        &mut self,
        id: Id,
        number: u32,
        namespace: NamespaceId,
        items: usize,
    ) -> Result<Result<(), (MissReason, RefusedReason)>, Refusal> {
        self.core.counters.requests.add(1);
        let Some(conn) = self.conns.get(id) else {
            return Ok(Err((MissReason::Unavailable, RefusedReason::Unavailable)));
        };
        if conn.request(number).is_some() {
            return Err(Refusal::protocol(format!(
                "the peer began request {number} while another of that number is unanswered"
            )));
        }
        if !self.core.allows(conn.tenant, namespace) {
            return Ok(Err((MissReason::Namespace, RefusedReason::Namespace)));
        }
        if self.closing.is_some() {
            return Ok(Err((MissReason::Unavailable, RefusedReason::Unavailable)));
        }
        let full =
            self.requests.is_full() || conn.requests.len() >= REQUESTS_MAX || self.core.items + items > ITEMS_MAX;
        Ok(if full { Err((MissReason::Busy, RefusedReason::Busy)) } else { Ok(()) })
    }

    fn begin(&mut self, id: Id, number: u32, namespace: NamespaceId, deadline_us: u32, lane: Lane, work: Work) {
        let patience_us = u64::from(deadline_us).min(DEADLINE_US_MAX);
        let deadline_us = self.core.now_us + patience_us;
        let items = match &work {
            Work::Get(get) => get.open,
            Work::Put(put) => put.open,
            Work::Match(matched) => matched.keys.len(),
            Work::Forget(forget) => forget.keys.len(),
        };
        let (queued, touched, cancelled) = (false, false, false);
        let request = Request { conn: id, number, namespace, deadline_us, lane, queued, touched, cancelled, work };
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

    fn say(&mut self, id: Id, message: &Message) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.output.message(message);
            self.mark_dirty(id);
        }
    }

    fn complain(&mut self, id: Id, request: u32, code: ErrorCode, text: String) {
        self.core.counters.error(code);
        self.say(id, &Message::Error { request, code, text });
    }

    fn region_add(&mut self, id: Id, request: u32, region: RegionId, length: u64, owned: bool) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let fd: Option<OwnedFd> = conn.fds.pop_front();
        let problem = if !conn.lends {
            Some("regions can be lent over Unix sockets only; on TCP bytes come in DATA frames".to_owned())
        } else if region.0 == 0 {
            Some("a region's number is not 0".to_owned())
        } else if conn.region(region).is_some() {
            Some(format!("region {} is there already; drop it first", region.0))
        } else if conn.regions.len() >= REGIONS_MAX {
            Some(format!("a connection lends at most {REGIONS_MAX} regions; drop one first"))
        } else {
            None
        };
        let imported = match (problem, fd) {
            (Some(problem), _) => Err(problem),
            (None, None) => Err("no descriptor came with it".to_owned()),
            (None, Some(fd)) => PeerRegion::import(fd, length).map_err(|error| error.to_string()),
        };
        match imported {
            Err(text) => self.complain(id, request, ErrorCode::Region, text),
            Ok(imported) => {
                self.core.counters.regions.add(1);
                if imported.is_mapped() {
                    self.core.store.disk_mut().add_region(&imported);
                } else {
                    self.core.counters.regions_unmapped.add(1);
                }
                conn.regions.push(Lent { id: region, region: imported, owned, landings: 0, dropping: None });
                self.say(id, &Message::Done { request });
            }
        }
    }

    fn region_drop(&mut self, id: Id, request: u32, region: RegionId) {
        let found = self.conns.get_mut(id).and_then(|conn| conn.region(region));
        match found {
            Some(lent) if lent.dropping.is_none() => {
                lent.dropping = Some(request);
                self.region_gone(id, region);
            }
            _ => {
                let text = format!("there is no region {} on this connection", region.0);
                self.complain(id, request, ErrorCode::Region, text);
            }
        }
    }

    /// Lets a region go that is to be dropped, when nothing lands in it any more.
    fn region_gone(&mut self, id: Id, region: RegionId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let Some(at) = conn.regions.iter().position(|lent| lent.id == region) else { return };
        let lent = &conn.regions[at];
        if let (Some(request), 0) = (lent.dropping, lent.landings) {
            let lent = conn.regions.swap_remove(at);
            self.core.store.disk_mut().drop_region(&lent.region);
            self.core.counters.regions.set(self.core.counters.regions.get() - 1);
            self.say(id, &Message::Done { request });
        }
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

    /// Drops a request of a connection that is gone.
    pub(super) fn drop_request(&mut self, id: Id) {
        let Some(mut request) = self.requests.remove(id) else { return };
        match &mut request.work {
            Work::Get(get) => get.give_up(&mut self.core, MissReason::Unavailable, true, |_| ()),
            Work::Put(put) => put.give_up(&mut self.core, None, RefusedReason::Unavailable),
            Work::Match(matched) => matched.give_up(&mut self.core, MissReason::Unavailable),
            Work::Forget(forget) => forget.give_up(&mut self.core),
        }
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
                    matched.answer(number, conn);
                }
                done
            }
            Work::Forget(forget) => {
                let done = forget.is_done();
                if done && !silent {
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
            Event::Got { token, result } => {
                self.core.reads = self.core.reads.saturating_sub(1);
                let (id, item) = from_token(token);
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
            Event::NamespaceSaved { token, ok } => {
                // The channel has room for every change the control thread lets be under way.
                let _ = self.replies.saved.try_send(Saved { token, ok });
                self.replies.waker.wake();
            }
        }
    }
}

fn counts_of(shard: &Shard, stop_at_gap: bool) -> &crate::counters::Asked {
    if stop_at_gap { &shard.core.counters.matched } else { &shard.core.counters.contains }
}
