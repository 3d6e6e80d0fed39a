//! `cargo xtask test --engines`: the adapters under the engines' own wheels.
//!
//! Each engine's environment is made once, in the user's cache directory, from a pinned list, and named after the list's content, so that another
//! list is another environment and nothing is ever changed in one that others may be using: the package under test lies beside it. An engine that
//! cannot be installed or does not run is a failure, unless the person who started this named it as one that may be left out.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::run::{cargo, pass, pass_keeping};
use crate::test::{Report, step};
use crate::{Stop, python};

/// What is run under which environment. Tests are files of `python/tests/engines`.
const ENGINES: [Engine; 4] = [
    Engine {
        name: "transformers",
        environment: "vllm",
        beside: None,
        modules: "torch, transformers",
        tests: &["test_transformers_signatures.py", "test_transformers.py"],
    },
    Engine {
        name: "vllm",
        environment: "vllm",
        beside: None,
        modules: "torch, vllm",
        tests: &[
            "test_vllm_signatures.py",
            "test_vllm_identity.py",
            "test_vllm_scheduler.py",
            "test_vllm_worker.py",
            "test_vllm_tier.py",
            "test_vllm_connector.py",
            "test_vllm_faults.py",
            "test_vllm_engine_tier.py",
        ],
    },
    Engine {
        name: "sglang",
        environment: "sglang",
        beside: None,
        modules: "torch, sglang.srt.managers.cache_controller",
        tests: &["test_sglang_signatures.py", "test_sglang.py"],
    },
    Engine {
        name: "lmcache",
        environment: "lmcache",
        beside: Some("vllm"),
        modules: "torch, lmcache",
        tests: &["test_lmcache_signatures.py", "test_lmcache.py", "test_lmcache_server.py"],
    },
];

/// Makes environments: pinned, so that a run from nothing is the same next year.
const INSTALLER: &str = "uv==0.13.9";
/// All environments together, in GB, what they share counted as often as it is there.
const DISK_GB_MAX: u64 = 25;
/// Left free on the disk whatever an environment takes, in GB: others write there too.
const SPARE_GB: u64 = 5;

struct Engine {
    name: &'static str,
    environment: &'static str,
    /// Another environment whose programs its tests start.
    beside: Option<&'static str>,
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
}

