//! Puts in company: durable ones share flushes, and blocks of one size do not keep out those of another.

use forebay_io::sim::OpKind;
use forebay_store::Event;
use forebay_types::{PutOutcome, RefusedReason};

use crate::rig::*;

fn acks(rig: &Rig) -> usize {
    rig.events.iter().filter(|e| matches!(e, Event::Put { outcome: PutOutcome::Durable, .. })).count()
}

#[test]
pub(crate) fn a_durable_put_alone_is_flushed_in_the_turn_that_finds_it_written() {
    let mut rig = Rig::new(Options { orderly: true, ..Options::default() });
    let before = rig.medium.counts().flushes;
    rig.medium.hold(OpKind::Write);
    assert!(rig.begin_put(DURABLE, key(1), 5000).1.is_ok());
    rig.turns(3);
    assert_eq!(rig.medium.counts().flushes, before, "it is not written");
    rig.medium.release();
    // Written and found so in one turn, flushed in the same.
    rig.turn();
    assert_eq!(rig.medium.counts().flushes, before + 1);
    rig.turn();
    assert_eq!(acks(&rig), 1);
}

#[test]
pub(crate) fn durable_puts_at_once_share_flushes() {
    let mut rig = Rig::new(Options { orderly: true, ..Options::default() });
    let before = rig.medium.counts().flushes;
    let puts = 64;
    for i in 0..puts {
        assert!(rig.begin_put(DURABLE, key(i), 50_000).1.is_ok());
    }
    rig.settle();
    assert_eq!(acks(&rig), puts as usize);
    let flushes = rig.medium.counts().flushes - before;
    assert!((1..=8).contains(&flushes), "{flushes} flushes for {puts} puts");
}

#[test]
pub(crate) fn large_puts_and_small_ones_let_each_other_in() {
    let mut rig = Rig::new(Options { arena: 64 << 20, len: 803 * MIB, orderly: true, ..Options::default() });
    let busy = Err(PutOutcome::Refused(RefusedReason::Busy));
    // As many of one size as the shard will take, again and again, and one of the other size that tries between: it gets in.
    for (many, one) in [(50_000, 1_000_000), (1_000_000, 50_000)] {
        rig.medium.hold(OpKind::Write);
        let mut next = 10_000 * many as u64;
        let fill = |rig: &mut Rig, next: &mut u64| {
            loop {
                let (_, put) = rig.begin_put(CACHE, key(*next), many);
                *next += 1;
                if put == busy {
                    break;
                }
                assert_eq!(put, Err(PutOutcome::Cached));
            }
        };
        fill(&mut rig, &mut next);
        let (mut tries, name) = (0, key(7_000_000 + one as u64));
        while rig.begin_put(CACHE, name, one).1 == busy {
            rig.medium.release();
            rig.turn();
            rig.medium.hold(OpKind::Write);
            // Whoever is many is quicker than who is alone.
            fill(&mut rig, &mut next);
            tries += 1;
            assert!(tries < 200, "{one} bytes never got in beside puts of {many}");
        }
        rig.medium.release();
        rig.settle();
    }
}

#[test]
pub(crate) fn of_large_puts_one_is_filled_while_the_other_is_written_and_no_third() {
    for align in [512, 4096] {
        let (segment, arena) = (64 * MIB, 128 << 20);
        let len = 3 * MIB + 17 * segment;
        let mut rig = Rig::new(Options { len, segment, arena, align, orderly: true, ..Options::default() });
        rig.medium.hold(OpKind::Write);
        for i in 0..2 {
            assert_eq!(rig.begin_put(CACHE, key(i), 16 << 20).1, Err(PutOutcome::Cached), "{i} at {align}");
        }
        assert_eq!(rig.begin_put(CACHE, key(2), 16 << 20).1, Err(PutOutcome::Refused(RefusedReason::Busy)));
        rig.medium.release();
        rig.settle();
        assert_eq!(rig.begin_put(CACHE, key(2), 16 << 20).1, Err(PutOutcome::Cached));
    }
}
