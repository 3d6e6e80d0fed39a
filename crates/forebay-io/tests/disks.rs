//! One suite over every disk: the ring, the ring without each of its features, the threads, and the simulated drive.
//!
//! It runs on the file system of the build directory: tmpfs takes direct I/O without minding alignment and so would prove less.

#![expect(clippy::unwrap_used, reason = "a test says so by failing")]
#![expect(clippy::disallowed_methods, reason = "a second thread to be woken by")]

mod suite;

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use forebay_io::sim::{Medium, SimOptions};
use forebay_io::{Arena, Disk, DiskError, DiskOp, DriveError, DriveFile, Engine, EngineOptions, ReadInto, Ready};
use suite::{a_disk_is_like_its_model, an_engine_is_like_its_model, engines};

const DRIVE_BYTES: u64 = 16 << 20;
const BASE: u64 = 1 << 20;
const LEN: u64 = 8 << 20;
const DEPTH: usize = 16;
const FOREVER: Option<Duration> = Some(Duration::from_secs(60));

/// A file that is gone with its owner.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        use std::sync::atomic::{AtomicU64, Ordering};
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("io-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Scratch(dir.join(name))
    }

    fn drive(&self) -> DriveFile {
        DriveFile::create(&self.0, DRIVE_BYTES, false, &mut |_| {}).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
    }
}

fn each_engine(test: impl Fn(&str, Engine, Arena)) {
    for (name, kind, deny) in engines() {
        let scratch = Scratch::new("drive");
        let arena = Arena::new(16 << 20).unwrap();
        let options = EngineOptions { kind, depth: DEPTH, deny };
        let engine = Engine::with(options, scratch.drive(), BASE, LEN, &arena).unwrap();
        test(name, engine, arena);
    }
}

#[test]
fn every_engine_is_like_its_model() {
    each_engine(|name, mut engine, arena| an_engine_is_like_its_model(name, &mut engine, &arena));
}

#[test]
fn the_simulated_drive_is_like_its_model() {
    for seed in 0..4 {
        let medium = Medium::new(SimOptions { len: LEN, depth: DEPTH, seed, ..SimOptions::default() });
        a_disk_is_like_its_model("sim", &mut medium.open(), &Arena::new(16 << 20).unwrap(), seed);
    }
}

#[test]
fn a_slice_never_touches_its_neighbours() {
    for (name, kind, deny) in engines() {
        let scratch = Scratch::new("drive");
        let drive = scratch.drive();
        drive.write_at(BASE - 4096, &[1; 4096]).unwrap();
        drive.write_at(BASE + LEN, &[2; 4096]).unwrap();
        let arena = Arena::new(LEN as usize).unwrap();
        let options = EngineOptions { kind, depth: DEPTH, deny };
        let mut engine = Engine::with(options, drive.try_clone().unwrap(), BASE, LEN, &arena).unwrap();
        let mut all = arena.alloc(LEN as usize).unwrap();
        all.fill(9);
        engine.submit(DiskOp::write(1, 0, all.freeze())).unwrap();
        let mut done = Vec::new();
        Disk::wait(&mut engine, &mut done);
        assert_eq!(done[0].result, Ok(()), "{name}");
        let mut bytes = [0; 4096];
        for (at, byte) in [(BASE - 4096, 1), (BASE, 9), (BASE + LEN - 4096, 9), (BASE + LEN, 2)] {
            drive.read_at(at, &mut bytes).unwrap();
            assert_eq!(bytes, [byte; 4096], "{name} at {at}");
        }
    }
}

#[test]
fn an_engine_that_is_dropped_waits_for_what_is_in_flight() {
    each_engine(|name, mut engine, arena| {
        for token in 0..DEPTH as u64 {
            let into = ReadInto::Buf(arena.alloc(256 << 10).unwrap());
            engine.submit(DiskOp::Read { token, offset: token * (256 << 10), into }).unwrap();
        }
        drop(engine);
        assert_eq!(arena.free_bytes(), arena.len(), "{name}");
    });
}

#[test]
fn the_end_of_a_shortened_file_is_said_and_not_zeros() {
    each_engine_on(|name, scratch, mut engine, arena| {
        // Somebody shortens the drive under a running node: inside the second page of the read.
        std::fs::File::options().write(true).open(&scratch.0).unwrap().set_len(BASE + 4096).unwrap();
        let into = ReadInto::Buf(arena.alloc(16384).unwrap());
        engine.submit(DiskOp::Read { token: 1, offset: 0, into }).unwrap();
        let mut done = Vec::new();
        Disk::wait(&mut engine, &mut done);
        assert_eq!(done[0].result, Err(DiskError::Short), "{name}");
        assert!(done[0].read.is_some());
    });
}

