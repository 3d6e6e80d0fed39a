//! What a node does not start with, and what it says.

#[expect(dead_code, reason = "this test uses a part of it")]
mod hand;

use forebay_io::EngineKind;
use forebay_node::{DataConfig, Node, NodeConfig, NodeError};
use hand::{Folder, MIB};

fn refused(config: NodeConfig) -> String {
    Node::start(config).expect_err("this node cannot start").to_string()
}

#[test]
fn a_drive_keeps_its_size_and_its_shards() {
    let folder = Folder::new();
    drop(folder.start());
    let mut config = folder.config();
    config.data[0].capacity = Some(512 * MIB);
    let text = refused(config);
    assert!(text.contains("keeps the size") && text.contains("256 MiB"), "{text}");
    let mut config = folder.config();
    config.shards_per_drive = 2;
    let text = refused(config);
    assert!(text.contains("--shards 1"), "{text}");
    drop(folder.start());
}

#[test]
fn a_drive_of_something_else_is_left_alone() {
    let folder = Folder::new();
    let path = folder.0.join("drive");
    let bytes = vec![b'x'; 4 << 20];
    std::fs::write(&path, &bytes).unwrap();
    let text = refused(folder.config());
    assert!(text.contains("something else") && text.contains("--data"), "{text}");
    assert!(std::fs::read(&path).unwrap() == bytes);
    let mut config = folder.config();
    config.data[0].path = folder.0.clone();
    assert!(refused(config).contains("directory"));
}

#[test]
fn a_drive_in_use_is_refused() {
    let folder = Folder::new();
    let node = folder.start();
    let mut config = folder.config();
    config.socket = folder.0.join("other");
    assert!(refused(config).contains("in use"));
    let mut config = folder.config();
    config.data[0].path = folder.0.join("other-drive");
    let text = refused(config);
    assert!(text.contains("another") || text.contains("taken"), "{text}");
    assert!(!folder.0.join("other-drive").exists(), "the socket is looked at first");
    drop(node);
}

#[test]
fn too_small_a_node_is_told_the_least() {
    let folder = Folder::new();
    let mut config = folder.config();
    config.memory_bytes = MIB;
    let text = refused(config);
    assert!(text.contains("--memory") && text.contains("MiB"), "{text}");
    let mut config = folder.config();
    config.data[0].capacity = Some(10 * MIB);
    let text = refused(config);
    assert!(text.contains("--capacity"), "{text}");
    assert!(!folder.0.join("drive").exists(), "nothing is left behind");
    let mut config = folder.config();
    config.policy = "clock".into();
    assert!(refused(config).contains("lru"));
    let mut config = folder.config();
    config.data.push(config.data[0].clone());
    assert!(refused(config).contains("twice"));
    let mut config = folder.config();
    config.data = Vec::new();
    assert!(matches!(Node::start(config), Err(NodeError::Config(_))));
}

#[test]
fn drives_may_change_places_and_be_joined() {
    use forebay_types::{Class, PutOutcome};
    let folder = Folder::new();
    let config = |names: &[&str]| {
        let mut config = folder.config();
        config.data =
            names.iter().map(|name| DataConfig { path: folder.0.join(name), capacity: Some(128 * MIB) }).collect();
        config
    };
    let node = Node::start(config(&["d1", "d2"])).unwrap();
    let before = node.shards();
    let ns = hand::Hand::control(&node).namespace("a", Class::Durable).id;
    let bytes = hand::block(1, 50_000);
    assert_eq!(hand::Hand::shard(&node).put_stream(ns, hand::key(1), &bytes), PutOutcome::Durable);
    drop(node);

    // Another order, and a new one in front of both: each shard is who it was.
    let node = Node::start(config(&["d0", "d2", "d1"])).unwrap();
    let after = node.shards();
    assert_eq!(after[1..], [before[1], before[0]]);
    let address = &node.addresses()[0];
    let (mut owner, _) = hand::Hand::with(address, hand::hello(before[0], &[]));
    assert!(owner.get_stream(ns, &[hand::key(1)])[0].1 == bytes);
    drop((owner, node));

    // Without its catalogue a drive is not served, and nothing on it is forgotten.
    let text = refused(config(&["d2"]));
    assert!(text.contains("catalogue") && text.contains("\"a\""), "{text}");
    assert!(!folder.0.join("d2.catalog").exists());
    let node = Node::start(config(&["d1"])).unwrap();
    assert!(hand::Hand::shard(&node).get_stream(ns, &[hand::key(1)])[0].1 == bytes);
}

