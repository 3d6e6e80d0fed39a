//! Getting peers ready: what is missing is installed where it may be, and said aloud. Python's go into a virtual environment under `target`, foyer is
//! built there, Redis comes from the distribution. Nothing else of the machine is touched.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};

use super::child::ChildPeer;
use super::{Name, Op, Peer, PeersArgs, drive, files, redis, verdict};
use crate::raw::{Tools, apt_install};
use crate::report::say;
use crate::{Failed, Outcome, Scratch, engines, why};

/// Where the drivers of peers lie, from the root of the repository.
const DRIVERS: &str = "crates/forebay-bench/peers";

const MOONCAKE: &str = "mooncake-transfer-engine-non-cuda==0.3.13.post1";
const NIXL: &str = "nixl==1.5.1";
const LMCACHE: &str = "lmcache==0.5.6";

/// What each child is asked, in this order, and where the figure stands.
const FOYER_OPS: &[(&str, &str, Op)] =
    &[("put", "foyer", Op::Put), ("cold", "foyer", Op::GetCold), ("warm", "foyer, in process", Op::GetWarm)];
const MOONCAKE_OPS: &[(&str, &str, Op)] =
    &[("put", verdict::MOONCAKE, Op::PutMemory), ("warm", verdict::MOONCAKE, Op::GetWarm)];
const NIXL_OPS: &[(&str, &str, Op)] = &[
    ("put", "nixl posix, O_DIRECT", Op::Put),
    ("cold", "nixl posix, O_DIRECT", Op::GetCold),
    ("warm", "nixl posix, page cache", Op::GetWarm),
];
const LMCACHE_OPS: &[(&str, &str, Op)] = &[
    ("put", "lmcache fs_native, O_DIRECT", Op::Put),
    ("cold", "lmcache fs_native, O_DIRECT", Op::GetCold),
    ("put_fs", "lmcache fs, O_DIRECT", Op::Put),
    ("cold", "lmcache fs, O_DIRECT", Op::GetCold),
    ("warm", "lmcache fs_native, page cache", Op::GetWarm),
];

const SGLANG_OPS: &[(&str, &str, Op)] = &[
    ("put", "sglang file, fsync", Op::Put),
    ("cold", "sglang file", Op::GetCold),
    ("warm", "sglang file, page cache", Op::GetWarm),
];

/// A peer that is ready, or why there is none.
pub(super) fn peer(
    name: Name,
    args: &PeersArgs,
    tools: &Tools,
    dir: &Scratch,
    versions: &mut Map<String, Value>,
) -> Outcome<Box<dyn Peer>> {
    let install = !args.common.no_install;
    Ok(match name {
        Name::Drive => {
            versions.insert("fio".into(), json!(tools.fio));
            Box::new(drive::Drive::start(tools, dir)?)
        }
        Name::Files => Box::new(files::Files::start(dir)?),
        Name::Redis => {
            versions.insert("redis".into(), json!(redis_version(install)?));
            Box::new(redis::Redis::start(dir)?)
        }
        Name::Foyer => {
            let mut command = Command::new(foyer(install)?);
            command.arg(folder(dir, "foyer")?);
            versions.insert("foyer".into(), json!(locked_version("foyer")));
            Box::new(ChildPeer::start("foyer", command, FOYER_OPS, versions)?)
        }
        Name::Mooncake => {
            let python = python(MOONCAKE, "mooncake", install)?;
            may_make_a_network()?;
            let mut command = Command::new("unshare");
            command.args(network_flags()).arg("--").arg(python).arg(driver("mooncake_store.py")?);
            Box::new(ChildPeer::start("mooncake", command, MOONCAKE_OPS, versions)?)
        }
        Name::Nixl => {
            let mut command = Command::new(python(NIXL, "nixl", install)?);
            command.arg(driver("nixl_posix.py")?).arg(folder(dir, "nixl")?);
            Box::new(ChildPeer::start("nixl", command, NIXL_OPS, versions)?)
        }
        Name::Lmcache => {
            let mut command = Command::new(lmcache(install)?);
            command.arg(driver("lmcache_l2.py")?).arg(dir.join("lmcache")).env("HF_HUB_OFFLINE", "1");
            Box::new(ChildPeer::start("lmcache", command, LMCACHE_OPS, versions)?)
        }
        Name::Sglang => {
            let mut command = Command::new(engines::interpreter("FOREBAY_ENGINES_SGLANG")?);
            command.arg(driver("sglang_file.py")?).arg(folder(dir, "sglang")?).env("HF_HUB_OFFLINE", "1");
            Box::new(ChildPeer::start("sglang", command, SGLANG_OPS, versions)?)
        }
    })
}

