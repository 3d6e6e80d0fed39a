//! Lines made of coloured pieces, cut to a width. Widths count characters: everything drawn here is one column wide.

/// How a piece looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ink {
    Plain,
    Dim,
    Bold,
    Good,
    Warn,
    Bad,
    Bar,
}

impl Ink {
    fn code(self) -> &'static str {
        match self {
            Ink::Plain => "",
            Ink::Dim => "\x1b[2m",
            Ink::Bold => "\x1b[1m",
            Ink::Good => "\x1b[32m",
            Ink::Warn => "\x1b[33m",
            Ink::Bad => "\x1b[1;31m",
            Ink::Bar => "\x1b[36m",
        }
    }
}

/// A line.
#[derive(Debug, Default, Clone)]
pub(super) struct Line(Vec<(Ink, String)>);

impl Line {
    pub(super) fn new() -> Self {
        Line::default()
    }

    /// One more piece.
    pub(super) fn add(mut self, ink: Ink, text: impl Into<String>) -> Self {
        self.0.push((ink, text.into()));
        self
    }

    pub(super) fn plain(self, text: impl Into<String>) -> Self {
        self.add(Ink::Plain, text)
    }

    pub(super) fn dim(self, text: impl Into<String>) -> Self {
        self.add(Ink::Dim, text)
    }

    /// A bar of `columns`, filled by `share` parts of one, in eighths.
    pub(super) fn bar(self, ink: Ink, share: f64, columns: usize) -> Self {
        const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
        let eighths = ((share.clamp(0.0, 1.0) * columns as f64 * 8.0).round() as usize).min(columns * 8);
        let (whole, part) = (eighths / 8, PARTS[eighths % 8]);
        let full = "█".repeat(whole) + part;
        let rest = columns - full.chars().count();
        self.add(ink, full).dim("·".repeat(rest))
    }

    /// Columns it has so far.
    pub(super) fn width(&self) -> usize {
        self.0.iter().map(|(_, text)| text.chars().count()).sum()
    }

    /// Blanks up to where the next piece, `len` wide, ends at the right edge.
    pub(super) fn flush_right(self, columns: usize, len: usize) -> Self {
        let gap = columns.saturating_sub(self.width() + len).max(1);
        self.plain(" ".repeat(gap))
    }

    /// As it is written: no wider than `columns`.
    pub(super) fn render(&self, columns: usize, colour: bool) -> String {
        let (mut out, mut left) = (String::new(), columns);
        for (ink, text) in &self.0 {
            let shown: String = text.chars().take(left).collect();
            left -= shown.chars().count();
            if colour && *ink != Ink::Plain && !shown.is_empty() {
                out += &format!("{}{shown}\x1b[0m", ink.code());
            } else {
                out += &shown;
            }
        }
        out
    }
}

/// Heights as little columns, at most 1 each.
pub(super) fn sparks(shares: impl Iterator<Item = f64>) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    shares.map(|share| STEPS[((share.clamp(0.0, 1.0) * 7.0).round() as usize).min(7)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_their_width_whatever_they_show() {
        for share in [-1.0, 0.0, 0.01, 0.33, 0.5, 0.999, 1.0, 7.0, f64::NAN] {
            let line = Line::new().bar(Ink::Bar, share, 12);
            assert_eq!(line.width(), 12, "{share}");
        }
        assert_eq!(Line::new().bar(Ink::Bar, 0.5, 4).render(80, false), "██··");
        assert_eq!(sparks([0.0, 0.5, 1.0].into_iter()), "▁▅█");
    }

    #[test]
    fn a_line_is_cut_at_the_edge_and_colour_takes_no_columns() {
        let line = Line::new().plain("ab").add(Ink::Bad, "cdef");
        assert_eq!(line.render(4, false), "abcd");
        assert_eq!(line.render(4, true), "ab\x1b[1;31mcd\x1b[0m");
        assert_eq!(Line::new().plain("a").flush_right(10, 3).plain("xyz").render(80, false), "a      xyz");
    }
}
