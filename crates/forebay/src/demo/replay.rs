//! The replay: what an engine with Forebay in front of it would do, request by request.
//!
//! For each request: ask how many leading blocks are there, fetch them, compare each byte with content made anew, and put the rest. Two threads
//! fetch, as a machine of two cores can; requests follow each other.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forebay_tokenomics::cost::CostCurve;
use forebay_tokenomics::trace::Plan;
use forebay_types::{Clock, Key, PutOutcome};

use super::content;
use super::pool::Pool;
use super::tally::{Fetched, Tally};

/// Threads that fetch: the node needs cores too.
const FETCHERS: usize = 2;
/// Blocks of one call at most: a call is then a fraction of a millisecond from memory, and its cost is spread.
const CALL_BLOCKS_MAX: usize = 128;
/// Bytes of one call at most, but for one block: bounds the memory of calls in flight.
const CALL_BYTES_MAX: usize = 4 << 20;

/// What stays the same during a run.
pub(crate) struct Course<'a> {
    /// What is replayed.
    pub(crate) plan: &'a Plan,
    /// How many of its requests.
    pub(crate) requests: usize,
    /// The first request counted as "after".
    pub(crate) mark: usize,
    /// Seeds every byte.
    pub(crate) seed: u64,
    /// Bytes of a block.
    pub(crate) block_bytes: usize,
    /// What prefill costs.
    pub(crate) curve: CostCurve,
    /// Time.
    pub(crate) clock: &'a dyn Clock,
}

impl Course<'_> {
    /// Blocks of one call.
    pub(crate) fn call_blocks(&self) -> usize {
        (CALL_BYTES_MAX / self.block_bytes).clamp(1, CALL_BLOCKS_MAX)
    }

    /// Bytes of a block that differ from what was put.
    fn wrong_bytes(&self, number: u32, bytes: &[u8]) -> u64 {
        let (scope, id) = self.plan.origin(number);
        content::wrong_bytes(self.seed, scope, id, self.block_bytes, bytes)
    }
}

/// A replay under way.
pub(crate) struct Replay<'a, P> {
    course: &'a Course<'a>,
    pool: &'a P,
    /// By block number.
    keys: Vec<Key>,
    /// When a put of each block was first acknowledged, in milliseconds of the clock plus 1; 0 is never.
    acked_ms: Vec<u64>,
    buffer: Vec<u8>,
    /// What was counted.
    pub(crate) tally: Tally,
}

/// What came of fetching some blocks.
#[derive(Debug, Default)]
pub(crate) struct Fetch {
    /// What was counted.
    pub(crate) fetched: Fetched,
    /// Blocks that came with every byte right.
    pub(crate) right: u64,
    /// Position of the first block that did not.
    pub(crate) first_gap: Option<usize>,
}

impl<'a, P: Pool> Replay<'a, P> {
    /// Before the first request.
    pub(crate) fn new(course: &'a Course<'a>, pool: &'a P) -> Self {
        let distinct = course.plan.distinct();
        let key = |number| {
            let (scope, id) = course.plan.origin(number);
            pool.key(scope, id)
        };
        Replay {
            course,
            pool,
            keys: (0..distinct).map(key).collect(),
            acked_ms: vec![0; distinct as usize],
            buffer: vec![0; course.call_blocks() * course.block_bytes],
            tally: Tally::default(),
        }
    }

    /// Plays one request.
    pub(crate) fn play(&mut self, index: usize) {
        let request = &self.course.plan.requests[index];
        let numbers: Vec<u32> = request.numbers().collect();
        let keys: Vec<Key> = numbers.iter().map(|number| self.keys[*number as usize]).collect();
        let matched = if keys.is_empty() { 0 } else { self.pool.matched(&keys).min(keys.len()) };
        let start_us = self.course.clock.now_us();
        let fetch = self.fetch(&numbers[..matched]);
        self.tally.fetch_time += Duration::from_micros(self.course.clock.now_us() - start_us);
        self.tally.fetched.merge(&fetch.fetched);
        self.tally.broken += matched as u64 - fetch.right;
        let leading = fetch.first_gap.unwrap_or(matched);
        self.put(&numbers[leading..]);
        let count = if index < self.course.mark { &mut self.tally.before } else { &mut self.tally.after };
        let tokens = u64::from(self.course.plan.block_tokens);
        count.add(request, leading as u32, tokens as u32);
        let cached = u64::from((leading as u32).min(request.saving_blocks)) * tokens;
        self.tally.gpu_s_saved += self.course.curve.saved_s(cached, request.prompt_tokens);
    }

