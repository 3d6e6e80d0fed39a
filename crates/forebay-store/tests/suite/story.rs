//! A shard's ordinary days: puts, gets, ranges, restarts.

use crate::rig::*;
use forebay_io::{PeerRegion, Region};
use forebay_store::{GetResult, GetStarted};
use forebay_types::limits::PIECE_BYTES;
use forebay_types::{Class, Descriptor, MissReason, PutOutcome, RefusedReason, Tier};

#[test]
pub(crate) fn a_block_is_served_from_dram_then_after_a_kill_from_the_drive_then_from_dram_again() {
    let mut rig = Rig::new(Options::default());
    assert_eq!(rig.put(CACHE, key(1), 100_000), PutOutcome::Cached);
    assert_eq!(rig.put(DURABLE, key(1), 5000), PutOutcome::Durable);
    assert_eq!(rig.put(CACHE, key(1), 50), PutOutcome::Exists);
    assert_eq!(rig.put(DURABLE, key(1), 50), PutOutcome::Exists);
    assert_eq!(rig.get(CACHE, key(1)), Got::Hit(1));
    assert_eq!(rig.get(CACHE, key(2)), Got::Miss(MissReason::Absent));
    rig.settle();
    assert_eq!(rig.store.stats().hits_dram, 1);

    let mut rig = rig.reopen(false);
    assert_eq!((rig.report.blocks, rig.report.sealed_open, rig.report.bad_records), (2, 2, 0), "{:?}", rig.report);
    assert_eq!(rig.store.presence(0, CACHE, &key(1)), Ok(Tier::Nvme));
    assert_eq!(rig.get(CACHE, key(1)), Got::Hit(1));
    assert_eq!(rig.store.presence(0, CACHE, &key(1)), Ok(Tier::Nvme), "once is chance");
    assert_eq!(rig.get(CACHE, key(1)), Got::Hit(1));
    rig.settle();
    assert_eq!(rig.store.presence(0, CACHE, &key(1)), Ok(Tier::Dram), "twice is use");
    assert_eq!(rig.get(DURABLE, key(1)), Got::Hit(2));

    // A second start finds everything in footers.
    rig.store.close(0);
    let mut rig = rig.reopen(true);
    assert_eq!((rig.report.blocks, rig.report.sealed_open), (2, 0), "{:?}", rig.report);
    assert_eq!(rig.get(CACHE, key(1)), Got::Hit(1));
}

#[test]
pub(crate) fn blocks_of_every_size_come_back_whole_and_in_ranges() {
    for align in [512, 4096] {
        let mut rig = Rig::new(Options { align, ..Options::default() });
        let max = rig.store.block_bytes_max() as usize;
        assert_eq!(max, 1 << 20);
        let piece = PIECE_BYTES;
        let sizes = [1, 511, 512, 513, 4095, 4096, 4097, piece - 1, piece, piece + 1, 5 * piece + 17, max];
        for (i, size) in sizes.into_iter().enumerate() {
            assert_eq!(rig.put(CACHE, key(i as u64), size), PutOutcome::Cached);
        }
        assert_eq!(rig.put(CACHE, key(99), max + 1), PutOutcome::Refused(RefusedReason::TooLarge));
        for from_drive in [false, true] {
            if from_drive {
                rig.settle();
                rig = rig.reopen(false);
            }
            for (i, size) in sizes.into_iter().enumerate() {
                let whole = rig.get(CACHE, key(i as u64));
                assert!(matches!(whole, Got::Hit(_)), "{size}: {whole:?}");
                for (offset, length) in
                    [(0, 1), (size as u64 / 2, 1), (piece as u64, 2 * piece as u64), (size as u64 - 1, 0)]
                {
                    let request = rig.request(CACHE, key(i as u64), offset, length);
                    let Ok(GetResult::Found(found)) = rig.ask(request) else { panic!("{size} {offset}") };
                    assert!(
                        matches!(rig.verify(CACHE, key(i as u64), &found), Got::Hit(_)),
                        "{size} {offset}+{length}"
                    );
                    assert!(found.offset <= offset.min(size as u64));
                    let end = found.offset + found.payload().len() as u64;
                    assert!(
                        end >= (offset + length.max(1)).min(size as u64) || offset >= size as u64,
                        "{size} {offset}+{length}"
                    );
                    assert!(
                        size <= 4 * piece || length == 0 || found.payload().len() <= 3 * piece,
                        "only what was asked"
                    );
                }
            }
        }
        rig.settle();
        assert_eq!(rig.store.stats().corrupt, 0);
    }
}

