//! One shard: index, segments, eviction, recovery
