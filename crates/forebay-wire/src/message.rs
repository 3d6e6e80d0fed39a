//! The messages.
//!
//! A connection starts with `Hello` (client) and `Welcome` (node). A nil shard in `Hello` asks for the *control* connection (membership,
//! namespaces, statistics); a shard's uuid asks for that shard. Requests carry a number the client chooses, unique among those unanswered on
//! the connection. Outcomes stream per item, in any order; a request is finished when every item has its outcome.

use std::fmt;

use forebay_types::{
    Class, Epoch, Fingerprint, Key, LandingKind, MissReason, Namespace, NamespaceId, PutOutcome, RegionId, Reported,
    Reuse, ShardId, Tier, Version,
};

use crate::RegionKind;

/// Version of the protocol. A node talks to this one and the one before.
pub const WIRE_VERSION: u16 = 1;

/// Feature bits both sides may offer; what both offer is in force.
pub mod features {
    /// Regions passed as descriptors (Unix sockets only).
    pub const REGIONS: u64 = 1 << 0;
    /// Direct landings into owned regions.
    pub const DIRECT: u64 = 1 << 1;
    /// `Touch` and `Prefetch` are acted upon (else they are accepted and ignored).
    pub const HINTS: u64 = 1 << 2;
    /// Namespaces may have a time to live. Where it is not in force they are told without.
    pub const TTL: u64 = 1 << 3;
    /// A put may say that its caller keeps the blocks in memory of its own.
    pub const CALLER_KEEPS: u64 = 1 << 4;
    /// A region may say that its owner has lent it, so that the node counts what lands there apart. Where it is not in force, such a region is told as
    /// an owned one.
    pub const LENT: u64 = 1 << 5;
    /// `Report` is acted upon. It may not be sent where it is not in force.
    pub const REPORTS: u64 = 1 << 6;
}

/// First message of a client.
#[derive(Clone, PartialEq, Eq)]
pub struct Hello {
    /// Highest version it speaks.
    pub version: u16,
    /// Feature bits it offers.
    pub features: u64,
    /// The shard it wants, or nil (all zeros) for control.
    pub shard: ShardId,
    /// Credential: the token on TCP, empty on Unix sockets.
    pub credential: Vec<u8>,
    /// The membership it knows; 0 if none.
    pub epoch: Epoch,
    /// Kind of traffic, a lane's number; 0 is "by size".
    pub lane: u8,
    /// For correlating logs; 0 if none.
    pub trace: u64,
    /// Bytes it lets the node have unsent towards it.
    pub credit_bytes: u64,
}

impl fmt::Debug for Hello {
    /// All but the credential, which belongs into no log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hello { version, features, shard, credential, epoch, lane, trace, credit_bytes } = self;
        f.debug_struct("Hello")
            .field("version", version)
            .field("features", features)
            .field("shard", shard)
            .field("credential_bytes", &credential.len())
            .field("epoch", epoch)
            .field("lane", lane)
            .field("trace", trace)
            .field("credit_bytes", credit_bytes)
            .finish()
    }
}

/// The node's answer to `Hello`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// Version in force.
    pub version: u16,
    /// Feature bits in force.
    pub features: u64,
    /// The node's start, random: a client that sees another one knows the node restarted.
    pub incarnation: u64,
    /// The membership in force.
    pub epoch: Epoch,
    /// Largest block this shard takes, in bytes (control: the smallest of its shards').
    pub block_bytes_max: u64,
    /// Alignment of direct landings, in bytes.
    pub align: u32,
    /// Bytes of puts the client may have unanswered towards this shard on this connection.
    pub credit_bytes: u64,
}

/// One shard of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The shard.
    pub shard: ShardId,
    /// Its weight in placement: its slice in MiB.
    pub weight: u32,
    /// Where its node listens; several addresses, `unix:` first. Empty: "where you found this table".
    pub addresses: Vec<String>,
}

/// Where a put's bytes are or a get's bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// The region, or 0 for DATA frames.
    pub region: RegionId,
    /// First byte in the region.
    pub offset: u64,
    /// Bytes there. For gets: how much may be written, landing room included; for DATA frames, the most the client takes.
    pub room: u64,
}

/// One key of a get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GetItem {
    /// What.
    pub key: Key,
    /// First byte wanted; a multiple of the piece.
    pub offset: u64,
    /// Bytes wanted; 0 is "to the end". What is sent is whole pieces.
    pub length: u64,
    /// Where to.
    pub to: Place,
}

/// One key of a put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutItem {
    /// The descriptor's encoding (`forebay_types::Descriptor`), carried verbatim.
    pub descriptor: Vec<u8>,
    /// Where the bytes are.
    pub from: Place,
}

/// When a block will probably be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReuseHint {
    /// 0 none, 1 tool, 2 turn, 3 done, 4 seconds.
    pub kind: u8,
    /// For kind 4.
    pub seconds: u32,
}

