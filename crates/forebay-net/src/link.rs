//! What a connection is to whoever speaks a protocol over it.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::Socket;

/// A stream of bytes both ways that may carry descriptors: a [`Socket`], or [`crate::sim::SimLink`] in tests.
pub trait Link {
    /// As [`Socket::recv`].
    fn recv(&self, bufs: &mut [IoSliceMut<'_>], fds: &mut Vec<OwnedFd>) -> io::Result<usize>;
    /// As [`Socket::send`].
    fn send(&self, bufs: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<usize>;
}

impl Link for Socket {
    fn recv(&self, bufs: &mut [IoSliceMut<'_>], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        Socket::recv(self, bufs, fds)
    }

    fn send(&self, bufs: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        Socket::send(self, bufs, fds)
    }
}
