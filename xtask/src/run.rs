//! Running other programs: cargo and its plugins. Knows how to start them, whether they are here, and how to keep their last lines.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use crate::Stop;

/// `cargo` as the one that runs this, in the workspace.
pub(crate) fn cargo(root: &Path, args: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root).args(args);
    command
}

/// True when `cargo NAME --version` works.
pub(crate) fn has_plugin(root: &Path, name: &str) -> bool {
    let mut probe = cargo(root, &[name, "--version"]);
    probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// Runs it with this terminal's output; an error says what was run.
pub(crate) fn pass(what: &str, mut command: Command) -> Result<(), Stop> {
    let shown = shown(&command);
    let status = command.status().map_err(|e| Stop::Failed(format!("{what}: {shown} did not start: {e}")))?;
    if status.success() {
        return Ok(());
    }
    Err(Stop::Failed(format!("{what} failed ({status}); to see it alone: {shown}")))
}

/// Runs it, shows every line as it comes, and returns the lines that `keep` picks, in order, with the outcome.
pub(crate) fn pass_keeping(
    what: &str,
    mut command: Command,
    keep: fn(&str) -> bool,
) -> (Vec<String>, Result<(), Stop>) {
    let shown = shown(&command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => return (Vec::new(), Err(Stop::Failed(format!("{what}: {shown} did not start: {e}")))),
    };
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let errors = thread::Builder::new().spawn(move || err.map_or(Vec::new(), |err| tee(err, std::io::stderr(), keep)));
    let mut kept = out.map_or(Vec::new(), |out| tee(out, std::io::stdout(), keep));
    if let Ok(handle) = errors {
        kept.extend(handle.join().unwrap_or_default());
    }
    let done = match child.wait() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Stop::Failed(format!("{what} failed ({status}); to see it alone: {shown}"))),
        Err(e) => Err(Stop::Failed(format!("{what}: {e}"))),
    };
    (kept, done)
}

fn tee(from: impl Read, mut to: impl Write, keep: fn(&str) -> bool) -> Vec<String> {
    let mut kept = Vec::new();
    let mut lines = BufReader::new(from);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        // A closed terminal is no reason to stop the tests.
        let _ = to.write_all(&line);
        let text = String::from_utf8_lossy(&line);
        if keep(text.trim_end()) {
            kept.push(text.trim_end().to_owned());
        }
        line.clear();
    }
    kept
}

/// The command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let mut text = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            text.push_str(&format!("{}={} ", name.to_string_lossy(), value.to_string_lossy()));
        }
    }
    let program = Path::new(command.get_program());
    text.push_str(&program.file_name().unwrap_or(command.get_program()).to_string_lossy());
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}
