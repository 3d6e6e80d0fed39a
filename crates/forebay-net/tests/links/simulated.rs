//! The simulated link answers as the kernel's does, and does the harm it is told to.

use std::fs::File;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};

use forebay_net::sim::{SimLink, SimOptions, pair};
use forebay_net::{FDS_MAX, Link, Socket};

fn receive(link: &dyn Link, room: usize) -> (Vec<u8>, Vec<OwnedFd>) {
    let (mut bytes, mut fds) = (vec![0; room], Vec::new());
    let (a, b) = bytes.split_at_mut(room / 3);
    let n = link.recv(&mut [IoSliceMut::new(a), IoSliceMut::new(b)], &mut fds).unwrap();
    bytes.truncate(n);
    (bytes, fds)
}

fn error_of(link: &dyn Link) -> ErrorKind {
    link.recv(&mut [IoSliceMut::new(&mut [0; 8])], &mut Vec::new()).unwrap_err().kind()
}

/// What both kinds of link must do. Consumes its ends, for it ends with the end.
fn conforms<L: Link>(near: L, far: L) {
    assert_eq!(error_of(&far), ErrorKind::WouldBlock, "nothing there yet");
    near.send(&[IoSlice::new(b"one "), IoSlice::new(b""), IoSlice::new(b"two ")], &[]).unwrap();
    near.send(&[IoSlice::new(b"three")], &[]).unwrap();
    assert_eq!(receive(&far, 5).0, b"one t", "calls do not bound what is received");
    assert_eq!(receive(&far, 100).0, b"wo three");

    let file = File::open("/dev/null").unwrap();
    near.send(&[IoSlice::new(b"plain")], &[]).unwrap();
    near.send(&[IoSlice::new(b"carries")], &[file.as_fd(), file.as_fd()]).unwrap();
    near.send(&[IoSlice::new(b"behind")], &[]).unwrap();
    let (bytes, fds) = receive(&far, 100);
    assert_eq!(
        (bytes.as_slice(), fds.len()),
        (&b"plaincarries"[..], 2),
        "descriptors end a receive, and may come with bytes before theirs"
    );
    let (bytes, fds) = receive(&far, 100);
    assert_eq!((bytes.as_slice(), fds.len()), (&b"behind"[..], 0));
    near.send(&[IoSlice::new(b"carries")], &[file.as_fd()]).unwrap();
    assert_eq!(receive(&far, 3).1.len(), 1, "with the first byte");
    assert_eq!(receive(&far, 100).1.len(), 0);
    let too_many = near.send(&[IoSlice::new(b"x")], &[file.as_fd(); FDS_MAX + 1]).unwrap_err();
    assert_eq!(too_many.kind(), ErrorKind::InvalidInput);

    let chunk = vec![7; 64 * 1024];
    let mut sent = 0;
    let full = loop {
        match near.send(&[IoSlice::new(&chunk)], &[]) {
            Ok(n) => sent += n,
            Err(e) => break e,
        }
    };
    assert_eq!(full.kind(), ErrorKind::WouldBlock);
    assert!(sent > 0);
    near_ends(near, &far, sent);
    let gone = far.send(&[IoSlice::new(b"anyone?")], &[]).unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::BrokenPipe);
}

/// All that was sent before the end is received, then the end.
fn near_ends<L: Link>(near: L, far: &L, sent: usize) {
    drop(near);
    let mut got = 0;
    loop {
        match receive(far, 50_000).0.len() {
            0 => break,
            n => got += n,
        }
    }
    assert_eq!(got, sent);
}

#[test]
fn the_kernels_link_and_the_simulated_one_answer_alike() {
    let (near, far) = Socket::pair().unwrap();
    conforms(near, far);
    let (near, far) = pair(SimOptions::default());
    conforms(near, far);
}

/// Sends `bytes` and receives them, in turns.
fn carry(near: &SimLink, far: &SimLink, bytes: &[u8]) -> std::io::Result<(Vec<u8>, usize)> {
    let (mut got, mut sent, mut calls) = (Vec::new(), 0, 0);
    while got.len() < bytes.len() {
        calls += 1;
        if sent < bytes.len() {
            match near.send(&[IoSlice::new(&bytes[sent..])], &[]) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                done => sent += done?,
            }
        }
        let mut room = [0; 700];
        match far.recv(&mut [IoSliceMut::new(&mut room)], &mut Vec::new()) {
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            done => got.extend_from_slice(&room[..done?]),
        }
    }
    Ok((got, calls))
}

#[test]
fn a_seed_decides_how_bytes_are_cut_up_and_none_is_lost() {
    let bytes: Vec<u8> = (0..40_000u32).map(|i| (i / 7) as u8).collect();
    let calls = |seed| {
        let (near, far) = pair(SimOptions { capacity_bytes: 1000, call_bytes_max: 90, seed });
        let (got, calls) = carry(&near, &far, &bytes).unwrap();
        assert!(got == bytes);
        calls
    };
    assert_eq!(calls(1), calls(1), "the same seed, the same run");
    assert!((1..5).any(|seed| calls(seed) != calls(0)), "another seed, another run");
    assert!(calls(1) > 40_000 / 90);
}

#[test]
fn a_flipped_byte_arrives_flipped_and_only_that_one() {
    let bytes = vec![0; 10_000];
    let (near, far) = pair(SimOptions { call_bytes_max: 100, ..SimOptions::default() });
    near.flip(0, 1);
    near.flip(9_999, 0x80);
    let (got, _) = carry(&near, &far, &bytes).unwrap();
    let changed: Vec<_> = got.iter().enumerate().filter(|(_, byte)| **byte != 0).collect();
    assert_eq!(changed, [(0, &1), (9_999, &0x80)]);
    assert_eq!(near.sent_bytes(), 10_000);
}

#[test]
fn a_cut_link_is_broken_for_both() {
    let (near, far) = pair(SimOptions { call_bytes_max: 100, ..SimOptions::default() });
    near.cut(5_000);
    let error = carry(&near, &far, &[0; 10_000]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
    assert_eq!(error_of(&near), ErrorKind::ConnectionReset);
    assert_eq!(far.send(&[IoSlice::new(b"x")], &[]).unwrap_err().kind(), ErrorKind::BrokenPipe);
}
