//! Telling the service manager: systemd with `Type=notify` names a socket in the environment and waits there for a word.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Says that the node serves. Nobody may be listening, and a node serves all the same.
pub(crate) fn ready() {
    say("READY=1\n");
}

/// Says that it ends.
pub(crate) fn stopping() {
    say("STOPPING=1\n");
}

fn say(word: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let (Some(address), Ok(socket)) = (address(&name), UnixDatagram::unbound()) {
        let _ = socket.send_to_addr(word.as_bytes(), &address);
    }
}

/// A path, or behind an `@` a name that is in no file system.
fn address(name: &OsStr) -> Option<SocketAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest).ok(),
        [b'/', ..] => SocketAddr::from_pathname(name).ok(),
        _ => None,
    }
}
