//! A store on the disk that forgets, a client that verifies, and an oracle that remembers every put.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use forebay_io::Arena;
use forebay_io::sim::{Medium, SimDisk, SimOptions};
use forebay_store::{
    Committed, Event, FormatParams, Found, GetRequest, GetResult, GetStarted, Mutant, RecoveryReport, Reserve, Store,
    StoreConfig, StoreError, format_slice,
};
use forebay_types::{
    BlockMeta, Class, Descriptor, Entropy, Fingerprint, Key, MissReason, Namespace, NamespaceId, PutOutcome,
    RefusedReason, Reuse, Secret, SeededEntropy, ShardId, Tenant, Version,
};

use crate::left_out::left_out;
use crate::under_worth::policy;

pub(crate) const CACHE: NamespaceId = NamespaceId(1);
pub(crate) const DURABLE: NamespaceId = NamespaceId(2);
pub(crate) const MIB: u64 = 1 << 20;
/// What the wall clock says at the start.
pub(crate) const UTC: u64 = 1_700_000_000;

pub(crate) fn namespace(id: NamespaceId, class: Class, quota_bytes: Option<u64>) -> Namespace {
    Namespace {
        id,
        name: format!("n{}", id.0),
        tenant: Tenant(1000),
        class,
        quota_bytes,
        ttl_s: None,
        fingerprint: Fingerprint::default(),
        secret: Secret([7; 32]),
    }
}

pub(crate) fn key(i: u64) -> Key {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    bytes[8..].copy_from_slice(&i.to_le_bytes());
    Key(bytes)
}

/// The bytes of one put: told by its version alone, so that whatever is served names the put it must equal.
pub(crate) fn content(version: u64, length: usize) -> Vec<u8> {
    let mut page = vec![0; length.min(4096)];
    SeededEntropy::new(version.wrapping_mul(77)).fill(&mut page);
    let mut bytes = Vec::with_capacity(length);
    for n in 0u64.. {
        if bytes.len() == length {
            break;
        }
        let take = page.len().min(length - bytes.len());
        bytes.extend_from_slice(&page[..take]);
        let at = bytes.len() - take;
        // No two pages are equal.
        for (byte, mark) in bytes[at..].iter_mut().zip(n.to_le_bytes()) {
            *byte ^= mark;
        }
    }
    bytes
}

pub(crate) fn describe(ns: NamespaceId, key: Key, version: u64, bytes: &[u8]) -> Vec<u8> {
    describe_until(ns, key, version, bytes, 0)
}

pub(crate) fn describe_until(ns: NamespaceId, key: Key, version: u64, bytes: &[u8], expiry_utc_s: u64) -> Vec<u8> {
    let meta = BlockMeta { expiry_utc_s, ..BlockMeta::plain(ns, key, Version(version), bytes.len() as u64) };
    let mut encoded = Vec::new();
    Descriptor::of(meta, bytes).encode(&mut encoded);
    encoded
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    Hit(u64),
    Miss(MissReason),
}

/// What must hold, told from outside.
#[derive(Default, Clone)]
pub(crate) struct Oracle {
    /// Length of every put that was ever begun, by version.
    pub(crate) puts: BTreeMap<u64, (NamespaceId, Key, usize)>,
    /// Durable puts acknowledged and not forgotten since.
    pub(crate) durable: BTreeMap<(NamespaceId, Key), u64>,
    /// Versions up to this one of a key are forgotten for good.
    pub(crate) forgotten: BTreeMap<(NamespaceId, Key), u64>,
    pub(crate) next_version: u64,
    pub(crate) wrong: u64,
    pub(crate) corrupt: u64,
}

impl Oracle {
    /// Checks what a get answered: exactly the bytes of one put under that key, not forgotten, and nothing durable lost.
    pub(crate) fn judge(&mut self, ns: NamespaceId, key: Key, got: Got) -> Result<(), String> {
        let name = (ns, key);
        if got == Got::Miss(MissReason::Corrupt) {
            self.corrupt += 1;
        }
        if let Got::Hit(version) = got
            && self.forgotten.get(&name).is_some_and(|last| version <= *last)
        {
            return Err(format!("{ns:?} {key}: version {version} was forgotten and is back"));
        }
        match (self.durable.get(&name), got) {
            (Some(version), Got::Hit(other)) if other != *version => {
                Err(format!("{ns:?} {key}: version {version} is durable and {other} was served"))
            }
            (Some(version), Got::Miss(reason)) => {
                Err(format!("{ns:?} {key}: durable version {version} is lost: {reason}"))
            }
            _ => Ok(()),
        }
    }
}

