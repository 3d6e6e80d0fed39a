//! The page: `docs/measurements.md` shows what lies in `docs/cards/`, and nothing else between its two marks.

use std::path::{Path, PathBuf};

use comfy_table::{Cell, CellAlignment, presets};
use serde_json::Value;

use crate::report::say;
use crate::{Failed, Outcome, why};

const PAGE: &str = "docs/measurements.md";
const CARDS: &str = "docs/cards";
const BEGIN: &str = "<!-- from the cards: begin (cargo xtask bench --report) -->\n";
const END: &str = "<!-- from the cards: end -->\n";

/// A table for people, on a terminal and on the page alike.
#[derive(Debug, Default)]
pub(crate) struct Table {
    /// May be empty.
    pub(crate) title: String,
    pub(crate) heads: Vec<String>,
    /// The first cell of each is its name.
    pub(crate) rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn terminal(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(&self.heads);
        for row in &self.rows {
            let cells = row.iter().enumerate().map(|(i, text)| match i {
                0 => Cell::new(text),
                _ => Cell::new(text).set_alignment(CellAlignment::Right),
            });
            table.add_row(cells.collect::<Vec<_>>());
        }
        if self.title.is_empty() { table.to_string() } else { format!("{}\n{table}", self.title) }
    }

    fn markdown(&self) -> String {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let rule: Vec<String> =
            self.heads.iter().enumerate().map(|(i, _)| if i == 0 { "---".into() } else { "---:".into() }).collect();
        let mut text = if self.title.is_empty() { String::new() } else { format!("{}:\n\n", self.title) };
        text.push_str(&line(&self.heads));
        text.push_str(&line(&rule));
        self.rows.iter().for_each(|row| text.push_str(&line(row)));
        text
    }
}

/// Writes the page anew, in the current folder.
pub(crate) fn report() -> Outcome<()> {
    let root = Path::new(".");
    let page = root.join(PAGE);
    let text = std::fs::read_to_string(&page).map_err(why(PAGE))?;
    let (new, cards) = renewed(root, &text)?;
    if new == text {
        say(&format!("{PAGE} shows its {cards} cards already"));
        return Ok(());
    }
    std::fs::write(&page, new).map_err(why(PAGE))?;
    say(&format!("wrote {PAGE} from {cards} cards in {CARDS}"));
    Ok(())
}

/// The page's text with what the cards say today, and how many they are.
fn renewed(root: &Path, text: &str) -> Outcome<(String, usize)> {
    let marks = text.find(BEGIN).zip(text.find(END)).filter(|(begin, end)| begin < end);
    let Some((begin, end)) = marks else {
        return Err(Failed(format!("{PAGE} has lost the marks between which cards are shown: {BEGIN}{END}")));
    };
    let cards = cards(root)?;
    let mut shown = String::new();
    for path in &cards {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        shown.push_str(&section(&name, &super::read(path)?));
    }
    if cards.is_empty() {
        shown.push_str("\nNothing was measured yet for this version.\n\n");
    }
    Ok((format!("{}{shown}{}", &text[..begin + BEGIN.len()], &text[end..]), cards.len()))
}

fn cards(root: &Path) -> Outcome<Vec<PathBuf>> {
    let mut cards = Vec::new();
    for entry in std::fs::read_dir(root.join(CARDS)).into_iter().flatten() {
        let path = entry.map_err(why(CARDS))?.path();
        if path.extension().is_some_and(|e| e == "json") {
            cards.push(path);
        }
    }
    cards.sort();
    Ok(cards)
}

fn section(name: &str, card: &Value) -> String {
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".into(),
        other => other.to_string(),
    };
    let words = |value: &Value| {
        value.as_array().map(|words| words.iter().map(text).collect::<Vec<_>>().join(" ")).unwrap_or_default()
    };
    let (machine, quiet) = (&card["machine"], &card["quiet"]);
    let commit: String = text(&card["commit"]).chars().take(12).collect();
    let tools: Vec<String> = card["tools"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, version)| !version.is_null())
        .map(|(name, version)| format!("{name} {}", text(version)))
        .collect();
    let mut out = format!("\n### {}\n\n", text(&card["bench"]));
    out.push_str(&format!(
        "`cargo xtask bench {}` on {}, commit {commit}{}, card [{name}](cards/{name}).\n{}\n\n",
        words(&card["command"]),
        text(&card["date"]),
        if card["dirty"] == true { " with changes that were not committed" } else { "" },
        text(&card["workload"]),
    ));
    out.push_str(&format!(
        "{} x {}, {} GiB of memory; {} on {}; Linux {}, {}; {}. Load before it {}, {} s taken by the host in {} s.\n\n",
        text(&machine["cores"]),
        text(&machine["cpu"]),
        machine["memory_gib"].as_f64().unwrap_or(0.0),
        text(&machine["file_system"]),
        text(&machine["drive"]),
        text(&machine["kernel"]),
        text(&machine["distribution"]),
        tools.join(", "),
        text(&quiet["load_before"]),
        text(&quiet["stolen_s"]),
        quiet["seconds"].as_f64().unwrap_or(0.0).round(),
    ));
    for table in crate::tables(card["bench"].as_str().unwrap_or_default(), &card["result"]) {
        out.push_str(&table.markdown());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_what_the_cards_say() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let text = std::fs::read_to_string(root.join(PAGE)).unwrap();
        let (renewed, _) = renewed(&root, &text).unwrap();
        assert!(renewed == text, "{PAGE} and {CARDS} differ: run `cargo xtask bench --report`");
    }

    #[test]
    fn a_page_without_marks_is_not_written() {
        assert!(renewed(Path::new("."), "# Measurements\n").is_err());
    }

    #[test]
    fn a_number_changed_by_hand_is_noticed() {
        let root = std::env::temp_dir().join(format!("forebay-page-{}", std::process::id()));
        std::fs::create_dir_all(root.join(CARDS)).unwrap();
        let row =
            r#"{"card": 1, "bench": "limits", "result": {"rows": [{"path": "a", "unit": "GB/s", "ours": 1.25}]}}"#;
        std::fs::write(root.join(CARDS).join("a.json"), row).unwrap();
        let (page, cards) = renewed(&root, &format!("x\n{BEGIN}{END}y\n")).unwrap();
        assert!(cards == 1 && page.contains("| a | 1.25 GB/s |"), "{page}");
        let changed = page.replace("1.25", "9.25");
        assert_eq!(renewed(&root, &changed).unwrap().0, page);
        std::fs::remove_dir_all(&root).unwrap();
    }
}
