//! A client made by hand, message by message, and a node in a folder of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use forebay_io::{EngineKind, Region};
use forebay_net::Socket;
use forebay_node::{DataConfig, Node, NodeConfig, NodeHandle};
use forebay_types::{
    Address, BlockMeta, Class, Descriptor, Epoch, Fingerprint, Key, Namespace, NamespaceId, PutOutcome, RegionId,
    ShardId, Version,
};
use forebay_wire::{
    DataHeader, ErrorCode, Frame, GetItem, GetOutcome, HEADER_BYTES, Hello, Message, Place, PutItem, RegionKind,
    ReuseHint, WIRE_VERSION, Welcome, encode, encode_data_header, features, next_frame,
};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const WAIT: Duration = Duration::from_secs(30);

/// A folder that is gone when the test ends.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("forebay-node-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn config(&self) -> NodeConfig {
        let data = DataConfig { path: self.0.join("drive"), capacity: Some(256 * MIB) };
        let mut config = NodeConfig::new(data, 64 * MIB, self.0.join("s"));
        config.io = EngineKind::Auto;
        config
    }

    pub(crate) fn start(&self) -> NodeHandle {
        Node::start(self.config()).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What came from the node.
#[derive(Debug)]
pub(crate) enum In {
    Message(Message),
    Data(DataHeader, Vec<u8>),
    Closed,
}

/// One connection.
pub(crate) struct Hand {
    pub(crate) socket: Socket,
    input: Vec<u8>,
    early: VecDeque<Message>,
    number: u32,
}

pub(crate) fn hello(shard: ShardId, credential: &[u8]) -> Hello {
    Hello {
        version: WIRE_VERSION,
        features: features::REGIONS | features::DIRECT,
        shard,
        credential: credential.to_vec(),
        epoch: Epoch(0),
        lane: 0,
        trace: 0,
        credit_bytes: 32 << 20,
    }
}

impl Hand {
    pub(crate) fn raw(address: &Address) -> Self {
        let socket = Socket::connect(address, WAIT).unwrap();
        Hand { socket, input: Vec::new(), early: VecDeque::new(), number: 0 }
    }

    pub(crate) fn with(address: &Address, hello: Hello) -> (Self, Welcome) {
        let mut hand = Hand::raw(address);
        hand.send(&Message::Hello(hello));
        match hand.message() {
            Message::Welcome(welcome) => (hand, welcome),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn control(node: &NodeHandle) -> Self {
        Hand::with(&node.addresses()[0], hello(ShardId::default(), &[])).0
    }

    pub(crate) fn shard(node: &NodeHandle) -> Self {
        Hand::with(&node.addresses()[0], hello(node.shards()[0], &[])).0
    }

    pub(crate) fn number(&mut self) -> u32 {
        self.number += 1;
        self.number
    }

    pub(crate) fn send(&mut self, message: &Message) {
        self.send_with(message, &[]);
    }

    pub(crate) fn send_with(&mut self, message: &Message, fds: &[BorrowedFd<'_>]) {
        let mut bytes = Vec::new();
        encode(message, &mut bytes).unwrap();
        self.send_bytes(&bytes, fds);
    }

    pub(crate) fn send_data(&mut self, request: u32, item: u32, offset: u64, bytes: &[u8]) {
        let mut header = [0; HEADER_BYTES];
        encode_data_header(&DataHeader { request, item, offset, length: bytes.len() as u32 }, &mut header);
        self.send_bytes(&header, &[]);
        self.send_bytes(bytes, &[]);
    }

    pub(crate) fn send_block(&mut self, request: u32, item: u32, block: &[u8]) {
        for (at, frame) in block.chunks(256 * 1024).enumerate() {
            self.send_data(request, item, at as u64 * 256 * 1024, frame);
        }
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8], mut fds: &[BorrowedFd<'_>]) {
        let mut at = 0;
        while at < bytes.len() {
            match self.socket.send(&[IoSlice::new(&bytes[at..])], fds) {
                Ok(n) => {
                    at += n;
                    fds = &[];
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    // The node may itself wait for us to read.
                    self.socket.wait(true, true, WAIT).unwrap();
                    self.receive();
                }
                // The node has closed: what it said before is still there to be read.
                Err(_) => return,
            }
        }
    }

    /// Takes what is there; false when the node has closed.
    fn receive(&mut self) -> bool {
        let mut chunk = vec![0; 256 * 1024];
        let mut fds: Vec<OwnedFd> = Vec::new();
        match self.socket.recv(&mut [IoSliceMut::new(&mut chunk)], &mut fds) {
            Ok(0) => return false,
            Ok(n) => self.input.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return false,
        }
        true
    }

    /// The next thing that comes, or `None` when nothing does for `wait`.
    pub(crate) fn next_within(&mut self, wait: Duration) -> Option<In> {
        if let Some(message) = self.early.pop_front() {
            return Some(In::Message(message));
        }
        loop {
            match next_frame(&self.input).unwrap() {
                Some((Frame::Message(message), used)) => {
                    self.input.drain(..used);
                    return Some(In::Message(message));
                }
                Some((Frame::Data(header), used)) if self.input.len() >= used + header.length as usize => {
                    let bytes = self.input[used..used + header.length as usize].to_vec();
                    self.input.drain(..used + header.length as usize);
                    return Some(In::Data(header, bytes));
                }
                _ => {}
            }
            let ready = self.socket.wait(true, false, wait).unwrap();
            if ready == forebay_net::Readiness::default() {
                return None;
            }
            if !self.receive() {
                return Some(In::Closed);
            }
        }
    }

    pub(crate) fn next(&mut self) -> In {
        self.next_within(WAIT).expect("the node says something")
    }

    pub(crate) fn message(&mut self) -> Message {
        match self.next() {
            In::Message(message) => message,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn ask(&mut self, message: &Message) -> Message {
        self.send(message);
        self.message()
    }

    /// The last word of the node on this connection.
    pub(crate) fn last_error(&mut self) -> (ErrorCode, String) {
        let error = match self.message() {
            Message::Error { request: 0, code, text } => (code, text),
            other => panic!("{other:?}"),
        };
        assert!(matches!(self.next(), In::Closed));
        error
    }

    pub(crate) fn namespace(&mut self, name: &str, class: Class) -> Namespace {
        let request = self.number();
        let create = Message::NamespaceCreate {
            request,
            name: name.into(),
            class,
            quota_bytes: None,
            ttl_s: None,
            fingerprint: Fingerprint::default(),
        };
        match self.ask(&create) {
            Message::NamespaceIs { namespace, .. } => namespace,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn lend(&mut self, id: u32, region: &Region) {
        let request = self.number();
        let add =
            Message::RegionAdd { request, region: RegionId(id), length: region.len() as u64, kind: RegionKind::Owned };
        self.send_with(&add, &[region.fd()]);
        assert_eq!(self.message(), Message::Done { request });
    }

    pub(crate) fn put_message(&mut self, ns: NamespaceId, items: Vec<PutItem>) -> (u32, Message) {
        let request = self.number();
        let (deadline_us, hint) = (30_000_000, ReuseHint::default());
        (request, Message::Put { request, namespace: ns, deadline_us, hint, caller_keeps: false, items })
    }

    /// Puts one block in DATA frames.
    pub(crate) fn put_stream(&mut self, ns: NamespaceId, key: Key, block: &[u8]) -> PutOutcome {
        let item = PutItem { descriptor: descriptor(ns, key, block), from: Place::default() };
        let (request, put) = self.put_message(ns, vec![item]);
        match self.ask(&put) {
            Message::PutGo { items, .. } => assert_eq!(items, vec![0]),
            Message::PutOutcomes { outcomes, .. } => return outcomes[0].1,
            other => panic!("{other:?}"),
        }
        self.send_block(request, 0, block);
        self.put_outcome(request)
    }

    pub(crate) fn put_outcome(&mut self, request: u32) -> PutOutcome {
        match self.message() {
            Message::PutOutcomes { request: of, outcomes } if of == request => {
                assert_eq!(outcomes.len(), 1);
                outcomes[0].1
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn get_message(&mut self, ns: NamespaceId, items: Vec<GetItem>, deadline_us: u32) -> (u32, Message) {
        let request = self.number();
        (request, Message::Get { request, namespace: ns, deadline_us, hint: ReuseHint::default(), items })
    }

    /// Gets blocks in DATA frames: each item's outcome and bytes.
    pub(crate) fn get_stream(&mut self, ns: NamespaceId, keys: &[Key]) -> Vec<(GetOutcome, Vec<u8>)> {
        let place = Place { room: u64::MAX, ..Place::default() };
        let items = keys.iter().map(|key| GetItem { key: *key, offset: 0, length: 0, to: place }).collect();
        let (request, get) = self.get_message(ns, items, 30_000_000);
        self.send(&get);
        let mut got: Vec<Option<(GetOutcome, Vec<u8>)>> = keys.iter().map(|_| None).collect();
        let full = |got: &Option<(GetOutcome, Vec<u8>)>| match got {
            None => false,
            Some((GetOutcome::Hit { length, .. }, bytes)) => bytes.len() as u64 == *length,
            Some(_) => true,
        };
        while !got.iter().all(full) {
            match self.next() {
                In::Message(Message::GetOutcomes { request: of, outcomes }) => {
                    assert_eq!(of, request);
                    for (item, outcome) in outcomes {
                        let slot = &mut got[item as usize];
                        let bytes = slot.take().map_or(Vec::new(), |(_, bytes)| bytes);
                        *slot = Some((outcome, bytes));
                    }
                }
                In::Data(header, bytes) => {
                    let (_, so_far) = got[header.item as usize].as_mut().expect("the outcome comes before the bytes");
                    assert_eq!(header.offset, so_far.len() as u64);
                    so_far.extend_from_slice(&bytes);
                    self.send(&Message::Credit { bytes: bytes.len() as u64 });
                }
                other => panic!("{other:?}"),
            }
        }
        got.into_iter().map(Option::unwrap).collect()
    }
}

pub(crate) fn key(number: u64) -> Key {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes[8..].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    Key(bytes)
}

pub(crate) fn block(number: u64, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u64 / 7 + number * 131 + (i as u64).wrapping_mul(number)) as u8).collect()
}

pub(crate) fn descriptor(ns: NamespaceId, key: Key, block: &[u8]) -> Vec<u8> {
    let meta = BlockMeta::plain(ns, key, Version(7), block.len() as u64);
    let mut bytes = Vec::new();
    Descriptor::of(meta, block).encode(&mut bytes);
    bytes
}

pub(crate) fn verify(encoded: &[u8], ns: NamespaceId, key: Key, bytes: &[u8]) {
    let descriptor = Descriptor::decode(encoded).unwrap();
    assert_eq!((descriptor.meta.namespace, descriptor.meta.key), (ns, key));
    assert!(descriptor.verify(bytes));
}

/// All samples of a metrics text, by name with labels.
pub(crate) fn samples(text: &str) -> std::collections::BTreeMap<String, f64> {
    let mut all = std::collections::BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        let old = all.insert(name.to_owned(), value.parse().expect("a number"));
        assert!(old.is_none(), "{name} is there twice");
    }
    all
}

pub(crate) fn sum(samples: &std::collections::BTreeMap<String, f64>, name: &str) -> f64 {
    samples.iter().filter(|(key, _)| key.split('{').next() == Some(name)).map(|(_, value)| value).sum()
}

/// Asserts the identity of every verb.
pub(crate) fn assert_identity(text: &str) {
    let all = samples(text);
    for verb in ["get", "match", "contains"] {
        let of = |what: &str| sum(&all, &format!("forebay_{verb}_{what}_total"));
        assert_eq!(of("asked"), of("hits") + of("misses") + of("not_asked"), "{verb}\n{text}");
    }
    let of = |what: &str| sum(&all, &format!("forebay_put_{what}_total"));
    assert_eq!(of("asked"), of("cached") + of("durable") + of("exists") + of("refused"), "put\n{text}");
}
