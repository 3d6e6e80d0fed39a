//! The machine's clocks: the steady one that times everything, and the wall's, by which blocks expire.

use forebay_types::Clock;

use super::Finding;

/// Readings of the clock: enough to tell its price, and few enough to be over at once.
const READINGS: u64 = 20_000;

/// A clock that costs more than this to read is felt in every turn of a shard's loop, in nanoseconds.
const READING_NS_MAX: u64 = 500;

/// Before this was written no clock can be right: the first second of 2025.
const UTC_S_MIN: u64 = 1_735_689_600;

/// How far wall and steady clock may drift apart while the doctor looks, in seconds.
const DRIFT_S_MAX: u64 = 2;

const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// Both clocks when the doctor came.
pub(super) struct Watch {
    utc_s: u64,
    now_us: u64,
}

impl Watch {
    pub(super) fn start(clock: &dyn Clock) -> Self {
        Watch { utc_s: clock.utc_s(), now_us: clock.now_us() }
    }

    pub(super) fn findings(&self, clock: &dyn Clock) -> [Finding; 2] {
        [steady(clock), self.wall(clock)]
    }

    fn wall(&self, clock: &dyn Clock) -> Finding {
        let (utc_s, passed_s) = (clock.utc_s(), (clock.now_us() - self.now_us) / 1_000_000);
        let check = "wall clock";
        if utc_s < UTC_S_MIN {
            let found =
                format!("it says {utc_s} seconds since 1970, which is long ago: blocks would expire at the wrong time");
            return Finding::fail(check, found, "set the clock: start an NTP client (chrony, systemd-timesyncd)");
        }
        let drift_s = utc_s.abs_diff(self.utc_s + passed_s);
        if drift_s > DRIFT_S_MAX {
            let found = format!("it jumped by {drift_s} s within {passed_s} s: blocks expire by it");
            return Finding::warn(check, found, "let one NTP client slew it, and no other program set it");
        }
        Finding::ok(check, "set, and in step with the steady one")
    }
}

fn steady(clock: &dyn Clock) -> Finding {
    let check = "steady clock";
    let source = std::fs::read_to_string(SOURCE).map_or("unknown".to_owned(), |text| text.trim().to_owned());
    let start_us = clock.now_us();
    let (mut last, mut back) = (start_us, 0);
    for _ in 0..READINGS {
        let now = clock.now_us();
        back += u64::from(now < last);
        last = now;
    }
    let reading_ns = (last - start_us.min(last)) * 1000 / READINGS;
    if back > 0 {
        let found = format!("source {source}: it went back {back} times in {READINGS} readings; deadlines hang on it");
        return Finding::fail(check, found, "choose another clock source: see /sys/devices/system/clocksource");
    }
    if reading_ns > READING_NS_MAX {
        let found = format!("source {source}: a reading takes {reading_ns} ns");
        return Finding::warn(check, found, "on x86, boot with clocksource=tsc if the machine's TSC is stable");
    }
    Finding::ok(check, format!("source {source}, {reading_ns} ns a reading, never back"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Steps by `step` a reading of the steady clock, modulo a day; the wall stands still.
    struct Odd(AtomicU64, u64, u64);

    impl Clock for Odd {
        fn now_us(&self) -> u64 {
            self.0.fetch_add(self.1, Ordering::Relaxed) % 86_400_000_000
        }
        fn utc_s(&self) -> u64 {
            self.2
        }
    }

    #[test]
    fn clocks_that_go_back_crawl_or_stand_are_told() {
        let at = |step, utc_s| Odd(AtomicU64::new(5), step, utc_s);
        assert_eq!(steady(&at(0, UTC_S_MIN)).level, Level::Ok);
        assert_eq!(steady(&at(3, UTC_S_MIN)).level, Level::Warn);
        assert_eq!(steady(&at(86_399_999_999, UTC_S_MIN)).level, Level::Fail);
        let wall = |clock: Odd| Watch { utc_s: clock.utc_s(), now_us: 0 }.wall(&clock).level;
        assert_eq!(wall(at(0, UTC_S_MIN)), Level::Ok);
        assert_eq!(wall(at(0, 5)), Level::Fail);
        let stands = at(0, UTC_S_MIN);
        stands.0.store(60_000_000, Ordering::Relaxed);
        assert_eq!(wall(stands), Level::Warn);
    }
}
