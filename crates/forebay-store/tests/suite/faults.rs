//! A drive that fails: reads that fail are misses, a failed write or flush takes the drive out for writing, and nothing hangs.

use forebay_io::sim::{Fault, OpKind, Reaches};
use forebay_store::Event;
use forebay_types::{MissReason, PutOutcome, RefusedReason};

use crate::rig::*;

#[test]
pub(crate) fn a_failed_flush_refuses_what_waited_and_all_later_puts_and_still_serves() {
    let mut rig = Rig::new(Options::default());
    assert_eq!(rig.put(DURABLE, key(1), 5000), PutOutcome::Durable);
    rig.settle();
    rig.medium.fault(Fault::next(OpKind::Flush));
    let unavailable = PutOutcome::Refused(RefusedReason::Unavailable);
    assert_eq!(rig.put(DURABLE, key(2), 5000), unavailable);
    // A client that tries again was told `exists` once, and took that for durable.
    assert_eq!(rig.put(DURABLE, key(2), 5000), unavailable, "it is not durable and not kept");
    assert_eq!(rig.get(DURABLE, key(2)), Got::Miss(MissReason::Absent));
    assert_eq!(rig.put(DURABLE, key(3), 5000), unavailable, "never retried");
    assert_eq!(rig.put(CACHE, key(3), 5000), unavailable);
    assert!(matches!(rig.get(DURABLE, key(1)), Got::Hit(1)));
    rig.store.forget(rig.now, 77, DURABLE, &[key(1)]);
    assert!(matches!(rig.until(|e| matches!(e, Event::Forgotten { .. })), Event::Forgotten { token: 77, ok: false }));
    assert!(rig.store.stats().write_failed);
    let flushes = rig.medium.counts().flushes;
    rig.store.close(rig.now);
    assert_eq!(rig.medium.counts().flushes, flushes);
    rig.medium.no_faults();
    let mut rig = rig.reopen(true);
    assert!(matches!(rig.get(DURABLE, key(1)), Got::Hit(1)), "the forget was not promised");
}

#[test]
pub(crate) fn a_failed_write_takes_its_block_along_and_a_failed_read_does_not() {
    // What failed may have reached the drive all the same. Then the next start finds it, whole, as if the process had died before the answer.
    for (reaches, again) in [(Reaches::Nothing, PutOutcome::Cached), (Reaches::All, PutOutcome::Exists)] {
        let mut rig = Rig::new(Options::default());
        rig.put(CACHE, key(1), 5000);
        rig.settle();
        rig.medium.fault(Fault::next(OpKind::Write).reaching(reaches));
        assert_eq!(rig.put(CACHE, key(2), 5000), PutOutcome::Cached);
        rig.settle();
        assert_eq!(rig.get(CACHE, key(2)), Got::Miss(MissReason::Absent));
        let mut rig = rig.reopen(false);
        rig.medium.fault(Fault::next(OpKind::Read));
        assert_eq!(rig.get(CACHE, key(1)), Got::Miss(MissReason::Unavailable));
        assert_eq!(rig.get(CACHE, key(1)), Got::Hit(1));
        assert_eq!(rig.put(CACHE, key(2), 5000), again, "a new start, a new chance: {reaches:?}");
        let version = if reaches == Reaches::All { 2 } else { 3 };
        assert_eq!(rig.get(CACHE, key(2)), Got::Hit(version));
    }
}

#[test]
fn an_unreadable_footer_costs_a_scan_and_an_unreadable_header_its_segment() {
    let mut rig = Rig::new(Options { orderly: true, ..Options::default() });
    for i in 0..10 {
        rig.put(CACHE, key(i), 5000);
        rig.put(DURABLE, key(i), 5000);
    }
    rig.settle();
    rig.store.close(0);
    let segments = 3 * MIB;
    // The cache's segment comes first.
    rig.medium.fault(Fault::bad_spot(OpKind::Read, segments + 4 * MIB - 8192..segments + 4 * MIB));
    let mut rig = rig.reopen(true);
    assert_eq!((rig.report.blocks, rig.report.sealed_open), (20, 1), "{:?}", rig.report);
    for i in 0..10 {
        assert!(matches!(rig.get(CACHE, key(i)), Got::Hit(_)));
    }
    rig.medium.fault(Fault::bad_spot(OpKind::Read, segments..segments + 4096));
    let rig = rig.reopen(true);
    assert_eq!((rig.report.blocks, rig.report.bad_headers), (10, 1), "{:?}", rig.report);
}

#[test]
fn nothing_hangs_when_the_drive_dies_under_load() {
    for seed in 1..6 {
        let mut rig = Rig::new(Options { seed, ..Options::default() });
        let ops = rig.medium.counts().ops();
        rig.medium.crash_at_op(ops + 40 * seed);
        let (mut asked, mut answered) = (0, 0);
        for i in 0..60 {
            let (_, begun) = rig.begin_put(DURABLE, key(i), 100_000);
            asked += u64::from(begun.is_ok());
            if i % 3 == 0 {
                let request = rig.request(DURABLE, key(i / 2), 0, 0);
                asked += u64::from(matches!(rig.store.get(rig.now, request), forebay_store::GetStarted::Pending));
            }
            rig.turns(3);
        }
        rig.settle();
        for event in std::mem::take(&mut rig.events) {
            answered += u64::from(matches!(event, Event::Put { .. } | Event::Got { .. }));
        }
        assert_eq!(asked, answered, "seed {seed}");
        rig.store.close(rig.now);
    }
}
