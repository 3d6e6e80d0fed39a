//! Control requests: members, namespaces, statistics. A namespace exists for a client when the catalogue and every shard's drive know it.

use forebay_coord::{CoordError, DEFAULT_NAMESPACE};
use forebay_types::{Namespace, NamespaceId, Secret, Tenant};
use forebay_wire::{ErrorCode, Member, Message};

use super::Control;
use crate::counters::PeerFault;
use crate::json;
use crate::quota::{Holder, parts};
use crate::shard::Command;
use crate::slab::Id;

/// Changes that may be under way at once. Each is a write on every drive.
pub(crate) const CHANGES_MAX: usize = 64;

/// How long a change may take before its client is told that it hangs. The drives write it down all the same when they can.
const CHANGE_US: u64 = 10_000_000;

/// A change that shards are writing down.
pub(crate) struct Change {
    token: u64,
    peer: Id,
    request: u32,
    left: usize,
    failed: bool,
    until_us: u64,
    answer: Message,
}

impl Control {
    pub(super) fn on_request(&mut self, id: Id, tenant: Tenant, message: Message) {
        match message {
            Message::Members { request } => {
                let members = self.shards.iter().map(|shard| Member { shard: shard.id, weight: shard.weight_mib, addresses: Vec::new() });
                let epoch = forebay_types::Epoch(self.board.epoch());
                let answer = Message::MembersAre { request, epoch, members: members.collect() };
                self.answer(id, request, &answer);
            }
            Message::Stats { request } => {
                // Another tenant's namespaces are none of the asker's business.
                let namespaces = self.coordinator.list(tenant).unwrap_or_default();
                let json = json::stats(&self.board, &namespaces);
                self.answer(id, request, &Message::StatsAre { request, json });
            }
            Message::NamespaceList { request } => {
                let listed = self.coordinator.list(tenant);
                let answer = match listed {
                    Err(error) => failed(request, &error),
                    Ok(mut namespaces) => {
                        for namespace in &mut namespaces {
                            namespace.secret = Secret([0; 32]);
                        }
                        Message::NamespacesAre { request, namespaces }
                    }
                };
                self.answer(id, request, &answer);
            }
            Message::Attach { request, name, fingerprint } => {
                let attached = self.attach(tenant, &name, &fingerprint);
                self.namespace_is(id, request, attached);
            }
            Message::NamespaceCreate { request, name, class, quota_bytes, ttl_s, fingerprint } => {
                let known = self.coordinator.get(tenant, &name);
                let created = known.and_then(|known| {
                    let made = self.coordinator.create(tenant, &name, class, quota_bytes, ttl_s, &fingerprint)?;
                    Ok((made, known.is_none()))
                });
                self.namespace_is(id, request, created);
            }
            Message::NamespaceDelete { request, name } => match self.coordinator.delete(tenant, &name) {
                Err(error) => self.answer(id, request, &failed(request, &error)),
                Ok(gone) => self.change(id, request, Message::Done { request }, |_, token| Command::Remove { token, id: gone.id }),
            },
            _ => self.blame(
                id,
                PeerFault::Disorder,
                ErrorCode::Protocol,
                "the peer sent control a message that is none of control's; blocks are asked for on a shard's connection".into(),
            ),
        }
    }

    /// The namespace, and whether it was made just now.
    fn attach(
        &self,
        tenant: Tenant,
        name: &str,
        fingerprint: &forebay_types::Fingerprint,
    ) -> Result<(Namespace, bool), CoordError> {
        let made = name == DEFAULT_NAMESPACE && self.coordinator.get(tenant, name)?.is_none();
        if made {
            self.coordinator.default_namespace(tenant)?;
        }
        Ok((self.coordinator.expect(tenant, name, fingerprint)?, made))
    }

    fn namespace_is(&mut self, id: Id, request: u32, found: Result<(Namespace, bool), CoordError>) {
        match found {
            Err(error) => self.answer(id, request, &failed(request, &error)),
            // One whose drives are still writing it down is answered when they have.
            Ok((namespace, made)) if made || self.is_changing(namespace.id) => {
                let answer = Message::NamespaceIs { request, namespace: namespace.clone() };
                let parts = self.parts_of(namespace.quota_bytes);
                self.change(id, request, answer, |at, token| {
                    let quota_bytes = parts.as_ref().map(|parts| parts[at]);
                    Command::Upsert { token, namespace: Namespace { quota_bytes, ..namespace.clone() } }
                });
            }
            Ok((namespace, _)) => self.answer(id, request, &Message::NamespaceIs { request, namespace }),
        }
    }

