//! Flipped bits: wherever one lies on the drive, nobody is served a wrong byte. With checking left out, flips of payloads are served: so the campaign
//! can fail.

use forebay_store::{GetResult, Mutant};
use forebay_types::{Entropy, SeededEntropy};

use crate::rig::*;

const BLOCKS: u64 = 24;
const LENGTH: usize = 30_000;
/// Bytes of a record on this drive: payload and trailer, padded.
const RECORD: u64 = 32_768 + 4096;

/// A sealed drive with blocks of both classes, and where their payloads lie.
fn drive(mutant: Option<Mutant>) -> (Rig, Vec<u64>) {
    let mut rig = Rig::new(Options { len: 68 * MIB, mutant, orderly: true, ..Options::default() });
    for i in 0..BLOCKS {
        rig.put(if i % 2 == 0 { CACHE } else { DURABLE }, key(i), LENGTH);
    }
    rig.settle();
    rig.store.close(0);
    // Segments are taken in order: the cache's first, the durable one's second.
    let segments = 3 * MIB;
    let payloads = (0..BLOCKS / 2).flat_map(|i| {
        let at = 4096 + i * RECORD;
        [segments + at, segments + 4 * MIB + at]
    });
    let payloads: Vec<u64> = payloads.collect();
    for (i, at) in payloads.iter().enumerate() {
        let mut bytes = vec![0; LENGTH];
        rig.medium.peek(*at, &mut bytes);
        assert_eq!(bytes, content(i as u64 + 1, LENGTH), "the drive is laid out as this campaign believes");
    }
    (rig, payloads)
}

/// Reads everything from a drive with some bits flipped; answers how many blocks were served and how many of those with wrong bytes.
fn serve(rig: &Rig, flips: &[u64], check: bool) -> (u64, u64, u64) {
    let image = rig.medium.clone_image();
    for bit in flips {
        image.flip(*bit);
    }
    let mut oracle = rig.oracle.borrow().clone();
    oracle.durable.clear();
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Rig::on(image, 16 << 20, 1 << 20, rig.mutant, 5, std::rc::Rc::new(std::cell::RefCell::new(oracle)))
    }));
    // A drive whose both superblocks or tables are gone is refused with a sentence; the helper takes that for a panic.
    let Ok(mut other) = opened else { return (0, 0, 0) };
    other.check = check;
    let mut hits = 0;
    for i in 0..BLOCKS {
        let ns = if i % 2 == 0 { CACHE } else { DURABLE };
        let request = other.request(ns, key(i), 0, 0);
        if let Ok(GetResult::Found(found)) = other.ask(request)
            && let Got::Hit(_) = other.verify(ns, key(i), &found)
        {
            hits += 1;
        }
    }
    let (wrong, corrupt) = (other.oracle.borrow().wrong, other.store.stats().corrupt);
    (hits, wrong, corrupt)
}

#[test]
fn no_flipped_bit_anywhere_is_ever_served() {
    let (rig, payloads) = drive(None);
    let random = SeededEntropy::new(4);
    let below = |n: u64| random.word() % n;
    let used: [(u64, u64); 5] = [
        // Superblocks, tables of namespaces, headers, footers, records with their trailers.
        (0, 4096),
        (MIB, 4096),
        (3 * MIB, 4096),
        (3 * MIB + 4 * MIB - 8192, 8192),
        (payloads[0], RECORD * BLOCKS / 2),
    ];
    let mut lost = 0;
    for round in 0..250 {
        // Many flips at once in one area: the blocks are few and a start is dear.
        let (at, len) = used[round % used.len()];
        let flips: Vec<u64> =
            (0..if round % used.len() == 4 { 8 } else { 1 }).map(|_| at * 8 + below(len * 8)).collect();
        let (hits, wrong, _) = serve(&rig, &flips, true);
        assert_eq!(wrong, 0);
        lost += BLOCKS - hits;
    }
    println!("{lost} blocks of {} were missed, none was wrong", 250 * BLOCKS);
    assert!(lost > 200);
}

#[test]
fn without_checks_flipped_payloads_are_served() {
    let (rig, payloads) = drive(Some(Mutant::SkipCheck));
    let random = SeededEntropy::new(9);
    let (mut flipped, mut served) = (0, 0);
    for _ in 0..20 {
        // One bit in each block.
        let flips: Vec<u64> = payloads.iter().map(|at| at * 8 + random.word() % (LENGTH as u64 * 8)).collect();
        let (_, wrong, _) = serve(&rig, &flips, false);
        flipped += flips.len() as u64;
        served += wrong;
    }
    assert!(served * 100 >= flipped * 99, "{served} of {flipped}");
}

#[test]
fn a_record_gone_bad_is_dropped_and_another_put_takes_its_place() {
    let (rig, payloads) = drive(None);
    let medium = rig.medium.clone_image();
    medium.flip(payloads[0] * 8 + 77);
    let mut rig = Rig::on(medium, 16 << 20, 1 << 20, None, 5, rig.oracle.clone());
    rig.oracle.borrow_mut().durable.clear();
    // The client sees it and says so; the store looks for itself.
    assert_eq!(rig.get(CACHE, key(0)), Got::Miss(forebay_types::MissReason::Corrupt));
    rig.store.drop_corrupt(CACHE, &key(0), forebay_types::Version(1));
    rig.store.drop_corrupt(CACHE, &key(2), forebay_types::Version(3));
    rig.settle();
    assert!(rig.store.presence(0, CACHE, &key(0)).is_err());
    assert!(rig.store.presence(0, CACHE, &key(2)).is_ok(), "a client's word alone drops nothing");
    assert_eq!(rig.store.stats().corrupt, 1);
    rig.put(CACHE, key(0), 1000);
    assert!(matches!(rig.get(CACHE, key(0)), Got::Hit(_)));

    // The second read of another bad one would take it to DRAM: it is checked on the way.
    let mut rig = Rig::on(rig.medium.clone_image(), 16 << 20, 1 << 20, None, 5, rig.oracle.clone());
    rig.medium.flip(payloads[2] * 8 + 5);
    assert_eq!(rig.get(CACHE, key(2)), Got::Miss(forebay_types::MissReason::Corrupt));
    assert_eq!(rig.get(CACHE, key(2)), Got::Miss(forebay_types::MissReason::Corrupt));
    assert_eq!(rig.get(CACHE, key(2)), Got::Miss(forebay_types::MissReason::Absent));
}
