//! Why a node cannot listen where it was told to, in words for whoever started it.

use std::io;
use std::path::PathBuf;

use forebay_types::AddressError;

/// Why a listener could not be made. Nothing was changed, but for a stale socket's file, which may be gone.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The path is longer than the kernel takes, or empty.
    #[error(transparent)]
    Path(#[from] AddressError),
    /// A node answers there.
    #[error("the socket {0:?} is taken: a process is listening on it; stop that one or choose another path")]
    Taken(PathBuf),
    /// Nobody can tell whether somebody listens there.
    #[error(
        "whether the socket {path:?} is in use cannot be found out ({source}); remove it if it is yours, or choose another path"
    )]
    Unclear {
        /// The path.
        path: PathBuf,
        /// What connecting to it gave.
        source: io::Error,
    },
    /// The path leads to a file, a directory or a device.
    #[error("{0:?} exists and is not a socket; it is left as it is: choose another path")]
    NotASocket(PathBuf),
    /// The directory of the path does not exist.
    #[error("the socket {path:?} cannot be made: its directory {directory:?} does not exist; create it first")]
    NoDirectory {
        /// The path.
        path: PathBuf,
        /// Its directory.
        directory: PathBuf,
    },
    /// Another process is making a socket in the same directory, and does not come to an end.
    #[error(
        "another process holds the lock of {0:?} while it makes a socket there; try again, or choose another directory"
    )]
    Busy(PathBuf),
    /// Anything else about a path.
    #[error("the socket {path:?} cannot be made: {source}; choose a path in a directory of your own")]
    Unix {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The address is reachable from other machines.
    #[error(
        "{address} can be reached from other machines, and nothing is encrypted yet: the token and all blocks would cross the network \
         readable by anyone on the way; listen on 127.0.0.1, or give --insecure-network if that network is trusted"
    )]
    Network {
        /// The address as it was given.
        address: String,
    },
    /// The address is in use.
    #[error("{0} is taken: a process is listening on it; stop that one or choose another port")]
    TcpTaken(String),
    /// Anything else about an address.
    #[error("cannot listen on {address}: {source}; is it HOST:PORT, with a host of this machine?")]
    Tcp {
        /// The address as it was given.
        address: String,
        /// What the kernel said.
        source: io::Error,
    },
}
