//! Flipped bits in lent memory: ten thousand, each in a byte that is used next, by a node that copies a put or by a client that looks at what landed.
//! Each is seen to have been used, and nobody is served a wrong byte. With the client's checking left out the same flips are served: so the campaign
//! can fail.

use std::collections::BTreeSet;
use std::time::Duration;

use forebay_client::{Client, Mutant, NamespaceHandle, Options, PutBlock};
use forebay_node::Landings;
use forebay_types::{Key, LandingKind, MissReason, PutOutcome, RefusedReason};

use crate::between::{Between, Flip, Target};
use crate::hints::{number, until};
use crate::{Blocks, Home, assert_all_hit, filled, keys, made, put_all};

/// Flips of each kind. Ten thousand in all.
const SOURCE_MAPPED: usize = 2400;
const SOURCE_BORROWED: usize = 1600;
const BOUNCED_MAPPED: usize = 2500;
const BOUNCED_BORROWED: usize = 1000;
const RANGES: usize = 500;
const DIRECT: usize = 1200;
const TRAILERS: usize = 800;
const _: () =
    assert!(SOURCE_MAPPED + SOURCE_BORROWED + BOUNCED_MAPPED + BOUNCED_BORROWED + RANGES + DIRECT + TRAILERS == 10_000);

const LENGTHS: [usize; 4] = [300, 5000, 66_000, 150_000];
/// Blocks of one call.
const BLOCKS: usize = 200;

fn lengths() -> Vec<usize> {
    LENGTHS.iter().copied().cycle().take(BLOCKS).collect()
}

/// Runs a part of the campaign behind somebody who flips.
fn behind(home: &mut Home, borrowed: bool, seed: u64, campaign: impl FnOnce(&mut Home, &Between)) {
    let between = Between::new(home.dir.join("between"), home.dir.join("sock"), borrowed, seed);
    let listener = between.listen();
    std::thread::scope(|scope| {
        let over = Over(&between);
        scope.spawn(|| std::thread::scope(|relays| between.serve(relays, listener)));
        campaign(home, &between);
        drop(over);
    });
}

/// Ends what stands between, also when an assertion does not hold.
struct Over<'b>(&'b Between);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A client that expects blocks of these lengths, so that each lands at the first asking.
fn client(between: &Between, mutant: Option<Mutant>) -> (Client, NamespaceHandle) {
    let deadline = Duration::from_secs(30);
    let options = Options { deadline, block_bytes_hint: LENGTHS[3], mutant, ..Options::default() };
    let client = Client::connect(&between.address(), options).unwrap();
    let space = client.namespace("default").unwrap();
    (client, space)
}

fn flipped(flips: &[Flip]) -> BTreeSet<Key> {
    let keys: BTreeSet<Key> = flips.iter().map(|flip| flip.key).collect();
    assert_eq!(keys.len(), flips.len(), "one flip for each block");
    keys
}

/// What a call gave for one block.
type Got = Result<Vec<u8>, MissReason>;

/// Gets blocks in one of the ways there are.
fn got(space: &NamespaceHandle, blocks: &Blocks, way: usize) -> Vec<Got> {
    let keys = keys(blocks);
    match way % 3 {
        0 => space
            .get(&keys)
            .into_iter()
            .map(|got| got.miss().map_or_else(|| Ok(got.hit().unwrap().to_vec()), Err))
            .collect(),
        1 => {
            let mut all = vec![Err(MissReason::Absent); keys.len()];
            space.get_each(&keys, |i, got| all[i] = got.map(|block| block.bytes().to_vec()));
            all
        }
        _ => {
            let mut buffers: Vec<Vec<u8>> = blocks.iter().map(|(_, bytes)| vec![0; bytes.len()]).collect();
            let mut lent: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
            let results = space.get_into(&keys, &mut lent);
            let miss = |error| match error {
                forebay_client::IntoError::Miss(reason) => reason,
                forebay_client::IntoError::TooSmall { need } => panic!("{need} bytes"),
            };
            results.into_iter().zip(buffers).map(|(result, bytes)| result.map(|_| bytes).map_err(miss)).collect()
        }
    }
}