pub(crate) struct Options {
    pub(crate) len: u64,
    pub(crate) segment: u64,
    pub(crate) align: usize,
    pub(crate) seed: u64,
    pub(crate) arena: usize,
    pub(crate) index_bytes_max: usize,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) orderly: bool,
    pub(crate) namespaces: Vec<Namespace>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            len: 80 * MIB,
            segment: 4 * MIB,
            align: 4096,
            seed: 1,
            arena: 16 << 20,
            index_bytes_max: 4 << 20,
            mutant: None,
            orderly: false,
            namespaces: vec![namespace(CACHE, Class::Cache, None), namespace(DURABLE, Class::Durable, None)],
        }
    }
}

pub(crate) struct Rig {
    pub(crate) medium: Medium,
    pub(crate) store: Store<SimDisk>,
    pub(crate) report: RecoveryReport,
    pub(crate) oracle: Rc<RefCell<Oracle>>,
    pub(crate) events: Vec<Event>,
    pub(crate) now: u64,
    pub(crate) arena_bytes: usize,
    pub(crate) index_bytes_max: usize,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) seed: u64,
    next_token: u64,
    /// The client checks what it gets; off only to show that checking matters.
    pub(crate) check: bool,
    /// What the wall clock says.
    pub(crate) utc: u64,
    /// When what is put expires.
    pub(crate) expiry: u64,
    /// What is said of when it will be used again, and which block it is behind.
    pub(crate) hint: Reuse,
    pub(crate) caller_keeps: bool,
    pub(crate) parent: Option<Key>,
}

impl Rig {
    pub(crate) fn new(options: Options) -> Rig {
        let medium = Medium::new(SimOptions {
            len: options.len,
            align: options.align,
            depth: 32,
            seed: options.seed,
            orderly: options.orderly,
        });
        let arena = Arena::new(options.arena).unwrap();
        let (shard, segment_bytes) = (ShardId([9; 16]), Some(options.segment));
        let params = FormatParams { shard, slice_index: 0, segment_bytes, utc_s: UTC };
        format_slice(&mut medium.open(), &arena, &params).unwrap();
        let mut rig =
            Rig::on(medium, options.arena, options.index_bytes_max, options.mutant, options.seed, Rc::default());
        for ns in &options.namespaces {
            rig.store.upsert_namespace(0, ns);
        }
        rig.until(|event| matches!(event, Event::NamespaceSaved { ok: true, .. }));
        rig.settle();
        rig
    }

    pub(crate) fn on(
        medium: Medium,
        arena_bytes: usize,
        index_bytes_max: usize,
        mutant: Option<Mutant>,
        seed: u64,
        oracle: Rc<RefCell<Oracle>>,
    ) -> Rig {
        Rig::on_at(medium, arena_bytes, index_bytes_max, mutant, seed, oracle, UTC)
    }

    pub(crate) fn on_at(
        medium: Medium,
        arena_bytes: usize,
        index_bytes_max: usize,
        mutant: Option<Mutant>,
        seed: u64,
        oracle: Rc<RefCell<Oracle>>,
        utc: u64,
    ) -> Rig {
        Rig::try_on_at(medium, arena_bytes, index_bytes_max, mutant, seed, oracle, utc).unwrap()
    }

    /// Opens the store on a medium that may be damaged.
    pub(crate) fn try_on(
        medium: Medium,
        arena_bytes: usize,
        index_bytes_max: usize,
        mutant: Option<Mutant>,
        seed: u64,
        oracle: Rc<RefCell<Oracle>>,
    ) -> Result<Rig, StoreError> {
        Rig::try_on_at(medium, arena_bytes, index_bytes_max, mutant, seed, oracle, UTC)
    }

    fn try_on_at(
        medium: Medium,
        arena_bytes: usize,
        index_bytes_max: usize,
        mutant: Option<Mutant>,
        seed: u64,
        oracle: Rc<RefCell<Oracle>>,
        utc: u64,
    ) -> Result<Rig, StoreError> {
        let mutant = mutant.or_else(left_out);
        let arena = Arena::new(arena_bytes).unwrap();
        let config = StoreConfig { policy: policy(), index_bytes_max, mutant, ..StoreConfig::default() };
        let chance = Arc::new(SeededEntropy::new(seed));
        let (store, report) = Store::open(medium.open(), arena, config, chance, 0, utc)?;
        Ok(Rig {
            medium,
            store,
            report,
            oracle,
            events: Vec::new(),
            now: 1000,
            arena_bytes,
            index_bytes_max,
            mutant,
            seed,
            next_token: 1,
            check: true,
            utc,
            expiry: 0,
            hint: Reuse::Unknown,
            caller_keeps: false,
            parent: None,
        })
    }

