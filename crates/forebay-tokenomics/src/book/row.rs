//! Rows read by key: a missing key, a wrong kind, a number out of bounds or a key nobody asked for is one sentence with file and line.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::cells::{Cell, Row, Value};
use super::units::Dimension;
use super::{BookError, Figure};

/// Reads one row.
pub(crate) struct Reader<'a> {
    /// As in `models.llama-3.1-8b`.
    path: String,
    row: &'a Row,
    asked: RefCell<BTreeSet<String>>,
    figures: RefCell<Vec<Figure>>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(section: &str, name: &str, row: &'a Row) -> Self {
        Reader {
            path: format!("{section}.{name}"),
            row,
            asked: RefCell::new(["source", "date"].map(str::to_owned).into()),
            figures: RefCell::new(Vec::new()),
        }
    }

    fn cell(&self, key: &str) -> Option<&'a Cell> {
        self.asked.borrow_mut().extend([key.to_owned(), format!("{key}_source")]);
        self.row.cells.get(key)
    }

    fn missing(&self, key: &str) -> BookError {
        self.row.place.fail(format!("[{}] lacks the key {key}", self.path))
    }

    fn bad(&self, cell: &Cell, key: &str, why: &str) -> BookError {
        cell.place.fail(format!("{key} of [{}] {why}", self.path))
    }

    /// Keeps a figure for whoever prints what an answer rests on.
    fn keep(&self, key: &str, cell: &Cell) {
        let text = |key: &str| match self.row.cells.get(key).map(|cell| &cell.value) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        };
        let value = match &cell.value {
            Value::Number(number) => number.to_string(),
            Value::Text(text) => text.clone(),
            Value::Flag(flag) => flag.to_string(),
        };
        // A figure with a source of its own is not dated by its row.
        let (source, date) = match text(&format!("{key}_source")) {
            Some(own) => (own, String::new()),
            None => (text("source").unwrap_or_default(), text("date").unwrap_or_default()),
        };
        self.figures.borrow_mut().push(Figure { key: format!("{}.{key}", self.path), value, source, date });
    }

    /// A number of at least 0 without a unit.
    pub(crate) fn number_or(&self, key: &str, default: Option<f64>) -> Result<f64, BookError> {
        let Some(cell) = self.cell(key) else { return default.ok_or_else(|| self.missing(key)) };
        let Value::Number(number) = cell.value else { return Err(self.bad(cell, key, "wants a number, as in 1.5")) };
        if number < 0.0 {
            return Err(self.bad(cell, key, &format!("is {number}, and it must not be negative")));
        }
        self.keep(key, cell);
        Ok(number)
    }

    pub(crate) fn number(&self, key: &str) -> Result<f64, BookError> {
        self.number_or(key, None)
    }

    /// A number above 0.
    pub(crate) fn positive(&self, key: &str) -> Result<f64, BookError> {
        let number = self.number(key)?;
        self.check(key, number > 0.0, || format!("is {number}, and it must be above 0"))?;
        Ok(number)
    }

    /// A share above 0, up to 1.
    pub(crate) fn share(&self, key: &str) -> Result<f64, BookError> {
        let number = self.positive(key)?;
        self.check(key, number <= 1.0, || format!("is {number}, and it is a share: at most 1"))?;
        Ok(number)
    }

    /// A whole number, `least` to `u32::MAX`.
    pub(crate) fn whole_or(&self, key: &str, least: u32, default: Option<u32>) -> Result<u32, BookError> {
        let number = self.number_or(key, default.map(f64::from))?;
        let fits = number.fract() == 0.0 && number <= f64::from(u32::MAX) && number >= f64::from(least);
        self.check(key, fits || (default == Some(number as u32) && !self.row.cells.contains_key(key)), || {
            format!("is {number}, and it must be a whole number from {least} to {}", u32::MAX)
        })?;
        Ok(number as u32)
    }

    pub(crate) fn whole(&self, key: &str) -> Result<u32, BookError> {
        self.whole_or(key, 1, None)
    }

    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool, BookError> {
        match self.cell(key).map(|cell| (&cell.value, cell)) {
            None => Ok(default),
            Some((Value::Flag(flag), _)) => Ok(*flag),
            Some((_, cell)) => Err(self.bad(cell, key, "wants true or false")),
        }
    }

    /// A text that `parse` understands.
    pub(crate) fn parsed<T>(
        &self,
        key: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, BookError> {
        let Some(cell) = self.cell(key) else { return Ok(None) };
        let Value::Text(text) = &cell.value else { return Err(self.bad(cell, key, "wants a text in quotes")) };
        let value = parse(text).map_err(|why| self.bad(cell, key, &why))?;
        self.keep(key, cell);
        Ok(Some(value))
    }

    /// A quantity above 0 with its unit.
    pub(crate) fn quantity(&self, key: &str, dimension: Dimension) -> Result<f64, BookError> {
        let parse = |text: &str| {
            let value = dimension.parse(text)?;
            if value > 0.0 { Ok(value) } else { Err(format!("is {text:?}, and it must be above 0")) }
        };
        match self.row.cells.get(key) {
            Some(cell) if matches!(cell.value, Value::Number(_)) => {
                Err(self.bad(cell, key, &format!("has no unit; write {} in quotes with its unit", dimension.what)))
            }
            _ => self.parsed(key, parse)?.ok_or_else(|| self.missing(key)),
        }
    }

    /// Values of all keys that begin with `prefix`, with what stands behind it.
    pub(crate) fn numbers_behind(&self, prefix: &str) -> Result<Vec<(String, f64)>, BookError> {
        let keys = self.row.cells.keys().filter(|key| !key.ends_with("_source"));
        keys.filter_map(|key| key.strip_prefix(prefix).map(|rest| (key, rest)))
            .map(|(key, rest)| Ok((rest.to_owned(), self.number(key)?)))
            .collect()
    }

    /// Fails at `key`, or at the row where it is not written.
    pub(crate) fn check(&self, key: &str, holds: bool, why: impl FnOnce() -> String) -> Result<(), BookError> {
        if holds {
            return Ok(());
        }
        // What lies below the newest file was right by itself: the newest file made it wrong.
        let newest = self.row.cells.get(key).filter(|cell| cell.place.file == self.row.place.file);
        let place = newest.map_or(&self.row.place, |cell| &cell.place);
        Err(place.fail(format!("{key} of [{}] {}", self.path, why())))
    }

    /// The row's source.
    pub(crate) fn source(&self) -> Result<String, BookError> {
        match self.row.cells.get("source").map(|cell| &cell.value) {
            Some(Value::Text(text)) if !text.is_empty() => Ok(text.clone()),
            _ => Err(self.row.place.fail(format!("[{}] lacks its source; say where its figures come from", self.path))),
        }
    }

    /// Ends the row: keys that nobody asked for are misspelt.
    pub(crate) fn finish(self) -> Result<Vec<Figure>, BookError> {
        let asked = self.asked.into_inner();
        match self.row.cells.iter().find(|(key, _)| !asked.contains(*key)) {
            None => Ok(self.figures.into_inner()),
            Some((key, cell)) => {
                let known: Vec<&str> =
                    asked.iter().map(String::as_str).filter(|known| !known.ends_with("_source")).collect();
                Err(cell.place.fail(format!(
                    "[{}] has an unknown key {key:?}; it knows {}",
                    self.path,
                    known.join(", ")
                )))
            }
        }
    }
}
