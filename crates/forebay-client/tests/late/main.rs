//! Real nodes, as processes of their own, stopped, killed and cut off in the middle of landings. Memory that was given back to the application meanwhile
//! does not change by a byte. With the guard left out the same course of events changes some.

#![expect(clippy::unwrap_used, reason = "all of this is a test")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use forebay_client::{Client, Lending, LentMemory, LentResult, Mutant, NamespaceHandle, Options, Place, Slice};
use forebay_node::{DataConfig, Landings, Node, NodeConfig};
use forebay_types::{Address, Entropy, Key, SeededEntropy};
use rustix::net::{Shutdown, SocketAddrUnix, getpeername, shutdown};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, getpid, kill_process, pidfd_getfd, pidfd_open};

/// Names the folder of the node that this process is to be.
const SERVE: &str = "FOREBAY_TEST_LATE_NODE";
const BLOCK: usize = 1 << 20;
/// Far more than the node's DRAM: nearly every get reads the drive, straight into the client's memory.
const BLOCKS: usize = 96;
const REGION_BYTES: usize = 24 << 20;

/// Not a test: what the child processes of the others run.
#[test]
fn a_process_that_serves() {
    let Some(dir) = std::env::var_os(SERVE) else { return };
    let dir = PathBuf::from(dir);
    let data = DataConfig { path: dir.join("drive"), capacity: Some(192 << 20) };
    let mut config = NodeConfig::new(data, 24 << 20, dir.join("s"));
    // By the drive itself, whatever pages the client has: what was submitted then cannot be recalled.
    config.landings = Landings::Direct;
    let node = Node::start(config).unwrap();
    // Until it is killed; at the latest when its parent is gone.
    let parent = rustix::process::getppid();
    while rustix::process::getppid() == parent {
        pause(50);
    }
    drop(node);
}

#[expect(clippy::disallowed_methods, reason = "when a node breaks is what these tests vary")]
fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// How what is under way is broken off.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Break {
    Stop,
    Kill,
    /// The connections break, and the node lives.
    Cut,
}

struct Home {
    dir: PathBuf,
    child: Option<Child>,
}

impl Home {
    fn new() -> Home {
        static HOMES: AtomicU32 = AtomicU32::new(0);
        let n = HOMES.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("fb-late-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut home = Home { dir, child: None };
        home.start();
        home
    }

    fn start(&mut self) {
        // A dead node's last reads hold the drive until they have ended.
        for _ in 0..200 {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "a_process_that_serves", "--nocapture"]).env(SERVE, &self.dir);
            let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            while child.try_wait().unwrap().is_none() {
                if Client::connect(&address(&self.dir), Options::default()).is_ok() {
                    self.child = Some(child);
                    return;
                }
                pause(5);
            }
        }
        panic!("no node came to be");
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    /// Breaks every connection of this process to the node, whatever comes and goes on it.
    fn cut(&self) {
        let me = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
            let number = entry.unwrap().file_name().to_str().unwrap().parse().unwrap();
            // It may be gone by now.
            let Ok(fd) = pidfd_getfd(&me, number, PidfdGetfdFlags::empty()) else { continue };
            let peer = getpeername(&fd).ok().flatten().and_then(|peer| SocketAddrUnix::try_from(peer).ok());
            if peer.is_some_and(|peer| peer.path_bytes() == Some(self.dir.join("s").as_os_str().as_encoded_bytes())) {
                let _ = shutdown(&fd, Shutdown::Both);
            }
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn address(dir: &Path) -> Address {
    Address::Unix(dir.join("s"))
}

fn stored(space: &NamespaceHandle) -> Vec<Key> {
    let chance = SeededEntropy::new(5);
    (0..BLOCKS)
        .map(|n| {
            let key = space.derive_key(&n.to_le_bytes());
            let mut bytes = vec![0; BLOCK];
            chance.fill(&mut bytes);
            let patient = space.with_deadline(Duration::from_secs(30));
            assert!(patient.put(&[(key, &bytes)])[0].is_kept());
            key
        })
        .collect()
}

/// Takes all memory that the client gives out, and marks it.
fn taken(client: &Client) -> Vec<Slice> {
    let mut slices = Vec::new();
    for bytes in [BLOCK, 64 << 10] {
        while let Ok(mut slice) = client.alloc(bytes) {
            slice.fill(0xa5);
            slices.push(slice);
        }
    }
    slices
}

fn changed(slices: &[Slice]) -> u64 {
    slices.iter().map(|slice| slice.iter().filter(|byte| **byte != 0xa5).count() as u64).sum()
}

/// Rounds of gets with deadlines too short for most, while the node is stopped, or killed, in the middle. After each the application has all
/// memory, and watches it while the node goes on or its last reads end. Gives the bytes that changed, the bytes watched, and the landings
/// that did not end in time.
fn rounds(how: Break, rounds: u32, mutant: Option<Mutant>) -> (u64, u64, u64) {
    let mut home = Home::new();
    let options = Options { region_bytes: REGION_BYTES, mutant, ..Options::default() };
    let client = Client::connect(&address(&home.dir), options).unwrap();
    let space = client.namespace("default").unwrap();
    let keys = stored(&space);
    let chance = SeededEntropy::new(11);
    let (mut changes, mut watched) = (0, 0);
    let cut_off = AtomicU64::new(0);
    for round in 0..rounds {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for thread in 0..2 {
                let (space, keys, stop, cut_off) = (&space, &keys, &stop, &cut_off);
                scope.spawn(move || {
                    let mut at = (round as usize * 13 + thread * 41) % BLOCKS;
                    let hasty = space.with_deadline(Duration::from_millis(4));
                    while !stop.load(Ordering::Relaxed) {
                        at = (at + 7) % (BLOCKS - 6);
                        hasty.get_each(&keys[at..at + 6], |_, result| {
                            cut_off.fetch_add(u64::from(result.is_err()), Ordering::Relaxed);
                        });
                    }
                });
            }
            breaks(&mut home, how, &chance);
            stop.store(true, Ordering::Relaxed);
        });
        let slices = taken(&client);
        watched += slices.iter().map(|slice| slice.len() as u64).sum::<u64>();
        goes_on(&mut home, how, &client);
        changes += changed(&slices);
        if mutant.is_some() && changes > 0 {
            break;
        }
        drop(slices);
        // One call without haste: the next round begins with memory that has come back.
        let patient = space.with_deadline(Duration::from_secs(30));
        assert!(patient.get(&keys[..4]).iter().all(|result| how != Break::Stop || result.miss().is_none()));
    }
    let counters = client.counters();
    // With a guard left out, calls may meet each other's landings too; their sums find that.
    assert!(counters.get.adds_up() && (counters.corrupt == 0 || mutant.is_some()), "{counters:?}");
    (changes, watched, cut_off.load(Ordering::Relaxed))
}

