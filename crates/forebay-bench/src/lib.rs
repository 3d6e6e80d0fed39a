//! Workloads, limits and claim cards
