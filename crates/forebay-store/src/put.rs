//! Putting: from a reservation to the ack.

use forebay_types::Descriptor;

/// What a reservation remembers.
#[derive(Debug)]
pub(crate) struct PutMeta {
    pub(crate) descriptor: Descriptor,
}