/// Runs them. All are run, whatever fails in between: what is broken is said at the end, in one list.
#[expect(clippy::disallowed_methods, reason = "a chore that says how long it took")]
pub(crate) fn run(root: &Path, asked: &Asked, report: &mut Report) -> Result<(), Stop> {
    let begun = Instant::now();
    let engines = chosen(asked)?;
    step("engines: the binary and the wheel");
    pass("the build of the binary", cargo(root, &["build", "--locked", "--package", "forebay", "--bin", "forebay"]))?;
    let (wheel, interpreter) =
        python::wheel(root, "dev")?.map_err(|why| Stop::Failed(format!("the package cannot be built here: {why}")))?;
    let tools = Tools::made(interpreter)?;
    let site = tools.unpack(&wheel, &python::target(root).join("engines/site"))?;
    step("engines: what they take");
    tools.say_what_is_taken(root, &engines)?;
    let (mut ran, mut tests, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    let mut skipped = 0;
    for engine in &engines {
        step(&format!("engines: {}", engine.name));
        match tools.ready(root, &site, engine) {
            Ok(pytest) => {
                let what = format!("the tests with {}", engine.name);
                let (closing, done) = pass_keeping(&what, pytest, python::is_closing_line);
                tests.extend(closing.iter().flat_map(|line| counts(line)));
                report.close(format!("{}: {}", engine.name, closing.join("; ").trim_matches(['=', ' '])));
                ran.push(engine.name);
                if let Err(Stop::Failed(why)) = done {
                    failed.push(why);
                }
            }
            Err(Stop::Failed(why)) if asked.may_skip.iter().any(|name| name == engine.name) => {
                report.skip(&format!("engine {}: {why}", engine.name));
                skipped += 1;
            }
            Err(Stop::Failed(why)) => {
                let hint = format!("`--allow-skip {}` leaves its tests out", engine.name);
                failed.push(format!("the engine {} does not run here: {why}; {hint}", engine.name));
            }
            Err(misused) => return Err(misused),
        }
    }
    let sums = ["passed", "failed", "errors", "skipped"].map(|word| {
        let sum: u64 =
            tests.iter().filter(|(_, of)| of.trim_end_matches('s') == word.trim_end_matches('s')).map(|(n, _)| n).sum();
        (sum, word)
    });
    let said: Vec<_> =
        sums.iter().filter(|(sum, word)| *sum > 0 || *word == "passed").map(|(n, of)| format!("{n} {of}")).collect();
    let seconds = begun.elapsed().as_secs();
    let names = ran.join(", ");
    report.close(format!(
        "engines: {} ran ({names}), {skipped} left out: {} in {seconds} s",
        ran.len(),
        said.join(", ")
    ));
    if failed.is_empty() { Ok(()) } else { Err(Stop::Failed(failed.join("\n"))) }
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

fn chosen(asked: &Asked) -> Result<Vec<&'static Engine>, Stop> {
    let named =
        asked.only.iter().map(|name| ("--only", name)).chain(asked.may_skip.iter().map(|name| ("--allow-skip", name)));
    for (flag, name) in named {
        if !ENGINES.iter().any(|engine| engine.name == name) {
            let known: Vec<&str> = ENGINES.iter().map(|engine| engine.name).collect();
            return Err(Stop::Misused(format!("{flag} takes an engine, one of {}, not {name:?}", known.join(", "))));
        }
    }
    Ok(ENGINES
        .iter()
        .filter(|engine| asked.only.is_empty() || asked.only.iter().any(|name| name == engine.name))
        .collect())
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

/// The user's cache directory, and Forebay's folder in it.
fn cache() -> Result<PathBuf, Stop> {
    let given = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = given.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
    let cache = cache
        .ok_or_else(|| Stop::Failed("there is no home directory to make environments in: set XDG_CACHE_HOME".into()))?;
    Ok(cache.join("forebay"))
}

/// What makes environments.
struct Tools {
    interpreter: PathBuf,
    uv: PathBuf,
}

impl Tools {
    /// uv, in an environment of its own.
    fn made(interpreter: PathBuf) -> Result<Tools, Stop> {
        let home = make(&cache()?.join("tools"), &key(&interpreter, INSTALLER), 0, |home| {
            let (mut venv, mut pip) = (Command::new(&interpreter), Command::new(home.join("bin/pip")));
            venv.args(["-m", "venv"]).arg(home);
            pass("making a virtual environment", venv)?;
            pip.args(["install", "--quiet", INSTALLER]);
            pass("installing uv", pip)
        })?;
        Ok(Tools { interpreter, uv: home.join("bin/uv") })
    }

    /// Says what disk the environments take, and refuses before anything is fetched if they do not fit.
    fn say_what_is_taken(&self, root: &Path, engines: &[&Engine]) -> Result<(), Stop> {
        let folder = cache()?.join("engines");
        let mut names: Vec<&str> =
            engines.iter().flat_map(|engine| [Some(engine.environment), engine.beside]).flatten().collect();
        names.sort_unstable();
        names.dedup();
        let mut missing_gb = 0;
        for name in names {
            let list = List::read(root, &self.interpreter, name)?;
            let made = folder.join(&list.folder).join(".complete").exists();
            missing_gb += if made { 0 } else { list.disk_gb };
            let state = if made { "is there" } else { "is to be made" };
            eprintln!("{}: {state}; {} GB on its own", folder.join(&list.folder).display(), list.disk_gb);
        }
        std::fs::create_dir_all(&folder).map_err(|e| Stop::Failed(format!("{}: {e}", folder.display())))?;
        let free_gb = free_gb(&folder)?;
        eprintln!(
            "at most {missing_gb} GB are taken now (less where lists share packages), of {free_gb} GB free; {DISK_GB_MAX} GB in all are the limit"
        );
        if free_gb < missing_gb + SPARE_GB {
            let text = format!("{missing_gb} GB and {SPARE_GB} GB to spare are needed, and {free_gb} GB are free");
            return Err(Stop::Failed(format!("{text}: make room, or set XDG_CACHE_HOME to another disk")));
        }
        Ok(())
    }

    /// The command that runs an engine's tests, which imports what it should.
    fn ready(&self, root: &Path, site: &Path, engine: &Engine) -> Result<Command, Stop> {
        let python = self.environment(root, engine.environment)?;
        pass(&format!("importing {}", engine.modules), imports(&python, engine.modules))?;
        let mut command = pytest(root, &python, site, engine);
        if let Some(name) = engine.beside {
            command.env("FOREBAY_PYTHON_BESIDE", self.environment(root, name)?);
        }
        Ok(command)
    }

    /// An engine's environment; its Python.
    fn environment(&self, root: &Path, name: &str) -> Result<PathBuf, Stop> {
        let list = List::read(root, &self.interpreter, name)?;
        let (name, disk_gb) = (list.folder, list.disk_gb);
        let home = make(&cache()?.join("engines"), &name, disk_gb, |home| {
            let (mut venv, mut install) = (Command::new(&self.uv), Command::new(&self.uv));
            venv.args(["venv", "--quiet", "--python"]).arg(&self.interpreter).arg(home);
            pass("making a virtual environment", venv)?;
            install
                .args(["pip", "install", "--quiet", "--no-deps", "--python"])
                .arg(home.join("bin/python"))
                .arg("-r")
                .arg(&list.path);
            pass(&format!("installing the environment {name}"), install)
        })?;
        Ok(home.join("bin/python"))
    }

    /// The package under test, beside the environments: they belong to others as well.
    fn unpack(&self, wheel: &Path, site: &Path) -> Result<PathBuf, Stop> {
        if site.exists() {
            std::fs::remove_dir_all(site).map_err(|e| Stop::Failed(format!("{}: {e}", site.display())))?;
        }
        let mut install = Command::new(&self.uv);
        install.args(["pip", "install", "--quiet", "--no-deps", "--no-index", "--python"]).arg(&self.interpreter);
        install.arg("--target").arg(site).arg(wheel);
        pass("unpacking the wheel", install)?;
        Ok(site.to_path_buf())
    }
}

/// A list of pinned packages.
struct List {
    path: PathBuf,
    /// Where its environment is, in the folder of all of them.
    folder: String,
    /// That its environment takes if it shares nothing.
    disk_gb: u64,
}

impl List {
    fn read(root: &Path, interpreter: &Path, name: &str) -> Result<List, Stop> {
        let path = root.join(format!("python/tests/engines/environments/{name}.txt"));
        let pinned = std::fs::read_to_string(&path).map_err(|e| Stop::Failed(format!("{}: {e}", path.display())))?;
        let disk_gb = pinned.lines().find_map(|line| line.strip_prefix("# disk_gb: ")?.trim().parse().ok());
        let disk_gb = disk_gb.ok_or_else(|| Stop::Failed(format!("{} does not say `# disk_gb: N`", path.display())))?;
        Ok(List { folder: format!("{name}-{}", key(interpreter, &pinned)), path, disk_gb })
    }
}

/// A folder that is made once. One that was not finished is made anew; two who want it at once make it one after the other.
fn make(
    folder: &Path,
    name: &str,
    disk_gb: u64,
    fill: impl FnOnce(&Path) -> Result<(), Stop>,
) -> Result<PathBuf, Stop> {
    let told = |path: &Path, e: std::io::Error| Stop::Failed(format!("{}: {e}", path.display()));
    std::fs::create_dir_all(folder).map_err(|e| told(folder, e))?;
    let lock_path = folder.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).map_err(|e| told(&lock_path, e))?;
    lock.lock().map_err(|e| told(&lock_path, e))?;
    let (home, complete) = (folder.join(name), folder.join(name).join(".complete"));
    if complete.exists() {
        return Ok(home);
    }
    if home.exists() {
        std::fs::remove_dir_all(&home).map_err(|e| told(&home, e))?;
    }
    let free_gb = free_gb(folder)?;
    eprintln!("{} is made once: about {disk_gb} GB, of {free_gb} GB free", home.display());
    if free_gb < disk_gb + SPARE_GB {
        let text =
            format!("{} needs {disk_gb} GB and {SPARE_GB} GB to spare, and {free_gb} GB are free", home.display());
        return Err(Stop::Failed(format!("{text}: make room, or set XDG_CACHE_HOME to another disk")));
    }
    fill(&home)?;
    std::fs::write(&complete, "").map_err(|e| told(&complete, e))?;
    Ok(home)
}

fn free_gb(folder: &Path) -> Result<u64, Stop> {
    let output = Command::new("df").args(["-Pk"]).arg(folder).output().map_err(|e| Stop::Failed(format!("df: {e}")))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let free_kb: Option<u64> = text.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)?.parse().ok());
    free_kb.map(|kb| kb / 1_000_000).ok_or_else(|| Stop::Failed(format!("df does not say what is free: {text:?}")))
}

