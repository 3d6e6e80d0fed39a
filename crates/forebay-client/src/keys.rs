//! How keys are made: 128 bits of BLAKE3, keyed by the namespace's secret.
//!
//! Nobody without the secret can compute a namespace's keys, and equal engine hashes in two namespaces give unrelated keys. The derivation is a
//! promise: changing a bit of it empties every cache. The vectors below hold it.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_what_they_always_were() {
        let secrets = [Secret([0; 32]), Secret(std::array::from_fn(|i| i as u8))];
        let derived: Vec<String> = secrets
            .iter()
            .flat_map(|secret| [&b""[..], b"block hash", &[0xff; 32]].map(|hash| derive_key(secret, hash).to_string()))
            .collect();
        let golden = [
            "c287b3c7d66cd90a8ceb83952d0b8973",
            "cfe377144232d003812008bf402560b2",
            "3963ab0bd18c8452d898b97fb1ce4bf0",
            "a23d56010b968771f49197bd515532dd",
            "8744eab745078ec382b8d4b0f9f16603",
            "eb04457cc73e067200571de15ded815e",
        ];
        assert_eq!(derived, golden);
        assert_eq!(content_key(&secrets[1], b"content").to_string(), "9476ebc9b56b744895b705420d209125");
    }

    #[test]
    fn another_secret_gives_unrelated_keys() {
        assert_ne!(derive_key(&Secret([1; 32]), b"hash"), derive_key(&Secret([2; 32]), b"hash"));
        assert_ne!(derive_key(&Secret([1; 32]), b"a"), content_key(&Secret([1; 32]), b"a"));
    }
}
