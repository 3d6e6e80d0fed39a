//! The table of promises stays true: each test, file and mutant that it names is there, each row says what was broken on purpose, and no mutant
//! is left without a promise. Whether a test can fail is for people to see; that it exists is for this.

use std::collections::BTreeSet;
use std::path::Path;

use super::source::Source;
use crate::Stop;

const DOCUMENT: &str = "docs/testing.md";
const HEADING: &str = "## Promises";

/// One row: where it stands, and what its cells say.
struct Row<'a> {
    line: usize,
    promise: &'a str,
    test: &'a str,
    broken: &'a str,
}

/// What a word in backticks names.
#[derive(Debug, PartialEq)]
enum Named<'a> {
    /// A test, and the module or file it lies in if that is said.
    Test {
        module: Option<&'a str>,
        name: &'a str,
    },
    File(&'a str),
    Mutant(&'a str),
    /// A word of the product.
    Other,
}

pub(crate) fn findings(root: &Path, sources: &[Source]) -> Result<Vec<String>, Stop> {
    let path = root.join(DOCUMENT);
    let text = std::fs::read_to_string(&path).map_err(|e| Stop::Failed(format!("{}: {e}", path.display())))?;
    Ok(of_table(&text, sources))
}

fn of_table(text: &str, sources: &[Source]) -> Vec<String> {
    let rows = rows(text);
    if rows.is_empty() {
        return vec![format!(
            "{DOCUMENT} has no table under \"{HEADING}\".\n  What the design promises has its test and its breaking there."
        )];
    }
    let mutants = mutants(sources);
    let mut findings = Vec::new();
    for row in &rows {
        if row.broken.trim_matches(|c: char| c == '-' || c.is_whitespace()).is_empty() {
            findings.push(format!(
                "{DOCUMENT}:{} does not say how \"{}\" was broken on purpose.\n  Leave the guard out, see the test fail, and write down what was left out.",
                row.line,
                row.promise.trim()
            ));
        }
        for word in [row.test, row.broken].into_iter().flat_map(in_backticks) {
            let missing = match named(word) {
                Named::Test { module, name } => !sources.iter().any(|source| holds(source, module, name)),
                Named::File(file) => !sources.iter().any(|source| source.path.ends_with(&format!("/{file}"))),
                Named::Mutant(name) => row.broken.contains("utant") && !mutants.contains(name),
                Named::Other => false,
            };
            if missing {
                findings.push(format!(
                    "{DOCUMENT}:{} names `{word}`, which is nowhere in the crates.\n  Was it renamed? Write its name of today. Was it deleted? Then the \
                     promise needs another test that fails when it is broken.",
                    row.line
                ));
            }
        }
    }
    let told: BTreeSet<&str> = rows.iter().flat_map(|row| in_backticks(row.broken)).collect();
    findings.extend(mutants.iter().filter(|name| !told.contains(name.as_str())).map(|name| {
        format!("the mutant {name} stands in no row of {DOCUMENT}'s table.\n  Say which promise falls without its guard, and which test finds it.")
    }));
    findings
}

fn rows(text: &str) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    let lines = text.lines().enumerate().skip_while(|(_, line)| !line.starts_with(HEADING)).skip(1);
    for (at, line) in lines.take_while(|(_, line)| !line.starts_with("## ")) {
        let cells: Vec<&str> = line.trim().trim_matches('|').split(" | ").collect();
        if let (true, [promise, test, broken]) = (line.starts_with("| "), cells.as_slice()) {
            rows.push(Row { line: at + 1, promise, test, broken });
        }
    }
    // The first names the columns.
    rows.drain(..rows.len().min(1));
    rows
}

/// Words between backticks. What stands in front of a `: ` in one names the test's binary.
fn in_backticks(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2).map(|word| word.rsplit(": ").next().unwrap_or(word))
}

