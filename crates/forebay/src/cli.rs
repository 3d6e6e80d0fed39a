//! What can be typed. Settings stay text here: they are understood in one place, wherever they come from.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::demo::DemoArgs;
use crate::plan::PlanArgs;
use crate::settings::Layer;

/// A pool of memory and NVMe in front of the engines: KV computed once is read back at memory-like speed, also after a restart.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, arg_required_else_help = true, disable_help_subcommand = true)]
#[command(
    after_help = "Settings: TOML file < environment (FOREBAY_*) < flags. SIZE is a number with B, KiB, MiB, GiB, TiB or kB, MB, GB, TB.\n\
                        Exit codes: 0 done, 1 failed, 2 misused."
)]
pub(crate) struct Cli {
    /// TOML file of settings [env: FOREBAY_CONFIG].
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a node; prints `ready` when it serves.
    Serve(Box<ServeArgs>),
    /// Put files; prints `key<TAB>file` for each, the key made from its content.
    Put(PutArgs),
    /// Get blocks by their keys into files `DIR/KEY`.
    Get(GetArgs),
    /// What a node holds and has done.
    Stat(StatArgs),
    /// Explain a run that never hits: fingerprints that all but match, short prompts, evictions, deadlines, quotas.
    Why(WhyArgs),
    /// Watch a node at work: hit rate by tier, GB/s, latency, queues, drives.
    Top(TopArgs),
    /// Make, list and delete namespaces.
    Namespace(NamespaceArgs),
    /// Look at this machine: what a node finds here, how fast its drive is, and what would make it better.
    Doctor(DoctorArgs),
    /// Read a drive that no node uses: what is on it, and what of it is damaged.
    Inspect(InspectArgs),
    /// See it at work: agent sessions with real bytes, a SIGKILL in the middle, and what it was worth.
    Demo(DemoArgs),
    /// What a cache is worth to recorded load: fleet, cash and price of a token with Forebay and without.
    Plan(Box<PlanArgs>),
    /// Put and get blocks against a running node and say how fast it was.
    Bench(BenchArgs),
}

/// Flags of `serve`.
#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// A drive: a file, made if it is not there, or a raw block device; repeat it for more [default: in the user's data directory].
    #[arg(long, value_name = "PATH")]
    data: Vec<String>,
    /// The catalogue of namespaces, a file; needed when every drive is a device [default: PATH.catalog beside the first file].
    #[arg(long, value_name = "PATH")]
    catalog: Option<String>,
    /// Overwrite what else is on this device, once; it must be one of --data. Only a flag: no file or variable sets it.
    #[arg(long, value_name = "PATH")]
    pub(crate) format_device: Vec<PathBuf>,
    /// Size of each drive [default: what it has; of a device all; for a new file a tenth of the free space, between 1 and 64 GiB].
    #[arg(long, value_name = "SIZE")]
    capacity: Option<String>,
    /// Memory of the whole node: arena, write buffers, index [default: a tenth of the machine's, between 256 MiB and 4 GiB].
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Slices of each drive, each with its own thread [default: 1].
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// Segment size of a new drive, a power of two from 4 to 256 MiB; a quarter of it is the largest block [default: from the drive's size].
    #[arg(long, value_name = "SIZE")]
    segment: Option<String>,
    /// Write a new drive once from front to back, so that its first lap is as fast as the later ones.
    #[arg(long)]
    prewrite: bool,
    /// How drives are read and written: auto, uring or threads [default: auto].
    #[arg(long, value_name = "ENGINE")]
    io: Option<String>,
    /// Whether drives write into clients' memory or through the arena: auto, direct or bounce [default: auto, by huge pages].
    #[arg(long, value_name = "HOW")]
    landing: Option<String>,
    /// What ranks blocks: worth, by what they are expected to save, with LRU while that does better; lru; or s3-fifo [default: worth].
    #[arg(long, value_name = "NAME")]
    policy: Option<String>,
    /// A book of your own, TOML, by which admission and dollars are reckoned: [gpus.h100], [drives.nvme] and models are read; repeat it for more.
    #[arg(long, value_name = "FILE")]
    book: Vec<String>,
    /// Read and check all that is on the drives once in this time, as in 12h or 30d, or off [default: 7d].
    #[arg(long, value_name = "SPAN")]
    scrub: Option<String>,
    /// What each drive may be written in a time, from its data sheet: 600TB/5y (TBW), 1.92TB/1d (1 DWPD) [default: anything].
    #[arg(long, value_name = "SIZE/SPAN")]
    endurance: Option<String>,
    /// Unix socket to serve on [default: in the user's runtime directory].
    #[arg(long, value_name = "PATH")]
    socket: Option<String>,
    /// Also serve on TCP; needs --token-file.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// File with the token that TCP clients must show; mode 0600.
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    /// Serve Prometheus metrics at http://HOST:PORT/metrics.
    #[arg(long, value_name = "HOST:PORT")]
    metrics: Option<String>,
    /// How events are written to stderr: text for people, json for programs, one line each [default: text].
    #[arg(long, value_name = "FORM")]
    log: Option<String>,
    /// Which events: error, warn (and worse) or info (all) [default: info].
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Let --listen leave this machine: token and bytes then cross the network unencrypted.
    #[arg(long)]
    insecure_network: bool,
}

