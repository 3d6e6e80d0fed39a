//! Nobody gets more by asking more often, and what nobody waits for any more costs nothing.

#[expect(dead_code, reason = "this test uses a part of it")]
mod hand;

use forebay_io::Region;
use forebay_node::NodeHandle;
use forebay_types::{Class, Clock, Key, NamespaceId, PutOutcome, RegionId, SystemClock};
use forebay_wire::{GetItem, GetOutcome, Message, Place, encode};
use hand::{Folder, Hand, In, WAIT, assert_identity, block, key, samples, sum};

const BLOCK: usize = 1 << 20;

fn put(hand: &mut Hand, ns: NamespaceId, count: u64) -> Vec<Key> {
    (0..count)
        .map(|number| {
            assert_eq!(hand.put_stream(ns, key(number), &block(number, BLOCK)), PutOutcome::Durable);
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
    let keys = put(&mut greedy, ns, 4);
    let region = Region::owned(2 << 20).unwrap();
    greedy.lend(1, &region);
    let mut modest = Hand::shard(&node);
    modest.lend(1, &region);
    let to = Place { region: RegionId(1), offset: 0, room: BLOCK as u64 };
    let mut asks = Vec::new();
    for _ in 0..1000 {
        encode(&greedy.get_message(ns, items(&keys, to), 30_000_000).1, &mut asks).unwrap();
    }
    greedy.send_bytes(&asks, &[]);
    let mut least = f64::INFINITY;
    while least > 60e6 {
        let before = of(&node, "forebay_get_bytes_total");
        let (request, get) = modest.get_message(ns, items(&keys[..1], to), 30_000_000);
        let Message::GetOutcomes { request: answered, outcomes } = modest.ask(&get) else { panic!() };
        assert_eq!(answered, request);
        assert!(matches!(outcomes[0].1, GetOutcome::Hit { .. }), "{outcomes:?}");
        let after = of(&node, "forebay_get_bytes_total");
        let unanswered = of(&node, "forebay_get_asked_total") - of(&node, "forebay_get_hits_total");
        assert!(
            unanswered > 0.0,
            "all of the greedy one's blocks were copied before this: at best {least} bytes at a time"
        );
        least = least.min(after - before);
    }
}

#[test]
fn what_is_cancelled_before_its_turn_is_neither_read_nor_copied() {
    let folder = Folder::new();
    let node = folder.start();
    let ns = Hand::control(&node).namespace("a", Class::Durable).id;
    let keys = put(&mut Hand::shard(&node), ns, 32);
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
    let keys = put(&mut steady, ns, 16);
    let to = Place { room: u64::MAX, ..Place::default() };
    let mut gone = Hand::shard(&node);
    let asks: Vec<Key> = keys.iter().copied().cycle().take(4096).collect();
    let (_, get) = gone.get_message(ns, items(&asks, to), 30_000_000);
    gone.send(&get);
    drop(gone);
    let begun = SystemClock::new();
    while dropped(&node, "start") == 0.0 {
        assert!(begun.now_us() < WAIT.as_micros() as u64, "all of it was done for nobody");
        assert!(steady.get_stream(ns, &keys[..1])[0].1 == block(0, BLOCK));
    }
    assert_identity(&node.metrics_text());
}
