//! Sessions of a trace as a simulation needs them: chunks numbered from 0, and each request with what it waits for.

use std::collections::{BTreeMap, HashMap};

use super::load::CHUNK_TOKENS;
use crate::trace::{Request, Runs, Session, Sharing};

/// A session, with its chunks numbered from 0.
#[derive(Debug, Clone)]
pub(super) struct Template {
    pub(super) requests: Vec<Asked>,
    pub(super) chunks: u32,
    /// Seconds from its start to its last request, by the record.
    pub(super) lasts_s: f64,
    /// What it leaves behind: seconds from its start, and chunks of its own that were asked for then and never again.
    pub(super) leaves: Vec<(f64, u32)>,
}

/// When a request comes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum After {
    /// That many seconds after its session's start.
    Start(f64),
    /// After the start of another request.
    StartOf(u32, f64),
    /// After the request before it in its flow ended: so long after the end of `end_of`, and not before `pause_s` after the own predecessor's start.
    EndOf { before: u32, end_of: u32, pause_s: f64 },
}

impl After {
    /// The request it waits for.
    pub(crate) fn trigger(self) -> Option<u32> {
        match self {
            After::Start(_) => None,
            After::StartOf(before, _) | After::EndOf { before, .. } => Some(before),
        }
    }
}

/// A request of a session.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) prompt: u64,
    pub(crate) output: u64,
    pub(crate) after: After,
    /// Seconds from its session's start by the record, never before what it waits for.
    pub(crate) at_s: f64,
    /// Seconds it took by the record.
    pub(crate) took_s: f64,
    /// Its chunks by when they are asked for next.
    pub(crate) left: Vec<Left>,
    /// Its whole chunks: shared or own, first and how many.
    pub(crate) spans: Vec<Numbers>,
    /// Its whole chunks, counted.
    pub(crate) chunks: u32,
    /// Chunks that can save prefill: never the one with the last prompt token.
    pub(crate) saving: u32,
    /// The request behind it in its flow.
    pub(crate) next: Option<u32>,
    /// Requests that come some time after its start.
    pub(crate) spawns: Vec<u32>,
}

/// Chunks in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) shared: bool,
    /// Chunks of the prompt before it.
    pub(crate) at: u32,
    pub(crate) first: u32,
    pub(crate) count: u32,
}

/// Chunks of a request that are asked for again at `until_s` and not before; infinite for never.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Left {
    pub(crate) numbers: Numbers,
    pub(crate) until_s: f64,
}

/// What one session leaves behind is told in groups of at least so many chunks: the order among fewer moves nothing.
const GROUP_CHUNKS: u32 = 64;

/// Chunks of prompts that sessions have in common.
#[derive(Default)]
pub(super) struct Shared {
    pub(super) numbers: BTreeMap<(String, u64, u64, u32), u32>,
}

/// Blocks of a prompt as chunks of `per` blocks, named by the last block.
fn chunk_ids(blocks: &Runs, per: u32) -> impl Iterator<Item = u64> + '_ {
    let mut skip = per as u64 - 1;
    blocks.runs().iter().flat_map(move |run| {
        let from = skip.min(u64::from(run.count));
        let here = (u64::from(run.count) - from).div_ceil(u64::from(per));
        skip =
            if here == 0 { skip - u64::from(run.count) } else { from + here * u64::from(per) - u64::from(run.count) };
        let first = run.first + from;
        (0..here).map(move |k| first + k * u64::from(per))
    })
}

/// A session of a closed loop.
pub(super) fn template(session: &Session, per_chunk: u32, sharing: Sharing, shared: &mut Shared) -> Template {
    let block_tokens = u64::from(CHUNK_TOKENS / per_chunk);
    let per_chunk_tokens = u64::from(CHUNK_TOKENS);
    let head: Vec<u64> = match (sharing, session.requests.iter().find(|r| r.flow == 0)) {
        (Sharing::Modelled, Some(first)) => {
            let blocks = (session.tool_tokens + session.system_tokens) / block_tokens;
            chunk_ids(&first.blocks.prefix(blocks), per_chunk).collect()
        }
        _ => Vec::new(),
    };
    let tool_chunks = session.tool_tokens / per_chunk_tokens;
    let mut own: HashMap<u64, u32, std::hash::BuildHasherDefault<crate::seeded::Mixed>> = HashMap::default();
    let flows = after(&session.requests);
    let requests = session.requests.iter().zip(flows).map(|(request, after)| {
        let mut spans: Vec<Numbers> = Vec::new();
        let mut in_head = true;
        for (i, id) in chunk_ids(&request.blocks, per_chunk).enumerate() {
            in_head &= head.get(i) == Some(&id);
            let number = if in_head {
                let system = if (i as u64) < tool_chunks { u64::MAX } else { session.system_tokens };
                let next = shared.numbers.len() as u32;
                *shared.numbers.entry((session.model.clone(), session.tool_tokens, system, i as u32)).or_insert(next)
            } else {
                let next = own.len() as u32;
                *own.entry(id).or_insert(next)
            };
            push(&mut spans, in_head, number);
        }
        asked(request, after, spans)
    });
    let mut requests: Vec<Asked> = requests.collect();
    for k in 0..requests.len() {
        match requests[k].after {
            After::Start(_) => {}
            After::StartOf(parent, _) => requests[parent as usize].spawns.push(k as u32),
            After::EndOf { before, .. } => requests[before as usize].next = Some(k as u32),
        }
    }
    let chunks = own.len() as u32;
    let leaves = lasting(&mut requests, chunks);
    Template { lasts_s: requests.iter().map(|asked| asked.at_s).fold(0.0, f64::max), requests, chunks, leaves }
}

