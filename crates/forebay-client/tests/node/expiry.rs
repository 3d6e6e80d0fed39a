//! Blocks expire: by their put, by their handle, by their namespace, and stay expired over restarts.

use std::time::Duration;

use forebay_client::PutBlock;
use forebay_types::{Class, Clock, Fingerprint, MissReason, SystemClock, Tier};

use crate::hints::{number, until};
use crate::{Home, assert_adds_up, assert_all_hit, filled, keys, made};

#[test]
fn blocks_expire_as_their_put_or_handle_or_namespace_says_and_stay_expired() {
    let mut home = Home::new(2);
    let (client, space) = home.client(&home.unix());
    let none = Fingerprint::default();
    let brief = client.create_expiring_namespace("brief", Class::Cache, None, Some(2), &none).unwrap();
    client.create_expiring_namespace("brief", Class::Cache, None, Some(2), &none).unwrap();
    assert!(client.create_expiring_namespace("brief", Class::Cache, None, Some(3), &none).is_err());
    assert_eq!(client.namespace("brief").unwrap().namespace().ttl_s, Some(2));
    assert!(client.list_namespaces().unwrap().iter().any(|ns| ns.name == "brief" && ns.ttl_s == Some(2)));

    let lasting = filled(&space, "lasting", &[5000; 8]);
    let by_handle = filled(&space.with_ttl(Duration::from_millis(1500)), "handle", &[5000, 200_000]);
    let by_space = filled(&brief, "space", &[5000, 200_000]);
    let longer = filled(&brief.with_ttl(Duration::from_secs(3600)), "longer", &[5000, 200_000]);
    let own = made(&space, "own", &[5000, 70_000]);
    let soon = SystemClock::new().utc_s() + 4;
    for (key, bytes) in &own {
        let block = PutBlock::new(*key, bytes.as_slice()).expiry_utc_s(soon);
        assert!(space.put_blocks(vec![block]).iter().all(|outcome| outcome.is_kept()));
    }
    let expired = |answers: Vec<Result<Tier, MissReason>>| answers.iter().all(|a| *a == Err(MissReason::Expired));
    until(|| expired(space.contains(&keys(&by_handle))), "the handle's time");
    until(|| expired(brief.contains(&keys(&by_space))), "the namespace's time");
    until(|| expired(space.contains(&keys(&own))), "the put's own time");
    for (space, blocks) in [(&space, &by_handle), (&brief, &by_space), (&space, &own)] {
        assert!(space.get(&keys(blocks)).iter().all(|result| result.miss() == Some(MissReason::Expired)));
    }
    assert_all_hit(&space, &lasting);
    assert_all_hit(&brief, &longer);
    until(|| (0..2).map(|i| number(&home, &format!("shards.{i}.expired"))).sum::<u64>() == 6, "they are dropped");
    home.stop();
    home.start();
    for (space, blocks) in [(&space, &by_handle), (&brief, &by_space), (&space, &own)] {
        assert!(space.get(&keys(blocks)).iter().all(|result| result.miss().is_some()));
    }
    assert_all_hit(&space, &lasting);
    assert_all_hit(&brief, &longer);
    assert_adds_up(&client);
}
