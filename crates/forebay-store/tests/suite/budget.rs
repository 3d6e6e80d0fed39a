//! The write budget: over days the drive is written no more than it may be, what is likely to be used again comes first, durable blocks always come, and a
//! restart wins nothing.

use forebay_store::Mutant;
use forebay_types::{Entropy, PutOutcome, RefusedReason, Reuse, SeededEntropy};

use crate::rig::*;

const DAY_S: u64 = 86_400;
/// A day's worth: most of one lap of the drive.
const DAY_BYTES: u64 = 64 * MIB;
const LENGTH: usize = 100_000;
/// What cleaning and tables may still write when nothing is admitted any more.
const SLACK: u64 = 4 * MIB;

fn limited(mutant: Option<Mutant>) -> Rig {
    let mut rig = Rig::new(Options { mutant, len: 3 * MIB + 18 * 4 * MIB, ..Options::default() });
    rig.store.limit_writes(rig.now, DAY_BYTES);
    rig.settle();
    rig
}

fn pass(rig: &mut Rig, seconds: u64) {
    rig.now += seconds * 1000;
    rig.utc += seconds;
    rig.store.set_utc(rig.now, rig.utc);
    rig.turns(2);
}

/// What became of a few days of sessions that come back, among four times as many that do not.
#[derive(Debug, Default)]
struct Days {
    asked: u64,
    hits: u64,
    puts: u64,
    kept: u64,
    written: u64,
    over: Option<String>,
}

/// `admit`: the share of puts that are made at all, for a store without a budget.
fn days(mut rig: Rig, admit: f64, restarts: bool) -> Days {
    let (random, mut all) = (SeededEntropy::new(5), Days::default());
    let begun = rig.medium.counts().written_bytes;
    let mut before = rig.store.stats();
    let mut refused = 0;
    for step in 0..4500u64 {
        pass(&mut rig, 40);
        let seconds = (step + 1) * 40;
        // Three hundred blocks are in use at a time, and every fourth minute one of them is another.
        let word = random.word();
        let number = match word % 5 < 2 {
            true => 1_000_000 + seconds / 240 + (word >> 8) % 300,
            false => 9_000_000 + step,
        };
        all.asked += 1;
        if matches!(rig.get(CACHE, key(number)), Got::Hit(_)) {
            all.hits += 1;
        } else if (random.word() % 1000) as f64 / 1000.0 < admit {
            all.puts += 1;
            match rig.put(CACHE, key(number), LENGTH) {
                PutOutcome::Cached => all.kept += 1,
                PutOutcome::Refused(RefusedReason::Admission) => refused += 1,
                other => panic!("{other:?}"),
            }
        }
        if step % 300 == 0 {
            all.puts += 1;
            assert_eq!(rig.put(DURABLE, key(step), LENGTH), PutOutcome::Durable, "never refused for wear");
            all.kept += 1;
        }
        all.written = rig.medium.counts().written_bytes - begun;
        let most = DAY_BYTES + (u128::from(DAY_BYTES) * u128::from(seconds) / u128::from(DAY_S)) as u64 + SLACK;
        if all.written > most && all.over.is_none() {
            all.over = Some(format!("{} bytes in {seconds} s, where {most} are the most", all.written));
        }
        if restarts && step % 45 == 44 {
            let now = rig.store.stats();
            let grown = |of: fn(&forebay_store::StoreStats) -> u64| of(&now) - of(&before);
            assert_eq!(grown(|s| s.refused_admission), refused, "what is refused is counted");
            refused = 0;
            rig = rig.reopen(step % 2 == 0);
            rig.store.limit_writes(rig.now, DAY_BYTES);
            before = rig.store.stats();
        }
    }
    let stats = rig.store.stats();
    if !restarts {
        assert_eq!((stats.puts, stats.puts_refused, stats.refused_admission), (all.kept, refused, refused));
        assert_eq!(all.puts, stats.puts + stats.puts_exists + stats.puts_refused, "they add up");
    }
    all
}

