//! What is counted once whatever was tried, and misses that a node gives as their reason.

use std::sync::atomic::Ordering;

use forebay_client::{Mutant, Options};
use forebay_types::{MissReason, PutOutcome, RefusedReason};

use crate::fake::{Fake, Trick, shard_id};
use crate::{assert_adds_up, assert_hits, attached, content, filled, keys};

const LENGTHS: [usize; 5] = [12, 4096, 65_537, 200_000, 300_000];

/// Every verb is asked once while the node goes away in the middle, twice. What of the counters says another number of keys than were asked for.
fn counted_wrong(fake: &Fake, mutant: Option<Mutant>) -> Option<String> {
    let (client, space) = attached(fake, Options { mutant, ..Options::default() });
    let blocks = filled(&space, &LENGTHS);
    let more: Vec<_> = (100..105u64).map(|n| (space.derive_key(&n.to_le_bytes()), content(n, 5000))).collect();
    let before = client.counters();
    fake.state.set(Trick::GoAway(2));
    assert_hits(space.get(&keys(&blocks)), &blocks);
    fake.state.set(Trick::GoAwayInTheMiddle(1));
    assert_hits(space.get(&keys(&blocks)), &blocks);
    fake.state.set(Trick::GoAway(2));
    assert!(space.contains(&keys(&blocks)).iter().all(Result::is_ok));
    fake.state.set(Trick::GoAway(1));
    assert_eq!(space.match_prefix(&keys(&blocks), None).n, blocks.len());
    fake.state.set(Trick::GoAway(2));
    let items: Vec<_> = more.iter().map(|(key, bytes)| (*key, bytes.as_slice())).collect();
    assert!(space.put(&items).iter().all(|outcome| outcome.is_kept()));
    let now = client.counters();
    assert!(now.broken - before.broken >= 8, "every call was asked again: {now:?}");
    let n = blocks.len() as u64;
    let told = [
        ("get", now.get.asked - before.get.asked, now.get.adds_up(), 2 * n),
        ("contains", now.contains.asked, now.contains.adds_up(), n),
        ("match", now.matched.asked, now.matched.adds_up(), n),
        ("put", now.put.asked - before.put.asked, now.put.adds_up(), n),
    ];
    let wrong = told.into_iter().find(|(_, asked, adds_up, right)| asked != right || !adds_up);
    wrong.map(|(verb, asked, ..)| format!("{verb} counts {asked} keys: {now:?}"))
}

#[test]
fn a_key_is_counted_once_however_often_it_was_tried() {
    for fake in [Fake::unix(), Fake::tcp()] {
        assert_eq!(counted_wrong(&fake, None), None);
    }
}

#[test]
fn counting_a_retry_again_is_found() {
    for fake in [Fake::unix(), Fake::tcp()] {
        let wrong = counted_wrong(&fake, Some(Mutant::RetryCounted));
        assert!(wrong.is_some(), "RetryCounted was not found");
    }
}

#[test]
fn a_shard_that_is_another_now_is_asked_for_within_the_same_call() {
    for mut fake in [Fake::unix(), Fake::tcp()] {
        let (client, space) = attached(&fake, Options::default());
        let blocks = filled(&space, &LENGTHS);
        fake.stop();
        *fake.state.shards.lock().unwrap() = vec![shard_id(9)];
        fake.state.epoch.store(2, Ordering::Relaxed);
        fake.start();
        assert_hits(space.get(&keys(&blocks)), &blocks);
        let counters = client.counters();
        assert_eq!((counters.moved, counters.get.hits()), (blocks.len() as u64, blocks.len() as u64));
        assert_adds_up(&client);
    }
}

#[test]
fn what_nobody_says_is_his_is_not_mine_after_one_more_look_and_counted_once() {
    let fake = Fake::unix();
    let (client, space) = attached(&fake, Options { connections: 1, ..Options::default() });
    let blocks = filled(&space, &LENGTHS);
    let names = keys(&blocks);
    // The connection that is open is let go first.
    fake.state.elsewhere.store(true, Ordering::Relaxed);
    fake.state.set(Trick::GoAway(1));
    assert!(space.get(&names).iter().all(|result| result.miss() == Some(MissReason::NotMine)));
    let connections = fake.state.connections.load(Ordering::Relaxed);
    assert!(space.get(&names).iter().all(|result| result.miss() == Some(MissReason::NotMine)));
    let tried = fake.state.connections.load(Ordering::Relaxed) - connections;
    assert_eq!(tried, 2, "asked once more, and not again and again");
    assert_eq!(space.contains(&names), vec![Err(MissReason::NotMine); names.len()]);
    assert_eq!(space.match_prefix(&names, None).gap, Some(MissReason::NotMine));
    assert_eq!(space.put(&[(names[0], &blocks[0].1)]), [PutOutcome::Refused(RefusedReason::Unavailable)]);
    let counters = client.counters();
    assert_eq!(counters.get.missed(MissReason::NotMine), 2 * names.len() as u64);
    assert_adds_up(&client);
    // It is back where it was.
    fake.state.elsewhere.store(false, Ordering::Relaxed);
    assert_hits(space.get(&names), &blocks);
}

#[test]
fn a_miss_is_handed_on_with_the_reason_that_the_node_gives() {
    for fake in [Fake::unix(), Fake::tcp()] {
        let (client, space) = attached(&fake, Options::default());
        let absent: Vec<_> = (0..7u64).map(|n| space.derive_key(&n.to_le_bytes())).collect();
        // A node asked for no key that is another's says `not_mine` at the greeting only; of a single key the client takes it the same way.
        for reason in MissReason::ALL.iter().copied().filter(|reason| *reason != MissReason::NotMine) {
            *fake.state.misses.lock().unwrap() = Some(reason);
            let before = client.counters();
            assert!(space.get(&absent).iter().all(|result| result.miss() == Some(reason)), "{reason}");
            assert_eq!(space.contains(&absent), vec![Err(reason); absent.len()]);
            let now = client.counters();
            assert_eq!(now.get.missed(reason) - before.get.missed(reason), absent.len() as u64, "{reason}");
            assert_adds_up(&client);
        }
    }
}
