//! The events of a fleet, one after the other: requests come, loads arrive, steps end.

mod answers;
mod events;
mod fetch;
mod keep;
mod warm;

use super::engine::{Hands, Id, Prefill};
use super::fleet::{Engine, Fleet};
use super::load::Load;
use super::outcome::Outcome;
use super::rings::Rings;
use super::sessions::{After, Asked};
use events::{Events, What};
use fetch::Lines;
use keep::Caches;

/// Runs a load on a fleet. Requests that come from `measure_from_s` on are counted; those that would come after the load's time are not sent.
pub fn simulate(fleet: &Fleet, load: &Load<'_>, measure_from_s: f64) -> Outcome {
    let mut run = Run::new(fleet, load, measure_from_s);
    run.start();
    while let Some(event) = run.events.pop() {
        run.now = event.at_s;
        match event.what {
            What::Comes(id) => run.comes(id),
            What::Loaded(id) => run.loaded(id),
            What::StepEnds(engine, turn) => run.step_ends(engine, turn),
        }
    }
    run.finish()
}

/// A request on its way.
#[derive(Debug, Clone, Copy, Default)]
struct Course {
    engine: u32,
    came_s: f64,
    first_s: f64,
    ended_s: f64,
    /// Leading chunks that were in GPU memory.
    resident: u32,
    /// Leading chunks that need not be computed.
    found: u32,
}

struct Run<'a> {
    fleet: &'a Fleet,
    load: &'a Load<'a>,
    measure_from_s: f64,
    now: f64,
    events: Events,
    /// Of each session: where its requests' courses begin, and its engine once it has one.
    sessions: Vec<(u32, Option<u32>)>,
    courses: Vec<Course>,
    hands: Vec<Hands>,
    caches: Caches,
    lines: Lines,
    out: Outcome,
    held_since_s: f64,
    linked_s: Vec<f64>,
}

impl<'a> Run<'a> {
    fn new(fleet: &'a Fleet, load: &'a Load<'a>, measure_from_s: f64) -> Self {
        let (own, shared, engines) = (load.own_chunks, load.shared_chunks(), fleet.engines);
        let (near, far) = (own + engines * shared, own + shared);
        let mut requests = 0;
        let sessions = (0..load.sessions() as u32).map(|session| {
            let first = requests;
            requests += load.requests(session).len() as u32;
            (first, None)
        });
        let sessions = sessions.collect();
        let rings = |slots: u32, lists: u32, used: bool| {
            let groups = if used { load.past.groups().to_vec() } else { Vec::new() };
            Rings::new(if used { slots } else { 0 }, groups, lists)
        };
        let (hosts, stores) = (fleet.engine.host_tokens > 0, fleet.store.is_some());
        Run {
            fleet,
            load,
            measure_from_s,
            now: 0.0,
            events: Events::default(),
            sessions,
            courses: vec![Course::default(); requests as usize],
            hands: (0..engines).map(|_| Hands::default()).collect(),
            caches: Caches {
                own,
                shared,
                gpu: rings(near, engines, true),
                pins: vec![0; near as usize],
                host: rings(near, engines, hosts),
                memory: rings(far, 1, stores),
                drive: rings(far, 1, stores),
                was_held: vec![false; if stores { far as usize } else { 0 }],
                coming: vec![0; far as usize],
            },
            lines: Lines {
                drives_s: 0.0,
                memory_s: 0.0,
                links_s: vec![0.0; engines.div_ceil(fleet.engines_per_server) as usize],
                hosts_s: vec![0.0; engines as usize],
            },
            out: Outcome {
                measured_s: (load.span_s - measure_from_s).max(0.0),
                engines,
                gpus_per_engine: fleet.engine.gpus,
                ..Outcome::default()
            },
            held_since_s: measure_from_s,
            linked_s: vec![0.0; engines.div_ceil(fleet.engines_per_server) as usize],
        }
    }

