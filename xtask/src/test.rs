//! `cargo xtask test`: everything that must hold, cheapest first, with what was left out said at the end.

use std::path::Path;

use crate::run::{cargo, has_plugin, pass, pass_keeping};
use crate::{Stop, engines, python, tidy};

/// Packages whose tests start nodes, and so depend on the I/O engine.
const IO_ENGINE_TESTS: [&str; 5] = ["forebay-io", "forebay-store", "forebay-node", "forebay-client", "forebay"];

pub(crate) fn run(root: &Path, args: &[String]) -> Result<(), Stop> {
    let asked = Asked::parse(args)?;
    let mut report = Report::default();
    if asked.engines {
        let done = engines::run(root, &asked.of_engines, &mut report);
        report.print(done.is_ok());
        return done;
    }
    lints(root, &mut report)?;
    step("tidy");
    tidy::check(root)?;
    licences(root, &mut report)?;
    tests(root, &asked, &mut report)?;
    python(root, &mut report)?;
    if asked.io_engines {
        io_engines(root, &mut report)?;
    }
    report.print(true);
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Runner {
    Cargo,
    Nextest,
}

struct Asked {
    /// Only the adapters, with the engines' own wheels.
    engines: bool,
    of_engines: engines::Asked,
    io_engines: bool,
    runner: Option<Runner>,
}

impl Asked {
    fn parse(args: &[String]) -> Result<Self, Stop> {
        let mut asked =
            Asked { engines: false, of_engines: engines::Asked::default(), io_engines: false, runner: None };
        let mut args = args.iter().map(String::as_str);
        while let Some(arg) = args.next() {
            match arg {
                "--engines" => asked.engines = true,
                "--allow-skip" | "--only" => match args.next() {
                    Some(engine) if arg == "--only" => asked.of_engines.only.push(engine.to_owned()),
                    Some(engine) => asked.of_engines.may_skip.push(engine.to_owned()),
                    None => return Err(Stop::Misused(format!("{arg} takes an engine"))),
                },
                "--minutes" => match args.next().and_then(|minutes| minutes.parse().ok()) {
                    Some(minutes) => asked.of_engines.minutes = Some(minutes),
                    None => return Err(Stop::Misused("--minutes takes a whole number of minutes".into())),
                },
                "--io-engines" => asked.io_engines = true,
                "--runner" => {
                    asked.runner = match args.next() {
                        Some("cargo") => Some(Runner::Cargo),
                        Some("nextest") => Some(Runner::Nextest),
                        _ => return Err(Stop::Misused("--runner takes cargo or nextest".into())),
                    };
                }
                other => return Err(Stop::Misused(format!("`test` has no flag {other:?}"))),
            }
        }
        let of_engines = &asked.of_engines;
        let is_narrowed =
            !of_engines.only.is_empty() || !of_engines.may_skip.is_empty() || of_engines.minutes.is_some();
        if is_narrowed && !asked.engines {
            return Err(Stop::Misused("--only, --allow-skip and --minutes belong to --engines".into()));
        }
        Ok(asked)
    }
}

/// What the runners said last, and what could not be done here.
#[derive(Default)]
pub(crate) struct Report {
    closing: Vec<String>,
    skipped: Vec<String>,
}

impl Report {
    pub(crate) fn skip(&mut self, what: &str) {
        println!("skipped: {what}");
        self.skipped.push(what.to_owned());
    }

    /// One more line for the end.
    pub(crate) fn close(&mut self, line: String) {
        self.closing.push(line);
    }

    fn print(&self, all_passed: bool) {
        step("the runners' closing lines");
        self.closing.iter().for_each(|line| println!("{line}"));
        match self.skipped.as_slice() {
            [] => println!("\nnothing was skipped"),
            skipped => {
                println!();
                skipped.iter().for_each(|what| println!("skipped: {what}"));
            }
        }
        if all_passed {
            println!("all that ran passed");
        }
    }
}

pub(crate) fn step(name: &str) {
    println!("\n== {name}");
}

fn lints(root: &Path, report: &mut Report) -> Result<(), Stop> {
    step("format");
    if has_plugin(root, "fmt") {
        pass("the format check (mend it with `cargo fmt --all`)", cargo(root, &["fmt", "--all", "--check"]))?;
    } else {
        report.skip("format check: rustfmt is not installed (`rustup component add rustfmt`)");
    }
    step("lints");
    if has_plugin(root, "clippy") {
        let args = ["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
        pass("clippy", cargo(root, &args))
    } else {
        report.skip("lints: clippy is not installed (`rustup component add clippy`)");
        Ok(())
    }
}

fn licences(root: &Path, report: &mut Report) -> Result<(), Stop> {
    step("licences and sources");
    if !has_plugin(root, "deny") {
        report.skip("licences, bans, advisories: cargo-deny is not installed (`cargo install cargo-deny`)");
        return Ok(());
    }
    pass("cargo-deny", cargo(root, &["deny", "--log-level", "error", "check", "licenses", "bans", "sources"]))?;
    let mut fetch = cargo(root, &["deny", "fetch", "db"]);
    fetch.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    if fetch.status().is_ok_and(|status| status.success()) {
        pass("cargo-deny", cargo(root, &["deny", "--log-level", "error", "check", "advisories"]))
    } else {
        report.skip("advisories: their database cannot be fetched from here");
        Ok(())
    }
}

fn tests(root: &Path, asked: &Asked, report: &mut Report) -> Result<(), Stop> {
    let installed = has_plugin(root, "nextest");
    let runner = asked.runner.unwrap_or(if installed { Runner::Nextest } else { Runner::Cargo });
    say_what_is_not_here(root, report);
    if runner == Runner::Nextest {
        step("tests (nextest)");
        // The binary's tests start the binary itself; nextest builds it with them.
        let args = ["nextest", "run", "--workspace", "--locked", "--no-fail-fast", "--color", "never"];
        keep(report, "the tests", cargo(root, &args))?;
        step("doc tests");
        return keep(report, "the doc tests", cargo(root, &["test", "--doc", "--workspace", "--locked"]));
    }
    step("tests and doc tests (cargo test)");
    keep(report, "the tests", cargo(root, &["test", "--workspace", "--locked", "--no-fail-fast"]))
}

/// Tests that need more than a clean clone skip themselves; here is where a person reads of it.
fn say_what_is_not_here(root: &Path, report: &mut Report) {
    if !root.join("../shared/traces").is_dir() {
        report.skip("replay of recorded load, and the first page of it: ../shared/traces is not here");
    }
    if !is_a_browser_here() {
        report.skip("the look at `plan --html` in a browser: no chromium is here; install it or name one in FOREBAY_TEST_CHROMIUM");
    }
}

/// As `crates/forebay/tests/page_in_a_browser.rs` looks for one.
fn is_a_browser_here() -> bool {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let on_path = |path: std::ffi::OsString| {
        std::env::split_paths(&path).any(|dir| names.iter().any(|name| dir.join(name).is_file()))
    };
    std::env::var_os("FOREBAY_TEST_CHROMIUM").is_some() || std::env::var_os("PATH").is_some_and(on_path)
}

/// Behind the Rust tests, which have built the binary.
fn python(root: &Path, report: &mut Report) -> Result<(), Stop> {
    step("the Python package");
    match python::test(root, &[])? {
        python::Python::Ran(closing) => report.closing.extend(closing),
        python::Python::Skipped(why) => report.skip(&format!("the Python package: {why}")),
    }
    Ok(())
}

fn io_engines(root: &Path, report: &mut Report) -> Result<(), Stop> {
    for engine in ["threads", "uring"] {
        step(&format!("tests with the I/O engine {engine:?}"));
        let mut command = cargo(root, &["test", "--locked", "--no-fail-fast"]);
        for package in IO_ENGINE_TESTS {
            command.args(["--package", package]);
        }
        command.env("FOREBAY_IO", engine);
        keep(report, &format!("the tests with --io {engine}"), command)?;
    }
    Ok(())
}

pub(crate) fn keep(report: &mut Report, what: &str, command: std::process::Command) -> Result<(), Stop> {
    let (kept, done) = pass_keeping(what, command, is_closing_line);
    // Most packages have no doc tests: their empty results would bury the others.
    report.closing.extend(kept.into_iter().filter(|line| !line.contains("ok. 0 passed; 0 failed; 0 ignored")));
    done
}

fn is_closing_line(line: &str) -> bool {
    line.starts_with("test result:") || line.trim_start().starts_with("Summary [") || python::is_closing_line(line)
}
