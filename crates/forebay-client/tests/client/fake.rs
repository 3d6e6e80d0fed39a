//! A node that does as it is told: honest by default, hostile where a test says so. It keeps blocks in memory and speaks the wire itself.

use std::collections::BTreeMap;
use std::io::{ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use forebay_io::PeerRegion;
use forebay_net::{Listener, Socket};
use forebay_types::limits::{DATA_FRAME_BYTES_MAX, PIECE_BYTES};
use forebay_types::{
    Address, Class, Descriptor, Epoch, Fingerprint, Key, LandingKind, MissReason, Namespace, NamespaceId, PutOutcome,
    RefusedReason, RegionId, Secret, ShardId, Tenant, Tier,
};
use forebay_wire::{
    DataHeader, ErrorCode, Frame, GetItem, GetOutcome, HEADER_BYTES, Member, Message, Place, Presence, Welcome, encode,
    encode_data_header, features, next_frame,
};

/// What the node does wrong with gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Trick {
    #[default]
    None,
    /// The descriptor and bytes of another block, right in themselves.
    OtherBlock,
    /// This byte of the payload is another one.
    Flip(usize),
    /// The descriptor is damaged.
    Descriptor,
    /// Says that more bytes came than there is room for.
    TooLong,
    /// Says that fewer bytes came than the block has.
    TooShort,
    /// The descriptor is said to lie outside the slice.
    TrailerOutside,
    /// Bytes that are no frame.
    Garbage,
    /// Goes away when asked, this many times, then serves.
    GoAway(u32),
    /// Begins to write or send, then goes away, this many times.
    GoAwayInTheMiddle(u32),
    /// Says nothing until it is told to cancel; then answers `Done`.
    Silent,
    /// Says nothing, not even to a cancel.
    Dead,
    /// Says of every block that it is too long.
    NeverRoom,
    /// Two outcomes for the first item.
    Twice,
    /// An outcome for an item nobody asked for.
    Stranger,
    /// Frames in the wrong order.
    Disorder,
    /// Half of the frames, then a miss.
    HalfThenMiss,
    /// Does not know the region.
    RefuseRegion,
    /// Answers all requests with this error.
    Refuse(ErrorCode),
}

type Blocks = BTreeMap<(NamespaceId, Key), (Vec<u8>, Vec<u8>)>;

pub(crate) struct State {
    pub(crate) blocks: Mutex<Blocks>,
    pub(crate) trick: Mutex<Trick>,
    /// Descriptors of direct landings lie behind the payload.
    pub(crate) direct: AtomicBool,
    /// Streams although there is a region.
    pub(crate) stream: AtomicBool,
    pub(crate) leases: AtomicBool,
    pub(crate) corrupt_reports: Mutex<Vec<(Key, u64)>>,
    pub(crate) cancels: AtomicU32,
    pub(crate) connections: AtomicU32,
    pub(crate) payload_received: AtomicU64,
    pub(crate) gets: AtomicU32,
    incarnation: AtomicU64,
    shards: Vec<ShardId>,
    token: Option<Vec<u8>>,
}

