//! Flipped bits: ten thousand on the drive, each in a byte that the next read uses, and nobody is served a wrong byte. With checking left out, the
//! same flips of payloads are served: so the campaign can fail.

use std::cell::RefCell;
use std::rc::Rc;

use forebay_format::{SEGMENT_HEADER_BYTES, TRAILER_HEADER_BYTES};
use forebay_io::sim::Medium;
use forebay_store::{GetResult, Mutant, RecoveryReport};
use forebay_types::{Descriptor, Entropy, SeededEntropy};

use crate::rig::*;

const BLOCKS: u64 = 100;
/// Two pieces, so that each has a sum of its own.
const LENGTH: usize = 70_000;
const PADDED: u64 = 73_728;
/// Bytes of a record on this drive: payload and trailer, padded.
const RECORD: u64 = PADDED + 4096;
/// Segments are taken in order: the cache's first, the durable one's second.
const SEGMENTS: [u64; 2] = [3 * MIB, 7 * MIB];

/// Flips of each kind. Ten thousand in all.
const PAYLOAD: u64 = 5000;
const SUMS: u64 = 3000;
const HEADERS: u64 = 700;
const FOOTERS: u64 = 700;
const SUPERBLOCKS: u64 = 600;
const _: () = assert!(PAYLOAD + SUMS + HEADERS + FOOTERS + SUPERBLOCKS == 10_000);

/// A sealed drive with blocks of both classes, and where their payloads lie.
fn drive(mutant: Option<Mutant>) -> (Rig, Vec<u64>) {
    let mut rig = Rig::new(Options { len: 68 * MIB, mutant, orderly: true, ..Options::default() });
    for i in 0..BLOCKS {
        rig.put(class_of(i), key(i), LENGTH);
    }
    rig.settle();
    rig.store.close(0);
    let payloads = (0..BLOCKS).map(|i| SEGMENTS[(i % 2) as usize] + SEGMENT_HEADER_BYTES as u64 + i / 2 * RECORD);
    let payloads: Vec<u64> = payloads.collect();
    for (i, at) in payloads.iter().enumerate() {
        let mut bytes = vec![0; LENGTH];
        rig.medium.peek(*at, &mut bytes);
        assert_eq!(bytes, content(i as u64 + 1, LENGTH), "the drive is laid out as this campaign believes");
    }
    (rig, payloads)
}

fn class_of(i: u64) -> forebay_types::NamespaceId {
    if i.is_multiple_of(2) { CACHE } else { DURABLE }
}

/// What a start on a drive with flipped bits gave, and what it served of the blocks that were asked for.
#[derive(Debug, Default)]
struct Served {
    report: RecoveryReport,
    hits: u64,
    wrong: u64,
}

/// Opens a copy of the drive with some bits flipped and reads blocks from it, each once. `None`: the drive was refused.
fn serve(rig: &Rig, flips: &[u64], blocks: impl Iterator<Item = u64>, check: bool) -> Option<Served> {
    let image = rig.medium.clone_image();
    for bit in flips {
        image.flip(*bit);
    }
    let mut oracle = rig.oracle.borrow().clone();
    oracle.durable.clear();
    let mut other = open_flipped(&image, rig.mutant, oracle)?;
    other.check = check;
    let mut served = Served { report: other.report.clone(), ..Served::default() };
    for i in blocks {
        let request = other.request(class_of(i), key(i), 0, 0);
        if let Ok(GetResult::Found(found)) = other.ask(request)
            && let Got::Hit(_) = other.verify(class_of(i), key(i), &found)
        {
            served.hits += 1;
        }
    }
    served.wrong = other.oracle.borrow().wrong;
    Some(served)
}

/// A drive whose superblocks are both gone is refused with an error, which is what the campaign wants of it; anything else that ends a start is a bug.
fn open_flipped(image: &Medium, mutant: Option<Mutant>, oracle: Oracle) -> Option<Rig> {
    match Rig::try_on(image.clone(), 16 << 20, 1 << 20, mutant, 5, Rc::new(RefCell::new(oracle))) {
        Ok(rig) => Some(rig),
        Err(forebay_store::StoreError::Format(_)) => None,
        Err(other) => panic!("{other}"),
    }
}

/// Flips of one area, several to a start: `bits(round)` chooses them, `holds` says what a start and its reads must have given.
fn campaign(
    rig: &Rig,
    flips: u64,
    mut bits: impl FnMut(u64) -> Vec<u64>,
    mut blocks: impl FnMut(u64) -> Vec<u64>,
    mut holds: impl FnMut(u64, u64, Option<Served>),
) {
    let (mut done, mut round) = (0, 0);
    while done < flips {
        let bits = bits(round);
        done += bits.len() as u64;
        let served = serve(rig, &bits, blocks(round).into_iter(), true);
        assert_eq!(served.as_ref().map_or(0, |served| served.wrong), 0, "round {round}: wrong bytes were served");
        holds(round, bits.len() as u64, served);
        round += 1;
    }
    assert_eq!(done, flips);
}

