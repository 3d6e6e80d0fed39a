//! What is refused before anything is opened: settings that cannot be, addresses that are taken.

use std::net::TcpListener;

use forebay_io::is_block_device;
use forebay_net::Listener;

use crate::assemble::SHARD_MEMORY_MIN;
use crate::config::{NodeConfig, NodeError};
use crate::device::is_among_devices;
use crate::http;
use crate::shares::beyond_bytes;

/// Most shards of a node: each is a thread.
const SHARDS_MAX: usize = 256;

/// Whether the settings can be.
pub(crate) fn settings(config: &NodeConfig) -> Result<(), NodeError> {
    let refuse = |text: &str| Err(NodeError::Config(text.to_owned()));
    if config.data.is_empty() {
        return refuse("a node needs at least one drive; give --data PATH");
    }
    if config.shards_per_drive == 0 {
        return refuse("a drive has at least one shard; give --shards 1 or more");
    }
    let shards = config.data.len() * config.shards_per_drive as usize;
    if shards > SHARDS_MAX {
        return Err(NodeError::Config(format!(
            "{shards} shards are more than the {SHARDS_MAX} a node may have; give fewer --shards"
        )));
    }
    for (at, data) in config.data.iter().enumerate() {
        if data.path.as_os_str().is_empty() {
            return refuse("a drive's path is empty; give --data PATH");
        }
        if config.data[..at].iter().any(|other| other.path == data.path) {
            return Err(NodeError::Config(format!("{} is given twice; give each --data once", data.path.display())));
        }
    }
    devices(config)?;
    policy(&config.policy)?;
    if config.listen.is_some() && config.token.as_ref().is_none_or(Vec::is_empty) {
        return refuse("listening on TCP needs a token that clients must show; give --token-file FILE");
    }
    let need = (SHARD_MEMORY_MIN + beyond_bytes(shards).next_multiple_of(1 << 20)) * shards as u64;
    if config.memory_bytes < need {
        return Err(NodeError::Memory { found: config.memory_bytes, need, shards });
    }
    Ok(())
}

/// What is special to drives that are devices.
fn devices(config: &NodeConfig) -> Result<(), NodeError> {
    let refuse = |text: String| Err(NodeError::Config(text));
    for data in &config.data {
        let shown = data.path.display();
        if is_among_devices(&data.path) && !data.path.exists() {
            return refuse(format!(
                "there is no device {shown}; `lsblk -d -o PATH,SIZE,MODEL` lists those there are, and /dev/disk/by-id has names that stay"
            ));
        }
        if !is_block_device(&data.path) && config.format_devices.contains(&data.path) {
            return refuse(format!("--format-device is for block devices, and {shown} is none; leave it out"));
        }
    }
    if let Some(path) = config.format_devices.iter().find(|path| config.data.iter().all(|data| data.path != **path)) {
        let shown = path.display();
        return refuse(format!("--format-device {shown} is none of the drives given; name it with --data {shown} too"));
    }
    match &config.catalogue {
        Some(path) if is_among_devices(path) => refuse(format!(
            "the catalogue cannot lie at {}: what is among devices is gone with the next boot, and with it every key; give --catalog a file on a file system",
            path.display()
        )),
        Some(path) if path.is_dir() => {
            let shown = path.display();
            refuse(format!("--catalog {shown} is a directory; name a file inside it, as in {shown}/forebay.catalog"))
        }
        None if config.data.iter().all(|data| is_block_device(&data.path)) => refuse(
            "the catalogue (namespaces and their secrets) needs a file, and beside a raw device there is no place for one; give --catalog PATH \
             on a file system that lasts, as in --catalog /var/lib/forebay/catalog"
                .into(),
        ),
        _ => Ok(()),
    }
}

/// The policy of that name.
pub(crate) fn policy(name: &str) -> Result<Box<dyn forebay_tokenomics::Policy>, NodeError> {
    forebay_tokenomics::policy_by_name(name).ok_or_else(|| {
        let known = forebay_tokenomics::POLICY_NAMES.join(", ");
        NodeError::Config(format!("there is no policy {name:?}; the policies are {known}"))
    })
}

/// Takes the addresses.
pub(crate) fn listen(config: &NodeConfig) -> Result<(Vec<Listener>, Option<TcpListener>), NodeError> {
    let mut listeners = vec![Listener::unix(&config.socket)?];
    if let Some(listen) = &config.listen {
        listeners.push(Listener::tcp(listen, config.insecure_network)?);
    }
    let metrics = config.metrics.map(|address| http::bind(address, config.insecure_network)).transpose()?;
    Ok((listeners, metrics))
}