/// With the catalogue of another node a drive was served, and all that it held was deleted: none of it was in that catalogue.
#[test]
fn a_drive_is_not_served_with_the_catalogue_of_another_node() {
    use forebay_types::{Class, PutOutcome};
    let folder = Folder::new();
    let config = |drive: &str, catalogue: &str| {
        let mut config = folder.config();
        config.data = vec![DataConfig { path: folder.0.join(drive), capacity: Some(128 * MIB) }];
        config.catalogue = Some(folder.0.join(catalogue));
        config
    };
    let bytes = hand::block(1, 50_000);
    let mut spaces = Vec::new();
    for (drive, catalogue) in [("d1", "c1"), ("d2", "c2")] {
        let node = Node::start(config(drive, catalogue)).unwrap();
        let ns = hand::Hand::control(&node).namespace(drive, Class::Durable).id;
        assert_eq!(hand::Hand::shard(&node).put_stream(ns, hand::key(1), &bytes), PutOutcome::Durable);
        spaces.push(ns);
    }
    let text = refused(config("d1", "c2"));
    assert!(text.contains("another catalogue") && text.contains("\"d1\"") && text.contains("--catalog"), "{text}");
    for (at, (drive, catalogue)) in [("d1", "c1"), ("d2", "c2")].into_iter().enumerate() {
        let node = Node::start(config(drive, catalogue)).unwrap();
        assert!(hand::Hand::shard(&node).get_stream(spaces[at], &[hand::key(1)])[0].1 == bytes, "{drive}");
    }
}

#[test]
fn both_engines_serve() {
    for io in [EngineKind::Auto, EngineKind::Threads] {
        let folder = Folder::new();
        let mut config = folder.config();
        config.io = io;
        let node = Node::start(config).unwrap();
        assert!(node.reports()[0].formatted);
        if io == EngineKind::Threads {
            assert_eq!(node.reports()[0].engine, "threads");
        }
    }
}

#[test]
fn the_least_memory_that_is_named_is_enough() {
    use forebay_types::{Class, PutOutcome};
    for segment in [4 * MIB, 32 * MIB] {
        let folder = Folder::new();
        let config = |memory_bytes| {
            let mut config = folder.config();
            config.data[0].capacity = Some(18 * segment.max(16 * MIB));
            config.segment_bytes = Some(segment);
            config.memory_bytes = memory_bytes;
            config
        };
        let node = match Node::start(config(MIB)) {
            Err(NodeError::Memory { need, .. }) => match Node::start(config(need)) {
                Err(NodeError::Memory { need, .. }) => Node::start(config(need)).unwrap(),
                started => started.unwrap(),
            },
            other => panic!("{other:?}"),
        };
        // The largest block fits, again and again.
        let ns = hand::Hand::control(&node).namespace("a", Class::Cache).id;
        let mut hand = hand::Hand::shard(&node);
        let len = node.reports()[0].block_bytes_max as usize;
        for number in 0..4 {
            let bytes = hand::block(number, len);
            assert_eq!(hand.put_stream(ns, hand::key(number), &bytes), PutOutcome::Cached);
            assert!(hand.get_stream(ns, &[hand::key(number)])[0].1 == bytes);
        }
        assert!(matches!(hand.get_stream(ns, &[hand::key(0)])[0].0, forebay_wire::GetOutcome::Hit { .. }));
    }
}
