//! What a hostile or broken node can do: cause misses, never wrong bytes, hangs or panics.

use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_client::{IntoError, Options};
use forebay_types::{MissReason, PutOutcome, RefusedReason};
use forebay_wire::ErrorCode;

use crate::fake::{Fake, Trick, lock};
use crate::{assert_adds_up, assert_hits, attached, filled, keys};

const LENGTHS: [usize; 4] = [5000, 70_000, 300_000, 900_000];

fn both() -> [Fake; 2] {
    [Fake::unix(), Fake::tcp()]
}

fn short() -> Options {
    Options { deadline: Duration::from_secs(3), patience: Duration::ZERO, ..Options::default() }
}

/// Every key is missed for `reason` under this trick, and nothing else happens; afterwards the client serves as before.
fn all_missed(fake: &Fake, trick: Trick, reason: MissReason) {
    let (client, space) = attached(fake, short());
    let blocks = filled(&space, &LENGTHS);
    let keys = keys(&blocks);
    fake.state.set(trick);
    for result in space.get(&keys) {
        assert_eq!(result.miss(), Some(reason), "{trick:?}");
    }
    let mut buffers = vec![vec![0; 900_000]; 4];
    let mut lent: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
    for result in space.get_into(&keys, &mut lent) {
        assert_eq!(result, Err(IntoError::Miss(reason)), "{trick:?}");
    }
    let mut places: Vec<_> = buffers.iter_mut().map(|buffer| buffer.chunks_mut(100_000).collect()).collect();
    for result in space.get_scattered(&keys, &mut places) {
        assert_eq!(result, Err(IntoError::Miss(reason)), "{trick:?}");
    }
    space.get_each(&keys, |_, result| assert_eq!(result.map(|_| ()).unwrap_err(), reason, "{trick:?}"));
    assert_eq!(client.counters().get.missed(reason), 16, "{trick:?}");
    fake.state.set(Trick::None);
    assert_hits(space.get(&keys), &blocks);
    assert_adds_up(&client);
}

#[test]
fn another_blocks_bytes_are_never_handed_over() {
    for fake in both() {
        all_missed(&fake, Trick::OtherBlock, MissReason::Corrupt);
    }
}

#[test]
fn a_flipped_bit_anywhere_is_a_miss_and_is_told_to_the_node() {
    for fake in both() {
        for at in [0, 4999, 69_999, 1234] {
            all_missed(&fake, Trick::Flip(at), MissReason::Corrupt);
        }
        let reports = lock(&fake.state.corrupt_reports).clone();
        assert!(!reports.is_empty() && reports.iter().all(|(_, version)| *version != 0));
    }
}

#[test]
fn a_flipped_bit_in_a_range_is_found_in_its_piece() {
    for fake in both() {
        let (_, space) = attached(&fake, short());
        let blocks = filled(&space, &[300_000]);
        fake.state.set(Trick::Flip(66_000));
        let get = |range| space.get_ranges(&[(blocks[0].0, range)]).remove(0).miss();
        assert_eq!(get(0..140_000), Some(MissReason::Corrupt));
        // The flipped byte lies in a piece that the range touches, but not in the range.
        assert_eq!(get(65_536..65_540), Some(MissReason::Corrupt));
    }
}

#[test]
fn a_damaged_descriptor_is_a_miss() {
    for fake in both() {
        all_missed(&fake, Trick::Descriptor, MissReason::Corrupt);
    }
}

#[test]
fn lengths_that_lie_are_misses() {
    for fake in both() {
        all_missed(&fake, Trick::TooLong, MissReason::Corrupt);
        all_missed(&fake, Trick::TooShort, MissReason::Corrupt);
    }
}

#[test]
fn a_trailer_outside_the_slice_is_a_miss() {
    let fake = Fake::unix();
    fake.state.direct.store(true, Ordering::Relaxed);
    all_missed(&fake, Trick::TrailerOutside, MissReason::Corrupt);
    all_missed(&fake, Trick::Flip(100), MissReason::Corrupt);
    all_missed(&fake, Trick::OtherBlock, MissReason::Corrupt);
}

