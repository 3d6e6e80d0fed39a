//! Makes drives and catalogue agree at start.

use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use forebay_coord::Coordinator;
use forebay_store::NamespaceRow;
use forebay_types::{Namespace, NamespaceId};

use crate::assemble::Link;
use crate::config::NodeError;
use crate::shard::{Command, Saved};

/// Whether a row on a drive is the catalogue's namespace of that number: all but the quota stays as it was made.
fn same_namespace(known: &Namespace, held: &NamespaceRow) -> bool {
    let row = NamespaceRow { quota_bytes: held.quota_bytes, ..NamespaceRow::from(known) };
    row == *held
}

/// Drives that hold namespaces need their catalogue: a new one would forget every block on them.
pub(crate) fn refuse_orphans(links: &[Link], catalogue: &Path) -> Result<(), NodeError> {
    let orphan = links.iter().find_map(|link| Some((link, link.shard.started.namespaces.first()?)));
    match orphan {
        None => Ok(()),
        Some((link, held)) => Err(NodeError::NoCatalogue {
            path: link.path.clone(),
            name: held.name.clone(),
            catalogue: catalogue.into(),
        }),
    }
}

/// Makes drives and catalogue agree: the catalogue says what exists; numbers a drive has seen are never given again.
pub(crate) fn reconcile(
    links: &[Link],
    coordinator: &dyn Coordinator,
    saved: &Receiver<Saved>,
    catalogue: &Path,
) -> Result<(), NodeError> {
    let seen = links.iter().flat_map(|link| &link.shard.started.namespaces).map(|namespace| namespace.id).max();
    if let Some(seen) = seen {
        coordinator.reserve_ids(NamespaceId(seen.0))?;
    }
    let all = coordinator.all()?;
    let mut sent = 0;
    for link in links {
        let mut changes = Vec::new();
        for held in &link.shard.started.namespaces {
            match all.iter().find(|namespace| namespace.id == held.id) {
                None => changes.push(Command::Remove { token: sent + changes.len() as u64, id: held.id }),
                Some(known) if !same_namespace(known, held) => {
                    let path = link.path.clone();
                    return Err(NodeError::OtherCatalogue {
                        path,
                        name: held.name.clone(),
                        catalogue: catalogue.into(),
                    });
                }
                Some(_) => {}
            }
        }
        for namespace in &all {
            if !link.shard.started.namespaces.contains(&NamespaceRow::from(namespace)) {
                changes.push(Command::Upsert { token: sent + changes.len() as u64, namespace: namespace.clone() });
            }
        }
        sent += changes.len() as u64;
        for change in changes {
            let gone = |_| NodeError::Os {
                doing: "telling a shard its namespaces",
                source: std::io::Error::other("its thread ended"),
            };
            link.shard.commands.send(change).map_err(gone)?;
            link.shard.waker.wake();
        }
    }
    for _ in 0..sent {
        match saved.recv_timeout(Duration::from_secs(30)) {
            Ok(Saved { ok: true, .. }) => {}
            // A drive out for writing still serves what it has.
            Ok(Saved { ok: false, .. }) => {}
            Err(_) => {
                let source = std::io::Error::other("a drive did not write its table of namespaces within 30 s");
                return Err(NodeError::Os { doing: "telling a shard its namespaces", source });
            }
        }
    }
    Ok(())
}