    /// Fetches blocks and compares them, on several threads when there is enough for each.
    pub(crate) fn fetch(&self, numbers: &[u32]) -> Fetch {
        self.fetch_from(self.pool, numbers)
    }

    /// The same, from another way to the pool.
    pub(crate) fn fetch_from(&self, pool: &P, numbers: &[u32]) -> Fetch {
        let call = self.course.call_blocks();
        let calls = numbers.len().div_ceil(call);
        if calls < 2 {
            return self.fetch_calls(pool, numbers, &AtomicUsize::new(0));
        }
        let next = AtomicUsize::new(0);
        let whole = Mutex::new(Fetch::default());
        std::thread::scope(|scope| {
            for _ in 0..FETCHERS.min(calls) {
                scope.spawn(|| {
                    let part = self.fetch_calls(pool, numbers, &next);
                    whole.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).merge(&part);
                });
            }
        });
        whole.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Makes one call after the other until none is left for this thread.
    fn fetch_calls(&self, pool: &P, numbers: &[u32], next: &AtomicUsize) -> Fetch {
        let call = self.course.call_blocks();
        let mut out = Fetch::default();
        loop {
            let from = next.fetch_add(1, Ordering::Relaxed) * call;
            let Some(numbers) = numbers.get(from..).filter(|rest| !rest.is_empty()) else { return out };
            self.fetch_call(pool, &numbers[..call.min(numbers.len())], from, &mut out);
        }
    }

    fn fetch_call(&self, pool: &P, numbers: &[u32], from: usize, out: &mut Fetch) {
        let clock = self.course.clock;
        let keys: Vec<Key> = numbers.iter().map(|number| self.keys[*number as usize]).collect();
        let mut right = vec![false; numbers.len()];
        let mut comparing_us = 0;
        let start_us = clock.now_us();
        pool.get_each(&keys, &mut |at, bytes, tier| {
            let compare_us = clock.now_us();
            let wrong = self.course.wrong_bytes(numbers[at], bytes);
            out.fetched.wrong_bytes += wrong;
            out.fetched.bytes += bytes.len() as u64;
            out.fetched.tiers.add(tier);
            right[at] = wrong == 0;
            comparing_us += clock.now_us() - compare_us;
        });
        let took_us = (clock.now_us() - start_us).saturating_sub(comparing_us);
        out.fetched.latencies.add(Duration::from_micros(took_us));
        out.right += right.iter().filter(|right| **right).count() as u64;
        if let Some(gap) = right.iter().position(|right| !right) {
            out.first_gap = Some(out.first_gap.map_or(from + gap, |other| other.min(from + gap)));
        }
    }

    fn put(&mut self, numbers: &[u32]) {
        for numbers in numbers.chunks(self.course.call_blocks()) {
            let blocks = self.buffer.chunks_exact_mut(self.course.block_bytes);
            for (number, block) in numbers.iter().zip(blocks) {
                let (scope, id) = self.course.plan.origin(*number);
                content::fill(self.course.seed, scope, id, block);
            }
            let blocks = numbers.iter().zip(self.buffer.chunks_exact(self.course.block_bytes));
            let items: Vec<(Key, &[u8])> = blocks.map(|(number, block)| (self.keys[*number as usize], block)).collect();
            let outcomes = self.pool.put(&items);
            let now_ms = self.course.clock.now_ms() + 1;
            for (number, outcome) in numbers.iter().zip(outcomes) {
                match outcome {
                    PutOutcome::Cached | PutOutcome::Durable => {
                        self.tally.put_blocks += 1;
                        self.tally.put_bytes += self.course.block_bytes as u64;
                    }
                    PutOutcome::Exists => {}
                    PutOutcome::Refused(_) => {
                        self.tally.refused += 1;
                        continue;
                    }
                }
                let acked = &mut self.acked_ms[*number as usize];
                *acked = if *acked == 0 { now_ms } else { *acked };
            }
        }
    }

