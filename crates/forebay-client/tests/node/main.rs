//! The client against a real node in this process, over a Unix socket and over TCP.

#![expect(clippy::unwrap_used, reason = "all of this is a test")]

mod between;
mod busy;
mod expiry;
mod hints;
mod landings;
mod moved;
mod region;
mod wire;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use forebay_client::{Client, ClientError, IntoError, NamespaceHandle, Options};
use forebay_node::{DataConfig, Landings, Node, NodeConfig, NodeHandle};
use forebay_types::{Address, Class, Fingerprint, Key, MissReason, PutOutcome, Tier};

const LENGTHS: [usize; 9] = [1, 4096, 65_535, 65_536, 65_537, 200_000, 1 << 20, 1_000_001, 12];

/// A node in a folder of its own, which goes with it.
struct Home {
    dir: PathBuf,
    shards: u32,
    landings: Landings,
    port: u16,
    node: Option<NodeHandle>,
}

static HOMES: AtomicU32 = AtomicU32::new(0);

impl Home {
    fn new(shards: u32) -> Home {
        Home::landing(shards, Landings::Auto)
    }

    fn landing(shards: u32, landings: Landings) -> Home {
        let n = HOMES.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("forebay-client-test-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut home = Home { dir, shards, landings, port, node: None };
        home.start();
        home
    }

    fn start(&mut self) {
        let data = DataConfig { path: self.dir.join("drive"), capacity: Some(u64::from(self.shards) * (96 << 20)) };
        let mut config = NodeConfig::new(data, u64::from(self.shards) * (64 << 20), self.dir.join("sock"));
        config.shards_per_drive = self.shards;
        config.landings = self.landings;
        config.listen = Some(format!("127.0.0.1:{}", self.port));
        config.token = Some(b"secret".to_vec());
        self.node = Some(Node::start(config).unwrap());
    }

    fn stop(&mut self) {
        self.node.take().unwrap().shutdown(Duration::from_secs(5));
    }

    fn unix(&self) -> Address {
        Address::Unix(self.dir.join("sock"))
    }

    fn tcp(&self) -> Address {
        Address::Tcp(format!("127.0.0.1:{}", self.port))
    }

    fn client(&self, address: &Address) -> (Client, NamespaceHandle) {
        // A slow drive is no fault of the client's.
        let deadline = Duration::from_secs(30);
        let options = Options { token: Some(b"secret".to_vec()), deadline, ..Options::default() };
        let client = Client::connect(address, options).unwrap();
        let space = client.namespace("default").unwrap();
        (client, space)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.node = None;
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn content(n: u64, length: usize) -> Vec<u8> {
    let words = (0..length.div_ceil(8) as u64)
        .map(|i| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i.wrapping_mul(0xff51_afd7_ed55_8ccd));
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(length);
    bytes
}

type Blocks = Vec<(Key, Vec<u8>)>;

fn made(space: &NamespaceHandle, name: &str, lengths: &[usize]) -> Blocks {
    let made =
        |(n, length): (usize, &usize)| (space.derive_key(format!("{name}/{n}").as_bytes()), content(n as u64, *length));
    lengths.iter().enumerate().map(made).collect()
}

fn put_all(space: &NamespaceHandle, blocks: &Blocks) -> Vec<PutOutcome> {
    let items: Vec<(Key, &[u8])> = blocks.iter().map(|(key, bytes)| (*key, bytes.as_slice())).collect();
    space.put(&items)
}

fn filled(space: &NamespaceHandle, name: &str, lengths: &[usize]) -> Blocks {
    let blocks = made(space, name, lengths);
    for outcome in put_all(space, &blocks) {
        assert!(outcome.is_kept(), "{outcome}");
    }
    blocks
}

fn keys(blocks: &Blocks) -> Vec<Key> {
    blocks.iter().map(|(key, _)| *key).collect()
}

fn assert_all_hit(space: &NamespaceHandle, blocks: &Blocks) {
    for (result, (key, bytes)) in space.get(&keys(blocks)).into_iter().zip(blocks) {
        let missed = result.miss();
        let block = result.hit().unwrap_or_else(|| panic!("{key} was missed: {missed:?}"));
        assert!(*block == bytes[..], "{key} has other bytes");
    }
}

fn assert_adds_up(client: &Client) {
    let counters = client.counters();
    for sound in [
        counters.get.adds_up(),
        counters.contains.adds_up(),
        counters.matched.adds_up(),
        counters.put.adds_up(),
        counters.touch.adds_up(),
        counters.prefetch.adds_up(),
    ] {
        assert!(sound, "{counters:?}");
    }
    assert_eq!(counters.corrupt, 0, "{counters:?}");
}

#[test]
fn blocks_of_every_size_come_back_over_both_links() {
    let home = Home::new(1);
    for (name, address) in [("unix", home.unix()), ("tcp", home.tcp())] {
        let (client, space) = home.client(&address);
        let blocks = filled(&space, name, &LENGTHS);
        assert_all_hit(&space, &blocks);
        assert_all_hit(&space, &blocks);
        assert!(put_all(&space, &blocks).iter().all(|outcome| *outcome == PutOutcome::Exists));
        assert_adds_up(&client);
    }
    // What one link stored the other finds.
    let (_, local) = home.client(&home.unix());
    assert_all_hit(&local, &made(&local, "tcp", &LENGTHS));
}

#[test]
fn blocks_survive_a_restart_and_come_from_the_drive() {
    let mut home = Home::new(2);
    let clients = [home.client(&home.unix()), home.client(&home.tcp())];
    let blocks = filled(&clients[0].1, "kept", &LENGTHS);
    home.stop();
    for (_, space) in &clients {
        let hasty = space.with_deadline(Duration::from_millis(500));
        assert!(hasty.get(&keys(&blocks)).iter().all(|result| result.miss() == Some(MissReason::Unavailable)));
    }
    home.start();
    for (client, space) in &clients {
        assert!(client.wait_reachable(Duration::from_secs(30)));
        assert_all_hit(space, &blocks);
        assert_adds_up(client);
    }
    let counters = clients[0].0.counters();
    assert!(counters.restarts >= 1, "{counters:?}");
    assert!(counters.get.hits_local[Tier::Nvme.index()] > 0, "{counters:?}");
}

#[test]
fn many_small_blocks_in_one_call() {
    let home = Home::new(2);
    for (name, address) in [("unix", home.unix()), ("tcp", home.tcp())] {
        let (client, space) = home.client(&address);
        let blocks = filled(&space, name, &[1500; 5000]);
        let mut visits = vec![0; blocks.len()];
        space.get_each(&keys(&blocks), |i, result| {
            assert!(result.unwrap().bytes() == &blocks[i].1[..]);
            visits[i] += 1;
        });
        assert!(visits.iter().all(|n| *n == 1));
        assert_adds_up(&client);
    }
}

#[test]
fn ranges_groups_and_buffers() {
    let home = Home::new(1);
    for (name, address) in [("unix", home.unix()), ("tcp", home.tcp())] {
        let (client, space) = home.client(&address);
        let blocks = filled(&space, name, &[300_000, 70_000]);
        let (key, bytes) = &blocks[0];
        for range in [0..1, 0..300_000, 65_535..65_537, 100_000..250_000, 299_999..400_000] {
            let block = space.get_ranges(&[(*key, range.clone())]).remove(0).hit().unwrap();
            assert!(*block == bytes[range.start as usize..(range.end as usize).min(bytes.len())], "{range:?}");
        }
        let mut buffers = [vec![0; 300_000], vec![0; 10]];
        let mut lent: Vec<&mut [u8]> = buffers.iter_mut().map(Vec::as_mut_slice).collect();
        let results = space.get_into(&keys(&blocks), &mut lent);
        assert_eq!(results, [Ok(300_000), Err(IntoError::TooSmall { need: 70_000 })]);
        assert!(buffers[0] == *bytes);
        let group = space.derive_key(format!("{name}/group").as_bytes());
        let outcome = space.put_group(group, &[("kv", &bytes[..200_000]), ("scales", &bytes[200_000..])]).unwrap();
        assert!(outcome.is_kept());
        let block = space.get(&[group]).remove(0).hit().unwrap();
        assert!(block.part("scales") == Some(&bytes[200_000..]));
        assert_adds_up(&client);
    }
}

#[test]
fn match_contains_and_forget() {
    let mut home = Home::new(3);
    let (client, space) = home.client(&home.unix());
    let blocks = filled(&space, "chain", &[3000; 300]);
    let keys = keys(&blocks);
    let matched = space.match_prefix(&keys, None);
    assert_eq!((matched.n, matched.gap), (300, None));
    assert_eq!(space.forget(&keys[200..202]).unwrap(), [true, true]);
    assert_eq!(space.forget(&keys[200..202]).unwrap(), [false, false]);
    let matched = space.match_prefix(&keys, None);
    assert_eq!(matched.n, 200);
    let answers = space.contains(&keys);
    assert_eq!(answers.iter().filter(|answer| answer.is_err()).count(), 2);
    assert_eq!(client.counters().match_broken, 0);
    assert_adds_up(&client);
    home.stop();
    home.start();
    assert_eq!(space.match_prefix(&keys, None).n, 200, "a forgotten block came back");
    assert!(space.get(&keys[200..202]).iter().all(|result| result.miss().is_some()));
}

#[test]
fn a_fetch_is_planned_from_what_is_there_and_what_gets_took() {
    let mut home = Home::new(2);
    let (client, space) = home.client(&home.unix());
    let blocks = filled(&space, "planned", &[65_536; 40]);
    let mut keys = keys(&blocks);
    keys.extend((0..3u8).map(|n| space.derive_key(&[n; 9])));
    let before = space.plan_fetch(&keys);
    assert_eq!((before.missing, before.confidence, before.seconds), (3, 0.0, 0.0), "nothing was fetched yet");
    for _ in 0..10 {
        assert_all_hit(&space, &blocks);
    }
    let plan = space.plan_fetch(&keys);
    assert_eq!((plan.missing, plan.tier_bytes.iter().sum::<u64>()), (3, 40 * 65_536));
    assert!(plan.seconds > 0.0 && plan.confidence > 0.0 && plan.confidence <= 1.0, "{plan:?}");
    home.stop();
    let plan = space.with_deadline(Duration::from_millis(500)).plan_fetch(&keys);
    assert_eq!((plan.missing, plan.seconds), (43, 0.0), "a dead node brings nothing");
    assert_adds_up(&client);
}

#[test]
fn namespaces_are_made_listed_and_deleted() {
    let home = Home::new(2);
    let (client, _) = home.client(&home.unix());
    let mut fingerprint = Fingerprint::default();
    fingerprint.set("model", "m1").unwrap();
    let space = client.create_namespace("kv", Class::Durable, None, &fingerprint).unwrap();
    client.create_namespace("kv", Class::Durable, None, &fingerprint).unwrap();
    assert!(matches!(
        client.create_namespace("kv", Class::Cache, None, &fingerprint),
        Err(ClientError::NamespaceExists { .. } | ClientError::NamespaceDiffers { .. })
    ));
    let blocks = made(&space, "durable", &[10_000; 8]);
    assert!(put_all(&space, &blocks).iter().all(|outcome| *outcome == PutOutcome::Durable));
    assert_all_hit(&space, &blocks);
    let mut other = Fingerprint::default();
    other.set("model", "m2").unwrap();
    let error = client.namespace_expecting("kv", &other).unwrap_err();
    assert!(matches!(error, ClientError::NamespaceDiffers { .. }) && error.to_string().contains("model"), "{error}");
    assert!(client.list_namespaces().unwrap().iter().any(|namespace| namespace.name == "kv"));
    client.delete_namespace("kv").unwrap();
    assert!(matches!(client.namespace("kv"), Err(ClientError::NamespaceUnknown { .. })));
    for result in space.get(&keys(&blocks)) {
        assert_eq!(result.miss(), Some(MissReason::Namespace));
    }
    assert!(client.node_stats().unwrap().starts_with('{'));
    assert_adds_up(&client);
}

#[test]
fn a_wrong_token_is_refused_with_a_sentence() {
    let home = Home::new(1);
    let options = Options { token: Some(b"guess".to_vec()), ..Options::default() };
    let error = Client::connect(&home.tcp(), options).unwrap_err();
    assert!(matches!(error, ClientError::Credential { .. }), "{error}");
}

#[test]
fn threads_put_and_get_while_the_node_restarts_and_never_see_a_wrong_byte() {
    let mut home = Home::new(2);
    let clients = [home.client(&home.unix()), home.client(&home.tcp())];
    let stop = AtomicBool::new(false);
    let hits = AtomicU32::new(0);
    std::thread::scope(|scope| {
        for (t, (_, space)) in clients.iter().enumerate() {
            let (stop, hits) = (&stop, &hits);
            scope.spawn(move || {
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    let blocks = made(space, &format!("{t}/{}", round % 5), &[100_000; 16]);
                    put_all(space, &blocks);
                    space.get_each(&keys(&blocks), |i, result| {
                        if let Ok(block) = result {
                            assert!(block.bytes() == &blocks[i].1[..]);
                            hits.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                    round += 1;
                }
            });
        }
        for _ in 0..3 {
            let before = hits.load(Ordering::Relaxed);
            while hits.load(Ordering::Relaxed) < before + 64 {
                std::thread::yield_now();
            }
            home.node = None;
            home.start();
        }
        stop.store(true, Ordering::Relaxed);
    });
    for (client, _) in &clients {
        assert_adds_up(client);
    }
}
