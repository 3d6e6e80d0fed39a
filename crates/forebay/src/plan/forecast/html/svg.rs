//! Drawing: a few shapes as text. It knows nothing of what is drawn.

use std::fmt::Write;

/// Text that means nothing to a browser but itself.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Where a text begins, ends or has its middle.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A drawing under way; units are pixels of a drawing as wide as it was made.
pub(super) struct Svg {
    width: f64,
    height: f64,
    label: String,
    body: String,
}

impl Svg {
    pub(super) fn new(width: f64, height: f64, label: &str) -> Self {
        Svg { width, height, label: label.to_owned(), body: String::new() }
    }

    pub(super) fn rect(&mut self, x: f64, y: f64, width: f64, height: f64, colour: &str) {
        self.faint(x, y, width, height, colour, 1.0);
    }

    pub(super) fn faint(&mut self, x: f64, y: f64, width: f64, height: f64, colour: &str, opacity: f64) {
        let width = width.max(0.0);
        let _ = write!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\" fill=\"var(--{colour})\" fill-opacity=\"{opacity}\"/>"
        );
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, dashed: bool) {
        let dash = if dashed { " stroke-dasharray=\"4 4\"" } else { "" };
        let _ = write!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"var(--{colour})\"{dash}/>",
            from.0, from.1, to.0, to.1
        );
    }

    pub(super) fn path(&mut self, points: &[(f64, f64)], colour: &str) {
        let mut way = String::new();
        for (i, (x, y)) in points.iter().enumerate() {
            let _ = write!(way, "{}{x:.1} {y:.1}", if i == 0 { "M" } else { "L" });
        }
        let _ = write!(
            self.body,
            "<path d=\"{way}\" fill=\"none\" stroke=\"var(--{colour})\" stroke-width=\"2.5\" stroke-linejoin=\"round\"/>"
        );
    }

    pub(super) fn dot(&mut self, at: (f64, f64), radius: f64, colour: &str) {
        let _ = write!(
            self.body,
            "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"{radius}\" fill=\"var(--{colour})\"/>",
            at.0, at.1
        );
    }

    pub(super) fn text(&mut self, x: f64, y: f64, text: &str, anchor: Anchor, soft: bool) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let class = if soft { " class=\"soft\"" } else { "" };
        let _ = write!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{class}>{}</text>",
            escaped(text)
        );
    }

    pub(super) fn done(self) -> String {
        format!(
            "<svg viewBox=\"0 0 {:.0} {:.0}\" role=\"img\" aria-label=\"{}\">{}</svg>",
            self.width,
            self.height,
            escaped(&self.label),
            self.body
        )
    }
}

/// Round steps from 0 up to a little above `most`: at most five.
pub(super) fn steps(most: f64) -> Vec<f64> {
    let most = if most.is_finite() && most > 0.0 { most } else { 1.0 };
    let rough = most / 4.0;
    let ten = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|n| n * ten).find(|step| *step >= rough).unwrap_or(rough);
    (0u32..).map(|i| f64::from(i) * step).take_while(|at| *at < most + step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_round_and_reach_over_the_most() {
        assert_eq!(steps(100.0), [0.0, 25.0, 50.0, 75.0, 100.0]);
        assert_eq!(steps(7.0), [0.0, 2.0, 4.0, 6.0, 8.0]);
        for most in [0.0, f64::NAN, 1e-9, 3.3e7] {
            let all = steps(most);
            assert!((2..=7).contains(&all.len()) && (most.is_nan() || all.last() >= Some(&most)), "{most} {all:?}");
        }
    }

    #[test]
    fn a_name_cannot_break_out_of_the_page() {
        assert_eq!(escaped("<b onload=\"x\">&"), "&lt;b onload=&quot;x&quot;&gt;&amp;");
    }
}
