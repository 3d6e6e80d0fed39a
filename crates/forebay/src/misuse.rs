//! What the command line's parser finds wrong, as one sentence with what to do next.

use std::process::ExitCode;

use clap::error::ErrorKind;

use crate::say;

/// Tells what was wrong with the command line, or shows the help that was asked for.
pub(crate) fn tell(told: &clap::Error) -> ExitCode {
    match told.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let _ = told.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = told.print();
            ExitCode::from(2)
        }
        _ => {
            let verb = std::env::args().nth(1).filter(|word| is_verb(word));
            say::error(&sentence(&told.to_string(), verb.as_deref()));
            ExitCode::from(2)
        }
    }
}

/// The parser writes a paragraph with a usage line below; the head of it is the sentence.
fn sentence(rendered: &str, verb: Option<&str>) -> String {
    let mut words = String::new();
    for line in rendered.lines().map(str::trim) {
        if line.starts_with("Usage:") || line.starts_with("For more information") {
            break;
        }
        if line.is_empty() {
            continue;
        }
        let line = line.trim_start_matches("error: ");
        let tip = line.strip_prefix("tip: ");
        if !words.is_empty() {
            words.push_str(if tip.is_some() { "; " } else { " " });
        }
        words.push_str(tip.unwrap_or(line));
    }
    // What Rust says of letters where a number belongs.
    let words = words.replace("invalid digit found in string", "write a whole number in digits");
    let help = verb.map_or("forebay --help".to_owned(), |verb| format!("forebay {verb} --help"));
    format!("{words}; see `{help}`")
}

/// True for the name of a verb.
fn is_verb(word: &str) -> bool {
    ["serve", "put", "get", "stat", "why", "top", "namespace", "doctor", "inspect", "demo", "plan", "bench"]
        .contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_becomes_a_sentence() {
        let rendered = "error: unexpected argument '--capacty' found\n\n  tip: a similar argument exists: '--capacity'\n\nUsage: forebay serve\n\n\
                        For more information, try '--help'.\n";
        assert_eq!(
            sentence(rendered, Some("serve")),
            "unexpected argument '--capacty' found; a similar argument exists: '--capacity'; see `forebay serve --help`"
        );
    }
}
