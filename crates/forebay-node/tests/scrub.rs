//! Scrub on a real node and a real file: what was damaged while the node was down is found before anybody asks, told with its place, and not served.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[expect(dead_code, reason = "this test uses a part of it")]
mod hand;

use std::os::unix::fs::FileExt;
use std::sync::mpsc;
use std::time::Duration;

use forebay_node::{Event, Node, NodeConfig, NodeHandle, Severity};
use forebay_types::{Class, MissReason, PutOutcome};
use forebay_wire::GetOutcome;
use hand::{Folder, Hand, assert_identity, block, key, samples};

const BLOCKS: u64 = 60;
/// More than one read of scrub.
const BLOCK: usize = 400_000;

fn config(folder: &Folder, scrub_period_s: u64) -> (NodeConfig, mpsc::Receiver<Event>) {
    let mut config = folder.config();
    config.scrub_period_s = scrub_period_s;
    let (tell, told) = mpsc::channel();
    config.events = Some(Box::new(move |event| drop(tell.send(event))));
    (config, told)
}

/// A sample of the only shard.
fn sample(node: &NodeHandle, name: &str, labels: &str) -> f64 {
    samples(&node.metrics_text())[&format!("{name}{{shard=\"{}\"{labels}}}", node.shards()[0])]
}

/// Waits until scrub has been through the drive.
#[expect(clippy::disallowed_methods, reason = "figures are published a few times a second, and nothing tells when")]
fn until_passed(node: &NodeHandle) {
    for _ in 0..6000 {
        if sample(node, "forebay_scrub_passes_total", "") >= 1.0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no pass within 120 s");
}

/// Flips a bit of each block that is chosen, in the drive's file, and says where.
fn damage(folder: &Folder, chosen: impl Fn(u64) -> bool) -> Vec<(u64, u64)> {
    let file = std::fs::File::options().read(true).write(true).open(folder.0.join("drive")).unwrap();
    let image = std::fs::read(folder.0.join("drive")).unwrap();
    let mut flipped = Vec::new();
    for number in (0..BLOCKS).filter(|number| chosen(*number)) {
        let bytes = block(number, BLOCK);
        let at = (0..image.len()).step_by(512).find(|at| image[*at..].starts_with(&bytes)).unwrap() as u64;
        let byte = at + number * 6000;
        file.write_all_at(&[image[byte as usize] ^ 8], byte).unwrap();
        flipped.push((number, at));
    }
    file.sync_all().unwrap();
    flipped
}

#[test]
fn damage_done_while_the_node_was_down_is_found_told_and_not_served() {
    let folder = Folder::new();
    let node = Node::start(config(&folder, 0).0).unwrap();
    let mut control = Hand::control(&node);
    let cache = control.namespace("a", Class::Cache).id;
    let durable = control.namespace("b", Class::Durable).id;
    let class = |number: u64| if number.is_multiple_of(2) { cache } else { durable };
    let mut hand = Hand::shard(&node);
    for number in 0..BLOCKS {
        let outcome = hand.put_stream(class(number), key(number), &block(number, BLOCK));
        assert!(matches!(outcome, PutOutcome::Cached | PutOutcome::Durable), "{outcome:?}");
    }
    assert_eq!(sample(&node, "forebay_scrub_bytes_total", ""), 0.0, "it is off");
    node.shutdown(Duration::from_secs(30));

    let flipped = damage(&folder, |number| number % 5 == 0);
    let (config, told) = config(&folder, 2);
    let node = Node::start(config).unwrap();
    until_passed(&node);
    let lost = |class| sample(&node, "forebay_scrub_damaged_total", &format!(",class=\"{class}\""));
    assert_eq!((lost("cache"), lost("durable")), (6.0, 6.0));
    assert_eq!(sample(&node, "forebay_corrupt_records_total", ""), 0.0, "nobody asked");
    assert!(sample(&node, "forebay_scrub_bytes_total", "") >= (BLOCKS * BLOCK as u64) as f64);
    assert!(sample(&node, "forebay_segments_damaged", "") > 0.0);
    let mut hand = Hand::shard(&node);
    for number in 0..BLOCKS {
        let (outcome, bytes) = hand.get_stream(class(number), &[key(number)]).remove(0);
        match number % 5 {
            0 => assert!(matches!(outcome, GetOutcome::Miss(MissReason::Absent)), "{number}: {outcome:?}"),
            _ => assert!(bytes == block(number, BLOCK), "{number}: {outcome:?}"),
        }
    }
    assert_eq!(hand.put_stream(durable, key(5), &block(5, BLOCK)), PutOutcome::Durable, "it can be put again");
    assert_identity(&node.metrics_text());
    node.shutdown(Duration::from_secs(30));

    let events: Vec<Event> = told.try_iter().filter(|event| event.kind.starts_with("scrub_")).collect();
    assert_eq!(events.len(), flipped.len());
    for (number, at) in flipped {
        let place = format!("at byte {at} of ");
        let event = events.iter().find(|event| event.sentence.contains(&place)).unwrap();
        assert!(event.sentence.contains(&key(number).to_string()), "{}", event.sentence);
        let severity = if number % 2 == 1 { Severity::Error } else { Severity::Warn };
        assert_eq!(event.severity, severity);
    }
}
