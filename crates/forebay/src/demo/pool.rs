//! What the demo needs of a pool of blocks, so that its own counting can be tested without a node.

use forebay_client::{Client, NamespaceHandle};
use forebay_types::{Key, PutOutcome, Tier};

/// A pool of blocks. Used from several threads.
pub(crate) trait Pool: Sync {
    /// The key of a block.
    fn key(&self, scope: u32, id: u64) -> Key;
    /// How many leading keys are there.
    fn matched(&self, keys: &[Key]) -> usize;
    /// Fetches blocks and shows each that came to `visit`, with its index; those that did not come are not shown.
    fn get_each(&self, keys: &[Key], visit: &mut dyn FnMut(usize, &[u8], Tier));
    /// Puts blocks; one outcome each.
    fn put(&self, blocks: &[(Key, &[u8])]) -> Vec<PutOutcome>;
}

/// What the engine's own hash of a block would be: the demo's blocks are named by scope and id.
pub(crate) fn engine_hash(scope: u32, id: u64) -> [u8; 12] {
    let mut out = [0; 12];
    out[..4].copy_from_slice(&scope.to_le_bytes());
    out[4..].copy_from_slice(&id.to_le_bytes());
    out
}

/// A namespace of a real node.
pub(crate) struct Node {
    client: Client,
    space: NamespaceHandle,
}

impl Node {
    /// From a client, in its default namespace.
    pub(crate) fn new(client: Client) -> Result<Self, forebay_client::ClientError> {
        let space = client.namespace("default")?;
        Ok(Node { client, space })
    }

    /// The node's own figures, as JSON.
    pub(crate) fn stats(&self) -> Result<String, forebay_client::ClientError> {
        self.client.node_stats()
    }
}

impl Pool for Node {
    fn key(&self, scope: u32, id: u64) -> Key {
        self.space.derive_key(&engine_hash(scope, id))
    }

    fn matched(&self, keys: &[Key]) -> usize {
        self.space.match_prefix(keys, None).n
    }

    fn get_each(&self, keys: &[Key], visit: &mut dyn FnMut(usize, &[u8], Tier)) {
        self.space.get_each(keys, |index, result| {
            if let Ok(block) = result {
                visit(index, block.bytes(), block.tier());
            }
        });
    }

    fn put(&self, blocks: &[(Key, &[u8])]) -> Vec<PutOutcome> {
        self.space.put(blocks)
    }
}