fn named(word: &str) -> Named<'_> {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    if word.ends_with(".rs") {
        return Named::File(word);
    }
    if let Some((module, name)) = word.rsplit_once("::") {
        let module = module.rsplit("::").next().unwrap_or(module);
        return if is_name(name) { Named::Test { module: Some(module), name } } else { Named::Other };
    }
    // Words of the product have an underscore or two.
    if is_name(word) && word.matches('_').count() >= 3 {
        return Named::Test { module: None, name: word };
    }
    let camel = word.starts_with(|c: char| c.is_ascii_uppercase())
        && word.bytes().any(|b| b.is_ascii_lowercase())
        && word.bytes().all(|b| b.is_ascii_alphanumeric());
    if camel { Named::Mutant(word) } else { Named::Other }
}

/// Whether a file has the function, as `module`: a file of that name, the file `mod.rs` or `main.rs` of such a folder, or a path's end.
fn holds(source: &Source, module: Option<&str>, name: &str) -> bool {
    let is_place = module.is_none_or(|module| {
        let path = source.path.trim_end_matches(".rs");
        let path = path.strip_suffix("/mod").or_else(|| path.strip_suffix("/main")).unwrap_or(path);
        path.ends_with(&format!("/{}", module.trim_end_matches(".rs")))
    });
    is_place && source.text.contains(&format!("fn {name}("))
}

/// The variants of each `enum Mutant`.
fn mutants(sources: &[Source]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for source in sources {
        let mut lines = source.text.lines().skip_while(|line| !line.trim_end().ends_with("enum Mutant {")).skip(1);
        found.extend(
            lines
                .by_ref()
                .take_while(|line| !line.starts_with('}'))
                .map(|line| line.trim().trim_end_matches(','))
                .filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
                .map(ToOwned::to_owned),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources() -> Vec<Source> {
        let source = |path: &str, text: &str| Source { path: path.into(), text: text.into() };
        vec![
            source("crates/a/tests/suite/room.rs", "#[test]\nfn what_is_full_says_so() {}\n"),
            source("crates/a/tests/broken/main.rs", "#[test]\nfn a_crowd_of_a_thousand() {}\n"),
            source("crates/a/src/mutant.rs", "/// A guard.\npub enum Mutant {\n    /// None.\n    NoFlush,\n}\n"),
        ]
    }

    fn table(rows: &str) -> String {
        format!(
            "# Tests\n\n## Promises, and more\n\n| promise | test | broken on purpose |\n|---|---|---|\n{rows}\n## Next\n\n| a | `b::c` | - |\n"
        )
    }

    #[test]
    fn a_table_that_names_what_is_there_is_true() {
        let text = table(
            "| `full` is said | `room::what_is_full_says_so`, `room.rs`; `broken: main::a_crowd_of_a_thousand` | mutant `NoFlush`, found by `what_is_full_says_so` |\n\
             | none is left | `suite/room.rs::what_is_full_says_so`, `broken::a_crowd_of_a_thousand` | by hand: `Block` answers true |\n",
        );
        let text = text.replace("main::a_crowd", "broken::a_crowd");
        assert_eq!(of_table(&text, &sources()), Vec::<String>::new());
    }

    #[test]
    fn what_is_renamed_deleted_or_never_broken_is_found() {
        let found = |row: &str| of_table(&table(row), &sources());
        let whole = "| a | `room::what_is_full_says_so` | mutant `NoFlush` |\n";
        assert!(found(whole).is_empty());
        for (from, to) in [
            ("says_so", "says_it"),
            ("room::", "rooms::"),
            ("`room::what_is_full_says_so`", "`full.rs`"),
            ("`NoFlush`", "`NoFlush`, `NoCheck`"),
            ("`NoFlush`", "`NoFlush`, found by `what_is_not_there_says_so`"),
        ] {
            let findings = found(&whole.replace(from, to));
            assert!(findings.len() == 1 && findings[0].contains("testing.md:7 names"), "{from} {to}: {findings:?}");
        }
        assert!(found(&whole.replace("mutant `NoFlush`", "-")).iter().any(|f| f.contains("broken on purpose")));
        assert!(found(&whole.replace("mutant `NoFlush`", "by hand")).iter().any(|f| f.contains("the mutant NoFlush")));
        assert!(of_table("# Tests\n", &sources())[0].contains("no table"));
    }
}
