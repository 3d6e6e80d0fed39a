//! The bill of a builder: what a provider's price list makes of a trace, with its cache and without.
//!
//! The provider's cache is taken as boundless and its rules as published: a prefix of whole blocks is read from the cache when each of its blocks
//! was used no longer ago than the time to live, every use renews it, and what is not read is written. Times are those of the record.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::book::PriceList;
use crate::seeded::Mixed;
use crate::trace::{Request, Session, Trace};

/// Tokens of a bill, by what they are billed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BillTokens {
    /// Input at the fresh price.
    pub input: u64,
    /// Input read from the cache.
    pub cache_read: u64,
    /// Input written to the cache: all that was not read, the tail behind the last whole block counted.
    pub cache_write: u64,
    /// Output.
    pub output: u64,
}

/// A bill, in dollars by class.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Bill {
    /// What was billed.
    pub tokens: BillTokens,
    /// Fresh input.
    pub input: f64,
    /// Reads.
    pub cache_read: f64,
    /// Writes.
    pub cache_write: f64,
    /// Output.
    pub output: f64,
}

impl Bill {
    /// In all.
    pub fn total(&self) -> f64 {
        self.input + self.cache_read + self.cache_write + self.output
    }

    /// Tokens at a list's prices; written ones at `write` dollars a million.
    pub fn of(tokens: BillTokens, prices: &PriceList, write: f64) -> Bill {
        let dollars = |tokens: u64, price: f64| tokens as f64 / 1e6 * price * prices.day_factor();
        Bill {
            tokens,
            input: dollars(tokens.input, prices.input),
            cache_read: dollars(tokens.cache_read, prices.cache_read.unwrap_or(prices.input)),
            cache_write: dollars(tokens.cache_write, write),
            output: dollars(tokens.output, prices.output),
        }
    }
}

/// Tokens of a trace without a cache (`None`), or with one that keeps a block for `ttl_s` behind its last use.
///
/// The time to live counts for each block by itself: a request renews the blocks it names and no others. The tail of fewer tokens than a block is
/// billed as written each time, since no later request can name it.
pub fn bill_tokens(trace: &Trace, ttl_s: Option<u32>) -> BillTokens {
    let mut tokens = BillTokens::default();
    for session in &trace.sessions {
        let mut used = Used::default();
        for request in in_order(session) {
            tokens.output += request.output_tokens;
            let Some(ttl_s) = ttl_s else {
                tokens.input += request.prompt_tokens;
                continue;
            };
            let read = used.read(request, f64::from(ttl_s));
            let whole = request.blocks.len().min(request.prompt_tokens / u64::from(trace.block_tokens));
            let read = read.min(whole) * u64::from(trace.block_tokens);
            tokens.cache_read += read;
            tokens.cache_write += request.prompt_tokens - read;
        }
    }
    tokens
}

/// Requests by recorded time; sub-agents interleave with the session.
fn in_order(session: &Session) -> Vec<&Request> {
    let mut requests: Vec<&Request> = session.requests.iter().collect();
    requests.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    requests
}

/// When each block was used last.
#[derive(Default)]
struct Used(HashMap<u64, f64, BuildHasherDefault<Mixed>>);

impl Used {
    /// Leading blocks that are still there; then all of the request's are used.
    fn read(&mut self, request: &Request, ttl_s: f64) -> u64 {
        let (mut leading, mut whole) = (0, true);
        for id in request.blocks.ids() {
            let last = self.0.insert(id, request.at_s);
            // A block that the prompt repeats was used just now by the prompt itself, which does not count.
            whole &= last.is_some_and(|last| last + ttl_s >= request.at_s);
            leading += u64::from(whole);
        }
        leading
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::Book;
    use crate::trace::Pace;

    fn session(requests: &[(f64, u64, &[u64])]) -> Trace {
        let request = |(at_s, prompt_tokens, ids): &(f64, u64, &[u64])| Request {
            at_s: *at_s,
            prompt_tokens: *prompt_tokens,
            output_tokens: 10,
            blocks: ids.iter().copied().collect(),
            ..Request::default()
        };
        let session = Session { requests: requests.iter().map(request).collect(), ..Session::default() };
        Trace { block_tokens: 64, pace: Pace::Sessions, sessions: vec![session] }
    }

    #[test]
    fn every_use_renews_and_each_block_ends_by_itself() {
        // 0 s: 2 blocks and 2 tokens written. 200 s: the first block read and renewed, 64 + 6 written (block 9).
        // 400 s: block 1 is 200 s old, block 2 is 400 s: one block read. 1,000 s: all are over.
        let trace =
            session(&[(0.0, 130, &[1, 2]), (200.0, 134, &[1, 9]), (400.0, 130, &[1, 2]), (1000.0, 130, &[1, 2])]);
        let tokens = bill_tokens(&trace, Some(300));
        assert_eq!((tokens.cache_read, tokens.cache_write), (64 + 64, 130 + 70 + 66 + 130));
        assert_eq!(tokens.input, 0);
        let hour = bill_tokens(&trace, Some(3600));
        assert_eq!((hour.cache_read, hour.cache_write), (64 + 128 + 128, 130 + 70 + 2 + 2));
        let none = bill_tokens(&trace, None);
        assert_eq!((none.input, none.cache_read, none.cache_write, none.output), (524, 0, 0, 40));
    }

    #[test]
    fn bills_are_linear_in_tokens_and_prices() {
        let prices = &Book::built_in().prices["sonnet-5"];
        let tokens = BillTokens { input: 3_000_000, cache_read: 10_000_000, cache_write: 1_000_000, output: 500_000 };
        let bill = Bill::of(tokens, prices, 2.5);
        assert_eq!((bill.input, bill.cache_read, bill.cache_write, bill.output), (6.0, 2.0, 2.5, 5.0));
        assert_eq!(bill.total(), 15.5);
    }
}
