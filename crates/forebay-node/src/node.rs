//! Putting a node together, and taking it apart.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use forebay_coord::{Coordinator, Embedded, MemberRow};
use forebay_net::Listener;
use forebay_store::{FormatParams, NamespaceRow, RecoveryReport};
use forebay_types::{Address, Clock, Entropy, Namespace, NamespaceId, ShardId, SystemClock, SystemEntropy, Tenant};

use crate::board::{Board, BoardShard};
use crate::config::{NodeConfig, NodeError, Progress};
use crate::control::{Control, ControlShard};
use crate::counters::Counters;
use crate::drives::Drive;
use crate::http::{self, Responder};
use crate::metrics;
use crate::shard::{Command, Saved, ShardLink, ShardSetup, Starting, start};
use crate::wake::Wake;

/// Most shards of a node: each is a thread.
const SHARDS_MAX: usize = 256;

/// Memory of a shard that is neither arena nor index: buffers of its loop and its connections, in bytes.
const BUFFERS_BYTES: u64 = 2 << 20;

/// Least memory of a shard, in bytes: two of the smallest segments' largest blocks on their way in and out, the table of namespaces, the index.
const SHARD_MEMORY_MIN: u64 = 16 << 20;

/// Index for each of this many bytes of drive there are 64 bytes: the smallest record takes as many.
const RECORD_BYTES_MIN: u64 = 8 * 1024;
const INDEX_ENTRY_BYTES: u64 = 64;
const INDEX_BYTES_MIN: u64 = 1 << 20;

/// Starts nodes.
#[derive(Debug)]
pub struct Node;

/// What recovery found on a shard.
#[derive(Debug, Clone)]
pub struct ShardReport {
    /// The shard.
    pub shard: ShardId,
    /// Its drive.
    pub path: PathBuf,
    /// Which engine it runs on.
    pub engine: &'static str,
    /// Kernel features it does without, each with the reason.
    pub without: Vec<String>,
    /// Largest block it takes, in bytes.
    pub block_bytes_max: u64,
    /// The drive was formatted now.
    pub formatted: bool,
    /// What was found.
    pub recovery: RecoveryReport,
}

/// A node that serves. Dropping it stops it at once; [`Self::shutdown`] does so in order.
pub struct NodeHandle {
    reports: Vec<ShardReport>,
    shards: Vec<(SyncSender<Command>, forebay_io::Waker, JoinHandle<()>)>,
    control: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    wake: Wake,
    board: Arc<Board>,
    responder: Option<Responder>,
    addresses: Vec<Address>,
    clock: Arc<dyn Clock>,
}

