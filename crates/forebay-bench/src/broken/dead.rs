//! What a call costs once the node is taken for dead, and how soon the node is found again.

use std::time::Duration;

use forebay_client::{Client, NamespaceHandle};
use forebay_types::{Key, MissReason};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::DEAD_US;
use super::alone::{Switches, spins};
use crate::node::Node;
use crate::report::{percentile, round, say};
use crate::watch::{Watch, pause};
use crate::{Failed, Outcome};

/// Calls whose cost is taken, and as many loops of the same length.
const CALLS: usize = 20_000;
/// So many calls, then so many loops, and so on: whatever the machine does meanwhile meets both.
const IN_TURN: usize = 500;
/// Times the node comes back.
const RETURNS: usize = 8;
/// The first hit comes this soon after a node is back, in seconds.
const FOUND_S: f64 = 1.0;

pub(super) fn run(node: &mut Node, client: &Client, space: &NamespaceHandle, keys: &[Key]) -> Outcome<Vec<Value>> {
    let space = space.with_deadline(Duration::from_millis(100));
    let mut rows = Vec::new();
    node.signal(Signal::STOP)?;
    costs(client, &space, keys, "stopped", &mut rows)?;
    node.signal(Signal::CONT)?;
    found(client)?;
    node.kill();
    costs(client, &space, keys, "killed", &mut rows)?;
    node.restart()?;
    found(client)?;
    for (name, kill) in [("stopped", false), ("killed", true)] {
        let mut s = Vec::new();
        for round in 0..RETURNS {
            if kill {
                node.kill();
            } else {
                node.signal(Signal::STOP)?;
            }
            taken_for_dead(client, &space, keys)?;
            // Somewhere between two looks.
            pause(300 + 31 * round as u64);
            if kill {
                node.restart()?;
            } else {
                node.signal(Signal::CONT)?;
            }
            let watch = Watch::start();
            // The block itself may have been evicted while the node was overloaded; that the node says so is enough.
            while matches!(space.get(&keys[..1])[0].miss(), Some(MissReason::Unavailable | MissReason::Deadline)) {
                if watch.s() > 20.0 {
                    return Err(Failed("the node is back and the client does not find it".into()));
                }
                pause(1);
            }
            s.push(watch.s());
        }
        let max = round(percentile(&s, 1.0));
        rows.push(json!({"path": format!("found again after it was {name}"), "unit": "s", "p50": round(percentile(&s, 0.5)), "max": max,
            "ours": max, "limit": FOUND_S, "met": max <= FOUND_S}));
    }
    Ok(rows)
}

fn found(client: &Client) -> Outcome<()> {
    if client.wait_reachable(Duration::from_secs(10)) {
        return Ok(());
    }
    Err(Failed("the node is back and the client does not find it".into()))
}

fn taken_for_dead(client: &Client, space: &NamespaceHandle, keys: &[Key]) -> Outcome<()> {
    let opened = client.counters().breaker_opened;
    for _ in 0..100 {
        space.get(&keys[..1]);
        if client.counters().breaker_opened > opened {
            return Ok(());
        }
    }
    Err(Failed("a node that is gone was never taken for dead".into()))
}

fn costs(client: &Client, space: &NamespaceHandle, keys: &[Key], name: &str, rows: &mut Vec<Value>) -> Outcome<()> {
    taken_for_dead(client, space, keys)?;
    let before = client.counters();
    for count in [1, 64] {
        let (mut us, mut alone_us) = (Vec::with_capacity(CALLS), Vec::with_capacity(CALLS));
        let (mut switches, mut alone_switches) = (0, 0);
        while us.len() < CALLS {
            let before = Switches::now();
            for _ in 0..IN_TURN {
                let watch = Watch::start();
                let missed =
                    space.get(&keys[..count]).iter().all(|result| result.miss() == Some(MissReason::Unavailable));
                us.push(watch.us());
                if !missed {
                    return Err(Failed("a dead node answered".into()));
                }
            }
            let between = Switches::now();
            // Of this turn alone: sorting all of them would leave the next call neither its cache nor its heap, and that call be told as the node's.
            let usual_us = percentile(&us[us.len() - IN_TURN..], 0.5);
            alone_us.extend((0..IN_TURN).map(|_| spins(usual_us)));
            switches += between.since(before);
            alone_switches += Switches::now().since(between);
        }
        let of = |share| round(percentile(&us, share));
        let alone = |share| round(percentile(&alone_us, share));
        rows.push(json!({"path": format!("a call of {count}, node {name}"), "unit": "us", "p50": of(0.5), "p99": of(0.99), "p999": of(0.999),
            "max": of(1.0), "switches": switches, "alone_p999": alone(0.999), "alone_max": alone(1.0), "alone_switches": alone_switches,
            "ours": of(0.999), "limit": DEAD_US, "met": of(0.999) <= DEAD_US}));
    }
    pause(2000);
    let after = client.counters();
    say(&format!(
        "dead ({name}): {} attempts by calls, {} probes in two seconds",
        after.attempts - before.attempts,
        after.probes - before.probes
    ));
    Ok(())
}