/// The node is stopped or killed while landings are under way, and for some moments nobody knows.
fn breaks(home: &mut Home, how: Break, chance: &SeededEntropy) {
    pause(2 + chance.word() % 12);
    match how {
        Break::Stop => home.signal(Signal::STOP),
        Break::Kill => home.kill(),
        Break::Cut => home.cut(),
    }
    pause(8);
}

/// It goes on, or another does, and whatever was under way has ended.
fn goes_on(home: &mut Home, how: Break, client: &Client) {
    match how {
        Break::Stop => home.signal(Signal::CONT),
        Break::Kill => home.start(),
        Break::Cut => {}
    }
    assert!(client.wait_reachable(Duration::from_secs(60)));
    // Its own last reads were seen to end 80 ms after a node was gone.
    pause(if how == Break::Kill { 100 } else { 20 });
}

#[test]
fn nodes_stopped_in_mid_landing_change_no_byte_that_was_given_back() {
    let (changes, watched, cut_off) = rounds(Break::Stop, 20, None);
    println!("{cut_off} gets cut off, {} MiB watched", watched >> 20);
    assert!(cut_off > 20 && watched > 20 << 20, "{cut_off} gets were cut off, {watched} bytes watched");
    assert_eq!(changes, 0);
}

#[test]
fn nodes_killed_in_mid_landing_change_no_byte_that_was_given_back() {
    let (changes, watched, cut_off) = rounds(Break::Kill, 10, None);
    println!("{cut_off} gets cut off, {} MiB watched", watched >> 20);
    assert!(cut_off > 10 && watched > 10 << 20, "{cut_off} gets were cut off, {watched} bytes watched");
    assert_eq!(changes, 0);
}

#[test]
fn reusing_what_a_stopped_node_still_owes_is_found() {
    let (changes, _, _) = rounds(Break::Stop, 200, Some(Mutant::ReuseOverdue));
    assert_ne!(changes, 0, "the test cannot fail");
}

/// Places of the lent memory: some are free however many are withheld.
const PLACES: usize = 48;

/// Bytes of a place for one block.
fn room() -> usize {
    LentMemory::room_for(BLOCK)
}

/// Gets into lent memory, again and again, in the places of one thread, until told to stop. Gives how many were withheld.
fn into_places(space: &NamespaceHandle, keys: &[Key], memory: &LentMemory, thread: usize, stop: &AtomicBool) -> u64 {
    let hasty = space.with_deadline(Duration::from_millis(4));
    let (mut at, mut withheld) = (thread * 41 % BLOCKS, 0);
    while !stop.load(Ordering::Relaxed) {
        at = (at + 7) % (BLOCKS - 6);
        let numbers = thread * PLACES / 2..(thread + 1) * PLACES / 2;
        let places = numbers.filter_map(|n| memory.place(n * room(), room()).ok()).take(6);
        let asked: Vec<(Key, Place)> = keys[at..at + 6].iter().copied().zip(places).collect();
        for result in hasty.get_lent(asked) {
            withheld += u64::from(matches!(result, LentResult::Miss { place: None, .. }));
        }
    }
    withheld
}