/// Changes with the content and with the Python that is used.
fn key(interpreter: &Path, content: &str) -> String {
    let version = Command::new(interpreter).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    hasher.update(&version).update(content.as_bytes());
    hasher.finalize().to_hex()[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("forebay-xtask-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        folder
    }

    #[test]
    fn an_environment_is_made_once_and_anew_when_it_was_not_finished() {
        let folder = folder("made");
        let fill = |home: &Path| {
            assert!(!home.exists(), "what was not finished is taken away first");
            std::fs::create_dir_all(home).map_err(|e| Stop::Failed(e.to_string()))
        };
        let broken = make(&folder, "one", 0, |home| {
            fill(home)?;
            Err(Stop::Failed("no network".into()))
        });
        assert!(broken.is_err());
        assert!(make(&folder, "one", 0, fill).is_ok());
        assert!(make(&folder, "one", 0, |_| Err(Stop::Failed("made twice".into()))).is_ok());
        let _ = std::fs::remove_dir_all(&folder);
    }

    #[test]
    fn an_environment_without_room_is_not_begun() {
        let folder = folder("room");
        let made = make(&folder, "huge", 1 << 40, |_| Ok(()));
        assert!(matches!(made, Err(Stop::Failed(why)) if why.contains("make room")));
        let _ = std::fs::remove_dir_all(&folder);
    }

    #[test]
    fn all_environments_together_fit_into_what_is_said() {
        let names: std::collections::BTreeSet<&str> = ENGINES.iter().map(|engine| engine.environment).collect();
        let lists =
            names.iter().map(|name| List::read(&crate::root(), Path::new("python3"), name).map(|list| list.disk_gb));
        let all: u64 = lists.sum::<Result<u64, Stop>>().unwrap_or(u64::MAX);
        assert!(all <= DISK_GB_MAX, "{all} GB");
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
