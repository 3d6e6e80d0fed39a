//! A trace made ready to be replayed: requests in order of time, blocks numbered without gaps.

use std::collections::BTreeMap;

use forebay_types::Reuse;

use super::{Pace, Run, Runs, Session, Trace, start_offset_s, starts_s};

/// What sessions have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// Nothing: every session's blocks are its own.
    #[default]
    Private,
    /// Sessions of equal (model, tool tokens) share the blocks of their tools, and with equal system tokens those of their system prompt.
    Modelled,
}

/// How a trace is made ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PlanParams {
    /// Seeds the start offsets of sessions.
    pub seed: u64,
    /// What sessions have in common.
    pub sharing: Sharing,
}

/// A trace has more distinct blocks than a plan can number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the trace has {distinct} distinct blocks and a replay numbers at most {}; replay a part of the file",
    u32::MAX
)]
pub struct TooManyBlocks {
    /// In the whole trace.
    pub distinct: u64,
}

/// `count` block numbers from `first` upwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First number.
    pub first: u32,
    /// How many, at least 1.
    pub count: u32,
}

/// One request, in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedRequest {
    /// Which session of the trace.
    pub session: u32,
    /// When, in seconds from the replay's start.
    pub at_s: f64,
    /// Prompt, in tokens.
    pub prompt_tokens: u64,
    /// Its blocks in order, as numbers below [`Plan::distinct`].
    pub spans: Vec<Span>,
    /// How many blocks.
    pub blocks: u32,
    /// How many of them can save prefill: full blocks, and never the one with the last prompt token.
    pub saving_blocks: u32,
    /// What the caller could say of the next use when the answer ends, by why it ended; for replays with hints only.
    pub hint: Reuse,
}

impl PlannedRequest {
    /// Its blocks' numbers, in order.
    pub fn numbers(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        self.spans.iter().flat_map(|span| span.first..span.first + span.count)
    }
}

/// Requests of a trace in order of time. Equal times keep the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Tokens of a block.
    pub block_tokens: u32,
    /// The requests.
    pub requests: Vec<PlannedRequest>,
    ranges: Vec<Range>,
    distinct: u32,
}

/// Ids of one scope that follow each other, and the number of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    scope: u32,
    ids: Run64,
    number: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run64 {
    first: u64,
    end: u64,
}

impl Plan {
    /// Orders requests by time and numbers their blocks. Times are those of the closed loop with the recorded service times.
    ///
    /// # Errors
    /// [`TooManyBlocks`].
    pub fn new(trace: &Trace, params: PlanParams) -> Result<Plan, TooManyBlocks> {
        let mut scopes = Scopes::new(trace, params.sharing);
        let mut scoped: Vec<Vec<(u32, Run)>> = Vec::with_capacity(trace.requests() as usize);
        let mut requests = Vec::with_capacity(scoped.capacity());
        for (i, session) in trace.sessions.iter().enumerate() {
            let offset_s = if trace.pace == Pace::Sessions { start_offset_s(params.seed, i as u64) } else { 0.0 };
            let starts = match trace.pace {
                Pace::Sessions => starts_s(session, |k| session.requests[k].api_s.unwrap_or(0.0)),
                Pace::Open => session.requests.iter().map(|r| r.at_s).collect(),
            };
            let shared = scopes.of(session, trace.block_tokens);
            for (request, start_s) in session.requests.iter().zip(starts) {
                let saving = request.prompt_tokens.saturating_sub(1) / u64::from(trace.block_tokens);
                requests.push(PlannedRequest {
                    session: i as u32,
                    at_s: offset_s + start_s,
                    prompt_tokens: request.prompt_tokens,
                    spans: Vec::new(),
                    blocks: u32::try_from(request.blocks.len()).map_err(|_| TooManyBlocks { distinct: u64::MAX })?,
                    saving_blocks: saving.min(request.blocks.len()) as u32,
                    hint: hint_of(&request.stop),
                });
                scoped.push(shared.place(i as u32, &request.blocks));
            }
        }
        let (ranges, distinct) = number(scoped.iter().flatten())?;
        for (request, runs) in requests.iter_mut().zip(&scoped) {
            request.spans = merged(runs.iter().map(|(scope, run)| span_of(&ranges, *scope, *run)));
        }
        requests.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        Ok(Plan { block_tokens: trace.block_tokens, requests, ranges, distinct })
    }

    /// Distinct blocks of the whole trace: numbers are below it.
    pub fn distinct(&self) -> u32 {
        self.distinct
    }

