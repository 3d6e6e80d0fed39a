//! Disk bytes to values and back
