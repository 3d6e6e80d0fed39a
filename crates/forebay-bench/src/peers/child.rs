//! Peers that live in a process of their own: a line of JSON in, a line of JSON out.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Map, Value, json};

use super::{Figure, Load, Op, Peer};
use crate::{Failed, Outcome, why};

pub(super) struct ChildPeer {
    name: &'static str,
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// What it is asked, in this order, and where the figure stands.
    ops: &'static [(&'static str, &'static str, Op)],
}

impl ChildPeer {
    /// Starts it and waits until it is ready.
    pub(super) fn start(
        name: &'static str,
        mut command: Command,
        ops: &'static [(&'static str, &'static str, Op)],
        versions: &mut Map<String, Value>,
    ) -> Outcome<ChildPeer> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(why("it did not start"))?;
        let (Some(asks), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Failed("it has no stdin and stdout".into()));
        };
        let mut peer = ChildPeer { name, child, asks, answers: BufReader::new(answers), ops };
        let ready = peer.answer()?;
        if let Some(version) = ready["version"].as_str() {
            versions.insert(name.to_owned(), json!(version));
        }
        if ready["ready"] == true { Ok(peer) } else { Err(Failed(format!("it said {ready}"))) }
    }

    fn answer(&mut self) -> Outcome<Value> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.answers.read_line(&mut line).map_err(why("reading its answer"))? == 0 {
                let status = self.child.wait().map_err(why("waiting for it"))?;
                return Err(Failed(format!("it ended ({status})")));
            }
            // Libraries print what they like; an answer is an object.
            if let Ok(Value::Object(answer)) = serde_json::from_str(&line) {
                return Ok(Value::Object(answer));
            }
        }
    }

    fn ask(&mut self, op: &str, load: &Load, set: u32) -> Outcome<f64> {
        let line = json!({"op": op, "bytes": load.bytes, "count": load.count, "in_flight": load.in_flight, "set": set});
        writeln!(self.asks, "{line}").and_then(|()| self.asks.flush()).map_err(why("asking it"))?;
        let answer = self.answer()?;
        answer["seconds"]
            .as_f64()
            .ok_or_else(|| Failed(format!("{op}: {}", answer["error"].as_str().unwrap_or("no answer"))))
    }
}

impl Peer for ChildPeer {
    fn name(&self) -> &'static str {
        self.name
    }

    fn round(&mut self, load: &Load, set: u32) -> Outcome<Vec<Figure>> {
        let mut figures = Vec::new();
        for (verb, column, op) in self.ops {
            let seconds = self.ask(verb, load, set)?;
            figures.push(Figure { column, op: *op, gb_s: load.total() as f64 / 1e9 / seconds });
        }
        self.ask("forget", load, set)?;
        Ok(figures)
    }
}

impl Drop for ChildPeer {
    fn drop(&mut self) {
        // Its own children end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPS: &[(&str, &str, Op)] = &[("put", "x", Op::Put)];
    const LOAD: Load = Load { bytes: 1000, count: 1000, in_flight: 8, name: "1k" };

    fn peer(script: &str) -> Outcome<ChildPeer> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        ChildPeer::start("x", command, OPS, &mut Map::new())
    }

    #[test]
    fn what_a_child_says_becomes_a_figure() {
        let script = r#"echo noise; echo '{"ready": true}'; while read line; do echo '{"seconds": 0.5}'; done"#;
        let figures = peer(script).ok().unwrap().round(&LOAD, 1).ok().unwrap();
        assert!(figures.len() == 1 && figures[0].gb_s == 0.002);
    }

    #[test]
    fn a_child_that_fails_or_ends_is_an_error() {
        let fails = r#"echo '{"ready": true}'; read line; echo '{"error": "no room"}'; read line"#;
        let said = peer(fails).ok().unwrap().round(&LOAD, 1).err().unwrap().to_string();
        assert!(said.contains("no room"), "{said}");
        assert!(peer("exit 3").err().unwrap().to_string().contains("ended"));
    }
}
