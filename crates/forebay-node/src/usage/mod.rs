//! The meter: what shards count is appended to the usage log once a second, by a thread of its own. What is told is what is recorded, so it never
//! goes back, whatever becomes of the process.

mod log;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use forebay_types::{Clock, NamespaceId, Usage, UsageRow};
use serde_json::{Value, json};

use crate::NodeError;
use crate::board::Board;
use crate::spaces::Spaces;
use log::Log;
pub use log::{UsageError, read_usage_log};

/// How often it is written: a kill costs what was counted since.
const RECORD: Duration = Duration::from_secs(1);
/// Records after which the file is flushed: a power cut costs what was recorded since.
const FLUSH_RECORDS: u32 = 10;
/// Records after which blocks that are only held are written down: a node at rest appends a row a minute and not one a second.
const HELD_RECORDS: u32 = 60;

/// What is recorded, for those who tell.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    path: PathBuf,
    /// Sums over all lives of the node.
    totals: Mutex<BTreeMap<NamespaceId, Usage>>,
    /// Entries that damage has taken, as the log says.
    lost_entries: u64,
    /// Times it could not be written.
    pub(crate) failures: AtomicU64,
}

impl Recorded {
    fn totals(&self) -> MutexGuard<'_, BTreeMap<NamespaceId, Usage>> {
        self.totals.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn add(&self, row: &UsageRow) {
        self.totals().entry(row.namespace).or_default().add(&row.usage);
    }

    /// What a namespace used in all.
    pub(crate) fn usage(&self, id: NamespaceId) -> Usage {
        self.totals().get(&id).copied().unwrap_or_default()
    }

    /// Which namespaces were used, and what was put in each, for shards that begin anew.
    pub(crate) fn sizes(&self) -> Vec<(NamespaceId, Usage)> {
        self.totals().iter().map(|(id, usage)| (*id, *usage)).collect()
    }

    /// Where the log is and how it does.
    pub(crate) fn json(&self) -> Value {
        json!({
            "path": self.path.display().to_string(),
            "lost_entries": self.lost_entries,
            "failures": self.failures.load(Ordering::Relaxed),
        })
    }
}

/// Counts by their names.
pub(crate) fn json(usage: &Usage) -> Value {
    usage.named().map(|(name, count)| (name.to_owned(), json!(count))).collect()
}

/// Where the log of this catalogue lies: beside it.
pub(crate) fn path_beside(catalogue: &Path) -> PathBuf {
    if catalogue.extension().is_some_and(|extension| extension == "catalog") {
        return catalogue.with_extension("usage");
    }
    let mut name = catalogue.as_os_str().to_owned();
    name.push(".usage");
    PathBuf::from(name)
}

/// Turns counts of shards into rows.
struct Recorder {
    log: Log,
    recorded: Arc<Recorded>,
    /// Of each shard, what of its counts is in the log.
    seen: Vec<BTreeMap<NamespaceId, Usage>>,
    /// Where the next rows' span begins.
    from_utc_s: u64,
    records: u32,
}

/// The log, opened, and what it says.
pub(crate) struct Opened {
    log: Log,
    pub(crate) recorded: Arc<Recorded>,
}

/// Opens the log beside a catalogue.
pub(crate) fn open(catalogue: &Path) -> Result<Opened, UsageError> {
    let (log, rows) = Log::open(&path_beside(catalogue))?;
    let (path, lost_entries) = (log.path().to_owned(), log.lost_entries());
    let recorded = Recorded { path, lost_entries, ..Recorded::default() };
    rows.iter().for_each(|row| recorded.add(row));
    Ok(Opened { log, recorded: Arc::new(recorded) })
}

impl Recorder {
    fn new(opened: Opened, shards: usize, utc_s: u64) -> Self {
        let Opened { log, recorded } = opened;
        Recorder { log, recorded, seen: vec![BTreeMap::new(); shards], from_utc_s: utc_s, records: 0 }
    }

    /// Appends what shards have counted since the last time. `last`: it is the last time.
    fn record(&mut self, board: &Board, utc_s: u64, last: bool) {
        self.records += 1;
        let now: Vec<(Spaces, Spaces)> = board.shards.iter().map(|shard| shard.take_spaces()).collect();
        let mut rows: BTreeMap<NamespaceId, UsageRow> = BTreeMap::new();
        let until_utc_s = utc_s.max(self.from_utc_s);
        for ((spaces, parted), seen) in now.iter().zip(&self.seen) {
            for (id, counts) in spaces.iter().chain(parted).filter(|(_, counts)| !counts.name.is_empty()) {
                let since = counts.usage.since(seen.get(id).unwrap_or(&Usage::default()));
                let row = rows.entry(*id).or_insert_with(|| UsageRow {
                    from_utc_s: self.from_utc_s,
                    until_utc_s,
                    tenant: counts.tenant,
                    namespace: *id,
                    name: counts.name.to_string(),
                    usage: Usage::default(),
                });
                row.usage.add(&since);
            }
        }
        let is_gone = now.iter().any(|(_, parted)| !parted.is_empty());
        let at_rest = rows.values().all(|row| row.usage.is_only_held());
        let rows: Vec<UsageRow> = rows.into_values().filter(|row| !row.usage.is_zero()).collect();
        if at_rest && !last && !is_gone && !self.records.is_multiple_of(HELD_RECORDS) {
            // What was recorded before the rest began is flushed in time all the same.
            return self.keep(last);
        }
        if !rows.is_empty() {
            if self.log.append(&rows).is_err() {
                // Nothing of it is recorded, and all of it is in the next rows; but for what shards have let go of.
                self.recorded.failures.fetch_add(1, Ordering::Relaxed);
                board.shards.iter().zip(now).for_each(|(shard, (_, parted))| shard.give_back_parted(parted));
                return;
            }
            rows.iter().for_each(|row| self.recorded.add(row));
        }
        for ((spaces, _), seen) in now.iter().zip(&mut self.seen) {
            *seen = spaces.iter().map(|(id, counts)| (*id, counts.usage)).collect();
        }
        self.from_utc_s = until_utc_s;
        self.keep(last);
    }

    /// Flushes what was appended when it is time, and keeps the file small.
    fn keep(&mut self, last: bool) {
        let flushed = if last || self.records.is_multiple_of(FLUSH_RECORDS) { self.log.sync() } else { Ok(()) };
        if flushed.is_err() || self.log.shrink_if_full().is_err() {
            self.recorded.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn run(mut self, board: &Board, clock: &dyn Clock, stop: &Receiver<()>) {
        while stop.recv_timeout(RECORD) == Err(RecvTimeoutError::Timeout) {
            self.record(board, clock.utc_s(), false);
        }
        self.record(board, clock.utc_s(), true);
    }
}

/// The meter's thread.
#[derive(Debug)]
pub(crate) struct MeterThread {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MeterThread {
    pub(crate) fn start(opened: Opened, board: Arc<Board>) -> Result<Self, NodeError> {
        let (stop, stopped) = sync_channel(0);
        let clock = board.clock.clone();
        let recorder = Recorder::new(opened, board.shards.len(), clock.utc_s());
        let run = move || recorder.run(&board, clock.as_ref(), &stopped);
        let started = std::thread::Builder::new().name("usage".into()).spawn(run);
        let thread =
            started.map_err(|source| NodeError::Os { doing: "starting the thread of the usage log", source })?;
        Ok(MeterThread { stop: Some(stop), thread: Some(thread) })
    }

    /// Records the rest. Shards have said their last by then.
    pub(crate) fn finish(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for MeterThread {
    fn drop(&mut self) {
        self.finish();
    }
}
