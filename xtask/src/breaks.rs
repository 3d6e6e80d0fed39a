//! `cargo xtask breaks`: guards that no mutant leaves out are changed in the source, one after the other, and a test must fail each time.
//!
//! The list is `xtask/breaks.txt`. Each break names what is broken, the file, the test that must find it, and the lines as they are and as they are
//! broken. The file is put back whatever happened; if this is ended in between, `git checkout` does it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Stop;
use crate::run::{cargo, shown};
use crate::tidy::Source;

/// The list, from the workspace's root.
pub(crate) const LIST: &str = "xtask/breaks.txt";

/// How long a test may take with its guard broken, in seconds. Only of a break that says `ends: no` is it found when it does not end: others may be slow.
const SECONDS_MAX: &str = "240";
/// The same of those that do not end.
const SECONDS_MAX_ENDLESS: &str = "90";

/// One guard that is broken.
#[derive(Debug, Default, PartialEq, Eq)]
struct Break {
    /// Where it stands in the list.
    line: usize,
    what: String,
    /// Arguments of `cargo test`, the test's name last.
    test: Vec<String>,
    /// Without its guard the test waits for ever.
    is_endless: bool,
    changes: Vec<Change>,
}

/// Lines of a file, as they are and as they are broken.
#[derive(Debug, Default, PartialEq, Eq)]
struct Change {
    file: String,
    is: String,
    broken: String,
}

pub(crate) fn run(root: &Path, args: &[String]) -> Result<(), Stop> {
    let (mut only, mut from) = ("", 1);
    for pair in args.chunks(2) {
        match pair {
            [flag, text] if flag == "--only" => only = text,
            [flag, number] if flag == "--from" && number.parse::<usize>().is_ok_and(|n| n > 0) => {
                from = number.parse().unwrap_or(1);
            }
            _ => {
                let flags = "--only TEXT, a part of what is broken, of its file or of its test, and --from N, the first of them that is run";
                return Err(Stop::Misused(format!("`breaks` takes {flags}")));
            }
        }
    }
    let list = list(root)?;
    let is_asked = |one: &&Break| {
        one.what.contains(only)
            || one.test.join(" ").contains(only)
            || one.changes.iter().any(|change| change.file.contains(only))
    };
    let asked: Vec<&Break> = list.iter().filter(is_asked).collect();
    if asked.is_empty() {
        return Err(Stop::Misused(format!("nothing in {LIST} contains {only:?}")));
    }
    let mut missed = Vec::new();
    for (at, one) in asked.iter().enumerate().skip(from - 1) {
        println!("== {} of {}: {}", at + 1, asked.len(), one.what);
        match try_one(root, one)? {
            Found::Yes(how) => println!("   found by {}: {how}", one.test.join(" ")),
            Found::No(why) => {
                println!("   NOT FOUND by {}: {why}", one.test.join(" "));
                missed.push(format!("{LIST}:{} {}: {why}", one.line, one.what));
            }
        }
    }
    if missed.is_empty() {
        println!("== each of {} breaks is found", asked.len().saturating_sub(from - 1));
        return Ok(());
    }
    Err(Stop::Failed(format!("{} of {} breaks are not found:\n  {}", missed.len(), asked.len(), missed.join("\n  "))))
}

enum Found {
    Yes(String),
    No(String),
}

/// Breaks it, runs its test, and puts it back.
fn try_one(root: &Path, one: &Break) -> Result<Found, Stop> {
    // As they were, the last one last.
    let mut texts: Vec<(PathBuf, String)> = Vec::new();
    let broken = one.changes.iter().try_for_each(|change| {
        let path = root.join(&change.file);
        let failed = |e: std::io::Error| Stop::Failed(format!("{}: {e}", change.file));
        if !texts.iter().any(|(other, _)| *other == path) && !is_committed(root, &change.file) {
            return Err(Stop::Failed(format!(
                "{} is not as it was committed: it would not be told from what is broken here. Commit or stash it first",
                change.file
            )));
        }
        let text = std::fs::read_to_string(&path).map_err(failed)?;
        change.fits(&text).map_err(Stop::Failed)?;
        std::fs::write(&path, text.replacen(&change.is, &change.broken, 1)).map_err(failed)?;
        texts.push((path, text));
        Ok(())
    });
    let found = broken.map(|()| is_found(root, one));
    for (path, text) in texts.into_iter().rev() {
        std::fs::write(&path, text).map_err(|e| Stop::Failed(format!("{} is still broken: {e}", path.display())))?;
    }
    found
}