#[test]
fn over_days_the_budget_is_kept_and_what_comes_back_is_kept_before_what_does_not() {
    let chosen = days(limited(None), 1.0, false);
    assert_eq!(chosen.over, None);
    assert!(chosen.written > 2 * DAY_BYTES, "and it is used: {chosen:?}");
    // As many puts, and as many bytes, without asking which.
    let share = chosen.kept as f64 / chosen.puts as f64;
    let unlimited = Rig::new(Options { len: 3 * MIB + 18 * 4 * MIB, ..Options::default() });
    let random = days(unlimited, share, false);
    println!("chosen {chosen:?}\nat random {random:?}");
    assert!(random.written * 10 > chosen.written * 9, "no fewer bytes: {random:?} {chosen:?}");
    assert!(chosen.hits * 10 > random.hits * 11, "more than a tenth more hits: {chosen:?} {random:?}");
}

#[test]
fn a_restart_every_half_an_hour_wins_no_budget() {
    assert_eq!(days(limited(None), 1.0, true).over, None);
}

#[test]
fn a_budget_that_is_ignored_is_found() {
    let over = days(limited(Some(Mutant::BudgetIgnored)), 1.0, false).over;
    println!("{over:?}");
    assert!(over.is_some());
}

/// Spends the budget with puts that nobody speaks for, until they are refused.
fn spent(rig: &mut Rig) {
    for i in 0..2000 {
        match rig.put(CACHE, key(500_000 + i), LENGTH) {
            PutOutcome::Cached => {}
            outcome => return assert_eq!(outcome, PutOutcome::Refused(RefusedReason::Admission)),
        }
    }
    panic!("never refused");
}

#[test]
fn who_is_likely_to_come_back_is_admitted_when_others_are_not() {
    let mut rig = limited(None);
    spent(&mut rig);
    let left = rig.store.stats().write_budget_bytes;
    assert!((DAY_BYTES / 4 - MIB..DAY_BYTES / 4 + MIB).contains(&left), "a quarter is kept: {left}");
    let refused = PutOutcome::Refused(RefusedReason::Admission);
    assert_eq!(rig.put(CACHE, key(1), LENGTH), refused);
    assert_eq!(rig.put(CACHE, key(1), LENGTH), PutOutcome::Cached, "it was wanted twice");
    for (i, hint) in [(2, Reuse::Tool), (3, Reuse::Turn), (4, Reuse::Seconds(600))] {
        rig.hint = hint;
        assert_eq!(rig.put(CACHE, key(i), LENGTH), PutOutcome::Cached, "{hint:?}");
    }
    for (i, hint) in [(5, Reuse::Done), (6, Reuse::Unknown), (7, Reuse::Seconds(1_000_000))] {
        rig.hint = hint;
        assert_eq!(rig.put(CACHE, key(i), LENGTH), refused, "{hint:?}");
    }
    rig.hint = Reuse::Unknown;
    // Behind a block that is here, and behind one that is not.
    rig.parent = Some(key(2));
    assert_eq!(rig.put(CACHE, key(8), LENGTH), PutOutcome::Cached);
    rig.parent = Some(key(5));
    for _ in 0..3 {
        assert_eq!(rig.put(CACHE, key(9), LENGTH), refused, "however often it is wanted: nobody can use it");
    }
    rig.parent = None;
    // Somebody used it in his own memory: it is not here, and it is wanted.
    let batch = rig.store.begin_batch(1);
    assert!(rig.store.touch(rig.now, CACHE, &key(10), batch, 0).is_err());
    assert_eq!(rig.put(CACHE, key(10), LENGTH), PutOutcome::Cached);
    // Durable ones come past the end, and are counted; then nothing of the cache does, until the debt is paid.
    for i in 0..300 {
        assert_eq!(rig.put(DURABLE, key(i), LENGTH), PutOutcome::Durable);
    }
    let stats = rig.store.stats();
    assert!(stats.durable_over_budget > 50 && stats.write_debt_bytes > 8 * MIB, "{stats:?}");
    rig.hint = Reuse::Tool;
    assert_eq!(rig.put(CACHE, key(11), LENGTH), refused);
    pass(&mut rig, DAY_S);
    assert_eq!(rig.put(CACHE, key(11), LENGTH), PutOutcome::Cached);
    assert_eq!(rig.store.stats().write_debt_bytes, 0);
}
