//! Scrub: damage is found before anybody asks for what it hit, at the pace that was set, and in nobody's way.

use std::collections::BTreeMap;

use forebay_format::TRAILER_HEADER_BYTES;
use forebay_io::sim::{Fault, OpKind};
use forebay_store::{Damage, Damaged, Event, Mutant};
use forebay_types::{Class, Descriptor, Entropy, Key, MissReason, NamespaceId, PutOutcome, SeededEntropy};

use crate::rig::*;

/// Of every kind: less than a page, a piece and a bit, more than one read, the largest.
const LENGTHS: [usize; 5] = [100, 5000, 70_000, 300_000, (1 << 20) - 100];
const SEGMENTS_AT: u64 = 3 * MIB;
const SEGMENT: u64 = 4 * MIB;

fn class_of(i: u64) -> (NamespaceId, Class) {
    if i.is_multiple_of(2) { (CACHE, Class::Cache) } else { (DURABLE, Class::Durable) }
}

fn length(i: u64) -> usize {
    LENGTHS[(i / 2 % 5) as usize] + i as usize
}

/// A drive with sealed segments, and nothing in DRAM.
fn sealed(blocks: u64, mutant: Option<Mutant>) -> Rig {
    let mut rig = Rig::new(Options { mutant, ..Options::default() });
    for i in 0..blocks {
        let outcome = rig.put(class_of(i).0, key(i), length(i));
        assert!(matches!(outcome, PutOutcome::Cached | PutOutcome::Durable), "{i}: {outcome:?}");
    }
    rig.settle();
    rig.store.close(rig.now);
    rig.reopen(false)
}

/// Where each put's payload begins, by version: its first bytes name it.
fn places(rig: &Rig) -> BTreeMap<u64, u64> {
    let wanted: BTreeMap<Vec<u8>, u64> =
        rig.oracle.borrow().puts.keys().map(|version| (content(*version, 32), *version)).collect();
    let mut found = BTreeMap::new();
    let mut page = [0; 32];
    for at in (SEGMENTS_AT..rig.medium.len()).step_by(4096) {
        rig.medium.peek(at, &mut page);
        if let Some(version) = wanted.get(&page[..]) {
            found.insert(*version, at);
        }
    }
    found
}

/// Turns until so many passes are over, and what they found.
fn scrub(rig: &mut Rig, passes: u64) -> Vec<Damage> {
    let mut found = Vec::new();
    for _ in 0..200_000 {
        rig.turn();
        for event in std::mem::take(&mut rig.events) {
            match event {
                Event::Damage(damage) => found.push(damage),
                other => panic!("{other:?}"),
            }
        }
        if rig.store.stats().scrub_passes >= passes {
            return found;
        }
    }
    panic!("{passes} passes never ended: {:?}", rig.store.stats());
}

#[test]
fn every_flip_is_found_before_a_get_asks_and_nothing_else_is() {
    let mut rig = sealed(60, None);
    let (places, random) = (places(&rig), SeededEntropy::new(3));
    assert_eq!(places.len(), 60);
    let mut flipped = BTreeMap::new();
    for i in (0..60).filter(|i| i % 3 != 0) {
        let (at, length) = (places[&(i + 1)], length(i) as u64);
        // Payload, trailer's head, descriptor with its sums: in turn.
        let trailer = at + length.next_multiple_of(4096);
        let byte = match i % 3 {
            1 => at + random.word() % length,
            _ if i % 2 == 0 => trailer + random.word() % TRAILER_HEADER_BYTES as u64,
            _ => trailer + TRAILER_HEADER_BYTES as u64 + random.word() % Descriptor::encoded_len(length, 0) as u64,
        };
        rig.medium.flip(byte * 8 + random.word() % 8);
        flipped.insert(key(i), (i, at));
    }
    rig.store.scrub_every(rig.now, 500);
    let found = scrub(&mut rig, 1);
    assert_eq!(found.len(), flipped.len(), "each once, and nothing else");
    for damage in found {
        let Damaged::Block { namespace, key, class } = damage.what else { panic!("{damage:?}") };
        let (i, at) = flipped[&key];
        assert_eq!((namespace, class), class_of(i));
        assert_eq!((damage.offset, damage.was_read), (at, true), "it says where");
        assert_eq!(u64::from(damage.segment), (at - SEGMENTS_AT) / SEGMENT);
    }
    let stats = rig.store.stats();
    let durable = flipped.values().filter(|(i, _)| i % 2 == 1).count() as u64;
    assert_eq!((stats.scrub_damaged_durable, stats.scrub_damaged_cache), (durable, 40 - durable));
    assert_eq!((stats.corrupt, stats.scrub_damaged_segments), (0, 0), "counted apart");
    assert!(stats.segments_damaged > 1 && stats.scrub_bytes > 8 * MIB, "{stats:?}");
    rig.oracle.borrow_mut().durable.clear();
    for i in 0..60 {
        let got = rig.get(class_of(i).0, key(i));
        let expected = if i % 3 == 0 { Got::Hit(i + 1) } else { Got::Miss(MissReason::Absent) };
        assert_eq!(got, expected, "{i}");
    }
    // Another put takes the place of what was lost; a second pass finds nothing new.
    for i in (0..60).filter(|i| i % 3 != 0) {
        assert!(matches!(rig.put(class_of(i).0, key(i), length(i)), PutOutcome::Cached | PutOutcome::Durable));
    }
    rig.settle();
    assert_eq!(scrub(&mut rig, 3), []);
}

