//! Time 0: who is at it already, where in its session, and what caches hold of what was asked before.

use super::super::engine::Id;
use super::super::past::Touched;
use super::super::sessions::After;
use super::{Course, Run, What};

impl Run<'_> {
    pub(super) fn start(&mut self) {
        let mut going_on = 0;
        for session in 0..self.load.sessions() as u32 {
            let at_s = self.load.start_s(session);
            if at_s < 0.0 {
                self.go_on(session, at_s, going_on % self.fleet.engines);
                going_on += 1;
                continue;
            }
            for (k, asked) in self.load.requests(session).iter().enumerate() {
                if let After::Start(offset_s) = asked.after {
                    let id = Id { session, k: k as u32 };
                    self.push(at_s + offset_s / self.load.speed(), What::Comes(id));
                }
            }
        }
        self.fill();
    }

    /// A session that began before: requests that its record has behind it are over, the next of each flow come when the record has them.
    fn go_on(&mut self, session: u32, at_s: f64, engine: u32) {
        self.sessions[session as usize].1 = Some(engine);
        self.hands[engine as usize].sessions += 1;
        let requests = self.load.requests(session);
        let is_past = |k: u32| at_s + requests[k as usize].at_s < 0.0;
        for (k, asked) in requests.iter().enumerate() {
            let (id, comes_s) = (Id { session, k: k as u32 }, at_s + asked.at_s);
            if is_past(id.k) {
                let ended_s = comes_s + asked.took_s;
                *self.course(id) = Course { engine, came_s: comes_s, ended_s, ..Course::default() };
            } else if asked.after.trigger().is_none_or(is_past) {
                self.push(comes_s, What::Comes(id));
            }
        }
    }

    /// Caches hold what was touched last, each as much as it has room for; of what Forebay has no room for it knows that it was there.
    fn fill(&mut self) {
        let (load, engines, chunk) = (self.load, self.fleet.engines, self.chunk_tokens());
        let most = |tokens: u64| (tokens / chunk).min(u64::from(u32::MAX)) as u32;
        let (gpu, host) = (most(self.engine().kv_tokens), most(self.engine().host_tokens));
        let (memory, drive) = self.fleet.store.map_or((0, 0), |s| (most(s.memory_tokens), most(s.drive_tokens)));
        let (mut gpu_full, mut host_full) = (vec![gpu == 0; engines as usize], vec![host == 0; engines as usize]);
        let (mut memory_full, mut drive_full) = (memory == 0, drive == 0);
        let caches = &mut self.caches;
        let singles = (caches.own + engines * caches.shared, caches.own + caches.shared);
        let mut add = |caches: &mut super::Caches, engine: u32, near: u32, far: u32| {
            let full = &mut gpu_full[engine as usize];
            *full = *full || !caches.gpu.add_coldest(engine, near, gpu);
            let full = &mut host_full[engine as usize];
            *full = *full || !caches.host.add_coldest(engine, near, host);
            drive_full = drive_full || !caches.drive.add_coldest(0, far, drive);
            memory_full = memory_full || drive_full || !caches.memory.add_coldest(0, far, memory);
        };
        for touched in load.past.touched() {
            match touched {
                Touched::Ended { ended, group } => {
                    add(caches, ended % engines, singles.0 + group, singles.1 + group);
                }
                Touched::By { session, numbers } => {
                    let (base, engine) = (load.base(session), self.sessions[session as usize].1.unwrap_or(0));
                    let (near, far) = (caches.near(engine, base, numbers), caches.far(base, numbers));
                    for i in 0..numbers.count {
                        add(caches, engine, near + i, far + i);
                        if self.fleet.store.is_some() {
                            caches.was_held[(far + i) as usize] = true;
                        }
                    }
                }
            }
        }
    }
}
