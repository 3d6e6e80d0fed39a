//! One frame: figures to lines. Eighty columns and twenty-four lines show everything of a node with a few shards; more shards need more lines.

use forebay_types::format_size;

use super::figures::{Figures, History, Rate, Slice, Took};
use super::paint::{Ink, Line, sparks};
use crate::say::grouped;

/// Columns of a bar.
const BAR: usize = 16;
/// Columns of a drive's name.
const NAME: usize = 20;
/// A turn longer than this says that the thread lost its core, or worse: as in docs/operations.md.
const TURN_US_MAX: u64 = 10_000;

/// What is to be shown.
pub(super) struct View<'a> {
    pub(super) address: String,
    pub(super) figures: Option<&'a Figures>,
    pub(super) history: &'a History,
    /// Why the node does not answer, and for how many seconds.
    pub(super) silent: Option<(&'a str, u64)>,
    pub(super) paused: bool,
    pub(super) colour: bool,
}

impl View<'_> {
    /// The frame: no line wider than `columns`, no more lines than `lines`.
    pub(super) fn lines(&self, columns: usize, lines: usize) -> Vec<String> {
        let mut all = vec![self.head(columns)];
        if let Some((why, seconds)) = self.silent {
            all.push(Line::new().add(Ink::Bad, format!(" no answer for {seconds} s: {why}")));
        } else {
            all.push(Line::new());
        }
        if let Some(figures) = self.figures {
            all.extend(traffic(figures));
            all.push(self.past(columns));
            all.push(Line::new());
            all.extend(latencies(figures));
            all.push(Line::new());
            all.extend(insides(figures));
            all.extend(
                figures.curve.as_ref().map(|curve| Line::new().add(Ink::Bold, " room     ").plain(curve.clone())),
            );
            all.push(Line::new());
            let room = lines.saturating_sub(all.len()).max(2);
            all.extend(drives(&figures.slices, room));
        }
        all.truncate(lines);
        all.iter().map(|line| line.render(columns, self.colour)).collect()
    }

    fn head(&self, columns: usize) -> Line {
        let line = Line::new().add(Ink::Bold, " forebay");
        let line = match self.figures {
            Some(figures) => line.plain(format!(
                "  up {}  {}  {}",
                lasting(figures.uptime_s),
                several(figures.slices.len() as u64, "shard"),
                several(figures.connections, "connection")
            )),
            None => line,
        };
        let line = line.add(Ink::Warn, if self.paused { "  paused, space goes on" } else { "" });
        let engine = self.figures.map_or("", |figures| figures.engine.as_str());
        let room = columns.saturating_sub(line.width() + engine.len() + 5).max(8);
        let right = format!("{engine}  {}", tail(&self.address, room));
        line.flush_right(columns, right.chars().count() + 1).dim(right)
    }

    fn past(&self, columns: usize) -> Line {
        let (shown, most) = self.history.last(columns.saturating_sub(28));
        let label = Line::new().dim(" moved   ");
        if shown.is_empty() || most == 0.0 {
            return label.dim("nothing lately");
        }
        label.add(Ink::Bar, sparks(shown.iter().map(|gb_s| gb_s / most))).dim(format!("  up to {}", gb_s(most).trim()))
    }
}

fn traffic(figures: &Figures) -> [Line; 3] {
    let row = |name: &str, rate: &Rate, gb: Option<f64>, what: &str| {
        let moved = gb.map_or(" ".repeat(11), gb_s);
        let idle = rate.per_s == 0.0;
        let hits = if idle { "      -".to_owned() } else { percent(rate.hits) };
        Line::new()
            .add(Ink::Bold, format!(" {name:<8}"))
            .plain(format!("{:>11}/s  {moved}  {hits} {what:<5}", count(rate.per_s)))
    };
    let tier = |line: Line, name: &str, ink: Ink, share: f64| {
        line.dim(format!("  {name} ")).bar(ink, share, BAR).plain(percent(share))
    };
    let [dram, nvme, miss] = figures.tiers;
    [
        tier(row("gets", &figures.gets, Some(figures.get_gb_s), "hits"), "dram", Ink::Good, dram),
        tier(row("puts", &figures.puts, Some(figures.put_gb_s), "kept"), "nvme", Ink::Bar, nvme),
        tier(row("matches", &figures.matches, None, "hits"), "miss", Ink::Warn, miss),
    ]
}

