//! Signals that ask a process to end, as something to wait for.
//!
//! A handler may do almost nothing safely; a descriptor can be waited on like a socket. The signals are blocked for the thread that calls and for
//! every thread it starts later, so this comes first in `main`. The room does not know what ending means.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// SIGTERM and SIGINT, blocked and readable.
#[derive(Debug)]
pub struct EndSignals(OwnedFd);

impl EndSignals {
    /// Blocks SIGTERM and SIGINT from here on and makes them readable. Call it before any other thread is started.
    #[expect(unsafe_code, reason = "no safe wrapper for signal masks and signalfd in the house")]
    pub fn block() -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: `set` is valid for writes; sigemptyset initialises it before it is read, the two sigaddset take valid signal numbers, and
        // pthread_sigmask and signalfd only read it. The descriptor is new and owned by nobody else.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), libc::SIGTERM);
            libc::sigaddset(set.as_mut_ptr(), libc::SIGINT);
            let refused = libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut());
            if refused != 0 {
                return Err(io::Error::from_raw_os_error(refused));
            }
            let fd = libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(EndSignals(OwnedFd::from_raw_fd(fd)))
        }
    }

    /// Waits for one of the signals; false when `timeout` passed first. A signal is taken by the wait that sees it.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(false),
            Ok(_) => match rustix::io::read(&self.0, &mut [0u8; 128]) {
                Ok(bytes) => Ok(bytes > 0),
                Err(rustix::io::Errno::AGAIN) => Ok(false),
                Err(e) => Err(e.into()),
            },
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for EndSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(unsafe_code, reason = "raising a signal for this thread alone")]
    fn a_signal_is_waited_for_and_taken_once() {
        let signals = EndSignals::block().unwrap();
        assert!(!signals.wait(Duration::ZERO).unwrap());
        // SAFETY: raise takes a valid signal number; it goes to this thread, where it is blocked, and to no other.
        assert_eq!(unsafe { libc::raise(libc::SIGTERM) }, 0);
        assert!(signals.wait(Duration::from_secs(10)).unwrap());
        assert!(!signals.wait(Duration::ZERO).unwrap());
    }
}
