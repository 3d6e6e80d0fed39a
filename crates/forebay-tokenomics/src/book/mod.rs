//! Books: what models are made of, what hardware does and costs, what tokens sell for. Dated, each figure with its source.
//!
//! The default book is part of the program; a user's own file lies over it, key by key. A book is read from text: it knows no file, and what it
//! refuses it refuses in one sentence with file and line.

mod cells;
mod hardware;
mod model;
mod prices;
mod row;
mod units;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use cells::{Row, Sections, lay_over};
pub use hardware::{Drive, Gpu, Server, Storage};
pub use model::{Experts, Latent, Model, Recurrent, Sparse, Window, Work};
pub use prices::{CacheWrite, PeakHours, PriceList};
use row::Reader;

/// What the program brings along.
const DEFAULT_TEXT: &str = include_str!("../../books/default.toml");
/// What it is called in complaints.
const DEFAULT_NAME: &str = "the default book";
/// Sections there are.
const SECTIONS: [&str; 6] = ["models", "gpus", "servers", "drives", "storage", "prices"];

/// Why text is no book.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}, line {line}: {why}")]
pub struct BookError {
    /// As it was named to [`Book::with`].
    pub file: String,
    /// Counted from 1.
    pub line: u32,
    /// What is wrong, and what would be right.
    pub why: String,
}

/// A figure as it was written, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// As in `gpus.h100.dollars_per_hour`.
    pub key: String,
    /// As it was written.
    pub value: String,
    /// Who says so.
    pub source: String,
    /// When they said so; empty where the source says it.
    pub date: String,
}

/// All rows by name.
#[derive(Debug, Clone, PartialEq)]
pub struct Book {
    /// Models, smallest first.
    pub models: Vec<Model>,
    /// GPUs.
    pub gpus: BTreeMap<String, Gpu>,
    /// Servers around GPUs.
    pub servers: BTreeMap<String, Server>,
    /// Drives.
    pub drives: BTreeMap<String, Drive>,
    /// What storage costs beside its drives.
    pub storage: BTreeMap<String, Storage>,
    /// Price lists.
    pub prices: BTreeMap<String, PriceList>,
    figures: BTreeMap<String, Figure>,
}

/// The default book.
static DEFAULT: LazyLock<Book> = LazyLock::new(|| match Book::with(&[]) {
    Ok(book) => book,
    // It is part of the program and a test reads it.
    Err(e) => panic!("the book this program was built with cannot be read: {e}"),
});

impl Book {
    /// The default book.
    pub fn built_in() -> &'static Book {
        &DEFAULT
    }

    /// The default book with other files (name and text) laid over it, in this order.
    ///
    /// # Errors
    /// [`BookError`], with file and line.
    pub fn with(files: &[(&str, &str)]) -> Result<Book, BookError> {
        let mut sections = Sections::new();
        lay_over(&mut sections, DEFAULT_NAME, DEFAULT_TEXT)?;
        for (file, text) in files {
            lay_over(&mut sections, file, text)?;
        }
        for (section, rows) in &sections {
            if let (false, Some(row)) = (SECTIONS.contains(&section.as_str()), rows.values().next()) {
                return Err(row
                    .place
                    .fail(format!("there is no section {section:?}; a book has {}", SECTIONS.join(", "))));
            }
        }
        let mut figures = BTreeMap::new();
        let mut models: Vec<Model> = rows(&sections, "models", &mut figures, Model::read)?.into_values().collect();
        models.sort_by(|a, b| a.params().total_cmp(&b.params()));
        Ok(Book {
            models,
            gpus: rows(&sections, "gpus", &mut figures, |_, row| Gpu::read(row))?,
            servers: rows(&sections, "servers", &mut figures, |_, row| Server::read(row))?,
            drives: rows(&sections, "drives", &mut figures, |_, row| Drive::read(row))?,
            storage: rows(&sections, "storage", &mut figures, |_, row| Storage::read(row))?,
            prices: rows(&sections, "prices", &mut figures, PriceList::read)?,
            figures,
        })
    }

    /// The model of that name.
    pub fn model(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.name == name)
    }

    /// Figures whose key begins with `prefix`, in order of their keys.
    pub fn figures(&self, prefix: &str) -> impl Iterator<Item = &Figure> {
        let wanted = prefix.to_owned();
        self.figures.values().filter(move |figure| figure.key.starts_with(&wanted))
    }
}