    /// Each shard's part of a new namespace's quota.
    fn parts_of(&self, quota_bytes: Option<u64>) -> Option<Vec<u64>> {
        let holders: Vec<Holder> =
            self.shards.iter().map(|shard| Holder { weight: shard.weight_mib, held: 0 }).collect();
        Some(parts(quota_bytes?, &holders))
    }

    fn is_changing(&self, id: NamespaceId) -> bool {
        self.changes
            .iter()
            .any(|change| matches!(&change.answer, Message::NamespaceIs { namespace, .. } if namespace.id == id))
    }

    /// Tells every shard, each by its place, and answers when all have written it down.
    fn change(&mut self, peer: Id, request: u32, answer: Message, command: impl Fn(usize, u64) -> Command) {
        self.next_token += 1;
        let token = self.next_token;
        for (at, shard) in self.shards.iter_mut().enumerate() {
            shard.send(command(at, token));
        }
        if self.changes.len() >= CHANGES_MAX {
            let text =
                "the change is made, but the drives have not written it down yet; ask again in a moment".to_owned();
            return self.answer(peer, request, &Message::Error { request, code: ErrorCode::Unavailable, text });
        }
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.waiting = true;
        }
        let until_us = self.clock.now_us() + CHANGE_US;
        self.changes.push(Change { token, peer, request, left: self.shards.len(), failed: false, until_us, answer });
    }

    /// Hears of what shards have written down.
    pub(super) fn take_saved(&mut self) {
        while let Ok(saved) = self.saved.try_recv() {
            let Some(at) = self.changes.iter().position(|change| change.token == saved.token) else { continue };
            let change = &mut self.changes[at];
            change.left -= 1;
            change.failed |= !saved.ok;
            if change.left == 0 {
                let change = self.changes.swap_remove(at);
                self.end_change(change);
            }
        }
    }

    pub(super) fn give_up_changes(&mut self, now_us: u64) {
        while let Some(at) = self.changes.iter().position(|change| now_us >= change.until_us) {
            let mut change = self.changes.swap_remove(at);
            change.failed = true;
            self.end_change(change);
        }
    }

    fn end_change(&mut self, change: Change) {
        let request = change.request;
        let answer = if change.failed {
            let text = "the catalogue has the change, but a drive could not write it down; see the node's statistics, and ask again".to_owned();
            Message::Error { request, code: ErrorCode::Unavailable, text }
        } else {
            change.answer
        };
        self.answer(change.peer, request, &answer);
        self.understand(change.peer);
        let now_us = self.clock.now_us();
        if let Some(peer) = self.peers.get_mut(change.peer)
            && peer.send(now_us) == super::Fate::Goes
        {
            self.remove(change.peer);
        }
    }
}

/// An answer as builds read it that know no time to live; `None`: as it is.
pub(super) fn without_ttl(answer: &Message) -> Option<Message> {
    let mut plain = answer.clone();
    match &mut plain {
        Message::NamespaceIs { namespace, .. } => namespace.ttl_s = None,
        Message::NamespacesAre { namespaces, .. } => namespaces.iter_mut().for_each(|one| one.ttl_s = None),
        _ => return None,
    }
    Some(plain)
}

fn failed(request: u32, error: &CoordError) -> Message {
    let code = match error {
        CoordError::Fingerprint { .. } => ErrorCode::NamespaceDiffers,
        CoordError::Class { .. } | CoordError::Quota { .. } | CoordError::Ttl { .. } => ErrorCode::NamespaceExists,
        CoordError::Unknown { .. } => ErrorCode::NamespaceUnknown,
        CoordError::QuotaZero | CoordError::TtlZero | CoordError::Invalid(_) => ErrorCode::NamespaceInvalid,
        CoordError::Full(_) | CoordError::Members(_) | CoordError::Storage { .. } => ErrorCode::Unavailable,
    };
    Message::Error { request, code, text: error.to_string() }
}
