//! One connection of the fake node.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_io::PeerRegion;
use forebay_net::Socket;
use forebay_types::{Descriptor, Epoch, Key, MissReason, NamespaceId, RegionId, ShardId, Tier};
use forebay_wire::{
    DataHeader, ErrorCode, Frame, HEADER_BYTES, Hello, Member, Message, Presence, Welcome, encode, encode_data_header,
    features, next_frame,
};

use super::{State, Trick, lock, namespace};

pub(super) struct Gone;

pub(super) type Served = Result<(), Gone>;

/// A streamed put: what it is, its encoding, and its bytes so far.
type Coming = (Descriptor, Vec<u8>, Vec<u8>);

pub(super) struct Conn<'s> {
    pub(super) socket: Socket,
    pub(super) state: &'s State,
    pub(super) inbox: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
    pub(super) regions: BTreeMap<RegionId, PeerRegion>,
    /// The same, as the kernel holds them for I/O under way.
    pub(super) memory: BTreeMap<RegionId, OwnedFd>,
    pub(super) puts: BTreeMap<(u32, u32), Coming>,
    /// Requests whose landings come late: it would be a lie to say that they have ended.
    pub(super) late: BTreeSet<u32>,
    /// The shard that was asked for; nil before that, and for control.
    shard: ShardId,
}

impl<'s> Conn<'s> {
    pub(super) fn new(socket: Socket, state: &'s State) -> Self {
        let (inbox, fds, shard) = (Vec::new(), Vec::new(), ShardId::default());
        let (regions, memory, late) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Conn { socket, state, inbox, fds, regions, memory, puts: BTreeMap::new(), late, shard }
    }

    /// Stopped, as a process can be; the shard of a connection that has not said hello is in its inbox.
    fn is_frozen(&self) -> bool {
        let frozen = self.state.frozen_shard.load(Ordering::Relaxed) as u8;
        let wanted = match next_frame(&self.inbox) {
            Ok(Some((Frame::Message(Message::Hello(hello)), _))) => hello.shard,
            _ => self.shard,
        };
        *lock(&self.state.trick) == Trick::Frozen || (frozen != 0 && wanted == super::shard_id(frozen))
    }

    pub(super) fn serve(mut self, stop: &AtomicBool) {
        loop {
            if self.is_frozen() && !stop.load(Ordering::Relaxed) {
                super::wait_ms(1);
                continue;
            }
            match next_frame(&self.inbox) {
                Ok(Some((Frame::Message(message), took))) => {
                    self.inbox.drain(..took);
                    if self.message(message).is_err() {
                        return;
                    }
                    continue;
                }
                Ok(Some((Frame::Data(header), took))) if self.inbox.len() >= took + header.length as usize => {
                    let payload: Vec<u8> = self.inbox.drain(..took + header.length as usize).skip(took).collect();
                    if self.payload(&header, &payload).is_err() {
                        return;
                    }
                    continue;
                }
                Ok(_) => {}
                Err(error) => panic!("the client sent what is no frame: {error}"),
            }
            let mut bytes = [0; 65536];
            match self.socket.recv(&mut [IoSliceMut::new(&mut bytes)], &mut self.fds) {
                Ok(0) => return,
                Ok(n) => self.inbox.extend_from_slice(&bytes[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let _ = self.socket.wait(true, false, Duration::from_millis(5));
                }
                Err(_) => return,
            }
        }
    }

    pub(super) fn send_bytes(&mut self, bytes: &[u8]) -> Served {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.socket.send(&[IoSlice::new(&bytes[sent..])], &[]) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    let ready = self.socket.wait(false, true, Duration::from_secs(5)).map_err(|_| Gone)?;
                    assert!(ready.writable || ready.hangup, "the client does not read");
                }
                Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }

    pub(super) fn send(&mut self, message: &Message) -> Served {
        let mut bytes = Vec::new();
        encode(message, &mut bytes).unwrap();
        self.send_bytes(&bytes)
    }

    pub(super) fn send_data(&mut self, request: u32, item: u32, offset: u64, payload: &[u8]) -> Served {
        let header = DataHeader { request, item, offset, length: payload.len() as u32 };
        let mut bytes = [0; HEADER_BYTES];
        encode_data_header(&header, &mut bytes);
        self.send_bytes(&bytes)?;
        self.send_bytes(payload)
    }

