//! What is asked, when: a trace's sessions at a stated load, each request behind the end of the one it waited for.
//!
//! Sessions are closed loops: the next request comes when the simulated answer has ended and its pause has passed. A trace with absolute times is an
//! open loop. More load is sessions drawn again with blocks of their own.
//!
//! A load of sessions is stationary: each session of the trace begins again and again, one period after the other, and had begun long before time 0. Whoever
//! is still at it then goes on where the record is by that age, and what was asked before is what caches are filled with. So sessions of all ages are there
//! from the first second, and a longer time changes nothing but how exactly it is counted.

use super::past::{PAST_S_MAX, Past};
use super::sessions::{Asked, Shared, Template, open_template, template};
use crate::seeded::Seeded;
use crate::trace::{Pace, Sharing, Trace, start_offset_s};

/// Tokens of a chunk, the grain KV is kept in here: many of a trace's blocks, so that a fleet of sessions runs in a second.
pub const CHUNK_TOKENS: u32 = 512;
/// Most chunks of a load: a slot costs some forty bytes in all.
const CHUNKS_MAX: u64 = 200_000_000;
/// Most sessions of a load.
const SESSIONS_MAX: u64 = 1_000_000;

/// Why a load cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum LoadError {
    /// Sessions by the hour of a trace without sessions.
    #[error(
        "the trace has requests at absolute times and no sessions; leave out --sessions-per-hour and scale its load with --speed"
    )]
    OpenLoop,
    /// Speed of a trace of sessions.
    #[error("the trace has sessions; state its load with --sessions-per-hour instead of --speed")]
    ClosedLoop,
    /// Blocks larger than a chunk, or no part of it.
    #[error("the trace's blocks of {0} tokens do not divide a chunk of {CHUNK_TOKENS} tokens")]
    Blocks(u32),
    /// Too much of it.
    #[error(
        "the load is {0} sessions with {1} chunks of KV, more than this program simulates; ask for fewer sessions or hours"
    )]
    TooLarge(u64, u64),
    /// Nothing inside the time.
    #[error("no session starts in the time that is simulated; ask for more sessions or hours")]
    Empty,
}

/// How a load is made of a trace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadParams {
    /// Sessions that start in an hour; the trace's own, spread over the time, if `None`.
    pub sessions_per_hour: Option<f64>,
    /// How many times faster a trace with absolute times runs.
    pub speed: Option<f64>,
    /// Hours in which sessions start. Of a trace with absolute times all is run.
    pub hours: f64,
    /// Seeds which sessions are drawn, and when in their period they start.
    pub seed: u64,
    /// Sessions are drawn with replacement from all, as a bootstrap does, and not each once.
    pub bootstrap: bool,
}

/// A trace made ready to be loaded at any rate.
#[derive(Debug, Clone)]
pub struct Workload {
    templates: Vec<Template>,
    /// Chunks of shared prompts.
    shared: u32,
    pace: Pace,
    /// Tokens of a chunk.
    pub chunk_tokens: u32,
    /// Longest prompt with its answer, in tokens.
    pub longest_tokens: u64,
    /// Seconds the trace spans.
    pub span_s: f64,
}

/// One session of a load.
#[derive(Debug, Clone, Copy)]
struct Started {
    template: u32,
    /// Below 0 for one that is at it already.
    at_s: f64,
    base: u32,
}

/// A workload at a rate.
#[derive(Debug, Clone)]
pub struct Load<'a> {
    work: &'a Workload,
    sessions: Vec<Started>,
    /// Chunks of single sessions.
    pub(crate) own_chunks: u32,
    /// Seconds in which requests are taken.
    pub span_s: f64,
    speed: f64,
    pub(crate) past: Past,
}

impl Workload {
    /// Prepares a trace: whole chunks of [`CHUNK_TOKENS`] named by their last block, an incomplete one left out.
    ///
    /// # Errors
    /// [`LoadError::Blocks`].
    pub fn new(trace: &Trace, sharing: Sharing) -> Result<Workload, LoadError> {
        if !CHUNK_TOKENS.is_multiple_of(trace.block_tokens) {
            return Err(LoadError::Blocks(trace.block_tokens));
        }
        let per_chunk = CHUNK_TOKENS / trace.block_tokens;
        let mut shared = Shared::default();
        let (templates, common) = if trace.pace == Pace::Sessions {
            let all: Vec<Template> =
                trace.sessions.iter().map(|session| template(session, per_chunk, sharing, &mut shared)).collect();
            (all, shared.numbers.len() as u32)
        } else {
            // Ids are global: any request may ask for any chunk.
            let (all, common) = open_template(&trace.sessions[0], per_chunk);
            (vec![all], common)
        };
        let asked = || trace.sessions.iter().flat_map(|session| &session.requests);
        Ok(Workload {
            templates,
            shared: common,
            pace: trace.pace,
            chunk_tokens: CHUNK_TOKENS,
            longest_tokens: asked().map(|r| r.prompt_tokens + r.output_tokens).max().unwrap_or(0),
            span_s: asked().map(|r| r.at_s).fold(0.0, f64::max),
        })
    }

