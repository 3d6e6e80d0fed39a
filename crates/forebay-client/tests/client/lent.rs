//! Memory that stays with its owner while blocks are put from it, and calls that are told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_client::{Interrupt, IntoError, Options, PutBlock, PutBytes};
use forebay_types::{MissReason, PutOutcome, RefusedReason};

use crate::fake::{Fake, Trick};
use crate::{assert_adds_up, assert_hits, attached, content, filled, keys};

#[test]
fn blocks_are_put_from_ranges_of_a_slice_that_is_kept() {
    for fake in [Fake::unix(), Fake::tcp()] {
        let (client, space) = attached(&fake, Options { region_bytes: 16 << 20, ..Options::default() });
        let mut pool = client.alloc(12 << 20).unwrap();
        let bytes = content(7, 12 << 20);
        pool.copy_from_slice(&bytes);
        let pool = Arc::new(pool);
        // More of them than fit beside it: nothing is copied where the node reads the region.
        let ranges = [0..1, 1..70_000, 70_000..(4 << 20), (4 << 20)..(12 << 20)];
        let blocks: Vec<_> = ranges
            .iter()
            .enumerate()
            .map(|(n, range)| (space.derive_key(&n.to_le_bytes()), bytes[range.clone()].to_vec()))
            .collect();
        let puts = ranges
            .iter()
            .zip(&blocks)
            .map(|(range, (key, _))| PutBlock::new(*key, PutBytes::Shared(pool.clone(), range.clone())));
        assert_eq!(space.put_blocks(puts.collect()), [PutOutcome::Cached; 4]);
        assert_eq!(client.counters().no_room, 0);
        let outside = PutBlock::new(space.derive_key(b"outside"), PutBytes::Shared(pool.clone(), 0..(12 << 20) + 1));
        assert_eq!(space.put_blocks(vec![outside]), [PutOutcome::Refused(RefusedReason::TooLarge)]);
        drop(pool);
        assert_hits(space.get(&keys(&blocks)), &blocks);
        assert_adds_up(&client);
    }
}

#[test]
fn a_call_that_is_told_to_stop_ends_as_if_its_deadline_had_come() {
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    let interrupt = Interrupt::new(move || told.load(Ordering::Relaxed));
    let fake = Fake::unix();
    let options = Options { interrupt: Some(interrupt), deadline: Duration::from_secs(60), ..Options::default() };
    let (client, space) = attached(&fake, options);
    let blocks = filled(&space, &[5000; 20]);
    fake.state.set(Trick::Silent);
    stop.store(true, Ordering::Relaxed);
    for result in space.get(&keys(&blocks)) {
        assert_eq!(result.miss(), Some(MissReason::Deadline));
    }
    let new = space.derive_key(b"new");
    assert_eq!(space.put(&[(new, b"bytes")]), [PutOutcome::Refused(RefusedReason::Deadline)]);
    assert!(fake.state.cancels.load(Ordering::Relaxed) >= 1, "nobody told the node");
    fake.state.set(Trick::None);
    stop.store(false, Ordering::Relaxed);
    assert_hits(space.get(&keys(&blocks)), &blocks);
    assert_adds_up(&client);
}

#[test]
fn a_call_of_ones_own_is_one_of_the_queue() {
    let fake = Fake::unix();
    let (client, space) = attached(&fake, Options::default());
    let blocks = filled(&space, &[5000; 3]);
    let asynchronous = client.asynchronous(1).of(&space);
    let asked = keys(&blocks);
    let mut call = asynchronous.call(
        move |handle| {
            let mut buffers = vec![vec![0; 5000]; 3];
            let mut slices: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
            let results = handle.get_into(&asked, &mut slices);
            (results, buffers)
        },
        Default::default,
    );
    let (results, buffers) = loop {
        if let Some(done) = call.try_take() {
            break done;
        }
        std::thread::yield_now();
    };
    assert_eq!(results, [Ok(5000); 3]);
    assert!(buffers.iter().zip(&blocks).all(|(buffer, (_, bytes))| buffer == bytes));
    assert_adds_up(&client);
}

/// An engine's page lies in several tensors, and lives and dies as one block.
#[test]
fn a_block_is_put_from_several_places_and_got_into_several() {
    for fake in [Fake::unix(), Fake::tcp()] {
        let (client, space) = attached(&fake, Options::default());
        let bytes = content(3, 300_000);
        // Places that end inside of pieces, at their borders and beyond, and hold nothing.
        let cuts = [0, 1, 1, 65_536, 65_536 + 70_000, 299_999, 300_000];
        let places: Vec<&[u8]> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
        let key = space.derive_key(b"scattered");
        let put = PutBlock::new(key, PutBytes::Scattered(places));
        assert_eq!(space.put_blocks(vec![put]), [PutOutcome::Cached]);
        assert_hits(space.get(&[key]), &[(key, bytes.clone())]);
        // Into places that are cut otherwise, the last with more room than is needed.
        let mut room = vec![0xAA; 300_010];
        let (first, rest) = room.split_at_mut(150_001);
        let absent = space.derive_key(b"nowhere");
        let mut spare = [0; 10];
        let mut to = [vec![&mut [][..], first, rest], vec![&mut spare[..]], vec![]];
        let got = space.get_scattered(&[key, absent, key], &mut to);
        let short = IntoError::TooSmall { need: 300_000 };
        assert_eq!(got, [Ok(300_000), Err(IntoError::Miss(MissReason::Absent)), Err(short)]);
        assert!(room[..300_000] == bytes && room[300_000..] == [0xAA; 10], "nothing is written behind the block");
        assert_adds_up(&client);
    }
}