impl ServeArgs {
    /// Its settings.
    pub(crate) fn layer(&self) -> Layer {
        let mut layer = Layer::flags();
        layer.list("data", &self.data);
        layer.list("book", &self.book);
        layer.flag("prewrite", self.prewrite);
        layer.flag("insecure_network", self.insecure_network);
        for (key, value) in [
            ("catalog", &self.catalog),
            ("capacity", &self.capacity),
            ("memory", &self.memory),
            ("shards", &self.shards),
            ("segment", &self.segment),
            ("io", &self.io),
            ("landing", &self.landing),
            ("policy", &self.policy),
            ("scrub", &self.scrub),
            ("endurance", &self.endurance),
            ("socket", &self.socket),
            ("listen", &self.listen),
            ("token_file", &self.token_file),
            ("metrics", &self.metrics),
            ("log", &self.log),
            ("log_level", &self.log_level),
        ] {
            layer.text(key, value.as_deref());
        }
        layer
    }
}

/// Flags of every verb that talks to a node.
#[derive(Debug, Args)]
pub(crate) struct ClientArgs {
    /// The node: unix:PATH or tcp:HOST:PORT [default: where `forebay serve` listens without flags].
    #[arg(long, value_name = "ADDRESS", global = true)]
    connect: Option<String>,
    /// File with the token for TCP; mode 0600.
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<String>,
    /// Output for programs: JSON, one object a line.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl ClientArgs {
    /// Its settings.
    pub(crate) fn layer(&self) -> Layer {
        let mut layer = Layer::flags();
        layer.text("connect", self.connect.as_deref());
        layer.text("token_file", self.token_file.as_deref());
        layer
    }
}

/// Flags of every verb that moves blocks.
#[derive(Debug, Args)]
pub(crate) struct BlockArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// The namespace [default: default].
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
}

impl BlockArgs {
    /// Its settings.
    pub(crate) fn layer(&self) -> Layer {
        let mut layer = self.client.layer();
        layer.text("namespace", self.namespace.as_deref());
        layer
    }
}

/// Flags of `put`.
#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    #[command(flatten)]
    pub(crate) on: BlockArgs,
    /// How long the blocks live, as in 90s, 15m, 12h or 7d [default: as the namespace says].
    #[arg(long, value_name = "SPAN", value_parser = span)]
    pub(crate) ttl: Option<u32>,
    /// Files, each a block of 1 byte to a quarter of the node's segment.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// Flags of `get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    pub(crate) on: BlockArgs,
    /// Keys: 32 lower-case hex digits each, as `forebay put` prints them.
    #[arg(required = true, value_name = "KEY")]
    pub(crate) keys: Vec<String>,
    /// Folder for the files; made if it is not there.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// Flags of `stat`.
#[derive(Debug, Args)]
pub(crate) struct StatArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// What each namespace saved and cost: tokens, GPU seconds, dollars; and what half and twice the capacity would find.
    #[arg(long)]
    pub(crate) money: bool,
    /// What each namespace used over all lives of the node, as its usage log says: tokens offered, served, used, written, held.
    #[arg(long, conflicts_with = "money")]
    pub(crate) usage: bool,
    /// Also write the usage log's rows to this file, as Parquet.
    #[arg(long, value_name = "FILE", requires = "usage")]
    pub(crate) parquet: Option<PathBuf>,
    /// Read this usage log, all tenants of it, and ask no node.
    #[arg(long, value_name = "FILE", requires = "usage")]
    pub(crate) log: Option<PathBuf>,
    /// What an API's answers say of the same requests, summed: told beside what was metered, with the difference.
    #[arg(long, value_name = "TOKENS", requires = "usage")]
    pub(crate) cached_tokens: Option<u64>,
}

