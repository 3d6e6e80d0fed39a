//! Drives at start: opened or made, and cut into slices.

use std::path::Path;
use std::sync::Arc;

use forebay_format::layout::{DRIVE_SUPERBLOCKS_AT, GRAIN_BYTES as LAYOUT_GRAIN_BYTES, SLICES_BASE};
use forebay_format::{DriveLayout, DriveSuperblock, Features, FormatError, SUPERBLOCK_BYTES, VERSION};
use forebay_io::{DriveError, DriveFile};
use forebay_types::{Clock, Entropy};

use crate::config::{DataConfig, NodeConfig, NodeError, Progress};
use crate::device::{self, Holds};

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
    /// Opens the drive. A file is made when nothing is there; a device is formatted when it is blank, or named for it.
    pub(crate) fn open(
        data: &DataConfig,
        config: &mut NodeConfig,
        clock: &Arc<dyn Clock>,
        entropy: &Arc<dyn Entropy>,
    ) -> Result<Self, NodeError> {
        let path = data.path.as_path();
        let asked = data.capacity.map(|bytes| bytes & !(GRAIN_BYTES - 1));
        let (file, len) = match open_when_free(path, clock) {
            Ok(file) => match read_superblock(&file)? {
                Found::Drive(_) if config.format_devices.iter().any(|named| named == path) => {
                    return Err(NodeError::AlreadyADrive { path: path.into() });
                }
                Found::Drive(superblock) => {
                    return Self::known(path, file, &superblock, asked, config.shards_per_drive);
                }
                Found::Foreign(_) if file.is_device() => {
                    let len = device_len(path, &file, asked)?;
                    // Refused before a byte is overwritten.
                    layout(path, len, config, file.align())?;
                    clear(path, &file, config)?;
                    (file, len)
                }
                // Made by a start that was cut off before it had written anything of worth, for this very size.
                Found::Foreign(FormatError::Blank(_)) if asked.is_none_or(|asked| asked == file.len()) => {
                    let len = file.len();
                    (file, len)
                }
                Found::Foreign(source) => return Err(NodeError::Format { path: path.into(), source }),
            },
            Err(DriveError::Missing { .. }) => (make(path, asked, config)?, asked.unwrap_or(0)),
            Err(error) => return Err(error.into()),
        };
        let layout = layout(path, len, config, file.align())?;
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
        asked: Option<u64>,
        shards: u32,
    ) -> Result<Self, NodeError> {
        if superblock.slices != shards {
            return Err(NodeError::Shards { path: path.into(), found: superblock.slices, asked: shards });
        }
        let layout = superblock.layout(file.len()).map_err(|source| NodeError::Format { path: path.into(), source })?;
        // A file is as long as it was made. Of a device a part may have been asked for, and it may have grown since.
        let taken = layout.base + u64::from(layout.slices) * layout.slice_len;
        let found = if file.is_device() { taken } else { file.len() };
        let same = |asked: u64| asked == found || file.is_device() && slices_of(asked, shards) == layout.slice_len;
        match asked {
            Some(asked) if !same(asked) => Err(NodeError::Capacity { path: path.into(), found, asked }),
            _ => Ok(Drive { file, layout, new: None }),
        }
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
            Err(error) if error.is_in_use() && clock.now_us() < give_up_us => pause(),
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

/// Bytes of each slice of a drive of `len`.
fn slices_of(len: u64, shards: u32) -> u64 {
    len.saturating_sub(SLICES_BASE) / u64::from(shards) / LAYOUT_GRAIN_BYTES * LAYOUT_GRAIN_BYTES
}

/// How much of a device becomes a drive.
fn device_len(path: &Path, device: &DriveFile, asked: Option<u64>) -> Result<u64, NodeError> {
    match asked {
        Some(asked) if asked > device.len() => {
            Err(NodeError::DeviceTooSmall { path: path.into(), found: device.len(), asked })
        }
        asked => Ok(asked.unwrap_or(device.len())),
    }
}

/// Makes sure that nothing on a device is lost that its owner did not give away.
fn clear(path: &Path, device: &DriveFile, config: &NodeConfig) -> Result<(), NodeError> {
    match device::look(device)? {
        Holds::Nothing => Ok(()),
        Holds::Something(_) if config.format_devices.iter().any(|named| named == path) => Ok(device::wipe(device)?),
        Holds::Something(what) => Err(NodeError::Occupied { path: path.into(), what }),
    }
}

/// Makes a file.
fn make(path: &Path, asked: Option<u64>, config: &mut NodeConfig) -> Result<DriveFile, NodeError> {
    let asked = asked.ok_or_else(|| {
        NodeError::Config(format!(
            "{} does not exist, and --capacity does not say how large to make it",
            path.display()
        ))
    })?;
    // Before the file system is asked for the room.
    layout(path, asked, config, 4096)?;
    let progress = &mut config.progress;
    let mut hear = |done| {
        if let Some(progress) = progress {
            progress(Progress::Formatting { path: path.into(), done, total: asked });
        }
    };
    hear(0);
    Ok(DriveFile::create(path, asked, config.prewrite, &mut hear)?)
}

/// What superblocks say.
pub(crate) enum Found {
    Drive(DriveSuperblock),
    /// Nothing of ours.
    Foreign(FormatError),
}

/// Looks at a drive's superblocks.
pub(crate) fn read_superblock(file: &DriveFile) -> Result<Found, NodeError> {
    let mut pages = [[0; SUPERBLOCK_BYTES]; 2];
    for (page, at) in pages.iter_mut().zip(DRIVE_SUPERBLOCKS_AT) {
        file.read_at(at, page)?;
    }
    match DriveSuperblock::choose(&pages[0], &pages[1]) {
        Ok(superblock) => Ok(Found::Drive(superblock)),
        Err(source) if source.is_foreign() => Ok(Found::Foreign(source)),
        Err(source) => Err(NodeError::Format { path: file.path().into(), source }),
    }
}
