//! A link's way out: messages, descriptors that ride on them, and payload straight from where it lies.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};

use forebay_wire::{DataHeader, HEADER_BYTES, encode_data_header};

use super::{Link, LinkError, Source};

impl Link {
    /// Sends what can be sent without waiting. True when something was.
    pub(crate) fn flush(&mut self, source: &mut dyn Source) -> Result<bool, LinkError> {
        let mut progressed = false;
        loop {
            if self.sending.is_none()
                && self.sent == self.out.len()
                && let Some(header) = source.next()
            {
                self.begin_payload(header);
            }
            let stuck = self.sent == self.out.len()
                && self.sending.as_ref().is_some_and(|(header, at)| source.payload(header).len() <= *at);
            if !self.wants_to_send() || stuck {
                return Ok(progressed);
            }
            match self.send_some(source) {
                Ok(0) => return Err(LinkError::Closed),
                Ok(n) => {
                    progressed = true;
                    self.count_sent(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(progressed),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn begin_payload(&mut self, header: DataHeader) {
        let mut bytes = [0; HEADER_BYTES];
        encode_data_header(&header, &mut bytes);
        self.out.extend_from_slice(&bytes);
        self.sending = Some((header, 0));
    }

    fn send_some(&mut self, source: &dyn Source) -> io::Result<usize> {
        // A descriptor rides on the first byte of what is sent with it.
        let (fd, stop) = match self.riding.front() {
            Some((at, rider)) if *at == self.sent => {
                let next = self.riding.get(1).map_or(self.out.len(), |(at, _)| *at);
                (Some(rider.as_fd()), next)
            }
            Some((at, _)) => (None, *at),
            None => (None, self.out.len()),
        };
        let bytes = IoSlice::new(&self.out[self.sent..stop]);
        let payload = match &self.sending {
            Some((header, at)) if stop == self.out.len() => source.payload(header).get(*at..).unwrap_or(&[]),
            _ => &[],
        };
        let fds: &[BorrowedFd<'_>] = fd.as_slice();
        let n = self.socket.send(&[bytes, IoSlice::new(payload)], fds)?;
        if n > 0 && fd.is_some() {
            self.riding.pop_front();
        }
        Ok(n)
    }

    fn count_sent(&mut self, n: usize) {
        let of_out = n.min(self.out.len() - self.sent);
        self.sent += of_out;
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        }
        if let Some((header, at)) = &mut self.sending {
            *at += n - of_out;
            if *at == header.length as usize {
                self.sending = None;
                // Only now may what was queued meanwhile follow.
                std::mem::swap(&mut self.out, &mut self.behind);
            }
        }
    }
}