/// Puts requests in the record's time and tells of each chunk when it is asked for next; and what is left behind.
fn lasting(requests: &mut [Asked], chunks: u32) -> Vec<(f64, u32)> {
    for k in 0..requests.len() {
        let waits_s = requests[k].after.trigger().map_or(0.0, |before| requests[before as usize].at_s);
        requests[k].at_s = requests[k].at_s.max(waits_s);
    }
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by(|a, b| requests[*a].at_s.total_cmp(&requests[*b].at_s).then(a.cmp(b)));
    let mut own = vec![f64::INFINITY; chunks as usize];
    let mut common: HashMap<u32, f64> = HashMap::new();
    let mut leaves: Vec<(f64, u32)> = Vec::new();
    for k in order.into_iter().rev() {
        let asked = &mut requests[k];
        let mut left: Vec<Left> = Vec::new();
        for span in &asked.spans {
            for i in 0..span.count {
                let number = span.first + i;
                let next_s =
                    if span.shared { common.entry(number).or_insert(f64::INFINITY) } else { &mut own[number as usize] };
                let until_s = std::mem::replace(next_s, asked.at_s);
                if !span.shared && until_s.is_infinite() {
                    match leaves.last_mut() {
                        Some((_, group)) if *group < GROUP_CHUNKS => *group += 1,
                        _ => leaves.push((asked.at_s, 1)),
                    }
                }
                match left.last_mut() {
                    Some(last)
                        if last.until_s == until_s
                            && last.numbers.shared == span.shared
                            && last.numbers.first + last.numbers.count == number =>
                    {
                        last.numbers.count += 1;
                    }
                    _ => left
                        .push(Left { numbers: Numbers { at: span.at + i, first: number, count: 1, ..*span }, until_s }),
                }
            }
        }
        asked.left = left;
    }
    leaves
}

/// Requests at absolute times, and how many chunks they have in common.
pub(super) fn open_template(session: &Session, per_chunk: u32) -> (Template, u32) {
    let mut numbers: HashMap<u64, u32, std::hash::BuildHasherDefault<crate::seeded::Mixed>> = HashMap::default();
    let requests = session.requests.iter().map(|request| {
        let mut spans = Vec::new();
        for id in chunk_ids(&request.blocks, per_chunk) {
            let next = numbers.len() as u32;
            push(&mut spans, true, *numbers.entry(id).or_insert(next));
        }
        asked(request, After::Start(request.at_s), spans)
    });
    let requests = requests.collect();
    (Template { requests, chunks: 0, lasts_s: 0.0, leaves: Vec::new() }, numbers.len() as u32)
}

fn asked(request: &Request, after: After, spans: Vec<Numbers>) -> Asked {
    let chunks: u32 = spans.iter().map(|span| span.count).sum();
    let saving = request.prompt_tokens.saturating_sub(1) / u64::from(CHUNK_TOKENS);
    let saving = saving.min(u64::from(chunks)) as u32;
    Asked {
        prompt: request.prompt_tokens.max(1),
        output: request.output_tokens.max(1),
        after,
        at_s: request.at_s,
        took_s: request.api_s.unwrap_or(0.0),
        left: Vec::new(),
        spans,
        chunks,
        saving,
        next: None,
        spawns: Vec::new(),
    }
}

impl Asked {
    /// Its chunks from the `from`-th up to, and without, the `to`-th.
    pub(crate) fn part(&self, from: u32, to: u32) -> impl DoubleEndedIterator<Item = Numbers> + '_ {
        self.spans.iter().filter_map(move |span| {
            let (begin, end) = (span.at.max(from), (span.at + span.count).min(to));
            (begin < end).then(|| Numbers {
                at: begin,
                first: span.first + (begin - span.at),
                count: end - begin,
                ..*span
            })
        })
    }
}

