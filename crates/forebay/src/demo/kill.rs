//! The kill: SIGKILL while puts and gets are in flight, and what is still there afterwards.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

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
    /// What was in flight, for people.
    pub(crate) fn in_flight_words(&self) -> String {
        let calls = |n: u64, verb: &str| format!("{n} {verb}{}", if n == 1 { "" } else { "s" });
        format!("{} and {} in flight", calls(self.in_flight.0, "get"), calls(self.in_flight.1, "put"))
    }

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

/// Kills the node while blocks of request `index` are being fetched and others are being put, both through `hasty`; starts it again, and asks for
/// everything that was acknowledged more than a second before.
pub(crate) fn kill_and_restart<P: Pool>(
    course: &Course,
    replay: &Replay<P>,
    hasty: &P,
    index: usize,
    killer: &mut impl Killer,
) -> Result<Kill, DemoError> {
    let mut kill = Kill::default();
    let at_work = AtWork::default();
    let wanted = replay.acked_of(index);
    let mut killed_ms = 0;
    std::thread::scope(|scope| {
        let gets =
            (!wanted.is_empty()).then(|| scope.spawn(|| get_until_stopped(course, replay, hasty, &wanted, &at_work)));
        scope.spawn(|| put_until_stopped(course, hasty, &at_work));
        kill.in_flight = at_work.wait_until_busy(!wanted.is_empty());
        killed_ms = course.clock.now_ms();
        let killed = killer.kill();
        at_work.stop.store(true, Ordering::SeqCst);
        if let Some(Ok(fetch)) = gets.map(|gets| gets.join()) {
            kill.fetched.merge(&fetch.fetched);
        }
        killed
    })?;
    killer.restart()?;
    let old = replay.acked_before(killed_ms, AGE_MS);
    kill.asked = old.len() as u64;
    // The client connects again by itself; until it has, the answer is a miss.
    while !old.is_empty() && !any_is_back(replay, &old) && course.clock.now_ms() - killed_ms < BACK_WITHIN_MS {}
    kill.recovery = Duration::from_millis(course.clock.now_ms() - killed_ms);
    let fetch = replay.fetch(&old);
    kill.survived = fetch.right;
    kill.fetched.merge(&fetch.fetched);
    Ok(kill)
}

/// Whether one of a sample is there, with every byte right: a single key may be one that was lost.
fn any_is_back<P: Pool>(replay: &Replay<P>, old: &[u32]) -> bool {
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
    /// Waits until both have finished some calls and have one in flight at this moment; says how many of each. Calls take fractions of a
    /// millisecond and follow each other without a pause, so this ends within milliseconds.
    fn wait_until_busy(&self, gets: bool) -> (u64, u64) {
        let busy = |now: &AtomicU64, done: &AtomicU64| {
            if done.load(Ordering::SeqCst) < CALLS_BEFORE { 0 } else { now.load(Ordering::SeqCst) }
        };
        loop {
            let found = (busy(&self.gets, &self.gets_done), busy(&self.puts, &self.puts_done));
            if found.1 > 0 && (!gets || found.0 > 0) {
                return found;
            }
            std::thread::yield_now();
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

fn get_until_stopped<P: Pool>(
    course: &Course,
    replay: &Replay<P>,
    hasty: &P,
    wanted: &[u32],
    at_work: &AtWork,
) -> Fetch {
    let mut all = Fetch::default();
    while !at_work.stopped() {
        for numbers in wanted.chunks(course.call_blocks()) {
            if at_work.stopped() {
                break;
            }
            at_work.gets.fetch_add(1, Ordering::SeqCst);
            all.merge(&replay.fetch_from(hasty, numbers));
            at_work.gets.fetch_sub(1, Ordering::SeqCst);
            at_work.gets_done.fetch_add(1, Ordering::SeqCst);
        }
    }
    all
}

fn put_until_stopped<P: Pool>(course: &Course, hasty: &P, at_work: &AtWork) {
    let mut block = vec![0; course.block_bytes];
    let ids = (STRAY_BYTES_MAX / (course.block_bytes + 8192)).max(1) as u64;
    for id in (0..ids).cycle() {
        if at_work.stopped() {
            return;
        }
        content::fill(course.seed, STRAY_SCOPE, id, &mut block);
        at_work.puts.fetch_add(1, Ordering::SeqCst);
        hasty.put(&[(hasty.key(STRAY_SCOPE, id), &block)]);
        at_work.puts.fetch_sub(1, Ordering::SeqCst);
        at_work.puts_done.fetch_add(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use forebay_types::Clock;

    use super::super::bucket::{Bucket, with_course};
    use super::*;

    /// A clock on which every look takes five milliseconds, so that blocks grow old in no time.
    #[derive(Default)]
    struct Slow(AtomicU64);

    impl Clock for Slow {
        fn now_us(&self) -> u64 {
            self.0.fetch_add(5000, Ordering::SeqCst)
        }
        fn utc_s(&self) -> u64 {
            0
        }
    }

    struct Hand<'a> {
        bucket: &'a Bucket,
        lose_every: Option<usize>,
        kills: u32,
    }

    impl Killer for Hand<'_> {
        fn kill(&mut self) -> Result<(), DemoError> {
            self.bucket.gone.store(true, Ordering::SeqCst);
            self.kills += 1;
            Ok(())
        }
        fn restart(&mut self) -> Result<(), DemoError> {
            if let Some(n) = self.lose_every {
                self.bucket.lose_every(n);
            }
            self.bucket.gone.store(false, Ordering::SeqCst);
            Ok(())
        }
    }

    fn killed(lose_every: Option<usize>, spoil: bool) -> Kill {
        let mut done = Kill::default();
        with_course(&Slow::default(), |course| {
            let bucket = Bucket { spoil, ..Bucket::default() };
            let mut replay = Replay::new(course, &bucket);
            (0..course.mark).for_each(|index| replay.play(index));
            let mut hand = Hand { bucket: &bucket, lose_every, kills: 0 };
            done = kill_and_restart(course, &replay, &bucket, course.mark, &mut hand).unwrap();
            assert_eq!(hand.kills, 1);
            assert!(done.asked > 0 && done.asked < replay.acked_before(u64::MAX, 0).len() as u64 + 1);
        });
        assert!(done.in_flight.0 > 0 && done.in_flight.1 > 0, "{:?}", done.in_flight);
        done
    }

    #[test]
    fn a_pool_that_keeps_everything_survives_whole() {
        let kill = killed(None, false);
        assert_eq!((kill.share(), kill.fetched.wrong_bytes), (Some(1.0), 0));
        assert!(kill.recovery > Duration::ZERO);
    }

    #[test]
    fn what_is_merely_absent_counts_as_lost() {
        let kill = killed(Some(10), false);
        let share = kill.share().unwrap();
        assert!((0.88..0.92).contains(&share), "{share}");
    }

    #[test]
    fn what_comes_back_wrong_has_not_survived() {
        let kill = killed(None, true);
        assert_eq!(kill.survived, 0);
        assert!(kill.fetched.wrong_bytes >= kill.asked);
    }
}
