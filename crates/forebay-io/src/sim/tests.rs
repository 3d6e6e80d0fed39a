//! What the simulated disk promises: what it may forget, tear, delay and damage, and what it must keep.

use super::*;
use crate::Arena;

struct Bench {
    medium: Medium,
    disk: SimDisk,
    arena: Arena,
}

fn bench(options: SimOptions) -> Bench {
    let medium = Medium::new(options);
    Bench { disk: medium.open(), medium, arena: Arena::new(4 << 20).unwrap() }
}

impl Bench {
    fn write(&mut self, token: u64, offset: u64, byte: u8) {
        let mut buf = self.arena.alloc(8192).unwrap();
        buf.fill(byte);
        self.disk.submit(DiskOp::write(token, offset, buf.freeze())).unwrap();
    }

    fn drain(&mut self) -> Vec<DiskDone> {
        let mut done = Vec::new();
        while self.disk.in_flight() > 0 {
            self.disk.wait(&mut done);
        }
        done
    }

    fn at(&self, offset: u64) -> Vec<u8> {
        let mut bytes = vec![0; 8192];
        self.medium.peek(offset, &mut bytes);
        bytes
    }
}

#[test]
fn a_power_cut_keeps_what_was_flushed_and_any_part_of_the_rest() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..64 {
        let mut b = bench(SimOptions { len: 1 << 20, seed, ..Default::default() });
        b.write(1, 0, 1);
        b.drain();
        b.disk.submit(DiskOp::Flush { token: 2 }).unwrap();
        b.drain();
        b.write(3, 0x8000, 2);
        b.drain();
        b.write(4, 0x10000, 3);
        assert_eq!(b.at(0x8000), [2; 8192], "reads see what completed");
        b.medium.crash(seed);
        assert_eq!(b.at(0), [1; 8192]);
        for (at, byte) in [(0x8000, 2), (0x10000, 3)] {
            let bytes = b.at(at);
            for sector in bytes.chunks(512) {
                assert!(sector == [0; 512] || sector == [byte; 512]);
            }
            match bytes.iter().filter(|b| **b != 0).count() {
                0 => lost += 1,
                8192 => kept += 1,
                _ => torn += 1,
            }
        }
        let done = b.drain();
        assert_eq!((done.len(), done[0].token, done[0].result), (1, 4, Err(DiskError::Os(5))));
    }
    assert!(kept > 10 && lost > 10 && torn > 10, "{kept} {lost} {torn}");
}

#[test]
fn a_flush_covers_only_writes_that_had_completed_when_it_was_submitted() {
    let mut ever_lost = false;
    for seed in 0..32 {
        let mut b = bench(SimOptions { len: 1 << 20, seed, ..Default::default() });
        b.write(1, 0, 1);
        b.disk.submit(DiskOp::Flush { token: 2 }).unwrap();
        b.drain();
        b.medium.crash(seed);
        ever_lost |= b.at(0) != [1; 8192];
    }
    assert!(ever_lost);
}

#[test]
fn a_lying_or_failed_flush_saves_nothing_and_a_second_one_neither() {
    for lie in [true, false] {
        let mut ever_lost = false;
        for seed in 0..32 {
            let mut b = bench(SimOptions { len: 1 << 20, seed, ..Default::default() });
            b.medium.lie(lie);
            if !lie {
                b.medium.fault(Fault::next(OpKind::Flush));
            }
            b.write(1, 0, 1);
            b.drain();
            for _ in 0..2 {
                b.disk.submit(DiskOp::Flush { token: 2 }).unwrap();
                b.drain();
            }
            b.medium.crash(seed);
            ever_lost |= b.at(0) != [1; 8192];
        }
        assert!(ever_lost, "lie: {lie}");
    }
}

#[test]
fn an_owner_that_is_gone_writes_nothing_more() {
    let mut b = bench(SimOptions { len: 1 << 20, orderly: true, ..Default::default() });
    let mut next = b.medium.open();
    b.write(1, 0, 1);
    let done = b.drain();
    assert_eq!(done[0].result, Err(DiskError::Os(5)));
    assert_eq!(b.at(0), [0; 8192]);
    next.submit(DiskOp::Flush { token: 9 }).unwrap();
    let mut done = Vec::new();
    next.wait(&mut done);
    assert_eq!(done[0].result, Ok(()));
}

#[test]
fn completions_come_in_any_order_and_held_ones_late() {
    let mut b = bench(SimOptions { len: 1 << 20, ..Default::default() });
    b.medium.hold(OpKind::Write);
    b.write(0, 0, 1);
    let mut reads = Vec::new();
    for token in 1..=20 {
        let into = ReadInto::Buf(b.arena.alloc(4096).unwrap());
        b.disk.submit(DiskOp::Read { token, offset: token * 16384, into }).unwrap();
    }
    while b.disk.in_flight() > 1 {
        b.disk.poll(&mut reads);
    }
    let tokens: Vec<u64> = reads.iter().map(|d| d.token).collect();
    assert!(!tokens.contains(&0) && tokens.len() == 20 && !tokens.is_sorted(), "{tokens:?}");
    b.medium.release();
    assert_eq!(b.drain()[0].token, 0);
}

#[test]
fn a_bad_spot_fails_its_reads_alone_and_a_flipped_bit_is_read_as_flipped() {
    let mut b = bench(SimOptions { len: 1 << 20, orderly: true, ..Default::default() });
    b.medium.fault(Fault::bad_spot(OpKind::Read, 4096..4097));
    b.medium.flip(8192 * 8 + 3);
    for (token, offset) in [(1, 0), (2, 4096), (3, 8192)] {
        let into = ReadInto::Buf(b.arena.alloc(4096).unwrap());
        b.disk.submit(DiskOp::Read { token, offset, into }).unwrap();
    }
    let done = b.drain();
    assert_eq!(done.iter().map(|d| d.result.is_ok()).collect::<Vec<_>>(), [true, false, true]);
    let Some(ReadInto::Buf(buf)) = &done[2].read else { panic!("a read gives its buffer back") };
    assert_eq!(buf[0], 8);
}

#[test]
fn a_copy_taken_at_each_step_can_be_crashed_on_its_own() {
    let mut b = bench(SimOptions { len: 1 << 20, orderly: true, ..Default::default() });
    let seen = Rc::new(RefCell::new(Vec::new()));
    let notes = seen.clone();
    b.medium.on_step(Box::new(move |_, image| {
        image.crash(1);
        let mut first = [0];
        image.peek(0, &mut first);
        notes.borrow_mut().push(first[0]);
    }));
    b.write(1, 0, 7);
    b.drain();
    b.disk.submit(DiskOp::Flush { token: 2 }).unwrap();
    b.drain();
    assert_eq!(seen.borrow().len(), 4, "two operations, each submitted and completed");
    assert_eq!(seen.borrow()[3], 7);
    assert_eq!(b.at(0), [7; 8192]);
}

#[test]
fn the_power_goes_before_the_named_operation() {
    let mut b = bench(SimOptions { len: 1 << 20, orderly: true, ..Default::default() });
    b.medium.crash_at_op(2);
    b.write(1, 0, 1);
    b.drain();
    b.disk.submit(DiskOp::Flush { token: 2 }).unwrap();
    b.drain();
    b.write(3, 0x8000, 1);
    assert_eq!(b.drain()[0].result, Err(DiskError::Os(5)));
    assert_eq!((b.at(0), b.at(0x8000)), (vec![1; 8192], vec![0; 8192]));
}
