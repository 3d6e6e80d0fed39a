//! The asynchronous face: without any runtime, with many calls at once, with calls that nobody waits for, and with nodes that die.

use std::os::fd::AsFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use forebay_client::{Call, Completions, Lending, LentResult, Options, PutBlock};
use forebay_types::{MissReason, PutOutcome, RefusedReason};
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::fake::{Fake, Trick, wait_ms};
use crate::{assert_adds_up, assert_hits, attached, content, filled, keys};

/// The smallest runtime there is.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(done) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return done;
        }
        std::thread::park();
    }
}

#[test]
fn every_verb_does_what_the_blocking_one_does() {
    for fake in [Fake::unix(), Fake::tcp()] {
        let (client, _) = attached(&fake, Options::default());
        let asynchronous = client.asynchronous(64);
        block_on(async {
            let space = asynchronous.namespace("kv").await.unwrap();
            let blocks: Vec<_> =
                (0..20u64).map(|n| (space.blocking().derive_key(&n.to_le_bytes()), content(n, 5000))).collect();
            let puts = blocks.iter().map(|(key, bytes)| PutBlock::new(*key, bytes.clone())).collect();
            assert!(space.put_blocks(puts).await.iter().all(|outcome| outcome.is_kept()));
            assert_hits(space.get(keys(&blocks)).await, &blocks);
            let range = space.get_ranges(vec![(blocks[3].0, 100..200)]).await.remove(0).hit().unwrap();
            assert!(*range == blocks[3].1[100..200]);
            assert_eq!(space.match_prefix(keys(&blocks), None).await.n, 20);
            assert!(space.contains(keys(&blocks)).await.iter().all(Result::is_ok));
            assert_eq!(space.forget(keys(&blocks)[..1].to_vec()).await.unwrap(), [true]);
            assert_eq!(space.get(keys(&blocks)).await[0].miss(), Some(MissReason::Absent));
        });
        assert_eq!(asynchronous.in_flight(), 0);
        assert_adds_up(&client);
    }
}

#[test]
fn many_calls_are_in_flight_and_one_too_many_is_busy() {
    let fake = Fake::unix();
    let (client, space) = attached(&fake, Options::default());
    let blocks = filled(&space, &[20_000; 8]);
    let asynchronous = client.asynchronous(200);
    let space = asynchronous.of(&space.with_deadline(Duration::from_secs(3)));
    let before = client.counters().get.asked;
    fake.state.set(Trick::Silent);
    let calls: Vec<Call<_>> = (0..200).map(|_| space.get(keys(&blocks))).collect();
    assert_eq!(asynchronous.in_flight(), 200);
    assert!(block_on(space.get(keys(&blocks))).iter().all(|result| result.miss() == Some(MissReason::Busy)));
    let put = vec![PutBlock::new(blocks[0].0, vec![1; 10])];
    assert_eq!(block_on(space.put_blocks(put)), [PutOutcome::Refused(RefusedReason::Busy)]);
    assert_eq!(block_on(space.match_prefix(keys(&blocks), None)).gap, Some(MissReason::Busy));
    assert!(block_on(space.forget(keys(&blocks))).is_err());
    // Those under way end by their deadline; those in line, which nobody wants any more, never begin.
    drop(calls);
    while asynchronous.in_flight() > 0 {
        wait_ms(5);
    }
    let asked = client.counters().get.asked - before - blocks.len() as u64;
    assert!(asked <= 16 * blocks.len() as u64, "{asked} keys were asked for though nobody waited");
    assert_adds_up(&client);
}

#[test]
fn blocks_come_to_lent_places_by_futures_and_dropped_ones_give_their_places_back() {
    const ROOM: usize = 64 << 10;
    let fake = Fake::unix();
    let (client, space) = attached(&fake, Options::default());
    let blocks = filled(&space, &[20_000; 4]);
    let asynchronous = client.asynchronous(1);
    let space = asynchronous.of(&space.with_deadline(Duration::from_secs(2)));
    let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
    for how in [Lending::Copied, Lending::Direct] {
        let fd = rustix::fs::memfd_create("engine", flags).unwrap();
        rustix::fs::ftruncate(&fd, 4 * ROOM as u64).unwrap();
        rustix::fs::fcntl_add_seals(&fd, rustix::fs::SealFlags::SHRINK).unwrap();
        let memory = asynchronous.lend(fd, 4 * ROOM, how).unwrap();
        let places = || {
            let place = |n: usize| memory.place(n * ROOM, ROOM).unwrap();
            keys(&blocks).into_iter().zip(0..).map(|(key, n)| (key, place(n))).collect::<Vec<_>>()
        };
        for (result, (_, bytes)) in block_on(space.get_lent(places())).into_iter().zip(&blocks) {
            let LentResult::Hit(block) = result else { panic!("{result:?}") };
            assert!(*block == bytes[..] && block.is_direct() == (how == Lending::Direct));
        }
        // One call is under way, and its places are its own; one more is told so, and has its places back.
        fake.state.set(Trick::Silent);
        let mut asked = places();
        let call = space.get_lent(asked.split_off(2));
        for result in block_on(space.get_lent(asked)) {
            assert!(matches!(&result, LentResult::Miss { reason: MissReason::Busy, place: Some(_) }), "{result:?}");
        }
        assert!(memory.place(2 * ROOM, ROOM).is_err());
        drop(call);
        while asynchronous.in_flight() > 0 {
            wait_ms(5);
        }
        fake.state.set(Trick::None);
        assert!(client.wait_reachable(Duration::from_secs(30)));
        // Its time is over and the node has said that it is done.
        for _ in 0..3000 {
            if memory.place(0, 4 * ROOM).is_ok() {
                break;
            }
            wait_ms(10);
        }
        assert!(memory.place(0, 4 * ROOM).is_ok(), "{} bytes are withheld", memory.withheld_bytes());
    }
    assert_adds_up(&client);
}