/// Flags of `why`.
#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// The namespace, as the adapter's line in the engine's log names it [default: all that were asked for].
    #[arg(long, value_name = "NAME")]
    pub(crate) namespace: Option<String>,
}

/// Flags of `top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    /// Print one frame and end: for pipes and reports.
    #[arg(long)]
    pub(crate) once: bool,
    /// Time between two frames, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(100..=60_000))]
    pub(crate) interval_ms: u32,
}

/// Flags of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Where a drive lies or is to be made: a file, a folder, or a raw block device; repeat it for more [default: as `serve` chooses].
    #[arg(long, value_name = "PATH")]
    data: Vec<String>,
    /// The node's catalogue [default: as `serve` chooses].
    #[arg(long, value_name = "PATH")]
    catalog: Option<String>,
    /// The node's Unix socket [default: as `serve` chooses].
    #[arg(long, value_name = "PATH")]
    socket: Option<String>,
    /// The node's memory [default: as `serve` chooses].
    #[arg(long, value_name = "SIZE")]
    memory: Option<String>,
    /// Output for programs: JSON, one object a finding.
    #[arg(long)]
    pub(crate) json: bool,
}

impl DoctorArgs {
    /// Its settings.
    pub(crate) fn layer(&self) -> Layer {
        let mut layer = Layer::flags();
        layer.list("data", &self.data);
        layer.text("catalog", self.catalog.as_deref());
        layer.text("socket", self.socket.as_deref());
        layer.text("memory", self.memory.as_deref());
        layer
    }
}

/// Flags of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// The drive: what `forebay serve --data` was given. It is read, never written.
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// Read every record and check its sums; takes as long as reading the drive does.
    #[arg(long)]
    pub(crate) verify: bool,
    /// List each segment.
    #[arg(long)]
    pub(crate) segments: bool,
    /// Output for programs: one JSON object, with each segment.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Flags of `namespace`.
#[derive(Debug, Args)]
pub(crate) struct NamespaceArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
    #[command(subcommand)]
    pub(crate) deed: NamespaceDeed,
}

/// What can be done with namespaces.
#[derive(Debug, Subcommand)]
pub(crate) enum NamespaceDeed {
    /// Make a namespace. The same again is no error.
    Create {
        /// 1 to 64 letters, digits, and - _ . / :
        name: String,
        /// What it promises: cache (may be evicted) or durable (survives, never evicted).
        #[arg(long, value_enum, default_value_t = ClassArg::Cache)]
        class: ClassArg,
        /// Most bytes it may hold on the drives, padding counted [default: the drives'].
        #[arg(long, value_name = "SIZE", value_parser = size)]
        quota: Option<u64>,
        /// How long its blocks live unless their put says something else, as in 90s, 15m, 12h or 7d [default: without end].
        #[arg(long, value_name = "SPAN", value_parser = span)]
        ttl: Option<u32>,
        /// What makes its bytes interchangeable; repeat it. Fields: model, weights, lora, dtype, quant, layout, block_tokens, hash,
        /// hash_seed, shape.
        #[arg(long, value_name = "FIELD=VALUE")]
        fingerprint: Vec<String>,
    },
    /// List your namespaces.
    List,
    /// Delete a namespace and forget its blocks.
    Delete {
        /// Its name.
        name: String,
    },
}

/// The classes, as they are typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ClassArg {
    /// May be evicted; a loss is a miss.
    Cache,
    /// Survives; never evicted.
    Durable,
}

/// Flags of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) on: BlockArgs,
    /// Size of a block.
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1MiB")]
    pub(crate) size: u64,
    /// How many different blocks.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) blocks: u32,
    /// Threads, each with one call in flight.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) threads: u32,
    /// Blocks in one call.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) batch: u32,
    /// How long to get, in seconds.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// Seeds the blocks' bytes and the order of gets.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
}

fn size(text: &str) -> Result<u64, String> {
    forebay_types::parse_size(text).map_err(|e| e.to_string())
}

fn span(text: &str) -> Result<u32, String> {
    forebay_types::parse_span_s(text).map_err(|e| e.to_string())
}