/// What was flipped is a miss, and all else is right.
fn assert_missed(all: Vec<Got>, blocks: &Blocks, flips: &[Flip]) {
    let flipped = flipped(flips);
    for (got, (key, bytes)) in all.into_iter().zip(blocks) {
        match got {
            Ok(got) => assert!(!flipped.contains(key) && got == *bytes, "{key}: wrong bytes, or an unused flip"),
            Err(reason) => assert!(flipped.contains(key) && reason == MissReason::Corrupt, "{key}: {reason}"),
        }
    }
}

fn flips_of_sources(flips: usize, borrowed: bool, seed: u64) {
    behind(&mut Home::new(1), borrowed, seed, |home, between| {
        let (client, space) = client(between, None);
        let (mut done, mut round) = (0, 0);
        while done < flips {
            let count = BLOCKS.min((flips - done) * 8 / 7 + 1);
            let blocks = made(&space, &format!("source/{round}"), &lengths()[..count]);
            between.aim(Target::Source);
            // From memory, which is copied into a region first, and from a region as it is.
            let outcomes = if round % 2 == 0 { put_all(&space, &blocks) } else { put_slices(&client, &space, &blocks) };
            between.aim(Target::Nothing);
            let now = between.flips();
            let flipped = flipped(&now);
            done += now.len();
            for (outcome, (key, _)) in outcomes.iter().zip(&blocks) {
                match outcome {
                    PutOutcome::Refused(RefusedReason::Unavailable) => assert!(flipped.contains(key), "{key}"),
                    outcome => assert!(outcome.is_kept() && !flipped.contains(key), "{key}: {outcome}"),
                }
            }
            for (got, (key, bytes)) in space.get(&keys(&blocks)).into_iter().zip(&blocks) {
                match got.miss() {
                    Some(reason) => assert!(flipped.contains(key) && reason == MissReason::Absent, "{key}: {reason}"),
                    None => assert!(*got.hit().unwrap() == bytes[..], "{key} was stored otherwise"),
                }
            }
            for (outcome, (key, _)) in put_all(&space, &blocks).into_iter().zip(&blocks) {
                let expected = if flipped.contains(key) { PutOutcome::Cached } else { PutOutcome::Exists };
                assert_eq!(outcome, expected, "{key} in round {round}");
            }
            assert_all_hit(&space, &blocks);
            assert!(space.forget(&keys(&blocks)).unwrap().iter().all(|was_here| *was_here));
            round += 1;
        }
        until(|| number(home, "put.sum_mismatch") == done as u64, "each was seen by the node");
        assert_eq!(client.counters().corrupt, 0);
    });
}

fn put_slices(client: &Client, space: &NamespaceHandle, blocks: &Blocks) -> Vec<PutOutcome> {
    let block = |(key, bytes): &(Key, Vec<u8>)| {
        let mut slice = client.alloc(bytes.len()).unwrap();
        slice.copy_from_slice(bytes);
        PutBlock::new(*key, slice)
    };
    space.put_blocks(blocks.iter().map(block).collect())
}

#[test]
fn none_of_four_thousand_flips_of_what_a_put_is_read_from_is_kept() {
    // A node each: their drives are small, and one that is full may say `busy`.
    for seed in 0..3 {
        flips_of_sources(SOURCE_MAPPED / 3, false, 31 + seed);
    }
    for seed in 0..2 {
        flips_of_sources(SOURCE_BORROWED / 2, true, 41 + seed);
    }
}

/// Gets whose landings are flipped, on one node that has all in DRAM.
fn flips_of_bounced(flips: usize, borrowed: bool, seed: u64) {
    behind(&mut Home::landing(1, Landings::Bounce), borrowed, seed, |home, between| {
        let (client, space) = client(between, None);
        let blocks = filled(&space, "bounced", &lengths());
        let (mut done, mut way) = (0, 0);
        while done < flips {
            let asked: Blocks = blocks[..BLOCKS.min((flips - done) * 8 / 7 + 1)].to_vec();
            between.aim(Target::Payload);
            let all = got(&space, &asked, way);
            let now = between.flips();
            assert!(now.iter().all(|flip| flip.landing == Some(LandingKind::Bounce)));
            assert_missed(all, &asked, &now);
            done += now.len();
            way += 1;
        }
        between.aim(Target::Nothing);
        assert_eq!(client.counters().corrupt, done as u64);
        assert_all_hit(&space, &blocks);
        // The client told the node, which looked for itself and found nothing wrong.
        until(|| number(home, "corrupt_reports") == done as u64, "every word arrives");
        assert_eq!(number(home, "shards.0.corrupt_records"), 0);
    });
}

