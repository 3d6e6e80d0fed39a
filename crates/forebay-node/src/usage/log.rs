//! The usage log as a file: opened, appended to, and made anew with fewer rows before it grows over its ceiling. What it holds is `forebay-format`'s.

use std::fs::{File, OpenOptions};
use std::io::{Error, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use forebay_format::{
    FormatError, USAGE_ROWS_MAX, UsageLog, decode_usage_log, encode_usage_entry, encode_usage_header,
};
use forebay_tokenomics::coarsen;
use forebay_types::UsageRow;

/// Rows that a log is made anew with, at most, beside one for each tenant: hours of three namespaces for 227 days, days of them for 15 years. With what
/// it grows by in between it stays under 5 MiB, and 20 MiB of memory are the most that making it anew takes.
const ROWS_MAX: usize = 16_384;
/// It is made anew whenever it has grown by this many bytes.
const GROWTH_BYTES: u64 = 1 << 20;
/// No log of ours comes near it: not read into memory.
const BYTES_MAX: u64 = 64 << 20;

/// Why a usage log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UsageError {
    /// The file.
    #[error("the usage log {} cannot be {doing}: {source}; see whether it is there, its permissions, and the free space of its folder", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the kernel said.
        source: Error,
    },
    /// What is in it, for who only reads it.
    #[error("{}: {source}{}", path.display(), instead(source))]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        source: FormatError,
    },
    /// What is in it, for a node that wants to write there.
    #[error("{}: {source}; move it away to begin a new one, and keep it if what was used matters", path.display())]
    InTheWay {
        /// Which.
        path: PathBuf,
        /// Why.
        source: FormatError,
    },
}

/// What a reader may give in place of a file that is no log.
fn instead(source: &FormatError) -> &'static str {
    match source.is_foreign() {
        true => {
            "; give a node's usage log: the file NAME.usage beside its catalogue NAME.catalog, which `forebay stat --json` names as usage_log.path"
        }
        false => "",
    }
}

/// An open log. One writer: the catalogue beside it has a lock.
#[derive(Debug)]
pub(crate) struct Log {
    path: PathBuf,
    file: File,
    /// All of its whole entries: what is behind was never recorded.
    bytes: u64,
    next_sequence: u64,
    lost_entries: u64,
    /// Made anew when it has so many bytes.
    full_at: u64,
    /// Something is behind `bytes`, from a write that failed.
    torn: bool,
    unsynced: bool,
}

/// Reads a log, also one that a node is writing: its whole entries.
pub fn read_usage_log(path: &Path) -> Result<UsageLog, UsageError> {
    let io = |source| UsageError::Io { path: path.to_owned(), doing: "read", source };
    let length = std::fs::metadata(path).map_err(io)?.len();
    let unreadable = |source| UsageError::Unreadable { path: path.to_owned(), source };
    if length > BYTES_MAX {
        return Err(unreadable(FormatError::NotForebay("usage log")));
    }
    let bytes = std::fs::read(path).map_err(io)?;
    decode_usage_log(&bytes).map_err(unreadable)
}

/// What stops a reader stands in a writer's way.
fn in_the_way(error: UsageError) -> UsageError {
    match error {
        UsageError::Unreadable { path, source } => UsageError::InTheWay { path, source },
        error => error,
    }
}

