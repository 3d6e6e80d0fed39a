//! The engines' environments: made once in the user's cache directory, from pinned lists, and named after what the lists say. Knows pip, uv and what a
//! disk has room for, and nothing of what the tests show.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::minutes::ended;
use super::{Engine, imports, pytest};
use crate::Stop;
use crate::run::pass;

/// Makes environments: pinned, so that a run from nothing is the same next year.
const INSTALLER: &str = "uv==0.13.9";
/// All environments together, in GB, what they share counted as often as it is there.
const DISK_GB_MAX: u64 = 25;
/// What all lists have: torch and its libraries, as files that the environments share with the installer's cache.
const SHARED_GB: u64 = 5;
/// Left free on the disk whatever an environment takes, in GB: others write there too.
const SPARE_GB: u64 = 5;

/// Why an engine's tests do not run.
pub(super) enum Missing {
    /// Its environment cannot be had here: no network, no room, no library. Nothing is known of the engine.
    Unmade(String),
    /// It is there and does not work.
    Broken(String),
    Misused(String),
}

/// What is neither: a chore that fails for reasons of its own.
impl From<Stop> for Missing {
    fn from(stop: Stop) -> Missing {
        match stop {
            Stop::Failed(why) => Missing::Broken(why),
            Stop::Misused(why) => Missing::Misused(why),
        }
    }
}

impl From<Missing> for Stop {
    fn from(missing: Missing) -> Stop {
        match missing {
            Missing::Unmade(why) | Missing::Broken(why) => Stop::Failed(why),
            Missing::Misused(why) => Stop::Misused(why),
        }
    }
}