/// The Python that has LMCache: that of the engines' environment, where the chore has made it.
fn lmcache(install: bool) -> Outcome<PathBuf> {
    engines::interpreter("FOREBAY_ENGINES_LMCACHE").or_else(|_| python(LMCACHE, "lmcache", install))
}

fn folder(dir: &Scratch, name: &str) -> Outcome<PathBuf> {
    let folder = dir.join(name);
    std::fs::create_dir_all(&folder).map_err(why("making its folder"))?;
    Ok(folder)
}

/// Where peers are kept between runs: beside this program, in `target`.
fn kept() -> Outcome<PathBuf> {
    let own = std::env::current_exe().map_err(why("finding this program"))?;
    let target = own.parent().and_then(Path::parent).ok_or_else(|| Failed("this program lies nowhere".into()))?;
    Ok(target.join("peers"))
}

fn driver(name: &str) -> Outcome<PathBuf> {
    let path = Path::new(DRIVERS).join(name);
    if path.exists() {
        Ok(path)
    } else {
        Err(Failed(format!("{} is not here; run it from the repository", path.display())))
    }
}

/// Redis' version; its program is in Debian's redis-tools, and installing that starts no service.
fn redis_version(install: bool) -> Outcome<String> {
    let version = || {
        use std::os::unix::process::CommandExt;
        let mut command = Command::new(redis::PROGRAM);
        let output = command.arg0("redis-server").arg("--version").stdin(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.split_whitespace().find_map(|word| word.strip_prefix("v=").map(str::to_owned))
    };
    if let Some(version) = version() {
        return Ok(version);
    }
    if install {
        apt_install(&["redis-tools"]);
    }
    version().ok_or_else(|| Failed("it is not installed; `apt-get install redis-tools` mends it".into()))
}

/// foyer's bench program, built once from the crate of its own.
fn foyer(install: bool) -> Outcome<PathBuf> {
    let target = kept()?.join("foyer");
    let program = target.join("release/forebay-bench-foyer");
    let manifest = driver("foyer/Cargo.toml")?;
    if install {
        if !program.exists() {
            say("building foyer and what it needs, once (a few minutes on two cores)");
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--release", "--locked", "--quiet", "--manifest-path"]).arg(manifest);
        build.arg("--target-dir").arg(&target).stdin(Stdio::null()).stdout(Stdio::null());
        let built = build.status().map_err(why("cargo did not start"))?;
        if !built.success() {
            return Err(Failed(format!("its build failed ({built})")));
        }
    }
    if program.exists() { Ok(program) } else { Err(Failed("it is not built, and --no-install was given".into())) }
}

/// The version of a crate in the lock file of foyer's bench.
fn locked_version(name: &str) -> Option<String> {
    let text = std::fs::read_to_string(Path::new(DRIVERS).join("foyer/Cargo.lock")).ok()?;
    let mut lines = text.lines().skip_while(|line| *line != format!("name = \"{name}\""));
    lines.nth(1)?.strip_prefix("version = ").map(|version| version.trim_matches('"').to_owned())
}

/// A Python that can import `module`: of the virtual environment under `target`, into which `package` is installed from PyPI if it lacks it.
fn python(package: &str, module: &str, install: bool) -> Outcome<PathBuf> {
    let environment = kept()?.join("venv");
    let python = environment.join("bin/python");
    let quiet = |program: &Path, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let find = format!("import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)");
    if quiet(&python, &["-c", &find]) {
        return Ok(python);
    }
    if !install {
        return Err(Failed("it is not installed, and --no-install was given".into()));
    }
    if !python.exists() {
        let made = environment.to_str().is_some_and(|path| quiet(Path::new("python3"), &["-m", "venv", path]));
        if !made {
            return Err(Failed("`python3 -m venv` does not work here; `apt-get install python3-venv` mends it".into()));
        }
    }
    let size = if package == LMCACHE { " (with torch: several GB)" } else { "" };
    say(&format!("installing {package} from PyPI into a virtual environment under target/peers{size}"));
    if !quiet(&python, &["-m", "pip", "install", "--quiet", package, "numpy"]) {
        return Err(Failed(format!("pip could not install {package}")));
    }
    if quiet(&python, &["-c", &find]) { Ok(python) } else { Err(Failed(format!("{package} has no module {module}"))) }
}

/// A network of its own; who is not root needs a user namespace for that.
fn network_flags() -> &'static [&'static str] {
    if rustix::process::geteuid().is_root() { &["--net"] } else { &["--user", "--map-root-user", "--net"] }
}

fn may_make_a_network() -> Outcome<()> {
    let mut command = Command::new("unshare");
    command.args(network_flags()).args(["--", "ip", "link", "set", "lo", "up"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    if command.status().is_ok_and(|status| status.success()) {
        return Ok(());
    }
    Err(Failed(
        "its ports bind every address, so it is only run in a network namespace of its own, and none can be made here (unshare, ip)".into(),
    ))
}
