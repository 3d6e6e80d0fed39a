//! Bytes arrive as they were sent, on either kind of link, whatever the sizes of the calls.

use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::net::TcpStream;
use std::time::Duration;

use forebay_net::{Listener, Socket};
use forebay_types::Address;

use crate::scratch::{LONG, Scratch, meet};

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[0]).collect()
}

/// Sends all of `bytes` in two slices a call.
fn send_all(socket: &Socket, bytes: &[u8]) {
    let mut sent = 0;
    while sent < bytes.len() {
        let (a, b) = bytes[sent..].split_at((bytes.len() - sent) / 3);
        match socket.send(&[IoSlice::new(a), IoSlice::new(b)], &[]) {
            Ok(n) => sent += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                assert!(socket.wait(false, true, LONG).unwrap().writable);
            }
            Err(e) => panic!("{e}"),
        }
    }
}

fn receive_all(socket: &Socket, bytes: usize) -> Vec<u8> {
    let mut got = vec![0; bytes];
    let mut at = 0;
    while at < bytes {
        let (a, b) = got[at..].split_at_mut((bytes - at) / 2);
        match socket.recv(&mut [IoSliceMut::new(a), IoSliceMut::new(b)], &mut Vec::new()) {
            Ok(0) => panic!("ended after {at} bytes"),
            Ok(n) => at += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                assert!(socket.wait(true, false, LONG).unwrap().readable);
            }
            Err(e) => panic!("{e}"),
        }
    }
    got
}

fn echo(listener: &Listener) {
    let (near, far) = meet(listener);
    let sent = pattern(9_000_001);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let got = receive_all(&far, sent.len());
            send_all(&far, &got);
        });
        send_all(&near, &sent);
        assert!(receive_all(&near, sent.len()) == sent);
    });
}

#[test]
fn nine_megabytes_go_there_and_back_over_a_unix_socket() {
    let scratch = Scratch::new();
    echo(&Listener::unix(scratch.path("s")).unwrap());
}

#[test]
fn nine_megabytes_go_there_and_back_over_tcp() {
    echo(&Listener::tcp("127.0.0.1:0", false).unwrap());
}

#[test]
fn a_socket_never_waits_unless_told_to() {
    let scratch = Scratch::new();
    for listener in [Listener::unix(scratch.path("s")).unwrap(), Listener::tcp("127.0.0.1:0", false).unwrap()] {
        assert!(listener.accept().unwrap().is_none());
        let (near, far) = meet(&listener);
        for socket in [&near, &far] {
            let error = socket.recv(&mut [IoSliceMut::new(&mut [0; 8])], &mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
            let seen = socket.wait(true, false, Duration::ZERO).unwrap();
            assert!(!seen.readable && !seen.hangup);
        }
        let chunk = vec![1; 1 << 20];
        let full = std::iter::repeat_with(|| near.send(&[IoSlice::new(&chunk)], &[])).find_map(Result::err).unwrap();
        assert_eq!(full.kind(), ErrorKind::WouldBlock, "a full socket says so");
    }
}

#[test]
fn the_end_of_a_peer_is_seen_by_reading_writing_and_waiting() {
    let scratch = Scratch::new();
    for listener in [Listener::unix(scratch.path("s")).unwrap(), Listener::tcp("127.0.0.1:0", false).unwrap()] {
        let (near, far) = meet(&listener);
        far.send(&[IoSlice::new(b"last words")], &[]).unwrap();
        drop(far);
        assert!(near.wait(true, false, LONG).unwrap().readable);
        assert_eq!(receive_all(&near, 10), b"last words");
        // The end itself may be a moment behind the words.
        while !near.wait(true, false, LONG).unwrap().hangup {}
        assert_eq!(near.recv(&mut [IoSliceMut::new(&mut [0; 8])], &mut Vec::new()).unwrap(), 0);
        let error = loop {
            match near.send(&[IoSlice::new(b"anyone?")], &[]) {
                Ok(_) => std::thread::yield_now(),
                Err(e) => break e,
            }
        };
        assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
    }
}

#[test]
fn a_shut_down_wakes_the_other_end() {
    let (near, far) = Socket::pair().unwrap();
    near.shutdown().unwrap();
    assert!(far.wait(true, false, LONG).unwrap().hangup);
    assert_eq!(far.recv(&mut [IoSliceMut::new(&mut [0; 8])], &mut Vec::new()).unwrap(), 0);
}

#[test]
fn a_socket_can_be_handed_over_as_a_descriptor() {
    let scratch = Scratch::new();
    for listener in [Listener::unix(scratch.path("s")).unwrap(), Listener::tcp("127.0.0.1:0", false).unwrap()] {
        let (near, far) = meet(&listener);
        let unix = far.is_unix();
        let far = Socket::from_fd(far.into_fd()).unwrap();
        assert_eq!(far.is_unix(), unix);
        send_all(&near, b"still here");
        assert_eq!(receive_all(&far, 10), b"still here");
    }
    let file = std::fs::File::open("/dev/null").unwrap();
    assert!(Socket::from_fd(file.into()).is_err(), "a file is no socket");
}

#[test]
fn a_connection_inside_the_machine_is_not_paced() {
    let listener = Listener::tcp("127.0.0.1:0", false).unwrap();
    let (near, far) = meet(&listener);
    let begun = Socket::begin(listener.address()).unwrap();
    let handed = Socket::from_fd(TcpStream::connect(here(&listener)).unwrap().into()).unwrap();
    for socket in [&near, &far, &begun, &handed] {
        assert_eq!(rustix::net::sockopt::tcp_congestion(socket).unwrap(), "reno");
    }
}

fn here(listener: &Listener) -> &str {
    match listener.address() {
        Address::Tcp(at) => at,
        Address::Unix(_) => unreachable!("it listens on TCP"),
    }
}
