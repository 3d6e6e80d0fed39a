//! `cargo xtask bench`: a release of the product and of the bench, then the bench itself with the flags it was given.

use std::path::Path;
use std::process::Command;

use crate::run::{cargo, pass};
use crate::{Stop, engines};

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
    if is_of_engines(root, args) {
        bench.envs(engines::for_bench(root)?);
    } else if args.first().is_some_and(|verb| verb == "tokenomics") {
        bench.envs(engines::vllm_if_made(root));
    }
    pass("the bench", bench)
}

/// Whether it runs engines, by its verb or by that of the card it replays.
fn is_of_engines(root: &Path, args: &[String]) -> bool {
    let replayed = |card: &String| {
        std::fs::read_to_string(root.join(card)).is_ok_and(|text| text.contains(r#""bench": "engines""#))
    };
    match args.first().map(String::as_str) {
        Some("engines") => !args.iter().any(|arg| arg == "--help" || arg == "-h"),
        Some("--replay") => args.get(1).is_some_and(replayed),
        _ => false,
    }
}
