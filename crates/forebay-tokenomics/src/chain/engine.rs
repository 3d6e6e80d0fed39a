//! One engine at work: who waits, who is loading, who is computed, who makes tokens, and how long the step lasts that is under way.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use super::fleet::Engine;
use crate::cost::CostCurve;

/// A request by its session and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Id {
    pub(crate) session: u32,
    pub(crate) k: u32,
}

/// Part of a prompt that is still to be computed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prefill {
    pub(crate) id: Id,
    pub(crate) done: u64,
    pub(crate) to: u64,
}

/// A step that is under way, or several alike in which nothing but decoding happens.
#[derive(Debug, Clone, Default)]
pub(crate) struct Step {
    pub(crate) start_s: f64,
    pub(crate) steps: u64,
    first_s: f64,
    growth_s: f64,
    /// Seconds of it that compute prompts.
    pub(crate) prefill_s: f64,
    /// How far prompts get: as many of the first ones, with their tokens.
    pub(crate) pieces: Vec<u64>,
}

impl Step {
    /// Seconds of its first `n` steps: each lasts a little longer than the one before.
    pub(crate) fn elapsed_s(&self, n: u64) -> f64 {
        let n = n as f64;
        n * self.first_s + self.growth_s * n * (n - 1.0) / 2.0
    }

    /// Ends with the step that runs at `now`; true if that is earlier than it would have ended.
    pub(crate) fn cut(&mut self, now: f64) -> bool {
        let (mut low, mut high) = (1, self.steps);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.start_s + self.elapsed_s(middle) >= now {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let earlier = low < self.steps;
        self.steps = low;
        earlier
    }
}

/// What one engine has on its hands.
#[derive(Debug, Default)]
pub(crate) struct Hands {
    pub(crate) waiting: VecDeque<Id>,
    pub(crate) loading: u32,
    pub(crate) prefilling: VecDeque<Prefill>,
    decoding: BinaryHeap<Reverse<(u64, Id)>>,
    /// Steps so far, by which the ends of answers are told.
    count: u64,
    /// Tokens of KV of those who decode.
    pub(crate) context: f64,
    /// Of them, tokens of prompts that were found, and that were computed.
    pub(crate) prompts: (u64, u64),
    /// Chunks held by requests: computed, loading, and room for answers.
    pub(crate) used: u32,
    pub(crate) step: Option<Step>,
    /// Tells a step that was cut from its first end.
    pub(crate) turn: u32,
    pub(crate) blocked_since: Option<f64>,
    /// An answer ended since the first of those who wait was last looked at.
    pub(crate) freed: bool,
    pub(crate) stalled_since: Option<f64>,
    /// Tokens that are still to be computed here, waiting ones counted.
    pub(crate) outstanding: u64,
    pub(crate) sessions: u32,
}

impl Hands {
    pub(crate) fn running(&self) -> u32 {
        self.loading + self.prefilling.len() as u32 + self.decoding.len() as u32
    }

    pub(crate) fn decoding(&self) -> u32 {
        self.decoding.len() as u32
    }

    /// Begins to make `tokens` tokens behind a prompt, of which so many were found and so many computed, and its first token.
    pub(crate) fn decode(&mut self, id: Id, tokens: u64, (found, fresh): (u64, u64)) {
        self.decoding.push(Reverse((self.count + tokens, id)));
        self.context += (found + fresh + 1) as f64;
        self.prompts.0 += found;
        self.prompts.1 += fresh;
    }

    /// The next step, if there is anything to do: decoding first, then as much of prompts as the step has room for.
    pub(crate) fn next_step(&mut self, engine: &Engine, now: f64) -> Option<Step> {
        let n = self.decoding();
        let curve = CostCurve { c0_s: 0.0, ..engine.curve };
        let mut room = engine.curve.step_tokens.saturating_sub(u64::from(n)).max(1);
        let (mut pieces, mut prefill_s) = (Vec::new(), 0.0);
        for prefill in &self.prefilling {
            let tokens = (prefill.to - prefill.done).min(room);
            prefill_s += curve.prefill_s(prefill.done, prefill.done + tokens);
            pieces.push(tokens);
            room -= tokens;
            if room == 0 {
                break;
            }
        }
        if pieces.is_empty() && n == 0 {
            return None;
        }
        if !pieces.is_empty() {
            prefill_s += engine.curve.c0_s;
        }
        let first_s = engine.step_s(prefill_s, n, self.context);
        let until_one_ends = self.decoding.peek().map_or(1, |Reverse((end, _))| end - self.count);
        let (steps, growth_s) =
            if pieces.is_empty() { (until_one_ends.max(1), f64::from(n) * engine.context_s()) } else { (1, 0.0) };
        Some(Step { start_s: now, steps, first_s, growth_s, prefill_s, pieces })
    }

    /// Everybody who decodes is `steps` tokens further.
    pub(crate) fn advance(&mut self, steps: u64) {
        self.count += steps;
        self.context += f64::from(self.decoding()) * steps as f64;
    }

    /// Somebody whose answer has ended.
    pub(crate) fn ended(&mut self) -> Option<Id> {
        let Reverse((end, id)) = *self.decoding.peek()?;
        (end <= self.count).then(|| {
            self.decoding.pop();
            id
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_steps_of_decoding_are_one_and_can_be_cut() {
        // Steps of 1, 1.5, 2, 2.5 s.
        let mut step = Step { start_s: 10.0, steps: 4, first_s: 1.0, growth_s: 0.5, ..Step::default() };
        assert_eq!([1, 2, 4].map(|n| step.elapsed_s(n)), [1.0, 2.5, 7.0]);
        assert!(!step.clone().cut(15.0));
        assert!(step.cut(12.0));
        assert_eq!(step.steps, 2);
        assert!(step.cut(10.1) && !step.cut(10.2));
        assert_eq!(step.steps, 1);
    }
}
