//! Where a node's drives and socket are to lie.

use std::path::{Path, PathBuf};

use forebay_format::DriveLayout;
use forebay_io::{DriveError, DriveFile};
use forebay_types::{Address, Clock, format_size};

use super::{Finding, speed};

/// Bytes of the file that is measured, at most; and the least that tells anything.
const PROBE_BYTES_MAX: u64 = 256 << 20;
const PROBE_BYTES_MIN: u64 = 32 << 20;
/// Share of the free space that the doctor takes for some seconds.
const PROBE_SHARE: u64 = 4;

/// Where the drive lies or would lie, and how fast that is. `progress` hears thousandths.
pub(super) fn findings(
    path: &Path,
    makes_folders: bool,
    clock: &dyn Clock,
    progress: &mut dyn FnMut(u64),
) -> Vec<Finding> {
    let (place, folder) = match place(path, makes_folders) {
        Ok(found) => found,
        Err(finding) => {
            progress(1000);
            return vec![finding];
        }
    };
    let mut all = vec![place];
    all.extend(file_system(&folder));
    let free = free_space(&folder);
    let probe = (free / PROBE_SHARE).min(PROBE_BYTES_MAX) & !((1 << 20) - 1);
    all.push(room(path, free));
    if probe < PROBE_BYTES_MIN {
        let found = format!("not measured: {} free are too few for a file to measure with", format_size(free));
        all.push(Finding::warn("drive speed", found, "make room, and look again"));
    } else {
        all.extend(measure(&folder, probe, clock, progress));
    }
    progress(1000);
    all
}

/// What is there now, and the folder to measure in.
fn place(path: &Path, makes_folders: bool) -> Result<(Finding, PathBuf), Finding> {
    let shown = path.display();
    let check = "place";
    let above = || folder_of(path, makes_folders);
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Ok((Finding::ok(check, format!("the folder {shown}")), path.to_path_buf())),
        Ok(meta) if meta.is_file() => match DriveFile::open(path) {
            Ok(_) => Ok((
                Finding::ok(check, format!("{shown}, a file of {}; see `forebay inspect`", format_size(meta.len()))),
                above(),
            )),
            // The node that runs is the best sign of health.
            Err(DriveError::InUse { .. }) => Ok((
                Finding::ok(check, format!("{shown}, a drive of {} that a node uses now", format_size(meta.len()))),
                above(),
            )),
            Err(error) => Err(Finding::fail(
                check,
                error.to_string(),
                "name another --data, or give the node's user write permission",
            )),
        },
        Ok(_) => Err(Finding::fail(
            check,
            format!("{shown} is neither a file, a folder nor a block device"),
            "name a file on an NVMe's file system, or a raw device, with --data",
        )),
        Err(_) if above().is_dir() => Ok((Finding::ok(check, format!("{shown}, not made yet")), above())),
        Err(error) => Err(Finding::fail(
            check,
            format!("{shown} cannot be made: {error}"),
            format!("make its folder: `mkdir -p {}`", above().display()),
        )),
    }
}

/// The folder it lies in; if missing ones are made, what is there above.
fn folder_of(path: &Path, makes_folders: bool) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let there = folder.ancestors().find(|above| makes_folders && above.is_dir());
    there.unwrap_or(folder).to_path_buf()
}

fn file_system(folder: &Path) -> Option<Finding> {
    let check = "file system";
    let kind = rustix::fs::statfs(folder).ok()?.f_type as u64;
    let cure = "put drives on ext4 or XFS on an NVMe of this machine";
    Some(match kind {
        0xef53 => Finding::ok(check, "ext4"),
        0x5846_5342 => Finding::ok(check, "XFS"),
        0x0102_1994 => Finding::warn(check, "tmpfs: it is memory, and gone after a power cut", cure),
        0x794c_7630 => Finding::warn(
            check,
            "overlay, a container's own: slower, and gone with the container",
            "mount a volume for the drives",
        ),
        0x9123_683e => Finding::warn(
            check,
            "btrfs: it copies on write, so drives fragment",
            "`chattr +C` on the folder before drives are made, or ext4 or XFS",
        ),
        0x6969 | 0xff53_4d42 | 0xfe53_4d42 => {
            Finding::warn(check, "a network file system: another machine's speed and promises", cure)
        }
        kind => Finding::warn(check, format!("of a kind not tried with Forebay ({kind:#x})"), cure),
    })
}