    /// Block references of all requests.
    pub fn references(&self) -> u64 {
        self.requests.iter().map(|r| u64::from(r.blocks)).sum()
    }

    /// Where a block's number comes from: its scope (the session, or a shared prompt) and its id there. The same for every plan of one trace and
    /// sharing, however many requests are replayed.
    ///
    /// # Panics
    /// If `number` is not below [`Plan::distinct`].
    pub fn origin(&self, number: u32) -> (u32, u64) {
        assert!(number < self.distinct, "block number {number} of {}", self.distinct);
        let range = &self.ranges[self.ranges.partition_point(|range| range.number <= number) - 1];
        (range.scope, range.ids.first + u64::from(number - range.number))
    }
}

/// Merges runs to ranges and numbers them: 17 million references are some ten thousand runs.
fn number<'a>(runs: impl Iterator<Item = &'a (u32, Run)>) -> Result<(Vec<Range>, u32), TooManyBlocks> {
    let mut all: Vec<(u32, u64, u64)> = runs.map(|(scope, run)| (*scope, run.first, run.end())).collect();
    all.sort_unstable();
    all.dedup();
    let mut ranges: Vec<Range> = Vec::new();
    for (scope, first, end) in all {
        match ranges.last_mut() {
            Some(last) if last.scope == scope && first <= last.ids.end => last.ids.end = last.ids.end.max(end),
            _ => ranges.push(Range { scope, ids: Run64 { first, end }, number: 0 }),
        }
    }
    let mut next = 0u64;
    for range in &mut ranges {
        range.number = next.min(u64::from(u32::MAX)) as u32;
        next += range.ids.end - range.ids.first;
    }
    let distinct = u32::try_from(next).map_err(|_| TooManyBlocks { distinct: next })?;
    Ok((ranges, distinct))
}

/// Spans that follow each other as one: chunks have ids far apart and numbers side by side.
fn merged(spans: impl Iterator<Item = Span>) -> Vec<Span> {
    let mut out: Vec<Span> = Vec::new();
    for span in spans {
        match out.last_mut() {
            Some(last) if last.first + last.count == span.first => last.count += span.count,
            _ => out.push(span),
        }
    }
    out.shrink_to_fit();
    out
}

/// A tool call comes back; a turn that ended may.
fn hint_of(stop: &str) -> Reuse {
    match stop {
        "tool_use" => Reuse::Tool,
        "end_turn" => Reuse::Turn,
        _ => Reuse::Unknown,
    }
}

fn span_of(ranges: &[Range], scope: u32, run: Run) -> Span {
    let at = ranges.partition_point(|range| (range.scope, range.ids.first) <= (scope, run.first)) - 1;
    let range = &ranges[at];
    debug_assert!(range.scope == scope && run.end() <= range.ids.end);
    Span { first: range.number + (run.first - range.ids.first) as u32, count: run.count }
}

/// Scopes of shared prompts, numbered behind those of the sessions.
struct Scopes {
    sharing: Sharing,
    next: u32,
    tools: BTreeMap<(String, u64), u32>,
    systems: BTreeMap<(String, u64, u64), u32>,
}

impl Scopes {
    fn new(trace: &Trace, sharing: Sharing) -> Self {
        Scopes { sharing, next: trace.sessions.len() as u32, tools: BTreeMap::new(), systems: BTreeMap::new() }
    }

    fn of(&mut self, session: &Session, block_tokens: u32) -> Shared {
        let block_tokens = u64::from(block_tokens);
        let heads = session.requests.iter().find(|request| request.flow == 0).map(|request| &request.blocks);
        let (Sharing::Modelled, Some(first)) = (self.sharing, heads) else { return Shared::default() };
        let tool_blocks = session.tool_tokens / block_tokens;
        let all_blocks = (session.tool_tokens + session.system_tokens) / block_tokens;
        let next = &mut self.next;
        let mut fresh = || {
            *next += 1;
            *next - 1
        };
        let tools = *self.tools.entry((session.model.clone(), session.tool_tokens)).or_insert_with(&mut fresh);
        let key = (session.model.clone(), session.tool_tokens, session.system_tokens);
        let system = *self.systems.entry(key).or_insert_with(&mut fresh);
        Shared { head: first.prefix(all_blocks), tool_blocks, tools, system }
    }
}

/// The head of one session's prompts, and the scopes it belongs to.
#[derive(Default)]
struct Shared {
    head: Runs,
    tool_blocks: u64,
    tools: u32,
    system: u32,
}

