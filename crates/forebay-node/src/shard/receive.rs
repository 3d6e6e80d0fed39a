//! Receiving: bytes to messages, and payload straight to where it belongs.

use std::io::{self, IoSliceMut};
use std::ops::Range;

use forebay_io::close_elsewhere;
use forebay_types::limits::STEP_BYTES;
use forebay_wire::{DataHeader, ErrorCode, Frame, HEADER_BYTES, Message, decode_header, next_frame};

use super::Shard;
use super::conn::{DataIn, FDS_MAX, INPUT_FREE_BYTES};
use super::request::Work;
use crate::counters::PeerFault;
use crate::slab::Id;

/// Bytes received in one turn, over all connections: copying and checking them takes about 50 us.
const TURN_BYTES: usize = STEP_BYTES;

/// Why a connection ends: the peer's fault, in words.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) fault: PeerFault,
    pub(crate) code: ErrorCode,
    pub(crate) text: String,
}

impl Refusal {
    /// For a message that does not belong where it came.
    pub(crate) fn protocol(text: impl Into<String>) -> Self {
        Refusal { fault: PeerFault::Disorder, code: ErrorCode::Protocol, text: text.into() }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Received {
    Bytes(usize),
    Drained,
    Closed,
}

impl Shard {
    /// Receives what is there, up to a turn's worth. What is left stays listed.
    pub(super) fn receive_all(&mut self) {
        let mut left = TURN_BYTES;
        let listed = std::mem::take(&mut self.readable);
        for (at, id) in listed.iter().enumerate() {
            if left == 0 {
                self.readable.extend_from_slice(&listed[at..]);
                break;
            }
            self.receive(*id, &mut left);
        }
    }

    /// Receives from one connection up to a step, so that others get their turn.
    fn receive(&mut self, id: Id, left: &mut usize) {
        let mut share = (STEP_BYTES / 2).min(*left);
        loop {
            match self.conns.get_mut(id) {
                None => return,
                Some(conn) if conn.is_paused() => {
                    conn.listed = false;
                    return;
                }
                Some(conn) if share == 0 => {
                    debug_assert!(conn.listed);
                    self.readable.push(id);
                    return;
                }
                Some(_) => {}
            }
            match self.receive_once(id, share) {
                Ok(Received::Bytes(n)) => {
                    share -= n.min(share);
                    *left -= n.min(*left);
                    if self.is_starved(id) {
                        return;
                    }
                }
                Ok(Received::Drained) => {
                    if let Some(conn) = self.conns.get_mut(id) {
                        (conn.readable, conn.listed) = (false, false);
                    }
                    return;
                }
                Ok(Received::Closed) | Err(_) => return self.lose_connection(id),
            }
        }
    }

    fn receive_once(&mut self, id: Id, most: usize) -> io::Result<Received> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let received = match self.receive_into(id, &mut scratch[..most]) {
            Ok(None) => Ok(Received::Closed),
            Ok(Some((n, rest))) => {
                if !rest.is_empty() {
                    self.take_bytes(id, &scratch[rest]);
                }
                Ok(Received::Bytes(n))
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => Ok(Received::Drained),
                io::ErrorKind::Interrupted => Ok(Received::Bytes(0)),
                _ => Err(error),
            },
        };
        self.scratch = scratch;
        received
    }

    /// Receives once: payload to where it belongs, the rest into `spare`. Gives how much came and where in `spare` the rest lies; `None`: the
    /// peer has closed.
    fn receive_into(&mut self, id: Id, spare: &mut [u8]) -> io::Result<Option<(usize, Range<usize>)>> {
        let Some(conn) = self.conns.get_mut(id) else { return Ok(None) };
        // When the budget is short, a connection gets only what it may keep without asking.
        let short = self.granted > self.core.shares.input_bytes / 2 && conn.grant == 0;
        let most = if short { INPUT_FREE_BYTES.min(spare.len()) } else { spare.len() };
        let spare = &mut spare[..most];
        let mut fds = Vec::new();
        let target = conn.data_in.and_then(|data| {
            let (request, item) = data.put?;
            match &mut self.requests.get_mut(request)?.work {
                Work::Put(put) => put.target(item, data.at, data.left),
                _ => None,
            }
        });
        let placed = target.is_some();
        let n = match target {
            Some(target) => conn.socket.recv(&mut [IoSliceMut::new(target), IoSliceMut::new(spare)], &mut fds)?,
            // Nobody wants the bytes of a DATA frame any more: they lie in front of the rest and are dropped.
            None => conn.socket.recv(&mut [IoSliceMut::new(spare)], &mut fds)?,
        };
        if n == 0 {
            return Ok(None);
        }
        self.waiting_fds += fds.len();
        conn.fds.extend(fds);
        conn.progress_us = self.core.now_us;
        if conn.fds.len() > FDS_MAX || (!conn.fds.is_empty() && self.waiting_fds > self.core.shares.waiting_fds) {
            let text = format!("the peer sent more than {FDS_MAX} descriptors without a RegionAdd for them");
            self.waiting_fds -= conn.fds.len();
            std::mem::take(&mut conn.fds).into_iter().for_each(close_elsewhere);
            self.refuse(id, Refusal { fault: PeerFault::OverLimit, ..Refusal::protocol(text) });
            return Ok(Some((n, 0..0)));
        }
        let mut of_data = 0;
        if let Some(data) = conn.data_in {
            of_data = data.left.min(n);
            self.data_arrived(id, data, of_data);
        }
        let rest_at = if placed { 0 } else { of_data };
        Ok(Some((n, rest_at..rest_at + n - of_data)))
    }

    /// Understands `bytes` behind what is there already, and keeps what is not a whole message yet.
    fn take_bytes(&mut self, id: Id, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.input.is_empty() {
            let used = self.parse(id, bytes);
            if let Some(conn) = self.conns.get_mut(id) {
                conn.input.extend_from_slice(&bytes[used..]);
            }
            self.account_input(id);
        } else {
            conn.input.extend_from_slice(bytes);
            self.parse_input(id);
        }
    }

    /// Understands what was received so far.
    pub(super) fn parse_input(&mut self, id: Id) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let mut input = std::mem::take(&mut conn.input);
        let used = self.parse(id, &input);
        let Some(conn) = self.conns.get_mut(id) else { return };
        if used == input.len() {
            input = Vec::new();
        } else {
            input.drain(..used);
        }
        conn.input = input;
        self.account_input(id);
    }

