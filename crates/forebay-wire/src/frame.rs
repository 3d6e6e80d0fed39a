//! The header of every frame: what follows, how much, and whether either was damaged.

use forebay_types::crc64;
use forebay_types::limits::{BLOCK_BYTES_MAX, DATA_FRAME_BYTES_MAX, KEYS_PER_MESSAGE_MAX, MESSAGE_BYTES_MAX};

use crate::bytes::{u32_at, u64_at};
use crate::{DataHeader, WireError};

/// Bytes of every frame's header.
pub const HEADER_BYTES: usize = 32;

/// The letters `FB`.
const MAGIC: u16 = u16::from_le_bytes(*b"FB");
/// Where the header's own checksum lies; it covers all before it.
const SUM_AT: usize = 24;

/// Which end may send a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The node.
    Node,
    /// Both.
    Either,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal $side:ident),* $(,)?) => {
        /// What a frame is. The number is the byte on the wire.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind { $($(#[$doc])* $name = $code),* }

        impl Kind {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            /// From the byte on the wire.
            pub const fn from_code(code: u8) -> Option<Kind> {
                match code { $($code => Some(Kind::$name),)* _ => None }
            }

            /// Which end may send it. What comes from the other end is that peer's error.
            pub const fn side(self) -> Side {
                match self { $(Kind::$name => Side::$side),* }
            }
        }
    };
}

kinds! {
    /// [`crate::Message::Hello`].
    Hello = 1 Client,
    /// [`crate::Message::Welcome`].
    Welcome = 2 Node,
    /// [`crate::Message::Error`].
    Error = 3 Node,
    /// [`crate::Message::Members`].
    Members = 8 Client,
    /// [`crate::Message::MembersAre`].
    MembersAre = 9 Node,
    /// [`crate::Message::Attach`].
    Attach = 10 Client,
    /// [`crate::Message::NamespaceCreate`].
    NamespaceCreate = 11 Client,
    /// [`crate::Message::NamespaceIs`].
    NamespaceIs = 12 Node,
    /// [`crate::Message::NamespaceList`].
    NamespaceList = 13 Client,
    /// [`crate::Message::NamespacesAre`].
    NamespacesAre = 14 Node,
    /// [`crate::Message::NamespaceDelete`].
    NamespaceDelete = 15 Client,
    /// [`crate::Message::Done`].
    Done = 16 Node,
    /// [`crate::Message::Stats`].
    Stats = 17 Client,
    /// [`crate::Message::StatsAre`].
    StatsAre = 18 Node,
    /// [`crate::Message::RegionAdd`].
    RegionAdd = 24 Client,
    /// [`crate::Message::RegionDrop`].
    RegionDrop = 25 Client,
    /// [`crate::Message::Get`].
    Get = 32 Client,
    /// [`crate::Message::GetOutcomes`].
    GetOutcomes = 33 Node,
    /// [`crate::Message::Put`].
    Put = 34 Client,
    /// [`crate::Message::PutGo`].
    PutGo = 35 Node,
    /// [`crate::Message::PutOutcomes`].
    PutOutcomes = 36 Node,
    /// [`crate::Message::Match`].
    Match = 37 Client,
    /// [`crate::Message::MatchOutcomes`].
    MatchOutcomes = 38 Node,
    /// [`crate::Message::Forget`].
    Forget = 39 Client,
    /// [`crate::Message::ForgetOutcomes`].
    ForgetOutcomes = 40 Node,
    /// [`crate::Message::Touch`].
    Touch = 41 Client,
    /// [`crate::Message::Prefetch`].
    Prefetch = 42 Client,
    /// [`crate::Message::Corrupt`].
    Corrupt = 43 Client,
    /// [`crate::Message::Cancel`].
    Cancel = 44 Client,
    /// [`crate::Message::Credit`].
    Credit = 45 Client,
    /// [`crate::Message::Report`].
    Report = 46 Client,
    /// Payload: the header is a [`DataHeader`].
    Data = 48 Either,
}

/// A header that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What it is.
    pub kind: Kind,
    /// Bytes that follow: at most `MESSAGE_BYTES_MAX`; for DATA, 1 to `DATA_FRAME_BYTES_MAX`.
    pub body_len: u32,
    /// Number of the request; 0 for kinds without one.
    pub request: u32,
    /// DATA: item of the request, below `KEYS_PER_MESSAGE_MAX`. Else 0.
    item: u32,
    /// DATA: first byte's offset in its block. Else the body's checksum.
    word: u64,
}

