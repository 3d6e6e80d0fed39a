//! Where chunks are: what an engine finds, holds on to and gives back, and what it and Forebay keep of it.

use super::super::engine::Id;
use super::super::rings::Rings;
use super::super::sessions::{Asked, Numbers};
use super::fetch::Fetch;
use super::{Course, Run};

/// Where chunks are. Slots of engines: a session's own chunks once, since it stays with its engine; shared ones once an engine.
pub(super) struct Caches {
    pub(super) own: u32,
    pub(super) shared: u32,
    pub(super) gpu: Rings,
    pub(super) pins: Vec<u16>,
    pub(super) host: Rings,
    pub(super) memory: Rings,
    pub(super) drive: Rings,
    /// Chunks that Forebay has held at some time.
    pub(super) was_held: Vec<bool>,
    /// How many requests are computing a chunk.
    pub(super) coming: Vec<u16>,
}

impl Caches {
    pub(super) fn near(&self, engine: u32, base: u32, numbers: Numbers) -> u32 {
        if numbers.shared { self.own + engine * self.shared + numbers.first } else { base + numbers.first }
    }

    pub(super) fn far(&self, base: u32, numbers: Numbers) -> u32 {
        if numbers.shared { self.own + numbers.first } else { base + numbers.first }
    }
}

/// What was not found, in chunks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Missed {
    pub(super) coming: u64,
    pub(super) evicted: u64,
}

impl Run<'_> {
    /// Leading chunks in GPU memory.
    pub(super) fn resident(&self, engine: u32, id: Id, asked: &Asked) -> u32 {
        let base = self.load.base(id.session);
        let mut leading = 0;
        for span in &asked.spans {
            let first = self.caches.near(engine, base, *span);
            for slot in first..first + span.count {
                if leading == asked.saving || !(self.caches.gpu.holds(slot) || self.caches.pins[slot as usize] > 0) {
                    return leading;
                }
                leading += 1;
            }
        }
        leading
    }

    /// How many of the leading chunks nobody holds on to yet.
    pub(super) fn unpinned(&self, engine: u32, id: Id, asked: &Asked, leading: u32) -> u32 {
        let base = self.load.base(id.session);
        let mut unpinned = 0;
        for span in asked.part(0, leading) {
            let first = self.caches.near(engine, base, span) as usize;
            let pins = &self.caches.pins[first..first + span.count as usize];
            unpinned += pins.iter().filter(|pins| **pins == 0).count() as u32;
        }
        unpinned
    }

    pub(super) fn pin(&mut self, engine: u32, id: Id, asked: &Asked, leading: u32) {
        let base = self.load.base(id.session);
        for span in asked.part(0, leading) {
            let first = self.caches.near(engine, base, span);
            for slot in first..first + span.count {
                self.caches.gpu.take(engine, slot);
                self.caches.pins[slot as usize] += 1;
            }
        }
    }

    pub(super) fn look(&self, engine: u32, id: Id, asked: &Asked, resident: u32) -> (Fetch, Missed) {
        let base = self.load.base(id.session);
        let slots = asked.part(resident, asked.saving).flat_map(|span| {
            let (near, far) = (self.caches.near(engine, base, span), self.caches.far(base, span));
            (0..span.count).map(move |i| (near + i, far + i))
        });
        let (mut fetch, mut missed) = (Fetch::default(), Missed::default());
        let (mut leading, mut flying) = (true, true);
        for (near, far) in slots {
            if leading {
                if self.engine().host_tokens > 0 && self.caches.host.holds(near) {
                    fetch.host += 1;
                    continue;
                }
                if self.fleet.store.is_some() && self.caches.drive.holds(far) {
                    if self.caches.memory.holds(far) {
                        fetch.memory += 1
                    } else {
                        fetch.drive += 1
                    }
                    continue;
                }
                leading = false;
            }
            flying &= self.caches.coming[far as usize] > 0;
            missed.coming += u64::from(flying);
            if self.fleet.store.is_some() && !self.caches.drive.holds(far) && self.caches.was_held[far as usize] {
                missed.evicted += 1;
            }
        }
        (fetch, missed)
    }

    pub(super) fn publish(&mut self, engine: u32, id: Id, asked: &Asked, course: &Course) {
        let base = self.load.base(id.session);
        for span in asked.part(course.resident, asked.chunks) {
            let first = self.caches.near(engine, base, span);
            for slot in first..first + span.count {
                let pins = &mut self.caches.pins[slot as usize];
                // Somebody else computed it meanwhile: one copy stays.
                if *pins > 0 {
                    self.hands[engine as usize].used -= 1;
                }
                *pins += 1;
                self.caches.gpu.take(engine, slot);
            }
        }
        for span in asked.part(course.found, asked.chunks) {
            let first = self.caches.far(base, span) as usize;
            self.caches.coming[first..first + span.count as usize].iter_mut().for_each(|coming| *coming -= 1);
        }
        if self.engine().host_tokens > 0 {
            for span in asked.part(0, asked.chunks).rev() {
                let first = self.caches.near(engine, base, span);
                for slot in (first..first + span.count).rev() {
                    self.caches.host.touch(engine, slot);
                }
            }
            let fits = (self.engine().host_tokens / self.chunk_tokens()) as u32;
            while self.caches.host.held(engine) > fits && self.caches.host.pop(engine).is_some() {}
        }
        self.store(base, asked, course);
    }

    /// Forebay is told of every chunk that was used, tail to head, and is handed those it does not hold and that were computed now.
    fn store(&mut self, base: u32, asked: &Asked, course: &Course) {
        let Some(store) = self.fleet.store else { return };
        self.count_held();
        let caches = &mut self.caches;
        let mut written = 0;
        for span in asked.part(0, asked.chunks).rev() {
            let first = caches.far(base, span);
            for i in (0..span.count).rev() {
                let slot = first + i;
                if !caches.drive.holds(slot) {
                    if span.at + i < course.found {
                        continue;
                    }
                    written += 1;
                    caches.was_held[slot as usize] = true;
                }
                caches.drive.touch(0, slot);
                caches.memory.touch(0, slot);
            }
        }
        let chunk = u64::from(self.load.chunk_tokens());
        while u64::from(caches.drive.held(0)) * chunk > store.drive_tokens {
            if let Some(slot) = caches.drive.pop(0) {
                caches.memory.take(0, slot);
            }
        }
        while u64::from(caches.memory.held(0)) * chunk > store.memory_tokens && caches.memory.pop(0).is_some() {}
        if self.measured(self.now) {
            self.out.written_tokens += written * chunk;
        }
    }

    pub(super) fn count_held(&mut self) {
        let until_s = self.now.min(self.load.span_s);
        if until_s > self.held_since_s {
            let held = f64::from(self.caches.drive.held(0)) * self.chunk_tokens() as f64;
            self.out.held_token_hours += held * (until_s - self.held_since_s) / 3600.0;
            self.held_since_s = until_s;
        }
    }
}