/// What a pass over a drive with one flipped bit finds.
fn flips_found(mutant: Option<Mutant>) -> usize {
    let mut rig = sealed(20, mutant);
    let places = places(&rig);
    for i in 0..20 {
        rig.medium.flip(places[&(i + 1)] * 8 + 77);
    }
    rig.store.scrub_every(rig.now, 500);
    scrub(&mut rig, 1).len()
}

#[test]
fn a_scrub_that_does_not_check_is_found() {
    assert_eq!(flips_found(None), 20);
    assert_eq!(flips_found(Some(Mutant::ScrubChecksNothing)), 0, "and so the test above would fail");
}

/// The drive holds back a read of scrub, while all that is in its segment is forgotten and the drive is gone round. Whether the segment was written anew.
fn rewritten_under_scrub(mutant: Option<Mutant>) -> bool {
    let mut rig = Rig::new(Options { mutant, len: 72 * MIB, ..Options::default() });
    let old: Vec<Key> = (0..4).map(key).collect();
    for key in &old {
        assert_eq!(rig.put(CACHE, *key, 900_000), PutOutcome::Cached);
    }
    rig.settle();
    rig.store.close(rig.now);
    let mut rig = rig.reopen(false);
    let at = places(&rig)[&1];
    let mut before = [0; 4096];
    rig.medium.peek(at, &mut before);
    rig.store.scrub_every(rig.now, 2000);
    // Past the header and the footer: a record is being read when nothing comes back any more.
    while rig.store.stats().scrub_bytes < 200_000 {
        rig.turn();
    }
    rig.medium.hold(OpKind::Read);
    rig.turns(500);
    assert_eq!(rig.medium.in_flight(), 1);
    rig.forget(CACHE, &old);
    for i in 100..300 {
        assert_eq!(rig.put(CACHE, key(i), 900_000), PutOutcome::Cached);
        rig.forget(CACHE, &[key(i)]);
        rig.turns(20);
    }
    assert!(rig.store.stats().segments_freed > 16, "the drive was gone round: {:?}", rig.store.stats());
    let mut after = [0; 4096];
    rig.medium.peek(at, &mut after);
    rig.medium.release();
    rig.settle();
    assert_eq!(rig.store.stats().segments_damaged, 0);
    before != after
}

#[test]
fn a_segment_that_scrub_reads_is_not_written_anew() {
    assert!(!rewritten_under_scrub(None));
    assert!(rewritten_under_scrub(Some(Mutant::ScrubHoldsNothing)), "without the hold it is");
}

