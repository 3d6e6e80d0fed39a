//! What must hold of every disk, whatever it lies on and whichever engine runs it.

use forebay_io::{Arena, Deny, Disk, DiskDone, DiskOp, Engine, EngineKind, PeerRegion, ReadInto, Region};
use forebay_types::{Entropy, SeededEntropy};

/// Every engine this machine has: by name, kind and what it does without.
pub(crate) fn engines() -> Vec<(&'static str, EngineKind, Deny)> {
    let all = Deny::default();
    let ring = forebay_io::probe().ring.name == "uring";
    let mut engines = vec![
        ("threads", EngineKind::Threads, all),
        ("auto without a ring", EngineKind::Auto, Deny { ring: true, ..all }),
    ];
    if ring {
        let uring = EngineKind::Uring;
        engines.extend([
            ("uring", uring, all),
            ("without single issuer", uring, Deny { single_issuer: true, ..all }),
            ("without deferred task work", uring, Deny { defer_taskrun: true, ..all }),
            ("without setup flags", uring, Deny { single_issuer: true, coop_taskrun: true, ..all }),
            ("without registered buffers", uring, Deny { registered_buffers: true, ..all }),
            ("without a registered file", uring, Deny { registered_file: true, ..all }),
        ]);
    }
    engines
}

/// What must hold of an engine over a drive whose bytes do not matter.
pub(crate) fn an_engine_is_like_its_model(name: &str, engine: &mut Engine, arena: &Arena) {
    for seed in [1, 2] {
        // A fresh model starts from zeros, and so must the drive.
        let step = 1 << 20;
        for offset in (0..engine.info().len).step_by(step) {
            let mut zeros = arena.alloc(step).unwrap();
            zeros.fill(0);
            engine.submit(DiskOp::write(0, offset, zeros.freeze())).unwrap();
        }
        while engine.in_flight() > 0 {
            Disk::wait(engine, &mut Vec::new());
        }
        a_disk_is_like_its_model(name, engine, arena, seed);
    }
}

/// What must hold of any disk: reads give what was written last, each token comes back once, and the depth is kept.
pub(crate) fn a_disk_is_like_its_model(name: &str, disk: &mut impl Disk, arena: &Arena, seed: u64) {
    let info = disk.info();
    let unit = info.align.max(4096) as u64;
    let mut model = vec![0u8; info.len as usize];
    let random = SeededEntropy::new(seed);
    let region = Region::owned(2 << 20).unwrap();
    let peer = PeerRegion::import(region.fd().try_clone_to_owned().unwrap(), region.len() as u64).unwrap();

    // A span busy with a write may not be touched by others, so that the model knows the answer.
    let mut busy: Vec<(u64, std::ops::Range<u64>, bool)> = Vec::new();
    let mut done: Vec<DiskDone> = Vec::new();
    let (mut submitted, mut finished, mut token) = (0u64, 0u64, 0u64);
    while finished < 600 {
        let len = (1 + random.word() % 40) * unit;
        let offset = random.word() % ((info.len - len) / unit) * unit;
        let span = offset..offset + len;
        let kind = random.word() % 8;
        let clash =
            |write: bool| busy.iter().any(|(_, b, w)| (write || *w) && b.start < span.end && span.start < b.end);
        token += 1;
        let op = match kind {
            0..=3 if !clash(false) => {
                let into = if kind == 0 {
                    let at = random.word() % ((peer.len() - len) / unit) * unit;
                    // Two landings in one place are the caller's mistake; one at a time here.
                    if busy.iter().any(|(t, ..)| t >> 63 == 1) {
                        continue;
                    }
                    token |= 1 << 63;
                    ReadInto::Landing(peer.landing(at, len).unwrap())
                } else {
                    ReadInto::Buf(arena.alloc(len as usize).unwrap())
                };
                Some((DiskOp::Read { token, offset, into }, false))
            }
            4..=6 if !clash(true) => {
                let mut buf = arena.alloc(len as usize).unwrap();
                random.fill(&mut buf);
                model[offset as usize..(offset + len) as usize].copy_from_slice(&buf);
                Some((DiskOp::write(token, offset, buf.freeze()), true))
            }
            7 => Some((DiskOp::Flush { token }, false)),
            _ => None,
        };
        if let Some((op, write)) = op {
            let flush = matches!(op, DiskOp::Flush { .. });
            let before = disk.in_flight();
            match disk.submit(op) {
                Ok(()) => {
                    assert!(before < info.depth);
                    busy.push((token, if flush { 0..0 } else { span }, write));
                    submitted += 1;
                }
                Err(op) => {
                    // Full: a write that was not taken must be tried again, since the model has it already.
                    assert_eq!(disk.in_flight(), info.depth, "{name}: refused with room left");
                    let mut op = Some(op);
                    while let Some(again) = op.take() {
                        disk.wait(&mut done);
                        op = disk.submit(again).err();
                    }
                    busy.push((token, if flush { 0..0 } else { span }, write));
                    submitted += 1;
                }
            }
        }
        token &= !(1 << 63);
        disk.poll(&mut done);
        if submitted >= 600 {
            disk.wait(&mut done);
        }
        for end in done.drain(..) {
            finished += 1;
            assert_eq!(end.result, Ok(()), "{name}");
            let n = busy.iter().position(|(t, ..)| *t == end.token).expect("each token comes back once");
            let (_, span, _) = busy.swap_remove(n);
            let expected = &model[span.start as usize..span.end as usize];
            match end.read {
                Some(ReadInto::Buf(buf)) => assert!(&buf[..] == expected, "{name}: wrong bytes at {span:?}"),
                Some(ReadInto::Landing(landing)) => {
                    let mut bytes = vec![0; landing.len()];
                    landing.read_at(0, &mut bytes).unwrap();
                    assert!(bytes == expected, "{name}: wrong bytes landed from {span:?}");
                }
                None => {}
            }
        }
    }
    while disk.in_flight() > 0 {
        disk.wait(&mut done);
    }
    drop(done);
    assert_eq!(arena.free_bytes(), arena.len(), "{name}: every buffer came back");
}
