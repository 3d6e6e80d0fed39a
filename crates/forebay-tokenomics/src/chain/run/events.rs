//! Events in order of time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use super::super::engine::Id;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum What {
    Comes(Id),
    Loaded(Id),
    StepEnds(u32, u32),
}

/// In order of time; equal times in the order they were made.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Event {
    pub(super) at_s: f64,
    number: u64,
    pub(super) what: What,
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at_s.total_cmp(&other.at_s).then(self.number.cmp(&other.number))
    }
}

/// Events to come.
#[derive(Default)]
pub(super) struct Events {
    queue: BinaryHeap<Reverse<Event>>,
    made: u64,
}

impl Events {
    pub(super) fn push(&mut self, at_s: f64, what: What) {
        self.made += 1;
        self.queue.push(Reverse(Event { at_s, number: self.made, what }));
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.queue.pop().map(|Reverse(event)| event)
    }
}
