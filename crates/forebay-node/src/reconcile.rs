//! Makes drives and catalogue agree at start.

use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use forebay_coord::Coordinator;
use forebay_store::NamespaceRow;
use forebay_types::{Class, Namespace, NamespaceId};

use crate::assemble::Link;
use crate::config::NodeError;
use crate::quota::{Holder, parts};
use crate::shard::{Command, Saved};

/// Whether a row on a drive is the catalogue's namespace of that number: all but the quota stays as it was made.
fn same_namespace(known: &Namespace, held: &NamespaceRow) -> bool {
    let row = NamespaceRow { quota_bytes: held.quota_bytes, ..NamespaceRow::from(known) };
    row == *held
}

/// Each shard's part of a namespace's quota, with the drives there are now.
fn parts_of(links: &[Link], namespace: &Namespace) -> Option<Vec<u64>> {
    let holder = |link: &Link| {
        let mut rows = link.shard.started.namespaces.iter();
        let held = rows.find(|(row, _)| row.id == namespace.id).map_or(0, |(_, bytes)| *bytes);
        // A cache that is over its part loses its own coldest with its next puts.
        let held = if namespace.class == Class::Durable { held } else { 0 };
        Holder { weight: link.row().weight_mib, held }
    };
    Some(parts(namespace.quota_bytes?, &links.iter().map(holder).collect::<Vec<_>>()))
}

/// Drives that hold namespaces need their catalogue: a new one would forget every block on them.
pub(crate) fn refuse_orphans(links: &[Link], catalogue: &Path) -> Result<(), NodeError> {
    let orphan = links.iter().find_map(|link| Some((link, link.shard.started.namespaces.first()?)));
    match orphan {
        None => Ok(()),
        Some((link, (held, _))) => Err(NodeError::NoCatalogue {
            path: link.path.clone(),
            name: held.name.clone(),
            catalogue: catalogue.into(),
        }),
    }
}

/// A drive's namespaces that the catalogue does not know were deleted while the drive was away. If it knows none of them, it is another's catalogue, and
/// deleting all that the drive holds would be the end of it.
fn refuse_strangers(links: &[Link], all: &[Namespace], catalogue: &Path) -> Result<(), NodeError> {
    let is_known = |held: &NamespaceRow| all.iter().any(|namespace| namespace.id == held.id);
    let strange = links.iter().find_map(|link| {
        let rows = &link.shard.started.namespaces;
        let (first, _) = rows.first()?;
        (!rows.iter().any(|(held, _)| is_known(held))).then_some((link, first))
    });
    match strange {
        None => Ok(()),
        Some((link, held)) => Err(NodeError::OtherCatalogue {
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
    let all = coordinator.all()?;
    refuse_strangers(links, &all, catalogue)?;
    let seen = links.iter().flat_map(|link| &link.shard.started.namespaces).map(|(held, _)| held.id).max();
    if let Some(seen) = seen {
        coordinator.reserve_ids(NamespaceId(seen.0))?;
    }
    let parts: Vec<Option<Vec<u64>>> = all.iter().map(|namespace| parts_of(links, namespace)).collect();
    let mut sent = 0;
    for (at, link) in links.iter().enumerate() {
        let mut changes = Vec::new();
        for (held, _) in &link.shard.started.namespaces {
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
        for (namespace, parts) in all.iter().zip(&parts) {
            let namespace = Namespace { quota_bytes: parts.as_ref().map(|parts| parts[at]), ..namespace.clone() };
            let row = NamespaceRow::from(&namespace);
            if !link.shard.started.namespaces.iter().any(|(held, _)| *held == row) {
                changes.push(Command::Upsert { token: sent + changes.len() as u64, namespace });
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