fn each_engine_on(test: impl Fn(&str, &Scratch, Engine, Arena)) {
    for (name, kind, deny) in engines() {
        let scratch = Scratch::new("drive");
        let arena = Arena::new(4 << 20).unwrap();
        let options = EngineOptions { kind, depth: DEPTH, deny };
        let engine = Engine::with(options, scratch.drive(), BASE, LEN, &arena).unwrap();
        test(name, &scratch, engine, arena);
    }
}

fn wait_for(engine: &mut Engine, what: impl Fn(&Ready) -> bool) -> Ready {
    let mut ready = Vec::new();
    for _ in 0..100 {
        engine.wait(FOREVER, &mut ready);
        if let Some(found) = ready.iter().find(|r| what(r)) {
            return *found;
        }
    }
    panic!("told {ready:?} and not what was waited for");
}

fn told_nothing(engine: &mut Engine) -> bool {
    let mut ready = Vec::new();
    for _ in 0..5 {
        engine.wait(Some(Duration::from_millis(5)), &mut ready);
        engine.wait(Some(Duration::ZERO), &mut ready);
    }
    ready.is_empty()
}

#[test]
fn a_socket_is_told_of_when_it_changes_and_not_again() {
    use std::io::{Read, Write};
    each_engine(|name, mut engine, _arena| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"before").unwrap();
        engine.watch(ours.as_fd(), 7);
        let ready = wait_for(&mut engine, |r| r.token == 7);
        assert!(ready.readable && !ready.writable && !ready.hangup, "{name}: {ready:?}");
        assert!(told_nothing(&mut engine), "{name}");

        theirs.write_all(b" and after").unwrap();
        assert!(wait_for(&mut engine, |r| r.token == 7).readable, "{name}");
        let mut bytes = [0; 100];
        assert_eq!((&ours).read(&mut bytes).unwrap(), 16);

        // Fill it up, then ask to be told when there is room.
        ours.set_nonblocking(true).unwrap();
        while (&ours).write(&[0; 65536]).is_ok() {}
        engine.watch_writable(ours.as_fd(), 7, true);
        assert!(told_nothing(&mut engine), "{name}: a full socket is not writable");
        let mut sink = vec![0; 1 << 20];
        theirs.set_nonblocking(true).unwrap();
        while theirs.read(&mut sink).is_ok() {}
        assert!(wait_for(&mut engine, |r| r.writable).writable, "{name}");
        engine.watch_writable(ours.as_fd(), 7, false);
        told_nothing(&mut engine);

        drop(theirs);
        let ready = wait_for(&mut engine, |r| r.hangup);
        assert!(ready.readable && !ready.writable, "{name}: {ready:?}");
    });
}

#[test]
fn an_unwatched_socket_is_never_told_of_even_when_its_token_is_used_again() {
    use std::io::Write;
    each_engine(|name, mut engine, _arena| {
        for round in 0..50 {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            engine.watch(ours.as_fd(), 3);
            theirs.write_all(b"x").unwrap();
            if round % 2 == 0 {
                engine.wait(Some(Duration::ZERO), &mut Vec::new());
            }
            engine.unwatch(3);
        }
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        engine.watch(ours.as_fd(), 3);
        assert!(told_nothing(&mut engine), "{name}: news of sockets that are no more");
        theirs.write_all(b"x").unwrap();
        assert!(wait_for(&mut engine, |r| r.token == 3).readable, "{name}");
    });
}

#[test]
fn many_sockets_are_told_of_together() {
    use std::io::Write;
    each_engine(|name, mut engine, _arena| {
        let mut pairs: Vec<_> = (0..300).map(|_| UnixStream::pair().unwrap()).collect();
        for (token, (ours, _)) in pairs.iter().enumerate() {
            engine.watch(ours.as_fd(), token as u64);
        }
        let mut seen = vec![0; pairs.len()];
        for round in 1..=20 {
            for (_, theirs) in &mut pairs {
                theirs.write_all(b"x").unwrap();
            }
            let mut ready = Vec::new();
            while seen.iter().any(|n| *n < round) {
                engine.wait(FOREVER, &mut ready);
                for r in ready.drain(..) {
                    seen[r.token as usize] = round;
                }
            }
        }
        assert!(told_nothing(&mut engine), "{name}");
    });
}

