//! The calls of one thread, and what was seen of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_client::NamespaceHandle;
use forebay_types::{Clock, Entropy, Key, MissReason, PutOutcome, RefusedReason, SystemClock, SystemEntropy};

use super::BLOCK;
use crate::node::Node;
use crate::queued::Queued;
use crate::report::percentile;
use crate::watch::pause;
use crate::work::{pattern, stamp};
use crate::{Failed, Outcome, why};

/// Blocks of one get, and of one put.
const GET: usize = 16;
const PUT: usize = 4;

/// What the calls of a phase took.
#[derive(Default)]
pub(super) struct Seen {
    /// Beyond the deadline, in milliseconds, of the calls that used all their time.
    pub(super) late_ms: Vec<f64>,
    /// The same less what the thread waited for a core in that call, at least 0.
    pub(super) own_ms: Vec<f64>,
    /// Of the threads' first calls, if they were late.
    pub(super) first_ms: Vec<f64>,
    pub(super) calls: u64,
    pub(super) hits: u64,
    pub(super) deadline: u64,
    pub(super) unavailable: u64,
    pub(super) kept: u64,
    pub(super) other: u64,
    /// The latest call, in words.
    pub(super) worst: String,
}

impl Seen {
    pub(super) fn add(&mut self, other: Seen) {
        if percentile(&other.late_ms, 1.0) >= percentile(&self.late_ms, 1.0) || self.late_ms.is_empty() {
            self.worst = other.worst;
        }
        self.late_ms.extend(other.late_ms);
        self.own_ms.extend(other.own_ms);
        self.first_ms.extend(other.first_ms);
        self.calls += other.calls;
        self.hits += other.hits;
        self.deadline += other.deadline;
        self.unavailable += other.unavailable;
        self.kept += other.kept;
        self.other += other.other;
    }

    fn get(&mut self, space: &NamespaceHandle, keys: &[Key]) {
        space.get_each(keys, |_, result| match result {
            Ok(_) => self.hits += 1,
            Err(MissReason::Deadline) => self.deadline += 1,
            Err(MissReason::Unavailable) => self.unavailable += 1,
            Err(_) => self.other += 1,
        });
    }

    fn put(&mut self, space: &NamespaceHandle, blocks: &[(Key, &[u8])]) {
        for outcome in space.put(blocks) {
            match outcome {
                PutOutcome::Refused(RefusedReason::Deadline) => self.deadline += 1,
                PutOutcome::Refused(RefusedReason::Unavailable) => self.unavailable += 1,
                outcome if outcome.is_kept() => self.kept += 1,
                _ => self.other += 1,
            }
        }
    }
}

/// Gets, and every fourth time a put, until told to stop.
pub(super) fn calls(
    space: &NamespaceHandle,
    keys: &[Key],
    number: usize,
    deadline: Duration,
    stop: &AtomicBool,
) -> Seen {
    let (clock, queued) = (SystemClock::new(), Queued::of_this_thread());
    let mut seen = Seen::default();
    let mut blocks: Vec<Vec<u8>> = (0..PUT).map(|_| pattern(BLOCK)).collect();
    let mut at = number * GET;
    let deadline_ms = deadline.as_secs_f64() * 1000.0;
    while !stop.load(Ordering::Relaxed) {
        let puts = seen.calls % 4 == 3;
        let new: Vec<Key> = blocks.iter().map(|_| space.derive_key(&SystemEntropy.word().to_le_bytes())).collect();
        if puts {
            new.iter().zip(&mut blocks).for_each(|(key, block)| stamp(block, key));
        }
        at = (at + GET * 7) % (keys.len() - GET);
        let before = seen.unavailable;
        let (begun_us, queued_ms) = (clock.now_us(), queued.ms());
        if puts {
            let items: Vec<(Key, &[u8])> = new.iter().copied().zip(blocks.iter().map(Vec::as_slice)).collect();
            seen.put(space, &items);
        } else {
            seen.get(space, &keys[at..at + GET]);
        }
        let late_ms = (clock.now_us() - begun_us) as f64 / 1000.0 - deadline_ms;
        seen.calls += 1;
        if late_ms >= 0.0 {
            let waited_ms = queued.ms() - queued_ms;
            if seen.late_ms.iter().all(|other| *other <= late_ms) {
                let verb = if puts { "put" } else { "get" };
                seen.worst = format!(
                    "a {verb}, call {} of its thread: {late_ms:.2} ms late, {waited_ms:.2} ms without a core",
                    seen.calls
                );
            }
            if seen.calls == 1 {
                seen.first_ms.push(late_ms);
            }
            seen.late_ms.push(late_ms);
            seen.own_ms.push((late_ms - waited_ms).max(0.0));
        }
        if seen.unavailable > before {
            // A dead node answers within microseconds: a caller has something better to do meanwhile.
            pause(1);
        }
    }
    seen
}

/// Clients that get and put large blocks without a pause, for half a second.
pub(super) fn greedy(node: &Node, keys: &[Key], clients: usize) -> Outcome<()> {
    let clock = SystemClock::new();
    std::thread::scope(|scope| {
        let glutton = |number: usize| -> Outcome<()> {
            let space = node.unix()?.namespace("default").map_err(why("opening the namespace"))?;
            let mut block = pattern(1 << 20);
            while clock.now_us() < 500_000 {
                let at = (SystemEntropy.word() as usize) % (keys.len() - GET);
                space.get_each(&keys[at..at + GET], |_, _| {});
                if number.is_multiple_of(2) {
                    let key = space.derive_key(&SystemEntropy.word().to_le_bytes());
                    stamp(&mut block, &key);
                    space.put(&[(key, &block)]);
                }
            }
            Ok(())
        };
        let all: Vec<_> = (0..clients).map(|number| scope.spawn(move || glutton(number))).collect();
        all.into_iter()
            .try_for_each(|one| one.join().unwrap_or_else(|_| Err(Failed("a greedy client panicked".into()))))
    })
}
