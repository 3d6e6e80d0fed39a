//! A node: shards, connections, control, metrics, shutdown
