//! Words to people and data to programs: lines on stdout, sentences on stderr, tables. Colour and drawing only on a terminal that wants them.

use std::io::{ErrorKind, IsTerminal, Write};

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};

use crate::stop::Stop;

/// Narrower than this, lines are left to the terminal to break.
const TABLE_COLUMNS_MIN: u16 = 60;

/// A line of data on stdout.
pub(crate) fn line(text: &str) -> Result<(), Stop> {
    bytes(text.as_bytes()).and_then(|()| bytes(b"\n"))
}

/// Data on stdout as it is.
pub(crate) fn bytes(data: &[u8]) -> Result<(), Stop> {
    std::io::stdout().write_all(data).map_err(stdout_failed)
}

/// Sends on what stdout still buffers: a line that a script waits for must not wait itself.
pub(crate) fn flush() -> Result<(), Stop> {
    std::io::stdout().flush().map_err(stdout_failed)
}

fn stdout_failed(e: std::io::Error) -> Stop {
    match e.kind() {
        ErrorKind::BrokenPipe => Stop::Unread,
        _ => Stop::Failed(format!("the output cannot be written: {e}; is the disk of the file it goes to full?")),
    }
}

/// One sentence of trouble, on stderr.
pub(crate) fn error(sentence: &str) {
    let mark = if colour(&std::io::stderr()) { "\x1b[1;31merror:\x1b[0m" } else { "error:" };
    tell(&format!("{mark} {}", one_line(sentence)));
}

/// One sentence worth knowing, on stderr.
pub(crate) fn note(sentence: &str) {
    tell(&one_line(sentence));
}

fn tell(text: &str) {
    // stderr may be closed; the exit code says it too.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A sentence is one line, and no file name writes to the terminal but in letters.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Whether to colour what goes there: a terminal, and nobody said NO_COLOR.
pub(crate) fn colour(to: &impl IsTerminal) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && to.is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Columns of the terminal on stdout, if it is one that says.
pub(crate) fn columns() -> Option<usize> {
    let columns = std::io::stdout().is_terminal().then(|| Table::new().width()).flatten()?;
    (columns >= TABLE_COLUMNS_MIN).then_some(usize::from(columns))
}

/// The text in lines of at most `width` characters, broken between words; a longer word has a line of its own.
pub(crate) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        let room = width.saturating_sub(lines[last].chars().count());
        match lines[last].is_empty() {
            true => lines[last].push_str(word),
            false if word.chars().count() < room => lines[last] += &format!(" {word}"),
            false => lines.push(word.to_owned()),
        }
    }
    lines
}

/// 1234567 as people read it.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Seconds since 1970 as a date and a time of day, UTC. The arithmetic of the Gregorian calendar, counted in years that begin in March.
pub(crate) fn date(utc_s: u64) -> String {
    let (days, second) = ((utc_s / 86_400) as i64 + 719_468, utc_s % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    let year = era * 400 + year + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", second / 3600, second / 60 % 60, second % 60)
}

/// A table with these columns; numbers (all columns but the first) stand to the right.
pub(crate) fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    let drawn = std::io::stdout().is_terminal();
    table.load_style(if drawn { presets::UTF8_BORDERS_ONLY } else { presets::NOTHING });
    // Some terminals say that they have no columns; breaking every word to fit them helps nobody.
    let fits = drawn && table.width().is_some_and(|columns| columns >= TABLE_COLUMNS_MIN);
    table.set_content_arrangement(if fits { ContentArrangement::Dynamic } else { ContentArrangement::Disabled });
    if !colour(&std::io::stdout()) {
        table.force_no_tty();
    }
    table.set_header(columns.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Prints a table.
pub(crate) fn show(table: &Table) -> Result<(), Stop> {
    table.to_string().lines().try_for_each(|text| line(text.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::{date, wrapped};

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(date(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(date(1_735_689_599), "2024-12-31 23:59:59 UTC");
        assert_eq!(date(1_795_645_219), "2026-11-25 22:20:19 UTC");
    }

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrapped("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrapped("one two three", 6), ["one", "two", "three"]);
        assert_eq!(wrapped("immeasurable things", 5), ["immeasurable", "things"]);
        assert_eq!(wrapped("", 5), [""]);
    }
}