    /// Sessions, or 1 for a trace with absolute times.
    pub fn sessions(&self) -> usize {
        self.templates.len()
    }

    /// Distinct chunks of the trace.
    pub fn distinct_chunks(&self) -> u64 {
        u64::from(self.shared) + self.templates.iter().map(|t| u64::from(t.chunks)).sum::<u64>()
    }

    /// True for a trace with absolute times.
    pub fn is_open(&self) -> bool {
        self.pace == Pace::Open
    }

    /// The load of one choice.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(&self, params: &LoadParams) -> Result<Load<'_>, LoadError> {
        if self.is_open() {
            if params.sessions_per_hour.is_some() {
                return Err(LoadError::OpenLoop);
            }
            let speed = params.speed.unwrap_or(1.0);
            let sessions = vec![Started { template: 0, at_s: 0.0, base: 0 }];
            let own_chunks = self.templates[0].chunks;
            let past = Past::default();
            return Ok(Load { work: self, sessions, own_chunks, span_s: self.span_s / speed, speed, past });
        }
        if params.speed.is_some() {
            return Err(LoadError::ClosedLoop);
        }
        let have = self.templates.len() as f64;
        let per_hour = params.sessions_per_hour.unwrap_or(have / params.hours);
        let wanted = (per_hour * params.hours).round();
        if wanted < 1.0 {
            return Err(LoadError::Empty);
        }
        if wanted > SESSIONS_MAX as f64 {
            return Err(LoadError::TooLarge(wanted as u64, 0));
        }
        let pool = self.pool(params);
        let span_s = params.hours * 3600.0;
        let period_s = pool.len() as f64 / per_hour * 3600.0;
        let mut load =
            Load { work: self, sessions: Vec::new(), own_chunks: 0, span_s, speed: 1.0, past: Past::default() };
        let longest_s = self.templates.iter().map(|t| t.lasts_s).fold(0.0, f64::max).min(PAST_S_MAX);
        let ever = pool.len() as f64 * ((longest_s + span_s) / period_s + 1.0);
        if ever > SESSIONS_MAX as f64 {
            return Err(LoadError::TooLarge(ever as u64, 0));
        }
        let mut chunks = 0u64;
        for (i, template) in pool.into_iter().enumerate() {
            let asked = &self.templates[template as usize];
            // Where in its period; of an hour, as replays have it, the period is as many times longer.
            let phase_s = start_offset_s(params.seed, i as u64) / 3600.0 * period_s;
            let periods = ((longest_s + phase_s) / period_s).floor();
            let mut at_s = phase_s - periods * period_s;
            while at_s < span_s {
                if at_s < 0.0 && at_s + asked.lasts_s < 0.0 {
                    load.past.ended(at_s, asked);
                } else {
                    let base = chunks.min(CHUNKS_MAX) as u32;
                    load.past.still_at_it(load.sessions.len() as u32, at_s, asked);
                    load.sessions.push(Started { template, at_s, base });
                    chunks += u64::from(asked.chunks);
                }
                at_s += period_s;
            }
        }
        if chunks + u64::from(self.shared) > CHUNKS_MAX {
            return Err(LoadError::TooLarge(load.sessions.len() as u64, chunks));
        }
        load.own_chunks = chunks as u32;
        load.past.settle();
        Ok(load)
    }

    /// All sessions at once, each once: so many callers, each of whom asks one request after the other. Nobody asks after `span_s`.
    ///
    /// # Errors
    /// [`LoadError::OpenLoop`] of a trace without sessions.
    pub fn at_once(&self, span_s: f64) -> Result<Load<'_>, LoadError> {
        if self.is_open() {
            return Err(LoadError::OpenLoop);
        }
        let mut own_chunks = 0;
        let started = self.templates.iter().enumerate().map(|(i, template)| {
            let base = own_chunks;
            own_chunks += template.chunks;
            Started { template: i as u32, at_s: 0.0, base }
        });
        let sessions = started.collect();
        Ok(Load { work: self, sessions, own_chunks, span_s, speed: 1.0, past: Past::default() })
    }

    /// Which sessions there are: the trace's, or as many drawn with replacement, since which sessions a user has is what is uncertain, not how many.
    fn pool(&self, params: &LoadParams) -> Vec<u32> {
        let have = self.templates.len();
        let mut chance = Seeded::new(params.seed ^ 0x6c6f_6164);
        let drawn = |i| if params.bootstrap { (chance.unit() * have as f64) as u32 } else { i };
        (0..have as u32).map(drawn).collect()
    }
}

