//! `cargo xtask fuzz`: the fuzz functions of format and wire under cargo-fuzz, where a person has installed it.

use std::path::Path;

use crate::Stop;
use crate::run::{cargo, has_plugin, pass};

const SECONDS_DEFAULT: u32 = 60;

pub(crate) fn run(root: &Path, args: &[String]) -> Result<(), Stop> {
    let seconds = match args {
        [] => SECONDS_DEFAULT,
        [text] => text.parse().map_err(|_| Stop::Misused(format!("{text:?} is not a number of seconds")))?,
        _ => return Err(Stop::Misused("`fuzz` takes one number of seconds".into())),
    };
    let home = root.join("fuzz");
    if !has_plugin(root, "fuzz") || !home.is_dir() {
        println!(
            "skipped: cargo-fuzz (it needs nightly Rust) or the folder fuzz/ is not here. \
             The same functions ran on seeded mutations in `cargo xtask test`; to run only those: cargo test -p forebay-format -p forebay-wire fuzz"
        );
        return Ok(());
    }
    for target in targets(&home)? {
        let limit = format!("-max_total_time={seconds}");
        pass(&format!("fuzz target {target}"), cargo(root, &["+nightly", "fuzz", "run", &target, "--", &limit]))?;
    }
    Ok(())
}

fn targets(home: &Path) -> Result<Vec<String>, Stop> {
    let folder = home.join("fuzz_targets");
    let entries = std::fs::read_dir(&folder).map_err(|e| Stop::Failed(format!("{}: {e}", folder.display())))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}