impl FrameHeader {
    pub(crate) fn of_body(kind: Kind, request: u32, body: &[u8]) -> Self {
        debug_assert!(kind != Kind::Data && body.len() <= MESSAGE_BYTES_MAX);
        FrameHeader { kind, body_len: body.len() as u32, request, item: 0, word: crc64(body) }
    }

    /// The DATA header it is, or `None`.
    pub fn data(&self) -> Option<DataHeader> {
        (self.kind == Kind::Data).then_some(DataHeader {
            request: self.request,
            item: self.item,
            offset: self.word,
            length: self.body_len,
        })
    }

    /// Checks a body against length and checksum.
    pub(crate) fn check_body(&self, body: &[u8]) -> Result<(), WireError> {
        if self.kind == Kind::Data {
            return Err(WireError::Malformed("DATA is no message"));
        }
        match body.len().checked_sub(self.body_len as usize) {
            None => Err(WireError::Short),
            Some(0) if crc64(body) == self.word => Ok(()),
            Some(0) => Err(WireError::BodyChecksum),
            Some(behind) => Err(WireError::Trailing(behind)),
        }
    }

    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..2].copy_from_slice(&MAGIC.to_le_bytes());
        out[2] = self.kind as u8;
        out[4..8].copy_from_slice(&self.body_len.to_le_bytes());
        out[8..12].copy_from_slice(&self.request.to_le_bytes());
        out[12..16].copy_from_slice(&self.item.to_le_bytes());
        out[16..24].copy_from_slice(&self.word.to_le_bytes());
        let sum = crc64(&out[..SUM_AT]);
        out[SUM_AT..].copy_from_slice(&sum.to_le_bytes());
        out
    }
}

/// Encodes the header of a DATA frame. What follows it is the payload, as it lies in memory.
pub fn encode_data_header(data: &DataHeader, out: &mut [u8; HEADER_BYTES]) {
    debug_assert!(data_problem(data).is_none(), "{:?}", data_problem(data));
    let DataHeader { request, item, offset, length } = *data;
    *out = FrameHeader { kind: Kind::Data, body_len: length, request, item, word: offset }.encode();
}

/// Decodes and checks the header of any frame.
pub fn decode_header(bytes: &[u8; HEADER_BYTES]) -> Result<FrameHeader, WireError> {
    let magic = u16::from_le_bytes([bytes[0], bytes[1]]);
    if magic != MAGIC {
        return Err(WireError::Magic(magic));
    }
    if u64_at(bytes, SUM_AT) != crc64(&bytes[..SUM_AT]) {
        return Err(WireError::HeaderChecksum);
    }
    let kind = Kind::from_code(bytes[2]).ok_or(WireError::UnknownKind(bytes[2]))?;
    if bytes[3] != 0 {
        return Err(WireError::Malformed("a header's flags are 0"));
    }
    let header = FrameHeader {
        kind,
        body_len: u32_at(bytes, 4),
        request: u32_at(bytes, 8),
        item: u32_at(bytes, 12),
        word: u64_at(bytes, 16),
    };
    match header.data() {
        Some(data) => match data_problem(&data) {
            Some(error) => return Err(error),
            None => return Ok(header),
        },
        None if header.item != 0 => return Err(WireError::Malformed("only DATA has an item in its header")),
        None => {}
    }
    if header.body_len as usize > MESSAGE_BYTES_MAX {
        let (have, max) = (u64::from(header.body_len), MESSAGE_BYTES_MAX as u64);
        return Err(WireError::Limit { what: "bytes in a message", have, max });
    }
    Ok(header)
}

fn data_problem(data: &DataHeader) -> Option<WireError> {
    let limit = |what, have, max| Some(WireError::Limit { what, have, max });
    if data.length == 0 {
        return Some(WireError::Malformed("a DATA frame has at least 1 byte"));
    }
    if data.length as usize > DATA_FRAME_BYTES_MAX {
        return limit("bytes in a DATA frame", u64::from(data.length), DATA_FRAME_BYTES_MAX as u64);
    }
    if data.item as usize >= KEYS_PER_MESSAGE_MAX {
        return limit("as an item's number", u64::from(data.item), KEYS_PER_MESSAGE_MAX as u64 - 1);
    }
    match data.offset.checked_add(u64::from(data.length)) {
        Some(end) if end <= BLOCK_BYTES_MAX => None,
        end => limit("bytes of one block", end.unwrap_or(u64::MAX), BLOCK_BYTES_MAX),
    }
}
