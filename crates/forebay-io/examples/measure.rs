//! What the engines reach on a drive file, to be held beside fio on the same file:
//!
//! ```text
//! cargo run --release -p forebay-io --example measure -- /somewhere/drive 2147483648
//! GLIBC_TUNABLES=glibc.malloc.hugetlb=1 fio --name=r --filename=/somewhere/drive --rw=randread --bs=1M --iodepth=16 --ioengine=io_uring --fixedbufs=1 --registerfiles=1 --direct=1
//! ```
//!
//! The tunable gives fio huge pages, as the arena has them: without it fio reached a little over half. Name a variant after the size to
//! run it alone. The file is made and written once when it is not there. It is left behind for fio; remove it afterwards.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a command for people, which fails aloud")]

use std::path::Path;

use forebay_io::{
    Arena, Deny, Disk, DiskOp, DriveFile, Engine, EngineKind, EngineOptions, PeerRegion, ReadInto, Region,
};
use forebay_types::{Clock, Entropy, SeededEntropy, SystemClock};

const SECONDS: u64 = 4;

fn main() {
    let mut args = std::env::args().skip(1);
    let path = args.next().unwrap();
    let bytes: u64 = args.next().unwrap_or("2147483648".into()).parse().unwrap();
    let path = Path::new(&path);
    let patience = std::time::Duration::from_secs(5);
    let drive =
        DriveFile::open_within(path, patience).or_else(|_| DriveFile::create(path, bytes, true, &mut |_| {})).unwrap();
    println!("{:#?}", forebay_io::probe());
    println!("align {}, direct {}", drive.align(), drive.is_direct());
    let all = Deny::default();
    let unregistered = Deny { registered_buffers: true, ..all };
    let plain =
        Deny { registered_buffers: true, registered_file: true, single_issuer: true, coop_taskrun: true, ..all };
    let args: Vec<String> = args.collect();
    let args = args.iter();
    for round in 0..2 {
        for (name, kind, deny, landing) in [
            ("uring", EngineKind::Uring, all, false),
            ("uring, unregistered buffers", EngineKind::Uring, unregistered, false),
            ("uring, landing", EngineKind::Uring, all, true),
            ("uring, landing, small pages", EngineKind::Uring, all, true),
            ("uring, bounced", EngineKind::Uring, all, false),
            ("uring without features", EngineKind::Uring, plain, false),
            ("threads", EngineKind::Threads, all, false),
        ] {
            if args.clone().any(|only| only != name) {
                continue;
            }
            let arena = Arena::new(64 << 20).unwrap();
            let options = EngineOptions { kind, depth: 64, deny };
            let mut engine = Engine::with(options, drive.try_clone().unwrap(), 0, drive.len(), &arena).unwrap();
            for off in engine.features().features.iter().filter(|f| f.off.is_some()) {
                println!("{name}: no {}: {}", off.name, off.off.as_deref().unwrap_or_default());
            }
            let region = Region::owned(64 << 20).unwrap();
            // A slice takes pages as a client's do: huge ones. Without, the node's first touch takes them one by one.
            let _slice = (name != "uring, landing, small pages").then(|| region.alloc(64 << 20).unwrap());
            let peer = PeerRegion::import(region.fd().try_clone_to_owned().unwrap(), region.len() as u64).unwrap();
            for (len, depth) in [(1 << 20, 4), (1 << 20, 16), (64 << 10, 1)] {
                let copy_to = (name == "uring, bounced").then_some(&peer);
                let peer = landing.then_some(&peer);
                let (mib_s, p50, p99) = reads(&mut engine, &arena, peer, copy_to, len, depth);
                println!(
                    "round {round} {name:28} {:5} KiB x {depth:2}: {mib_s:7.0} MiB/s  p50 {p50:5} us  p99 {p99:5} us",
                    len >> 10
                );
            }
        }
    }
}

/// Random reads for some seconds: MiB/s and latencies in us.
fn reads(
    engine: &mut Engine,
    arena: &Arena,
    peer: Option<&PeerRegion>,
    copy_to: Option<&PeerRegion>,
    len: u64,
    depth: u64,
) -> (f64, u64, u64) {
    let clock = SystemClock::new();
    let random = SeededEntropy::new(len);
    let blocks = engine.info().len / len;
    let mut begun = vec![0; depth as usize];
    let mut latencies = Vec::new();
    let mut free: Vec<(u64, ReadInto)> = (0..depth)
        .map(|n| match peer {
            Some(peer) => (n, ReadInto::Landing(peer.landing(n * len, len).unwrap())),
            None => (n, ReadInto::Buf(arena.alloc(len as usize).unwrap())),
        })
        .collect();
    let start = clock.now_us();
    let (mut done, mut ready) = (Vec::new(), Vec::new());
    loop {
        let now = clock.now_us();
        let over = now - start > SECONDS * 1_000_000;
        if over && engine.in_flight() == 0 {
            break;
        }
        while let Some((token, into)) = free.pop().filter(|_| !over) {
            begun[token as usize] = now;
            engine.submit(DiskOp::Read { token, offset: random.word() % blocks * len, into }).unwrap();
        }
        engine.wait(None, &mut ready);
        engine.poll(&mut done);
        for end in done.drain(..) {
            end.result.unwrap();
            if let (Some(peer), Some(ReadInto::Buf(buf))) = (copy_to, &end.read) {
                peer.write_at(end.token * len, buf).unwrap();
            }
            latencies.push(clock.now_us() - begun[end.token as usize]);
            free.push((end.token, end.read.unwrap()));
        }
    }
    let mib = (latencies.len() as u64 * len) as f64 / 1048576.0;
    let seconds = (clock.now_us() - start) as f64 / 1e6;
    latencies.sort_unstable();
    (mib / seconds, latencies[latencies.len() / 2], latencies[latencies.len() * 99 / 100])
}
