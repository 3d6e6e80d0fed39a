//! The Python package: its wheel is built, installed in an environment of its own, and tested as its users have it. Nothing is written into the
//! checkout. What is missing for it is said aloud; it knows pip and maturin, and nothing of what the package does.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Stop;
use crate::run::{cargo, pass, pass_keeping};

/// What may be there under which name, the first that is new enough counts.
const INTERPRETERS: [&str; 6] = ["python3", "python3.14", "python3.13", "python3.12", "python3.11", "python"];
/// Python that has the buffer protocol in its stable interface, with all that an environment of its own needs.
const PROBE: &str = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))";

/// Why the package is not tested here.
pub(crate) enum Python {
    Ran(Vec<String>),
    Skipped(String),
}

/// `cargo xtask python [ARG...]`: the package alone, with arguments for pytest.
pub(crate) fn run(root: &Path, args: &[String]) -> Result<(), Stop> {
    pass("the binary", cargo(root, &["build", "--locked", "--package", "forebay"]))?;
    match test(root, args)? {
        Python::Ran(_) => Ok(()),
        Python::Skipped(why) => Err(Stop::Failed(format!("the Python package cannot be tested here: {why}"))),
    }
}

/// Builds, installs and tests. The binary is there already.
pub(crate) fn test(root: &Path, args: &[String]) -> Result<Python, Stop> {
    let Some(interpreter) = interpreter() else {
        return Ok(Python::Skipped("there is no Python 3.11 or newer with venv and pip (Debian: python3-venv)".into()));
    };
    let place = Place::of(root);
    if let Err(why) = place.prepare(&interpreter)? {
        return Ok(Python::Skipped(why));
    }
    place.install()?;
    place.stubs()?;
    let mut pytest = place.tool("pytest");
    pytest.args(["-p", "no:cacheprovider", "--color=no"]).args(args);
    pytest.env("FOREBAY_BINARY", binary(root));
    let (kept, done) = pass_keeping("the Python tests", pytest, is_closing_line);
    done.map(|()| Python::Ran(kept))
}

/// The wheel, built with this profile of cargo's, and the Python that its environment was made with. The inner error is why it cannot be had.
pub(crate) fn wheel(root: &Path, profile: &str) -> Result<Result<(PathBuf, PathBuf), String>, Stop> {
    let Some(interpreter) = interpreter() else {
        return Ok(Err("there is no Python 3.11 or newer with venv and pip (Debian: python3-venv)".into()));
    };
    let place = Place::of(root);
    if let Err(why) = place.prepare(&interpreter)? {
        return Ok(Err(why));
    }
    Ok(Ok((place.wheel(profile)?, interpreter)))
}

/// Where cargo builds.
pub(crate) fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir))
}

/// The binary that tests start.
pub(crate) fn binary(root: &Path) -> PathBuf {
    target(root).join("debug/forebay")
}

pub(crate) fn interpreter() -> Option<PathBuf> {
    let named = std::env::var_os("PYTHON").map(PathBuf::from);
    named.into_iter().chain(INTERPRETERS.map(PathBuf::from)).find(|name| {
        let mut probe = Command::new(name);
        probe.args(["-c", PROBE]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    })
}

/// Where the package is, and where everything goes that is made of it.
struct Place {
    project: PathBuf,
    base: PathBuf,
}

impl Place {
    fn of(root: &Path) -> Place {
        Place { project: root.join("python"), base: target(root).join("python") }
    }

    /// A tool of the environment, run beside the package and leaving nothing there.
    fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(self.base.join("venv/bin").join(name));
        command.current_dir(&self.project).env("VIRTUAL_ENV", self.base.join("venv"));
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("PIP_DISABLE_PIP_VERSION_CHECK", "1").env_remove("PYTHONPATH");
        command
    }

    /// The environment with its tools, made when they change. An inner error is why it cannot be had.
    fn prepare(&self, interpreter: &Path) -> Result<Result<(), String>, Stop> {
        let wanted = self.project.join("tests/requirements.txt");
        let failed = |e: std::io::Error| Stop::Failed(format!("{}: {e}", wanted.display()));
        let text = std::fs::read(&wanted).map_err(failed)?;
        let stamp = self.base.join("venv/forebay-requirements.txt");
        if std::fs::read(&stamp).is_ok_and(|made| made == text) {
            return Ok(Ok(()));
        }
        let mut make = Command::new(interpreter);
        make.args(["-m", "venv", "--clear"]).arg(self.base.join("venv"));
        pass("an environment for Python", make)?;
        let mut pip = self.tool("pip");
        pip.args(["install", "--quiet", "--requirement"]).arg(&wanted);
        if !pip.status().is_ok_and(|status| status.success()) {
            return Ok(Err("pip cannot fetch maturin, pytest, NumPy and mypy; is there a network?".into()));
        }
        std::fs::write(stamp, text).map_err(failed)?;
        Ok(Ok(()))
    }

    /// The wheel, built as `maturin build` does it.
    fn wheel(&self, profile: &str) -> Result<PathBuf, Stop> {
        let wheels = self.base.join("wheels");
        // Only the one that is built now is to be found there.
        let _ = std::fs::remove_dir_all(&wheels);
        let mut maturin = self.tool("maturin");
        maturin.args(["build", "--quiet", "--locked", "--profile", profile, "--out"]).arg(&wheels);
        pass("the wheel", maturin)?;
        let built = std::fs::read_dir(&wheels).ok().and_then(|mut files| files.next()).and_then(Result::ok);
        Ok(built.ok_or_else(|| Stop::Failed("maturin has built no wheel".into()))?.path())
    }

    /// The wheel, built and installed.
    fn install(&self) -> Result<(), Stop> {
        let mut pip = self.tool("pip");
        pip.args(["install", "--quiet", "--no-index", "--no-deps", "--force-reinstall"]).arg(self.wheel("dev")?);
        pass("installing the wheel", pip)
    }

    /// The stubs say what the module has, and the sources are typed.
    fn stubs(&self) -> Result<(), Stop> {
        let cache = self.base.join("mypy");
        let mut mypy = self.tool("mypy");
        mypy.arg("--cache-dir").arg(&cache);
        pass("the type check", mypy)?;
        let mut stubtest = self.tool("stubtest");
        // Beside the sources it would take those for the installed package.
        stubtest.current_dir(&self.base).env("MYPY_CACHE_DIR", &cache).arg("forebay._forebay");
        stubtest.args(["--ignore-unused-allowlist", "--allowlist"]).arg(self.project.join("tests/stubs-allowed.txt"));
        pass("the check of stubs", stubtest)
    }
}

pub(crate) fn is_closing_line(line: &str) -> bool {
    let line = line.trim_matches(['=', ' ']);
    line.contains(" in ") && [" passed", " failed", " skipped", "no tests ran"].iter().any(|word| line.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_line_of_pytest_is_known() {
        assert!(is_closing_line("============ 60 passed, 1 skipped in 12.34s ============"));
        assert!(is_closing_line("============ 15 skipped in 54.15s ============"));
        assert!(is_closing_line("=== 1 failed, 59 passed in 72.34s (0:01:12) ==="));
        assert!(!is_closing_line("tests/test_verbs.py ............ [ 20%]"));
    }
}