    /// The process dies or the power goes, and the store is opened again.
    pub(crate) fn reopen(self, power_cut: bool) -> Rig {
        let Rig { medium, store, oracle, arena_bytes, index_bytes_max, mutant, seed, now, check, utc, .. } = self;
        if power_cut {
            medium.crash(seed.wrapping_add(now));
        }
        drop(store);
        let mut rig = Rig::on_at(medium, arena_bytes, index_bytes_max, mutant, seed + 1, oracle, utc);
        rig.now = now;
        rig.check = check;
        rig
    }

    /// So many seconds pass, and the wall clock says this.
    pub(crate) fn clock(&mut self, seconds: u64, utc: u64) {
        self.now += seconds * 1000;
        self.utc = utc;
        self.store.set_utc(self.now, utc);
        self.turns(4);
    }

    /// A put that expires then.
    pub(crate) fn put_until(&mut self, ns: NamespaceId, key: Key, length: usize, expiry: u64) -> PutOutcome {
        self.expiry = expiry;
        let outcome = self.put(ns, key, length);
        self.expiry = 0;
        outcome
    }

    fn token(&mut self) -> u64 {
        self.next_token += 1;
        self.next_token
    }

    pub(crate) fn turn(&mut self) -> bool {
        self.now += 1;
        let mut events = Vec::new();
        let more = self.store.turn(self.now, &mut events);
        self.events.extend(events);
        more
    }

    pub(crate) fn turns(&mut self, n: usize) {
        for _ in 0..n {
            self.turn();
        }
    }

    /// Turns until an event matches, and takes it out.
    pub(crate) fn until(&mut self, mut is: impl FnMut(&Event) -> bool) -> Event {
        for _ in 0..100_000 {
            if let Some(at) = self.events.iter().position(&mut is) {
                return self.events.remove(at);
            }
            self.turn();
        }
        panic!("the store never answered; {:?}", self.store.stats());
    }

    /// Turns until nothing is in flight and nothing is to be done.
    pub(crate) fn settle(&mut self) {
        let mut idle = 0;
        for _ in 0..1_000_000 {
            let more = self.turn();
            idle = if more || self.medium.in_flight() > 0 { 0 } else { idle + 1 };
            if idle > 3 {
                return;
            }
        }
        panic!("the store never came to rest; {:?}", self.store.stats());
    }

    /// A put up to its ack. Busy is asked again, as a node would until the deadline.
    pub(crate) fn put(&mut self, ns: NamespaceId, key: Key, length: usize) -> PutOutcome {
        for _ in 0..10_000 {
            let (token, committed) = self.begin_put(ns, key, length);
            match committed {
                Err(PutOutcome::Refused(RefusedReason::Busy)) => {
                    self.turn();
                }
                Err(outcome) => return outcome,
                Ok(version) => {
                    let Event::Put { outcome, .. } =
                        self.until(|e| matches!(e, Event::Put { token: t, .. } if *t == token))
                    else {
                        unreachable!()
                    };
                    if outcome == PutOutcome::Durable {
                        self.oracle.borrow_mut().durable.insert((ns, key), version);
                    }
                    return outcome;
                }
            }
        }
        PutOutcome::Refused(RefusedReason::Busy)
    }

    /// `Ok(version)`: an event follows.
    pub(crate) fn begin_put(&mut self, ns: NamespaceId, key: Key, length: usize) -> (u64, Result<u64, PutOutcome>) {
        let token = self.token();
        let batch = self.store.begin_batch(1).hinted(self.hint).kept_by_caller(self.caller_keeps);
        let version = {
            let mut oracle = self.oracle.borrow_mut();
            oracle.next_version += 1;
            oracle.next_version
        };
        let bytes = content(version, length);
        let encoded = self.describe(ns, key, version, &bytes);
        let mut slot = match self.store.reserve(self.now, &encoded, batch, 0) {
            Reserve::Slot(slot) => slot,
            Reserve::Exists => return (token, Err(PutOutcome::Exists)),
            Reserve::Refused(reason) => return (token, Err(PutOutcome::Refused(reason))),
        };
        slot.buf_mut().copy_from_slice(&bytes);
        self.oracle.borrow_mut().puts.insert(version, (ns, key, length));
        let result = match self.store.commit(self.now, token, slot) {
            Committed::Cached => Err(PutOutcome::Cached),
            Committed::Exists => Err(PutOutcome::Exists),
            Committed::Refused(reason) => Err(PutOutcome::Refused(reason)),
            Committed::Pending => Ok(version),
        };
        (token, result)
    }

    fn describe(&self, ns: NamespaceId, key: Key, version: u64, bytes: &[u8]) -> Vec<u8> {
        let Some(parent) = self.parent else { return describe_until(ns, key, version, bytes, self.expiry) };
        let plain = BlockMeta::plain(ns, key, Version(version), bytes.len() as u64);
        let mut encoded = Vec::new();
        Descriptor::of(BlockMeta { parent: parent.place_token(), ..plain }, bytes).encode(&mut encoded);
        encoded
    }

