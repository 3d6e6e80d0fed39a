//! From drives to shards that serve: who gets how much memory, and what is stopped again when one of them fails.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::SyncSender;

use forebay_coord::MemberRow;
use forebay_store::FormatParams;
use forebay_tokenomics::policy_bytes_max;
use forebay_types::{Clock, Entropy, ShardId};

use crate::check::policy;
use crate::config::{NodeConfig, NodeError, Progress};
use crate::drives::Drive;
use crate::shard::{Command, Saved, ShardLink, ShardSetup, Starting, start};
use crate::shares::{Shares, beyond_bytes};
use crate::wake::Wake;

/// Memory of a shard that is neither arena nor index: buffers of its loop and its connections, in bytes.
const BUFFERS_BYTES: u64 = 2 << 20;

/// Least memory of a shard, in bytes: two of the smallest segments' largest blocks on their way in and out, the table of namespaces, the index.
pub(crate) const SHARD_MEMORY_MIN: u64 = 16 << 20;

/// Index for each of this many bytes of drive there are 64 bytes: the smallest record takes as many.
const RECORD_BYTES_MIN: u64 = 8 * 1024;
const INDEX_ENTRY_BYTES: u64 = 64;
const INDEX_BYTES_MIN: u64 = 1 << 20;

/// A started shard and its drive.
pub(crate) struct Link {
    pub(crate) shard: ShardLink,
    /// Its drive was made now.
    pub(crate) new: bool,
    pub(crate) path: PathBuf,
    /// Where its slice begins on the drive.
    pub(crate) slice_at: u64,
    pub(crate) slice_bytes: u64,
}

impl Link {
    /// Its row in the table of members: placement weighs a shard by its space.
    pub(crate) fn row(&self) -> MemberRow {
        let weight_mib = u32::try_from(self.slice_bytes >> 20).unwrap_or(u32::MAX);
        MemberRow { shard: self.shard.started.shard, weight_mib }
    }
}

/// What all shards share.
pub(crate) struct Parts {
    pub(crate) shares: Shares,
    pub(crate) incarnation: u64,
    pub(crate) epoch: Arc<AtomicU64>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) saved: SyncSender<Saved>,
    pub(crate) wake: Wake,
}

/// Stops shards whose node does not come to be.
pub(crate) struct StopShards(pub(crate) Vec<Link>);

impl StopShards {
    pub(crate) fn disarm(mut self) -> Vec<Link> {
        std::mem::take(&mut self.0)
    }
}

impl Drop for StopShards {
    fn drop(&mut self) {
        for link in self.0.drain(..) {
            let _ = link.shard.commands.send(Command::Close { deadline_us: 0 });
            link.shard.waker.wake();
            let _ = link.shard.thread.join();
        }
    }
}

/// Starts a shard on every slice, waits until all serve, and says of new drives that they are whole.
pub(crate) fn start_shards(
    config: &mut NodeConfig,
    drives: &mut [Drive],
    parts: &Parts,
) -> Result<Vec<Link>, NodeError> {
    let total = drives.len() * config.shards_per_drive as usize;
    let memory = config.memory_bytes / total as u64 - beyond_bytes(total);
    let mut starting: Vec<(Starting, bool, usize, u64)> = Vec::new();
    let mut failed = None;
    'all: for (at, drive) in drives.iter().enumerate() {
        for slice in 0..drive.layout.slices {
            match start_one(config, drive, slice, starting.len(), memory, parts) {
                Ok(one) => starting.push((one, drive.new.is_some(), at, drive.layout.slice_at(slice))),
                Err(error) => {
                    failed = Some(error);
                    break 'all;
                }
            }
        }
    }
    // Each is waited for, whatever became of the others: none may go on without a node.
    let mut links = StopShards(Vec::new());
    for (one, new, at, slice_at) in starting {
        if let Some(progress) = &mut config.progress {
            progress(Progress::Recovering { done: links.0.len(), total });
        }
        match one.wait() {
            Ok(shard) => {
                let (path, slice_bytes) = (config.data[at].path.clone(), drives[at].layout.slice_len);
                links.0.push(Link { shard, new, path, slice_at, slice_bytes });
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if let Some(error) = failed {
        return Err(total_memory(error, &config.policy, total, config.memory_bytes));
    }
    for (place, link) in links.0.iter().enumerate() {
        if links.0[..place].iter().any(|other| other.shard.started.shard == link.shard.started.shard) {
            return Err(NodeError::Copy { path: link.path.clone() });
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
    let (arena_bytes, index_bytes) = split_memory(memory, drive.layout.slice_len, policy_bytes_max(&config.policy));
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
        curve_bytes: curve_bytes(memory) as usize,
        policy: policy(&config.policy)?,
        reckoning: config.reckoning,
        scrub_period_s: config.scrub_period_s,
        write_day_bytes: write_day_bytes(config.endurance, drive.layout.slices),
        engine: config.io,
        landings: config.landings,
        shares: parts.shares,
        incarnation: parts.incarnation,
        epoch: parts.epoch.clone(),
        clock: parts.clock.clone(),
        entropy: parts.entropy.clone(),
        saved: parts.saved.clone(),
        wake: parts.wake.clone(),
    })
}

/// A day's part of what a drive may be written, for one of its slices; 0: as many as come. Never so little that it means that.
fn write_day_bytes(endurance: Option<(u64, u64)>, slices: u32) -> u64 {
    const DAY_S: u128 = 86_400;
    let day = |(bytes, seconds): (u64, u64)| u128::from(bytes) * DAY_S / u128::from(seconds.max(1));
    endurance.map_or(0, |e| u64::try_from(day(e) / u128::from(slices.max(1))).unwrap_or(u64::MAX).max(1))
}

/// What a shard's arena lacks, told in terms of `--memory`, which is what people choose.
fn total_memory(error: NodeError, policy: &str, shards: usize, found: u64) -> NodeError {
    match error {
        NodeError::Store { source: forebay_store::StoreError::Memory { need, .. }, .. } => {
            // A quarter of a shard's memory may be index.
            let shard = (need.next_multiple_of(2 << 20) + policy_bytes_max(policy) + BUFFERS_BYTES) * 4 / 3 * 65 / 64
                + beyond_bytes(shards);
            NodeError::Memory { found, need: shard.next_multiple_of(1 << 20) * shards as u64, shards }
        }
        error => error,
    }
}

/// What a shard's miss-ratio curve may take: 8 MiB are all that it can use.
fn curve_bytes(memory: u64) -> u64 {
    (memory / 64).min(8 << 20)
}

/// Arena and index of a shard that has `memory` in all for `slice_len` bytes of drive.
fn split_memory(memory: u64, slice_len: u64, policy_bytes: u64) -> (usize, usize) {
    let index = (slice_len / RECORD_BYTES_MIN * INDEX_ENTRY_BYTES).clamp(INDEX_BYTES_MIN, memory / 4);
    // The arena is a whole number of huge pages, rounded up by whoever makes it.
    let arena = (memory - index - curve_bytes(memory) - policy_bytes - BUFFERS_BYTES) & !((2 << 20) - 1);
    (arena as usize, index as usize)
}
