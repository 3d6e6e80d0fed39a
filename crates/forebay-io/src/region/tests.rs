//! Regions that end, shrink, lie or are no regions.

use super::*;
use rustix::fs::MemfdFlags;

pub(crate) fn memfd(bytes: u64, seals: SealFlags) -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, bytes).unwrap();
    rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
    fd
}

#[test]
fn a_sealed_region_is_mapped_and_an_unsealed_one_is_copied_through_the_descriptor() {
    for (seals, mapped) in [(SealFlags::SHRINK, true), (SealFlags::GROW, false)] {
        let fd = memfd(100_000, seals);
        let theirs = fd.try_clone().unwrap();
        let region = PeerRegion::import(fd, 100_000).unwrap();
        assert_eq!(region.is_mapped(), mapped && !strict_overcommit());
        region.write_at(99_990, b"0123456789").unwrap();
        let mut out = [0; 10];
        rustix::io::pread(&theirs, &mut out, 99_990).unwrap();
        assert_eq!(&out, b"0123456789");
        region.read_at(99_995, &mut out[..5]).unwrap();
        assert_eq!(&out[..5], b"56789");
        assert_eq!(region.landing(4096, 8192).is_ok(), region.is_mapped());
    }
}

#[test]
fn nothing_reaches_outside_a_region() {
    let region = PeerRegion::import(memfd(100_000, SealFlags::SHRINK), 65_536).unwrap();
    let mut out = [0; 10];
    for offset in [65_527, 65_536, 99_000, u64::MAX - 5, u64::MAX] {
        assert!(matches!(region.read_at(offset, &mut out), Err(RegionError::Outside { .. })), "{offset}");
        assert!(matches!(region.write_at(offset, &out), Err(RegionError::Outside { .. })), "{offset}");
        assert!(matches!(region.landing(offset, 10), Err(RegionError::Outside { .. })), "{offset}");
    }
    let mut landing = region.landing(4096, 4096).unwrap();
    assert!(landing.write_at(4090, &out).is_err());
    assert!(landing.read_at(usize::MAX, &mut out).is_err());
}

#[test]
fn only_memory_of_the_said_length_is_a_region() {
    assert!(matches!(
        PeerRegion::import(memfd(4096, SealFlags::SHRINK), 4097),
        Err(RegionError::TooShort { found: 4096, said: 4097 })
    ));
    assert!(PeerRegion::import(memfd(4096, SealFlags::SHRINK), 0).is_err());
    let file = std::fs::File::open("/proc/self/maps").unwrap();
    assert!(matches!(PeerRegion::import(file.into(), 10), Err(RegionError::NotMemory)));
    let (pipe, _other) = rustix::pipe::pipe().unwrap();
    assert!(matches!(PeerRegion::import(pipe, 10), Err(RegionError::NotMemory)));
}

#[test]
fn a_file_truncated_by_its_owner_is_an_error_and_not_a_fault() {
    let fd = memfd(100_000, SealFlags::GROW);
    let theirs = fd.try_clone().unwrap();
    let region = PeerRegion::import(fd, 100_000).unwrap();
    rustix::fs::ftruncate(&theirs, 0).unwrap();
    let mut out = [0; 10];
    assert!(matches!(region.read_at(50_000, &mut out), Err(RegionError::TooShort { .. })));
    assert!(region.write_at(50_000, &out).is_err());
}
