//! Descriptors ride on bytes of Unix sockets, and none is ever left open by accident.

use std::fs::File;
use std::io::{ErrorKind, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use forebay_net::{FDS_MAX, Listener, Socket};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::scratch::{Scratch, meet};

fn file(scratch: &Scratch, name: &str, text: &str) -> File {
    let path = scratch.path(name);
    let mut file = File::options().create(true).truncate(true).read(true).write(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn text(fd: OwnedFd) -> String {
    let (mut file, mut text) = (File::from(fd), String::new());
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_descriptor_arrives_with_the_first_byte_of_its_message() {
    let scratch = Scratch::new();
    let region = file(&scratch, "region", "a region");
    let (near, far) = Socket::pair().unwrap();
    near.send(&[IoSlice::new(b"message")], &[region.as_fd()]).unwrap();
    drop(region);

    let mut fds = Vec::new();
    let mut first = [0; 1];
    assert_eq!(far.recv(&mut [IoSliceMut::new(&mut first)], &mut fds).unwrap(), 1);
    assert_eq!(fds.len(), 1, "with the first byte, though the rest is still to come");
    let flags = rustix::io::fcntl_getfd(&fds[0]).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "children of the node do not inherit regions");
    assert_eq!(text(fds.remove(0)), "a region");

    let mut rest = [0; 16];
    assert_eq!(far.recv(&mut [IoSliceMut::new(&mut rest)], &mut fds).unwrap(), 6);
    assert!(fds.is_empty());
}

#[test]
fn descriptors_of_several_messages_come_in_order_and_none_is_lost() {
    let scratch = Scratch::new();
    let (near, far) = Socket::pair().unwrap();
    for i in 0..6 {
        near.send(&[IoSlice::new(b"plain")], &[]).unwrap();
        let region = file(&scratch, &i.to_string(), &format!("region {i}"));
        near.send(&[IoSlice::new(b"with one")], &[region.as_fd()]).unwrap();
    }
    let (mut fds, mut bytes) = (Vec::new(), 0);
    while bytes < 6 * 13 {
        bytes += far.recv(&mut [IoSliceMut::new(&mut [0; 1000])], &mut fds).unwrap();
        assert!(fds.len() * 13 <= bytes + 8, "none before its message");
    }
    let texts: Vec<String> = fds.into_iter().map(text).collect();
    assert_eq!(texts, (0..6).map(|i| format!("region {i}")).collect::<Vec<_>>());
}

/// A peer that writes its own control messages.
fn send_many(socket: &Socket, fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(32))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
    rustix::net::sendmsg(socket, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
}

#[test]
fn more_descriptors_than_a_message_carries_are_all_closed() {
    let scratch = Scratch::new();
    let region = file(&scratch, "region", "");
    for many in [FDS_MAX + 1, FDS_MAX + 2, 32] {
        let (near, far) = Socket::pair().unwrap();
        // A pipe tells when the last copy of its writing end is closed, and counts nothing of other tests.
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let mut sent = vec![writer.as_fd(); many - 1];
        sent.push(region.as_fd());
        send_many(&near, &sent);
        let mut fds = Vec::new();
        let error = far.recv(&mut [IoSliceMut::new(&mut [0; 8])], &mut fds).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(fds.is_empty());
        drop(writer);
        assert_eq!(rustix::io::read(&reader, &mut [0; 1]).unwrap(), 0, "a copy of {many} is still open");
    }
}

#[test]
fn what_cannot_carry_descriptors_says_so() {
    let scratch = Scratch::new();
    let region = file(&scratch, "region", "");
    let (near, _far) = meet(&Listener::tcp("127.0.0.1:0", false).unwrap());
    let error = near.send(&[IoSlice::new(b"x")], &[region.as_fd()]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);

    let (near, _far) = Socket::pair().unwrap();
    let error = near.send(&[IoSlice::new(b"x")], &[region.as_fd(); FDS_MAX + 1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_eq!(near.send(&[IoSlice::new(b"x")], &[region.as_fd(); FDS_MAX]).unwrap(), 1);
}
