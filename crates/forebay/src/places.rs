//! Where things are unless a person says otherwise: the user's own folders, never the system's.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const SOCKET: &str = "forebay.sock";

/// The user's folder for Forebay's data: `$XDG_DATA_HOME/forebay`, else `~/.local/share/forebay`.
pub(crate) fn data_dir() -> Result<PathBuf, String> {
    let base = absolute("XDG_DATA_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/share")));
    base.map(|base| base.join("forebay")).ok_or_else(|| {
        "neither HOME nor XDG_DATA_HOME says where your data belongs; name the places with --data and --socket (or --connect)".to_owned()
    })
}

/// Where `serve` puts its socket: the runtime folder where there is one, else beside the data.
pub(crate) fn socket_to_serve() -> Result<PathBuf, String> {
    match runtime_dir() {
        Some(dir) => Ok(dir.join(SOCKET)),
        None => data_dir().map(|dir| dir.join(SOCKET)),
    }
}

/// Where a client looks: the same places. A node that was started without a runtime folder (by cron, say) is found too.
pub(crate) fn socket_to_find() -> Result<PathBuf, String> {
    let first = socket_to_serve()?;
    let second = data_dir().map(|dir| dir.join(SOCKET));
    match second {
        Ok(second) if !first.exists() && second.exists() => Ok(second),
        _ => Ok(first),
    }
}

/// Makes a folder of the user's own, parents included.
pub(crate) fn make_private(dir: &Path) -> Result<(), String> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|e| {
        format!("the folder {} cannot be made: {e}; name another place with --data or --socket", dir.display())
    })
}

fn runtime_dir() -> Option<PathBuf> {
    absolute("XDG_RUNTIME_DIR").filter(|dir| dir.is_dir())
}

/// The base-directory convention ignores relative paths.
fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}
