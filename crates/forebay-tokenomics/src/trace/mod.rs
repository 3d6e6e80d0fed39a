//! Traces: what a fleet asked, as recorded by others or generated from a seed.
//!
//! Two formats are read: *agent sessions* (one session a line, with its sub-agents) and *mooncake* (one request a line). Both become sessions of
//! requests with block ids. It knows no file and no compression: a trace is a reader of lines.

mod generate;
mod parse;
mod plan;
mod runs;
mod schedule;

pub use generate::{FleetParams, generate_fleet};
pub use parse::{LINE_BYTES_MAX, TraceError, parse_trace};
pub use plan::{Plan, PlanParams, PlannedRequest, Sharing, Span, TooManyBlocks};
pub use runs::{Run, Runs};
pub use schedule::{start_offset_s, starts_s};

/// One request to an engine.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Request {
    /// When it was recorded, in seconds from its session's start.
    pub at_s: f64,
    /// Prompt, in tokens.
    pub prompt_tokens: u64,
    /// Answer, in tokens.
    pub output_tokens: u64,
    /// The prompt's blocks, in order. Equal ids of one session are equal prefixes.
    pub blocks: Runs,
    /// Seconds the provider of that day took, if recorded.
    pub api_s: Option<f64>,
    /// Seconds of pause before it, from the end of the last earlier request with an `api_s`, if recorded.
    pub think_s: Option<f64>,
    /// Which of the session's flows it belongs to: 0 is the session itself, others are sub-agents, numbered from 1.
    pub flow: u32,
    /// Why the answer ended: `tool_use`, `end_turn`, or empty.
    pub stop: String,
}

/// Requests that share block ids.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Session {
    /// Its name in the file.
    pub id: String,
    /// The first model it names.
    pub model: String,
    /// Tokens of tool definitions at the head of its prompt.
    pub tool_tokens: u64,
    /// Tokens of system prompt behind them.
    pub system_tokens: u64,
    /// Its requests: each flow's in its order, a sub-agent's behind the requests recorded before it.
    pub requests: Vec<Request>,
}

/// How the requests of a trace follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Sessions without absolute time, each a loop of request and pause.
    Sessions,
    /// Requests at absolute times, whatever the answers take.
    Open,
}

/// A trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// Tokens of a block.
    pub block_tokens: u32,
    /// How its requests follow each other.
    pub pace: Pace,
    /// Its sessions; a trace with global ids is one.
    pub sessions: Vec<Session>,
}

impl Trace {
    /// Requests in all sessions.
    pub fn requests(&self) -> u64 {
        self.sessions.iter().map(|session| session.requests.len() as u64).sum()
    }

    /// The same trace in chunks of `blocks` blocks, each named by its last block's id; a prompt's incomplete last chunk is left out.
    pub fn chunked(mut self, blocks: u32) -> Trace {
        assert!(blocks > 0, "a chunk has at least one block");
        self.block_tokens *= blocks;
        for request in self.sessions.iter_mut().flat_map(|session| &mut session.requests) {
            request.blocks = request.blocks.ids().skip(blocks as usize - 1).step_by(blocks as usize).collect();
        }
        self
    }
}
