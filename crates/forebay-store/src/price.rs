//! What a write costs, in dollars: of endurance that runs out before its time, and of a budget that is short.
//!
//! A drive ages by time and by writes, and dies of what comes first. While it is written no faster than it is rated for, time kills it, and a byte more costs
//! nothing; past that, each byte wears off its part of the price. With a write budget that is short a byte costs what it keeps out: the value by byte of what
//! was offered lately and is not admitted. Time is told to it.

use forebay_tokenomics::Reckoning;
use forebay_types::Millis;

use crate::bucket::Bucket;

const DAY_MS: u64 = 86_400_000;
/// The pace of writing counts half after so long.
const PACE_HALF_LIFE_MS: f64 = 3_600_000.0;
/// Between two looks at the pace.
const PACE_EVERY_MS: u64 = 1000;

/// By which prices admission reckons. The default book's unless told otherwise.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prices {
    /// Dollars of a GPU second.
    pub gpu_second_dollars: f64,
    /// Dollars that a byte written wears off a drive.
    pub written_byte_dollars: f64,
    /// How often a day the slice may be written whole over the drive's life.
    pub writes_per_day: f64,
}

impl Default for Prices {
    fn default() -> Self {
        Prices::by(Reckoning::default())
    }
}

impl Prices {
    /// Those of a book.
    pub fn by(reckoning: Reckoning) -> Self {
        Prices {
            gpu_second_dollars: reckoning.gpu_second_dollars(),
            written_byte_dollars: reckoning.written_byte_dollars(),
            writes_per_day: reckoning.drive_writes_per_day(),
        }
    }
}

/// What writing costs now, for one shard.
#[derive(Debug)]
pub(crate) struct Market {
    pub(crate) prices: Prices,
    /// Endurance that has flown in and was not used, a day's at most; a start begins with a day's.
    rated: Bucket,
    /// Bytes ever written since the opening, as told last.
    written: u64,
    pace: Pace,
    offers: Offers,
}

impl Market {
    /// For a slice of so many bytes.
    pub(crate) fn new(prices: Prices, now: Millis, slice_bytes: u64) -> Self {
        let day_bytes = (slice_bytes as f64 * prices.writes_per_day.max(0.0)) as u64;
        let mut rated = Bucket::new(now, day_bytes, DAY_MS, DAY_MS);
        rated.pour(DAY_MS);
        Market { prices, rated, written: 0, pace: Pace { since: now, ..Pace::default() }, offers: Offers::default() }
    }

    /// Told what was written in all since the opening.
    pub(crate) fn look(&mut self, now: Millis, written: u64) {
        let more = written.saturating_sub(self.written);
        self.written = written;
        self.rated.fill(now);
        self.rated.take(more);
        self.pace.look(now, more);
    }

    /// Whether the drive is written faster than it is rated for.
    pub(crate) fn wears_out(&self) -> bool {
        self.rated.left_bytes() == 0
    }

    /// Dollars that a byte put costs, where so many bytes are written for it.
    pub(crate) fn wear_dollars(&self, amplification: f64) -> f64 {
        if self.wears_out() { self.prices.written_byte_dollars * amplification } else { 0.0 }
    }

    /// Seconds until as much is written as `room` bytes hold: how long a block stays, in the mean.
    pub(crate) fn stays_s(&self, room: u64) -> f64 {
        self.pace.seconds_for(room)
    }

    /// A block of so many bytes is offered that is worth `dollars` by the byte. As many bytes of offers as `most` are remembered well.
    pub(crate) fn offered(&mut self, dollars: f64, bytes: u64, most: u64) {
        self.offers.saw(dollars, bytes, most);
    }

    /// The price by byte at which `share` of what was offered lately, by bytes, is admitted.
    pub(crate) fn shadow_dollars(&self, share: f64) -> f64 {
        self.offers.price(share)
    }
}

/// Bytes written in how much time, fading.
#[derive(Debug, Default)]
struct Pace {
    bytes: f64,
    ms: f64,
    fresh: u64,
    since: Millis,
}

impl Pace {
    fn look(&mut self, now: Millis, more: u64) {
        self.fresh += more;
        let passed = now.saturating_sub(self.since);
        if passed < PACE_EVERY_MS {
            return;
        }
        let kept = (-(passed as f64) / PACE_HALF_LIFE_MS).exp2();
        self.bytes = self.bytes * kept + self.fresh as f64;
        self.ms = self.ms * kept + passed as f64;
        (self.fresh, self.since) = (0, now);
    }

