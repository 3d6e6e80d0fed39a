//! From settings to a connected client: which node, which token, which namespace.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use forebay_client::{Client, NamespaceHandle, Options};
use forebay_types::Address;

use crate::places;
use crate::settings::Settings;
use crate::stop::Stop;

/// Longest token, in bytes: more is some other file, given by mistake.
const TOKEN_BYTES_MAX: u64 = 4096;

/// Connects to the node that the settings name.
pub(crate) fn client(settings: &Settings, deadline: Duration) -> Result<Client, Stop> {
    let address = address(settings).map_err(Stop::Misused)?;
    let token = match settings.path("token_file") {
        Some(path) => Some(token(&path).map_err(Stop::Failed)?),
        None => None,
    };
    if matches!(address, Address::Tcp(_)) && token.is_none() {
        return Err(Stop::Misused(format!("{address} asks for a token; name its file with --token-file")));
    }
    Ok(Client::connect(&address, Options { token, deadline, ..Options::default() })?)
}

/// Opens the namespace that the settings name.
pub(crate) fn namespace(client: &Client, settings: &Settings) -> Result<NamespaceHandle, Stop> {
    Ok(client.namespace(settings.text("namespace").unwrap_or("default"))?)
}

fn address(settings: &Settings) -> Result<Address, String> {
    if let Some(text) = settings.text("connect") {
        return text.parse().map_err(|e| format!("{}: {e}", settings.origin("connect")));
    }
    let path = match settings.path("socket") {
        Some(path) => path,
        None => places::socket_to_find()?,
    };
    Address::unix(path).map_err(|e| e.to_string())
}

/// The token in a file that only its owner can read, without the newline that editors add.
pub(crate) fn token(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let meta = std::fs::metadata(path).map_err(|e| format!("the token file {shown} cannot be read: {e}"))?;
    if !meta.is_file() {
        return Err(format!("the token file {shown} is not a file; name the file that holds the token"));
    }
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o777;
        return Err(format!(
            "the token file {shown} has mode {mode:04o}, so others can read it; run `chmod 600 {shown}`"
        ));
    }
    if meta.len() > TOKEN_BYTES_MAX {
        return Err(format!(
            "the token file {shown} has {} bytes and a token has at most {TOKEN_BYTES_MAX}; is it another file?",
            meta.len()
        ));
    }
    let mut token = std::fs::read(path).map_err(|e| format!("the token file {shown} cannot be read: {e}"))?;
    while token.last().is_some_and(u8::is_ascii_whitespace) {
        token.pop();
    }
    if token.is_empty() {
        return Err(format!(
            "the token file {shown} is empty; write some random characters into it, as in `head -c 32 /dev/urandom | base64`"
        ));
    }
    Ok(token)
}