impl From<Reuse> for ReuseHint {
    fn from(reuse: Reuse) -> Self {
        let (kind, seconds) = match reuse {
            Reuse::Unknown => (0, 0),
            Reuse::Tool => (1, 0),
            Reuse::Turn => (2, 0),
            Reuse::Done => (3, 0),
            Reuse::Seconds(seconds) => (4, seconds),
        };
        ReuseHint { kind, seconds }
    }
}

impl From<ReuseHint> for Reuse {
    fn from(hint: ReuseHint) -> Self {
        match hint.kind {
            1 => Reuse::Tool,
            2 => Reuse::Turn,
            3 => Reuse::Done,
            4 => Reuse::Seconds(hint.seconds),
            _ => Reuse::Unknown,
        }
    }
}

/// What a get answers for one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GetOutcome {
    /// Served.
    Hit {
        /// From where.
        tier: Tier,
        /// How it came.
        landing: LandingKind,
        /// First byte that was sent (start of a piece).
        offset: u64,
        /// Bytes of payload that were sent, from `offset`.
        length: u64,
        /// The descriptor's encoding. Empty for a direct landing: it lies behind the payload, in the trailer, at
        /// `trailer_offset` from the start of the slice.
        descriptor: Vec<u8>,
        /// See `descriptor`; 0 otherwise.
        trailer_offset: u64,
    },
    /// Not served.
    Miss(MissReason),
    /// The slice is too small: it needs `need` bytes.
    TooSmall {
        /// Bytes of payload.
        need: u64,
    },
}

/// What presence looks like, per key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Here.
    Here {
        /// In which tier.
        tier: Tier,
        /// A lease was granted.
        leased: bool,
    },
    /// Not here.
    Not(MissReason),
    /// Behind the first gap.
    NotAsked,
}

/// Why a node refuses a connection or a control request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub enum ErrorCode {
    /// The bytes are not this protocol.
    Protocol = 1,
    /// No version in common.
    Version = 2,
    /// Wrong or missing credential.
    Credential = 3,
    /// No such shard here.
    Shard = 4,
    /// Too many connections.
    TooMany = 5,
    /// No such namespace.
    NamespaceUnknown = 6,
    /// It has another fingerprint or class; the text names the field.
    NamespaceDiffers = 7,
    /// It exists already with other properties.
    NamespaceExists = 8,
    /// A name, field or quota that is not valid.
    NamespaceInvalid = 9,
    /// The node could not do it now.
    Unavailable = 10,
    /// A region that cannot be used.
    Region = 11,
    /// The node is shutting down.
    Closing = 12,
}

impl ErrorCode {
    /// All of them, in the order of their numbers.
    pub const ALL: &'static [ErrorCode] = &[
        ErrorCode::Protocol,
        ErrorCode::Version,
        ErrorCode::Credential,
        ErrorCode::Shard,
        ErrorCode::TooMany,
        ErrorCode::NamespaceUnknown,
        ErrorCode::NamespaceDiffers,
        ErrorCode::NamespaceExists,
        ErrorCode::NamespaceInvalid,
        ErrorCode::Unavailable,
        ErrorCode::Region,
        ErrorCode::Closing,
    ];
}