#[test]
fn a_call_in_line_has_no_more_time_than_its_own() {
    let fake = Fake::unix();
    let (client, space) = attached(&fake, Options { connections: 1, ..Options::default() });
    let blocks = filled(&space, &[5000; 4]);
    let asynchronous = client.asynchronous(64);
    let space = asynchronous.of(&space.with_deadline(Duration::from_millis(50)));
    fake.state.set(Trick::Silent);
    // One thread, because there is one connection: all but the first wait in line and then have nothing left.
    let calls: Vec<_> = (0..10).map(|_| space.get(keys(&blocks))).collect();
    for call in calls {
        for result in block_on(call) {
            assert!(matches!(result.miss(), Some(MissReason::Deadline | MissReason::Unavailable)), "{result:?}");
        }
    }
    fake.state.set(Trick::None);
    assert!(client.wait_reachable(Duration::from_secs(30)));
    assert_hits(block_on(space.with_deadline(Duration::from_secs(30)).get(keys(&blocks))), &blocks);
    assert_adds_up(&client);
}

#[test]
fn what_a_dropped_call_owns_is_not_given_to_others_before_the_node_is_done() {
    let fake = Fake::unix();
    let (client, space) = attached(&fake, Options { region_bytes: 16 << 20, connections: 1, ..Options::default() });
    let blocks = filled(&space, &[1 << 20; 4]);
    let asynchronous = client.asynchronous(64);
    let hasty = asynchronous.of(&space.with_deadline(Duration::from_millis(40)));
    for round in 0..4 {
        fake.state.set(Trick::Silent);
        let calls: Vec<_> = (0..4).map(|_| hasty.get(keys(&blocks))).collect();
        wait_ms(5 * round);
        drop(calls);
        while asynchronous.in_flight() > 0 {
            wait_ms(1);
        }
        fake.state.set(Trick::None);
        assert!(client.wait_reachable(Duration::from_secs(30)));
        assert_hits(block_on(asynchronous.of(&space).get(keys(&blocks))), &blocks);
    }
    drop(client.alloc(11 << 20).expect("all slices came back"));
    assert_adds_up(&client);
}

#[test]
fn a_node_that_is_killed_answers_every_call_and_serves_again() {
    let mut fake = Fake::unix();
    let (client, space) = attached(&fake, Options { patience: Duration::ZERO, ..Options::default() });
    let blocks = filled(&space, &[100_000; 8]);
    let asynchronous = client.asynchronous(256);
    let space = asynchronous.of(&space);
    let calls: Vec<_> = (0..100).map(|_| space.get(keys(&blocks))).collect();
    fake.stop();
    for call in calls {
        for (result, (_, bytes)) in block_on(call).into_iter().zip(&blocks) {
            match result.miss() {
                Some(reason) => assert_eq!(reason, MissReason::Unavailable),
                None => assert!(*result.hit().unwrap() == bytes[..]),
            }
        }
    }
    fake.start();
    assert!(client.wait_reachable(Duration::from_secs(30)));
    assert_hits(block_on(space.get(keys(&blocks))), &blocks);
    assert_adds_up(&client);
}

#[test]
fn a_loop_of_its_own_waits_for_one_descriptor() {
    let fake = Fake::unix();
    let (client, space) = attached(&fake, Options::default());
    let blocks = filled(&space, &[5000; 4]);
    let space = client.asynchronous(64).of(&space.with_deadline(Duration::from_secs(30)));
    let completions = Completions::new().unwrap();
    let readable = |ms: i64| {
        let timeout = Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
        rustix::event::poll(&mut [PollFd::from_borrowed_fd(completions.as_fd(), PollFlags::IN)], Some(&timeout))
            .unwrap()
            == 1
    };
    assert!(!readable(0) && completions.drain().is_empty());
    let mut calls: Vec<Option<Call<_>>> = (0..40).map(|_| Some(space.get(keys(&blocks)))).collect();
    for (token, call) in calls.iter().enumerate() {
        completions.watch(token as u64, call.as_ref().unwrap());
    }
    let mut finished = 0;
    while finished < calls.len() {
        assert!(readable(30_000), "calls are unfinished and nobody tells");
        for token in completions.drain() {
            let mut call = calls[token as usize].take().expect("a token was told twice");
            assert_hits(call.try_take().expect("told, and no answer"), &blocks);
            finished += 1;
        }
    }
    assert!(!readable(0), "readable with nothing to drain");
    assert_adds_up(&client);
}
