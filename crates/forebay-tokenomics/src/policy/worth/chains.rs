//! How often a chain has grown, and when it did the last time, for chains that grew lately.

use crate::seeded::finish;

use super::super::{Put, Turn};

/// Chains that are remembered; one that is not is taken for a new one.
const CHAINS: usize = 1 << 13;
const WAYS: usize = 4;

#[derive(Debug, Clone, Copy, Default)]
struct Chain {
    /// 0 is nobody's.
    print: u32,
    /// The turn that it grew in last, by the turn's first rank.
    grew_in: u32,
    moment: u16,
    turn: u16,
    /// How long it had been away then, in seconds.
    gap_s: f32,
}

/// A chain as a block that is put finds it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Growth {
    /// Times it has grown, with this one.
    pub(super) turn: u32,
    pub(super) gap_s: f64,
}

/// What is known of nobody.
const NEW: Growth = Growth { turn: 1, gap_s: 0.0 };

/// Names of a block's chain before and behind it, 0 for none; nothing if it says of no chain.
fn names(put: &Put) -> Option<(u64, u64)> {
    let name = |name: u64| if name == 0 { 0 } else { finish(name ^ u64::from(put.space) << 48) };
    match put.chain {
        0 if put.parent == 0 && put.position == 0 && put.tokens == 0 => None,
        0 => Some((name(put.parent), name(put.own))),
        chain => Some((name(chain), name(chain))),
    }
}

/// A chain with a block more.
fn grown(known: Option<Chain>, turn: Turn, put: &Put, age_s: impl Fn(u16) -> f64) -> Chain {
    match known {
        Some(chain) if chain.grew_in == turn.head => chain,
        Some(chain) => Chain {
            grew_in: turn.head,
            moment: turn.moment,
            turn: chain.turn.saturating_add(1),
            gap_s: age_s(chain.moment) as f32,
            ..chain
        },
        // It goes on where nothing is known of its beginning.
        None if put.position > 0 => Chain { grew_in: turn.head, moment: turn.moment, turn: 2, ..Chain::default() },
        None => Chain { grew_in: turn.head, moment: turn.moment, turn: 1, ..Chain::default() },
    }
}

impl Chain {
    fn growth(&self) -> Growth {
        Growth { turn: u32::from(self.turn), gap_s: f64::from(self.gap_s) }
    }
}

/// Chains by name. Of those that do not name their chain, by the name of the last block.
#[derive(Debug, Clone)]
pub(super) struct Chains {
    sets: Vec<[Chain; WAYS]>,
}

impl Chains {
    pub(super) fn new() -> Self {
        Chains { sets: vec![[Chain::default(); WAYS]; CHAINS / WAYS] }
    }

    /// A block is put. `age_s` says how long ago a moment was.
    pub(super) fn grows(&mut self, turn: Turn, put: &Put, age_s: impl Fn(u16) -> f64) -> Growth {
        let Some((before, after)) = names(put) else { return NEW };
        let known = if before == 0 { None } else { self.take(before) };
        let now = grown(known, turn, put, age_s);
        self.keep(after, now);
        now.growth()
    }

    /// The same, of a block that may not be put after all: nothing changes.
    pub(super) fn would_grow(&self, turn: Turn, put: &Put, age_s: impl Fn(u16) -> f64) -> Growth {
        let Some((before, _)) = names(put) else { return NEW };
        let ways = &self.sets[before as usize % self.sets.len()];
        let known = ways.iter().find(|chain| before != 0 && chain.print == print(before)).copied();
        grown(known, turn, put, age_s).growth()
    }

    fn take(&mut self, name: u64) -> Option<Chain> {
        let ways = self.set_mut(name);
        let at = ways.iter().position(|chain| chain.print == print(name))?;
        let chain = std::mem::take(&mut ways[at]);
        ways[at..].rotate_left(1);
        Some(chain)
    }

    fn keep(&mut self, name: u64, chain: Chain) {
        let ways = self.set_mut(name);
        ways.rotate_right(1);
        ways[0] = Chain { print: print(name), ..chain };
    }

    fn set_mut(&mut self, name: u64) -> &mut [Chain; WAYS] {
        let at = name as usize % self.sets.len();
        &mut self.sets[at]
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.sets.capacity() * size_of::<[Chain; WAYS]>()
    }
}

fn print(name: u64) -> u32 {
    (name >> 32) as u32 | 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(n: u32) -> Turn {
        Turn { head: n, tail: n, moment: n as u16 }
    }

    /// Ten blocks, three more behind them, and two more, once naming the chain and once only the block before.
    #[test]
    fn a_chain_counts_its_turns_by_name_or_by_its_last_block() {
        for chain in [0, 77] {
            let mut chains = Chains::new();
            let mut at = 0u64;
            for (n, blocks) in [(1u32, 10u64), (2, 3), (3, 2)] {
                for _ in 0..blocks {
                    let parent = if at == 0 { 0 } else { 1000 + at - 1 };
                    let put = Put { chain, parent, own: 1000 + at, position: at as u32, tokens: 16, ..Put::default() };
                    let age_s = |moment| f64::from(n - u32::from(moment)) * 7.0;
                    let asked = chains.would_grow(turn(n), &put, age_s);
                    let growth = chains.grows(turn(n), &put, age_s);
                    assert_eq!(asked, growth, "asking changes nothing");
                    assert_eq!(growth, Growth { turn: n, gap_s: if n == 1 { 0.0 } else { 7.0 } });
                    at += 1;
                }
            }
            let stranger = Put { parent: 5, own: 6, position: 9, tokens: 16, ..Put::default() };
            assert_eq!(chains.grows(turn(4), &stranger, |_| 1.0).turn, 2);
        }
    }

    #[test]
    fn a_block_without_a_chain_is_a_new_one() {
        let put = Put { own: 3, ..Put::default() };
        assert_eq!(Chains::new().grows(turn(4), &put, |_| 1.0), Growth { turn: 1, gap_s: 0.0 });
    }
}
