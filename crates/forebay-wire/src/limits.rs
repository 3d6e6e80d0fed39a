//! Ceilings of the wire alone. Those that other rooms share are in `forebay_types::limits`.

/// Longest credential in `Hello`, in bytes: a token file holds some dozens; signed tokens come in a few KiB.
pub const CREDENTIAL_BYTES_MAX: usize = 4096;
/// Longest sentence in `Error`, in bytes. Longer ones are cut when they are sent.
pub const ERROR_TEXT_BYTES_MAX: usize = 1024;
/// Longest name on the wire, in bytes. Wider than a namespace's name may be, so that a node can say in words what is wrong with one.
pub const NAME_BYTES_MAX: usize = 255;
/// Most shards in one table of members: at some 80 bytes each the table stays well inside one message.
pub const MEMBERS_MAX: usize = 16_384;
/// Most addresses of one member.
pub const ADDRESSES_MAX: usize = 8;
/// Longest address, in bytes: a host name has at most 253, a socket path 107.
pub const ADDRESS_BYTES_MAX: usize = 300;
/// Longest extension of `Hello` and `Welcome`, in bytes.
pub const EXTENSION_BYTES_MAX: usize = 4096;
