//! A drive without a node: what is on it, read by nobody but us, and what of it is damaged.
//!
//! Reads only, and only what `docs/disk-format.md` draws. Bytes are whatever they are: each that does not fit is a line in the list of damage, with
//! its place, and the reading goes on behind it. What is told is what a start of a node would find.

mod read;
mod records;
mod slice;

use std::path::{Path, PathBuf};

use forebay_format::layout::DRIVE_SUPERBLOCKS_AT;
use forebay_format::{DriveSuperblock, SUPERBLOCK_BYTES};
use forebay_types::{Key, ShardId};

use read::Reader;

pub use forebay_format::SegmentKind;
pub use read::InspectError;

/// Damage that is listed; more is only counted. A drive that is damaged all over is not read line by line.
const DAMAGE_LISTED_MAX: usize = 1000;

/// What was found on a drive.
#[derive(Debug, Default)]
pub struct Report {
    /// Its file.
    pub path: PathBuf,
    /// Its bytes.
    pub len: u64,
    /// Its superblock; absent when neither copy can be read, and then nothing else can.
    pub drive: Option<DriveSuperblock>,
    /// What its slices hold.
    pub slices: Vec<Slice>,
    /// Whether every record was read and checked.
    pub verified: bool,
    /// What is damaged, as far as it is listed.
    pub damage: Vec<Damage>,
    /// How much is damaged in all.
    pub damaged: u64,
}

/// Something that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Where, from the drive's start.
    pub offset: u64,
    /// What and in which way.
    pub what: String,
    /// The block that is lost with it, where that is known.
    pub key: Option<Key>,
}

/// A slice of a drive.
#[derive(Debug, Default)]
pub struct Slice {
    /// Where it begins on the drive.
    pub offset: u64,
    /// The shard that lives there; absent when neither superblock can be read, and then nothing of the slice can.
    pub shard: Option<ShardId>,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// When it was formatted, in seconds since 1970.
    pub created_utc_s: u64,
    /// Changes of its table of namespaces so far.
    pub names_sequence: u64,
    /// Its namespaces, with what a start would find of theirs.
    pub namespaces: Vec<Held>,
    /// Each segment.
    pub segments: Vec<Segment>,
    /// Records of blocks, tombstones' keys.
    pub blocks: u64,
    /// Keys in tombstones.
    pub tombstones: u64,
    /// Blocks that a start would find: of each key the newest, and none that is forgotten, expired or of no namespace.
    pub live: u64,
    /// Newest blocks of their key that have expired by what the drive knows.
    pub expired: u64,
}

/// A namespace and what it holds.
#[derive(Debug)]
pub struct Held {
    /// As the drive's own table tells. Its secret is not on the drive.
    pub row: forebay_format::NamespaceRow,
    /// Blocks that a start would find.
    pub blocks: u64,
    /// Their payload.
    pub bytes: u64,
}

/// A segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins on the drive.
    pub offset: u64,
    /// What for it was opened last; absent when it is free.
    pub kind: Option<SegmentKind>,
    /// The number of that opening.
    pub generation: u64,
    /// It has a footer; else a start scans it.
    pub sealed: bool,
    /// Records of it.
    pub records: u32,
    /// Their bytes, with padding and trailers.
    pub bytes: u64,
}

/// Reads a drive. With `verify` every record is read and its sums checked; `progress` hears of bytes read of all there are to read.
pub fn inspect(path: &Path, verify: bool, progress: &mut dyn FnMut(u64, u64)) -> Result<Report, InspectError> {
    let reader = Reader::open(path)?;
    let mut report = Report { path: path.into(), len: reader.len(), verified: verify, ..Report::default() };
    let pages = DRIVE_SUPERBLOCKS_AT.map(|at| reader.read(at, SUPERBLOCK_BYTES));
    let decoded = pages.map(|page| page.and_then(|page| DriveSuperblock::decode(&page).map_err(|e| e.to_string())));
    if decoded.iter().all(Result::is_err) {
        // Nothing of ours is no damage.
        let whole = DRIVE_SUPERBLOCKS_AT.map(|at| reader.read(at, SUPERBLOCK_BYTES).unwrap_or_default());
        if let Err(error) = DriveSuperblock::choose(&whole[0], &whole[1])
            && error.is_foreign()
        {
            return Err(InspectError::NotADrive { path: path.into(), why: error.to_string() });
        }
    }
    for (at, copy) in DRIVE_SUPERBLOCKS_AT.iter().zip(&decoded) {
        if let Err(why) = copy {
            report.damaged(*at, format!("a copy of the drive's superblock: {why}"), None);
        }
    }
    let [first, second] = decoded;
    if let (Ok(a), Ok(b)) = (&first, &second)
        && a != b
    {
        report.damaged(0, "the two copies of the drive's superblock differ: a formatting was cut off".into(), None);
        return Ok(report);
    }
    let Some(drive) = first.ok().or(second.ok()) else { return Ok(report) };
    report.drive = Some(drive);
    let layout = match drive.layout(reader.len()) {
        Ok(layout) => layout,
        Err(error) => {
            report.damaged(0, error.to_string(), None);
            return Ok(report);
        }
    };
    let total = u64::from(layout.slices) * layout.slice_len;
    for index in 0..layout.slices {
        let done = u64::from(index) * layout.slice_len;
        let mut hear = |at: u64| progress(done + at, total);
        let place = slice::Place { offset: layout.slice_at(index), len: layout.slice_len, verify };
        slice::look(&reader, place, &mut report, &mut hear);
    }
    progress(total, total);
    Ok(report)
}

impl Report {
    fn damaged(&mut self, offset: u64, what: String, key: Option<Key>) {
        self.damaged += 1;
        if self.damage.len() < DAMAGE_LISTED_MAX {
            self.damage.push(Damage { offset, what, key });
        }
    }
}