/// A message. `request` is the client's number for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Client's first.
    Hello(Hello),
    /// Node's first.
    Welcome(Welcome),
    /// Node's last, or the answer to a control request that failed. `request` 0: the connection is closed after it.
    Error {
        /// Which request, or 0.
        request: u32,
        /// What kind.
        code: ErrorCode,
        /// One sentence for a person: what happened and what to try.
        text: String,
    },

    // Control.
    /// Asks who is who.
    Members {
        /// Number.
        request: u32,
    },
    /// Who is who.
    MembersAre {
        /// Number.
        request: u32,
        /// Version of the table.
        epoch: Epoch,
        /// The table.
        members: Vec<Member>,
    },
    /// Opens a namespace by name. A non-empty fingerprint must be equal.
    Attach {
        /// Number.
        request: u32,
        /// Name.
        name: String,
        /// What the client expects, or empty.
        fingerprint: Fingerprint,
    },
    /// Creates a namespace; the same again is no error.
    NamespaceCreate {
        /// Number.
        request: u32,
        /// Name.
        name: String,
        /// Promise.
        class: Class,
        /// Bound in bytes.
        quota_bytes: Option<u64>,
        /// Seconds after which its blocks expire by default.
        ttl_s: Option<u32>,
        /// What makes its bytes interchangeable.
        fingerprint: Fingerprint,
    },
    /// The namespace, with its secret.
    NamespaceIs {
        /// Number.
        request: u32,
        /// It.
        namespace: Namespace,
    },
    /// Asks for the tenant's namespaces.
    NamespaceList {
        /// Number.
        request: u32,
    },
    /// The tenant's namespaces; secrets are zeroed.
    NamespacesAre {
        /// Number.
        request: u32,
        /// They.
        namespaces: Vec<Namespace>,
    },
    /// Deletes a namespace and forgets its blocks.
    NamespaceDelete {
        /// Number.
        request: u32,
        /// Name.
        name: String,
    },
    /// Done (answer without content).
    Done {
        /// Number.
        request: u32,
    },
    /// Asks for statistics.
    Stats {
        /// Number.
        request: u32,
    },
    /// Statistics as JSON text: readable by builds that know fewer or more fields.
    StatsAre {
        /// Number.
        request: u32,
        /// JSON object.
        json: String,
    },

    // Regions (Unix sockets; the descriptor rides on the first byte of the message).
    /// Registers a region on this connection.
    RegionAdd {
        /// Number.
        request: u32,
        /// The client's number for it, not 0.
        region: RegionId,
        /// Bytes.
        length: u64,
        /// Whose it is.
        kind: RegionKind,
    },
    /// Forgets a region. The node answers `Done` when no operation touches it any more.
    RegionDrop {
        /// Number.
        request: u32,
        /// Which.
        region: RegionId,
    },

    // Blocks.
    /// Asks for blocks.
    Get {
        /// Number.
        request: u32,
        /// Namespace of all keys.
        namespace: NamespaceId,
        /// Microseconds left.
        deadline_us: u32,
        /// Reuse hint.
        hint: ReuseHint,
        /// Keys, in the order of their chain if they have one.
        items: Vec<GetItem>,
    },
    /// Outcomes of some items of a get. An item streamed in DATA frames has its outcome *before* its first frame; its descriptor says how
    /// much comes. `Miss(Corrupt | Deadline | Unavailable)` for an item whose frames have begun means that the rest will not come.
    GetOutcomes {
        /// Number.
        request: u32,
        /// Item number and outcome.
        outcomes: Vec<(u32, GetOutcome)>,
    },
    /// Asks to keep blocks.
    Put {
        /// Number.
        request: u32,
        /// Namespace of all keys.
        namespace: NamespaceId,
        /// Microseconds left.
        deadline_us: u32,
        /// Reuse hint.
        hint: ReuseHint,
        /// The caller keeps the blocks in memory of its own, so they need no DRAM of the node's until somebody else asks.
        caller_keeps: bool,
        /// Blocks.
        items: Vec<PutItem>,
    },
    /// The shard has room for these items: send their DATA. Only for items with region 0.
    PutGo {
        /// Number.
        request: u32,
        /// Item numbers.
        items: Vec<u32>,
    },
    /// Outcomes of some items of a put.
    PutOutcomes {
        /// Number.
        request: u32,
        /// Item number and outcome.
        outcomes: Vec<(u32, PutOutcome)>,
    },
    /// Asks which keys are here, without bytes. With `stop_at_gap`, keys after the first that is not here are not asked.
    Match {
        /// Number.
        request: u32,
        /// Namespace of all keys.
        namespace: NamespaceId,
        /// Microseconds left.
        deadline_us: u32,
        /// Lease on what is here, in milliseconds; 0 none.
        hold_ms: u32,
        /// See above.
        stop_at_gap: bool,
        /// Keys, in order.
        keys: Vec<Key>,
    },
    /// Presence of every key of a match, in order.
    MatchOutcomes {
        /// Number.
        request: u32,
        /// Presence.
        presence: Vec<Presence>,
    },
    /// Forgets keys, durably.
    Forget {
        /// Number.
        request: u32,
        /// Namespace of all keys.
        namespace: NamespaceId,
        /// Microseconds left.
        deadline_us: u32,
        /// Keys.
        keys: Vec<Key>,
    },
    /// Per key: true, it was here and is forgotten durably; false, it was not here. `failed` when the drive could not write.
    ForgetOutcomes {
        /// Number.
        request: u32,
        /// True when the drive could not write the forgetting down.
        failed: bool,
        /// Was here.
        forgotten: Vec<bool>,
    },
    /// Says that keys were used without being fetched. No answer.
    Touch {
        /// Namespace of all keys.
        namespace: NamespaceId,
        /// Reuse hint.
        hint: ReuseHint,
        /// Keys.
        keys: Vec<Key>,
    },
    /// Brings keys from NVMe to DRAM. No answer.
    Prefetch {
        /// Namespace of all keys.
        namespace: NamespaceId,
        /// Microseconds left.
        deadline_us: u32,
        /// Keys.
        keys: Vec<Key>,
    },
    /// Says what became of requests' prompts. No answer.
    Report {
        /// Namespace in which their blocks are.
        namespace: NamespaceId,
        /// What became of them; it adds up.
        reported: Reported,
    },
    /// Served bytes did not verify at the client: drop them if they are still that version. No answer.
    Corrupt {
        /// Namespace.
        namespace: NamespaceId,
        /// Key.
        key: Key,
        /// The version that was served; 0 if its descriptor could not be read.
        version: Version,
    },
    /// The client has given up on a request. Landings of it end before the answer: `Done` with its number.
    Cancel {
        /// Number.
        request: u32,
    },
    /// The client has taken this many bytes of DATA payload and grants them again.
    Credit {
        /// Bytes.
        bytes: u64,
    },
}

/// Header of a DATA frame: its payload follows, at most 256 KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataHeader {
    /// Request it belongs to.
    pub request: u32,
    /// Item of the request.
    pub item: u32,
    /// First byte, from the start of the block.
    pub offset: u64,
    /// Bytes that follow.
    pub length: u32,
}
