//! Drives at start: opened or made, and cut into slices.

use std::path::Path;
use std::sync::Arc;

use forebay_format::layout::DRIVE_SUPERBLOCKS_AT;
use forebay_format::{DriveLayout, DriveSuperblock, Features, SUPERBLOCK_BYTES, VERSION};
use forebay_io::{DriveError, DriveFile};
use forebay_types::{Clock, Entropy};

use crate::config::{DataConfig, NodeConfig, NodeError, Progress};

/// Drives are a whole number of these, in bytes: what is asked for is rounded down.
const GRAIN_BYTES: u64 = 4096;

/// Longest wait for a drive's lock at start, in microseconds.
const LOCK_WAIT_US: u64 = 3_000_000;

/// A drive, open and locked.
pub(crate) struct Drive {
    pub(crate) file: DriveFile,
    pub(crate) layout: DriveLayout,
    /// It is new: its superblock is written when its shards are made, so that a drive half made is never taken for a whole one.
    pub(crate) new: Option<DriveSuperblock>,
}

impl Drive {
    /// Opens the drive, or makes it when nothing is there.
    pub(crate) fn open(
        data: &DataConfig,
        config: &mut NodeConfig,
        clock: &Arc<dyn Clock>,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<Self, NodeError> {
        let path = data.path.as_path();
        let asked = data.capacity & !(GRAIN_BYTES - 1);
        let file = match open_when_free(path, clock) {
            Ok(file) => match read_superblock(&file)? {
                Found::Drive(superblock) => {
                    return Self::known(path, file, &superblock, asked, config.shards_per_drive);
                }
                // Made by a start that was cut off before it had written anything of worth, for this very size.
                Found::Blank(_) if file.len() == asked => file,
                Found::Blank(source) => return Err(NodeError::Format { path: path.into(), source }),
            },
            Err(DriveError::Missing { .. }) => {
                // Before the file system is asked for the room.
                layout(path, asked, config, 4096)?;
                let progress = &mut config.progress;
                let mut hear = |done| {
                    if let Some(progress) = progress {
                        progress(Progress::Formatting { path: path.into(), done, total: asked });
                    }
                };
                hear(0);
                DriveFile::create(path, asked, config.prewrite, &mut hear)?
            }
            Err(error) => return Err(error.into()),
        };
        let layout = layout(path, file.len(), config, file.align())?;
        let mut drive_uuid = [0; 16];
        entropy.fill(&mut drive_uuid);
        let new = DriveSuperblock {
            version: VERSION,
            features: Features::default(),
            drive_uuid,
            slices: layout.slices,
            align: file.align() as u32,
            slice_len: layout.slice_len,
            created_utc_s: clock.utc_s(),
        };
        Ok(Drive { file, layout, new: Some(new) })
    }

    fn known(
        path: &Path,
        file: DriveFile,
        superblock: &DriveSuperblock,
        asked: u64,
        shards: u32,
    ) -> Result<Self, NodeError> {
        if file.len() != asked {
            return Err(NodeError::Capacity { path: path.into(), found: file.len(), asked });
        }
        if superblock.slices != shards {
            return Err(NodeError::Shards { path: path.into(), found: superblock.slices, asked: shards });
        }
        let layout = superblock.layout(file.len()).map_err(|source| NodeError::Format { path: path.into(), source })?;
        Ok(Drive { file, layout, new: None })
    }

    /// Says that the drive is whole.
    pub(crate) fn seal(&mut self) -> Result<(), NodeError> {
        if let Some(superblock) = self.new.take() {
            let page = superblock.encode();
            for at in DRIVE_SUPERBLOCKS_AT {
                self.file.write_at(at, &page)?;
            }
            self.file.flush()?;
        }
        Ok(())
    }
}

/// Opens a drive, waiting a little for its lock: the lock is held by the description that writes, so a node that was just killed holds it until its
/// last write has ended (tens of milliseconds; a sick drive takes longer). Past the wait, the owner is taken for alive.
fn open_when_free(path: &Path, clock: &Arc<dyn Clock>) -> Result<DriveFile, DriveError> {
    let give_up_us = clock.now_us() + LOCK_WAIT_US;
    loop {
        match DriveFile::open(path) {
            Err(DriveError::InUse { .. }) if clock.now_us() < give_up_us => pause(),
            opened => return opened,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a lock on a file gives no event to wait for with a deadline")]
fn pause() {
    std::thread::sleep(std::time::Duration::from_millis(2));
}

fn layout(path: &Path, len: u64, config: &NodeConfig, align: usize) -> Result<DriveLayout, NodeError> {
    DriveLayout::new(len, config.shards_per_drive, align, config.segment_bytes)
        .map_err(|source| NodeError::Layout { path: path.into(), source })
}

enum Found {
    Drive(DriveSuperblock),
    Blank(forebay_format::FormatError),
}

fn read_superblock(file: &DriveFile) -> Result<Found, NodeError> {
    let mut pages = [[0; SUPERBLOCK_BYTES]; 2];
    for (page, at) in pages.iter_mut().zip(DRIVE_SUPERBLOCKS_AT) {
        file.read_at(at, page)?;
    }
    match DriveSuperblock::choose(&pages[0], &pages[1]) {
        Ok(superblock) => Ok(Found::Drive(superblock)),
        Err(source @ forebay_format::FormatError::Blank(_)) => Ok(Found::Blank(source)),
        Err(source) => Err(NodeError::Format { path: file.path().into(), source }),
    }
}
