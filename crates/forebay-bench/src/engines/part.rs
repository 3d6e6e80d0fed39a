//! The programs of `python/bench`: each in the environment of the engine it drives, its rows as a line of JSON on stdout.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::{Common, Failed, Outcome, Scratch, node, why};

/// Where the programs lie, from the root of the repository.
const PROGRAMS: &str = "python/bench";

/// Runs one, and returns what it said.
pub(crate) fn run(common: &Common, dir: &Scratch, program: &str, environment: &str, args: &[&str]) -> Outcome<Value> {
    let mut command = Command::new(interpreter(environment)?);
    let folder = dir.join(program.trim_end_matches(".py"));
    std::fs::create_dir_all(&folder).map_err(why("making its folder"))?;
    command.arg(absolute(Path::new(PROGRAMS))?.join(program)).args(args);
    command.env("FOREBAY_BINARY", absolute(&node::binary(common)?)?).env("FOREBAY_BENCH_DIR", &folder);
    command.env("HF_HUB_OFFLINE", "1").env("PYTHONDONTWRITEBYTECODE", "1");
    let said = said(command);
    // Drives are large, and the next part has its own.
    let _ = std::fs::remove_dir_all(&folder);
    said
}

/// The Python of an environment, which the chore has made.
pub(crate) fn interpreter(environment: &str) -> Outcome<PathBuf> {
    std::env::var_os(environment).map(PathBuf::from).ok_or_else(|| {
        Failed(format!("{environment} names no Python: run it as `cargo xtask bench engines`, which makes the engines' environments"))
    })
}

fn absolute(path: &Path) -> Outcome<PathBuf> {
    path.canonicalize().map_err(|e| Failed(format!("{}: {e}; run it from the repository", path.display())))
}

/// The last object that a program says on stdout.
fn said(mut command: Command) -> Outcome<Value> {
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().map_err(why("it did not start"))?;
    let mut last = None;
    for line in child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
        let line = line.map_err(why("reading its rows"))?;
        if let Ok(Value::Object(object)) = serde_json::from_str(&line) {
            last = Some(Value::Object(object));
        }
    }
    let status = child.wait().map_err(why("waiting for it"))?;
    match last {
        Some(value) if status.success() => Ok(value),
        _ => Err(Failed(format!("it ended ({status}) without rows; what it said stands above"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Outcome<Value> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        said(command)
    }

    #[test]
    fn the_last_object_counts_and_an_ugly_end_is_an_error() {
        let value = shell(r#"echo noise; echo '{"rows": []}'; echo '{"rows": [1]}'; echo 12"#).unwrap();
        assert_eq!(value["rows"][0], 1);
        assert!(shell(r#"echo '{"rows": []}'; exit 3"#).unwrap_err().to_string().contains("exit status: 3"));
        assert!(shell("echo noise").is_err());
    }

    #[test]
    fn without_the_chore_it_says_what_to_run() {
        let said = interpreter("FOREBAY_ENGINES_NOBODY").unwrap_err().to_string();
        assert!(said.contains("cargo xtask bench engines"), "{said}");
    }
}
