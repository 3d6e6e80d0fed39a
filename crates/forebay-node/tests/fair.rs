//! Nobody gets more by asking more often, and what nobody waits for any more costs nothing.

#[expect(dead_code, reason = "this test uses a part of it")]
mod hand;

use forebay_io::Region;
use forebay_node::NodeHandle;
use forebay_types::{Class, Clock, Key, NamespaceId, PutOutcome, RegionId, SystemClock};
use forebay_wire::{GetItem, GetOutcome, Message, Place, encode};
use hand::{Folder, Hand, In, WAIT, assert_identity, block, key, samples, sum};

const BLOCK: usize = 1 << 20;
/// What the greedy one asks for at once, and how often.
const EACH: usize = 64;
const REQUESTS: usize = 1000;
/// What a request may spend before others have their turn. Bytes are counted block by block, so these show each turn.
const A_TURN: usize = 128 << 10;

fn put(hand: &mut Hand, ns: NamespaceId, count: u64, bytes: usize) -> Vec<Key> {
    (0..count)
        .map(|number| {
            assert_eq!(hand.put_stream(ns, key(number), &block(number, bytes)), PutOutcome::Durable);
            key(number)
        })
        .collect()
}

fn items(keys: &[Key], to: Place) -> Vec<GetItem> {
    keys.iter().map(|key| GetItem { key: *key, offset: 0, length: 0, to }).collect()
}

fn of(node: &NodeHandle, name: &str) -> f64 {
    sum(&samples(&node.metrics_text()), name)
}

fn dropped(node: &NodeHandle, before: &str) -> f64 {
    samples(&node.metrics_text())[&format!("forebay_dropped_total{{before=\"{before}\"}}")]
}

/// Somebody asked for all it had, a thousand times over. Others then waited until each of its requests had had a share of the shard's turns,
/// since requests took turns and connections did not: 128 MiB of copies for a thousand requests.
#[test]
fn who_asks_a_thousand_times_holds_nobody_up_who_asks_once() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Durable).id;
    let mut greedy = Hand::shard(&node);
    let keys = put(&mut greedy, ns, 4, A_TURN);
    let region = Region::owned(2 << 20).unwrap();
    greedy.lend(1, &region);
    // Of several turns, and only the first is given before it is known how large it is.
    let large = key(99);
    assert_eq!(greedy.put_stream(ns, large, &block(99, BLOCK)), PutOutcome::Durable);
    let mut modest = Hand::shard(&node);
    modest.lend(1, &region);
    let to = Place { region: RegionId(1), offset: 0, room: 2 << 20 };
    let wanted: Vec<Key> = keys.iter().copied().cycle().take(EACH).collect();
    let mut asks = Vec::new();
    for _ in 0..REQUESTS {
        encode(&greedy.get_message(ns, items(&wanted, to), 60_000_000).1, &mut asks).unwrap();
    }
    greedy.send_bytes(&asks, &[]);
    // What it is told it takes: who does not is not asked any more, and would hold nobody up either.
    let taking = std::thread::Builder::new().spawn(move || while !matches!(greedy.next(), In::Closed) {}).unwrap();
    // All of them stand there before anybody else comes.
    let begun = SystemClock::new();
    while of(&node, "forebay_get_asked_total") < (REQUESTS * EACH) as f64 {
        assert!(begun.now_us() < WAIT.as_micros() as u64, "it did not ask for all of that");
        std::thread::yield_now();
    }
    let mut least = f64::INFINITY;
    while least > 60e6 {
        let before = of(&node, "forebay_get_bytes_total");
        let (request, get) = modest.get_message(ns, items(&[large], to), 30_000_000);
        let Message::GetOutcomes { request: answered, outcomes } = modest.ask(&get) else { panic!() };
        assert_eq!(answered, request);
        assert!(matches!(outcomes[0].1, GetOutcome::Hit { .. }), "{outcomes:?}");
        let after = of(&node, "forebay_get_bytes_total");
        let unanswered = of(&node, "forebay_get_asked_total") - of(&node, "forebay_get_hits_total");
        // While half of its keys are open, so are all of its requests, were they to take turns. Of the last few, all would be served soon.
        assert!(
            unanswered > (REQUESTS * EACH / 2) as f64,
            "half of the greedy one's blocks were copied before this: at best {least} bytes at a time"
        );
        least = least.min(after - before);
    }
    node.shutdown(WAIT);
    taking.join().unwrap();
}

#[test]
fn what_is_cancelled_before_its_turn_is_neither_read_nor_copied() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Durable).id;
    let keys = put(&mut Hand::shard(&node), ns, 32, BLOCK);
    node.shutdown(WAIT);
    // On the drive they are, and nowhere else.
    let node = folder.start();
    let mut hand = Hand::shard(&node);
    let to = Place { room: u64::MAX, ..Place::default() };
    // Both are understood before either has its turn.
    let (request, get) = hand.get_message(ns, items(&keys, to), 30_000_000);
    let mut wire = Vec::new();
    encode(&get, &mut wire).unwrap();
    encode(&Message::Cancel { request }, &mut wire).unwrap();
    hand.send_bytes(&wire, &[]);
    assert_eq!(hand.message(), Message::Done { request });
    assert_eq!(dropped(&node, "start"), 32.0);
    let presence = Message::Match {
        request: hand.number(),
        namespace: ns,
        deadline_us: 30_000_000,
        hold_ms: 0,
        stop_at_gap: false,
        keys: keys.clone(),
    };
    assert!(matches!(hand.ask(&presence), Message::MatchOutcomes { .. }));
    assert_eq!(of(&node, "forebay_get_bytes_total") + of(&node, "forebay_drive_read_bytes_total"), 0.0);

    // Again and again, with time for the first reads to begin: those that stand behind them are not made.
    let begun = SystemClock::new();
    while dropped(&node, "read") == 0.0 {
        assert!(begun.now_us() < WAIT.as_micros() as u64, "no read was ever dropped");
        let (request, get) = hand.get_message(ns, items(&keys, to), 30_000_000);
        hand.send(&get);
        hand.send(&Message::Cancel { request });
        loop {
            match hand.next() {
                In::Message(Message::Done { request: done }) if done == request => break,
                In::Data(_, bytes) => hand.send(&Message::Credit { bytes: bytes.len() as u64 }),
                In::Message(_) => {}
                In::Closed => panic!("the node has closed"),
            }
        }
    }
    // Nothing is lost for that: they all come when they are wanted.
    for (number, (_, bytes)) in hand.get_stream(ns, &keys).into_iter().enumerate() {
        assert!(bytes == block(number as u64, BLOCK), "{number}");
    }
    assert_identity(&node.metrics_text());
}

#[test]
fn what_a_client_asked_for_goes_with_its_connection() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Durable).id;
    let mut steady = Hand::shard(&node);
    let keys = put(&mut steady, ns, 16, BLOCK);
    let to = Place { room: u64::MAX, ..Place::default() };
    let mut gone = Hand::shard(&node);
    let asks: Vec<Key> = keys.iter().copied().cycle().take(4096).collect();
    // Longer than the test waits: what is late is dropped as well, and would look the same.
    let (_, get) = gone.get_message(ns, items(&asks, to), 60_000_000);
    gone.send(&get);
    drop(gone);
    let begun = SystemClock::new();
    while dropped(&node, "start") == 0.0 {
        assert!(begun.now_us() < WAIT.as_micros() as u64, "all of it was done for nobody");
        assert!(steady.get_stream(ns, &keys[..1])[0].1 == block(0, BLOCK));
    }
    assert_identity(&node.metrics_text());
}
