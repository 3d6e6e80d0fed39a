//! What lies on a raw block device before it becomes a drive: nothing, or something that is not ours to overwrite.
//!
//! File systems, tables of partitions and volume managers write their marks in the first megabyte of a device, some (ZFS, software RAID, the copy of a
//! GPT) also or only in the last one. A device is blank when both are zeros. Anything else is left alone unless its owner names the device in
//! `--format-device`; then both are wiped before the drive is formatted, so that no older owner is found there by its other copy.

use std::path::Path;

use forebay_io::{DriveError, DriveFile};

/// How much is looked at, and wiped, at each end, in bytes.
const END_BYTES: u64 = 1 << 20;
/// One write while wiping, in bytes: what a drive takes without bouncing through much memory.
const WIPE_STEP_BYTES: usize = 256 << 10;

/// What lies on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    /// Zeros at both ends.
    Nothing,
    /// Something else, as far as its marks tell.
    Something(&'static str),
}

/// Looks at both ends of a device.
pub(crate) fn look(device: &DriveFile) -> Result<Holds, DriveError> {
    let mut ends = [vec![0; END_BYTES as usize], vec![0; END_BYTES as usize]];
    for (end, at) in ends.iter_mut().zip(ends_at(device.len())) {
        device.read_at(at, end)?;
    }
    Ok(judge(&ends[0], &ends[1]))
}

/// Overwrites both ends with zeros, durably.
pub(crate) fn wipe(device: &DriveFile) -> Result<(), DriveError> {
    let zeros = vec![0; WIPE_STEP_BYTES];
    for at in ends_at(device.len()) {
        for step in (0..END_BYTES).step_by(WIPE_STEP_BYTES) {
            device.write_at(at + step, &zeros)?;
        }
    }
    device.flush()
}

/// Where the two ends begin. The device has a megabyte at least, and pages as a whole.
fn ends_at(len: u64) -> [u64; 2] {
    [0, len.saturating_sub(END_BYTES)]
}

/// A mark, where it stands, and whose it is. For the sentence only: whatever has no mark here is left alone as well.
const MARKS: [(usize, &[u8], &str); 20] = [
    (0, b"XFSB", "an XFS file system"),
    (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
    (0, b"hsqs", "a SquashFS file system"),
    (0, b"bluestore block device", "a Ceph OSD (BlueStore)"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (54, b"FAT1", "a FAT file system"),
    (82, b"FAT32", "a FAT file system"),
    (512, b"EFI PART", "a table of partitions (GPT)"),
    (4096, b"EFI PART", "a table of partitions (GPT)"),
    (512, b"LABELONE", "a physical volume of LVM"),
    (0, b"LABELONE", "a physical volume of LVM"),
    (1024 + 56, b"\x53\xef", "an ext2, ext3 or ext4 file system"),
    (1024, b"\x10\x20\xf5\xf2", "an F2FS file system"),
    (4086, b"SWAPSPACE2", "swap space"),
    (4096, b"\xfc\x4e\x2b\xa9", "a member of a software RAID"),
    (4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "a device of bcache"),
    (32768 + 1, b"CD001", "an ISO 9660 image"),
    (65536 + 64, b"_BHRfS_M", "a Btrfs file system"),
    (510, b"\x55\xaa", "a table of partitions (MBR), or a boot sector"),
];

/// Marks in the last megabyte, counted from its end.
const MARKS_FROM_END: [(usize, &[u8], &str); 3] = [
    (512, b"EFI PART", "the copy of a table of partitions (GPT)"),
    (4096, b"EFI PART", "the copy of a table of partitions (GPT)"),
    (8192, b"\xfc\x4e\x2b\xa9", "a member of a software RAID"),
];

fn judge(first: &[u8], last: &[u8]) -> Holds {
    let is_blank = |bytes: &[u8]| bytes.iter().all(|byte| *byte == 0);
    if is_blank(first) && is_blank(last) {
        return Holds::Nothing;
    }
    let stands = |bytes: &[u8], at: usize, mark: &[u8]| bytes.get(at..at + mark.len()) == Some(mark);
    let front = MARKS.iter().find(|(at, mark, _)| stands(first, *at, mark));
    let back = || {
        let from_end = |at: usize| last.len().checked_sub(at);
        MARKS_FROM_END.iter().find(|(at, mark, _)| from_end(*at).is_some_and(|at| stands(last, at, mark)))
    };
    let other = if is_blank(first) { "bytes at its end that are no drive's" } else { "bytes that are no drive's" };
    Holds::Something(front.or_else(back).map_or(other, |(.., what)| what))
}

/// Whether a path lies where devices do: nothing that is to last can be made there. Shared memory lies there too, and is for tests.
pub(crate) fn is_among_devices(path: &Path) -> bool {
    path.starts_with("/dev") && !path.starts_with("/dev/shm")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> (Vec<u8>, Vec<u8>) {
        (vec![0; END_BYTES as usize], vec![0; END_BYTES as usize])
    }

    #[test]
    fn only_zeros_at_both_ends_are_blank() {
        let (first, last) = ends();
        assert_eq!(judge(&first, &last), Holds::Nothing);
        for at in [0, 1, 511, 4095, 65_600, END_BYTES as usize - 1] {
            let (mut first, last) = ends();
            first[at] = 1;
            assert_eq!(judge(&first, &last), Holds::Something("bytes that are no drive's"), "{at}");
            assert_eq!(judge(&last, &first), Holds::Something("bytes at its end that are no drive's"), "{at}");
        }
        // Erased flash that reads as ones cannot be told from data.
        assert_ne!(judge(&vec![0xff; END_BYTES as usize], &last), Holds::Nothing);
    }

    #[test]
    fn every_mark_names_its_owner() {
        for (at, mark, what) in MARKS {
            let (mut first, last) = ends();
            first[at..at + mark.len()].copy_from_slice(mark);
            assert_eq!(judge(&first, &last), Holds::Something(what));
        }
        for (at, mark, what) in MARKS_FROM_END {
            let (first, mut last) = ends();
            let at = last.len() - at;
            last[at..at + mark.len()].copy_from_slice(mark);
            assert_eq!(judge(&first, &last), Holds::Something(what));
        }
        // A protective MBR stands before a GPT: the GPT is what people know it by.
        let (mut first, last) = ends();
        first[510..512].copy_from_slice(b"\x55\xaa");
        first[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(judge(&first, &last), Holds::Something("a table of partitions (GPT)"));
    }

    #[test]
    fn both_ends_lie_in_the_device() {
        assert_eq!(ends_at(END_BYTES), [0, 0]);
        assert_eq!(ends_at(5 * END_BYTES + 4096), [0, 4 * END_BYTES + 4096]);
    }

    #[test]
    fn nothing_lasts_among_devices() {
        assert!(is_among_devices("/dev/nvme0n1".as_ref()) && is_among_devices("/dev/disk/by-id/x".as_ref()));
        assert!(!is_among_devices("/dev/shm/x".as_ref()) && !is_among_devices("/devices/x".as_ref()));
    }
}
