//! Landings that come after every deadline, and after the node is gone: not a byte of memory that was given back changes.
//!
//! The fake node takes the places it is told and writes them when the test says so. By then the calls have returned and the application uses
//! whatever memory it can get: blocks it holds, slices, buffers of its own. Each guard is then left out in turn, and the same test finds it missing.

use std::time::Duration;

use forebay_client::{Block, Client, GetResult, IntoError, Mutant, NamespaceHandle, Options, Slice};
use forebay_types::MissReason;

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
    let hasty = space.with_deadline(Duration::from_millis(40));
    let why = if and_gone { MissReason::Unavailable } else { MissReason::Deadline };
    let late = |call: &mut dyn FnMut()| {
        fake.state.set(Trick::Late(and_gone));
        call();
        fake.state.set(Trick::None);
        // It is heard of again, and so is not taken for dead on a machine that is slow.
        assert!(space.contains(&keys[..1])[0].is_ok());
    };
    late(&mut || assert!(hasty.get(&keys).iter().all(|result| result.miss() == Some(why))));
    late(&mut || hasty.get_each(&keys[..2], |_, result| assert_eq!(result.unwrap_err(), why)));
    let mut buffer = vec![0xaa; BLOCK];
    late(&mut || assert_eq!(hasty.get_into(&keys[..1], &mut [&mut buffer]), [Err(IntoError::Miss(why))]));
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
