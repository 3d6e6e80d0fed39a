//! A node that does as it is told: honest by default, hostile where a test says so. It keeps blocks in memory and speaks the wire itself.

mod conn;
mod get;
mod put;

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use forebay_net::Listener;
use forebay_types::{Address, Class, Fingerprint, Key, MissReason, Namespace, NamespaceId, Secret, ShardId, Tenant};
use forebay_wire::ErrorCode;

use conn::Conn;

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
    /// Serves one request whole, then goes away for good.
    GoAwayAfter,
    /// Goes away when greeted.
    Gone,
    /// Begins to write or send, then goes away, this many times.
    GoAwayInTheMiddle(u32),
    /// Says nothing until it is told to cancel; then answers `Done`.
    Silent,
    /// Says nothing, not even to a cancel.
    Dead,
    /// As if stopped: it reads nothing and says nothing on any connection, until the trick is over.
    Frozen,
    /// Takes every place it is told to land in, says nothing, and lands there later: whenever [`Ghost::write`] is called. True: it goes away
    /// first, as a node does that is killed while its last reads are on their way.
    Late(bool),
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
    /// How long the last match asked to hold what is there.
    pub(crate) hold_ms: AtomicU32,
    /// The shard (from 1) that is frozen; 0 none.
    pub(crate) frozen_shard: AtomicU32,
    pub(crate) corrupt_reports: Mutex<Vec<(Key, u64)>>,
    pub(crate) cancels: AtomicU32,
    pub(crate) connections: AtomicU32,
    pub(crate) payload_received: AtomicU64,
    pub(crate) gets: AtomicU32,
    /// Where something will land late.
    pub(crate) late: Mutex<Vec<Ghost>>,
    incarnation: AtomicU64,
    /// Who is said to be a member, and in which epoch.
    pub(crate) shards: Mutex<Vec<ShardId>>,
    pub(crate) epoch: AtomicU64,
    /// Every shard is said to be somewhere else.
    pub(crate) elsewhere: AtomicBool,
    /// Says so of every key, for this reason.
    pub(crate) misses: Mutex<Option<MissReason>>,
    token: Option<Vec<u8>>,
}

impl State {
    pub(crate) fn set(&self, trick: Trick) {
        *lock(&self.trick) = trick;
    }
}

/// A write that is still on its way to a client's memory. What a drive was told to read into memory it reads, whoever has died since.
pub(crate) struct Ghost {
    pub(crate) memory: OwnedFd,
    pub(crate) offset: u64,
    pub(crate) bytes: usize,
}

impl Ghost {
    /// As a drive writes whose node was killed: nothing holds the client's descriptor any more, only the memory.
    pub(crate) fn of_the_dead(self) -> Ghost {
        let path = format!("/proc/self/fd/{}", self.memory.as_raw_fd());
        let memory = std::fs::File::options().write(true).open(path).unwrap().into();
        Ghost { memory, ..self }
    }

    pub(crate) fn write(&self, byte: u8) {
        let written = rustix::io::pwrite(&self.memory, &vec![byte; self.bytes], self.offset).unwrap();
        assert_eq!(written, self.bytes);
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
        ttl_s: None,
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
            hold_ms: AtomicU32::new(0),
            frozen_shard: AtomicU32::new(0),
            corrupt_reports: Mutex::default(),
            cancels: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            payload_received: AtomicU64::new(0),
            gets: AtomicU32::new(0),
            late: Mutex::default(),
            incarnation: AtomicU64::new(1),
            shards: Mutex::new((1..=shards).map(shard_id).collect()),
            epoch: AtomicU64::new(1),
            elsewhere: AtomicBool::new(false),
            misses: Mutex::default(),
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
