//! Drives that are raw block devices: the same suite as over files, and who may have one.

#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

mod loops;
mod suite;

use std::path::PathBuf;
use std::time::Duration;

use forebay_io::{Arena, Disk, DiskOp, DriveError, DriveFile, Engine, EngineOptions, device_bytes, is_block_device};
use loops::Loop;
use suite::{an_engine_is_like_its_model, engines};

const BYTES: u64 = 16 << 20;
const BASE: u64 = 1 << 20;
const LEN: u64 = 8 << 20;
const DEPTH: usize = 16;

/// A folder for what lies behind the device.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("dev-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn device(&self, bytes: u64, sector: u32) -> Option<Loop> {
        Loop::new(&self.0.join("behind"), bytes, sector)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn every_engine_on_a_device_is_like_its_model() {
    let folder = Folder::new("model");
    for sector in [512, 4096] {
        let Some(device) = folder.device(BYTES, sector) else { return };
        for (name, kind, deny) in engines() {
            let drive = DriveFile::open(device.path()).unwrap();
            assert!(drive.is_device() && drive.is_direct() && drive.len() == BYTES, "{drive:?}");
            assert_eq!(drive.align(), sector as usize);
            let arena = Arena::new(16 << 20).unwrap();
            let options = EngineOptions { kind, depth: DEPTH, deny };
            let mut engine = Engine::with(options, drive, BASE, LEN, &arena).unwrap();
            an_engine_is_like_its_model(name, &mut engine, &arena);
        }
    }
}

#[test]
fn a_device_has_one_owner_and_is_free_at_once_when_it_goes() {
    let folder = Folder::new("owner");
    let Some(device) = folder.device(BYTES, 512) else { return };
    // The same device by another name, as /dev/disk/by-id has: the claim is the device's, not the name's.
    let other_name = folder.0.join("by-id");
    std::os::unix::fs::symlink(device.path(), &other_name).unwrap();
    let in_use = |what: &str| {
        for path in [device.path(), &other_name] {
            assert!(matches!(DriveFile::open(path), Err(DriveError::InUse { .. })), "{what}");
        }
    };
    for (name, kind, deny) in engines() {
        let arena = Arena::new(4 << 20).unwrap();
        for _ in 0..5 {
            let drive = DriveFile::open(device.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
            in_use(name);
            let options = EngineOptions { kind, depth: DEPTH, deny };
            let mut engine = Engine::with(options, drive.try_clone().unwrap(), BASE, LEN, &arena).unwrap();
            drop(drive);
            in_use(name);
            let buf = arena.alloc(1 << 20).unwrap();
            engine.submit(DiskOp::write(1, 0, buf.freeze())).unwrap();
            drop(engine);
            assert!(DriveFile::open_within(&other_name, Duration::ZERO).is_ok(), "{name}");
        }
    }
}

#[test]
fn a_device_that_others_hold_is_refused_with_their_name() {
    let folder = Folder::new("held");
    let Some(device) = folder.device(BYTES, 512) else { return };
    assert!(is_block_device(device.path()) && device_bytes(device.path()) == Some(BYTES));
    // As a volume manager does: the claim alone.
    use std::os::unix::fs::OpenOptionsExt;
    const O_EXCL: i32 = 0o200;
    let claim = std::fs::File::options().read(true).custom_flags(O_EXCL).open(device.path()).unwrap();
    match DriveFile::open(device.path()) {
        Err(error @ DriveError::Claimed { .. }) => {
            let said = error.to_string();
            assert!(error.is_in_use() && said.contains("another program") && said.contains("lsblk"), "{said}");
        }
        other => panic!("{other:?}"),
    }
    drop(claim);
    // As a tool does that asks for the lock alone, like the manager of /dev.
    let reader = std::fs::File::open(device.path()).unwrap();
    reader.lock_shared().unwrap();
    assert!(matches!(DriveFile::open(device.path()), Err(DriveError::InUse { .. })));
    drop(reader);
    assert!(matches!(DriveFile::create(device.path(), BYTES, false, &mut |_| {}), Err(DriveError::Exists { .. })));
    assert!(DriveFile::open(device.path()).is_ok());
}