#[test]
fn the_pace_is_held_and_a_pass_takes_its_period_however_full_the_drive_is() {
    for blocks in [0, 60] {
        let mut rig = sealed(blocks, None);
        let (before, begun) = (rig.medium.counts().read_bytes, rig.now);
        let period_ms = 20_000;
        rig.store.scrub_every(rig.now, period_ms);
        let drive = 19 * SEGMENT;
        while rig.store.stats().scrub_passes == 0 {
            rig.turn();
            let read = rig.medium.counts().read_bytes - before;
            let passed_ms = rig.now - begun;
            assert!(read <= drive * passed_ms / period_ms + (256 << 10), "{read} bytes in {passed_ms} ms");
        }
        let stats = rig.store.stats();
        let took = rig.now - begun;
        assert!((period_ms * 98 / 100..period_ms * 102 / 100).contains(&took), "{took} ms");
        assert!(took.abs_diff(stats.scrub_pass_ms) < 500, "{stats:?}");
        assert_eq!(stats.scrub_bytes > 8 * MIB, blocks > 0, "{stats:?}");
        // A stop of an hour is not made up for.
        rig.now += 3_600_000;
        let before = rig.medium.counts().read_bytes;
        rig.turns(100);
        assert!(rig.medium.counts().read_bytes - before <= drive * 350 / period_ms + (256 << 10));
    }
}

#[test]
fn off_means_off_and_a_start_goes_on_where_the_clock_says() {
    let mut rig = sealed(60, None);
    let before = rig.medium.counts().reads;
    rig.turns(5000);
    rig.store.scrub_every(rig.now, 0);
    rig.turns(5000);
    assert_eq!((rig.medium.counts().reads, rig.store.stats().scrub_bytes), (before, 0));
    // A node that never runs for longer than a quarter of the period: what is damaged anywhere is found all the same.
    let places = places(&rig);
    (0..60).filter(|i| i % 7 == 0).for_each(|i| rig.medium.flip(places[&(i + 1)] * 8 + 9));
    rig.oracle.borrow_mut().durable.clear();
    let mut found = 0;
    for start in 0..9 {
        // Starts that come late and stops that come early: the shares of the period overlap by a little.
        rig.utc = UTC - UTC % 100 + start * 24 % 100;
        rig = rig.reopen(false);
        rig.store.set_utc(rig.now, rig.utc);
        rig.store.scrub_every(rig.now, 100_000);
        rig.turns(27_000);
        found += rig.events.drain(..).filter(|event| matches!(event, Event::Damage(_))).count();
        assert_eq!(rig.store.stats().scrub_passes, 0);
    }
    assert!(found >= 9, "{found} of 9");
}

#[test]
fn what_cannot_be_read_is_told_and_only_the_cache_lets_go_of_it() {
    let mut rig = sealed(40, None);
    let places = places(&rig);
    let bad: Vec<u64> = vec![4, 5, 16, 17, 28, 29];
    for i in &bad {
        let at = places[&(i + 1)];
        rig.medium.fault(Fault::bad_spot(OpKind::Read, at..at + 512));
    }
    // And one that fails once and never again: nothing to tell.
    let at = places[&9];
    rig.medium.fault(Fault { range: Some(at..at + 512), ..Fault::next(OpKind::Read) });
    rig.store.scrub_every(rig.now, 500);
    let found = scrub(&mut rig, 1);
    let mut told: Vec<Key> = found
        .iter()
        .map(|damage| match damage.what {
            Damaged::Block { key, .. } if !damage.was_read => key,
            _ => panic!("{damage:?}"),
        })
        .collect();
    told.sort_unstable();
    let mut expected: Vec<Key> = bad.iter().map(|i| key(*i)).collect();
    expected.sort_unstable();
    assert_eq!(told, expected);
    for i in &bad {
        let (ns, class) = class_of(*i);
        let here = rig.store.presence(rig.now, ns, &key(*i)).is_ok();
        assert_eq!(here, class == Class::Durable, "{i}: a durable block may be readable another day");
    }
    // It is.
    rig.medium.no_faults();
    for i in (0..40).filter(|i| i % 2 == 1 || !bad.contains(i)) {
        assert_eq!(rig.get(class_of(i).0, key(i)), Got::Hit(i + 1));
    }
    assert_eq!(rig.put(CACHE, key(4), 1000), PutOutcome::Cached, "and the cache takes it anew");
}