#[test]
fn none_of_thousands_of_flips_of_what_a_node_copied_is_handed_over() {
    flips_of_bounced(BOUNCED_MAPPED, false, 33);
    flips_of_bounced(BOUNCED_BORROWED, true, 34);
}

#[test]
fn none_of_five_hundred_flips_of_ranges_is_handed_over() {
    behind(&mut Home::new(1), false, 35, |_, between| {
        let (client, space) = client(between, None);
        let blocks = filled(&space, "ranges", &[150_000; 50]);
        between.aim(Target::Payload);
        let (mut done, mut round) = (0, 0u64);
        while done < RANGES {
            let start = round * 7919 % 140_000;
            let ranges: Vec<_> =
                blocks.iter().map(|(key, _)| (*key, start..start + 1 + round * 523 % 70_000)).collect();
            let results = space.get_ranges(&ranges[..50.min((RANGES - done) * 8 / 7 + 1)]);
            let now = between.flips();
            let flipped = flipped(&now);
            done += now.len();
            for (got, ((key, range), (_, bytes))) in results.into_iter().zip(ranges.iter().zip(&blocks)) {
                // A flip in a piece that the range touches costs the range, wherever in the piece it is.
                assert_eq!(got.miss(), flipped.contains(key).then_some(MissReason::Corrupt), "{key}");
                if let Some(got) = got.hit() {
                    assert!(*got == bytes[range.start as usize..(range.end as usize).min(bytes.len())]);
                }
            }
            round += 1;
        }
        between.aim(Target::Nothing);
        assert_eq!(client.counters().corrupt, done as u64);
        assert_all_hit(&space, &blocks);
    });
}

/// Reads blocks from the drive, straight into the client's memory, with flips; each start of the node reads each block once. Gives the flips, and
/// how many were served as wrong bytes.
fn flips_of_direct(target: Target, flips: usize, mutant: Option<Mutant>, seed: u64) -> (usize, usize) {
    let (mut done, mut wrong) = (0, 0);
    behind(&mut Home::landing(1, Landings::Direct), false, seed, |home, between| {
        let blocks: Blocks = filled(&client(between, None).1, "direct", &[lengths(), lengths()].concat());
        let mut way = 0;
        while done < flips {
            home.stop();
            home.start();
            let (client, space) = client(between, mutant);
            let asked: Blocks = blocks[..blocks.len().min((flips - done) * 8 / 7 + 1)].to_vec();
            between.aim(target);
            let all = got(&space, &asked, way);
            between.aim(Target::Nothing);
            let now = between.flips();
            assert!(now.iter().all(|flip| flip.landing == Some(LandingKind::Direct)), "{now:?}");
            done += now.len();
            if mutant.is_some() {
                wrong += all
                    .iter()
                    .zip(&asked)
                    .filter(|(got, (_, bytes))| got.as_ref().is_ok_and(|got| got != bytes))
                    .count();
            } else {
                assert_missed(all, &asked, &now);
                assert_eq!(client.counters().corrupt, now.len() as u64);
                assert_all_hit(&space, &blocks);
            }
            way += 1;
        }
    });
    (done, wrong)
}

#[test]
fn none_of_two_thousand_flips_of_what_a_drive_wrote_is_handed_over() {
    flips_of_direct(Target::Payload, DIRECT, None, 36);
    flips_of_direct(Target::Trailer, TRAILERS, None, 37);
}

#[test]
fn without_checks_flipped_landings_are_served() {
    let (mut done, mut wrong) = flips_of_direct(Target::Payload, 500, Some(Mutant::SkipCheck), 38);
    behind(&mut Home::new(1), false, 39, |_, between| {
        let (_client, space) = client(between, Some(Mutant::SkipCheck));
        let blocks = filled(&space, "unchecked", &lengths());
        between.aim(Target::Payload);
        for way in 0..12 {
            let all = got(&space, &blocks, way);
            done += between.flips().len();
            wrong +=
                all.iter().zip(&blocks).filter(|(got, (_, bytes))| got.as_ref().is_ok_and(|got| got != bytes)).count();
        }
    });
    println!("{wrong} of {done} flips were served");
    assert!(done > 2000 && wrong * 100 >= done * 99, "{wrong} of {done}");
}