    fn engine(&self) -> &'a Engine {
        &self.fleet.engine
    }

    fn asked(&self, id: Id) -> &'a Asked {
        &self.load.requests(id.session)[id.k as usize]
    }

    fn course(&mut self, id: Id) -> &mut Course {
        let first = self.sessions[id.session as usize].0;
        &mut self.courses[(first + id.k) as usize]
    }

    fn chunk_tokens(&self) -> u64 {
        u64::from(self.load.chunk_tokens())
    }

    fn push(&mut self, at_s: f64, what: What) {
        self.events.push(at_s, what);
    }

    /// True for what is counted: what happens in the measured time.
    fn measured(&self, at_s: f64) -> bool {
        at_s >= self.measure_from_s && at_s < self.load.span_s
    }

    fn comes(&mut self, id: Id) {
        // A trace with absolute times ends with its last request; sessions that are still going on are cut off.
        if self.now >= self.load.span_s && !self.load.is_open() {
            self.out.beyond += 1;
            return;
        }
        let engine = self.route(id);
        let now = self.now;
        *self.course(id) = Course { engine, came_s: now, ..Course::default() };
        for k in &self.asked(id).spawns {
            let spawned = Id { k: *k, ..id };
            if let After::StartOf(_, offset_s) = self.asked(spawned).after {
                self.push(now + offset_s, What::Comes(spawned));
            }
        }
        let hands = &mut self.hands[engine as usize];
        hands.waiting.push_back(id);
        hands.outstanding += self.load.requests(id.session)[id.k as usize].prompt;
        self.nudge(engine);
    }

    /// A session stays with the engine that had least to do when it began; a request without session goes where most of its prompt lies, less what
    /// is waiting there.
    fn route(&mut self, id: Id) -> u32 {
        if let Some(engine) = self.sessions[id.session as usize].1 {
            return engine;
        }
        let open = self.load.is_open();
        let asked = self.asked(id);
        let score = |(engine, hands): (usize, &Hands)| {
            let here = if open { self.resident(engine as u32, id, asked) } else { 0 };
            let lies = u64::from(here) * self.chunk_tokens();
            (i128::from(hands.outstanding) - i128::from(lies), hands.running(), hands.sessions, engine as u32)
        };
        let best = self.hands.iter().enumerate().map(score).min().map_or(0, |(.., engine)| engine);
        if !open {
            self.sessions[id.session as usize].1 = Some(best);
            self.hands[best as usize].sessions += 1;
        }
        best
    }

    /// An engine without a step begins one; one that only decodes ends with the step it is in, so that newcomers need not wait for an answer's end.
    fn nudge(&mut self, engine: u32) {
        let hands = &mut self.hands[engine as usize];
        match &mut hands.step {
            None => self.next_step(engine),
            Some(step) if step.steps > 1 => {
                if step.cut(self.now) {
                    let at_s = step.start_s + step.elapsed_s(step.steps);
                    hands.turn += 1;
                    let turn = hands.turn;
                    self.push(at_s, What::StepEnds(engine, turn));
                }
            }
            Some(_) => {}
        }
    }

    fn next_step(&mut self, engine: u32) {
        self.admit(engine);
        let now = self.now;
        let hands = &mut self.hands[engine as usize];
        hands.step = hands.next_step(&self.fleet.engine, now);
        if let Some(step) = &hands.step {
            let at_s = now + step.elapsed_s(step.steps);
            hands.turn += 1;
            let (turn, stalled) = (hands.turn, hands.stalled_since.take());
            self.push(at_s, What::StepEnds(engine, turn));
            self.add_stall(stalled);
        } else {
            // With nothing to compute, requests that were taken are loading.
            hands.stalled_since = (hands.loading > 0).then(|| hands.stalled_since.unwrap_or(now));
        }
    }

    fn add_stall(&mut self, since_s: Option<f64>) {
        if let Some(since_s) = since_s.filter(|s| self.measured(*s)) {
            self.out.stalled_gpu_s += (self.now - since_s) * f64::from(self.engine().gpus);
        }
    }

    /// Takes waiting requests in their order as long as GPU memory has room for prompt and answer.
    fn admit(&mut self, engine: u32) {
        let capacity = (self.engine().kv_tokens / self.chunk_tokens()) as u32;
        if self.hands[engine as usize].blocked_since.is_some() && !self.hands[engine as usize].freed {
            return;
        }
        self.hands[engine as usize].freed = false;
        while let Some(id) = self.hands[engine as usize].waiting.front().copied() {
            let asked = self.asked(id);
            let need = self.need(asked);
            if need > u64::from(capacity) {
                self.refuse(engine, id);
                continue;
            }
            let resident = self.resident(engine, id, asked);
            let mut used = self.hands[engine as usize].used + need as u32 - resident;
            used += self.unpinned(engine, id, asked, resident);
            let full = used > capacity || self.hands[engine as usize].running() >= self.engine().running_max;
            if full {
                let now = self.now;
                self.hands[engine as usize].blocked_since.get_or_insert(now);
                return;
            }
            self.unblock(engine);
            let hands = &mut self.hands[engine as usize];
            hands.waiting.pop_front();
            hands.used = used;
            self.pin(engine, id, asked, resident);
            while used + self.caches.gpu.held(engine) > capacity && self.caches.gpu.pop(engine).is_some() {}
            self.begin(engine, id, asked, resident);
        }
        self.unblock(engine);
    }

    /// Chunks of GPU memory that a request takes: for prompt, answer, and the windows and states of whoever runs.
    fn need(&self, asked: &Asked) -> u64 {
        let tokens = asked.prompt + asked.output + self.engine().model.kv_tokens_fixed();
        tokens.div_ceil(self.chunk_tokens())
    }

    fn unblock(&mut self, engine: u32) {
        let since = self.hands[engine as usize].blocked_since.take();
        if let Some(since_s) = since.filter(|s| self.measured(*s)) {
            self.out.blocked_gpu_s += (self.now - since_s) * f64::from(self.engine().gpus);
        }
    }

    fn refuse(&mut self, engine: u32, id: Id) {
        let prompt = self.asked(id).prompt;
        let hands = &mut self.hands[engine as usize];
        hands.waiting.pop_front();
        hands.outstanding -= prompt;
        if self.measured(self.now) {
            self.out.refused += 1;
        }
        self.over(id);
    }

    /// Looks further down, decides between loading and computing, and begins either.
    fn begin(&mut self, engine: u32, id: Id, asked: &Asked, resident: u32) {
        let chunk = self.chunk_tokens();
        let (fetch, missed) = self.look(engine, id, asked, resident);
        let (fetch, there_s) = self.choose(engine, fetch, u64::from(resident) * chunk);
        let found = resident + fetch.chunks();
        let course = self.course(id);
        (course.resident, course.found) = (resident, found);
        let came_s = course.came_s;
        if self.measured(came_s) {
            let out = &mut self.out;
            out.tokens.gpu += u64::from(resident) * chunk;
            out.tokens.host += u64::from(fetch.host) * chunk;
            out.tokens.memory += u64::from(fetch.memory) * chunk;
            out.tokens.drive += u64::from(fetch.drive) * chunk;
            out.tokens.fresh += asked.prompt - u64::from(found) * chunk;
            out.evicted_tokens += missed.evicted * chunk;
            out.in_flight_tokens += missed.coming * chunk;
            self.count_load(engine, fetch, u64::from(resident) * chunk, there_s);
        }
        let base = self.load.base(id.session);
        for span in asked.part(found, asked.chunks) {
            let first = self.caches.far(base, span) as usize;
            self.caches.coming[first..first + span.count as usize].iter_mut().for_each(|coming| *coming += 1);
        }
        let hands = &mut self.hands[engine as usize];
        if fetch.chunks() > 0 {
            hands.loading += 1;
            self.push(there_s, What::Loaded(id));
        } else {
            hands.prefilling.push_back(Prefill { id, done: u64::from(found) * chunk, to: asked.prompt });
        }
    }

    fn loaded(&mut self, id: Id) {
        let (asked, chunk) = (self.asked(id), self.chunk_tokens());
        let course = *self.course(id);
        let hands = &mut self.hands[course.engine as usize];
        hands.loading -= 1;
        hands.prefilling.push_back(Prefill { id, done: u64::from(course.found) * chunk, to: asked.prompt });
        self.nudge(course.engine);
    }

    fn step_ends(&mut self, engine: u32, turn: u32) {
        let hands = &mut self.hands[engine as usize];
        if hands.turn != turn {
            return;
        }
        let Some(step) = hands.step.take() else { return };
        let decoding = f64::from(hands.decoding());
        let (found, fresh) = hands.prompts;
        hands.advance(step.steps);
        let took_s = step.elapsed_s(step.steps);
        if self.measured(step.start_s) {
            let gpus = f64::from(self.engine().gpus);
            // Time behind the end belongs to nobody who is measured.
            let share = ((self.load.span_s - step.start_s) / took_s).min(1.0);
            self.out.prefill_gpu_s += step.prefill_s * gpus * share;
            self.out.decode_gpu_s += (took_s - step.prefill_s) * gpus * share;
            let read_s = self.engine().context_s() * step.steps as f64 * gpus * share;
            self.out.found_read_gpu_s += found as f64 * read_s;
            self.out.fresh_read_gpu_s += fresh as f64 * read_s;
            if decoding > 0.0 {
                self.out.itl.add(took_s / step.steps as f64, decoding * step.steps as f64);
            }
        }
        let mut done = Vec::new();
        let hands = &mut self.hands[engine as usize];
        for (prefill, tokens) in hands.prefilling.iter_mut().zip(&step.pieces) {
            prefill.done += tokens;
            if prefill.done >= prefill.to {
                done.push(prefill.id);
            }
        }
        hands.prefilling.retain(|prefill| prefill.done < prefill.to);
        while let Some(id) = self.hands[engine as usize].ended() {
            self.answered(id);
        }
        for id in done {
            self.computed(engine, id);
        }
        if self.hands[engine as usize].step.is_none() {
            self.next_step(engine);
        }
    }

    fn finish(mut self) -> Outcome {
        self.now = self.load.span_s;
        self.count_held();
        let mut out = self.out;
        out.link_busy_s = self.linked_s.iter().copied().fold(0.0, f64::max);
        out.ttft_s.sort_by(f64::total_cmp);
        out.load_s.sort_by(f64::total_cmp);
        out
    }
}