/// As [`rounds`], with blocks that land in memory which the application lends. Gives the bytes that changed in places it could have, the bytes
/// watched, and the places that were withheld.
fn lent_rounds(how: Break, rounds: u32, mutant: Option<Mutant>) -> (u64, u64, u64) {
    let mut home = Home::new();
    let client = Client::connect(&address(&home.dir), Options { mutant, ..Options::default() }).unwrap();
    let space = client.namespace("default").unwrap();
    let keys = stored(&space);
    let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("engine", flags).unwrap();
    let bytes = PLACES * room();
    rustix::fs::ftruncate(&fd, bytes as u64).unwrap();
    rustix::fs::fcntl_add_seals(&fd, rustix::fs::SealFlags::SHRINK).unwrap();
    let memory = client.lend(fd, bytes, Lending::Direct).unwrap();
    let chance = SeededEntropy::new(13);
    let (mut changes, mut watched, mut withheld) = (0, 0, 0);
    for _ in 0..rounds {
        let stop = AtomicBool::new(false);
        withheld += std::thread::scope(|scope| {
            let (space, keys, memory, stop) = (&space, &keys, &memory, &stop);
            let threads = [0, 1].map(|thread| scope.spawn(move || into_places(space, keys, memory, thread, stop)));
            breaks(&mut home, how, &chance);
            stop.store(true, Ordering::Relaxed);
            threads.map(|thread| thread.join().unwrap()).iter().sum::<u64>()
        });
        let mut places: Vec<Place> = (0..PLACES).filter_map(|n| memory.place(n * room(), room()).ok()).collect();
        places.iter_mut().for_each(|place| place.fill(0xa5));
        watched += places.iter().map(|place| place.len() as u64).sum::<u64>();
        goes_on(&mut home, how, &client);
        let changed = |place: &Place| place.iter().filter(|byte| **byte != 0xa5).count() as u64;
        changes += places.iter().map(changed).sum::<u64>();
        if mutant.is_some() && changes > 0 {
            break;
        }
        drop(places);
        // One call without haste, and a place that is free again for each that was withheld.
        let patient = space.with_deadline(Duration::from_secs(30));
        for _ in 0..3000 {
            assert!(patient.get(&keys[..4]).iter().all(|result| how != Break::Stop || result.miss().is_none()));
            if memory.place(0, bytes).is_ok() {
                break;
            }
            pause(10);
        }
        assert!(memory.place(0, bytes).is_ok(), "{} bytes are withheld for ever", memory.withheld_bytes());
    }
    let counters = client.counters();
    assert!(counters.get.adds_up() && (counters.corrupt == 0 || mutant.is_some()), "{counters:?}");
    (changes, watched, withheld)
}

#[test]
fn nodes_stopped_in_mid_landing_change_no_place_of_lent_memory_that_was_given_back() {
    let (changes, watched, withheld) = lent_rounds(Break::Stop, 20, None);
    println!("{withheld} places withheld, {} MiB watched", watched >> 20);
    assert!(withheld > 20 && watched > 5 << 20, "{withheld} places were withheld, {watched} bytes watched");
    assert_eq!(changes, 0);
}

#[test]
fn nodes_killed_in_mid_landing_change_no_place_of_lent_memory_that_was_given_back() {
    let (changes, watched, withheld) = lent_rounds(Break::Kill, 10, None);
    println!("{withheld} places withheld, {} MiB watched", watched >> 20);
    assert!(withheld > 5 && watched > 5 << 20, "{withheld} places were withheld, {watched} bytes watched");
    assert_eq!(changes, 0);
}

#[test]
fn connections_cut_in_mid_landing_change_no_place_of_lent_memory_that_was_given_back_and_all_come_back() {
    let (changes, watched, withheld) = lent_rounds(Break::Cut, 20, None);
    println!("{withheld} places withheld, {} MiB watched", watched >> 20);
    assert!(withheld > 5 && watched > 5 << 20, "{withheld} places were withheld, {watched} bytes watched");
    assert_eq!(changes, 0);
}

#[test]
fn giving_back_a_place_that_a_stopped_node_still_owes_is_found() {
    let (changes, _, _) = lent_rounds(Break::Stop, 200, Some(Mutant::ReuseOverdue));
    assert_ne!(changes, 0, "the test cannot fail");
}
