//! A raw block device for a test: a file behind a loop device that goes when the test's process does, however that ends.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A loop device. Needs root, `losetup` and a kernel with loop devices.
pub(crate) struct Loop {
    /// While somebody has it open it stays; the kernel takes it apart when the last one is gone, and this is the last one.
    _open: File,
    path: PathBuf,
}

impl Loop {
    /// Makes one of `bytes` with sectors of `sector` bytes, over a sparse file that is made at `file`. Says aloud when it cannot be had.
    pub(crate) fn new(file: &Path, bytes: u64, sector: u32) -> Option<Loop> {
        match Self::try_new(file, bytes, sector) {
            Ok(made) => Some(made),
            Err(why) => {
                let _ = writeln!(std::io::stdout(), "skipped: raw block devices as drives: {why}");
                None
            }
        }
    }

    fn try_new(file: &Path, bytes: u64, sector: u32) -> Result<Loop, String> {
        File::create(file).and_then(|made| made.set_len(bytes)).map_err(|e| e.to_string())?;
        let losetup = |args: &[&str]| {
            let ran =
                Command::new("losetup").args(args).output().map_err(|e| format!("losetup cannot be run ({e})"))?;
            let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
            if ran.status.success() { Ok(said(&ran.stdout)) } else { Err(said(&ran.stderr)) }
        };
        let (file, sector) = (file.to_string_lossy(), sector.to_string());
        let path = losetup(&["--find", "--show", "--sector-size", &sector, &file])?;
        let open = File::open(&path).map_err(|e| format!("{path}: {e}"));
        // It is in use, so this is done when nobody has it open any more: nothing stays, not even when this process is killed.
        let detached = losetup(&["--detach", &path]);
        let open = open?;
        detached?;
        Ok(Loop { _open: open, path: path.into() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