impl Node {
    /// Opens or makes the drives, recovers their shards, and serves when this returns.
    pub fn start(mut config: NodeConfig) -> Result<NodeHandle, NodeError> {
        check(&config)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        // What is quickly refused comes first: addresses before drives, drives before the catalogue.
        let (listeners, metrics_listener) = listen(&config)?;
        let mut drives = Vec::new();
        for data in config.data.clone() {
            drives.push(Drive::open(&data, &mut config, &clock, &entropy)?);
        }
        let catalogue = catalogue_path(&config);
        let coordinator: Arc<dyn Coordinator> = Arc::new(Embedded::open(&catalogue, entropy.clone())?);

        let wake = Wake::new().map_err(|source| NodeError::Os { doing: "making an event descriptor", source })?;
        let count = drives.len() * config.shards_per_drive as usize;
        // Room for every change that may be under way, so that no shard ever waits to say that it is done.
        let (saved, saved_inbox) = sync_channel(64 * count + forebay_types::limits::NAMESPACES_MAX * count);
        let parts = Parts {
            incarnation: entropy.word(),
            epoch: Arc::new(AtomicU64::new(0)),
            clock: clock.clone(),
            entropy,
            saved,
            wake: wake.clone(),
        };
        let links = start_shards(&mut config, &mut drives, &parts)?;
        let stopper = StopShards(links);
        let links = &stopper.0;
        reconcile(links, coordinator.as_ref(), &saved_inbox, &catalogue)?;
        let rows: Vec<MemberRow> = links
            .iter()
            .map(|(link, _, drive)| MemberRow {
                shard: link.started.shard,
                weight_mib: weight_mib(drives[*drive].layout.slice_len),
            })
            .collect();
        let epoch = coordinator.set_members(&rows)?;
        parts.epoch.store(epoch.0, Ordering::Relaxed);

        let board = Arc::new(Board {
            shards: links
                .iter()
                .map(|(link, _, drive)| BoardShard {
                    id: link.started.shard,
                    path: config.data[*drive].path.clone(),
                    slice_bytes: drives[*drive].layout.slice_len,
                    shown: link.shown.clone(),
                })
                .collect(),
            control: Arc::new(Counters::default()),
            epoch: parts.epoch.clone(),
            incarnation: parts.incarnation,
            engine: links.first().map_or("", |(link, _, _)| link.started.engine),
            memory_bytes: config.memory_bytes,
            started_us: clock.now_us(),
            clock: clock.clone(),
        });
        let reports = links
            .iter()
            .map(|(link, formatted, drive)| ShardReport {
                shard: link.started.shard,
                path: config.data[*drive].path.clone(),
                engine: link.started.engine,
                without: link.started.without.clone(),
                block_bytes_max: link.started.block_bytes_max,
                formatted: *formatted,
                recovery: link.started.recovery.clone(),
            })
            .collect();
        let control_shards = links
            .iter()
            .zip(&rows)
            .map(|((link, _, _), row)| ControlShard {
                id: row.shard,
                weight_mib: row.weight_mib,
                block_bytes_max: link.started.block_bytes_max,
                align: link.started.align,
                commands: link.commands.clone(),
                waker: link.waker.clone(),
                backlog: Default::default(),
            })
            .collect();
        let addresses = listeners.iter().map(|listener| listener.address().clone()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let control = Control {
            listeners,
            shards: control_shards,
            coordinator,
            board: board.clone(),
            clock: clock.clone(),
            token: config.token.take(),
            own: Tenant(rustix::process::geteuid().as_raw()),
            wake: wake.clone(),
            saved: saved_inbox,
            stop: stop.clone(),
            peers: Control::slab(),
            changes: Vec::new(),
            next_token: 1 << 32,
        };
        let responder = metrics_listener.map(|listener| Responder::start(listener, board.clone())).transpose()?;
        let control = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || control.run())
            .map_err(|source| NodeError::Os { doing: "starting the control thread", source })?;
        let shards =
            stopper.disarm().into_iter().map(|(link, _, _)| (link.commands, link.waker, link.thread)).collect();
        Ok(NodeHandle { reports, shards, control: Some(control), stop, wake, board, responder, addresses, clock })
    }
}

impl NodeHandle {
    /// What recovery found, shard by shard.
    pub fn reports(&self) -> &[ShardReport] {
        &self.reports
    }

    /// The shards' uuids.
    pub fn shards(&self) -> Vec<ShardId> {
        self.reports.iter().map(|report| report.shard).collect()
    }

    /// Where it listens, `unix:` first; ports are the real ones.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Where Prometheus is answered.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.responder.as_ref().map(Responder::address)
    }

    /// Statistics as one JSON object.
    pub fn stats_json(&self) -> String {
        metrics::json(&self.board)
    }

    /// Metrics as Prometheus reads them.
    pub fn metrics_text(&self) -> String {
        metrics::prometheus(&self.board)
    }

    /// Stops: no new connections, what was asked is finished within `deadline`, the drives are sealed and flushed.
    pub fn shutdown(mut self, deadline: Duration) {
        self.stop_all(deadline);
    }

    fn stop_all(&mut self, deadline: Duration) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake.wake();
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
        let deadline_us = self.clock.now_us() + deadline.as_micros() as u64;
        let threads: Vec<_> = self.shards.drain(..).collect();
        for (commands, waker, _) in &threads {
            // Only the control thread filled the channel, and it is gone: the shard empties it.
            let _ = commands.send(Command::Close { deadline_us });
            waker.wake();
        }
        for (_, _, thread) in threads {
            let _ = thread.join();
        }
        self.responder = None;
    }
}

impl Drop for NodeHandle {
    fn drop(&mut self) {
        self.stop_all(Duration::ZERO);
    }
}

impl std::fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeHandle")
            .field("addresses", &self.addresses)
            .field("reports", &self.reports)
            .finish_non_exhaustive()
    }
}

/// A started shard, whether its drive is new, and which drive.
type Link = (ShardLink, bool, usize);

/// What all shards share.
struct Parts {
    incarnation: u64,
    epoch: Arc<AtomicU64>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    saved: SyncSender<Saved>,
    wake: Wake,
}

/// Stops shards whose node does not come to be.
struct StopShards(Vec<Link>);

