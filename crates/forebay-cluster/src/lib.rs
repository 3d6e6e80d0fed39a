//! Placement: which shard owns a key
