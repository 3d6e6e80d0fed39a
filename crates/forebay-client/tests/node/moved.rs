//! A node that starts again with another set of drives while clients are attached: their tables are old, and nothing they do follows them.

use forebay_node::{DataConfig, NodeConfig};
use forebay_types::MissReason;

use super::*;

/// Starts the node of a home anew on these drives.
fn start_on(home: &mut Home, drives: &[&str]) {
    home.stop();
    let drive = |name: &&str| DataConfig { path: home.dir.join(name), capacity: Some(96 << 20) };
    let mut config = NodeConfig::new(drive(&drives[0]), drives.len() as u64 * (64 << 20), home.dir.join("sock"));
    config.data = drives.iter().map(drive).collect();
    config.listen = Some(format!("127.0.0.1:{}", home.port));
    config.token = Some(b"secret".to_vec());
    home.node = Some(Node::start(config).unwrap());
}

const SMALL: [usize; 60] = [3000; 60];

#[test]
fn what_a_client_puts_with_an_old_table_is_where_others_look_for_it() {
    let mut home = Home::new(1);
    for address in [home.unix(), home.tcp()] {
        let (client, space) = home.client(&address);
        let name = address.to_string();
        filled(&space, &format!("{name} before"), &SMALL);
        start_on(&mut home, &["drive", "added"]);
        // The call that finds its connection gone finds another epoch, and asks who is who before it puts.
        let blocks = filled(&space, &format!("{name} after"), &SMALL);
        assert_eq!(client.counters().moved, SMALL.len() as u64, "{:?}", client.counters());
        assert_adds_up(&client);
        let (other, fresh) = home.client(&address);
        assert_all_hit(&fresh, &blocks);
        assert_eq!(other.counters().moved, 0);
        start_on(&mut home, &["drive"]);
    }
}

#[test]
fn every_verb_with_an_old_table_asks_the_right_shard_in_the_same_call() {
    let mut home = Home::new(1);
    start_on(&mut home, &["drive", "added"]);
    let (writer, space) = home.client(&home.unix());
    let blocks = filled(&space, "kept", &SMALL);
    assert_adds_up(&writer);
    for verb in 0..4 {
        // Attached while the second drive was not there, so that it takes the first for the owner of everything.
        start_on(&mut home, &["drive"]);
        let (client, space) = home.client(&home.unix());
        assert!(space.get(&keys(&blocks)).iter().any(|result| result.miss() == Some(MissReason::Absent)));
        start_on(&mut home, &["drive", "added"]);
        match verb {
            0 => assert_all_hit(&space, &blocks),
            1 => assert!(space.contains(&keys(&blocks)).iter().all(Result::is_ok)),
            2 => assert_eq!(space.match_prefix(&keys(&blocks), None).n, blocks.len()),
            _ => assert!(space.forget(&keys(&blocks)).unwrap().iter().all(|was_here| *was_here)),
        }
        assert_eq!(client.counters().moved, blocks.len() as u64, "{:?}", client.counters());
        assert_adds_up(&client);
    }
}

#[test]
fn a_client_of_a_drive_that_was_taken_out_misses_what_was_there_and_puts_it_elsewhere() {
    let mut home = Home::new(1);
    start_on(&mut home, &["drive", "added"]);
    let (client, space) = home.client(&home.unix());
    let blocks = filled(&space, "kept", &SMALL);
    start_on(&mut home, &["drive"]);
    let got = space.get(&keys(&blocks));
    let absent = got.iter().filter(|result| result.miss() == Some(MissReason::Absent)).count();
    let hits = got.iter().filter(|result| result.miss().is_none()).count();
    assert!(absent > 0 && hits > 0 && absent + hits == blocks.len(), "{absent} {hits}");
    assert!(put_all(&space, &blocks).iter().all(|outcome| outcome.is_kept()));
    assert_all_hit(&space, &blocks);
    assert_adds_up(&client);
}
