//! The words of Forebay, each with its unit and its bound.
//!
//! Every other room speaks in these types. Nothing here does I/O, waits, or knows a policy. What a word means is told
//! in `docs/ARCHITECTURE.md`; what its bytes look like, where it has any, in `docs/disk-format.md`.

mod address;
mod block;
mod check;
mod descriptor;
mod ids;
pub mod limits;
mod namespace;
mod outcome;
mod reuse;
mod seams;
mod size;
mod span;
mod usage;

pub use address::{Address, AddressError};
pub use block::{BlockMeta, CheckKind, Part, PartName};
pub use check::{Crc64, PieceSums, SumBinding, crc64, pieces_of, verify_range};
pub use descriptor::{Descriptor, DescriptorError};
pub use ids::{Epoch, Key, NamespaceId, ParseIdError, RegionId, ShardId, Tenant, Version};
pub use namespace::{Class, FINGERPRINT_FIELDS, Fingerprint, Namespace, NamespaceError, Secret, check_namespace_name};
pub use outcome::{LandingKind, MissReason, PutOutcome, RefusedReason, Tier};
pub use reuse::Reuse;
pub use seams::{Clock, Entropy, Millis, SeededEntropy, SystemClock, SystemEntropy};
pub use size::{ParseSizeError, format_size, parse_size};
pub use span::{ParseSpanError, format_span_s, parse_span_s};
pub use usage::{Reported, USAGE_COUNTS, Usage, UsageRow};