fn is_committed(root: &Path, file: &str) -> bool {
    let mut diff = Command::new("git");
    diff.current_dir(root).args(["diff", "--quiet", "HEAD", "--", file]);
    diff.status().is_ok_and(|status| status.success())
}

fn is_found(root: &Path, one: &Break) -> Found {
    let args: Vec<&str> = one.test.iter().map(String::as_str).collect();
    let mut build = cargo(root, &["test", "--quiet", "--no-run"]);
    build.args(&args[..args.len() - 1]);
    if !build.status().is_ok_and(|status| status.success()) {
        return Found::No(format!("it does not build; {}", shown(&build)));
    }
    // Broken, some tests wait for ever.
    let mut test = Command::new("timeout");
    let seconds_max = if one.is_endless { SECONDS_MAX_ENDLESS } else { SECONDS_MAX };
    test.current_dir(root).args(["-k", "5", seconds_max]).arg(cargo(root, &[]).get_program());
    test.args(["test", "--quiet"]).args(&args).stdin(Stdio::null()).stderr(Stdio::null());
    let Ok(output) = test.output() else { return Found::No("`timeout` of the core utilities is not here".into()) };
    let told = String::from_utf8_lossy(&output.stdout);
    let ran = told.lines().any(|line| line.starts_with("running ") && !line.starts_with("running 0 "));
    match output.status.code() {
        _ if !ran => Found::No(format!("no such test; {}", shown(&test))),
        Some(0) => Found::No("the test passes".into()),
        Some(124 | 137) if one.is_endless => Found::Yes("it does not end".into()),
        Some(124 | 137) => Found::No(format!("it did not end in {seconds_max} s")),
        _ => {
            let why =
                told.lines().skip_while(|line| !line.contains("panicked at")).nth(1).unwrap_or("the process was ended");
            Found::Yes(why.trim().chars().take(160).collect())
        }
    }
}

/// What of the list is not true any more, for `cargo xtask tidy`.
pub(crate) fn findings(root: &Path, sources: &[Source]) -> Result<Vec<String>, Stop> {
    let mut findings = Vec::new();
    for one in list(root)? {
        let about = format!("{LIST}:{} ({})", one.line, one.what);
        for change in &one.changes {
            let source = sources.iter().find(|source| source.path == change.file);
            match source.map(|source| change.fits(&source.text)) {
                None => findings.push(format!("{about} breaks {}, which is not there.\n  Where is that guard now?", change.file)),
                Some(Err(why)) => findings.push(format!(
                    "{about}: {why}.\n  Write the guard as it is now, and see the test fail: cargo xtask breaks --only \"{}\"",
                    one.what
                )),
                Some(Ok(())) => {}
            }
        }
        let name = one.test.last().map_or("", |test| test.rsplit("::").next().unwrap_or(test));
        if !sources.iter().any(|source| source.text.contains(&format!("fn {name}"))) {
            findings.push(format!("{about} is found by `{name}`, which is nowhere in the crates.\n  Was it renamed?"));
        }
    }
    Ok(findings)
}

impl Change {
    /// Whether it can be broken in this text; else why not.
    fn fits(&self, text: &str) -> Result<(), String> {
        match text.matches(self.is.as_str()).count() {
            1 => Ok(()),
            n => Err(format!("its lines stand {n} times in {}, not once", self.file)),
        }
    }
}

