//! Each guard is left out in turn, and is found missing. A suite that finds none of them would prove nothing.

use forebay_io::sim::OpKind;
use forebay_io::{PeerRegion, Region};
use forebay_store::{Event, GetStarted, Mutant};
use forebay_types::PutOutcome;

use crate::crash::{crash_run, crash_second_lap};
use crate::rig::*;

/// Runs until a crash breaks a promise.
fn found_by_crashing(mutant: Mutant) {
    for seed in 1..=20 {
        let (broken, crashes) = crash_run(seed, 300, 5, Some(mutant));
        if let Some(first) = broken.first() {
            println!("{mutant:?} was found with seed {seed} after at most {crashes} crashes: {first}");
            return;
        }
    }
    panic!("{mutant:?} was not found");
}

#[test]
pub(crate) fn leaving_out_flushes_is_found() {
    found_by_crashing(Mutant::NoFlush);
}

#[test]
fn an_ack_before_completion_is_found() {
    found_by_crashing(Mutant::AckBeforeCompletion);
}

#[test]
fn a_footer_before_its_records_is_found() {
    found_by_crashing(Mutant::FooterBeforeRecords);
}

#[test]
pub(crate) fn a_footer_of_another_generation_is_found() {
    let broken = crash_second_lap(Some(Mutant::GenerationIgnored));
    assert!(!broken.is_empty());
    println!("{}", broken[0]);
}

/// Starts a landing that the drive holds back; meanwhile the block and its segment's others are forgotten and the drive is filled, so that the segment
/// is written anew if nobody heeds the reader. Answers whether somebody else's bytes came into the client's memory.
fn landing_leaks(mutant: Option<Mutant>) -> bool {
    let mut rig = Rig::new(Options { mutant, len: 72 * MIB, ..Options::default() });
    let old: Vec<_> = (0..4).map(key).collect();
    for key in &old {
        assert_eq!(rig.put(CACHE, *key, 900_000), PutOutcome::Cached);
    }
    rig.settle();
    rig = rig.reopen(false);
    let region = Region::owned(2 << 20).unwrap();
    let peer = PeerRegion::import(region.fd().try_clone_to_owned().unwrap(), 2 << 20).unwrap();
    rig.medium.hold(OpKind::Read);
    let mut request = rig.request(CACHE, key(0), 0, 0);
    let token = request.token;
    request.into = Some(peer.landing(0, 1 << 20).unwrap());
    assert!(matches!(rig.store.get(rig.now, request), GetStarted::Pending));
    rig.turn();
    rig.forget(CACHE, &old);
    // Whatever is put is forgotten again, so that segments are freed without reading their footers.
    for i in 100..300 {
        assert_eq!(rig.put(CACHE, key(i), 900_000), PutOutcome::Cached);
        rig.forget(CACHE, &[key(i)]);
        rig.turns(20);
    }
    assert!(rig.store.stats().segments_freed > 16, "the drive was gone round: {:?}", rig.store.stats());
    rig.medium.release();
    rig.until(|e| matches!(e, Event::Got { token: t, .. } if *t == token));
    let mut memory = vec![0; 900_000];
    peer.read_at(0, &mut memory).unwrap();
    memory != content(1, 900_000) && memory.iter().any(|b| *b != 0)
}

#[test]
pub(crate) fn a_segment_reused_while_it_is_read_is_found() {
    assert!(!landing_leaks(None));
    assert!(landing_leaks(Some(Mutant::ReuseWhileRead)));
}