impl Shared {
    /// Scopes of a request's blocks: as far as it begins with the shared head they are the shared prompt's, by position; all others its session's.
    fn place(&self, session: u32, blocks: &Runs) -> Vec<(u32, Run)> {
        let common = common_prefix(&self.head, blocks);
        let mut out = Vec::with_capacity(blocks.runs().len() + 2);
        let mut push = |scope, first, count: u64| {
            if count > 0 {
                out.push((scope, Run { first, count: count as u32 }));
            }
        };
        push(self.tools, 0, common.min(self.tool_blocks));
        push(self.system, self.tool_blocks, common.saturating_sub(self.tool_blocks));
        let mut skip = common;
        for run in blocks.runs() {
            let skipped = skip.min(u64::from(run.count));
            skip -= skipped;
            push(session, run.first + skipped, u64::from(run.count) - skipped);
        }
        out
    }
}

fn common_prefix(a: &Runs, b: &Runs) -> u64 {
    a.ids().zip(b.ids()).take_while(|(a, b)| a == b).count() as u64
}

#[cfg(test)]
mod tests {
    use super::super::Request;
    use super::*;

    fn session(tool_tokens: u64, system_tokens: u64, prompts: &[&[u64]]) -> Session {
        let request = |(k, ids): (usize, &&[u64])| Request {
            at_s: k as f64 * 10_000.0,
            prompt_tokens: ids.len() as u64 * 64 + 10,
            blocks: ids.iter().copied().collect(),
            ..Request::default()
        };
        let requests = prompts.iter().enumerate().map(request).collect();
        Session { id: "s".into(), model: "m".into(), tool_tokens, system_tokens, requests }
    }

    fn plan(sessions: Vec<Session>, sharing: Sharing) -> Plan {
        let trace = Trace { block_tokens: 64, pace: Pace::Sessions, sessions };
        Plan::new(&trace, PlanParams { seed: 3, sharing }).unwrap()
    }

    #[test]
    fn blocks_are_numbered_without_gaps_and_know_where_they_come_from() {
        let plan =
            plan(vec![session(0, 0, &[&[1, 2, 3, 90], &[1, 2, 7]]), session(0, 0, &[&[1, 2]])], Sharing::Private);
        assert_eq!((plan.distinct(), plan.references()), (7, 9));
        let mut origins: Vec<(u32, u64)> = (0..7).map(|n| plan.origin(n)).collect();
        origins.sort_unstable();
        assert_eq!(origins, [(0, 1), (0, 2), (0, 3), (0, 7), (0, 90), (1, 1), (1, 2)]);
        for request in &plan.requests {
            let ids: Vec<u64> = request.numbers().map(|n| plan.origin(n).1).collect();
            assert_eq!(ids[..2], [1, 2]);
            assert_eq!(ids.len() as u32, request.blocks);
        }
    }

    #[test]
    fn requests_are_in_order_of_time() {
        let plan = plan(vec![session(0, 0, &[&[1], &[1], &[1]]), session(0, 0, &[&[1], &[1]])], Sharing::Private);
        assert!(plan.requests.windows(2).all(|w| w[0].at_s <= w[1].at_s));
        assert_eq!(plan.requests.iter().filter(|r| r.session == 0).count(), 3);
    }

    #[test]
    fn modelled_sharing_shares_tools_and_with_equal_system_prompts_those_too() {
        // Two blocks of tools, one of system prompt.
        let sessions = || {
            vec![
                session(128, 64, &[&[1, 2, 3, 4], &[1, 2, 3, 4, 5]]),
                session(128, 64, &[&[11, 12, 13, 14]]),
                session(128, 70, &[&[1, 2, 3]]),
                session(129, 64, &[&[1, 2, 3]]),
            ]
        };
        assert_eq!(plan(sessions(), Sharing::Private).distinct(), 5 + 4 + 3 + 3);
        // Shared: 2 of tools, 1 of system; own: 2 and 1; the third has its own system block; the fourth all its own.
        assert_eq!(plan(sessions(), Sharing::Modelled).distinct(), 3 + 2 + 1 + 1 + 3);
    }

    #[test]
    fn the_block_with_the_last_prompt_token_saves_nothing() {
        let mut exact = session(0, 0, &[&[1, 2]]);
        exact.requests[0].prompt_tokens = 128;
        let mut partial = session(0, 0, &[&[1, 2]]);
        partial.requests[0].prompt_tokens = 100;
        let saving = |s: Session| plan(vec![s], Sharing::Private).requests[0].saving_blocks;
        assert_eq!((saving(exact), saving(partial), saving(session(0, 0, &[&[1, 2]]))), (1, 1, 2));
    }
}
