//! `cargo xtask bench`: a release of the product and of the bench, then the bench itself with the flags it was given.

use std::path::Path;
use std::process::Command;

use crate::Stop;
use crate::run::{cargo, pass};

/// The bench's verb `soak`.
pub(crate) fn soak(root: &Path, args: &[String]) -> Result<(), Stop> {
    run(root, &[&["soak".to_owned()], args].concat())
}

pub(crate) fn run(root: &Path, args: &[String]) -> Result<(), Stop> {
    let build = ["build", "--release", "--locked", "--package", "forebay", "--package", "forebay-bench"];
    let mut command = cargo(root, &build);
    // Bench output ends with a line of JSON on stdout: nothing of ours may come behind it.
    command.arg("--quiet");
    pass("the release build", command)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |dir| root.join(dir));
    let mut bench = Command::new(target.join("release/forebay-bench"));
    bench.current_dir(root).args(args);
    pass("the bench", bench)
}
