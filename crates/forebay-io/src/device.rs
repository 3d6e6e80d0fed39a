//! Raw block devices: how they are aligned, and who holds one that cannot be had.
//!
//! A device is opened with `O_EXCL`. The kernel gives that claim to one description at a time, whatever name the device was opened by; mounts, swap,
//! volume managers and RAID take the same claim, a partition's counts for its whole disk and the other way round, and it ends with the last
//! reference to the description: as a lock on a file, it outlives a dead owner until its last write has ended.

use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::fs::{FileType, SeekFrom};
use rustix::io::Errno;

/// Largest alignment that drives are formatted with, in bytes.
const ALIGN_MAX: u32 = 4096;
/// Smallest.
const ALIGN_MIN: u32 = 512;

/// Whether a block device is at `path`. False where nothing is, or where it cannot be looked at.
pub fn is_block_device(path: &Path) -> bool {
    rustix::fs::stat(path).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::BlockDevice)
}

/// Bytes of the block device at `path`; `None` where none is, or where it may not be read.
pub fn device_bytes(path: &Path) -> Option<u64> {
    use rustix::fs::{Mode, OFlags};
    let fd = is_block_device(path)
        .then(|| rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()))?;
    bytes_of(std::os::fd::AsFd::as_fd(&fd.ok()?)).ok()
}

/// Bytes of an open device: it has no length in its inode.
pub(crate) fn bytes_of(device: BorrowedFd<'_>) -> Result<u64, Errno> {
    rustix::fs::seek(device, SeekFrom::End(0))
}

/// What operations on an open device are aligned to, or the bytes of its sectors if those are more than a drive's records can be padded to.
pub(crate) fn alignment(device: BorrowedFd<'_>) -> Result<usize, u32> {
    let logical = rustix::fs::ioctl_blksszget(device).unwrap_or(ALIGN_MAX);
    let physical = rustix::fs::ioctl_blkpbszget(device).unwrap_or(ALIGN_MAX);
    align_of(logical, physical)
}

/// The logical block is what the device must be asked in. The physical one is what it writes at once: a write of less reads the rest, and when the
/// power goes in the middle, bytes that nobody wrote may go with it. So records are aligned to the physical one, as far as they can be.
fn align_of(logical: u32, physical: u32) -> Result<usize, u32> {
    if logical > ALIGN_MAX || !logical.is_power_of_two() {
        return Err(logical);
    }
    let physical = if physical.is_power_of_two() { physical.min(ALIGN_MAX) } else { ALIGN_MAX };
    Ok(logical.max(physical).max(ALIGN_MIN) as usize)
}

/// Who holds a device that refused an exclusive claim, in words that follow "it is"; `None` where the kernel does not tell.
pub(crate) fn holder(path: &Path) -> Option<String> {
    let stat = rustix::fs::stat(path).ok()?;
    let number = |rdev| format!("{}:{}", rustix::fs::major(rdev), rustix::fs::minor(rdev));
    let own = number(stat.st_rdev);
    // A partition in use holds its disk, and a disk its partitions.
    let mut family = vec![own.clone()];
    let block = Path::new("/sys/dev/block").join(&own);
    for near in std::fs::read_dir(&block).into_iter().flatten().flatten() {
        if near.path().join("partition").exists() {
            family.extend(std::fs::read_to_string(near.path().join("dev")).map(|text| text.trim().to_owned()));
        }
    }
    if block.join("partition").exists() {
        let whole = std::fs::canonicalize(&block).ok().and_then(|at| Some(at.parent()?.join("dev")));
        family.extend(whole.and_then(|dev| std::fs::read_to_string(dev).ok()).map(|text| text.trim().to_owned()));
    }
    let known_as = |name: &str| {
        let device = name.starts_with("/dev/").then(|| rustix::fs::stat(name).ok()).flatten()?;
        Some(number(device.st_rdev))
    };
    let is_ours = |found: &str| family.iter().any(|one| one == found);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut mounts = mounts.lines().filter_map(mount_of);
    if let Some(at) = mounts.find_map(|mount| {
        let source = || known_as(mount.source).is_some_and(|found| is_ours(&found));
        (is_ours(mount.number) || source()).then(|| mount.at.to_owned())
    }) {
        return Some(format!("mounted at {at}"));
    }
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    let mut swaps = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    if swaps.any(|name| known_as(name).is_some_and(|found| is_ours(&found))) {
        return Some("in use as swap".into());
    }
    let holders = family.iter().filter_map(|one| {
        let holders = std::fs::read_dir(Path::new("/sys/dev/block").join(one).join("holders")).ok()?;
        holders.flatten().next().map(|entry| entry.file_name().to_string_lossy().into_owned())
    });
    holders.into_iter().next().map(|name| format!("part of /dev/{name}"))
}

struct Mount<'a> {
    number: &'a str,
    at: &'a str,
    source: &'a str,
}

/// A line of mountinfo: `id parent major:minor root at options [fields] - type source options`.
fn mount_of(line: &str) -> Option<Mount<'_>> {
    let (fields, behind) = line.split_once(" - ")?;
    let mut fields = fields.split(' ');
    let (number, at) = (fields.nth(2)?, fields.nth(1)?);
    Some(Mount { number, at, source: behind.split(' ').nth(1)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_aligned_to_what_a_device_writes_at_once() {
        assert_eq!(align_of(512, 512), Ok(512));
        assert_eq!(align_of(512, 4096), Ok(4096), "sectors of 512 bytes that are emulated");
        assert_eq!(align_of(4096, 4096), Ok(4096));
        // Drives whose own unit is larger than records can be padded to: as far as it goes.
        assert_eq!(align_of(512, 16 << 10), Ok(4096));
        assert_eq!(align_of(4096, 64 << 10), Ok(4096));
        // Nonsense is taken for the coarsest that any drive has.
        assert_eq!((align_of(512, 0), align_of(512, 3000)), (Ok(4096), Ok(4096)));
        assert_eq!(align_of(256, 256), Ok(512));
        // What it must be asked in cannot be chosen.
        assert_eq!(align_of(16 << 10, 16 << 10), Err(16 << 10));
        assert_eq!((align_of(0, 512), align_of(520, 520)), (Err(0), Err(520)));
    }

    #[test]
    fn a_mount_is_read_whatever_fields_a_kernel_adds() {
        for line in [
            "36 35 259:3 / /mnt/nvme rw,noatime - ext4 /dev/nvme0n1p1 rw",
            "36 35 259:3 / /mnt/nvme rw,noatime shared:1 master:2 - ext4 /dev/nvme0n1p1 rw,errors=continue",
        ] {
            let mount = mount_of(line).unwrap();
            assert_eq!((mount.number, mount.at, mount.source), ("259:3", "/mnt/nvme", "/dev/nvme0n1p1"));
        }
        for broken in ["", "36 35", "36 35 259:3 / /mnt rw", "36 35 - ext4 /dev/x rw", "a b c d e - f"] {
            assert!(mount_of(broken).is_none(), "{broken:?}");
        }
    }

    #[test]
    fn what_is_no_device_is_none() {
        for path in ["/dev/null", "/proc", "/nowhere/at/all"] {
            assert!(!is_block_device(path.as_ref()) && device_bytes(path.as_ref()).is_none(), "{path}");
        }
    }
}