#[test]
fn more_news_than_the_ring_holds_is_not_lost() {
    use std::io::{Read, Write};
    each_engine(|name, mut engine, _arena| {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (quiet, mut other) = UnixStream::pair().unwrap();
        for (fd, token) in [(&ours, 1), (&quiet, 2)] {
            fd.set_nonblocking(true).unwrap();
            engine.watch(fd.as_fd(), token);
        }
        told_nothing(&mut engine);
        let mut sink = [0; 4096];
        for _ in 0..10_000 {
            theirs.write_all(b"x").unwrap();
            let _ = (&ours).read(&mut sink);
        }
        other.write_all(b"x").unwrap();
        assert!(wait_for(&mut engine, |r| r.token == 2).readable, "{name}");
        told_nothing(&mut engine);
        for (theirs, token) in [(&mut theirs, 1), (&mut other, 2)] {
            theirs.write_all(b"x").unwrap();
            assert!(wait_for(&mut engine, |r| r.token == token).readable, "{name}: {token} is watched still");
        }
    });
}

#[test]
fn a_wake_from_another_thread_ends_the_wait_and_none_is_lost() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    each_engine(|name, mut engine, _arena| {
        let waker = engine.waker();
        let work = Arc::new(AtomicU64::new(0));
        let theirs = work.clone();
        let other = std::thread::spawn(move || {
            for n in 0..2000u64 {
                theirs.fetch_add(1, Ordering::Release);
                waker.wake();
                if n % 50 == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let mut ready = Vec::new();
        // A lost wake would leave this waiting for ever.
        while work.load(Ordering::Acquire) < 2000 {
            engine.wait(None, &mut ready);
        }
        other.join().unwrap();
        assert!(ready.is_empty(), "{name}");
    });
}

#[test]
fn waiting_ends_with_a_completion_with_a_wake_or_with_its_time() {
    each_engine(|name, mut engine, arena| {
        let mut ready = Vec::new();
        engine.wait(Some(Duration::from_millis(2)), &mut ready);
        engine.waker().wake();
        engine.wait(None, &mut ready);
        let into = ReadInto::Buf(arena.alloc(4096).unwrap());
        engine.submit(DiskOp::Read { token: 5, offset: 0, into }).unwrap();
        let mut done = Vec::new();
        while done.is_empty() {
            engine.wait(None, &mut ready);
            engine.poll(&mut done);
        }
        assert_eq!((done[0].token, done[0].result, ready.len()), (5, Ok(()), 0), "{name}");
    });
}

#[test]
fn features_say_what_is_on_and_why_something_is_off() {
    for (name, kind, deny) in engines() {
        let scratch = Scratch::new("drive");
        let arena = Arena::new(1 << 20).unwrap();
        let options = EngineOptions { kind, depth: DEPTH, deny };
        let engine = Engine::with(options, scratch.drive(), BASE, LEN, &arena).unwrap();
        let features = engine.features();
        assert_eq!(features.name, if name.contains("threads") || deny.ring { "threads" } else { "uring" });
        for (feature, denied) in [
            ("registered_buffers", deny.registered_buffers),
            ("registered_file", deny.registered_file),
            ("single_issuer", deny.single_issuer),
            ("defer_taskrun", deny.defer_taskrun || deny.single_issuer),
            ("io_uring", deny.ring),
        ] {
            assert!(!denied || !features.has(feature), "{name}: {feature} was denied");
        }
        assert!(features.features.iter().all(|f| f.off.as_ref().is_none_or(|why| !why.is_empty())));
    }
}

#[test]
fn an_arena_can_be_registered_later_and_serves_before() {
    for (name, kind, deny) in engines() {
        let scratch = Scratch::new("drive");
        let arena = Arena::new(16 << 20).unwrap();
        let options = EngineOptions { kind, depth: DEPTH, deny };
        let mut engine = Engine::unregistered(options, scratch.drive(), BASE, LEN, &arena).unwrap();
        assert!(!engine.features().has("registered_buffers"), "{name}");
        // Before, while the pages are taken, with operations in flight as it happens, and after.
        an_engine_is_like_its_model(name, &mut engine, &arena);
        let pages = arena.populate();
        an_engine_is_like_its_model(name, &mut engine, &arena);
        let mut bytes = arena.alloc(4096).unwrap();
        bytes.fill(5);
        engine.submit(DiskOp::write(1, 0, bytes.freeze())).unwrap();
        pages.finish();
        engine.register();
        engine.register();
        let told = engine.features().features.iter().filter(|feature| feature.name == "registered_buffers").count();
        assert_eq!(told, usize::from(engine.features().name == "uring"), "{name}: it is told once");
        while engine.in_flight() > 0 {
            Disk::wait(&mut engine, &mut Vec::new());
        }
        an_engine_is_like_its_model(name, &mut engine, &arena);
    }
}

#[test]
fn a_drive_has_one_owner_and_is_free_at_once_when_it_goes() {
    for (name, kind, deny) in engines() {
        let scratch = Scratch::new("drive");
        let arena = Arena::new(4 << 20).unwrap();
        let mut drive = scratch.drive();
        for round in 0..20 {
            assert!(matches!(DriveFile::open(&scratch.0), Err(DriveError::InUse { .. })), "{name}");
            let options = EngineOptions { kind, depth: DEPTH, deny };
            let mut engine = Engine::with(options, drive.try_clone().unwrap(), BASE, LEN, &arena).unwrap();
            drop(drive);
            assert!(
                matches!(DriveFile::open(&scratch.0), Err(DriveError::InUse { .. })),
                "{name}: the engine holds it"
            );
            let buf = arena.alloc(1 << 20).unwrap();
            engine.submit(DiskOp::write(1, 0, buf.freeze())).unwrap();
            drop(engine);
            assert!(DriveFile::open_within(&scratch.0, Duration::ZERO).is_ok(), "{name}");
            drive = DriveFile::open(&scratch.0).unwrap_or_else(|e| panic!("{name}, round {round}: {e}"));
        }
    }
}

#[test]
fn what_cannot_be_a_drive_is_refused_with_its_reason() {
    let scratch = Scratch::new("drive");
    let none = &mut |_| {};
    let dir = scratch.0.parent().unwrap();
    assert!(matches!(DriveFile::open(dir), Err(DriveError::Directory { .. })));
    assert!(matches!(DriveFile::create(dir, 1 << 24, false, none), Err(DriveError::Directory { .. })));
    assert!(matches!(DriveFile::open(&scratch.0), Err(DriveError::Missing { .. })));
    assert!(matches!(DriveFile::open("/dev/null".as_ref()), Err(DriveError::NotAFile { .. })));
    assert!(matches!(DriveFile::create(&scratch.0, 4096, false, none), Err(DriveError::TooSmall { .. })));

    match DriveFile::create(&scratch.0, 1 << 50, false, none) {
        Err(DriveError::NoSpace { needed, free, .. }) => assert!(needed == 1 << 50 && free > 0),
        other => panic!("{other:?}"),
    }
    assert!(!scratch.0.exists(), "a file that was not filled is not left behind");

    std::fs::write(&scratch.0, b"small").unwrap();
    assert!(matches!(DriveFile::open(&scratch.0), Err(DriveError::TooSmall { found: 0, .. })));
    assert!(matches!(DriveFile::create(&scratch.0, 1 << 24, false, none), Err(DriveError::Exists { .. })));
    assert_eq!(std::fs::read(&scratch.0).unwrap(), b"small", "what was there is left alone");
}

#[test]
fn a_new_drive_is_zeros_and_prewriting_tells_of_its_progress() {
    let scratch = Scratch::new("drive");
    let mut told = Vec::new();
    let drive = DriveFile::create(&scratch.0, (9 << 20) + 100, true, &mut |n| told.push(n)).unwrap();
    assert_eq!(drive.len(), 9 << 20);
    assert_eq!(told, [4 << 20, 8 << 20, 9 << 20]);
    let mut bytes = vec![1; 1 << 20];
    drive.read_at(8 << 20, &mut bytes).unwrap();
    assert!(bytes.iter().all(|b| *b == 0));
    assert!(matches!(drive.read_at(1, &mut bytes), Err(DriveError::Outside { .. })));
    assert!(matches!(drive.write_at(9 << 20, &bytes), Err(DriveError::Outside { .. })));
    drop(drive);
    let drive = DriveFile::open(&scratch.0).unwrap();
    assert_eq!(drive.len(), 9 << 20);
}
