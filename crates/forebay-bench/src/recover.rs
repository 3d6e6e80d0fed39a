//! How soon a node is back on a drive of several terabytes, without having one: a sparse file with such a drive's geometry, in which every segment was
//! opened, written a little, and sealed by the store itself. What a start reads of it (headers, tails, footers) is all there; payloads are few.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use forebay_format::layout::DRIVE_SUPERBLOCKS_AT;
use forebay_format::{DriveSuperblock, SUPERBLOCK_BYTES};
use forebay_io::{Arena, DriveFile, Engine, EngineKind};
use forebay_store::{Committed, Reserve, Store, StoreConfig};
use forebay_types::{
    BlockMeta, Clock, Descriptor, Key, NamespaceId, RefusedReason, SystemClock, SystemEntropy, Version, format_size,
};
use serde_json::{Value, json};

use crate::card::{Measured, Table};
use crate::node::{Node, Setup};
use crate::raw::drive::{self, Job};
use crate::raw::{self, Tools};
use crate::report::{Samples, round, say};
use crate::work::{MIB, attach, count_hits, pattern, stamp};
use crate::{Common, Failed, Outcome, why};

#[derive(Args)]
pub(crate) struct RecoverArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Size of the drive; only what is written takes room.
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "4TB")]
    sparse: u64,
    /// Blocks of 4 KiB in each segment.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1024))]
    blocks: u32,
    /// Starts after a SIGKILL.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50))]
    starts: u16,
    /// Memory of the node.
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    memory: String,
}

const BLOCK: usize = 4096;
/// Memory and depth of the store that fills the drive.
const FILL_ARENA_BYTES: usize = 256 * MIB;
const FILL_INDEX_BYTES: usize = 256 * MIB;
const FILL_DEPTH: usize = 64;
/// Segments in a hundred that are filled: the rest stays free, so that nothing is cleaned.
const FILLED_PERCENT: u64 = 97;
/// Turns for which the store may have no place for a block: it waits for the drive meanwhile, a millisecond at a time.
const BUSY_TURNS_MAX: usize = 60_000;
/// Pages of 4 KiB in a mebibyte.
const PAGES_A_MIB: u64 = 256;

fn size(text: &str) -> Result<u64, String> {
    forebay_types::parse_size(text).map_err(|e| e.to_string())
}

/// Seconds of each start, what its limit took, and for how long the lock of the node that was killed was still held.
#[derive(Default)]
struct Starts {
    ours: Samples,
    limit: Samples,
    locked: Samples,
}

pub(crate) fn run(args: &RecoverArgs) -> Outcome<Measured> {
    let tools = raw::tools(!args.common.no_install);
    let dir = args.common.scratch("recover")?;
    let bytes = args.sparse & !4095;
    let setup = Setup {
        dir: dir.join("n"),
        capacity: format!("{bytes}B"),
        memory: args.memory.clone(),
        tcp: false,
        extra: Vec::new(),
    };
    std::fs::create_dir_all(&setup.dir).map_err(why("making the bench folder"))?;
    let path = setup.dir.join("drive");
    let file = std::fs::File::create(&path).map_err(why("making the sparse drive"))?;
    file.set_len(bytes).map_err(why("making the sparse drive"))?;
    drop(file);
    let mut node = Node::start(&args.common, setup)?;
    let keys = Keys::of(&node)?;
    node.end()?;
    let filled = fill(&path, &keys, args.blocks)?;
    node.restart()?;
    let first_s = node.ready_s;
    let Starts { ours, limit, locked } = measure(args, &tools, &mut node, &keys, &filled, &dir.join("pages"))?;
    say(&told(bytes, &filled, [&ours, &limit, &locked].map(Samples::median)));
    Ok(Measured {
        bench: "recover",
        workload: format!(
            "A sparse drive of {} whose segments were each opened, given {} blocks of 4 KiB and sealed by the store; {} starts after SIGKILL; A / B is ours / limit.",
            format_size(bytes),
            args.blocks,
            args.starts
        ),
        tools: tools.json(),
        result: json!({ "rows": [{
            "path": "recover_sparse_s",
            "unit": "s",
            "ours": round(ours.median()),
            "limit": round(limit.median()),
            "ratio": round(ours.median() / limit.median()),
            "first_s": round(first_s),
            "limit_is": drive::name(&tools, "as many pages of 4 KiB as there are headers, tails and pages of footers, at random, depth 128"),
            "drive_bytes": bytes,
            "segments": filled.segments,
            "segment_bytes": filled.segment_bytes,
            "blocks": filled.blocks,
            "pages": filled.pages,
            "ours_spread": round(ours.spread()),
            "limit_spread": round(limit.spread()),
            "ours_samples": ours.json(),
            "limit_samples": limit.json(),
            "locked_s": round(locked.median()),
            "locked_samples": locked.json(),
        }] }),
    })
}

