//! How the fake node serves, and how it lies.

use std::sync::atomic::Ordering;

use forebay_types::limits::{DATA_FRAME_BYTES_MAX, PIECE_BYTES};
use forebay_types::{LandingKind, MissReason, NamespaceId, Tier};
use forebay_wire::{DataHeader, GetItem, GetOutcome, HEADER_BYTES, Message, encode_data_header};

use super::conn::{Conn, Gone, Served};
use super::{Ghost, Trick, lock};

impl Conn<'_> {
    pub(super) fn get(&mut self, request: u32, namespace: NamespaceId, items: &[GetItem]) -> Served {
        self.state.gets.fetch_add(1, Ordering::Relaxed);
        let mut trick = lock(&self.state.trick);
        let now = *trick;
        match now {
            Trick::GoAway(left) => {
                *trick = if left > 1 { Trick::GoAway(left - 1) } else { Trick::None };
                return Err(Gone);
            }
            Trick::GoAwayInTheMiddle(left) => {
                *trick = if left > 1 { Trick::GoAwayInTheMiddle(left - 1) } else { Trick::None };
            }
            Trick::Refuse(code) => {
                drop(trick);
                return self.send(&Message::Error { request, code, text: String::new() });
            }
            Trick::Garbage => {
                drop(trick);
                return self.send_bytes(&[0x55; 4096]);
            }
            Trick::Silent | Trick::Dead => return Ok(()),
            Trick::Late(and_gone) => {
                self.late.insert(request);
                let mut late = lock(&self.state.late);
                for item in items {
                    let Some(memory) = self.memory.get(&item.to.region) else { continue };
                    let (offset, bytes) = (item.to.offset, item.to.room as usize);
                    late.push(Ghost { memory: memory.try_clone().unwrap(), offset, bytes });
                }
                return if and_gone { Err(Gone) } else { Ok(()) };
            }
            _ => {}
        }
        drop(trick);
        for (slot, item) in items.iter().enumerate() {
            self.get_one(request, slot as u32, namespace, item, now)?;
        }
        if now == Trick::GoAwayAfter {
            *lock(&self.state.trick) = Trick::Gone;
            return Err(Gone);
        }
        Ok(())
    }

    fn outcome(&mut self, request: u32, slot: u32, outcome: GetOutcome) -> Served {
        self.send(&Message::GetOutcomes { request, outcomes: vec![(slot, outcome)] })
    }

    fn get_one(&mut self, request: u32, slot: u32, namespace: NamespaceId, item: &GetItem, trick: Trick) -> Served {
        let found = {
            let blocks = lock(&self.state.blocks);
            let other = || blocks.iter().find(|((_, key), _)| *key != item.key).map(|(_, block)| block.clone());
            match trick {
                Trick::OtherBlock => other(),
                _ => blocks.get(&(namespace, item.key)).cloned(),
            }
        };
        let Some((mut descriptor, block)) = found else {
            let reason = lock(&self.state.misses).unwrap_or(MissReason::Absent);
            return self.outcome(request, slot, GetOutcome::Miss(reason));
        };
        let slot = if trick == Trick::Stranger { slot + 100 } else { slot };
        if trick == Trick::NeverRoom && item.to.region.0 != 0 {
            return self.outcome(request, slot, GetOutcome::TooSmall { need: block.len() as u64 });
        }
        let start = (item.offset as usize).min(block.len());
        let whole_pieces = (item.length as usize).next_multiple_of(PIECE_BYTES);
        let end = if item.length == 0 { block.len() } else { block.len().min(start + whole_pieces) };
        let mut payload = block[start..end].to_vec();
        let offset = item.offset;
        let length = lie(trick, &mut payload, &mut descriptor);
        let region = self.regions.get(&item.to.region).cloned();
        let region = region.filter(|_| !self.state.stream.load(Ordering::Relaxed));
        let Some(region) = region else {
            let hit = GetOutcome::Hit {
                tier: Tier::Dram,
                landing: LandingKind::Stream,
                offset,
                length,
                descriptor,
                trailer_offset: 0,
            };
            self.hit(request, slot, hit, trick)?;
            return self.stream(request, slot, offset, &payload, trick);
        };
        if payload.len() as u64 > item.to.room {
            return self.outcome(request, slot, GetOutcome::TooSmall { need: payload.len() as u64 });
        }
        region.write_at(item.to.offset, &payload).unwrap();
        if let Trick::GoAwayInTheMiddle(_) = trick {
            return Err(Gone);
        }
        let trailer = payload.len().next_multiple_of(4096) + 64;
        let direct = self.state.direct.load(Ordering::Relaxed) && trailer + descriptor.len() <= item.to.room as usize;
        let mut trailer_offset = 0;
        if direct {
            region.write_at(item.to.offset + trailer as u64, &descriptor).unwrap();
            descriptor = Vec::new();
            trailer_offset = if trick == Trick::TrailerOutside { u64::MAX } else { trailer as u64 };
        }
        let landing = if direct { LandingKind::Direct } else { LandingKind::Bounce };
        let tier = if direct { Tier::Nvme } else { Tier::Dram };
        let hit = GetOutcome::Hit { tier, landing, offset, length, descriptor, trailer_offset };
        self.hit(request, slot, hit, trick)
    }

    fn hit(&mut self, request: u32, slot: u32, hit: GetOutcome, trick: Trick) -> Served {
        if trick == Trick::Twice {
            self.outcome(request, slot, hit.clone())?;
        }
        self.outcome(request, slot, hit)
    }

    fn stream(&mut self, request: u32, slot: u32, offset: u64, payload: &[u8], trick: Trick) -> Served {
        let mut frames: Vec<(u64, &[u8])> = payload
            .chunks(DATA_FRAME_BYTES_MAX)
            .enumerate()
            .map(|(i, chunk)| (offset + (i * DATA_FRAME_BYTES_MAX) as u64, chunk))
            .collect();
        if trick == Trick::Disorder {
            frames.reverse();
        }
        let half = frames.len() / 2;
        for (i, (offset, chunk)) in frames.into_iter().enumerate() {
            match trick {
                Trick::GoAwayInTheMiddle(_) => {
                    let header = DataHeader { request, item: slot, offset, length: chunk.len() as u32 };
                    let mut bytes = [0; HEADER_BYTES];
                    encode_data_header(&header, &mut bytes);
                    self.send_bytes(&bytes)?;
                    self.send_bytes(&chunk[..chunk.len() / 2])?;
                    return Err(Gone);
                }
                Trick::HalfThenMiss if i >= half => {
                    return self.outcome(request, slot, GetOutcome::Miss(MissReason::Unavailable));
                }
                _ => self.send_data(request, slot, offset, chunk)?,
            }
        }
        Ok(())
    }
}

/// Spoils what a trick spoils; gives the length to claim.
fn lie(trick: Trick, payload: &mut [u8], descriptor: &mut [u8]) -> u64 {
    let length = payload.len() as u64;
    match trick {
        Trick::Flip(at) if length > 0 => payload[at % length as usize] ^= 0x10,
        Trick::Descriptor => descriptor[20] ^= 1,
        Trick::TooLong => return 1 << 40,
        Trick::TooShort => return length - 1,
        _ => {}
    }
    length
}
