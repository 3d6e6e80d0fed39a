//! What takes longer than it may is not begun, and ended: for a run that has so many minutes.

use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// No test is begun in the last of `--minutes`: the longest take about as long on a busy machine.
const LAST: Duration = Duration::from_secs(4 * 60);

/// When what takes longer than it may is left out.
pub(super) struct Until {
    /// No test begins behind it.
    pub(super) begin: Instant,
    /// What still runs is ended.
    pub(super) end: Instant,
    /// `begin` as seconds since 1970: pytest is another process.
    begin_unix_s: u64,
}

impl Until {
    #[expect(clippy::disallowed_methods, reason = "a chore that was told how long it may take")]
    pub(super) fn of(begun: Instant, minutes: u64) -> Until {
        let end = begun + Duration::from_secs(60 * minutes);
        let begin = end.checked_sub(LAST).unwrap_or(begun).max(begun);
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let ahead = begin.saturating_duration_since(Instant::now());
        Until { begin, end, begin_unix_s: (since_1970 + ahead).as_secs() }
    }

    /// What is left until nothing is begun any more.
    #[expect(clippy::disallowed_methods, reason = "a chore that was told how long it may take")]
    pub(super) fn left(&self, of: Instant) -> Duration {
        of.saturating_duration_since(Instant::now())
    }
}

/// The same command, for tests that have so long.
pub(super) fn within(pytest: Command, until: Option<&Until>) -> Command {
    let Some(until) = until else { return pytest };
    // pytest has half a minute to say how it went.
    let mut command = ended(pytest, until.left(until.end));
    command.env("FOREBAY_ENGINES_UNTIL", until.begin_unix_s.to_string());
    command
}

/// The same command, ended with all that it started when it takes longer.
pub(super) fn ended(inner: Command, after: Duration) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--signal=INT", "--kill-after=30", &after.as_secs().max(1).to_string()]);
    command.arg(inner.get_program()).args(inner.get_args());
    if let Some(folder) = inner.get_current_dir() {
        command.current_dir(folder);
    }
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stop;
    use crate::run::pass;

    #[test]
    fn what_takes_longer_than_it_may_is_ended() {
        let mut sleep = Command::new("sleep");
        sleep.arg("600");
        assert!(matches!(pass("a long sleep", ended(sleep, Duration::from_secs(1))), Err(Stop::Failed(_))));
        let mut echo = Command::new("sh");
        echo.args(["-c", "test \"$GIVEN\" = yes"]).env("GIVEN", "yes");
        assert!(pass("a short one, with what it was given", ended(echo, Duration::from_secs(600))).is_ok());
    }
}
