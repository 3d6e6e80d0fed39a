//! Reads both formats from lines of JSON. Any file of the two formats will do, not only the known ones; an error names its line.

use std::io::BufRead;

use serde::Deserialize;

use super::{Pace, Request, Runs, Session, Trace};

/// Longest line, in bytes: the largest known session has a few million; more is not a trace.
pub const LINE_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Tokens of a block of the mooncake format.
const MOONCAKE_BLOCK_TOKENS: u32 = 512;
/// Seconds of its last step, which has no next one to measure against; its steps are about that long.
const MOONCAKE_STEP_S: f64 = 3.0;
/// Longest prompt believed, in tokens: keeps every sum of tokens inside 64 bits.
const TOKENS_MAX: u64 = 1 << 40;
/// Longest time believed, in seconds: thirty years.
const SECONDS_MAX: f64 = 1e9;

/// Why bytes are not a trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The reader failed; for a compressed file this is where it is damaged or cut.
    #[error("the trace cannot be read past line {line}: {source}")]
    Read {
        /// Lines before it, plus one.
        line: u64,
        /// What it said.
        source: std::io::Error,
    },
    /// A line that is none of the format.
    #[error("line {line} of the trace is not {expected}: {why}")]
    Line {
        /// Counted from 1.
        line: u64,
        /// Of which format.
        expected: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// Nothing in it.
    #[error("the trace holds no request; expected lines of JSON, one session or one request each")]
    Empty,
}

