//! Bytes of a drive in memory, copied on write: an image of a drive costs what was changed since the last one.

use std::rc::Rc;

const PAGE_BYTES: usize = 4096;

/// A span of bytes, zero until written.
#[derive(Clone)]
pub(super) struct Pages {
    len: u64,
    pages: Vec<Option<Rc<[u8; PAGE_BYTES]>>>,
}

impl Pages {
    pub(super) fn new(len: u64) -> Self {
        Pages { len, pages: vec![None; len.div_ceil(PAGE_BYTES as u64) as usize] }
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        assert!(offset + out.len() as u64 <= self.len, "{offset}+{} is outside the drive", out.len());
        let mut done = 0;
        while done < out.len() {
            let (page, at) = place(offset + done as u64);
            let step = (PAGE_BYTES - at).min(out.len() - done);
            match &self.pages[page] {
                Some(bytes) => out[done..done + step].copy_from_slice(&bytes[at..at + step]),
                None => out[done..done + step].fill(0),
            }
            done += step;
        }
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        assert!(offset + bytes.len() as u64 <= self.len, "{offset}+{} is outside the drive", bytes.len());
        let mut done = 0;
        while done < bytes.len() {
            let (page, at) = place(offset + done as u64);
            let step = (PAGE_BYTES - at).min(bytes.len() - done);
            let target = self.pages[page].get_or_insert_with(|| Rc::new([0; PAGE_BYTES]));
            Rc::make_mut(target)[at..at + step].copy_from_slice(&bytes[done..done + step]);
            done += step;
        }
    }
}

fn place(offset: u64) -> (usize, usize) {
    ((offset / PAGE_BYTES as u64) as usize, (offset % PAGE_BYTES as u64) as usize)
}
