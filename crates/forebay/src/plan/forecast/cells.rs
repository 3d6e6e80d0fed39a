//! Rows of the first page, and their cells: what is today, what is proposed, and what changed.

use forebay_tokenomics::money::{ClassCost, Side};

/// Three columns behind a name. A long cell moves what is behind it on, and never runs into it.
pub(super) fn row(name: &str, columns: [String; 3]) -> String {
    let [today, proposed, difference] = columns;
    let cell = |text: &str, width: usize| format!("{text:<width$}", width = width.max(text.chars().count() + 2));
    format!("{name:<17}{}{}{difference}", cell(&today, 31), cell(&proposed, 46)).trim_end().to_owned()
}

/// With two decimals where the number is small.
fn told(number: f64) -> String {
    if number.abs() < 10.0 { format!("{number:.2}") } else { format!("{number:.0}") }
}

/// What changed, with its sign: the difference of the two numbers as they are shown, or a reader who subtracts them would find another.
fn change(from: f64, to: f64, told: impl Fn(f64) -> String) -> String {
    let shown = |number: f64| told(number).parse().unwrap_or(number);
    let (from, to): (f64, f64) = (shown(from), shown(to));
    let sign = if to == from {
        ""
    } else if to < from {
        "-"
    } else {
        "+"
    };
    format!("{sign}{}", told((to - from).abs()))
}

/// Three quantiles, and how each changed.
pub(super) fn quantiles(name: &str, sides: [&Side; 2], of: &dyn Fn(&Side, f64) -> f64) -> String {
    let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|q| sides.map(|side| of(side, q)));
    let cell = |of: &dyn Fn([f64; 2]) -> String| format!("p50 {}, p95 {}, p99 {}", of(p50), of(p95), of(p99));
    row(name, [cell(&|v| told(v[0])), cell(&|v| told(v[1])), cell(&|v| change(v[0], v[1], told))])
}

/// Dollars per million, as exactly as tells something.
fn price(dollars: f64) -> String {
    match dollars.abs() {
        0.0 => "0".to_owned(),
        ..0.01 => format!("{dollars:.4}"),
        _ => format!("{dollars:.2}"),
    }
}

/// Every class that has tokens, and how each changed. Prices times tokens are what the fleet costs.
pub(super) fn prices(sides: [&Side; 2]) -> String {
    let [from, to] = sides.map(classes);
    let cell = |of: &dyn Fn(usize) -> Option<String>| {
        let each = from.iter().enumerate().filter_map(|(i, (name, _))| Some(format!("{name} {}", of(i)?)));
        each.collect::<Vec<_>>().join(", ")
    };
    let one = |(_, class): &(&str, ClassCost)| (class.tokens > 0.0).then(|| price(class.per_million()));
    let moved = |i: usize| change(from[i].1.per_million(), to[i].1.per_million(), price);
    row("$ per million", [cell(&|i| one(&from[i])), cell(&|i| one(&to[i])), cell(&|i| Some(moved(i)))])
}

/// The classes of tokens, by the words of the page.
fn classes(side: &Side) -> [(&'static str, ClassCost); 5] {
    let c = &side.classes;
    [("in", c.input), ("read", c.cache_read), ("write", c.cache_write), ("hold", c.hold), ("out", c.output)]
}

/// What each class costs an hour, which is its price times its tokens, and that all of them are what the fleet costs.
pub(super) fn bill(side: &Side) -> String {
    let hours = (side.outcome.measured_s / 3600.0).max(f64::MIN_POSITIVE);
    let each = classes(side).map(|(name, class)| {
        format!("{name} {:.2} ({:.2} million)", class.dollars / hours, class.tokens / hours / 1e6)
    });
    format!(
        "Prices times tokens, with Forebay, $/h: {} = {:.2}. in: computed; read: found in any tier; write, hold: in Forebay, held ones by the hour; out: answers.",
        each.join(" + "),
        side.dollars()
    )
}