impl StopShards {
    fn disarm(mut self) -> Vec<Link> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for StopShards {
    fn drop(&mut self) {
        for (link, _, _) in self.0.drain(..) {
            let _ = link.commands.send(Command::Close { deadline_us: 0 });
            link.waker.wake();
            let _ = link.thread.join();
        }
    }
}

fn check(config: &NodeConfig) -> Result<(), NodeError> {
    let refuse = |text: &str| Err(NodeError::Config(text.to_owned()));
    if config.data.is_empty() {
        return refuse("a node needs at least one drive; give --data PATH");
    }
    if config.shards_per_drive == 0 {
        return refuse("a drive has at least one shard; give --shards 1 or more");
    }
    let shards = config.data.len() * config.shards_per_drive as usize;
    if shards > SHARDS_MAX {
        return Err(NodeError::Config(format!(
            "{shards} shards are more than the {SHARDS_MAX} a node may have; give fewer --shards"
        )));
    }
    for (at, data) in config.data.iter().enumerate() {
        if config.data[..at].iter().any(|other| other.path == data.path) {
            return Err(NodeError::Config(format!("{} is given twice; give each --data once", data.path.display())));
        }
    }
    policy(&config.policy)?;
    if config.listen.is_some() && config.token.as_ref().is_none_or(Vec::is_empty) {
        return refuse("listening on TCP needs a token that clients must show; give --token-file FILE");
    }
    let need = SHARD_MEMORY_MIN * shards as u64;
    if config.memory_bytes < need {
        return Err(NodeError::Memory { found: config.memory_bytes, need, shards });
    }
    Ok(())
}

fn policy(name: &str) -> Result<Box<dyn forebay_tokenomics::Policy>, NodeError> {
    forebay_tokenomics::policy_by_name(name).ok_or_else(|| {
        let known = forebay_tokenomics::POLICY_NAMES.join(", ");
        NodeError::Config(format!("there is no policy {name:?}; the policies are {known}"))
    })
}

fn listen(config: &NodeConfig) -> Result<(Vec<Listener>, Option<TcpListener>), NodeError> {
    let mut listeners = vec![Listener::unix(&config.socket)?];
    if let Some(listen) = &config.listen {
        listeners.push(Listener::tcp(listen, config.insecure_network)?);
    }
    let metrics = config.metrics.map(|address| http::bind(address, config.insecure_network)).transpose()?;
    Ok((listeners, metrics))
}

fn catalogue_path(config: &NodeConfig) -> PathBuf {
    let mut name = config.data[0].path.clone().into_os_string();
    name.push(".catalog");
    name.into()
}

fn weight_mib(slice_len: u64) -> u32 {
    u32::try_from(slice_len >> 20).unwrap_or(u32::MAX)
}

/// Arena and index of a shard that has `memory` in all for `slice_len` bytes of drive.
fn split_memory(memory: u64, slice_len: u64) -> (usize, usize) {
    let index = (slice_len / RECORD_BYTES_MIN * INDEX_ENTRY_BYTES).clamp(INDEX_BYTES_MIN, memory / 4);
    // The arena is a whole number of huge pages, rounded up by whoever makes it.
    let arena = (memory - index - BUFFERS_BYTES) & !((2 << 20) - 1);
    (arena as usize, index as usize)
}

fn start_shards(config: &mut NodeConfig, drives: &mut [Drive], parts: &Parts) -> Result<Vec<Link>, NodeError> {
    let total = drives.len() * config.shards_per_drive as usize;
    let memory = config.memory_bytes / total as u64;
    let mut starting: Vec<(Starting, bool, usize)> = Vec::new();
    let mut failed = None;
    'all: for (at, drive) in drives.iter().enumerate() {
        for slice in 0..drive.layout.slices {
            match start_one(config, drive, slice, starting.len(), memory, parts) {
                Ok(one) => starting.push((one, drive.new.is_some(), at)),
                Err(error) => {
                    failed = Some(error);
                    break 'all;
                }
            }
        }
    }
    // Each is waited for, whatever became of the others: none may go on without a node.
    let mut links = StopShards(Vec::new());
    for (one, new, at) in starting {
        if let Some(progress) = &mut config.progress {
            progress(Progress::Recovering { done: links.0.len(), total });
        }
        match one.wait() {
            Ok(link) => links.0.push((link, new, at)),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if let Some(error) = failed {
        return Err(total_memory(error, total, config.memory_bytes));
    }
    for (place, (link, _, at)) in links.0.iter().enumerate() {
        if links.0[..place].iter().any(|(other, _, _)| other.started.shard == link.started.shard) {
            return Err(NodeError::Copy { path: config.data[*at].path.clone() });
        }
    }
    for drive in drives {
        drive.seal()?;
    }
    Ok(links.disarm())
}

fn start_one(
    config: &NodeConfig,
    drive: &Drive,
    slice: u32,
    number: usize,
    memory: u64,
    parts: &Parts,
) -> Result<Starting, NodeError> {
    let (arena_bytes, index_bytes) = split_memory(memory, drive.layout.slice_len);
    let format = drive.new.is_some().then(|| {
        let mut id = [0; 16];
        parts.entropy.fill(&mut id);
        FormatParams {
            shard: ShardId(id),
            slice_index: slice,
            segment_bytes: config.segment_bytes,
            utc_s: parts.clock.utc_s(),
        }
    });
    start(ShardSetup {
        number,
        drive: drive.file.try_clone()?,
        base: drive.layout.slice_at(slice),
        len: drive.layout.slice_len,
        format,
        arena_bytes,
        index_bytes,
        policy: policy(&config.policy)?,
        engine: config.io,
        incarnation: parts.incarnation,
        epoch: parts.epoch.clone(),
        clock: parts.clock.clone(),
        entropy: parts.entropy.clone(),
        saved: parts.saved.clone(),
        wake: parts.wake.clone(),
    })
}

/// What a shard's arena lacks, told in terms of `--memory`, which is what people choose.
fn total_memory(error: NodeError, shards: usize, found: u64) -> NodeError {
    match error {
        NodeError::Store { source: forebay_store::StoreError::Memory { need, .. }, .. } => {
            // A quarter of a shard's memory may be index.
            let shard = (need.next_multiple_of(2 << 20) + BUFFERS_BYTES) * 4 / 3;
            NodeError::Memory { found, need: shard.next_multiple_of(1 << 20) * shards as u64, shards }
        }
        error => error,
    }
}

/// Whether a row on a drive is the catalogue's namespace of that number: all but the quota stays as it was made.
fn same_namespace(known: &Namespace, held: &NamespaceRow) -> bool {
    let row = NamespaceRow { quota_bytes: held.quota_bytes, ..NamespaceRow::from(known) };
    row == *held
}

/// Makes drives and catalogue agree: the catalogue says what exists; numbers a drive has seen are never given again.
fn reconcile(
    links: &[Link],
    coordinator: &dyn Coordinator,
    saved: &Receiver<Saved>,
    catalogue: &std::path::Path,
) -> Result<(), NodeError> {
    let seen = links.iter().flat_map(|(link, _, _)| &link.started.namespaces).map(|namespace| namespace.id).max();
    if let Some(seen) = seen {
        coordinator.reserve_ids(NamespaceId(seen.0))?;
    }
    let all = coordinator.all()?;
    let mut sent = 0;
    for (link, _, _) in links {
        let mut changes = Vec::new();
        for held in &link.started.namespaces {
            match all.iter().find(|namespace| namespace.id == held.id) {
                None => changes.push(Command::Remove { token: sent + changes.len() as u64, id: held.id }),
                Some(known) if !same_namespace(known, held) => {
                    let path = catalogue.with_extension("");
                    return Err(NodeError::OtherCatalogue {
                        path,
                        name: held.name.clone(),
                        catalogue: catalogue.into(),
                    });
                }
                Some(_) => {}
            }
        }
        for namespace in &all {
            if !link.started.namespaces.contains(&NamespaceRow::from(namespace)) {
                changes.push(Command::Upsert { token: sent + changes.len() as u64, namespace: namespace.clone() });
            }
        }
        sent += changes.len() as u64;
        for change in changes {
            let gone = |_| NodeError::Os {
                doing: "telling a shard its namespaces",
                source: std::io::Error::other("its thread ended"),
            };
            link.commands.send(change).map_err(gone)?;
            link.waker.wake();
        }
    }
    for _ in 0..sent {
        match saved.recv_timeout(Duration::from_secs(30)) {
            Ok(Saved { ok: true, .. }) => {}
            // A drive out for writing still serves what it has.
            Ok(Saved { ok: false, .. }) => {}
            Err(_) => {
                let source = std::io::Error::other("a drive did not write its table of namespaces within 30 s");
                return Err(NodeError::Os { doing: "telling a shard its namespaces", source });
            }
        }
    }
    Ok(())
}
