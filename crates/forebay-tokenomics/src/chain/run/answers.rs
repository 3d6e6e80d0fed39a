//! What follows when a prompt is computed and when an answer ends.

use super::super::engine::Id;
use super::super::sessions::After;
use super::{Run, What};

impl Run<'_> {
    /// A prompt is computed: its first token is there, and its chunks are, for everybody.
    pub(super) fn computed(&mut self, engine: u32, id: Id) {
        let asked = self.asked(id);
        let now = self.now;
        let course = self.course(id);
        course.first_s = now;
        let course = *course;
        self.publish(engine, id, asked, &course);
        let measured = self.measured(course.came_s);
        if measured {
            self.out.ttft_s.push(now - course.came_s);
        }
        let found = u64::from(course.found) * self.chunk_tokens();
        let hands = &mut self.hands[engine as usize];
        hands.outstanding -= asked.prompt;
        if asked.output > 1 {
            hands.decode(id, asked.output - 1, (found, asked.prompt - found));
        } else {
            self.answered(id);
        }
    }

    pub(super) fn answered(&mut self, id: Id) {
        let asked = self.asked(id);
        let course = *self.course(id);
        let base = self.load.base(id.session);
        let need = self.need(asked) as u32;
        let found = u64::from(course.found) * self.chunk_tokens();
        let hands = &mut self.hands[course.engine as usize];
        hands.used -= need - asked.chunks;
        hands.freed = true;
        if asked.output > 1 {
            hands.context -= (asked.prompt + asked.output) as f64;
            hands.prompts.0 -= found;
            hands.prompts.1 -= asked.prompt - found;
        }
        for span in asked.part(0, asked.chunks).rev() {
            let first = self.caches.near(course.engine, base, span);
            for slot in (first..first + span.count).rev() {
                let pins = &mut self.caches.pins[slot as usize];
                *pins -= 1;
                if *pins == 0 {
                    self.hands[course.engine as usize].used -= 1;
                    self.caches.gpu.touch(course.engine, slot);
                }
            }
        }
        if self.measured(course.came_s) {
            let between_s = (self.now - course.first_s) / (asked.output - 1).max(1) as f64;
            self.out.served.push((course.first_s - course.came_s, between_s));
            self.out.output_tokens += asked.output;
            self.out.requests += 1;
        }
        self.over(id);
    }

    /// The next request of its flow comes when its pause is over.
    pub(super) fn over(&mut self, id: Id) {
        let now = self.now;
        self.course(id).ended_s = now;
        let Some(next) = self.asked(id).next.map(|k| Id { k, ..id }) else { return };
        if let After::EndOf { end_of, pause_s, .. } = self.asked(next).after {
            let ended_s = self.course(Id { k: end_of, ..id }).ended_s;
            self.push((ended_s + pause_s).max(now), What::Comes(next));
        }
    }
}