fn latencies(figures: &Figures) -> Vec<Line> {
    let head = Line::new().dim(format!(
        " {:<13}{:>11}  {:>10}{:>10}{:>10}{:>10}",
        "latency", "each second", "p50", "p99", "p99.9", "longest"
    ));
    let row = |took: &Took| {
        let [p50, p99, p999, most] = took.us.map(duration);
        let line = Line::new().add(Ink::Bold, format!(" {:<13}", took.what));
        line.plain(format!("{:>11}  {p50:>10}{p99:>10}{p999:>10}{most:>10}", count(took.per_s)))
    };
    let idle = || vec![Line::new().dim(" nothing was asked")];
    let rows: Vec<Line> = figures.took.iter().map(row).collect();
    std::iter::once(head).chain(if rows.is_empty() { idle() } else { rows }).collect()
}

fn insides(figures: &Figures) -> [Line; 3] {
    let used = figures.arena.saturating_sub(figures.arena_free);
    let share = used as f64 / figures.arena.max(1) as f64;
    let alarm = |ink: Ink, bad: bool| if bad { ink } else { Ink::Plain };
    let (keys, reads) = (several(figures.keys_waiting, "key"), several(figures.reads_waiting, "drive read"));
    [
        Line::new().add(Ink::Bold, " memory   ").bar(Ink::Bar, share, BAR).plain(format!(
            "  {} of {}; {} DRAM tier",
            format_size(used),
            format_size(figures.arena),
            format_size(figures.dram)
        )),
        Line::new()
            .add(Ink::Bold, " queues   ")
            .plain(format!("{keys}, {reads}; "))
            .add(alarm(Ink::Warn, figures.busy_s > 0.0), format!("{}/s busy", count(figures.busy_s)))
            .plain(", ")
            .add(alarm(Ink::Warn, figures.errors_s > 0.0), format!("{}/s errors", count(figures.errors_s)))
            .plain("; longest turn ")
            .add(alarm(Ink::Warn, figures.turn_us > TURN_US_MAX), duration(figures.turn_us)),
        Line::new()
            .add(Ink::Bold, " blocks   ")
            .plain(format!("{} in {} of index; ", grouped(figures.blocks), format_size(figures.index)))
            .plain(format!("{}/s evicted, ", count(figures.evicted_s)))
            .add(alarm(Ink::Bad, figures.corrupt > 0), format!("{} corrupt", grouped(figures.corrupt))),
    ]
}

/// The drives' slices, as many as there is room for: a line for the head, and one for how many more there are.
fn drives(slices: &[Slice], room: usize) -> Vec<Line> {
    let head = format!(
        " {:<NAME$} {:<13} {:>9}{:>10}{:>10}{:>6}  {}",
        "drive", "used", "of", "read", "write", "flush", "state"
    );
    let shown = if slices.len() < room { slices.len() } else { room.saturating_sub(2) };
    let mut all = vec![Line::new().dim(head)];
    for slice in &slices[..shown] {
        let share = slice.live as f64 / slice.capacity.max(1) as f64;
        let (ink, state) = match slice {
            Slice { failed: true, .. } => (Ink::Bad, "failed".to_owned()),
            Slice { damaged: true, .. } => (Ink::Bad, "damaged".to_owned()),
            Slice { sparing: true, .. } => (Ink::Warn, "sparing".to_owned()),
            Slice { free_segments: 0..=2, .. } => (Ink::Plain, "full".to_owned()),
            slice => (Ink::Good, format!("x{:.2}", slice.amplification)),
        };
        all.push(
            Line::new()
                .plain(format!(" {:<NAME$} ", tail(&slice.path, NAME)))
                .bar(Ink::Bar, share, 8)
                .plain(format!(" {:>2.0} % {:>9}", share * 100.0, format_size(slice.capacity)))
                .plain(format!("{:>10}{:>10}", mb_s(slice.read_mb_s), mb_s(slice.write_mb_s)))
                .plain(format!("{:>6}  ", count(slice.flushes_s)))
                .add(ink, state),
        );
    }
    if shown < slices.len() {
        all.push(Line::new().dim(format!(" and {}", several((slices.len() - shown) as u64, "more"))));
    }
    all
}

