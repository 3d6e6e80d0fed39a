//! What applications link: the client.
//!
//! A [`Client`] is cheap to clone and used from any number of threads; every call blocks until it is done or its deadline has passed. It knows
//! who owns which key, asks all owners at once, verifies every block on its final bytes, and turns whatever goes wrong with a key into an
//! outcome: a miss or a refusal with its reason. It knows no disk.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use forebay_client::{Client, GetResult, Options};
//!
//! let client = Client::connect(&"unix:/tmp/forebay.sock".parse()?, Options::default())?;
//! let space = client.namespace("default")?;
//! let key = space.derive_key(b"the engine's hash of a block");
//! space.put(&[(key, b"its bytes")]);
//! for result in space.get(&[key]) {
//!     match result {
//!         GetResult::Hit(block) => assert_eq!(&*block, b"its bytes"),
//!         GetResult::Miss(reason) => println!("compute it again: {reason}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod asynchronous;
mod block;
mod breaker;
mod client;
mod coming;
mod counters;
mod drive;
mod error;
mod forget;
mod get;
mod handle;
mod hints;
mod interrupt;
mod keys;
mod lent;
mod link;
mod matching;
mod memory;
mod mesh;
mod options;
mod plan;
mod probe;
mod promises;
mod put;
mod report;
mod request;
mod shard;

pub use asynchronous::{AsyncClient, AsyncNamespace, Call, Completions};
pub use block::{Block, BlockRef, GetResult, IntoError};
pub use client::Client;
pub use counters::{Counters, GetCounters, HintCounters, PutCounters};
pub use error::ClientError;
pub use forebay_io::Slice;
pub use forebay_types::{Reported, Reuse};
pub use handle::NamespaceHandle;
pub use interrupt::Interrupt;
pub use keys::{content_key, derive_key};
pub use lent::{Lending, LentBlock, LentMemory, LentResult, Place};
pub use matching::Matched;
#[cfg(feature = "mutants")]
pub use options::Mutant;
pub use options::Options;
pub use plan::Plan;
pub use put::{PutBlock, PutBytes};