fn rows<T>(
    sections: &Sections,
    section: &str,
    figures: &mut BTreeMap<String, Figure>,
    read: impl Fn(&str, &Reader<'_>) -> Result<T, BookError>,
) -> Result<BTreeMap<String, T>, BookError> {
    let none = BTreeMap::new();
    let mut out = BTreeMap::new();
    for (name, row) in sections.get(section).unwrap_or(&none) {
        let reader = Reader::new(section, name, row as &Row);
        out.insert(name.clone(), read(name, &reader)?);
        figures.extend(reader.finish()?.into_iter().map(|figure| (figure.key.clone(), figure)));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Book::with(&[("my.toml", text)]).unwrap_err().to_string()
    }

    #[test]
    fn own_figures_lie_over_the_default_ones_key_by_key() {
        let own = "# ours\n[gpus.h100]\ndollars_per_hour = 1.9\ndollars_per_hour_source = \"our contract\"\n";
        let book = Book::with(&[("my.toml", own)]).unwrap();
        assert_eq!((book.gpus["h100"].dollars_per_hour, book.gpus["h100"].memory_bytes), (1.9, 80e9));
        let told: Vec<_> =
            book.figures("gpus.h100.dollars_per_hour").map(|f| (f.value.as_str(), f.source.as_str())).collect();
        assert_eq!(told, [("1.9", "our contract")]);
        assert_eq!(Book::built_in().gpus["h100"].dollars_per_hour, 2.5);
    }

    #[test]
    fn every_figure_of_the_default_book_has_its_source_and_date() {
        let figures: Vec<_> = Book::built_in().figures("").collect();
        assert!(figures.len() > 100);
        assert!(figures.iter().all(|figure| !figure.source.is_empty()));
        let undated = figures.iter().filter(|figure| figure.date.is_empty()).count();
        assert!(undated < 12, "{undated} figures have a source of their own");
    }

    #[test]
    fn what_is_wrong_is_one_sentence_with_file_and_line() {
        for (text, said) in [
            (
                "[gpus.h100]\n\ndollars_per_hour = -1.0",
                "my.toml, line 3: dollars_per_hour of [gpus.h100] is -1, and it must not be negative",
            ),
            (
                "[gpus.h100]\nmemory = \"80Gigs\"",
                "my.toml, line 2: memory of [gpus.h100] has the unknown unit \"Gigs\"; write one of GB, TB",
            ),
            ("[gpus.h100]\nmemory = 80", "my.toml, line 2: memory of [gpus.h100] has no unit"),
            (
                "[gpus.h100]\ncolour = \"green\"",
                "my.toml, line 2: [gpus.h100] has an unknown key \"colour\"; it knows bandwidth",
            ),
            (
                "\n[gpus.b300]\nsource = \"x\"\nmemory = \"288GB\"",
                "my.toml, line 2: [gpus.b300] lacks the key bandwidth",
            ),
            (
                "[prices.sonnet-5]\ninput = -2",
                "my.toml, line 2: input of [prices.sonnet-5] is -2, and it must not be negative",
            ),
            (
                "[prices.sonnet-5]\ncache_write_soon = 2",
                "my.toml, line 2: cache_write_soon of [prices.sonnet-5] ends in no time",
            ),
            ("[prices.ours]\ninput = 1\noutput = 2", "my.toml, line 1: [prices.ours] lacks its source"),
            (
                "[models.ours]\nlayers = 1.5\nsource = \"x\"",
                "my.toml, line 2: layers of [models.ours] is 1.5, and it must be a whole number",
            ),
            ("[modles.ours]\nlayers = 1", "my.toml, line 1: there is no section \"modles\"; a book has models"),
            ("layers = 1", "my.toml, line 1: \"layers\" stands outside of a table"),
            ("[models]\nlayers = 1", "my.toml, line 2: \"layers\" has no row of its own"),
            ("[models.x\n", "my.toml, line 1: it is not TOML"),
            ("[gpus.h100]\npower = [1]", "my.toml, line 2: power is neither"),
            ("[gpus.h100]\npower = inf", "my.toml, line 2: power is neither"),
        ] {
            let refusal = refused(text);
            assert!(refusal.starts_with(said), "{refusal}");
            assert!(!refusal.contains('\n'), "{refusal}");
        }
    }
}
