//! A node that holds as many unanswered keys as it takes, as its clients see it: `busy` for each key of each verb, and all well again when those who
//! held it are gone.

use std::io::{IoSlice, IoSliceMut};

use forebay_net::Socket;
use forebay_types::limits::KEYS_PER_MESSAGE_MAX;
use forebay_types::{BlockMeta, Clock, Descriptor, Epoch, NamespaceId, RefusedReason, ShardId, SystemClock, Version};
use forebay_wire::{Frame, Hello, Message, Place, PutItem, ReuseHint, WIRE_VERSION, encode, next_frame};

use super::*;

/// Keys without an answer that a node of one shard holds.
const HELD_MAX: usize = 131_072;
const WAIT: Duration = Duration::from_secs(30);

/// A peer that says what it will put and never sends it.
struct Promiser {
    socket: Socket,
    input: Vec<u8>,
}

impl Promiser {
    fn new(address: &Address, shard: ShardId) -> Promiser {
        let mut promiser = Promiser { socket: Socket::connect(address, WAIT).unwrap(), input: Vec::new() };
        let (version, credit_bytes) = (WIRE_VERSION, 1 << 20);
        let (features, credential, epoch) = (0, b"secret".to_vec(), Epoch(0));
        promiser.send(&Message::Hello(Hello {
            version,
            features,
            shard,
            credential,
            epoch,
            lane: 0,
            trace: 0,
            credit_bytes,
        }));
        promiser.until(|message| matches!(message, Message::Welcome(_)));
        promiser
    }

    /// Takes as many places as one message can, and returns when the node has counted them.
    fn promise(&mut self, namespace: NamespaceId, first: usize) {
        let item = |n: usize| {
            let mut key = Key::default();
            key.0[..8].copy_from_slice(&(first + n).to_be_bytes());
            let bytes = [n as u8; 100];
            let mut descriptor = Vec::new();
            Descriptor::of(BlockMeta::plain(namespace, key, Version(1), bytes.len() as u64), &bytes)
                .encode(&mut descriptor);
            PutItem { descriptor, from: Place::default() }
        };
        let (items, hint) = ((0..KEYS_PER_MESSAGE_MAX).map(item).collect(), ReuseHint::default());
        let deadline_us = 60_000_000;
        self.send(&Message::Put { request: 1, namespace, deadline_us, hint, caller_keeps: false, items });
        let (hold_ms, stop_at_gap, keys) = (0, false, vec![Key::default()]);
        self.send(&Message::Match { request: 2, namespace, deadline_us, hold_ms, stop_at_gap, keys });
        self.until(|message| matches!(message, Message::MatchOutcomes { request: 2, .. }));
    }

    fn send(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        encode(message, &mut bytes).unwrap();
        let mut sent = 0;
        while sent < bytes.len() {
            match self.socket.send(&[IoSlice::new(&bytes[sent..])], &[]) {
                Ok(n) => sent += n,
                Err(_) => assert!(self.socket.wait(false, true, WAIT).unwrap().writable, "the node does not read"),
            }
        }
    }

    fn until(&mut self, is: impl Fn(&Message) -> bool) {
        loop {
            while let Some((frame, took)) = next_frame(&self.input).unwrap() {
                self.input.drain(..took);
                match frame {
                    Frame::Message(message) if is(&message) => return,
                    Frame::Message(Message::Error { text, .. }) => panic!("{text}"),
                    _ => {}
                }
            }
            let mut bytes = [0; 4096];
            match self.socket.recv(&mut [IoSliceMut::new(&mut bytes)], &mut Vec::new()) {
                Ok(n) if n > 0 => self.input.extend_from_slice(&bytes[..n]),
                Ok(_) => panic!("the node let go"),
                Err(_) => assert!(self.socket.wait(true, false, WAIT).unwrap().readable, "the node says nothing"),
            }
        }
    }
}

#[test]
fn whoever_asks_a_node_that_holds_all_it_takes_is_told_busy_key_by_key() {
    let home = Home::new(1);
    let shard = home.node.as_ref().unwrap().shards()[0];
    for address in [home.unix(), home.tcp()] {
        let (client, space) = home.client(&address);
        let blocks = filled(&space, &address.to_string(), &[3000; 20]);
        let names = keys(&blocks);
        let namespace = space.namespace().id;
        let holders: Vec<Promiser> = (0..HELD_MAX / KEYS_PER_MESSAGE_MAX)
            .map(|nth| {
                let mut holder = Promiser::new(&home.unix(), shard);
                holder.promise(namespace, nth * KEYS_PER_MESSAGE_MAX);
                holder
            })
            .collect();
        let before = client.counters();
        let busy = MissReason::Busy;
        assert!(space.get(&names).iter().all(|result| result.miss() == Some(busy)));
        let mut visits = 0;
        space.get_each(&names, |_, result| visits += usize::from(result.is_err_and(|reason| reason == busy)));
        assert_eq!(visits, names.len());
        assert_eq!(space.contains(&names), vec![Err(busy); names.len()]);
        let matched = space.match_prefix(&names, None);
        assert_eq!((matched.n, matched.gap), (0, Some(busy)));
        let more = made(&space, "more", &[3000; 20]);
        assert_eq!(put_all(&space, &more), vec![PutOutcome::Refused(RefusedReason::Busy); more.len()]);
        assert!(matches!(space.forget(&names), Err(ClientError::Forget { .. })));
        let now = client.counters();
        let n = names.len() as u64;
        assert_eq!(now.get.missed(busy) - before.get.missed(busy), 2 * n);
        assert_eq!((now.contains.missed(busy), now.matched.missed(busy), now.matched.not_asked), (n, 1, n - 1));
        assert_eq!(now.put.refused[RefusedReason::Busy.index()], n);
        assert_adds_up(&client);
        // It was for the moment, and nothing was forgotten.
        drop(holders);
        let clock = SystemClock::new();
        while space.contains(&names[..1])[0] == Err(busy) {
            assert!(clock.now_us() < WAIT.as_micros() as u64, "those who held it are gone");
        }
        assert_all_hit(&space, &blocks);
        assert!(put_all(&space, &more).iter().all(|outcome| outcome.is_kept()));
        space.forget(&keys(&more)).unwrap();
        assert_eq!(client.counters().broken, before.broken, "nobody's connection was cut");
        assert_adds_up(&client);
    }
}
