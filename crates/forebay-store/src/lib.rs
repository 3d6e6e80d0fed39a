//! One shard: index, segments, eviction, recovery.
//!
//! Events in, actions out, on one thread: the caller drives [`Store::turn`], passes the time in, and takes [`Event`]s out. Everything slow is an
//! operation on a [`forebay_io::Disk`]. The room knows no network, reads no clock, and has no `unsafe`.
//!
//! A block is put into a slot of the arena ([`Store::reserve`], [`Store::commit`]), written behind the others of its class in an open segment, and
//! found through the index. Full segments are sealed with a footer; the segment with the least living worth is evicted to make room.

mod admit;
mod blocking;
mod bucket;
mod budget;
mod clock;
mod curve;
mod dram;
mod dropped;
mod evict;
mod expiry;
mod face;
mod flush;
mod forget;
mod format;
mod gather;
mod get;
mod ghost;
mod hints;
mod index;
mod lanes;
mod leases;
mod look;
mod money;
mod mutant;
mod namespaces;
mod neighbours;
mod order;
mod parts;
mod price;
mod put;
mod range;
mod recover;
mod scan;
mod scrub;
mod scrubbed;
mod segments;
mod slab;
mod stats;
mod store;
mod sums;
mod table;
mod taking;
mod verify;
mod write;

pub use admit::AdmitsBy;
pub use face::{
    Committed, Damage, Damaged, Event, FormatParams, Found, GetRequest, GetResult, GetStarted, PutSlot, RecoveryReport,
    Reserve, Sighting, StoreError,
};
pub use forebay_format::{NamespaceRow, slice_bytes_min};
pub use forebay_types::Reuse;
pub use format::format_slice;
pub use money::{AccountView, Money};
#[cfg(feature = "mutants")]
pub use mutant::Mutant;
pub use price::Prices;
pub use stats::StoreStats;
pub use store::{Batch, Store, StoreConfig};