#[test]
fn a_whole_block_lands_in_a_clients_memory_with_its_sums_behind_it() {
    let mut rig = Rig::new(Options::default());
    rig.put(CACHE, key(1), 200_000);
    rig.settle();
    let mut rig = rig.reopen(false);
    let region = Region::owned(4 << 20).unwrap();
    let peer = PeerRegion::import(region.fd().try_clone_to_owned().unwrap(), 4 << 20).unwrap();
    for (room, lands) in [(Descriptor::landing_room(200_000) + 200_000, true), (200_000, false)] {
        let mut request = rig.request(CACHE, key(1), 0, 0);
        request.into = Some(peer.landing(8192, room as u64 / 4096 * 4096 + if lands { 4096 } else { 0 }).unwrap());
        match rig.ask(request).unwrap() {
            GetResult::Landed { landing, length, trailer_offset } => {
                assert!(lands);
                let mut bytes = vec![0; landing.len()];
                landing.read_at(0, &mut bytes).unwrap();
                let encoded = Descriptor::encoded_len(length, 0);
                let descriptor = Descriptor::decode(&bytes[trailer_offset as usize..][..encoded]).unwrap();
                assert!(descriptor.verify(&bytes[..length as usize]));
                assert_eq!(bytes[..length as usize], content(1, 200_000));
            }
            GetResult::Found(found) => {
                assert!(!lands);
                assert_eq!(rig.verify(CACHE, key(1), &found), Got::Hit(1));
            }
            other => panic!("{other:?}"),
        }
    }
    let mut request = rig.request(CACHE, key(1), 0, 0);
    request.room = 1000;
    assert!(matches!(rig.store.get(0, request), GetStarted::TooSmall { need: 200_000 }));
}

#[test]
pub(crate) fn a_slot_that_is_dropped_leaves_nothing_and_the_first_put_wins() {
    let mut rig = Rig::new(Options::default());
    let bytes = content(1, 3000);
    let encoded = describe(CACHE, key(1), 1, &bytes);
    let batch = rig.store.begin_batch(1);
    let free = rig.store.stats().arena_free_bytes;
    let forebay_store::Reserve::Slot(slot) = rig.store.reserve(0, &encoded, batch, 0) else { panic!() };
    assert!(matches!(rig.store.reserve(0, &encoded, batch, 0), forebay_store::Reserve::Exists), "one is on its way");
    drop(slot);
    assert_eq!(rig.store.stats().arena_free_bytes, free);
    assert_eq!(rig.put(CACHE, key(1), 3000), PutOutcome::Cached);

    // Of two durable puts of one key both wait for the first to be durable.
    let (first, a) = rig.begin_put(DURABLE, key(1), 3000);
    let (second, b) = rig.begin_put(DURABLE, key(1), 3000);
    assert!(a.is_ok() && b.is_ok());
    let outcome = |rig: &mut Rig, token| match rig
        .until(|e| matches!(e, forebay_store::Event::Put { token: t, .. } if *t == token))
    {
        forebay_store::Event::Put { outcome, .. } => outcome,
        _ => unreachable!(),
    };
    assert_eq!(outcome(&mut rig, second), PutOutcome::Exists);
    assert_eq!(outcome(&mut rig, first), PutOutcome::Durable);
}

#[test]
pub(crate) fn a_forgotten_block_stays_forgotten_and_a_removed_namespace_takes_its_blocks_along() {
    let other = forebay_types::NamespaceId(7);
    let mut options = Options::default();
    options.namespaces.push(namespace(other, Class::Durable, None));
    let mut rig = Rig::new(options);
    for i in 0..20 {
        rig.put(CACHE, key(i), 10_000);
        rig.put(DURABLE, key(i), 10_000);
        rig.put(other, key(i), 10_000);
    }
    assert_eq!(rig.forget(DURABLE, &[key(3), key(100)]), [true, false]);
    assert_eq!(rig.forget(CACHE, &[key(4)]), [true]);
    rig.store.remove_namespace(5, other);
    assert_eq!(rig.store.presence(0, other, &key(1)), Err(MissReason::Namespace));
    rig.until(|e| matches!(e, forebay_store::Event::NamespaceSaved { token: 5, ok: true }));
    rig.oracle.borrow_mut().durable.retain(|(ns, _), _| *ns != other);
    assert_eq!(rig.get(DURABLE, key(3)), Got::Miss(MissReason::Absent));
    rig.settle();
    assert_eq!(rig.store.stats().blocks, 38);
    let mut rig = rig.reopen(true);
    assert_eq!(rig.report.blocks, 38, "{:?}", rig.report);
    assert_eq!((rig.report.unknown_namespace, rig.report.tombstones), (20, 3));
    for i in 0..20 {
        rig.get(CACHE, key(i));
        rig.get(DURABLE, key(i));
    }
    assert!(matches!(rig.put(DURABLE, key(3), 10), PutOutcome::Durable));
    let mut rig = rig.reopen(true);
    assert!(matches!(rig.get(DURABLE, key(3)), Got::Hit(_)), "put again after it was forgotten");
}