impl Load<'_> {
    pub(crate) fn shared_chunks(&self) -> u32 {
        self.work.shared
    }

    pub(crate) fn chunk_tokens(&self) -> u32 {
        self.work.chunk_tokens
    }

    /// Sessions, those counted that began before.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    pub(crate) fn start_s(&self, session: u32) -> f64 {
        self.sessions[session as usize].at_s
    }

    pub(crate) fn requests(&self, session: u32) -> &[Asked] {
        &self.work.templates[self.sessions[session as usize].template as usize].requests
    }

    pub(crate) fn base(&self, session: u32) -> u32 {
        self.sessions[session as usize].base
    }

    pub(crate) fn is_open(&self) -> bool {
        self.work.is_open()
    }

    pub(crate) fn speed(&self) -> f64 {
        self.speed
    }
}

#[cfg(test)]
mod tests {
    use super::super::past::Touched;
    use super::*;
    use crate::trace::{Request, Session};

    fn session(start: u64) -> Session {
        let request = |(k, blocks): (usize, u64)| Request {
            at_s: k as f64 * 100.0,
            prompt_tokens: blocks * 64 + 1,
            output_tokens: 5,
            blocks: (start..start + blocks).collect(),
            api_s: Some(10.0),
            think_s: Some(90.0),
            ..Request::default()
        };
        Session {
            model: "m".into(),
            tool_tokens: 1024,
            requests: [8, 16, 33].into_iter().enumerate().map(request).collect(),
            ..Session::default()
        }
    }

    fn trace() -> Trace {
        Trace { block_tokens: 64, pace: Pace::Sessions, sessions: vec![session(1), session(1000), session(2000)] }
    }

    #[test]
    fn sessions_begin_one_period_after_the_other_and_have_chunks_of_their_own() {
        let work = Workload::new(&trace(), Sharing::Private).unwrap();
        assert_eq!((work.sessions(), work.distinct_chunks(), work.longest_tokens), (3, 12, 33 * 64 + 6));
        // 3.5 of three sessions an hour: each comes again after 51 minutes, and so two or three times in two hours.
        let params = LoadParams { sessions_per_hour: Some(3.5), speed: None, hours: 2.0, seed: 1, bootstrap: false };
        let load = work.load(&params).unwrap();
        assert_eq!(load.own_chunks as usize, 4 * load.sessions());
        for template in 0..3 {
            let of = load.sessions.iter().filter(|s| s.template == template && s.at_s >= 0.0);
            let at_s: Vec<f64> = of.map(|s| s.at_s).collect();
            assert!((2..=3).contains(&at_s.len()) && at_s.iter().all(|at_s| *at_s < 7200.0));
            assert!(at_s.windows(2).all(|pair| (pair[1] - pair[0] - 3.0 / 3.5 * 3600.0).abs() < 1e-6));
        }
        assert!(matches!(work.load(&LoadParams { sessions_per_hour: Some(0.1), ..params }), Err(LoadError::Empty)));
        assert!(matches!(work.load(&LoadParams { speed: Some(2.0), ..params }), Err(LoadError::ClosedLoop)));
        assert!(matches!(
            work.load(&LoadParams { sessions_per_hour: Some(1e9), ..params }),
            Err(LoadError::TooLarge(..))
        ));
    }

    #[test]
    fn sessions_of_all_ages_are_there_at_time_0() {
        // Each lasts 200 s; at 1,080 of them an hour one begins every ten seconds for each of the three: twenty of each are at it.
        let work = Workload::new(&trace(), Sharing::Private).unwrap();
        for hours in [0.5, 1.0] {
            let params = LoadParams { sessions_per_hour: Some(1080.0), speed: None, hours, seed: 1, bootstrap: false };
            let load = work.load(&params).unwrap();
            let before = load.sessions.iter().filter(|s| s.at_s < 0.0).count();
            assert!((60..=63).contains(&before), "{before}");
            assert_eq!(load.sessions() - before, (1080.0 * hours) as usize);
            // Half of them have asked twice, the others once: 1 or 2 of 4 chunks each.
            let chunks = load.past.touched().map(|touched| match touched {
                Touched::By { numbers, .. } => numbers.count,
                Touched::Ended { .. } => 0,
            });
            let chunks: u32 = chunks.sum();
            assert!((80..=100).contains(&chunks), "{chunks}");
        }
    }

    #[test]
    fn sessions_share_chunks_only_when_asked() {
        let private = Workload::new(&trace(), Sharing::Private).unwrap();
        let shared = Workload::new(&trace(), Sharing::Modelled).unwrap();
        // Of 1,024 tokens of tools the first prompt has 512, one chunk; ids are each session's own, equal tools make the chunk one.
        assert_eq!((private.distinct_chunks(), shared.distinct_chunks()), (12, 1 + 3 * 3));
    }
}
