//! What a connection still has to send: messages, and payload that is sent from where it lies.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::rc::Rc;

use forebay_io::Shared;
use forebay_net::Socket;
use forebay_types::limits::KEYS_PER_MESSAGE_MAX;
use forebay_wire::{DataHeader, HEADER_BYTES, Message, encode, encode_data_header};

/// Payload up to this many bytes is copied behind its header: cheaper than one more part of a send.
const INLINE_BYTES_MAX: usize = 8 * 1024;

/// Parts of one send. The kernel takes 1,024; past a few dozen there is nothing to gain.
const PARTS_MAX: usize = 64;

/// Messages are gathered in buffers of about this many bytes.
const GATHER_BYTES: usize = 64 * 1024;

#[derive(Debug)]
enum Part {
    Bytes(Vec<u8>),
    /// Payload in the arena, held until it is sent.
    Data([u8; HEADER_BYTES], Shared, Range<usize>),
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Part::Bytes(bytes) => bytes.len(),
            Part::Data(header, _, range) => header.len() + range.len(),
        }
    }
}

/// How far a flush came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    All,
    /// The peer takes no more now.
    Blocked,
    /// This turn's share is used up.
    More,
}

/// Bytes of all outputs of a shard that are memory of their own: everything but payload in the arena.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unsent(Rc<Cell<usize>>);

impl Unsent {
    pub(crate) fn get(&self) -> usize {
        self.0.get()
    }

    fn change(&self, from: usize, to: usize) {
        self.0.set(self.0.get() - from + to);
    }
}

/// A queue of bytes towards a peer. Its owner keeps it short: see `OUTPUT_BYTES_HIGH`, and the shard all of them together.
#[derive(Debug, Default)]
pub(crate) struct Output {
    parts: VecDeque<Part>,
    /// Bytes of the first part that are sent.
    sent: usize,
    bytes: usize,
    /// Bytes of memory that its parts hold, apart from payload in the arena.
    own: usize,
    unsent: Unsent,
}

impl Drop for Output {
    fn drop(&mut self) {
        self.unsent.change(self.own, 0);
    }
}

impl Output {
    /// One whose memory is counted in `unsent`.
    pub(crate) fn counted(unsent: Unsent) -> Self {
        Output { parts: VecDeque::new(), sent: 0, bytes: 0, own: 0, unsent }
    }

    /// Bytes of memory it holds.
    pub(crate) fn own(&self) -> usize {
        self.own
    }

    fn own_changes(&mut self, to: usize) {
        self.unsent.change(self.own, to);
        self.own = to;
    }

    /// Gives back what an empty output keeps for its next message.
    pub(crate) fn rest(&mut self) {
        if self.bytes == 0 {
            self.parts = VecDeque::new();
            self.sent = 0;
            self.own_changes(0);
        }
    }

    /// Bytes not sent yet.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Appends what `write` appends.
    pub(crate) fn with<R>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> R) -> R {
        if !matches!(self.parts.back(), Some(Part::Bytes(bytes)) if bytes.len() < GATHER_BYTES) {
            self.parts.push_back(Part::Bytes(Vec::new()));
        }
        let Some(Part::Bytes(bytes)) = self.parts.back_mut() else {
            unreachable!("a buffer was just put there");
        };
        let (before, held) = (bytes.len(), bytes.capacity());
        let result = write(bytes);
        self.bytes += bytes.len() - before;
        let more = bytes.capacity() - held;
        self.own_changes(self.own + more);
        result
    }

    /// Appends a message. Messages of a node are within the wire's limits, all but the catalogue's and the statistics', whose caller checks.
    pub(crate) fn message(&mut self, message: &Message) {
        let written = self.with(|out| encode(message, out));
        debug_assert!(written.is_ok(), "{written:?}");
    }

    /// Appends a DATA frame with the bytes of `range`.
    pub(crate) fn data(&mut self, header: &DataHeader, data: &Shared, range: Range<usize>) {
        debug_assert!(range.len() == header.length as usize && (header.item as usize) < KEYS_PER_MESSAGE_MAX);
        let mut encoded = [0; HEADER_BYTES];
        encode_data_header(header, &mut encoded);
        if range.len() <= INLINE_BYTES_MAX {
            self.with(|out| {
                out.extend_from_slice(&encoded);
                out.extend_from_slice(&data[range]);
            });
        } else {
            self.bytes += encoded.len() + range.len();
            self.parts.push_back(Part::Data(encoded, data.clone(), range));
        }
    }

    /// Takes all that `other` has, none of it sent yet.
    pub(crate) fn append(&mut self, other: &mut Output) {
        debug_assert_eq!(other.sent, 0);
        self.bytes += std::mem::take(&mut other.bytes);
        self.own_changes(self.own + other.own);
        other.own_changes(0);
        self.parts.append(&mut other.parts);
    }

    /// Sends what the peer takes now, at most `left` bytes, which is lowered by what was sent.
    pub(crate) fn flush(&mut self, socket: &Socket, left: &mut usize) -> io::Result<Flushed> {
        while self.bytes > 0 {
            if *left == 0 {
                return Ok(Flushed::More);
            }
            let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(PARTS_MAX.min(2 * self.parts.len()));
            let (mut skip, mut room) = (self.sent, *left);
            for part in &self.parts {
                let spans: [&[u8]; 2] = match part {
                    Part::Bytes(bytes) => [bytes, &[]],
                    Part::Data(header, data, range) => [header, &data[range.clone()]],
                };
                for span in spans {
                    let here = skip.min(span.len());
                    skip -= here;
                    let end = span.len().min(here.saturating_add(room));
                    if here < end {
                        slices.push(IoSlice::new(&span[here..end]));
                        room -= end - here;
                    }
                }
                if room == 0 || slices.len() + 2 > PARTS_MAX {
                    break;
                }
            }
            match socket.send(&slices, &[]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    *left -= n;
                    self.advance(n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Flushed::Blocked),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        // An empty buffer is kept for the next message; a large one is not.
        self.sent = 0;
        let mut kept = 0;
        match self.parts.pop_front() {
            Some(Part::Bytes(mut bytes)) if bytes.capacity() <= 2 * GATHER_BYTES => {
                kept = bytes.capacity();
                bytes.clear();
                self.parts.clear();
                self.parts.push_back(Part::Bytes(bytes));
            }
            _ => self.parts.clear(),
        }
        self.own_changes(kept);
        Ok(Flushed::All)
    }

    fn advance(&mut self, n: usize) {
        self.bytes -= n;
        self.sent += n;
        while let Some(part) = self.parts.front() {
            // The last part stays, so that its buffer can be used again.
            if self.sent < part.len() || self.bytes == 0 {
                break;
            }
            self.sent -= part.len();
            if let Some(Part::Bytes(bytes)) = self.parts.pop_front() {
                self.own_changes(self.own - bytes.capacity());
            }
        }
    }
}