#[test]
fn durable_blocks_under_a_damaged_header_are_moved_before_a_start_would_lose_them() {
    for scrubbed in [true, false] {
        let mut rig = sealed(60, None);
        let durable = places(&rig)[&2];
        let header = SEGMENTS_AT + (durable - SEGMENTS_AT) / SEGMENT * SEGMENT;
        rig.medium.flip(header * 8 + 100);
        if scrubbed {
            rig.store.scrub_every(rig.now, 500);
            let found = scrub(&mut rig, 1);
            let headers: Vec<u64> =
                found.iter().filter(|d| d.what == Damaged::Header && d.was_read).map(|d| d.offset).collect();
            assert_eq!((found.len(), headers), (1, vec![header]));
            rig.store.scrub_every(rig.now, 0);
            rig.settle();
            let stats = rig.store.stats();
            assert!(stats.reappend_bytes > 0 && stats.segments_freed > 0, "{stats:?}");
            assert_eq!((stats.scrub_damaged_segments, stats.segments_damaged), (1, 0), "it is written anew some day");
        }
        let mut rig = rig.reopen(true);
        let lost = (0..60).filter(|i| i % 2 == 1 && rig.store.presence(rig.now, DURABLE, &key(*i)).is_err()).count();
        assert_eq!(lost > 0, !scrubbed, "{lost} lost");
        if scrubbed {
            (0..60).filter(|i| i % 2 == 1).for_each(|i| assert_eq!(rig.get(DURABLE, key(i)), Got::Hit(i + 1)));
        }
    }
}

#[test]
fn a_damaged_footer_is_told_and_hides_no_damage_behind_it() {
    let mut rig = sealed(60, None);
    let at = places(&rig)[&5];
    let end = SEGMENTS_AT + (at - SEGMENTS_AT) / SEGMENT * SEGMENT + SEGMENT;
    rig.medium.flip((end - 4096) * 8 + 66);
    rig.medium.flip(at * 8 + 3);
    rig.store.scrub_every(rig.now, 500);
    let found = scrub(&mut rig, 1);
    assert_eq!(found.iter().filter(|d| d.what == Damaged::Footer).count(), 1);
    let block = Damaged::Block { namespace: CACHE, key: key(4), class: Class::Cache };
    assert_eq!(found.iter().filter(|d| d.what == block).count(), 1);
    assert_eq!(found.len(), 2);
}

#[test]
fn beside_puts_eviction_forgetting_and_crashes_it_takes_nothing_good_for_bad() {
    let mut rig = Rig::new(Options { len: 3 * MIB + 20 * SEGMENT, ..Options::default() });
    let random = SeededEntropy::new(11);
    let (mut passes, mut moved) = (0, 0);
    for round in 0..8u64 {
        rig.store.scrub_every(rig.now, 400);
        for step in 0..200 {
            let word = random.word();
            let i = word % 400;
            match word >> 32 & 7 {
                0..=3 => drop(rig.begin_put(CACHE, key(1000 + word % 100_000), 1 + (word >> 40) as usize % 300_000)),
                4 => drop(rig.put(DURABLE, key(i % 60), 1 + (word >> 40) as usize % 400_000)),
                5 => drop(rig.forget(DURABLE, &[key(i % 60)])),
                6 => drop(rig.get(CACHE, key(1000 + i))),
                _ => rig.turns(30),
            }
            rig.turns(1 + step % 3);
        }
        let stats = rig.store.stats();
        passes += stats.scrub_passes;
        moved += stats.reappend_bytes;
        assert_eq!(stats.scrub_damaged_cache + stats.scrub_damaged_durable + stats.scrub_damaged_segments, 0);
        assert_eq!(stats.corrupt, 0);
        for i in 0..60 {
            rig.get(DURABLE, key(i));
        }
        rig = rig.reopen(round % 2 == 0);
    }
    assert!(passes > 6 && moved > 0, "{passes} passes, {moved} bytes moved");
}

#[test]
fn it_takes_no_room_from_gets_and_ends_with_the_shard() {
    let mut rig = sealed(60, None);
    let used = |rig: &Rig| {
        let stats = rig.store.stats();
        stats.arena_bytes - stats.arena_free_bytes - stats.dram_bytes
    };
    // What the shard holds anyway: buffers for gathered writes.
    let before = used(&rig);
    rig.store.scrub_every(rig.now, 300);
    rig.turns(100);
    let more = used(&rig).saturating_sub(before);
    assert!(more <= 1 << 20, "{more} bytes");
    rig.medium.hold(OpKind::Read);
    rig.turns(50);
    rig.medium.release();
    rig.store.close(rig.now);
    assert_eq!(rig.medium.in_flight(), 0);
    let mut rig = rig.reopen(true);
    assert!((0..60).all(|i| matches!(rig.get(class_of(i).0, key(i)), Got::Hit(_))));
}
