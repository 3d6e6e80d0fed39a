//! What this program is when another of it has started it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use forebay_io::Region;
use forebay_node::{Landings, Node};
use forebay_types::{Address, NamespaceId, RegionId, ShardId};
use forebay_wire::{GetItem, Message, Place};

use crate::hand::{Folder, Hand, In, MIB, hello, key};
use crate::other::{ROLE, tell, wait_to_go};

/// Does nothing unless it was started to be something else.
#[test]
fn a_process_in_another_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let words: Vec<&str> = role.split('\n').collect();
    match words.as_slice() {
        ["node", folder, memory_mib] => node(folder, memory_mib.parse().unwrap()),
        ["idle", address, shard, count] => idle(&address.parse().unwrap(), shard_of(shard), count.parse().unwrap()),
        ["land", address, shard, namespace, first] => {
            let namespace = NamespaceId(namespace.parse().unwrap());
            land(&address.parse().unwrap(), shard_of(shard), namespace, first.parse().unwrap());
        }
        other => panic!("no role: {other:?}"),
    }
}

fn shard_of(text: &str) -> ShardId {
    ShardId(std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()))
}

pub(crate) fn text_of(shard: ShardId) -> String {
    shard.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A node that serves until its test lets it go.
fn node(folder: &str, memory_mib: u64) {
    // The folder is its test's, which removes it.
    let folder = std::mem::ManuallyDrop::new(Folder(folder.into()));
    let mut config = folder.config();
    config.memory_bytes = memory_mib * MIB;
    config.metrics = Some("127.0.0.1:0".parse().unwrap());
    // What is killed in mid-landing shall be written to by the drive itself, also where clients have no huge pages.
    config.landings = Landings::Direct;
    let node = Node::start(config).unwrap();
    node.notes().iter().for_each(|note| tell(note));
    tell(&format!("serves {}", node.metrics_address().unwrap()));
    wait_to_go();
}

/// Connections that were welcomed and say nothing more.
fn idle(address: &Address, shard: ShardId, count: usize) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    // Every tenth is with control, as an application's first one is.
    let whom = |i: usize| if i.is_multiple_of(10) { ShardId::default() } else { shard };
    let held: Vec<Hand> = (0..count).map(|i| Hand::with(address, hello(whom(i), &[])).0).collect();
    tell(&format!("holds {}", held.len()));
    wait_to_go();
}

/// Blocks that are landed: more than a node of 64 MiB keeps in DRAM, so that the drive goes on reading.
pub(crate) const LANDED: u64 = 80;

/// Gets that land in a region, sixteen at a time and one such message behind the other, until it is killed. Tells when the first have landed and
/// the next are asked for.
fn land(address: &Address, shard: ShardId, ns: NamespaceId, first: u64) {
    let (mut hand, _) = Hand::with(address, hello(shard, &[]));
    let region = Region::owned(32 << 20).unwrap();
    hand.lend(1, &region);
    let slice = region.alloc(24 << 20).unwrap();
    for round in 0.. {
        let item = |slot: u64| {
            let to = Place { region: RegionId(1), offset: slice.offset() as u64 + slot * (3 << 19), room: 3 << 19 };
            GetItem { key: key((first + 16 * round + slot) % LANDED), offset: 0, length: 0, to }
        };
        let (_, get) = hand.get_message(ns, (0..16).map(item).collect(), 30_000_000);
        hand.send(&get);
        if round == 1 {
            tell("lands");
        }
        let mut left = 16;
        while left > 0 {
            match hand.next() {
                In::Message(Message::GetOutcomes { outcomes, .. }) => left -= outcomes.len(),
                other => panic!("{other:?}"),
            }
        }
    }
}
