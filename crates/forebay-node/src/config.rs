//! What a node is asked to be, and why it cannot.

use std::net::SocketAddr;
use std::path::PathBuf;

use forebay_coord::{CoordError, OpenError};
use forebay_format::{FormatError, LayoutError};
use forebay_io::{DriveError, EngineError, EngineKind, PeerRegion};
use forebay_net::ListenError;
use forebay_store::StoreError;
use forebay_tokenomics::Reckoning;
use forebay_types::format_size;

use crate::events::EventFn;

/// One drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataConfig {
    /// Its file, or a raw block device.
    pub path: PathBuf,
    /// Its size in bytes; `None` for what is there, and for all of a device. A file that is to be made needs one.
    pub capacity: Option<u64>,
}

/// What takes more than a moment at start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A new drive is being made; with `prewrite`, every byte is written once.
    Formatting {
        /// Which.
        path: PathBuf,
        /// Bytes so far.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Shards are being recovered.
    Recovering {
        /// Shards that serve.
        done: usize,
        /// Shards in all.
        total: usize,
    },
}

/// Whether blocks from the drive are read straight into clients' memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Landings {
    /// Where the memory lies in huge pages; else through the arena, which is faster than scattered pages: see decision 0033.
    #[default]
    Auto,
    /// Wherever the region can be mapped.
    Direct,
    /// Nowhere: into the arena and copied.
    Bounce,
}

impl Landings {
    /// Whether reads may land in these bytes of `region`.
    pub(crate) fn allow(self, region: &PeerRegion, offset: u64, len: u64) -> bool {
        match self {
            Landings::Auto => region.has_huge_pages(offset, len),
            Landings::Direct => region.is_mapped(),
            Landings::Bounce => false,
        }
    }
}

/// Hears of [`Progress`].
pub type ProgressFn = Box<dyn FnMut(Progress) + Send>;

/// A week: often enough that two errors seldom meet, and on a drive of 4 TB less than 7 MB/s, a thousandth of what it can read.
const SCRUB_PERIOD_S: u64 = 7 * 86_400;

/// What a node is asked to be.
pub struct NodeConfig {
    /// Its drives; at least one.
    pub data: Vec<DataConfig>,
    /// Bytes of memory for everything, over all shards.
    pub memory_bytes: u64,
    /// Slices of each drive, one shard each.
    pub shards_per_drive: u32,
    /// Bytes of a segment of drives that are made now; `None` chooses by size.
    pub segment_bytes: Option<u64>,
    /// Write new drives once, so that first flushes are not slower than later ones.
    pub prewrite: bool,
    /// Devices, as named in `data`, on which something else may be overwritten.
    pub format_devices: Vec<PathBuf>,
    /// The catalogue's file; `None` for `PATH.catalog` beside the first drive that has one. Needed when every drive is a device.
    pub catalogue: Option<PathBuf>,
    /// Which engine.
    pub io: EngineKind,
    /// Whether reads land in clients' memory.
    pub landings: Landings,
    /// Where to listen.
    pub socket: PathBuf,
    /// Where to listen on TCP too, `HOST:PORT`. Needs a token.
    pub listen: Option<String>,
    /// Listen on addresses that other machines can reach, although nothing is encrypted.
    pub insecure_network: bool,
    /// What TCP clients must show.
    pub token: Option<Vec<u8>>,
    /// Where to answer Prometheus, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// Which policy ranks blocks.
    pub policy: String,
    /// The book by which it reckons what blocks save and writes cost.
    pub reckoning: Reckoning,
    /// Seconds in which everything on the drives is read and checked once; 0: it is not.
    pub scrub_period_s: u64,
    /// Bytes that each drive may be written in so many seconds; `None`: as many as come.
    pub endurance: Option<(u64, u64)>,
    /// Hears of what an operator should know.
    pub events: Option<EventFn>,
    /// Hears of what takes long.
    pub progress: Option<ProgressFn>,
}

impl NodeConfig {
    /// One drive and a Unix socket, with defaults for the rest.
    pub fn new(data: DataConfig, memory_bytes: u64, socket: impl Into<PathBuf>) -> Self {
        NodeConfig {
            data: vec![data],
            memory_bytes,
            shards_per_drive: 1,
            segment_bytes: None,
            prewrite: false,
            format_devices: Vec::new(),
            catalogue: None,
            io: EngineKind::Auto,
            landings: Landings::Auto,
            socket: socket.into(),
            listen: None,
            insecure_network: false,
            token: None,
            metrics: None,
            policy: "worth".into(),
            reckoning: Reckoning::default(),
            scrub_period_s: SCRUB_PERIOD_S,
            endurance: None,
            events: None,
            progress: None,
        }
    }
}

