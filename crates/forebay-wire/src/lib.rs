//! Network bytes to messages and back. One protocol for Unix sockets and TCP.
//!
//! This room opens no socket and keeps no state: what a connection may say when is told in `docs/wire-format.md` and held by the two ends.
//! A frame is a header of fixed size, then a body; headers and bodies carry a checksum, and DATA's payload is covered by the block's own
//! sums. Bytes that decode are canonical: encoding the message again gives the same bytes.

mod bytes;
mod decode;
mod encode;
mod error;
mod frame;
pub mod fuzz;
mod get_outcomes;
pub mod limits;
mod message;
mod put;
mod region;

pub use decode::{Frame, decode_body, next_frame};
pub use encode::encode;
pub use error::{Blame, EncodeError, WireError};
pub use frame::{FrameHeader, HEADER_BYTES, Kind, Side, decode_header, encode_data_header};
pub use get_outcomes::{GetOutcomeRef, GetOutcomesView, GetOutcomesWriter, get_outcome_bytes, get_outcomes_view};
pub use message::*;
pub use put::{PutItemRef, PutView, put_item_bytes, put_view};
pub use region::RegionKind;