impl Log {
    /// Opens the log, or begins one. Gives its rows, too.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<UsageRow>), UsageError> {
        let is_there = path.metadata().is_ok_and(|found| found.len() > 0);
        let found = if is_there { read_usage_log(path).map_err(in_the_way)? } else { UsageLog::default() };
        let io = |source| UsageError::Io { path: path.to_owned(), doing: "written", source };
        if !is_there || found.is_damaged {
            let log = Log::make(path, &found.rows, found.next_sequence, found.lost_entries).map_err(io)?;
            return Ok((log, found.rows));
        }
        let file = OpenOptions::new().write(true).open(path).map_err(io)?;
        let bytes = found.whole_bytes as u64;
        let full_at = bytes + GROWTH_BYTES;
        let (next_sequence, lost_entries) = (found.next_sequence, found.lost_entries);
        let path = path.to_owned();
        let mut log = Log { path, file, bytes, next_sequence, lost_entries, full_at, torn: true, unsynced: true };
        log.cut().map_err(io)?;
        Ok((log, found.rows))
    }

    /// A log with these rows in place of the one that is there, if any: it is the old or the new one, whenever the power goes.
    fn make(path: &Path, rows: &[UsageRow], first_sequence: u64, lost_entries: u64) -> std::io::Result<Self> {
        let mut bytes = encode_usage_header(first_sequence, lost_entries).to_vec();
        let mut next_sequence = first_sequence;
        for rows in rows.chunks(USAGE_ROWS_MAX) {
            encode_usage_entry(next_sequence, rows, &mut bytes);
            next_sequence += 1;
        }
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let new = PathBuf::from(name);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        if let Some(folder) = path.parent() {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            File::open(folder)?.sync_all()?;
        }
        let (path, bytes) = (path.to_owned(), bytes.len() as u64);
        let full_at = bytes + GROWTH_BYTES;
        Ok(Log { path, file, bytes, next_sequence, lost_entries, full_at, torn: false, unsynced: false })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn lost_entries(&self) -> u64 {
        self.lost_entries
    }

    /// Takes away what is behind the last whole entry.
    fn cut(&mut self) -> std::io::Result<()> {
        if self.torn {
            self.file.set_len(self.bytes)?;
            self.torn = false;
        }
        Ok(())
    }

    /// Appends an entry for each [`USAGE_ROWS_MAX`] rows, all or nothing: after an error the log is as it was. They outlive this process when this
    /// returns, and a power cut after [`Self::sync`].
    pub(crate) fn append(&mut self, rows: &[UsageRow]) -> std::io::Result<()> {
        self.cut()?;
        let (mut bytes, mut sequence) = (Vec::new(), self.next_sequence);
        for rows in rows.chunks(USAGE_ROWS_MAX) {
            encode_usage_entry(sequence, rows, &mut bytes);
            sequence += 1;
        }
        self.torn = true;
        self.file.write_all_at(&bytes, self.bytes)?;
        self.torn = false;
        self.bytes += bytes.len() as u64;
        self.next_sequence = sequence;
        self.unsynced = true;
        Ok(())
    }

    /// Makes it anew with fewer rows if it has grown enough.
    pub(crate) fn shrink_if_full(&mut self) -> Result<(), UsageError> {
        if self.bytes < self.full_at {
            return Ok(());
        }
        // Not again at once, whatever comes of it.
        self.full_at = self.bytes + GROWTH_BYTES;
        let found = read_usage_log(&self.path)?;
        let rows = coarsen(&found.rows, ROWS_MAX);
        let io = |source| UsageError::Io { path: self.path.clone(), doing: "made anew", source };
        *self = Log::make(&self.path, &rows, found.next_sequence, found.lost_entries).map_err(io)?;
        Ok(())
    }

    /// What was appended outlives a power cut from here on.
    pub(crate) fn sync(&mut self) -> std::io::Result<()> {
        if self.unsynced {
            self.file.sync_data()?;
            self.unsynced = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use forebay_types::{NamespaceId, Tenant, Usage};

    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("forebay-usage-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&folder).unwrap();
            Folder(folder)
        }

        fn log(&self) -> PathBuf {
            self.0.join("d.usage")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn row(at_s: u64, namespace: u32, tokens: u64) -> UsageRow {
        let usage = Usage { offered_tokens: tokens, missed_tokens: tokens, ..Usage::default() };
        let (tenant, namespace, name) = (Tenant(1000), NamespaceId(namespace), format!("n{namespace}"));
        UsageRow { from_utc_s: at_s, until_utc_s: at_s + 1, tenant, namespace, name, usage }
    }

    fn offered(rows: &[UsageRow]) -> u64 {
        rows.iter().map(|row| row.usage.offered_tokens).sum()
    }

    /// A process dies while it writes its third entry: cut there at each byte, the first two are there, and what comes next is their third.
    #[test]
    fn a_torn_tail_is_known_and_written_over() {
        let folder = Folder::new("torn");
        let (mut log, rows) = Log::open(&folder.log()).unwrap();
        assert!(rows.is_empty());
        log.append(&[row(10, 1, 5)]).unwrap();
        log.append(&[row(11, 1, 7), row(11, 2, 1)]).unwrap();
        let whole = log.bytes as usize;
        log.append(&[row(12, 1, 100)]).unwrap();
        drop(log);
        let bytes = std::fs::read(folder.log()).unwrap();
        for cut in whole..bytes.len() {
            std::fs::write(folder.log(), &bytes[..cut]).unwrap();
            let (mut log, rows) = Log::open(&folder.log()).unwrap();
            assert_eq!((offered(&rows), log.next_sequence, log.lost_entries), (13, 2, 0), "cut at {cut}");
            log.append(&[row(13, 1, 1)]).unwrap();
            let found = read_usage_log(&folder.log()).unwrap();
            assert_eq!((offered(&found.rows), found.lost_entries, found.whole_bytes as u64), (14, 0, log.bytes));
        }
    }

    /// A bit rots in front of good entries: they are kept, what is lost is counted, and the next start finds a whole file that still says so.
    #[test]
    fn damage_costs_the_entries_it_hits_and_is_told() {
        let folder = Folder::new("rot");
        let (mut log, _) = Log::open(&folder.log()).unwrap();
        let mut ends = vec![log.bytes as usize];
        for tokens in [1, 2, 4, 8] {
            log.append(&[row(10, 1, tokens)]).unwrap();
            ends.push(log.bytes as usize);
        }
        drop(log);
        let good = std::fs::read(folder.log()).unwrap();
        for at in ends[1]..ends[2] {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            std::fs::write(folder.log(), &bad).unwrap();
            for _ in 0..2 {
                let (log, rows) = Log::open(&folder.log()).unwrap();
                assert_eq!((offered(&rows), log.lost_entries()), (13, 1), "byte {at}");
            }
        }
    }

    /// Three years of a row a second would be gigabytes: the file stays small, and its sum is the sum of all that was appended.
    #[test]
    fn a_log_stays_small_and_its_sum_exact() {
        let folder = Folder::new("ceiling");
        let (mut log, _) = Log::open(&folder.log()).unwrap();
        let (mut sum, mut most) = (0, 0);
        for second in 0..40_000u64 {
            // 40 namespaces, each for a while.
            log.append(&[row(second * 2000, (second / 1000) as u32 + 1, second)]).unwrap();
            sum += second;
            log.shrink_if_full().unwrap();
            most = most.max(log.bytes);
        }
        assert!(most < 5 << 20, "{most}");
        drop(log);
        let (log, rows) = Log::open(&folder.log()).unwrap();
        assert_eq!((offered(&rows), log.lost_entries()), (sum, 0));
        assert!(rows.len() < 40_000, "{} rows were never made fewer", rows.len());
    }

    #[test]
    fn what_is_no_usage_log_is_left_alone() {
        let folder = Folder::new("foreign");
        std::fs::write(folder.log(), [7; 200]).unwrap();
        let error = Log::open(&folder.log()).unwrap_err().to_string();
        assert!(error.contains("d.usage") && error.contains("move it away"), "{error}");
        assert_eq!(std::fs::read(folder.log()).unwrap(), [7; 200]);
        // An empty file is one that was never begun.
        std::fs::write(folder.log(), []).unwrap();
        assert!(Log::open(&folder.log()).unwrap().1.is_empty());
    }
}
