//! Which sockets are watched, and what is to be told of them.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// A socket that became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// As given to [`super::Engine::watch`].
    pub token: u64,
    /// Bytes, descriptors or an end of file can be received.
    pub readable: bool,
    /// Bytes can be sent.
    pub writable: bool,
    /// The other side is gone; what it sent before can still be received.
    pub hangup: bool,
}

/// A watch as drivers name it: which place in the table, and which tenancy of that place, so that news of an earlier one is told from its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WatchId {
    pub(super) index: u32,
    /// 24 bits: news of a watch does not outlive 16 million successors.
    pub(super) tenancy: u32,
}

#[derive(Debug)]
struct Watch {
    tenancy: u32,
    token: u64,
    fd: RawFd,
    live: bool,
    writable: bool,
    /// `poll` bits not yet told.
    news: u32,
}

#[derive(Debug, Default)]
pub(super) struct Watches {
    table: Vec<Watch>,
    free: Vec<u32>,
    by_token: BTreeMap<u64, u32>,
    /// Places with news.
    dirty: Vec<u32>,
}

impl Watches {
    pub(super) fn add(&mut self, fd: BorrowedFd<'_>, token: u64) -> WatchId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.table.push(Watch { tenancy: 0, token, fd: -1, live: false, writable: false, news: 0 });
            (self.table.len() - 1) as u32
        });
        let watch = &mut self.table[index as usize];
        *watch = Watch { tenancy: watch.tenancy, token, fd: fd.as_raw_fd(), live: true, writable: false, news: 0 };
        self.by_token.insert(token, index);
        WatchId { index, tenancy: watch.tenancy }
    }

    pub(super) fn find(&self, token: u64) -> Option<WatchId> {
        let index = *self.by_token.get(&token)?;
        Some(WatchId { index, tenancy: self.table[index as usize].tenancy })
    }

    /// The watch, if that changes anything.
    pub(super) fn set_writable(&mut self, token: u64, on: bool) -> Option<WatchId> {
        let id = self.find(token)?;
        let watch = &mut self.table[id.index as usize];
        (std::mem::replace(&mut watch.writable, on) != on).then_some(id)
    }

    pub(super) fn remove(&mut self, id: WatchId) {
        let watch = &mut self.table[id.index as usize];
        self.by_token.remove(&watch.token);
        watch.live = false;
        watch.news = 0;
        watch.tenancy = (watch.tenancy + 1) & 0xff_ffff;
        self.free.push(id.index);
    }

    /// The descriptor of a watch that still is, and whether it wants to hear of writability.
    pub(super) fn get(&self, id: WatchId) -> Option<(RawFd, bool)> {
        let watch = self.table.get(id.index as usize)?;
        (watch.live && watch.tenancy == id.tenancy).then_some((watch.fd, watch.writable))
    }

    /// Remembers `poll` bits. News of watches that are no more is dropped.
    pub(super) fn note(&mut self, id: WatchId, bits: u32) {
        if self.get(id).is_none() || bits == 0 {
            return;
        }
        let watch = &mut self.table[id.index as usize];
        if watch.news == 0 {
            self.dirty.push(id.index);
        }
        watch.news |= bits;
    }

    pub(super) fn any(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(super) fn tell(&mut self, ready: &mut Vec<Ready>) {
        for index in self.dirty.drain(..) {
            let watch = &mut self.table[index as usize];
            let news = std::mem::take(&mut watch.news);
            let has = |bits: i16| news & bits as u32 != 0;
            if !watch.live || news == 0 {
                continue;
            }
            let hangup = has(libc::POLLHUP | libc::POLLRDHUP | libc::POLLERR | libc::POLLNVAL);
            ready.push(Ready {
                token: watch.token,
                // An end of file is received too.
                readable: has(libc::POLLIN) || hangup,
                writable: watch.writable && (has(libc::POLLOUT) || hangup),
                hangup,
            });
        }
    }
}