#[test]
fn garbage_ends_the_connection_and_nothing_more() {
    for fake in both() {
        all_missed(&fake, Trick::Garbage, MissReason::Unavailable);
    }
}

#[test]
fn an_outcome_for_an_item_that_was_not_asked_ends_the_connection() {
    all_missed(&Fake::unix(), Trick::Stranger, MissReason::Unavailable);
}

#[test]
fn a_second_outcome_for_an_item_changes_nothing_that_was_handed_over() {
    for fake in both() {
        let (client, space) = attached(&fake, short());
        let blocks = filled(&space, &LENGTHS);
        fake.state.set(Trick::Twice);
        let mut visits = 0;
        space.get_each(&keys(&blocks), |i, result| {
            visits += 1;
            if let Ok(block) = result {
                assert!(block.bytes() == &blocks[i].1[..]);
            }
        });
        assert_eq!(visits, blocks.len());
        assert_adds_up(&client);
    }
}

#[test]
fn frames_out_of_order_never_make_a_block() {
    let fake = Fake::tcp();
    let (client, space) = attached(&fake, short());
    let blocks = filled(&space, &[900_000]);
    fake.state.set(Trick::Disorder);
    assert_eq!(space.get(&[blocks[0].0])[0].miss(), Some(MissReason::Unavailable));
    assert_adds_up(&client);
}

#[test]
fn a_stream_that_stops_half_way_is_a_miss() {
    let fake = Fake::tcp();
    all_missed(&fake, Trick::HalfThenMiss, MissReason::Unavailable);
}

#[test]
fn a_node_that_goes_away_once_is_asked_again() {
    for fake in both() {
        for trick in [Trick::GoAway(1), Trick::GoAwayInTheMiddle(1), Trick::GoAway(2)] {
            let (client, space) = attached(&fake, short());
            let blocks = filled(&space, &LENGTHS);
            fake.state.set(trick);
            assert_hits(space.get(&keys(&blocks)), &blocks);
            assert!(client.counters().broken >= 1);
            assert!(client.counters().reconnects >= 1);
            assert_adds_up(&client);
        }
    }
}

#[test]
fn what_has_landed_is_handed_over_though_the_node_is_gone_before_it_is_checked() {
    let fake = Fake::unix();
    // Checking so many takes longer than going away, and one request asks for all of them once it is known how long they are.
    let (client, space) = attached(&fake, Options { in_flight_bytes: 64 << 20, ..short() });
    let blocks = filled(&space, &[900_000; 32]);
    assert_hits(space.get(&keys(&blocks)), &blocks);
    fake.state.set(Trick::GoAwayAfter);
    assert_hits(space.get(&keys(&blocks)), &blocks);
    assert_adds_up(&client);
}

#[test]
fn a_node_that_always_goes_away_is_unavailable() {
    for fake in both() {
        all_missed(&fake, Trick::GoAway(1000), MissReason::Unavailable);
        all_missed(&fake, Trick::GoAwayInTheMiddle(1000), MissReason::Unavailable);
    }
}

#[test]
fn a_node_that_never_finds_room_enough_streams_in_the_end() {
    let fake = Fake::unix();
    let (client, space) = attached(&fake, short());
    let blocks = filled(&space, &LENGTHS);
    fake.state.set(Trick::NeverRoom);
    assert_hits(space.get(&keys(&blocks)), &blocks);
    assert!(client.counters().grown >= LENGTHS.len() as u64);
}

#[test]
fn a_refused_request_is_a_miss_for_each_of_its_keys() {
    for fake in both() {
        all_missed(&fake, Trick::Refuse(ErrorCode::TooMany), MissReason::Busy);
        let (client, space) = attached(&fake, short());
        fake.state.set(Trick::Refuse(ErrorCode::NamespaceUnknown));
        let key = space.derive_key(b"a");
        assert_eq!(space.put(&[(key, b"bytes")]), [PutOutcome::Refused(RefusedReason::Namespace)]);
        assert_eq!(space.match_prefix(&[key], None).gap, Some(MissReason::Namespace));
        assert_eq!(space.contains(&[key]), [Err(MissReason::Namespace)]);
        assert_adds_up(&client);
    }
}