impl State {
    pub(crate) fn set(&self, trick: Trick) {
        *lock(&self.trick) = trick;
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

pub(crate) fn shard_id(n: u8) -> ShardId {
    ShardId([n; 16])
}

pub(crate) fn namespace() -> Namespace {
    let mut fingerprint = Fingerprint::default();
    fingerprint.set("model", "m").unwrap();
    Namespace {
        id: NamespaceId(7),
        name: "kv".into(),
        tenant: Tenant(0),
        class: Class::Cache,
        quota_bytes: None,
        fingerprint,
        secret: Secret([9; 32]),
    }
}

pub(crate) struct Fake {
    pub(crate) address: Address,
    pub(crate) state: Arc<State>,
    path: Option<PathBuf>,
    stop: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

static FOLDER: AtomicU32 = AtomicU32::new(0);

impl Fake {
    pub(crate) fn unix() -> Fake {
        Fake::with(1, false, None)
    }

    pub(crate) fn tcp() -> Fake {
        Fake::with(1, true, Some(b"secret".to_vec()))
    }

    pub(crate) fn with(shards: u8, tcp: bool, token: Option<Vec<u8>>) -> Fake {
        let state = Arc::new(State {
            blocks: Mutex::default(),
            trick: Mutex::default(),
            direct: AtomicBool::new(false),
            stream: AtomicBool::new(false),
            leases: AtomicBool::new(true),
            corrupt_reports: Mutex::default(),
            cancels: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            payload_received: AtomicU64::new(0),
            gets: AtomicU32::new(0),
            incarnation: AtomicU64::new(1),
            shards: (1..=shards).map(shard_id).collect(),
            token,
        });
        let (address, path) = if tcp {
            let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            (Address::Tcp(format!("127.0.0.1:{port}")), None)
        } else {
            let n = FOLDER.fetch_add(1, Ordering::Relaxed);
            let path = std::env::temp_dir().join(format!("forebay-fake-{}-{n}", std::process::id()));
            (Address::Unix(path.clone()), Some(path))
        };
        let mut fake = Fake { address, state, path, stop: Arc::default(), acceptor: None };
        fake.start();
        fake
    }

    /// Serves, again if it was stopped.
    pub(crate) fn start(&mut self) {
        let listener = match &self.address {
            Address::Unix(path) => Listener::unix(path).unwrap(),
            Address::Tcp(to) => Listener::tcp(to, false).unwrap(),
        };
        self.stop = Arc::new(AtomicBool::new(false));
        let (stop, state) = (self.stop.clone(), self.state.clone());
        let run = move || {
            std::thread::scope(|scope| {
                while !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        Ok(Some(socket)) => {
                            state.connections.fetch_add(1, Ordering::Relaxed);
                            let (stop, state) = (&stop, &state);
                            scope.spawn(move || Conn::new(socket, state).serve(stop));
                        }
                        _ => wait_ms(1),
                    }
                }
            });
        };
        self.acceptor = Some(std::thread::Builder::new().spawn(run).unwrap());
    }

    /// Stops, as if killed: all connections end at once. Blocks are kept; the next start has another incarnation.
    pub(crate) fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            let joined = acceptor.join();
            assert!(joined.is_ok() || std::thread::panicking(), "the fake node panicked");
        }
        self.state.incarnation.fetch_add(1, Ordering::Relaxed);
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn wait_ms(ms: u64) {
    let nothing = rustix::event::Timespec { tv_sec: 0, tv_nsec: (ms * 1_000_000) as i64 };
    let _ = rustix::event::poll(&mut [], Some(&nothing));
}

struct Gone;
type Served = Result<(), Gone>;

/// A streamed put: what it is, its encoding, and its bytes so far.
type Coming = (Descriptor, Vec<u8>, Vec<u8>);

struct Conn<'s> {
    socket: Socket,
    state: &'s State,
    inbox: Vec<u8>,
    fds: Vec<OwnedFd>,
    regions: BTreeMap<RegionId, PeerRegion>,
    puts: BTreeMap<(u32, u32), Coming>,
}

impl<'s> Conn<'s> {
    fn new(socket: Socket, state: &'s State) -> Self {
        Conn { socket, state, inbox: Vec::new(), fds: Vec::new(), regions: BTreeMap::new(), puts: BTreeMap::new() }
    }