impl Missing {
    pub(super) fn unmade(stop: Stop) -> Missing {
        match stop {
            Stop::Failed(why) => Missing::Unmade(why),
            Stop::Misused(why) => Missing::Misused(why),
        }
    }
}
/// A library of the system that a wheel links to. Where root runs this on Debian, what is missing is installed, and said.
fn have_library(python: &Path, file: &str, package: &str) -> Result<(), String> {
    let is_there = || {
        let mut probe = Command::new(python);
        probe.args(["-c", &format!("import ctypes; ctypes.CDLL({file:?})")]).stderr(Stdio::null());
        probe.status().is_ok_and(|status| status.success())
    };
    if is_there() {
        return Ok(());
    }
    eprintln!("{file} is not here; trying `apt-get install {package}`");
    for args in
        [&["update", "--quiet"] as &[&str], &["install", "--quiet", "--yes", "--no-install-recommends", package]]
    {
        let mut apt = Command::new("apt-get");
        apt.args(args).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        if !apt.status().is_ok_and(|status| status.success()) {
            break;
        }
    }
    if is_there() {
        Ok(())
    } else {
        Err(format!("{file} is not here; on Debian, `apt-get install {package}` as root mends it"))
    }
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
pub(super) struct Tools {
    interpreter: PathBuf,
    uv: PathBuf,
    /// What is not fetched by then is given up.
    pub(super) end: Option<Instant>,
}

impl Tools {
    /// uv, in an environment of its own.
    pub(super) fn made(interpreter: PathBuf) -> Result<Tools, Stop> {
        let home = make(&cache()?.join("tools"), &key(&interpreter, INSTALLER), 0, |home| {
            let (mut venv, mut pip) = (Command::new(&interpreter), Command::new(home.join("bin/pip")));
            venv.args(["-m", "venv"]).arg(home);
            pass("making a virtual environment", venv)?;
            pip.args(["install", "--quiet", INSTALLER]);
            pass("installing uv", pip)
        })?;
        Ok(Tools { interpreter, uv: home.join("bin/uv"), end: None })
    }

    /// Says what disk the environments take, and refuses before anything is fetched if they do not fit.
    pub(super) fn say_what_is_taken(&self, root: &Path, engines: &[&Engine]) -> Result<(), Stop> {
        let folder = cache()?.join("engines");
        let mut names: Vec<&str> =
            engines.iter().flat_map(|engine| [Some(engine.environment), engine.beside]).flatten().collect();
        names.sort_unstable();
        names.dedup();
        let (mut missing_gb, mut are_any_made) = (0, false);
        for name in names {
            let list = List::read(root, &self.interpreter, name)?;
            let made = folder.join(&list.folder).join(".complete").exists();
            // The first that is made has what all of them share.
            missing_gb += if made { 0 } else { list.takes_gb(are_any_made || missing_gb > 0) };
            are_any_made |= made;
            let state = if made { "is there" } else { "is to be made" };
            eprintln!("{}: {state}; {} GB on its own", folder.join(&list.folder).display(), list.disk_gb);
        }
        std::fs::create_dir_all(&folder).map_err(|e| Stop::Failed(format!("{}: {e}", folder.display())))?;
        let free_gb = free_gb(&folder)?;
        eprintln!("about {missing_gb} GB are taken now, of {free_gb} GB free; {DISK_GB_MAX} GB in all are the limit");
        if free_gb < missing_gb + SPARE_GB {
            let text = format!("{missing_gb} GB and {SPARE_GB} GB to spare are needed, and {free_gb} GB are free");
            return Err(Stop::Failed(format!("{text}: make room, or set XDG_CACHE_HOME to another disk")));
        }
        Ok(())
    }

    /// The command that runs an engine's tests, which imports what it should.
    pub(super) fn ready(&self, root: &Path, site: &Path, engine: &Engine) -> Result<Command, Missing> {
        let python = self.environment(root, engine.environment).map_err(Missing::unmade)?;
        let beside = engine.beside.map(|name| self.environment(root, name)).transpose().map_err(Missing::unmade)?;
        if let Some((file, package)) = engine.library {
            have_library(&python, file, package).map_err(Missing::Unmade)?;
        }
        pass(&format!("importing {}", engine.modules), imports(&python, engine.modules))?;
        let mut command = pytest(root, &python, site, engine);
        if let Some(beside) = beside {
            command.env("FOREBAY_PYTHON_BESIDE", beside);
        }
        Ok(command)
    }

    /// An engine's environment; its Python.
    #[expect(clippy::disallowed_methods, reason = "a chore that was told how long it may take")]
    pub(super) fn environment(&self, root: &Path, name: &str) -> Result<PathBuf, Stop> {
        let list = List::read(root, &self.interpreter, name)?;
        let folder = cache()?.join("engines");
        let are_any_made = std::fs::read_dir(&folder)
            .is_ok_and(|all| all.flatten().any(|other| other.path().join(".complete").exists()));
        let disk_gb = list.takes_gb(are_any_made);
        let name = list.folder;
        let home = make(&folder, &name, disk_gb, |home| {
            let (mut venv, mut install) = (Command::new(&self.uv), Command::new(&self.uv));
            venv.args(["venv", "--quiet", "--python"]).arg(&self.interpreter).arg(home);
            pass("making a virtual environment", venv)?;
            install
                .args(["pip", "install", "--quiet", "--no-deps", "--python"])
                .arg(home.join("bin/python"))
                .arg("-r")
                .arg(&list.path);
            if let Some(end) = self.end {
                install = ended(install, end.saturating_duration_since(Instant::now()));
            }
            pass(&format!("installing the environment {name}"), install)
        })?;
        Ok(home.join("bin/python"))
    }

    /// The package under test, beside the environments: they belong to others as well.
    pub(super) fn unpack(&self, wheel: &Path, site: &Path) -> Result<PathBuf, Stop> {
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

/// The Python of an environment that has been made, if it has.
pub(super) fn if_made(root: &Path, interpreter: &Path, name: &str) -> Option<PathBuf> {
    let home = cache().ok()?.join("engines").join(List::read(root, interpreter, name).ok()?.folder);
    home.join(".complete").exists().then(|| home.join("bin/python"))
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
    /// What making it takes, in GB, where another of them is there already or not.
    fn takes_gb(&self, is_any_there: bool) -> u64 {
        if is_any_there { self.disk_gb.saturating_sub(SHARED_GB).max(1) } else { self.disk_gb }
    }

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
    use super::super::ENGINES;
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
    fn all_lists_share_torch_and_its_libraries() {
        let of = |name: &str| -> std::collections::BTreeSet<String> {
            let path = crate::root().join(format!("python/tests/engines/environments/{name}.txt"));
            let pinned = std::fs::read_to_string(path).unwrap_or_default();
            let is_torch = |line: &&str| {
                line.starts_with("torch==") || line.starts_with("nvidia-") || line.starts_with("triton==")
            };
            pinned.lines().filter(is_torch).map(str::to_owned).collect()
        };
        let shared = of("vllm");
        assert!(shared.len() > 10, "{shared:?}");
        let large = |names: std::collections::BTreeSet<String>| -> Vec<String> {
            names
                .into_iter()
                .filter(|name| shared.iter().any(|other| other.split("==").next() == name.split("==").next()))
                .collect()
        };
        for name in ["sglang", "lmcache"] {
            assert_eq!(large(of(name)), shared.iter().cloned().collect::<Vec<_>>(), "{name}");
        }
    }
}
