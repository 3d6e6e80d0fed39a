//! Book files as cells: text becomes `section.row.key = value` with the line it stands on, and files lie over each other key by key.
//!
//! It knows TOML, and not one section or key.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::BookError;

/// A value as it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// A number, finite.
    Number(f64),
    /// A text.
    Text(String),
    /// A flag.
    Flag(bool),
}

/// Where something was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: String,
    /// Counted from 1.
    pub(crate) line: u32,
}

impl Place {
    pub(crate) fn fail(&self, why: String) -> BookError {
        BookError { file: self.file.clone(), line: self.line, why }
    }
}

/// One value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cell {
    pub(crate) value: Value,
    pub(crate) place: Place,
}

/// A row of a section.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    /// Where its newest header stands.
    pub(crate) place: Place,
    pub(crate) cells: BTreeMap<String, Cell>,
}

/// Sections of rows.
pub(crate) type Sections = BTreeMap<String, BTreeMap<String, Row>>;

/// Lays the file over `sections`.
pub(crate) fn lay_over(sections: &mut Sections, file: &str, text: &str) -> Result<(), BookError> {
    let line_of = |at: usize| 1 + text.as_bytes()[..at.min(text.len())].iter().filter(|b| **b == b'\n').count() as u32;
    let place = |at: usize| Place { file: file.to_owned(), line: line_of(at) };
    let whole = DeTable::parse(text).map_err(|e| {
        place(e.span().map_or(0, |span| span.start)).fail(format!("it is not TOML: {}", e.message().replace('\n', " ")))
    })?;
    for (section, rows) in whole.get_ref() {
        let DeValue::Table(rows) = rows.get_ref() else {
            return Err(place(section.span().start).fail(format!(
                "{:?} stands outside of a table; write [models.NAME] or the like above it",
                section.get_ref()
            )));
        };
        for (name, row) in rows {
            let DeValue::Table(cells) = row.get_ref() else {
                return Err(place(name.span().start).fail(format!(
                    "{:?} has no row of its own; write [{}.NAME] above it",
                    name.get_ref(),
                    section.get_ref()
                )));
            };
            let header = place(name.span().start);
            let entry = sections
                .entry(section.get_ref().to_string())
                .or_default()
                .entry(name.get_ref().to_string())
                .or_insert_with(|| Row { place: header.clone(), cells: BTreeMap::new() });
            entry.place = header;
            for (key, value) in cells {
                let place = place(key.span().start);
                let value = value_of(value).ok_or_else(|| {
                    place.fail(format!("{} is neither a finite number nor a text nor a flag", key.get_ref()))
                })?;
                entry.cells.insert(key.get_ref().to_string(), Cell { value, place });
            }
        }
    }
    Ok(())
}

fn value_of(value: &Spanned<DeValue<'_>>) -> Option<Value> {
    Some(match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Boolean(flag) => Value::Flag(*flag),
        DeValue::Integer(whole) if whole.radix() == 10 => Value::Number(whole.as_str().replace('_', "").parse().ok()?),
        DeValue::Float(number) => {
            Value::Number(number.as_str().replace('_', "").parse::<f64>().ok().filter(|n| n.is_finite())?)
        }
        _ => return None,
    })
}
