//! The rank of a chain's end: expected saving by block and second.

use forebay_types::Reuse;

use crate::cost::CostCurve;

use super::super::chains::{Leaving, least_suffix};
use super::super::policy::{PrefixPolicy, Use, Victim};
use super::super::tree::{ExtentId, Splits, Tree};
use super::returns::Returns;

/// Requests between two estimates: what changes in fewer is chance.
const REFIT_REQUESTS: u32 = 64;

/// What is known of an extent's past.
#[derive(Debug, Clone, Copy, Default)]
struct Past {
    last_s: f64,
    /// How long it was away before its last use; of a new one, what it hangs on.
    gap_s: f64,
    uses: u32,
    /// How many times its chain had grown when it came, with itself.
    turn: u32,
    hint: u32,
    class: u32,
}

/// Classes of extents, by uses (1, 2, more), turns (1, 2, 3 to 5, more), last gap and hint.
const USES: u32 = 3;
const TURNS: u32 = 4;
/// Where gaps are told apart, in seconds: a tool, a long tool, a person, a pause. The first class is of what has none.
const GAPS_S: [f64; 4] = [10.0, 30.0, 100.0, 400.0];
const GAPS: u32 = GAPS_S.len() as u32 + 2;
const HINTS: u32 = 3;

impl Past {
    fn class(&self) -> u32 {
        let uses = self.uses.clamp(1, USES) - 1;
        let turn = match self.turn {
            0..=1 => 0,
            2 => 1,
            3..=5 => 2,
            _ => 3,
        };
        let gap = match self.gap_s {
            0.0 => 0,
            gap_s => 1 + GAPS_S.iter().filter(|edge_s| gap_s >= **edge_s).count() as u32,
        };
        ((uses * TURNS + turn) * GAPS + gap) * HINTS + self.hint
    }
}

/// Ranks ends of chains by what they are expected to save, by block and second of keeping them.
#[derive(Debug, Clone)]
pub(super) struct Rank {
    curve: CostCurve,
    block_tokens: u32,
    hints: bool,
    past: Vec<Past>,
    returns: Returns,
    now_s: f64,
    requests: u32,
    /// Blocks of all requests so far.
    blocks: f64,
    leaving: Leaving,
}

impl Rank {
    /// Nothing used yet.
    pub(super) fn new(curve: CostCurve, block_tokens: u32, hints: bool) -> Self {
        let returns = Returns::new((USES * TURNS * GAPS * HINTS) as usize);
        Rank {
            curve,
            block_tokens,
            hints,
            past: vec![Past::default()],
            returns,
            now_s: 0.0,
            requests: 0,
            blocks: 1.0,
            leaving: Leaving::default(),
        }
    }

    /// Blocks of a prompt, on average: events are weighed in prompts.
    fn prompt_blocks(&self) -> f64 {
        self.blocks / f64::from(self.requests.max(1))
    }

    fn refit(&mut self, tree: &Tree) {
        let each = self.prompt_blocks();
        for (id, past) in self.past.iter().enumerate().skip(1) {
            if past.uses > 0 {
                let weight = f64::from(tree.extent(id as ExtentId).blocks) / each;
                self.returns.waits(past.class as usize, self.now_s - past.last_s, weight);
            }
        }
        self.returns.refit();
    }
}

impl Splits for Rank {
    fn split(&mut self, lower: ExtentId, upper: ExtentId) {
        if self.past.len() <= upper as usize {
            self.past.resize(upper as usize + 1, Past::default());
        }
        self.past[upper as usize] = self.past[lower as usize];
    }
}

impl PrefixPolicy for Rank {
    fn name(&self) -> &'static str {
        "worth"
    }

    fn touch(&mut self, tree: &Tree, path: &[ExtentId], request: &Use) {
        self.now_s = request.at_s;
        self.leaving.forget();
        if self.past.len() < tree.len() {
            self.past.resize(tree.len(), Past::default());
        }
        self.requests += 1;
        self.blocks += path.last().map_or(0.0, |last| f64::from(tree.extent(*last).end()));
        let each = self.prompt_blocks();
        let hint = match request.hint {
            Reuse::Tool if self.hints => 1,
            Reuse::Turn if self.hints => 2,
            _ => 0,
        };
        let (mut gap_s, mut turn) = (0.0, 0);
        for id in path {
            let mut past = self.past[*id as usize];
            if past.uses > 0 {
                gap_s = request.at_s - past.last_s;
                let weight = f64::from(tree.extent(*id).blocks) / each;
                self.returns.came(past.class as usize, gap_s, weight);
                turn = past.turn;
            } else {
                past.turn = turn + 1;
            }
            past.uses += 1;
            past.gap_s = gap_s;
            past.last_s = request.at_s;
            past.hint = hint;
            past.class = past.class();
            self.past[*id as usize] = past;
        }
        if self.requests.is_multiple_of(REFIT_REQUESTS) {
            self.refit(tree);
        }
    }

    fn victim(&mut self, tree: &Tree, need: u32) -> Victim {
        let Rank { curve, block_tokens, past, returns, now_s, leaving, .. } = self;
        let tokens = |blocks: u32| u64::from(blocks) * u64::from(*block_tokens);
        let value_and_weight = |id: ExtentId| {
            let extent = tree.extent(id);
            let past = &past[id as usize];
            let rate = returns.index(past.class as usize, *now_s - past.last_s);
            (rate * curve.prefill_s(tokens(extent.depth), tokens(extent.end())), f64::from(extent.blocks))
        };
        let (leaf, blocks) = leaving.next(tree, need, || match least_suffix(tree, value_and_weight) {
            Some(suffix) => suffix,
            None => unreachable!("a victim is asked for only while something is held"),
        });
        Victim { leaf, blocks }
    }
}