    /// Without end before anything was written.
    fn seconds_for(&self, bytes: u64) -> f64 {
        if self.bytes > 0.0 { bytes as f64 * self.ms / self.bytes / 1000.0 } else { f64::INFINITY }
    }
}

/// Half octaves of dollars by the byte that are told apart, and the first of them: from 2^-72 to 2^-8.
const STEPS: usize = 128;
const FIRST_BITS: u64 = (1023 - 72) << 1;

/// What was offered lately, in bytes by value.
#[derive(Debug)]
struct Offers {
    bytes: [u64; STEPS],
    sum: u64,
}

impl Default for Offers {
    fn default() -> Self {
        Offers { bytes: [0; STEPS], sum: 0 }
    }
}

/// The step of a value, and the least value of a step.
fn step_of(dollars: f64) -> usize {
    ((dollars.max(0.0).to_bits() >> 51).saturating_sub(FIRST_BITS) as usize).min(STEPS - 1)
}

fn least_of(step: usize) -> f64 {
    if step == 0 { 0.0 } else { f64::from_bits((FIRST_BITS + step as u64) << 51) }
}

impl Offers {
    fn saw(&mut self, dollars: f64, bytes: u64, most: u64) {
        self.bytes[step_of(dollars)] += bytes;
        self.sum += bytes;
        if self.sum > most.max(1) {
            self.bytes.iter_mut().for_each(|bytes| *bytes /= 2);
            self.sum = self.bytes.iter().sum();
        }
    }

    fn price(&self, share: f64) -> f64 {
        if share <= 0.0 {
            return f64::INFINITY;
        }
        let wanted = self.sum as f64 * share;
        let mut above = 0;
        for step in (0..STEPS).rev() {
            above += self.bytes[step];
            if above as f64 >= wanted && above > 0 {
                return least_of(step);
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn wear_costs_nothing_while_the_drive_is_written_no_faster_than_it_is_rated_for() {
        let prices = Prices { gpu_second_dollars: 1.0, written_byte_dollars: 3.0, writes_per_day: 2.0 };
        let mut market = Market::new(prices, 0, 12 * GIB);
        let mut written = 24 * GIB - 1;
        market.look(0, written);
        assert_eq!(market.wear_dollars(1.2), 0.0, "a day's worth is there at the start");
        // 24 GiB a day is a GiB an hour: so much is free for ever.
        for hour in 1..1000 {
            written += GIB;
            market.look(hour * 3_600_000, written);
            assert!(!market.wears_out(), "{hour}");
        }
        market.look(1000 * 3_600_000, written + 3 * GIB);
        assert!(market.wears_out() && (market.wear_dollars(1.2) - 3.6).abs() < 1e-9);
        market.look(1001 * 3_600_000, written + 3 * GIB);
        assert!(market.wears_out(), "what was worn off is made up for first");
        market.look(1003 * 3_600_000, written + 3 * GIB);
        assert!(!market.wears_out());
    }

    #[test]
    fn a_block_stays_as_long_as_it_takes_to_write_the_room_again() {
        let mut pace = Pace::default();
        assert_eq!(pace.seconds_for(1), f64::INFINITY);
        for second in 1..20_000u64 {
            pace.look(second * 1000, 1_000_000);
        }
        let stays_s = pace.seconds_for(600_000_000);
        assert!((590.0..610.0).contains(&stays_s), "{stays_s}");
        // An hour at ten times the pace: nearer to that than to what was before.
        for second in 20_000..34_400u64 {
            pace.look(second * 1000, 10_000_000);
        }
        assert!(pace.seconds_for(600_000_000) < 70.0, "{}", pace.seconds_for(600_000_000));
    }

    #[test]
    fn the_shadow_price_lets_in_what_is_worth_most_by_the_byte() {
        let mut offers = Offers::default();
        assert_eq!((offers.price(0.5), offers.price(0.0)), (0.0, f64::INFINITY));
        for n in 0..10_000u64 {
            // A tenth is worth 100 times as much as the rest.
            let dollars = if n % 10 == 0 { 1e-10 } else { 1e-12 };
            offers.saw(dollars, 4096, 1 << 20);
        }
        assert!(offers.sum <= 1 << 20, "it forgets");
        assert!((0.6e-10..=1e-10).contains(&offers.price(0.09)), "{}", offers.price(0.09));
        assert!((0.6e-12..=1e-12).contains(&offers.price(0.5)), "{}", offers.price(0.5));
        assert!(offers.price(1.0) <= 1e-12);
        for step in 1..STEPS {
            assert_eq!(step_of(least_of(step)), step);
        }
        assert_eq!((step_of(0.0), step_of(-1.0), step_of(1e30)), (0, 0, STEPS - 1));
    }
}
