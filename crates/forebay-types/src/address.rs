//! Addresses: `unix:PATH` or `tcp:HOST:PORT`, everywhere.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Longest path of a Unix socket, in bytes: `sun_path` less its NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Where a node listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A Unix socket's path.
    Unix(PathBuf),
    /// `HOST:PORT`.
    Tcp(String),
}

/// Why a string is not an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither form.
    #[error("{0:?} is not an address; write unix:PATH or tcp:HOST:PORT")]
    Form(String),
    /// Over the kernel's bound.
    #[error(
        "the socket path {0:?} has {1} bytes and the kernel takes at most 107; choose a shorter one, for example under /tmp"
    )]
    PathTooLong(String, usize),
}

impl Address {
    /// A Unix address, with its length checked.
    pub fn unix(path: impl Into<PathBuf>) -> Result<Self, AddressError> {
        let path = path.into();
        let bytes = path.as_os_str().len();
        if bytes == 0 {
            return Err(AddressError::Form("unix:".into()));
        }
        if bytes > SOCKET_PATH_BYTES_MAX {
            return Err(AddressError::PathTooLong(path.display().to_string(), bytes));
        }
        Ok(Address::Unix(path))
    }
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let form = || AddressError::Form(text.chars().take(200).collect());
        match text.split_once(':') {
            Some(("unix", path)) => Address::unix(path).map_err(|e| match e {
                AddressError::Form(_) => form(),
                e => e,
            }),
            Some(("tcp", rest)) => match rest.rsplit_once(':') {
                Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                    Ok(Address::Tcp(rest.to_owned()))
                }
                _ => Err(form()),
            },
            _ => Err(form()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp(rest) => write!(f, "tcp:{rest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_two_forms() {
        assert_eq!("unix:/tmp/f.sock".parse::<Address>().unwrap().to_string(), "unix:/tmp/f.sock");
        assert_eq!("tcp:127.0.0.1:7000".parse::<Address>().unwrap(), Address::Tcp("127.0.0.1:7000".into()));
        assert_eq!("tcp:[::1]:7000".parse::<Address>().unwrap(), Address::Tcp("[::1]:7000".into()));
        for bad in ["", "unix:", "tcp:7000", "tcp::7000", "tcp:host:99999", "/tmp/f.sock", "udp:1:2"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        assert!(format!("unix:/{}", "a".repeat(107)).parse::<Address>().unwrap_err().to_string().contains("108 bytes"));
    }
}