fn all(_: u64) -> Vec<u64> {
    (0..BLOCKS).collect()
}

/// A few blocks of both segments, others each round.
fn some(round: u64) -> Vec<u64> {
    (0..6).map(|i| (round * 7 + i * 17) % BLOCKS).collect()
}

/// One bit in the first `len` bytes behind each place.
fn one_in_each<'a>(random: &'a SeededEntropy, places: &'a [u64], len: u64) -> impl FnMut(u64) -> Vec<u64> + 'a {
    move |_| places.iter().map(|at| at * 8 + random.word() % (len * 8)).collect()
}

#[test]
fn none_of_five_thousand_flips_of_payload_is_served() {
    let (rig, payloads) = drive(None);
    let random = SeededEntropy::new(4);
    campaign(&rig, PAYLOAD, one_in_each(&random, &payloads, LENGTH as u64), all, |_, flips, served| {
        let served = served.expect("payloads are not read at a start");
        assert_eq!((served.report.blocks, served.hits), (BLOCKS, BLOCKS - flips), "each flip cost its block");
    });
}

#[test]
fn none_of_three_thousand_flips_of_sums_lets_a_block_be_served() {
    let (rig, payloads) = drive(None);
    let random = SeededEntropy::new(5);
    // The trailer's head, the descriptor with its sums, and the checksums of both.
    let trailers: Vec<u64> = payloads.iter().map(|at| at + PADDED).collect();
    let len = (TRAILER_HEADER_BYTES + Descriptor::encoded_len(LENGTH as u64, 0)) as u64;
    campaign(&rig, SUMS, one_in_each(&random, &trailers, len), all, |_, flips, served| {
        let served = served.expect("trailers of sealed segments are not read at a start");
        assert_eq!((served.report.blocks, served.hits), (BLOCKS, BLOCKS - flips), "each flip cost its block");
    });
}

#[test]
fn a_flipped_header_costs_its_segment_and_a_flipped_footer_a_scan() {
    let (rig, _) = drive(None);
    let random = SeededEntropy::new(6);
    campaign(&rig, HEADERS, one_in_each(&random, &SEGMENTS, SEGMENT_HEADER_BYTES as u64), some, |_, flips, served| {
        let served = served.expect("a bad header is no reason to refuse a drive");
        assert_eq!((served.report.bad_headers, served.report.blocks, served.hits), (flips, 0, 0));
    });
    // Entries, and the tail with its own checksum. What pads the entries is used by nobody.
    let entries = (BLOCKS / 2 * 64).next_multiple_of(4096);
    let footers = |round: u64| {
        let in_tail = |at: u64| at + 4 * MIB - 4096;
        let in_entries = |at: u64| at + 4 * MIB - 4096 - entries;
        let flip = |(i, at): (usize, &u64)| match (round + i as u64).is_multiple_of(2) {
            true => in_tail(*at) * 8 + random.word() % (4096 * 8),
            false => in_entries(*at) * 8 + random.word() % (BLOCKS / 2 * 64 * 8),
        };
        SEGMENTS.iter().enumerate().map(flip).collect()
    };
    campaign(&rig, FOOTERS, footers, some, |round, flips, served| {
        let served = served.expect("a bad footer is no reason to refuse a drive");
        assert_eq!(
            (served.report.sealed_open, served.report.blocks),
            (flips, BLOCKS),
            "round {round}: found by a scan"
        );
        assert_eq!(served.hits, some(round).len() as u64);
    });
}

#[test]
fn one_superblock_is_enough_and_without_both_a_drive_is_refused() {
    let (rig, _) = drive(None);
    let random = SeededEntropy::new(7);
    let copies = [0, MIB / 2];
    let flips = |round: u64| {
        let flipped = match round % 4 {
            0 => &copies[..1],
            1 => &copies[1..],
            _ => &copies[..],
        };
        flipped.iter().map(|at| at * 8 + random.word() % (4096 * 8)).collect()
    };
    campaign(&rig, SUPERBLOCKS, flips, some, |round, flips, served| match served {
        Some(served) => assert_eq!((flips, served.hits), (1, some(round).len() as u64)),
        None => assert_eq!(flips, 2, "round {round}: one good copy is enough"),
    });
}

#[test]
fn without_checks_flipped_payloads_are_served() {
    let (rig, payloads) = drive(Some(Mutant::SkipCheck));
    let random = SeededEntropy::new(4);
    let (mut flipped, mut wrong) = (0, 0);
    while flipped < PAYLOAD {
        let flips = one_in_each(&random, &payloads, LENGTH as u64)(0);
        flipped += flips.len() as u64;
        wrong += serve(&rig, &flips, 0..BLOCKS, false).expect("payloads are not read at a start").wrong;
    }
    println!("{wrong} of {flipped} flips were served");
    assert!(wrong * 100 >= flipped * 99, "{wrong} of {flipped}");
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
