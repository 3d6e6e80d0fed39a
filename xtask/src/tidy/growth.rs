//! A ratchet on size: what is small may grow to the bound, what is already over it may only shrink.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::source::Source;

/// Lines of a file, inline tests left out, past which it wants to be two.
const FILE_LINES: usize = 400;
/// Lines of a function past which deciding and doing have usually been mixed.
const FUNCTION_LINES: usize = 60;
/// What the ratchet forgives, so that a mended line needs no ceremony.
const SLACK_LINES: usize = 10;

pub(crate) fn findings(sources: &[Source], baseline: &Value) -> Vec<String> {
    let mut findings = Vec::new();
    for (what, lines) in over(sources) {
        let before = baseline[&what].as_u64().unwrap_or(0) as usize;
        if lines > before + if before == 0 { 0 } else { SLACK_LINES } {
            findings.push(finding(&what, lines, before));
        }
    }
    findings
}

/// What is over a bound today.
pub(crate) fn sizes(sources: &[Source]) -> Value {
    Value::Object(over(sources).into_iter().map(|(what, lines)| (what, json!(lines))).collect::<Map<_, _>>())
}

fn over(sources: &[Source]) -> BTreeMap<String, usize> {
    let mut over = BTreeMap::new();
    for source in sources {
        let lines = source.lines();
        if lines > FILE_LINES {
            over.insert(source.path.clone(), lines);
        }
        for function in source.functions().into_iter().filter(|f| f.lines > FUNCTION_LINES) {
            let what = format!("{}: fn {}", source.path, function.name);
            let largest = over.entry(what).or_insert(0);
            *largest = function.lines.max(*largest);
        }
    }
    over
}

fn finding(what: &str, lines: usize, before: usize) -> String {
    let (bound, advice) = match what.contains(": fn ") {
        true => (
            FUNCTION_LINES,
            "Ask whether it decides and does at once; the deciding half often wants a name of its own.",
        ),
        false => (FILE_LINES, "Look for the second job in it, or move its tests next door."),
    };
    let was = match before {
        0 => format!("the bound is {bound}"),
        before => format!("it had {before}, and what is over {bound} may only shrink"),
    };
    format!("{what} has {lines} lines; {was}.\n  {advice} If it is right as it is: cargo xtask tidy --accept.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(lines: usize) -> Source {
        Source { path: "a.rs".into(), text: "//! x\n".repeat(lines) }
    }

    #[test]
    fn what_is_over_may_only_shrink() {
        assert!(findings(&[file(FILE_LINES)], &Value::Null).is_empty());
        assert_eq!(findings(&[file(FILE_LINES + 1)], &Value::Null).len(), 1);
        let baseline = sizes(&[file(600)]);
        assert!(findings(&[file(600)], &baseline).is_empty());
        assert!(findings(&[file(500)], &baseline).is_empty());
        assert_eq!(findings(&[file(600 + SLACK_LINES + 1)], &baseline).len(), 1);
    }

    #[test]
    fn a_long_function_is_named() {
        let text = format!("fn long() {{\n{}}}\n", "  a();\n".repeat(FUNCTION_LINES));
        let said = findings(&[Source { path: "a.rs".into(), text }], &Value::Null);
        assert!(said.len() == 1 && said[0].starts_with("a.rs: fn long has 62 lines"), "{said:?}");
    }
}
