//! What is known of a block's past, in classes: blocks of one class are taken to return alike.

use forebay_types::Reuse;

/// Classes by uses (1, 2, more), turns (1, 2, 3 to 5, more), last gap and hint.
const USES: u32 = 3;
const TURNS: u32 = 4;
/// Where gaps are told apart, in seconds: a tool, a long tool, a person, a pause. The first class is of what has none.
const GAPS_S: [f64; 4] = [10.0, 30.0, 100.0, 400.0];
const GAPS: u32 = GAPS_S.len() as u32 + 2;
const HINTS: u32 = 3;
/// How many there are; a class takes eight bits.
pub(crate) const CLASSES: usize = (USES * TURNS * GAPS * HINTS) as usize;
const _: () = assert!(CLASSES <= 256);

/// A block's past, or that of an extent of them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Past {
    pub(crate) uses: u32,
    /// How many times its chain had grown when it came, with itself.
    pub(crate) turn: u32,
    /// How long it was away before its last use, in seconds; of a new one, what it hangs on.
    pub(crate) gap_s: f64,
    /// See [`Past::hint_of`].
    pub(crate) hint: u32,
}

impl Past {
    /// What of a hint is told apart.
    pub(crate) fn hint_of(hint: Reuse) -> u32 {
        match hint {
            Reuse::Tool => 1,
            Reuse::Turn => 2,
            _ => 0,
        }
    }

    /// Its class, below [`CLASSES`].
    pub(crate) fn class(&self) -> u32 {
        let turn = match self.turn {
            0..=1 => 0,
            2 => 1,
            3..=5 => 2,
            _ => 3,
        };
        number(self.uses.clamp(1, USES) - 1, turn, gap_of(self.gap_s), self.hint)
    }
}

fn gap_of(gap_s: f64) -> u32 {
    match gap_s {
        0.0 => 0,
        gap_s => 1 + GAPS_S.iter().filter(|edge_s| gap_s >= **edge_s).count() as u32,
    }
}

fn number(uses: u32, turn: u32, gap: u32, hint: u32) -> u32 {
    ((uses * TURNS + turn) * GAPS + gap) * HINTS + hint
}

/// The class of a block of class `class` that is used again after `gap_s`.
pub(crate) fn class_after(class: u32, gap_s: f64, hint: u32) -> u32 {
    let (uses, turn) = (class / HINTS / GAPS / TURNS, class / HINTS / GAPS % TURNS);
    number((uses + 1).min(USES - 1), turn, gap_of(gap_s), hint)
}

/// All classes, so that each comes before those it may have above it in a chain.
pub(crate) fn classes_from_the_tail() -> impl Iterator<Item = usize> {
    let rest = (GAPS * HINTS) as usize;
    let of = move |uses: u32, turn: u32| {
        let first = (uses * TURNS + turn) as usize * rest;
        first..first + rest
    };
    (0..USES).flat_map(move |uses| (0..TURNS).rev().flat_map(move |turn| of(uses, turn)))
}

/// Classes that blocks nearer to the head of the same chain may have, which are used whenever one of `class` is: one use more, one turn less.
pub(crate) fn class_above(class: u32) -> [Option<u32>; 2] {
    let (uses, turn, rest) = (class / HINTS / GAPS / TURNS, class / HINTS / GAPS % TURNS, class % (HINTS * GAPS));
    let at = |uses: u32, turn: u32| (uses * TURNS + turn) * GAPS * HINTS + rest;
    [(uses + 1 < USES).then(|| at(uses + 1, turn)), (turn > 0).then(|| at(uses, turn - 1))]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_use_makes_a_class_what_the_past_says_it_is() {
        for turn in 0..8 {
            for (before_s, after_s) in [(0.0, 5.0), (50.0, 1000.0), (12.0, 12.0)] {
                let mut past = Past { uses: 1, turn, gap_s: before_s, hint: 1 };
                for _ in 0..4 {
                    let after = class_after(past.class(), after_s, 2);
                    past = Past { uses: past.uses + 1, gap_s: after_s, hint: 2, ..past };
                    assert_eq!(after, past.class());
                }
            }
        }
    }

    #[test]
    fn nearer_to_the_head_a_block_was_used_more_often_or_came_earlier() {
        let past = Past { uses: 1, turn: 2, gap_s: 20.0, hint: 1 };
        let above = [Past { uses: 2, ..past }.class(), Past { turn: 1, ..past }.class()];
        assert_eq!(class_above(past.class()), above.map(Some));
        assert_eq!(class_above(Past { uses: 9, turn: 1, ..past }.class()), [None, None]);
    }
}