    fn serve(mut self, stop: &AtomicBool) {
        loop {
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

    fn send_bytes(&mut self, bytes: &[u8]) -> Served {
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

    fn send(&mut self, message: &Message) -> Served {
        let mut bytes = Vec::new();
        encode(message, &mut bytes).unwrap();
        self.send_bytes(&bytes)
    }

    fn send_data(&mut self, request: u32, item: u32, offset: u64, payload: &[u8]) -> Served {
        let header = DataHeader { request, item, offset, length: payload.len() as u32 };
        let mut bytes = [0; HEADER_BYTES];
        encode_data_header(&header, &mut bytes);
        self.send_bytes(&bytes)?;
        self.send_bytes(payload)
    }

    fn message(&mut self, message: Message) -> Served {
        match message {
            Message::Hello(hello) => {
                if let Some(token) = &self.state.token
                    && *token != hello.credential
                {
                    let text = "wrong token".into();
                    self.send(&Message::Error { request: 0, code: ErrorCode::Credential, text })?;
                    return Err(Gone);
                }
                if hello.shard != ShardId::default() && !self.state.shards.contains(&hello.shard) {
                    let text = "no such shard".into();
                    self.send(&Message::Error { request: 0, code: ErrorCode::Shard, text })?;
                    return Err(Gone);
                }
                self.send(&Message::Welcome(Welcome {
                    version: 1,
                    features: hello.features & (features::REGIONS | features::DIRECT),
                    incarnation: self.state.incarnation.load(Ordering::Relaxed),
                    epoch: Epoch(1),
                    block_bytes_max: 16 << 20,
                    align: 4096,
                    credit_bytes: 8 << 20,
                }))
            }
            Message::Members { request } => {
                let member = |shard: &ShardId| Member { shard: *shard, weight: 100, addresses: Vec::new() };
                let members = self.state.shards.iter().map(member).collect();
                self.send(&Message::MembersAre { request, epoch: Epoch(1), members })
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
                if let Trick::Refuse(code) = *lock(&self.state.trick) {
                    return self.send(&Message::Error { request, code, text: String::new() });
                }
                let leased = hold_ms > 0 && self.state.leases.load(Ordering::Relaxed);
                let mut gap = false;
                let presence = keys.iter().map(|key| match lock(&self.state.blocks).contains_key(&(namespace, *key)) {
                    _ if gap => Presence::NotAsked,
                    true => Presence::Here { tier: Tier::Dram, leased },
                    false => {
                        gap = stop_at_gap;
                        Presence::Not(MissReason::Absent)
                    }
                });
                let presence = presence.collect();
                self.send(&Message::MatchOutcomes { request, presence })
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
                if *lock(&self.state.trick) == Trick::Dead { Ok(()) } else { self.send(&Message::Done { request }) }
            }
            Message::Credit { .. } => Ok(()),
            other => panic!("the client sent {other:?}"),
        }
    }

    fn get(&mut self, request: u32, namespace: NamespaceId, items: &[GetItem]) -> Served {
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
            _ => {}
        }
        drop(trick);
        for (slot, item) in items.iter().enumerate() {
            self.get_one(request, slot as u32, namespace, item, now)?;
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
            return self.outcome(request, slot, GetOutcome::Miss(MissReason::Absent));
        };
        let slot = if trick == Trick::Stranger { slot + 100 } else { slot };
        if trick == Trick::NeverRoom && item.to.region.0 != 0 {
            return self.outcome(request, slot, GetOutcome::TooSmall { need: block.len() as u64 });
        }
        let start = (item.offset as usize).min(block.len());
        let whole_pieces = (item.length as usize).next_multiple_of(PIECE_BYTES);
        let end = if item.length == 0 { block.len() } else { block.len().min(start + whole_pieces) };
        let mut payload = block[start..end].to_vec();
        if let Trick::Flip(at) = trick
            && !payload.is_empty()
        {
            let at = at % payload.len();
            payload[at] ^= 0x10;
        }
        if trick == Trick::Descriptor {
            descriptor[20] ^= 1;
        }
        let (offset, mut length) = (item.offset, payload.len() as u64);
        match trick {
            Trick::TooLong => length = 1 << 40,
            Trick::TooShort => length -= 1,
            _ => {}
        }
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
            self.outcome(request, slot, hit.clone())?;
            if trick == Trick::Twice {
                self.outcome(request, slot, hit)?;
            }
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
        self.outcome(request, slot, hit.clone())?;
        if trick == Trick::Twice {
            self.outcome(request, slot, hit)?;
        }
        Ok(())
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

    fn put(&mut self, request: u32, items: Vec<(Vec<u8>, Place)>) -> Served {
        let trick = *lock(&self.state.trick);
        match trick {
            Trick::GoAway(left) => {
                self.state.set(if left > 1 { Trick::GoAway(left - 1) } else { Trick::None });
                return Err(Gone);
            }
            Trick::Refuse(code) => return self.send(&Message::Error { request, code, text: String::new() }),
            Trick::Silent | Trick::Dead => return Ok(()),
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

    fn payload(&mut self, header: &DataHeader, payload: &[u8]) -> Served {
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
