//! Memory that the caller lends: blocks come to the places they were wanted in, and no place that was given back changes afterwards, whatever lands
//! late. What may still be written to is withheld until the node says that it has ended, or has started anew.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use forebay_client::{Client, ClientError, Lending, LentMemory, LentResult, Mutant, NamespaceHandle, Options, Place};
use forebay_types::{Key, LandingKind, MissReason};

use crate::fake::{Fake, Ghost, Trick, lock};
use crate::{assert_adds_up, attached, filled, keys};

const BYTES: usize = 4 << 20;
const BLOCK: usize = 300_000;
const ROOM: usize = 512 << 10;

fn memfd(seals: rustix::fs::SealFlags) -> OwnedFd {
    let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("engine", flags).unwrap();
    rustix::fs::ftruncate(&fd, BYTES as u64).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

/// Lent memory, and the engine's own hand on it.
fn lent(client: &Client, how: Lending) -> (LentMemory, OwnedFd) {
    let fd = memfd(rustix::fs::SealFlags::SHRINK);
    (client.lend(fd.try_clone().unwrap(), BYTES, how).unwrap(), fd)
}

fn places(memory: &LentMemory, keys: &[Key]) -> Vec<(Key, Place)> {
    keys.iter().zip(0..).map(|(key, n)| (*key, memory.place(n * ROOM, ROOM).unwrap())).collect()
}

fn bytes_of(fd: &OwnedFd, offset: usize, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    assert_eq!(rustix::io::pread(fd, &mut bytes, offset as u64).unwrap(), length);
    bytes
}

/// Gets blocks into lent memory; all are hits, and lie where the engine finds them. Says how many came there without a copy.
fn got(space: &NamespaceHandle, memory: &LentMemory, fd: &OwnedFd, stored: &[(Key, Vec<u8>)]) -> usize {
    let mut direct = 0;
    for ((result, (key, bytes)), n) in space.get_lent(places(memory, &keys(stored))).into_iter().zip(stored).zip(0..) {
        let LentResult::Hit(block) = result else { panic!("{result:?}") };
        assert!(*block == bytes[..] && block.meta().key == *key);
        assert!(bytes_of(fd, n * ROOM, bytes.len()) == *bytes, "the engine finds other bytes");
        direct += usize::from(block.is_direct());
        assert_eq!(block.into_place().len(), ROOM);
    }
    assert_eq!(memory.withheld_bytes(), 0);
    drop(memory.place(0, BYTES).expect("every place came back"));
    direct
}

#[test]
fn blocks_come_to_their_places_on_every_way() {
    let both = [Fake::unix(), Fake::tcp()];
    for (fake, unix) in both.iter().zip([true, false]) {
        let (client, space) = attached(fake, Options::default());
        let stored = filled(&space, &[1, 4096, 65_537, BLOCK, BLOCK]);
        for how in [Lending::Copied, Lending::Direct] {
            let (memory, fd) = lent(&client, how);
            for (from_drive, streams) in [(false, false), (true, false), (false, true)] {
                fake.state.direct.store(from_drive, Ordering::Relaxed);
                fake.state.stream.store(streams, Ordering::Relaxed);
                let before = client.counters();
                let direct = got(&space, &memory, &fd, &stored);
                assert_eq!(direct, if unix && how == Lending::Direct && !streams { stored.len() } else { 0 });
                let after = client.counters();
                let kind = if from_drive { LandingKind::Direct } else { LandingKind::Bounce };
                let landed = after.lent_landings[kind.index()] - before.lent_landings[kind.index()];
                assert_eq!(landed as usize, direct);
                assert_eq!((after.lent_copied - before.lent_copied) as usize, stored.len() - direct);
            }
            fake.state.stream.store(false, Ordering::Relaxed);
        }
        assert_adds_up(&client);
    }
}

#[test]
fn a_place_too_small_a_wrong_byte_and_a_block_that_is_not_there_give_it_back() {
    let fake = Fake::unix();
    let (client, space) = attached(&fake, Options::default());
    let stored = filled(&space, &[BLOCK]);
    for how in [Lending::Copied, Lending::Direct] {
        let (memory, _fd) = lent(&client, how);
        let small = memory.place(0, 8192).unwrap();
        let result = space.get_lent(vec![(stored[0].0, small)]).remove(0);
        let LentResult::TooSmall { need, place } = result else { panic!("{result:?}") };
        assert_eq!((need, place.len()), (BLOCK, 8192));
        drop(place);
        fake.state.set(Trick::Flip(77_777));
        let result = space.get_lent(places(&memory, &keys(&stored))).remove(0);
        assert!(matches!(&result, LentResult::Miss { reason: MissReason::Corrupt, place: Some(_) }), "{result:?}");
        fake.state.set(Trick::None);
        drop(result);
        let result = space.get_lent(places(&memory, &[space.derive_key(b"nothing")])).remove(0);
        assert!(matches!(&result, LentResult::Miss { reason: MissReason::Absent, place: Some(_) }), "{result:?}");
        drop(result);
        drop(memory.place(0, BYTES).unwrap());
    }
    assert_adds_up(&client);
}

#[test]
fn what_cannot_be_lent_or_taken_is_refused_with_a_sentence() {
    let fake = Fake::unix();
    let (client, _) = attached(&fake, Options::default());
    let error = client.lend(memfd(rustix::fs::SealFlags::GROW), BYTES, Lending::Direct).unwrap_err().to_string();
    assert!(error.contains("F_SEAL_SHRINK"), "{error}");
    let file = std::fs::File::open("/proc/self/maps").unwrap();
    assert!(matches!(client.lend(file.into(), BYTES, Lending::Copied), Err(ClientError::Invalid(_))));
    let held: Vec<LentMemory> = (0..16).map(|_| lent(&client, Lending::Direct).0).collect();
    let error = client.lend(memfd(rustix::fs::SealFlags::SHRINK), BYTES, Lending::Direct).unwrap_err().to_string();
    assert!(error.contains("16 memories"), "{error}");
    drop(held);
    let (memory, _fd) = lent(&client, Lending::Direct);
    let place = memory.place(4096, 4096).unwrap();
    for (offset, bytes) in [(0, 4097), (4096, 1), (100, 1), (BYTES, 1), (0, BYTES + 1)] {
        assert!(matches!(memory.place(offset, bytes), Err(ClientError::PlaceTaken { .. })), "{offset}+{bytes}");
    }
    drop(place);
}

/// Everything of the memory that can be had, marked.
fn marked(memory: &LentMemory) -> Vec<Place> {
    let mut all = Vec::new();
    for offset in (0..BYTES).step_by(4096) {
        if let Ok(mut place) = memory.place(offset, 4096) {
            place.fill(0xa5);
            all.push(place);
        }
    }
    all
}

/// Calls that end without their landings; then the landings come. Gives the bytes that changed in what the engine had by then, and the bytes
/// that were withheld from it.
fn changed_by_late_landings(and_gone: bool, mutant: Option<Mutant>) -> (usize, usize) {
    let fake = Fake::unix();
    let options = Options { patience: Duration::ZERO, mutant, ..Options::default() };
    let (client, space) = attached(&fake, options);
    let stored = filled(&space, &[BLOCK; 4]);
    let (memory, _fd) = lent(&client, Lending::Direct);
    fake.state.set(Trick::Late(and_gone));
    let why = if and_gone { MissReason::Unavailable } else { MissReason::Deadline };
    let hasty = space.with_deadline(Duration::from_millis(40));
    let mut held = Vec::new();
    for result in hasty.get_lent(places(&memory, &keys(&stored))) {
        let LentResult::Miss { reason, place } = result else { panic!("{result:?}") };
        assert_eq!(reason, why);
        held.extend(place);
    }
    assert!(held.is_empty() || mutant.is_some(), "a place was given back that is still written to");
    held.iter_mut().for_each(|place| place.fill(0xa5));
    fake.state.set(Trick::None);
    let withheld = memory.withheld_bytes();
    held.extend(marked(&memory));
    let ghosts = std::mem::take(&mut *lock(&fake.state.late));
    assert_eq!(ghosts.len(), 4, "not all landings were under way");
    ghosts.iter().for_each(|ghost| ghost.write(0xee));
    assert_adds_up(&client);
    let changed = held.iter().map(|place| place.iter().filter(|byte| **byte != 0xa5).count()).sum();
    (changed, withheld)
}

#[test]
fn a_landing_after_its_deadline_changes_no_place_that_was_given_back() {
    assert_eq!(changed_by_late_landings(false, None).0, 0);
}

#[test]
fn a_landing_after_its_node_is_gone_changes_no_place_that_was_given_back() {
    assert_eq!(changed_by_late_landings(true, None), (0, 4 * ROOM));
}

#[test]
fn giving_back_what_is_overdue_is_found() {
    assert_ne!(changed_by_late_landings(false, Some(Mutant::ReuseOverdue)).0, 0, "the test cannot fail");
}

#[test]
fn giving_back_what_broke_off_is_found() {
    assert_ne!(changed_by_late_landings(true, Some(Mutant::ReuseBroken)).0, 0, "the test cannot fail");
}

#[test]
fn a_place_comes_back_when_the_node_says_that_its_landing_has_ended() {
    let fake = Fake::unix();
    let (client, space) = attached(&fake, Options { patience: Duration::from_secs(60), ..Options::default() });
    let stored = filled(&space, &[BLOCK; 4]);
    let (memory, fd) = lent(&client, Lending::Direct);
    fake.state.set(Trick::Silent);
    let hasty = space.with_deadline(Duration::from_millis(40));
    let results = hasty.get_lent(places(&memory, &keys(&stored)));
    assert!(results.iter().all(|result| matches!(result, LentResult::Miss { place: None, .. })), "{results:?}");
    assert_eq!(client.counters().lent_withheld, 4);
    fake.state.set(Trick::None);
    // It answers the cancels at once, so its word may be here already; else it comes with whatever is asked next.
    while memory.place(0, BYTES).is_err() {
        assert!(space.contains(&keys(&stored)).iter().all(Result::is_ok));
    }
    got(&space, &memory, &fd, &stored);
    assert_eq!(client.counters().lent_freed, 0);
}

#[test]
fn a_place_comes_back_when_its_node_has_started_anew_and_not_before() {
    let mut fake = Fake::unix();
    let (client, space) = attached(&fake, Options { patience: Duration::ZERO, ..Options::default() });
    let stored = filled(&space, &[BLOCK; 4]);
    let (memory, fd) = lent(&client, Lending::Direct);
    fake.state.set(Trick::Late(true));
    let results = space.get_lent(places(&memory, &keys(&stored)));
    assert!(results.iter().all(|result| matches!(result, LentResult::Miss { place: None, .. })), "{results:?}");
    fake.state.set(Trick::None);
    // The same node over a new connection: what the old one had under way may still come, for it holds the memory.
    assert!(client.wait_reachable(Duration::from_secs(30)));
    assert!(space.contains(&keys(&stored)).iter().all(Result::is_ok));
    assert_eq!(memory.withheld_bytes(), 4 * ROOM);
    assert!(memory.place(0, ROOM).is_err());
    fake.stop();
    assert_eq!(space.contains(&keys(&stored)[..1]), [Err(MissReason::Unavailable)]);
    assert_eq!(memory.withheld_bytes(), 4 * ROOM, "that a node is gone proves nothing");
    fake.start();
    assert!(client.wait_reachable(Duration::from_secs(30)));
    assert!(space.contains(&keys(&stored)).iter().all(Result::is_ok));
    assert_eq!((memory.withheld_bytes(), client.counters().lent_freed), (0, 4));
    got(&space, &memory, &fd, &stored);
    assert_adds_up(&client);
}

/// Gets that break off with their connection; what they lent is in the fake node's hand.
fn broken_off(space: &NamespaceHandle, memory: &LentMemory, fake: &Fake, stored: &[(Key, Vec<u8>)]) {
    fake.state.set(Trick::Late(true));
    let results = space.get_lent(places(memory, &keys(stored)));
    assert!(results.iter().all(|result| matches!(result, LentResult::Miss { place: None, .. })), "{results:?}");
    fake.state.set(Trick::None);
    assert_eq!(memory.withheld_bytes(), 4 * ROOM);
}

#[test]
fn a_place_comes_back_when_its_connection_broke_and_the_node_that_lives_has_let_go() {
    let fake = Fake::unix();
    // One connection, which is idle when the place may come back: it makes way for a greeting.
    for connections in [1, 16] {
        let options = Options { patience: Duration::ZERO, connections, ..Options::default() };
        let (client, space) = attached(&fake, options);
        let stored = filled(&space, &[BLOCK; 4]);
        let (memory, fd) = lent(&client, Lending::Direct);
        broken_off(&space, &memory, &fake, &stored);
        assert!(client.wait_reachable(Duration::from_secs(30)));
        let all_there = || space.contains(&keys(&stored)).iter().all(Result::is_ok);
        assert!(all_there() && all_there());
        assert_eq!(memory.withheld_bytes(), 4 * ROOM, "something is on its way");
        // Three of four have landed: the connection has not let go.
        let mut ghosts = std::mem::take(&mut *lock(&fake.state.late));
        ghosts.drain(1..).for_each(|ghost| ghost.write(0xee));
        assert!(all_there());
        assert_eq!(memory.withheld_bytes(), 4 * ROOM, "one is still on its way");
        ghosts.drain(..).for_each(|ghost| ghost.write(0xee));
        assert!(all_there());
        assert_eq!((memory.withheld_bytes(), client.counters().lent_freed), (0, 4));
        assert_eq!(client.counters().restarts, 0);
        let before = fake.state.connections.load(Ordering::Relaxed);
        got(&space, &memory, &fd, &stored);
        assert!(all_there());
        assert_eq!(fake.state.connections.load(Ordering::Relaxed), before, "and nobody greets for nothing");
        assert_adds_up(&client);
    }
}

/// A connection breaks, its node lives and is talked to; then the landings come. Bytes changed in what the engine had by then.
fn changed_behind_a_break(mutant: Option<Mutant>) -> usize {
    let fake = Fake::unix();
    let (client, space) = attached(&fake, Options { patience: Duration::ZERO, mutant, ..Options::default() });
    let stored = filled(&space, &[BLOCK; 4]);
    let (memory, _fd) = lent(&client, Lending::Direct);
    broken_off(&space, &memory, &fake, &stored);
    assert!(client.wait_reachable(Duration::from_secs(30)));
    assert!((0..3).all(|_| space.contains(&keys(&stored)).iter().all(Result::is_ok)));
    let held = marked(&memory);
    lock(&fake.state.late).drain(..).for_each(|ghost| ghost.write(0xee));
    held.iter().map(|place| place.iter().filter(|byte| **byte != 0xa5).count()).sum()
}

/// The node is killed: with it goes its hand on the memory, and what its drive was told to write there is still to come. Bytes changed.
fn changed_behind_a_kill(mutant: Option<Mutant>) -> usize {
    let mut fake = Fake::unix();
    let (client, space) = attached(&fake, Options { patience: Duration::ZERO, mutant, ..Options::default() });
    let stored = filled(&space, &[BLOCK; 4]);
    let (memory, _fd) = lent(&client, Lending::Direct);
    broken_off(&space, &memory, &fake, &stored);
    fake.stop();
    let ghosts: Vec<_> = lock(&fake.state.late).drain(..).map(Ghost::of_the_dead).collect();
    for _ in 0..3 {
        assert!(space.contains(&keys(&stored)).iter().all(Result::is_err));
    }
    let held = marked(&memory);
    ghosts.iter().for_each(|ghost| ghost.write(0xee));
    held.iter().map(|place| place.iter().filter(|byte| **byte != 0xa5).count()).sum()
}

#[test]
fn a_landing_behind_a_broken_connection_or_a_killed_node_changes_no_place_that_was_given_back() {
    assert_eq!((changed_behind_a_break(None), changed_behind_a_kill(None)), (0, 0));
}

#[test]
fn taking_a_greeting_for_proof_is_found() {
    assert_ne!(changed_behind_a_break(Some(Mutant::GreetingIsEnough)), 0, "the test cannot fail");
}

#[test]
fn taking_a_dead_nodes_letting_go_for_proof_is_found() {
    assert_ne!(changed_behind_a_kill(Some(Mutant::LetGoIsEnough)), 0, "the test cannot fail");
}