/// Which of the two formats a first line is of.
#[derive(Deserialize)]
struct Probe {
    requests: Option<serde::de::IgnoredAny>,
    timestamp: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct SessionLine {
    #[serde(default)]
    id: String,
    #[serde(default)]
    models: Vec<String>,
    block_size: u32,
    #[serde(default)]
    tool_tokens: u64,
    #[serde(default)]
    system_tokens: u64,
    requests: Vec<Entry>,
}

/// A request, or a sub-agent that has its own.
#[derive(Deserialize)]
struct Entry {
    t: f64,
    #[serde(default, rename = "in")]
    prompt_tokens: Option<u64>,
    #[serde(default, rename = "out")]
    output_tokens: u64,
    #[serde(default)]
    hash_ids: Runs,
    #[serde(default)]
    stop: Option<String>,
    #[serde(default)]
    api_time: Option<f64>,
    #[serde(default)]
    think_time: Option<f64>,
    #[serde(default)]
    requests: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct MooncakeLine {
    timestamp: f64,
    input_length: u64,
    #[serde(default)]
    output_length: u64,
    hash_ids: Runs,
}

/// Parses a trace of either format. The first line that is not empty decides which.
///
/// # Errors
/// [`TraceError`], which names the line.
pub fn parse_trace(reader: impl BufRead) -> Result<Trace, TraceError> {
    let mut lines = Lines { reader, number: 0, line: Vec::new() };
    if !lines.next()? {
        return Err(TraceError::Empty);
    }
    let probe: Probe = lines.parse("a session or a request in JSON")?;
    let trace = match probe {
        Probe { requests: Some(_), .. } => sessions(&mut lines)?,
        Probe { timestamp: Some(_), .. } => mooncake(&mut lines)?,
        _ => {
            let why = "it has neither `requests` nor `timestamp`".to_owned();
            return Err(lines.fail("a session or a request", why));
        }
    };
    if trace.requests() == 0 { Err(TraceError::Empty) } else { Ok(trace) }
}

fn sessions<R: BufRead>(lines: &mut Lines<R>) -> Result<Trace, TraceError> {
    const EXPECTED: &str = "a session";
    let mut out: Vec<Session> = Vec::new();
    let mut block_tokens = 0;
    loop {
        let line: SessionLine = lines.parse(EXPECTED)?;
        if line.block_size == 0 || (block_tokens != 0 && line.block_size != block_tokens) {
            let why = format!("block_size is {} and must be one number above 0 in the whole file", line.block_size);
            return Err(lines.fail(EXPECTED, why));
        }
        block_tokens = line.block_size;
        let mut session = Session {
            id: line.id,
            model: line.models.into_iter().next().unwrap_or_default(),
            tool_tokens: line.tool_tokens.min(TOKENS_MAX),
            system_tokens: line.system_tokens.min(TOKENS_MAX),
            requests: Vec::with_capacity(line.requests.len()),
        };
        let mut flows = 0;
        add_entries(line.requests, 0.0, 0, &mut flows, block_tokens, &mut session.requests)
            .map_err(|why| lines.fail(EXPECTED, why))?;
        out.push(session);
        if !lines.next()? {
            return Ok(Trace { block_tokens, pace: Pace::Sessions, sessions: out });
        }
    }
}

/// Flattens entries; serde_json's own limit of nesting bounds the recursion.
fn add_entries(
    entries: Vec<Entry>,
    from_s: f64,
    flow: u32,
    flows: &mut u32,
    block_tokens: u32,
    out: &mut Vec<Request>,
) -> Result<(), String> {
    let mut before_s = 0.0;
    for (i, entry) in entries.into_iter().enumerate() {
        let at_s = from_s + entry.t;
        let times = [Some(entry.t), Some(at_s), entry.api_time, entry.think_time];
        if times.into_iter().flatten().any(|s| !(0.0..=SECONDS_MAX).contains(&s)) {
            return Err(format!("entry {} has a time outside 0 to {SECONDS_MAX:e} seconds", i + 1));
        }
        if entry.t < before_s {
            return Err(format!("entry {} is at {} s, before the one it follows at {before_s} s", i + 1, entry.t));
        }
        before_s = entry.t;
        if let Some(inner) = entry.requests {
            *flows += 1;
            let flow = *flows;
            add_entries(inner, at_s, flow, flows, block_tokens, out)?;
            continue;
        }
        let Some(prompt_tokens) = entry.prompt_tokens else {
            return Err(format!("entry {} has neither `in` nor `requests`", i + 1));
        };
        check_blocks(prompt_tokens, &entry.hash_ids, block_tokens).map_err(|why| format!("entry {} {why}", i + 1))?;
        out.push(Request {
            at_s,
            prompt_tokens,
            output_tokens: entry.output_tokens.min(TOKENS_MAX),
            blocks: entry.hash_ids,
            api_s: entry.api_time,
            think_s: entry.think_time,
            flow,
            stop: entry.stop.unwrap_or_default(),
        });
    }
    Ok(())
}

fn mooncake<R: BufRead>(lines: &mut Lines<R>) -> Result<Trace, TraceError> {
    const EXPECTED: &str = "a request";
    let mut requests: Vec<Request> = Vec::new();
    loop {
        let line: MooncakeLine = lines.parse(EXPECTED)?;
        let at_s = line.timestamp / 1000.0;
        if !(0.0..=SECONDS_MAX).contains(&at_s) {
            return Err(lines.fail(EXPECTED, format!("its timestamp is {} ms", line.timestamp)));
        }
        if let Some(before) = requests.last().filter(|before| at_s < before.at_s) {
            let why = format!(
                "its timestamp is {} ms, before the line it follows at {} ms",
                line.timestamp,
                before.at_s * 1e3
            );
            return Err(lines.fail(EXPECTED, why));
        }
        check_blocks(line.input_length, &line.hash_ids, MOONCAKE_BLOCK_TOKENS)
            .map_err(|why| lines.fail(EXPECTED, format!("it {why}")))?;
        requests.push(Request {
            at_s,
            prompt_tokens: line.input_length,
            output_tokens: line.output_length.min(TOKENS_MAX),
            blocks: line.hash_ids,
            ..Request::default()
        });
        if !lines.next()? {
            break;
        }
    }
    spread(&mut requests);
    let session = Session { id: "all".into(), requests, ..Session::default() };
    Ok(Trace { block_tokens: MOONCAKE_BLOCK_TOKENS, pace: Pace::Open, sessions: vec![session] })
}

/// Timestamps come in order and in steps; requests of one step are spread evenly until the next.
fn spread(requests: &mut [Request]) {
    let mut rest = requests;
    while let Some(first) = rest.first() {
        let at_s = first.at_s;
        let step = rest.iter().take_while(|r| r.at_s == at_s).count();
        let until_s = rest.get(step).map_or(at_s + MOONCAKE_STEP_S, |next| next.at_s);
        let (now, later) = rest.split_at_mut(step);
        for (i, request) in now.iter_mut().enumerate() {
            request.at_s = at_s + (until_s - at_s) * i as f64 / step as f64;
        }
        rest = later;
    }
}

fn check_blocks(prompt_tokens: u64, blocks: &Runs, block_tokens: u32) -> Result<(), String> {
    if prompt_tokens > TOKENS_MAX {
        return Err(format!("has {prompt_tokens} prompt tokens"));
    }
    let most = prompt_tokens.div_ceil(u64::from(block_tokens));
    if blocks.len() > most {
        return Err(format!(
            "has {} hash_ids for {prompt_tokens} tokens, which fill {most} blocks of {block_tokens}",
            blocks.len()
        ));
    }
    Ok(())
}

/// Lines that are not empty, one at a time, each at most [`LINE_BYTES_MAX`] long.
struct Lines<R> {
    reader: R,
    number: u64,
    line: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    fn next(&mut self) -> Result<bool, TraceError> {
        loop {
            self.line.clear();
            self.number += 1;
            let read =
                std::io::Read::take(&mut self.reader, LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut self.line);
            let read = read.map_err(|source| TraceError::Read { line: self.number, source })?;
            if read == 0 {
                return Ok(false);
            }
            if read > LINE_BYTES_MAX {
                return Err(self.fail("a session or a request", format!("it has more than {LINE_BYTES_MAX} bytes")));
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    fn parse<'a, T: Deserialize<'a>>(&'a self, expected: &'static str) -> Result<T, TraceError> {
        serde_json::from_slice(&self.line).map_err(|e| {
            // serde_json counts lines from the start of what it was given, which is one line: keep its column only.
            let text = e.to_string();
            let why = text.replace(&format!(" at line {} column {}", e.line(), e.column()), "");
            let why = if e.column() > 0 { format!("{why} (column {})", e.column()) } else { why };
            self.fail(expected, why)
        })
    }

    fn fail(&self, expected: &'static str, why: String) -> TraceError {
        TraceError::Line { line: self.number, expected, why }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: &str = r#"{"id":"s","models":["m1","m2"],"block_size":64,"tool_tokens":100,"system_tokens":28,"new_field":{},"requests":[
        {"t":0.0,"in":130,"out":3,"hash_ids":[1,2],"stop":"tool_use","api_time":2.0,"think_time":0.0},
        {"t":10,"type":"subagent","requests":[{"t":1,"in":64,"out":1,"hash_ids":[7]}]},
        {"t":20.5,"in":200,"out":3,"hash_ids":[1,2,3],"stop":"","think_time":9.0}]}"#;

    fn one_line(text: &str) -> String {
        text.replace('\n', " ")
    }

    #[test]
    fn sessions_are_read_with_their_sub_agents() {
        let text = format!("\n{0}\n{0}\n\n", one_line(SESSION));
        let trace = parse_trace(text.as_bytes()).unwrap();
        assert_eq!((trace.block_tokens, trace.pace, trace.requests()), (64, Pace::Sessions, 6));
        let session = &trace.sessions[0];
        assert_eq!((session.model.as_str(), session.tool_tokens, session.system_tokens), ("m1", 100, 28));
        assert_eq!(
            session.requests.iter().map(|r| (r.at_s, r.flow)).collect::<Vec<_>>(),
            [(0.0, 0), (11.0, 1), (20.5, 0)]
        );
        assert_eq!(session.requests[0].api_s, Some(2.0));
        assert_eq!((session.requests[2].api_s, session.requests[2].think_s), (None, Some(9.0)));
        assert_eq!(session.requests[2].blocks.len(), 3);
    }

    #[test]
    fn mooncake_requests_are_spread_inside_their_step() {
        let line =
            |ms: u32| format!(r#"{{"timestamp":{ms},"input_length":600,"output_length":1,"hash_ids":[0,{ms}]}}"#);
        let text = [0, 0, 0, 3000, 3000, 6000].map(line).join("\n");
        let trace = parse_trace(text.as_bytes()).unwrap();
        assert_eq!((trace.block_tokens, trace.pace), (512, Pace::Open));
        let times: Vec<f64> = trace.sessions[0].requests.iter().map(|r| r.at_s).collect();
        assert_eq!(times, [0.0, 1.0, 2.0, 3.0, 4.5, 6.0]);
    }

    #[test]
    fn an_error_names_its_line_and_what_is_wrong() {
        let good = one_line(SESSION);
        let cases = [
            ("{}".to_owned(), "line 1", "neither `requests` nor `timestamp`"),
            ("what".to_owned(), "line 1", "column 1"),
            (format!("{good}\n\n{{\"block_size\":64"), "line 3", "EOF"),
            (
                format!("{good}\n{}", good.replace("\"block_size\":64", "\"block_size\":32")),
                "line 2",
                "block_size is 32",
            ),
            (good.replace("[1,2,3]", "[1,2,3,4,5,6,7,8]"), "line 1", "entry 3 has 8 hash_ids for 200 tokens"),
            (good.replace("[1,2,3]", "[1,-2,3]"), "line 1", "column"),
            (good.replace("20.5", "-20.5"), "line 1", "entry 3 has a time"),
            (good.replace("\"in\":200,", ""), "line 1", "neither `in` nor `requests`"),
            (good.replace("20.5", "9.5"), "line 1", "entry 3 is at 9.5 s, before the one it follows at 10 s"),
            (
                [6, 3].map(|s| format!(r#"{{"timestamp":{s}000,"input_length":1,"hash_ids":[]}}"#)).join("\n"),
                "line 2",
                "timestamp is 3000 ms, before the line it follows at 6000 ms",
            ),
            (r#"{"timestamp":-1,"input_length":1,"hash_ids":[]}"#.to_owned(), "line 1", "timestamp is -1"),
        ];
        for (text, line, why) in cases {
            let error = parse_trace(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(line) && error.contains(why), "{error}");
        }
        for empty in ["", "\n\n", "{\"requests\":[],\"block_size\":64}"] {
            assert!(matches!(parse_trace(empty.as_bytes()), Err(TraceError::Empty)), "{empty}");
        }
    }

    #[test]
    fn a_reader_that_fails_is_named_with_its_line() {
        struct Broken;
        impl std::io::Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::other("corrupt deflate stream"))
            }
        }
        let text = format!("{}\n", one_line(SESSION));
        let reader = std::io::BufReader::new(std::io::Read::chain(text.as_bytes(), Broken));
        let error = parse_trace(reader).unwrap_err().to_string();
        assert!(error.contains("past line 2") && error.contains("corrupt deflate stream"), "{error}");
    }
}