fn push(spans: &mut Vec<Numbers>, shared: bool, number: u32) {
    let at = spans.last().map_or(0, |last| last.at + last.count);
    match spans.last_mut() {
        Some(last) if last.shared == shared && last.first + last.count == number => last.count += 1,
        _ => spans.push(Numbers { shared, at, first: number, count: 1 }),
    }
}

/// The rules of a closed loop: the pause before a request counts from the end of the last earlier request of its flow that recorded its service
/// time; where that or the own is missing, the pause is what the record shows since the request before, never below 0.
fn after(requests: &[Request]) -> Vec<After> {
    #[derive(Default, Clone, Copy)]
    struct Flow {
        before: Option<usize>,
        timed: Option<usize>,
    }
    let mut flows: Vec<Flow> = Vec::new();
    let mut out = Vec::with_capacity(requests.len());
    for (k, request) in requests.iter().enumerate() {
        let flow = request.flow as usize;
        if flows.len() <= flow {
            flows.resize(flow + 1, Flow::default());
        }
        let parent = flows.first().and_then(|main| main.before);
        out.push(match (flows[flow].before, parent) {
            (None, Some(parent)) => After::StartOf(parent as u32, (request.at_s - requests[parent].at_s).max(0.0)),
            (None, None) => After::Start(request.at_s),
            (Some(before), _) => match (request.think_s, request.api_s, flows[flow].timed) {
                (Some(pause_s), Some(_), Some(timed)) => {
                    After::EndOf { before: before as u32, end_of: timed as u32, pause_s }
                }
                _ => {
                    let took_s = requests[before].api_s.unwrap_or(0.0);
                    let pause_s = (request.at_s - requests[before].at_s - took_s).max(0.0);
                    After::EndOf { before: before as u32, end_of: before as u32, pause_s }
                }
            },
        });
        flows[flow].before = Some(k);
        if request.api_s.is_some() {
            flows[flow].timed = Some(k);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_named_by_their_last_block_across_runs() {
        let ids = |blocks: &[u64], per| chunk_ids(&blocks.iter().copied().collect(), per).collect::<Vec<_>>();
        assert_eq!(ids(&[1, 2, 3, 4, 5, 6, 7], 2), [2, 4, 6]);
        assert_eq!(ids(&[1, 9, 3, 4, 20, 21, 22, 23], 4), [4, 23]);
        assert!(ids(&[1, 9, 3], 4).is_empty());
        assert_eq!(ids(&[5, 6, 70], 1), [5, 6, 70]);
        let blocks: Vec<u64> = (0..1000).map(|i| i * 7 % 31 + i / 100 * 50).collect();
        let naive: Vec<u64> = blocks.iter().copied().skip(7).step_by(8).collect();
        assert_eq!(ids(&blocks, 8), naive);
    }

    #[test]
    fn a_part_of_a_prompt_is_cut_out_of_its_spans() {
        let mut spans = Vec::new();
        for (shared, number) in [(true, 7), (true, 8), (false, 0), (false, 1), (false, 2), (false, 9)] {
            push(&mut spans, shared, number);
        }
        let asked = asked(&Request { prompt_tokens: 6 * 512, ..Request::default() }, After::Start(0.0), spans);
        let part =
            |from, to| asked.part(from, to).flat_map(|span| span.first..span.first + span.count).collect::<Vec<u32>>();
        assert_eq!(part(0, 6), [7, 8, 0, 1, 2, 9]);
        assert_eq!(part(1, 4), [8, 0, 1]);
        assert_eq!((part(5, 6), part(3, 3)), (vec![9], vec![]));
        let backwards: Vec<u32> = asked.part(1, 4).rev().map(|span| span.first).collect();
        assert_eq!(backwards, [0, 8]);
    }

    #[test]
    fn the_rules_of_the_closed_loop() {
        let request = |at_s, api_s, think_s, flow| Request { at_s, api_s, think_s, flow, ..Request::default() };
        let all = [
            request(0.0, Some(4.0), Some(0.0), 0),
            request(9.0, Some(2.0), Some(5.0), 0),
            request(20.0, None, Some(3.0), 0),
            request(31.0, Some(1.0), Some(20.0), 0),
            request(33.0, Some(1.0), Some(0.5), 1),
            request(34.0, Some(1.0), Some(0.5), 1),
        ];
        assert_eq!(
            after(&all),
            [
                After::Start(0.0),
                After::EndOf { before: 0, end_of: 0, pause_s: 5.0 },
                After::EndOf { before: 1, end_of: 1, pause_s: 9.0 },
                After::EndOf { before: 2, end_of: 1, pause_s: 20.0 },
                After::StartOf(3, 2.0),
                After::EndOf { before: 4, end_of: 4, pause_s: 0.5 },
            ]
        );
    }
}
