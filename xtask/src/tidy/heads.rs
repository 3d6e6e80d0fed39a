//! Every module begins with prose: what the room does, and what it does not know.

use super::source::Source;

/// Characters of prose below which a head says nothing. "Helpers." is no head.
const HEAD_CHARS_MIN: usize = 16;

pub(crate) fn findings(sources: &[Source]) -> Vec<String> {
    sources.iter().filter_map(finding).collect()
}

fn finding(source: &Source) -> Option<String> {
    let prose: usize = source
        .text
        .lines()
        .take_while(|line| line.starts_with("//!"))
        .map(|line| line.trim_start_matches("//!").trim().chars().count())
        .sum();
    (prose < HEAD_CHARS_MIN).then(|| {
        format!(
            "{} does not begin with prose.\n  Start the file with `//!` and a sentence or two for the second reader: what this module does, and where it \
             matters, what it does not know.",
            source.path
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_prose_not_a_token() {
        let of = |text: &str| finding(&Source { path: "a.rs".into(), text: text.into() });
        assert_eq!(of("//! Sizes as people write them, parsed and printed.\nfn a() {}"), None);
        assert_eq!(of("//! Sizes as people\n//! write them.\n"), None);
        assert!(of("//! Helpers.\nfn a() {}").is_some());
        assert!(of("fn a() {}").is_some());
        assert!(of("").is_some());
    }
}