    /// Blocks acknowledged at least `age_ms` before `now_ms`, in the order of their numbers.
    pub(crate) fn acked_before(&self, now_ms: u64, age_ms: u64) -> Vec<u32> {
        let old = |acked: u64| acked != 0 && acked - 1 + age_ms < now_ms;
        (0..).zip(&self.acked_ms).filter(|(_, acked)| old(**acked)).map(|(number, _)| number).collect()
    }

    /// Blocks of a request that are believed to be there: those acknowledged, up to the first that is not.
    pub(crate) fn acked_of(&self, index: usize) -> Vec<u32> {
        let request = &self.course.plan.requests[index];
        request.numbers().take_while(|number| self.acked_ms[*number as usize] != 0).collect()
    }
}

impl Fetch {
    pub(crate) fn merge(&mut self, other: &Fetch) {
        self.fetched.merge(&other.fetched);
        self.right += other.right;
        self.first_gap = match (self.first_gap, other.first_gap) {
            (Some(mine), Some(theirs)) => Some(mine.min(theirs)),
            (mine, theirs) => mine.or(theirs),
        };
    }
}

#[cfg(test)]
mod tests {
    use forebay_tokenomics::replay_lru;
    use forebay_types::SystemClock;

    use super::super::bucket::{Bucket, with_course};
    use super::*;

    #[test]
    fn a_pool_that_keeps_everything_has_the_hit_rate_of_an_unlimited_cache() {
        with_course(&SystemClock::new(), |course| {
            let pool = Bucket::default();
            let mut replay = Replay::new(course, &pool);
            (0..course.requests).for_each(|index| replay.play(index));
            let mut expected = course.plan.clone();
            expected.requests.truncate(course.requests);
            assert_eq!(replay.tally.all(), replay_lru(&expected, None));
            assert_eq!(replay.tally.before.requests, course.mark as u64);
            let fetched = &replay.tally.fetched;
            assert_eq!((fetched.wrong_bytes, replay.tally.broken), (0, 0));
            assert_eq!(fetched.tiers.dram + fetched.tiers.nvme, replay.tally.all().hit_blocks);
            assert_eq!(fetched.bytes, replay.tally.all().hit_blocks * 96);
            assert!(replay.tally.gpu_s_saved > 0.0);
        });
    }

    #[test]
    fn one_wrong_byte_a_block_is_counted_for_each_and_is_no_hit() {
        with_course(&SystemClock::new(), |course| {
            let pool = Bucket { spoil: true, ..Bucket::default() };
            let mut replay = Replay::new(course, &pool);
            (0..course.requests).for_each(|index| replay.play(index));
            assert_eq!(replay.tally.all().hit_blocks, 0);
            assert!(replay.tally.fetched.wrong_bytes > 0);
            assert_eq!(replay.tally.fetched.wrong_bytes, replay.tally.broken);
        });
    }

    #[test]
    fn what_was_lost_is_a_gap_and_what_was_refused_was_never_acknowledged() {
        with_course(&SystemClock::new(), |course| {
            let pool = Bucket::default();
            let mut replay = Replay::new(course, &pool);
            replay.play(0);
            let acked = replay.acked_before(u64::MAX, 1000);
            assert_eq!(acked.len() as u32, course.plan.requests[0].blocks);
            assert_eq!(replay.acked_of(0), course.plan.requests[0].numbers().collect::<Vec<_>>());
            let (scope, id) = course.plan.origin(acked[5]);
            pool.lose(pool.key(scope, id));
            let fetch = replay.fetch(&acked);
            assert_eq!((fetch.first_gap, fetch.right), (Some(5), acked.len() as u64 - 1));
            let refusing = Bucket { refuse: true, ..Bucket::default() };
            let mut replay = Replay::new(course, &refusing);
            replay.play(0);
            assert!(replay.acked_before(u64::MAX, 0).is_empty() && replay.acked_of(0).is_empty());
            assert_eq!(replay.tally.refused, u64::from(course.plan.requests[0].blocks));
        });
    }
}
