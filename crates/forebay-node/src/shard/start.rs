//! Starting a shard: its thread, its arena, its engine, its store.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use forebay_io::{Arena, Deny, DriveFile, Engine, EngineKind, EngineOptions, Waker};
use forebay_store::{FormatParams, NamespaceRow, Prices, RecoveryReport, Store, StoreConfig};
use forebay_types::limits::STEP_BYTES;
use forebay_types::{Clock, Entropy, ShardId};

use super::core::Core;
use super::output::{Output, Unsent};
use super::readers::Readers;
use super::spin::Spin;
use super::{Command, Replies, Saved, Shard, Shown};
use crate::lanes::Lanes;
use crate::shares::Shares;
use crate::slab::Slab;
use crate::spaces::Spaces;
use crate::wake::Wake;
use crate::{Landings, NodeError};

/// Commands that may wait for a shard. A turn takes 16.
const COMMANDS_MAX: usize = 256;

/// Drive operations in flight: an NVMe drive's bandwidth needs a few dozen of 64 KiB, and more only wait in the drive.
const DEPTH: usize = 128;

/// What a shard is made of.
pub(crate) struct ShardSetup {
    /// For the thread's name.
    pub(crate) number: usize,
    pub(crate) drive: DriveFile,
    pub(crate) base: u64,
    pub(crate) len: u64,
    /// Make it first.
    pub(crate) format: Option<FormatParams>,
    pub(crate) arena_bytes: usize,
    pub(crate) index_bytes: usize,
    pub(crate) curve_bytes: usize,
    pub(crate) policy: Box<dyn forebay_tokenomics::Policy>,
    pub(crate) reckoning: forebay_tokenomics::Reckoning,
    pub(crate) scrub_period_s: u64,
    /// Bytes a day that the slice may be written; 0: as many as come.
    pub(crate) write_day_bytes: u64,
    pub(crate) engine: EngineKind,
    pub(crate) landings: Landings,
    pub(crate) shares: Shares,
    pub(crate) incarnation: u64,
    pub(crate) epoch: Arc<AtomicU64>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) saved: SyncSender<Saved>,
    pub(crate) wake: Wake,
}

/// What a shard says of itself when it serves.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) shard: ShardId,
    pub(crate) recovery: RecoveryReport,
    pub(crate) block_bytes_max: u64,
    pub(crate) align: usize,
    pub(crate) engine: &'static str,
    /// Kernel features it does without, each with the reason.
    pub(crate) without: Vec<String>,
    /// The namespaces its drive knows, each with the bytes it holds there.
    pub(crate) namespaces: Vec<(NamespaceRow, u64)>,
}

/// A shard's thread, as the node holds it.
#[derive(Debug)]
pub(crate) struct ShardLink {
    pub(crate) commands: SyncSender<Command>,
    pub(crate) waker: Waker,
    pub(crate) started: Started,
    pub(crate) shown: Shown,
    pub(crate) thread: JoinHandle<()>,
}

/// A shard that is on its way.
pub(crate) struct Starting {
    commands: SyncSender<Command>,
    shown: Shown,
    thread: JoinHandle<()>,
    said: Receiver<Result<(Started, Waker), NodeError>>,
}

/// Begins to start a shard; [`Starting::wait`] waits until it serves. Shards recover side by side.
pub(crate) fn start(setup: ShardSetup) -> Result<Starting, NodeError> {
    let (commands, inbox) = sync_channel(COMMANDS_MAX);
    let (say, said) = sync_channel(1);
    let shown = Shown::new();
    let shared = shown.clone();
    let thread = std::thread::Builder::new()
        .name(format!("shard-{}", setup.number))
        .spawn(move || {
            let guard = StopOnBug;
            match open(setup, inbox, shared) {
                Err(error) => {
                    let _ = say.send(Err(error));
                }
                Ok((mut shard, started)) => {
                    let waker = shard.core.store.disk_mut().waker();
                    if say.send(Ok((started, waker))).is_ok() {
                        shard.run();
                    }
                }
            }
            drop(guard);
        })
        .map_err(|source| NodeError::Os { doing: "starting a shard's thread", source })?;
    Ok(Starting { commands, shown, thread, said })
}

impl Starting {
    pub(crate) fn wait(self) -> Result<ShardLink, NodeError> {
        let gone = |_| NodeError::Os { doing: "starting a shard", source: std::io::Error::other("its thread ended") };
        let (started, waker) = self.said.recv().map_err(gone)??;
        Ok(ShardLink { commands: self.commands, waker, started, shown: self.shown, thread: self.thread })
    }
}

