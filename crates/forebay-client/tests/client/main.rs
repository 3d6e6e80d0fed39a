//! The client against a node that does as it is told, honest and hostile.

#![expect(clippy::unwrap_used, reason = "all of this is a test")]

mod asynchronous;
mod counted;
mod fake;
mod hostile;
mod lasting;
mod late;
mod lent;
mod places;
mod verbs;

use forebay_client::{Client, GetResult, NamespaceHandle, Options};
use forebay_types::Key;

use fake::Fake;

/// A client of a fake node, and its one namespace.
fn attached(fake: &Fake, options: Options) -> (Client, NamespaceHandle) {
    let options = Options { token: Some(b"secret".to_vec()), ..options };
    let client = Client::connect(&fake.address, options).unwrap();
    let space = client.namespace("kv").unwrap();
    (client, space)
}

/// Bytes that differ from block to block and from place to place.
fn content(n: u64, length: usize) -> Vec<u8> {
    let words = (0..length.div_ceil(8) as u64)
        .map(|i| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ i.wrapping_mul(0xff51_afd7_ed55_8ccd));
    let mut bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    bytes.truncate(length);
    bytes
}

/// Puts blocks of these lengths and gives their keys and contents.
fn filled(space: &NamespaceHandle, lengths: &[usize]) -> Vec<(Key, Vec<u8>)> {
    let blocks: Vec<(Key, Vec<u8>)> = lengths
        .iter()
        .enumerate()
        .map(|(n, length)| (space.derive_key(&n.to_le_bytes()), content(n as u64, *length)))
        .collect();
    let items: Vec<(Key, &[u8])> = blocks.iter().map(|(key, bytes)| (*key, bytes.as_slice())).collect();
    for outcome in space.put(&items) {
        assert!(outcome.is_kept(), "{outcome}");
    }
    blocks
}

fn keys(blocks: &[(Key, Vec<u8>)]) -> Vec<Key> {
    blocks.iter().map(|(key, _)| *key).collect()
}

fn assert_hits(results: Vec<GetResult>, blocks: &[(Key, Vec<u8>)]) {
    assert_eq!(results.len(), blocks.len());
    for (result, (key, bytes)) in results.into_iter().zip(blocks) {
        let missed = result.miss();
        let block = result.hit().unwrap_or_else(|| panic!("{key} was missed: {missed:?}"));
        assert!(*block == bytes[..], "{key} has other bytes");
        assert_eq!(block.meta().key, *key);
    }
}

/// Every verb's numbers add up.
fn assert_adds_up(client: &Client) {
    let counters = client.counters();
    assert!(counters.get.adds_up(), "{counters:?}");
    assert!(counters.contains.adds_up(), "{counters:?}");
    assert!(counters.matched.adds_up(), "{counters:?}");
    assert!(counters.put.adds_up(), "{counters:?}");
}
