//! `forebay top`: a node at work, redrawn each second; `--once` for pipes. A node that goes away is waited for.
//!
//! Numbers come from two answers of the node a moment apart (`figures.rs`), become lines of a width (`frame.rs`), and are shown on a terminal that is
//! left as it was found (`terminal.rs`).

mod figures;
mod frame;
mod paint;
mod terminal;

use std::time::Duration;

use forebay_client::Client;
use forebay_node::EndSignals;
use forebay_types::{Clock, SystemClock};
use serde_json::Value;

use crate::cli::TopArgs;
use crate::settings::Settings;
use crate::stop::Stop;
use crate::{connect, say};
use figures::{Answer, Figures, History};
use frame::View;
use terminal::{Key, Terminal};

/// How long the node may take to answer: past it the view says so, and goes on asking.
const DEADLINE: Duration = Duration::from_secs(2);
/// Columns where nobody says how many there are.
const COLUMNS: usize = 80;
/// Lines of a frame on a pipe: as many as there are things to show.
const LINES: usize = 1000;

/// Runs it.
pub(crate) fn run(args: &TopArgs, settings: &Settings) -> Result<(), Stop> {
    // Before any thread is started: they inherit the mask.
    let signals = EndSignals::block().map_err(|e| Stop::Failed(format!("Ctrl-C cannot be waited for: {e}")))?;
    let client = connect::client(settings, DEADLINE)?;
    let mut watching = Watching::new(&client);
    let every = Duration::from_millis(u64::from(args.interval_ms));
    watching.ask()?;
    if args.once {
        if signals.wait(every).map_err(|e| Stop::Failed(format!("waiting failed: {e}")))? {
            return Err(Stop::Told);
        }
        watching.ask()?;
        let columns = say::columns().unwrap_or(COLUMNS);
        return watching.view(false).lines(columns, LINES).iter().try_for_each(|line| say::line(line.trim_end()));
    }
    if !terminal::is_one() {
        return Err(Stop::Misused(
            "the live view needs a terminal; give --once for one frame, or see `forebay stat --json`".to_owned(),
        ));
    }
    live(&mut watching, &signals, every)
}

/// Redraws until it is ended.
fn live(watching: &mut Watching<'_>, signals: &EndSignals, every: Duration) -> Result<(), Stop> {
    let mut terminal = Terminal::enter()?;
    let mut paused = false;
    loop {
        let (columns, lines) = terminal.size().unwrap_or((COLUMNS, 24));
        terminal.show(&watching.view(paused).lines(columns, lines))?;
        match terminal.key(signals, every)? {
            Key::End => return Ok(()),
            Key::Pause => paused = !paused,
            Key::None if paused => {}
            // What a node that does not answer said is in the view.
            Key::None => drop(watching.ask()),
            Key::Other => {}
        }
    }
}

/// The node as it was seen last.
struct Watching<'a> {
    client: &'a Client,
    clock: SystemClock,
    last: Option<Answer>,
    figures: Option<Figures>,
    history: History,
    /// Why it does not answer, and since when.
    silent: Option<(String, u64)>,
}

impl<'a> Watching<'a> {
    fn new(client: &'a Client) -> Self {
        Watching {
            client,
            clock: SystemClock::new(),
            last: None,
            figures: None,
            history: History::default(),
            silent: None,
        }
    }

    fn ask(&mut self) -> Result<(), Stop> {
        let told = self.client.node_stats().map_err(Stop::from).and_then(|text| {
            serde_json::from_str::<Value>(&text).map_err(|e| {
                Stop::Failed(format!("the node's figures are not JSON ({e}); use builds of neighbouring versions"))
            })
        });
        let now_us = self.clock.now_us();
        let stats = match told {
            Ok(stats) => stats,
            Err(stop) => {
                let why = stop.sentence().to_owned();
                self.silent.get_or_insert((why, now_us));
                return Err(stop);
            }
        };
        self.silent = None;
        let answer = Answer { stats, now_us };
        let figures = Figures::between(self.last.as_ref(), &answer);
        if self.last.is_some() {
            self.history.push(figures.get_gb_s + figures.put_gb_s);
        }
        self.figures = Some(figures);
        self.last = Some(answer);
        Ok(())
    }

    fn view(&self, paused: bool) -> View<'_> {
        View {
            address: self.client.address().to_string(),
            figures: self.figures.as_ref(),
            history: &self.history,
            silent: self
                .silent
                .as_ref()
                .map(|(why, since_us)| (why.as_str(), (self.clock.now_us() - since_us) / 1_000_000)),
            paused,
            colour: say::colour(&std::io::stdout()),
        }
    }
}
