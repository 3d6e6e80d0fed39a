//! What large gets may put before small ones, and that what nobody waits for is not read. Each is held here, and broken on purpose.

use forebay_io::sim::OpKind;
use forebay_store::{GetStarted, Mutant};
use forebay_types::PutOutcome;

use crate::promises::held_and_found;
use crate::rig::*;

const LARGE: u64 = 8;
const LARGE_BYTES: usize = 900_000;

/// Small gets come, and the drive holds back what it reads from here on. Somebody asks for large blocks. Gives the bytes read before.
fn large_gets_beside_small_ones(mutant: Option<Mutant>) -> (Rig, u64) {
    let mut rig = Rig::new(Options { mutant, ..Options::default() });
    for i in 0..LARGE {
        assert_eq!(rig.put(CACHE, key(i), LARGE_BYTES), PutOutcome::Cached);
    }
    assert_eq!(rig.put(CACHE, key(100), 60_000), PutOutcome::Cached);
    rig.settle();
    let mut rig = rig.reopen(false);
    // A turn tells the store what time it is.
    rig.turn();
    rig.get(CACHE, key(100));
    let before = rig.medium.counts().read_bytes;
    rig.medium.hold(OpKind::Read);
    for i in 0..LARGE {
        let request = rig.request(CACHE, key(i), 0, 0);
        assert!(matches!(rig.store.get(rig.now, request), GetStarted::Pending));
    }
    rig.turns(20);
    (rig, before)
}

/// While small gets come, large reads go to the drive in parts, and few bytes of them at a time: the next small get waits for those.
fn bytes_before_the_next_small_get(mutant: Option<Mutant>) -> Option<String> {
    let (mut rig, before) = large_gets_beside_small_ones(mutant);
    let bytes = rig.medium.counts().read_bytes - before;
    rig.medium.release();
    rig.settle();
    (bytes > 320 << 10).then(|| format!("{bytes} bytes of large gets stand in the drive before a small one"))
}

#[test]
fn large_gets_go_in_parts_and_few_bytes_of_them_at_a_time() {
    held_and_found(bytes_before_the_next_small_get, Mutant::LargeReadsWhole);
}

/// What nobody waits for any more, and the drive was not handed yet, is never read.
fn bytes_read_for_nobody(mutant: Option<Mutant>) -> Option<String> {
    let (mut rig, before) = large_gets_beside_small_ones(mutant);
    rig.store.drop_gets(rig.now, |_| true);
    rig.medium.release();
    rig.settle();
    let bytes = rig.medium.counts().read_bytes - before;
    (bytes > 2 * LARGE_BYTES as u64).then(|| format!("{bytes} bytes were read for nobody"))
}

#[test]
fn what_nobody_waits_for_is_not_read() {
    held_and_found(bytes_read_for_nobody, Mutant::NothingDropped);
}
