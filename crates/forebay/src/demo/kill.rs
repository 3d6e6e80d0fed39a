//! The kill: SIGKILL while puts and gets are in flight, and what is still there afterwards.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use forebay_types::Key;

use super::content;
use super::error::DemoError;
use super::pool::Pool;
use super::replay::{Course, Fetch, Replay};
use super::tally::Fetched;

/// A key acknowledged this long before the kill must survive it: a put is handed to the drive within 100 ms.
const AGE_MS: u64 = 1000;
/// Blocks of the session that is being put at the kill. They belong to no request, so that the twin without a kill sees the same requests.
const STRAY_SCOPE: u32 = u32::MAX;
/// Bytes of them at most: what the drive has spare for them.
const STRAY_BYTES_MAX: usize = 48 << 20;
/// Calls that each side has finished before the kill: both are truly at work then.
const CALLS_BEFORE: u64 = 3;
/// A node that is not back by then will not be.
const BACK_WITHIN_MS: u64 = 60_000;

/// What was going on at the kill, and what came after.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kill {
    /// Calls of get and of put that had no answer yet.
    pub(crate) in_flight: (u64, u64),
    /// Keys acknowledged more than a second before the kill.
    pub(crate) asked: u64,
    /// Of those, the ones that came back with every byte right.
    pub(crate) survived: u64,
    /// From the kill to the first verified hit; to `ready` if there was nothing to ask for.
    pub(crate) recovery: Duration,
    /// Everything fetched meanwhile.
    pub(crate) fetched: Fetched,
}

impl Kill {
    /// Share of keys that survived; none if there was none to ask for.
    pub(crate) fn share(&self) -> Option<f64> {
        (self.asked > 0).then(|| self.survived as f64 / self.asked as f64)
    }
}

/// What holds the node.
pub(crate) trait Killer {
    /// SIGKILL; returns when the process is gone.
    fn kill(&mut self) -> Result<(), DemoError>;
    /// Starts it again, with the same settings; returns when it serves.
    fn restart(&mut self) -> Result<(), DemoError>;
}

/// Kills the node while request `index` is being fetched and other blocks are being put, starts it again, and asks for everything that was
/// acknowledged more than a second before.
pub(crate) fn kill_and_restart<P: Pool>(
    course: &Course,
    replay: &Replay<P>,
    pool: &P,
    index: usize,
    killer: &mut impl Killer,
) -> Result<Kill, DemoError> {
    let mut kill = Kill::default();
    let at_work = AtWork::default();
    let wanted = replay.acked_of(index);
    let mut killed_ms = 0;
    let done: Result<(), DemoError> = std::thread::scope(|scope| {
        let gets = (!wanted.is_empty()).then(|| scope.spawn(|| get_until_stopped(course, replay, &wanted, &at_work)));
        scope.spawn(|| put_until_stopped(course, pool, &at_work));
        at_work.wait_until_busy(!wanted.is_empty());
        kill.in_flight = (at_work.gets.load(Ordering::SeqCst), at_work.puts.load(Ordering::SeqCst));
        killed_ms = course.clock.now_ms();
        let killed = killer.kill();
        at_work.stop.store(true, Ordering::SeqCst);
        if let Some(Ok(fetch)) = gets.map(|gets| gets.join()) {
            kill.fetched.merge(&fetch.fetched);
        }
        killed
    });
    done?;
    killer.restart()?;
    let old = replay.acked_before(killed_ms, AGE_MS);
    kill.asked = old.len() as u64;
    if let Some(first) = old.first() {
        // The client connects again by itself; until it has, the answer is a miss.
        while replay.fetch(std::slice::from_ref(first)).right == 0 {
            if course.clock.now_ms() - killed_ms > BACK_WITHIN_MS || first_hit(replay, &old) {
                break;
            }
        }
    }
    kill.recovery = Duration::from_millis(course.clock.now_ms() - killed_ms);
    let fetch = replay.fetch(&old);
    kill.survived = fetch.right;
    kill.fetched.merge(&fetch.fetched);
    Ok(kill)
}

/// Whether any of a sample is there: the very first key may be one that was lost.
fn first_hit<P: Pool>(replay: &Replay<P>, old: &[u32]) -> bool {
    let sample: Vec<u32> = old.iter().step_by(old.len().div_ceil(16)).copied().collect();
    replay.fetch(&sample).right > 0
}

/// What the two threads are doing.
#[derive(Default)]
struct AtWork {
    gets: AtomicU64,
    puts: AtomicU64,
    gets_done: AtomicU64,
    puts_done: AtomicU64,
    stop: AtomicBool,
}

impl AtWork {
    /// Waits until both have finished some calls and have one in flight at this moment.
    fn wait_until_busy(&self, gets: bool) {
        let busy = |now: &AtomicU64, done: &AtomicU64| {
            now.load(Ordering::SeqCst) > 0 && done.load(Ordering::SeqCst) >= CALLS_BEFORE
        };
        // Calls take fractions of a millisecond and follow each other without a pause, so this ends within milliseconds.
        while !(busy(&self.puts, &self.puts_done) && (!gets || busy(&self.gets, &self.gets_done))) {
            std::thread::yield_now();
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

fn get_until_stopped<P: Pool>(course: &Course, replay: &Replay<P>, wanted: &[u32], at_work: &AtWork) -> Fetch {
    let mut all = Fetch::default();
    while !at_work.stopped() {
        for numbers in wanted.chunks(course.call_blocks()) {
            if at_work.stopped() {
                break;
            }
            at_work.gets.fetch_add(1, Ordering::SeqCst);
            all.merge(&replay.fetch(numbers));
            at_work.gets.fetch_sub(1, Ordering::SeqCst);
            at_work.gets_done.fetch_add(1, Ordering::SeqCst);
        }
    }
    all
}

fn put_until_stopped<P: Pool>(course: &Course, pool: &P, at_work: &AtWork) {
    let mut block = vec![0; course.block_bytes];
    let ids = (STRAY_BYTES_MAX / (course.block_bytes + 8192)).max(1) as u64;
    for id in (0..ids).cycle() {
        if at_work.stopped() {
            return;
        }
        content::fill(course.seed, STRAY_SCOPE, id, &mut block);
        at_work.puts.fetch_add(1, Ordering::SeqCst);
        let key: Key = pool.key(STRAY_SCOPE, id);
        pool.put(&[(key, &block)]);
        at_work.puts.fetch_sub(1, Ordering::SeqCst);
        at_work.puts_done.fetch_add(1, Ordering::SeqCst);
    }
}