/// The table for people.
pub(crate) fn tables(result: &Value) -> Vec<Table> {
    let rows = result["rows"].as_array().map_or(&[][..], Vec::as_slice);
    let text = |row: &Value, field: &str| row[field].as_f64().map_or("-".to_owned(), |value| round(value).to_string());
    let fields = ["ours", "limit", "ratio", "first_s", "segments", "blocks"];
    let line = |row: &Value| {
        let name = row["path"].as_str().unwrap_or_default().to_owned();
        std::iter::once(name).chain(fields.iter().map(|field| text(row, field))).collect()
    };
    let heads = ["path", "ours, s", "limit, s", "ratio", "first start, s", "segments", "blocks"];
    vec![Table { title: String::new(), heads: heads.map(String::from).to_vec(), rows: rows.iter().map(line).collect() }]
}

/// Keys that a client can derive again: the namespace's own.
struct Keys {
    space: forebay_client::NamespaceHandle,
}

impl Keys {
    fn of(node: &Node) -> Outcome<Keys> {
        Ok(Keys { space: attach(&node.unix()?)? })
    }

    fn key(&self, number: u64) -> Key {
        self.space.derive_key(format!("s/{number}").as_bytes())
    }
}

/// What was made.
struct Filled {
    segments: u64,
    segment_bytes: u64,
    blocks: u64,
    /// Pages of 4 KiB that a start reads: each segment's header and tail, and the footers' entries.
    pages: u64,
}

/// Opens the drive as a shard does, and writes a little into each segment.
fn fill(path: &Path, keys: &Keys, blocks: u32) -> Outcome<Filled> {
    let drive = DriveFile::open_within(path, Duration::from_secs(3)).map_err(why("opening the drive"))?;
    let mut page = vec![0; SUPERBLOCK_BYTES];
    drive.read_at(DRIVE_SUPERBLOCKS_AT[0], &mut page).map_err(why("reading the drive"))?;
    let superblock = DriveSuperblock::decode(&page).map_err(why("reading the drive"))?;
    let layout = superblock.layout(drive.len()).map_err(why("reading the drive"))?;
    let arena = Arena::new(FILL_ARENA_BYTES).map_err(why("taking memory"))?;
    let (base, len) = (layout.slice_at(0), layout.slice_len);
    let engine =
        Engine::new(EngineKind::Auto, drive, base, len, &arena, FILL_DEPTH).map_err(why("starting an engine"))?;
    let clock = SystemClock::new();
    let config = StoreConfig { index_bytes_max: FILL_INDEX_BYTES, ..StoreConfig::default() };
    let (store, _) = Store::open(engine, arena, config, Arc::new(SystemEntropy), 0, clock.utc_s())
        .map_err(why("opening the shard"))?;
    let namespace = store.namespaces().find(|row| row.name == "default").map(|row| row.id);
    let namespace = namespace.ok_or_else(|| Failed("the drive knows no namespace `default`".into()))?;
    let mut filling = Filling { store, clock, namespace, content: pattern(BLOCK), encoded: Vec::new(), version: 0 };
    let stats = filling.store.stats();
    let filled = stats.segments * FILLED_PERCENT / 100;
    for segment in 0..filled {
        for number in 0..u64::from(blocks) {
            filling.put(keys.key(segment * u64::from(blocks) + number))?;
        }
        filling.store.seal_open();
        filling.turn();
        if segment % 1000 == 999 {
            say(&format!("recover: {} of {filled} segments filled", segment + 1));
        }
    }
    let now = filling.now();
    filling.store.close(now);
    let held = filling.store.stats();
    let entries_pages = (u64::from(blocks) * 64).div_ceil(BLOCK as u64);
    Ok(Filled {
        segments: held.segments,
        segment_bytes: held.segment_bytes,
        blocks: held.blocks,
        pages: 2 * held.segments + filled * entries_pages,
    })
}

