//! SIGKILL at random moments under load, fifty times. Every durable ack is there afterwards, every served byte is one that was put under that
//! key, and what was forgotten stays forgotten.
//!
//! Each worker owns its keys, so what must hold of a key follows from its own calls alone. A call that got no clear answer (the node was gone)
//! widens what may be; it never narrows it.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay_client::{Client, NamespaceHandle, Options};
use forebay_types::{Address, Class, Entropy, Fingerprint, Key, MissReason, PutOutcome, SeededEntropy};
use support::{Node, Place, pause};

const KILLS: u32 = 50;
const WORKERS: u64 = 3;
/// Blocks a worker puts between two kills at most: all that is kept fits the drive with room for cleaning.
const PUTS_A_ROUND: u32 = 60;
const BLOCK_BYTES_MAX: u64 = 96 << 10;

/// What a key may answer.
#[derive(Debug, Clone, Default)]
struct Known {
    /// Puts whose bytes it may hold, by their number.
    puts: Vec<u32>,
    /// It must be there.
    held: bool,
    /// It must not be there: forgotten with an answer, and not put since.
    gone: bool,
}

struct Worker {
    number: u64,
    chance: SeededEntropy,
    client: Client,
    space: NamespaceHandle,
    keys: BTreeMap<u64, Known>,
    puts: u32,
    durable_acks: u64,
    checked: u64,
}

impl Worker {
    fn new(number: u64, address: &Address) -> Self {
        let client = Client::connect(address, Options { deadline: Duration::from_secs(10), ..Options::default() })
            .expect("the node is there");
        let space = client.namespace("kept").expect("the namespace was made");
        Worker {
            number,
            chance: SeededEntropy::new(number),
            client,
            space,
            keys: BTreeMap::new(),
            puts: 0,
            durable_acks: 0,
            checked: 0,
        }
    }

    fn key(&self, item: u64) -> Key {
        self.space.derive_key(&[self.number.to_le_bytes(), item.to_le_bytes()].concat())
    }

    fn any_item(&self) -> Option<u64> {
        let count = self.keys.len() as u64;
        (count > 0).then(|| self.chance.word() % count)
    }

    /// Puts, gets and forgets until it is told to stop.
    fn work(&mut self, stop: &AtomicBool) {
        let mut left = PUTS_A_ROUND;
        while !stop.load(Ordering::Relaxed) {
            match self.chance.word() % 10 {
                0..=4 if left > 0 => {
                    left -= 1;
                    self.put(self.keys.len() as u64);
                }
                // Forgotten keys come back under another put: recovery must tell the two apart.
                5 if left > 0 => {
                    left -= 1;
                    self.any_item().into_iter().for_each(|item| self.put(item));
                }
                6 => self.any_item().into_iter().for_each(|item| self.forget(item)),
                _ => self.any_item().into_iter().for_each(|item| self.check(&[item])),
            }
        }
    }

    fn put(&mut self, item: u64) {
        let key = self.key(item);
        let number = self.puts;
        self.puts += 1;
        let bytes = content(self.number, item, number);
        let outcome = self.space.put(&[(key, &bytes)])[0];
        let known = self.keys.entry(item).or_default();
        match outcome {
            PutOutcome::Durable => {
                // An older put without an answer may have won; it then is what is held.
                known.puts.push(number);
                (known.held, known.gone) = (true, false);
                self.durable_acks += 1;
            }
            PutOutcome::Exists => {
                assert!(!known.gone, "item {item} of worker {} exists though it was forgotten", self.number)
            }
            PutOutcome::Refused(_) => {
                // It may still be kept.
                known.puts.push(number);
                known.gone = false;
            }
            PutOutcome::Cached => panic!("a durable namespace answered `cached`"),
        }
    }

    fn forget(&mut self, item: u64) {
        let answer = self.space.forget(&[self.key(item)]);
        let known = self.keys.entry(item).or_default();
        // `false` from a broken connection may be a forgetting that was done; both end with the key gone.
        known.gone = answer.is_ok();
        known.held = false;
        if known.gone {
            known.puts.clear();
        }
    }

    /// Gets these items and holds each answer against what is known.
    fn check(&mut self, items: &[u64]) {
        let keys: Vec<Key> = items.iter().map(|item| self.key(*item)).collect();
        let (number, known, checked) = (self.number, &self.keys, &mut self.checked);
        self.space.get_each(&keys, |at, found| {
            let (item, known) = (items[at], &known[&items[at]]);
            match found {
                Ok(block) => {
                    assert!(!known.gone, "item {item} of worker {number} came back though it was forgotten");
                    let right = known.puts.iter().any(|put| content(number, item, *put) == block.bytes());
                    assert!(
                        right,
                        "item {item} of worker {number} holds bytes that were never put under it: {known:?}"
                    );
                    *checked += 1;
                }
                // The node is gone or starting: no answer.
                Err(MissReason::Unavailable | MissReason::Deadline | MissReason::Busy) => {}
                Err(reason) => assert!(!known.held, "item {item} of worker {number} was durable and is lost: {reason}"),
            }
        });
    }

    /// Every key, with a node that is there: all that must be is.
    fn audit(&mut self) {
        let before = self.checked;
        assert!(self.client.wait_reachable(Duration::from_secs(30)), "the node is back, and nobody finds it");
        let items: Vec<u64> = self.keys.keys().copied().collect();
        items.chunks(256).for_each(|items| self.check(items));
        let held = self.keys.values().filter(|known| known.held).count() as u64;
        assert!(
            self.checked - before >= held,
            "of {held} durable blocks only {} were served after the restart",
            self.checked - before
        );
    }
}

/// Bytes that only this put of this item has, whatever its length.
fn content(worker: u64, item: u64, put: u32) -> Vec<u8> {
    let seed = SeededEntropy::new(worker << 48 ^ item << 24 ^ u64::from(put));
    let mut bytes = vec![0; 1 + (seed.word() % BLOCK_BYTES_MAX) as usize];
    seed.fill(&mut bytes);
    bytes
}

fn start(place: &Place) -> Node {
    let args = ["serve", "--data", "drive", "--capacity", "512MiB", "--memory", "64MiB", "--socket", "s"];
    Node::start_when_free(|| place.forebay(args))
}

#[test]
fn fifty_kills_lose_nothing_that_was_acknowledged() {
    let place = Place::new();
    let mut node = start(&place);
    let address = Address::unix(place.path("s")).unwrap();
    let maker = Client::connect(&address, Options::default()).unwrap();
    maker.create_namespace("kept", Class::Durable, None, &Fingerprint::default()).unwrap();
    let mut workers: Vec<Worker> = (1..=WORKERS).map(|number| Worker::new(number, &address)).collect();
    let chance = SeededEntropy::new(0xdead);
    for _ in 0..KILLS {
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let running: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(|| worker.work(&stop))).collect();
            pause(20 + chance.word() % 200);
            node.kill();
            stop.store(true, Ordering::Relaxed);
            running.into_iter().for_each(|worker| worker.join().unwrap());
        });
        node = start(&place);
        workers.iter_mut().for_each(Worker::audit);
    }
    let acks: u64 = workers.iter().map(|worker| worker.durable_acks).sum();
    let checked: u64 = workers.iter().map(|worker| worker.checked).sum();
    println!("{KILLS} kills, {acks} durable acks, {checked} blocks compared");
    assert!(acks > 10 * u64::from(KILLS), "only {acks} durable acks in {KILLS} rounds: the kills met no load");
    assert!(
        workers.iter().all(|worker| worker.client.counters().get.adds_up() && worker.client.counters().put.adds_up())
    );
}
