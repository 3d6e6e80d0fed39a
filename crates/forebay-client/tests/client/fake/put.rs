//! How the fake node takes blocks.

use std::sync::atomic::Ordering;

use forebay_types::{Descriptor, PutOutcome, RefusedReason};
use forebay_wire::{DataHeader, Message, Place};

use super::conn::{Conn, Gone, Served};
use super::{Trick, lock};

impl Conn<'_> {
    pub(super) fn put(&mut self, request: u32, items: Vec<(Vec<u8>, Place)>) -> Served {
        let trick = *lock(&self.state.trick);
        match trick {
            Trick::GoAway(left) => {
                self.state.set(if left > 1 { Trick::GoAway(left - 1) } else { Trick::None });
                return Err(Gone);
            }
            Trick::Refuse(code) => return self.send(&Message::Error { request, code, text: String::new() }),
            Trick::Silent | Trick::Dead | Trick::Late(_) => return Ok(()),
            _ => {}
        }
        for (slot, (bytes, from)) in items.into_iter().enumerate() {
            let slot = slot as u32;
            let descriptor = Descriptor::decode(&bytes).unwrap();
            let id = (descriptor.meta.namespace, descriptor.meta.key);
            if lock(&self.state.blocks).contains_key(&id) {
                self.send(&Message::PutOutcomes { request, outcomes: vec![(slot, PutOutcome::Exists)] })?;
            } else if from.region.0 == 0 {
                self.puts.insert((request, slot), (descriptor, bytes, Vec::new()));
                self.send(&Message::PutGo { request, items: vec![slot] })?;
            } else {
                assert_eq!(from.room, descriptor.meta.length);
                let mut block = vec![0; from.room as usize];
                let Some(region) = self.regions.get(&from.region) else {
                    let refused = PutOutcome::Refused(RefusedReason::Unavailable);
                    self.send(&Message::PutOutcomes { request, outcomes: vec![(slot, refused)] })?;
                    continue;
                };
                region.read_at(from.offset, &mut block).unwrap();
                self.keep(request, slot, &descriptor, bytes, block)?;
            }
        }
        Ok(())
    }

    fn keep(&mut self, request: u32, slot: u32, descriptor: &Descriptor, bytes: Vec<u8>, block: Vec<u8>) -> Served {
        assert!(descriptor.verify(&block), "the client put bytes that do not match its own sums");
        lock(&self.state.blocks).insert((descriptor.meta.namespace, descriptor.meta.key), (bytes, block));
        self.send(&Message::PutOutcomes { request, outcomes: vec![(slot, PutOutcome::Cached)] })
    }

    pub(super) fn payload(&mut self, header: &DataHeader, payload: &[u8]) -> Served {
        self.state.payload_received.fetch_add(payload.len() as u64, Ordering::Relaxed);
        let id = (header.request, header.item);
        let Some((descriptor, _, block)) = self.puts.get_mut(&id) else { panic!("payload nobody let go") };
        assert_eq!(header.offset, block.len() as u64, "frames in order");
        block.extend_from_slice(payload);
        if block.len() as u64 == descriptor.meta.length {
            let (descriptor, bytes, block) = self.puts.remove(&id).unwrap();
            return self.keep(header.request, header.item, &descriptor, bytes, block);
        }
        Ok(())
    }
}