fn list(root: &Path) -> Result<Vec<Break>, Stop> {
    let text = std::fs::read_to_string(root.join(LIST)).map_err(|e| Stop::Failed(format!("{LIST}: {e}")))?;
    parse(&text).map_err(Stop::Failed)
}

/// Breaks are divided by empty lines; `#` begins a comment.
fn parse(text: &str) -> Result<Vec<Break>, String> {
    let mut all = vec![Break::default()];
    for (at, line) in text.lines().enumerate() {
        let Some(one) = all.last_mut() else { break };
        let word = |name: &str| line.strip_prefix(name).map(|rest| rest.trim().to_owned());
        if line.is_empty() {
            if *one != Break::default() {
                all.push(Break::default());
            }
        } else if let Some(what) = word("break:") {
            (one.what, one.line) = (what, at + 1);
        } else if let Some(file) = word("in:") {
            one.changes.push(Change { file, ..Change::default() });
        } else if let Some(test) = word("test:") {
            one.test = test.split_whitespace().map(ToOwned::to_owned).collect();
        } else if line == "ends: no" {
            one.is_endless = true;
        } else if let (Some(text), Some(last)) = (line.strip_prefix('-'), one.changes.last()) {
            // Behind what is broken comes another place of the same file.
            if !last.broken.is_empty() {
                let file = last.file.clone();
                one.changes.push(Change { file, ..Change::default() });
            }
            one.changes.last_mut().into_iter().for_each(|change| change.is += &format!("{text}\n"));
        } else if let (Some(text), Some(last)) = (line.strip_prefix('+'), one.changes.last_mut()) {
            last.broken += &format!("{text}\n");
        } else if !line.starts_with('#') {
            return Err(format!("{LIST}:{}: neither break:, in:, test:, ends:, -, + nor #", at + 1));
        }
    }
    all.retain(|one| *one != Break::default());
    for one in &all {
        let is_change = |change: &Change| !change.is.is_empty() && change.is != change.broken;
        if one.what.is_empty() || one.test.len() < 2 || one.changes.is_empty() || !one.changes.iter().all(is_change) {
            return Err(format!("{LIST}:{}: a break has break:, in:, test: and lines with - and +", one.line));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Guards.\n\nbreak: nothing is checked\nin: crates/a/src/a.rs\ntest: -p a --test suite wrong_bytes\n-    if !good {\n+    if false {\n";

    #[test]
    fn a_break_is_read_and_fits_where_its_lines_stand_once() {
        let all = parse(TEXT).unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].line, all[0].what.as_str()), (3, "nothing is checked"));
        let change = &all[0].changes[0];
        assert_eq!((change.is.as_str(), change.broken.as_str()), ("    if !good {\n", "    if false {\n"));
        assert_eq!(change.fits("fn a() {\n    if !good {\n"), Ok(()));
        assert!(change.fits("    if good {\n").is_err());
        assert!(change.fits("    if !good {\n    if !good {\n").is_err());
        // One more place of the file, and another file.
        let more = format!("{TEXT}-    b\n+    c\nin: crates/a/src/b.rs\n-    d\n+    e\n\n{TEXT}");
        let all = parse(&more).unwrap();
        let files: Vec<&str> = all[0].changes.iter().map(|change| change.file.as_str()).collect();
        assert_eq!(files, ["crates/a/src/a.rs", "crates/a/src/a.rs", "crates/a/src/b.rs"]);
        assert_eq!((all.len(), all[0].changes[2].broken.as_str()), (2, "    e\n"));
    }

    #[test]
    fn what_is_no_break_is_said_with_its_line() {
        for (from, to) in [("in: ", "of: "), ("-    if !good {\n", ""), ("test: -p a --test suite wrong_bytes\n", "")] {
            let error = parse(&TEXT.replace(from, to)).unwrap_err();
            assert!(error.starts_with("xtask/breaks.txt:"), "{error}");
        }
    }
}
