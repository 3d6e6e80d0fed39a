//! How a client sees that a node which lives has let go of a region, without asking it.
//!
//! A descriptor that is given to a node can be a *witness*: an open file description of its own, made for one connection, that holds a lock on one byte
//! far behind the memory's end. The lock belongs to the description, so it is there for as long as anybody has a descriptor or a mapping of it, and no
//! longer. A node keeps both until its last landing has ended, so when the lock is gone, all landings of that connection have ended, or the node
//! has: whoever wants to know must also see that the node lived afterwards. The node knows nothing of this and takes no lock itself.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::Region;

/// Locks lie from here on, one byte each: no file is so long.
const WITNESS_OFFSET: u64 = 1 << 62;

impl Region {
    /// A descriptor of this memory to be given away once. While anybody holds it or a mapping made of it, [`Self::is_let_go`] of this number is
    /// false. `None` where that cannot be had, as without `/proc`.
    pub fn witness(&self, number: u64) -> Option<OwnedFd> {
        let path = format!("/proc/self/fd/{}", self.fd().as_raw_fd());
        let fd = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).ok()?;
        // Shared, so that two clients whose numbers are the same by chance only wait for each other.
        let mut lock = lock_of(number, libc::F_RDLCK);
        apply(&fd, libc::F_OFD_SETLK, &mut lock).then_some(fd)
    }

    /// Nobody holds the witness of that number any more, nor anything made of it. False also when the kernel does not say.
    pub fn is_let_go(&self, number: u64) -> bool {
        let mut lock = lock_of(number, libc::F_WRLCK);
        apply(&self.fd(), libc::F_OFD_GETLK, &mut lock) && i32::from(lock.l_type) == libc::F_UNLCK
    }
}

fn lock_of(number: u64, kind: libc::c_int) -> libc::flock {
    let start = WITNESS_OFFSET + number % WITNESS_OFFSET;
    let (l_type, l_whence) = (kind as libc::c_short, libc::SEEK_SET as libc::c_short);
    libc::flock { l_type, l_whence, l_start: start as libc::off_t, l_len: 1, l_pid: 0 }
}

/// Sets the lock, or asks what is in its way. False: the kernel refuses.
#[expect(unsafe_code, reason = "locks of open file descriptions are in no safe interface")]
fn apply(fd: &impl AsFd, command: libc::c_int, lock: &mut libc::flock) -> bool {
    // SAFETY: the descriptor is open while `fd` is borrowed; both commands take a pointer to a `flock`, which lives to the end of the call and is
    // nobody else's meanwhile.
    unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), command, &raw mut *lock) == 0 }
}

#[cfg(test)]
mod tests {
    use rustix::fs::SealFlags;

    use super::*;
    use crate::PeerRegion;
    use crate::region::tests::memfd;

    #[test]
    fn a_witness_is_let_go_with_its_last_descriptor_and_mapping() {
        let region = Region::lent(memfd(1 << 20, SealFlags::SHRINK), 1 << 20).unwrap();
        assert!(region.is_let_go(7), "nobody has it yet");
        let (mine, other) = (region.witness(7).unwrap(), region.witness(8).unwrap());
        assert!(!region.is_let_go(7) && !region.is_let_go(8));
        drop(other);
        assert!(region.is_let_go(8) && !region.is_let_go(7), "each is for itself");
        // As a node takes it: a descriptor and a mapping, and a landing that holds both.
        let peer = PeerRegion::import(mine, 1 << 20).unwrap();
        let landing = peer.landing(4096, 4096).unwrap();
        peer.write_at(0, &[7; 10]).unwrap();
        drop(peer);
        assert!(!region.is_let_go(7), "something is landing");
        drop(landing);
        // It is taken down in a thread of its own: later, and never before.
        while !region.is_let_go(7) {
            std::thread::yield_now();
        }
        assert_eq!(region.take(0, 10).unwrap()[..], [7; 10]);
    }
}
