//! The write budget on a real node: when it is short, puts nobody speaks for are refused, durable ones are taken, the numbers add up, and a restart wins nothing.

#[expect(dead_code, reason = "this test uses a part of it")]
mod hand;

use std::time::Duration;

use forebay_node::{Node, NodeConfig};
use forebay_types::{Class, PutOutcome, RefusedReason};
use hand::{Folder, Hand, MIB, assert_identity, block, key, samples};

const BLOCK: usize = 200_000;
const REFUSED: PutOutcome = PutOutcome::Refused(RefusedReason::Admission);

fn config(folder: &Folder) -> NodeConfig {
    let mut config = folder.config();
    // So little that what flows in during the test is nothing beside it.
    config.endurance = Some((3650 * 32 * MIB, 3650 * 86_400));
    config
}

#[test]
fn a_short_budget_refuses_what_nobody_speaks_for_and_takes_what_is_durable() {
    let folder = Folder::new();
    let node = Node::start(config(&folder)).unwrap();
    let mut control = Hand::control(&node);
    let cache = control.namespace("a", Class::Cache).id;
    let durable = control.namespace("b", Class::Durable).id;
    let mut hand = Hand::shard(&node);
    let mut kept = 0;
    while hand.put_stream(cache, key(kept), &block(kept, BLOCK)) == PutOutcome::Cached {
        kept += 1;
        assert!(kept < 200, "32 MiB a day");
    }
    assert!(kept > 100, "three quarters of 32 MiB go to whoever comes: {kept}");
    assert_eq!(hand.put_stream(cache, key(1000), &block(1000, BLOCK)), REFUSED);
    assert_eq!(hand.put_stream(cache, key(1000), &block(1000, BLOCK)), PutOutcome::Cached, "it was wanted twice");
    for number in 2000..2080 {
        assert_eq!(hand.put_stream(durable, key(number), &block(number, BLOCK)), PutOutcome::Durable);
    }
    assert_eq!(hand.put_stream(cache, key(3000), &block(3000, BLOCK)), REFUSED);
    assert_eq!(hand.put_stream(cache, key(3000), &block(3000, BLOCK)), REFUSED, "nothing is left");
    let text = node.metrics_text();
    assert_identity(&text);
    assert_eq!(samples(&text)["forebay_put_refused_total{reason=\"admission\"}"], 4.0);
    node.shutdown(Duration::from_secs(30));

    let node = Node::start(config(&folder)).unwrap();
    let mut hand = Hand::shard(&node);
    for number in 4000..4003 {
        assert_eq!(hand.put_stream(cache, key(number), &block(number, BLOCK)), REFUSED, "a restart wins nothing");
    }
    assert!(hand.get_stream(cache, &[key(0)])[0].1 == block(0, BLOCK));
    assert_eq!(hand.put_stream(durable, key(4004), &block(4004, BLOCK)), PutOutcome::Durable);
    assert_identity(&node.metrics_text());
    node.shutdown(Duration::from_secs(30));
}