/// A shard that is being filled.
struct Filling {
    store: Store<Engine>,
    clock: SystemClock,
    namespace: NamespaceId,
    content: Vec<u8>,
    encoded: Vec<u8>,
    version: u64,
}

impl Filling {
    fn now(&self) -> u64 {
        self.clock.now_us() / 1000
    }

    fn turn(&mut self) {
        let (now, mut events) = (self.now(), Vec::new());
        while self.store.turn(now, &mut events) {}
    }

    fn put(&mut self, key: Key) -> Outcome<()> {
        self.version += 1;
        stamp(&mut self.content, &key);
        let meta = BlockMeta::plain(self.namespace, key, Version(self.version), BLOCK as u64);
        self.encoded.clear();
        Descriptor::of(meta, &self.content).encode(&mut self.encoded);
        for _ in 0..BUSY_TURNS_MAX {
            let now = self.now();
            let batch = self.store.begin_batch(1);
            match self.store.reserve(now, &self.encoded, batch, 0) {
                Reserve::Slot(mut slot) => {
                    slot.buf_mut().copy_from_slice(&self.content);
                    match self.store.commit(now, 0, slot) {
                        Committed::Cached | Committed::Pending => return Ok(()),
                        Committed::Refused(RefusedReason::Busy) => {}
                        other => return Err(Failed(format!("a block was not kept: {other:?}"))),
                    }
                }
                Reserve::Refused(RefusedReason::Busy) => {}
                other => return Err(Failed(format!("a block was not taken: {other:?}"))),
            }
            self.turn();
            self.store.disk_mut().wait(Some(Duration::from_millis(1)), &mut Vec::new());
        }
        Err(Failed("the drive took no block for a minute".into()))
    }
}

/// Starts after SIGKILL, and beside each the reading of as many pages from a file that was written once.
fn measure(
    args: &RecoverArgs,
    tools: &Tools,
    node: &mut Node,
    keys: &Keys,
    filled: &Filled,
    pages: &Path,
) -> Outcome<Starts> {
    let mib = filled.pages.div_ceil(PAGES_A_MIB);
    drive::written_file(pages, mib)?;
    let sample: Vec<Key> = (0..filled.blocks).step_by(997).map(|number| keys.key(number)).collect();
    let mut starts = Starts::default();
    for start in 0..args.starts {
        say(&format!("recover: start {} of {}", start + 1, args.starts));
        let job = Job {
            file: pages,
            from_mib: 0,
            size_mib: mib,
            write: false,
            random: true,
            block_kib: 4,
            depth: 128,
            seconds: None,
            sync_every: 0,
        };
        starts.limit.0.push(((mib << 20) as f64 / 1e9) / drive::run(tools, &job)?.gb_s);
        starts.locked.0.push(node.kill_and_restart_watched()?);
        starts.ours.0.push(node.ready_s);
        let found = count_hits(&attach(&node.unix()?)?, &sample, BLOCK)?;
        if found * 100 < sample.len() * 99 {
            return Err(Failed(format!("after the restart {found} of {} blocks were there", sample.len())));
        }
    }
    Ok(starts)
}

fn told(bytes: u64, filled: &Filled, [ours, limit, locked]: [f64; 3]) -> String {
    let (drive, segments, blocks) = (format_size(bytes), filled.segments, filled.blocks);
    format!(
        "{drive} of drive, {segments} segments, {blocks} blocks: back in {ours:.2} s; reading its pages takes {limit:.2} s, and for {locked:.2} s the \
         killed node's lock was still held"
    )
}
