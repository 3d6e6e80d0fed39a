//! Hints reach the shards, and change what is kept and where.

use std::time::Duration;

use forebay_client::{NamespaceHandle, Reuse};
use forebay_node::{DataConfig, Node, NodeConfig};
use forebay_types::{PutOutcome, RefusedReason, Tier};

use crate::{Home, assert_adds_up, assert_all_hit, filled, keys, made, put_all};

/// A number of the node's statistics: `touch.hits.dram` and the like.
pub(crate) fn number(home: &Home, path: &str) -> u64 {
    let stats: serde_json::Value = serde_json::from_str(&home.node.as_ref().unwrap().stats_json()).unwrap();
    let found = path.split('.').fold(&stats, |value, field| match field.parse::<usize>() {
        Ok(at) => &value[at],
        Err(_) => &value[field],
    });
    found.as_u64().unwrap_or_else(|| panic!("{path} in {stats}"))
}

/// Statistics are published a few times a second, and hints are not answered.
#[expect(clippy::disallowed_methods, reason = "nothing tells when a hint has been acted upon")]
pub(crate) fn until(mut is: impl FnMut() -> bool, what: &str) {
    for _ in 0..1500 {
        if is() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("not within 30 s: {what}");
}

#[test]
fn what_is_touched_stays_while_ten_times_the_drive_is_written() {
    let home = Home::new(1);
    let (client, space) = home.client(&home.unix());
    let (touched, left) = (filled(&space, "touched", &[60_000; 10]), filled(&space, "left", &[60_000; 10]));
    let capacity = number(&home, "shards.0.capacity_bytes");
    let mut written = 0;
    for round in 0.. {
        let streamed = filled(&space, &format!("stream/{round}"), &[500_000; 8]);
        written += streamed.len() as u64 * 500_000;
        space.touch(&keys(&touched), Reuse::Turn);
        if written > 10 * capacity {
            break;
        }
    }
    assert_all_hit(&space, &touched);
    for result in space.get(&keys(&left)) {
        assert!(result.miss().is_some(), "nobody used it");
    }
    let asked = client.counters().touch.asked;
    until(|| number(&home, "touch.asked") == asked, "every hint arrives");
    assert_eq!(number(&home, "touch.hits.dram") + number(&home, "touch.hits.nvme"), asked);
    assert!(client.counters().touch.adds_up() && client.counters().touch.dropped == 0);
    assert_adds_up(&client);
}

#[test]
fn what_is_prefetched_is_a_hit_in_dram() {
    let mut home = Home::new(2);
    let clients = [home.client(&home.unix()), home.client(&home.tcp())];
    let blocks = filled(&clients[0].1, "queued", &[1, 4096, 65_537, 200_000, 1 << 20, 12, 5000, 90_000]);
    for (client, space) in clients {
        home.stop();
        home.start();
        assert!(space.contains(&keys(&blocks)).iter().all(|answer| *answer == Ok(Tier::Nvme)));
        space.prefetch(&keys(&blocks), Duration::from_secs(10));
        until(|| number(&home, "prefetch.hits.nvme") == blocks.len() as u64, "they come to DRAM");
        let before = client.counters().get;
        assert_all_hit(&space, &blocks);
        let get = client.counters().get;
        let hits = |tier: Tier| get.hits_local[tier.index()] + get.hits_remote[tier.index()];
        let earlier = |tier: Tier| before.hits_local[tier.index()] + before.hits_remote[tier.index()];
        assert_eq!(hits(Tier::Dram) - earlier(Tier::Dram), blocks.len() as u64);
        assert_eq!(hits(Tier::Nvme), earlier(Tier::Nvme));
        until(
            || (0..2).map(|i| number(&home, &format!("shards.{i}.prefetch_used"))).sum::<u64>() == blocks.len() as u64,
            "each was of use",
        );
        assert_eq!(client.counters().prefetch.sent, blocks.len() as u64);
        assert_adds_up(&client);
    }
    let (client, space) = home.client(&home.unix());
    home.node = None;
    space.touch(&keys(&blocks), Reuse::Done);
    space.prefetch(&keys(&blocks), Duration::from_secs(1));
    assert_eq!((client.counters().touch.dropped, client.counters().prefetch.dropped), (8, 8), "nobody is there");
    assert_adds_up(&client);
}

/// While the write budget is short, what is said of reuse decides who is admitted.
#[test]
fn what_is_said_of_reuse_reaches_the_store_over_both_links() {
    const LENGTH: usize = 200_000;
    let mut home = Home::new(1);
    home.stop();
    let data = DataConfig { path: home.dir.join("drive"), capacity: Some(96 << 20) };
    let mut config = NodeConfig::new(data, 64 << 20, home.dir.join("sock"));
    config.listen = Some(format!("127.0.0.1:{}", home.port));
    config.token = Some(b"secret".to_vec());
    // 32 MiB a day: what flows in during the test is nothing beside it.
    config.endurance = Some((3650 * (32 << 20), 3650 * 86_400));
    home.node = Some(Node::start(config).unwrap());
    let put = |space: &NamespaceHandle, name: &str, length: usize| put_all(space, &made(space, name, &[length]))[0];
    let refused = PutOutcome::Refused(RefusedReason::Admission);
    let (_, space) = home.client(&home.unix());
    let mut spent = 0;
    while put(&space, &format!("spent/{spent}"), LENGTH) == PutOutcome::Cached {
        spent += 1;
        assert!(spent < 200, "three quarters of the budget go to whoever comes");
    }
    for (before, address) in [home.unix(), home.tcp()].into_iter().enumerate() {
        let (client, space) = home.client(&address);
        // These take so much of what is kept for those who come back that nothing that flows in meanwhile is enough for anybody else.
        for reuse in [Reuse::Tool, Reuse::Turn, Reuse::Seconds(60)] {
            let name = format!("{address}/{reuse:?}");
            assert_eq!(put(&space.with_reuse(reuse), &name, LENGTH), PutOutcome::Cached, "{name}");
        }
        assert_eq!(put(&space, &format!("{address}/nothing"), LENGTH), refused);
        assert_eq!(put(&space.with_reuse(Reuse::Done), &format!("{address}/done"), LENGTH), refused);
        // Somebody used it in memory of his own: it is not here, and it is wanted.
        let wanted = format!("{address}/wanted");
        space.touch(&keys(&made(&space, &wanted, &[LENGTH])), Reuse::Turn);
        until(|| number(&home, "touch.asked") == before as u64 + 1, "the touch arrives");
        assert_eq!(put(&space, &wanted, LENGTH), PutOutcome::Cached);
        assert_adds_up(&client);
    }
}
