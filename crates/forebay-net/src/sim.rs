//! A link without a kernel: both ends in one thread or in two, chance from a seed, damage on demand.
//!
//! It answers as a Unix socket does: partial sends, `WouldBlock`, an end behind the last byte, descriptors that ride on first bytes and end a receive. One
//! suite of tests runs over both. It cannot be waited for: whoever drives both ends asks again.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use forebay_types::{Entropy, SeededEntropy};

use crate::{FDS_MAX, Link};

/// How a simulated link behaves, the same for both directions.
#[derive(Debug, Clone, Copy)]
pub struct SimOptions {
    /// Bytes that one direction holds; more do not fit until the other end takes some.
    pub capacity_bytes: usize,
    /// Most bytes of one call, drawn anew for each from 1 to this. A small number finds code that counts on whole messages.
    pub call_bytes_max: usize,
    /// Where the draws start.
    pub seed: u64,
}

impl Default for SimOptions {
    /// About what a Unix socket holds, and nothing cut short but by that.
    fn default() -> Self {
        SimOptions { capacity_bytes: 208 * 1024, call_bytes_max: usize::MAX, seed: 0 }
    }
}

/// One end.
#[derive(Debug)]
pub struct SimLink {
    both: Arc<Mutex<Both>>,
    /// Which of the two this is.
    side: usize,
    options: SimOptions,
    chance: SeededEntropy,
}

/// Two ends connected to each other.
pub fn pair(options: SimOptions) -> (SimLink, SimLink) {
    assert!(options.capacity_bytes > 0 && options.call_bytes_max > 0, "a link that carries nothing");
    let both = Arc::new(Mutex::new(Both::default()));
    let end = |side: usize| SimLink {
        both: both.clone(),
        side,
        options,
        chance: SeededEntropy::new(options.seed ^ (side as u64) << 63),
    };
    (end(0), end(1))
}

#[derive(Debug, Default)]
struct Both {
    /// What each side has sent and the other has not received.
    ways: [Way; 2],
    gone: [bool; 2],
    /// Broken in the middle: nothing more comes, nothing more goes.
    reset: bool,
}

#[derive(Debug, Default)]
struct Way {
    /// A descriptor rides on the first byte of its call, so calls stay apart.
    calls: VecDeque<Call>,
    held_bytes: usize,
    sent_bytes: u64,
    /// Places from the start of the connection, and what is xored into the byte there.
    flips: Vec<(u64, u8)>,
    /// The place at which the link breaks.
    cut_at: Option<u64>,
}

#[derive(Debug)]
struct Call {
    bytes: Vec<u8>,
    taken: usize,
    fds: Vec<OwnedFd>,
}

impl SimLink {
    /// Bytes that this end has sent since the connection began.
    pub fn sent_bytes(&self) -> u64 {
        self.lock().ways[self.side].sent_bytes
    }

    /// Changes a byte on its way: the one at `place` among all that this end sends, counted from the start. The sender does not notice.
    pub fn flip(&self, place: u64, mask: u8) {
        self.lock().ways[self.side].flips.push((place, mask));
    }

    /// Breaks the link when this end has sent `place` bytes since the start: for both ends, whatever is on its way is lost.
    pub fn cut(&self, place: u64) {
        let mut both = self.lock();
        let way = &mut both.ways[self.side];
        way.cut_at = Some(place);
        if way.sent_bytes >= place {
            both.reset();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Both> {
        self.both.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn draw(&self, most: usize) -> usize {
        match self.options.call_bytes_max {
            usize::MAX => most,
            max => most.min(1 + (self.chance.word() % max as u64) as usize),
        }
    }
}

impl Both {
    fn reset(&mut self) {
        self.reset = true;
        for way in &mut self.ways {
            (way.calls, way.held_bytes) = (VecDeque::new(), 0);
        }
    }
}

impl Link for SimLink {
    fn recv(&self, bufs: &mut [IoSliceMut<'_>], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        let room: usize = bufs.iter().map(|buf| buf.len()).sum();
        debug_assert!(room > 0, "receiving needs room");
        let mut both = self.lock();
        if both.reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let ended = both.gone[1 - self.side];
        let way = &mut both.ways[1 - self.side];
        if way.held_bytes == 0 {
            return if ended { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        let mut left = self.draw(room);
        let mut out = bufs.iter_mut().flat_map(|buf| buf.iter_mut());
        let mut received = 0;
        while let Some(call) = way.calls.front_mut()
            && left > 0
        {
            let carries = !call.fds.is_empty();
            let n = left.min(call.bytes.len() - call.taken);
            for byte in &call.bytes[call.taken..call.taken + n] {
                if let Some(place) = out.next() {
                    *place = *byte;
                }
            }
            fds.append(&mut call.fds);
            call.taken += n;
            (received, left) = (received + n, left - n);
            if call.taken == call.bytes.len() {
                way.calls.pop_front();
            }
            if carries {
                break;
            }
        }
        way.held_bytes -= received;
        Ok(received)
    }

    fn send(&self, bufs: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let offered: usize = bufs.iter().map(|buf| buf.len()).sum();
        debug_assert!(offered > 0, "descriptors need a byte to ride on, and 0 sent would say nothing");
        if fds.len() > FDS_MAX {
            return Err(io::Error::new(ErrorKind::InvalidInput, "more descriptors than one call takes"));
        }
        let mut both = self.lock();
        if both.reset || both.gone[1 - self.side] {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let way = &mut both.ways[self.side];
        let room = self.options.capacity_bytes - way.held_bytes;
        if room == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let n = self.draw(offered.min(room));
        let fds = fds.iter().map(|fd| fd.try_clone_to_owned()).collect::<io::Result<_>>()?;
        let mut bytes: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter()).take(n).copied().collect();
        let start = way.sent_bytes;
        for (place, mask) in &way.flips {
            if let Some(byte) = place.checked_sub(start).and_then(|at| bytes.get_mut(usize::try_from(at).ok()?)) {
                *byte ^= mask;
            }
        }
        way.sent_bytes += n as u64;
        way.held_bytes += n;
        way.calls.push_back(Call { bytes, taken: 0, fds });
        if way.cut_at.is_some_and(|place| way.sent_bytes >= place) {
            both.reset();
        }
        Ok(n)
    }
}

impl Drop for SimLink {
    fn drop(&mut self) {
        self.lock().gone[self.side] = true;
    }
}