    fn message(&mut self, message: Message) -> Served {
        match message {
            Message::Hello(hello) => self.hello(&hello),
            Message::Members { request } => {
                let member = |shard: &ShardId| Member { shard: *shard, weight: 100, addresses: Vec::new() };
                let members = lock(&self.state.shards).iter().map(member).collect();
                self.send(&Message::MembersAre { request, epoch: self.epoch(), members })
            }
            Message::Attach { request, name, .. } if name == "kv" => {
                self.send(&Message::NamespaceIs { request, namespace: namespace() })
            }
            Message::Attach { request, .. } => {
                let text = "no such namespace".into();
                self.send(&Message::Error { request, code: ErrorCode::NamespaceUnknown, text })
            }
            Message::Stats { request } => self.send(&Message::StatsAre { request, json: "{}".into() }),
            Message::RegionAdd { request, region, length, .. } => {
                let fd = self.fds.remove(0);
                if *lock(&self.state.trick) == Trick::RefuseRegion {
                    let text = "no regions today".into();
                    return self.send(&Message::Error { request, code: ErrorCode::Region, text });
                }
                self.memory.insert(region, fd.try_clone().unwrap());
                self.regions.insert(region, PeerRegion::import(fd, length).unwrap());
                self.send(&Message::Done { request })
            }
            Message::RegionDrop { request, region } => {
                self.regions.remove(&region);
                self.send(&Message::Done { request })
            }
            Message::Get { request, namespace, items, .. } => self.get(request, namespace, &items),
            Message::Put { request, items, .. } => {
                let items = items.into_iter().map(|item| (item.descriptor, item.from)).collect();
                self.put(request, items)
            }
            Message::Match { request, namespace, hold_ms, stop_at_gap, keys, .. } => {
                self.state.hold_ms.store(hold_ms, Ordering::Relaxed);
                self.look(request, namespace, hold_ms > 0, stop_at_gap, &keys)
            }
            Message::Forget { request, namespace, keys, .. } => {
                let forgotten =
                    keys.iter().map(|key| lock(&self.state.blocks).remove(&(namespace, *key)).is_some()).collect();
                self.send(&Message::ForgetOutcomes { request, failed: false, forgotten })
            }
            Message::Corrupt { key, version, .. } => {
                lock(&self.state.corrupt_reports).push((key, version.0));
                Ok(())
            }
            Message::Cancel { request } => {
                self.state.cancels.fetch_add(1, Ordering::Relaxed);
                if *lock(&self.state.trick) == Trick::Dead || self.late.contains(&request) {
                    Ok(())
                } else {
                    self.send(&Message::Done { request })
                }
            }
            Message::Credit { .. } => Ok(()),
            other => panic!("the client sent {other:?}"),
        }
    }

    fn epoch(&self) -> Epoch {
        Epoch(self.state.epoch.load(Ordering::Relaxed))
    }

    fn hello(&mut self, hello: &Hello) -> Served {
        if *lock(&self.state.trick) == Trick::Gone {
            return Err(Gone);
        }
        if let Some(token) = &self.state.token
            && *token != hello.credential
        {
            let text = "wrong token".into();
            self.send(&Message::Error { request: 0, code: ErrorCode::Credential, text })?;
            return Err(Gone);
        }
        let is_here = lock(&self.state.shards).contains(&hello.shard) && !self.state.elsewhere.load(Ordering::Relaxed);
        if hello.shard != ShardId::default() && !is_here {
            let text = "no such shard".into();
            self.send(&Message::Error { request: 0, code: ErrorCode::Shard, text })?;
            return Err(Gone);
        }
        self.shard = hello.shard;
        self.send(&Message::Welcome(Welcome {
            version: 1,
            features: hello.features & (features::REGIONS | features::DIRECT),
            incarnation: self.state.incarnation.load(Ordering::Relaxed),
            epoch: self.epoch(),
            block_bytes_max: 16 << 20,
            align: 4096,
            credit_bytes: 8 << 20,
        }))
    }

    /// Whether it goes away now, as [`Trick::GoAway`] says.
    fn goes_away(&self) -> bool {
        let mut trick = lock(&self.state.trick);
        let Trick::GoAway(left) = *trick else { return false };
        *trick = if left > 1 { Trick::GoAway(left - 1) } else { Trick::None };
        true
    }

    fn look(&mut self, request: u32, namespace: NamespaceId, hold: bool, stop_at_gap: bool, keys: &[Key]) -> Served {
        if let Trick::Refuse(code) = *lock(&self.state.trick) {
            return self.send(&Message::Error { request, code, text: String::new() });
        }
        if self.goes_away() {
            return Err(Gone);
        }
        let leased = hold && self.state.leases.load(Ordering::Relaxed);
        let mut gap = false;
        let misses = *lock(&self.state.misses);
        let presence = keys.iter().map(|key| match lock(&self.state.blocks).contains_key(&(namespace, *key)) {
            _ if gap => Presence::NotAsked,
            true => Presence::Here { tier: Tier::Dram, leased },
            false => {
                gap = stop_at_gap;
                Presence::Not(misses.unwrap_or(MissReason::Absent))
            }
        });
        let presence = presence.collect();
        self.send(&Message::MatchOutcomes { request, presence })
    }
}
