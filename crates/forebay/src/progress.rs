//! A bar for what takes more than a second: on stderr, on a terminal, gone when it is done.

use forebay_types::{Clock, SystemClock};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Below this a bar would only flicker.
const QUIET_US: u64 = 700_000;

/// How far something has come, in bytes.
pub(crate) struct Progress {
    bar: ProgressBar,
    clock: SystemClock,
    shown: bool,
}

impl Progress {
    /// Starts unseen. `bytes` 0: nobody knows how much there is.
    pub(crate) fn new(what: &str, bytes: u64) -> Self {
        let bar = ProgressBar::with_draw_target((bytes > 0).then_some(bytes), ProgressDrawTarget::hidden());
        let template = if bytes > 0 { "{msg}  {bar:30}  {percent} %  {eta} left" } else { "{msg} {spinner}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        Progress { bar, clock: SystemClock::new(), shown: false }
    }

    /// So many bytes are done.
    pub(crate) fn at(&mut self, bytes: u64) {
        if !self.shown && self.clock.now_us() > QUIET_US {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.shown = true;
        }
        self.bar.set_position(bytes);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
