//! The log of a node: one line for each event, on stderr, for people or for programs.
//!
//! A crate for this (`tracing` and its subscriber) was weighed: it would bring a dozen crates for spans, filters and formats, and what is said here is
//! a handful of kinds, counted and made quiet by the node itself. What is ours is the part they leave open: who writes never waits for whoever reads
//! stderr. Lines go through a bounded queue; what does not fit is counted, and said when there is room.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use forebay_node::{Event, Severity};
use forebay_types::{Clock, SystemClock};
use serde_json::json;

use crate::say;

/// Lines that wait for a reader of stderr at most.
const LINES_MAX: usize = 256;
/// How long the last lines may take.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A sentence.
    Text,
    /// A JSON object.
    Json,
}

/// Where events go. Clones write to the same place.
#[derive(Clone)]
pub(crate) struct Log {
    form: Form,
    most: Severity,
    lines: SyncSender<String>,
    left_out: Arc<AtomicU64>,
}

/// Waits for the last lines when the log is over.
pub(crate) struct Ended(Receiver<()>);

impl Log {
    /// Writes what matters as much as `most` or more.
    pub(crate) fn start(form: Form, most: Severity) -> std::io::Result<(Self, Ended)> {
        let (lines, to_write) = sync_channel::<String>(LINES_MAX);
        let (over, ended) = sync_channel(1);
        let left_out = Arc::new(AtomicU64::new(0));
        let counted = left_out.clone();
        let write = move || {
            for line in to_write {
                // stderr may be closed; a node serves all the same.
                let _ = writeln!(std::io::stderr(), "{line}");
                let left_out = counted.swap(0, Ordering::Relaxed);
                if left_out > 0 {
                    let event = event(
                        Severity::Warn,
                        "log_left_out",
                        format!("{left_out} lines were left out here: nobody read stderr"),
                    );
                    let _ = writeln!(std::io::stderr(), "{}", written(form, &event));
                }
            }
            let _ = over.try_send(());
        };
        std::thread::Builder::new().name("log".into()).spawn(write)?;
        Ok((Log { form, most, lines, left_out }, Ended(ended)))
    }

    /// How lines look.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// One event.
    pub(crate) fn tell(&self, event: &Event) {
        if event.severity <= self.most && self.lines.try_send(written(self.form, event)).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Something in the ordinary course.
    pub(crate) fn note(&self, kind: &'static str, sentence: impl Into<String>) {
        self.tell(&event(Severity::Info, kind, sentence.into()));
    }

    /// Something that ends the node.
    pub(crate) fn error(&self, kind: &'static str, sentence: impl Into<String>) {
        self.tell(&event(Severity::Error, kind, sentence.into()));
    }
}

impl Ended {
    /// Waits a moment. Every [`Log`] must be gone by then.
    pub(crate) fn wait(self) {
        let _ = self.0.recv_timeout(LAST_LINES);
    }
}

fn event(severity: Severity, kind: &'static str, sentence: String) -> Event {
    Event { severity, kind, sentence, count: 1, shard: None }
}

fn written(form: Form, event: &Event) -> String {
    let utc_s = SystemClock::new().utc_s();
    let Event { severity, kind, sentence, count, shard } = event;
    if form == Form::Json {
        return json!({ "utc_s": utc_s, "level": severity.word(), "kind": kind, "text": sentence, "count": count, "shard": shard }).to_string();
    }
    // A terminal's reader is there, and the journal has its own clock.
    let dated = !std::io::stderr().is_terminal() && std::env::var_os("JOURNAL_STREAM").is_none();
    let mut line = if dated { format!("{} ", say::date(utc_s)) } else { String::new() };
    if *severity != Severity::Info {
        line += &format!("{}: ", severity.word());
    }
    line += &say::one_line(sentence);
    if *count > 1 {
        line += &format!(" ({} times)", say::grouped(*count));
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_how_often_and_for_programs_whose() {
        let many = Event {
            count: 1200,
            shard: Some("ab".into()),
            ..event(Severity::Warn, "corrupt_record", "a record\nwas bad".into())
        };
        let text = written(Form::Text, &many);
        assert!(text.ends_with("warn: a record was bad (1,200 times)"), "{text}");
        let line: serde_json::Value = serde_json::from_str(&written(Form::Json, &many)).unwrap();
        assert_eq!(
            (&line["level"], &line["kind"], &line["count"], &line["shard"]),
            (&"warn".into(), &"corrupt_record".into(), &1200.into(), &"ab".into())
        );
        assert!(line["utc_s"].as_u64() > Some(1_735_689_600));
        assert!(!written(Form::Text, &event(Severity::Info, "ready", "it serves".into())).contains("info"));
    }

    #[test]
    fn who_tells_never_waits_for_a_reader() {
        // No thread takes from this one.
        let (lines, _kept) = sync_channel(2);
        let log = Log { form: Form::Text, most: Severity::Warn, lines, left_out: Arc::new(AtomicU64::new(0)) };
        (0..5).for_each(|_| log.error("x", "y"));
        log.note("quiet", "this is below the level");
        assert_eq!(log.left_out.load(Ordering::Relaxed), 3);
    }
}
