//! What a connection brings for a put, and the payload it takes along.

use forebay_types::PutOutcome;
use forebay_types::limits::DATA_FRAME_BYTES_MAX;
use forebay_wire::{DataHeader, Message};

use super::item::State;
use super::{PutCall, PutPart};
use crate::link::{LinkError, Sink, Source, refusal_for};

impl Source for PutPart<'_> {
    fn next(&mut self) -> Option<DataHeader> {
        loop {
            let (request, slot, at, from) = *self.to_send.front()?;
            let item = &self.items[at as usize];
            let left = item.length - from;
            if item.request != request || item.state != State::Going || left == 0 {
                self.to_send.pop_front();
                continue;
            }
            let length = left.min(DATA_FRAME_BYTES_MAX);
            // Blocks take turns, so that a small one does not wait for a large one.
            self.to_send.pop_front();
            if length < left {
                self.to_send.push_back((request, slot, at, from + length));
            }
            self.sending = at;
            return Some(DataHeader { request, item: slot, offset: from as u64, length: length as u32 });
        }
    }

    fn payload(&self, header: &DataHeader) -> &[u8] {
        let from = header.offset as usize;
        let bytes = self.items.get(self.sending as usize).map_or(&[][..], |item| item.bytes.as_slice());
        bytes.get(from..from + header.length as usize).unwrap_or(&[])
    }
}

/// Takes in what a connection brings for one part of a call.
pub(super) struct Answers<'p, 'k, 'c, 'b> {
    pub(super) part: &'p mut PutPart<'b>,
    pub(super) call: &'k mut PutCall<'c, 'b>,
}

impl Sink for Answers<'_, '_, '_, '_> {
    fn message(&mut self, message: Message) -> Result<(), LinkError> {
        match message {
            Message::PutOutcomes { request, outcomes } => {
                for (slot, outcome) in outcomes {
                    if let Some(at) = self.part.item(request, slot)? {
                        self.part.end(at, outcome, self.call);
                    }
                }
            }
            Message::PutGo { request, items } => {
                for slot in items {
                    let Some(at) = self.part.item(request, slot)? else { continue };
                    if self.part.items[at as usize].state != State::Announced {
                        return Err(LinkError::Protocol("a go for a block that was not announced"));
                    }
                    self.part.items[at as usize].state = State::Going;
                    self.part.to_send.push_back((request, slot, at, 0));
                }
            }
            Message::Error { request, code, .. } => {
                let Some(found) = self.part.requests.iter().find(|found| found.number == request) else {
                    return Ok(());
                };
                for at in found.items.clone() {
                    if self.part.items[at as usize].request == request {
                        self.part.end(at, PutOutcome::Refused(refusal_for(code)), self.call);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}
