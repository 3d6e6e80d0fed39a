//! What is known of a block that is put, before it is: its past, its tokens, and where its request ends.

use crate::returns::Past;
use crate::space::SpaceCost;

use super::super::{Put, Turn};
use super::chains::Growth;

/// Keys of a request, as far as was announced.
pub(super) fn items_of(turn: Turn) -> u32 {
    turn.head - turn.tail + 1
}

/// Tokens to the end of a request, from a block that has so many before it.
pub(super) fn end_behind(turn: Turn, depth: u32, before: f64, block_tokens: f64) -> f64 {
    before + f64::from(items_of(turn).saturating_sub(depth)) * block_tokens
}

/// What is known of the past of a block that is put.
pub(super) fn past_of(put: &Put, growth: Growth) -> Past {
    let hint = Past::hint_of(put.hint);
    Past { uses: 1 + u32::from(put.again), turn: growth.turn, gap_s: growth.gap_s, hint }
}

/// Tokens of a block that is put, and those before it.
pub(super) fn tokens_of(put: &Put, space: &SpaceCost) -> (f64, f64) {
    let tokens = match put.tokens {
        0 => put.bytes as f64 * space.tokens_per_byte(),
        tokens => f64::from(tokens),
    };
    // Whoever does not say where a block lies in its chain has put it at its place in the request.
    let before = if put.position == 0 && put.parent == 0 { put.depth } else { put.position };
    (tokens, f64::from(before) * tokens)
}