/// A bug in a shard stops the node before it spoils data: other shards must not go on beside a half-dead one.
struct StopOnBug;

impl Drop for StopOnBug {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

fn open(setup: ShardSetup, commands: Receiver<Command>, shown: Shown) -> Result<(Shard, Started), NodeError> {
    let path = setup.drive.path().to_path_buf();
    let failed = |source| NodeError::Store { path: path.clone(), source };
    let arena = Arena::new(setup.arena_bytes).map_err(|source| failed(source.into()))?;
    let options = EngineOptions { kind: setup.engine, depth: DEPTH, deny: Deny::default() };
    let mut engine = Engine::unregistered(options, setup.drive, setup.base, setup.len, &arena)?;
    // The kernel zeroes the arena while the drive is read.
    let pages = arena.populate();
    if let Some(params) = &setup.format {
        forebay_store::format_slice(&mut engine, &arena, params).map_err(failed)?;
    }
    // Set one by one: a build of the store for its own tests has fields that this room does not know.
    let mut config = StoreConfig::default();
    (config.policy, config.index_bytes_max, config.curve_bytes_max) =
        (setup.policy, setup.index_bytes, setup.curve_bytes);
    (config.prices, config.reckoning) = (Prices::by(setup.reckoning), setup.reckoning);
    let (now_us, utc_s) = (setup.clock.now_us(), setup.clock.utc_s());
    let (mut store, recovery) =
        Store::open(engine, arena, config, setup.entropy, now_us / 1000, utc_s).map_err(failed)?;
    store.scrub_every(now_us / 1000, setup.scrub_period_s * 1000);
    store.limit_writes(now_us / 1000, setup.write_day_bytes);
    pages.finish();
    store.disk_mut().register();
    let features = store.disk_mut().features();
    let name = features.name;
    let off = features.features.iter().filter_map(|f| Some((f.name, f.off.clone()?)));
    let off = off.chain(without_landings(setup.landings).map(|why| ("direct_landings", why)));
    let without = off.map(|(name, why)| format!("{name}: {why}")).collect();
    let started = Started {
        shard: store.shard(),
        recovery,
        block_bytes_max: store.block_bytes_max(),
        align: store.align(),
        engine: name,
        without,
        namespaces: store.namespaces().map(|row| (row.clone(), store.namespace_bytes(row.id))).collect(),
    };
    let core = Core {
        counters: shown.counters.clone(),
        clock: setup.clock.clone(),
        now_us,
        now_ms: now_us / 1000,
        align: store.align(),
        store,
        tenants: Vec::new(),
        spaces: Spaces::new(),
        landings: setup.landings,
        readers: Readers::new(),
        has_dropped: false,
        lanes: Lanes::new(),
        items: 0,
        shares: setup.shares,
        staged: Output::default(),
    };
    let replies = Replies { saved: setup.saved, waker: setup.wake };
    let (incarnation, epoch, clock) = (setup.incarnation, setup.epoch, setup.clock);
    let mut shard = Shard::new(core, incarnation, epoch, commands, replies, shown, clock);
    shard.core.learn_tenants();
    Ok((shard, started))
}

/// Why reads land in no client's memory, where that can be told before there is a client.
fn without_landings(landings: Landings) -> Option<String> {
    match landings {
        Landings::Auto => forebay_io::huge_pages_off().map(str::to_owned),
        Landings::Direct => None,
        Landings::Bounce => Some("asked for by --landing".into()),
    }
}

impl Shard {
    fn new(
        core: Core,
        incarnation: u64,
        epoch: Arc<AtomicU64>,
        commands: Receiver<Command>,
        replies: Replies,
        shown: Shown,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Shard {
            conns: Slab::new(core.shares.connections),
            core,
            requests: Slab::new(super::REQUESTS_MAX),
            line: super::room::Line::default(),
            leaving: super::leaving::Leaving::default(),
            touched: Vec::new(),
            dirty: Vec::new(),
            readable: Vec::new(),
            starved: Vec::new(),
            hints: Default::default(),
            events: Vec::new(),
            scratch: vec![0; STEP_BYTES],
            granted: 0,
            waiting_fds: 0,
            unsent: Unsent::default(),
            conn_clock_at: 0,
            expiring: None,
            deadline_us: u64::MAX,
            conn_clocks_us: 0,
            publish_us: 0,
            utc_at_us: 0,
            incarnation,
            epoch,
            spin: Spin::default(),
            commands,
            replies,
            stats: shown.stats,
            spaces: shown.spaces,
            parted: shown.parted,
            damage: shown.damage,
            clock,
            closing: None,
        }
    }
}
