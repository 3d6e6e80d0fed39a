//! Putting a node together, and taking it apart.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use forebay_coord::{Coordinator, Embedded, MemberRow};
use forebay_store::RecoveryReport;
use forebay_types::limits::NAMESPACES_MAX;
use forebay_types::{Address, Clock, Entropy, ShardId, SystemClock, SystemEntropy, Tenant};

use crate::assemble::{Link, Parts, StopShards, start_shards};
use crate::board::{Board, BoardShard};
use crate::config::{DataConfig, NodeConfig, NodeError};
use crate::control::{CHANGES_MAX, Control, ControlShard};
use crate::counters::Counters;
use crate::drives::Drive;
use crate::events::Lookout;
use crate::http::Responder;
use crate::reconcile::{reconcile, refuse_orphans};
use crate::shard::{Command, Saved};
use crate::shares::Shares;
use crate::usage::{MeterThread, Recorded};
use crate::wake::Wake;
use crate::{check, json, metrics, usage};

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
    notes: Vec<String>,
    clock: Arc<dyn Clock>,
    meter: MeterThread,
}

impl Node {
    /// Opens or makes the drives, recovers their shards, and serves when this returns.
    pub fn start(mut config: NodeConfig) -> Result<NodeHandle, NodeError> {
        check::settings(&config)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
        // What is quickly refused comes first: addresses before drives.
        let (listeners, metrics) = check::listen(&config)?;
        let mut drives = Vec::new();
        for data in config.data.clone() {
            drives.push(Drive::open(&data, &mut config, &clock, &entropy)?);
        }
        let wake = Wake::new().map_err(|source| NodeError::Os { doing: "making an event descriptor", source })?;
        // Room for every change that may be under way, so that no shard ever waits to say that it is done.
        let shards = drives.len() * config.shards_per_drive as usize;
        let (saved, saved_inbox) = sync_channel((CHANGES_MAX + NAMESPACES_MAX) * shards);
        let (incarnation, epoch) = (entropy.word(), Arc::new(AtomicU64::new(0)));
        let (shares, note) = Shares::of_process(shards);
        let parts = Parts {
            shares,
            incarnation,
            epoch,
            clock: clock.clone(),
            entropy: entropy.clone(),
            saved,
            wake: wake.clone(),
        };
        let links = StopShards(start_shards(&mut config, &mut drives, &parts)?);
        let coordinator = open_catalogue(&config, &links.0, entropy, &saved_inbox)?;
        let metered = usage::open(&catalogue_path(&config).0)?;
        tell_sizes(&links.0, &metered.recorded);
        let rows: Vec<MemberRow> = links.0.iter().map(Link::row).collect();
        parts.epoch.store(coordinator.set_members(&rows)?.0, Ordering::Relaxed);

        let board = Arc::new(board(&config, &parts, &links.0, metered.recorded.clone()));
        let addresses = listeners.iter().map(|listener| listener.address().clone()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let control = Control {
            gates: Control::gates(&listeners, clock.now_us()),
            listeners,
            shards: links.0.iter().map(control_shard).collect(),
            coordinator,
            board: board.clone(),
            clock: clock.clone(),
            token: config.token.take(),
            own: Tenant(rustix::process::geteuid().as_raw()),
            wake: wake.clone(),
            saved: saved_inbox,
            stop: stop.clone(),
            connections_max: shares.connections,
            peers: Control::slab(shares.connections),
            changes: Vec::new(),
            next_token: 0,
            lookout: Lookout::new(config.events.take(), &board),
        };
        let responder = metrics.map(|listener| Responder::start(listener, board.clone())).transpose()?;
        let control = start_control(control)?;
        let meter = MeterThread::start(metered, board.clone())?;
        let reports = links.0.iter().map(report).collect();
        let stopper = |link: Link| (link.shard.commands, link.shard.waker, link.shard.thread);
        let shards = links.disarm().into_iter().map(stopper).collect();
        let (control, notes) = (Some(control), note.into_iter().collect());
        Ok(NodeHandle { reports, shards, control, stop, wake, board, responder, addresses, notes, clock, meter })
    }
}

/// The catalogue, when it and the drives agree about who is there.
fn open_catalogue(
    config: &NodeConfig,
    links: &[Link],
    entropy: Arc<dyn Entropy>,
    saved: &Receiver<Saved>,
) -> Result<Arc<dyn Coordinator>, NodeError> {
    let (path, there) = catalogue_path(config);
    if !there {
        refuse_orphans(links, &path)?;
    }
    let coordinator: Arc<dyn Coordinator> = Arc::new(Embedded::open(&path, entropy)?);
    reconcile(links, coordinator.as_ref(), saved, &path)?;
    Ok(coordinator)
}

/// Where the catalogue was said to be; else beside the first drive, or, when drives were named in another order before, beside the first that has
/// one. And whether it is there. Nothing that lasts can lie beside a device.
fn catalogue_path(config: &NodeConfig) -> (PathBuf, bool) {
    if let Some(path) = &config.catalogue {
        return (path.clone(), path.exists());
    }
    let beside = |data: &DataConfig| {
        let mut name = data.path.clone().into_os_string();
        name.push(".catalog");
        PathBuf::from(name)
    };
    let files = config.data.iter().filter(|data| !forebay_io::is_block_device(&data.path));
    let paths: Vec<PathBuf> = files.map(beside).collect();
    match paths.iter().find(|path| path.exists()) {
        Some(path) => (path.clone(), true),
        None => (paths.into_iter().next().unwrap_or_default(), false),
    }
}

fn start_control(control: Control) -> Result<JoinHandle<()>, NodeError> {
    let started = std::thread::Builder::new().name("control".into()).spawn(move || control.run());
    started.map_err(|source| NodeError::Os { doing: "starting the control thread", source })
}

/// Shards that begin anew know no sizes of blocks but those the log remembers. Their inboxes are empty: nobody else has a way to them yet.
fn tell_sizes(links: &[Link], recorded: &Recorded) {
    let sizes = Arc::new(recorded.sizes());
    for link in links {
        let _ = link.shard.commands.try_send(Command::Sizes(sizes.clone()));
        link.shard.waker.wake();
    }
}

fn board(config: &NodeConfig, parts: &Parts, links: &[Link], usage: Arc<Recorded>) -> Board {
    let shard = |link: &Link| BoardShard {
        id: link.shard.started.shard,
        path: link.path.clone(),
        slice_at: link.slice_at,
        slice_bytes: link.slice_bytes,
        shown: link.shard.shown.clone(),
    };
    Board {
        shards: links.iter().map(shard).collect(),
        control: Arc::new(Counters::default()),
        epoch: parts.epoch.clone(),
        incarnation: parts.incarnation,
        engine: links.first().map_or("", |link| link.shard.started.engine),
        policy: config.policy.clone(),
        reckoning: config.reckoning,
        memory_bytes: config.memory_bytes,
        connections_max: parts.shares.connections,
        started_us: parts.clock.now_us(),
        clock: parts.clock.clone(),
        told: Default::default(),
        usage,
    }
}

fn control_shard(link: &Link) -> ControlShard {
    let row = link.row();
    ControlShard {
        id: row.shard,
        weight_mib: row.weight_mib,
        block_bytes_max: link.shard.started.block_bytes_max,
        align: link.shard.started.align,
        commands: link.shard.commands.clone(),
        waker: link.shard.waker.clone(),
        backlog: VecDeque::new(),
    }
}

fn report(link: &Link) -> ShardReport {
    let started = &link.shard.started;
    ShardReport {
        shard: started.shard,
        path: link.path.clone(),
        engine: started.engine,
        without: started.without.clone(),
        block_bytes_max: started.block_bytes_max,
        formatted: link.new,
        recovery: started.recovery.clone(),
    }
}

impl NodeHandle {
    /// What recovery found, shard by shard.
    pub fn reports(&self) -> &[ShardReport] {
        &self.reports
    }

    /// What it does not get from this machine that it could use, each with its cure, as sentences.
    pub fn notes(&self) -> &[String] {
        &self.notes
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
        json::stats(&self.board, &[])
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
        self.meter.finish();
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