impl std::fmt::Debug for NodeConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The token stays out of logs.
        f.debug_struct("NodeConfig").field("data", &self.data).field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// Why a node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A setting that cannot be.
    #[error("{0}")]
    Config(String),
    /// Too little memory.
    #[error(
        "{} of memory is too little for {shards} shard(s) of this size: they need at least {}; give a larger --memory, or fewer --shards",
        format_size(*.found), format_size(*.need)
    )]
    Memory {
        /// Bytes given.
        found: u64,
        /// Bytes at least.
        need: u64,
        /// Shards to serve.
        shards: usize,
    },
    /// The drive has another size than asked.
    #[error(
        "{} was formatted with {} and --capacity asks for {}; a drive keeps the size it was formatted with: give --capacity {found}B, or another --data",
        path.display(), format_size(*.found), format_size(*.asked)
    )]
    Capacity {
        /// Which.
        path: PathBuf,
        /// Its bytes.
        found: u64,
        /// Bytes asked.
        asked: u64,
    },
    /// A device has fewer bytes than asked.
    #[error(
        "{} is a device of {} and --capacity asks for {}; give at most {found}B, or leave --capacity out to take all of it",
        path.display(), format_size(*.found), format_size(*.asked)
    )]
    DeviceTooSmall {
        /// Which.
        path: PathBuf,
        /// Its bytes.
        found: u64,
        /// Bytes asked.
        asked: u64,
    },
    /// A device that holds something else.
    #[error(
        "{0} holds {what}, and serving from it would overwrite that; nothing on it was changed. Name another device, or if nothing on it is wanted any more, start once with --format-device {0}",
        path.display()
    )]
    Occupied {
        /// Which.
        path: PathBuf,
        /// What is on it.
        what: &'static str,
    },
    /// A drive that was named to be formatted.
    #[error(
        "{} is a drive of Forebay already, and --format-device would format it again; leave that flag out to serve what is on it. To begin anew, overwrite its first MiB yourself",
        path.display()
    )]
    AlreadyADrive {
        /// Which.
        path: PathBuf,
    },
    /// The drive has another number of shards than asked.
    #[error(
        "{} was formatted with {found} shard(s) and {asked} are asked for; a drive keeps its shards: give --shards {found}, or another --data",
        path.display()
    )]
    Shards {
        /// Which.
        path: PathBuf,
        /// Its shards.
        found: u32,
        /// Asked.
        asked: u32,
    },
    /// The same shard twice.
    #[error("{} holds a shard that another drive holds too: one is a copy of the other; give only one of them", path.display())]
    Copy {
        /// Which.
        path: PathBuf,
    },
    /// Namespaces of another catalogue.
    #[error(
        "{} holds namespace {name:?} of another catalogue than {}; name first the drive beside which its own catalogue lies, say with --catalog where that is, or give another --data. Nothing on it was changed",
        path.display(), catalogue.display()
    )]
    OtherCatalogue {
        /// Which drive.
        path: PathBuf,
        /// Which namespace.
        name: String,
        /// The catalogue in use.
        catalogue: PathBuf,
    },
    /// Namespaces without a catalogue.
    #[error(
        "{} holds namespace {name:?} and its catalogue is not where it would be, {}; name the drive beside which it lies too, say with --catalog where it is, or put it back. Without it the blocks cannot be found: then remove the drive's file, or overwrite a device's first MiB, to begin anew",
        path.display(), catalogue.display()
    )]
    NoCatalogue {
        /// Which drive.
        path: PathBuf,
        /// Which namespace.
        name: String,
        /// Where the catalogue would be.
        catalogue: PathBuf,
    },
    /// A drive of another format, or damaged.
    #[error("{} is not a drive of Forebay this build can use: {source}; give another --data, or remove the file (of a device, overwrite the first MiB) if nothing in it is wanted", path.display())]
    Format {
        /// Which.
        path: PathBuf,
        /// Why.
        source: FormatError,
    },
    /// A drive that cannot be cut so.
    #[error("{}: {source}", path.display())]
    Layout {
        /// Which.
        path: PathBuf,
        /// Why.
        source: LayoutError,
    },
    /// A shard that cannot be opened.
    #[error("{}: {source}", path.display())]
    Store {
        /// Which drive.
        path: PathBuf,
        /// Why.
        source: StoreError,
    },
    /// The drive's file.
    #[error(transparent)]
    Drive(#[from] DriveError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A listener.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The catalogue's file.
    #[error(transparent)]
    Catalogue(#[from] OpenError),
    /// The catalogue.
    #[error(transparent)]
    Coordinator(#[from] CoordError),
    /// The usage log.
    #[error(transparent)]
    Usage(#[from] crate::usage::UsageError),
    /// The kernel said no.
    #[error("{doing} failed: {source}; see `ulimit -a` and the free memory of this machine")]
    Os {
        /// What was being done.
        doing: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}
