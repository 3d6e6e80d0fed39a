//! The terminal: taken over for a while, and given back as it was, whatever ends the view.
//!
//! A few escape codes that every terminal since the VT220 knows, and the kernel's own line settings: a library for this would weigh more than all it
//! is asked for.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use forebay_node::EndSignals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::stop::Stop;

/// The other screen, no cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// The cursor, no colour, the first screen.
const LEAVE: &str = "\x1b[0m\x1b[?25h\x1b[?1049l";

/// What a person pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// Nothing, until the time was over.
    None,
    /// q, Ctrl-C, or a signal to end.
    End,
    /// The space bar.
    Pause,
    /// Something else.
    Other,
}

/// Whether there is a terminal on both sides.
pub(super) fn is_one() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// The terminal while it is ours.
pub(super) struct Terminal {
    before: Termios,
}

impl Terminal {
    pub(super) fn enter() -> Result<Self, Stop> {
        let failed = |e: rustix::io::Errno| {
            Stop::Failed(format!("the terminal cannot be set up: {e}; give --once for one frame"))
        };
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut ours = before.clone();
        // Keys come at once and unseen. Ctrl-C is a key too: nothing may end the view before the screen is given back.
        ours.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        ours.special_codes[SpecialCodeIndex::VMIN] = 0;
        ours.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(std::io::stdin(), OptionalActions::Now, &ours).map_err(failed)?;
        let terminal = Terminal { before };
        write(ENTER)?;
        Ok(terminal)
    }

    /// Columns and lines.
    pub(super) fn size(&self) -> Option<(usize, usize)> {
        let size = tcgetwinsize(std::io::stdout()).ok()?;
        (size.ws_col > 0 && size.ws_row > 0).then_some((usize::from(size.ws_col), usize::from(size.ws_row)))
    }

    /// Draws over what is there: each line to its end, then what is below.
    pub(super) fn show(&mut self, lines: &[String]) -> Result<(), Stop> {
        let text = lines.join("\x1b[K\r\n");
        write(&format!("\x1b[H{text}\x1b[K\x1b[J"))
    }

    /// Waits for a key.
    pub(super) fn key(&self, signals: &EndSignals, within: Duration) -> Result<Key, Stop> {
        let stdin = std::io::stdin();
        let timeout = Timespec { tv_sec: within.as_secs() as i64, tv_nsec: i64::from(within.subsec_nanos()) };
        let mut both = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match poll(&mut both, Some(&timeout)) {
            Ok(0) => return Ok(Key::None),
            // A signal that is none of ours, as when the window changes its size: draw anew.
            Err(rustix::io::Errno::INTR) => return Ok(Key::Other),
            Ok(_) => {}
            Err(e) => return Err(Stop::Failed(format!("waiting for a key failed: {e}"))),
        }
        if !both[1].revents().is_empty() {
            return Ok(Key::End);
        }
        let mut keys = [0; 16];
        Ok(match rustix::io::read(&stdin, &mut keys) {
            // The terminal is gone.
            Ok(0) | Err(_) => Key::End,
            Ok(_) => match keys[0] {
                b'q' | b'Q' | 3 | 4 => Key::End,
                b' ' => Key::Pause,
                _ => Key::Other,
            },
        })
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing given back.
        let _ = write(LEAVE);
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

fn write(text: &str) -> Result<(), Stop> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|_| Stop::Unread)
}
