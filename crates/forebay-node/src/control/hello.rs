//! Who is there: version, credential, and which shard is wanted.

use forebay_types::Tenant;
use forebay_types::limits::CREDIT_BYTES_DEFAULT;
use forebay_wire::{ErrorCode, Hello, Message, WIRE_VERSION, Welcome, features};

use super::{Control, Role};
use crate::counters::PeerFault;
use crate::shard::Command;
use crate::shard::conn::HandedOver;
use crate::slab::Id;

/// Features that need no Unix socket.
const EVERYWHERE: u64 = features::HINTS | features::TTL | features::CALLER_KEEPS | features::REPORTS;
const ON_UNIX_SOCKETS: u64 = features::REGIONS | features::DIRECT | features::LENT;

impl Control {
    pub(super) fn on_hello(&mut self, id: Id, message: Message) {
        let Message::Hello(hello) = message else {
            return self.blame(id, PeerFault::Disorder, ErrorCode::Protocol, "a connection begins with Hello".into());
        };
        match self.judge(id, &hello) {
            Err((code, text)) => {
                let version = code == ErrorCode::Version;
                self.blame(id, if version { PeerFault::Version } else { PeerFault::Credential }, code, text);
            }
            Ok((tenant, features)) if hello.shard.0 == [0; 16] => self.welcome(id, tenant, features),
            Ok((tenant, features)) => self.hand_over(id, &hello, tenant, features),
        }
    }

    /// Who it is and what is in force, or why not.
    fn judge(&self, id: Id, hello: &Hello) -> Result<(Tenant, u64), (ErrorCode, String)> {
        if hello.version == 0 {
            return Err((
                ErrorCode::Version,
                format!("the peer speaks no version of the protocol up to {WIRE_VERSION}"),
            ));
        }
        let unix = self.peers.get(id).is_some_and(|peer| peer.socket.is_unix());
        if unix {
            // The kernel says who is at the other end; the peer's word is not asked.
            let uid = self.peers.get(id).and_then(|peer| peer.socket.peer_uid());
            let uid =
                uid.ok_or((ErrorCode::Credential, "the kernel does not say who is at the other end".to_owned()))?;
            return Ok((Tenant(uid), hello.features & (ON_UNIX_SOCKETS | EVERYWHERE)));
        }
        match &self.token {
            Some(token) if same(token, &hello.credential) => Ok((self.own, hello.features & EVERYWHERE)),
            _ => {
                let text = if hello.credential.is_empty() {
                    "this node asks for a token on TCP; give --token-file FILE with the token it was started with"
                } else {
                    "the token is not this node's; give --token-file FILE with the token it was started with"
                };
                Err((ErrorCode::Credential, text.into()))
            }
        }
    }

    fn welcome(&mut self, id: Id, tenant: Tenant, features: u64) {
        let welcome = Message::Welcome(Welcome {
            version: WIRE_VERSION,
            features,
            incarnation: self.board.incarnation,
            epoch: forebay_types::Epoch(self.board.epoch()),
            block_bytes_max: self.shards.iter().map(|shard| shard.block_bytes_max).min().unwrap_or(0),
            align: self.shards.iter().map(|shard| shard.align).max().unwrap_or(4096) as u32,
            credit_bytes: CREDIT_BYTES_DEFAULT,
        });
        if let Some(peer) = self.peers.get_mut(id) {
            peer.role = Role::Client { tenant };
            peer.features = features;
            peer.fds.clear();
            peer.say(&welcome);
        }
    }

    fn hand_over(&mut self, id: Id, hello: &Hello, tenant: Tenant, features: u64) {
        let Some(at) = self.shards.iter().position(|shard| shard.id == hello.shard) else {
            let text = format!("there is no shard {} on this node; ask for its members again", hello.shard);
            return self.refuse(id, ErrorCode::Shard, text);
        };
        let Some(peer) = self.take(id) else { return };
        let handed = HandedOver {
            socket: peer.socket,
            tenant,
            features,
            credit_bytes: hello.credit_bytes,
            leftover: peer.input,
            fds: peer.fds,
        };
        let shard = &mut self.shards[at];
        // A full channel means that the shard does not keep up; the peer sees its connection close and tries again.
        if shard.backlog.is_empty() && shard.commands.try_send(Command::Connection(handed)).is_ok() {
            shard.waker.wake();
        } else {
            self.board.control.error(ErrorCode::TooMany);
        }
    }
}

/// Whether two credentials are equal, in a time that does not tell where they differ.
fn same(ours: &[u8], theirs: &[u8]) -> bool {
    if ours.is_empty() || ours.len() != theirs.len() {
        return false;
    }
    let difference = ours.iter().zip(theirs).fold(0, |sum, (a, b)| sum | (a ^ b));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::same;

    #[test]
    fn only_the_whole_token_is_the_token() {
        assert!(same(b"secret", b"secret"));
        for other in [&b"secreT"[..], b"secre", b"secret1", b""] {
            assert!(!same(b"secret", other));
        }
        assert!(!same(b"", b""), "an empty token lets nobody in");
    }
}
