//! Landings that come after every deadline, and after the node is gone: not a byte of memory that was given back changes.
//!
//! The fake node takes the places it is told and writes them when the test says so. By then the calls have returned and the application uses
//! whatever memory it can get: blocks it holds, slices, buffers of its own. Each guard is then left out in turn, and the same test finds it missing.

use std::time::Duration;

use forebay_client::{Block, Client, GetResult, IntoError, Mutant, NamespaceHandle, Options, Slice};
use forebay_types::{Clock, MissReason, SystemClock};

use crate::fake::{Fake, Trick, lock};
use crate::{assert_adds_up, attached, filled, keys};

const REGION_BYTES: usize = 16 << 20;
const BLOCK: usize = 300_000;

/// Memory that the application has, and what it must read.
struct Held {
    slices: Vec<(Slice, u8)>,
    blocks: Vec<(Block, Vec<u8>)>,
    buffers: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Held {
    /// Everything that the client gives out now.
    fn all(client: &Client, space: &NamespaceHandle, stored: &[(forebay_types::Key, Vec<u8>)]) -> Held {
        let keys = keys(stored);
        let mut held = Held { slices: Vec::new(), blocks: Vec::new(), buffers: Vec::new() };
        for (result, (_, bytes)) in space.get(&keys).into_iter().zip(stored) {
            let GetResult::Hit(block) = result else { panic!("an honest node missed") };
            held.blocks.push((block, bytes.clone()));
        }
        let mut buffers = vec![vec![0; BLOCK]; keys.len()];
        let mut lent: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        assert!(space.get_into(&keys, &mut lent).iter().all(|result| *result == Ok(BLOCK)));
        held.buffers = buffers.into_iter().zip(stored.iter().map(|(_, bytes)| bytes.clone())).collect();
        for size in [1 << 20, 64 << 10, 4 << 10] {
            while let Ok(mut slice) = client.alloc(size) {
                let byte = held.slices.len() as u8;
                slice.fill(byte);
                held.slices.push((slice, byte));
            }
        }
        held
    }

    /// Bytes that are not what they were.
    fn changed(&self) -> usize {
        let of = |now: &[u8], was: &[u8]| now.iter().zip(was).filter(|(now, was)| now != was).count();
        let slices: usize = self.slices.iter().map(|(s, byte)| s.iter().filter(|now| *now != byte).count()).sum();
        slices
            + self.blocks.iter().map(|(block, was)| of(block, was)).sum::<usize>()
            + self.buffers.iter().map(|(now, was)| of(now, was)).sum::<usize>()
    }
}

/// Calls that end without their landings, in every way a call can take blocks; then the landings come. Gives the bytes that changed.
fn changed_by_late_landings(and_gone: bool, mutant: Option<Mutant>) -> usize {
    let fake = Fake::unix();
    let options = Options { region_bytes: REGION_BYTES, patience: Duration::ZERO, mutant, ..Options::default() };
    let (client, space) = attached(&fake, options);
    let stored = filled(&space, &[BLOCK; 4]);
    let keys = keys(&stored);
    // Who is gone is found to be gone, however long that takes; who is silent is waited for.
    let hasty = space.with_deadline(Duration::from_millis(if and_gone { 10_000 } else { 40 }));
    let why = if and_gone { MissReason::Unavailable } else { MissReason::Deadline };
    let under_way = || lock(&fake.state.late).len();
    let late = |landings: usize, call: &mut dyn FnMut()| {
        // On a slow machine the time may be over before the node has heard of all; then once more.
        let before = under_way();
        for _ in 0..10 {
            fake.state.set(Trick::Late(and_gone));
            call();
            fake.state.set(Trick::None);
            // It is heard of again, and so is not taken for dead on a machine that is slow.
            assert!(space.contains(&keys[..1])[0].is_ok());
            if under_way() >= before + landings {
                return;
            }
        }
    };
    late(4, &mut || assert!(hasty.get(&keys).iter().all(|result| result.miss() == Some(why))));
    late(2, &mut || hasty.get_each(&keys[..2], |_, result| assert_eq!(result.unwrap_err(), why)));
    let mut buffer = vec![0xaa; BLOCK];
    late(1, &mut || assert_eq!(hasty.get_into(&keys[..1], &mut [&mut buffer]), [Err(IntoError::Miss(why))]));
    let held = Held::all(&client, &space, &stored);
    let ghosts = std::mem::take(&mut *lock(&fake.state.late));
    assert!(ghosts.len() >= 7, "only {} landings were under way", ghosts.len());
    for byte in [0xee, 0x11] {
        ghosts.iter().for_each(|ghost| ghost.write(byte));
    }
    assert!(buffer.iter().all(|byte| *byte == 0xaa), "the caller's own buffer was written after the call");
    assert_adds_up(&client);
    held.changed()
}

#[test]
fn a_landing_after_its_deadline_changes_no_byte_that_was_given_back() {
    assert_eq!(changed_by_late_landings(false, None), 0);
}

#[test]
fn a_landing_after_its_node_is_gone_changes_no_byte_that_was_given_back() {
    assert_eq!(changed_by_late_landings(true, None), 0);
}

#[test]
fn reusing_what_is_overdue_is_found() {
    assert_ne!(changed_by_late_landings(false, Some(Mutant::ReuseOverdue)), 0, "the test cannot fail");
}

#[test]
fn reusing_what_broke_off_is_found() {
    assert_ne!(changed_by_late_landings(true, Some(Mutant::ReuseBroken)), 0, "the test cannot fail");
}

#[test]
fn a_landing_after_its_connection_and_client_are_gone_writes_nowhere() {
    let fake = Fake::unix();
    let (client, space) = attached(&fake, Options { region_bytes: REGION_BYTES, ..Options::default() });
    let stored = filled(&space, &[BLOCK; 4]);
    fake.state.set(Trick::Late(false));
    assert!(space.with_deadline(Duration::from_millis(20)).get(&keys(&stored)).iter().all(|r| r.miss().is_some()));
    drop((client, space));
    // The region is unmapped; what lands now has the file to itself. Whatever is mapped in its place is another's.
    let (other, _) = attached(&fake, Options { region_bytes: REGION_BYTES, ..Options::default() });
    let mut slice = other.alloc(8 << 20).unwrap();
    slice.fill(7);
    std::mem::take(&mut *lock(&fake.state.late)).iter().for_each(|ghost| ghost.write(0xee));
    assert!(slice.iter().all(|byte| *byte == 7));
}

/// A caller gives a call up whose blocks the node then does not let go of, and calls again at once, `after_us` after the first call's deadline as it
/// turned out. Gives that and the connections that the two calls made. `None` if the first call's time was too short to ask for everything.
fn connections_of_an_impatient_caller() -> Option<(u64, u32)> {
    let fake = Fake::unix();
    let options = Options { block_bytes_hint: 4 << 20, in_flight_bytes: 64 << 20, ..Options::default() };
    let (client, space) = attached(&fake, options);
    // The memory is there before, so that the first call asks for all its blocks in its short time.
    drop((0..9).map(|_| client.alloc((4 << 20) + 4096).unwrap()).collect::<Vec<Slice>>());
    let asked: Vec<_> = (0..9u8).map(|n| space.derive_key(&[n])).collect();
    assert!(space.contains(&asked[..1])[0].is_err());
    let before = fake.state.connections.load(std::sync::atomic::Ordering::Relaxed);
    fake.state.set(Trick::Late(false));
    let deadline = Duration::from_millis(20);
    let clock = SystemClock::new();
    space.with_deadline(deadline).get(&asked);
    fake.state.set(Trick::None);
    space.with_deadline(Duration::from_millis(2)).get(&asked[..1]);
    let took_us = clock.now_us();
    let made = fake.state.connections.load(std::sync::atomic::Ordering::Relaxed) - before;
    // The connection may be what is wrong: after a while another is tried, and the node answers there.
    while space.contains(&asked[..1])[0] != Err(MissReason::Absent) {}
    let all = lock(&fake.state.late).len() == asked.len();
    all.then(|| (took_us.saturating_sub(deadline.as_micros() as u64), made))
}

#[test]
fn who_gives_calls_up_in_a_row_waits_for_the_memory_of_the_last_instead_of_taking_more() {
    // The node is given 10 ms. On a machine on which the two calls lie further apart it has had them, and nothing can be said.
    for _ in 0..100 {
        match connections_of_an_impatient_caller() {
            Some((apart_us, made)) if apart_us < 9_000 => {
                return assert_eq!(made, 0, "another connection after {apart_us} us");
            }
            _ => {}
        }
    }
    println!("skipped: no two calls lay close enough together");
}