    pub(crate) fn request(&mut self, ns: NamespaceId, key: Key, offset: u64, length: u64) -> GetRequest {
        let (token, batch) = (self.token(), self.store.begin_batch(1));
        GetRequest { token, namespace: ns, key, offset, length, room: u64::MAX, into: None, batch, depth_in_batch: 0 }
    }

    /// A get up to its answer.
    pub(crate) fn ask(&mut self, request: GetRequest) -> Result<GetResult, MissReason> {
        let token = request.token;
        match self.store.get(self.now, request) {
            GetStarted::Hit(found) => Ok(GetResult::Found(found)),
            GetStarted::Miss(reason) => Err(reason),
            GetStarted::TooSmall { need } => panic!("no room for {need}"),
            GetStarted::Pending => match self.until(|e| matches!(e, Event::Got { token: t, .. } if *t == token)) {
                Event::Got { result: GetResult::Miss(reason), .. } => Err(reason),
                Event::Got { result, .. } => Ok(result),
                _ => unreachable!(),
            },
        }
    }

    /// Gets a block as a client would: verified. The oracle judges the answer.
    pub(crate) fn get(&mut self, ns: NamespaceId, key: Key) -> Got {
        let request = self.request(ns, key, 0, 0);
        let got = match self.ask(request) {
            Err(reason) => Got::Miss(reason),
            Ok(GetResult::Found(found)) => self.verify(ns, key, &found),
            Ok(other) => panic!("{other:?}"),
        };
        self.judge(ns, key, got);
        got
    }

    pub(crate) fn judge(&mut self, ns: NamespaceId, key: Key, got: Got) {
        let judged = self.oracle.borrow_mut().judge(ns, key, got);
        judged.unwrap_or_else(|wrong| panic!("{wrong}"));
    }

    /// What a client does with what it found.
    pub(crate) fn verify(&mut self, ns: NamespaceId, key: Key, found: &Found) -> Got {
        verify_found(&mut self.oracle.borrow_mut(), ns, key, found, self.check)
    }

    /// Holds a block as a match does.
    pub(crate) fn lease(&mut self, ns: NamespaceId, key: &Key, hold_ms: u64) -> bool {
        let mut leased = false;
        let keys = std::slice::from_ref(key);
        self.store.look(self.now, ns, keys, hold_ms, true, |seen| leased = seen.is_ok_and(|seen| seen.leased));
        leased
    }

    pub(crate) fn forget(&mut self, ns: NamespaceId, keys: &[Key]) -> Vec<bool> {
        let (token, was) = self.begin_forget(ns, keys);
        let Event::Forgotten { ok, .. } = self.until(|e| matches!(e, Event::Forgotten { token: t, .. } if *t == token))
        else {
            unreachable!()
        };
        if ok {
            self.forgotten(ns, keys);
        }
        was
    }

    pub(crate) fn begin_forget(&mut self, ns: NamespaceId, keys: &[Key]) -> (u64, Vec<bool>) {
        let token = self.token();
        let was = self.store.forget(self.now, token, ns, keys);
        for key in keys {
            self.oracle.borrow_mut().durable.remove(&(ns, *key));
        }
        (token, was)
    }

    pub(crate) fn forgotten(&mut self, ns: NamespaceId, keys: &[Key]) {
        let mut oracle = self.oracle.borrow_mut();
        let last = oracle.next_version;
        for key in keys {
            oracle.forgotten.insert((ns, *key), last);
        }
    }
}

pub(crate) fn verify_found(oracle: &mut Oracle, ns: NamespaceId, key: Key, found: &Found, check: bool) -> Got {
    let corrupt = Got::Miss(MissReason::Corrupt);
    let descriptor = match Descriptor::decode(found.descriptor()) {
        Ok(descriptor) => descriptor,
        Err(_) => return corrupt,
    };
    let meta = &descriptor.meta;
    if check {
        let first = found.offset as usize / forebay_types::limits::PIECE_BYTES;
        let whole = found.offset + found.payload().len() as u64 <= meta.length;
        if meta.namespace != ns
            || meta.key != key
            || !whole
            || !descriptor.sums.verify(&meta.binding(), first, found.payload())
        {
            return corrupt;
        }
    }
    let version = meta.version.0;
    let right = oracle.puts.get(&version).is_some_and(|(n, k, length)| {
        let bytes = content(version, *length);
        (*n, *k) == (ns, key) && bytes.get(found.offset as usize..).is_some_and(|b| b.starts_with(found.payload()))
    });
    if !right {
        oracle.wrong += 1;
        assert!(!check, "wrong bytes were served for {key}");
    }
    Got::Hit(version)
}