fn several(n: u64, what: &str) -> String {
    let plural = if n == 1 || what == "more" { "" } else { "s" };
    format!("{} {what}{plural}", grouped(n))
}

/// The end of a text, which tells more of a path than its beginning.
fn tail(text: &str, columns: usize) -> String {
    let len = text.chars().count();
    if len <= columns {
        text.to_owned()
    } else {
        "…".to_owned() + &text.chars().skip(len - columns + 1).collect::<String>()
    }
}

fn lasting(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..172_800 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// How often, as people read it: small numbers with a decimal.
fn count(per_s: f64) -> String {
    if per_s > 0.0 && per_s < 10.0 { format!("{per_s:.1}") } else { grouped(per_s.round() as u64) }
}

fn gb_s(gb_s: f64) -> String {
    format!("{gb_s:>6.2} GB/s")
}

fn mb_s(mb_s: f64) -> String {
    if mb_s >= 1000.0 { format!("{:.2} GB/s", mb_s / 1000.0) } else { format!("{mb_s:.0} MB/s") }
}

fn percent(share: f64) -> String {
    format!("{:>5.1} %", share * 100.0)
}

fn duration(us: u64) -> String {
    match us {
        0 => "-".to_owned(),
        1..1000 => format!("{us} us"),
        1000..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::answer;
    use super::*;

    fn view<'a>(figures: &'a Figures, history: &'a History, colour: bool) -> View<'a> {
        let address = "unix:/run/user/1000/a/very/long/way/to/forebay.sock".to_owned();
        View { address, figures: Some(figures), history, silent: None, paused: false, colour }
    }

    #[test]
    fn a_frame_keeps_to_the_screen_and_says_what_matters() {
        let mut figures = Figures::between(Some(&answer(0, 1)), &answer(1_000_000, 2));
        let mut history = History::default();
        (0..300).for_each(|i| history.push(f64::from(i % 7)));
        let lines = view(&figures, &history, false).lines(80, 24);
        assert!(lines.len() <= 24 && lines.iter().all(|line| line.chars().count() <= 80), "{lines:#?}");
        let text = lines.join("\n");
        for word in [
            "gets",
            "90.0 % hits",
            "dram",
            "60.0 %",
            "GB/s",
            "get dram",
            "32 us",
            "p99.9",
            "/mnt/nvme0/forebay",
            "1,234,567",
            "x1.02",
            "uring",
        ] {
            assert!(text.contains(word), "no {word} in\n{text}");
        }
        figures.slices = vec![Slice { failed: true, ..figures.slices[0].clone() }; 40];
        let many = view(&figures, &history, true).lines(80, 24);
        assert_eq!(many.len(), 24);
        assert!(many.join("\n").contains("failed") && many[23].contains("more"), "{many:#?}");
        assert_eq!(
            view(&figures, &history, false).lines(80, 1000).iter().filter(|line| line.contains("failed")).count(),
            40
        );
    }

    #[test]
    fn a_node_that_is_silent_or_idle_is_told_so() {
        let (figures, history) = (Figures::default(), History::default());
        let silent = View { silent: Some(("it is gone", 12)), ..view(&figures, &history, false) };
        let text = silent.lines(80, 24).join("\n");
        assert!(text.contains("no answer for 12 s: it is gone") && text.contains("nothing was asked"), "{text}");
        let nothing = View { figures: None, paused: true, ..view(&figures, &history, false) };
        assert!(nothing.lines(80, 24)[0].contains("paused"));
    }

    #[test]
    fn figures_read_as_people_say_them() {
        assert_eq!([0, 999, 1500, 2_500_000].map(duration), ["-", "999 us", "1.5 ms", "2.5 s"]);
        assert_eq!([5, 61, 7260, 400_000].map(lasting), ["5 s", "1 min", "2 h 1 min", "4 days"]);
        assert_eq!([0.0, 0.25, 12.4, 123_456.0].map(count), ["0", "0.2", "12", "123,456"]);
        assert_eq!(tail("/mnt/some/where/drive", 10), "…ere/drive");
        assert_eq!((mb_s(12.0), mb_s(1234.0)), ("12 MB/s".to_owned(), "1.23 GB/s".to_owned()));
    }
}