fn free_space(folder: &Path) -> u64 {
    rustix::fs::statvfs(folder).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}

fn room(path: &Path, free: u64) -> Finding {
    let (check, least) = ("free space", DriveLayout::bytes_min(1, None));
    let there = path.is_file();
    match free {
        free if there => Finding::ok(check, format!("{}; the drive has its room already", format_size(free))),
        free if free < least => Finding::fail(
            check,
            format!("{}, and the smallest drive takes {}", format_size(free), format_size(least)),
            "make room, or name another place with --data",
        ),
        free if free < 2 << 30 => Finding::warn(
            check,
            format!("{}: a small drive", format_size(free)),
            "say how much it may take with --capacity, or name another place",
        ),
        free => Finding::ok(check, format_size(free)),
    }
}

/// Measures in a file without a name: whatever happens, it does not stay.
fn measure(folder: &Path, bytes: u64, clock: &dyn Clock, progress: &mut dyn FnMut(u64)) -> Vec<Finding> {
    let path = folder.join(format!(".forebay-doctor-{}", std::process::id()));
    let made = DriveFile::create(&path, bytes, false, &mut |_| {});
    let _ = std::fs::remove_file(&path);
    let drive = match made {
        Ok(drive) => drive,
        Err(error) => {
            let cure = "name another place with --data, or give the node's user write permission there";
            return vec![Finding::fail(
                "direct I/O",
                format!("nothing can be made in {}: {error}", folder.display()),
                cure,
            )];
        }
    };
    let mut all = vec![if drive.is_direct() {
        Finding::ok("direct I/O", format!("on, aligned to {} bytes", drive.align()))
    } else {
        let found = "this file system has none: bytes go through the page cache, at more CPU and memory";
        Finding::warn("direct I/O", found, "put drives on ext4 or XFS on an NVMe of this machine")
    }];
    all.extend(speed::findings(drive, speed::Look::WriteAndRead, clock, progress));
    all
}

/// Where clients will look for the node.
pub(super) fn socket(path: &Path, makes_folders: bool) -> Finding {
    let (check, shown) = ("socket", path.display());
    if let Err(error) = Address::unix(path) {
        return Finding::fail(check, error.to_string(), "a shorter --socket");
    }
    let folder = folder_of(path, makes_folders);
    match std::fs::symlink_metadata(path) {
        Ok(meta) if std::os::unix::fs::FileTypeExt::is_socket(&meta.file_type()) => {
            return match std::os::unix::net::UnixStream::connect(path) {
                Ok(_) => Finding::ok(check, format!("{shown}, where a node listens now")),
                Err(_) => Finding::ok(check, format!("{shown}, left by a node that is gone; the next one replaces it")),
            };
        }
        Ok(_) => return Finding::fail(check, format!("{shown} exists and is not a socket"), "another --socket"),
        Err(_) => {}
    }
    if !folder.is_dir() {
        let cure = format!("make its folder: `mkdir -p {}`", folder.display());
        return Finding::fail(check, format!("{shown} cannot be made: its folder does not exist"), cure);
    }
    match rustix::fs::access(&folder, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Finding::ok(check, format!("{shown}, not made yet")),
        Err(error) => Finding::fail(
            check,
            format!("{shown} cannot be made: {error}"),
            "a --socket in a folder of your own, as in $XDG_RUNTIME_DIR",
        ),
    }
}
