//! What can go wrong with a client, in sentences: what happened, why, and what to try.
//!
//! Gets, puts and matches never end here: a node that cannot be reached is a miss or a refusal. Errors are for what has no key to answer for.

use std::io;

use forebay_types::Address;
use forebay_wire::ErrorCode;

/// Why a client call that has no outcome per key failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing answers at the address.
    #[error("{}", unreached(address, source))]
    Connect {
        /// Where.
        address: Address,
        /// What the kernel said.
        source: io::Error,
    },
    /// The node does not accept the token.
    #[error("the node at {address} lets nobody in without its token: {text}")]
    Credential {
        /// Where.
        address: Address,
        /// What the node said.
        text: String,
    },
    /// No version of the protocol in common, or not this protocol at all.
    #[error(
        "the node at {address} and this client do not understand each other: {text}; use builds of neighbouring versions"
    )]
    Version {
        /// Where.
        address: Address,
        /// What is in the way.
        text: String,
    },
    /// No such namespace.
    #[error("there is no namespace {name:?}; create it with `forebay namespace create {name}`")]
    NamespaceUnknown {
        /// Its name.
        name: String,
    },
    /// It has another fingerprint or class than the caller expects.
    #[error("{text}")]
    NamespaceDiffers {
        /// Its name.
        name: String,
        /// Which field, and what to do about it, in words.
        text: String,
    },
    /// A namespace of that name exists with other properties.
    #[error("{text}")]
    NamespaceExists {
        /// Its name.
        name: String,
        /// What differs, and what to do about it.
        text: String,
    },
    /// A name, field, key, part or size that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// The node refused for a reason of its own.
    #[error("the node at {address} refused: {text}")]
    Refused {
        /// Where.
        address: Address,
        /// The kind.
        code: ErrorCode,
        /// What it said.
        text: String,
    },
    /// The node did not answer in time.
    #[error(
        "the node at {address} did not answer within {deadline_ms} ms; look at it with `forebay stat --connect {address}`, or allow a longer deadline"
    )]
    Deadline {
        /// Where.
        address: Address,
        /// The deadline in force.
        deadline_ms: u64,
    },
    /// The connection broke and could not be made anew in time.
    #[error("the connection to {address} broke: {text}; is the node still running?")]
    Closed {
        /// Where.
        address: Address,
        /// How.
        text: String,
    },
    /// A forgetting could not be written down.
    #[error(
        "{failed} of {asked} keys could not be forgotten durably: {why}; ask again, and check the drive if it happens again"
    )]
    Forget {
        /// Keys without an answer.
        failed: usize,
        /// Keys in the call.
        asked: usize,
        /// What happened.
        why: &'static str,
    },
    /// No memory for a slice.
    #[error(
        "the client's region has no room for {bytes} bytes ({limit} bytes at most, some of it held by blocks); drop blocks or slices, or set a larger `region_bytes`"
    )]
    RegionFull {
        /// What was asked for.
        bytes: usize,
        /// `Options::region_bytes`.
        limit: usize,
    },
    /// A range of lent memory that cannot be had.
    #[error(
        "the lent memory has no free place of {bytes} bytes at {offset}: it starts at no multiple of 4096, reaches past the end, overlaps a place that is taken, or is withheld until a node is known to write there no more"
    )]
    PlaceTaken {
        /// Where it was to start.
        offset: usize,
        /// What was asked for.
        bytes: usize,
    },
}

impl ClientError {
    /// From what a node answered to a request about the namespace `name` (empty if about none).
    pub(crate) fn from_node(address: &Address, name: &str, code: ErrorCode, text: &str) -> Self {
        let (address, text) = (address.clone(), printable(text));
        let name = name.to_owned();
        match code {
            ErrorCode::Credential => ClientError::Credential { address, text },
            ErrorCode::Version | ErrorCode::Protocol => ClientError::Version { address, text },
            ErrorCode::NamespaceUnknown => ClientError::NamespaceUnknown { name },
            ErrorCode::NamespaceDiffers => ClientError::NamespaceDiffers { name, text },
            ErrorCode::NamespaceExists => ClientError::NamespaceExists { name, text },
            ErrorCode::NamespaceInvalid => ClientError::Invalid(text),
            code => ClientError::Refused { address, code, text },
        }
    }
}

/// The link's own sentence names the address already; other errors of the kernel do not.
fn unreached(address: &Address, source: &io::Error) -> String {
    let text = source.to_string();
    let said = if text.starts_with("cannot connect") { text } else { format!("cannot connect to {address}: {text}") };
    // A node that is there and lets this user not in, or does not answer, needs no start.
    if !matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
        return said;
    }
    let question = if said.ends_with('?') { "" } else { "; is the node started?" };
    let flag = match address {
        Address::Unix(path) => format!("--socket {}", path.display()),
        Address::Tcp(host_port) => format!("--listen {host_port}"),
    };
    format!("{said}{question} `forebay serve {flag}` starts one")
}

/// What a peer said, fit for a terminal: a hostile node writes no escape codes, and no more than a sentence.
fn printable(text: &str) -> String {
    const CHARS_MAX: usize = 400;
    let clean: String = text.trim().trim_end_matches('.').chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect();
    if clean.is_empty() { "it gave no reason".into() } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_to_try() {
        let address: Address = "unix:/tmp/f.sock".parse().unwrap();
        let error = ClientError::Connect { address: address.clone(), source: io::ErrorKind::NotFound.into() };
        assert!(error.to_string().contains("forebay serve --socket /tmp/f.sock"), "{error}");
        let error = ClientError::Connect { address: address.clone(), source: io::ErrorKind::PermissionDenied.into() };
        assert!(!error.to_string().contains("serve"), "one is there: {error}");
        let error = ClientError::from_node(&address, "kv", ErrorCode::NamespaceUnknown, "no");
        assert!(error.to_string().contains("forebay namespace create kv"), "{error}");
    }

    #[test]
    fn a_hostile_node_cannot_write_to_the_terminal() {
        let address: Address = "tcp:127.0.0.1:1".parse().unwrap();
        let text = format!("\x1b[2Jgone\n{}", "x".repeat(10_000));
        let error = ClientError::from_node(&address, "", ErrorCode::Unavailable, &text).to_string();
        assert!(!error.contains('\x1b') && !error.contains('\n') && error.len() < 1000);
    }
}