    /// Takes whole frames off the front; gives how many bytes they were.
    fn parse(&mut self, id: Id, bytes: &[u8]) -> usize {
        let mut at = 0;
        while self.conns.get(id).is_some_and(|conn| conn.closing.is_none()) {
            let (frame, used) = match next_frame(&bytes[at..]) {
                Ok(Some(found)) => found,
                Ok(None) => return at,
                Err(error) => {
                    self.refuse(id, Refusal { fault: PeerFault::of(&error), ..Refusal::protocol(error.to_string()) });
                    break;
                }
            };
            at += used;
            let done = match frame {
                Frame::Message(message) => self.on_message(id, message),
                Frame::Data(header) => self.on_data(id, &header).map(|data| {
                    let here = data.left.min(bytes.len() - at);
                    self.fill(data, &bytes[at..at + here]);
                    self.data_arrived(id, data, here);
                    at += here;
                }),
            };
            if let Err(refusal) = done {
                self.refuse(id, refusal);
            }
        }
        bytes.len()
    }

    fn on_data(&mut self, id: Id, header: &DataHeader) -> Result<DataIn, Refusal> {
        let left = header.length as usize;
        let request = self.conns.get(id).and_then(|conn| conn.request(header.request));
        let put = match request.and_then(|request| Some((request, self.requests.get_mut(request)?))) {
            Some((request, found)) => match &mut found.work {
                Work::Put(put) => match put.expects(header.item, header.offset, left) {
                    Some(true) => Some((request, header.item)),
                    Some(false) => {
                        return Err(Refusal::protocol("the peer sent DATA out of order or behind its block's end"));
                    }
                    None => None,
                },
                _ => return Err(Refusal::protocol("the peer sent DATA for a request that is no put")),
            },
            // It was answered meanwhile: a deadline, a wrong sum.
            None => None,
        };
        Ok(DataIn { put, at: header.offset, left })
    }

    /// Copies payload that came with other bytes.
    fn fill(&mut self, data: DataIn, bytes: &[u8]) {
        let Some((request, item)) = data.put else { return };
        if let Some(Work::Put(put)) = self.requests.get_mut(request).map(|request| &mut request.work)
            && let Some(target) = put.target(item, data.at, bytes.len())
        {
            target.copy_from_slice(bytes);
        }
    }

    /// `n` bytes of a DATA frame are where they belong.
    fn data_arrived(&mut self, id: Id, data: DataIn, n: usize) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let left = data.left - n;
        conn.data_in = (left > 0).then_some(DataIn { put: data.put, at: data.at + n as u64, left });
        let Some((request_id, item)) = data.put else { return };
        let Some(request) = self.requests.get_mut(request_id) else { return };
        if let Work::Put(put) = &mut request.work
            && n > 0
        {
            put.received(request_id, &mut self.core, conn, item, n);
            self.touch(request_id);
        }
    }

    /// Asks the budget for the memory of a message that is half here, or gives it back.
    fn account_input(&mut self, id: Id) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let need = match conn.input.first_chunk::<HEADER_BYTES>().map(decode_header) {
            Some(Ok(header)) => HEADER_BYTES + header.body_len as usize,
            _ => 0,
        };
        if need <= INPUT_FREE_BYTES {
            let grant = std::mem::take(&mut conn.grant);
            self.release(grant);
        } else if conn.grant == 0 {
            if self.granted + need <= self.core.shares.input_bytes {
                conn.grant = need;
                self.granted += need;
                conn.input.reserve_exact(need - conn.input.len());
            } else {
                self.starved.push(id);
            }
        }
    }

    /// Whether a connection waits for the budget; then it is not listed.
    fn is_starved(&mut self, id: Id) -> bool {
        let starved = self.starved.last() == Some(&id);
        if starved && let Some(conn) = self.conns.get_mut(id) {
            conn.listed = false;
        }
        starved
    }

    /// Gives back a part of the input budget; those that wait for it try again.
    pub(super) fn release(&mut self, grant: usize) {
        if grant == 0 {
            return;
        }
        self.granted -= grant;
        for id in std::mem::take(&mut self.starved) {
            self.account_input(id);
            if self.starved.last() != Some(&id) {
                self.list_readable(id);
            }
        }
    }

    /// Says why, and closes the connection when that is sent.
    pub(super) fn refuse(&mut self, id: Id, refusal: Refusal) {
        let now_us = self.core.now_us;
        let Some(conn) = self.conns.get_mut(id) else { return };
        if conn.closing.is_none() {
            conn.closing = Some(now_us + 1_000_000);
            self.core.counters.error(refusal.code);
            self.core.counters.fault(refusal.fault);
            conn.output.message(&Message::Error { request: 0, code: refusal.code, text: refusal.text });
            self.mark_dirty(id);
        }
    }
}
