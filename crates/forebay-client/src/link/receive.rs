//! A link's way in: frames are cut out of what comes, and payload goes straight to where it belongs.

use std::io::{self, IoSliceMut};

use forebay_types::limits::CREDIT_BYTES_DEFAULT;
use forebay_wire::{
    DataHeader, FrameHeader, HEADER_BYTES, Kind, Message, decode_body, decode_header, get_outcomes_view,
};

use super::{Link, LinkError, Sink};

/// What is read at once when no large payload is on its way, in bytes: some hundred outcomes.
pub(super) const INBOX_BYTES: usize = 64 << 10;
/// What is read behind a large payload, in bytes: the next header and the small messages behind it. What of the next payload falls in here is
/// copied once more, so it stays small.
const TAIL_BYTES: usize = 4 << 10;
/// From here a payload is large.
const LARGE_PAYLOAD_BYTES: usize = 32 << 10;
/// Payload bytes read into nowhere at once.
const SCRATCH_BYTES: usize = 64 << 10;

impl Link {
    /// Reads once without waiting and hands on all that is whole. False when nothing was there.
    pub(crate) fn receive(&mut self, sink: &mut dyn Sink) -> Result<bool, LinkError> {
        let n = match self.read_some(sink) {
            Ok(n) => n,
            Err(LinkError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(LinkError::Io(e)) if e.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(e) => return Err(e),
        };
        if n == 0 {
            return Err(LinkError::Closed);
        }
        self.heard += 1;
        self.parse(sink)?;
        Ok(true)
    }

    fn read_some(&mut self, sink: &mut dyn Sink) -> Result<usize, LinkError> {
        let mut fds = Vec::new();
        let Some((header, got)) = self.coming else {
            let room =
                if self.large { TAIL_BYTES.min(self.inbox.len() - self.end) } else { self.inbox.len() - self.end };
            let room = &mut self.inbox[self.end..][..room];
            let n = self.socket.recv(&mut [IoSliceMut::new(room)], &mut fds)?;
            self.end += n;
            return Ok(n);
        };
        // The inbox is empty here: whatever it held of this payload went ahead.
        let left = header.length as usize - got;
        let target = match sink.target(&header)? {
            Some(target) if !self.is_lost(header.request) => target.get_mut(got..),
            _ => None,
        };
        let (payload, tail) = match target {
            Some(target) => (target, TAIL_BYTES),
            None => {
                self.scratch.resize(SCRATCH_BYTES, 0);
                let some = left.min(SCRATCH_BYTES);
                // Behind a part of the payload nothing else may be read.
                (&mut self.scratch[..some], if some == left { TAIL_BYTES } else { 0 })
            }
        };
        let tail = if left >= LARGE_PAYLOAD_BYTES || tail == 0 { tail } else { self.inbox.len() };
        let expected = payload.len();
        let n =
            self.socket.recv(&mut [IoSliceMut::new(payload), IoSliceMut::new(&mut self.inbox[..tail])], &mut fds)?;
        let of_payload = n.min(expected);
        (self.start, self.end) = (0, n - of_payload);
        self.advance_payload(header, got + of_payload, sink)?;
        Ok(n)
    }

    fn advance_payload(&mut self, header: DataHeader, got: usize, sink: &mut dyn Sink) -> Result<(), LinkError> {
        if got < header.length as usize {
            self.coming = Some((header, got));
            return Ok(());
        }
        self.coming = None;
        self.grant(u64::from(header.length))?;
        if !self.is_lost(header.request) {
            sink.filled(&header)?;
        }
        Ok(())
    }

    /// Grants payload again once a good part of the credit is used: a message per frame would be a waste.
    fn grant(&mut self, bytes: u64) -> Result<(), LinkError> {
        self.owed_credit += bytes;
        if self.owed_credit >= CREDIT_BYTES_DEFAULT / 8 {
            let bytes = std::mem::take(&mut self.owed_credit);
            self.queue(&Message::Credit { bytes })?;
        }
        Ok(())
    }

    fn parse(&mut self, sink: &mut dyn Sink) -> Result<(), LinkError> {
        while self.coming.is_none() {
            let Some(header) = self.inbox[self.start..self.end].first_chunk::<HEADER_BYTES>() else { break };
            let header = decode_header(header)?;
            if let Some(data) = header.data() {
                self.start += HEADER_BYTES;
                self.large = data.length as usize >= LARGE_PAYLOAD_BYTES;
                self.begin_coming(data, sink)?;
                continue;
            }
            let whole = HEADER_BYTES + header.body_len as usize;
            if self.end - self.start < whole {
                self.large = false;
                self.make_room(whole);
                return Ok(());
            }
            // Taken out for the while, so that the body can be looked at while the link is changed.
            let inbox = std::mem::take(&mut self.inbox);
            let handled = self.frame(&header, &inbox[self.start + HEADER_BYTES..self.start + whole], sink);
            self.inbox = inbox;
            handled?;
            self.start += whole;
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.inbox.truncate(INBOX_BYTES);
        } else {
            self.make_room(HEADER_BYTES);
        }
        Ok(())
    }

    /// Moves what is there to the front, and makes room for a frame of `whole` bytes (bounded by the wire's largest message).
    fn make_room(&mut self, whole: usize) {
        if self.start + whole > self.inbox.len() || self.start > self.inbox.len() / 2 {
            self.inbox.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if whole > self.inbox.len() {
            self.inbox.resize(whole, 0);
        }
    }

    fn begin_coming(&mut self, data: DataHeader, sink: &mut dyn Sink) -> Result<(), LinkError> {
        let here = (self.end - self.start).min(data.length as usize);
        if let Some(target) = sink.target(&data)?
            && !self.is_lost(data.request)
        {
            if target.len() != data.length as usize {
                return Err(LinkError::Protocol("a frame of another length than its place"));
            }
            target[..here].copy_from_slice(&self.inbox[self.start..self.start + here]);
        }
        self.start += here;
        self.advance_payload(data, here, sink)
    }

    fn frame(&mut self, header: &FrameHeader, body: &[u8], sink: &mut dyn Sink) -> Result<(), LinkError> {
        if header.kind == Kind::GetOutcomes {
            let view = get_outcomes_view(header, body)?;
            if !self.is_lost(header.request) {
                return sink.outcomes(view);
            }
            self.settle_items(header.request, view.map(|(item, _)| item));
            return Ok(());
        }
        match decode_body(header, body)? {
            Message::Error { request, code, text } => {
                if self.adding.contains(&request) || request == 0 {
                    return Err(LinkError::Refused { code, text });
                }
                self.settle(request);
                sink.message(Message::Error { request, code, text })
            }
            Message::Done { request } if self.adding.contains(&request) => {
                self.adding.retain(|adding| *adding != request);
                Ok(())
            }
            Message::Done { request } => {
                self.settle(request);
                sink.message(Message::Done { request })
            }
            Message::PutOutcomes { request, outcomes } if self.is_lost(request) => {
                self.settle_items(request, outcomes.iter().map(|(item, _)| *item));
                Ok(())
            }
            message => sink.message(message),
        }
    }
}
